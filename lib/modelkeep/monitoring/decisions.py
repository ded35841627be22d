"""Has the world moved, how good are we, what should be done: windows of answers weighed into one decision.

Everything automatic here is one of two detectors, each a Shiryaev-Roberts sum of e-values with half of the yearly budget of false pages.
One watches the inputs (`drift`), one the realised quality. What is only seen in one window informs; it never pages.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from modelkeep.core.errors import ModelkeepError
from modelkeep.data.schema import Schema
from modelkeep.evaluation import drift, metrics
from modelkeep.evaluation.profile import Profile
from modelkeep.monitoring.windows import Window, cut, quality
from modelkeep.training import reference

DUE_WINDOWS = 2  # the newest windows may still wait for labels
YEAR_DAYS = 365.25


class WatchError(ModelkeepError, ValueError):
    """Windows or a budget that nothing can be watched with."""


@dataclass(frozen=True)
class Decision:
    """What to do (`fine`, `look` or `retrain`) and why, in numbers."""

    state: str
    reasons: tuple[str, ...]


@dataclass(frozen=True)
class Seen:
    """All that one look at a log found: windows, what moved in each collected one, the two sums of evidence, and the decision."""

    windows: tuple[Window, ...]
    moves: tuple[drift.Drift, ...]
    drift_path: np.ndarray
    quality_path: np.ndarray
    limit: float
    decision: Decision

    @property
    def now(self) -> tuple[Window, ...]:
        """The collected windows, oldest first."""
        return tuple(w for w in self.windows if not w.past)


def look(
    promise: pd.DataFrame,
    against: Profile,
    log: pd.DataFrame,
    of: Schema,
    *,
    window_days: int,
    window_rows: int,
    pages_a_year: float,
    fdr: float,
    draws: int,
    min_labels: int,
    min_coverage: float,
    seed: int,
) -> Seen:
    """Weigh a log against the bundle's promise and reference; the same log gives the same decision."""
    least = {"window_days": (window_days, 1), "window_rows": (window_rows, 1)}
    least |= {"min_labels": (min_labels, 1), "pages_a_year": (pages_a_year, 1e-9)}
    for name, (value, bound) in least.items():
        if value < bound:
            raise WatchError(f"{name}: {value} is below {bound:g}; raise it in params/monitor.yaml")
    past, now = (cut(rows, of, window_days, window_rows) for rows in (promise, log))
    windows = quality(of, past, now, min_labels)
    counted = [reference.count(rows, of, against) for _, rows in now]
    moves = tuple(
        drift.compare(against, c, fdr=fdr, permutations=draws, seed=seed) for c in counted
    )
    chances = {"pages_a_year": pages_a_year, "min_coverage": min_coverage, "seed": seed}
    return weigh(windows, counted, moves, against, window_days=window_days, **chances)


def weigh(
    windows: Sequence[Window],
    counted: Sequence[Profile],
    moves: Sequence[drift.Drift],
    against: Profile,
    *,
    window_days: int,
    pages_a_year: float,
    min_coverage: float,
    seed: int,
) -> Seen:
    """Weigh windows whose quality is known and whose rows were counted (`counted` and `moves` are of the collected ones); `moves` only inform, so the decision is the same without them."""
    budget = {"windows_per_year": YEAR_DAYS / window_days}
    budget["false_alarms_per_year"] = pages_a_year / 2
    drifted = _drifted(against, counted, seed, **budget)
    declined = evidence(surprise(windows, seed=seed)[len(windows) - len(counted) :])
    limit = budget["windows_per_year"] / budget["false_alarms_per_year"]
    paths = {"drift_path": drifted, "quality_path": declined, "limit": limit}
    decision = decide(windows, moves, **paths, min_coverage=min_coverage)
    return Seen(tuple(windows), tuple(moves), **paths, decision=decision)


def _drifted(
    against: Profile, counted: Sequence[Profile], seed: int, **budget: float
) -> np.ndarray:
    if not counted:
        return np.zeros(0)
    inputs = [reference.inputs(c) for c in (against, *counted)]
    return np.array(drift.detect(inputs[0], inputs[1:], **budget, seed=seed).path)


def surprise(windows: Sequence[Window], draws: int = 1999, seed: int = 0) -> np.ndarray:
    """Per collected window an e-value of realised quality being worse than in all windows before, by exchanging whole days between them (averaged over metrics); NaN where it cannot be told."""
    found = np.full(len(windows), np.nan)
    for i, window in enumerate(windows):
        before = [w.daily for w in windows[:i] if w.daily]
        days = {k: np.concatenate([*(d[k] for d in before), x]) for k, x in window.daily.items()}
        total = max((len(x) for x in days.values()), default=0)
        if before and not window.past and total >= drift.LEAST_BLOCKS:
            new = total - sum(len(next(iter(d.values()))) for d in before)
            taken = _draws(total, new, draws, np.random.default_rng([seed, i]))
            p = [_p_worse(name, x, taken) for name, x in days.items()]
            found[i] = np.mean([drift.evalue(each) for each in p])
    return found


def _draws(days: int, new: int, draws: int, random: np.random.Generator) -> np.ndarray:
    """Which days are in the window (draws + 1, days): first the newest, as it was, then any."""
    taken = np.zeros((draws + 1, days))
    taken[0, days - new :] = 1
    drawn = np.argpartition(random.random((draws, days)), new - 1, axis=1)[:, :new]
    np.put_along_axis(taken[1:], drawn, 1.0, axis=1)
    return taken


def _p_worse(name: str, days: np.ndarray, taken: np.ndarray) -> float:
    """The share of draws that are as bad as the first; a draw that tells nothing is as bad."""
    value, rows = days.T
    n = taken @ rows
    mean = np.divide(taken @ (value * rows), n, out=np.full(len(n), np.nan), where=n > 0)
    bad = np.abs(mean) if name == "bias" else -mean if name in metrics.HIGHER_IS_BETTER else mean
    return float((~(bad < bad[0] - 1e-9 * abs(bad[0]))).mean())


def evidence(e: np.ndarray) -> np.ndarray:
    """The Shiryaev-Roberts sum R_t = (1 + R_{t-1}) e_t; a window that tells nothing leaves it as it was, which is unknown (NaN) at first."""
    path, total = [], np.nan
    for value in e:
        if not np.isnan(value):
            total = min((1 + (0 if np.isnan(total) else total)) * float(value), 1e300)
        path.append(total)
    return np.array(path)


def decide(
    windows: Sequence[Window],
    moves: Sequence[drift.Drift],
    drift_path: np.ndarray,
    quality_path: np.ndarray,
    *,
    limit: float,
    min_coverage: float,
) -> Decision:
    """One decision from all windows, the drift of the collected ones and the two sums of evidence; labels decide on retraining, and without labels nothing is fine. What one window shows is noted, and changes nothing: it is not within the budget."""
    now = [w for w in windows if not w.past]
    if not now:
        return Decision(
            "look", ("no whole window of answers has been collected: nothing is known",)
        )
    noted = _noted(moves)
    reasons = [
        *_drift_reasons(now, drift_path, limit),
        *_label_reasons(now, quality_path, min_coverage),
    ]
    if declined := _quality_reasons(windows, quality_path, limit):
        return Decision("retrain", (*declined, *reasons, *noted))
    held = f"no decline of realised quality: {_against(_last(quality_path), limit)}"
    if reasons:
        known = [] if np.isnan(quality_path[-1]) else [held]
        return Decision("look", (*reasons, *known, *noted))
    still = f"no drift: {_against(_last(drift_path), limit)}"
    return Decision("fine", (held, still, *noted))


def _against(evidence: float, limit: float) -> str:
    shown = f"{evidence:,.0f}" if evidence >= 100 else f"{evidence:.2g}"
    return f"evidence {shown} of the {limit:,.0f} that page"


def _last(path: np.ndarray) -> float:
    return float(path[-1]) if len(path) else 0.0


def _crossed(now: Sequence[Window], path: np.ndarray, limit: float) -> tuple[int, str]:
    """The first window in which evidence reached the limit, in words as well; -1 if there is none."""
    if not (path >= limit).any():
        return -1, ""
    at = int(np.argmax(path >= limit))
    return at, f"{_against(path[at], limit)}, in the window from {now[at].start}"


def _quality_reasons(windows: Sequence[Window], path: np.ndarray, limit: float) -> list[str]:
    now = [w for w in windows if not w.past]
    at, told = _crossed(now, path, limit)
    if at < 0:
        return []
    reasons, before = [f"realised quality has declined: {told}"], windows[: at - len(now)]
    for name, value in now[at].realised.items():
        usual = np.array([w.realised[name] for w in before if name in w.realised])
        usual = usual[np.isfinite(usual)]
        if len(usual) and np.isfinite(value):
            said = metrics.NAMES.get(name, name)
            reasons.append(f"{said} was {value:.4g} there, {usual.mean():.4g} on average before")
    return reasons


def _drift_reasons(now: Sequence[Window], path: np.ndarray, limit: float) -> list[str]:
    at, told = _crossed(now, path, limit)
    return [f"inputs have moved: {told}"] if at >= 0 else []


def _noted(moves: Sequence[drift.Drift]) -> list[str]:
    return [
        f"noted in the newest window, {column.name}: {finding}"
        for column in (moves[-1].columns if moves else ())
        for finding in column.findings
    ]


def _label_reasons(now: Sequence[Window], path: np.ndarray, least: float) -> list[str]:
    if not any(w.realised for w in now):
        return ["no window has enough labels: realised quality is unknown"]
    reasons, due = [], now[:-DUE_WINDOWS]
    if np.isnan(path[-1]):
        few = f"fewer than {drift.LEAST_BLOCKS} days have labels, those of training's test included"
        reasons.append(f"a decline cannot be told from chance yet: {few}")
    if due and not due[-1].realised:
        few = f"{due[-1].labelled:,} of {due[-1].rows:,} answers have a label"
        reasons.append(f"the window from {due[-1].start} cannot be judged: {few}")
    if missing := [w for w in due if w.coverage < least]:
        worst = min(missing, key=lambda w: w.coverage)
        reasons.append(
            f"labels are missing in {len(missing)} of {len(due)} windows that should have them "
            f"(least {worst.coverage:.0%} from {worst.start}; at least {least:.0%} are wanted)"
        )
    return reasons
