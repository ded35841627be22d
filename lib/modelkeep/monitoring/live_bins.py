"""Live bins: the reference's bins, merged to what Prometheus can hold; rows counted into them."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import numpy as np

from modelkeep.evaluation import drift
from modelkeep.evaluation.binning import Bins
from modelkeep.evaluation.profile import Profile

NUMBERS, CATEGORIES = 10, 20  # bins of a column at most, beside `missing` (and `other`)
LEAST_ROWS = 100  # days of the reference with fewer are taken together
RAREST = 3.0  # standard deviations: a day in 700


@dataclass(frozen=True, eq=False)
class Column:
    """The live bins of one column; `places`: the live bin of each of the reference's own bins."""

    name: str
    kind: str
    cuts: tuple[float, ...]  # of numbers: a bin is the number of cuts that are reached
    categories: dict[str, int]
    places: np.ndarray
    labels: tuple[str, ...]  # "00", "01", ..., "other", "missing": no value of a user's
    names: tuple[str, ...]  # the same bins, for people
    rows: np.ndarray  # of the reference
    day_effect: float  # the largest effect of a day of the reference against all of it
    day_missing: float  # the largest share of missing values in such a day


@dataclass(frozen=True, eq=False)
class LiveBins:
    """The columns that are monitored live, and the names of those that have no room."""

    columns: tuple[Column, ...]
    left_out: tuple[str, ...]
    numbers: tuple[int, ...]  # position among all columns of numbers, of the monitored ones
    categories: tuple[int, ...]

    @cached_property
    def starts(self) -> np.ndarray:
        """Return where each column's counts begin in what `fold` returns, and their number."""
        return np.cumsum([0, *(len(c.labels) for c in self.columns)])

    @cached_property
    def _plan(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[tuple[int, Column]]]:
        kinds = {kind: [] for kind in ("number", "category")}
        for start, column in zip(self.starts.tolist(), self.columns, strict=False):
            kinds[column.kind].append((start, column))
        numeric = kinds["number"]
        cuts = np.full((max((len(c.cuts) for _, c in numeric), default=0), len(numeric)), np.nan)
        for i, (_, c) in enumerate(numeric):
            cuts[: len(c.cuts), i] = c.cuts
        first = np.array([start for start, _ in numeric], np.int64)
        missing = first + np.array([len(c.labels) - 1 for _, c in numeric], np.int64)
        return cuts[:, :, None], first[:, None], missing[:, None], kinds["category"]

    def fold(self, numbers: np.ndarray, categories: Sequence[Sequence[str | None]]) -> np.ndarray:
        """Count rows: numbers (rows, columns) and categories, in the reference's order."""
        cuts, first, missing, others = self._plan
        values = np.asarray(numbers, np.float64).T[list(self.numbers)]
        reached, places = np.empty(values.shape, bool), np.zeros(values.shape, np.uint8)
        for cut in cuts:
            np.greater_equal(values, cut, out=reached)  # never so where a column has fewer: NaN
            places += reached.view(np.uint8)
        flat = np.where(np.isnan(values), missing, places + first).ravel()
        counts = np.bincount(flat, minlength=self.starts[-1])
        for position, (start, column) in zip(self.categories, others, strict=True):
            known, none = column.categories, len(column.labels) - 1
            for value, n in Counter(categories[position]).items():
                absent = value is None or value != value  # NaN is not equal to itself
                counts[start + (none if absent else known.get(value, none - 1))] += n
        return counts


def merge(reference: Profile, most: int) -> LiveBins:
    """Merge the reference's bins until there are `most`, each column counted as one more.

    Columns that do not fit even in three bins each are left out, the last first.
    """
    bins = reference.bins
    widest = next((m for m in range(CATEGORIES, 1, -1) if _size(bins, m) <= most), 2)
    monitored = list(bins)
    while _size(monitored, widest) > most:
        # the prediction is the last column, and depends on all others
        monitored.pop(-2 if len(monitored) > 1 else -1)
    left_out = tuple(b.name for b in bins if b not in monitored)
    at = {
        kind: tuple(i for i, b in enumerate(b for b in bins if b.kind == kind) if b in monitored)
        for kind in ("number", "category")
    }
    columns = tuple(_column(b, reference, widest) for b in monitored)
    return LiveBins(columns, left_out, at["number"], at["category"])


def _size(bins: Sequence[Bins], widest: int) -> int:
    return sum(_room(b, widest) + 1 for b in bins)


def _room(b: Bins, widest: int) -> int:
    if b.kind == "number":
        ranges = len(b.edges) - 1
        return (3 if ranges == 1 else max(1, min(NUMBERS, widest, ranges))) + 1
    return min(widest if widest > 2 else 1, len(b.categories)) + 2


def _column(b: Bins, reference: Profile, widest: int) -> Column:
    by_day = reference.counts[b.name]
    cuts, known = (), {}
    if b.kind == "number":
        cuts = _cuts(b, by_day.sum(axis=0), _room(b, widest) - 1)
        places = [np.searchsorted(cuts, low, "right") for low in (-np.inf, *b.cuts)]
        places, names = [*places, len(cuts) + 1], _ranges(cuts)
        labels = tuple(f"{i:02}" for i in range(len(names)))
    else:
        names = b.categories[: _room(b, widest) - 2]
        known = {name: i for i, name in enumerate(names)}
        labels = (*(f"{i:02}" for i in range(len(names))), "other")
        places = [min(i, len(names)) for i in range(len(b.categories) + 2)] + [len(labels)]
        names = (*names, "other")
    labels, names = (*labels, "missing"), (*names, "missing")
    places = np.array(places)
    merged = np.stack([np.bincount(places, day, len(labels)) for day in by_day])
    usual = _usual(merged) if reference.blocks is not None else (0.0, 0.0)
    rows = merged.sum(axis=0).astype(np.int64)
    return Column(b.name, b.kind, cuts, known, places, labels, names, rows, *usual)


def _cuts(b: Bins, counts: np.ndarray, most: int) -> tuple[float, ...]:
    """Choose the edges that cut the reference most evenly: the smallest sum of squared bins."""
    if len(b.edges) == 2:  # a constant: what lies below and above it must be seen
        return b.cuts
    inner, below = b.edges[1:-1], np.cumsum([0, *counts[1:-2]]).astype(float)
    if len(inner) < most:
        return inner
    # cost[i, j]: of one bin from edge i to edge j; then one bin more each time, to every edge
    cost = np.triu(np.subtract.outer(below, below) ** 2, 1)
    cost[np.tril_indices(len(below))] = np.inf
    best, came = cost[0], []
    for _ in range(most - 1):
        total = best[:, None] + cost
        came.append(total.argmin(axis=0))
        best = total.min(axis=0)
    at, cuts = len(below) - 1, []
    for before in reversed(came):
        at = int(before[at])
        cuts.append(inner[at - 1])
    return tuple(reversed(cuts))


def _ranges(cuts: tuple[float, ...]) -> tuple[str, ...]:
    if not cuts:
        return ("any",)
    inner = (f"{low:.4g} to {high:.4g}" for low, high in pairwise(cuts))
    return (f"below {cuts[0]:.4g}", *inner, f"{cuts[-1]:.4g} and above")


def _usual(by_day: np.ndarray) -> tuple[float, float]:
    """Return the effect that a day of the reference has at most, and its share of missing values.

    Small days are pooled, which averages their differences: the effect of a stretch of k days
    counts k times. Beside the largest stretch stands the largest day to expect by the mean of
    these effects (two standard errors above it), if a day's effect is distributed as chi-square
    over its degrees of freedom.
    """
    total = by_day.sum(axis=0)
    effects, singles, missing = [0.0], [], [0.0]
    for days in _stretches(by_day):
        day, rows = days.sum(axis=0), days.sum(axis=1)
        effects.append(drift.effect(total, day))
        singles.append(effects[-1] * float(rows.sum() ** 2 / (rows**2).sum()))
        missing.append(float(day[-1] / day.sum()))
    df = max(int((total > 0).sum()) - 1, 1)
    # Wilson and Hilferty 1931, as in the rules
    rarest = (1 - 2 / (9 * df) + RAREST * np.sqrt(2 / (9 * df))) ** 3
    usual = 0.0
    if len(singles) > 1:
        usual = np.mean(singles) + 2 * np.std(singles, ddof=1) / np.sqrt(len(singles))
    return float(max(*effects, usual * rarest)), max(missing)


def _stretches(by_day: np.ndarray) -> Iterator[np.ndarray]:
    """Yield the counts of days (days, bins): one, or some in a row with LEAST_ROWS together."""
    first = 0
    for end in range(1, len(by_day) + 1):
        if by_day[first:end].sum() >= LEAST_ROWS:
            yield by_day[first:end]
            first = end
