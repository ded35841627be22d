"""The prediction server: what it answers to whom, over HTTP."""

import asyncio
import json
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec

from modelkeep.monitoring.exporter import Telemetry
from modelkeep.monitoring.live_bins import LiveBins
from modelkeep.predictions.log import LogError, PredictionLog
from modelkeep.registry import store
from modelkeep.serving import http, labels, models, open_inference, openapi, responses
from modelkeep.serving.batching import Batcher, Busy
from modelkeep.serving.http import Reply, refusal
from modelkeep.serving.models import Prediction, Service
from modelkeep.serving.requests import ValidationError
from modelkeep.serving.settings import ServerError, Settings

WRITES = ("/labels", "/model")  # what a stranger must not post to
RECALLED = 500  # answers that are counted again before others get their turn
WATCH = 0.25  # seconds between two looks at the store's pointer


class App:
    """The ASGI application; everything in it happens in one event loop."""

    def __init__(
        self,
        settings: Settings,
        root: Path,
        log: PredictionLog,
        telemetry: Telemetry,
        token: str = "",
        clock: Callable[[], int] = time.time_ns,
    ) -> None:
        self.settings, self.log, self.telemetry, self.clock = settings, log, telemetry, clock
        self.store, self.token = root / settings.store, token.encode()
        self.encode = msgspec.json.Encoder().encode
        self.at = store.now(self.store)
        if self.at is None:
            raise ServerError(
                f"{self.store} names no model; run `modelkeep serve`, which begins with the candidate"
            )
        service, bins = self._load(self.at)
        limits = {"wait": settings.max_wait_ms / 1000, "on_log_failure": settings.on_log_failure}
        self.batcher = Batcher(log, telemetry, service=service, clock=clock, **limits)
        self._announce(service, bins)
        self.routes = self._routes()

    @property
    def service(self) -> Service:
        """Who answers now."""
        return self.batcher.service

    def _routes(self) -> dict[tuple[str, str], tuple[str, Callable]]:
        name = f"/v2/models/{self.settings.name}"
        gets = {
            "/": self._docs,
            "/docs": self._docs,
            "/openapi.json": self._openapi,
            "/model": self._model,
            "/health": self._ready,
            "/health/live": self._live,
            "/health/ready": self._ready,
            "/metrics": self._metrics,
            "/v2": self._v2,
            "/v2/health/live": self._live,
            "/v2/health/ready": self._ready,
            name: self._metadata,
            f"{name}/ready": self._ready,
        }
        posts = {"/predict": self._predict, "/labels": self._labels, "/model": self._swap}
        posts[f"{name}/infer"] = self._infer
        named = {"/predict": "predict", "/labels": "labels", "/model": "model"}
        named |= {f"{name}/infer": "infer", "/metrics": "metrics"}
        found = {("GET", p): (named.get(p, "other"), f) for p, f in gets.items()}
        return found | {("POST", p): (named[p], f) for p, f in posts.items()}

    async def __call__(self, scope: dict, receive: Callable, send: Callable) -> None:
        if scope["type"] == "lifespan":
            return await self._lifespan(receive, send)
        if scope["type"] != "http":
            return None
        started = time.perf_counter()
        method = "GET" if scope["method"] == "HEAD" else scope["method"]
        route, handler = self.routes.get((method, scope["path"]), ("other", None))
        if handler is None:
            reply = self._nowhere(method, scope["path"])
        else:
            reply = await self._handled(handler, method, scope, receive)
        self.telemetry.requests(route, reply.status, time.perf_counter() - started)
        await http.send(send, reply, scope["method"] != "HEAD")

    async def _handled(
        self, handler: Callable[..., Awaitable[Reply]], method: str, scope: dict, receive: Callable
    ) -> Reply:
        try:
            headers = dict(scope["headers"])
            if method == "GET":
                metrics = handler == self._metrics
                return await (self._metrics(headers) if metrics else handler())
            http.admit(scope["path"] in WRITES, headers, self.settings.host, self.token)
            most, seconds = self.settings.max_body_kb, self.settings.body_seconds
            return await handler(await http.body(headers, receive, most, seconds), headers)
        except Exception as error:
            return self._failed(error)

    def _failed(self, error: Exception) -> Reply:
        if isinstance(error, ValidationError):
            return refusal(error.status, error.place, error.message)
        if isinstance(error, Busy | LogError):
            return refusal(503, "", str(error), error.retry_after)
        self.telemetry.problem("defect")  # of ours: the client learns no more than that
        print(f"modelkeep: {type(error).__name__}: {error}", flush=True)
        return refusal(500, "", "something went wrong here; it is on record")

    def _nowhere(self, method: str, path: str) -> Reply:
        if any(path == known for _, known in self.routes):
            return refusal(405, "", f"{method} is not taken here; see /docs")
        return refusal(404, "", "there is nothing at this address; see /docs")

    def predict(self, body: bytes, give: Callable[[Reply], None]) -> None:
        """Let `give` have the reply to a body of rows."""
        service = self.service
        if self.batcher.full:
            return give(self._failed(Busy("too many rows wait already; try again")))
        try:
            rows, refused = service.reader.decode(body)
        except ValidationError as error:
            return give(self._failed(error))
        if refused:
            self.telemetry.problem("malformed", len(refused))

        def answered(said: list | Exception) -> None:
            give(
                self._failed(said) if isinstance(said, Exception) else responses.rows(said, refused)
            )

        return self.batcher.ask(service, rows, answered) if rows else answered([])

    async def _predict(self, body: bytes, headers: dict[bytes, bytes]) -> Reply:
        reply = asyncio.get_running_loop().create_future()
        self.predict(body, lambda given: reply.done() or reply.set_result(given))
        return await reply

    async def _infer(self, body: bytes, headers: dict[bytes, bytes]) -> Reply:
        service = self.service
        if self.batcher.full:
            raise Busy("too many rows wait already; try again")
        json_bytes = headers.get(b"inference-header-content-length", b"")
        request, table = open_inference.rows(body, service.champion.schema, json_bytes)
        try:
            rows, refused = service.reader.decode(table)
        except ValidationError as error:
            raise ValidationError("$.inputs", error.message, error.status) from None
        said = [*refused.values()] or await self._asked(service, rows)
        name = self.settings.name
        return Reply(
            200, self.encode(open_inference.response(request, name, service.champion, said))
        )

    async def _asked(self, service: Service, rows: list) -> list[Prediction | ValidationError]:
        said = asyncio.get_running_loop().create_future()
        self.batcher.ask(service, rows, lambda given: said.done() or said.set_result(given))
        if isinstance(given := await said, Exception):
            raise given
        return given

    async def _labels(self, body: bytes, headers: dict[bytes, bytes]) -> Reply:
        of = self.service.champion.schema
        told = labels.take(body, of, self.log, self.telemetry, self.clock)
        return Reply(200, self.encode(told))

    async def _swap(self, body: bytes, headers: dict[bytes, bytes]) -> Reply:
        """Look at the store's pointer now, and say who answers then."""
        self.batcher.service = await self._reloaded()
        return await self._model()

    async def _model(self) -> Reply:
        service = self.service
        told = {
            role: {
                "model": m.name,
                "version": m.version,
                "sha256": m.sha256,
                "engine": m.manifest["serving"]["engine"],
                "task": m.schema.task,
                "as_of": m.schema.origin.get("as_of", ""),
            }
            for role, m in service.models
        }
        columns = [{"name": c.name, "kind": c.kind} for c in service.champion.schema.columns]
        shown = {"name": self.settings.name, "serial": self.at.serial, "share": service.share}
        shown |= {"models": told, "classes": service.champion.schema.classes, "columns": columns}
        return Reply(200, self.encode(shown))

    async def _live(self) -> Reply:
        return Reply(200, b'{"live":true}')

    async def _ready(self) -> Reply:
        # after a while it counts as ready again: only a request can find out
        blocked = time.monotonic() < self.batcher.blocked
        wrong = "the prediction log cannot be written" if blocked else ""
        ready = not wrong or self.settings.on_log_failure == "serve"
        told = {
            "ready": ready,
            "name": self.settings.name,
            "model": self.service.champion.name,
            "durability": self.log.durability,
            "when the log cannot be written": self.settings.on_log_failure,
        }
        return Reply(200 if ready else 503, self.encode(told | ({"wrong": wrong} if wrong else {})))

    async def _metrics(self, headers: dict[bytes, bytes]) -> Reply:
        accept = headers.get(b"accept", b"").decode("latin-1")
        self.telemetry.settle(self.clock() / 1e9)
        page, kind = await asyncio.to_thread(self.telemetry.render, accept)
        return Reply(200, page, kind.encode())

    async def _v2(self) -> Reply:
        return Reply(200, b'{"name":"modelkeep","version":"1","extensions":["binary_tensor_data"]}')

    async def _metadata(self) -> Reply:
        told = open_inference.metadata(self.settings.name, self.service.champion)
        return Reply(200, self.encode(told))

    async def _openapi(self) -> Reply:
        return Reply(200, json.dumps(self._document()).encode())

    async def _docs(self) -> Reply:
        page = openapi.page(self.settings.name, self._document())
        return Reply(200, page.encode(), b"text/html; charset=utf-8")

    def _document(self) -> dict[str, Any]:
        schema = self.service.champion.schema
        return openapi.document(self.settings.name, schema, self.settings.max_rows)

    async def _lifespan(self, receive: Callable, send: Callable) -> None:
        await receive()
        tasks = [asyncio.create_task(self._watch()), asyncio.create_task(self._recall())]
        await send({"type": "lifespan.startup.complete"})
        await receive()
        for task in tasks:
            task.cancel()
        self.log.close()
        await send({"type": "lifespan.shutdown.complete"})

    async def _recall(self) -> None:
        """Count again what the log holds of the last days, for quality by the age of answers; while it is read, others are answered."""
        if not self.settings.log.startswith("sqlite:"):
            return  # a shared log: each of several replicas would count all of it
        now, named = self.clock() // 1000, {m.name for _, m in self.service.models}
        with ThreadPoolExecutor(1) as reader:  # a connection belongs to one thread
            loop = asyncio.get_running_loop()
            batches = self.log.read(now - labels.RECALLED, now, known=now)
            while batch := await loop.run_in_executor(reader, next, batches, None):
                for at in range(0, len(batch), RECALLED):
                    some = batch.slice(at, RECALLED)
                    labels.recall(some, named, self.service.champion.schema, self.telemetry)
                    await asyncio.sleep(0)

    async def _watch(self) -> None:
        """Follow the store's pointer: a release or a rollback takes effect though nobody tells the server."""
        pointer, seen = self.store / store.POINTER, None
        while True:
            try:
                found = pointer.stat()
                if (found.st_mtime_ns, found.st_ino) != seen:
                    seen = (found.st_mtime_ns, found.st_ino)
                    self.batcher.service = await self._reloaded()
            except Exception as error:  # who answers goes on
                print(f"modelkeep: {error}; {self.service.champion.name} stays", flush=True)
            with suppress(LogError):  # who answers finds it out, and says so
                await asyncio.to_thread(self.log.rest)
            await asyncio.sleep(WATCH)

    async def _reloaded(self) -> Service:
        """The service that the pointer names now; what fails leaves everything as it was."""
        try:
            at = store.now(self.store)
            if at is None or at == self.at:
                return self.service
            service, bins = await asyncio.to_thread(self._load, at)
        except Exception:
            self.telemetry.swap("failed")
            raise
        self._announce(service, bins)
        self.at = at
        self.telemetry.swap("done")
        return service

    def _load(self, at: store.Now) -> tuple[Service, dict[str, LiveBins]]:
        """The service of a pointer and what its metrics need: work for a thread."""
        service = models.load(self.store, at, self.settings.max_rows)
        return service, {m.name: self.telemetry.prepare(m) for _, m in service.models}

    def _announce(self, service: Service, bins: dict[str, LiveBins]) -> None:
        for role, model in reversed(service.models):
            now = self.clock() / 1e9
            self.telemetry.serve(model, role, bins=bins[model.name], now=now)
