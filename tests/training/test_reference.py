import numpy as np
import pandas as pd
import pytest

import synthetic
from modelkeep.evaluation import drift, profile
from modelkeep.predictions import frames
from modelkeep.training import reference


@pytest.fixture
def log(parts):
    rows = parts["binary"].train
    p = np.linspace(0, 1, len(rows))
    return frames.with_predictions(rows, parts["binary"].schema, np.column_stack([1 - p, p]))


def test_features_and_predictions_are_counted_by_day(log, parts):
    found = reference.learn(log, parts["binary"].schema)
    assert [b.name for b in found.bins] == ["size", "weight", "shop", reference.PREDICTION]
    assert found.rows.sum() == len(log)
    assert (found.blocks == np.unique(log["when"].to_numpy().astype("datetime64[D]"))).all()
    assert found.counts["weight"].sum(axis=0)[-1] == log["weight"].isna().sum()


def test_the_same_rows_have_the_same_counts(log, parts):
    schema = parts["binary"].schema
    against = reference.learn(log, schema)
    again = reference.count(log.sample(frac=1, random_state=0), schema, against)
    assert profile.to_json(again) == profile.to_json(against)


def test_the_prediction_is_of_the_last_class_or_the_likeliest_or_the_number(parts):
    predictions = {
        "binary": np.array([[0.9, 0.1], [0.2, 0.8]]),
        "multiclass": np.array([[0.5, 0.3, 0.2], [0, 0.4, 0.6]]),
        "regression": np.array([3.0, 7.0]),
    }
    bins = {}
    for task, answers in predictions.items():
        schema = parts[task].schema
        found = reference.learn(
            frames.with_predictions(parts[task].train.head(2), schema, answers), schema
        )
        bins[task] = found.bins[-1]
    assert bins["binary"].edges[0] == 0.1 and bins["binary"].edges[-1] == 0.8
    assert set(bins["multiclass"].categories) == {"blue", "red"}
    assert bins["regression"].edges[0] == 3 and bins["regression"].edges[-1] == 7


def test_a_column_without_any_value(log, parts):
    schema = parts["binary"].schema
    log = log.assign(weight=np.nan, shop=pd.Series(np.nan, log.index, dtype="str"))
    found = reference.learn(log, schema)
    assert found.counts["shop"].sum(axis=0)[-1] == len(log)


def test_without_time_rows_stand_for_themselves():
    learned = synthetic.prepared(timed=False)
    predictions = np.tile([0.5, 0.5], (len(learned.train), 1))
    found = reference.learn(
        frames.with_predictions(learned.train, learned.schema, predictions), learned.schema
    )
    assert found.blocks is None and found.rows.tolist() == [len(learned.train)]


def test_only_inputs_can_page(log, parts):
    schema = parts["binary"].schema
    against = reference.learn(log, schema)
    turned = frames.with_predictions(log, schema, frames.predictions(log, schema)[:, ::-1] ** 4)
    counted = reference.count(turned, schema, against)
    assert drift.compare(against, counted, by="rows").columns[-1].alarm
    bare = [reference.inputs(c) for c in (against, counted)]
    assert [b.name for b in bare[0].bins] == ["size", "weight", "shop"]
    assert not drift.compare(*bare, by="rows").alarm
    assert profile.add(*bare).rows.sum() == 2 * len(log)


@pytest.mark.parametrize(("model", "knobs"), [("boosting", {}), ("forest", {"trees": 30})])
def test_predictions_of_the_model_in_service_do_not_seem_to_move(model, knobs, tmp_path):
    """Those of cross-validation do: they come from other models."""
    frame = synthetic.table(rows=4000, days=1000)  # so that rows are hardly alike by day
    learned = synthetic.prepared(frame=frame, timed=True, test_days=300)
    served = synthetic.sealed(tmp_path / "candidate", learned, model, **knobs)
    schema = learned.schema
    log = frames.with_predictions(learned.test, schema, served.answer(learned.test))
    p = {}
    for name, against in (
        ("service", served.reference),
        ("folds", reference.learn(served.out_of_fold, schema)),
    ):
        found = drift.compare(against, reference.count(log, schema, against), by="rows")
        p[name] = found.columns[-1].p
    assert p["service"] > 1e-3 and p["folds"] < 1e-8
