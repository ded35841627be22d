"""Calibrated predictions: a map that is learned from out-of-fold predictions in order of time, or
from newer rows (`recalibrated`).
"""

from collections.abc import Mapping
from itertools import pairwise

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin, clone
from sklearn.isotonic import IsotonicRegression
from sklearn.pipeline import Pipeline

from modelkeep.evaluation import recalibration
from modelkeep.evaluation.recalibration import Update
from modelkeep.training import boosters
from modelkeep.training.engines import calibration

METHODS = ("none", "sigmoid", "isotonic")
PARTS = 5  # of the rows; each after the first is predicted by a model of those before it
LEAST_ROWS = 50  # of each class, out of fold; with fewer, probabilities stay as they are
TRUSTED = ("modelkeep.training.calibration.Calibrated", "modelkeep.training.calibration.Scaled")


class Calibrated(ClassifierMixin, BaseEstimator):
    """A classifier whose probabilities are mapped to the rates that were observed.

    `sigmoid` is a new level and slope of log-odds (Platt 1999; several classes: of log
    probabilities), `isotonic` any map that does not fall, class by class, `none` no map. The rows
    that it is fitted to are in order of time: the map never learns from a model that knew its rows.
    """

    def __init__(self, estimator: BaseEstimator | None = None, method: str = "sigmoid") -> None:
        self.estimator, self.method = estimator, method

    def fit(self, x: np.ndarray, y: np.ndarray) -> "Calibrated":
        """Fit the estimator to all rows, and the map to out-of-fold predictions."""
        self.model_ = self._fitted(x, y)
        self.classes_, self.map_ = self.model_.classes_, {}
        if self.method == "none":
            return self
        known, p = self._out_of_fold(x, y)
        few = np.bincount(known, minlength=len(self.classes_)).min() if len(known) else 0
        self.map_ = {} if few < LEAST_ROWS else _learn(self.method, known, p)
        return self

    def predict_proba(self, x: np.ndarray) -> np.ndarray:
        """Calibrated probabilities (rows, classes)."""
        return calibration.apply(self.map_, np.asarray(self.model_.predict_proba(x)))

    def predict(self, x: np.ndarray) -> np.ndarray:
        """The most probable class of each row."""
        return self.classes_[self.predict_proba(x).argmax(axis=1)]

    def _fitted(self, x: np.ndarray, y: np.ndarray) -> BaseEstimator:
        one = Pipeline([("model", clone(self.estimator))])
        return boosters.fit(one, x, y)["model"]

    def _out_of_fold(self, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The places of the labels among the classes, and predictions, of all parts but the first;
        a part is left out where those before it lack a class.
        """
        edges = np.linspace(0, len(y), PARTS + 1).astype(int)
        labels, predictions = [], []
        for start, end in pairwise(edges[1:]):
            if len(np.unique(y[:start])) == len(self.classes_):
                labels.append(np.searchsorted(self.classes_, y[start:end]))
                fitted = self._fitted(x[:start], y[:start])
                predictions.append(fitted.predict_proba(x[start:end]))
        if not labels:
            return np.zeros(0, int), np.zeros((0, len(self.classes_)))
        return np.concatenate(labels), np.concatenate(predictions)


class Scaled(RegressorMixin, BaseEstimator):
    """An estimator of numbers with a new level and slope; fitted anew, it has none."""

    def __init__(self, estimator: BaseEstimator | None = None) -> None:
        self.estimator = estimator

    def fit(self, x: np.ndarray, y: np.ndarray) -> "Scaled":
        """Fit the estimator to all rows; the level and slope are those of its predictions."""
        one = Pipeline([("model", clone(self.estimator))])
        self.model_, self.map_ = boosters.fit(one, x, y)["model"], {}
        return self

    def predict(self, x: np.ndarray) -> np.ndarray:
        """Numbers (rows,)."""
        return calibration.apply(self.map_, np.asarray(self.model_.predict(x)))


MAPPED = (Calibrated, Scaled)


def inner(estimator: BaseEstimator) -> BaseEstimator:
    """What predicts before the map: the estimator itself, or that of one of `MAPPED`."""
    if isinstance(estimator, MAPPED):
        return getattr(estimator, "model_", estimator.estimator)
    return estimator


def learned(estimator: BaseEstimator) -> Mapping:
    """The map of a fitted estimator as plain data; {} for none."""
    return estimator.map_ if isinstance(estimator, MAPPED) else {}


def recalibrated(fitted: Pipeline, update: Update) -> Pipeline:
    """The pipeline with a new level (and slope) of its predictions, after any map that it has.

    Fitted anew, it is the recipe that `fitted` was: the update is no part of it.
    """
    *steps, (name, last) = fitted.steps
    model, numbers = inner(last), update.task == "regression"
    level = update.level if numbers else [update.level[k] for k in model.classes_]
    method = "line" if numbers else "sigmoid"
    new = {"method": method, "level": list(level), "slope": update.slope}
    how = last.method if isinstance(last, Calibrated) else "none"
    mapped = Scaled(clone(model)) if numbers else Calibrated(clone(model), how)
    mapped.model_, mapped.map_ = model, calibration.then(learned(last), new)
    if not numbers:
        mapped.classes_ = model.classes_
    return Pipeline([*steps, (name, mapped)])


def _learn(method: str, y: np.ndarray, p: np.ndarray) -> dict:
    if method == "sigmoid":
        task = "binary" if p.shape[1] == 2 else "multiclass"
        update = recalibration.fit(task, "level and slope", y, p)
        return {"method": method, "level": list(update.level), "slope": update.slope}
    lines = []
    for k in [1] if p.shape[1] == 2 else range(p.shape[1]):
        line = IsotonicRegression(y_min=0, y_max=1).fit(p[:, k], y == k)
        lines.append([line.X_thresholds_.tolist(), line.y_thresholds_.tolist()])
    return {"method": method, "lines": lines}
