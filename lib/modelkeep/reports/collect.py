"""What the page of `collect` says: which answers came back, and how late the truth about them was."""

import numpy as np
import pandas as pd

from modelkeep.core import markup
from modelkeep.core.markup import Html, count, number
from modelkeep.core.verdicts import Verdict
from modelkeep.data import splits
from modelkeep.data.schema import Schema
from modelkeep.monitoring.sources import Collected
from modelkeep.predictions import frames
from modelkeep.reports import figures
from modelkeep.reports.figures import Figure


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
    wait, reasons = frames.delays(log, of), found.notes
    if len(wait):
        reasons += (
            f"half of the labels came within {number(np.quantile(wait, 0.5))} days, nine of ten within {number(np.quantile(wait, 0.9))}",
        )
    return Verdict("collect", "done", sentence, reasons, {"rows": len(log), "labelled": labelled})


def arrived(log: pd.DataFrame, of: Schema) -> Figure | Html:
    """Answers by week, with and without a label."""
    if log.empty:
        return markup.table([], "There is nothing to draw.")
    week, index = splits.weeks(log, of)
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
    wait = frames.delays(log, of)
    if not len(wait):
        return markup.table([], "No label has a time of arrival.")
    return figures.waiting(
        wait,
        title="How long does the truth take?",
        caption=f"{len(wait):,} labels that have come, nine of ten within {number(np.quantile(wait, 0.9))} days: a decline cannot be proven sooner.",
    )


def said(log: pd.DataFrame, of: Schema) -> Figure | Html:
    """The mean answer by week."""
    if log.empty:
        return markup.table([], "There is nothing to draw.")
    week, index = splits.weeks(log, of)
    value = frames.answers(log, of)
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
        return markup.table([], "There is no line yet.")
    first = log.iloc[0]
    return markup.table([{"column": name, "holds": number(first[name])} for name in log.columns])
