"""Alertmanager asks, an executed notebook answers: reports in a queue, over HTTP."""

import asyncio
import fcntl
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from html import escape
from pathlib import Path
from urllib.parse import parse_qs

import msgspec
from starlette.requests import Request

from modelkeep.core import files, parameters
from modelkeep.core.errors import ModelkeepError
from modelkeep.monitoring import contract
from modelkeep.ops import alerts, investigations
from modelkeep.ops.alerts import Alert, AlertError
from modelkeep.ops.investigations import DONE, FAILED, RUNNING, Book, Case
from modelkeep.registry.store import StoreError
from modelkeep.serving import bodies, responses
from modelkeep.serving.access import TOKEN, Access, Tokens, loopback
from modelkeep.serving.listener import listen
from modelkeep.serving.requests import ValidationError
from modelkeep.serving.responses import Reply

HTML = "text/html; charset=utf-8"
BODY_KB, BODY_SECONDS = 1024, 10.0
AGAIN = 60  # seconds after which Alertmanager may ask again


class InvestigateError(ModelkeepError, RuntimeError):
    """Reports cannot be made here."""


@dataclass(frozen=True)
class Settings:
    """What params/investigate.yaml holds; each line there says what it means."""

    host: str = "127.0.0.1"
    port: int = 8001
    store: str = "serving"
    log: str = "sqlite:///data/log/predictions.db"
    prometheus: str = ""
    days: int = 28
    most_waiting: int = 100
    keep: int = 200
    run_seconds: int = 900


class App:
    """The ASGI application: takes alerts, makes one report at a time, shows them."""

    def __init__(
        self,
        settings: Settings,
        root: Path,
        known: frozenset[str],
        token: str = "",
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.settings, self.root, self.known = settings, root, known
        self.clock = clock
        self.access = Access("labels", settings.host, Tokens({TOKEN: token}))
        self.book = Book(root)
        self.wake = asyncio.Event()

    async def __call__(self, scope: dict, receive: Callable, send: Callable) -> None:
        if scope["type"] == "lifespan":
            return await self._lifespan(receive, send)
        if scope["type"] != "http":
            return None
        try:
            reply = await self._reply(scope, receive)
        except ValidationError as refused:
            headers = dict(refused.headers)
            headers |= {"retry-after": str(AGAIN)} if refused.status == 503 else {}
            reply = responses.error(refused.status, refused.place, refused.message, headers)
        except Exception as defect:  # the client learns no more than that
            print(f"modelkeep: {type(defect).__name__}: {defect}", flush=True)
            reply = responses.error(500, "", "an error of the server; it is logged")
        await reply.response()(scope, receive, send)

    async def _reply(self, scope: dict, receive: Callable) -> Reply:
        method, path = scope["method"], scope["path"]
        if path == "/alerts":
            if method != "POST":
                message = "alerts are posted, as Alertmanager's webhook does"
                return responses.error(405, "", message, {"allow": "POST"})
            self.access.check(dict(scope["headers"]), writes=True)
            return self.take(await bodies.read(Request(scope, receive), BODY_KB, BODY_SECONDS))
        if method not in ("GET", "HEAD"):
            return responses.error(405, "", f"{method} is not allowed here", {"allow": "GET, HEAD"})
        if path == "/health/live":
            return Reply(200, b'{"live":true}')
        if path in ("/", "/investigations", "/investigations/"):
            return Reply(200, investigations.listed(self.book.cases.values()).encode(), HTML)
        case = self.book.cases.get(path.removeprefix("/investigations/"))
        if case is not None:
            return self._show(case)
        if path.startswith("/reports/"):
            version = parse_qs(scope["query_string"].decode("latin-1")).get("version", [""])[0]
            return self._of(path.removeprefix("/reports/"), version)
        return responses.error(404, "", "there is nothing at this address; / lists the reports")

    def take(self, body: bytes) -> Reply:
        """Ask for the report of each alert that fires, once, and say where it is or will be."""
        asked, ignored = {}, []
        for alert in alerts.read(body):
            try:
                case = self._ask(alert)
                asked[case.id] = case
            except (AlertError, StoreError) as error:
                ignored.append(str(error))
        self.wake.set()
        told = [
            {"alert": c.alert, "model": c.name, "report": f"/investigations/{c.id}"}
            for c in asked.values()
        ]
        return Reply(200, msgspec.json.encode({"reports": told, "ignored": ignored}))

    def _ask(self, alert: Alert) -> Case:
        """The report of an alert, asked for unless it was before."""
        now = self.clock()
        about = alerts.subject(alert, self.known, datetime.fromtimestamp(now, UTC))
        found = self.book.cases.get(alerts.identify(*about))
        said = alert.annotations.get("summary", "")[: investigations.LONG]
        if found is None:
            return self._new(*about, said, now)
        if said in found.said or len(found.said) >= investigations.SAID:
            return found
        return self.book.put(replace(found, said=(*found.said, said)))

    def _new(self, name: str, version: str, began: str, said: str, now: float) -> Case:
        if len(self.book.waiting) >= self.settings.most_waiting:
            raise ValidationError("$", f"{self.settings.most_waiting} reports wait already", 503)
        case = Case(
            id=alerts.identify(name, version, began),
            alert=name,
            version=version,
            sha256=alerts.model(self.root / self.settings.store, version),
            began=began,
            asked=now,
            said=(said,) if said else (),
            days=self.settings.days,
        )
        return self.book.put(case)

    def _of(self, name: str, version: str) -> Reply:
        """The newest report of an alert: the address that stands in it."""
        if name not in self.known:
            return responses.error(
                404, "", "the contract has no alert of that name; / lists the reports"
            )
        case = self.book.newest(name, version)
        if case is None:
            body = f"<h1>{escape(name)}</h1><p>No report of this alert has been asked for: Alertmanager asks when it sends it.</p>"
            return Reply(404, investigations.page(name, body).encode(), HTML)
        return self._show(case)

    def _show(self, case: Case) -> Reply:
        if case.state in (DONE, FAILED):
            with suppress(OSError):
                return Reply(200, self.book.page(case).read_bytes(), HTML)
            return responses.error(410, "", "the page of this report was deleted")
        before = [c.id for c in self.book.waiting].index(case.id)
        return Reply(202, investigations.awaited(case, before).encode(), HTML)

    async def _lifespan(self, receive: Callable, send: Callable) -> None:
        await receive()
        worker = asyncio.create_task(self._work())
        await send({"type": "lifespan.startup.complete"})
        await receive()
        worker.cancel()
        with suppress(asyncio.CancelledError):
            await worker
        await send({"type": "lifespan.shutdown.complete"})

    async def _work(self) -> None:
        """Make what waits, one at a time, as long as this runs."""
        while True:
            self.wake.clear()
            for case in self.book.waiting[:1]:
                try:
                    await self.make(case)
                    self.book.sweep(self.settings.keep)
                except Exception as error:  # the next one is made all the same
                    print(f"modelkeep: {case.id}: {type(error).__name__}: {error}", flush=True)
                    try:
                        self._failed(case, f"{type(error).__name__}: {error}")
                    except OSError:  # a full disk: what waits is tried later
                        await asyncio.sleep(AGAIN)
            if not self.book.waiting:
                await self.wake.wait()

    def _failed(self, case: Case, sentence: str) -> None:
        page = investigations.failed(sentence)
        self._close(self.book.cases[case.id], FAILED, page, sentence)

    def _close(self, case: Case, state: str, page: str, sentence: str) -> None:
        files.write_text(self.book.page(case), investigations.headed(page, case))
        self.book.put(replace(case, state=state, sentence=sentence))

    async def make(self, case: Case) -> None:
        """Make one report; what is said of it is on disk before and after."""
        if case.tries >= investigations.TRIES:
            return self._failed(case, f"given up: the process ended in {case.tries} tries")
        case = self.book.put(replace(case, state=RUNNING, tries=case.tries + 1))
        place = self.root / self.settings.store
        work = await asyncio.to_thread(investigations.copy, self.root, place, case)
        try:
            log, asked = (
                investigations.reached(self.settings.log, self.root),
                self.settings.prometheus,
            )
            for command in investigations.commands(case, log, asked):
                wrong = await self._run(command, work)
                stage = command[5]
                if wrong:
                    break
            page, sentence = investigations.finish(work, stage, wrong)
            self._close(self.book.cases[case.id], FAILED if wrong else DONE, page, sentence)
        finally:
            await asyncio.to_thread(shutil.rmtree, work, ignore_errors=True)

    async def _run(self, command: list[str], work: Path) -> str:
        """Run a command to its end; what it printed if that was a bad one, else nothing."""
        with open(work / "printed.txt", "w+", encoding="utf-8", errors="replace") as printed:
            process = await asyncio.create_subprocess_exec(
                *command,
                cwd=work,
                env=investigations.surroundings(work, TOKEN),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=printed,
                stderr=printed,
            )
            try:
                async with asyncio.timeout(self.settings.run_seconds):
                    code = await process.wait()
            except TimeoutError:
                return f"modelkeep: it took longer than {self.settings.run_seconds} s (run_seconds)"
            finally:
                if process.returncode is None:  # it ends all that it has started
                    process.send_signal(signal.SIGTERM)
                    await process.wait()
            printed.seek(0)
            return (printed.read() or "it said nothing") if code else ""


def settings(root: Path, overrides: dict[str, object]) -> Settings:
    """The settings of params/investigate.yaml, checked by name and type."""
    return Settings(**parameters.program(root, "investigate", Settings, overrides))


def run(root: Path, found: Settings) -> None:
    """Take alerts until SIGTERM or SIGINT."""
    lock = _alone(root)
    token = os.environ.get(TOKEN, "")
    known = frozenset(contract.read(root / contract.FILE).alerts)
    app = App(found, root, known, token)
    server, bound = listen(app, found.host, found.port, drain_seconds=5)
    host, port = bound.getsockname()[:2]
    waiting = f"; {len(app.book.waiting)} reports wait" if app.book.waiting else ""
    print(f"Investigating alerts on http://{host}:{port}; SIGTERM stops{waiting}.", flush=True)
    if not loopback(found.host) and not token:
        print(f"All alerts are refused: {TOKEN} is not set.", file=sys.stderr, flush=True)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)  # uvicorn sends itself the signal again
    server.run(sockets=[bound])
    os.close(lock)


def _alone(root: Path) -> int:
    """Hold the folder of reports, or say that another process does."""
    path = root / investigations.FOLDER / ".lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = os.open(path, os.O_CREAT | os.O_RDWR, 0o644)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        raise InvestigateError(
            f"{investigations.FOLDER} is in use: another `modelkeep investigate` runs here; stop it first"
        ) from None
    return lock
