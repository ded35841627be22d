import numpy as np
import pandas as pd
import pytest
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline
from threadpoolctl import threadpool_limits

import synthetic
from modelkeep.data import splits
from modelkeep.training import bundle, pipelines
from modelkeep.training.pipelines import ModelError

TASKS = tuple(synthetic.LABELS)


@pytest.mark.parametrize("task", TASKS)
def test_every_kind_learns_every_task(task, kind, parts):
    schema, test = parts[task].schema, parts[task].test
    fitted = synthetic.fitted(parts[task], kind)
    predictions, y = pipelines.predict(fitted, test, schema), pipelines.outcome(test, schema)
    if task == "regression":
        assert predictions.shape == (len(test),)
        assert np.mean((predictions - y) ** 2) < 0.8 * np.var(y)
    else:
        assert predictions.shape == (len(test), len(schema.classes))
        assert np.allclose(predictions.sum(axis=1), 1)
        assert np.mean(predictions.argmax(axis=1) == y) > np.bincount(y).max() / len(y)


def test_odd_values_get_an_answer(kind, parts):
    schema, fitted = parts["binary"].schema, synthetic.fitted(parts["binary"], kind)
    odd = parts["binary"].test.head(6).copy()
    odd.loc[0, "shop"] = "never seen"
    odd.loc[1, "shop"] = None
    odd.loc[2, ["size", "weight"]] = np.nan
    odd.loc[3, "size"] = 1e300 if kind == "boosting" else 1e30
    odd["shop"] = odd["shop"].astype(object)
    odd.loc[4, "shop"] = pd.NA
    predictions = pipelines.predict(fitted, odd, schema)
    assert np.isfinite(predictions).all() and (predictions >= 0).all() and (predictions <= 1).all()


def test_unseen_rare_and_unseen_are_one_other(kind, parts):
    schema, fitted = parts["binary"].schema, synthetic.fitted(parts["binary"], kind)
    row = parts["binary"].test.head(1)
    first, second = (pipelines.predict(fitted, row.assign(shop=s), schema) for s in ("one", "two"))
    missing = pipelines.predict(fitted, row.assign(shop=None), schema)
    assert (first == second).all() and not np.allclose(first, missing, atol=1e-9)


def test_a_category_that_is_named_missing(kind):
    frame = synthetic.table(rows=400)
    frame["shop"] = frame["shop"].where(frame["shop"] != "north", "missing")
    learned = synthetic.prepared(frame=frame)
    fitted, row = synthetic.fitted(learned, kind), learned.test.head(1)
    predictions = [
        pipelines.predict(fitted, row.assign(shop=s), learned.schema) for s in ("missing", None)
    ]
    assert (predictions[0] == predictions[1]).all()


def test_columns_that_a_part_of_the_rows_lacks_altogether(kind, parts):
    schema, rows = parts["binary"].schema, parts["binary"].train
    empty = rows.assign(weight=np.nan, shop=pd.Series(np.nan, rows.index, dtype="str"))
    fitted = pipelines.fit(pipelines.pipeline(schema, kind, **synthetic.QUICK), empty, schema)
    assert np.isfinite(pipelines.predict(fitted, rows, schema)).all()


def test_a_class_that_training_lacked_gets_nothing(kind, parts):
    schema, rows = parts["multiclass"].schema, parts["multiclass"].train
    unfitted = pipelines.pipeline(schema, kind, **synthetic.QUICK)
    known = rows[rows["colour"] != "green"]
    if kind == "xgboost":
        with pytest.raises(ModelError, match="hold no 'green', and XGBoost takes no gap"):
            pipelines.fit(unfitted, known, schema)
        return
    fitted = pipelines.fit(unfitted, known, schema)
    predictions = pipelines.predict(fitted, rows, schema)
    assert (predictions[:, schema.classes.index("green")] == 0).all()
    assert np.allclose(predictions.sum(axis=1), 1)


@pytest.mark.parametrize("task", TASKS)
def test_no_penalty_is_allowed(task, parts):
    fitted = synthetic.fitted(parts[task], "linear", l2=0)
    assert np.isfinite(pipelines.predict(fitted, parts[task].test, parts[task].schema)).all()


def test_the_penalty_is_scikit_learns(parts):
    estimator = pipelines.pipeline(parts["binary"].schema, "linear", l2=4.0)["model"]
    assert isinstance(estimator, LogisticRegression) and estimator.C == 0.25


def test_one_seed_gives_one_model(kind, parts):
    predictions = [
        pipelines.predict(
            synthetic.fitted(parts["binary"], kind), parts["binary"].test, parts["binary"].schema
        )
        for _ in range(2)
    ]
    assert (predictions[0] == predictions[1]).all()


def test_a_model_is_the_same_bytes_on_any_number_of_threads(kind, parts):
    with threadpool_limits(1):
        one = bundle.dump(synthetic.fitted(parts["binary"], kind))
    with threadpool_limits(3):
        assert bundle.dump(synthetic.fitted(parts["binary"], kind)) == one


def test_fitting_leaves_the_unfitted_pipeline_as_it_was(parts):
    schema = parts["binary"].schema
    unfitted = pipelines.pipeline(schema, "linear")
    pipelines.fit(unfitted, parts["binary"].train, schema)
    assert not hasattr(unfitted["model"], "coef_")


def test_features_have_the_schemas_order_and_types(parts):
    schema = parts["binary"].schema
    rows = parts["binary"].train[::-1].iloc[:, ::-1]
    taken = pipelines.features(pd.concat([rows, rows]), schema)  # an index with every label twice
    assert list(taken) == [c.name for c in schema.columns]
    assert list(taken.dtypes) == [float if c.kind == "number" else object for c in schema.columns]
    assert taken["size"].tolist() == rows["size"].tolist() * 2
    assert taken["shop"].map(type).isin([str, float]).all()


class Memory(ClassifierMixin, BaseEstimator):
    """A classifier that notes what it was shown."""

    shown: list = []

    def fit(self, x, y):
        self.classes_, self.rows = np.unique(y), len(y)
        return self

    def predict_proba(self, x):
        Memory.shown.append((self.rows, len(x)))
        return np.tile([0.5, 0.5], (len(x), 1))


def test_cross_validation_never_learns_from_later_blocks(parts):
    schema, rows = parts["binary"].schema, parts["binary"].train
    mixed = rows.sample(frac=1, random_state=0)
    blocks = splits.blocks(mixed, schema)
    unfitted = Pipeline([("columns", "passthrough"), ("model", Memory())])
    Memory.shown.clear()
    folds = pipelines.cross_validate(unfitted, mixed, schema, blocks, 3)
    assert Memory.shown == [(f.training_rows, len(f.rows)) for f in folds]
    newest = np.datetime64("1970-01-01")
    for fold in folds:
        tested = blocks[fold.rows]
        assert tested.min() > newest and fold.training_rows == (blocks < tested.min()).sum()
        assert len(fold.predictions) == len(fold.rows)
        newest = tested.max()
    assert newest == blocks.max()
    asked = np.concatenate([f.rows for f in folds])
    assert len(np.unique(asked)) == len(asked) == len(rows) - folds[0].training_rows


def test_a_fold_is_what_a_model_of_the_rows_before_says(parts):
    schema, rows = parts["regression"].schema, parts["regression"].train
    unfitted, blocks = pipelines.pipeline(schema, "linear"), splits.blocks(rows, schema)
    last = pipelines.cross_validate(unfitted, rows, schema, blocks, 2)[-1]
    by_hand = pipelines.fit(unfitted, rows.iloc[: last.training_rows], schema)
    predictions = pipelines.predict(by_hand, rows.iloc[last.rows], schema)
    assert (predictions == last.predictions).all()
    error = np.mean((predictions - rows["price"].to_numpy()[last.rows]) ** 2)
    assert last.scores["squared_error"] == pytest.approx(error)


@pytest.mark.parametrize("folds", [-1, 0, 5])
def test_folds_that_the_blocks_do_not_give(folds, parts):
    schema, rows = parts["binary"].schema, parts["binary"].train.head(5)
    with pytest.raises(ModelError, match=f"folds: {folds} is not from 1 to 4"):
        pipelines.cross_validate(
            pipelines.pipeline(schema, "linear"), rows, schema, np.arange(5), folds
        )


def test_a_fold_of_one_class_says_so(parts):
    schema, rows = parts["binary"].schema, parts["binary"].train
    late = np.arange(len(rows)) > len(rows) / 2
    rows = rows.assign(late=np.where(late, rows["late"], "0"))
    with pytest.raises(ModelError, match="fewer than two classes; lower `folds`"):
        pipelines.cross_validate(
            pipelines.pipeline(schema, "boosting"), rows, schema, splits.blocks(rows, schema), 4
        )


def test_a_model_that_there_is_not(parts):
    with pytest.raises(ModelError, match="'bosting' is not one of boosting, forest, linear"):
        pipelines.pipeline(parts["binary"].schema, "bosting")


@pytest.mark.parametrize("task", TASKS)
def test_an_unlabelled_row_is_named(task, parts):
    rows = parts[task].train.head(3).copy()
    rows.loc[1, synthetic.LABELS[task]] = None
    with pytest.raises(ModelError, match="row 1 has the label 'nan'"):
        pipelines.outcome(rows, parts[task].schema)
