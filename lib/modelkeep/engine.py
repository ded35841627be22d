"""Answer rows without pandas: preprocessing in double in NumPy, the estimator alone in ONNX, taken only where it proves equal.

Why two parts: a whole pipeline in ONNX scales in float32, which sends values to the other side of a tree's split. Preprocessing here is
ColumnTransformer's own, in the same double precision; only the estimator's input is cast.
"""

import os
import warnings
from collections.abc import Mapping, Sequence

import numpy as np
from sklearn.pipeline import Pipeline

from modelkeep.models import MISSING
from modelkeep.schema import Schema

TOLERANCE = 1e-5
OPSET = {"": 18, "ai.onnx.ml": 3}


def encoding(fitted: Pipeline, schema: Schema) -> dict:
    """The fitted preprocessing as plain data: per feature how it becomes columns of the estimator's matrix, in order."""
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
        plan.append({"name": name, "categories": known, "one_hot": one_hot})
    return {"features": plan, "classes": list(schema.classes), "task": schema.task}


def encode(plan: dict, columns: Mapping[str, Sequence]) -> np.ndarray:
    """The estimator's matrix (rows, width) in double; numbers are floats with NaN for missing, categories text with None for missing."""
    parts = []
    for feature in plan["features"]:
        values = columns[feature["name"]]
        if "categories" not in feature:
            x = np.asarray(values, dtype=np.float64)
            if feature["fill"] is not None:
                x = np.where(np.isnan(x), feature["fill"], x)
            parts.append(((x - feature["mean"]) / feature["scale"])[:, None])
            continue
        place = {c: i for i, c in enumerate(feature["categories"])}
        codes = np.array([place.get(MISSING if _absent(v) else v, -1) for v in values], dtype=int)
        parts.append(_one_hot(codes, len(place)) if feature["one_hot"] else codes[:, None])
    return np.hstack(parts).astype(np.float64)


def _absent(value: object) -> bool:
    return value is None or value != value  # NaN is not equal to itself


def _one_hot(codes: np.ndarray, width: int) -> np.ndarray:
    return (codes[:, None] == np.arange(width)).astype(np.float64)


def to_onnx(fitted: Pipeline, width: int) -> bytes:
    """The fitted estimator alone as ONNX with one float32 input `x` (rows, width); the same estimator gives the same bytes."""
    from skl2onnx import to_onnx as convert
    from skl2onnx.common.data_types import FloatTensorType

    estimator = fitted["model"]
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


class Engine:
    """A loaded ONNX estimator behind its preprocessing."""

    def __init__(self, plan: dict, model: bytes, threads: int = 1) -> None:
        # from 1.29 on it sends what it runs to its maker, and keeps an id in the user's home
        os.environ["ORT_DISABLE_TELEMETRY"] = "1"
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = threads
        options.log_severity_level = 3
        self.plan = plan
        self.session = onnxruntime.InferenceSession(
            model, options, providers=["CPUExecutionProvider"]
        )
        self.output = self.session.get_outputs()[-1].name

    def predict(self, columns: Mapping[str, Sequence]) -> np.ndarray:
        """Probabilities (rows, classes), or predicted numbers (rows,)."""
        with np.errstate(over="ignore"):  # a number beyond float32 is as good as infinite
            x = encode(self.plan, columns).astype(np.float32)
        answer = self.session.run([self.output], {"x": x})[0].astype(np.float64)
        return answer.ravel() if self.plan["task"] == "regression" else answer


def prove(
    plan: dict, model: bytes, columns: Mapping[str, Sequence], expected: np.ndarray
) -> tuple[float, str]:
    """The largest difference from `expected` on these rows, and why the engine is refused ("" if it is equal to TOLERANCE; for numbers relative to the row's own, at least the median's)."""
    answer = Engine(plan, model).predict(columns)
    if answer.shape != expected.shape:
        given, wanted = (a.shape[1] if a.ndim > 1 else 1 for a in (answer, expected))
        return np.inf, f"it gives {given} values a row, and the pipeline {wanted}"
    apart = np.abs(answer - expected)
    if plan["task"] == "regression":
        size = np.abs(expected)
        apart = apart / np.maximum(size, float(np.median(size)) or 1.0)
    by_row = apart.reshape(len(expected), -1).max(axis=1)
    row = int(np.argmax(by_row))
    worst = float(by_row[row])
    why = f"row {row} differs by {worst:.2g}, more than {TOLERANCE:g}"
    return worst, "" if worst <= TOLERANCE else why
