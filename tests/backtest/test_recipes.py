"""A changed recipe judged over the weeks of history: fresh models of both, paired."""

import numpy as np

import histories
from modelkeep.backtest import recipes
from modelkeep.backtest.point_in_time import History

BOUNDS = histories.BOUNDS


def judged(asked=None, learning=None, days=(0, 0), rows=None, **made):
    """A recipe with other parameters of prepare or train beside that of `histories`."""
    table = histories.table(**made) if rows is None else rows
    first = recipes.start(table["at"])
    former, changed = (
        History(table, histories.ASKED | more[0], histories.LEARNING | more[1], first, "", 1.0)
        for more in (({}, {}), (asked or {}, learning or {}))
    )
    return recipes.walk_forward(former, changed, days, BOUNDS)


def test_the_first_pair_learns_from_a_third_of_the_time():
    assert recipes.start(histories.table(weeks=12)["at"]) == "2020-02-17"


def test_a_recipe_that_ignores_what_tells_is_worse():
    found = judged(learning={"l2": 1e7})
    assert found.word == "worse"
    assert found.gains[0].blocks >= 90


def test_an_equal_recipe_is_non_inferior():
    found = judged(learning={"l2": 1.1})
    assert found.word == "non_inferior"
    assert all(abs(g.gain) < g.margin for g in found.gains)


def test_a_column_that_tells_is_found_though_it_does_so_seldom():
    table = histories.table(weeks=30)
    draw = np.random.default_rng(1)
    table["d"] = (draw.random(len(table)) < 0.05).astype(float)
    table["y"] = np.where(table["d"] > 0, 1, table["y"])
    assert judged({"features": ["a", "b", "c", "d"]}, rows=table).word == "better"


def test_a_window_of_history_is_part_of_a_recipe():
    """After a sudden change two weeks tell more than everything before."""
    assert judged(days=(0, 14), kind="sudden").word == "better"


def test_few_days_are_insufficient():
    table = histories.table()
    days = (table["at"] - table["at"].min()).dt.days
    assert judged(rows=table[days < 40]).word == "insufficient"
