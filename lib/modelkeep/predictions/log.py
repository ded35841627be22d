"""The prediction log: append answers, label them whenever the truth comes, read a window."""

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from modelkeep.predictions import records
from modelkeep.predictions.records import Call, Entry, Group, Label, Labelled, LogError, LogMissing
from modelkeep.predictions.sqlite import Sqlite

if TYPE_CHECKING:
    import pyarrow as pa

    from modelkeep.predictions.postgres import Postgres


__all__ = ["Call", "Entry", "Label", "Labelled", "Log", "LogError", "LogMissing", "open_log"]
DURABILITY = ("full", "normal")
SHOWN = (records.CHAMPION, records.CANARY)  # the roles whose answers somebody has seen
DAY = 86_400_000_000  # microseconds
PAGE = 128  # groups of answers that are read at once; each is of one turn of a server
SOME = (
    200  # labels whose answers are looked for at once: each comes with all that its turn answered
)
END = 2**63 - 1
CALLS = """
    SELECT at, model, role, share, took, failed FROM answers
    WHERE at >= ? AND at < ? AND share IS NOT NULL ORDER BY at, n
"""
APPEND = """
    INSERT INTO answers (at, model, role, share, took, failed, ids, entities, times, features, answers)
    VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) RETURNING n
"""
IDS = "INSERT INTO ids (id, n, place) SELECT asked.value, ?, asked.key FROM {each}"
TURN = "INSERT INTO ids (id, n, place) VALUES (?, ?, ?)"
LABEL = "INSERT INTO labels (id, value, at) VALUES (?, ?, ?)"
ANSWERS = """
    SELECT ids.id, at, model, role, answers.answers, answers.ids, place
    FROM {each} JOIN ids ON ids.id = asked.value JOIN answers ON answers.n = ids.n
    ORDER BY at, ids.n, place
"""
LABELS = """
    SELECT labels.id, labels.value, at
    FROM {each} JOIN labels ON labels.id = asked.value AND at < ? AND n <= ? ORDER BY at, n
"""
NEWEST = "SELECT (SELECT max(n) FROM answers), (SELECT max(n) FROM labels)"
WINDOW = """
    SELECT n, at, model, role, ids, entities, times, features, answers FROM answers
    WHERE at >= ? AND (at, n) > (?, ?) AND at < ? AND n <= ?
        AND role IN (SELECT asked.value FROM {each})
    ORDER BY at, n LIMIT ?
"""


def open_log(
    url: str, *, durability: str = "full", root: Path = Path(), make: bool = True
) -> "Log":
    """The log at `sqlite:///PATH` (from `root`; four slashes: from the top) or `postgresql://...`; LogMissing if there is none and `make` is false.

    `durability`: `full` keeps every answer through a loss of power, `normal` may lose the newest then and is faster.
    """
    if durability not in DURABILITY:
        raise LogError(f"durability: {durability!r} is not one of {', '.join(DURABILITY)}")
    if re.match("postgres(ql)?://", url):
        from modelkeep.predictions.postgres import (
            Postgres,  # its driver is needed by those who use it only
        )

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

    def append(self, answers: Sequence[Entry], calls: Sequence[Call] = ()) -> list[Labelled]:
        """Keep answers, and the calls that gave them, as `keep` does."""
        return self.keep([*records.grouped(answers, calls)], [entry.id for entry in answers])

    def keep(self, groups: Sequence[Group], given: Sequence[str], turn: str = "") -> list[Labelled]:
        """Keep groups of answers: they are committed when this returns what is already known of them. LogError if none was kept (or if a server was lost in the middle and cannot be asked).

        `given`: those of their ids that others know, so that a label may have come before the answer. `turn`: the name, of nobody else, that all
        ids consist of up to their last hyphen; to find them by it costs less than a place in the index for each.
        """
        return self._store.commit(partial(_keep, groups, given, turn)) if groups else []

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
            last, some = (start, -1), _texts(roles)
            window, labels = (sql.format(each=run.each) for sql in (WINDOW, LABELS))
            while page := run(window, (last[0], *last, end, upto[0], some, PAGE)):
                last = page[-1][1], page[-1][0]
                rows = [row for group in page for row in records.ungrouped(*group[1:])]
                came = run(labels, (_texts(row.id for row in rows), known, upto[1]))
                yield _batch(records.joined(rows, came))

    def calls(self, start: int, end: int) -> list[Call]:
        """The calls with start <= at < end, in their order."""
        with self._store.look() as run:
            return [Call(*row) for row in run(CALLS, (start, end))]

    def newest(self) -> int | None:
        """When the newest answer was given."""
        with self._store.look() as run:
            return run("SELECT max(at) FROM answers")[0][0]

    def rest(self) -> None:
        """Do now, in this thread, what would otherwise hold up a later append in another."""
        self._store.rest()

    def check(self) -> None:
        """Raise LogError if the log is broken."""
        self._store.check()

    def close(self) -> None:
        """Let go of the database."""
        self._store.close()


def _keep(groups: Sequence[Group], given: Sequence[str], turn: str, run) -> list[Labelled]:
    for group in groups:
        ((n,),) = run(APPEND, group)
        if turn:
            run.many(TURN, [(turn, n, records.WHOLE)])
        else:
            run.many(IDS.format(each=run.each), [(n, group.ids)])
    known = run(LABELS.format(each=run.each), (_texts(given), END, END)) if given else []
    if not known:
        return []
    new = [entry for g in groups for entry in records.ungrouped(*g[:3], *g[6:])]
    return records.appended(new, known)


def _label(labels: Sequence[Label], run) -> list[Labelled]:
    ids, answers = [*dict.fromkeys(label.id for label in labels)], []
    for at in range(0, len(ids), SOME):
        some = ids[at : at + SOME]
        names = _texts([*some, *map(records.turn, some)])
        answers += records.picked(run(ANSWERS.format(each=run.each), (names,)), some)
    known = run(LABELS.format(each=run.each), (_texts(ids), END, END))
    run.many(LABEL, labels)
    return records.labelled(labels, answers, known)


def _texts(texts: Iterable[str]) -> str:
    return json.dumps([*dict.fromkeys(texts)])


def _batch(rows: list[list]) -> "pa.RecordBatch":
    import pyarrow as pa  # who only writes does not need it

    text, moment = pa.string(), pa.timestamp("us")
    names = {"id": text, "at": moment, "model": text, "role": text, "entity": text}
    names |= {"time": moment, "features": pa.binary(), "answer": pa.binary()}
    names |= {"label": text, "labelled_at": moment}
    arrays = [pa.array(v, kind) for v, kind in zip(zip(*rows), names.values(), strict=True)]
    return pa.RecordBatch.from_arrays(arrays, names=list(names))
