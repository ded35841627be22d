"""Which of two experiments is better: the gate's paired test on the rows that both predicted.

The rows are those of cross-validation, each predicted by a model that had not learned from it. The
test rows stay out of this, so that choosing among experiments does not use them up.
"""

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from modelkeep.core import markup
from modelkeep.core.markup import Html, count, number
from modelkeep.data import splits
from modelkeep.evaluation import comparison, metrics
from modelkeep.evaluation.comparison import Gain, Verdict
from modelkeep.predictions import frames
from modelkeep.reports import figures
from modelkeep.reports.experiments import Run
from modelkeep.reports.figures import Figure
from modelkeep.training import costs as costing
from modelkeep.training import pipelines

SAYS = {
    "better": "is better than",
    "non_inferior": "is as good as",
    "worse": "is not better than",
    "inconclusive": "cannot be distinguished from",
    "insufficient": "cannot be compared yet with",
}
MARGIN_COST = 0.005  # as `margin_cost` of params/evaluate.yaml is shipped
LEVELS = {"better": 0, "non_inferior": 1, "inconclusive": 2, "insufficient": 3, "worse": 4}


@dataclass(frozen=True)
class Result:
    """The paired test of an experiment against the first; `why` says why there is none."""

    name: str
    first: str
    verdict: Verdict | None = None
    why: str = ""

    @property
    def sentence(self) -> str:
        """The conclusion: "deeper is not better than HEAD: log loss +.0053, .0021 to .0087"."""
        if self.verdict is None:
            return f"{self.name} cannot be compared with {self.first}: {self.why}."
        word, (first, *_) = self.verdict.word, self.verdict.gains
        unit = "rows" if first.blocks == first.rows else f"rows of {count(first.blocks, 'day')}"
        numbers = "; ".join(_difference(gain) for gain in self.verdict.gains)
        shared = f"on {first.rows:,} {unit} that both predicted"
        return f"{self.name} {SAYS[word]} {self.first}: {numbers}, {shared}."


def compare(first: Run, other: Run) -> Result:
    """The paired test of two experiments."""
    for run in (first, other):
        if run.predictions is None:
            return Result(other.name, first.name, why=run.lost)
    schema = first.schema
    unlike = [
        n
        for n in ("task", "label", "classes", "id")
        if getattr(schema, n) != getattr(other.schema, n)
    ]
    if unlike:
        return Result(other.name, first.name, why=f"their {markup.several(unlike)} differ")
    rows, theirs, ours = _shared(first, other)
    if rows.empty:
        return Result(other.name, first.name, why="no row was predicted by both")
    y = pipelines.outcome(rows, schema)
    gains = comparison.gains(schema.task, y, ours, theirs)
    margins = comparison.margins(schema.task, y, theirs)
    if spent := _costs(first, other, rows, y, (theirs, ours)):
        gains["cost"] = spent[0] - spent[1]
        margins["cost"] = MARGIN_COST * float(np.mean(spent[0]))
    verdict = comparison.judge(gains, splits.blocks(rows, schema), margins)
    return Result(other.name, first.name, verdict)


def _costs(
    first: Run, other: Run, rows: pd.DataFrame, y: np.ndarray, predictions: Sequence[np.ndarray]
) -> list[np.ndarray]:
    """What each row costs (rows,) by each experiment's own rule; [] unless both state the same."""
    kept = [costing.of(run.manifest) for run in (first, other)]
    if None in kept:
        return []
    (one, _), (two, _) = kept
    if one.column != two.column or not np.array_equal(one.matrix, two.matrix):
        return []
    weights = costing.row_weights(rows, one.column)
    return [
        costing.per_row(stated, rule, y, p, weights)
        for (stated, rule), p in zip(kept, predictions, strict=True)
    ]


def _shared(first: Run, other: Run) -> tuple[pd.DataFrame, np.ndarray, np.ndarray]:
    """The rows with a label that both predicted, and the predictions of each."""
    key = first.schema.id
    both = [
        run.predictions.drop_duplicates(key).set_index(key, drop=False) for run in (first, other)
    ]
    shared = both[0].index.intersection(both[1].index, sort=False)
    rows, others = both[0].loc[shared], both[1].loc[shared]
    label = first.schema.label
    same = (rows[label].notna() & (rows[label] == others[label])).to_numpy()
    rows, others = rows[same], others[same]
    return rows, frames.predictions(rows, first.schema), frames.predictions(others, other.schema)


def _difference(gain: Gain) -> str:
    """A metric's difference as the reader counts it (a loss that grows is positive)."""
    sign = 1 if gain.metric in metrics.HIGHER_IS_BETTER else -1
    value, *ends = (sign * each + 0.0 for each in (gain.gain, gain.low, gain.high))  # no minus zero
    ends.sort()
    text = f"{metrics.NAMES[gain.metric]} {value:+.2g}"
    text += f", {ends[0]:.2g} to {ends[1]:.2g}" if np.isfinite(ends).all() else ""
    return text.replace("-", "−")  # a minus, not a hyphen that a page breaks lines at


def conclusion(results: Sequence[Result]) -> Html:
    """The box on top of the page: the best experiment, or that none is better than the first."""
    words = [(r.verdict.word if r.verdict else "insufficient") for r in results]
    place = min(range(len(words)), key=lambda i: LEVELS[words[i]])
    others = [r.sentence for i, r in enumerate(results) if i != place]
    return markup.verdict(words[place], results[place].sentence, others)


def overlays(runs: Sequence[Run]) -> list[Figure]:
    """The curves that differ, one line an experiment on one scale."""
    return [*_out_of_fold(runs), *_realised(runs), *_calibration(runs)]


def _out_of_fold(runs: Sequence[Run]) -> list[Figure]:
    """The first metric of the out-of-fold rows by week."""
    known = [run for run in runs if run.predictions is not None]
    if len(known) < 2 or known[0].schema.time is None:
        return []
    name = metrics.METRICS[known[0].schema.task][0]
    lines = {run.name: _weekly(run, name) for run in known}
    return _drawn(
        lines,
        name=metrics.NAMES[name],
        title=f"How good was each on rows that it had not learned from, by {metrics.NAMES[name]}?",
        caption="Rows of cross-validation by week",
    )


def _weekly(run: Run, name: str) -> pd.Series:
    rows, schema = run.predictions, run.schema
    y = pipelines.outcome(rows, schema)
    values = metrics.per_row(schema.task, y, frames.predictions(rows, schema))[name]
    weeks, place = splits.weeks(rows, schema)
    n = np.bincount(place, minlength=len(weeks))
    total = np.bincount(place, weights=values, minlength=len(weeks))
    return pd.Series(total / np.where(n > 0, n, np.nan), index=pd.to_datetime(weeks))


def _realised(runs: Sequence[Run]) -> list[Figure]:
    """The first metric of the collected rows by window, as the monitor saw it."""
    tables = {run.name: _csv(run.plots["quality"]) for run in runs if run.plots["quality"]}
    if len(tables) < 2:
        return []
    column = next(iter(next(iter(tables.values())).columns[1:]), "")
    lines = {}
    for name, table in tables.items():
        dated = table["window"].str.match(r"\d{4}-").all()
        if column in table and dated:
            lines[name] = pd.Series(table[column].to_numpy(float), pd.to_datetime(table["window"]))
    text = column.removesuffix("_realised").replace("_", " ").replace("auc", "AUC")
    title = f"How good was each in the collected windows, by {text}?"
    return _drawn(lines, name=text, title=title, caption="Realised quality by window")


def _drawn(lines: Mapping[str, pd.Series], *, name: str, title: str, caption: str) -> list[Figure]:
    """Nothing where fewer than two lines differ."""
    first = next(iter(lines.values()), None)
    if len(lines) < 2 or all(line.equals(first) for line in lines.values()):
        return []
    means = "; ".join(f"{key} {number(float(line.mean()))}" for key, line in lines.items())
    caption = f"{caption}; mean of the points: {means}."
    return [figures.overlay(lines, name=name, title=title, caption=caption)]


def _calibration(runs: Sequence[Run]) -> list[Figure]:
    tables = {run.name: _csv(run.plots["calibration"]) for run in runs if run.plots["calibration"]}
    tables = {name: table for name, table in tables.items() if len(table)}
    first = next(iter(tables.values()), None)
    if len(tables) < 2 or all(table.equals(first) for table in tables.values()):
        return []
    gaps = {name: (t["observed"] - t["predicted"]).abs().max() for name, t in tables.items()}
    largest = "; ".join(f"{name} {gap:.1%}" for name, gap in gaps.items())
    return [
        figures.calibrations(
            {name: table[["predicted", "observed"]].to_numpy() for name, table in tables.items()},
            title="Can the probabilities of each be taken at their word?",
            caption=f"Test rows in groups of equal size; largest gap from the line: {largest}.",
        )
    ]


def _csv(text: str) -> pd.DataFrame:
    head, *lines = csv.reader(text.splitlines())
    table = pd.DataFrame(lines, columns=head)
    numbers = [name for name in head if name != "window"]
    table[numbers] = table[numbers].replace("", np.nan).astype(float)
    return table
