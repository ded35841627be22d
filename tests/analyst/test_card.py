"""The model card: everything on record is on it, and what is not on record says so."""

from types import MappingProxyType

import pytest

import tables
from modelkeep.analyst import card
from modelkeep.cli import main
from modelkeep.registry import record
from modelkeep.registry.record import Record, Term, Trial
from modelkeep.registry.tags import Tag

GAIN = {"metric": "auc", "gain": 0.02, "low": 0.01, "high": 0.03, "margin": 0.005}
SLICES = [
    {"slice": "origin EWR", "gain": -0.02, "low": -0.03, "high": -0.01, "verdict": "worse"},
    {"slice": "origin JFK", "gain": 0.01, "low": -0.1, "high": 0.1, "verdict": "insufficient"},
]
FULL = {
    "purpose": "To warn passengers; not to pay them <b>.",
    "data": {"label": "late", "task": "binary", "classes": ["0", "1"], "columns": ["dest", "hour"]}
    | {"source": "data/history", "as_of": "2013-07-01", "train": 1000, "test": 200}
    | {"quarantined": 3, "train_period": ["2013-01-01 05:00", "2013-05-30 22:00"]},
    "expected": {"auc": {"value": 0.66, "low": 0.61, "high": 0.71}},
    "monitor": {"state": "investigate", "sentence": "Inputs have drifted.", "reasons": ["temp"]},
    "metrics": {"evaluate": {"test_auc": 0.7}},
    "params": {"train": {"model": "boosting"}},
    "verdict": {
        "state": "better",
        "sentence": "It is better.",
        "gains": [GAIN | {"verdict": "better"}],
    }
    | {"slices": [each | {"rows": 50, "blocks": 7} for each in SLICES]},
    "hashes": {"bundle": "b" * 64, "test_rows": "t"},
    "commit": "c" * 40,
    "parent": "v1.0.0",
    "forced": "the boss wants it",
}
OPTIONAL = ("purpose", "data", "expected", "monitor")


def made(content):
    """The record of one version with this evidence, tried once, champion once."""
    text = record.message("flights v1.1.0", content)
    tag = Tag("flights@v1.1.0", "c" * 40, tables.RELEASED, "Ada <a@b>", text, True, "v1.1.0")
    trial = {"kind": "canary", "rollout": "r1", "end": "promoted", "sentence": "Never worse."}
    term = Term("v1.1.0", tag, MappingProxyType({"action": "promote", "reason": "the best"}))
    versions, trials = MappingProxyType({"v1.1.0": tag}), (Trial("v1.1.0", tag, trial),)
    return Record("flights", versions, (term,), 1, tables.RELEASED, trials)


def test_everything_on_record_is_on_the_card():
    facts = card.facts(made(FULL), "v1.1.0")
    page, text = card.page(facts), card.text(facts)
    for part in ("not to pay them &lt;b&gt;", "0.66 (0.61 to 0.71)", "0.02 (0.01 to 0.03)"):
        assert part in page
    for part in (
        "not to pay them <b>",
        "1,000 training rows of 2013-01-01 to 2013-05-30",
        "it was released by force: the boss wants it",
        "origin EWR: worse than the model before",
        "origin JFK: 50 rows of 7 days are too few",
        "Inputs have drifted.",
        "Never worse.",
        "Ada <a@b>",
        "the best",
    ):
        assert part in text, part
    assert card.UNFILLED not in text and "<svg" in page


def test_a_refit_and_a_recalibration_say_what_they_have_learned_from():
    data = FULL["data"] | {"test_period": ["2013-06-01 05:00", "2013-06-30 22:00"]}
    refit = card.facts(made(FULL | {"data": data | {"withheld": False}}), "v1.1.0")
    assert "learned from: 1,200 rows of 2013-01-01 to 2013-06-30" in card.text(refit)
    new = {"kind": "level", "level": [-0.5, 0.5], "slope": 1.0, "rows": 340, "version": "v1.0.0"}
    level = data | {"withheld": False, "recalibration": new}
    text = card.text(card.facts(made(FULL | {"data": level}), "v1.1.0"))
    assert "learned from: the rows of v1.0.0; a new level from 340 rows" in text
    assert (
        "It is v1.0.0 with a new level (level -0.5 and 0.5; slope 1), learned from 340 rows" in text
    )


@pytest.mark.parametrize("section", OPTIONAL)
def test_a_section_without_evidence_says_so_and_how_to_fill_it(section):
    facts = card.facts(made({k: v for k, v in FULL.items() if k != section}), "v1.1.0")
    said = card.FILL[section].replace("`", "")
    assert said in card.text(facts) and card.UNFILLED in card.page(facts)


def test_the_card_of_an_older_release_is_drawn_from_its_tag(tmp_path, monkeypatch, capsys):
    tables.bundle("iris", tmp_path / "bundle")
    root = tmp_path / "ws"
    tables.released(root, tmp_path / "bundle")
    monkeypatch.chdir(root)
    assert main.main(["card", "v1.0.0"]) == 0
    shown = capsys.readouterr().out
    assert shown.endswith("reports/card-v1.0.0.html\n") and shown.count(card.UNFILLED) >= 5
    assert "Model card" in (root / "reports/card-v1.0.0.html").read_text()
