"""Benefit against retrains: weekly differences of policies with intervals, and the choice."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from modelkeep.core.errors import ModelkeepError
from modelkeep.evaluation import metrics

ENOUGH = 0.98  # share of the weekly gain that counts as retained
NEVER, WEEKLY = "never", "every week"


class FrontierError(ModelkeepError, ValueError):
    """Courses that cannot be compared."""


@dataclass(frozen=True)
class Course:
    """One policy's metrics by week, each an array, and its number of retrains."""

    name: str
    retrains: int
    quality: Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Interval:
    """A mean over weeks with its limits; `probability`: share of bootstrap samples above 0."""

    value: float
    low: float
    high: float
    probability: float


@dataclass(frozen=True)
class Choice:
    """The policy to choose, the share of bootstrap samples that choose it, and the others'
    shares.
    """

    name: str
    probability: float
    others: dict[str, float]


def bootstrap_weeks(weeks: int, length: int, times: int, seed: int) -> np.ndarray:
    """Bootstrap samples (times, weeks) of week numbers, in blocks of `length` weeks.

    The last week precedes the first: circular block bootstrap (Politis and Romano 1992).
    """
    if not 1 <= length <= weeks:
        raise FrontierError(
            f"block_weeks: {length} is not from 1 to the {weeks} weeks; set it in "
            "params/backtest.yaml"
        )
    random, blocks = np.random.default_rng(seed), -(-weeks // length)
    first = random.integers(0, weeks, (times, blocks, 1))
    return ((first + np.arange(length)) % weeks).reshape(times, -1)[:, :weeks]


def gains(metric: str, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """By how much `a` is better than `b`, by week."""
    return (a - b) * (1 if metric in metrics.HIGHER_IS_BETTER else -1)


def interval(x: np.ndarray, samples: np.ndarray, confidence: float = 0.95) -> Interval:
    """The mean of the known values of `x`, with percentiles of the bootstrap means."""
    means, tail = _means(x, samples), (1 - confidence) / 2
    if not np.isfinite(means).any():
        return Interval(*[np.nan] * 4)
    low, high = np.nanquantile(means, [tail, 1 - tail])
    return Interval(
        float(_means(x, np.arange(len(x))[None])[0]),
        float(low),
        float(high),
        float(np.mean(means > 0)),
    )


def _means(x: np.ndarray, samples: np.ndarray) -> np.ndarray:
    known = np.isfinite(x)
    n = known[samples].sum(axis=1)
    return np.divide(
        np.where(known, x, 0)[samples].sum(axis=1), n, out=np.full(len(n), np.nan), where=n > 0
    )


def benefit_retained(
    metric: str, policy: Course, never: Course, weekly: Course, samples: np.ndarray
) -> tuple[Interval, float]:
    """The share of the weekly gain that a policy retains, and the share of samples above ENOUGH.

    NaN where retraining every week gains nothing.
    """
    q = metric
    parts = [gains(q, c.quality[q], never.quality[q]) for c in (policy, weekly)]
    shares = _shares(*(_means(x, samples) for x in parts))
    value = _shares(*(_means(x, np.arange(len(x))[None]) for x in parts))[0]
    if not np.isfinite(value):
        return Interval(*[np.nan] * 4), np.nan
    low, high = np.nanquantile(shares, [0.025, 0.975])
    enough = float(np.mean(shares >= ENOUGH))
    return Interval(float(value), float(low), float(high), float(np.mean(shares > 0))), enough


def _shares(ours: np.ndarray, weekly: np.ndarray) -> np.ndarray:
    return np.divide(ours, weekly, out=np.full(len(ours), np.nan), where=weekly > 0)


def choose(
    metric: str, policies: Sequence[Course], never: Course, weekly: Course, samples: np.ndarray
) -> Choice:
    """The policy with the fewest retrains that retains ENOUGH of the weekly gain.

    `never` where there is no gain.
    """
    every = [never, *(c for c in policies if c.name not in (never.name, weekly.name)), weekly]
    means = np.array(
        [_means(gains(metric, c.quality[metric], never.quality[metric]), samples) for c in every]
    )
    spent = np.array([c.retrains for c in every], float)
    picked = [_pick(column, spent) for column in means.T]
    now = np.arange(len(weekly.quality[metric]))[None]
    means_now = [
        _means(gains(metric, c.quality[metric], never.quality[metric]), now)[0] for c in every
    ]
    best = _pick(np.array(means_now), spent)
    share = {c.name: float(np.mean(np.array(picked) == i)) for i, c in enumerate(every)}
    others = {k: v for k, v in share.items() if v >= 0.05 and k != every[best].name}
    others = dict(sorted(others.items(), key=lambda item: -item[1]))
    return Choice(every[best].name, share[every[best].name], others)


def _pick(gain: np.ndarray, spent: np.ndarray) -> int:
    """The cheapest that retains ENOUGH, the better of equally cheap ones; 0 is never, -1 weekly."""
    if not gain[-1] > 0:
        return 0
    enough = np.flatnonzero(gain >= ENOUGH * gain[-1])
    return int(min(enough, key=lambda i: (spent[i], -gain[i])))


def read(text: str, name: str, retrains: int) -> dict[str, Course]:
    """The courses of `plots/backtest.csv`: the policy's (called `name`), never, every week,
    oracle.
    """
    lines = text.strip().split("\n")
    head = lines[0].split(",")
    cells = [line.split(",") for line in lines[1:]]
    values = {
        k: np.array([float(row[i] or "nan") for row in cells]) for i, k in enumerate(head) if i
    }
    spent = {"policy": retrains, "never": 0, "weekly": len(cells) - 1, "level": 0, "oracle": 0}
    spent["monthly"] = (len(cells) - 1) // 4
    named = {"policy": name, "never": NEVER, "weekly": WEEKLY, "oracle": "oracle"}
    named |= {"monthly": "every 4 weeks", "level": "a new level every 4 weeks"}
    spent = {k: n for k, n in spent.items() if f"{head[1].rpartition('_')[0]}_{k}" in head}
    metrics = [k.removesuffix("_policy") for k in head if k.endswith("_policy")]
    return {k: Course(named[k], spent[k], {m: values[f"{m}_{k}"] for m in metrics}) for k in spent}


def starts(text: str) -> list[str]:
    """The weeks of a `plots/backtest.csv`."""
    return [line.split(",")[0] for line in text.strip().split("\n")[1:]]
