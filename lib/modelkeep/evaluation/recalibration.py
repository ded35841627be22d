"""The smallest sufficient update of predictions: none, their level, level and slope, or a refit.

The closed test (Vergouwe, Nieboer, Oostenbrink et al. 2017) asks first whether anything must
change, then whether a new level is enough, then a new level and slope; what is left needs a refit.
Each step tests the residuals that an update leaves against directions of the columns (effective
scores of the logistic or linear model), by block, so that the relation of one column may have
changed in any way that these directions see.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import softmax, stdtr

from modelkeep.core.errors import ModelkeepError
from modelkeep.evaluation.segments import Column

KINDS = ("none", "level", "level and slope", "refit")
LEAST_ROWS = 50  # with another value of a direction than most, for it to be tested
LEAST_BLOCKS = 8
MOST_CATEGORIES = 10  # of a column that are directions: the most frequent
CLIPPED = 1e-6  # smaller probabilities have no useful logarithm
LEAST_SLOPE = 0.2  # below it the predictions order the rows hardly, or wrongly: refit
PRIOR = 0.05  # precision with which levels are drawn to 0: a class without rows stays finite
STEPS = 50
CONVERGED = 1e-9
TINY = 1e-300  # a probability whose logarithm is finite
TINY_INFORMATION = 1e-12  # of a direction that hardly varies
MATERIAL = 0.005  # of the loss, as the gate's margin: what a direction must be able to save


class RecalibrationError(ModelkeepError, ValueError):
    """Rows that no update can be chosen or fitted with."""


@dataclass(frozen=True)
class Outcomes:
    """Labelled rows: `y` class numbers or floats, `p` predictions, `directions` (rows, k)."""

    y: np.ndarray
    p: np.ndarray
    directions: np.ndarray
    blocks: np.ndarray


@dataclass(frozen=True)
class Update:
    """A new level (and slope) of predictions: a level for each class, or one for a number.

    Classes: softmax(level + slope * log(p)), for two the usual logit(q) = level + slope * logit(p);
    numbers: level + slope * p.
    """

    kind: str
    task: str
    level: tuple[float, ...]
    slope: float

    def __call__(self, p: np.ndarray) -> np.ndarray:
        """Return the updated predictions, in the shape of `p`."""
        if self.kind in ("none", "refit"):
            return p
        if self.task == "regression":
            return self.level[0] + self.slope * p
        return softmax(np.array(self.level) + self.slope * _log(p), axis=1)


@dataclass(frozen=True)
class Step:
    """One step: is this update enough? `p` is adjusted for all directions; `strongest` rejects."""

    kind: str
    p: float
    strongest: str


@dataclass(frozen=True)
class Choice:
    """The smallest update that is enough, the steps that led to it, and the update, fitted."""

    kind: str
    steps: tuple[Step, ...]
    update: Update

    @property
    def strongest(self) -> str:
        """Return the direction that speaks most against leaving the predictions as they are."""
        return self.steps[-1].strongest or self.steps[0].strongest


def choose(
    task: str,
    now: Outcomes,
    before: Outcomes | None = None,
    *,
    names: Sequence[str],
    alpha: float = 0.05,
) -> Choice:
    """Return the smallest update that is enough for the rows of `now`.

    A direction counts only where it could lower the loss by `MATERIAL` of it, as with many rows
    every small fault of a model is significant. With `before`, a residual counts only where it also
    differs from that of the rows before, so that a model that has never fitted some rows well is
    not called changed. `names` (k,) are of the directions. Where nothing has changed, "none" is
    chosen with probability 1 - `alpha` or more.
    RecalibrationError below 8 blocks, or with labels of one class alone.
    """
    _check(task, now)
    steps = []
    for kind in KINDS[:3]:
        p, strongest = _test(task, kind, now, before, names)
        steps.append(Step(kind, p, strongest))
        if p > alpha:
            break
    chosen = kind if p > alpha else "refit"
    update = fit(task, chosen, now.y, now.p)
    if update.slope < LEAST_SLOPE:
        update = fit(task, "refit", now.y, now.p)
    return Choice(update.kind, tuple(steps), update)


def fit(task: str, kind: str, y: np.ndarray, p: np.ndarray) -> Update:
    """Fit an update of this kind by maximum likelihood on labelled rows."""
    if kind in ("none", "refit"):
        return Update(kind, task, (0.0,) * (1 if p.ndim == 1 else p.shape[1]), 1.0)
    if task == "regression":
        return _line(kind, y, p)
    k = p.shape[1]
    beta, free = np.append(np.zeros(k), 1.0), k + (kind == "level and slope")

    def updated(beta: np.ndarray) -> Update:
        return Update(kind, task, tuple(beta[:k].tolist()), float(beta[k]))

    def likelihood(beta: np.ndarray) -> float:
        q = updated(beta)(p)[np.arange(len(y)), y]
        return float(np.log(np.maximum(q, TINY)).sum() - PRIOR * (beta[:k] ** 2).sum() / 2)

    best = likelihood(beta)
    for _ in range(STEPS):
        parts = _Scores(task, y, p, updated(beta)(p))
        gradient = parts.u.sum(axis=0)[:free] - PRIOR * (beta * (np.arange(k + 1) < k))[:free]
        hessian = parts.information[:free, :free] * len(y) + PRIOR * np.eye(free)
        step = np.append(np.linalg.solve(hessian, gradient), np.zeros(k + 1 - free))
        # a whole step may pass the maximum and come back for ever where predictions are far off
        while (value := likelihood(beta + step)) < best and np.max(np.abs(step)) > CONVERGED:
            step = step / 2
        beta, best = beta + step, max(value, best)
        if np.max(np.abs(step)) < CONVERGED:
            break
    return updated(beta)


def directions(
    columns: Sequence[Column], places: Sequence[dict[str, np.ndarray]]
) -> tuple[list[str], list[np.ndarray]]:
    """Return names (k,) and values (rows, k) of the directions, by the first period's counts.

    A number gives its rank and its squared rank, a category an indicator of each frequent value,
    and both one of missing values; rank 0 is the middle, so that a missing value has none.
    """
    names, parts = [], [[] for _ in places]
    for column in columns:
        codes = [each[column.bins.name] for each in places]
        counts = np.bincount(codes[0], minlength=len(column.bins.labels)).astype(float)
        for name, table in _tables(column, counts):
            names.append(name)
            for part, code in zip(parts, codes, strict=True):
                part.append(table[code])
    return names, [np.column_stack(part) if part else np.zeros((0, 0)) for part in parts]


def _tables(column: Column, counts: np.ndarray) -> list[tuple[str, np.ndarray]]:
    """Return each direction of a column as one value a bin."""
    name, labels = column.bins.name, column.bins.labels
    if column.bins.kind != "number":
        common = np.argsort(-counts, kind="stable")[:MOST_CATEGORIES]
        return [(f"{name} = {labels[i]}", np.eye(len(counts))[i]) for i in sorted(common)]
    known = counts[:-1]
    middle = (np.cumsum(known) - known / 2) / max(known.sum(), 1) - 0.5
    missing = np.eye(len(counts))[-1]
    tables = [(name, np.append(middle, 0.0)), (f"{name} squared", np.append(middle**2 - 1 / 12, 0))]
    return [*tables, (f"{name} missing", missing)]


def _check(task: str, now: Outcomes) -> None:
    blocks = len(np.unique(now.blocks))
    if blocks < LEAST_BLOCKS:
        raise RecalibrationError(
            f"{blocks} blocks of labelled rows: {LEAST_BLOCKS} are needed; take a longer period"
        )
    if task != "regression" and len(np.unique(now.y)) < 2:
        raise RecalibrationError(
            f"all {len(now.y)} labels are of one class, so no level can be fitted; check the labels"
        )


def _log(p: np.ndarray) -> np.ndarray:
    return np.log(np.clip(p, CLIPPED, 1))


class _Scores:
    """Residuals of predictions `q` and the scores `u` (rows, levels and slope) of the update.

    `information` is minus the mean derivative of `u` by the update's parameters, and `slopes(k)`
    (rows, parameters) that of the residuals of output k.
    """

    def __init__(self, task: str, y: np.ndarray, p: np.ndarray, q: np.ndarray) -> None:
        if task == "regression":
            self.residuals = (y - q)[:, None]
            self.design = np.column_stack([np.ones(len(p)), p])
            self.u = self.residuals * self.design
            self.information = self.design.T @ self.design / len(p)
            return
        k, logs = p.shape[1], _log(p)
        self.design, self.q = None, q
        self.centred = logs - (q * logs).sum(axis=1, keepdims=True)
        errors = np.eye(k)[y] - q
        self.residuals = errors[:, 1:] if task == "binary" else errors
        self.first = k - self.residuals.shape[1]
        self.u = np.column_stack([errors, (errors * logs).sum(axis=1)])
        self.information = np.empty((k + 1, k + 1))
        for i in range(k):
            self.information[i] = self.slopes(i - self.first).mean(axis=0)
        self.information[k, :k] = self.information[:k, k]
        self.information[k, k] = (q * self.centred**2).sum(axis=1).mean()

    def variances(self, k: int) -> np.ndarray:
        """Return minus the derivative (rows,) of the residual of output k by that output."""
        if self.design is not None:
            return np.ones(len(self.design))
        return self.q[:, k + self.first] * (1 - self.q[:, k + self.first])

    def slopes(self, k: int) -> np.ndarray:
        if self.design is not None:
            return self.design
        i = k + self.first
        levels = self.q[:, [i]] * (np.arange(self.q.shape[1]) == i) - self.q[:, [i]] * self.q
        return np.column_stack([levels, self.q[:, i] * self.centred[:, i]])


def _test(
    task: str, kind: str, now: Outcomes, before: Outcomes | None, names: Sequence[str]
) -> tuple[float, str]:
    """Return the p-value of "this update is enough", and the direction that rejects most."""
    sides = [_scores(task, kind, side) for side in ([now] if before is None else [now, before])]
    means, variances, blocks, gains = zip(*sides, strict=True)
    gap = means[0] - means[1] if before is not None else means[0]
    p = _p_value(gap, sum(variances), min(blocks))
    if before is not None:  # predictions of before may be those of other models, as of folds
        p = np.maximum(p, _p_value(means[0], variances[0], blocks[0]))
    outputs = 1 if now.p.ndim == 1 or task == "binary" else now.p.shape[1]
    own = [*["level"] * (outputs if kind == "none" else 0)]
    own += ["slope"] * (kind != "level and slope")
    tested = np.concatenate([np.ones(len(own), bool), np.tile(_tested(now), outputs)])
    p = np.where(tested & (gains[0] >= MATERIAL), p, 1.0)
    if len(p) == 0:
        return 1.0, ""
    at = int(np.argmin(p))
    return float(min(p[at] * max(tested.sum(), 1), 1)), [*own, *[*names] * outputs][at]


def _p_value(mean: np.ndarray, variance: np.ndarray, blocks: int) -> np.ndarray:
    error = np.sqrt(variance)
    t = np.abs(np.divide(mean, error, out=np.zeros(len(mean)), where=error > 0))
    return 2 * stdtr(blocks - 1, -t)


def _tested(now: Outcomes) -> np.ndarray:
    """Return which directions have enough rows that differ from most."""
    values = now.directions
    usual = np.median(values, axis=0) if values.size else np.zeros(values.shape[1])
    return (values != usual).sum(axis=0) >= LEAST_ROWS


def _scores(task: str, kind: str, side: Outcomes) -> tuple[np.ndarray, np.ndarray, int, np.ndarray]:
    """Return mean effective scores of one period, their variances by block, the blocks, and the
    share of the loss that each direction alone could still save (a Newton step's).
    """
    q = fit(task, kind, side.y, side.p)(side.p)
    scores = _Scores(task, side.y, side.p, q)
    width = scores.u.shape[1]
    fitted = {"none": 0, "level": width - 1, "level and slope": width}[kind]
    base, inner = scores.u[:, :fitted], scores.information[:fitted, :fitted]
    parts, informations = [], []

    def add(values: np.ndarray, information: np.ndarray, jacobian: np.ndarray) -> None:
        shared = np.linalg.lstsq(inner, jacobian.T, rcond=None)[0]
        parts.append(values - base @ shared)
        informations.append(information - (jacobian.T * shared).sum(axis=0))

    own = slice(max(fitted, width - 1 - scores.residuals.shape[1]), width)
    add(scores.u[:, own], np.diag(scores.information)[own], scores.information[own, :fitted])
    z = side.directions
    for k in range(scores.residuals.shape[1]):
        jacobian = z.T @ scores.slopes(k)[:, :fitted] / len(z)
        add(z * scores.residuals[:, [k]], scores.variances(k) @ z**2 / len(z), jacobian)
    mean, variance, blocks = _clustered(np.column_stack(parts), side.blocks)
    information = np.maximum(np.concatenate(informations), TINY_INFORMATION)
    return mean, variance, blocks, mean**2 / (2 * information) / _loss(task, side.y, q)


def _loss(task: str, y: np.ndarray, q: np.ndarray) -> float:
    """Return the mean loss whose derivative the residuals are."""
    if task == "regression":
        return max(float(np.mean((y - q) ** 2)) / 2, TINY)
    return float(-np.log(np.maximum(q[np.arange(len(y)), y], TINY)).mean())


def _clustered(scores: np.ndarray, blocks: np.ndarray) -> tuple[np.ndarray, np.ndarray, int]:
    """Return means of columns, their variances with rows of one block alike, and the blocks."""
    _, block = np.unique(blocks, return_inverse=True)
    order = np.argsort(block, kind="stable")
    starts = np.concatenate([[0], np.flatnonzero(np.diff(block[order])) + 1])
    mean = scores.mean(axis=0)
    sums = np.add.reduceat((scores - mean)[order], starts, axis=0)
    d, n = len(starts), len(scores)
    return mean, d / max(d - 1, 1) * (sums**2).sum(axis=0) / n**2, d


def _line(kind: str, y: np.ndarray, x: np.ndarray) -> Update:
    """Fit level and slope of numbers by least squares."""
    slope = 1.0
    if kind == "level and slope" and np.var(x) > 0:
        slope = float(np.cov(x, y, bias=True)[0, 1] / np.var(x))
    return Update(kind, "regression", (float(np.mean(y) - slope * np.mean(x)),), slope)
