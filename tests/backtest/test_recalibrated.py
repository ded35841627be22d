"""A new level every four weeks: what it retains where rates move, and where relations change."""

import numpy as np
import pytest

import histories
from modelkeep.backtest import recalibrated, replay
from modelkeep.backtest.policies import Policy
from modelkeep.evaluation import metrics


def courses(kind, place=0, **made):
    """A metric by week of the new level, of never retraining, and of every week."""
    history = histories.shared(kind, **made)
    name = metrics.METRICS[history.learn(0).schema.task][place]
    plain = (Policy("never"), Policy("every", 1))
    never, weekly = (replay.replay(history, p, histories.RULES).course(name) for p in plain)
    return recalibrated.course(history)[name], never, weekly


def retained(kind, **made):
    """The share of the benefit of retraining that is retained in the weeks after the change."""
    level, never, weekly = (each[8:].mean() for each in courses(kind, **made))
    return (never - level) / (never - weekly)


@pytest.mark.parametrize("task", ["binary", "regression"])
def test_where_only_the_level_moves_it_retains_the_benefit(task):
    """More than that: retraining on everything follows slowly."""
    assert retained("level", task=task) > 1


def test_where_the_relation_changes_the_order_of_rows_stays_wrong():
    level, never, weekly = courses("sudden", place=1)
    np.testing.assert_allclose(level, never, atol=1e-9)
    assert weekly[-1] > never[-1] + 0.1


def test_where_nothing_changes_it_does_nothing():
    level, never, _ = courses("none")
    np.testing.assert_array_equal(level, never)


def test_no_week_is_predicted_by_what_only_later_labels_tell():
    """The weeks before a change are the same whatever the labels after them say."""
    level, same = (recalibrated.course(histories.past(kind)) for kind in ("level", "none"))
    first = next(iter(level))
    np.testing.assert_array_equal(level[first][:3], same[first][:3])
    late = histories.shared("level", delay=40.0)
    np.testing.assert_array_equal(  # in week 8 no label of the change is known yet
        recalibrated.course(late)[first][:12],
        [late.quality(late.learn(0), w)[first] for w in range(12)],
    )
