"""A candidate's trial: held back from the test rows, or a refit of everything known."""

import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

import synthetic
from modelkeep.data import schema, splits
from modelkeep.predictions import frames
from modelkeep.reports import evaluate
from modelkeep.training import bundle, maintenance, trial
from modelkeep.training.baseline import ChampionError
from modelkeep.training.maintenance import Record

GUARDS = "\n".join(f"{k}: {v}" for k, v in vars(maintenance.Rules()).items())


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A champion of all but the newest 28 days, and what is needed to fit others."""
    root = tmp_path_factory.mktemp("trial")
    (root / "params").mkdir()
    (root / "params" / "guards.yaml").write_text(GUARDS)
    raw = synthetic.table("binary", rows=6000, days=120, timed=True)
    parts = synthetic.prepared("binary", raw, True)
    champion = synthetic.sealed(root / "models" / "old", parts, "linear")
    (root / "models" / "champion.json").write_text('{"version": "v1.0.0", "bundle": "models/old"}')
    known = pd.concat([parts.train, parts.test], ignore_index=True)
    return SimpleNamespace(root=root, parts=parts, champion=champion, known=known)


def refit(world, rows, folder="new"):
    parts = SimpleNamespace(schema=world.parts.schema, train=rows)
    made = synthetic.sealed(world.root / "models" / folder, parts, "linear")
    return replace(made, manifest={**made.manifest, "params": {"withhold": False}})


def tried(world, candidate):
    result = trial.compare(world.root, candidate, world.parts.train, world.parts.test)
    judged, churn, refit = trial.judge(world.root, candidate, result, synthetic.BOUNDS)
    return result, judged, churn, refit


def test_a_refit_is_judged_by_the_harm_gate(world):
    candidate = refit(world, world.known)
    result, judged, churn, notes = tried(world, candidate)
    assert result.refit and result.checked == 0
    assert judged.word == "non_inferior"
    assert {g.metric for g in judged.gains} == {"log_loss", "auc"}
    shown = evaluate.verdict(judged, result.comparator.name, 0, churn, notes)
    assert shown.sentence.startswith("The refit does no harm beyond the limits beside the champion")
    assert "is no measure of quality" in shown.reasons[-1]
    assert any(r.startswith("begins as a canary: 0 past updates") for r in shown.reasons)
    evidence = json.loads(json.dumps(shown.evidence))
    record = Record(holds=2).after(evidence)
    assert record.holds == 0 and record.divergences == (evidence["divergence"],)
    assert Record().after({"word": "worse"}) == Record()


def test_quality_of_a_refit_is_that_of_out_of_fold_predictions(world):
    candidate = refit(world, world.known)
    result, _, _, _ = tried(world, candidate)
    assert len(result.rows) == len(candidate.out_of_fold)
    known = candidate.predict(result.rows)
    assert not np.allclose(result.ours, known)
    assert result.beside.startswith("always saying")


def test_a_refit_that_has_learned_nonsense_is_worse(world):
    labels = world.known[world.parts.schema.label]
    shuffled = world.known.assign(
        **{world.parts.schema.label: labels.sample(frac=1, random_state=0).to_numpy()}
    )
    result, judged, churn, notes = tried(world, refit(world, shuffled, "bad"))
    assert judged.word == "worse"
    shown = evaluate.verdict(judged, result.comparator.name, 0, churn, notes)
    assert "may harm, compared with the champion" in shown.sentence
    assert Record(holds=1).after(shown.evidence) == Record(holds=1 + notes["earlier"])


def test_a_candidate_without_the_test_rows_is_held_back(world):
    result, judged, _, notes = tried(world, world.champion)
    assert not result.refit and result.checked == len(world.parts.test) and notes == {}
    assert judged.word in ("non_inferior", "insufficient")


def test_a_first_version_must_withhold(world, tmp_path):
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "champion.json").write_text('{"version": null, "bundle": null}')
    candidate = refit(world, world.known)
    with pytest.raises(ChampionError, match="withhold: true"):
        trial.compare(tmp_path, candidate, world.parts.train, world.parts.test)


def test_the_record_is_kept_beside_the_champion(tmp_path):
    (tmp_path / "models").mkdir()
    assert maintenance.read(tmp_path) == Record()
    maintenance.write(tmp_path, Record(holds=1))
    assert maintenance.read(tmp_path) == Record(holds=1)
    (tmp_path / maintenance.RECORD).write_text("{")
    with pytest.raises(maintenance.MaintenanceError, match="git checkout"):
        maintenance.read(tmp_path)


def test_what_was_prepared_is_checked_before_training(world):
    folder = world.root / "data" / "prepared"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "schema.json").write_text(schema.to_json(world.parts.schema))
    splits.write(world.parts.train, folder / "train.parquet")
    label = world.parts.schema.label
    for test, hold in (
        (world.parts.test, False),
        (world.parts.test.assign(**{label: world.parts.schema.classes[1]}), True),
    ):
        splits.write(test, folder / "test.parquet")
        assert trial.check_prepared(world.root).hold == hold


def changed(world, train):
    """A changed recipe that was kept from the test rows; the champion has learned from them."""
    parts = SimpleNamespace(schema=world.parts.schema, train=train)
    made = synthetic.sealed(world.root / "models" / "changed", parts, "boosting", trees=30)
    result = trial.compare(world.root, made, train, world.parts.test)
    return result, trial.judge(world.root, made, result, synthetic.BOUNDS)[0]


@pytest.fixture
def refitted(world):
    """The world after a refit became champion: it has learned from everything."""
    named = world.root / "models/champion.json"
    before, parts = named.read_text(), SimpleNamespace(schema=world.parts.schema, train=world.known)
    synthetic.sealed(world.root / "models/refit", parts)
    named.write_text('{"version": "v1.0.0", "bundle": "models/refit"}')
    yield world
    named.write_text(before)


def test_a_changed_recipe_is_compared_with_the_champions_from_the_same_rows(refitted):
    result, judged = changed(refitted, refitted.parts.train)
    assert result.comparator.name == "the champion v1.0.0 fitted to the same rows"
    assert judged.word in ("inconclusive", "non_inferior", "better")
    honest = result.comparator.out_of_fold
    champion = bundle.load(refitted.root / "models/refit")
    log = champion.out_of_fold.set_index("key")
    test = refitted.parts.test
    expected = frames.predictions(log.loc[test["key"]].reset_index(), champion.schema)
    assert np.allclose(honest.predictions, expected)
    assert not np.allclose(honest.predictions, champion.predict(test))


def test_a_fault_of_the_rows_shows_though_both_recipes_learn_from_them(refitted):
    train = refitted.parts.train.copy()
    shuffled = np.random.default_rng(0).permutation(train["late"].to_numpy())
    train["late"] = pd.array(shuffled, dtype=train["late"].dtype)
    result, judged = changed(refitted, train)
    assert result.comparator.name == "the champion v1.0.0 out of fold"
    assert judged.word == "worse"
