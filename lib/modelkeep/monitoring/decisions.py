"""Have inputs drifted, has quality declined, what to do: one decision from windows of predictions.

Two detectors see slow changes, each a Shiryaev-Roberts sum of e-values with half of the yearly
budget of false alarms: one watches the inputs (`drift`), one the realised quality; `slices` watches
the realised quality of parts, with half as much again. Guards see a
collapse at once, labels or loss of one of the newest windows far outside their own past; by chance
they hold in less than 1 of 500 (labels) and 1 of 140 windows (loss), from eight past windows on in
1 of 1,600 and 1 of 1,000 (`evaluation.guards`). Anything else of one window is noted.

Columns that follow the calendar drift with the season. Where the reference holds the same weeks of
earlier years, windows are compared with these. Where it does not, such columns are left to the
column guard, which compares with the weeks just before.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from modelkeep.core.errors import ModelkeepError
from modelkeep.core.markup import several, significant
from modelkeep.data.schema import Schema
from modelkeep.evaluation import drift, guards, metrics, seasons
from modelkeep.evaluation.guards import Guard
from modelkeep.evaluation.profile import Profile
from modelkeep.monitoring.windows import Window, cut, quality
from modelkeep.training.reference import count, inputs

GUARDED_WINDOWS = 2  # the newest judged windows, in which a guard that holds is a reason
DUE_WINDOWS = 2  # the newest windows may still wait for labels
YEAR_DAYS = 365.25
LOSSES = ("log_loss", "squared_error")


class WatchError(ModelkeepError, ValueError):
    """Windows or a budget of false alarms that the monitor cannot use."""


@dataclass(frozen=True)
class Decision:
    """The state (`ok`, `investigate` or `retrain`), and its reasons in numbers."""

    state: str
    reasons: tuple[str, ...]


@dataclass(frozen=True)
class Season:
    """The season in the reference: its months, and the columns that follow the calendar.

    `matched`: windows were compared with the same weeks of earlier years. Else `path` is the
    detector's sum over the other columns, and `guard` the column guard of the newest window.
    """

    matched: bool
    months: float
    columns: tuple[str, ...] = ()
    path: np.ndarray = field(default_factory=lambda: np.zeros(0), compare=False)
    guard: Guard | None = None


@dataclass(frozen=True)
class MonitoringResult:
    """The windows of a log, the drift of each collected one, both sums, and the decision."""

    windows: tuple[Window, ...]
    drifts: tuple[drift.Drift, ...]
    drift_path: np.ndarray
    quality_path: np.ndarray
    limit: float
    decision: Decision
    season: Season

    @property
    def now(self) -> tuple[Window, ...]:
        """The collected windows, oldest first."""
        return tuple(w for w in self.windows if not w.past)


def analyze(
    out_of_fold: pd.DataFrame,
    reference: Profile,
    log: pd.DataFrame,
    schema: Schema,
    *,
    window_days: int,
    window_rows: int,
    false_alarms_per_year: float,
    fdr: float,
    permutations: int,
    min_labels: int,
    min_coverage: float,
    seed: int,
) -> MonitoringResult:
    """Judge a log by the bundle's out-of-fold predictions and reference.

    The same log gives the same decision. WatchError if a setting is too small.
    """
    least = {"window_days": (window_days, 1), "window_rows": (window_rows, 1)}
    least |= {"min_labels": (min_labels, 1), "false_alarms_per_year": (false_alarms_per_year, 1e-9)}
    for name, (value, bound) in least.items():
        if value < bound:
            raise WatchError(f"{name}: {value} is below {bound:g}; raise it in params/monitor.yaml")
    past, now = (cut(rows, schema, window_days, window_rows) for rows in (out_of_fold, log))
    windows = quality(schema, past, now, min_labels)
    counted = [count(rows, schema, reference) for _, rows in now]
    drifts = tuple(
        drift.compare(reference, c, fdr=fdr, permutations=permutations, seed=seed) for c in counted
    )
    chances = {
        "false_alarms_per_year": false_alarms_per_year,
        "min_coverage": min_coverage,
        "seed": seed,
    }
    return weigh(windows, counted, drifts, reference, window_days=window_days, **chances)


def weigh(
    windows: Sequence[Window],
    counted: Sequence[Profile],
    drifts: Sequence[drift.Drift],
    reference: Profile,
    *,
    window_days: int,
    false_alarms_per_year: float,
    min_coverage: float,
    seed: int,
) -> MonitoringResult:
    """Judge windows of known quality; `counted` and `drifts` are those of the collected ones.

    `drifts` only inform: the decision is the same without them.
    """
    budget = {"windows_per_year": YEAR_DAYS / window_days}
    budget["false_alarms_per_year"] = false_alarms_per_year / 2
    drifted, season = _drifted(reference, counted, seed, **budget)
    declined = evidence(surprise(windows, seed=seed)[len(windows) - len(counted) :])
    limit = budget["windows_per_year"] / budget["false_alarms_per_year"]
    paths = {"drift_path": drifted, "quality_path": declined, "limit": limit}
    decision = decide(windows, drifts, **paths, min_coverage=min_coverage, season=season)
    return MonitoringResult(
        tuple(windows), tuple(drifts), **paths, decision=decision, season=season
    )


def _drifted(
    reference: Profile, counted: Sequence[Profile], seed: int, **budget: float
) -> tuple[np.ndarray, Season]:
    """The detector's path over all inputs, and the season."""
    profile, *windows = (inputs(c) for c in (reference, *counted))
    months = seasons.months(profile)
    if not windows:
        return np.zeros(0), Season(False, months)
    matched = seasons.matched(profile, windows)
    found = drift.detect(profile, windows, **budget, seed=seed, references=matched)
    path = np.array(found.path)
    if matched or months is None or not (path >= found.threshold).any():
        return path, Season(bool(matched), months)
    columns = seasons.calendar_columns(profile, seed=seed)
    if not columns:
        return path, Season(False, months)
    kept = [seasons.without(p, columns) for p in (profile, *windows)]
    rest = drift.detect(kept[0], kept[1:], **budget, seed=seed).path
    guard = seasons.newest_guard(profile, windows, columns)
    return path, Season(False, months, columns, np.array(rest), guard)


def surprise(windows: Sequence[Window], permutations: int = 1999, seed: int = 0) -> np.ndarray:
    """The e-value, by collected window, that realised quality is worse than in all windows before.

    By permutation of whole days, averaged over metrics; NaN where it is unknown.
    """
    found = np.full(len(windows), np.nan)
    for i, window in enumerate(windows):
        before = [w.daily for w in windows[:i] if w.daily]
        days = {k: np.concatenate([*(d[k] for d in before), x]) for k, x in window.daily.items()}
        total = max((len(x) for x in days.values()), default=0)
        if before and not window.past and total >= drift.LEAST_BLOCKS:
            new = total - sum(len(next(iter(d.values()))) for d in before)
            taken = permuted(total, new, permutations, np.random.default_rng([seed, i]))
            p = [p_worse(name, x, taken) for name, x in days.items()]
            found[i] = np.mean([drift.evalue(each) for each in p])
    return found


def permuted(days: int, new: int, permutations: int, random: np.random.Generator) -> np.ndarray:
    """Days of the window (permutations + 1, days): the actual one first, then at random."""
    taken = np.zeros((permutations + 1, days))
    taken[0, days - new :] = 1
    drawn = np.argpartition(random.random((permutations, days)), new - 1, axis=1)[:, :new]
    np.put_along_axis(taken[1:], drawn, 1.0, axis=1)
    return taken


def p_worse(name: str, days: np.ndarray, taken: np.ndarray) -> float:
    """The share of permutations as bad as the first; one without a value counts as bad."""
    value, rows = days.T
    n = taken @ rows
    mean = np.divide(taken @ (value * rows), n, out=np.full(len(n), np.nan), where=n > 0)
    bad = np.abs(mean) if name == "bias" else -mean if name in metrics.HIGHER_IS_BETTER else mean
    return float((~(bad < bad[0] - 1e-9 * abs(bad[0]))).mean())


def evidence(e: np.ndarray) -> np.ndarray:
    """The Shiryaev-Roberts sum R_t = (1 + R_{t-1}) e_t, NaN at first; NaN leaves it unchanged."""
    path, total = [], np.nan
    for value in e:
        if not np.isnan(value):
            total = min((1 + (0 if np.isnan(total) else total)) * float(value), 1e300)
        path.append(total)
    return np.array(path)


def decide(
    windows: Sequence[Window],
    drifts: Sequence[drift.Drift],
    drift_path: np.ndarray,
    quality_path: np.ndarray,
    *,
    limit: float,
    min_coverage: float,
    season: Season | None = None,
) -> Decision:
    """One decision from all windows, the drift of the collected ones, and both detectors' sums.

    Labels decide on retraining, and without labels nothing is ok. A label guard that holds goes
    before everything, for such labels teach a model nothing good; a loss guard turns ok into
    investigate. Other findings of one window are noted.
    """
    now = [w for w in windows if not w.past]
    if not now:
        reason = "no whole window of predictions has been collected: nothing is known"
        return Decision("investigate", (reason,))
    noted = _noted(drifts)
    collapsed, held, passed = _guarded(windows, min_coverage)
    drifted, explained = _drift_reasons(now, drift_path, limit, season)
    reasons = [*held, *drifted, *_label_reasons(now, quality_path, min_coverage)]
    noted = [*explained, *passed, *noted]
    declined = _quality_reasons(windows, quality_path, limit)
    if collapsed:
        return Decision("investigate", (*collapsed, *declined, *reasons, *noted))
    if declined:
        return Decision("retrain", (*declined, *reasons, *noted))
    steady = f"no decline of realised quality: {_with_limit(_last(quality_path), limit)}"
    if reasons:
        known = [] if np.isnan(quality_path[-1]) else [steady]
        return Decision("investigate", (*reasons, *known, *noted))
    stable = [] if explained else [f"no drift: {_with_limit(_last(drift_path), limit)}"]
    return Decision("ok", (steady, *stable, *noted))


def _guarded(
    windows: Sequence[Window], min_coverage: float
) -> tuple[list[str], list[str], list[str]]:
    """Guards of labels and of loss that hold in the newest windows, and in earlier ones."""
    judged = [w for w in windows if w.realised and w.coverage >= min_coverage]
    labels, losses, passed = [], [], []
    for i, window in enumerate(judged):
        if window.past:
            continue
        judged_by = [
            (_label_guard(window, judged[:i]), labels),
            (_loss_guard(window, judged[:i]), losses),
        ]
        recent = i >= len(judged) - GUARDED_WINDOWS
        for guard, reasons in judged_by:
            if guard and guard.held:
                text = f"{guard.name}, window from {window.start}: {guard.sentence}"
                (reasons if recent else passed).append(text)
    return labels, losses, passed


def _label_guard(window: Window, before: Sequence[Window]) -> Guard | None:
    if not window.gaps:
        return None
    gap, error = np.array(list(window.gaps.values())).T
    past = [[g[0] for g in w.gaps.values()] for w in before if w.gaps.keys() == window.gaps.keys()]
    return guards.label_guard(gap, np.array(past), error, list(window.gaps))


def _loss_guard(window: Window, before: Sequence[Window]) -> Guard | None:
    name = next((k for k in window.realised if k in LOSSES), None)
    if name is None or name not in window.daily:
        return None
    value, rows = window.daily[name].T
    mean = window.realised[name]
    error = np.sqrt(np.square(rows * (value - mean)).sum()) / max(rows.sum(), 1)
    past = [w.realised[name] for w in before if name in w.realised]
    return guards.loss_guard(mean, np.array(past), float(error), metrics.NAMES.get(name, name))


def _with_limit(evidence: float, limit: float) -> str:
    return f"e-value {significant(evidence)} (alert at {significant(limit)})"


def _last(path: np.ndarray) -> float:
    return float(path[-1]) if len(path) else 0.0


def _crossed(now: Sequence[Window], path: np.ndarray, limit: float) -> tuple[int, str]:
    """The first window in which evidence reached the limit, also as text; -1 if there is none."""
    if not (path >= limit).any():
        return -1, ""
    at = int(np.argmax(path >= limit))
    return at, f"{_with_limit(path[at], limit)}, in the window from {now[at].start}"


def _quality_reasons(windows: Sequence[Window], path: np.ndarray, limit: float) -> list[str]:
    now = [w for w in windows if not w.past]
    at, text = _crossed(now, path, limit)
    if at < 0:
        return []
    reasons, before = [f"realised quality has declined: {text}"], windows[: at - len(now)]
    for name, value in now[at].realised.items():
        usual = np.array([w.realised[name] for w in before if name in w.realised])
        usual = usual[np.isfinite(usual)]
        if len(usual) and np.isfinite(value):
            title = metrics.NAMES.get(name, name)
            reasons.append(f"{title} was {value:.4g} there, {usual.mean():.4g} on average before")
    return reasons


def _drift_reasons(
    now: Sequence[Window], path: np.ndarray, limit: float, season: Season | None
) -> tuple[list[str], list[str]]:
    """Reasons to investigate drift, and the drift that the season explains."""
    at, text = _crossed(now, path, limit)
    if at < 0:
        return [], []
    if season is None or season.matched or not season.columns:
        return [f"inputs have drifted: {text}"], []
    reasons = []
    rest, drifted = _crossed(now, season.path, limit)
    if rest >= 0:
        reasons.append(f"inputs that do not follow the calendar have drifted: {drifted}")
    if season.guard and season.guard.held:
        reasons.append(f"{season.guard.name}, newest window: {season.guard.sentence}")
    known = (
        f"only {season.months:.1f} months of reference are known, too few to tell drift from "
        f"season: {several(season.columns)} follow the calendar and have drifted ({text})"
    )
    return reasons, [known]


def _noted(drifts: Sequence[drift.Drift]) -> list[str]:
    return [
        f"noted in the newest window, {column.name}: {finding}"
        for column in (drifts[-1].columns if drifts else ())
        for finding in column.findings
    ]


def _label_reasons(now: Sequence[Window], path: np.ndarray, least: float) -> list[str]:
    if not any(w.realised for w in now):
        return ["no window has enough labels: realised quality is unknown"]
    reasons, due = [], now[:-DUE_WINDOWS]
    if np.isnan(path[-1]):
        few = f"fewer than {drift.LEAST_BLOCKS} days have labels, those of training's test included"
        reasons.append(f"a decline cannot be distinguished from chance yet: {few}")
    if due and not due[-1].realised:
        few = f"{due[-1].labelled:,} of {due[-1].rows:,} predictions have a label"
        reasons.append(f"the window from {due[-1].start} cannot be judged: {few}")
    if missing := [w for w in due if w.coverage < least]:
        worst = min(missing, key=lambda w: w.coverage)
        reasons.append(
            f"labels are missing in {len(missing)} of {len(due)} windows that should have them "
            f"(least {worst.coverage:.0%} from {worst.start}; at least {least:.0%} are wanted)"
        )
    return reasons
