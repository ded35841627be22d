"""A champion with a new level: chosen by the closed test, proven, kept by the bundle, explained."""

import json
from collections import Counter

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from scipy.special import expit, softmax
from sklearn.compose import ColumnTransformer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import StandardScaler

import levels
import synthetic
import workspaces
from modelkeep.core import files
from modelkeep.evaluation import recalibration
from modelkeep.training import baseline, bundle, calibration, candidates, explain, pipelines, trial
from modelkeep.training.candidates import NotRecalibrated
from modelkeep.training.maintenance import Record


@pytest.mark.parametrize("task", levels.TASKS)
@pytest.mark.parametrize(
    ("what", "kind", "least"),
    [("", "none", 0.95), ("level", "level", 0.9), ("concept", "refit", 0.9)],
)
def test_the_remedy_is_the_smallest_that_is_enough(task, what, kind, least):
    """The long form is benchmarks/recalibration.py; fails by chance once in 10,000 runs."""
    runs, model = 16, levels.champion(task)
    kinds = Counter(levels.decided(model, task, what, 100 + seed) for seed in range(runs))
    assert kinds[kind] >= stats.binom.ppf(1e-4, runs, least), kinds


@pytest.mark.parametrize("task", levels.TASKS)
def test_the_proof_is_by_days_left_out(task):
    model = levels.champion(task)
    rows = levels.later(model, task, "level")
    made, (y, p) = candidates.update(model, rows), _known(model, rows)
    day = rows["when"].dt.normalize().to_numpy()
    assert len(made.folds) == candidates.PARTS
    for fold in made.folds:
        inside = np.isin(day, day[fold.rows])
        assert inside.sum() == len(fold.rows)  # whole days
        kind = made.recalibration["kind"]
        other = recalibration.fit(task, kind, y[~inside], p[~inside])
        np.testing.assert_array_equal(fold.predictions, other(p[inside]))


def test_without_a_proven_gain_there_is_no_candidate(monkeypatch):
    """Whatever the closed test has chosen."""
    model = levels.champion("binary")
    rows = levels.later(model, "binary", "")
    chosen = recalibration.fit("binary", "level", *_known(model, rows))
    choice = recalibration.Choice("level", (recalibration.Step("none", 0.01, "level"),), chosen)
    monkeypatch.setattr(recalibration, "choose", lambda *_, **__: choice)
    with pytest.raises(NotRecalibrated, match="its gain is not proven"):
        candidates.update(model, rows)


def _known(model, rows):
    return pipelines.outcome(rows, model.schema), model.predict(rows)


def test_with_many_rows_a_small_fault_of_the_model_does_not_ask_for_a_refit():
    model = levels.champion("binary")
    kinds = Counter(levels.decided(model, "binary", "level", s, rows=20_000) for s in range(6))
    assert kinds["level"] >= stats.binom.ppf(1e-4, 6, 0.9), kinds


def saved(folder, made, **provenance):
    scores = {}
    given = {"provenance": synthetic.MADE | made.facts | provenance, "scores": scores}
    bundle.save(folder, **made.contents, **given)
    return bundle.load(folder)


@pytest.mark.parametrize("task", levels.TASKS)
def test_the_bundle_predicts_the_update_of_the_champion_by_the_same_engine(tmp_path, task):
    model = levels.champion(task)
    rows = levels.later(model, task, "level")
    made = candidates.update(model, rows)
    new, facts = saved(tmp_path / "new", made), made.recalibration
    update = recalibration.Update(facts["kind"], task, tuple(facts["level"]), facts["slope"])
    np.testing.assert_allclose(new.predict(rows), update(model.predict(rows)), atol=1e-12)
    np.testing.assert_allclose(new.answer(rows), new.predict(rows), atol=1e-9)
    assert new.manifest["serving"]["engine"] == "quickscorer"
    assert new.recalibration["of"] == model.sha256 and new.recalibration["gain"]["low"] > 0
    assert f"a new {facts['kind']} since, from {len(rows):,} rows" in repr(new)
    known = np.concatenate([model.trained_rows, bundle.row_hashes(rows, model.schema)])
    assert set(new.trained_rows) == set(known) and new.manifest["rows"] == len(new.trained_rows)
    assert new.reference.rows.sum() == len(model.out_of_fold)


@pytest.mark.parametrize("task", levels.TASKS)
def test_its_explanation_is_exact_and_scaled(tmp_path, task):
    model = levels.champion(task)
    rows = levels.later(model, task, "slope")
    new = saved(tmp_path / "new", candidates.update(model, rows))
    background = model.out_of_fold.head(100)
    ours, theirs = (explain.explain(m, rows.head(20), background) for m in (new, model))
    slope = new.recalibration["slope"]
    assert ours.method == theirs.method == "exact, trees"
    np.testing.assert_allclose(ours.values, slope * theirs.values, atol=1e-9)
    p = new.predict(rows.head(20))
    if task == "binary":
        np.testing.assert_allclose(expit(ours.output), p[:, 1], atol=1e-9)
    elif task == "multiclass":
        np.testing.assert_allclose(softmax(ours.output, axis=1), p, atol=1e-9)
    else:
        np.testing.assert_allclose(ours.output, p, atol=1e-9)


@pytest.mark.parametrize("task", levels.TASKS)
@pytest.mark.parametrize("kind", ["forest", "linear", "lightgbm", "xgboost", "catboost"])
def test_each_kind_of_model_takes_a_new_level(tmp_path, kind, task):
    if kind not in ("forest", "linear"):
        pytest.importorskip(kind)
    model = levels.champion(task, model=kind)
    rows = levels.later(model, task, "level")
    new = saved(tmp_path / "new", candidates.update(model, rows))
    facts = new.recalibration
    update = recalibration.Update(facts["kind"], task, tuple(facts["level"]), facts["slope"])
    np.testing.assert_allclose(new.answer(rows), update(model.predict(rows)), atol=1e-5)


def test_an_estimator_of_ones_own_takes_a_new_level(tmp_path):
    """With steps that are not ours, the whole pipeline serves."""
    model = levels.champion("binary")
    numbers = [c.name for c in model.schema.columns if c.kind == "number"]
    chosen = ColumnTransformer([("numbers", StandardScaler(), numbers)])
    own = Pipeline([("scale", chosen), ("mine", LogisticRegression())])
    parts = synthetic.prepared("binary", levels.table("binary", 0, 8000, 90, "2020-01-01"))
    fitted = pipelines.fit(own, parts.train, parts.schema)
    rows = levels.later(model, "binary", "level")
    update = recalibration.Update("level", "binary", (0.0, 1.0), 1.0)
    mapped = calibration.recalibrated(fitted, update)
    p = pipelines.predict(fitted, rows, parts.schema)
    np.testing.assert_allclose(pipelines.predict(mapped, rows, parts.schema), update(p), atol=1e-12)
    again = bundle.undump(bundle.dump(mapped))
    np.testing.assert_array_equal(
        pipelines.predict(again, rows, parts.schema), pipelines.predict(mapped, rows, parts.schema)
    )


@pytest.mark.parametrize("method", ["none", "sigmoid", "isotonic"])
def test_an_update_follows_the_map_that_a_champion_has(method):
    model = levels.champion("binary", calibrate=method)
    rows = levels.later(model, "binary", "level")
    for _ in range(2):
        update = recalibration.Update("level and slope", "binary", (0.3, -0.2), 0.7)
        fitted = calibration.recalibrated(model.pipeline, update)
        again = calibration.recalibrated(fitted, update)
    p = pipelines.predict(again, rows, model.schema)
    np.testing.assert_allclose(p, update(update(model.predict(rows))), atol=1e-6)
    assert type(calibration.inner(fitted["model"])) is type(calibration.inner(model.pipeline[1]))


@pytest.mark.parametrize("task", ["binary", "regression"])
def test_fitted_anew_it_is_the_recipe_of_the_champion(task):
    parts = synthetic.prepared(task)
    plain = synthetic.fitted(parts)
    k = 2 if task == "binary" else 1
    update = recalibration.Update("level and slope", task, (0.5,) * (k - 1) + (1.0,), 0.5)
    fitted = calibration.recalibrated(plain, update)
    again = pipelines.fit(fitted, parts.train, parts.schema)
    rows = parts.test
    expected = pipelines.predict(plain, rows, parts.schema)
    np.testing.assert_array_equal(pipelines.predict(again, rows, parts.schema), expected)
    assert not np.allclose(pipelines.predict(fitted, rows, parts.schema), expected)


def test_where_only_a_refit_is_enough_a_proven_level_is_offered_and_says_so():
    model = levels.champion("binary")
    rows = levels.later(model, "binary", "level")
    rows = rows.assign(late=rows["late"].where(rows["shop"] != "east", "0"))
    new = candidates.update(model, rows).recalibration
    assert not new["enough"] and new["kind"] == "level and slope" and new["gain"]["low"] > 0
    assert new["says"].endswith("that needs a model trained anew")


def test_rows_that_the_champion_knows_teach_it_nothing():
    model = levels.champion("binary")
    known = synthetic.prepared("binary", levels.table("binary", 0, 8000, 90, "2020-01-01")).train
    new = levels.later(model, "binary", "level")
    both = pd.concat([known, new], ignore_index=True)
    assert len(candidates.newest(model, both)) == len(new)
    older = pd.concat([levels.later(model, "binary", "", 7, days=90), new], ignore_index=True)
    days = candidates.newest(model, older)["when"].dt.normalize().nunique()
    assert days == candidates.DAYS
    with pytest.raises(NotRecalibrated, match="no labelled row"):
        candidates.update(model, known)


@pytest.fixture
def root(tmp_path):
    """A workspace whose champion is v1.0.0."""
    parts = synthetic.prepared("binary", levels.table("binary", 0, 8000, 90, "2020-01-01"))
    synthetic.sealed(tmp_path / "models/champion", parts, trees=60)
    named = {"version": "v1.0.0", "bundle": "models/champion"}
    files.write_json(tmp_path / "models/champion.json", named)
    return tmp_path


def test_only_the_champion_is_recalibrated(root):
    rows = levels.later(levels.champion("binary"), "binary", "level")
    assert candidates.recalibrated(root, "v1.0.0", rows).recalibration["kind"] == "level"
    with pytest.raises(baseline.ChampionError, match=r"'v0.9.0' is not the champion.*v1.0.0"):
        candidates.recalibrated(root, "v0.9.0", rows)


def test_it_is_judged_on_rows_that_were_left_out_and_the_record_stays(root):
    model = bundle.load(root / "models/champion")
    rows = levels.later(model, "binary", "level")
    made = candidates.recalibrated(root, "v1.0.0", rows)
    new = saved(root / "models/candidate", made, params={"withhold": False})
    workspaces.settings(root, "guards")
    tried = trial.compare(root, new, rows.iloc[:1000], rows.iloc[1000:])
    assert tried.refit and tried.beside == "the champion v1.0.0"
    judged, churn, evidence = trial.judge(root, new, tried, {})
    assert judged.word == "non_inferior" and evidence["recalibrated"]
    loss = next(gain for gain in judged.gains if gain.metric == "log_loss")
    assert loss.rows == len(rows) and loss.low > 0 and churn.changed > 0.5
    assert Record().after(json.loads(json.dumps({"word": judged.word, **evidence}))) == Record()
