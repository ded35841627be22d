"""Segments that lost quality: one or two columns, each tested on blocks it was not found on.

A segment's excess is how much more its rows lose than expected, beyond what all other rows do, now
less before. Segments are intervals of bins of a number, or one category, and pairs of them. The
search takes the largest evidence. Blocks are dealt into five parts: what is found on four of them
says which rows of the fifth are inside, and whether all those rows together lose more decides if
a segment is named; its name is what is found on all blocks. Then the rest is searched, as long as
a segment is named. (Found on one half and tested on the other, a planted segment of 600 rows was
named in 71 of 100 runs where this names it in 181 of 200: `benchmarks/diagnosis.py`.)
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations

import numpy as np
from scipy.special import log_ndtr, stdtr, stdtrit

from modelkeep.core.errors import ModelkeepError
from modelkeep.evaluation.binning import Bins

LEAST_ROWS, LEAST_SHARE = 20, 0.005  # of the rows of now, for a segment to be searched
PARTS = 5  # into which the blocks are dealt
LEAST_BLOCKS = 12  # in each period, to find on four parts and to test on the fifth
LEAST_INSIDE = 4  # blocks in which a segment must have rows to be tested
PRIOR_ROWS = 20  # rows with the usual loss that each segment of before is given
MOST_COLUMNS = 20  # whose pairs are searched: those with the largest evidence alone
WEAK = 0.05  # p-value times the candidates tried, from which nothing is worth a test
RESCORED = 30  # candidates of a round whose evidence is computed by block


class SegmentError(ModelkeepError, ValueError):
    """Rows that no segment can be searched in."""


@dataclass(frozen=True)
class Column:
    """A column by its bins; `whole`: its values are whole numbers."""

    bins: Bins
    whole: bool = False

    @cached_property
    def ranges(self) -> tuple[tuple[int, int], ...]:
        """Return first and last bin of each candidate: intervals of a number, single categories."""
        last = len(self.bins.labels) - 1  # missing values
        if self.bins.kind != "number":
            return tuple((i, i) for i in range(last + 1))
        ordered = [(i, j) for i in range(last) for j in range(i, last) if (i, j) != (0, last - 1)]
        return (*ordered, (last, last))

    @cached_property
    def sums(self) -> np.ndarray:
        """Return a matrix (ranges, bins) that adds the bins of each range."""
        matrix = np.zeros((len(self.ranges), len(self.bins.labels)))
        for row, (first, last) in zip(matrix, self.ranges, strict=True):
            row[first : last + 1] = 1
        return matrix


@dataclass(frozen=True)
class Period:
    """Rows of one period: bins by column, loss less expected loss, and the block of each row."""

    places: Mapping[str, np.ndarray]
    excess: np.ndarray
    blocks: np.ndarray

    def take(self, kept: np.ndarray) -> "Period":
        """Return the rows of a mask."""
        places = {name: codes[kept] for name, codes in self.places.items()}
        return Period(places, self.excess[kept], self.blocks[kept])


@dataclass(frozen=True)
class Range:
    """A part of one column, from its first to its last bin."""

    column: str
    first: int
    last: int
    text: str


@dataclass(frozen=True)
class Segment:
    """Rows that lose more than expected; `p` is the largest of those tested so far.

    `rows` are those of now in no earlier segment; `excess` a row with its 95 % interval is measured
    on rows that its segment was not found on; `share` is the part of the whole drop that it
    explains, None without one.
    """

    ranges: tuple[Range, ...]
    rows: int
    rows_before: int
    excess: float
    low: float
    high: float
    p: float
    share: float | None

    @property
    def condition(self) -> str:
        """Return which rows are meant: "carrier = MQ and dep_hour 18 to 21"."""
        return " and ".join(r.text for r in self.ranges)

    def inside(self, places: Mapping[str, np.ndarray]) -> np.ndarray:
        """Return which rows are in the segment, from their bins by column."""
        return _inside(self.ranges, places)


def search(
    columns: Sequence[Column],
    before: Period,
    now: Period,
    *,
    drop: float = np.nan,
    most: int = 5,
    alpha: float = 0.05,
    seed: int = 0,
) -> tuple[Segment, ...]:
    """Return the segments that lost quality, in the order of their evidence, often none.

    `excess` of both periods is in the loss's unit; `drop` is the mean loss of now less that of
    before. Any segment is named by chance with probability `alpha` at most, blocks being
    independent. SegmentError below 12 blocks in either period.
    """
    for name, period in (("before", before), ("now", now)):
        blocks = len(np.unique(period.blocks))
        if blocks < LEAST_BLOCKS:
            raise SegmentError(
                f"{blocks} blocks in the period {name!r}: {LEAST_BLOCKS} are needed to test "
                "segments on blocks that they were not found on; take a longer period"
            )
    rest = [before, now]
    parts = [_dealt(p.blocks, np.random.default_rng([seed, i])) for i, p in enumerate(rest)]
    total = drop * len(now.excess) if drop > 0 else np.nan
    named: list[Segment] = []
    while len(named) < most and min(len(p.excess) for p in rest) > LEAST_ROWS:
        ranges = _strongest(columns, *rest)
        if not ranges:
            break
        gap, low, high, p = _contrast(*rest, *_found_elsewhere(columns, rest, parts))
        if not p <= alpha:
            break
        masks = [_inside(ranges, each.places) for each in rest]
        old, rows = (int(mask.sum()) for mask in masks)
        worst, share = max([p, *(s.p for s in named)]), rows * gap / total if total > 0 else None
        named.append(Segment(ranges, rows, old, gap, low, high, worst, share))
        rest = [each.take(~m) for each, m in zip(rest, masks, strict=True)]
        parts = [each[~m] for each, m in zip(parts, masks, strict=True)]
    return tuple(named)


def expected(
    loss: np.ndarray, score: np.ndarray, others: Sequence[np.ndarray], bins: int = 20
) -> list[np.ndarray]:
    """Return the loss that rows with the scores of `others` are expected to have.

    It is the mean `loss` (rows,) of the rows with a `score` (rows,) in the same of 20 equal bins;
    a score is a probability, an entropy, or a predicted number.
    """
    cuts = np.unique(np.quantile(score, np.linspace(0, 1, bins + 1)[1:-1]))
    place = np.searchsorted(cuts, score, "right")
    rows = np.bincount(place, minlength=len(cuts) + 1)
    means = np.bincount(place, loss, len(cuts) + 1) / np.maximum(rows, 1)
    means[rows == 0] = loss.mean()
    return [means[np.searchsorted(cuts, other, "right")] for other in others]


def _dealt(blocks: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Return the part of each row; rows of one block are in one part."""
    distinct, block = np.unique(blocks, return_inverse=True)
    return (random.permutation(len(distinct)) % PARTS)[block]


def _found_elsewhere(
    columns: Sequence[Column], periods: Sequence[Period], parts: Sequence[np.ndarray]
) -> list[np.ndarray]:
    """Return which rows of each period are inside what the other parts' rows have as strongest."""
    masks = [np.zeros(len(period.excess), bool) for period in periods]
    for part in range(PARTS):
        others = [p.take(own != part) for p, own in zip(periods, parts, strict=True)]
        ranges = _strongest(columns, *others)
        for i, period in enumerate(periods):
            if ranges:
                masks[i] |= _inside(ranges, period.places) & (parts[i] == part)
    return masks


def _inside(ranges: Sequence[Range], places: Mapping[str, np.ndarray]) -> np.ndarray:
    inside = [(places[r.column] >= r.first) & (places[r.column] <= r.last) for r in ranges]
    return np.logical_and.reduce(inside)


def _strongest(columns: Sequence[Column], before: Period, now: Period) -> tuple[Range, ...]:
    sides = [(p, p.excess - p.excess.mean()) for p in (before, now)]
    alone = sorted((_scan((c,), sides) for c in columns), key=lambda c: c[0])
    by_name = {c.bins.name: c for c in columns}
    names = [ranges[0].column for *_, ranges in alone if ranges][:MOST_COLUMNS]
    pairs = [_scan((by_name[a], by_name[b]), sides) for a, b in combinations(names, 2)]
    candidates = sorted((c for c in (*alone, *pairs) if c[2]), key=lambda c: c[0])[:RESCORED]
    best, chosen, alike = np.log(WEAK), (), max(_alike(before), _alike(now))
    for row_evidence, z, ranges in candidates:
        effect = _design_effect(now, _inside(ranges, now.places), alike)
        evidence = float(log_ndtr(-z / np.sqrt(effect)))
        evidence += row_evidence - float(log_ndtr(-z))  # as many candidates were tried
        if evidence < best:
            best, chosen = evidence, ranges
    return chosen


def _alike(period: Period) -> float:
    """Return the correlation of two rows of one block."""
    away = period.excess - period.excess.mean()
    _, block = np.unique(period.blocks, return_inverse=True)
    sums, rows = np.bincount(block, away), np.bincount(block).astype(float)
    pairs = float(rows @ (rows - 1))
    total = float(away @ away)
    return max((float(sums @ sums) - total) / pairs / (total / len(away)), 0.0) if pairs else 0.0


def _design_effect(period: Period, inside: np.ndarray, alike: float) -> float:
    """Return how often the variance of independent rows the mean of these rows has."""
    rows = np.unique(period.blocks[inside], return_counts=True)[1].astype(float)
    return 1 + (float(rows @ rows) / float(rows.sum()) - 1) * alike


def _scan(columns: Sequence[Column], sides: Sequence) -> tuple[float, float, tuple[Range, ...]]:
    """Return log p times the candidates tried, z, and the ranges of the largest evidence by row."""
    sizes = [len(c.bins.labels) for c in columns]
    tables = []
    for period, centred in sides:
        flat = np.ravel_multi_index([period.places[c.bins.name] for c in columns], sizes)
        for weights in (None, centred, centred**2)[: 2 if period is sides[1][0] else 3]:
            table = np.bincount(flat, weights, int(np.prod(sizes))).reshape(sizes)
            for axis, c in enumerate(columns):
                table = np.moveaxis(np.tensordot(c.sums, table, (1, axis)), 0, axis)
            tables.append(table)
    n_before, sum_before, square_before, n, total = tables
    usual = float(np.mean(sides[0][1] ** 2))
    n_before = n_before + PRIOR_ROWS
    # without a change the rows of now vary as those of before; at least as all rows do, since a
    # segment with little variance (all probabilities near a half) is not the one that matters
    variance = np.maximum((square_before + PRIOR_ROWS * usual) / n_before, usual)
    with np.errstate(divide="ignore", invalid="ignore"):
        error = np.sqrt(variance / n + variance / n_before)
        z = (total / n - sum_before / n_before) / error
    least = max(LEAST_ROWS, LEAST_SHARE * len(sides[1][1]))
    z[~(n >= least) | (n > len(sides[1][1]) - least)] = -np.inf
    at = np.unravel_index(int(np.argmax(z)), z.shape)
    if not z[at] > 0:
        return 0.0, 0.0, ()
    evidence = float(log_ndtr(-z[at]) + np.log(z.size))
    return (
        evidence,
        float(z[at]),
        tuple(_range(c, *c.ranges[i]) for c, i in zip(columns, at, strict=True)),
    )


def _range(column: Column, first: int, last: int) -> Range:
    return Range(column.bins.name, first, last, describe(column, first, last))


def describe(column: Column, first: int, last: int) -> str:
    """Return bins `first` to `last` of a column in words: "dep_hour 18 to 21"."""
    name, labels, edges = column.bins.name, column.bins.labels, column.bins.edges
    if last == len(labels) - 1:
        return f"{name} missing"
    if column.bins.kind != "number":
        return f"{name} = {labels[first]}"
    low = None if first == 0 else edges[first - 1]
    if last >= len(edges):  # above the largest value that the reference has
        return (
            f"{name} above {edges[-1]:.6g}" if first > len(edges) - 1 else f"{name} from {low:.6g}"
        )
    high = edges[last] if len(edges) else 0.0
    inclusive = last == len(edges) - 1
    if column.whole and not inclusive:
        high, inclusive = np.ceil(high) - 1, True
    if low is None:
        return f"{name} {'up to' if inclusive else 'below'} {high:.6g}"
    if low == high:
        return f"{name} = {low:.6g}"
    return f"{name} {low:.6g} to {'' if inclusive else 'below '}{high:.6g}"


def _gap(
    before: Period, now: Period, inside_before: np.ndarray, inside: np.ndarray
) -> tuple[float, float, float]:
    """Return the excess of the rows inside beyond that of all others, its error, and freedom."""
    parts = [_side(before, inside_before, PRIOR_ROWS), _side(now, inside, 0)]
    gap = parts[1][0] - parts[0][0]
    error = float(np.sqrt(parts[0][1] + parts[1][1]))
    freedom = max(min(parts[1][2], len(np.unique(now.blocks))) - 1, 1)
    return gap, error, freedom


def _side(period: Period, inside: np.ndarray, prior: int) -> tuple[float, float, int]:
    """Return mean excess inside less outside, its variance by block, and the blocks inside."""
    n, m = int(inside.sum()), int((~inside).sum())
    if n + prior == 0 or m == 0:
        return 0.0, np.inf, 0
    outside = float(period.excess[~inside].mean())
    away = period.excess - outside
    mean = float(away[inside].sum() / (n + prior))
    influence = np.where(inside, (away - mean) / (n + prior), -away / m)
    _, block = np.unique(period.blocks, return_inverse=True)
    sums = np.bincount(block, influence)
    blocks = len(sums)
    if blocks < 2:
        return mean, np.inf, 0
    usual = float(np.var(period.excess))
    variance = blocks / (blocks - 1) * float(sums @ sums) + prior * usual / (n + prior) ** 2
    return mean, variance, len(np.unique(block[inside]))


def _contrast(
    before: Period, now: Period, inside_before: np.ndarray, inside: np.ndarray
) -> tuple[float, float, float, float]:
    """Return the excess, its 95 % interval, and the one-sided p-value."""
    blocks = len(np.unique(now.blocks[inside]))
    gap, error, freedom = _gap(before, now, inside_before, inside)
    if blocks < LEAST_INSIDE or not 0 < error < np.inf:
        return gap, np.nan, np.nan, 1.0
    half = float(stdtrit(freedom, 0.975)) * error
    return gap, gap - half, gap + half, float(stdtr(freedom, -gap / error))
