"""Bad candidates planted into a replay of the default policy: the guard that stops each one.

A fault of training leaves the rows that the guards see as they are; a fault of a batch spoils the
newest four weeks of history for training and guards alike. Later rows are sound in both.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from math import ceil

import numpy as np
import pandas as pd

from modelkeep.backtest import cache, guarded, point_in_time
from modelkeep.backtest.guarded import WEEK_DAYS, Known, State
from modelkeep.backtest.point_in_time import History, Model
from modelkeep.backtest.policies import Policy
from modelkeep.data import splits
from modelkeep.data.columns import with_column
from modelkeep.data.schema import Schema
from modelkeep.evaluation import metrics
from modelkeep.training import pipelines
from modelkeep.training.maintenance import Rules

BATCH_DAYS = 28
HARMFUL = 0.05  # a candidate whose loss is higher by this share than the sound one's is bad
TRAINING = "training"  # what stopped a candidate that could not be trained


@dataclass(frozen=True)
class Planted:
    """One planted candidate: its harm (share of the sound candidate's loss) and what stopped it.

    `stopped_by` is a guard's name, or empty; `answered` of `rows` (of two weeks) are predictions
    that it gave.
    """

    kind: str
    week: int
    harm: float
    stopped_by: str
    answered: int
    rows: int

    @property
    def bad(self) -> bool:
        """Whether its harm is above HARMFUL."""
        return self.harm > HARMFUL

    @property
    def served(self) -> bool:
        """Whether it gave any prediction."""
        return self.answered > 0


def _newest(rows: pd.DataFrame, schema: Schema) -> np.ndarray:
    day = splits.blocks(rows, schema)
    return day > day.max() - BATCH_DAYS


def _shuffled(rows, schema, column, random):
    return with_column(rows, schema.label, random.permutation(rows[schema.label].to_numpy()))


def _misjoined(rows, schema, column, random):
    values = rows[column].iloc[random.permutation(len(rows))].set_axis(rows.index)
    return with_column(rows, column, values)


def _emptied(rows, schema, column, random):
    number = next(c.kind for c in schema.columns if c.name == column) == "number"
    return with_column(rows, column, 0.0 if number else rows[column].iloc[0])


def _one_class(rows, schema, column, random):
    labels = rows[schema.label]
    one = labels.max() if schema.task == "regression" else schema.classes[-1]
    return with_column(rows, schema.label, labels.mask(_newest(rows, schema), one))


def _flipped(rows, schema, column, random):
    labels = rows[schema.label]
    if schema.task == "regression":
        other = labels.min() + labels.max() - labels
    else:
        flipped = dict(zip(schema.classes, schema.classes[::-1], strict=True))
        other = labels.map(flipped).astype(labels.dtype)
    return with_column(rows, schema.label, labels.mask(_newest(rows, schema), other))


def _other_unit(rows, schema, column, random):
    names = [c.name for c in schema.columns if c.kind == "number"]
    column = column if column in names else names[0] if names else ""
    if not column:
        return rows
    return with_column(rows, column, rows[column].mask(_newest(rows, schema), rows[column] * 1000))


def _few(rows, schema, column, random):
    few = np.sort(random.choice(len(rows), max(len(rows) // 100, 2), replace=False))
    return rows.iloc[few].reset_index(drop=True)


def _stale(rows, schema, column, random):
    return rows.head(max(len(rows) // 4, 2))


# each is `make(rows, schema, column, random)`; guards see the spoiled rows of a batch, too
FAULTS = {
    "shuffled labels": _shuffled,
    "misjoined column": _misjoined,
    "zeroed column": _emptied,
    "labels of one class": _one_class,
    "flipped labels": _flipped,
    "other unit": _other_unit,
    "1 % of the rows": _few,
    "stale": _stale,
}
BATCHES = ("labels of one class", "flipped labels", "other unit")


def plant(
    history: History,
    policy: Policy,
    rules: Rules,
    states: Mapping[int, State],
    every: int,
    seed: int = 0,
) -> tuple[Planted, ...]:
    """Each fault in every so many weeks of a replay, whose `states` are those of
    `guarded.replay`.
    """
    weeks = sorted(states)[every - 1 :: every]
    settings = [asdict(policy), asdict(rules), weeks, seed, str(history.starts[0])]
    name = cache.name("planted", history.made_of, history.content(), *settings)
    if content := history.results.get(name):
        return tuple(Planted(**each) for each in json.loads(content))
    column = strongest(history)
    candidates = tuple(
        _plant(history, policy, rules, states[week].copy(), week, kind, column, seed)
        for week in weeks
        if not guarded.incomparable(states[week], history.learn(week, policy.history_days).schema)
        for kind in FAULTS
    )
    history.results.put(name, json.dumps([asdict(each) for each in candidates]).encode())
    return candidates


def strongest(history: History) -> str:
    """The column whose shuffling harms the first model most, in the first week."""
    model, random = history.learn(0), np.random.default_rng(0)
    rows = history.rows(0, model.schema)
    harm = {
        c.name: _loss(model, _misjoined(rows, model.schema, c.name, random))
        for c in model.schema.columns
    }
    return max(harm, key=lambda name: np.nan_to_num(harm[name]))


def _loss(model: Model, rows: pd.DataFrame) -> float:
    predictions = point_in_time.predictions(model, rows)
    realised = point_in_time.realised(rows, predictions, model.schema)
    return realised[metrics.METRICS[model.schema.task][0]]


def _plant(
    history: History,
    policy: Policy,
    rules: Rules,
    state: State,
    week: int,
    kind: str,
    column: str,
    seed: int,
) -> Planted:
    rows, _, schema = history.learned_from(week, policy.history_days, 0)
    random = np.random.default_rng([seed, week, [*FAULTS].index(kind)])
    spoiled = FAULTS[kind](rows, schema, column, random)
    known = Known(spoiled if kind in BATCHES else rows, schema)
    total = sum(len(history.rows(w, schema)) for w in _ahead(history, week))
    checked = guarded.check_data(state, rules, known)
    held = next((g.name for g in checked.guards if g.held), "") if checked.hold else ""
    try:
        fitted = pipelines.fit(history.unfitted(schema), spoiled, schema)
    except pipelines.ModelError:
        return Planted(kind, week, np.inf, TRAINING, 0, total)
    model = Model(week, policy.history_days, 0, schema, len(spoiled), 0.0, "", lambda: fitted)
    harm = _harm(history, policy, model, week)
    if held:
        return Planted(kind, week, harm, held, 0, total)
    gate, canary = guarded.check_candidate(history, state, rules, known, model, week)
    if gate.held:
        return Planted(kind, week, harm, gate.name, 0, total)
    guarded.start(history, state, model, week, canary.held and rules.canary_days > 0, rules)
    by_it, taken = np.ones(len(history.rows(week, schema)), bool), None
    if state.shadows:
        by_it, taken = guarded.answer(history, rules, state, state.shadows[-1], week)
        late = WEEK_DAYS * (week + 1) + ceil(history.label_delay_days)
        taken = taken or guarded.settle(history, rules, state, late)
    return Planted(kind, week, harm, "reverse shadow" if taken else "", int(by_it.sum()), total)


def _ahead(history: History, week: int) -> range:
    return range(week, min(week + 2, len(history.starts)))


def _harm(history: History, policy: Policy, model: Model, week: int) -> float:
    """By what share its loss is higher than the sound candidate's in the two weeks ahead."""
    sound = history.learn(week, policy.history_days, 0)
    losses = [
        np.nanmean([_loss(each, history.rows(w, each.schema)) for w in _ahead(history, week)])
        for each in (model, sound)
    ]
    return float(losses[0] / losses[1] - 1)
