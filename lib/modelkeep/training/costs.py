"""What an error costs: the operating threshold that costs least, and the cost of each row.

Costs are stated by label and predicted class. A threshold is chosen on predictions of rows that
the model had not learned from (as scikit-learn's TunedThresholdClassifierCV does, on all cuts).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from modelkeep.core.errors import ModelkeepError
from modelkeep.data import splits
from modelkeep.data.schema import Schema
from modelkeep.evaluation import metrics, recalibration
from modelkeep.evaluation.recalibration import Update
from modelkeep.predictions import frames
from modelkeep.training import pipelines
from modelkeep.training.engines import decision

LEAST_ROWS = 50  # of each class, for a threshold to be chosen by labels


class CostsError(ModelkeepError, ValueError):
    """Costs that do not fit the label, or that no decision can be derived from."""


@dataclass(frozen=True)
class Costs:
    """The cost of each label (line) and predicted class (column); `column` weights each row,
    `retrain` is the cost of a retrain.
    """

    matrix: np.ndarray
    column: str = ""
    retrain: float = 0.0


@dataclass(frozen=True)
class Operating:
    """How classes follow from probabilities; `threshold` is of the second class of two.

    Several classes have no threshold, and may have an `update` that calibrates them first.
    """

    threshold: float | None
    basis: str
    update: Update | None = None

    @property
    def name(self) -> str:
        """The rule in words."""
        return "least cost" if self.threshold is None else f"threshold {self.threshold:.3g}"


def read(stated: Mapping, classes: tuple[str, ...]) -> Costs | None:
    """The costs of `{errors: {LABEL: {PREDICTED: COST}}, column: NAME, retrain: COST}`.

    None where nothing is stated. A pair that is not stated costs 0.
    """
    if not stated:
        return None
    if unknown := sorted(set(stated) - {"errors", "column", "retrain"}):
        raise CostsError(f"costs: {unknown[0]!r} is unknown; use errors, column and retrain")
    if not classes:
        raise CostsError("costs: the label is a number, and errors are of classes; leave costs {}")
    matrix = np.zeros((len(classes), len(classes)))
    for label, line in dict(stated.get("errors") or {}).items():
        for predicted, cost in dict(line).items():
            matrix[_place(label, classes), _place(predicted, classes)] = _cost(cost)
    right = np.diag(matrix)
    if not (matrix >= right[:, None]).all() or not (matrix > right[:, None]).any(axis=1).all():
        raise CostsError(
            "costs: an error of each label must cost more than the right class does; state "
            f"errors: {{LABEL: {{PREDICTED: COST}}}} for {', '.join(classes)}"
        )
    return Costs(matrix, str(stated.get("column") or ""), _cost(stated.get("retrain") or 0))


def choose(
    costs: Costs, y: np.ndarray, p: np.ndarray, blocks: np.ndarray, weights: np.ndarray | None
) -> Operating:
    """The rule of least cost on out-of-fold predictions `p` (rows, classes).

    Two classes: the cheapest threshold, kept only where it saves more than its standard error (by
    block) against the one that follows from costs alone, (C01 - C00) / (C01 - C00 + C10 - C11)
    (Elkan 2001). Several classes: the class of least expected cost, by probabilities as predicted
    or with a new level and slope, kept by the same rule.
    """
    few = np.bincount(y, minlength=p.shape[1]).min()
    if p.shape[1] > 2:
        return _several(costs, y, p, blocks, weights, few >= LEAST_ROWS)
    m, cut = costs.matrix, alone(costs).threshold
    if few < LEAST_ROWS:
        return Operating(cut, f"costs alone: {few} rows of a class, {LEAST_ROWS} are needed")
    usual = Operating(cut, "costs alone: no other threshold was clearly cheaper")
    cut = _cheapest(m, y, p[:, 1], np.ones(len(y)) if weights is None else weights)
    other = Operating(cut, f"the cheapest of {len(y):,} out-of-fold predictions")
    return _cheaper(costs, usual, other, y, p, blocks, weights)


def decide(costs: Costs, rule: Operating, p: np.ndarray) -> np.ndarray:
    """The predicted class number of each row."""
    return decision.decide(_plain(costs, rule), p)


def learn(stated: Mapping, schema: Schema, log: pd.DataFrame) -> dict:
    """The rule of least cost on out-of-fold predictions (`log`), as the manifest keeps it.

    Returns {"operating": {...}}, or {} where params/train.yaml states no costs.
    """
    costs = read(stated, schema.classes)
    if costs is None:
        return {}
    known = pipelines.outcome(log, schema), frames.predictions(log, schema)
    weights = row_weights(log, costs.column)
    rule = choose(costs, *known, splits.blocks(log, schema), weights)
    expected = float(per_row(costs, rule, *known, weights).mean())
    about = {"column": costs.column, "basis": rule.basis, "expected": expected}
    return {"operating": _plain(costs, rule) | about}


def of(manifest: Mapping) -> tuple[Costs, Operating] | None:
    """The costs and the rule that a bundle's manifest keeps; None where it has none."""
    if not (kept := manifest.get("operating")):
        return None
    update = kept["calibration"]
    if update:
        kind = "level and slope"
        update = Update(kind, "multiclass", tuple(update["level"]), update["slope"])
    rule = Operating(kept["threshold"], kept["basis"], update or None)
    return Costs(np.array(kept["costs"]), kept["column"]), rule


def beside(manifest: Mapping, champion: Mapping, schema: Schema) -> Callable | None:
    """What gives the cost of each row by champion and candidate, from rows and their predictions
    (`maintenance.Spent`), in the candidate's costs; None where it states none.

    A champion that has no rule for these costs decides by the costs alone.
    """
    if (kept := of(manifest)) is None:
        return None
    stated, rule = kept
    other = of(champion)
    same = other is not None and np.array_equal(other[0].matrix, stated.matrix)
    return spending(stated, other[1] if same else alone(stated), rule, schema)


def spending(stated: Costs, theirs: Operating, ours: Operating, schema: Schema) -> Callable:
    """As `beside`, of two rules."""

    def spent(
        rows: pd.DataFrame, champion: np.ndarray, candidate: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        y, weights = pipelines.outcome(rows, schema), row_weights(rows, stated.column)
        before = per_row(stated, theirs, y, champion, weights)
        return before, per_row(stated, ours, y, candidate, weights)

    return spent


def alone(costs: Costs) -> Operating:
    """The rule that follows from costs, where probabilities are right (Elkan 2001)."""
    m = costs.matrix
    if len(m) > 2:
        return Operating(None, "expected cost by the probabilities as predicted")
    cut = float((m[0, 1] - m[0, 0]) / (m[0, 1] - m[0, 0] + m[1, 0] - m[1, 1]))
    return Operating(cut, "costs alone")


def row_weights(rows: pd.DataFrame, column: str) -> np.ndarray | None:
    """What each row's cost is multiplied with (rows,); None without a column."""
    if not column:
        return None
    if column not in rows or not pd.api.types.is_numeric_dtype(rows[column]):
        raise CostsError(f"column: the rows have no number {column!r} that holds the cost of a row")
    values = rows[column].to_numpy(dtype="float64", na_value=np.nan)
    if not (np.isfinite(values) & (values >= 0)).all():
        raise CostsError(f"column: {column!r} has missing or negative costs; mend these rows first")
    return values


def _plain(costs: Costs, rule: Operating) -> dict:
    mapping = {}
    if rule.update is not None:
        mapping = {"method": "sigmoid", "level": [*rule.update.level], "slope": rule.update.slope}
    matrix = costs.matrix.tolist()
    return {"threshold": rule.threshold, "costs": matrix, "calibration": mapping}


def per_row(
    costs: Costs,
    rule: Operating | int,
    y: np.ndarray,
    p: np.ndarray,
    weights: np.ndarray | None = None,
) -> np.ndarray:
    """The cost of each row (rows,) by a rule, or with the same class number for all."""
    chosen = decide(costs, rule, p) if isinstance(rule, Operating) else np.full(len(y), rule)
    cost = costs.matrix[y, chosen]
    return cost if weights is None else cost * weights


def _several(
    costs: Costs,
    y: np.ndarray,
    p: np.ndarray,
    blocks: np.ndarray,
    weights: np.ndarray | None,
    enough: bool,
) -> Operating:
    usual = alone(costs)
    if not enough:
        return usual
    update = recalibration.fit("multiclass", "level and slope", y, p)
    other = Operating(None, "expected cost by recalibrated probabilities", update)
    return _cheaper(costs, usual, other, y, p, blocks, weights)


def _cheaper(
    costs: Costs,
    usual: Operating,
    other: Operating,
    y: np.ndarray,
    p: np.ndarray,
    blocks: np.ndarray,
    weights: np.ndarray | None,
) -> Operating:
    """The other rule where it saves more than its standard error."""
    saved = np.subtract(*(per_row(costs, rule, y, p, weights) for rule in (usual, other)))
    gain = metrics.clustered(saved, blocks)
    return other if gain.value > gain.se else usual


def _cheapest(m: np.ndarray, y: np.ndarray, score: np.ndarray, weights: np.ndarray) -> float:
    """The threshold with the least cost of these rows, half-way between two scores."""
    order = np.argsort(-score, kind="stable")
    ranked, added = score[order], (weights * (m[y, 1] - m[y, 0]))[order]
    total = np.concatenate([[0.0], np.cumsum(added)])
    ends = np.concatenate([[True], ranked[1:] < ranked[:-1], [True]])
    at = int(np.argmin(np.where(ends, total, np.inf)))
    edges = np.concatenate([[1.0], ranked, [0.0]])
    return float((edges[at] + edges[at + 1]) / 2)


def _place(name: object, classes: tuple[str, ...]) -> int:
    if str(name) not in classes:
        raise CostsError(f"costs: {name!r} is no class of the label: {', '.join(classes)}")
    return classes.index(str(name))


def _cost(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not np.isfinite(value):
        raise CostsError(f"costs: {value!r} is no number; state a finite cost")
    return float(value)
