"""The investigations server: Alertmanager posts alerts, executed notebooks are the reports."""

import asyncio
import os
import shutil
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from html import escape
from pathlib import Path

import msgspec
from filelock import FileLock, Timeout
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route

from modelkeep.core import files, parameters
from modelkeep.core.errors import ModelkeepError
from modelkeep.monitoring import contract, rules
from modelkeep.ops import alerts, investigations
from modelkeep.ops.alerts import Alert, AlertError
from modelkeep.ops.investigations import DONE, FAILED, RUNNING, Book, Case
from modelkeep.registry.store import StoreError
from modelkeep.serving import bodies, responses
from modelkeep.serving.access import TOKEN, Access, Tokens, loopback
from modelkeep.serving.listener import listen
from modelkeep.serving.requests import ValidationError

BODY_KB, BODY_SECONDS = 1024, 10.0
RETRY_SECONDS = 60  # after which Alertmanager may send again
ANY = ("", ".*")  # a version of a link that means every model: Grafana's "All" is the second
NOT_HERE = "there is nothing at this address; / lists the reports"


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
    """The ASGI application: receives alerts, makes one report at a time, shows them."""

    def __init__(
        self,
        settings: Settings,
        root: Path,
        known: Mapping[str, Mapping],
        token: str = "",
        clock: Callable[[], float] = time.time,
        made: Callable[[Path], None] = lambda root: None,
    ) -> None:
        self.settings, self.root, self.known, self.clock = settings, root, known, clock
        self.made = made  # called with the workspace after each report
        self.access = Access("labels", settings.host, Tokens({TOKEN: token}))
        self.book = Book(root)
        self.wake = asyncio.Event()
        routes = [
            Route("/", self._list),
            Route("/investigations", self._list),
            Route("/investigations/", self._list),
            Route("/investigations/{id}", self._report),
            Route("/reports/{alert}", self._newest),
            Route("/runbook", self._runbook),
            Route("/runbook/{alert}", self._runbook),
            Route("/alerts", self._receive, methods=["POST"]),
            Route("/health/live", self._live),
        ]
        handlers = dict.fromkeys((ValidationError, HTTPException, Exception), self._error)
        self.starlette = Starlette(
            routes=routes, exception_handlers=handlers, lifespan=self._lifespan
        )

    async def __call__(self, scope: dict, receive: Callable, send: Callable) -> None:
        await self.starlette(scope, receive, send)

    async def _error(self, request: Request, error: Exception) -> Response:
        match error:
            case ValidationError():
                headers = dict(error.headers)
                headers |= {"retry-after": str(RETRY_SECONDS)} if error.status == 503 else {}
                place, status, message = error.place, error.status, error.message
            case HTTPException():
                headers, place, status = dict(error.headers or {}), "", error.status_code
                message = NOT_HERE if status == 404 else str(error.detail)
            case _:  # the client learns no more than that
                print(f"modelkeep: {type(error).__name__}: {error}", flush=True)
                headers, place, status = {}, "", 500
                message = "an error of the server; it is logged"
        return responses.error(status, place, message, headers).response()

    async def _live(self, request: Request) -> Response:
        return JSONResponse({"live": True})

    async def _list(self, request: Request) -> Response:
        return HTMLResponse(investigations.listed(self.book.cases.values()))

    async def _receive(self, request: Request) -> Response:
        """Request the report of each firing alert, once, and say where it is or will be."""
        self.access.check(dict(request.scope["headers"]), writes=True)
        body = await bodies.read(request, BODY_KB, BODY_SECONDS)
        cases, ignored = {}, []
        for alert in alerts.read(body):
            try:
                case = self._case(alert)
                cases[case.id] = case
            except (AlertError, StoreError) as error:
                ignored.append(str(error))
        self.wake.set()
        reports = [
            {"alert": c.alert, "model": c.name, "report": f"/investigations/{c.id}"}
            for c in cases.values()
        ]
        content = msgspec.json.encode({"reports": reports, "ignored": ignored})
        return Response(content, media_type="application/json")

    def _case(self, alert: Alert) -> Case:
        """The report of an alert; a new one unless it was requested before."""
        now = self.clock()
        subject = alerts.subject(alert, self.known, datetime.fromtimestamp(now, UTC))
        case = self.book.cases.get(alerts.identify(*subject))
        summary = alert.annotations.get("summary", "")[: investigations.LONG]
        if case is None:
            return self._new(*subject, summary, now)
        if summary in case.summaries or len(case.summaries) >= investigations.SUMMARIES:
            return case
        return self.book.put(replace(case, summaries=(*case.summaries, summary)))

    def _new(self, name: str, version: str, began: str, summary: str, now: float) -> Case:
        if len(self.book.waiting) >= self.settings.most_waiting:
            raise ValidationError("$", f"{self.settings.most_waiting} reports wait already", 503)
        case = Case(
            id=alerts.identify(name, version, began),
            alert=name,
            version=version,
            sha256=alerts.model(self.root / self.settings.store, version),
            began=began,
            requested=now,
            summaries=(summary,) if summary else (),
            days=self.settings.days,
        )
        return self.book.put(case)

    async def _newest(self, request: Request) -> Response:
        """The newest report of an alert: the address that stands in its annotation."""
        name, version = request.path_params["alert"], request.query_params.get("version", "")
        if name not in self.known:
            raise HTTPException(404)
        case = self.book.newest(name, None if version in ANY else version)
        if case is None:
            why = "No report of this alert was requested: Alertmanager requests it when it fires."
            body = f"<h1>{escape(name)}</h1><p>{why}</p>"
            return HTMLResponse(investigations.page(name, body), 404)
        return self._show(case)

    async def _report(self, request: Request) -> Response:
        case = self.book.cases.get(request.path_params["id"])
        if case is None:
            raise HTTPException(404)
        return self._show(case)

    def _show(self, case: Case) -> Response:
        if case.state in (DONE, FAILED):
            with suppress(OSError):
                return HTMLResponse(self.book.page(case).read_bytes())
            raise HTTPException(410, "the page of this report was deleted")
        before = [c.id for c in self.book.waiting].index(case.id)
        return HTMLResponse(investigations.awaited(case, before), 202)

    async def _runbook(self, request: Request) -> Response:
        name = request.path_params.get("alert", "")
        if name and name not in self.known:
            raise HTTPException(404)
        names = [name] if name else [*self.known]
        sections = await asyncio.to_thread(alerts.runbook, self.root, self.known, names)
        return HTMLResponse(investigations.page(name or "Runbook", sections))

    @asynccontextmanager
    async def _lifespan(self, app: Starlette) -> AsyncIterator[None]:
        worker = asyncio.create_task(self._work())
        yield
        worker.cancel()
        with suppress(asyncio.CancelledError):
            await worker

    async def _work(self) -> None:
        """Make what waits, one at a time, as long as this runs."""
        while True:
            self.wake.clear()
            for case in self.book.waiting[:1]:
                try:
                    await self.make(case)
                    await asyncio.to_thread(self.made, self.root)
                    self.book.sweep(self.settings.keep)
                except Exception as error:  # the next one is made all the same
                    print(f"modelkeep: {case.id}: {type(error).__name__}: {error}", flush=True)
                    try:
                        self.give_up(case, f"{type(error).__name__}: {error}")
                    except OSError:  # a full disk: what waits is tried later
                        await asyncio.sleep(RETRY_SECONDS)
            if not self.book.waiting:
                await self.wake.wait()

    def give_up(self, case: Case, sentence: str) -> None:
        """Close a case whose report could not be made, with a page that says why."""
        page = investigations.failed(sentence)
        self._close(self.book.cases[case.id], FAILED, page, sentence)

    def _close(self, case: Case, state: str, page: str, sentence: str) -> None:
        files.write_text(self.book.page(case), investigations.headed(page, case))
        self.book.put(replace(case, state=state, sentence=sentence))

    async def make(self, case: Case) -> None:
        """Make one report; its state is on disk before and after."""
        if case.tries >= investigations.TRIES:
            return self.give_up(case, f"given up: the process ended in {case.tries} tries")
        case = self.book.put(replace(case, state=RUNNING, tries=case.tries + 1))
        place = self.root / self.settings.store
        work = await asyncio.to_thread(investigations.copy, self.root, place, case)
        try:
            log = investigations.reached(self.settings.log, self.root)
            for command in investigations.commands(case, log, self.settings.prometheus):
                failure = await self._run(command, work)
                stage = command[5]
                if failure:
                    break
            page, sentence = investigations.finish(work, stage, failure)
            self._close(self.book.cases[case.id], FAILED if failure else DONE, page, sentence)
        finally:
            await asyncio.to_thread(shutil.rmtree, work, ignore_errors=True)

    async def _run(self, command: list[str], work: Path) -> str:
        """Run a command to its end; return what it printed if it failed, else nothing."""
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
            return (printed.read() or "it printed nothing") if code else ""


def settings(root: Path, overrides: dict[str, object]) -> Settings:
    """The settings of params/investigate.yaml, checked by name and type."""
    return Settings(**parameters.program(root, "investigate", Settings, overrides))


def run(root: Path, chosen: Settings, made: Callable[[Path], None] = lambda root: None) -> None:
    """Receive alerts until SIGTERM or SIGINT; `made` is called with the workspace after each
    report.
    """
    path = root / investigations.FOLDER / ".lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(path, timeout=0):
            _run(root, chosen, made)
    except Timeout:
        raise InvestigateError(
            f"{investigations.FOLDER} is in use: another `modelkeep investigate` runs here; "
            "stop it first"
        ) from None


def _run(root: Path, chosen: Settings, made: Callable[[Path], None]) -> None:
    token = os.environ.get(TOKEN, "")
    known = rules.described(contract.read(root / contract.FILE))
    app = App(chosen, root, known, token, made=made)
    server, bound = listen(app, chosen.host, chosen.port, drain_seconds=5)
    host, port = bound.getsockname()[:2]
    waiting = f"; {len(app.book.waiting)} reports wait" if app.book.waiting else ""
    print(f"Investigating alerts on http://{host}:{port}; SIGTERM stops{waiting}.", flush=True)
    if not loopback(chosen.host) and not token:
        print(f"All alerts are refused: {TOKEN} is not set.", file=sys.stderr, flush=True)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)  # uvicorn sends itself the signal again
    server.run(sockets=[bound])
