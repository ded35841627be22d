"""Block permutation tests of one column, and of all together, valid at any volume of rows.

Rows of one block (a day, an hour) are alike, so whole blocks are exchanged between reference and
window. That is exact only if blocks of both sides are alike in size too: the share of a small day
is noisier. Three steps make them so, by counts alone:

1. Thinning: each block is reduced to the smaller of the two sides' sizes at its rank (multivariate
   hypergeometric draws), so that the sizes of both sides have one distribution. This is repeated
   several times, the p-values are combined by Cauchy, the e-values averaged.
2. Strata: blocks are exchanged within their weekday (hours: hour of the day) where there are
   enough, so that a weekly pattern of sizes or shares is no drift and no noise.
3. Studentising: a permutation's statistic is divided by the standard deviation that the sizes of
   its blocks give it, `a n + b n^2` by block, fitted to all blocks.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from modelkeep.evaluation import two_sample
from modelkeep.evaluation.binning import Bins
from modelkeep.evaluation.profile import Profile
from modelkeep.evaluation.two_sample import Tests

THINNINGS, JOINT_THINNINGS = 4, 2  # of the columns' tests, and of all columns together
ENOUGH = 20_000  # arrangements within strata from which strata are kept
FEW, SETTLED = 2_000, 0.02  # permutations of a first stage; a p-value above which it is enough
CYCLE = {"D": 7, "h": 24}  # blocks that are alike are so many apart


@dataclass(frozen=True)
class Design:
    """How blocks are exchanged: which are in the window (window blocks, permutations + 1), first as
    observed; the rows of each side after thinning; whether anything was thinned, and the strata.
    """

    drawn: np.ndarray
    rows: tuple[np.ndarray, np.ndarray]
    thinned: bool
    stratified: bool
    kept: tuple[float, float] = (1.0, 1.0)  # share of the rows of each side

    def __str__(self) -> str:
        parts = ["within weekdays or hours of the day"] if self.stratified else []
        if self.thinned:
            before, now = self.kept
            parts.append(
                f"blocks thinned to equal sizes ({before:.0%} of the reference's rows kept, "
                f"{now:.0%} of the window's; {THINNINGS} draws)"
            )
        return ", ".join(parts) or "blocks of equal sizes"


def design(
    reference: Profile, window: Profile, permutations: int, rng: np.random.Generator
) -> Design:
    """Choose sizes, strata and permutations for these two sides; blocks without rows are kept."""
    rows = matched_sizes(reference.rows, window.rows)
    thinned = any((a != b.rows).any() for a, b in zip(rows, (reference, window), strict=True))
    before, now = len(reference.rows), len(window.rows)
    strata = _strata(reference, window)
    stratified = arrangements(strata, now) >= ENOUGH
    if not stratified:
        strata = np.zeros(before + now, int)
    kept = tuple(
        float(a.sum() / max(b.rows.sum(), 1))
        for a, b in zip(rows, (reference, window), strict=True)
    )
    drawn = _draw(strata, now, permutations, rng)
    return Design(drawn, rows, thinned, stratified, kept)


def matched_sizes(before: np.ndarray, now: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the sizes to which blocks are thinned: by rank, the smaller of both quantiles."""
    return _matched(before, now), _matched(now, before)


def _matched(rows: np.ndarray, other: np.ndarray) -> np.ndarray:
    order = np.argsort(rows, kind="stable")
    rank = np.empty(len(rows))
    rank[order] = np.arange(len(rows))
    place = (rank + 0.5) / len(rows) * len(other) - 0.5
    quantiles = np.interp(place, np.arange(len(other)), np.sort(other))
    return np.minimum(rows, np.maximum(np.floor(quantiles + 0.5), 1)).astype(np.int64)


def thinned(counts: np.ndarray, rows: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Draw so many rows of each block (blocks, bins) without replacement."""
    left = counts.sum(axis=1)
    if (left == rows).all():
        return counts
    kept, rows = np.zeros_like(counts), rows.copy()
    for i in range(counts.shape[1]):
        left = left - counts[:, i]
        kept[:, i] = rng.hypergeometric(counts[:, i], left, rows)
        rows -= kept[:, i]
    return kept


def _strata(reference: Profile, window: Profile) -> np.ndarray:
    """Return each block's place in its cycle: weekday of days, hour of the day of hours."""
    sides = [p.blocks for p in (reference, window)]
    if any(blocks is None for blocks in sides):
        return np.zeros(len(reference.rows) + len(window.rows), int)
    blocks = np.concatenate(sides)
    return blocks.astype(np.int64) % CYCLE[np.datetime_data(blocks.dtype)[0]]


def arrangements(strata: np.ndarray, now: int) -> int:
    """Return in how many ways the window's blocks (the last `now`) can be drawn within strata."""
    window = np.bincount(strata[len(strata) - now :], minlength=strata.max() + 1)
    return math.prod(map(math.comb, np.bincount(strata).tolist(), window.tolist()))


def _draw(strata: np.ndarray, now: int, permutations: int, rng: np.random.Generator) -> np.ndarray:
    first = len(strata) - now
    drawn, at = np.empty((now, permutations + 1), np.intp), 0
    drawn[:, 0] = np.arange(first, len(strata))
    for stratum in np.unique(strata[first:]):
        blocks = np.flatnonzero(strata == stratum)
        k = np.count_nonzero(blocks >= first)
        keys = rng.random((permutations, len(blocks)))
        chosen = np.argpartition(keys, k - 1, axis=1)[:, :k]
        drawn[at : at + k, 1:] = blocks[chosen].T
        at += k
    return drawn


def _statistics(
    reference: Profile, window: Profile, plan: Design, rng: np.random.Generator
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield for each column the combined statistic and the |z| of its bins by permutation."""
    rows = np.concatenate(plan.rows).astype(float)
    sizes = _Sizes(rows, plan.drawn)
    share = min(side.sum() for side in plan.rows) / rows.sum()
    for b in reference.bins:
        sides = zip((reference, window), plan.rows, strict=True)
        counts = np.concatenate([thinned(p.counts[b.name], n, rng) for p, n in sides])
        counts = _inner(b, counts)
        roots = np.sqrt(counts * rows[:, None])  # roots of shares: no odd block drowns the others
        pools, scores = _contrasts(b, counts.sum(axis=0), share)
        z = sizes.studentised(np.hstack([roots, roots @ pools, roots @ scores]), plan.drawn)
        width = roots.shape[1]
        single, pooled, rank = np.split(z, [width, width + pools.shape[1]], axis=1)
        yield _combined(single, pooled, rank), single


class _Sizes:
    """The rows of each permutation's window, and what they say of the variance of a difference."""

    def __init__(self, rows: np.ndarray, drawn: np.ndarray) -> None:
        self.rows, total = rows, rows.sum()
        self.window = _taken(rows[:, None], drawn)
        squares, both = _taken(np.square(rows)[:, None], drawn), np.square(rows).sum()
        rest = np.maximum(total - self.window, 1)
        self.factor = total / (np.maximum(self.window, 1) * rest)
        self.linear = 1 / np.maximum(self.window, 1) + 1 / rest
        self.squared = squares / np.maximum(self.window, 1) ** 2 + (both - squares) / rest**2

    def studentised(self, values: np.ndarray, drawn: np.ndarray) -> np.ndarray:
        """Return |z| (permutations + 1, columns) of window against reference means of `values`."""
        rows = self.rows[:, None]
        mean = values.sum(axis=0) / rows.sum()
        apart = (_taken(values, drawn) - self.window * mean) * self.factor
        spread = np.square(values - rows * mean) / np.maximum(rows, 1)  # a + b n, by block
        slope = np.zeros(values.shape[1])
        if (variance := rows.var()) > 0:
            centred = (rows - rows.mean()).T @ (spread - spread.mean(axis=0)) / len(rows)
            slope = np.clip(centred[0] / variance, 0, spread.mean(axis=0) / rows.mean())
        level = spread.mean(axis=0) - slope * rows.mean()
        sd = np.sqrt(level * self.linear + slope * self.squared)
        return _scaled(np.divide(apart, sd, out=np.zeros_like(apart), where=sd > 1e-12))


def _taken(values: np.ndarray, drawn: np.ndarray) -> np.ndarray:
    """Sum the blocks of each permutation; a product with 0 and 1 would start BLAS's threads."""
    total = values.take(drawn[0], axis=0)
    for blocks in drawn[1:]:
        total += values.take(blocks, axis=0)
    return total


def _inner(b: Bins, counts: np.ndarray) -> np.ndarray:
    """Count what the reference cannot hold with its neighbours: it is tested by itself."""
    if b.kind == "category":
        return two_sample.merged(b, counts)
    inner = counts[:, 1:-2].copy() if counts.shape[1] > 3 else np.zeros_like(counts[:, :1])
    inner[:, 0] += counts[:, 0]
    inner[:, -1] += counts[:, -2]
    return np.concatenate([inner, counts[:, -1:]], axis=1)


def _contrasts(b: Bins, both: np.ndarray, share: float) -> tuple[np.ndarray, np.ndarray]:
    """Return what makes pooled bins of bins, and of numbers their midranks from -.5 to .5."""
    groups = two_sample.pooled_groups(both, share, b.kind == "number")
    pools = np.eye(groups.max() + 1)[groups]
    if b.kind != "number" or both[:-1].sum() == 0:
        return pools, np.zeros((len(both), 0))
    ranks = both[:-1].cumsum() - both[:-1] / 2
    scores = np.append(ranks / both[:-1].sum() - 0.5, 0.0)  # missing: neither low nor high
    return pools, scores[:, None]


def _combined(single: np.ndarray, pooled: np.ndarray, rank: np.ndarray) -> np.ndarray:
    """Return the log of the summed exp(z^2/2) of the three tests, from |z| by permutation."""
    bins = max(1, np.count_nonzero(single.max(axis=0)))
    largest = np.square(single.max(axis=1)) / 2 - math.log(bins)
    spread = np.square(np.maximum(_wilson_hilferty(np.einsum("ij,ij->i", pooled, pooled)), 0)) / 2
    return np.logaddexp.reduce([largest, spread, *(np.square(rank.T) / 2)])


def _scaled(apart: np.ndarray) -> np.ndarray:
    """Return |z|: each column over its root mean square among the permutations."""
    spread = np.sqrt(np.einsum("ij,ij->j", apart, apart) / len(apart))
    return np.abs(apart) / np.where(spread > 1e-12, spread, np.inf)


def _wilson_hilferty(x: np.ndarray) -> np.ndarray:
    """Make nearly normal what is nearly a multiple of chi-square, by its mean and variance."""
    if x.var() <= 1e-24 * max(x.mean(), 1e-12) ** 2:
        return np.zeros(len(x))
    wide = x.var() / x.mean() ** 2 / 9  # 2 / (9 df)
    return ((x / x.mean()) ** (1 / 3) - 1 + wide) / math.sqrt(wide)


def _p(x: np.ndarray) -> float:
    """Return the p-value of the first among all: the share that are as large."""
    return float((x >= x[0] - 1e-9 * abs(x[0])).mean())


def staged_tests(
    reference: Profile, window: Profile, permutations: int, rng: np.random.Generator
) -> tuple[list[Tests], Design]:
    """Test each column by blocks, with so many permutations where few do not settle it.

    Many columns ask for p-values so small that their permutations grow with the square of the
    columns. So a p-value above `SETTLED` after `FEW` permutations stays, and only columns with one
    below are tested again by all. That is valid: with p1 and p2 of the two stages, the result is
    at most t only if p1 <= t (for t above `SETTLED`), or p2 <= t (for t below).
    """
    few = FEW if permutations > 2 * FEW else permutations
    plan = design(reference, window, few, rng)
    tests = block_tests(reference, window, plan, rng)
    again = [i for i, t in enumerate(tests) if min(t.p, t.missing) <= SETTLED]
    if few == permutations or not again:
        return tests, plan
    plan = design(reference, window, permutations, rng)
    some = replace(reference, bins=tuple(reference.bins[i] for i in again))
    for i, second in zip(again, block_tests(some, window, plan, rng), strict=True):
        p, missing = tests[i].p, tests[i].missing
        p = second.p if p <= SETTLED else p
        tests[i] = second._replace(p=p, missing=second.missing if missing <= SETTLED else missing)
    return tests, plan


def block_tests(
    reference: Profile, window: Profile, plan: Design, rng: np.random.Generator
) -> list[Tests]:
    """Test each column; the p-values of several thinnings are combined by Cauchy."""
    repeats = THINNINGS if plan.thinned else 1
    found = []
    for _ in range(repeats):
        drawn = _statistics(reference, window, plan, rng)
        found.append([(_p(x), _p(z[:, -1])) for x, z in drawn])
    tests = []
    for b, draws in zip(reference.bins, zip(*found, strict=True), strict=True):
        p, missing = (
            two_sample.cauchy(each) if repeats > 1 else each[0] for each in zip(*draws, strict=True)
        )
        unseen = two_sample.unseen_p(b, reference, window, "blocks")
        outside = two_sample.outside_p(b, reference, window)
        p = two_sample.cauchy([p, min(unseen, outside)], [0.9, 0.1])
        tests.append(Tests(p, missing, outside, unseen))
    return tests


def joint_ps(
    reference: Profile, window: Profile, plan: Design, rng: np.random.Generator
) -> list[float]:
    """Return the p-value of all columns of a window together, one for each thinning."""
    found = []
    for _ in range(JOINT_THINNINGS if plan.thinned else 1):
        statistics = [x for x, _ in _statistics(reference, window, plan, rng)]
        found.append(_p(np.logaddexp.reduce(statistics)))
    return found
