"""What every test may ask for."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before NumPy is there: tests share the machine

import pytest

import synthetic
from modelkeep.training import boosters, pipelines
from servers import need_packages

# Files that take minutes, the longest first: two workers that meet them last wait for each other.
LONG = (
    "versions",
    "docs",
    "alerts",
    "update",
    "control",
    "releases",
    "alarms",
    "app",
    "clients",
    "workflow",
    "guarded",
    "replay",
    "investigate",
    "year",
    "backtest",
    "sweep",
)
SERVER_FOLDERS = ("integration", "ops", "registry", "rollout")
SERVER_FILES = ("app", "postgres", "runner", "alerts", "versions", "workflow")


def pytest_collection_modifyitems(items):
    """Long files first; the order in a file, and of all others, stays. What starts processes is marked `server`."""
    for item in items:
        name = item.path.stem.removeprefix("test_")
        if item.path.parent.name in SERVER_FOLDERS or name in SERVER_FILES:
            item.add_marker(pytest.mark.server)
    places = {f"test_{name}": place for place, name in enumerate(LONG)}
    items.sort(key=lambda item: places.get(item.path.stem, len(LONG)))


@pytest.fixture(params=pipelines.KINDS)
def kind(request):
    """Each kind of model; those of optional libraries where they are installed."""
    if request.param in boosters.KINDS:
        need_packages(**{request.param: request.param})
    return request.param


@pytest.fixture(scope="session")
def parts():
    """Prepared synthetic tables by task."""
    return {task: synthetic.prepared(task) for task in synthetic.LABELS}


@pytest.fixture(scope="session")
def turns(tmp_path_factory):
    """One turn of the loop for tables of three kinds, as the notebooks run it."""
    kinds = {"multiclass": (True, "forest"), "regression": (True, "linear")}
    kinds["binary"] = (False, "boosting")
    folder = tmp_path_factory.mktemp("turns")
    return {task: synthetic.turn(folder / task, task, *kind) for task, kind in kinds.items()}


@pytest.fixture(scope="session")
def bundles(parts, tmp_path_factory):
    """A sealed bundle by task, of another kind of model each; do not change their files."""
    kinds = {"binary": "boosting", "multiclass": "forest", "regression": "linear"}
    folder = tmp_path_factory.mktemp("bundles")
    return {task: synthetic.sealed(folder / task, parts[task], kinds[task]) for task in kinds}
