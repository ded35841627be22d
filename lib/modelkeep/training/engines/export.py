"""Which engine may answer: the fastest that proves itself equal to the pipeline on data.

Converters are silently wrong for some estimators (random forest with NaN kept, boosting with native
categories), so none is believed.
"""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import msgspec
import numpy as np
import pandas as pd
from sklearn.pipeline import Pipeline

from modelkeep.data.schema import Schema
from modelkeep.training import boosters, calibration, manifests, pipelines
from modelkeep.training.engines import trees
from modelkeep.training.engines.encoding import Encoding, cuts
from modelkeep.training.engines.onnx import ALONE
from modelkeep.training.engines.quickscorer import QuickScorerError
from modelkeep.training.engines.trees import TreesError

TOLERANCE = 1e-5
OPSET = {"": 18, "ai.onnx.ml": 3}


class Engine(Protocol):
    """What predicts rows; arguments as `encoding.Encoding` takes them."""

    def predict(self, numbers: np.ndarray, categories: Sequence[Sequence]) -> np.ndarray:
        """Probabilities (rows, classes), or predicted numbers (rows,)."""


@dataclass(frozen=True)
class Proof:
    """The engine to serve, its largest difference from the pipeline, and why faster ones were
    refused.
    """

    engine: str
    largest_difference: float
    rows: int
    reason: str


class Estimator:
    """scikit-learn's own estimator behind our preprocessing."""

    def __init__(self, plan: dict, fitted: Pipeline, schema: Schema) -> None:
        self.encoding, self.model, self.of = Encoding(plan), fitted["model"], schema

    def predict(self, numbers: np.ndarray, categories: Sequence[Sequence]) -> np.ndarray:
        """As the pipeline without its ColumnTransformer, which takes most of the time of a single
        row.
        """
        return pipelines.answer(self.model, self.encoding(numbers, categories), self.of)


class Whole:
    """The whole pipeline, for an estimator that reads more than a matrix of numbers."""

    def __init__(self, plan: dict, fitted: Pipeline, schema: Schema) -> None:
        self.fitted, self.of = fitted, schema

    def predict(self, numbers: np.ndarray, categories: Sequence[Sequence]) -> np.ndarray:
        """As `models.predict`."""
        kinds = {kind: [c.name for c in self.of.columns if c.kind == kind] for kind in KINDS}
        frame = pd.DataFrame(numbers, columns=kinds["number"])
        for name, values in zip(kinds["category"], categories, strict=True):
            frame[name] = pd.Series([*values], frame.index, dtype=object)
        return pipelines.predict(self.fitted, frame, self.of)


KINDS = ("number", "category")


def load(name: str, plan: dict, model: bytes, fitted: Pipeline | None, schema: Schema) -> Engine:
    """The engine of that name; `model` is its own file, and `fitted` may be None for those that
    have one.
    """
    if name in ALONE:
        return ALONE[name](plan, model)
    return {"estimator": Estimator, "scikit-learn": Whole}[name](plan, fitted, schema)


def choose(fitted: Pipeline, schema: Schema, examples: pd.DataFrame) -> tuple[Proof, dict, bytes]:
    """The first of `ENGINES` whose predictions of `examples` equal the pipeline's.

    With the plan of its preprocessing and its model file (empty for the pipeline itself).
    """
    rows, expected = arrays(examples, schema), pipelines.predict(fitted, examples, schema)
    plan, why, names = {}, [], [*manifests.ENGINES]
    if [*fitted.named_steps] != ["columns", "model"]:
        names, why = ["scikit-learn"], ["faster engines: they know pipelines of columns and model"]
    for name in names:
        try:
            # what is proven is what will be read from a file, where infinity is null
            plan = plan or (_reread(encoding(fitted, schema)) if name != "scikit-learn" else {})
            model = _converted(name, fitted, plan, rows)
            worst, wrong = prove(load(name, plan, model, fitted, schema), rows, expected)
        except (TreesError, QuickScorerError) as error:
            worst, wrong = np.inf, str(error)
        except Exception as error:  # a converter, or a strange step, may fail in its own way
            message = " ".join(str(error).split())  # some print the whole model
            worst, wrong = np.inf, f"{type(error).__name__}: {message[:200]}"
        if not wrong:
            break
        why.append(f"{name}: {wrong}")
    return Proof(name, worst, len(examples), "; ".join(why)), plan, model


def _reread(plan: dict) -> dict:
    return msgspec.json.decode(msgspec.json.encode(plan))


def _converted(name: str, fitted: Pipeline, plan: dict, rows: tuple) -> bytes:
    if name == "quickscorer":
        return trees.plain(calibration.inner(fitted["model"]), plan)
    if name == "onnx":
        if library := boosters.kind_of(calibration.inner(fitted["model"])):
            raise TreesError(f"its converter does not know {library}")
        return to_onnx(fitted, Encoding(plan)(*rows).shape[1], cuts(plan))
    return b""


def arrays(rows: pd.DataFrame, schema: Schema) -> tuple[np.ndarray, list[np.ndarray]]:
    """The features of rows as `encoding.Encoding` takes them."""
    frame = pipelines.features(rows, schema)
    names = {kind: [c.name for c in schema.columns if c.kind == kind] for kind in KINDS}
    numbers = frame[names["number"]].to_numpy(np.float64).reshape(len(frame), -1)
    missing = frame[names["category"]].isna()
    texts = frame[names["category"]].astype(object).mask(missing, None)
    return numbers, [texts[name].to_numpy() for name in texts]


def encoding(fitted: Pipeline, schema: Schema) -> dict:
    """The fitted preprocessing as plain data: per feature how it becomes columns of the estimator's
    matrix, in order.
    """
    steps = {name: (step, names) for name, step, names in fitted["columns"].transformers_}
    plan = []
    step, names = steps.get("numbers", (None, []))
    fill = getattr(step, "named_steps", {}).get("fill")
    scale = getattr(step, "named_steps", {}).get("scale")
    for i, name in enumerate(names):
        plan.append(
            {
                "name": name,
                "fill": None if fill is None else float(fill.statistics_[i]),
                "mean": 0.0 if scale is None else float(scale.mean_[i]),
                "scale": 1.0 if scale is None else float(scale.scale_[i]),
            }
        )
    step, names = steps.get("categories", (None, []))
    one_hot = hasattr(step, "named_steps") and hasattr(step["encode"], "drop_idx_")
    for i, name in enumerate(names):
        known = [str(c) for c in step["encode"].categories_[i]]
        native = {} if one_hot or step["encode"].unknown_value == -1 else {"native": True}
        plan.append({"name": name, "categories": known, "one_hot": one_hot, **native})
    found = {"features": plan, "classes": list(schema.classes), "task": schema.task}
    model, mapping = calibration.inner(fitted["model"]), calibration.learned(fitted["model"])
    found |= {"calibration": dict(mapping)} if mapping else {}
    ranks = trees.cuts(model, getattr(model, "n_features_in_", 0))
    return found | {"cuts": ranks, "single": bool(ranks) and trees.single(model)}


def to_onnx(fitted: Pipeline, width: int, cuts: Sequence[Sequence[float]]) -> bytes:
    """The fitted estimator alone as ONNX, with one float32 input `x` (rows, width).

    With `cuts` it splits at their ranks. The same estimator gives the same bytes.
    """
    from skl2onnx import to_onnx as convert
    from skl2onnx.common.data_types import FloatTensorType

    estimator = trees.ranked(calibration.inner(fitted["model"]), cuts)
    options = {"zipmap": False} if hasattr(estimator, "classes_") else None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # between skl2onnx and onnx
        model = convert(
            estimator,
            name="model",
            initial_types=[("x", FloatTensorType([None, width]))],
            options={id(estimator): options} if options else None,
            target_opset=OPSET,
        )
    return model.SerializeToString(deterministic=True)


def prove(engine: Engine, rows: tuple, expected: np.ndarray) -> tuple[float, str]:
    """The largest difference from `expected`, and why the engine is refused ("": within TOLERANCE).

    Numbers: relative to the row's own value, at least to the median.
    """
    answer = engine.predict(*rows)
    if answer.shape != expected.shape:
        given, wanted = (a.shape[1] if a.ndim > 1 else 1 for a in (answer, expected))
        return np.inf, f"it gives {given} values a row, and the pipeline {wanted}"
    apart = np.abs(answer - expected)
    if expected.ndim == 1:
        size = np.abs(expected)
        apart = apart / np.maximum(size, float(np.median(size)) or 1.0)
    by_row = apart.reshape(len(expected), -1).max(axis=1)
    row = int(np.argmax(by_row))
    worst = float(by_row[row])
    why = f"row {row} differs by {worst:.2g}, more than {TOLERANCE:g}"
    return worst, "" if worst <= TOLERANCE else why
