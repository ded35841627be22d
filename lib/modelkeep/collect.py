"""What the page of `collect` says: which answers came back, and how late the truth about them was."""

import numpy as np
import pandas as pd

from modelkeep import figures, report, tables, traffic
from modelkeep.bundle import Bundle
from modelkeep.columns import as_times
from modelkeep.figures import Figure
from modelkeep.report import Html, count, number
from modelkeep.schema import Schema
from modelkeep.verdicts import Verdict


class SourceError(ValueError):
    """A log that cannot be had."""


def log(
    source: str, table: pd.DataFrame, served: Bundle, days: float, **labels: float
) -> pd.DataFrame:
    """The log of `days` after the bundle's as_of, answered week by week as in service; `labels` are those of `traffic.replay`."""
    if source != "replay":
        raise SourceError(f"source: {source!r} is not known; there is: replay")
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


def verdict(log: pd.DataFrame, of: Schema) -> Verdict:
    """What came back from serving."""
    if log.empty:
        sentence = "Nothing was collected: there are no rows after as_of to answer."
        earlier = "a moment before the newest rows" if of.time else "fewer rows than the table has"
        remedy = f"set as_of in params/prepare.yaml to {earlier}"
        return Verdict("collect", "look", sentence, (remedy,), {"rows": 0, "labelled": 0})
    labelled = int(log[of.label].notna().sum())
    when = (
        f" from {log[of.time].min():%Y-%m-%d} to {log[of.time].max():%Y-%m-%d}" if of.time else ""
    )
    sentence = f"{count(len(log), 'answer')}{when}; what came true is known for {labelled:,} of them ({labelled / len(log):.1%})."
    wait, reasons = traffic.delays(log, of), ()
    if len(wait):
        reasons = (
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
