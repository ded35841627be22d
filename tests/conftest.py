"""What every test may ask for."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before NumPy is there: tests share the machine

import pytest

import synthetic


@pytest.fixture(scope="session")
def parts():
    """Prepared synthetic tables by task."""
    return {task: synthetic.prepared(task) for task in synthetic.LABELS}


@pytest.fixture(scope="session")
def bundles(parts, tmp_path_factory):
    """A sealed bundle by task, of another kind of model each; do not change their files."""
    kinds = {"binary": "boosting", "multiclass": "forest", "regression": "linear"}
    folder = tmp_path_factory.mktemp("bundles")
    return {task: synthetic.sealed(folder / task, parts[task], kinds[task]) for task in kinds}
