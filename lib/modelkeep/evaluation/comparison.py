"""Is the candidate better, non-inferior, worse, or undecided? Paired, clustered in time.

Both models answer the same rows, which neither has trained on. Per row and metric there is one gain
(positive: the candidate is better). Its mean is judged by blocks of time: rows of one day are
alike, and a test that takes them for independent sees evidence that is not there.
"""

from dataclasses import asdict, dataclass, replace

import numpy as np
from scipy.special import stdtr, stdtrit

from modelkeep.core.errors import ModelkeepError
from modelkeep.evaluation import metrics

MINIMUM_BLOCKS = 30
CHANGED = {"binary": 0.05, "multiclass": 0.05, "regression": 0.1}  # probability, or share of sd


class LeakError(ModelkeepError, RuntimeError):
    """A test row that a model was trained on: no comparison on it means anything."""


@dataclass(frozen=True)
class Gain:
    """The candidate's mean gain in one metric, between its one-sided limits."""

    metric: str
    gain: float
    low: float
    high: float
    margin: float
    verdict: str
    rows: int
    blocks: int
    design_effect: float


@dataclass(frozen=True)
class Verdict:
    """One word, the gains behind it, and the gain in each named slice."""

    word: str
    gains: tuple[Gain, ...]
    alpha: float
    slices: tuple[dict, ...] = ()

    def as_dict(self) -> dict:
        """Plain data for JSON."""
        return asdict(self)


def gains(
    task: str, y: np.ndarray, candidate: np.ndarray, champion: np.ndarray
) -> dict[str, np.ndarray]:
    """Per metric and row, how much better the candidate is than the champion."""
    ours, theirs = metrics.per_row(task, y, candidate), metrics.per_row(task, y, champion)
    sign = {name: 1 if name in metrics.HIGHER_IS_BETTER else -1 for name in ours}
    return {name: sign[name] * (ours[name] - theirs[name]) for name in ours}


def margins(
    task: str, y: np.ndarray, champion: np.ndarray, auc: float = 0.005, loss: float = 0.005
) -> dict[str, float]:
    """What counts as non-inferior: `auc` is absolute, `loss` a share of the champion's loss."""
    rows = metrics.per_row(task, y, champion)
    return {k: auc if k == "auc" else loss * float(np.mean(v)) for k, v in rows.items()}


def judge(
    x: dict[str, np.ndarray], blocks: np.ndarray, margin: dict[str, float], alpha: float = 0.05
) -> Verdict:
    """One verdict over all metrics; each limit is one-sided at `alpha`.

    `better`: every lower limit is above 0. `non_inferior`: every lower limit is above minus the
    margin, also where the interval excludes 0. `worse`: some upper limit is below 0 and that
    metric's interval reaches below minus the margin. `inconclusive`: anything else.
    `insufficient`: fewer than 30 blocks.
    """
    found = tuple(_gain(name, x[name], blocks, margin[name], alpha) for name in x)
    words = {g.verdict for g in found}
    if min(g.blocks for g in found) < MINIMUM_BLOCKS:
        return Verdict("insufficient", found, alpha)
    for word, holds in (
        ("worse", "worse" in words),
        ("better", words == {"better"}),
        ("non_inferior", words <= {"better", "non_inferior"}),
    ):
        if holds:
            return Verdict(word, found, alpha)
    return Verdict("inconclusive", found, alpha)


@dataclass(frozen=True)
class Churn:
    """How many predictions a release changes, whoever is right: shares of the rows.

    `changed`: by more than `threshold` (.05 of probability for any class; regression: a tenth of
    the champion's standard deviation). `changed_class`: another class is the most probable one;
    None for regression. `mean_change` is absolute.
    """

    changed: float
    changed_class: float | None
    mean_change: float
    threshold: float
    rows: int


def churn(task: str, candidate: np.ndarray, champion: np.ndarray) -> Churn:
    """Compare the predictions of both models on the same rows, as `predict` returns them."""
    change = np.abs(candidate - champion)
    threshold = CHANGED[task]
    if task == "regression":
        threshold *= float(np.std(champion))
        other = None
    else:
        change = change.max(axis=1)
        other = float(np.mean(candidate.argmax(axis=1) != champion.argmax(axis=1)))
    share = float(np.mean(change > threshold))
    return Churn(share, other, float(change.mean()), threshold, len(change))


def _gain(name: str, x: np.ndarray, blocks: np.ndarray, margin: float, alpha: float) -> Gain:
    m = metrics.clustered(x, blocks)
    low, high = _limits(m, alpha)
    if low > 0:
        word = "better"
    elif low > -margin:
        word = "non_inferior"  # also where it is surely worse: by less than matters
    else:
        word = "worse" if high < 0 else "inconclusive"
    return Gain(name, m.value, low, high, margin, word, m.rows, m.blocks, m.design_effect)


def _limits(m: metrics.Estimate, alpha: float) -> tuple[float, float]:
    """One-sided limits of a mean by t, moved by what its skewness makes them miss (Johnson 1978).

    A candidate that fails badly on a few days is flattered by a test without such a day, which
    takes its gains for more certain than they are.
    """
    if m.blocks < 2:
        return np.nan, np.nan
    t = float(stdtrit(m.blocks - 1, 1 - alpha))
    middle = m.value + m.skewness * m.se * (1 + 2 * t**2) / (6 * m.blocks**0.5)
    return middle - t * m.se, middle + t * m.se


def judge_slices(
    verdict: Verdict,
    x: np.ndarray,
    blocks: np.ndarray,
    slices: dict[str, np.ndarray],
    alpha: float = 0.05,
) -> Verdict:
    """The verdict once no named slice may be worse in `x`, the gains of the verdict's first metric.

    As of all rows, a slice whose interval lies within the metric's margin is not `worse`, also
    where it excludes 0. Holm's correction keeps the chance of one false `worse` over all slices at
    `alpha`.
    """
    rows = [_slice(name, x[inside], blocks[inside]) for name, inside in slices.items()]
    testable = sorted((r for r in rows if not np.isnan(r["p"])), key=lambda r: r["p"])
    for i, row in enumerate(testable):
        if row["p"] >= alpha / (len(testable) - i):
            break
        if row["low"] < -verdict.gains[0].margin:
            row["verdict"] = "worse"
    fails = any(r["verdict"] == "worse" for r in rows)
    return replace(verdict, word="worse" if fails else verdict.word, slices=tuple(rows))


def _slice(name: str, x: np.ndarray, blocks: np.ndarray) -> dict:
    """One slice's gain, and the p-value of its being worse."""
    m = metrics.clustered(x, blocks)
    p = float(m.value >= 0) if m.se == 0 else float(stdtr(m.blocks - 1, m.value / m.se))
    enough = m.blocks >= MINIMUM_BLOCKS and np.isfinite(p)
    return {
        "slice": name,
        "gain": m.value,
        "low": m.low,
        "high": m.high,
        "rows": m.rows,
        "blocks": m.blocks,
        "p": p if enough else np.nan,
        "verdict": "not shown worse" if enough else "insufficient",
    }


def refuse_leaks(test_rows: np.ndarray, trained_rows: np.ndarray, who: str) -> int:
    """How many test rows were checked; LeakError if `who` was trained on any of them (both are
    arrays of row hashes).
    """
    leaked = np.isin(test_rows, trained_rows)
    if leaked.any():
        raise LeakError(
            f"{int(leaked.sum())} of {len(test_rows)} test rows were in the training set of {who} "
            f"(the first is row {int(np.argmax(leaked))}); a test row must be new to both models: "
            "move the test window later, or name a champion that was trained before it"
        )
    return len(test_rows)
