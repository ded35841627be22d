"""What the page of `collect` says: which answers came back, and how late the truth about them was."""

from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from modelkeep import figures, report, tables, traffic
from modelkeep.bundle import Bundle
from modelkeep.columns import as_times
from modelkeep.figures import Figure
from modelkeep.log import DAY, LogMissing, open_log
from modelkeep.report import Html, count, number
from modelkeep.schema import Schema
from modelkeep.verdicts import Verdict


class SourceError(ValueError):
    """A log that cannot be had."""


@dataclass(frozen=True)
class Collected:
    """Rows of a log, what is to be said of where they come from, and why there are none."""

    rows: pd.DataFrame
    facts: dict[str, object]
    notes: tuple[str, ...] = ()  # what did not fit
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
    """The newest `days` of a server's log, or the log of a replay on the table that the bundle was prepared from; `labels` are those of `traffic.replay`."""
    of = served.schema
    if source == "log":
        return logged(url, root, of, days, until, by)
    if source != "replay":
        raise SourceError(f"source: {source!r} is not known; there are: replay, log")
    table = tables.read(of.origin["source"], root, **{k: of.origin[k] for k in tables.ROLES})
    return Collected(replayed(table, served, days, **labels), {"source": "replay"})


def logged(url: str, root: Path, of: Schema, days: float, until: str, by: str = "") -> Collected:
    """What a log holds of the `days` before `until` (if empty, up to its newest answer), with the labels that had come by then; `by` takes the answers of one model."""
    facts, batches = {"source": "log"}, []
    remedy = "start the server with `modelkeep serve` and send it rows, or set source: replay"
    try:
        book = open_log(url, root=root, make=False)
    except LogMissing as error:
        rows, _ = traffic.logged([], of)
        return Collected(rows, facts, (), f"{error}.", remedy)
    with closing(book):
        facts["log"] = book.shown
        last = _moment(until) if until else 1 + (book.newest() or 0)
        first = last - round(days * DAY)
        known = {"known": last} if until else {}
        batches = list(book.read(first, last, **known))
    rows, notes = traffic.logged(batches, of)
    rows = rows[rows[traffic.ANSWERED_BY] == by].reset_index(drop=True) if by else rows
    if until or batches:
        facts["answered (UTC)"] = f"{_written(first)} to {_written(last)}"
    facts["answered by"] = report.several(sorted(rows[traffic.ANSWERED_BY].unique())) or "nobody"
    empty = f"{book.shown} has no answers from {_written(first)} to {_written(last)}."
    empty = empty if until or notes else f"{book.shown} has no answers yet."
    return Collected(rows, facts, tuple(notes), empty, remedy)


def _moment(until: str) -> int:
    times, _ = as_times(pd.Series([until]))
    if times.isna().any():
        raise SourceError(f"until: {until!r} is not a date (ISO 8601); write it as 2013-07-01")
    return int(times.astype("int64").iloc[0])


def _written(at: int) -> str:
    return f"{pd.Timestamp(at, unit='us'):%Y-%m-%d %H:%M:%S}"


def replayed(table: pd.DataFrame, served: Bundle, days: float, **labels: float) -> pd.DataFrame:
    """The log of `days` after the bundle's as_of, answered week by week as in service; `labels` are those of `traffic.replay`."""
    of = served.schema
    first, last = stretch(served, days, len(table))
    rows = tables.window(table, of, first, last).rows
    week = tables.weeks(rows, of)[1]
    said = [served.answer(rows[week == k]) for k in np.unique(week)]
    answers = np.concatenate(said) if said else served.answer(rows)
    now = None if of.time is None else np.datetime64(last)
    return traffic.replay(rows, of, answers, model=served.name, as_of=now, **labels)


def stretch(served: Bundle, days: float, rows: int) -> tuple[object, object]:
    """From when to when rows are replayed (positions in a table without time): nothing, if everything was known at as_of."""
    of, as_of = served.schema, str(served.schema.origin["as_of"])
    if of.time is None:
        return int(as_of or rows), rows
    first = as_times(pd.Series([as_of]))[0].iloc[0] if as_of else pd.Timestamp.max.floor("D")
    return first, first + pd.Timedelta(days=days if as_of else 0)


def verdict(found: Collected, of: Schema) -> Verdict:
    """What came back from serving."""
    log = found.rows
    if log.empty:
        earlier = "a moment before the newest rows" if of.time else "fewer rows than the table has"
        remedy = found.remedy or f"set as_of in params/prepare.yaml to {earlier}"
        why = found.empty or "there are no rows after as_of to answer."
        reasons, sentence = (remedy, *found.notes), f"Nothing was collected: {why}"
        return Verdict("collect", "look", sentence, reasons, {"rows": 0, "labelled": 0})
    labelled = int(log[of.label].notna().sum())
    when = (
        f" from {log[of.time].min():%Y-%m-%d} to {log[of.time].max():%Y-%m-%d}" if of.time else ""
    )
    sentence = f"{count(len(log), 'answer')}{when}; what came true is known for {labelled:,} of them ({labelled / len(log):.1%})."
    wait, reasons = traffic.delays(log, of), found.notes
    if len(wait):
        reasons += (
            f"half of the labels came within {number(np.quantile(wait, 0.5))} days, nine of ten within {number(np.quantile(wait, 0.9))}",
        )
    return Verdict("collect", "done", sentence, reasons, {"rows": len(log), "labelled": labelled})


def arrived(log: pd.DataFrame, of: Schema) -> Figure | Html:
    """Answers by week, with and without a label."""
    if log.empty:
        return report.table([], "There is nothing to draw.")
    week, index = tables.weeks(log, of)
    known = log[of.label].notna().to_numpy()
    parts = {
        "label known": np.bincount(index[known], minlength=len(week)),
        "not known": np.bincount(index[~known], minlength=len(week)),
    }
    return figures.timeline(
        week,
        {"not known": parts["not known"], "label known": parts["label known"]},
        title="For how many answers do we know what came true?",
        caption=f"{len(log):,} answers, {known.sum():,} with a label ({known.mean():.0%}); only the rest cannot be judged.",
    )


def waiting(log: pd.DataFrame, of: Schema) -> Figure | Html:
    """How many of the labels had come after so many days."""
    wait = traffic.delays(log, of)
    if not len(wait):
        return report.table([], "No label has a time of arrival.")
    return figures.waiting(
        wait,
        title="How long does the truth take?",
        caption=f"{len(wait):,} labels that have come, nine of ten within {number(np.quantile(wait, 0.9))} days: a decline cannot be proven sooner.",
    )


def said(log: pd.DataFrame, of: Schema) -> Figure | Html:
    """The mean answer by week."""
    if log.empty:
        return report.table([], "There is nothing to draw.")
    week, index = tables.weeks(log, of)
    value = traffic.answers(log, of)
    value = value if value.ndim == 1 else value[:, -1]
    n = np.bincount(index, minlength=len(week))
    mean = np.bincount(index, weights=value, minlength=len(week)) / np.where(n > 0, n, np.nan)
    name = "mean prediction" if not of.classes else f"mean p({of.label} = {of.classes[-1]})"
    return figures.course(
        week,
        mean,
        name=name,
        title="Does the model say the same as it did?",
        caption=f"{len(log):,} answers; from {number(np.nanmin(mean))} to {number(np.nanmax(mean))}. The monitor's page says if that is more than chance.",
        share=bool(of.classes),
    )


def example(log: pd.DataFrame, of: Schema) -> Html:
    """One line of the log, column by column."""
    if log.empty:
        return report.table([], "There is no line yet.")
    first = log.iloc[0]
    return report.table([{"column": name, "holds": number(first[name])} for name in log.columns])
