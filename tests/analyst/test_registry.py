"""Versions, champions and the pages of a version, from Git tags and files at a commit."""

import json

import pytest

import modelkeep as mk
import tiny
from modelkeep.core.errors import ModelkeepError

AT = {"GIT_COMMITTER_DATE": "2026-05-01T00:00:00Z", "GIT_AUTHOR_DATE": "2026-05-01T00:00:00Z"}


@pytest.fixture
def repository(tmp_path, monkeypatch):
    """Version 1.0.0, released and promoted on 1 May 2026; its verdict has changed since."""
    root = tmp_path / "shop"
    tiny.workspace(root)
    (root / "dvc.yaml").write_text("stages: {}\n")
    (root / "params" / "serve.yaml").write_text("name: shop\n")
    verdict = {"stage": "train", "state": "done", "sentence": "It was good then."}
    (root / "verdicts").mkdir()
    (root / "verdicts" / "train.json").write_text(json.dumps(verdict))
    for command in (
        ("git", "init", "-q", "-b", "main"),
        ("dvc", "init", "-q"),
        ("git", "add", "-A"),
        ("git", "commit", "-qm", "Start"),
        ("git", "tag", "-am", "first", "shop@v1.0.0"),
        ("git", "tag", "-am", "up", "shop#champion#1"),
    ):
        tiny.run(root, *command, **AT).check_returncode()
    verdict["sentence"] = "It is better now."
    (root / "verdicts" / "train.json").write_text(json.dumps(verdict))
    monkeypatch.chdir(root)
    return mk.Workspace()


def test_who_was_champion_on_a_day(repository):
    registry = repository.registry()
    assert repr(registry).splitlines()[1:] == ["  champion: v1.0.0", "  versions: v1.0.0"]
    assert repository.live("2026-04-30").version is None
    assert repr(repository.live("2026-04-30")).startswith("At 2026-04-30 00:00 UTC ")
    assert repository.live("2026-05-02").version == "v1.0.0"
    assert list(registry.champions().version) == ["v1.0.0"]
    assert registry.versions()["at"].dt.year["v1.0.0"] == 2026
    with pytest.raises(ModelkeepError, match="'yesterday' is not a date"):
        repository.live("yesterday")


def test_the_reports_of_a_version_are_those_of_its_commit(repository):
    assert repository.reports().sentence.train == "It is better now."
    then = repository.reports("v1.0.0")
    assert then.sentence.train == "It was good then."
    assert then.page.train is None  # neither Git nor the cache has it
    with pytest.raises(ModelkeepError, match="no version 'v9'"):
        repository.reports("v9")
