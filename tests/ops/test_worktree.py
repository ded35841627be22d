"""A worktree that lands, and what a kill after that leaves to do."""

import hashlib
import json

import pytest

import workspaces
from modelkeep.core import files, git
from modelkeep.ops import worktree

LOCK = "stages: {{train: {{outs: [{{path: models, md5: {}}}]}}}}\n"


@pytest.fixture
def root(tmp_path):
    """A workspace of one commit, whose stage has made one file."""
    root = tmp_path / "clone"
    (root / ".dvc").mkdir(parents=True)
    (root / ".gitignore").write_text("/models\n/data/history\n/.dvc\n")
    (root / "models").mkdir()
    (root / "models/old.txt").write_text("old")
    (root / "dvc.lock").write_text(LOCK.format(cached(root, {"old.txt": "old"})))
    (root / "as_of").write_text("1")
    (root / ".dvc/config").write_text("")
    workspaces.run(root, "git", "init", "-q", "-b", "main")
    workspaces.run(root, "git", "add", "-f", ".dvc/config")
    workspaces.commit(root, "Start")
    return root


def cached(root, contents):
    """Put a folder into DVC's cache; its hash."""
    listed = []
    for name, text in contents.items():
        listed.append({"md5": put(root, text.encode()), "relpath": name})
    return put(root, json.dumps(listed).encode(), ".dir")


def put(root, content, ending=""):
    md5 = hashlib.md5(content).hexdigest() + ending
    files.write_bytes(root / ".dvc/cache/files/md5" / md5[:2] / md5[2:], content)
    return md5


def changed(root, work):
    """Commit a new model and new rows in a worktree."""
    (work / "dvc.lock").write_text(LOCK.format(cached(root, {"a/new.txt": "new"})))
    (work / "as_of").write_text("2")
    md5 = cached(root, {"rows.csv": "1\n"})
    files.write_text(work / "data/history.dvc", f"outs: [{{path: history, md5: {md5}}}]\n")
    workspaces.commit(work, "A cycle")


def contents(folder):
    return {p.relative_to(folder).as_posix(): p.read_text() for p in folder.rglob("*.*")}


def test_what_landed_is_there_whole_and_rows_of_somebody_else_stay(root):
    files.write_text(root / "data/history/theirs.csv", "2\n")
    with worktree.scratch(root, "update") as work:
        changed(root, work)
        assert worktree.land(root, work)
        assert not worktree.land(root, work)
    assert contents(root / "models") == {"a/new.txt": "new"}
    assert contents(root / "data/history") == {"rows.csv": "1\n", "theirs.csv": "2\n"}
    assert workspaces.run(root, "git", "status", "--porcelain") == ""
    assert [*(root / ".git/worktrees").glob("*")] == []


def test_after_a_kill_the_rest_is_brought_without_the_worktree_and_edits_stay(root):
    old = git.run(root, "rev-parse", "HEAD").strip()
    with worktree.scratch(root, "update") as work:
        changed(root, work)
        new = git.run(work, "rev-parse", "HEAD").strip()
    files.write_json(root / ".git" / worktree.LANDING, {"old": old, "new": new})
    git.run(root, "update-ref", "refs/heads/main", new, old)  # and here it was killed
    (root / "other").write_text("a person's")
    git.run(root, "add", "other")
    git.run(root, "commit", "-qm", "Another", "--only", "--", "other")
    (root / "as_of").write_text("a person's")
    assert worktree.finish(root)
    assert not worktree.finish(root)
    assert contents(root / "models") == {"a/new.txt": "new"}
    assert contents(root / "data/history") == {"rows.csv": "1\n"}
    assert (root / "as_of").read_text() == "a person's"
    assert workspaces.run(root, "git", "status", "--porcelain").split() == ["MM", "as_of"]


def test_a_kill_before_the_branch_moves_leaves_nothing_to_do(root):
    with worktree.scratch(root, "update") as work:
        changed(root, work)
        landing = {"old": git.run(root, "rev-parse", "HEAD").strip()}
        landing["new"] = git.run(work, "rev-parse", "HEAD").strip()
    files.write_json(root / ".git" / worktree.LANDING, landing)
    assert not worktree.finish(root)
    assert contents(root / "models") == {"old.txt": "old"}


def test_what_a_killed_git_left_of_a_worktree_is_swept(root):
    left = root / ".git/worktrees/modelkeep-update-12345678"
    left.mkdir(parents=True)
    (left / "HEAD").write_text("0" * 40 + "\n")
    (left / "locked").write_text("initializing\n")
    worktree.sweep(root, "update")
    assert not left.exists()
    assert "error" not in workspaces.run(root, "git", "fsck")
