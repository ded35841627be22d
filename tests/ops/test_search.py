"""A search runs real experiments of DVC, chooses by early folds and compares on the last."""

import sys

import numpy as np
import pandas as pd
import pytest

import workspaces
from modelkeep.core import workspace
from modelkeep.ops import commits, search
from modelkeep.ops.search import SearchError
from modelkeep.predictions import frames
from modelkeep.reports import experiments
from servers import need_packages
from workspaces import run

PARAMS = {"model": "boosting", "max_depth": 4, "learning_rate": 0.1, "trees": 20, "folds": 4}
POOR, GOOD = 2, "trees=15:40"


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A workspace whose present parameters are poor ones."""
    need_packages(optuna="optuna")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(workspaces, "END", "2013-12-01")  # for 30 days in the last fold
        root = workspaces.build(tmp_path_factory.mktemp("search") / "clone")
    workspace.set_params(root, "train", {"trees": POOR})
    workspace.set_params(root, "prepare", {"as_of": "2013-11-15"})
    workspaces.commit(root, "Few trees")
    return root


@pytest.fixture(scope="module")
def found(root):
    """What two trials found."""
    run(root, "modelkeep", "search", "--trials", "2", "--vary", GOOD, "--json")
    return search.search(root, trials=2, vary=[GOOD])


def test_a_space_is_read_from_texts():
    texts = ["max_depth=2:8", "learning_rate=0.01:0.3", "model=boosting,forest", "trees=10,20,40"]
    assert search.parsed(texts, PARAMS) == {
        "max_depth": (2, 8),
        "learning_rate": (0.01, 0.3),
        "model": ["boosting", "forest"],
        "trees": [10, 20, 40],
    }
    assert search.parsed([], PARAMS) == {}


def test_the_usual_space_lies_around_the_present_values():
    present = PARAMS | {"min_rows_leaf": 3, "l2": 1.0, "max_depth": 0}
    assert search.around(present) == {
        "trees": (5, 80),
        "min_rows_leaf": (1, 12),
        "learning_rate": (0.025, 0.4),
        "l2": (0.01, 100.0),
    }
    assert search.around(present | {"model": "linear"}) == {"l2": (0.01, 100.0)}
    with pytest.raises(SearchError, match="no value of linear is varied by itself"):
        search.around(present | {"model": "linear", "l2": 0.0})


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("depth=2:8", "'depth' is none of what can be varied: model, max_depth, learning_rate"),
        ("folds=2:8", "'folds' is none of what can be varied"),
        ("max_depth=8:2", "write a range as max_depth=LOW:HIGH, the lower first"),
        ("model=a:b", "write a range as model=LOW:HIGH"),
        ("max_depth=8", "write max_depth=LOW:HIGH, or choices as max_depth=A,B,C"),
        ("max_depth", "write max_depth=LOW:HIGH"),
    ],
)
def test_a_space_that_is_none_is_refused_with_the_rule(text, rule):
    with pytest.raises(SearchError, match="--vary ") as error:
        search.parsed([text], PARAMS)
    assert rule in str(error.value)


def test_poor_parameters_are_left_for_better_ones(root, found):
    assert found.state == "better" and found.best.loss < found.present.loss
    assert found.sentence.startswith(f"{found.best.name} is better than the present parameters")
    assert f"`dvc exp apply {found.best.name} && dvc repro`" in found.next
    tried = [each.values["trees"] for each in found.trials]
    assert all(15 <= trees <= 40 for trees in tried) and len(tried) == 2
    text = str(found)
    assert text.splitlines()[1].endswith("the present ones") and found.sentence in text
    assert run(root, "git", "status", "--porcelain") == ""  # the workspace is as it was


def test_trials_are_chosen_by_rows_that_the_comparison_does_not_have(root, found):
    name = found.best.name
    made = experiments.read(root, name)
    rows = made.predictions.sort_values("scheduled")
    days = rows["scheduled"].dt.normalize().drop_duplicates()
    newest = days.iloc[-(len(days) // made.params["train.folds"]) :]
    last = rows["scheduled"].dt.normalize().isin(newest)
    p = frames.predictions(rows, made.schema)
    p = p[np.arange(len(rows)), [made.schema.classes.index(str(each)) for each in rows["late"]]]
    loss = pd.Series(-np.log(p), rows.index)
    assert found.best.loss == pytest.approx(loss[~last].mean(), rel=1e-9)
    assert f"on {last.sum():,} rows of {len(newest)} days" in found.sentence


def test_no_trial_reads_the_test_rows(root, found):
    lock = run(root, "git", "show", f"{_commit(root, found.best.name)}:dvc.lock")
    assert "  train:" in lock and "evaluate" not in lock


def test_without_optuna_the_remedy_is_named(root, monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(SearchError, match=r"pip install 'modelkeep\[search\]'"):
        search.search(root)


def test_a_trial_that_is_there_is_not_run_again(root, found, monkeypatch):
    def never(*given):
        raise AssertionError("DVC was called")

    monkeypatch.setattr(commits, "dvc", never)
    again = search.search(root, trials=2, vary=[GOOD])
    assert again == found
    with pytest.raises(SearchError, match="take another --name, or `dvc exp remove search-1`"):
        search.search(root, trials=2, vary=[GOOD], seed=1)


def test_a_trial_that_fails_is_named_and_the_rest_goes_on(root, found, monkeypatch):
    run(root, "dvc", "exp", "remove", "-q", "search-2")

    def fails(*given):
        raise commits.CommitError("no trees grow here")

    monkeypatch.setattr(commits, "dvc", fails)
    other = search.search(root, trials=2, vary=[GOOD])
    assert [each.loss is None for each in other.trials] == [False, True]
    assert "search-2 failed: no trees grow here" in str(other)
    with pytest.raises(SearchError, match="the present parameters of train fail: no trees"):
        search.search(root, "else", trials=2, vary=[GOOD])


def test_what_is_better_nowhere_is_left(root, found):
    worse = search.Trial("x-1", {"trees": 1}, found.present.loss + 0.1)
    done = search.concluded(root, "log loss", found.present, [worse], 3)
    assert done.best is None and done.state == "done"
    assert done.sentence.startswith("None of 1 trial has a lower log loss")


def _commit(root, name):
    return run(
        root, "git", "for-each-ref", "--format=%(objectname)", f"refs/exps/**/{name}"
    ).strip()
