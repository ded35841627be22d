"""Policies beside each other in money: errors by the rule of the costs, and retrains."""

import numpy as np
import pytest

import histories
from modelkeep.backtest import alternatives, frontier
from modelkeep.backtest.cache import ResultCache
from modelkeep.backtest.point_in_time import History
from modelkeep.backtest.policies import Policy
from modelkeep.backtest.replay import Rules
from modelkeep.reports import backtest

MISS, FALSE_ALARM, RETRAIN = 5.0, 1.0, 20.0
ERRORS = {"1": {"0": MISS}, "0": {"1": FALSE_ALARM}}
COSTS = {"errors": ERRORS, "retrain": RETRAIN}
BY_COST = Rules(histories.BOUNDS | {"judge_by": "cost"}, histories.KNOBS)


def past(kind, costs=COSTS, **made):
    learning = histories.LEARNING | {"costs": costs}
    return History(histories.table(kind, **made), histories.ASKED, learning, histories.START, "", 1)


@pytest.fixture(scope="module")
def found():
    """A guarded policy on a history whose meaning changes at once."""
    history = past("sudden")
    return history, alternatives.run(history, Policy("guarded", 1), BY_COST, 4, 200, 0)


def test_the_cost_of_a_week_is_that_of_the_rule_of_the_costs(found):
    history, result = found
    cut = FALSE_ALARM / (MISS + FALSE_ALARM)
    for week in range(len(result.starts)):
        rows, p = history.predicted(history.learn(week), week)
        y, named = rows["y"].to_numpy() == "1", p[:, 1] >= cut
        spent = np.where(y, MISS * ~named, FALSE_ALARM * named)
        assert result.courses["weekly"].quality["cost"][week] == pytest.approx(spent.mean())
        assert result.rows[week] == len(rows)


def test_retrains_are_paid_for(found):
    _, result = found
    spent = alternatives.total_costs(result)
    assert spent["never"][1] == 0 and "oracle" not in spent
    assert spent["weekly"][1] == RETRAIN * (len(result.starts) - 1)
    weekly = result.courses["weekly"].quality["cost"]
    assert spent["weekly"][0] == pytest.approx((weekly * result.rows).sum())


def test_the_page_chooses_by_cost_where_it_is_told_to(found):
    _, result = found
    verdict = backtest.verdict(result)
    assert verdict.sentence.startswith("Guarded: cost a row")
    assert any(each.startswith("by cost a row, choose") for each in verdict.reasons)
    assert any("errors and retrains cost" in each for each in verdict.reasons)
    table = backtest.costs(result).text
    assert "retrains" in table and "in all" in table
    assert "cost_policy" in backtest.course_csv(result)
    assert {"cost", "cost_benefit_retained"} <= set(backtest.stage_metrics(result))


def test_without_costs_there_are_none_on_the_page():
    history = histories.shared("none", weeks=4)
    result = alternatives.run(history, Policy("never"), histories.RULES, 2, 50, 0)
    assert result.names == ("log_loss", "auc") and result.costs is None
    assert "No costs are stated" in backtest.costs(result).text
    assert not any("cost a row" in each for each in backtest.verdict(result).reasons)


def test_results_of_other_costs_are_not_taken_from_the_cache(tmp_path):
    values = []
    for errors in (ERRORS, {"1": {"0": 50.0}, "0": {"1": FALSE_ALARM}}):
        history = past("none", {"errors": errors}, weeks=2)
        history.results = ResultCache(tmp_path)
        values.append(history.quality(history.learn(0), 0)["cost"])
    assert values[0] != values[1]


@pytest.mark.parametrize("kind", ["none", "sudden", "slow", "covariate"])
def test_the_chosen_policy_costs_little_more_than_the_best_model_of_each_week(kind):
    history = past(kind, {"errors": ERRORS}, rows=150)
    result = alternatives.run(history, Policy("guarded", 1), BY_COST, 4, 200, 0)
    c = result.courses
    able = [c["policy"], c["monthly"]]
    name = frontier.choose("cost", able, c["never"], c["weekly"], result.drawn).name
    chosen = next(course for course in c.values() if course.name == name)
    total, best = ((each.quality["cost"] * result.rows).sum() for each in (chosen, c["oracle"]))
    assert total <= 1.05 * best
