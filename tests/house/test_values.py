"""A params file is the home of its values: whatever a user sets there, the tests of the house stay green."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import workspaces
from modelkeep.core import workspace

ROOT = Path(__file__).parents[2]
NAMES = sorted(path.stem for path in (ROOT / "params").glob("*.yaml"))
STATED = {"source": "pyproject.toml"}  # a table must be there


def another(name, value):
    """Another value of the same type."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int | float):
        return value + 1
    if isinstance(value, list):
        return [another("", item) for item in value] or ["x"]
    if isinstance(value, dict):
        return {key: another("", item) for key, item in value.items()} or {"x": {}}
    return STATED.get(name, f"{value}x")


@pytest.fixture(scope="module")
def changed(tmp_path_factory):
    """This repository with every value of every params file changed."""
    root = tmp_path_factory.mktemp("house") / "ws"
    for name in workspaces.tracked():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, root / name)
    for name in NAMES:
        values = {k: another(k, v) for k, v in workspace.params(root, name).items()}
        workspace.set_params(root, name, values)
        assert workspace.params(root, name) == values != workspace.params(ROOT, name)
    workspaces.run(root, "git", "init", "-q", "-b", "main")
    workspaces.run(root, "git", "add", "-A")
    return root


def test_other_values_leave_the_house_green(changed):
    tests = ["test_pipeline", "test_notebook_shape", "test_readme"]
    paths = [f"tests/house/{name}.py" for name in tests]
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *paths]
    env = workspaces.surroundings(changed) | {"PYTHONPATH": str(changed / "lib")}
    command += ["-k", "not commands_have_help"]  # they cost seconds, and no value
    done = subprocess.run(command, cwd=changed, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]


def test_the_model_has_one_name():
    """params/serve.yaml is its home; dvc.yaml cannot read it there, and `modelkeep init` writes both."""
    artifacts = workspace.value((ROOT / "dvc.yaml").read_text())["artifacts"]
    assert list(artifacts) == [workspace.params(ROOT, "serve")["name"]]
