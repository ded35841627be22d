"""Quality kept against retrains: known differences, honest intervals, a choice that is what it says."""

import numpy as np
import pytest

from modelkeep.backtest import frontier
from modelkeep.backtest.frontier import NEVER, WEEKLY, Course, FrontierError

WEEKS = 40
DRAWN = frontier.bootstrap_weeks(WEEKS, 4, 1000, 0)


def course(name, retrains, gain, noise=0.0, seed=0):
    random = np.random.default_rng(seed).normal(0, noise, WEEKS)
    return Course(name, retrains, {"log_loss": 0.5 - gain + random})


NOTHING, EVERYTHING = course(NEVER, 0, 0.0), course(WEEKLY, WEEKS - 1, 0.1)


def choose(*policies, weekly=EVERYTHING):
    return frontier.choose("log_loss", policies, NOTHING, weekly, DRAWN)


def test_draws_keep_weeks_that_follow_each_other_together():
    assert DRAWN.shape == (1000, WEEKS)
    assert ((np.diff(DRAWN[:, :4]) % WEEKS) == 1).all()
    assert np.bincount(DRAWN.ravel(), minlength=WEEKS).min() > 800  # each as often, the ends too
    with pytest.raises(FrontierError, match="block_weeks: 41 is not from 1 to the 40 weeks"):
        frontier.bootstrap_weeks(WEEKS, 41, 10, 0)


def test_a_gain_is_positive_where_it_is_better():
    assert frontier.gains("auc", np.array([0.7]), np.array([0.6])) > 0
    assert frontier.gains("log_loss", np.array([0.7]), np.array([0.6])) < 0


def test_an_interval_holds_the_mean_of_what_is_known():
    x = np.random.default_rng(1).normal(0.3, 1, WEEKS)
    x[5] = np.nan
    found = frontier.interval(x, DRAWN)
    assert found.value == pytest.approx(np.nanmean(x))
    assert found.low < found.value < found.high
    assert 0.5 < found.probability <= 1
    assert np.isnan(frontier.interval(np.full(WEEKS, np.nan), DRAWN).value)


def test_blocks_make_the_interval_of_alike_weeks_wider():
    x = np.repeat(np.random.default_rng(2).normal(0, 1, WEEKS // 4), 4)
    wide = frontier.interval(x, DRAWN)
    narrow = frontier.interval(x, frontier.bootstrap_weeks(WEEKS, 1, 1000, 0))
    assert wide.high - wide.low > 1.5 * (narrow.high - narrow.low)


def test_what_is_kept_is_a_share_of_the_weekly_gain():
    share, enough = frontier.benefit_retained(
        "log_loss", course("half", 5, 0.05), NOTHING, EVERYTHING, DRAWN
    )
    assert (share.value, share.low, share.high, enough) == pytest.approx((0.5, 0.5, 0.5, 0))
    share, enough = frontier.benefit_retained(
        "log_loss", course("all", 5, 0.1), NOTHING, EVERYTHING, DRAWN
    )
    assert (share.value, enough) == pytest.approx((1, 1))
    share, enough = frontier.benefit_retained(
        "log_loss", NOTHING, NOTHING, course(WEEKLY, 39, -0.1), DRAWN
    )
    assert np.isnan(share.value)


def test_of_those_that_keep_enough_the_cheapest_is_chosen():
    few, many = course("few", 5, 0.0985), course("many", 9, 0.0999)
    assert choose(few, many).name == "few"
    assert choose(few, many).probability == 1
    assert choose(course("few", 5, 0.09), many).name == "many"
    assert choose(course("few", 5, 0.09)).name == WEEKLY
    assert choose(few, weekly=course(WEEKLY, 39, -0.01)).name == NEVER


def test_a_choice_says_how_sure_it_is():
    found = choose(course("few", 5, 0.099, noise=0.05, seed=3), course("many", 9, 0.1, 0.05, 4))
    assert 0 < found.probability < 1
    assert sum(found.others.values()) + found.probability > 0.85


def test_a_csv_is_read_back():
    text = "week,auc_policy,auc_never,auc_weekly,auc_oracle\n2020-01-01,0.7,0.6,,0.8\n2020-01-08,0.7,0.6,0.7,0.8\n"
    found = frontier.read(text, "p", 1)
    assert [found[k].retrains for k in found] == [1, 0, 1, 0]
    assert found["policy"].name == "p"
    np.testing.assert_array_equal(found["weekly"].quality["auc"], [np.nan, 0.7])
    assert frontier.starts(text) == ["2020-01-01", "2020-01-08"]
