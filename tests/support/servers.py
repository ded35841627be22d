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
    sentence = f"{program} is not installed: apt-get install {package}"
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
