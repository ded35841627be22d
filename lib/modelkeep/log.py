"""The prediction log: append answers, label them whenever the truth comes, read a window."""

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from modelkeep import entries
from modelkeep.entries import Call, Entry, Label, Labelled, LogError, LogMissing
from modelkeep.sqlite import Sqlite

if TYPE_CHECKING:
    import pyarrow as pa

    from modelkeep.postgres import Postgres

__all__ = ["Call", "Cohort", "Entry", "Label", "Labelled", "Log", "LogError", "LogMissing"]
__all__ += ["open_log"]
DURABILITY = ("full", "normal")
SHOWN = (entries.CHAMPION, entries.CANARY)  # the roles whose answers somebody has seen
DAY = 86_400_000_000  # microseconds
PAGE = 4096  # answers that are read at once
END = 2**63 - 1
APPEND = (
    "INSERT INTO answers (id, at, model, role, entity, time, features, answer) "
    "VALUES (?, ?, ?, ?, ?, ?, ?, ?)"
)
CALLED = "INSERT INTO calls (at, model, role, share, took, failed) VALUES (?, ?, ?, ?, ?, ?)"
CALLS = """
    SELECT at, model, role, share, took, failed FROM calls WHERE at >= ? AND at < ? ORDER BY at, n
"""
LABEL = "INSERT INTO labels (id, value, at) VALUES (?, ?, ?)"
ANSWERS = """
    SELECT answers.id, at, model, role, answer
    FROM {each} JOIN answers ON answers.id = asked.value ORDER BY at, n
"""
LABELS = """
    SELECT labels.id, labels.value, at
    FROM {each} JOIN labels ON labels.id = asked.value ORDER BY at, n
"""
NEWEST = "SELECT (SELECT max(n) FROM answers), (SELECT max(n) FROM labels)"
WINDOW = """
    WITH page AS (
        SELECT n, id, at, model, role, entity, time, features, answer FROM answers
        WHERE at >= ? AND (at, n) > (?, ?) AND at < ? AND n <= ? AND role IN (SELECT value FROM {each})
        ORDER BY at, n LIMIT ?
    )
    SELECT page.*, labels.value, labels.at FROM page
    LEFT JOIN labels ON labels.id = page.id AND labels.at < ? AND labels.n <= ?
    ORDER BY page.at, page.n, labels.at, labels.n
"""
COHORTS = """
    SELECT at / ?, model, role, count(*),
        sum(CASE WHEN EXISTS (SELECT 1 FROM labels WHERE labels.id = answers.id) THEN 1 ELSE 0 END)
    FROM answers WHERE at >= ? AND at < ? GROUP BY 1, 2, 3 ORDER BY 1, 2, 3
"""


class Cohort(NamedTuple):
    """How many answers a model gave on a day (counted from 1970), and how many of them have a label."""

    day: int
    model: str
    role: str
    answered: int
    labelled: int


def open_log(
    url: str, *, durability: str = "full", root: Path = Path(), make: bool = True
) -> "Log":
    """The log at `sqlite:///PATH` (from `root`; four slashes: from the top) or `postgresql://...`; LogMissing if there is none and `make` is false.

    `durability`: `full` keeps every answer through a loss of power, `normal` may lose the newest then and is faster.
    """
    if durability not in DURABILITY:
        raise LogError(f"durability: {durability!r} is not one of {', '.join(DURABILITY)}")
    if re.match("postgres(ql)?://", url):
        from modelkeep.postgres import Postgres  # its driver is needed by those who use it only

        return Log(Postgres(url, durability, make))
    if not (found := re.fullmatch("sqlite:///(.+)", url)):
        raise LogError(
            "the address of the log must be sqlite:///PATH or postgresql://USER@HOST/DATABASE, "
            f"and begins with {re.split('[:/@]', url)[0][:20]!r}"
        )
    return Log(Sqlite(root / found[1], durability, found[1], make))


class Log:
    """Answers and labels, only ever added; any number of processes may write and read."""

    def __init__(self, store: "Sqlite | Postgres") -> None:
        self._store = store
        self.promise = store.promise  # what an answer survives, in words
        self.shown = store.shown  # the address without secrets

    def append(self, entries: Sequence[Entry], calls: Sequence[Call] = ()) -> list[Labelled]:
        """Keep answers, and the calls that gave them: they are committed when this returns what is already known of them. LogError if none was kept (or if a server was lost in the middle and cannot be asked)."""
        if not entries and not calls:
            return []
        return self._store.commit(partial(_append, entries, calls))

    def label(self, labels: Sequence[Label]) -> list[Labelled]:
        """Keep labels, and tell what each of them changed; LogError if none was kept."""
        return self._store.commit(partial(_label, labels), alone=True) if labels else []

    def read(
        self, start: int, end: int, *, roles: Sequence[str] = SHOWN, known: int = END
    ) -> "Iterator[pa.RecordBatch]":
        """Answers with start <= at < end and the labels that had come before `known`, in the order of answering, as they were when the first batch was read.

        Nothing but the batch at hand is held, neither here nor open in the database.
        """
        with self._store.look() as run:
            upto = [n or 0 for n in run(NEWEST)[0]]
            last, sql = (start, -1), WINDOW.format(each=run.each)
            while True:
                some = _texts(roles)
                page = run(sql, (last[0], *last, end, upto[0], some, PAGE, known, upto[1]))
                if not page:
                    return
                last = page[-1][2], page[-1][0]
                yield _batch(entries.joined(page))

    def calls(self, start: int, end: int) -> list[Call]:
        """The calls with start <= at < end, in their order."""
        with self._store.look() as run:
            return [Call(*row) for row in run(CALLS, (start, end))]

    def newest(self) -> int | None:
        """When the newest answer was given."""
        with self._store.look() as run:
            return run("SELECT max(at) FROM answers")[0][0]

    def cohorts(self, since: int, until: int) -> list[Cohort]:
        """Counts of the answers with since <= at < until, by day, model and role."""
        with self._store.look() as run:
            return [Cohort(*map(_plain, row)) for row in run(COHORTS, (DAY, since, until))]

    def rest(self) -> None:
        """Do now what would otherwise hold up a later append: for a moment in which nobody asks."""
        self._store.rest()

    def check(self) -> None:
        """Raise LogError if the log is broken."""
        self._store.check()

    def close(self) -> None:
        """Let go of the database."""
        self._store.close()


def _append(new: Sequence[Entry], calls: Sequence[Call], run) -> list[Labelled]:
    if calls:
        run.many(CALLED, calls)
    if not new:
        return []
    run.many(APPEND, new)
    known = run(LABELS.format(each=run.each), (_texts(e.id for e in new),))
    return entries.appended(new, known) if known else []


def _label(labels: Sequence[Label], run) -> list[Labelled]:
    ids = _texts(label.id for label in labels)
    answers, known = (run(sql.format(each=run.each), (ids,)) for sql in (ANSWERS, LABELS))
    run.many(LABEL, labels)
    return entries.labelled(labels, answers, known)


def _texts(texts: Iterable[str]) -> str:
    return json.dumps([*dict.fromkeys(texts)])


def _plain(value: object) -> object:
    return value if isinstance(value, str) else int(value)  # PostgreSQL's sum is a decimal


def _batch(rows: list[list]) -> "pa.RecordBatch":
    import pyarrow as pa  # who only writes does not need it

    text, moment = pa.string(), pa.timestamp("us")
    names = {"id": text, "at": moment, "model": text, "role": text, "entity": text}
    names |= {"time": moment, "features": pa.binary(), "answer": pa.binary()}
    names |= {"label": text, "labelled_at": moment}
    arrays = [pa.array(v, kind) for v, kind in zip(zip(*rows), names.values(), strict=True)]
    return pa.RecordBatch.from_arrays(arrays, names=list(names))
