"""LightGBM, XGBoost and CatBoost; each test needs the packages that it names."""

import json
import subprocess
import sys
from itertools import combinations
from math import comb

import numpy as np
import pandas as pd
import pytest

import synthetic
from modelkeep.training import boosters, bundle, explain, pipelines
from modelkeep.training.boosters import MissingLibrary
from modelkeep.training.engines import libraries
from modelkeep.training.pipelines import ModelError
from servers import need_packages

TASKS = tuple(synthetic.LABELS)


@pytest.fixture(params=boosters.KINDS)
def booster(request):
    need_packages(**{request.param: request.param})
    return request.param


def sealed(folder, parts, kind, **settings):
    synthetic.sealed(folder, parts, kind, **settings)
    return bundle.load(folder)


@pytest.mark.parametrize("task", TASKS)
def test_a_bundle_predicts_what_the_library_predicts_on_odd_rows_too(
    task, booster, parts, tmp_path
):
    given = parts[task]
    fitted = synthetic.fitted(given, booster)
    rows = bundle.edge_cases(given.train, given.schema)
    expected = pipelines.predict(fitted, rows, given.schema)
    read = sealed(tmp_path / "b", given, booster)
    assert (read.predict(rows) == expected).all()
    engine = "estimator" if booster == "catboost" else "quickscorer"
    assert read.manifest["serving"]["engine"] == engine
    assert booster in read.manifest["libraries"]
    size = np.maximum(np.abs(expected), 1)
    assert (np.abs(read.answer(rows) - expected) / size).max() < 1e-6


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("library", ["lightgbm", "xgboost"])
def test_values_at_the_thresholds_go_where_the_library_sends_them(task, library, parts):
    need_packages(**{library: library})
    fitted = synthetic.fitted(parts[task], library, max_depth=5, trees=30)
    forest = libraries.read(fitted["model"])
    columns = np.concatenate([tree.column[~tree.leaf] for tree in forest.trees])
    cuts = np.concatenate([tree.threshold[~tree.leaf] for tree in forest.trees])
    width = fitted["model"].n_features_in_
    x = np.random.default_rng(0).normal(size=(3 * len(cuts), width))
    near = np.concatenate([cuts, np.nextafter(cuts, np.inf), np.nextafter(cuts, -np.inf)])
    x[np.arange(len(x)), np.tile(columns, 3)] = near
    x[np.abs(x) < 1e-30] = 0  # LightGBM takes what is nearly 0 for 0
    x[::7] = np.nan
    scores = np.zeros((len(x), len(forest.baseline))) + forest.baseline
    for i, tree in enumerate(forest.trees):
        at = np.zeros(len(x), int)
        while not tree.leaf[at].all():
            value = x[np.arange(len(x)), tree.column[at]]
            left = np.where(np.isnan(value), tree.missing_left[at], value <= tree.threshold[at])
            at = np.where(tree.leaf[at], at, np.where(left, tree.left[at], tree.right[at]))
        scores[:, i % scores.shape[1]] += tree.value[at]
    raw = {"lightgbm": {"raw_score": True}, "xgboost": {"output_margin": True}}[library]
    theirs = np.asarray(fitted["model"].predict(x, **raw)).reshape(scores.shape)
    np.testing.assert_allclose(scores, theirs, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("library", ["lightgbm", "xgboost"])
def test_explanations_are_exact_and_add_up_to_the_prediction(task, library, parts, tmp_path):
    need_packages(**{library: library})
    read = sealed(tmp_path / "b", parts[task], library)
    rows = parts[task].test.head(20)
    found, predicted = explain.explain(read, rows), read.predict(rows)
    assert found.method == "exact, trees"
    if task == "binary":
        predicted = np.log(predicted[:, 1] / predicted[:, 0])
    if task == "multiclass":
        shift = found.output - np.log(predicted)
        assert np.ptp(shift, axis=1).max() < 1e-5
    else:
        np.testing.assert_allclose(found.output, predicted, rtol=1e-5, atol=1e-5)


def test_the_same_rows_give_the_same_bytes_in_another_process(booster):
    need_packages(**{booster: booster})
    program = (
        "import hashlib, synthetic; from modelkeep.training import bundle;"
        f"f = synthetic.fitted(synthetic.prepared(), {booster!r});"
        "print(hashlib.sha256(bundle.dump(f)).hexdigest())"
    )
    first, second = (
        subprocess.run([sys.executable, "-c", program], env=synthetic_path(), capture_output=True)
        for _ in range(2)
    )
    assert first.stdout and first.stdout == second.stdout, first.stderr.decode()[-500:]


def synthetic_path():
    import os

    return os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}


def test_trees_stop_where_the_newest_rows_gain_nothing(booster, parts):
    given = parts["binary"]
    train = given.train.copy()
    train["late"] = np.random.default_rng(0).permutation(train["late"].to_numpy())  # only noise
    noise = type(given)(**vars(given) | {"train": train})
    count = boosters.COUNT[booster]
    full, stopped = (
        synthetic.fitted(noise, booster, trees=200, early_stopping=stop) for stop in (0, 5)
    )
    assert full["model"].get_params()[count] == 200
    assert 1 <= stopped["model"].get_params()[count] < 100
    assert stopped["model"].get_params().get(boosters.PATIENCE[booster]) is None


def test_it_stops_within_a_calibrated_model_too(booster, parts):
    fitted = synthetic.fitted(
        parts["binary"], booster, trees=200, early_stopping=5, calibrate="sigmoid"
    )
    assert fitted["model"].map_["method"] == "sigmoid"
    assert fitted["model"].model_.get_params()[boosters.COUNT[booster]] < 200


@pytest.mark.parametrize("way", [1, -1])
def test_predictions_keep_the_stated_direction(way, kind, parts):
    if kind == "linear":
        with pytest.raises(ModelError, match="monotone: a linear model has no such constraint"):
            pipelines.pipeline(parts["binary"].schema, kind, monotone={"size": way})
        return
    fitted = synthetic.fitted(parts["binary"], kind, monotone={"size": way})
    rows = parts["binary"].test.head(30)
    sizes = np.linspace(rows["size"].min(), rows["size"].max(), 15)
    p = np.array(
        [
            pipelines.predict(fitted, rows.assign(size=s), parts["binary"].schema)[:, 1]
            for s in sizes
        ]
    )
    assert (way * np.diff(p, axis=0) >= -1e-9).all() and np.ptp(p) > 0


def test_balanced_classes_count_alike(kind, parts):
    schema, test = parts["binary"].schema, parts["binary"].test
    if kind == "xgboost":
        with pytest.raises(ModelError, match="class_weight: .* XGBoost has no weights"):
            pipelines.pipeline(schema, kind, class_weight="balanced")
        return
    usual, balanced = (
        pipelines.predict(
            synthetic.fitted(parts["binary"], kind, class_weight=weight), test, schema
        )
        for weight in ("none", "balanced")
    )
    assert np.abs(balanced[:, 1].mean() - 0.5) < np.abs(usual[:, 1].mean() - 0.5)


def test_settings_that_cannot_be_are_refused_with_the_rule(parts):
    of = parts["binary"].schema
    for given, words in (
        ({"monotone": {"shop": 1}}, "monotone: {shop: 1} must give a column of numbers -1 or 1"),
        ({"monotone": {"size": 2}}, "numbers are size"),
        ({"class_weight": "heavy"}, "class_weight: 'heavy' is not one of none, balanced"),
    ):
        with pytest.raises(ModelError) as raised:
            pipelines.pipeline(of, "boosting", **given)
        assert words in str(raised.value)
    with pytest.raises(ModelError, match="the label is a number"):
        pipelines.pipeline(parts["regression"].schema, "boosting", class_weight="balanced")
    with pytest.raises(ModelError, match="several classes"):
        pipelines.pipeline(parts["multiclass"].schema, "boosting", monotone={"size": 1})


def test_a_library_that_is_not_there_is_a_sentence(parts, tmp_path, monkeypatch):
    need_packages(lightgbm="lightgbm")
    synthetic.sealed(tmp_path / "b", parts["binary"], "lightgbm")
    monkeypatch.setitem(sys.modules, "lightgbm", None)
    words = r"lightgbm is not installed .*pip install 'modelkeep\[lightgbm\]'"
    with pytest.raises(MissingLibrary, match=words):
        pipelines.pipeline(parts["binary"].schema, "lightgbm")
    with pytest.raises(MissingLibrary, match=words):
        bundle.load(tmp_path / "b")
    assert json.loads((tmp_path / "b/manifest.json").read_text())["libraries"]["lightgbm"]


@pytest.fixture(scope="module")
def wide():
    """Rows with a column of thirty towns, whose rates do not follow their order."""
    return {task: synthetic.prepared(task, with_towns(task)) for task in TASKS}


def with_towns(task):
    draw, frame = np.random.default_rng(5), synthetic.table(task, rows=3000)
    at = draw.integers(0, 30, len(frame))
    odd, label = at * 7 % 5 < 2, frame[synthetic.LABELS[task]]
    if task == "binary":
        label = np.where(draw.random(len(at)) < 0.8, odd, label).astype(int)
    elif task == "multiclass":
        label = np.where(odd, label, "blue")
    else:
        label = label + 5 * odd
    towns = np.array([f"town {i:02d}" for i in range(30)])[at]
    return frame.assign(**{"town": towns, synthetic.LABELS[task]: label})


def native(parts, kind, **settings):
    """A pipeline that splits by sets of categories."""
    return synthetic.fitted(parts, kind, native_categories=True, trees=30, **settings)


@pytest.mark.parametrize("task", TASKS)
def test_native_categories_are_served_as_the_library_predicts_them(task, booster, wide, tmp_path):
    given = wide[task]
    read = sealed(tmp_path / "b", given, booster, native_categories=True, trees=30)
    rows = pd.concat([given.test, bundle.edge_cases(given.train, given.schema)]).head(500)
    rows.loc[rows.index[:40], "town"] = "nowhere"  # training has never seen it
    rows.loc[rows.index[20:60], "shop"] = None
    expected = pipelines.predict(native(given, booster), rows, given.schema)
    assert (read.predict(rows) == expected).all()
    size = np.maximum(np.abs(expected), 1)
    assert (np.abs(read.answer(rows) - expected) / size).max() < 1e-6
    engine = "scikit-learn" if booster == "catboost" else "quickscorer"
    assert read.manifest["serving"]["engine"] == engine
    if booster != "catboost":
        sets = [each.codes for each in libraries.read(read.pipeline["model"]).trees]
        assert sum(map(len, sets)) > 10


def test_sets_of_categories_need_fewer_splits_than_their_order(booster, wide):
    given = wide["binary"]
    y = pipelines.outcome(given.test, given.schema)
    loss = {}
    for sets in (False, True):
        fitted = synthetic.fitted(given, booster, native_categories=sets, trees=30, max_depth=2)
        p = pipelines.predict(fitted, given.test, given.schema)
        loss[sets] = -np.log(p[np.arange(len(y)), y]).mean()
    assert loss[True] < loss[False]


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("library", ["lightgbm", "xgboost"])
def test_explanations_of_sets_of_categories_are_shapley_values(task, library, wide, tmp_path):
    """Beside sums over all coalitions of columns, of what the library itself predicts."""
    need_packages(**{library: library})
    given = wide[task]
    read = sealed(tmp_path / "b", given, library, native_categories=True, trees=30)
    rows, background = given.test.head(3), given.train.sample(8, random_state=0)
    found = explain.explain(read, rows, background)
    assert found.method == "exact, trees"
    names, size = found.columns, len(found.columns)
    raw = {"lightgbm": {"raw_score": True}, "xgboost": {"output_margin": True}}[library]

    def value(row, kept):
        mixed = background.copy()
        for name in kept:
            mixed[name] = rows[name].iloc[row]
        x = read.pipeline["columns"].transform(pipelines.features(mixed, given.schema))
        return read.pipeline["model"].predict(x, **raw).mean(axis=0)

    for row in range(len(rows)):
        sums = {kept: value(row, kept) for n in range(size + 1) for kept in combinations(names, n)}
        for place, name in enumerate(names):
            gains = [
                (sums[tuple(n for n in names if n in {*kept, name})] - before)
                / (size * comb(size - 1, len(kept)))
                for kept, before in sums.items()
                if name not in kept
            ]
            np.testing.assert_allclose(found.values[row, place], sum(gains), atol=2e-5)


def test_native_categories_stop_early_and_go_with_a_calibration(booster, wide):
    settings = {"trees": 200, "early_stopping": 5, "calibrate": "sigmoid"}
    fitted = synthetic.fitted(wide["binary"], booster, native_categories=True, **settings)
    assert fitted["model"].map_["method"] == "sigmoid"
    assert fitted["model"].model_.get_params()[boosters.COUNT[booster]] < 200


@pytest.mark.parametrize("kind", ["boosting", "forest", "linear"])
def test_kinds_without_sets_of_categories_refuse_them(kind, parts):
    rule = f"native_categories: {kind} takes categories as numbers only; set it to false"
    with pytest.raises(ModelError, match=rule):
        pipelines.pipeline(parts["binary"].schema, kind, native_categories=True)
