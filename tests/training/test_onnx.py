import os
import subprocess
import sys

import numpy as np
import pytest
from sklearn.base import is_regressor
from sklearn.calibration import CalibratedClassifierCV
from sklearn.ensemble import (
    ExtraTreesClassifier,
    HistGradientBoostingClassifier,
    HistGradientBoostingRegressor,
    RandomForestClassifier,
    RandomForestRegressor,
    VotingClassifier,
)

import synthetic
from modelkeep.data import splits
from modelkeep.training import bundle, pipelines
from modelkeep.training.engines import export, onnx
from modelkeep.training.engines.encoding import Encoding
from modelkeep.training.engines.onnx import Onnx
from modelkeep.training.engines.quickscorer import QuickScorer

TASKS, KINDS = tuple(synthetic.LABELS), ("boosting", "forest", "linear")


def odd(parts):
    """Rows with everything that may come: missing, unseen, huge."""
    return bundle.edge_cases(parts.train, parts.schema)


def served(fitted, schema, rows):
    plan, x = export.encoding(fitted, schema), export.arrays(rows, schema)
    onnx = export.to_onnx(fitted, Encoding(plan)(*x).shape[1], plan["cuts"])
    return Onnx(plan, onnx), x


@pytest.mark.parametrize("kind", KINDS)
def test_the_encoding_is_scikit_learns_to_the_bit(kind, parts):
    schema, rows = parts["binary"].schema, odd(parts["binary"])
    fitted = synthetic.fitted(parts["binary"], kind)
    ours = Encoding(export.encoding(fitted, schema))(*export.arrays(rows, schema))
    theirs = fitted["columns"].transform(pipelines.features(rows, schema)).astype(np.float64)
    assert ours.dtype == np.float64 and ours.shape == theirs.shape
    assert ours.tobytes() == np.ascontiguousarray(theirs).tobytes()


def test_lists_and_none_are_read_like_arrays(parts):
    encoding = Encoding(
        export.encoding(synthetic.fitted(parts["binary"], "linear"), parts["binary"].schema)
    )
    numbers = np.array([[1, None], [None, 2.5]], dtype=np.float64)
    arrays = encoding(numbers, [np.array(["north", None], dtype=object)])
    assert (encoding(numbers, [("north", None)]) == arrays).all()


@pytest.mark.parametrize("name", ["size", "shop"])
def test_only_numbers_or_only_categories(name):
    learned = synthetic.prepared(features=[name])
    fitted, rows = synthetic.fitted(learned, "linear"), odd(learned)
    onnx, x = served(fitted, learned.schema, rows)
    worst, why = export.prove(onnx, x, pipelines.predict(fitted, rows, learned.schema))
    assert not why and worst <= export.TOLERANCE


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("kind", KINDS)
def test_onnx_answers_as_scikit_learn_does(task, kind, parts):
    schema, rows = parts[task].schema, odd(parts[task])
    fitted = synthetic.fitted(parts[task], kind)
    onnx, x = served(fitted, schema, rows)
    worst, why = export.prove(onnx, x, pipelines.predict(fitted, rows, schema))
    assert not why and worst <= export.TOLERANCE
    answer = onnx.predict(*x)
    assert answer.dtype == np.float64
    assert answer.shape == (
        (len(rows),) if task == "regression" else (len(rows), len(schema.classes))
    )


def test_it_is_proven_on_flights_and_odd_rows(tmp_path):
    import example

    table = example.table().iloc[::60]
    learned = splits.prepare(
        table, label="late", time_column="scheduled", id_column="flight_id", entity_column="tailnum"
    )
    fitted, rows = synthetic.fitted(learned, trees=60, max_depth=4), odd(learned)
    onnx, x = served(fitted, learned.schema, rows)
    worst, why = export.prove(onnx, x, pipelines.predict(fitted, rows, learned.schema))
    assert len(rows) > 4000 and not why and worst <= 1e-5


def test_another_model_is_refused(parts):
    schema, rows = parts["binary"].schema, odd(parts["binary"])
    fitted = synthetic.fitted(parts["binary"])
    other = synthetic.fitted(parts["binary"], trees=21)
    onnx, x = served(other, schema, rows)
    worst, why = export.prove(onnx, x, pipelines.predict(fitted, rows, schema))
    assert worst > export.TOLERANCE
    assert why.startswith("row ") and why.endswith("more than 1e-05")


def test_a_model_with_fewer_classes_is_refused(parts):
    schema, rows = parts["multiclass"].schema, parts["multiclass"].train
    few = pipelines.fit(
        pipelines.pipeline(schema, "linear"), rows[rows["colour"] != "green"], schema
    )
    onnx, x = served(few, schema, rows)
    worst, why = export.prove(onnx, x, pipelines.predict(few, rows, schema))
    assert worst == np.inf and why == "it gives 2 values a row, and the pipeline 3"


def test_an_answer_that_is_not_a_number_is_refused(parts, monkeypatch):
    schema, rows = parts["regression"].schema, parts["regression"].train
    fitted = synthetic.fitted(parts["regression"], "linear")
    predictions = pipelines.predict(fitted, rows, schema)
    monkeypatch.setattr(
        onnx.Onnx,
        "predict",
        lambda self, *x: np.where(predictions == predictions[3], np.nan, predictions),
    )
    assert export.prove(*served(fitted, schema, rows), predictions)[1].startswith(
        "row 3 differs by nan"
    )


def test_numbers_are_compared_row_by_row(parts, monkeypatch):
    """One enormous prediction must not hide an error of the others."""
    schema, rows = parts["regression"].schema, parts["regression"].train
    fitted = synthetic.fitted(parts["regression"], "linear")
    predictions = pipelines.predict(fitted, rows, schema)
    predictions[0] = 1e9
    wrong = predictions.copy()
    wrong[5] *= 1.001
    monkeypatch.setattr(onnx.Onnx, "predict", lambda self, *x: wrong)
    worst, why = export.prove(*served(fitted, schema, rows), predictions)
    assert why.startswith("row 5") and worst <= 0.0011


@pytest.mark.parametrize("kind", ["boosting", "forest"])
def test_neighbours_in_double_that_are_one_number_in_float32(kind):
    """Seconds since 1970: as float32 a tree would send them to the wrong side."""
    frame, draw = synthetic.table(), np.random.default_rng(0)
    order = draw.permutation(len(frame))
    frame["second"], frame["late"] = 1.6e9 + order, (order > 600).astype(int)
    learned = synthetic.prepared(frame=frame)
    fitted, rows = synthetic.fitted(learned, kind), odd(learned)
    found, plan, _ = export.choose(fitted, learned.schema, rows)
    assert found.engine == {"boosting": "quickscorer", "forest": "onnx"}[kind]
    assert found.largest_difference < 1e-6
    plain = export.to_onnx(fitted, len(plan["cuts"]), [])
    predictions = pipelines.predict(fitted, rows, learned.schema)
    wrong = export.prove(
        Onnx(plan | {"cuts": [], "single": False}, plain),
        export.arrays(rows, learned.schema),
        predictions,
    )
    assert (wrong[0] > 0.01) == (kind == "boosting")  # a forest casts to float32 itself


def test_every_flight_gets_the_pipelines_answer():
    """One in 16,000 values of a year lies within a float32's breadth of a threshold."""
    import example

    table = example.table()
    roles = {"time_column": "scheduled", "id_column": "flight_id", "entity_column": "tailnum"}
    learned = splits.prepare(table.iloc[::20], label="late", **roles)
    fitted = synthetic.fitted(learned, trees=150, max_depth=4)
    found, plan, trees = export.choose(fitted, learned.schema, odd(learned))
    x, expected = (
        export.arrays(table, learned.schema),
        pipelines.predict(fitted, table, learned.schema),
    )
    assert found.engine == "quickscorer"
    assert np.abs(QuickScorer(plan, trees).predict(*x) - expected).max() <= 1e-15
    onnx = Onnx(plan, export.to_onnx(fitted, len(plan["cuts"]), plan["cuts"]))
    assert np.abs(onnx.predict(*x) - expected).max() <= export.TOLERANCE


def test_numbers_beyond_single_precision_get_an_answer(parts):
    schema, rows = parts["binary"].schema, parts["binary"].train.head(2)
    x = np.array([[1e300, 1.0], [-1e300, 1.0]]), [("north", "north")]
    for kind in KINDS:
        onnx, _ = served(synthetic.fitted(parts["binary"], kind), schema, rows)
        assert np.isfinite(onnx.predict(*x)).all()


@pytest.mark.parametrize("kind", KINDS)
def test_one_estimator_gives_the_same_bytes(kind, parts):
    schema, rows = parts["binary"].schema, odd(parts["binary"])
    made = [export.choose(synthetic.fitted(parts["binary"], kind), schema, rows) for _ in range(2)]
    assert made[0] == made[1]  # in another process: tests/test_bundle.py


def test_nothing_is_sent_and_nothing_is_kept_at_home(tmp_path):
    made = "from modelkeep.training.engines import onnx; onnx.Onnx({'task': 'binary'}, b'')"
    env = {**os.environ, "HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path / "cache")}
    for name in ("CI", "ORT_DISABLE_TELEMETRY"):
        env.pop(name, None)
    done = subprocess.run([sys.executable, "-c", made], env=env, capture_output=True, text=True)
    assert "INVALID" in done.stderr or "Fail" in done.stderr  # it came as far as to read a model
    assert list(tmp_path.rglob("*")) == []


STRANGE = {
    "forest that keeps NaN": lambda: RandomForestClassifier(15, random_state=0),
    "extra trees": lambda: ExtraTreesClassifier(15, random_state=0),
    "native categories": lambda: HistGradientBoostingClassifier(
        max_iter=15, categorical_features=[2], random_state=0
    ),
    "boosting": lambda: HistGradientBoostingClassifier(max_iter=15, random_state=0),
    "calibrated": lambda: CalibratedClassifierCV(HistGradientBoostingClassifier(max_iter=5), cv=2),
    "voting": lambda: VotingClassifier(
        [(k, HistGradientBoostingClassifier(max_iter=k_)) for k, k_ in (("a", 3), ("b", 5))],
        voting="soft",
    ),
    "poisson": lambda: HistGradientBoostingRegressor(loss="poisson", max_iter=15),
    "gamma": lambda: HistGradientBoostingRegressor(loss="gamma", max_iter=15),
    "quantile": lambda: HistGradientBoostingRegressor(loss="quantile", quantile=0.9, max_iter=15),
    "forest of numbers": lambda: RandomForestRegressor(15, random_state=0),
}


@pytest.mark.parametrize("name", STRANGE)
def test_whatever_engine_is_chosen_answers_as_the_pipeline(name, parts):
    """Converters are silently wrong for some of these; a fork may use any of them."""
    estimator = STRANGE[name]()
    task = "regression" if is_regressor(estimator) else "binary"
    schema, rows = parts[task].schema, odd(parts[task])
    learn = (
        parts[task].train.assign(price=lambda x: x[schema.label].abs() + 0.1)
        if name in ("poisson", "gamma")
        else parts[task].train
    )
    unfitted = pipelines.pipeline(schema, "boosting").set_params(model=estimator)
    fitted = pipelines.fit(unfitted, learn, schema)
    found, plan, onnx = export.choose(fitted, schema, rows)
    chosen, predictions = (
        export.load(found.engine, plan, onnx, fitted, schema),
        pipelines.predict(fitted, rows, schema),
    )
    apart = np.abs(chosen.predict(*export.arrays(rows, schema)) - predictions).max()
    assert apart <= 1e-5 * max(1.0, np.abs(predictions).max())
    assert (found.engine == "quickscorer") == (found.reason == "")
