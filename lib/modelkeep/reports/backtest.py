"""What the page of `backtest` says: what a maintenance policy would have kept of the quality that was to be had, and at what price"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from modelkeep.backtest import frontier, trials
from modelkeep.backtest.cache import Shelf
from modelkeep.backtest.frontier import Course, Interval
from modelkeep.backtest.point_in_time import History
from modelkeep.backtest.policies import Policy
from modelkeep.backtest.replay import Replay, Rules, Week, oracle, replay
from modelkeep.core import files, markup, workspace
from modelkeep.core.markup import Html, between, count, number, several
from modelkeep.core.verdicts import Verdict
from modelkeep.data import splits
from modelkeep.evaluation import metrics
from modelkeep.reports import figures
from modelkeep.reports.figures import Figure
from modelkeep.training import maintenance

AHEAD = 4  # weeks over which a model is worse or not, when a call is judged
MADE_ANEW = ("source", "as_of", "label_delay_days", "history_days", "test_days", "test_share")
TOLD = {"never": "never updating", "weekly": "retraining every week", "oracle": "oracle's best"}  # fmt: skip


@dataclass(frozen=True)
class Found:
    """A policy's replay, what it is compared with, and the weeks that were drawn for the intervals."""

    task: str
    replay: Replay
    courses: dict[str, Course]  # policy, never, weekly, oracle
    drawn: np.ndarray
    counts: dict[str, int]

    @property
    def starts(self) -> np.ndarray:
        """The weeks' first days."""
        return np.array([w.start for w in self.replay.weeks])


def history(root: Path, start: str, end: str, label_delay_days: float) -> History:
    """The labelled table of params/prepare.yaml, to be replayed with the model of params/train.yaml."""
    asked, learning = workspace.params(root, "prepare"), workspace.params(root, "train")
    roles = {name: asked[name] for name in splits.ROLES}
    table = splits.read(asked["source"], root, **roles)
    stated = {name: value for name, value in asked.items() if name not in MADE_ANEW}
    benefit_retained = Shelf(_clone(root) / "data" / "backtest" / "kept")
    return History(table, stated, learning, start, end, label_delay_days, benefit_retained)


def _clone(root: Path) -> Path:
    """The clone that `dvc exp run --temp` or `--queue` has copied to its .dvc/tmp, or the root itself."""
    outer = (p.parent for p in root.parents if p.name == ".dvc")
    return next(outer, root)


def rules(root: Path, policy: Policy, past: History) -> Rules:
    """What production goes by: the params of evaluate, monitor, collect and rollout."""
    rollout = None
    if policy.canary:
        task = past.learn(0).schema.task
        rollout = trials.rules(workspace.params(root, "rollout"), task, past.label_delay_days)
    days = workspace.params(root, "collect")["days"]
    bounds, parameters = (workspace.params(root, stage) for stage in ("evaluate", "monitor"))
    return Rules(bounds, parameters, rollout, days, maintenance.rules(root))


def run(past: History, policy: Policy, by: Rules, block_weeks: int, draws: int, seed: int) -> Found:
    """Replay a policy, and what it is compared with."""
    drawn = frontier.bootstrap_weeks(len(past.starts), block_weeks, draws, seed)
    references = {"never": Policy("never"), "weekly": Policy("every", 1)}
    plain = {name: replay(past, each, by) for name, each in references.items()}
    same = [name for name, each in references.items() if each == policy]
    ours = plain[same[0]] if same else replay(past, policy, by)
    task = past.learn(0).schema.task
    names = metrics.METRICS[task]
    courses = {"policy": _course(policy.name, ours, names)}
    courses |= {k: _course(TOLD[k], each, names) for k, each in plain.items()}
    best = oracle(past, ours)
    values = {m: np.array([week[m] for week in best]) for m in names}
    courses["oracle"] = Course(TOLD["oracle"], 0, values)
    counts = _counts(past, ours, plain["weekly"], by.bounds["margin_loss"])
    return Found(task, ours, courses, drawn, counts)


def _course(name: str, played: Replay, names: Sequence[str]) -> Course:
    retrains = sum(w.learned > 0 for w in played.weeks)
    return Course(name, retrains, {m: played.course(m) for m in names})


def _counts(past: History, ours: Replay, weekly: Replay, margin: float) -> dict[str, int]:
    """What the policy spent, and how often its calls were wrong."""
    weeks, first = ours.weeks, metrics.METRICS[past.learn(0).schema.task][0]
    gap = np.array([False, *(_mendable(past, ours, weekly, w, first, margin) for w in range(1, len(weeks)))])  # fmt: skip
    called, alarm = (np.array([bool(w.called) for w in weeks]) for _ in range(2))
    if not ours.policy.watches:
        alarm[:] = False  # what is due by the calendar is no alarm
    missed, passed = gap & ~called, (*trials.PASSES, "promoted")
    worse = [w.best_at_hand.get(first, np.inf) * (1 + margin) < w.quality[first] for w in weeks]
    return {
        "retrains": sum(w.learned > 0 for w in weeks),
        "rows_learned": sum(w.learned for w in weeks),
        "promotions": sum(w.promoted for w in weeks),
        "refused": sum(bool(w.candidate) and w.candidate not in passed for w in weeks),
        "rolled_back": sum(w.canary in ("roll_back", "stop") for w in weeks),
        "false_alarms": int((alarm & ~gap).sum()),
        "missed_declines": int((missed & ~np.r_[False, missed[:-1]]).sum()),
        "weeks_of_missed_decline": int(missed.sum()),
        "days_worse_than_at_hand": 7 * sum(map(bool, worse)),
    }


def _mendable(
    past: History, ours: Replay, weekly: Replay, week: int, metric: str, margin: float
) -> bool:
    """Whether the model that served until then would have been worse, over the next weeks, than models trained every week, by more than the gate's margin."""
    champion = past.learn(*ours.weeks[week - 1].champion)
    ahead = range(week, min(week + AHEAD, len(weekly.weeks)))
    stale = np.nanmean([past.quality(champion, w)[metric] for w in ahead])
    fresh = np.nanmean([weekly.weeks[w].quality[metric] for w in ahead])
    return bool(stale > fresh * (1 + margin))


def benefit_retained(found: Found, metric: str) -> tuple[Interval, float]:
    """The share of weekly retraining's gain that the policy kept, and how often it kept enough."""
    c = found.courses
    return frontier.benefit_retained(metric, c["policy"], c["never"], c["weekly"], found.drawn)


def difference(found: Found, metric: str, other: str) -> Interval:
    """By how much the policy is better than `never`, `weekly` or `oracle`, by week on average."""
    ours, theirs = (found.courses[k].quality[metric] for k in ("policy", other))
    return frontier.interval(frontier.gains(metric, ours, theirs), found.drawn)


def verdict(found: Found) -> Verdict:
    """What the policy would have kept, and for how much."""
    first, mean = metrics.METRICS[found.task][0], _means(found)
    parts = [
        f"{metrics.NAMES[m]} {number(mean['policy'][m])} by week (never {number(mean['never'][m])}, every week {number(mean['weekly'][m])})"
        for m in metrics.METRICS[found.task]
    ]
    spent = count(found.counts["retrains"], "retrain")
    sentence = f"{found.replay.policy.name.capitalize()}: with {spent} in {count(len(found.starts), 'week')} it would have had {' and '.join(parts)}."
    share, enough = benefit_retained(found, first)
    gain = difference(found, first, "never")
    reasons = [
        f"{metrics.NAMES[first]} is better by {between(gain.value, gain.low, gain.high)} than never updating"
    ]
    if np.isfinite(share.value):
        reasons.append(
            f"it keeps {share.value:.0%} ({share.low:.0%} to {share.high:.0%}) of what retraining every week gains, "
            f"and at least {frontier.ENOUGH:.0%} in {enough:.0%} of draws of whole stretches of weeks"
        )
    else:
        reasons.append("retraining every week gains nothing here, so there is nothing to keep")
    reasons.append(several([f"{name.replace('_', ' ')} {value:,}" for name, value in found.counts.items() if name != "retrains"], 9))  # fmt: skip
    apart = {m: {k: asdict(difference(found, m, k)) for k in TOLD} for m in metrics.METRICS[found.task]}  # fmt: skip
    evidence = {**stage_metrics(found), "better_than": apart}
    return Verdict("backtest", "ok", sentence, tuple(reasons), evidence)


def _means(found: Found) -> dict[str, dict[str, float]]:
    return {
        k: {m: float(np.nanmean(values)) for m, values in c.quality.items()}
        for k, c in found.courses.items()
    }


def stage_metrics(found: Found) -> dict:
    """The numbers for `dvc metrics` and for a sweep: the price, quality, and what of the weekly gain is kept."""
    told: dict = dict(found.counts)
    for name, mean in _means(found)["policy"].items():
        share, enough = benefit_retained(found, name)
        parts = {"": mean, "_kept": share.value, "_kept_low": share.low, "_kept_high": share.high}
        parts["_kept_enough"] = enough
        told |= {f"{name}{part}": None if x != x else x for part, x in parts.items()}
    return told


def course(found: Found, metric: str) -> Figure:
    """One metric by week under the policy and under what it is compared with."""
    weeks, mean = found.replay.weeks, _means(found)
    lines = {"this policy": found.courses["policy"].quality[metric]}
    lines |= {TOLD[k]: found.courses[k].quality[metric] for k in TOLD}
    marks = {"a new model": np.array([w.promoted for w in weeks])}
    marks["refused"] = np.array([w.learned > 0 and not w.promoted for w in weeks])
    name = metrics.NAMES[metric]
    each = ", ".join(f"{label} {number(mean[k][metric])}" for k, label in {"policy": "this policy", **TOLD}.items())  # fmt: skip
    caption = f"{len(weeks)} weeks; on average {each}."
    return figures.courses(found.starts, lines, marks, name=name, title=f"How good was {name}, week by week?", caption=caption)  # fmt: skip


def differences(found: Found, metric: str) -> Figure:
    """How much better the policy is than each reference, with intervals by blocks of weeks."""
    rows = [
        {"name": TOLD[k], "value": d.value, "low": d.low, "high": d.high, "breach": d.high < 0}
        for k in TOLD
        for d in [difference(found, metric, k)]
    ]
    name = metrics.NAMES[metric]
    probability = difference(found, metric, "never").probability
    return figures.forest(
        rows,
        name=f"gain in {name} by week",
        title=f"By how much does {name} differ from the alternatives?",
        caption=f"Means of {len(found.starts)} weeks with 95 % intervals ({len(found.drawn):,} draws of whole stretches of weeks); better than never updating in {probability:.0%} of draws.",
    )


def price(found: Found) -> Html:
    """What was spent and what went wrong, line by line."""
    meaning = {
        "retrains": "models that were trained",
        "rows_learned": "rows that they learned from in all, which their computing time goes with",
        "promotions": "of them went into service",
        "refused": "were stopped by the gate",
        "rolled_back": "were stopped by the canary's judge",
        "false_alarms": f"calls though the model in service was as good as a fresh one over the next {AHEAD} weeks",
        "missed_declines": f"stretches of weeks without a call though it was worse over the next {AHEAD} weeks",
        "weeks_of_missed_decline": "how many weeks these were",
        "days_worse_than_at_hand": "days on a model while a better one, replaced or refused, was at hand",
    }
    rows = [{"": k.replace("_", " "), "number": found.counts[k], "what it counts": text} for k, text in meaning.items()]  # fmt: skip
    return markup.table(rows)


def acts(found: Found) -> Html:
    """The weeks in which something was done, and why."""
    rows = [_act(w) for w in found.replay.weeks if w.called or w.promoted or w.canary]
    return markup.table(rows, "Nothing was done in any week.")


def _act(w: Week) -> dict:
    done = "trial with a canary" if w.learned and not w.candidate else w.candidate.replace("_", " ")
    return {
        "week": str(w.start),
        "called because": w.called or "–",
        "learned from": f"{w.learned:,} rows" if w.learned else "–",
        "word": done or "–",
        "canary": w.canary.replace("_", " ") or "–",
        "in service": "yes" if w.promoted else "no",
    }


def course_csv(found: Found) -> str:
    """Each metric by week under the policy and each reference, for `dvc plots` and for a sweep's page."""
    columns = [(m, k) for m in metrics.METRICS[found.task] for k in found.courses]
    lines = ["week," + ",".join(f"{m}_{k}" for m, k in columns)]
    for i, start in enumerate(found.starts):
        values = [found.courses[k].quality[m][i] for m, k in columns]
        lines.append(",".join([str(start), *("" if np.isnan(v) else f"{v:.6g}" for v in values)]))
    return "\n".join(lines) + "\n"


def times(past: History, root: Path) -> None:
    """Seconds of computing by model, beside what reproduces: no two runs take the same."""
    spent = [{"week": str(past.starts[key[0]]), "history_days": key[1], "held_days": key[2], "seconds": round(s, 2)} for key, s in sorted(past.spent.items())]  # fmt: skip
    files.write_json(root / "data" / "backtest" / "times.json", spent)
