"""What explains a drop of quality, and the remedy that follows: odds of the periods, columns, the
rule.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import pyarrow as pa

from modelkeep.core import markup
from modelkeep.data.schema import Schema
from modelkeep.evaluation import binning, drift, profile, segments, shift
from modelkeep.evaluation.recalibration import Choice
from modelkeep.evaluation.segments import Column, Segment
from modelkeep.evaluation.shift import Split, Term

FOLDS, MOST_ROWS = 3, 20_000  # of the classifier of the periods; rows of each that it learns from
CODES = 254  # the most categories that the classifier takes
MATERIAL = 0.2  # share of the drop from which a column is named as its cause
MAINLY = 0.5  # share of the drop from which rows unlike any before are its cause
UNSEEN, STUCK, USUAL = 0.5, 0.95, 0.5  # shares of rows that make a column broken
NEW_ROWS = 0.05  # share of rows unlike before from which labels are collected before any come
FREQUENT = 5.0  # how many times as frequent as before a bin of such rows is
REMEDIES = ("mend the source", "collect labels", "recalibrate", "retrain", "wait", "cannot say")


@dataclass(frozen=True)
class ColumnPart:
    """A drifted column: its effect, its part of the drop (None if it is unknown), findings.

    `broken` says what is wrong with its values, "" where they are merely others.
    """

    name: str
    effect: float
    contribution: Term | None
    findings: tuple[str, ...]
    broken: str


@dataclass(frozen=True)
class Remedy:
    """What helps: one of `REMEDIES`, where (a column or a condition, or ""), and why."""

    kind: str
    target: str
    reason: str


@dataclass(frozen=True)
class Side:
    """Rows of one period as the tests need them."""

    rows: pd.DataFrame
    table: pa.Table
    p: np.ndarray
    y: np.ndarray | None
    loss: np.ndarray
    blocks: np.ndarray
    places: dict[str, np.ndarray]


def odds(
    bins: Sequence[Column], before: Side, now: Side, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return how much more frequent each row's inputs are now, cross-fitted by block."""
    from sklearn.ensemble import HistGradientBoostingClassifier
    from threadpoolctl import threadpool_limits

    random = np.random.default_rng(seed)
    x, fold = [], []
    for side in (before, now):
        x.append(np.column_stack([_values(c, side) for c in bins]))
        distinct, block = np.unique(side.blocks, return_inverse=True)
        fold.append((random.permutation(len(distinct)) % FOLDS)[block])
    odds = [np.empty(len(each)) for each in x]
    for k in range(FOLDS):
        taken = [_at_most(np.flatnonzero(f != k), random) for f in fold]
        rows = np.concatenate([each[t] for each, t in zip(x, taken, strict=True)])
        period = np.repeat([0, 1], [len(t) for t in taken])
        ratio = len(taken[0]) / len(taken[1])  # weights instead would take twice the time
        model = HistGradientBoostingClassifier(
            max_iter=60,
            learning_rate=0.15,
            max_depth=4,
            min_samples_leaf=50,
            l2_regularization=1.0,
            early_stopping=False,
            random_state=seed,
        )
        with threadpool_limits(1):
            model.fit(rows, period)
            for each, f, out in zip(x, fold, odds, strict=True):
                if (f == k).any():
                    out[f == k] = ratio * np.exp(
                        np.clip(model.decision_function(each[f == k]), -9, 9)
                    )
    return odds[0], odds[1]


def _values(column: Column, side: Side) -> np.ndarray:
    """Return numbers as they are and categories as their bins."""
    if column.bins.kind != "number":
        return np.minimum(side.places[column.bins.name], CODES).astype(float)
    return binning.numbers(column.bins, side.table.column(column.bins.name).combine_chunks())


def _at_most(rows: np.ndarray, random: np.random.Generator) -> np.ndarray:
    return rows if len(rows) <= MOST_ROWS else np.sort(random.choice(rows, MOST_ROWS, False))


def columns(
    schema: Schema,
    bins: Sequence[Column],
    before: Side,
    now: Side,
    split: Split,
    permutations: int,
    seed: int,
) -> tuple[ColumnPart, ...]:
    """Return the drifted columns, the largest contribution first."""
    blocks = [_days(side, schema) for side in (before, now)]
    kept = tuple(c.bins for c in bins)
    profiles = [profile.count(kept, s.table, b) for s, b in zip((before, now), blocks, strict=True)]
    result = drift.compare(*profiles, permutations=permutations, seed=seed)
    found = []
    for column, c in zip(bins, result.columns, strict=True):
        if not c.alarm:
            continue
        name = column.bins.name
        counts = np.bincount(before.places[name], minlength=len(column.bins.labels)).astype(float)
        part = shift.contribution(name, now.loss, now.blocks, now.places[name], counts)
        within = profiles[0].counts[name] if schema.time else counts[None]
        broken = _broken(column, c, within, now.places[name])
        found.append(ColumnPart(name, c.effect, part, tuple(map(str, c.findings)), broken))
    return tuple(sorted(found, key=lambda c: -(c.contribution.value if c.contribution else np.inf)))


def _days(side: Side, schema: Schema) -> np.ndarray | None:
    return profile.starts(side.rows[schema.time].to_numpy()) if schema.time else None


def _broken(
    column: Column, result: drift.ColumnDrift, by_block: np.ndarray, places: np.ndarray
) -> str:
    """Return what is wrong with a column's values, "" where they are merely other ones.

    `by_block` (blocks, bins) counts the rows before. A column that had one value a block then, as
    the month of a day, is not stuck where it has one for weeks.
    """
    counts = by_block.sum(axis=0).astype(float)
    alone = by_block.max(axis=1).sum() / max(counts.sum(), 1)
    for finding in result.findings:
        if finding.name in ("missing share rose", "unit change"):
            return finding.sentence
    if result.unseen >= UNSEEN:
        return f"{result.unseen:.0%} of its values were never seen before"
    now = np.bincount(places, minlength=len(counts)) / len(places)
    top = int(np.argmax(now))
    varied = len(by_block) == 1 or alone < STUCK
    if now[top] >= STUCK and counts[top] / counts.sum() <= USUAL and varied:
        text = segments.describe(column, top, top)
        before = counts[top] / counts.sum()
        return f"stuck: {text} in {now[top]:.0%} of the rows, before in {before:.0%}"
    return ""


def remedy(
    bins: Sequence[Column],
    before: Side,
    now: Side,
    odds: tuple[np.ndarray, np.ndarray],
    split: Split,
    columns: Sequence[ColumnPart],
    found: Sequence[Segment],
    choice: Choice | None,
) -> Remedy:
    """Return the remedy that follows, by the first rule that holds."""
    drop = split.drop
    for c in columns:
        part = c.contribution
        causes = part is None or (part.positive and part.value >= MATERIAL * drop.value)
        if c.broken and drop.positive and causes:
            return Remedy("mend the source", c.name, c.broken)
    new = 1 - split.shared
    large = split.unlike.positive and split.unlike.value >= 0.5 * drop.value > 0
    if large or (choice is None and new >= NEW_ROWS):
        reason = f"{new:.0%} of the rows are unlike any before"
        if large:
            share = split.unlike.value / drop.value
            reason += f" and make {'the whole' if share > 1 else f'{share:.0%} of the'} drop"
        return Remedy("collect labels", _where(bins, before, now, odds[1]), reason)
    if choice is not None and choice.kind in ("level", "level and slope"):
        reason = f"a new {choice.kind} of the predictions is enough"
        if drop.value <= 0:
            reason = f"quality has not fallen; a new {choice.kind} of the predictions improves it"
        return Remedy("recalibrate", "", reason)
    if choice is not None and choice.kind == "refit":
        reason = f"the relation of inputs to labels has changed, most for {choice.strongest}"
        return Remedy("retrain", found[0].condition if found else "", reason)
    if found and choice is not None:
        return Remedy("retrain", found[0].condition, "a segment loses more than it did")
    if drop.positive:
        reason = "rows are harder, and alike rows are predicted as well as before"
        return Remedy("wait", "", reason if choice else "rows are estimated to be harder")
    return Remedy("wait", "", f"no significant drop: {drop}")


def _where(bins: Sequence[Column], before: Side, now: Side, odds: np.ndarray) -> str:
    """Return the bins of one column that hold most of the rows unlike any before."""
    unlike, best, text = odds >= shift.UNLIKE, 0.0, ""
    for column in bins:
        name, size = column.bins.name, len(column.bins.labels)
        old, new, strange = (
            np.bincount(codes, minlength=size) / max(len(codes), 1)
            for codes in (before.places[name], now.places[name], now.places[name][unlike])
        )
        often = (new > FREQUENT * old) & (strange > 0)
        score = float(strange[often].sum() - old[often].sum())
        if score > best:
            best, text = score, _described(column, np.flatnonzero(often))
    return text if best >= 0.5 else ""


def _described(column: Column, often: np.ndarray) -> str:
    if column.bins.kind != "number":
        return f"{column.bins.name} = {markup.several([column.bins.labels[i] for i in often])}"
    runs = np.split(often, np.flatnonzero(np.diff(often) > 1) + 1)
    return " or ".join(segments.describe(column, int(run[0]), int(run[-1])) for run in runs)
