"""Why the model predicts what it predicts: Shapley values of one prediction, by column.

They are interventional: a column that is left out takes its values from rows of a background, the
others keep theirs (Lundberg et al. 2020, Janzing et al. 2020). For boosted trees and forests they
are exact and come from the bundle's own trees: what a leaf adds depends only on which conditions
of its path the row meets, and which each background row meets, so it is tabulated once over all
background rows, and a row costs one look-up a leaf. Other models are sampled by permutations of
the columns, which is exact where the model is additive.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from math import factorial
from types import MappingProxyType

import numpy as np
import pandas as pd
from scipy.sparse import csr_array
from scipy.special import logit
from sklearn.base import BaseEstimator

from modelkeep.core import markup
from modelkeep.core.errors import ModelkeepError
from modelkeep.data.columns import with_column
from modelkeep.data.schema import Schema
from modelkeep.evaluation import metrics
from modelkeep.training import calibration, pipelines
from modelkeep.training.bundle import Bundle
from modelkeep.training.engines import export, libraries, trees
from modelkeep.training.engines.encoding import Encoding

BACKGROUND_ROWS = {"trees": 500, "sampled": 100}  # drawn from the rows of cross-validation
TABULATED = 8  # columns of a path up to which a leaf's share is tabulated for all patterns
TABLE = 8_000_000  # numbers in such a table at most (64 MB)
CELLS = 400_000  # conditions that are looked at together: more than a cache holds are no faster
LARGEST = 1.7976931348623157e308  # of a float
CLIPPED = 1e-9
MOST_ROWS = 20_000  # are shuffled; of more, so many are drawn


class ExplainError(ModelkeepError, ValueError):
    """A model or rows that cannot be explained."""


@dataclass(frozen=True)
class Explanation:
    """What each column adds to the prediction of each row, from `base`, the background's mean.

    `values` (rows, columns), for several classes (rows, columns, classes); with `base` they add up
    to `output` (rows,) or (rows, classes), in the unit `scale`. `method` is "exact, trees" or
    "sampled".
    """

    columns: tuple[str, ...]
    values: np.ndarray
    base: np.ndarray
    output: np.ndarray
    scale: str
    method: str
    rows: pd.DataFrame
    classes: tuple[str, ...] = ()

    def frame(self, output: int = 0) -> pd.DataFrame:
        """Return the values as a table (rows, columns); `output` is the class of several."""
        values = self.values if self.values.ndim == 2 else self.values[:, :, output]
        return pd.DataFrame(values, self.rows.index, self.columns)

    def importance(self) -> pd.Series:
        """Return the mean absolute value of each column, the largest first."""
        axes = (0,) if self.values.ndim == 2 else (0, 2)
        means = np.abs(self.values).mean(axis=axes)
        return pd.Series(means, self.columns).sort_values(ascending=False)

    def lines(self, row: int = 0, most: int = 6) -> list[str]:
        """Return one row in sentences: its output, the base, and the largest values."""
        values, base, output = self.values[row], self.base, self.output[row]
        name = self.scale
        if values.ndim == 2:  # of the class that is predicted
            k = int(np.argmax(output))
            values, base, output = values[:, k], base[k], output[k]
            name = f"{self.scale} of {self.classes[k]}"
        lines = [f"{name} {output:.3g}, {float(base):.3g} in the mean of the background"]
        for i in np.argsort(-np.abs(values))[:most]:
            shown = markup.number(self.rows[self.columns[i]].iloc[row])
            lines.append(f"{values[i]:+.3g}  {self.columns[i]} = {shown}")
        return lines

    def as_dict(self, row: int = 0) -> dict[str, object]:
        """Return one row as plain values; of several classes, the one that is predicted."""
        values, base, output = self.values[row], self.base, self.output[row]
        facts: dict[str, object] = {"scale": self.scale, "method": self.method}
        if values.ndim == 2:
            k = int(np.argmax(output))
            values, base, output = values[:, k], base[k], output[k]
            facts["class"] = self.classes[k]
        named = dict(zip(self.columns, values.tolist(), strict=True))
        return facts | {"base": float(base), "output": float(output), "values": named}

    def __repr__(self) -> str:
        more = "" if len(self.values) == 1 else f" ({len(self.values):,} rows, the first is shown)"
        return "\n".join([f"Shapley values, {self.method}{more}", *self.lines()])

    def _repr_html_(self) -> str:
        return f"<pre>{escape(repr(self))}</pre>"


def explain(
    model: Bundle, rows: pd.DataFrame, background: pd.DataFrame | None = None, seed: int = 0
) -> Explanation:
    """Return the Shapley values of each row.

    `background` are the rows that predictions are compared with, by default up to 500 of those
    that cross-validation predicted. Boosted trees: log-odds (several classes: scores); forests:
    probabilities; other models: log-odds, or centred log probabilities; numbers in their own unit.
    """
    explainer = Explainer(model, background, seed)
    return explainer(rows)


class Explainer:
    """Explains rows of one bundle; making it takes about as long as a thousand rows."""

    def __init__(
        self, model: Bundle, background: pd.DataFrame | None = None, seed: int = 0
    ) -> None:
        self.model, self.seed = model, seed
        last = model.pipeline.steps[-1][1]
        plan, estimator, self.affine = _plan(model), calibration.inner(last), _affine(last)
        self.kind = "trees" if plan is not None else "sampled"
        if background is None:
            background = model.out_of_fold
            if len(background) > BACKGROUND_ROWS[self.kind]:
                background = background.sample(BACKGROUND_ROWS[self.kind], random_state=seed)
        if background.empty:
            raise ExplainError("the background has no rows; give rows to compare predictions with")
        self.background = background
        self.names = tuple(c.name for c in model.schema.columns)
        if plan is not None:
            self.names = tuple(f["name"] for f in plan["features"])
            self.encoding = Encoding(plan)
            self.boosted = trees.boosted(estimator)
            self.trees = TreeShap(estimator, self._matrix(background))

    def __call__(self, rows: pd.DataFrame) -> Explanation:
        """Explain rows that hold the bundle's columns."""
        if self.kind == "trees":
            level, slope = self.affine
            values, base = slope * self.trees(self._matrix(rows)), level + slope * self.trees.base
            output, method = base + values.sum(axis=1), "exact, trees"
            scale = {True: "log-odds", False: "probability"}[self.boosted]
        else:
            values, base = sampled(self._output, rows, self.background, self.names, seed=self.seed)
            output, method, scale = base + values.sum(axis=1), "sampled", "log-odds"
        if values.shape[2] == 1:
            values, base, output = values[:, :, 0], base[0], output[:, 0]
        elif scale == "log-odds":
            scale = "score"
        if self.model.schema.task == "regression":
            scale = self.model.schema.label
        classes = self.model.schema.classes
        return Explanation(self.names, values, base, output, scale, method, rows, classes)

    def _matrix(self, rows: pd.DataFrame) -> np.ndarray:
        return self.encoding(*export.arrays(rows, self.model.schema))

    def _output(self, rows: pd.DataFrame) -> np.ndarray:
        """Return what is explained (rows, outputs), on a scale where models are nearly additive."""
        p = self.model.predict(rows)  # an engine may round to 32 bits
        if p.ndim == 1:
            return p[:, None]
        if p.shape[1] == 2:
            return logit(np.clip(p[:, 1:], CLIPPED, 1 - CLIPPED))
        logs = np.log(np.clip(p, CLIPPED, 1))
        return logs - logs.mean(axis=1, keepdims=True)


def _plan(model: Bundle) -> dict | None:
    """Return the plan of the preprocessing where each feature is a column of a tree's matrix, and
    the trees add up to what is explained.
    """
    if _affine(model.pipeline.steps[-1][1]) is None:
        return None
    try:
        plan = export.encoding(model.pipeline, model.schema)
    except (AttributeError, KeyError, TypeError):  # steps of the user's own
        return None
    spread = any(f.get("one_hot") for f in plan["features"])
    return plan if plan["cuts"] and not spread else None


def _affine(estimator: BaseEstimator) -> tuple[np.ndarray, float] | None:
    """The level (outputs,) and slope that a map adds to what trees add up to; None where it does
    something else to it.
    """
    mapping = calibration.learned(estimator)
    if not mapping:
        return np.zeros(1), 1.0
    scores = mapping["method"] == "line" or trees.boosted(calibration.inner(estimator))
    if mapping["method"] == "isotonic" or "after" in mapping or not scores:
        return None
    level = np.array(mapping["level"])
    return (np.diff(level) if len(level) == 2 else level), mapping["slope"]


@dataclass(frozen=True)
class _Leaf:
    """Conditions by column (low, high, whether a missing value meets them), output and value."""

    conditions: dict[int, tuple[float, float, bool]]
    output: int
    value: float


class TreeShap:
    """Exact interventional Shapley values of scikit-learn's boosted trees and forests.

    `background` (rows, columns) is a matrix as the estimator takes it. `base` (outputs,) is the
    mean output of the background: log-odds of boosted trees, probabilities of forests (of class 1
    where there are two), or numbers.
    """

    def __init__(self, estimator: BaseEstimator, background: np.ndarray) -> None:
        self.single = trees.single(estimator)
        leaves, offset = _leaves(estimator)
        self.columns, self.outputs = background.shape[1], len(offset)
        width = max(1, *(len(leaf.conditions) for leaf in leaves))
        shape = (len(leaves), width)
        self.column = np.zeros(shape, np.intp)
        self.low, self.high = np.full(shape, -np.inf), np.full(shape, np.inf)
        self.missing = np.ones(shape, bool)
        self.value = np.array([leaf.value for leaf in leaves])
        self.output = np.array([leaf.output for leaf in leaves])
        for i, leaf in enumerate(leaves):
            for j, (column, (low, high, missing)) in enumerate(leaf.conditions.items()):
                self.column[i, j], self.low[i, j] = column, low
                self.high[i, j], self.missing[i, j] = high, missing
        self.full = (1 << width) - 1
        met = np.concatenate([*self._patterns(background)])
        reached = (met == self.full).mean(axis=0) * self.value
        self.base = offset + np.bincount(self.output, reached, self.outputs)
        place = self.column * self.outputs + self.output[:, None]
        places = (np.arange(place.size), place.ravel())
        weights = np.repeat(self.value, width)
        self.sums = csr_array(
            (weights, places), shape=(place.size, self.columns * self.outputs)
        ).T.tocsr()
        tabulated = width <= TABULATED and len(leaves) * (1 << width) * width <= TABLE
        self.table = self._table(met) if tabulated else None
        self.met = None if tabulated else met.T

    def __call__(self, matrix: np.ndarray) -> np.ndarray:
        """Return the values (rows, columns, outputs) of rows of a matrix."""
        parts = []
        for met in self._patterns(matrix):
            if self.table is not None:
                shares = self.table[np.arange(len(self.value)), met]
            else:
                shares = np.stack([self._shares(pattern) for pattern in met])
            parts.append((self.sums @ shares.reshape(len(met), -1).T).T)
        values = np.concatenate(parts) if parts else np.zeros((0, self.columns * self.outputs))
        return values.reshape(-1, self.columns, self.outputs)

    def _patterns(self, matrix: np.ndarray) -> Iterator[np.ndarray]:
        """Yield which conditions some rows meet, as bits (rows, leaves)."""
        if self.single:  # forests look at float32
            matrix = matrix.astype(np.float32).astype(float)
        matrix = np.clip(matrix, -LARGEST, LARGEST)
        width = self.column.shape[1]
        absent = np.isnan(matrix)
        step = max(1, CELLS // self.column.size)
        for i in range(0, len(matrix), step):
            met = np.zeros((len(matrix[i : i + step]), len(self.value)), np.int64)
            for j in range(width):
                column = self.column[:, j]
                values = matrix[i : i + step, column]
                with np.errstate(invalid="ignore"):
                    inside = (values > self.low[:, j]) & (values <= self.high[:, j])
                if absent.any():
                    inside |= absent[i : i + step, column] & self.missing[:, j]
                met |= inside.astype(np.int64) << j
            yield met

    def _table(self, met: np.ndarray) -> np.ndarray:
        """Return the shares (leaves, patterns, columns of the path) over all background rows."""
        width, leaves = self.column.shape[1], len(self.value)
        patterns = 1 << width
        flat = np.arange(leaves) * patterns + met
        counts = np.bincount(flat.ravel(), minlength=leaves * patterns).reshape(leaves, patterns)
        own, other = np.divmod(np.arange(patterns**2), patterns)
        weights = _weights(own, other, width).reshape(patterns, patterns, width)
        by_other = weights.transpose(1, 0, 2).reshape(patterns, -1)
        return (counts / len(met) @ by_other).reshape(leaves, patterns, width)

    def _shares(self, pattern: np.ndarray) -> np.ndarray:
        """Return the shares (leaves, columns of the path) of one row, background row by row."""
        own = pattern[:, None]
        leaf, row = np.nonzero((own | self.met) == self.full)
        width = self.column.shape[1]
        weights = _weights(pattern[leaf], self.met[leaf, row], width)
        sums = [np.bincount(leaf, w, len(self.value)) for w in weights.T]
        return np.stack(sums, axis=1) / self.met.shape[1]


def _weights(own: np.ndarray, other: np.ndarray, width: int) -> np.ndarray:
    """Return the Shapley values (cases, width) of "all conditions are met, each by one of the two".

    `own` and `other` are the conditions that the row and a background row meet, as bits.
    """
    full = (1 << width) - 1
    only, less = own & ~other, other & ~own
    a, n = np.bitwise_count(only).astype(int), np.bitwise_count(less).astype(int)
    size = width + 1
    grid = np.arange(size)
    gain, loss = np.zeros((size, size)), np.zeros((size, size))
    for i in grid:
        for j in grid[: size - i]:
            if i:
                gain[i, j] = factorial(i - 1) * factorial(j) / factorial(i + j)
            if j:
                loss[i, j] = factorial(i) * factorial(j - 1) / factorial(i + j)
    possible = (own | other) == full
    bits = 1 << np.arange(width)
    up = np.where((only[:, None] & bits) > 0, gain[a, n][:, None], 0)
    down = np.where((less[:, None] & bits) > 0, loss[a, n][:, None], 0)
    return (up - down) * possible[:, None]


def _leaves(estimator: BaseEstimator) -> tuple[list[_Leaf], np.ndarray]:
    """Return the leaves of all trees with what they add, and what is added to each output."""
    if groups := getattr(estimator, "_predictors", None):
        offset = estimator._baseline_prediction.ravel()
        leaves = []
        for group in groups:
            for k, tree in enumerate(group):
                nodes = tree.nodes
                sides = (nodes["left"], nodes["right"], nodes["is_leaf"] == 1)
                splits = (nodes["feature_idx"], nodes["num_threshold"], nodes["missing_go_to_left"])
                for at, conditions in _paths(sides, splits):
                    leaves.append(_Leaf(conditions, k, float(nodes["value"][at])))
        return leaves, offset
    if other := libraries.read(estimator):
        outputs, leaves = len(other.baseline), []
        for i, tree in enumerate(other.trees):
            sides = (tree.left, tree.right, tree.leaf)
            splits = (tree.column, tree.threshold, tree.missing_left)
            for at, conditions in _paths(sides, splits, tree.codes):
                leaves.append(_Leaf(conditions, i % outputs, float(tree.value[at])))
        return leaves, other.baseline
    inner = [tree.tree_ for tree in getattr(estimator, "estimators_", ())]
    if not inner:
        raise ExplainError(f"{type(estimator).__name__} has no trees; use `sampled`")
    values = inner[0].value.shape[2]
    outputs = [0] if values == 1 else [1] if values == 2 else list(range(values))
    leaves = []
    for tree in inner:
        sides = (tree.children_left, tree.children_right, tree.children_left < 0)
        splits = (tree.feature, tree.threshold, tree.missing_go_to_left)
        for at, conditions in _paths(sides, splits):
            for k, output in enumerate(outputs):
                leaves.append(_Leaf(conditions, k, float(tree.value[at, 0, output] / len(inner))))
    return leaves, np.zeros(len(outputs))


def _paths(
    sides: tuple, splits: tuple, codes: Mapping[int, frozenset] = MappingProxyType({})
) -> Iterator[tuple[int, dict]]:
    """Yield each leaf of a tree with its conditions by column.

    A leaf that is reached by a set of categories is yielded once for each run of its codes: the
    runs exclude each other, so the leaves add up to the same tree.
    """
    left, right, leaf = sides
    column, threshold, missing_left = splits
    waiting: list[tuple[int, dict]] = [(0, {})]
    while waiting:
        at, conditions = waiting.pop()
        if leaf[at]:
            yield at, conditions
            continue
        c, cut, to_left = int(column[at]), float(threshold[at]), bool(missing_left[at])
        low, high, missing = conditions.get(c, (-np.inf, np.inf, True))
        lefts, rights = [(-np.inf, cut)], [(cut, np.inf)]
        if at in codes:
            lefts, rights = _runs(codes[at])
        for child, parts, met in ((right, rights, not to_left), (left, lefts, to_left)):
            for place, (start, end) in enumerate(parts):
                own = max(low, start), min(high, end), missing and met and place == 0
                if own[0] < own[1] or own[2]:
                    waiting.append((int(child[at]), conditions | {c: own}))


def _runs(codes: frozenset[int]) -> tuple[list, list]:
    """The intervals (above, up to) that hold some codes, and those between and around them."""
    inside: list[tuple[float, float]] = []
    for code in sorted(codes):
        if inside and inside[-1][1] == code - 0.5:
            inside[-1] = inside[-1][0], code + 0.5
        else:
            inside.append((code - 0.5, code + 0.5))
    edges = [-np.inf, *(edge for run in inside for edge in run), np.inf]
    return inside, [*zip(edges[::2], edges[1::2], strict=True)]


def sampled(
    output: Callable[[pd.DataFrame], np.ndarray],
    rows: pd.DataFrame,
    background: pd.DataFrame,
    columns: Sequence[str],
    seed: int = 0,
) -> tuple[np.ndarray, np.ndarray]:
    """Return sampled values (rows, columns, outputs) and the base (outputs,) of any model.

    Each background row is turned into the row, one column after the other, in a random order and
    then in the reverse one (antithetic permutations, Mitchell et al. 2022); `output` takes rows
    and returns (rows, outputs). The values add up to the row's output less the base.
    """
    random = np.random.default_rng(seed)
    n, width = len(background), len(columns)
    orders = np.array([random.permutation(width) for _ in range(n)])
    both = np.concatenate([orders, orders[:, ::-1]])
    # step s of an order has the row's values in its first s columns
    rank = np.argsort(both, axis=1)
    taken = rank[:, None, :] < np.arange(width + 1)[None, :, None]
    start = pd.concat([background[list(columns)]] * 2)
    start = start.iloc[np.repeat(np.arange(2 * n), width + 1)].reset_index(drop=True)
    flat = taken.reshape(-1, width)
    found = []
    for i in range(len(rows)):
        mixed = {
            name: start[name].mask(flat[:, j], rows[name].iloc[i]) for j, name in enumerate(columns)
        }
        steps = output(pd.DataFrame(mixed)).reshape(2 * n, width + 1, -1)
        gains = np.diff(steps, axis=1)
        ordered = np.take_along_axis(gains, rank[:, :, None], axis=1)
        found.append(ordered.mean(axis=0))
    base = output(background).mean(axis=0)
    return np.array(found).reshape(len(rows), width, -1), base


def permutation_importance(
    model: Bundle, rows: pd.DataFrame, schema: Schema, *, repeats: int = 3, seed: int = 0
) -> list[dict]:
    """How much worse the model predicts once a column is shuffled.

    A line a feature, most important first: `column`, `added`, `spread`.

    `added` is the mean rise of the first metric of the task (log loss, squared error) over
    `repeats` shuffles of the column, `spread` its standard deviation (Breiman 2001). Rows are
    labelled rows that the model has not learned from.
    """
    random = np.random.default_rng(seed)
    if len(rows) > MOST_ROWS:
        rows = rows.iloc[np.sort(random.choice(len(rows), MOST_ROWS, replace=False))]
    y, first = pipelines.outcome(rows, schema), metrics.METRICS[schema.task][0]

    def loss(table: pd.DataFrame) -> float:
        values = metrics.per_row(schema.task, y, model.answer(table))[first]
        return float(values.mean())

    before, lines = loss(rows), []
    for column in schema.columns:
        added = []
        for _ in range(repeats):
            values = rows[column.name].iloc[random.permutation(len(rows))]
            added.append(loss(with_column(rows, column.name, values.array)) - before)
        line = {"column": column.name, "added": float(np.mean(added))}
        lines.append(line | {"spread": float(np.std(added))})
    return sorted(lines, key=lambda line: -line["added"])
