"""Run the prediction server: what it needs is opened, it says where it listens, and it drains when it is told to stop."""

import os
import signal
import sys
import time
from pathlib import Path

from modelkeep import contract, parameters, serving, store
from modelkeep.log import DAY, Log, open_log
from modelkeep.server import App, ServerError, Settings
from modelkeep.store import Now, Role
from modelkeep.telemetry import Telemetry
from modelkeep.web import loopback
from modelkeep.wire import Protocol

TOKEN = "MODELKEEP_TOKEN"
DAYS = 8  # how far back labels are counted by the day of their answer


def settings(root: Path, overrides: dict[str, object]) -> Settings:
    """The settings of params/serve.yaml, checked by name and type."""
    return Settings(**parameters.program(root, "serve", Settings, overrides))


def run(root: Path, found: Settings) -> None:
    """Serve until SIGTERM or SIGINT."""
    import uvicorn

    os.environ.setdefault("OMP_NUM_THREADS", "1")  # requests of one turn are one call of the model
    _first(root, found)
    log = open_log(found.log, durability=found.durability, root=root)
    token = os.environ.get(TOKEN, "")
    app = App(found, root, log, Telemetry(contract.read(root / contract.FILE)), token)
    _recall(app, log)
    config = uvicorn.Config(
        app,
        host=found.host,
        port=found.port,
        log_level="warning",
        access_log=False,
        server_header=False,
        date_header=False,
        lifespan="on",
        http=Protocol,
        proxy_headers=False,
        timeout_graceful_shutdown=int(found.drain_seconds),
    )
    listening = config.bind_socket()
    listening.listen(config.backlog)  # who connects from now on is answered
    host, port = listening.getsockname()[:2]
    model = app.service.champion
    said = f"Serving {found.name} (model {model.name}, {model.manifest['serving']['engine']}) on http://{host}:{port}; SIGTERM drains and stops."
    print(said, flush=True)
    if not loopback(found.host) and not token:
        print(f"Labels and changes of the model are refused: {TOKEN} is not set.", flush=True)
    # uvicorn drains, and then sends itself the signal again: by now there is nothing left to end
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    uvicorn.Server(config).run(sockets=[listening])


def _first(root: Path, found: Settings) -> None:
    """A store that names no model yet gets the candidate: a fresh clone serves after one turn."""
    place, candidate = root / found.store, root / "models" / "candidate"
    if store.now(place) is not None:
        return
    if not candidate.is_dir():
        raise ServerError(
            f"there is nothing to serve: neither {found.store}/ nor models/candidate holds a model; run `make run` first"
        )
    sha256 = store.add(place, candidate)
    store.point(place, Now(Role(sha256)))
    print(f"No model was in service: the candidate {sha256[:10]} is now.", file=sys.stderr)


def _recall(app: App, log: Log) -> None:
    """Count again what the log holds of the last days, for the quality by day of answering."""
    now = time.time_ns() // 1000
    models = {m.name for m in _models(app.service)}
    for cohort in log.cohorts(now - DAYS * DAY, now):
        if cohort.model in models:
            app.telemetry.recall(cohort.model, cohort.day * DAY / 1e6, cohort.answered)


def _models(service: serving.Service) -> list[serving.Model]:
    return [m for m in (service.champion, service.canary, service.shadow) if m]
