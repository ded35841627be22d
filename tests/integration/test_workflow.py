"""The workflow that takes a turn a night: its own steps, run as its runner runs them, from a fresh checkout to what the next one finds."""

import json
import subprocess
import time
from pathlib import Path

import pandas as pd
import pytest
import yaml

import live
import released
import synthetic
import turned
import warm
import workspaces
from modelkeep.ops import cycle
from modelkeep.registry import record
from modelkeep.rollout import control
from workspaces import REPOSITORY, run

JOB = yaml.safe_load((REPOSITORY / ".github/workflows/update.yml").read_text())["jobs"]["update"]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder for all of it, and a name to commit under."""
    with released.surroundings(tmp_path_factory.mktemp("who")):
        yield tmp_path_factory.mktemp("workflow")


@pytest.fixture(scope="module")
def runner(place):
    """A checkout with an environment, of a repository that has a remote for commits and one for data, and no turn behind it."""
    root = turned.whole(place / "work")
    turned.settle(root, "update", every_days=0.0)
    run(root, "dvc", "remote", "add", "--default", "store", str(place / "store"))
    workspaces.commit(root, "A remote for data")
    run(root, "dvc", "push", "-q")
    run(root, "git", "clone", "-q", "--bare", str(root), str(place / "origin.git"))
    return checkout(place / "origin.git", place / "runner")


def checkout(origin: Path, to: Path) -> Path:
    """What actions/checkout does with `fetch-depth: 0`, and an environment that make takes for made."""
    run(origin, "git", "clone", "-q", str(origin), str(to))
    (to / ".venv").mkdir()
    (to / ".venv/bin").symlink_to(warm.folder())
    for name in ("Makefile", "pyproject.toml"):
        (to / name).write_text((REPOSITORY / name).read_text())
    (to / ".git/info/exclude").write_text("/Makefile\n/pyproject.toml\n/.venv\n")
    (to / ".venv/made").touch()
    return to


def steps(root: Path) -> list[str]:
    """Run each step's commands by the shell that the runner has for them; the last words of those that failed."""
    failed = []
    for step in JOB["steps"]:
        if "run" not in step or (failed and step.get("if") != "always()"):
            continue
        shell = ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", step["run"]]
        done = subprocess.run(shell, cwd=root, capture_output=True, text=True)
        if done.returncode:
            failed.append(f"{step['name']}: {done.stdout[-1000:]}{done.stderr[-1000:]}")
    return failed


def test_a_night_of_the_workflow_is_shared_and_the_next_checkout_goes_on_from_it(runner, place):
    origin = place / "origin.git"
    assert steps(runner) == []
    assert "v1.0.0" in run(origin, "git", "tag", "--list")
    assert run(origin, "git", "rev-parse", "main") == run(runner, "git", "rev-parse", "HEAD")
    elsewhere = checkout(origin, place / "elsewhere")
    assert record.read(elsewhere).champion.version == "v1.0.0"
    run(elsewhere, "dvc", "pull", "-q", "--allow-missing")
    assert (elsewhere / "models/candidate/manifest.json").is_file()
    pd.testing.assert_frame_equal(turned.history(elsewhere), turned.history(runner))


def test_the_next_cycle_takes_what_a_real_server_answered_and_judges_against_the_champion(runner):
    rows = synthetic.table(rows=3000, days=90)
    rows = rows[rows["when"] >= turned.day(75)]
    asked = rows.drop(columns="late").assign(when=rows["when"].astype(str)).astype(object)
    body = {"rows": asked.where(asked.notna(), None).to_dict("records")}
    truth = zip(rows["key"], rows["late"].tolist(), strict=True)
    with live.served(runner) as server:
        assert server.ask("POST", "/predict", body)[0] == 200
        labels = {"labels": [{"id": key, "label": late} for key, late in truth]}
        assert server.ask("POST", "/labels", labels)[0] == 200
        time.sleep(control.LAG)  # a candidate that passes is tried only where answers are known
        code, said = turned.command(runner)
        assert server.ask("GET", "/health/ready")[0] == 200
    assert (code, said["rows"]["rows"]) == (cycle.CODES[said["state"]], len(rows)), said
    assert said["state"] in ("unchanged", "in_progress", "needs_attention"), said
    assert said["gate"] and said["monitor"], said
    verdict = json.loads((runner / "verdicts/evaluate.json").read_text())
    assert "the champion v1.0.0" in verdict["sentence"] and verdict["evidence"]["refit"]
    assert "withhold: false" in run(runner, "git", "show", "HEAD:params/train.yaml")
    assert "v1.0.0" in (runner / "reports/update.html").read_text() or said["monitor"]
    history = turned.history(runner)
    assert len(history) == 3000 and history["key"].is_unique


def test_a_failed_cycle_fails_the_night_and_what_there_is_is_shared_all_the_same(runner):
    turned.settle(runner, "update", retrain="sometimes")
    workspaces.commit(runner, "A word that does not exist")
    (failed,) = steps(runner)
    assert failed.startswith("One cycle") and "retrain" in failed
    assert run(runner, "git", "rev-parse", "origin/main") == run(runner, "git", "rev-parse", "HEAD")
