"""The workflow that takes a turn a night: its own steps, run as its runner runs them, from a fresh checkout to what the next one finds."""

import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import yaml

import released
import turned
import workspaces
from modelkeep.registry import record
from workspaces import REPOSITORY, run

JOB = yaml.safe_load((REPOSITORY / ".github/workflows/update.yml").read_text())["jobs"]["update"]


@pytest.fixture
def runner(tmp_path):
    """A checkout with an environment, of a repository that has a remote for commits and one for data, and no turn behind it."""
    with released.surroundings(tmp_path / "who"):
        root = turned.whole(tmp_path / "work")
        run(root, "dvc", "remote", "add", "--default", "store", str(tmp_path / "store"))
        workspaces.commit(root, "A remote for data")
        run(root, "dvc", "push", "-q")
        run(root, "git", "clone", "-q", "--bare", str(root), str(tmp_path / "origin.git"))
        yield checkout(tmp_path / "origin.git", tmp_path / "runner")


def checkout(origin: Path, to: Path) -> Path:
    """What actions/checkout does with `fetch-depth: 0`, and an environment that make takes for made."""
    run(origin, "git", "clone", "-q", str(origin), str(to))
    (to / ".venv").mkdir()
    (to / ".venv/bin").symlink_to(Path(sys.executable).parent)
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


def test_a_night_of_the_workflow_is_shared_and_the_next_checkout_goes_on_from_it(runner, tmp_path):
    origin = tmp_path / "origin.git"
    assert steps(runner) == []
    assert "v1.0.0" in run(origin, "git", "tag", "--list")
    assert run(origin, "git", "rev-parse", "main") == run(runner, "git", "rev-parse", "HEAD")
    elsewhere = checkout(origin, tmp_path / "elsewhere")
    assert record.read(elsewhere).champion.version == "v1.0.0"
    run(elsewhere, "dvc", "pull", "-q", "--allow-missing")
    assert (elsewhere / "models/candidate/manifest.json").is_file()
    pd.testing.assert_frame_equal(turned.history(elsewhere), turned.history(runner))


def test_a_failed_cycle_fails_the_night_and_what_there_is_is_shared_all_the_same(runner):
    turned.settle(runner, "update", retrain="sometimes")
    workspaces.commit(runner, "A word that does not exist")
    (failed,) = steps(runner)
    assert failed.startswith("One cycle") and "retrain" in failed
    assert run(runner, "git", "rev-parse", "origin/main") == run(runner, "git", "rev-parse", "HEAD")
