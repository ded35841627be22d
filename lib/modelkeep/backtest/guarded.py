"""History replayed under the default policy: a refit on schedule behind the guards of
`maintenance`.

The functions that decide are those of an unattended update; here they are given what was known at
the beginning of each week (labels by day within it).
"""

from dataclasses import dataclass, field, replace

import numpy as np
import pandas as pd

from modelkeep.backtest import point_in_time
from modelkeep.backtest.point_in_time import DAY, History, Model
from modelkeep.backtest.policies import Policy, Replay, Week
from modelkeep.data.schema import Schema
from modelkeep.evaluation.guards import Guard
from modelkeep.serving.models import in_canary
from modelkeep.training import baseline, maintenance, pipelines
from modelkeep.training.baseline import ChampionError
from modelkeep.training.maintenance import Checked, Predict, Record, Rules

WEEK_DAYS = 7


@dataclass
class Shadow:
    """A new champion and the old one, which predicts silently beside it; days count from `week`."""

    new: Model
    old: Model
    week: int
    canary: bool
    means: np.ndarray  # (days,) loss of new less old, as all labels will show
    errors: np.ndarray  # (days,) sampling errors of the means
    loss: float
    ended: bool = False

    def known(self, day: int, delay: float) -> np.ndarray:
        """The differences whose labels have come when a day of the replay begins."""
        ends = WEEK_DAYS * self.week + 1 + np.arange(len(self.means)) + delay
        return np.where(ends <= day, self.means, np.nan)

    def complete(self, day: int, delay: float) -> bool:
        """Whether all labels of the shadow have come."""
        return WEEK_DAYS * self.week + len(self.means) + delay <= day


@dataclass
class State:
    """What serves, and what the guards know, at the beginning of a week."""

    champion: Model
    expected: pd.DataFrame  # rows of the first model's cross-validation, with its predictions
    record: Record = field(default_factory=Record)
    distances: list[dict[str, float]] | None = None  # of earlier weeks, newest first
    shadows: list[Shadow] = field(default_factory=list)
    before: Model | None = None  # the champion before
    refused: Model | None = None
    updated: int = 0  # the week of the last update

    def copy(self) -> "State":
        """The state as it is now, whatever becomes of the original."""
        shadows = [replace(shadow) for shadow in self.shadows]
        return replace(self, distances=list(self.distances or []), shadows=shadows)


@dataclass(frozen=True)
class Known:
    """The labelled rows that an update sees."""

    rows: pd.DataFrame
    schema: Schema


def replay(
    history: History, policy: Policy, rules: Rules, keep: dict[int, State] | None = None
) -> Replay:
    """Every week under the policy; `keep` takes a copy of the state before each week's update.

    While new models are proven worse than their predecessors, updates are as much rarer as an
    unattended one makes them (`maintenance.schedule`).
    """
    history.learn_ahead([(0, 0, 0)])
    first = history.learn(0)
    state, weeks = State(first, history.out_of_fold(first)), []
    for week in range(len(history.starts)):
        result: dict = {}
        if week - state.updated >= policy.weeks:
            settle(history, rules, state, WEEK_DAYS * week)
            times, recipe = maintenance.schedule(state.record, rules)
            if week - state.updated < policy.weeks * times:
                result = {"held_by": recipe.name, "reason": recipe.sentence}
            else:
                if keep is not None:
                    keep[week] = state.copy()
                state.updated = week
                result = update(history, policy, rules, state, week)
        result |= serve(history, rules, state, week)
        weeks.append(Week(history.starts[week], **result))
    return Replay(policy, tuple(weeks))


def update(history: History, policy: Policy, rules: Rules, state: State, week: int) -> dict:
    """One update at the beginning of a week: check the data, train, check the candidate."""
    rows, _, schema = history.learned_from(week, policy.history_days, 0)
    known, result = Known(rows, schema), {"called": "due"}
    if why := incomparable(state, schema):
        return result | {"candidate": "refused", "held_by": "comparison", "reason": why}
    checked = check_data(state, rules, known)
    if checked.hold:
        guard = next(g for g in checked.guards if g.held)
        return result | {"candidate": "held", "held_by": guard.name, "reason": checked.sentence}
    candidate = history.learn(week, policy.history_days, 0)
    harm, canary = check_candidate(history, state, rules, known, candidate, week)
    result["learned"] = candidate.rows
    if harm.held:
        state.refused = candidate
        return result | {"candidate": "refused", "held_by": harm.name, "reason": harm.sentence}
    start(history, state, candidate, week, canary.held and rules.canary_days > 0, rules)
    return result | {"candidate": "promoted", "promoted": True}


def incomparable(state: State, schema: Schema) -> str:
    """Why no candidate of a schema can be compared with the champion, as where a class is new."""
    try:
        baseline.check_comparable(state.champion.schema, schema)
    except ChampionError as error:
        return str(error)
    return ""


def check_data(state: State, rules: Rules, known: Known) -> Checked:
    """Label and column guard, with what earlier weeks measured."""
    rows, schema = known.rows, known.schema
    if state.distances is None:
        state.distances = maintenance.earlier_distances(rows, schema)
    checked = maintenance.check_data(
        rows, schema, predict(state.champion), state.record, rules, state.distances, state.expected
    )
    state.record = state.record.with_data(checked)
    if checked.distances:
        state.distances.insert(0, checked.distances)
    return checked


def check_candidate(
    history: History, state: State, rules: Rules, known: Known, candidate: Model, week: int
) -> tuple[Guard, Guard]:
    """The harm gate, and whether the candidate begins as a canary."""
    models = predict(state.champion), predict(candidate)
    given = known.rows, known.schema, *models, state.record, rules
    spent = history.spent_beside(known.schema)
    tried = maintenance.check_candidate(*given, spent, state.expected)
    age = float(week - state.champion.week)
    canary, value = maintenance.risk(known.rows, known.schema, *models, age, state.record, rules)
    state.record = state.record.with_candidate(tried, value, age)
    return tried.guard, canary


def start(
    history: History, state: State, candidate: Model, week: int, canary: bool, rules: Rules
) -> None:
    """Put a candidate into service; the champion until now predicts silently beside it."""
    old = state.champion
    days = int(min(rules.shadow_days, WEEK_DAYS))
    if days:
        means, errors, loss = _differences(history, candidate, old, week)
        shadow = Shadow(candidate, old, week, canary, means[:days], errors[:days], loss)
        state.shadows.append(shadow)
    state.before, state.champion = old, candidate


def _differences(
    history: History, new: Model, old: Model, week: int
) -> tuple[np.ndarray, np.ndarray, float]:
    """Means and errors of the week's days, nan where none has a label, and the old model's loss."""
    rows = history.rows(week, old.schema)
    rows = rows[rows[old.schema.label].notna().to_numpy()]
    means, errors = np.full((2, WEEK_DAYS), np.nan)
    if rows.empty:
        return means, errors, 1.0
    y = pipelines.outcome(rows, old.schema)
    ours, theirs = (point_in_time.predictions(model, rows) for model in (new, old))
    days = rows[old.schema.time].to_numpy().astype("datetime64[D]")
    task = old.schema.task
    each = maintenance.day_differences(task, days, y, ours, theirs)
    place = ((each.days - history.starts[week]) / DAY).astype(int)
    means[place], errors[place] = each.means, each.errors
    return means, errors, each.loss


def settle(history: History, rules: Rules, state: State, day: int) -> Shadow | None:
    """Judge the shadows by the labels that a day of the replay begins with; who was taken back."""
    taken = None
    for shadow in [s for s in state.shadows if not s.ended]:
        known = shadow.known(day, history.label_delay_days)
        guard = maintenance.reverse_shadow(known, shadow.errors, shadow.loss, state.record, rules)
        serves = state.champion is shadow.new
        if guard.held and serves:
            state.champion, state.refused, taken = shadow.old, shadow.new, shadow
        if shadow.complete(day, history.label_delay_days) or (guard.held and serves):
            shadow.ended = True
            state.record = state.record.with_differences(known)
    state.shadows = [s for s in state.shadows if not s.ended]
    return taken


def serve(history: History, rules: Rules, state: State, week: int) -> dict:
    """Answer the rows of a week, day by day where the champion may change within it."""
    new = next((s for s in state.shadows if s.week == week), None)
    others = [m for m in (state.before, state.refused) if m is not None]
    if new is None:
        champion = state.champion
        result = {"champion": champion.key, "quality": history.quality(champion, week)}
        taken = None
        for day in range(1, WEEK_DAYS):
            taken = settle(history, rules, state, WEEK_DAYS * week + day) or taken
        if taken:  # late labels: the model of an earlier week is taken back
            result |= _taken(taken)
        return result | {"best_at_hand": _best(history, others, week)}
    share, taken = answer(history, rules, state, new, week)
    rows = history.rows(week, new.old.schema)
    ours, theirs = (point_in_time.predictions(m, rows) for m in (new.new, new.old))
    mixed = np.where(share.reshape(-1, *[1] * (ours.ndim - 1)), ours, theirs)
    result = {"champion": state.champion.key}
    result["quality"] = history.realised(rows, mixed, new.old.schema)
    if taken:
        result |= _taken(taken)
    elif new.canary:
        result["canary"] = "advance"
    return result | {"best_at_hand": _best(history, others, week)}


def answer(
    history: History, rules: Rules, state: State, new: Shadow, week: int
) -> tuple[np.ndarray, Shadow | None]:
    """Which rows of its first week the new champion predicts, and the shadow that took it back."""
    schema = new.old.schema
    rows = history.rows(week, schema)
    day = ((rows[schema.time].to_numpy() - history.starts[week]) / DAY).astype(int)
    names = rows[schema.entity] if schema.entity else rows[schema.id]
    few = np.zeros(len(rows), bool)
    if new.canary:
        first = day < rules.canary_days
        salt = f"week {week}"
        few[first] = [in_canary(salt, str(n), rules.canary_share) for n in names[first]]
    by_new, taken = np.zeros(len(rows), bool), None
    for each in range(WEEK_DAYS):
        taken = (settle(history, rules, state, WEEK_DAYS * week + each) if each else None) or taken
        if state.champion is not new.new:
            break
        today = day == each
        by_new[today] = few[today] if new.canary and each < rules.canary_days else True
    return by_new, taken


def _taken(shadow: Shadow) -> dict:
    days = int(np.isfinite(shadow.means).sum())
    reason = f"worse than the model before on {days} days"
    return {"canary": "rollback", "held_by": "reverse shadow", "reason": reason}


def _best(history: History, others: list[Model], week: int) -> dict[str, float]:
    qualities = [history.quality(model, week) for model in others]
    return min(qualities, key=lambda q: next(iter(q.values())), default={})


def predict(model: Model) -> Predict:
    """The model's predictions as a function of rows."""
    return lambda rows: point_in_time.predictions(model, rows)
