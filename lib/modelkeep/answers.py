"""Requests to answers: whatever one turn of the event loop has read becomes one call of the model and one commit of the log."""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass
from secrets import token_hex

import msgspec
from msgspec import UNSET

from modelkeep import labels
from modelkeep import rows as requests
from modelkeep.entries import Call, Entry, LogError
from modelkeep.log import Log
from modelkeep.rows import Refused
from modelkeep.serving import Answered, Said, Service, entity
from modelkeep.telemetry import Telemetry

BATCH = 512  # rows that one call of the model takes
RETRY = 1  # seconds after which a client that was sent away may come back


class Busy(RuntimeError):
    """More rows wait than may, or the log cannot be written; worth another try after `retry_after` seconds."""

    def __init__(self, message: str, retry_after: int = RETRY) -> None:
        super().__init__(message)
        self.retry_after = retry_after


@dataclass(frozen=True, slots=True)
class Asked:
    """Rows of one request that wait for an answer."""

    service: Service
    rows: list[msgspec.Struct]
    future: asyncio.Future


class Desk:
    """Takes rows, answers them together, remembers each answer before it is given; for one event loop."""

    def __init__(
        self, log: Log, telemetry: Telemetry, *, most: int, unlogged: str, service: Service
    ) -> None:
        self.log, self.telemetry, self.service = log, telemetry, service
        self.most, self.serve_unlogged = most, unlogged == "serve"
        self.waiting: list[Asked] = []
        self.depth, self.process, self.made = 0, token_hex(6), 0
        self.blocked = 0.0  # until then the log could not be written
        self.encode = msgspec.json.Encoder().encode

    async def ask(self, service: Service, rows: list[msgspec.Struct]) -> list[Said | Refused]:
        """What is said of each row; Busy if too many wait, or if the answers cannot be logged."""
        if self.depth + len(rows) > self.most and self.waiting:
            raise Busy(f"{self.depth} rows wait already; try again in {RETRY} s")
        loop = asyncio.get_running_loop()
        if not self.waiting:
            loop.call_soon(self._turn)
        self.depth += len(rows)
        self.waiting.append(asked := Asked(service, rows, loop.create_future()))
        return await asked.future

    def _turn(self) -> None:
        asked, self.waiting, self.depth = self.waiting, [], 0
        while asked:
            # a model may have been changed between two requests of one turn
            service, rows, part = asked[0].service, 0, []
            while asked and asked[0].service is service and (not part or rows < BATCH):
                rows += len(asked[0].rows)
                part.append(asked.pop(0))
            try:
                self._answer(service, part)
            except Exception as error:
                for each in part:
                    if not each.future.done():
                        each.future.set_exception(error)

    def _answer(self, service: Service, asked: Sequence[Asked]) -> None:
        rows = [row for each in asked for row in each.rows]
        now = time.time_ns() // 1000
        self._name(rows)
        try:
            said, parts = service.answer(rows)
        except Exception:
            self._remember([], service.unanswered(rows), service.share, now)
            raise
        self._remember([s for s in said if isinstance(s, Said)], parts, service.share, now)
        self._count(parts, now)
        first = 0
        for each in asked:
            last = first + len(each.rows)
            if not each.future.done():
                each.future.set_result(said[first:last])
            first = last
        if service.shadow is not None:
            asyncio.get_running_loop().call_soon(self._whisper, service, rows, now)

    def _name(self, rows: Sequence[msgspec.Struct]) -> None:
        """Give each row that came without an id one."""
        for row in rows:
            if row.id is UNSET:
                self.made += 1
                row.id = f"{self.process}-{self.made:x}"
            elif type(row.id) is int:
                row.id = str(row.id)

    def _remember(
        self, said: Sequence[Said], parts: Sequence[Answered], share: float, now: int
    ) -> None:
        """Commit the answers; Busy if that cannot be, unless answers may go unlogged."""
        if not said and not share:  # nobody counts failures then
            return
        calls = [self._call(part, share, now) for part in parts]
        started = time.perf_counter()
        try:
            known = self.log.append([self._entry(s, now) for s in said], calls)
        except LogError as error:
            self.blocked = time.monotonic() + error.retry_after
            self.telemetry.unlogged(len(said) if self.serve_unlogged else 0)
            if said and not self.serve_unlogged:
                raise Busy(
                    f"the prediction log cannot be written: {error}", error.retry_after
                ) from None
        else:
            self.blocked = 0.0
            self.telemetry.log_committed(len(said), time.perf_counter() - started)
            if known:  # their labels were here before them
                labels.count(known, said[0].model.schema, self.telemetry, None)

    def _entry(self, said: Said, now: int) -> Entry:
        row, answer = said.row, said.answer
        time = getattr(row, "time", UNSET)
        return Entry(
            row.id,
            now,
            said.model.name,
            said.role,
            entity(row),
            requests.when(time),
            self.encode(row),
            self.encode(answer if isinstance(answer, list) else [answer]),
        )

    def _call(self, part: Answered, share: float, now: int) -> Call:
        took, failed = int(part.seconds * 1e6), self.encode(part.failed).decode()
        return Call(now, part.model.name, part.role, share, took, failed)

    def _count(self, parts: Sequence[Answered], now: int) -> None:
        for part in parts:
            if part.checked is None:
                self.telemetry.problem("shadow" if part.role == "shadow" else "defect")
                continue
            numbers, categories = part.checked.numbers, part.checked.categories
            if len(part.kept) < len(numbers):
                numbers = numbers[part.kept]
                categories = [[values[i] for i in part.kept] for values in categories]
            if len(numbers):
                self.telemetry.answered(
                    part.model.name,
                    part.role,
                    numbers,
                    categories,
                    part.answers,
                    part.checked.problems,
                    now / 1e6,
                )
            else:
                for kind, n in part.checked.problems.items():
                    self.telemetry.problem(kind, n)

    def _whisper(self, service: Service, rows: Sequence[msgspec.Struct], now: int) -> None:
        """Let the shadow answer the same rows; nothing of it reaches a user, not even its failure."""
        try:
            said, parts = service.whisper(rows)
            self._remember(said, parts, service.share, now)
            self._count(parts, now)
        except Exception:
            self.telemetry.problem("shadow")
