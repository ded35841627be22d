"""Batches: the rows of one turn of the event loop are one call of the model and one commit."""

import asyncio
import time
from collections.abc import Callable, Sequence
from secrets import token_hex
from typing import NamedTuple

import msgspec
import numpy as np
from msgspec import UNSET

from modelkeep.core.errors import ModelkeepError
from modelkeep.monitoring.exporter import Telemetry
from modelkeep.predictions.log import PredictionLog
from modelkeep.predictions.records import Group, LogError
from modelkeep.serving import labels
from modelkeep.serving.models import ModelOutput, Prediction, Service, entities
from modelkeep.serving.requests import ValidatedRows, ValidationError

MAX_BATCH = 512  # rows that one call of the model takes
# so many rows, or so few requests, may always wait: a slow disk write is no overload
FEW, FEW_REQUESTS = 64, 4
RETRY = 1  # seconds after which a client that was refused may come back


class Busy(ModelkeepError, RuntimeError):
    """Too many rows wait, or the log cannot be written; try again after `retry_after` seconds."""

    def __init__(self, message: str, retry_after: int = RETRY) -> None:
        super().__init__(message)
        self.retry_after = retry_after


# receives the predictions, or why there are none
Respond = Callable[[list[Prediction | ValidationError] | Exception], None]


class PendingRequest(NamedTuple):
    """The rows of one request that wait for their predictions."""

    service: Service
    rows: list[msgspec.Struct]
    respond: Respond


class BatchIds(NamedTuple):
    """The ids that clients chose, or else the batch's name with which all of its ids begin."""

    given: Sequence[str]
    batch: str


class Batcher:
    """Predicts the rows of many requests together and logs them before it responds.

    It belongs to one event loop.
    """

    def __init__(
        self,
        log: PredictionLog,
        telemetry: Telemetry,
        *,
        wait: float,
        on_log_failure: str,
        service: Service,
        clock: Callable[[], int] = time.time_ns,
    ) -> None:
        self.log, self.telemetry, self.service, self.clock = log, telemetry, service, clock
        self.wait, self.serve_unlogged = wait, on_log_failure == "serve"
        # seconds a row by the newest batches, without the commit, whose time hardly grows with rows
        self.pace, self.committing = 5e-5, 0.0
        self.waiting: list[PendingRequest] = []
        self.depth, self.batches = 0, 0
        # batches of one process are neighbours in the log's index; later processes come after
        self.process = f"{time.time_ns() // 10**9:x}{token_hex(4)}"
        # "-0", "-1" and so on: to format them costs as much as the rest of an id
        self.suffixes: list[str] = []
        self.blocked = 0.0  # until then the log could not be written
        self.encode = msgspec.json.Encoder().encode
        self.early = labels.EarlyLabels()

    @property
    def full(self) -> bool:
        """Whether the rows that wait will take longer than a request may wait; a few never do."""
        few = self.depth <= FEW or len(self.waiting) < FEW_REQUESTS
        return not few and self.depth * self.pace > self.wait

    def submit(self, service: Service, rows: list[msgspec.Struct], respond: Respond) -> None:
        """Call `respond` with a result for each row, later in this turn of the event loop.

        It gets Busy instead if the predictions cannot be logged.
        """
        if not self.waiting:
            asyncio.get_running_loop().call_soon(self._run)
        self.depth += len(rows)
        self.waiting.append(PendingRequest(service, rows, respond))

    def _run(self) -> None:
        waiting, self.waiting = self.waiting, []
        depth, self.depth, started = self.depth, 0, time.perf_counter()
        self.committing = 0.0
        while waiting:
            # a model may have been changed between two requests of one turn
            service, rows, part = waiting[0].service, 0, []
            while waiting and waiting[0].service is service and (not part or rows < MAX_BATCH):
                rows += len(waiting[0].rows)
                part.append(waiting.pop(0))
            try:
                results = self._predict(service, [row for each in part for row in each.rows])
            except Exception as error:
                for request in part:
                    request.respond(error)
                continue
            first = 0
            for request in part:
                request.respond(results[first : first + len(request.rows)])
                first += len(request.rows)
        took = time.perf_counter() - started - self.committing
        self.pace += 0.1 * (took / depth - self.pace)

    def _predict(
        self, service: Service, rows: list[msgspec.Struct]
    ) -> list[Prediction | ValidationError]:
        now = self.clock() // 1000
        ids = self._assign_ids(rows)
        try:
            results, outputs = service.predict(rows)
        except Exception:
            self._write(service.failures(rows), service.share, now, ids)
            raise
        self._write(outputs, service.share, now, ids)
        self._count(outputs, now)
        if service.shadow is not None:
            asyncio.get_running_loop().call_soon(self._predict_shadow, service, rows, now, ids)
        return results

    def _assign_ids(self, rows: Sequence[msgspec.Struct]) -> BatchIds:
        """Give an id to each row that came without one."""
        self.batches += 1
        batch, given = f"{self.process}-{self.batches:x}", []
        self.suffixes += [f"-{i}" for i in range(len(self.suffixes), len(rows))]
        for row, suffix in zip(rows, self.suffixes, strict=False):
            if row.id is UNSET:
                row.id = batch + suffix
            else:
                row.id = str(row.id)
                given.append(row.id)
        return BatchIds(given, "" if given else batch)

    def _write(self, outputs: Sequence[ModelOutput], share: float, now: int, ids: BatchIds) -> None:
        """Commit the predictions; Busy if that fails, unless they may be served unlogged."""
        rows = sum(len(output.predictions) for output in outputs)
        if not rows and not share:  # failures count only while there is a canary
            return
        groups = [self._group(output, share, now) for output in outputs]
        started = time.perf_counter()
        try:
            early = self.log.write(groups, *ids)
        except LogError as error:
            self.blocked = time.monotonic() + error.retry_after
            self.telemetry.unlogged(rows if self.serve_unlogged else 0)
            if rows and not self.serve_unlogged:
                message = f"the prediction log cannot be written: {error}"
                raise Busy(message, error.retry_after) from None
        else:
            self.blocked, took = 0.0, time.perf_counter() - started
            self.committing += took
            self.telemetry.log_committed(rows, took)
            if early:  # labels that arrived before their predictions
                labels.count(early, outputs[0].model.schema, self.telemetry, None)
                self.early.note(early, now)

    def _group(self, output: ModelOutput, share: float, now: int) -> Group:
        """A model's predictions as the log stores them, column by column: half the cost of rows."""
        rows = [prediction.row for prediction in output.predictions]
        texts = [prediction.text for prediction in output.predictions]
        valid = output.rows or ValidatedRows(np.zeros((0, 0)), [], [])  # of a model that failed
        own = [row.id for row in rows], entities(rows), valid.times
        columns = [*valid.numbers.T.tolist(), *valid.categories]
        features = self.encode(dict(zip(output.model.reader.names, columns)))
        answers = b"[[%b]]" % b"],[".join(texts) if texts else b"[]"
        took, failed = int(output.seconds * 1e6), self.encode(output.failed).decode()
        call = (now, output.model.name, output.role, share, took, failed)
        return Group(*call, *(self.encode(each).decode() for each in own), features, answers)

    def _count(self, outputs: Sequence[ModelOutput], now: int) -> None:
        for output in outputs:
            if output.rows is None:
                self.telemetry.problem("shadow" if output.role == "shadow" else "defect")
                continue
            self.telemetry.answered(
                output.model.name,
                output.role,
                output.rows.numbers,
                output.rows.categories,
                output.values,
                output.problems,
                now / 1e6,
            )

    def _predict_shadow(
        self, service: Service, rows: Sequence[msgspec.Struct], now: int, ids: BatchIds
    ) -> None:
        """Let the shadow predict the same rows; no client notices, not even its failure."""
        try:
            outputs = service.predict_shadow(rows)
            self._write(outputs, service.share, now, ids)
            self._count(outputs, now)
        except Exception:
            self.telemetry.problem("shadow")
