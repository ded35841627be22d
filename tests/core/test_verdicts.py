import json

import pytest

from modelkeep.core import pages, verdicts
from modelkeep.core.verdicts import Verdict

MADE = {"short": "0123456789", "changed": False, "data": {"data/prepared": "abcdef012345"}}


def test_a_verdict_is_kept_and_read_back(tmp_path):
    told = Verdict(
        "train", "done", "It <went> well.", ("a", "b"), {"auc": 0.7, "low": float("nan")}
    )
    verdicts.write(told, tmp_path)
    found = verdicts.read(tmp_path)
    assert list(found) == ["train"]
    assert found["train"]["reasons"] == ["a", "b"]
    assert found["train"]["evidence"] == {"auc": 0.7, "low": None}
    assert "NaN" not in (tmp_path / "verdicts" / "train.json").read_text()
    assert "&lt;went&gt;" in told._repr_html_() and "It <went> well." in repr(told)


def test_verdicts_come_in_the_order_of_the_loop(tmp_path):
    for stage in reversed(pages.STAGES):
        verdicts.write(Verdict(stage, "done", "s"), tmp_path)
    assert tuple(verdicts.read(tmp_path)) == pages.STAGES
    assert json.loads((tmp_path / "verdicts" / "collect.json").read_text())["stage"] == "collect"


def test_no_verdicts_yet(tmp_path):
    assert verdicts.read(tmp_path) == {}


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("{", "it is not JSON: Expecting"),
        ('<<<<<<< HEAD\n{"state": 1}\n=======\n', "it holds an unresolved merge"),
        ('{"state": "done"}', "it has no state and sentence"),
        ("[]", "it has no state and sentence"),
    ],
)
def test_a_broken_file_is_a_sentence_with_the_remedy(tmp_path, text, problem):
    (tmp_path / "verdicts").mkdir()
    (tmp_path / "verdicts" / "train.json").write_text(text)
    remedy = "run `dvc repro train` to make it again"
    with pytest.raises(
        verdicts.BadVerdict, match=f"^verdicts/train.json cannot .*{problem}.*{remedy}$"
    ):
        verdicts.read(tmp_path)


def test_provenance_names_code_facts_and_inputs():
    told = verdicts.provenance(MADE, test_rows=12_345, model="m<b>")
    assert repr(told).splitlines() == [
        "code: commit 0123456789",
        "test rows: 12,345",
        "model: m<b>",
        "data/prepared: SHA-256 abcdef012345…",
    ]
    assert "m&lt;b&gt;" in told.markup


def test_provenance_says_what_it_does_not_know():
    changed = repr(verdicts.provenance(MADE | {"changed": True}))
    assert "commit 0123456789 with uncommitted changes" in changed
    unknown = MADE | {"changed": None, "short": "unknown (not a Git repository)"}
    assert repr(verdicts.provenance(unknown)).startswith("code: unknown (not a Git repository)\n")
