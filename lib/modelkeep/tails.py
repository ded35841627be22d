"""Tail probabilities and what combines them, in NumPy alone: importing SciPy takes 0.6 s."""

import math
from collections.abc import Sequence

import numpy as np


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
