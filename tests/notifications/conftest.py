import shutil

import pytest

import notified
from modelkeep.core import workspace
from modelkeep.notifications import channels


@pytest.fixture(scope="session")
def recorded(tmp_path_factory):
    return notified.build(tmp_path_factory.mktemp("notified") / "ws")


@pytest.fixture
def root(recorded, tmp_path, monkeypatch):
    """A copy of the repository of `notified`, with a secret for webhooks."""
    monkeypatch.setenv(channels.SECRET, "a secret")
    shutil.copytree(recorded, tmp_path / "ws")
    return tmp_path / "ws"


@pytest.fixture
def settings(root):
    """A function that sets values of params/notify.yaml, and reads them."""

    def set_values(**values):
        workspace.set_params(root, "notify", {"tls": "none", **values})
        return channels.settings(root)

    return set_values
