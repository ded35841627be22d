"""Run the prediction server: open its log and models, listen, and drain at SIGTERM."""

import gc
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from modelkeep.core import parameters, workspace
from modelkeep.core.errors import ModelkeepError
from modelkeep.core.markup import count
from modelkeep.monitoring import contract
from modelkeep.monitoring.exporter import Telemetry
from modelkeep.predictions.log import DAY, LogError, PredictionLog, open_log
from modelkeep.registry import store
from modelkeep.registry.store import Now, Role
from modelkeep.serving import logs
from modelkeep.serving.access import TOKEN, TOKEN_FILE, Access, Tokens
from modelkeep.serving.app import App
from modelkeep.serving.listener import Connection, Limits, listen
from modelkeep.serving.settings import ServerError, Settings

if TYPE_CHECKING:
    import uvicorn


POINTER, REMOTE = "pointer", "remote"  # what a server follows beside the champion's tag here
FOLLOW_SECONDS, AGAIN_SECONDS = 1.0, 5.0  # between two looks at the tags; after a failure
RETAIN_SECONDS = 600.0  # between two removals of old rows
RENAMED = {"unlogged": "on_log_failure"}  # settings of released versions


def settings(root: Path, overrides: dict[str, object]) -> Settings:
    """The settings of params/serve.yaml, checked by name and type."""
    given = workspace.params(root, "serve")
    for old, new in RENAMED.items():
        if old in given or old in overrides:
            where = "params/serve.yaml" if old in given else "-p"
            raise ServerError(f"{where}: `{old}` is renamed to `{new}`; write `{new}` in its place")
    return Settings(**parameters.program(root, "serve", Settings, overrides))


def run(root: Path, settings: Settings, clock: Callable[[], int] = time.time_ns) -> None:
    """Serve until SIGTERM or SIGINT; `clock` gives nanoseconds since 1970, each later."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # a batch is one call of the model
    logs.configure(settings.log_format)
    access = Access(settings.auth, settings.host, Tokens())
    _ensure_model(root, settings)
    log = open_log(settings.log, durability=settings.durability, root=root)
    telemetry = Telemetry(contract.read(root / contract.FILE))
    app = App(settings, root, log, telemetry, access, clock)
    server, bound = listen(
        app,
        settings.host,
        settings.port,
        drain_seconds=int(settings.drain_seconds),
        limits=Limits(settings.max_connections, settings.head_seconds),
        protocol=_protocol(settings.fast_path),
    )
    _heed(server)
    if settings.follow != POINTER:
        remote = settings.follow == REMOTE
        threading.Thread(target=_follow, args=(root, remote), name="record", daemon=True).start()
    if settings.keep_days:
        arguments = (log, settings.keep_days, clock)
        threading.Thread(target=_retain, args=arguments, name="retention", daemon=True).start()
    host, port = bound.getsockname()[:2]
    host = f"[{host}]" if ":" in host else host
    model = app.service.champion
    named = f"{settings.name} (model {model.name}, {model.manifest['serving']['engine']})"
    print(f"Serving {named} on http://{host}:{port}; SIGTERM drains and stops.", flush=True)
    if access.writes_need_token and not access.tokens:
        names = f"neither {TOKEN} nor {TOKEN_FILE} is set"
        print(f"Labels and changes of the model are refused: {names}.", flush=True)
    gc.freeze()  # no request waits while what was loaded is searched for garbage
    with store.announced(root / settings.store, store.address(host, port)):
        server.run(sockets=[bound])


def _protocol(fast: bool) -> type[Connection]:
    if not fast:
        return Connection
    from modelkeep.serving.fast_path import FastConnection

    return FastConnection


def _heed(server: "uvicorn.Server") -> None:
    """End at once at a signal before uvicorn listens to signals; later it drains by itself.

    After draining it sends itself the signal again, when there is nothing left to end.
    """
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None if server.started else sys.exit(0))


def _ensure_model(root: Path, settings: Settings) -> None:
    """Give a store without a model the champion on record, or else the candidate."""
    place, candidate = root / settings.store, root / "models" / "candidate"
    if store.now(place) is not None:
        try:
            _agree(root, settings.follow)
        except ModelkeepError as error:  # what the store has is better than no server
            print(f"{error}; the model of before is served", file=sys.stderr, flush=True)
        return
    if _champion(root):
        return
    if not candidate.is_dir():
        raise ServerError(
            f"there is nothing to serve: neither {settings.store}/ nor models/candidate holds a "
            "model; run `make run` first"
        )
    sha256 = store.add(place, candidate)
    store.point(place, Now(Role(sha256)))
    print(f"No model was in service: the candidate {sha256[:10]} is now.", file=sys.stderr)


def _agree(root: Path, follow: str, quiet: bool = False) -> None:
    """Say so where something else is served than the record says, or settle it (`record`)."""
    from modelkeep.core import git
    from modelkeep.registry import agreement, record

    try:
        at = record.read(root)
    except (record.RecordError, git.GitError):
        return
    agreed = agreement.compare(root, at)
    if agreed.agrees:
        return
    if not quiet:
        print(agreed.sentence, file=sys.stderr, flush=True)
    if follow != POINTER:
        _champion(root, f"follow: {follow}: ")


def _follow(root: Path, remote: bool) -> None:
    """Serve the champion on record, whenever the tags that name it have changed.

    `remote`: fetch the tags of the clone's remote first; while it is away, those here count.
    """
    from modelkeep.core import git

    before, failed, follow = "", "", REMOTE if remote else "record"
    while True:
        with suppress(ModelkeepError):
            if remote:
                git.run(root, "fetch", "--quiet", "--tags", "--no-auto-maintenance")
        try:
            now = git.run(root, "for-each-ref", "--format=%(refname) %(objectname)", "refs/tags")
            if now != before:
                _agree(root, follow, quiet=bool(failed))
            before, failed = now, ""
        except ModelkeepError as error:
            if str(error) != failed:
                print(f"follow: {follow}: {error}; it is tried again", file=sys.stderr, flush=True)
            failed = str(error)
        time.sleep(AGAIN_SECONDS if failed else FOLLOW_SECONDS)


def _retain(log: PredictionLog, keep_days: float, clock: Callable[[], int]) -> None:
    """Remove what is older than `keep_days` from the log, every ten minutes."""
    while True:
        try:
            gone = log.prune(clock() // 1000 - round(keep_days * DAY))
            if gone.predictions or gone.labels:
                counts = count(gone.predictions, "prediction"), count(gone.labels, "label")
                logs.server().info("%s and %s older than %g days left the log", *counts, keep_days)
        except LogError as error:
            logs.server().error("keep_days: %s; it is tried again", error)
        time.sleep(RETAIN_SECONDS)


def _champion(root: Path, why: str = "No model was in service: ") -> bool:
    """Serve the champion on record; whether there is one."""
    from modelkeep.core import git  # only a first start needs Git and DVC
    from modelkeep.registry import record, releases

    try:
        at = record.read(root)
    except (record.RecordError, git.GitError):
        return False  # a folder without a record, or whose record is not all here
    if at.champion is None:
        return False
    print(f"{why}{releases.resume(root, at)}", file=sys.stderr, flush=True)
    return True
