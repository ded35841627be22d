"""LightGBM, XGBoost and CatBoost as kinds of model, where their package is installed.

Each stands behind scikit-learn's interface, in one thread and with a seed, so that the same rows
give the same bytes. They read the same matrix as our boosting: numbers as they are, a category as
its place in the schema.
"""

import importlib
import warnings
from collections.abc import Sequence

import numpy as np
import pandas as pd
from sklearn.base import BaseEstimator, clone
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import FunctionTransformer

from modelkeep.core.errors import ModelkeepError

KINDS = ("lightgbm", "xgboost", "catboost")
COUNT = {"lightgbm": "n_estimators", "xgboost": "n_estimators", "catboost": "iterations"}
PATIENCE = {
    "lightgbm": "early_stopping_round",
    "xgboost": "early_stopping_rounds",
    "catboost": "early_stopping_rounds",
}
CLASSES = {
    "lightgbm": ("LGBMClassifier", "LGBMRegressor"),
    "xgboost": ("XGBClassifier", "XGBRegressor"),
    "catboost": ("CatBoostClassifier", "CatBoostRegressor"),
}
# What a model file may name when one of them is in it; each reads its own format, and runs no code.
TRUSTED = (
    "modelkeep.training.boosters.as_categories",
    "collections.OrderedDict",
    "lightgbm.basic.Booster",
    "xgboost.core.Booster",
    *(f"lightgbm.sklearn.{name}" for name in CLASSES["lightgbm"]),
    *(f"xgboost.sklearn.{name}" for name in CLASSES["xgboost"]),
    *(f"catboost.core.{name}" for name in CLASSES["catboost"]),
)
NEWEST = 0.2  # of the rows judge after how many trees to stop
LEAVES = 31  # of a tree at most, as scikit-learn's and LightGBM's default
HESSIAN = 0.1  # XGBoost counts a row of a class as p (1 - p), which is about this


class MissingLibrary(ModelkeepError, ImportError):
    """A kind of model whose package is not installed."""


def estimator(
    model: str,
    regression: bool,
    *,
    max_depth: int,
    learning_rate: float,
    trees: int,
    min_rows_leaf: int,
    l2: float,
    seed: int,
    early_stopping: int = 0,
    balanced: bool = False,
    monotone: Sequence[int] = (),
    native: Sequence[int] = (),
    columns: int = 0,
) -> BaseEstimator:
    """The unfitted estimator of a library; `monotone` (columns,) is -1, 0 or 1 for each column of
    the matrix, empty for none; `native` are those of the `columns` that hold categories.
    """
    kind = getattr(library(model), CLASSES[model][regression])
    given = {
        "learning_rate": learning_rate,
        COUNT[model]: trees,
        PATIENCE[model]: early_stopping or None,
        "monotone_constraints": f"({','.join(map(str, monotone))})" if monotone else None,
    }
    if model == "lightgbm":
        given |= {"max_depth": max_depth or -1, "min_child_samples": min_rows_leaf}
        given |= {"num_leaves": min(2**max_depth, LEAVES) if max_depth else LEAVES}
        given |= {"reg_lambda": l2, "class_weight": "balanced" if balanced else None}
        given |= {"random_state": seed, "n_jobs": 1, "deterministic": True, "verbose": -1}
        given |= {"categorical_feature": [*native] or None}
        given |= {"force_col_wise": True, "monotone_constraints": list(monotone) or None}
    elif model == "xgboost":
        leaf = min_rows_leaf * (1.0 if regression else HESSIAN)
        given |= {"max_depth": max_depth, "min_child_weight": leaf, "reg_lambda": l2}
        given |= {"random_state": seed, "n_jobs": 1, "tree_method": "hist"}
        types = ["c" if place in native else "q" for place in range(columns)]
        given |= {"enable_categorical": True, "feature_types": types} if native else {}
    else:
        given |= {"depth": max_depth or None, "l2_leaf_reg": l2, "random_seed": seed}
        given |= {"auto_class_weights": "Balanced" if balanced else None, "thread_count": 1}
        given |= {"allow_writing_files": False, "verbose": 0}
    return kind(**{name: value for name, value in given.items() if value is not None})


def cast(native: Sequence[int]) -> FunctionTransformer:
    """A step that gives CatBoost categories as whole numbers, as it takes no others."""
    return FunctionTransformer(as_categories, kw_args={"native": [*native]})


def as_categories(x: np.ndarray, native: Sequence[int]) -> np.ndarray:
    """The matrix (rows, columns) as objects, with whole numbers in the columns `native`."""
    mixed = x.astype(object)
    mixed[:, native] = x[:, native].astype(int)
    return mixed


def library(name: str) -> object:
    """The package of a kind; MissingLibrary says how to install it."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise MissingLibrary(
            f"{name} is not installed ({error}); `pip install 'modelkeep[{name}]'`, or set another "
            "`model` in params/train.yaml"
        ) from error


def kind_of(estimator: object) -> str:
    """Which library an estimator is of; "" for none."""
    package = type(estimator).__module__.partition(".")[0]
    return package if package in KINDS else ""


def fit(unfitted: Pipeline, x: pd.DataFrame | np.ndarray, y: np.ndarray) -> Pipeline:
    """The fitted pipeline of any estimator, stopped early where the settings say so.

    A CatBoost model bears no date and no id: the same rows give the same bytes.
    """
    unfitted = stopped(unfitted, x, y)
    last = unfitted.steps[-1][1]
    if not kind_of(last):
        return unfitted.fit(x, y)
    for _, step in unfitted.steps[:-1]:
        x = step.fit_transform(x, y)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "categorical_feature keyword")  # see `_native`
        last.fit(x, y, **_native(last, x))
    if kind_of(last) == "catboost":
        for name in ("model_guid", "train_finish_time"):
            last.get_metadata()[name] = ""
    return unfitted


def _native(estimator: BaseEstimator, x: np.ndarray) -> dict:
    """What must be declared of categories where a library fits a matrix: LightGBM ignores its own
    setting, and CatBoost cannot be copied with one.
    """
    kind = kind_of(estimator)
    if kind == "lightgbm":
        native = estimator.get_params().get("categorical_feature")
        return {"categorical_feature": native} if native else {}
    if kind == "catboost" and x.dtype == object:
        return {"cat_features": [i for i, each in enumerate(x[0]) if isinstance(each, int)]}
    return {}


def version(estimator: object) -> dict[str, str]:
    """The library of an estimator with its version; {} for none."""
    kind = kind_of(estimator)
    return {kind: library(kind).__version__} if kind else {}


def stopped(unfitted: Pipeline, x: pd.DataFrame | np.ndarray, y: np.ndarray) -> Pipeline:
    """The pipeline with the number of trees that predicts the newest fifth of the rows best.

    `x` and `y` are in order of time. A pipeline whose estimator has no early stopping is returned
    as it is; else the trees are counted on the older rows, and all rows are left to be learned.
    """
    last = unfitted.steps[-1][1]
    kind = kind_of(last)
    if not kind or not last.get_params().get(PATIENCE[kind]):
        return unfitted
    cut = len(x) - max(int(NEWEST * len(x)), 1)
    if y.dtype.kind == "i" and len(np.unique(y[:cut])) < len(np.unique(y)):
        return _with(unfitted, {PATIENCE[kind]: None})  # a class that only the newest rows have
    older, newer = x[:cut], x[cut:]
    if len(unfitted.steps) > 1:  # within `Calibrated` there is the estimator alone
        head = clone(unfitted[:-1]).fit(older, y[:cut])
        older, newer = head.transform(older), head.transform(newer)
    judges = [(newer, y[cut:])]
    quiet = {"verbose": False} if kind == "xgboost" else {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # LightGBM has another name for eval_set since 4.6
        tried = clone(last).fit(older, y[:cut], eval_set=judges, **quiet, **_native(last, older))
    best = {"lightgbm": lambda: tried.best_iteration_, "xgboost": lambda: tried.best_iteration + 1}
    trees = best.get(kind, lambda: tried.get_best_iteration() + 1)()
    return _with(unfitted, {PATIENCE[kind]: None, COUNT[kind]: max(int(trees), 1)})


def _with(unfitted: Pipeline, other: dict) -> Pipeline:
    """A copy whose estimator has other settings; None leaves one out."""
    *steps, (name, last) = clone(unfitted).steps
    given = {k: v for k, v in (last.get_params() | other).items() if v is not None}
    return Pipeline([*steps, (name, type(last)(**given))])
