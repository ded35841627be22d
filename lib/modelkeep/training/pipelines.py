"""The scikit-learn pipeline from params; stock classes only, so that a saved model needs no code of
ours.
"""

from collections.abc import Mapping
from types import MappingProxyType
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
from modelkeep.training import boosters, calibration
from modelkeep.training.calibration import Calibrated
from modelkeep.training.engines.encoding import MISSING

KINDS = ("boosting", "forest", "linear", *boosters.KINDS)
WEIGHTS = ("none", "balanced")


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
    early_stopping: int = 0,
    native_categories: bool = False,
    class_weight: str = "none",
    monotone: Mapping[str, int] = MappingProxyType({}),
    calibrate: str = "none",
    seed: int = 0,
) -> Pipeline:
    """An unfitted pipeline for the schema: `boosting`, `forest`, `linear` (logistic regression, or
    ridge for numbers) or one of `boosters.KINDS`. `max_depth` 0 is no limit; `early_stopping` and
    `native_categories` (splits by sets of categories) are of the boosters; `monotone` gives a
    number's column 1 (predictions rise with it) or -1; `calibrate` is one of `calibration.METHODS`.
    """
    words = (("model", model, KINDS), ("class_weight", class_weight, WEIGHTS))
    for name, value, known in (*words, ("calibrate", calibrate, calibration.METHODS)):
        if value not in known:
            raise ModelError(
                f"{name}: {value!r} is not one of {', '.join(known)}; set it in params/train.yaml"
            )
    numbers = schema.task == "regression"
    _check_words(model, class_weight, calibrate, numbers)
    native = _native(schema, model) if native_categories else []
    balanced, directions = class_weight == "balanced", _directions(schema, model, monotone)
    settings = {"max_depth": max_depth, "learning_rate": learning_rate, "trees": trees}
    settings |= {"min_rows_leaf": min_rows_leaf, "l2": l2, "seed": seed}
    if model in boosters.KINDS:
        settings |= {"early_stopping": early_stopping, "balanced": balanced, "monotone": directions}
        settings |= {"native": native, "columns": len(schema.columns)}
        estimator = boosters.estimator(model, numbers, **settings)
    else:
        more = {"class_weight": "balanced"} if balanced else {}
        more |= {"monotonic_cst": directions} if directions else {}
        estimator = _scikit(model, numbers, settings, more)
    if calibrate != "none":
        estimator = Calibrated(estimator, calibrate)
    columns = _columns(schema, model, np.nan if native and model != "catboost" else -1)
    cast = [("cast", boosters.cast(native))] if native and model == "catboost" else []
    return Pipeline([("columns", columns), *cast, ("model", estimator)])


def _scikit(model: str, numbers: bool, given: Mapping, more: Mapping) -> BaseEstimator:
    """scikit-learn's estimator of a kind; `more` are arguments of any of them."""
    shared = {
        "max_depth": given["max_depth"] or None,
        "min_samples_leaf": given["min_rows_leaf"],
        "random_state": given["seed"],
    }
    if model == "boosting":
        kind = HistGradientBoostingRegressor if numbers else HistGradientBoostingClassifier
        shared |= {"learning_rate": given["learning_rate"], "max_iter": given["trees"]}
        return kind(l2_regularization=given["l2"], early_stopping=False, **shared, **more)
    if model == "forest":
        kind = RandomForestRegressor if numbers else RandomForestClassifier
        return kind(n_estimators=given["trees"], **shared, **more)
    if numbers:
        return Ridge(alpha=given["l2"]) if given["l2"] else LinearRegression()
    return LogisticRegression(C=1 / given["l2"] if given["l2"] else np.inf, max_iter=1000, **more)


def _check_words(model: str, class_weight: str, calibrate: str, numbers: bool) -> None:
    if numbers and calibrate != "none":
        raise ModelError(
            f"calibrate: {calibrate!r} is for probabilities, and the label is a number; set it to "
            "none in params/train.yaml"
        )
    why = "the label is a number" if numbers else "XGBoost has no weights of classes"
    if class_weight == "balanced" and (numbers or model == "xgboost"):
        raise ModelError(
            f"class_weight: 'balanced' does not go with this model, as {why}; set it to none in "
            "params/train.yaml"
        )


def _native(schema: Schema, model: str) -> list[int]:
    """The columns of the matrix that hold categories; they follow the numbers."""
    if model not in boosters.KINDS:
        raise ModelError(
            f"native_categories: {model} takes categories as numbers only; set it to false in "
            f"params/train.yaml, or `model` to one of {', '.join(boosters.KINDS)}"
        )
    numbers = sum(c.kind == "number" for c in schema.columns)
    return list(range(numbers, len(schema.columns)))


def _directions(schema: Schema, model: str, monotone: Mapping[str, int]) -> list[int]:
    """A direction for each column of the matrix (numbers first); [] where none is stated."""
    numbers = [c.name for c in schema.columns if c.kind == "number"]
    for name, way in monotone.items():
        if name not in numbers or isinstance(way, bool) or way not in (-1, 0, 1):
            raise ModelError(
                f"monotone: {{{name}: {way!r}}} must give a column of numbers -1 or 1; numbers are "
                f"{', '.join(numbers) or 'none'} (params/train.yaml)"
            )
    if not any(monotone.values()):
        return []
    if model == "linear" or schema.task == "multiclass":
        what = "a linear model" if model == "linear" else "a label of several classes"
        raise ModelError(
            f"monotone: {what} has no such constraint; set monotone to {{}} in params/train.yaml"
        )
    ways = [int(monotone.get(name, 0)) for name in numbers]
    return ways + [0] * (len(schema.columns) - len(numbers))


def _columns(schema: Schema, model: str, unseen: float) -> ColumnTransformer:
    """Numbers: kept (boosting), median (forest), median and scaled (linear). Categories: known
    ones, `missing`, all else one `other`, which trees know as `unseen`.
    """
    numbers = [c.name for c in schema.columns if c.kind == "number"]
    categories = [c for c in schema.columns if c.kind == "category"]
    known = [np.array([*dict.fromkeys((*c.categories, MISSING))], object) for c in categories]
    fill = [("fill", SimpleImputer(strategy="median", keep_empty_features=True))]
    number_step = {
        "boosting": "passthrough",
        "forest": Pipeline(fill),
        "linear": Pipeline([*fill, ("scale", StandardScaler())]),
    }.get(model, "passthrough")
    encoder = (
        OneHotEncoder(categories=known, handle_unknown="ignore", sparse_output=False)
        if model == "linear"
        else OrdinalEncoder(
            categories=known, handle_unknown="use_encoded_value", unknown_value=unseen
        )
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
    if boosters.kind_of(calibration.inner(unfitted.steps[-1][1])) == "xgboost" and schema.classes:
        lacking = [name for i, name in enumerate(schema.classes) if i not in y]
        if lacking:
            raise ModelError(
                f"{schema.label}: the {len(rows)} rows to learn from hold no {lacking[0]!r}, and "
                "XGBoost takes no gap between classes; lower `folds`, or set another `model`, in "
                "params/train.yaml"
            )
    x = features(rows, schema)
    # scikit-learn's boosting fails on a column without any value
    x[[c.name for c in schema.columns if c.kind == "number" and x[c.name].isna().all()]] = 0.0
    # on more threads sums round differently, and boosting keeps how many there were: other bytes
    with threadpool_limits(1):
        return boosters.fit(clone(unfitted), x, y)


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
