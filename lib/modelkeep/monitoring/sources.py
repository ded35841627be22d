"""The rows to monitor: a prediction log's, or those of a replay of the table."""

from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd

from modelkeep.core import markup
from modelkeep.core.errors import ModelkeepError
from modelkeep.data import io, schema, splits
from modelkeep.data.columns import as_times
from modelkeep.data.schema import Schema
from modelkeep.predictions import frames
from modelkeep.predictions.log import DAY, LogMissing, open_log
from modelkeep.predictions.removal import Removed
from modelkeep.training.bundle import Bundle


class SourceError(ModelkeepError, ValueError):
    """A log that cannot be had."""


@dataclass(frozen=True)
class Collected:
    """Rows of a log, those that were quarantined, where they come from, and why there are none."""

    rows: pd.DataFrame
    facts: dict[str, object]
    quarantine: pd.DataFrame = field(default_factory=schema.nothing_quarantined)
    source_until: pd.Timestamp | None = None  # the newest row of the table or log, fit or not
    empty: str = ""  # the reason, where there may be another one than as_of
    remedy: str = ""


def log(
    source: str,
    root: Path,
    served: Bundle,
    days: float,
    url: str,
    until: str,
    by: str = "",
    **labels: float,
) -> Collected:
    """The newest `days` of a server's log, or the log of a replay on the table that the bundle was
    prepared from; `labels` are those of `traffic.replay`.
    """
    of = served.schema
    if source == "log":
        return logged(url, root, of, days, until, by)
    if source != "replay":
        raise SourceError(f"source: {source!r} is not known; there are: replay, log")
    table = splits.read_again(of.origin, root)
    first, last = stretch(served, days, len(table))
    replay = splits.window(table, of, first, last)
    rows = replay_of(replay.rows, served, last, **labels)
    until = splits.newest(table, of, first, last)
    return Collected(rows, {"source": "replay"}, replay.quarantine, until)


def logged(url: str, root: Path, of: Schema, days: float, until: str, by: str = "") -> Collected:
    """What a log holds of the `days` before `until` (if empty, up to its newest answer), with the
    labels that had come by then; `by` takes the predictions of one model.
    """
    facts, batches = {"source": "log"}, []
    remedy = "start the server with `modelkeep serve` and send it rows, or set source: replay"
    try:
        book = open_log(url, root=root, create=False)
    except LogMissing as error:
        rows = frames.logged([], of).rows
        return Collected(rows, facts, empty=f"{error}.", remedy=remedy)
    with closing(book):
        facts["log"] = book.address
        last = _moment(until) if until else 1 + (book.newest() or 0)
        first = last - round(days * DAY)
        known = {"known": last} if until else {}
        batches = list(book.read(first, last, **known))
        gone = book.removed()
    found = frames.logged(batches, of, by)
    rows, aside = found.rows, found.quarantine
    for reason, count in gone.items():
        facts[f"removed from the log ({reason})"] = _removed(count)
    if until or batches:
        facts["answered (UTC)"] = f"{_written(first)} to {_written(last)}"
    facts["answered by"] = markup.several(sorted(rows[frames.ANSWERED_BY].unique())) or "nobody"
    empty = f"{book.address} has no predictions from {_written(first)} to {_written(last)}."
    empty = empty if until or len(aside) else f"{book.address} has no predictions yet."
    source_until = _source_until(aside, root, of, last)
    return Collected(rows, facts, aside, source_until, empty, remedy)


def _source_until(aside: pd.DataFrame, root: Path, of: Schema, last: int) -> pd.Timestamp | None:
    """The newest time of quarantined rows and of the table that the model learned from, before
    `last`.
    """
    source, tables = root / str(of.origin.get("source", "")), [aside] if len(aside) else []
    if of.time and of.origin.get("source") and source.exists() and not io.is_made(source):
        tables.append(splits.read_again(of.origin, root, only=(of.time,)))
    ends = [splits.newest(t, of, pd.Timestamp(0), pd.Timestamp(last, unit="us")) for t in tables]
    return max((end for end in ends if end is not None), default=None)


def _removed(gone: Removed) -> str:
    before = f", all from before {_written(gone.until)} UTC" if gone.until else ""
    counts = markup.count(gone.predictions, "prediction"), markup.count(gone.labels, "label")
    return " and ".join(counts) + before


def _moment(until: str) -> int:
    times, _ = as_times(pd.Series([until]))
    if times.isna().any():
        raise SourceError(f"until: {until!r} is not a date (ISO 8601); write it as 2013-07-01")
    return int(times.astype("int64").iloc[0])


def _written(at: int) -> str:
    return f"{pd.Timestamp(at, unit='us'):%Y-%m-%d %H:%M:%S}"


def replayed(table: pd.DataFrame, served: Bundle, days: float, **labels: float) -> pd.DataFrame:
    """The log of `days` after the bundle's as_of, answered week by week as in service.

    `labels` are those of `frames.replay`.
    """
    first, last = stretch(served, days, len(table))
    return replay_of(splits.window(table, served.schema, first, last).rows, served, last, **labels)


def replay_of(rows: pd.DataFrame, served: Bundle, last: object, **labels: float) -> pd.DataFrame:
    """The log of clean rows up to `last`."""
    of = served.schema
    week = splits.weeks(rows, of)[1]
    weekly = [served.answer(rows[week == k]) for k in np.unique(week)]
    predictions = np.concatenate(weekly) if weekly else served.answer(rows)
    now = None if of.time is None else np.datetime64(last)
    return frames.replay(rows, of, predictions, model=served.name, as_of=now, **labels)


def stretch(served: Bundle, days: float, rows: int) -> tuple[object, object]:
    """From when to when rows are replayed (positions in a table without time): nothing, if
    everything was known at as_of.
    """
    of, as_of = served.schema, str(served.schema.origin["as_of"])
    if of.time is None:
        return int(as_of or rows), rows
    first = as_times(pd.Series([as_of]))[0].iloc[0] if as_of else pd.Timestamp.max.floor("D")
    return first, first + pd.Timedelta(days=days if as_of else 0)
