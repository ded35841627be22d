import os
import subprocess

import pytest

import tiny
from modelkeep.core import files, workspace


@pytest.fixture
def root(tmp_path):
    return tiny.workspace(tmp_path / "clone", hello="word: hi\ntimes: 1\n", fails="divisor: 0\n")


def git(root, *arguments):
    done = tiny.run(root, "git", *arguments)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def commit(root, *paths, message="a commit"):
    git(root, "add", *paths)
    git(root, "commit", "-q", "-m", message)
    return git(root, "rev-parse", "HEAD")


@pytest.fixture
def repository(root):
    (root / ".gitignore").write_text("/data\n")
    git(root, "init", "-q")
    commit(root, ".")
    return root


def test_a_change_within_the_second_of_the_index_is_a_change(repository):
    """DVC writes params twice in a second, as long as before: Git's status sees nothing then."""
    git(repository, "config", "core.trustctime", "false")
    path = repository / "params/hello.yaml"
    os.utime(path, (1e9, 1e9))
    git(repository, "update-index", "--refresh")  # from now on the index believes that time
    path.write_text(path.read_text().replace("hi", "ho"))
    os.utime(path, (1e9, 1e9))
    assert git(repository, "status", "--porcelain", "--", "params") == ""
    assert workspace.provenance(repository, "hello")["changed"] is True


def test_the_root_is_found_from_any_folder_in_it(root, tmp_path, monkeypatch):
    (root / "notebooks" / "deep").mkdir()
    assert workspace.root(root / "notebooks" / "deep") == root
    monkeypatch.chdir(root / "params")
    assert workspace.root() == root
    with pytest.raises(workspace.NoWorkspace, match="try again"):
        workspace.root(tmp_path)


def test_params_are_read_as_dvc_reads_them(root):
    (root / "params" / "hello.yaml").write_text('a: 1e-3\nb: no\nc: "2013-10-01"\nd: null\n')
    assert workspace.params(root, "hello") == {"a": 0.001, "b": "no", "c": "2013-10-01", "d": None}
    (root / "params" / "hello.yaml").write_text("# nothing\n")
    assert workspace.params(root, "hello") == {}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "a: 2013-10-01\nb: [{c: 2013-10-02 10:00:00}]",
            'write `a: "2013-10-01"`, `b[0].c: "2013-',
        ),
        ("a: 1\na: 2", "duplicate key"),
        ("- a", "must be lines of `name: value`"),
        ("a: [", "is not YAML"),
    ],
)
def test_bad_params_are_refused_with_the_remedy(root, text, said):
    (root / "params" / "hello.yaml").write_text(text)
    with pytest.raises(workspace.BadParams) as error:
        workspace.params(root, "hello")
    assert said in str(error.value)
    assert "params/hello.yaml" in str(error.value)


def test_missing_params_say_which_were_meant(root):
    with pytest.raises(workspace.BadParams, match="did you mean `hello`"):
        workspace.params(root, "helo")
    with pytest.raises(workspace.UnknownStage, match="did you mean `fails`"):
        workspace.provenance(root, "fail")


def test_provenance_is_the_commit_that_last_touched_the_stage(repository):
    first = workspace.provenance(repository, "hello")
    assert first["commit"] == git(repository, "rev-parse", "HEAD")
    assert first["short"] == first["commit"][:10]
    assert first["changed"] is False
    assert first["data"] == {"data": files.sha256(repository / "data")[:12]}
    (repository / "dvc.lock").write_text("{}")
    (repository / "params" / "fails.yaml").write_text("divisor: 1\n")
    commit(repository, ".", message="others")
    assert workspace.provenance(repository, "hello") == first
    (repository / "params" / "hello.yaml").write_text("word: ho\ntimes: 1\n")
    assert workspace.provenance(repository, "hello") == {**first, "changed": True}
    last = commit(repository, ".", message="ours")
    assert workspace.provenance(repository, "hello")["commit"] == last


def test_provenance_is_the_same_in_another_clone_and_from_a_git_hook(
    repository, tmp_path, monkeypatch
):
    git(repository, "clone", "-q", ".", str(tmp_path / "other"))
    (tmp_path / "other" / "data").mkdir()
    (tmp_path / "other" / "data" / "rows.csv").write_text("a,b\n1,2\n")
    here = workspace.provenance(repository, "hello")
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "elsewhere"))
    assert workspace.provenance(tmp_path / "other", "hello") == here


def test_what_a_stage_makes_is_data_even_where_git_tracks_it(repository):
    text = (repository / "dvc.yaml").read_text()
    made = "    metrics:\n    - data/rows.csv:\n        cache: false\n"
    text = text.replace("deps: [notebooks/fails.ipynb, data]", "deps: [data/rows.csv]")
    (repository / "dvc.yaml").write_text(text + made)
    git(repository, "add", "-f", "data/rows.csv")
    before = workspace.provenance(repository, "fails")
    commit(repository, "-f", "data/rows.csv", message="the output of a run")
    assert workspace.provenance(repository, "fails") == before
    assert list(before["data"]) == ["data/rows.csv"]


def test_an_unknown_commit_says_why(root, tmp_path):
    unknown = workspace.provenance(root, "hello")
    assert unknown["commit"] == unknown["short"] == "unknown (not a Git repository)"
    assert unknown["changed"] is None
    git(root, "init", "-q")
    assert workspace.provenance(root, "hello")["commit"] == "unknown (nothing of it is committed)"
    commit(root, ".")
    (root / "README").write_text("")
    commit(root, ".", message="second")
    shallow = tmp_path / "shallow"
    subprocess.run(["git", "clone", "-q", "--depth=1", root.as_uri(), shallow], check=True)
    assert workspace.provenance(shallow, "hello")["commit"] == "unknown (shallow clone)"


def test_missing_data_is_said_to_be_missing(repository):
    (repository / "data" / "rows.csv").unlink()
    (repository / "data").rmdir()
    assert workspace.provenance(repository, "hello")["data"] == {"data": "missing"}
