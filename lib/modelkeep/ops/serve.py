"""Run the prediction server: what it needs is opened, it says where it listens, and it drains when it is told to stop."""

import gc
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from modelkeep.core import parameters, workspace
from modelkeep.monitoring import contract
from modelkeep.monitoring.exporter import Telemetry
from modelkeep.predictions.log import open_log
from modelkeep.registry import store
from modelkeep.registry.store import Now, Role
from modelkeep.serving.app import App
from modelkeep.serving.fast_path import Protocol
from modelkeep.serving.http import listening, loopback
from modelkeep.serving.settings import ServerError, Settings

if TYPE_CHECKING:
    import uvicorn


TOKEN = "MODELKEEP_TOKEN"
RENAMED = {"unlogged": "on_log_failure"}  # settings of released versions


def settings(root: Path, overrides: dict[str, object]) -> Settings:
    """The settings of params/serve.yaml, checked by name and type."""
    given = workspace.params(root, "serve")
    for old, new in RENAMED.items():
        if old in given or old in overrides:
            where = "params/serve.yaml" if old in given else "-p"
            raise ServerError(f"{where}: `{old}` is renamed to `{new}`; write `{new}` in its place")
    return Settings(**parameters.program(root, "serve", Settings, overrides))


def run(root: Path, found: Settings, clock: Callable[[], int] = time.time_ns) -> None:
    """Serve until SIGTERM or SIGINT; `clock` gives nanoseconds since 1970, each later than the one before."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # requests of one turn are one call of the model
    _first(root, found)
    log = open_log(found.log, durability=found.durability, root=root)
    token = os.environ.get(TOKEN, "")
    app = App(found, root, log, Telemetry(contract.read(root / contract.FILE)), token, clock)
    ways = {"http": Protocol, "date_header": False}
    server, bound = listening(app, found.host, found.port, int(found.drain_seconds), **ways)
    _heed(server)
    host, port = bound.getsockname()[:2]
    model = app.service.champion
    said = f"Serving {found.name} (model {model.name}, {model.manifest['serving']['engine']}) on http://{host}:{port}; SIGTERM drains and stops."
    print(said, flush=True)
    if not loopback(found.host) and not token:
        print(f"Labels and changes of the model are refused: {TOKEN} is not set.", flush=True)
    gc.freeze()  # what was loaded stays: no request waits while it is searched for garbage
    server.run(sockets=[bound])


def _heed(server: "uvicorn.Server") -> None:
    """End at once when told to before uvicorn listens to signals; it drains by itself later, and then sends itself the signal again, when there is nothing left to end."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None if server.started else sys.exit(0))


def _first(root: Path, found: Settings) -> None:
    """A store that names no model yet gets the champion on record; where there is none, the candidate: a fresh clone serves after one turn."""
    place, candidate = root / found.store, root / "models" / "candidate"
    if store.now(place) is not None or _champion(root):
        return
    if not candidate.is_dir():
        raise ServerError(
            f"there is nothing to serve: neither {found.store}/ nor models/candidate holds a model; run `make run` first"
        )
    sha256 = store.add(place, candidate)
    store.point(place, Now(Role(sha256)))
    print(f"No model was in service: the candidate {sha256[:10]} is now.", file=sys.stderr)


def _champion(root: Path) -> bool:
    from modelkeep.core import git  # only a first start needs Git and DVC
    from modelkeep.registry import record, releases

    try:
        at = record.read(root)
    except (record.RecordError, git.GitError):
        return False  # a folder without a record, or whose record is not all here
    if at.champion is None:
        return False
    told = releases.resume(root, at)
    print(f"No model was in service: {told}", file=sys.stderr)
    return True
