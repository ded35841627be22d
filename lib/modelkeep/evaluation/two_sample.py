"""Do two profiles come from one distribution? P-values by column from counts: of rows, of blocks."""

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from modelkeep.evaluation.binning import Bins
from modelkeep.evaluation.profile import Profile


def normal(z: float) -> float:
    """Return P(|Z| >= |z|) for a standard normal Z."""
    return math.erfc(abs(z) / math.sqrt(2))


def chi2(x: float, df: int) -> float:
    """Return P(X >= x) for chi-square, whole df (the finite sums of Abramowitz and Stegun 26.4)."""
    if df <= 0 or x <= 0:
        return 1.0
    odd, half = df % 2, x / 2
    powers = (k + odd / 2 for k in range(df // 2))
    total = sum(math.exp(k * math.log(half) - half - math.lgamma(k + 1)) for k in powers)
    return min(1.0, total + (math.erfc(math.sqrt(half)) if odd else 0.0))


def unseen(count: int, once: int, before: int, now: int) -> float:
    """Return P(at least `count` of `now` rows are of categories that `before` rows do not hold).

    From the categories seen `once`, as Good and Turing do, with room for one more: new categories
    are negative binomial, the rows of each geometric; summed by Fourier's inversion.
    """
    share = now / (before + now)
    length = 1 << (256 + (256 + 2 * (once + 1)) * now // before).bit_length()
    if count >= length:
        return 1e-12
    z = np.exp(-2j * np.pi * np.arange(length) / length)
    chances = np.fft.ifft(((1 - share * z) / (1 + share - 2 * share * z)) ** (once + 1)).real
    return min(1.0, max(1e-12, 1 - float(chances[:count].sum())))


def hypergeometric(count: int, drawn: int, marked: int, total: int) -> float:
    """Return twice the tail, on its side of the mean, of `count` marked ones among those drawn."""
    if count * total < drawn * marked:
        count, marked = drawn - count, total - marked
    top = min(drawn, marked)
    log_first = _log_choose(marked, count) - _log_choose(total, drawn)
    log_first += _log_choose(total - marked, drawn - count)
    k = np.arange(count, min(top, count + 5000))
    ratios = (marked - k) * (drawn - k) / ((k + 1) * (total - marked - drawn + k + 1.0))
    return min(1.0, 2 * math.exp(log_first) * (1 + float(np.cumprod(ratios).sum())))


def _log_choose(n: int, k: int) -> float:
    return math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)


def cauchy(p: Sequence[float], weights: Sequence[float] | None = None) -> float:
    """Combine p-values that may depend on each other (Liu and Xie 2020); no p counts above .9."""
    t = np.average(1 / np.tan(np.pi * np.clip(p, 1e-300, 0.9)), weights=weights)
    return math.atan2(1.0, t) / math.pi


def sidak(p: float, tests: int) -> float:
    """Return the p-value of the smallest of `tests` p-values."""
    return 1.0 if p >= 1 or tests == 0 else -math.expm1(tests * math.log1p(-p))


def discoveries(p: Sequence[float], fdr: float) -> np.ndarray:
    """Return which p-values are rejected at this false discovery rate (Benjamini and Hochberg)."""
    p = np.asarray(p)
    passed = np.sort(p) <= fdr * np.arange(1, len(p) + 1) / len(p)
    last = np.flatnonzero(passed)[-1] + 1 if passed.any() else 0
    return np.argsort(np.argsort(p, kind="stable")) < last


def evalue(p: float) -> float:
    """Turn a p-value into an e-value: the integral of k p^(k-1) over k (Vovk and Wang 2021)."""
    p = min(max(p, 1e-12), 1 - 1e-6)
    log = math.log(p)
    return (1 - p + p * log) / (p * log * log)


POOLED = 5  # rows expected in a pooled bin
EXACT = 25  # rows expected below which a bin's tail is summed exactly, not taken as normal


class Tests(NamedTuple):
    """P-values of one column: altogether, and of what has a name of its own."""

    p: float
    missing: float
    outside: float
    unseen: float


def _merged(b: Bins, counts: np.ndarray) -> np.ndarray:
    """Count unseen categories as rare: the reference has none of them by definition."""
    if b.kind == "number":
        return counts
    rare = counts[..., -3:-2] + counts[..., -2:-1]
    return np.concatenate([counts[..., :-3], rare, counts[..., -1:]], axis=-1)


def row_tests(b: Bins, reference: Profile, window: Profile) -> Tests:
    """Test one column, rows taken as independent: rank sum, X2 and largest bin, combined."""
    before, now = (_merged(b, p.counts[b.name].sum(axis=0)) for p in (reference, window))
    single, unseen = bin_p(before, now), _unseen_p(b, reference, window, "rows")
    parts = [
        spread_p(before, now, b.kind == "number"),
        sidak(single.min(), int((before + now > 0).sum())),
    ]
    if b.kind == "number":
        p = cauchy([*parts, rank_p(before[:-1], now[:-1])])
        return Tests(p, single[-1], min(1.0, 2 * min(single[0], single[-2])), 1.0)
    p = cauchy([cauchy(parts), unseen], [0.9, 0.1])
    return Tests(p, single[-1], 1.0, unseen)


def rank_p(before: np.ndarray, now: np.ndarray) -> float:
    """Return the two-sided p of the rank sum with midranks in ordered bins (tie-corrected z).

    It is 1 where so few rows are outside the heaviest bin that z would be far from normal.
    """
    both, n, m = (before + now).astype(float), float(now.sum()), float(before.sum())
    t = n + m
    if min(n, m) * (t - both.max()) <= EXACT * t:  # also where there is no row at all
        return 1.0
    spread = (t + 1) - (both**3 - both).sum() / (t * (t - 1))
    ranks = both.cumsum() - (both - 1) / 2
    return normal((now @ ranks - n * (t + 1) / 2) / math.sqrt(n * m * spread / 12))


def _groups(both: np.ndarray, share: float, ordered: bool) -> np.ndarray:
    """Pool bins to at least 5 rows expected on the smaller side: neighbours, or the smallest."""
    groups, group, rows = np.zeros(len(both), int), 0, 0.0
    for i in range(len(both)) if ordered else np.argsort(-both, kind="stable"):
        groups[i] = group
        rows += both[i] * share
        if rows >= POOLED:
            group, rows = group + 1, 0.0
    return np.minimum(groups, max(group - 1, 0))


def spread_p(before: np.ndarray, now: np.ndarray, ordered: bool) -> float:
    """Return the p of Pearson's X2 over pooled bins."""
    share = min(before.sum(), now.sum()) / (before.sum() + now.sum())
    groups = _groups(before + now, share, ordered)
    seen = np.array([np.bincount(groups, before), np.bincount(groups, now)])
    expected = seen.sum(1, keepdims=True) * seen.sum(0) / seen.sum()
    return chi2(float(((seen - expected) ** 2 / expected).sum()), len(seen[0]) - 1)


def bin_p(before: np.ndarray, now: np.ndarray) -> np.ndarray:
    """Return the two-sided p of each bin against all others."""
    both, n, m = before + now, int(now.sum()), int(before.sum())
    t = n + m
    p = np.ones(len(both))
    for i in np.flatnonzero((both > 0) & (both < t)):
        marked = int(both[i])
        if min(n, m) * min(marked, t - marked) < EXACT * t:
            p[i] = hypergeometric(int(now[i]), n, marked, t)
        else:
            variance = n * m * marked * (t - marked) / t / t / (t - 1)
            p[i] = normal((now[i] - n * marked / t) / math.sqrt(variance))
    return p


def _unseen_p(b: Bins, reference: Profile, window: Profile, by: str) -> float:
    """Return the p of as many unseen categories, given how many the reference holds once."""
    before, now = (p.counts[b.name][:, -2] for p in (reference, window))
    if b.kind == "number" or now.sum() == 0:
        return 1.0
    if by == "blocks":
        sizes, before, now = (len(before), len(now)), before > 0, now > 0
    else:
        sizes = (int(reference.rows.sum()), int(window.rows.sum()))
    return unseen(int(now.sum()), b.once + int(before.sum()), *sizes)


def _shuffled(
    reference: Profile, window: Profile, draws: int, rng: np.random.Generator
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield for each column the weight of evidence and the |z| of its bins, observed, then drawn."""
    rows = np.concatenate([reference.rows, window.rows]).astype(float)
    blocks, now = len(rows), len(window.rows)
    drawn = np.empty((now, draws + 1), np.intp)
    drawn[:, 0] = np.arange(blocks - now, blocks)
    drawn[:, 1:] = np.argpartition(rng.random((draws, blocks)), now - 1, axis=1)[:, :now].T
    size = _taken(rows[:, None], drawn)
    factor = rows.sum() / (size * (rows.sum() - size))
    share = min(window.rows.sum(), reference.rows.sum()) / rows.sum()
    for b in reference.bins:
        counts = _merged(b, np.concatenate([p.counts[b.name] for p in (reference, window)]))
        roots = np.sqrt(counts * rows[:, None])  # roots of shares: no odd block drowns the others
        pools, scores = _contrasts(b, counts.sum(axis=0), share)
        seen = np.hstack([roots, roots @ pools, roots @ scores])
        apart = _taken(seen, drawn)
        apart -= size * (seen.sum(axis=0) / rows.sum())
        apart *= factor
        single, pooled, rank = np.split(_scaled(apart), _ends(roots, pools), axis=1)
        yield _weigh(single, pooled, rank), single


def _taken(values: np.ndarray, drawn: np.ndarray) -> np.ndarray:
    """Sum the blocks of each draw; a product with 0 and 1 would start BLAS's threads."""
    total = values.take(drawn[0], axis=0)
    for blocks in drawn[1:]:
        total += values.take(blocks, axis=0)
    return total


def _ends(*parts: np.ndarray) -> np.ndarray:
    return np.cumsum([part.shape[1] for part in parts])


def _contrasts(b: Bins, both: np.ndarray, share: float) -> tuple[np.ndarray, np.ndarray]:
    """Return what makes pooled bins of bins, and of numbers their midranks from -.5 to .5."""
    groups = _groups(both, share, b.kind == "number")
    pools = np.eye(groups.max() + 1)[groups]
    if b.kind != "number" or both[:-1].sum() == 0:
        return pools, np.zeros((len(both), 0))
    ranks = both[:-1].cumsum() - both[:-1] / 2
    scores = np.append(ranks / both[:-1].sum() - 0.5, 0.0)  # missing: neither low nor high
    return pools, scores[:, None]


def _weigh(single: np.ndarray, pooled: np.ndarray, rank: np.ndarray) -> np.ndarray:
    """Return the log of the summed exp(z^2/2) of the three tests, from |z| by draw."""
    bins = max(1, np.count_nonzero(single.max(axis=0)))
    largest = np.square(single.max(axis=1)) / 2 - math.log(bins)
    spread = np.square(np.maximum(_wilson_hilferty(np.einsum("ij,ij->i", pooled, pooled)), 0)) / 2
    return np.logaddexp.reduce([largest, spread, *(np.square(rank.T) / 2)])


def _scaled(apart: np.ndarray) -> np.ndarray:
    """Return |z|: each column over its root mean square among the draws."""
    spread = np.sqrt(np.einsum("ij,ij->j", apart, apart) / len(apart))
    return np.abs(apart) / np.where(spread > 1e-12, spread, np.inf)


def _wilson_hilferty(x: np.ndarray) -> np.ndarray:
    """Make nearly normal what is nearly a multiple of chi-square, by its mean and variance."""
    if x.var() == 0:
        return np.zeros(len(x))
    wide = x.var() / x.mean() ** 2 / 9  # 2 / (9 df)
    return ((x / x.mean()) ** (1 / 3) - 1 + wide) / math.sqrt(wide)


def _rank_among(x: np.ndarray) -> float:
    """Return the p of the first among all: the share that are as large."""
    return float((x >= x[0] - 1e-9 * abs(x[0])).mean())


def block_tests(
    reference: Profile, window: Profile, draws: int, rng: np.random.Generator
) -> Iterator[Tests]:
    """Test each column by exchanging whole blocks between reference and window at random."""
    shuffled = _shuffled(reference, window, draws, rng)
    for b, (weight, z) in zip(reference.bins, shuffled, strict=True):
        p, missing = _rank_among(weight), _rank_among(z[:, -1])
        if b.kind == "number":
            yield Tests(p, missing, _rank_among(np.maximum(z[:, 0], z[:, -2])), 1.0)
        else:
            unseen = _unseen_p(b, reference, window, "blocks")
            yield Tests(cauchy([p, unseen], [0.9, 0.1]), missing, 1.0, unseen)


def joint_p(past: Profile, window: Profile, by: str, draws: int, rng: np.random.Generator) -> float:
    """Return one p for all columns of a window together."""
    if by == "blocks":
        weights = [weight for weight, _ in _shuffled(past, window, draws, rng)]
        return _rank_among(np.logaddexp.reduce(weights))
    return cauchy([row_tests(b, past, window).p for b in past.bins])
