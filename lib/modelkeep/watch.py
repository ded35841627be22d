"""Has the world moved, how good are we, what should be done: windows of answers weighed into one decision.

Everything automatic here is one of two detectors, each a Shiryaev-Roberts sum of e-values with half of the yearly budget of false pages.
One watches the inputs and predictions (`drift`), one the realised quality. What is only seen in one window informs; it never pages.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
from scipy.special import stdtr

from modelkeep import drift, models, reference, scores, traffic
from modelkeep.profile import Profile
from modelkeep.schema import Schema

PAST_WINDOWS = 2  # labelled windows that the estimate is corrected by
YEAR_DAYS = 365.25


@dataclass(frozen=True)
class Window:
    """Rows of one stretch of time with what is known of their quality; `past` ones were answered in training's own test."""

    start: str
    rows: int
    labelled: int
    past: bool
    realised: dict[str, float]
    estimated: dict[str, float] = field(default_factory=dict)
    corrected: dict[str, float] = field(default_factory=dict)
    low: dict[str, float] = field(default_factory=dict)
    high: dict[str, float] = field(default_factory=dict)

    @property
    def coverage(self) -> float:
        """The share of rows whose label is known."""
        return self.labelled / self.rows if self.rows else np.nan


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
    past, now = (cut(rows, of, window_days, window_rows) for rows in (promise, log))
    windows = quality(of, past, now, min_labels)
    counted = [reference.count(rows, of, against) for _, rows in now]
    moves = tuple(drift.compare(against, c, fdr=fdr, draws=draws, seed=seed) for c in counted)
    budget = {"windows_a_year": YEAR_DAYS / window_days, "budget": pages_a_year / 2}
    drifted = np.array(drift.detect(against, counted, **budget, seed=seed).path) if now else np.zeros(0)
    declined = evidence(surprise(windows)[len(past) :])
    limit = budget["windows_a_year"] / budget["budget"]
    paths = {"drift_path": drifted, "quality_path": declined, "limit": limit}
    return Seen(
        tuple(windows), moves, **paths, decision=decide(windows, moves, **paths, min_coverage=min_coverage)
    )


def cut(rows: pd.DataFrame, of: Schema, days: int, size: int) -> list[tuple[str, pd.DataFrame]]:
    """Whole windows of `days` days counted back from the newest day, or of `size` rows where there is no time, each with its name."""
    if of.time is None:
        first = len(rows) % size
        return [(f"row {i}", rows.iloc[i : i + size]) for i in range(first, len(rows), size)]
    if rows.empty:
        return []
    day = rows[of.time].to_numpy().astype("datetime64[D]")
    end = day.max() + 1
    back = (end - day).astype(int) - 1
    return [
        (str(end - days * k), rows[back // days == k - 1])
        for k in range((int(back.max()) + 1) // days, 0, -1)
    ]


def quality(of: Schema, past: Sequence, now: Sequence, minimum: int) -> list[Window]:
    """Each window's realised quality and what was believed of it before its labels came; `past` and `now` are as `cut` gives them."""
    windows, seen, misses = [], [], {}
    for i, (start, rows) in enumerate([*past, *now]):
        labelled = rows[rows[of.label].notna()]
        p = traffic.answers(rows, of)
        real = _realised(of, labelled) if len(labelled) >= minimum else {}
        estimated, corrected = _beliefs(of, p, seen)
        low, high = _band(corrected, misses)
        window = Window(start, len(rows), len(labelled), i < len(past), real, estimated, corrected)
        windows.append(Window(**{**vars(window), "low": low, "high": high}))
        for name in corrected.keys() & real.keys():
            misses.setdefault(name, []).append(abs(real[name] - corrected[name]))
        if len(labelled) >= minimum:
            seen.append((models.outcome(labelled, of), traffic.answers(labelled, of)))
    return windows


def _realised(of: Schema, rows: pd.DataFrame) -> dict[str, float]:
    y, p = models.outcome(rows, of), traffic.answers(rows, of)
    found = {k: float(np.mean(v)) for k, v in scores.per_row(of.task, y, p).items()}
    if of.task != "multiclass":
        found["bias"] = float(np.mean(p - y if of.task == "regression" else p[:, 1] - y))
    return found


def _beliefs(of: Schema, p: np.ndarray, seen: list) -> tuple[dict, dict]:
    """Quality believed without this window's labels: as the model says, and corrected by the newest labelled windows."""
    newest = seen[-PAST_WINDOWS:]
    past_y = np.concatenate([y for y, _ in newest]) if newest else None
    past_p = np.concatenate([q for _, q in newest]) if newest else None
    if of.task == "regression":
        if not newest:
            return {}, {}
        first = scores.expected_errors(p, *map(np.concatenate, zip(*seen, strict=True)))
        return first, scores.expected_errors(p, past_y, past_p)
    estimated = scores.expected(of.task, p)
    if not newest:
        return estimated, {}
    return estimated, scores.expected(of.task, p, scores.recalibrated(p, past_y, past_p))


def _band(
    corrected: dict[str, float], misses: dict[str, list], cover: float = 0.9
) -> tuple[dict, dict]:
    """An interval from the estimate's own past misses: their conformal quantile, unknown while they are too few for it."""
    low, high = {}, {}
    for name, value in corrected.items():
        past = np.sort(misses.get(name, []))
        place = int(np.ceil((len(past) + 1) * cover))
        half = past[place - 1] if place <= len(past) else np.nan
        low[name], high[name] = value - half, value + half
    return low, high


def surprise(windows: Sequence[Window]) -> np.ndarray:
    """Per window an e-value of realised quality being worse than in all windows before (t of the next observation; averaged over metrics); NaN where it cannot be told."""
    found = np.full(len(windows), np.nan)
    for i, window in enumerate(windows):
        e = []
        for name, value in window.realised.items():
            before = np.array([w.realised[name] for w in windows[:i] if name in w.realised])
            before = before[np.isfinite(before)]
            if len(before) >= 3 and np.std(before) > 0 and np.isfinite(value):
                e.append(drift.evalue(_p_worse(name, value, before)))
        found[i] = np.mean(e) if e else np.nan
    return found


def _p_worse(name: str, value: float, before: np.ndarray) -> float:
    k = len(before)
    t = (value - before.mean()) / (np.std(before, ddof=1) * np.sqrt(1 + 1 / k))
    if name == "bias":
        return float(2 * stdtr(k - 1, -abs(t)))
    return float(stdtr(k - 1, t if name in scores.HIGHER_IS_BETTER else -t))


def evidence(e: np.ndarray) -> np.ndarray:
    """The Shiryaev-Roberts sum R_t = (1 + R_{t-1}) e_t; a window that tells nothing leaves it as it was."""
    path, total = [], 0.0
    for value in e:
        total = total if np.isnan(value) else (1 + total) * value
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
    """One decision from the collected windows, their drift and the two sums of evidence; labels decide on retraining, and without labels nothing is fine."""
    now = [w for w in windows if not w.past]
    if not now:
        return Decision("look", ("no window of answers has been collected, so nothing is known",))
    judged = [w for w in now if w.realised]
    retrain = _quality_reasons(now, quality_path, limit)
    reasons = [*_drift_reasons(moves, drift_path, limit), *_label_reasons(now, min_coverage)]
    if retrain:
        return Decision("retrain", (*retrain, *reasons))
    held = f"realised quality holds: evidence of a decline {_last(quality_path):.3g}, {limit:,.0f} would page"
    if reasons:
        return Decision("look", (*reasons, held) if judged else tuple(reasons))
    still = f"no drift: evidence {_last(drift_path):.3g}, {limit:,.0f} would page"
    return Decision("fine", (held, still))


def _last(path: np.ndarray) -> float:
    return float(path[-1]) if len(path) else 0.0


def _quality_reasons(now: Sequence[Window], path: np.ndarray, limit: float) -> list[str]:
    crossed = np.flatnonzero(path >= limit)
    if not len(crossed):
        return []
    first = now[int(crossed[0])]
    parts = [f"evidence {path[crossed[0]]:,.3g} in the window from {first.start}, {limit:,.0f} pages"]
    return [f"realised quality has declined: {parts[0]}"]


def _drift_reasons(moves: Sequence[drift.Drift], path: np.ndarray, limit: float) -> list[str]:
    reasons, newest = [], moves[-1] if moves else None
    crossed = np.flatnonzero(path >= limit)
    if len(crossed):
        reasons.append(f"inputs have moved: evidence {_last(path):,.3g}, {limit:,.0f} pages")
    for column in newest.columns if newest else ():
        for finding in column.findings:
            reasons.append(f"newest window, {column.name}: {finding}")
    return reasons


def _label_reasons(now: Sequence[Window], least: float) -> list[str]:
    if not any(w.realised for w in now):
        return ["no window has enough labels: realised quality is unknown"]
    due = now[:-PAST_WINDOWS] or now[:1]
    missing = [w for w in due if w.coverage < least]
    if not missing:
        return []
    worst = min(missing, key=lambda w: w.coverage)
    return [
        f"labels are missing in {len(missing)} of {len(due)} windows that should have them (least {worst.coverage:.0%} from {worst.start}; at least {least:.0%} are wanted)"
    ]
