"""Requests to answers: whatever one turn of the event loop has read becomes one call of the model and one commit of the log."""

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

BATCH = 512  # rows that one call of the model takes
# so many rows, or so few requests, may wait however slow the newest turns were: a slow disk write is no overload
FEW, FEW_REQUESTS = 64, 4
RETRY = 1  # seconds after which a client that was sent away may come back


class Busy(ModelkeepError, RuntimeError):
    """More rows wait than may, or the log cannot be written; worth another try after `retry_after` seconds."""

    def __init__(self, message: str, retry_after: int = RETRY) -> None:
        super().__init__(message)
        self.retry_after = retry_after


# takes the answers, or why there are none
Given = Callable[[list[Prediction | ValidationError] | Exception], None]


class PendingRequest(NamedTuple):
    """Rows of one request that wait for an answer, and who takes it."""

    service: Service
    rows: list[msgspec.Struct]
    give: Given


class Named(NamedTuple):
    """Ids that came with the rows of one turn, of which a label may be here already; where none did, the turn, with whose name all ids begin."""

    given: Sequence[str]
    turn: str


class Batcher:
    """Takes rows, answers them together, remembers each answer before it is given; for one event loop."""

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
        # seconds that a row takes, by the newest turns, without its commit: that takes no longer for more rows
        self.pace, self.committing = 5e-5, 0.0
        self.waiting: list[PendingRequest] = []
        self.depth, self.turns = 0, 0
        # turns of one process are neighbours in the log's index; those of a later one come after
        self.process = f"{time.time_ns() // 10**9:x}{token_hex(4)}"
        # "-0", "-1" and so on: to write them costs as much as the rest of a name
        self.places: list[str] = []
        self.blocked = 0.0  # until then the log could not be written
        self.encode = msgspec.json.Encoder().encode

    @property
    def full(self) -> bool:
        """Whether the rows that wait already will take longer than one may wait; a few never do."""
        few = self.depth <= FEW or len(self.waiting) < FEW_REQUESTS
        return not few and self.depth * self.pace > self.wait

    def ask(self, service: Service, rows: list[msgspec.Struct], give: Given) -> None:
        """Let `give` have what is said of each row, later in this turn of the loop; or Busy, if the answers cannot be logged."""
        if not self.waiting:
            asyncio.get_running_loop().call_soon(self._turn)
        self.depth += len(rows)
        self.waiting.append(PendingRequest(service, rows, give))

    def _turn(self) -> None:
        asked, self.waiting = self.waiting, []
        depth, self.depth, started = self.depth, 0, time.perf_counter()
        self.committing = 0.0
        while asked:
            # a model may have been changed between two requests of one turn
            service, rows, part = asked[0].service, 0, []
            while asked and asked[0].service is service and (not part or rows < BATCH):
                rows += len(asked[0].rows)
                part.append(asked.pop(0))
            try:
                said = self._answer(service, [row for each in part for row in each.rows])
            except Exception as error:
                for each in part:
                    each.give(error)
                continue
            first = 0
            for each in part:
                each.give(said[first : first + len(each.rows)])
                first += len(each.rows)
        took = time.perf_counter() - started - self.committing
        self.pace += 0.1 * (took / depth - self.pace)

    def _answer(
        self, service: Service, rows: list[msgspec.Struct]
    ) -> list[Prediction | ValidationError]:
        now = self.clock() // 1000
        named = self._name(rows)
        try:
            said, parts = service.answer(rows)
        except Exception:
            self._remember(service.unanswered(rows), service.share, now, named)
            raise
        self._remember(parts, service.share, now, named)
        self._count(parts, now)
        if service.shadow is not None:
            asyncio.get_running_loop().call_soon(self._predict_shadow, service, rows, now, named)
        return said

    def _name(self, rows: Sequence[msgspec.Struct]) -> Named:
        """Give each row that came without an id one."""
        self.turns += 1
        turn, given = f"{self.process}-{self.turns:x}", []
        self.places += [f"-{i}" for i in range(len(self.places), len(rows))]
        for row, place in zip(rows, self.places, strict=False):
            if row.id is UNSET:
                row.id = turn + place
            else:
                row.id = str(row.id)
                given.append(row.id)
        return Named(given, "" if given else turn)

    def _remember(self, parts: Sequence[ModelOutput], share: float, now: int, named: Named) -> None:
        """Commit the answers; Busy if that cannot be, unless answers may go unlogged."""
        rows = sum(len(part.said) for part in parts)
        if not rows and not share:  # nobody counts failures then
            return
        groups = [self._group(part, share, now) for part in parts]
        started = time.perf_counter()
        try:
            known = self.log.write(groups, *named)
        except LogError as error:
            self.blocked = time.monotonic() + error.retry_after
            self.telemetry.unlogged(rows if self.serve_unlogged else 0)
            if rows and not self.serve_unlogged:
                raise Busy(
                    f"the prediction log cannot be written: {error}", error.retry_after
                ) from None
        else:
            self.blocked, took = 0.0, time.perf_counter() - started
            self.committing += took
            self.telemetry.log_committed(rows, took)
            if known:  # their labels were here before them
                labels.count(known, parts[0].model.schema, self.telemetry, None)

    def _group(self, part: ModelOutput, share: float, now: int) -> Group:
        """What is kept of a model's answers: to write them column by column costs half of writing them row by row."""
        rows, texts = [said.row for said in part.said], [said.text for said in part.said]
        asked = part.asked or ValidatedRows(np.zeros((0, 0)), [], [])  # of a model that broke
        own = [row.id for row in rows], entities(rows), asked.times
        columns = [*asked.numbers.T.tolist(), *asked.categories]
        features = self.encode(dict(zip(part.model.reader.names, columns)))
        answers = b"[[%b]]" % b"],[".join(texts) if texts else b"[]"
        took, failed = int(part.seconds * 1e6), self.encode(part.failed).decode()
        call = (now, part.model.name, part.role, share, took, failed)
        return Group(*call, *(self.encode(each).decode() for each in own), features, answers)

    def _count(self, parts: Sequence[ModelOutput], now: int) -> None:
        for part in parts:
            if part.asked is None:
                self.telemetry.problem("shadow" if part.role == "shadow" else "defect")
                continue
            self.telemetry.answered(
                part.model.name,
                part.role,
                part.asked.numbers,
                part.asked.categories,
                part.answers,
                part.problems,
                now / 1e6,
            )

    def _predict_shadow(
        self, service: Service, rows: Sequence[msgspec.Struct], now: int, named: Named
    ) -> None:
        """Let the shadow answer the same rows; nothing of it reaches a user, not even its failure."""
        try:
            parts = service.predict_shadow(rows)
            self._remember(parts, service.share, now, named)
            self._count(parts, now)
        except Exception:
            self.telemetry.problem("shadow")
