"""The servers that `serving.py` measures: how each is installed, started, asked and ended."""

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
import venv
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import psutil

HERE = Path(__file__).parent
LARGE = 256  # rows in a large body
SERVER_CORE, CLIENT_CORE = "0", "1"
START, STOP = 90, 15  # seconds that a server may take to answer, and to end
BATCH, WAIT = 32, 0.005  # requests in a peer's batch at most, and how long it may wait for them
PEERS = {
    "FastAPI, scikit-learn": ("fastapi==0.165.0", "uvicorn[standard]==0.54.0"),
    "MLServer, batching": ("mlserver==1.7.1",),
    "LitServe, batching": ("litserve==0.2.19",),
    "BentoML, batching": ("bentoml==1.4.39",),
}
SHARED = (
    "scikit-learn",
    "numpy",
    "pandas",
    "skops",
)  # the peers answer with the versions that we have
UVICORN = "-m uvicorn --host 127.0.0.1 --no-access-log --log-level warning --no-server-header --no-date-header"


class Failed(RuntimeError):
    """A server that cannot be installed, started, or does not answer as it must."""


@dataclass(frozen=True)
class Server:
    """One way to serve the model; `command` makes its command from a port and a folder of its own."""

    name: str
    command: Callable[[int, Path], list[str]]
    shape: str = "rows"
    path: str = "/predict"
    read: Callable | None = None
    cwd: Path | None = None
    model: str = ""


@dataclass(frozen=True)
class Running:
    """A server that answers."""

    process: subprocess.Popen
    url: str
    start: float

    def post(self, body: object) -> object:
        """The answer to one body."""
        return _post(self.url, body)

    def get(self, path: str) -> bytes:
        """What is at another path."""
        base = self.url.split("/", 3)[:3]
        with urllib.request.urlopen("/".join([*base, path.lstrip("/")]), timeout=30) as reply:
            return reply.read()

    def wrk(self, bodies: Path, connections: int, seconds: int) -> dict:
        """What wrk measured, in so many whole seconds."""
        words = f"taskset -c {CLIENT_CORE} wrk -t1 -c{connections} -d{seconds}s --timeout 30s"
        command = [*words.split(), "-s", HERE / "rows.lua", self.url, "--", bodies]
        done = subprocess.run(command, capture_output=True, text=True)
        last = done.stdout.strip().splitlines()[-1:]
        if done.returncode or not last or not last[0].startswith("{"):
            raise Failed(f"wrk failed: {(done.stderr or done.stdout)[-300:]}")
        figures = json.loads(last[0])
        if not figures["requests"]:
            raise Failed(f"it answered nothing to {connections} connections within {seconds} s")
        return figures

    def memory(self) -> float:
        """Resident memory of the server with its children, MB."""
        own = psutil.Process(self.process.pid)
        return sum(p.memory_info().rss for p in (own, *own.children(recursive=True))) / 1e6

    def anonymous(self) -> float:
        """Resident memory of the process itself that is no file's, MB."""
        return self._status("RssAnon")

    def peak(self) -> float:
        """The largest resident memory so far of the process itself, MB."""
        return self._status("VmHWM")

    def _status(self, name: str) -> float:
        lines = Path(f"/proc/{self.process.pid}/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith(name)) * 1024 / 1e6


def columns(rows: list[dict]) -> dict:
    """A body of the Open Inference Protocol that MLServer reads as a frame."""
    inputs = []
    for name in rows[0]:
        data = [row[name] for row in rows]
        text = isinstance(data[0], str)
        kind = {"datatype": "BYTES" if text else "FP64", "shape": [len(rows), 1]}
        content = {"parameters": {"content_type": "str" if text else "np"}}
        inputs.append({"name": name, **kind, **content, "data": data})
    return {"parameters": {"content_type": "pd"}, "inputs": inputs}


SHAPES = {"rows": lambda rows: {"rows": rows}, "columns": columns}


def every(root: Path, cache: Path, peers: bool) -> tuple[list[Server], dict[str, str]]:
    """The servers that can be started here, and why others cannot."""
    model = str(root / "models" / "candidate" / "model.skops")
    found, skipped = [_plain("empty ASGI app", "empty:app", sys.executable, None, model)], {}
    for name in PEERS if peers else ():
        try:
            found.append(_peer(name, _environment(cache, name), model))
        except Failed as error:
            skipped[name] = str(error)
    found.append(_plain("bare ASGI app, ONNX Runtime", "bare:app", sys.executable, _answers, model))
    return [*found, *(_ours(root, durability) for durability in ("full", "normal"))], skipped


def _plain(name: str, app: str, python: str, read: Callable | None, model: str) -> Server:
    words = [python, *UVICORN.split(), app, "--port"]
    return Server(name, lambda port, _: [*words, str(port)], read=read, model=model)


def _ours(root: Path, durability: str) -> Server:
    def command(port: int, folder: Path) -> list[str]:
        """Everything on: checks, metrics, drift counts, and a row of the log before each answer."""
        given = {"port": port, "store": folder / "store", "log": f"sqlite:///{folder}/log.db"}
        given["durability"] = durability
        words = [word for name, value in given.items() for word in ("-p", f"{name}={value}")]
        return [sys.executable, "-m", "modelkeep", "serve", *words]

    name = f"ours, durability {durability}"
    return Server(name, command, read=_predictions, cwd=root)


def _peer(name: str, python: str, model: str) -> Server:
    match name.split(",")[0]:
        case "FastAPI":
            return _plain(name, "fastapi_app:app", python, _answers, model)
        case "LitServe":
            words = [python, str(HERE / "peers" / "litserve_app.py")]
            return Server(name, lambda port, _: [*words, str(port)], read=_answers, model=model)
        case "BentoML":
            words = [python, "-m", "bentoml", "serve", "bentoml_app:Flights", "--host", "127.0.0.1"]
            words += ["--working-dir", str(HERE / "peers"), "--port"]
            return Server(name, lambda port, _: [*words, str(port)], read=list, model=model)
    command = [str(Path(python).parent / "mlserver"), "start"]
    return Server(
        name,
        lambda port, folder: [*command, _mlserver(port, folder)],
        shape="columns",
        path="/v2/models/flights/infer",
        read=lambda reply: [*zip(*[iter(reply["outputs"][0]["data"])] * 2)],
        model=model,
    )


def _mlserver(port: int, folder: Path) -> str:
    settings = {"host": "127.0.0.1", "http_port": port, "grpc_port": free(), "parallel_workers": 0}
    settings |= {"metrics_port": free(), "debug": False}
    model = {"name": "flights", "implementation": "mlserver_app.Flights"}
    model |= {"max_batch_size": BATCH, "max_batch_time": WAIT}
    (folder / "settings.json").write_text(json.dumps(settings))
    (folder / "model-settings.json").write_text(json.dumps(model))
    return str(folder)


def _answers(reply: dict) -> list:
    return reply["answers"]


def _predictions(reply: dict) -> list:
    return [[*each["probabilities"].values()] for each in reply["predictions"]]


def _environment(cache: Path, name: str) -> str:
    """Make an environment with one peer and return its Python."""
    cache.mkdir(parents=True, exist_ok=True)
    folder = cache / name.split(",")[0].lower()
    python, wanted = folder / "bin" / "python", [*PEERS[name]]
    wanted += [f"{each}=={version(each)}" for each in SHARED]
    ready = folder / "ready.json"
    if not ready.exists() or json.loads(ready.read_text()) != wanted:
        print(f"installing {' '.join(wanted)} ...", file=sys.stderr, flush=True)
        venv.create(folder, with_pip=True, clear=True)
        command = [python, "-m", "pip", "install", "-q", *wanted]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise Failed(f"{PEERS[name][0]} does not install: {done.stderr[-300:]}")
        ready.write_text(json.dumps(wanted))
    return str(python)


def free() -> int:
    """A port of loopback that nobody has now."""
    with socket.socket() as tried:
        tried.bind(("127.0.0.1", 0))
        return tried.getsockname()[1]


@contextmanager
def started(server: Server, row: dict, folder: Path | None = None) -> Iterator[Running]:
    """A server that has answered the row, in a folder of its own (or in one that is kept); ended with its children."""
    with tempfile.TemporaryDirectory() as name:
        port, place = free(), folder or Path(name)
        command = ["taskset", "-c", SERVER_CORE, *server.command(port, place)]
        said = (place / "said.txt").open("w")
        began = time.perf_counter()
        process = subprocess.Popen(
            command,
            cwd=server.cwd or place,
            env=_variables(server, place),
            stdout=said,
            stderr=said,
            start_new_session=True,
        )
        try:
            url = f"http://127.0.0.1:{port}{server.path}"
            _wait(process, url, SHAPES[server.shape]([row]), place / "said.txt")
            yield Running(process, url, time.perf_counter() - began)
        finally:
            _end(process)
            said.close()


def _variables(server: Server, place: Path) -> dict[str, str]:
    found = os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    if server.model:
        found |= {"BENCHMARK_MODEL": server.model, "PYTHONPATH": str(HERE / "peers")}
        found |= {"BENCHMARK_BATCH": str(BATCH), "BENCHMARK_WAIT": str(WAIT)}
        found |= {"BENTOML_HOME": str(place), "BENTOML_DO_NOT_TRACK": "True"}
    return found


def _wait(process: subprocess.Popen, url: str, body: object, said: Path) -> None:
    end, last = time.perf_counter() + START, ""
    while time.perf_counter() < end:
        if process.poll() is not None:
            raise Failed(f"ended with {process.returncode}: {said.read_text()[-300:]}")
        try:
            _post(url, body)
        except Failed as error:
            last = str(error)
            time.sleep(0.02)
        else:
            return
    raise Failed(f"did not answer within {START} s ({last}): {said.read_text()[-300:]}")


def _post(url: str, body: object) -> object:
    headers = {"Content-Type": "application/json"}
    request = urllib.request.Request(url, json.dumps(body).encode(), headers)
    try:
        with urllib.request.urlopen(request, timeout=30) as reply:
            return json.loads(reply.read())
    except (urllib.error.URLError, ConnectionError, TimeoutError) as error:
        said = error.read()[:200] if isinstance(error, urllib.error.HTTPError) else b""
        raise Failed(f"{error} {said.decode()}".strip()) from None


def _end(process: subprocess.Popen) -> None:
    """End what was started here: the process, then what it left of its own session."""
    process.terminate()
    with suppress(subprocess.TimeoutExpired):
        process.wait(STOP)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
