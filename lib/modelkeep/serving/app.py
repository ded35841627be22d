"""The prediction server as a Starlette application: its routes, errors and background tasks."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import msgspec
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from modelkeep.core.errors import ModelkeepError
from modelkeep.monitoring.exporter import Telemetry
from modelkeep.monitoring.live_bins import LiveBins
from modelkeep.predictions.log import LogError, PredictionLog
from modelkeep.registry import store
from modelkeep.serving import bodies, labels, logs, models, open_inference, openapi, responses
from modelkeep.serving.access import Access
from modelkeep.serving.batching import Batcher, Busy
from modelkeep.serving.models import Prediction, Service
from modelkeep.serving.requests import ValidationError
from modelkeep.serving.responses import Reply
from modelkeep.serving.settings import ServerError, Settings

RECALLED = 500  # predictions that are counted again before other work gets its turn
WATCH = 0.25  # seconds between two looks at the store's pointer
OPEN_INFERENCE = "/v2"
HTML = "text/html; charset=utf-8"
Handler = Callable[[Request], Awaitable[Reply]]


class App:
    """The ASGI application; all of it runs in one event loop."""

    def __init__(
        self,
        settings: Settings,
        root: Path,
        log: PredictionLog,
        telemetry: Telemetry,
        access: Access,
        clock: Callable[[], int] = time.time_ns,
    ) -> None:
        self.settings, self.log, self.telemetry, self.clock = settings, log, telemetry, clock
        self.store, self.access = root / settings.store, access
        self.encode = msgspec.json.Encoder().encode
        self.explainers, self.explaining = models.Explainers(self.store), ThreadPoolExecutor(1)
        self.tasks: set[asyncio.Task] = set()
        self.known_heads: dict[bytes, int] = {}  # of the fast path; cleared when tokens change
        self.at = store.now(self.store)
        if self.at is None:
            raise ServerError(
                f"{self.store} names no model; run `modelkeep serve`, which begins with the "
                "candidate"
            )
        service, bins = self._load(self.at)
        limits = {"wait": settings.max_wait_ms / 1000, "on_log_failure": settings.on_log_failure}
        self.batcher = Batcher(log, telemetry, service=service, clock=clock, **limits)
        self._announce(service, bins)
        handlers = dict.fromkeys(
            (ValidationError, Busy, LogError, HTTPException, Exception), self._refuse
        )
        routes = self._routes()
        self.starlette = Starlette(
            routes=routes, exception_handlers=handlers, lifespan=self._lifespan
        )
        self.starlette.router.redirect_slashes = False
        self.metric_names = {route.path: route.name for route in routes}

    @property
    def service(self) -> Service:
        """The models in service now."""
        return self.batcher.service

    def _routes(self) -> list[Route]:
        model = f"/v2/models/{self.settings.name}"
        version = model + "/versions/{version}"
        get = self._get
        routes = [
            Route("/", get(self._docs), name="other"),
            Route("/docs", get(self._docs), name="other"),
            Route("/openapi.json", get(self._openapi), name="other"),
            Route("/health", get(self._ready, public=True), name="health"),
            Route("/health/live", get(self._live, public=True), name="health"),
            Route("/health/ready", get(self._ready, public=True), name="health"),
            Route("/metrics", get(self._metrics), name="metrics"),
            Route("/predict", self._post(self._predict), methods=["POST"], name="predict"),
            Route("/labels", self._post(self._labels, True), methods=["POST"], name="labels"),
            Route("/model", self._model_route, methods=["GET", "POST"], name="model"),
            Route("/v2", get(self._v2, public=True), name="other"),
            Route("/v2/", get(self._v2, public=True), name="other"),  # as the specification has it
            Route("/v2/health/live", get(self._live, public=True), name="health"),
            Route("/v2/health/ready", get(self._v2_ready, public=True), name="health"),
        ]
        for path in (model, version):
            routes += [
                Route(path, get(self._metadata), name="other"),
                Route(f"{path}/ready", get(self._model_ready, public=True), name="health"),
                Route(f"{path}/infer", self._post(self._infer), methods=["POST"], name="infer"),
            ]
        return routes

    async def __call__(self, scope: dict, receive: Callable, send: Callable) -> None:
        """Serve one request, count it and log it; a defect of ours is 500 and tells no more."""
        if scope["type"] != "http":
            return await self.starlette(scope, receive, send)
        started, status = time.perf_counter(), 0

        async def observed(message: dict) -> None:
            nonlocal status
            status = message.get("status", status)
            await send(message)

        try:
            await self.starlette(scope, receive, observed)
        except Exception as error:  # Starlette raises it again after its reply
            if not status:
                await self._failed(error, scope["path"]).response()(scope, receive, observed)
        seconds, method = time.perf_counter() - started, scope["method"]
        self.record(
            self._metric(scope), method, scope["path"], status, seconds, scope.get("client")
        )

    def record(
        self,
        route: str,
        method: str,
        path: str,
        status: int,
        seconds: float,
        client: tuple[str, int] | None,
    ) -> None:
        """Count one finished request, and log it if the settings say so."""
        self.telemetry.requests(route, status, seconds)
        wanted = self.settings.access_log
        if wanted == "all" or (wanted == "errors" and status >= 400):
            logs.access(client, method, path, status, seconds)

    def _metric(self, scope: dict) -> str:
        route = scope.get("route")
        return self.metric_names.get(getattr(route, "path", scope["path"]), "other")

    def _get(self, handler: Handler, public: bool = False) -> Callable:
        async def endpoint(request: Request) -> Response:
            if not public:
                self.access.check(dict(request.scope["headers"]), writes=False, posts=False)
            return (await handler(request)).response()

        return endpoint

    def _post(self, handler: Callable, writes: bool = False) -> Callable:
        async def endpoint(request: Request) -> Response:
            self.access.check(dict(request.scope["headers"]), writes=writes)
            limits = self.settings.max_body_kb, self.settings.body_seconds
            return (await handler(request, await bodies.read(request, *limits))).response()

        return endpoint

    async def _model_route(self, request: Request) -> Response:
        read, change = self._get(self._model), self._post(self._swap, True)
        return await (change if request.method == "POST" else read)(request)

    async def _refuse(self, request: Request, error: Exception) -> Response:
        if isinstance(error, HTTPException):
            message = f"{request.method} is not allowed here; see /docs"
            if error.status_code == 404:
                message = "there is nothing at this address; see /docs"
            headers = dict(error.headers or {})
            return self._error(request.url.path, error.status_code, "", message, headers).response()
        return self._failed(error, request.url.path).response()

    def _failed(self, error: Exception, path: str = "/predict") -> Reply:
        """The reply to a request that ended with this error."""
        if isinstance(error, ValidationError):
            shown = error
            if self.settings.errors == "brief":
                shown = responses.brief(error)
                logs.server().info("%s: %s", path, error)
            return self._error(path, error.status, shown.place, shown.message, error.headers)
        if isinstance(error, Busy | LogError):
            headers = {"retry-after": str(error.retry_after)}
            return self._error(path, 503, "", str(error), headers)
        self.telemetry.problem("defect")
        logs.server().error("%s failed", path, exc_info=error)
        return self._error(path, 500, "", "an error of the server; it is logged")

    def _error(
        self, path: str, status: int, place: str, message: str, headers: dict | None = None
    ) -> Reply:
        v2 = path == OPEN_INFERENCE or path.startswith(f"{OPEN_INFERENCE}/")
        return responses.error(status, place, message, headers, open_inference=v2)

    def predict(self, body: bytes, respond: Callable[[Reply], None]) -> None:
        """Call `respond` with the reply to a body of rows."""
        service, full = self.service, self.settings.errors == "full"
        if self.batcher.full:
            return respond(self._failed(Busy("too many rows wait already; try again")))
        try:
            rows, refused, ignored, explain = service.reader.decode(body)
            self._check_explain(explain, len(rows))
        except ValidationError as error:
            return respond(self._failed(error))
        self._count_input(len(refused), ignored)

        def finish(results: list | Exception) -> None:
            if isinstance(results, Exception):
                return respond(self._failed(results))
            if not full:
                self._log_errors([*refused.values(), *results])
            reply = responses.rows(results, refused, full=full)
            if explain and reply.status == 200:
                work = self._explain(results, reply, respond)
                self.tasks.add(task := asyncio.get_running_loop().create_task(work))
                return task.add_done_callback(self.tasks.discard)
            return respond(reply)

        return self.batcher.submit(service, rows, finish) if rows else finish([])

    def _check_explain(self, explain: bool, rows: int) -> None:
        if explain and self.settings.errors == "brief":
            message = "is off: this server tells nothing of its columns (errors: brief)"
            raise ValidationError("$.explain", message)
        if explain and rows > self.settings.explain_rows:
            message = f"is for at most {self.settings.explain_rows} rows (explain_rows)"
            raise ValidationError("$.explain", message)

    async def _explain(self, results: list, reply: Reply, respond: Callable[[Reply], None]) -> None:
        """Respond with an explanation of each prediction, made in a thread of their own."""
        predictions = [each for each in results if isinstance(each, Prediction)]
        loop = asyncio.get_running_loop()
        try:
            made = await loop.run_in_executor(self.explaining, self.explainers.explain, predictions)
        except Exception as error:
            return respond(self._failed(error))
        return respond(responses.with_explanations(reply, made))

    def _log_errors(self, results: list) -> None:
        """Log what the settings do not tell clients: the first error of a request."""
        errors = [each for each in results if isinstance(each, ValidationError)]
        if errors:
            logs.server().info("/predict: %d rows refused, the first: %s", len(errors), errors[0])

    def _count_input(self, refused: int, ignored: int) -> None:
        if refused:
            self.telemetry.problem("malformed", refused)
        if ignored:
            self.telemetry.problem("extra_keys", ignored)

    async def _predict(self, request: Request, body: bytes) -> Reply:
        reply = asyncio.get_running_loop().create_future()
        self.predict(body, lambda given: reply.done() or reply.set_result(given))
        return await reply

    def _version(self, request: Request) -> Service:
        """The service for the version that the address names; 404 if it is not the champion's."""
        version = request.path_params.get("version")
        if version is None:
            return self.service
        if version != self.service.champion.name:
            message = f"there is no version {version[:60]!r}; see `versions` of the model"
            raise ValidationError("", message, 404)
        return self.service.champion_only

    async def _infer(self, request: Request, body: bytes) -> Reply:
        service = self._version(request)
        if self.batcher.full:
            raise Busy("too many rows wait already; try again")
        json_bytes = request.headers.get("inference-header-content-length", "")
        parsed, table = open_inference.rows(body, service.champion.schema, json_bytes)
        try:
            rows, refused, ignored, _ = service.reader.decode(table)
        except ValidationError as error:
            raise ValidationError("$.inputs", error.message, error.status) from None
        self._count_input(len(refused), ignored)
        results = [*refused.values()] or await self._submitted(service, rows)
        if self.settings.errors == "brief":
            results = [self._without_notes(each) for each in results]
        reply = open_inference.response(parsed, self.settings.name, service.champion, results)
        return Reply(200, self.encode(reply))

    @staticmethod
    def _without_notes(result: Prediction | ValidationError) -> Prediction | ValidationError:
        if isinstance(result, Prediction):
            result.notes = ()
        return result

    async def _submitted(self, service: Service, rows: list) -> list[Prediction | ValidationError]:
        results = asyncio.get_running_loop().create_future()
        self.batcher.submit(
            service, rows, lambda given: results.done() or results.set_result(given)
        )
        if isinstance(given := await results, Exception):
            raise given
        return given

    async def _labels(self, request: Request, body: bytes) -> Reply:
        schema = self.service.champion.schema
        outcomes = labels.take(
            body, schema, self.log, self.telemetry, self.batcher.early, self.clock
        )
        return Reply(200, self.encode(outcomes))

    async def _swap(self, request: Request, body: bytes) -> Reply:
        """Follow the store's pointer now, and show the models in service then."""
        try:
            self.batcher.service = await self._reloaded()
        except ModelkeepError as error:
            message = f"{error}; {self.service.champion.name} stays in service"
            raise ValidationError("", message, 409) from None
        return await self._model(request)

    async def _model(self, request: Request) -> Reply:
        service = self.service
        schema = service.champion.schema
        shown = {
            "name": self.settings.name,
            "serial": self.at.serial,
            "share": service.share,
            "models": {
                role: {
                    "model": m.name,
                    "version": m.version,
                    "sha256": m.sha256,
                    "engine": m.manifest["serving"]["engine"],
                    "task": m.schema.task,
                    "as_of": m.schema.origin.get("as_of", ""),
                }
                for role, m in service.models
            },
            "classes": schema.classes,
            "columns": [{"name": c.name, "kind": c.kind} for c in schema.columns],
        }
        return Reply(200, self.encode(shown))

    async def _live(self, request: Request) -> Reply:
        return Reply(200, b'{"live":true}')

    def _problem(self) -> str:
        # after a while it counts as ready again: only a request can find out
        blocked = time.monotonic() < self.batcher.blocked
        return "the prediction log cannot be written" if blocked else ""

    async def _ready(self, request: Request) -> Reply:
        problem = self._problem()
        ready = not problem or self.settings.on_log_failure == "serve"
        shown = {
            "ready": ready,
            "name": self.settings.name,
            "model": self.service.champion.name,
            "durability": self.log.durability,
            "when the log cannot be written": self.settings.on_log_failure,
        }
        shown |= {"problem": problem} if problem else {}
        return Reply(200 if ready else 503, self.encode(shown))

    async def _metrics(self, request: Request) -> Reply:
        self.telemetry.settle(self.clock() / 1e9)
        accept = request.headers.get("accept", "")
        page, kind = await asyncio.to_thread(self.telemetry.render, accept)
        return Reply(200, page, kind)

    async def _v2(self, request: Request) -> Reply:
        extensions = list(open_inference.EXTENSIONS)
        server = {"name": "modelkeep", "version": "1", "extensions": extensions}
        return Reply(200, self.encode(server))

    async def _v2_ready(self, request: Request) -> Reply:
        ready = not self._problem() or self.settings.on_log_failure == "serve"
        return Reply(200 if ready else 503, self.encode({"ready": ready}))

    async def _model_ready(self, request: Request) -> Reply:
        self._version(request)
        ready = not self._problem() or self.settings.on_log_failure == "serve"
        shown = {"name": self.settings.name, "ready": ready}
        return Reply(200 if ready else 503, self.encode(shown))

    async def _metadata(self, request: Request) -> Reply:
        service = self._version(request)
        shown = open_inference.metadata(self.settings.name, service.champion)
        return Reply(200, self.encode(shown))

    async def _openapi(self, request: Request) -> Reply:
        return Reply(200, self.encode(self._document()))

    async def _docs(self, request: Request) -> Reply:
        page = openapi.page(self.settings.name, self._document())
        return Reply(200, page.encode(), HTML)

    def _document(self) -> dict:
        return openapi.document(self.settings.name, self.service.reader, self.access)

    @asynccontextmanager
    async def _lifespan(self, app: Starlette) -> AsyncIterator[None]:
        tasks = [asyncio.create_task(self._watch()), asyncio.create_task(self._recall())]
        yield
        for task in tasks:
            task.cancel()
        self.explaining.shutdown(wait=False, cancel_futures=True)
        self.log.close()

    async def _recall(self) -> None:
        """Count the log's last days again, for quality by the age of predictions."""
        if not self.settings.log.startswith("sqlite:"):
            return  # a shared log: each of several replicas would count all of it
        now, names = self.clock() // 1000, {m.name for _, m in self.service.models}
        with ThreadPoolExecutor(1) as reader:  # a connection belongs to one thread
            loop = asyncio.get_running_loop()
            pages = self.log.pages(now - labels.RECALLED, now, known=now)
            while page := await loop.run_in_executor(reader, next, pages, None):
                for at in range(0, len(page), RECALLED):
                    some = page[at : at + RECALLED]
                    labels.recall(some, names, self.service.champion.schema, self.telemetry)
                    await asyncio.sleep(0)

    async def _watch(self) -> None:
        """Follow the store's pointer and the file of tokens; keep the log's file in order."""
        pointer, seen = self.store / store.POINTER, None
        while True:
            try:
                state = pointer.stat()
                if (state.st_mtime_ns, state.st_ino) != seen:
                    seen = (state.st_mtime_ns, state.st_ino)
                    self.batcher.service = await self._reloaded()
            except Exception as error:  # the models in service stay
                logs.server().error("%s; %s stays in service", error, self.service.champion.name)
            try:
                if self.access.tokens.refresh():
                    self.known_heads.clear()
                    logs.server().info("the tokens changed: %d are valid", len(self.access.tokens))
            except ServerError as error:
                logs.server().error("%s; the tokens of before stay valid", error)
            with suppress(LogError):  # the next prediction reports it
                await self._count_unmatched()
                await asyncio.to_thread(self.log.checkpoint)
            await asyncio.sleep(WATCH)

    async def _count_unmatched(self) -> None:
        """Count the labels of rows that were not predicted within a day, here or elsewhere."""
        early = self.batcher.early
        if overdue := early.overdue(self.clock() // 1000):
            predicted = await asyncio.to_thread(self.log.predicted, overdue)
            early.count_unmatched(overdue, predicted, self.telemetry)

    async def _reloaded(self) -> Service:
        """The service that the pointer names now; a failure leaves everything as it was."""
        try:
            at = store.now(self.store)
            if at is None or at == self.at:
                return self.service
            service, bins = await asyncio.to_thread(self._load, at, self.service)
        except Exception:
            self.telemetry.swap("failed")
            raise
        self._announce(service, bins)
        self.at = at
        self.telemetry.swap("done")
        return service

    def _load(
        self, at: store.Now, before: Service | None = None
    ) -> tuple[Service, dict[str, LiveBins]]:
        """The service of a pointer and what its metrics need: work for a thread."""
        settings = self.settings
        options = settings.max_rows, settings.extra_keys, settings.intervals
        service = models.load(self.store, at, *options, before)
        return service, {m.name: self.telemetry.prepare(m) for _, m in service.models}

    def _announce(self, service: Service, bins: dict[str, LiveBins]) -> None:
        for role, model in reversed(service.models):
            now = self.clock() / 1e9
            self.telemetry.serve(model, role, bins=bins[model.name], now=now)
