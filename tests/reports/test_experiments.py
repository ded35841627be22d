import pytest

import recorded
import tiny
from modelkeep.core import files
from modelkeep.reports import experiments
from modelkeep.reports.experiments import UnknownExperiment


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return recorded.repository(tmp_path_factory.mktemp("clone"))


def test_an_experiment_is_read_by_name_or_commit(root):
    run = experiments.read(root, "deeper")
    assert run.params == {"train.max_depth": 8, "train.seed": 0, "evaluate.a": 1}
    assert run.inputs == {"lib/a.py": "0123456789"}
    assert run.metrics == {"train.auc": 0.75, "train.rows": 1000, "train.deep.x": None}
    assert run.verdicts["train"]["sentence"] == "AUC <0.75>."
    assert run.verdicts["monitor"] == {}
    commit = tiny.run(root, "git", "for-each-ref", "--format=%(objectname)", "refs/exps").stdout
    again = experiments.read(root, commit.strip())
    assert (again.params, again.metrics, again.origin) == (run.params, run.metrics, run.origin)


def test_the_workspace_is_read_from_its_files(root):
    run, main = experiments.read(root, "workspace"), experiments.read(root, "main")
    assert (run.params, run.verdicts, run.metrics) == (main.params, main.verdicts, main.metrics)
    assert run.origin == "the files as they are now"


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("deepr", "`deepr` is not an experiment or a revision; did you mean `deeper`?"),
        ("zzzzzz", "there are `deeper`, `main`, `empty` and `workspace`"),
        ("empty", r"`empty` has no results \(no dvc.lock\): run `dvc repro` in it"),
        ("bold", "experiment `bold` failed and has no results; see reports/failed/train-bold.html"),
    ],
)
def test_a_name_without_results_is_a_clear_error(root, name, said):
    files.write_text(root / "reports" / "failed" / "train-bold.html", "")
    with pytest.raises(UnknownExperiment, match=said):
        experiments.read(root, name)


def test_a_name_of_two_experiments_is_ambiguous(root):
    for baseline in ("12" * 20, "34" * 20):
        ref = f"refs/exps/{baseline[:2]}/{baseline[2:]}/twice"
        assert tiny.run(root, "git", "update-ref", ref, "main").returncode == 0
    with pytest.raises(UnknownExperiment, match=r"mbiguous.*give a commit"):
        experiments.read(root, "twice")


def test_nothing_that_differs_is_a_sentence_with_its_conclusion(root, monkeypatch):
    rows = [{"rev": "workspace", "auc": 0.7}, {"rev": "main", "auc": 0.7}]
    monkeypatch.setattr("dvc.api.exp_show", lambda *_: rows)
    text = experiments.listed(root)
    assert text.startswith("workspace and main agree in all parameters and metrics, so none is")
    assert "dvc exp run -n NAME" in text
