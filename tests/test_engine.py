import os
import subprocess
import sys

import numpy as np
import pytest

import synthetic
from modelkeep import bundle, engine, models, tables

TASKS, KINDS = tuple(synthetic.LABELS), models.KINDS


def odd(parts):
    """Rows with everything that may come: missing, unseen, huge."""
    return bundle._edge_cases(parts.train, parts.schema)


def served(fitted, of, rows):
    plan, x = engine.encoding(fitted, of), bundle.columns(rows, of)
    onnx = engine.to_onnx(fitted, engine.encode(plan, x).shape[1])
    return plan, onnx, x


@pytest.mark.parametrize("kind", KINDS)
def test_the_encoding_is_scikit_learns_to_the_bit(kind, parts):
    of, rows = parts["binary"].schema, odd(parts["binary"])
    fitted = synthetic.fitted(parts["binary"], kind)
    ours = engine.encode(engine.encoding(fitted, of), bundle.columns(rows, of))
    theirs = fitted["columns"].transform(models.features(rows, of)).astype(np.float64)
    assert ours.dtype == np.float64 and ours.shape == theirs.shape
    assert ours.tobytes() == np.ascontiguousarray(theirs).tobytes()


def test_lists_and_none_are_read_like_arrays(parts):
    of = parts["binary"].schema
    plan = engine.encoding(synthetic.fitted(parts["binary"], "linear"), of)
    rows = {"size": [1, None], "weight": [None, 2.5], "shop": ["north", None]}
    arrays = {"size": np.array([1, np.nan]), "weight": np.array([np.nan, 2.5])}
    arrays["shop"] = np.array(["north", np.nan], dtype=object)
    assert (engine.encode(plan, rows) == engine.encode(plan, arrays)).all()


@pytest.mark.parametrize("name", ["size", "shop"])
def test_only_numbers_or_only_categories(name):
    learned = synthetic.prepared(features=[name])
    fitted, rows = synthetic.fitted(learned, "linear"), odd(learned)
    plan, onnx, x = served(fitted, learned.schema, rows)
    worst, why = engine.prove(plan, onnx, x, models.predict(fitted, rows, learned.schema))
    assert not why and worst <= engine.TOLERANCE


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("kind", KINDS)
def test_onnx_answers_as_scikit_learn_does(task, kind, parts):
    of, rows = parts[task].schema, odd(parts[task])
    fitted = synthetic.fitted(parts[task], kind)
    plan, onnx, x = served(fitted, of, rows)
    worst, why = engine.prove(plan, onnx, x, models.predict(fitted, rows, of))
    assert not why and worst <= engine.TOLERANCE
    answer = engine.Engine(plan, onnx).predict(x)
    assert answer.dtype == np.float64
    assert answer.shape == ((len(rows),) if task == "regression" else (len(rows), len(of.classes)))


def test_it_is_proven_on_flights_and_odd_rows(tmp_path):
    import example

    table = example.table().iloc[::60]
    learned = tables.prepare(
        table, label="late", time_column="scheduled", id_column="flight_id", entity_column="tailnum"
    )
    fitted, rows = synthetic.fitted(learned, trees=60, max_depth=4), odd(learned)
    plan, onnx, x = served(fitted, learned.schema, rows)
    worst, why = engine.prove(plan, onnx, x, models.predict(fitted, rows, learned.schema))
    assert len(rows) > 4000 and not why and worst <= 1e-5


def test_another_model_is_refused(parts):
    of, rows = parts["binary"].schema, odd(parts["binary"])
    fitted = synthetic.fitted(parts["binary"])
    other = synthetic.fitted(parts["binary"], trees=21)
    plan, onnx, x = served(other, of, rows)
    worst, why = engine.prove(plan, onnx, x, models.predict(fitted, rows, of))
    assert worst > engine.TOLERANCE
    assert why.startswith("row ") and why.endswith("more than 1e-05")


def test_a_model_with_fewer_classes_is_refused(parts):
    of, rows = parts["multiclass"].schema, parts["multiclass"].train
    few = models.fit(models.pipeline(of, "linear"), rows[rows["colour"] != "green"], of)
    plan, onnx, x = served(few, of, rows)
    worst, why = engine.prove(plan, onnx, x, models.predict(few, rows, of))
    assert worst == np.inf and why == "it gives 2 values a row, and the pipeline 3"


def test_an_answer_that_is_not_a_number_is_refused(parts, monkeypatch):
    of, rows = parts["regression"].schema, parts["regression"].train
    fitted = synthetic.fitted(parts["regression"], "linear")
    said = models.predict(fitted, rows, of)
    monkeypatch.setattr(
        engine.Engine, "predict", lambda self, x: np.where(said == said[3], np.nan, said)
    )
    assert engine.prove(*served(fitted, of, rows), said)[1].startswith("row 3 differs by nan")


def test_numbers_are_compared_row_by_row(parts, monkeypatch):
    """One enormous prediction must not hide an error of the others."""
    of, rows = parts["regression"].schema, parts["regression"].train
    fitted = synthetic.fitted(parts["regression"], "linear")
    said = models.predict(fitted, rows, of)
    said[0] = 1e9
    wrong = said.copy()
    wrong[5] *= 1.001
    monkeypatch.setattr(engine.Engine, "predict", lambda self, x: wrong)
    worst, why = engine.prove(*served(fitted, of, rows), said)
    assert why.startswith("row 5") and worst <= 0.0011


def test_large_numbers_flip_a_split_in_single_precision_and_are_found():
    """Seconds since 1970: neighbours are one float32, so a tree sends them to the wrong side."""
    frame, draw = synthetic.table(), np.random.default_rng(0)
    order = draw.permutation(len(frame))
    frame["second"], frame["late"] = 1.6e9 + order, (order > 600).astype(int)
    learned = synthetic.prepared(frame=frame)
    fitted, rows = synthetic.fitted(learned), odd(learned)
    onnx, stated, _ = bundle._serving(fitted, learned.schema, rows)
    assert onnx == b"" and stated["engine"] == "scikit-learn"
    assert "more than 1e-05" in stated["reason"] and stated["largest_difference"] > 0.1


def test_numbers_beyond_single_precision_get_an_answer(parts):
    of, rows = parts["binary"].schema, parts["binary"].train.head(2)
    plan, onnx, _ = served(synthetic.fitted(parts["binary"]), of, rows)
    x = {"size": [1e300, -1e300], "weight": [1.0, 1.0], "shop": ["north", "north"]}
    assert np.isfinite(engine.Engine(plan, onnx).predict(x)).all()


@pytest.mark.parametrize("kind", KINDS)
def test_one_estimator_gives_the_same_bytes(kind, parts):
    made = [
        served(
            synthetic.fitted(parts["binary"], kind), parts["binary"].schema, odd(parts["binary"])
        )
        for _ in range(2)
    ]
    assert made[0][:2] == made[1][:2]  # in another process: tests/test_bundle.py


def test_nothing_is_sent_and_nothing_is_kept_at_home(tmp_path):
    made = "from modelkeep import engine; engine.Engine({'task': 'binary'}, b'')"
    env = {**os.environ, "HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path / "cache")}
    for name in ("CI", "ORT_DISABLE_TELEMETRY"):
        env.pop(name, None)
    done = subprocess.run([sys.executable, "-c", made], env=env, capture_output=True, text=True)
    assert "INVALID" in done.stderr or "Fail" in done.stderr  # it came as far as to read a model
    assert list(tmp_path.rglob("*")) == []
