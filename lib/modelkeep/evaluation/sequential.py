"""Sequential tests of two rates, valid at every interim analysis: counts in, log e-values out.

The e-value of a stratum is the likelihood of an alternative over that of the nearest point of the
null hypothesis (Turner, Ly and Gruenwald, arXiv 2106.02693). Strata multiply, whatever rates each
has, as long as all keep the null hypothesis: so the base rate may drift.
Arrays have one row a metric (the judge) or one a simulated rollout (the benchmark).
"""

import math
from dataclasses import dataclass

import numpy as np

WORSE = (1.05, 1.1, 1.2, 1.5, 2.0, 4.0, 10.0)  # so many times the champion's rate
BETTER = (1.0, 0.95, 0.9, 0.8, 0.5)  # with halfway to the margin: what refutes it
RESTART, RESTARTS = 10, 40  # a fresh process each so many strata, at most so many
MEMORY = 1 / 15  # weight of the newest stratum in the champion's expected rate
LEAST = 1e-7  # rates are taken as between this and one less this
ENTITIES = 1000  # how firmly the sample ratio is expected, in entities


@dataclass(frozen=True)
class Evidence:
    """The champion's expected rate (nan: not known), strata weighed, and log e by alternative.

    `starts` holds `log_worse` as it was when each process of the mixture began (rows, processes,
    alternatives).
    """

    base: np.ndarray
    weighed: np.ndarray
    log_worse: np.ndarray
    log_noninferior: np.ndarray
    starts: np.ndarray


def begin(base: np.ndarray) -> Evidence:
    """Return no evidence; `base` is the champion's rate by row, nan where nothing is known."""
    rows = len(base)
    worse, noninferior = np.zeros((rows, len(WORSE))), np.zeros((rows, len(BETTER) + 1))
    starts = np.zeros((rows, 0, len(WORSE)))
    return Evidence(base, np.zeros(rows, int), worse, noninferior, starts)


def weigh(evidence: Evidence, counts: np.ndarray, margin: np.ndarray, tolerated: float) -> Evidence:
    """Return the evidence after one stratum a row: champion rows, bad ones, canary rows, bad ones.

    `margin` (by row) is what the canary is not to exceed, `tolerated` the rate below which the
    champion's counts as this one. A row's first stratum without a known base only estimates the
    base; one without rows on a side is no evidence.
    """
    counts, new = np.asarray(counts, float), np.isnan(evidence.base)
    n_a, x_a, n_b, _ = counts.T
    base = np.where(new, (x_a + 0.5) / (n_a + 1), evidence.base)
    counts = np.where(new[:, None], 0, counts)
    used = ~new & (n_a > 0) & (n_b > 0)
    logs = growth(counts, base, *nulls(margin, tolerated))
    split = len(WORSE)
    return Evidence(
        base=np.where(n_a > 0, expect(base, n_a, np.where(new, base * n_a, x_a)), evidence.base),
        weighed=evidence.weighed + used,
        log_worse=evidence.log_worse + logs[:, :split],
        log_noninferior=evidence.log_noninferior + logs[:, split:],
        starts=_starts(evidence, used),
    )


def nulls(margin: np.ndarray, tolerated: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return alternatives, margins and tolerated rates of both tests side by side: worse, and
    non-inferior.
    """
    margin = np.asarray(margin, float)[..., None]
    same = np.ones_like(margin)
    worse, better = same * np.array(WORSE), same * np.array(BETTER)
    rho = np.concatenate([worse, 1 + (margin - 1) / 2, better], axis=-1)
    margins = np.where(np.arange(rho.shape[-1]) < len(WORSE), 1.0, margin)
    return rho, margins, np.where(np.arange(rho.shape[-1]) < len(WORSE), 0.0, tolerated)


def growth(
    counts: np.ndarray, base: np.ndarray, rho: np.ndarray, margin: np.ndarray, tolerated: np.ndarray
) -> np.ndarray:
    """Return log e by alternative (base, rho * base).

    The null hypothesis is `pB <= pA` (margin 1, rho above) or `pB >= margin * max(pA, tolerated)`
    (rho below).
    """
    n_a, x_a, n_b, x_b = (counts[..., i, None] for i in range(4))
    t_a = np.minimum(np.maximum(base[..., None], LEAST), 1 - LEAST)
    expected = np.maximum(t_a, tolerated)
    t_b = np.minimum(rho * expected, (1 + expected) / 2)
    b = n_a * (1 + margin * t_a) + n_b * (t_b + margin)
    c = n_a * t_a + n_b * t_b
    # b * b - 4 * margin * (n_a + n_b) * c; this form loses no digits where both rates are near 1
    square = (n_a * (1 - margin * t_a) + n_b * (margin - t_b)) ** 2
    square += 4 * n_a * n_b * (margin - 1) * (margin * t_a - t_b)
    root = np.sqrt(np.maximum(square, 0))
    u = np.maximum(2 * c / np.maximum(b + root, 1e-300), 1e-300)
    v = margin * np.maximum(u, tolerated)
    u = np.where(u < tolerated, np.minimum(t_a, tolerated), u)  # its edge or corner is nearest
    some = (n_a > 0) & (n_b > 0)
    u, v = np.where(some, u, 0.5), np.where(some, v, 0.5)
    logs = x_a * np.log(t_a / u) + (n_a - x_a) * np.log((1 - t_a) / (1 - u))
    logs += x_b * np.log(t_b / v) + (n_b - x_b) * np.log((1 - t_b) / (1 - v))
    return np.where(some, logs, 0.0)


def expect(base: np.ndarray, rows: np.ndarray, bad: np.ndarray) -> np.ndarray:
    """Return the champion's rate as expected after a stratum of so many rows."""
    updated = base + MEMORY * (bad / np.maximum(rows, 1) - base)
    return np.minimum(np.maximum(updated, LEAST), 1 - LEAST)


def log_e_worse(evidence: Evidence) -> np.ndarray:
    """Return the log e-value by row that the canary is worse.

    Mixes processes that began one after another, of weights 1/(k(k+1)); one not begun stays at 1.
    """
    k = np.arange(evidence.starts.shape[1])
    running = k * RESTART < evidence.weighed[:, None]
    logs = mean(evidence.log_worse[:, None, :] - evidence.starts)
    logs = np.where(running, logs, 0) - np.log((k + 1.0) * (k + 2.0))
    rest = np.full((len(logs), 1), -math.log(len(k) + 1))  # 1 less all these weights
    return mean(np.concatenate([logs, rest], axis=1)) + math.log(len(k) + 1)


def log_e_noninferior(evidence: Evidence) -> np.ndarray:
    """Return the log e-value by row that the canary is not worse by the margin."""
    return mean(evidence.log_noninferior)


def mean(logs: np.ndarray) -> np.ndarray:
    """Return the logarithm of the mean over the last axis."""
    top = logs.max(axis=-1)
    return top + np.log(np.exp(logs - top[..., None]).sum(axis=-1) / logs.shape[-1])


def sample_ratio_mismatch(champion: int, canary: int, share: float) -> float:
    """Return the log e-value of a wrong sample ratio (beta-binomial).

    The null hypothesis: each entity goes to the canary with probability `share`.
    """
    a, b = ENTITIES * share, ENTITIES * (1 - share)
    mixed = _log_beta(a + canary, b + champion) - _log_beta(a, b)
    return mixed - canary * math.log(share) - champion * math.log1p(-share)


def _log_beta(a: float, b: float) -> float:
    return math.lgamma(a) + math.lgamma(b) - math.lgamma(a + b)


def _starts(evidence: Evidence, used: np.ndarray) -> np.ndarray:
    slot, starts = evidence.weighed // RESTART, evidence.starts
    fresh = used & (evidence.weighed % RESTART == 0) & (slot < RESTARTS)
    if not fresh.any():
        return starts
    if missing := max(0, int(slot[fresh].max()) + 1 - starts.shape[1]):
        starts = np.pad(starts, ((0, 0), (0, missing), (0, 0)))
    starts = starts.copy()
    starts[fresh, slot[fresh]] = evidence.log_worse[fresh]
    return starts
