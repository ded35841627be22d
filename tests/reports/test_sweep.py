"""A sweep as its user runs it: DVC's experiments over policies in a real workspace, then side by side."""

import json

import pytest

import workspaces
from modelkeep.core import pages
from modelkeep.reports import compare
from workspaces import run

POLICIES = {"every-two": "weeks=2", "left-alone": "policy=never"}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = workspaces.build(tmp_path_factory.mktemp("sweep") / "clone")
    (root / "backtest" / "dvc.yaml").write_text((root / "backtest" / "stage.yaml").read_text())
    run(root, "git", "add", "backtest/dvc.yaml")
    run(root, "git", "commit", "-qm", "Switch the backtest on")
    for name, value in POLICIES.items():
        asked = ("-n", name, "-S", f"params/backtest.yaml:{value}", "-S", "params/backtest.yaml:block_weeks=2")  # fmt: skip
        run(root, "dvc", "exp", "run", "backtest/dvc.yaml", *asked)
    return root


def test_an_experiment_replays_its_policy_and_leaves_the_turn_alone(root):
    told = json.loads((root / "verdicts" / "backtest.json").read_text())
    assert told["sentence"].startswith("Never: log loss ")
    assert "for 0 retrains in 4 weeks." in told["sentence"]
    assert not (root / "dvc.lock").exists()  # nothing of the turn has run
    assert (root / "backtest" / "dvc.lock").is_file()
    assert (root / "data" / "backtest" / "times.json").is_file()
    assert "times" not in (root / "backtest" / "dvc.lock").read_text()


def test_a_turn_does_not_wait_for_a_backtest(root):
    told = run(root, "dvc", "stage", "list", "--name-only").split()
    assert told == [*pages.STAGES]


def test_compare_names_the_policy_to_choose(root):
    page = compare.compare(root, [*POLICIES], "reports/compare.html").page.read_text()
    assert "Which maintenance policy?" in page
    assert "By log loss, choose " in page
    assert "backtest.<wbr>weeks" in page
    assert "<h3>backtest</h3>" in page


def test_two_runs_give_the_same_bytes(root):
    places = ("verdicts/backtest.json", "metrics/backtest.json", "plots/backtest.csv", "reports")
    before = workspaces.content(root, *places)
    run(root, "dvc", "repro", "-f", "backtest/dvc.yaml")
    after = workspaces.content(root, *places)
    others = [k for k in before if "compare" not in k and "index" not in k]
    assert {k: after[k] for k in others} == {k: before[k] for k in others}
