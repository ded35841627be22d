"""What a backtest keeps on disk: the same answers with it as without, whatever has happened to it."""

from dataclasses import replace

import pandas as pd
import pytest

import histories
from modelkeep.backtest import alternatives, cache
from modelkeep.backtest.cache import ResultCache
from modelkeep.backtest.policies import Policy
from modelkeep.reports import backtest
from modelkeep.training import pipelines

EVERY = Policy("every", 2)


DAMAGES = {"emptied": lambda c: b"", "cut": lambda c: c[:-1], "changed": lambda c: c[:70] + b"!" + c[71:]}  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_what_is_damaged_counts_as_missing(tmp_path, damage):
    benefit_retained = ResultCache(tmp_path)
    assert benefit_retained.get("abc") == b""
    benefit_retained.put("abc", b"piece\nof two lines")
    assert benefit_retained.get("abc") == b"piece\nof two lines"
    (path,) = (p for p in tmp_path.rglob("*") if p.is_file())
    path.write_bytes(damage(path.read_bytes()))
    assert benefit_retained.get("abc") == b""


def test_without_a_folder_nothing_is_kept():
    ResultCache().put("abc", b"piece")
    assert ResultCache().get("abc") == b""


def test_a_name_is_one_of_all_that_it_was_made_of():
    assert cache.name({"a": 1, "b": 2}, "x") == cache.name({"b": 2, "a": 1}, "x")
    assert len({cache.name(*each) for each in ([1], [2], [1, 1], [[1, 1]], ["1"])}) == 5
    assert set(cache.code()) > {"modelkeep", "python", "scikit-learn"}


@pytest.fixture
def fitted(monkeypatch):
    """Counts the models that are fitted."""
    found, fit = [], pipelines.fit

    def counted(unfitted, rows, schema):
        found.append(len(rows))
        return fit(unfitted, rows, schema)

    monkeypatch.setattr(pipelines, "fit", counted)
    return found


def told(folder, policy=EVERY, **other):
    """What a page says of a policy, with the shelf in a folder."""
    history = replace(histories.past("sudden", weeks=3), results=ResultCache(folder), **other)
    found = alternatives.run(history, policy, histories.RULES, 2, 50, 0)
    return backtest.course_csv(found), backtest.verdict(found)


def test_a_run_says_the_same_with_and_without_what_was_kept(tmp_path, fitted):
    plain = told(None)
    assert told(tmp_path) == plain
    fitted.clear()
    assert told(tmp_path) == plain
    assert fitted == []


def test_answers_of_a_kept_model_are_those_of_the_model(tmp_path):
    model, history = (
        replace(histories.past(weeks=3), results=ResultCache(tmp_path)) for _ in range(2)
    )
    trained, read = model.learn(1), history.learn(1)
    assert (read.schema, read.rows, read.seconds) == (trained.schema, trained.rows, trained.seconds)
    assert (model.predicted(trained, 2)[1] == history.predicted(read, 2)[1]).all()


def test_what_was_damaged_is_made_again(tmp_path, fitted):
    plain = told(tmp_path)
    for path in (p for p in tmp_path.rglob("*") if p.is_file()):
        path.write_bytes(path.read_bytes()[:-3])
    for expected in (3 + 3, 0):  # models, and the folds behind the expected performance
        fitted.clear()
        assert told(tmp_path) == plain
        assert len(fitted) == expected


@pytest.mark.parametrize(
    "other",
    [
        {"label_delay_days": 2.0},
        {"learning": {**histories.LEARNING, "l2": 2.0}},
        {"preparing": {**histories.ASKED, "features": ["a", "b"]}},
    ],
    ids=["delay", "learning", "asked"],
)
def test_another_question_is_not_answered_by_what_was_kept(tmp_path, fitted, other):
    for asked in ({}, other):
        history = replace(histories.past(weeks=3), results=ResultCache(tmp_path), **asked)
        history.learn(1)
    assert len(fitted) == 2


def test_models_stand_until_a_row_that_they_knew_is_mended(tmp_path, fitted):
    table = histories.table(weeks=3)
    starts = pd.Timestamp(histories.START) + pd.to_timedelta([7, 14], unit="D")
    row = table.index[table["at"] >= starts[0]][0]  # of the second week
    mended = table.assign(a=table["a"].where(table.index != row, 0.0))
    for each, made in ((table[table["at"] < starts[1]], 2), (table, 1), (mended, 1)):
        fitted.clear()
        history = replace(histories.past(weeks=3), table=each, results=ResultCache(tmp_path))
        for week in range(len(history.starts)):
            history.learn(week)
        assert len(fitted) == made
