"""The page of the backtest: its sentence, its counts, its figures, and what a sweep makes of several."""

import re
from dataclasses import asdict, replace

import numpy as np
import pytest

import histories
from modelkeep.backtest import alternatives, frontier
from modelkeep.backtest.point_in_time import History, HistoryError
from modelkeep.backtest.policies import Policy
from modelkeep.reports import backtest, compare
from synthetic import said


@pytest.fixture(scope="module")
def founds():
    """Two policies over one history; the models that they share are made once."""
    history = histories.past("sudden")
    chosen = {"monthly": Policy("every", 4), "watched": Policy("monitor", history_days=28)}
    return {k: alternatives.run(history, p, histories.RULES, 4, 200, 0) for k, p in chosen.items()}


def test_the_sentence_says_what_was_spent_and_what_it_kept(founds):
    told = backtest.verdict(founds["monthly"])
    assert told.sentence.startswith("Every 4 weeks, on everything: log loss ")
    assert "for 3 retrains in 14 weeks." in told.sentence
    assert (told.stage, told.state) == ("backtest", "investigate")  # monthly is slow here
    assert "every week without guards is better on this table" in told.sentence.lower()
    assert "of the benefit of retraining every week is retained" in told.reasons[1]
    assert told.evidence.items() > backtest.stage_metrics(founds["monthly"]).items()
    apart = told.evidence["better_than"]["log_loss"]["never"]
    assert apart["low"] < apart["value"] < apart["high"]


def test_a_policy_lies_between_never_and_oracle(founds):
    for found in founds.values():
        assert backtest.difference(found, "log_loss", "never").value > 0
        assert backtest.difference(found, "log_loss", "oracle").value < 0


def test_the_price_is_counted(founds):
    monthly, watched = (founds[k].counts for k in ("monthly", "watched"))
    assert monthly["retrains"] == monthly["promotions"] == 3
    assert monthly["false_alarms"] == watched["false_alarms"] == 0
    assert watched["missed_declines"] >= 1  # the weeks until it was sure
    assert watched["refused"] == watched["rolled_back"] == 0
    first = next(w for w in founds["monthly"].replay.weeks if w.learned)
    assert first.learned < monthly["rows_learned"]


def test_everything_on_the_page_speaks(founds):
    for found in founds.values():
        for shown in (
            *(backtest.course(found, m) for m in ("log_loss", "auc")),
            *(backtest.differences(found, m) for m in ("log_loss", "auc")),
            *(backtest.price(found), backtest.acts(found), backtest.verdict(found)),
        ):
            assert said(shown)


def test_the_csv_holds_all_courses(founds):
    found = founds["monthly"]
    read = frontier.read(backtest.course_csv(found), found.courses["policy"].name, 3)
    for name, course in found.courses.items():
        for metric, values in course.quality.items():
            np.testing.assert_allclose(read[name].quality[metric], values, rtol=1e-5)


def told(founds):
    return {k: (backtest.course_csv(f), asdict(backtest.verdict(f))) for k, f in founds.items()}


def test_a_sweep_draws_the_frontier_and_names_a_policy(founds):
    page = "\n".join(compare.section(told(founds)))
    assert "<h2>Which maintenance policy?</h2>" in page
    assert page.count("<figure") == 2
    assert "By log loss, choose " in page
    assert "the same is chosen in" in page
    assert not re.search(r"\bnan\b", page)


def test_one_backtest_is_no_sweep(founds):
    one = told(founds)["monthly"]
    assert compare.section({"a": one}) == []
    assert compare.section({"a": one, "b": one}) == []


def test_backtests_of_other_weeks_are_not_compared(founds):
    found = founds["watched"]
    shorter = replace(
        found,
        replay=replace(found.replay, weeks=found.replay.weeks[1:]),
        drawn=frontier.bootstrap_weeks(histories.WEEKS - 1, 4, 200, 0),
        courses={
            k: replace(c, quality={m: v[1:] for m, v in c.quality.items()})
            for k, c in found.courses.items()
        },
    )
    several = told({**founds, "watched": shorter})
    (_, reason) = compare.section(several)
    assert "watched was replayed on other weeks than monthly" in reason


def test_a_table_without_time_is_refused():
    with pytest.raises(HistoryError, match="time_column: a backtest replays time"):
        History(histories.table(), {**histories.ASKED, "time_column": ""}, {}, "2020-03-01")


def test_a_start_before_the_rows_is_refused():
    with pytest.raises(HistoryError, match="start: from 2020-01-01"):
        History(histories.table(), histories.ASKED, {}, "2020-01-01")


@pytest.fixture(scope="module")
def guarded():
    """The default policy with planted faults."""
    history = histories.past("slow")
    return alternatives.run(history, Policy("guarded", 1), histories.RULES, 4, 200, 0, 6)


def test_the_page_says_what_the_guards_stopped(guarded):
    told = backtest.verdict(guarded)
    assert (told.state, guarded.replay.policy.name) == ("ok", "guarded")
    (stopped,) = (r for r in told.reasons if "planted candidates" in r)
    assert re.search(r"more than 5% worse, 100.0% were stopped before they served", stopped)
    table = said(backtest.faults(guarded))
    assert all(guard in table for guard in ("label guard", "column guard", "harm gate"))
    numbers = backtest.stage_metrics(guarded)
    assert numbers["faults_stopped"] == numbers["faults_harmful"] > 8


def test_without_planted_faults_the_page_says_so(founds):
    assert "Nothing was planted" in said(backtest.faults(founds["monthly"]))
    assert "faults_harmful" not in backtest.stage_metrics(founds["monthly"])


def test_where_never_updating_is_better_the_page_asks_for_a_person(guarded):
    ours = guarded.courses["policy"]
    better = {m: v - 0.05 if m == "log_loss" else v for m, v in ours.quality.items()}
    never = replace(guarded.courses["never"], quality=better)
    told = backtest.verdict(replace(guarded, courses={**guarded.courses, "never": never}))
    assert told.state == "investigate"
    assert told.sentence.endswith("Never updating is better on this table.")
