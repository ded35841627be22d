"""How far history has followed a log, so that an update reads only what is new in it.

A mark lies in the file that an update added to history: what is committed there is all that counts,
and where a mark does not fit the log or the folder, the whole log is read.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec
import pyarrow.parquet as pq
from msgspec.structs import replace

from modelkeep.data import splits
from modelkeep.predictions import records
from modelkeep.predictions.log import IDS_PER_LOOKUP, PAGE, RETURNED, PredictionLog

NOTE = b"modelkeep.mark"
SETTLED = 3_600_000_000  # an hour: by then a row of any writer has its number (microseconds)
AGAIN = 1_000  # so many quarantined rows are looked at again; with more, the old mark stays


class Mark(msgspec.Struct, frozen=True):
    """The part of a log that history has seen; moments are microseconds since 1970."""

    until: int  # predictions of before this moment
    known: int  # with the labels that arrived before this one
    prediction: tuple[int, str]  # the newest settled: its number and digest
    label: tuple[int, str]
    again: tuple[str, ...] = ()  # ids that were quarantined, and may fit one day
    files: tuple[str, ...] = ()  # of history, that hold what was taken so far


def notes(mark: Mark) -> dict[bytes, bytes]:
    """A mark as notes of a Parquet file."""
    return {NOTE: msgspec.json.encode(mark)}


def newest(folder: Path, pattern: str) -> Mark | None:
    """The mark that is furthest on among the files of a folder, and that needs no file which is
    gone; or None.
    """
    files = {path.name: path for path in folder.glob(pattern)}
    found = [mark for path in files.values() if (mark := _mark(path)) and {*mark.files} <= {*files}]
    return max(found, key=lambda mark: mark.known, default=None)


def forget(path: Path, ids: set[str]) -> None:
    """Take ids out of the mark of a file."""
    mark = _mark(path) if path.suffix == ".parquet" else None
    if mark and not ids.isdisjoint(mark.again):
        left = tuple(id for id in mark.again if id not in ids)
        splits.write(splits.load(path), path, notes(replace(mark, again=left)))


def place(log: PredictionLog, until: int, known: int) -> Mark | None:
    """The mark for a reading that begins after this call; None for a log without digests."""
    with log.store.snapshot() as run:
        sql, before = run.statements, known - SETTLED
        settled = [
            (run(each, before=before) or [(0, b"")])[0]
            for each in (sql.settled, sql.settled_labels)
        ]
    if any(digest is None for _, digest in settled):
        return None
    return Mark(until, known, *((n, digest.hex()) for n, digest in settled))


def holds(mark: Mark, log: PredictionLog, until: int, known: int) -> bool:
    """Whether what the mark says was seen is a part of what is to be read now, and of this log."""
    if mark.until > until or mark.known > known:
        return False
    with log.store.snapshot() as run:
        ((prediction, label),) = run(
            run.statements.digests, prediction=mark.prediction[0], label=mark.label[0]
        )
    return (_hex(prediction), _hex(label)) == (mark.prediction[1], mark.label[1])


def new(log: PredictionLog, mark: Mark, until: int, known: int) -> Iterator[list[tuple]]:
    """Rows as `PredictionLog.pages` returns them, of all ids whose state may have changed.

    These are predictions of after the mark, late ones of before it, and all of an id with a label
    that came after it. The oldest come first, as in the whole log.
    """
    yield _before(log, mark, known)
    yield from log.pages(mark.until, until, known=known)


def _before(log: PredictionLog, mark: Mark, known: int) -> list[tuple]:
    """Rows of before the mark's moment that were not there, or had another label."""
    with log.store.snapshot() as run:
        found = dict(_late(run, mark))
        for ids in _lookups([*_labelled(run, mark), *mark.again]):
            items = records.texts([*ids, *map(records.batch, ids)])
            groups = run(run.statements.groups, items=items, before=mark.until)
            found |= {key: row for key, row in _rows(groups) if row.id in {*ids}}
        rows = [found[key] for key in sorted(found)]
        newest_label = run(run.statements.newest)[0][1] or 0
        joined = []
        for some in _lookups(rows):
            items = records.texts(row.id for row in some)
            arrived = run(run.statements.labels, items=items, known=known, upto=newest_label)
            joined += records.joined(some, arrived)
    return joined


def _late(run, mark: Mark) -> Iterator[tuple]:
    """Predictions of before the mark's moment that were written after it."""
    after, values = mark.prediction[0], {"before": mark.until, "page": PAGE}
    while page := run(run.statements.late, after=after, **values):
        after = page[-1][0]
        yield from _rows(page)


def _labelled(run, mark: Mark) -> dict[str, None]:
    """The ids of labels that were written after the mark, in their order."""
    after, ids = mark.label[0], {}
    while page := run(run.statements.labelled, after=after, page=IDS_PER_LOOKUP * PAGE):
        after = page[-1][0]
        ids |= dict.fromkeys(id for _, id in page)
    return ids


def _rows(groups: Sequence[tuple]) -> Iterator[tuple]:
    """The returned predictions of groups, each under its moment, number and position."""
    for n, *group in groups:
        for position, row in enumerate(records.ungrouped(*group)):
            if row.role in RETURNED:
                yield (row.at, n, position), row


def _lookups(items: Sequence) -> Iterator[Sequence]:
    return (items[i : i + IDS_PER_LOOKUP] for i in range(0, len(items), IDS_PER_LOOKUP))


def _mark(path: Path) -> Mark | None:
    note = (pq.read_schema(path).metadata or {}).get(NOTE)
    return note and msgspec.json.decode(note, type=Mark)


def _hex(digest: bytes | None) -> str:
    return (digest or b"").hex()
