"""The page of `prepare`: where the rows went and what a row may hold."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from modelkeep.core import markup
from modelkeep.core.markup import Html, count, number
from modelkeep.core.verdicts import Verdict
from modelkeep.data import splits
from modelkeep.data.schema import Schema
from modelkeep.data.splits import Prepared
from modelkeep.reports import figures
from modelkeep.reports.figures import Figure

MINIMUM_BLOCKS = 30  # what `gate` needs; preparing does not depend on the gate itself
QUARANTINE_SHARE = 0.02  # above this share of the known rows somebody must look


def verdict(prepared: Prepared, hints: Sequence[str] = ()) -> Verdict:
    """Whether the table is fit to learn from; `hints` are what `data.inspect` doubts about it."""
    c = prepared.counts
    aside, known = c["quarantined"], c["rows_in"]
    parts = [
        f"{c['train']:,} are for training",
        f"{c['test']:,} for testing",
        f"{c['unlabelled']:,} have no label (yet)",
        f"{aside:,} are quarantined",
    ]
    if c["older"]:
        parts.append(f"{c['older']:,} are older than history_days")
    sentence = f"Of {count(known, 'known row')}, {markup.several(parts, 5)}."
    reasons = [_cut(prepared.schema)]
    if c["later"]:
        reasons.append(f"{count(c['later'], 'row')} later than as_of: not used")
    reasons += [f"quarantined: {n:,} for {why}" for why, n in list(c["reasons"].items())[:5]]
    reasons += hints
    state = "investigate" if hints or aside > QUARANTINE_SHARE * known else "ok"
    return Verdict("prepare", state, sentence, tuple(reasons), c)


def _cut(schema: Schema) -> str:
    """How training and test rows were separated."""
    origin = schema.origin
    if schema.time:
        return f"the test rows are the newest {count(int(origin['test_days']), 'day')} with labels"
    share = f"{float(origin['test_share']):.0%}"
    if origin.get("shuffle"):
        each = "of each class" if schema.classes else "of the rows"
        return f"no time column: the test rows are {share} {each}, drawn with seed {origin['seed']}"
    return f"no time column: the test rows are the last {share} of the file (shuffle is false)"


def timeline(prepared: Prepared) -> Figure:
    """Rows a week in training and test."""
    week, index = splits.weeks(_both(prepared), prepared.schema)
    first = len(prepared.train)
    return figures.timeline(
        week,
        {
            "training": np.bincount(index[:first], minlength=len(week)),
            "test": np.bincount(index[first:], minlength=len(week)),
        },
        title="How many rows are there to learn from and to test on?",
        caption=f"{first:,} training and {len(prepared.test):,} test rows, "
        f"{_stretch(prepared.schema)}; {_enough(prepared)}.",
    )


def _both(prepared: Prepared) -> pd.DataFrame:
    return pd.concat([prepared.train, prepared.test], ignore_index=True)


def _enough(prepared: Prepared) -> str:
    days = len(np.unique(splits.blocks(prepared.test, prepared.schema)))
    unit = count(days, "day" if prepared.schema.time else "row")
    enough = "are enough" if days >= MINIMUM_BLOCKS else "are too few"
    return f"{unit} to test on {enough} for the gate to decide (it needs {MINIMUM_BLOCKS})"


def _stretch(schema: Schema) -> str:
    return "by week" if schema.time else "in twenty parts, in the order of learning"


def label_course(prepared: Prepared) -> Figure:
    """The label's rate (or mean) by week over training and test."""
    of, rows = prepared.schema, _both(prepared)
    week, index = splits.weeks(rows, of)
    if of.task == "regression":
        value, name = rows[of.label].to_numpy(dtype="float64"), f"mean of {of.label}"
    else:
        value = (rows[of.label] == of.classes[-1]).to_numpy(dtype="float64")
        name = f"share of {of.label} = {of.classes[-1]}"
    n = np.bincount(index, minlength=len(week))
    mean = np.bincount(index, weights=value, minlength=len(week)) / np.where(n > 0, n, np.nan)
    low, high = number(np.nanmin(mean)), number(np.nanmax(mean))
    return figures.course(
        week,
        mean,
        name=name,
        title=f"Does {of.label} stay as {'common' if of.classes else 'large'} as it was?",
        caption=f"{len(rows):,} labelled rows, {_stretch(of)}: from {low} to {high}, and "
        f"{number(value.mean())} over all. "
        "Expect a model's quality to move where this does.",
        share=bool(of.classes),
    )


def columns(prepared: Prepared) -> Html:
    """The schema as a table: what each feature may hold."""
    rows = []
    for c in prepared.schema.columns:
        seen = prepared.train[c.name]
        if c.kind == "number":
            holds = f"{number(seen.min())} to {number(seen.max())}{', whole' if c.integer else ''}"
        else:
            names = markup.several(c.categories, 6) or "all are rare"
            holds = f"{count(len(c.categories), 'name')}: {names}"
        missing = "quarantine" if c.missing == "reject" else "allowed"
        rows.append({"column": c.name, "kind": c.kind, "holds": holds, "missing": missing})
    return markup.table(rows)


def ignored(prepared: Prepared) -> Html:
    """Columns that are not features, and why."""
    rows = [{"column": name, "why": why} for name, why in prepared.schema.ignored.items()]
    return markup.table(rows, "No column was left out.")


def missing(prepared: Prepared) -> Figure | Html:
    """The share of missing values by column, where there are any."""
    shares = {c.name: float(prepared.train[c.name].isna().mean()) for c in prepared.schema.columns}
    most = sorted((item for item in shares.items() if item[1] > 0), key=lambda item: -item[1])[:15]
    if not most:
        return markup.table([], "No value of any column is missing.")
    rest = len(shares) - len(most)
    return figures.bars(
        dict(most),
        name="share of training rows without a value",
        title="Which columns have missing values?",
        caption=f"{len(prepared.train):,} training rows; {count(rest, 'other column')} with fewer "
        "or none. "
        f"A later share far from these is news, {most[0][1]:.1%} of {most[0][0]} is not.",
        share=True,
    )


def quarantine(prepared: Prepared) -> Html:
    """How many rows were quarantined for which reason."""
    rows = [{"reason": why, "rows": n} for why, n in prepared.counts["reasons"].items()]
    return markup.table(rows, "No row was quarantined.")
