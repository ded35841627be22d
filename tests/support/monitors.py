"""Prometheus, Alertmanager, and what stands around them in tests, on loopback and ended by their own pid."""

import json
import subprocess
import threading
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from modelkeep.monitoring import contract, rules
from servers import free_port, need

ROOT = Path(__file__).parents[2]
CONTRACT = contract.read(ROOT / contract.FILE)
FAST = {"scrape": "1s", "step": "2s", "day": "20s", "fast": "5s", "slow": "15s", "hold": "1s"}
FAST |= {"quiet": "5s", "unlabelled": "10s", "down": "1s", "group_wait": "1s"}


def check(text: str, *command: str) -> subprocess.CompletedProcess:
    """What promtool says of a text."""
    words = [need("promtool", "prometheus"), *command]
    return subprocess.run(words, input=text, capture_output=True, text=True)


@contextmanager
def serving(answer: Callable[[str, bytes], bytes]) -> Iterator[str]:
    """An HTTP server that gives `answer(path, body)`; yields host and port. An answer that raises is an answer of 500."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            try:
                code, content = 200, answer(self.path, body)
            except ConnectionError:
                code, content = 500, b""
            self.send_response(code)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_POST = do_GET

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield f"127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class Prometheus:
    """A running Prometheus; `query` as its API gives it."""

    def __init__(self, port: int) -> None:
        self.port = port

    def query(self, expr: str, at: float | None = None) -> dict[frozenset, float]:
        """The values of an instant query by their labels."""
        found = self._get("query", {"query": expr} | ({"time": at} if at else {}))["result"]
        return {frozenset(each["metric"].items()): float(each["value"][1]) for each in found}

    def by(self, expr: str, *labels: str) -> dict:
        """The same by the values of some labels (of one: by its value)."""
        found = {}
        for series, value in self.query(expr).items():
            key = tuple(dict(series).get(label) for label in labels)
            assert key not in found, f"{expr}: {key} twice"
            found[key if len(labels) > 1 else key[0]] = value
        return found

    def alerts(self) -> list[dict]:
        """The alerts that fire, as its API gives them."""
        found = self._get("alerts", {})["alerts"]
        return [each for each in found if each["state"] == "firing"]

    def firing(self) -> set[str]:
        """The names of the alerts that fire."""
        return {each["labels"]["alertname"] for each in self.alerts()}

    def _get(self, what: str, words: Mapping[str, object]) -> dict:
        url = f"http://127.0.0.1:{self.port}/api/v1/{what}?{urllib.parse.urlencode(words)}"
        with urllib.request.urlopen(url, timeout=30) as reply:
            return json.load(reply)["data"]


def wait(for_what: Callable[[], object], seconds: float = 60, why: str = "") -> object:
    """What `for_what` gives as soon as it is true."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        with suppress(OSError):
            if found := for_what():
                return found
        time.sleep(0.2)
    raise AssertionError(f"not within {seconds} s: {why or for_what}")


@contextmanager
def prometheus(folder: Path, targets: Sequence[str], **changes: str) -> Iterator[Prometheus]:
    """Prometheus with the rules of the contract, `changes` being settings."""
    program = need("prometheus", "prometheus")
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in rules.files(CONTRACT, FAST | changes).items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text)
    (folder / "targets.yml").write_text(json.dumps([{"targets": list(targets)}]))
    port = free_port()
    words = [
        program,
        f"--config.file={folder}/prometheus.yml",
        f"--storage.tsdb.path={folder}/data",
    ]
    words += [f"--web.listen-address=127.0.0.1:{port}", "--log.level=warn"]
    with running(words, folder / "prometheus.log"):
        server = Prometheus(port)
        wait(lambda: server.query("vector(1)"), why=f"{folder}/prometheus.log")
        yield server


@contextmanager
def alertmanager(folder: Path, **changes: str) -> Iterator[str]:
    """Alertmanager with the contract's configuration; yields host and port."""
    program = need("prometheus-alertmanager", "prometheus-alertmanager")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "alertmanager.yml").write_text(
        rules.files(CONTRACT, FAST | changes)["alertmanager.yml"]
    )
    address = f"127.0.0.1:{free_port()}"
    words = [program, f"--config.file={folder}/alertmanager.yml", f"--storage.path={folder}/data"]
    words += [f"--web.listen-address={address}", "--cluster.listen-address=", "--log.level=warn"]
    with running(words, folder / "alertmanager.log"):
        wait(lambda: urllib.request.urlopen(f"http://{address}/-/ready", timeout=5).status == 200)
        yield address


@contextmanager
def running(words: Sequence[str], log: Path) -> Iterator[None]:
    """A program that runs while the block does."""
    with open(log, "wb") as said:
        process = subprocess.Popen(words, stdout=said, stderr=said)
    try:
        yield
    finally:
        process.terminate()
        process.wait(30)
