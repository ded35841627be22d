"""History replayed: planted changes rank the policies as they must, and nothing comes from the future."""

import tracemalloc
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

import histories
from histories import RULES, loss, past, shared
from modelkeep.backtest import replay, trials
from modelkeep.backtest.policies import Policy
from modelkeep.monitoring import decisions
from modelkeep.rollout import planning
from modelkeep.training import pipelines

NEVER, WEEKLY, MONTHLY = Policy("never"), Policy("every", 1), Policy("every", 4)
SHORT = Policy("every", 2, history_days=14)
MONITOR, ESTIMATE = Policy("monitor", history_days=28), Policy("estimate", history_days=28)
GATED = Policy("every", 4, gate=True)


def played(history, *policies, rules=RULES):
    return [replay.replay(history, policy, rules) for policy in policies]


def retrains(schema):
    return sum(w.learned > 0 for w in schema.weeks)


def test_without_drift_nobody_gains_by_retraining_and_the_monitor_does_not_call():
    never, weekly, monitor, estimate = played(shared(), NEVER, WEEKLY, MONITOR, ESTIMATE)
    assert abs(loss(never) - loss(weekly)) < 0.01
    assert retrains(never) == retrains(monitor) == 0
    assert retrains(weekly) == histories.WEEKS - 1
    assert retrains(estimate) <= 2
    assert {w.state for w in monitor.weeks} <= {"", "ok", "investigate"}


def test_after_a_sudden_shift_the_monitor_keeps_most_of_the_gain_for_few_retrains():
    never, weekly, monitor, monthly = played(shared("sudden"), NEVER, WEEKLY, MONITOR, MONTHLY)
    assert loss(weekly) < loss(monthly) < loss(never)
    assert loss(monitor) < loss(monthly)
    assert 1 <= retrains(monitor) <= 6
    first = next(i for i, w in enumerate(monitor.weeks) if w.called)
    assert 6 <= first <= 8  # the shift is in the weeks from the sixth on


@pytest.mark.slow
def test_slow_drift_wants_a_window_and_retraining():
    never, weekly, short = played(shared("slow"), NEVER, WEEKLY, SHORT)
    assert loss(short) < loss(weekly) < loss(never)


@pytest.mark.slow
def test_a_season_that_returns_punishes_a_short_memory():
    never, weekly, short = played(shared("season"), NEVER, WEEKLY, SHORT)
    assert loss(never) < loss(short)
    assert loss(weekly) < loss(short)


@pytest.mark.slow
def test_a_burst_of_noise_punishes_a_short_memory():
    never, weekly, short = played(shared("noise"), NEVER, WEEKLY, SHORT)
    assert loss(never) < loss(short)
    assert loss(weekly) < loss(short)


def test_the_gate_stops_what_has_learned_from_noise():
    # in week 12 the newest 30 of 44 days are for the test, and the noise is in those before
    late = Policy("every", 12, history_days=44, gate=True)
    never, gated = played(shared("noise"), NEVER, late)
    assert [w.candidate for w in gated.weeks if w.candidate] == ["worse"]
    assert loss(gated) == loss(never)


def test_inputs_that_move_without_harm_are_no_reason_to_retrain():
    never, weekly, monitor = played(shared("covariate"), NEVER, WEEKLY, MONITOR)
    assert abs(loss(never) - loss(weekly)) < 0.01
    assert retrains(monitor) == 0
    assert "investigate" in {w.state for w in monitor.weeks[7:]}


@pytest.mark.parametrize("delay", [0.0, pytest.param(7.0, marks=pytest.mark.slow)])
def test_no_policy_profits_from_what_only_the_future_tells(delay):
    history = shared("future", delay)
    for policy in (NEVER, WEEKLY, SHORT, MONITOR, ESTIMATE, GATED):
        (found,) = played(history, policy)
        # codes that nobody has seen tell nothing: 14 weeks of 420 rows, so 0.03 is four standard errors
        assert abs(np.mean(found.course("auc")) - 0.5) < 0.03, policy.name


def test_who_did_see_the_week_would_profit():
    history = past("future")
    history.starts = history.starts + past_weeks(1)
    ahead = history.learn(3)
    history.starts = history.starts - past_weeks(1)
    assert history.quality(ahead, 3)["auc"] > 0.9


def past_weeks(n):
    return np.timedelta64(7 * n, "D")


@pytest.mark.parametrize("policy", [WEEKLY, MONITOR, ESTIMATE, GATED], ids=lambda p: p.name)
def test_another_future_changes_nothing_before_it(policy):
    table = histories.table("sudden", weeks=9)
    cut = pd.Timestamp(histories.START) + pd.Timedelta(days=7 * 8)
    other = table.assign(y=np.where(table["at"] >= cut, 1 - table["y"], table["y"]))
    weeks = [
        replay.replay(replace(past(), table=each), policy, RULES).weeks[:8]
        for each in (table, other)
    ]
    assert weeks[0] == weeks[1]


def test_a_label_that_has_not_come_is_not_learned_from():
    history = past(delay=10.0)
    rows, _, _ = history.learned_from(3, 0, 0)
    newest = history.starts[3] - np.timedelta64(10, "D")
    assert rows["at"].max() <= newest
    assert rows["at"].max() > newest - np.timedelta64(1, "D")


def test_a_week_without_rows_is_a_week_without_quality():
    history = past()
    week = history.table["at"] >= "2020-03-15"
    emptied = replace(history, table=history.table[~week | (history.table["at"] >= "2020-03-22")])
    for policy in (WEEKLY, MONITOR):
        (found,) = played(emptied, policy)
        assert np.flatnonzero(np.isnan(found.course("log_loss"))).tolist() == [2]


def test_the_same_model_is_made_once_and_in_two_threads_as_in_one():
    ahead, alone = past("slow"), past("slow")
    ahead.learn_ahead([(w, 0, 0) for w in range(3)])
    for week in (0, 2):
        ours, theirs = ahead.learn(week), alone.learn(week)
        assert ours is ahead.learn(week)
        assert ahead.quality(ours, 5) == alone.quality(theirs, 5)
    assert sorted(ahead.spent) == [(w, 0, 0) for w in range(3)]


def test_a_replay_decides_as_the_monitor_does():
    history = shared("sudden")
    weeks = replay.replay(history, MONITOR, RULES).weeks
    first = next(i for i, w in enumerate(weeks) if w.called)
    champion = history.learn(0)
    out_of_fold, schema = history.out_of_fold(champion), champion.schema
    usual = replay.frames.with_predictions(
        out_of_fold, schema, pipelines.predict(champion.pipeline, out_of_fold, schema)
    )
    parts = [replay.frames.with_predictions(rows, schema, predictions) for rows, predictions in (history.predicted(champion, w) for w in range(first))]  # fmt: skip
    log = pd.concat(parts, ignore_index=True)
    log["y"] = log["y"].where(log["at"] + pd.Timedelta(days=1) <= history.starts[first])
    seen = decisions.analyze(
        out_of_fold, replay.reference.learn(usual, schema), log, schema, **histories.KNOBS
    )
    assert seen.decision.state == weeks[first].state == "retrain"
    assert seen.decision.reasons[0] == weeks[first].called


def test_regression_is_replayed_too():
    history = past("sudden", task="regression")
    never, weekly, monitor = played(history, NEVER, WEEKLY, MONITOR)
    error = [np.mean(each.course("squared_error")) for each in (never, weekly, monitor)]
    assert error[1] < error[0]
    assert error[2] < error[0]
    best = replay.oracle(history, weekly)
    assert np.mean([week["squared_error"] for week in best]) <= error[1]


TIMES = {"analysis_interval_seconds": 60, "min_step_minutes": 2, "max_hours": 672}
TIMES |= {"hold_hours": 24, "bake_hours": 24, "tolerated_error_rate": 0.002}


def test_a_canary_is_judged_by_the_judge_of_production():
    stated = {"steps": [20, 50], "margins": [2.0, 1.5], "metrics": ["error", "quality"]}
    stated |= {"label_maturity_hours": {"quality": 48}, "alpha": 0.05, **TIMES}
    rules = replace(RULES, rollout=trials.rules(stated, "binary", 1.0))
    history = past("sudden", rows=300)
    policy = Policy("every", 4, history_days=21, canary=True)
    found = replay.replay(history, policy, rules)
    assert any(w.canary == "advance" for w in found.weeks)
    assert loss(found) < loss(replay.replay(history, NEVER, rules))
    ended = [w.canary for w in found.weeks if w.canary]
    assert set(ended) <= {"advance", "rollback"}


def test_a_canary_without_labels_in_time_is_refused():
    stated = {"steps": [20], "margins": [2.0], "metrics": ["quality"], "alpha": 0.05}
    stated |= {"label_maturity_hours": {"quality": 24}, **TIMES}
    assert isinstance(trials.rules(stated, "binary", 1.0), planning.Rules)
    with pytest.raises(trials.TrialError, match="labels come after 2 days"):
        trials.rules(stated, "binary", 2.0)
    with pytest.raises(trials.TrialError, match="regression has no quality outcome"):
        trials.rules(stated, "regression", 1.0)


def test_the_gate_does_not_take_rows_that_the_champion_knows():
    history = shared("sudden")
    candidate, champion = history.learn(1, 0, 30), history.learn(0)
    assert trials.examine(history, candidate, champion, RULES.bounds) == "insufficient"
    later = history.learn(8, 0, 30)
    assert trials.examine(history, later, champion, RULES.bounds) != "insufficient"


def peak(policy, end):
    """The most memory that a replay until `end` takes, in bytes."""
    history = replace(past("slow", rows=200), end=end)
    tracemalloc.start()
    replay.replay(history, policy, replace(RULES, log_days=14))
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return most


@pytest.mark.slow
def test_memory_is_flat_in_the_number_of_weeks():
    policy = Policy("monitor", history_days=28)
    assert peak(policy, "") < 1.15 * peak(policy, "2020-04-12")  # 14 weeks, 6 weeks
