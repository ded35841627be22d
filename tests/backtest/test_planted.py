"""Planted faults: each kind is bad, is stopped, and the same seed plants the same."""

from dataclasses import replace

import pytest

import histories
from modelkeep.backtest import guarded, planted
from modelkeep.backtest.cache import ResultCache
from modelkeep.backtest.policies import Policy
from modelkeep.training.maintenance import Rules

POLICY, RULES = Policy("guarded", 1), Rules()


def plant(history, every=6):
    states: dict = {}
    guarded.replay(history, POLICY, RULES, states)
    return planted.plant(history, POLICY, RULES, states, every)


@pytest.fixture(scope="module")
def found():
    return plant(histories.shared())


def by_kind(found):
    return {kind: [p for p in found if p.kind == kind] for kind in planted.FAULTS}


def test_each_kind_is_planted_in_the_chosen_weeks(found):
    assert {p.week for p in found} == {6, 12}
    assert all(len(each) == 2 for each in by_kind(found).values())


@pytest.mark.parametrize(
    ("kind", "guard"),
    [
        ("shuffled labels", "harm gate"),
        ("misjoined column", "harm gate"),
        ("zeroed column", "harm gate"),
        ("labels of one class", "label guard"),
        ("flipped labels", "harm gate"),
        ("other unit", "column guard"),
    ],
)
def test_each_guard_stops_what_is_its_own(found, kind, guard):
    for each in by_kind(found)[kind]:
        assert each.bad and not each.served
        assert each.stopped_by == guard


def test_what_is_sound_where_nothing_changes_may_pass(found):
    for each in by_kind(found)["stale"]:
        assert not each.bad  # old rows are as good as new ones here


def test_without_a_guard_its_fault_answers(found):
    history, states = histories.shared(), {}
    blind = replace(RULES, label_sds=1e9, max_holds=0, shadow_days=0.0)
    guarded.replay(history, POLICY, blind, states)
    bad = [p for p in planted.plant(history, POLICY, blind, states, 12) if p.kind == "labels of one class"]  # fmt: skip
    assert bad and all(p.served for p in bad)


def test_planting_again_is_read_from_disk(tmp_path):
    history = replace(histories.past(weeks=6), results=ResultCache(tmp_path))
    first = plant(history, 3)
    assert plant(replace(history, table=history.table), 3) == first


def test_the_strongest_column_is_that_which_tells_most():
    assert planted.strongest(histories.shared()) == "a"
