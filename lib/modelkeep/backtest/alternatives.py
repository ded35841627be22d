"""A policy beside its alternatives on one history: how good each was, and what each cost."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from modelkeep.backtest import frontier, guarded, planted, recalibrated, trials
from modelkeep.backtest.frontier import Course, Interval
from modelkeep.backtest.planted import Planted
from modelkeep.backtest.point_in_time import History
from modelkeep.backtest.policies import Policy
from modelkeep.backtest.replay import Replay, Rules, oracle, replay
from modelkeep.evaluation import metrics
from modelkeep.training.costs import Costs

AHEAD = 4  # weeks over which a model is worse or not, when a call is judged
ALTERNATIVES = {
    "never": "never updating",
    "weekly": "every week without guards",
    "monthly": "every 4 weeks without guards",
    "level": "a new level every 4 weeks, never trained again",
    "oracle": "the oracle",
}


@dataclass(frozen=True)
class Backtest:
    """A policy's replay, what it is compared with, the weeks drawn for intervals, planted
    faults.
    """

    task: str
    replay: Replay
    courses: dict[str, Course]  # policy, never, weekly, monthly, level, oracle
    drawn: np.ndarray
    counts: dict[str, int]
    planted: tuple[Planted, ...] = ()
    rows: np.ndarray = field(default_factory=lambda: np.zeros(0, int))  # labelled, by week
    costs: Costs | None = None
    by_cost: bool = False  # the policy is chosen by what it costs

    @property
    def names(self) -> tuple[str, ...]:
        """The metrics, with the one that chooses first."""
        quality = metrics.METRICS[self.task]
        if self.costs is None:
            return quality
        return ("cost", *quality) if self.by_cost else (*quality, "cost")

    @property
    def starts(self) -> np.ndarray:
        """The weeks' first days."""
        return np.array([w.start for w in self.replay.weeks])


def run(
    history: History,
    policy: Policy,
    rules: Rules,
    block_weeks: int,
    bootstrap_samples: int,
    seed: int,
    planted_every: int = 0,
) -> Backtest:
    """Replay a policy and what it is compared with; plant faults in every so many weeks (0:
    none).
    """
    drawn = frontier.bootstrap_weeks(len(history.starts), block_weeks, bootstrap_samples, seed)
    references = {"never": Policy("never"), "weekly": Policy("every", 1)}
    references["monthly"] = Policy("every", 4)
    plain = {name: replay(history, each, rules) for name, each in references.items()}
    same = [name for name, each in references.items() if each == policy]
    faults: tuple[Planted, ...] = ()
    if policy.kind == "guarded":
        states: dict = {}
        ours = guarded.replay(history, policy, rules.guards, states)
        if planted_every:
            faults = planted.plant(history, policy, rules.guards, states, planted_every, seed)
    else:
        ours = plain[same[0]] if same else replay(history, policy, rules)
    schema, stated = history.learn(0).schema, history.costs
    names = (*metrics.METRICS[schema.task], *(("cost",) if stated else ()))
    courses = {"policy": _course(policy.name, ours, names)}
    courses |= {k: _course(ALTERNATIVES[k], each, names) for k, each in plain.items()}
    courses["level"] = Course(ALTERNATIVES["level"], 0, recalibrated.course(history))
    best = oracle(history, ours)
    values = {m: np.array([week[m] for week in best]) for m in names}
    courses["oracle"] = Course(ALTERNATIVES["oracle"], 0, values)
    counts = _counts(history, ours, plain["weekly"], rules.bounds["margin_loss"])
    by_cost = stated is not None and rules.bounds.get("judge_by") == "cost"
    weeks = range(len(history.starts)) if stated else ()
    rows = np.array([history.rows(w, schema)[schema.label].notna().sum() for w in weeks], int)
    return Backtest(schema.task, ours, courses, drawn, counts, faults, rows, stated, by_cost)


def _course(name: str, played: Replay, names: Sequence[str]) -> Course:
    retrains = sum(w.learned > 0 for w in played.weeks)
    return Course(name, retrains, {m: played.course(m) for m in names})


def _counts(history: History, ours: Replay, weekly: Replay, margin: float) -> dict[str, int]:
    """What the policy spent, and how often its calls were wrong."""
    weeks, first = ours.weeks, metrics.METRICS[history.learn(0).schema.task][0]
    gap = np.array(
        [False, *(_mendable(history, ours, weekly, w, first, margin) for w in range(1, len(weeks)))]
    )
    called, alarm = (np.array([bool(w.called) for w in weeks]) for _ in range(2))
    if not ours.policy.watches:
        alarm[:] = False  # what is due by the calendar is no alarm
    missed, passed = gap & ~called, (*trials.PASSES, "promoted")
    worse = [w.best_at_hand.get(first, np.inf) * (1 + margin) < w.quality[first] for w in weeks]
    return {
        "retrains": sum(w.learned > 0 for w in weeks),
        "rows_learned": sum(w.learned for w in weeks),
        "promotions": sum(w.promoted for w in weeks),
        "refused": sum(bool(w.candidate) and w.candidate not in (*passed, "held") for w in weeks),
        "held": sum(w.candidate == "held" for w in weeks),
        "rolled_back": sum(w.canary in ("rollback", "abort") for w in weeks),
        "false_alarms": int((alarm & ~gap).sum()),
        "missed_declines": int((missed & ~np.r_[False, missed[:-1]]).sum()),
        "weeks_of_missed_decline": int(missed.sum()),
        "days_worse_than_at_hand": 7 * sum(map(bool, worse)),
    }


def _mendable(
    history: History, ours: Replay, weekly: Replay, week: int, metric: str, margin: float
) -> bool:
    """Whether the model that served until then would have been worse, over the next weeks, than
    models trained every week, by more than the gate's margin.
    """
    champion = history.learn(*ours.weeks[week - 1].champion)
    ahead = range(week, min(week + AHEAD, len(weekly.weeks)))
    stale = np.nanmean([history.quality(champion, w)[metric] for w in ahead])
    fresh = np.nanmean([weekly.weeks[w].quality[metric] for w in ahead])
    return bool(stale > fresh * (1 + margin))


def benefit_retained(result: Backtest, metric: str) -> tuple[Interval, float]:
    """The share of weekly retraining's gain that the policy kept, and how often it kept enough."""
    c = result.courses
    return frontier.benefit_retained(metric, c["policy"], c["never"], c["weekly"], result.drawn)


def difference(result: Backtest, metric: str, other: str) -> Interval:
    """By how much the policy is better than `never`, `weekly` or `oracle`, by week on average."""
    ours, theirs = (result.courses[k].quality[metric] for k in ("policy", other))
    return frontier.interval(frontier.gains(metric, ours, theirs), result.drawn)


def total_costs(result: Backtest) -> dict[str, tuple[float, float]]:
    """By course, the cost of the errors on all labelled rows, and of the retrains."""
    each = result.costs.retrain
    return {
        name: (float(np.nansum(course.quality["cost"] * result.rows)), course.retrains * each)
        for name, course in result.courses.items()
        if name != "oracle"
    }
