import json

import numpy as np
import pytest
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor

import synthetic
from modelkeep.training import bundle, pipelines
from modelkeep.training.engines import export, quickscorer, trees
from modelkeep.training.engines.quickscorer import QuickScorer, QuickScorerError
from modelkeep.training.engines.trees import TreesError

ESTIMATORS = {
    "two classes": ("binary", HistGradientBoostingClassifier(max_iter=40)),
    "stumps": ("binary", HistGradientBoostingClassifier(max_iter=40, max_depth=1)),
    "64 leaves": ("binary", HistGradientBoostingClassifier(max_leaf_nodes=64, max_depth=None)),
    "three classes": ("multiclass", HistGradientBoostingClassifier(max_iter=30)),
    "numbers": ("regression", HistGradientBoostingRegressor(max_iter=40, max_leaf_nodes=15)),
    "medians": ("regression", HistGradientBoostingRegressor(loss="absolute_error", max_iter=20)),
    "counts": ("regression", HistGradientBoostingRegressor(loss="poisson", max_iter=20)),
    "gamma": ("regression", HistGradientBoostingRegressor(loss="gamma", max_iter=20)),
}


def fitted(parts, estimator):
    schema = parts.schema
    train = parts.train
    if getattr(estimator, "loss", "") in ("poisson", "gamma"):
        train = train.assign(**{schema.label: train[schema.label].abs() + 0.1})
    pipeline = pipelines.pipeline(schema, "boosting").set_params(model=estimator)
    return pipelines.fit(pipeline, train, schema)


def scorer(pipeline, schema):
    plan = export.encoding(pipeline, schema)
    return QuickScorer(plan, trees.plain(pipeline["model"], plan))


def cut(x, places):
    numbers, categories = x
    return numbers[places], [values[places] for values in categories]


@pytest.mark.parametrize("name", ESTIMATORS)
def test_trees_add_up_to_scikit_learns_own_sum_to_the_last_bit(name, parts):
    task, estimator = ESTIMATORS[name]
    schema = parts[task].schema
    rows, pipeline = bundle.edge_cases(parts[task].train, schema), fitted(parts[task], estimator)
    ours, x = scorer(pipeline, schema), export.arrays(rows, schema)
    sums, sum_up = [], ours.sums_of_leaves
    ours.sums_of_leaves = lambda at: sums.append(sum_up(at)) or sums[-1]
    predictions = ours.predict(*x)
    theirs = pipeline["model"]._raw_predict(
        pipeline["columns"].transform(pipelines.features(rows, schema))
    )
    assert np.concatenate(sums).tobytes() == np.ascontiguousarray(theirs).tobytes()
    expected = pipelines.predict(pipeline, rows, schema)
    assert predictions.shape == expected.shape and predictions.dtype == np.float64
    assert np.allclose(predictions, expected, rtol=1e-14, atol=1e-15)


@pytest.mark.parametrize("task", ["binary", "multiclass", "regression"])
def test_an_answer_does_not_hang_on_who_asks_with_it(task, parts):
    schema, rows = parts[task].schema, bundle.edge_cases(parts[task].train, parts[task].schema)
    ours, x = scorer(synthetic.fitted(parts[task]), schema), export.arrays(rows, schema)
    together = ours.predict(*x)
    for size in (1, 2, quickscorer.FEW, quickscorer.FEW + 1, 100):
        parted = [ours.predict(*cut(x, slice(i, i + size))) for i in range(0, len(rows), size)]
        assert np.concatenate(parted).tobytes() == together.tobytes()


def test_many_rows_are_added_up_in_parts(parts, monkeypatch):
    """All of a year's flights at once would take a gigabyte, and what no cache holds takes twice as long."""
    schema, x = parts["binary"].schema, export.arrays(parts["binary"].train, parts["binary"].schema)
    ours, sizes = scorer(synthetic.fitted(parts["binary"]), schema), []
    sum_up, whole = ours.sums_of_leaves, ours.predict(*x)
    ours.sums_of_leaves = lambda at: sizes.append(at.shape[1]) or sum_up(at)
    monkeypatch.setattr(quickscorer, "PART", 100 * ours.table.shape[1])
    assert ours.predict(*x).tobytes() == whole.tobytes()
    assert len(sizes) == 5 and max(sizes) == 100


def test_each_threshold_and_its_neighbours_go_where_scikit_learn_sends_them(parts):
    schema = parts["binary"].schema
    pipeline = synthetic.fitted(parts["binary"])
    ours, plan = scorer(pipeline, schema), export.encoding(pipeline, schema)
    numbers = [f["name"] for f in plan["features"] if "categories" not in f]
    for i, name in enumerate(numbers):
        cuts = np.array(plan["cuts"][i])
        values = [cuts, np.nextafter(cuts, -np.inf), np.nextafter(cuts, np.inf), [np.nan, -0.0]]
        values = np.concatenate(values)
        rows = parts["binary"].train.iloc[[0] * len(values)].assign(**{name: values})
        predictions = ours.predict(*export.arrays(rows, schema))
        assert np.abs(predictions - pipelines.predict(pipeline, rows, schema)).max() <= 1e-15


def test_a_split_of_missing_values_alone_survives_its_file(tmp_path):
    """Its threshold is infinite, and JSON has no infinity."""
    frame = synthetic.table()
    frame["late"] = frame["weight"].isna().astype(int)
    learned = synthetic.prepared(frame=frame)
    cuts = export.encoding(synthetic.fitted(learned), learned.schema)["cuts"]
    assert any(np.inf in each for each in cuts)
    served = synthetic.sealed(tmp_path / "b", learned)
    assert served.manifest["serving"]["engine"] == "quickscorer"
    assert np.abs(served.answer(learned.test) - served.predict(learned.test)).max() <= 1e-15
    known, far = np.array([[1.0, np.inf], [1.0, np.nan]]), [["north", "north"]]
    assert (np.diff(served.engine.predict(known, far)[:, 1]) > 0.5).all()


def test_an_infinity_is_beyond_all_thresholds(parts):
    schema = parts["binary"].schema
    ours = scorer(synthetic.fitted(parts["binary"]), schema)
    for value in (1e300, np.inf):
        far = np.array([[value] * 2, [-value] * 2])
        predictions = ours.predict(far, [["north", None]])
        assert (
            predictions.tobytes() == ours.predict(np.sign(far) * 1e9, [["north", None]]).tobytes()
        )


def test_an_unknown_category_leaves_nothing_behind(parts):
    ours = scorer(synthetic.fitted(parts["binary"]), parts["binary"].schema)
    before = [len(rows) for rows in ours.rows]
    ours.predict(np.zeros((3, 2)), [["a", "b", "c"]])
    assert [len(rows) for rows in ours.rows] == before


@pytest.mark.parametrize("kind", ["forest", "linear"])
def test_what_is_not_boosted_is_left_to_others(kind, parts):
    pipeline = synthetic.fitted(parts["binary"], kind)
    with pytest.raises(TreesError, match="no boosted trees"):
        scorer(pipeline, parts["binary"].schema)


def test_native_categories_are_left_to_others(parts):
    native = HistGradientBoostingClassifier(max_iter=5, categorical_features=[2])
    with pytest.raises(TreesError, match="no boosted trees that split numbers"):
        scorer(fitted(parts["binary"], native), parts["binary"].schema)


def test_numbers_that_are_scaled_first_are_left_to_others(parts):
    schema, train = parts["binary"].schema, parts["binary"].train
    scaled = pipelines.pipeline(schema, "linear").set_params(model=HistGradientBoostingClassifier())
    with pytest.raises(TreesError, match="scaled, filled or spread"):
        scorer(pipelines.fit(scaled, train, schema), schema)


def test_a_tree_of_too_many_leaves_is_left_to_others(parts, monkeypatch):
    big = HistGradientBoostingClassifier(max_leaf_nodes=80, max_depth=None, min_samples_leaf=1)
    with pytest.raises(QuickScorerError, match=r"has \d\d leaves, and 64 is the most"):
        scorer(fitted(parts["binary"], big), parts["binary"].schema)
    monkeypatch.setattr(quickscorer, "TABLE", 100)
    with pytest.raises(QuickScorerError, match=r"would take 0.000\d+ MB, and 9.5e-05 is the most"):
        scorer(synthetic.fitted(parts["binary"]), parts["binary"].schema)


def test_it_serves_where_it_applies(parts):
    schema, rows = parts["binary"].schema, parts["binary"].train
    chosen, plan, trees_as_text = export.choose(synthetic.fitted(parts["binary"]), schema, rows)
    assert (chosen.engine, chosen.reason) == ("quickscorer", "")
    assert chosen.largest_difference <= 1e-15
    assert set(json.loads(trees_as_text)) == {"link", "baseline", "trees"}
    wrong = json.loads(trees_as_text)
    wrong["baseline"][0] += 0.01
    broken = QuickScorer(plan, json.dumps(wrong).encode())
    predictions = pipelines.predict(synthetic.fitted(parts["binary"]), rows, schema)
    assert export.prove(broken, export.arrays(rows, schema), predictions)[1].startswith("row ")
