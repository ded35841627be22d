"""The prediction log: append predictions, add labels whenever they arrive, read a window."""

import re
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from modelkeep.predictions import records, removal
from modelkeep.predictions.records import (
    Call,
    Group,
    Label,
    LabelOutcome,
    LogError,
    LogMissing,
    PredictionRecord,
    TracedPrediction,
)
from modelkeep.predictions.removal import Erased, Removed
from modelkeep.predictions.sqlite import Sqlite

if TYPE_CHECKING:
    import pyarrow as pa

    from modelkeep.predictions.postgres import Postgres


__all__ = [
    "Call",
    "Label",
    "LabelOutcome",
    "LogError",
    "LogMissing",
    "PredictionLog",
    "PredictionRecord",
    "TracedPrediction",
    "open_log",
]
DURABILITY = ("full", "normal")
RETURNED = (records.CHAMPION, records.CANARY)  # the roles whose predictions clients receive
DAY = 86_400_000_000  # microseconds
PAGE = 128  # groups of predictions that are read at once; each is of one batch of a server
IDS_PER_LOOKUP = 200  # each id is looked up with the whole batch that holds its prediction
END = 2**63 - 1


def open_log(
    url: str, *, durability: str = "full", root: Path = Path(), create: bool = True
) -> "PredictionLog":
    """The log at `sqlite:///PATH` (from `root`; four slashes: from the top) or `postgresql://...`.

    `durability`: `full` keeps every prediction through a power failure, `normal` may lose the
    newest then and is faster. LogMissing if there is no log and `create` is false.
    """
    if durability not in DURABILITY:
        raise LogError(f"durability: {durability!r} is not one of {', '.join(DURABILITY)}")
    if re.match("postgres(ql)?://", url):
        from modelkeep.predictions.postgres import Postgres  # its driver is optional

        return PredictionLog(Postgres(url, durability, create))
    if not (match := re.fullmatch("sqlite:///(.+)", url)):
        raise LogError(
            "the address of the log must be sqlite:///PATH or postgresql://USER@HOST/DATABASE, "
            f"and begins with {re.split('[:/@]', url)[0][:20]!r}"
        )
    return PredictionLog(Sqlite(root / match[1], durability, match[1], create))


class PredictionLog:
    """Predictions and labels, append-only; any number of processes may write and read."""

    def __init__(self, store: "Sqlite | Postgres") -> None:
        self.store = store
        self.durability = store.durability  # which failures a prediction survives, as a sentence
        self.address = store.address  # without secrets

    def append(
        self, predictions: Sequence[PredictionRecord], calls: Sequence[Call] = ()
    ) -> list[LabelOutcome]:
        """Write predictions and the calls that made them, as `write` does."""
        ids = [record.id for record in predictions]
        return self.write([*records.grouped(predictions, calls)], ids)

    def write(
        self, groups: Sequence[Group], ids: Sequence[str], batch: str = ""
    ) -> list[LabelOutcome]:
        """Commit groups of predictions, and return the outcomes of labels that came before them.

        `ids`: those of their ids that clients chose, so that a label may be here already. `batch`:
        the unique name with which all ids begin, up to their last hyphen; one entry in the index
        then stands for all. LogError if nothing was committed (or if the connection to a database
        was lost in the middle and the database cannot be reached).
        """
        return self.store.commit(partial(write_rows, groups, ids, batch)) if groups else []

    def label(self, labels: Sequence[Label]) -> list[LabelOutcome]:
        """Commit labels, and return what each of them changed; LogError if none was committed."""
        return self.store.commit(partial(_label, labels), alone=True) if labels else []

    def read(
        self, start: int, end: int, *, roles: Sequence[str] = RETURNED, known: int = END
    ) -> "Iterator[pa.RecordBatch]":
        """Predictions with start <= at < end and the labels that had arrived before `known`.

        They are in the order of prediction, as they were when the first batch was read. Only one
        batch is held at a time, here and in the database.
        """
        for page in self.pages(start, end, roles=roles, known=known):
            yield record_batch(page)

    def pages(
        self, start: int, end: int, *, roles: Sequence[str] = RETURNED, known: int = END
    ) -> Iterator[list[tuple]]:
        """What `read` returns, as lists of rows: the fields of `PredictionRecord`, then `label` and
        `labelled_at` (None where there is none).
        """
        with self.store.snapshot() as run:
            sql, values = run.statements, {"end": end, "items": records.texts(roles), "page": PAGE}
            values["upto"], newest_label = [n or 0 for n in run(sql.newest)[0]]
            last_at, last_n = start, -1
            while page := run(sql.window, start=last_at, last_at=last_at, last_n=last_n, **values):
                last_n, last_at = page[-1][:2]
                rows = [row for group in page for row in records.ungrouped(*group[1:])]
                items = records.texts(row.id for row in rows)
                arrived = run(sql.labels, items=items, known=known, upto=newest_label)
                yield records.joined(rows, arrived)

    def find(self, id: str) -> list[TracedPrediction]:
        """The predictions of an id in all roles, the oldest first, and the labels that came."""
        with self.store.snapshot() as run:
            rows = run(run.statements.traced, items=records.texts([id, records.batch(id)]))
            labels = run(run.statements.arrived, items=records.texts([id]))
        return records.traced(id, rows, labels)

    def predicted(self, ids: Sequence[str]) -> set[str]:
        """Those of some ids that have a prediction."""
        found = set()
        with self.store.snapshot() as run:
            for start in range(0, len(ids), IDS_PER_LOOKUP):
                some = ids[start : start + IDS_PER_LOOKUP]
                items = records.texts([*some, *map(records.batch, some)])
                rows = run(run.statements.predictions, items=items)
                found |= {row[0] for row in records.picked(rows, some)}
        return found

    def calls(self, start: int, end: int) -> list[Call]:
        """The calls with start <= at < end, in their order."""
        with self.store.snapshot() as run:
            return [Call(*row) for row in run(run.statements.calls, start=start, end=end)]

    def newest(self) -> int | None:
        """The time of the newest prediction."""
        with self.store.snapshot() as run:
            return run(run.statements.newest_at)[0][0]

    def prune(self, before: int, rest: Callable[[float], None] = time.sleep) -> Removed:
        """Remove predictions and labels of before a moment (microseconds), from any thread.

        It is done in small transactions; who writes has the log to itself in each `rest` (seconds)
        between them. A label stays as long as its prediction.
        """
        return removal.prune(self.store.maintain, self.store.kind, before, rest)

    def erase(self, entity: str, dry_run: bool = False) -> Erased:
        """Remove the predictions of an entity, or of a row's id, and their labels.

        The rows that the same calls predicted stay; the digest of a call is made anew.
        """
        return removal.erase(self.store.maintain, self.store.kind, entity, dry_run)

    def scrub(self) -> list[Path]:
        """Write the log anew, without the bytes of deleted rows; its files (none: a server's)."""
        self.store.scrub()
        return self.store.files()

    def removed(self) -> dict[str, Removed]:
        """How many rows were removed so far, by reason: retention, erasure."""
        with self.store.snapshot() as run:
            return removal.removed(run, self.store.kind)

    def checkpoint(self) -> None:
        """Do now, in this thread, the maintenance that would delay a later append in another."""
        self.store.checkpoint()

    def check(self) -> None:
        """Raise LogError if the log is broken."""
        self.store.check()

    def close(self) -> None:
        """Release the database."""
        self.store.close()


def write_rows(groups: Sequence[Group], ids: Sequence[str], batch: str, run) -> list[LabelOutcome]:
    """Append groups of rows, and the labels that waited for them, in the transaction `run`."""
    sql = run.statements
    for group in groups:
        ((n,),) = run.insert(sql.append, (*group, records.digest(group)))
        if batch:
            run.many(sql.batch, [(batch, n, records.WHOLE_BATCH)])
        else:
            run.many(sql.ids, [sql.ids.bind({"n": n, "items": group.ids})])
    labels = run(sql.labels, items=records.texts(ids), known=END, upto=END) if ids else []
    if not labels:
        return []
    new = [record for g in groups for record in records.ungrouped(*g[:3], *g[6:])]
    return records.appended(new, labels)


def _label(labels: Sequence[Label], run) -> list[LabelOutcome]:
    sql = run.statements
    ids, predictions = [*dict.fromkeys(label.id for label in labels)], []
    for start in range(0, len(ids), IDS_PER_LOOKUP):
        some = ids[start : start + IDS_PER_LOOKUP]
        names = records.texts([*some, *map(records.batch, some)])
        predictions += records.picked(run(sql.predictions, items=names), some)
    previous = run(sql.labels, items=records.texts(ids), known=END, upto=END)
    run.many(sql.label, [(*label, records.digest(label)) for label in labels])
    return records.labelled(labels, predictions, previous)


def record_batch(rows: Sequence[tuple]) -> "pa.RecordBatch":
    """Rows of `PredictionLog.pages` as a batch with the names and types of `read`."""
    import pyarrow as pa  # a server does without

    text, moment = pa.string(), pa.timestamp("us")
    names = {"id": text, "at": moment, "model": text, "role": text, "entity": text}
    names |= {"time": moment, "features": pa.binary(), "answer": pa.binary()}
    names |= {"label": text, "labelled_at": moment}
    columns = zip(*rows) if rows else [()] * len(names)
    arrays = [pa.array(v, kind) for v, kind in zip(columns, names.values(), strict=True)]
    return pa.RecordBatch.from_arrays(arrays, names=list(names))
