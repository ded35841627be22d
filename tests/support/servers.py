"""Real servers for tests: started on loopback in a folder of their own, ended by their own pid."""

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from glob import glob
from importlib.util import find_spec
from pathlib import Path

import pytest

USER = "postgres"  # a PostgreSQL server refuses to run as root


def free_port() -> int:
    """A port of loopback that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def need(program: str, package: str, *places: str) -> str:
    """The path of a program, looked for in `places` (globs of folders) as well; the test is skipped without it, or fails where CI=true."""
    folders = sorted((folder for place in places for folder in glob(place)), reverse=True)
    path = os.pathsep.join([*folders, os.environ["PATH"], "/usr/sbin", "/sbin"])
    if found := shutil.which(program, path=path):
        return found
    _without(f"{program} is not installed: apt-get install {package}")


def need_packages(**packages: str) -> None:
    """Skip the test without an optional package (`module="name on the index"`), or fail where CI=true."""
    if missing := [name for module, name in packages.items() if not find_spec(module)]:
        _without(f"pip install {' '.join(missing)}: not installed here")


def _without(sentence: str) -> None:
    if os.environ.get("CI") == "true":
        pytest.fail(sentence)
    pytest.skip(sentence)


class Postgres:
    """A PostgreSQL server; connections come by TCP and need the password."""

    password = "a/b@c d"  # as awkward as an address can bear

    def __init__(self, folder: Path) -> None:
        self.folder, self.port, self.process = folder, free_port(), None
        self.program = need("postgres", "postgresql", "/usr/lib/postgresql/*/bin")
        self.as_user = {"user": USER, "group": USER, "extra_groups": []}
        self.as_user = self.as_user if os.geteuid() == 0 else {}
        (folder / "password").write_text(self.password)
        if self.as_user:
            for path in (folder, folder / "password"):
                shutil.chown(path, USER, USER)
        made = [str(Path(self.program).with_name("initdb")), "-D", str(folder / "data")]
        made += ["--username=keeper", "--auth=scram-sha-256", f"--pwfile={folder / 'password'}"]
        made += ["--encoding=UTF8", "--locale=C", "--no-sync"]
        subprocess.run(made, cwd=folder, check=True, stdout=subprocess.DEVNULL, **self.as_user)

    def url(self, database: str = "postgres") -> str:
        """The address; the password is in the environment as PGPASSWORD."""
        return f"postgresql://keeper@127.0.0.1:{self.port}/{database}"

    def start(self, *settings: str) -> None:
        """Start it, and wait until it answers."""
        said = [f"-cport={self.port}", f"-cunix_socket_directories={self.folder}", "-cfsync=off"]
        said += ["-clisten_addresses=127.0.0.1", *settings]
        with open(self.folder / "log", "ab") as log:
            self.process = subprocess.Popen(
                [self.program, "-D", str(self.folder / "data"), *said],
                cwd=self.folder,
                stdout=log,
                stderr=log,
                **self.as_user,
            )
        ready = str(Path(self.program).with_name("pg_isready"))
        ask = [ready, "--quiet", "--host=127.0.0.1", f"--port={self.port}"]
        for _ in range(300):
            if subprocess.run(ask).returncode == 0:
                return
            assert self.process.poll() is None, (self.folder / "log").read_text()
            time.sleep(0.1)
        raise TimeoutError((self.folder / "log").read_text())

    def stop(self, how: signal.Signals = signal.SIGINT) -> None:
        """End it: SIGINT cuts connections, SIGQUIT is a crash from which it recovers at start."""
        if self.process is not None:
            self.process.send_signal(how)
            self.process.wait(60)
            self.process = None


@contextmanager
def postgres() -> Iterator[Postgres]:
    """A PostgreSQL server that runs while the block does."""
    need("postgres", "postgresql", "/usr/lib/postgresql/*/bin")
    # not below pytest's folder, which is closed to the user that the server runs as
    with tempfile.TemporaryDirectory(prefix="modelkeep-") as folder:
        server = Postgres(Path(folder))
        server.start()
        try:
            yield server
        finally:
            server.stop(signal.SIGQUIT)  # what it holds is thrown away


@contextmanager
def balanced(folder: Path, config: str, ports: list[int]) -> Iterator[tuple[int, Path]]:
    """nginx with this `config` (its http block) before servers on `ports`; its port and certificate.

    The three ports of deploy/nginx.conf, 443 and the paths of the certificate are replaced.
    """
    program = need("nginx", "nginx-light")
    openssl, bound = need("openssl", "openssl"), free_port()
    certificate, key = folder / "modelkeep.crt", folder / "modelkeep.key"
    made = [openssl, "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"]
    made += ["-nodes", "-days", "1", "-subj", "/CN=localhost", "-keyout", key, "-out", certificate]
    made += ["-addext", "subjectAltName=IP:127.0.0.1"]
    subprocess.run(made, check=True, capture_output=True)
    for stated, port in zip((8081, 8082, 8083), ports, strict=True):
        assert f"127.0.0.1:{stated}" in config
        config = config.replace(f"127.0.0.1:{stated}", f"127.0.0.1:{port}")
    config = config.replace("listen 443", f"listen 127.0.0.1:{bound}")
    config = config.replace("/etc/nginx/", f"{folder}/")
    head = f"daemon off; worker_processes 1; pid {folder}/pid; error_log {folder}/error.log warn;\n"
    head += f"events {{}}\nhttp {{\naccess_log {folder}/access.log;\n"
    for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"):
        head += f"{name}_temp_path {folder}/{name};\n"
    (folder / "nginx.conf").write_text(f"{head}{config}}}\n")
    words = [program, "-p", folder, "-e", folder / "error.log", "-c", folder / "nginx.conf"]
    done = subprocess.run([*words, "-t"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    process = subprocess.Popen(words)
    try:
        for _ in range(300):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", bound)) == 0:
                    break
            assert process.poll() is None, (folder / "error.log").read_text()
            time.sleep(0.1)
        yield bound, certificate
    finally:
        process.terminate()
        process.wait(30)
