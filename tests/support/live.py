"""A real `modelkeep serve` for tests: in a workspace of its own, on loopback, ended by its own pid."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPConnection
from pathlib import Path

import workspaces

ROOT = Path(__file__).resolve().parents[2]


def workspace(root: Path, candidate: Path) -> Path:
    """A workspace that holds nothing but a candidate and what `serve` reads."""
    for folder in ("params", "monitoring", "models"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    workspaces.settings(root, "serve")
    shutil.copy(ROOT / "monitoring" / "metrics.yaml", root / "monitoring")
    shutil.copytree(candidate, root / "models" / "candidate")
    (root / "dvc.yaml").write_text("stages: {}\n")
    return root


def port(line: str) -> int:
    """The port that a server says it listens on."""
    return int(re.search(r"http://[0-9.]+:([0-9]+);", line)[1])


class Server:
    """The process, and one connection to it."""

    def __init__(
        self, process: subprocess.Popen, port: int, root: Path, printed: Path | None = None
    ) -> None:
        self.process, self.port, self.root, self.printed = process, port, root, printed

    def ask(
        self, method: str, path: str, body: object = None, **headers: str
    ) -> tuple[int, object]:
        """Status and body of one request; bytes are sent as they are, all else as JSON."""
        status, text, _ = self.raw(method, path, body, **headers)
        return status, json.loads(text)

    def raw(self, method: str, path: str, body: object = None, **headers: str) -> tuple:
        """Status, body and headers of one request."""
        connection = HTTPConnection("127.0.0.1", self.port, timeout=30)
        sent = {"Content-Type": "application/json"} | {
            k.replace("_", "-"): v for k, v in headers.items()
        }
        try:
            text = body if isinstance(body, bytes | None) else json.dumps(body).encode()
            connection.request(method, path, text, {k: v for k, v in sent.items() if v is not None})
            reply = connection.getresponse()
            return reply.status, reply.read(), dict(reply.getheaders())
        finally:
            connection.close()

    def metrics(self) -> dict[str, float]:
        """Every series by its name and labels, as Prometheus would read it."""
        from prometheus_client.parser import text_string_to_metric_families as families

        text = self.raw("GET", "/metrics")[1].decode()
        return {
            s.name + "".join(f",{k}={v}" for k, v in sorted(s.labels.items())): s.value
            for family in families(text)
            for s in family.samples
        }

    def stop(self) -> str:
        """End it as an operator would, and return what it printed."""
        self.process.send_signal(signal.SIGTERM)
        return self.end()

    def end(self) -> str:
        """Wait until it has ended, and return what it printed."""
        if self.printed is None:
            return self.process.communicate(timeout=30)[0]
        self.process.wait(30)
        return self.printed.read_text()


@contextmanager
def served(root: Path, *changes: str, **env: str) -> Iterator[Server]:
    """`modelkeep serve -p CHANGE ...` in a workspace, on a free port."""
    command = [sys.executable, "-W", "error", "-m", "modelkeep", "serve"]
    for change in ("port=0", *changes):
        command += ["-p", change]
    # a file, as nobody reads a pipe while the server logs
    folder = Path(tempfile.mkdtemp(prefix="modelkeep-printed-"))
    printed = folder / "printed"
    with open(printed, "w") as file:
        process = subprocess.Popen(
            command,
            cwd=root,
            env={**os.environ, "MODELKEEP_TOKEN": "", **env},
            stdout=file,
            stderr=subprocess.STDOUT,
        )
    try:
        while not (line := re.search(r"^Serving .*$", printed.read_text(), re.MULTILINE)):
            ended = process.poll() is not None
            assert not ended, f"the server ended: {printed.read_text()}"
            time.sleep(0.01)
        yield Server(process, port(line[0]), root, printed)
    finally:
        process.kill()
        process.wait()
        shutil.rmtree(folder)
