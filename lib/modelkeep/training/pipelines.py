"""The scikit-learn pipeline from params; stock classes only, so that a saved model needs no code of
ours.
"""

from typing import NamedTuple

import numpy as np
import pandas as pd
from sklearn.base import BaseEstimator, clone
from sklearn.compose import ColumnTransformer
from sklearn.ensemble import (
    HistGradientBoostingClassifier,
    HistGradientBoostingRegressor,
    RandomForestClassifier,
    RandomForestRegressor,
)
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LinearRegression, LogisticRegression, Ridge
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import OneHotEncoder, OrdinalEncoder, StandardScaler
from threadpoolctl import threadpool_limits

from modelkeep.core.errors import ModelkeepError
from modelkeep.data.schema import Schema
from modelkeep.evaluation import metrics
from modelkeep.training.engines.encoding import MISSING

KINDS = ("boosting", "forest", "linear")


class ModelError(ModelkeepError, ValueError):
    """A model that cannot be made from these params or rows."""


class Fold(NamedTuple):
    """One step of cross-validation in time order: learned from all blocks before, tested on the
    next ones.
    """

    training_rows: int
    rows: np.ndarray
    predictions: np.ndarray
    scores: dict[str, float]


def pipeline(
    schema: Schema,
    model: str,
    *,
    max_depth: int = 4,
    learning_rate: float = 0.05,
    trees: int = 150,
    min_rows_leaf: int = 20,
    l2: float = 1.0,
    seed: int = 0,
) -> Pipeline:
    """An unfitted pipeline for the schema: `boosting`, `forest` or `linear` (logistic regression,
    or ridge for numbers). `max_depth` 0 is no limit.
    """
    if model not in KINDS:
        raise ModelError(
            f"model: {model!r} is not one of {', '.join(KINDS)}; set it in params/train.yaml"
        )
    numbers = schema.task == "regression"
    if model == "boosting":
        kind = HistGradientBoostingRegressor if numbers else HistGradientBoostingClassifier
        estimator = kind(
            max_depth=max_depth or None,
            learning_rate=learning_rate,
            max_iter=trees,
            min_samples_leaf=min_rows_leaf,
            l2_regularization=l2,
            early_stopping=False,
            random_state=seed,
        )
    elif model == "forest":
        kind = RandomForestRegressor if numbers else RandomForestClassifier
        estimator = kind(
            n_estimators=trees,
            max_depth=max_depth or None,
            min_samples_leaf=min_rows_leaf,
            random_state=seed,
        )
    elif numbers:
        estimator = Ridge(alpha=l2) if l2 else LinearRegression()
    else:
        estimator = LogisticRegression(C=1 / l2 if l2 else np.inf, max_iter=1000)
    return Pipeline([("columns", _columns(schema, model)), ("model", estimator)])


def _columns(schema: Schema, model: str) -> ColumnTransformer:
    """Numbers: kept (boosting), median (forest), median and scaled (linear). Categories: known
    ones, `missing`, all else one `other`.
    """
    numbers = [c.name for c in schema.columns if c.kind == "number"]
    categories = [c for c in schema.columns if c.kind == "category"]
    known = [np.array([*dict.fromkeys((*c.categories, MISSING))], object) for c in categories]
    fill = [("fill", SimpleImputer(strategy="median", keep_empty_features=True))]
    number_step = {
        "boosting": "passthrough",
        "forest": Pipeline(fill),
        "linear": Pipeline([*fill, ("scale", StandardScaler())]),
    }[model]
    encoder = (
        OneHotEncoder(categories=known, handle_unknown="ignore", sparse_output=False)
        if model == "linear"
        else OrdinalEncoder(categories=known, handle_unknown="use_encoded_value", unknown_value=-1)
    )
    absent = SimpleImputer(strategy="constant", fill_value=MISSING, keep_empty_features=True)
    steps = [("numbers", number_step, numbers)] if numbers else []
    if categories:
        encode = Pipeline([("fill", absent), ("encode", encoder)])
        steps.append(("categories", encode, [c.name for c in categories]))
    return ColumnTransformer(steps, verbose_feature_names_out=False)


def features(rows: pd.DataFrame, schema: Schema) -> pd.DataFrame:
    """The columns that the pipeline takes, in its order and types: float64, and object with NaN for
    a missing category.
    """
    frame = {}
    for c in schema.columns:
        values = rows[c.name]
        if c.kind == "number":
            frame[c.name] = values.to_numpy(dtype="float64", na_value=np.nan)
        else:
            codes, known = pd.factorize(values)  # so that alike rows share one string
            shared = np.array([*known, np.nan], object)[codes]
            frame[c.name] = pd.Series(shared, rows.index, dtype=object)
    return pd.DataFrame(frame, index=rows.index)


def outcome(rows: pd.DataFrame, schema: Schema) -> np.ndarray:
    """The labels as class numbers, or as floats for regression; every row must have one."""
    labels = rows[schema.label]
    if schema.task == "regression":
        values = labels.to_numpy(dtype="float64", na_value=np.nan)
        strange, rule = ~np.isfinite(values), "a finite number"
    else:
        values = pd.Categorical(labels, categories=list(schema.classes)).codes.astype(np.int64)
        strange, rule = values < 0, f"one of {', '.join(schema.classes)}"
    if strange.any():
        first = int(np.argmax(strange))
        raise ModelError(
            f"{schema.label}: row {first} has the label '{labels.iloc[first]}', "
            f"which is not {rule}; drop unlabelled rows first"
        )
    return values


def fit(unfitted: Pipeline, rows: pd.DataFrame, schema: Schema) -> Pipeline:
    """The pipeline fitted on labelled rows, with classes numbered in the schema's order."""
    y = outcome(rows, schema)
    if schema.classes and len(np.unique(y)) < 2:
        raise ModelError(
            f"{schema.label}: the {len(rows)} rows to learn from hold fewer than two classes; "
            "lower `folds` in params/train.yaml, or take a longer history"
        )
    x = features(rows, schema)
    # scikit-learn's boosting fails on a column without any value
    x[[c.name for c in schema.columns if c.kind == "number" and x[c.name].isna().all()]] = 0.0
    # on more threads sums round differently, and boosting keeps how many there were: other bytes
    with threadpool_limits(1):
        return clone(unfitted).fit(x, y)


def predict(fitted: Pipeline, rows: pd.DataFrame, schema: Schema) -> np.ndarray:
    """Probabilities (rows, classes), or predicted numbers (rows,); a class that training lacked
    gets 0.
    """
    return answer(fitted, features(rows, schema), schema)


def answer(model: BaseEstimator, x: pd.DataFrame | np.ndarray, schema: Schema) -> np.ndarray:
    """As `predict`, of a pipeline or of its estimator alone, from what it takes itself."""
    if schema.task == "regression":
        return model.predict(x)
    predictions = np.zeros((len(x), len(schema.classes)))
    predictions[:, model.classes_] = model.predict_proba(x)
    return predictions


def cross_validate(
    unfitted: Pipeline, rows: pd.DataFrame, schema: Schema, blocks: np.ndarray, folds: int
) -> list[Fold]:
    """Cross-validation in time order.

    The blocks are cut in `folds` + 1 parts; each part after the first is predicted from all before.
    """
    distinct = np.unique(blocks)
    if not 1 <= folds < len(distinct):
        raise ModelError(
            f"folds: {folds} is not from 1 to {len(distinct) - 1}, as each fold and the rows "
            "before "
            f"the first need one of the {len(distinct)} blocks of time; set `folds` in "
            "params/train.yaml"
        )
    parts, found = np.array_split(distinct, folds + 1), []
    for part in parts[1:]:
        before, inside = blocks < part[0], (blocks >= part[0]) & (blocks <= part[-1])
        fitted = fit(unfitted, rows[before], schema)
        y, p = outcome(rows[inside], schema), predict(fitted, rows[inside], schema)
        means = {k: float(np.mean(v)) for k, v in metrics.per_row(schema.task, y, p).items()}
        found.append(Fold(int(before.sum()), np.flatnonzero(inside), p, means))
    return found
