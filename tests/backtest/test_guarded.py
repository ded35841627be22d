"""The default policy replayed: it keeps the benefit of fresh models, and nothing comes from the future."""

import itertools
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

import histories
from histories import RULES, loss, past, shared
from modelkeep.backtest import guarded, planted, replay
from modelkeep.backtest.point_in_time import History
from modelkeep.backtest.policies import Policy
from modelkeep.training.maintenance import Rules

GUARDED, NEVER, WEEKLY = Policy("guarded", 1), Policy("never"), Policy("every", 1)


def played(history, *policies):
    return [replay.replay(history, policy, RULES) for policy in policies]


def retained(history):
    ours, never, weekly = (loss(each) for each in played(history, GUARDED, NEVER, WEEKLY))
    return (never - ours) / (never - weekly)


@pytest.mark.parametrize("kind", ["sudden", pytest.param("slow", marks=pytest.mark.slow)])
def test_most_of_the_weekly_benefit_is_retained(kind):
    assert retained(shared(kind)) > 0.9


@pytest.mark.parametrize("task", ["multiclass", pytest.param("regression", marks=pytest.mark.slow)])
def test_other_tasks_retain_it_too(task):
    history = past("sudden", task="regression")
    if task == "multiclass":
        classes = pd.cut(history.table["y"], [-np.inf, -1, 1, np.inf], labels=["l", "m", "h"])
        history = replace(history, table=history.table.assign(y=classes.astype(str)))
    ours, never, weekly = (each.course(next(iter(each.weeks[0].quality))) for each in played(history, GUARDED, NEVER, WEEKLY))  # fmt: skip
    assert (never - ours).mean() > 0.85 * (never - weekly).mean() > 0


def test_without_drift_it_costs_nothing():
    ours, never = played(shared(), GUARDED, NEVER)
    assert abs(loss(ours) - loss(never)) < 0.001
    assert sum(bool(w.held_by) for w in ours.weeks) <= 1


@pytest.mark.slow
def test_few_rows_a_day_are_enough():
    assert retained(shared("sudden", rows=24)) > 0.8


def test_labels_that_come_weeks_late_are_waited_for():
    found, never = played(shared("sudden", delay=21.0), GUARDED, NEVER)
    assert sum(w.promoted for w in found.weeks) >= 10
    assert loss(found) < loss(never)


@pytest.mark.parametrize("delay", [0.0, pytest.param(7.0, marks=pytest.mark.slow)])
def test_the_future_tells_it_nothing(delay):
    (found,) = played(shared("future", delay), GUARDED)
    assert abs(np.mean(found.course("auc")) - 0.5) < 0.03


def test_another_future_changes_nothing_before_it():
    table = histories.table("sudden", weeks=9)
    cut = pd.Timestamp(histories.START) + pd.Timedelta(days=7 * 8)
    other = table.assign(y=np.where(table["at"] >= cut, 1 - table["y"], table["y"]))
    weeks = [
        guarded.replay(replace(past(), table=each), GUARDED, Rules()).weeks[:8]
        for each in (table, other)
    ]
    assert weeks[0] == weeks[1]


def test_a_spoiled_batch_of_labels_is_held_twice_at_most():
    table = histories.table()
    start = pd.Timestamp(histories.START) + pd.Timedelta(days=7 * 5)
    batch = (table["at"] >= start) & (table["at"] < start + pd.Timedelta(days=28))
    spoiled = replace(past(), table=table.assign(y=table["y"].where(~batch, 1)))
    (found,) = played(spoiled, GUARDED)
    words = [w.candidate for w in found.weeks[6:10]]
    assert words[:2] == ["held", "held"] and "held" not in words[2:3]
    assert found.weeks[6].held_by == "label guard"
    assert "labels of y are higher than predicted" in found.weeks[6].reason


def test_a_schedule_slows_down_while_retraining_harms():
    """The label's link turns each week, so a model of one week is worse than the one before it."""
    table = histories.table("none", weeks=12)
    week = (table["at"] - pd.Timestamp(histories.START)).dt.days // 7
    turning = replace(past(), table=table.assign(y=np.where(week % 2, 1 - table["y"], table["y"])))
    policy = Policy("guarded", 1, history_days=7)
    let = Rules(label_sds=99, harm_loss=99, harm_auc=99, shadow_alpha=1e-9)
    slowed, never_slowed = (
        guarded.replay(turning, policy, replace(let, slow_down=times)).weeks for times in (2.0, 1.0)
    )
    skipped = [w.held_by == "recipe guard" for w in slowed]
    assert any(skipped) and not any(a and b for a, b in itertools.pairwise(skipped))
    assert all(not w.called and not w.learned for w in slowed if w.held_by == "recipe guard")
    assert "worse than their predecessors" in slowed[skipped.index(True)].reason
    assert not any(w.held_by == "recipe guard" for w in never_slowed)


def test_a_class_that_is_new_ends_in_a_sentence_as_in_an_update():
    """The champion cannot predict it, so nothing is compared with it; planted faults neither."""
    table = histories.table(weeks=10)
    day = (table["at"] - table["at"].min()).dt.days
    table["y"] = np.select([table["a"] < -1, table["a"] < 0.5], ["c", "a"], "b")
    new = (day >= 90) & (np.random.default_rng(0).random(len(table)) < 0.1)
    table["y"] = table["y"].mask(new, "aa")
    history = History(table, histories.ASKED, histories.LEARNING, histories.START, "", 1.0)
    states: dict = {}
    weeks = guarded.replay(history, Policy("guarded", 1), Rules(), states).weeks
    assert weeks[2].candidate == "promoted"
    assert (weeks[8].candidate, weeks[8].held_by) == ("refused", "comparison")
    assert "classes is a, b and c, the candidate's a, aa, b and c" in weeks[8].reason
    found = planted.plant(history, Policy("guarded", 1), Rules(), states, 3)
    assert found and max(each.week for each in found) < 8
