"""P-values that two samples of rows come from one distribution, by column and from counts alone.

Here rows are independent; `permutation` has the tests for blocks of rows that are alike.
"""

import math
from collections.abc import Sequence
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


def merged(b: Bins, counts: np.ndarray) -> np.ndarray:
    """Count unseen categories as rare: the reference has none of them by definition."""
    if b.kind == "number":
        return counts
    rare = counts[..., -3:-2] + counts[..., -2:-1]
    return np.concatenate([counts[..., :-3], rare, counts[..., -1:]], axis=-1)


def row_tests(b: Bins, reference: Profile, window: Profile) -> Tests:
    """Test one column, rows taken as independent: rank sum, X2 and largest bin, combined."""
    before, now = (merged(b, p.counts[b.name].sum(axis=0)) for p in (reference, window))
    single, unseen = bin_p(before, now), unseen_p(b, reference, window, "rows")
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


def pooled_groups(both: np.ndarray, share: float, ordered: bool) -> np.ndarray:
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
    groups = pooled_groups(before + now, share, ordered)
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


def unseen_p(b: Bins, reference: Profile, window: Profile, by: str) -> float:
    """Return the p of as many unseen categories, given how many the reference holds once."""
    before, now = (p.counts[b.name][:, -2] for p in (reference, window))
    if b.kind == "number" or now.sum() == 0:
        return 1.0
    if by == "blocks":
        sizes, before, now = _block_sizes(reference, window), before > 0, now > 0
    else:
        sizes = (int(reference.rows.sum()), int(window.rows.sum()))
    return unseen(int(now.sum()), b.once + int(before.sum()), *sizes)


def outside_p(b: Bins, reference: Profile, window: Profile) -> float:
    """Return the two-sided p of as many blocks that hold numbers beyond the reference's range.

    Which blocks hold the largest (smallest) numbers is exchangeable: beta-binomial, given how many
    blocks of `reference` lie beyond since the range was fixed.
    """
    if b.kind != "number" or not b.edges:
        return 1.0
    n, m = _block_sizes(reference, window)
    tails = []
    for place in (0, -2):
        before, now = (np.count_nonzero(p.counts[b.name][:, place]) for p in (reference, window))
        tails.append(beta_binomial(now, m, 1 + before, max(n - before, 1)))
    return min(1.0, 2 * min(tails))


def _block_sizes(reference: Profile, window: Profile) -> tuple[int, int]:
    """Return the blocks of both sides; of larger blocks more hold something new."""
    larger = window.rows.mean() / max(reference.rows.mean(), 1)
    return len(reference.rows), round(len(window.rows) * max(1.0, larger))


def beta_binomial(count: int, trials: int, a: float, b: float) -> float:
    """Return P(K >= count) of a binomial whose probability is beta distributed."""
    if count <= 0:
        return 1.0

    def log_beta(x: float, y: float) -> float:
        return math.lgamma(x) + math.lgamma(y) - math.lgamma(x + y)

    terms = (
        _log_choose(trials, k) + log_beta(a + k, b + trials - k) - log_beta(a, b)
        for k in range(count, trials + 1)
    )
    return min(1.0, sum(map(math.exp, terms)))
