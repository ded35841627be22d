"""Answer rows without pandas or scikit-learn: preprocessing in double in NumPy, then the estimator alone in ONNX.

Why two parts: a whole pipeline in ONNX scales in float32, which sends values to the other side of a tree's split. Preprocessing here is
ColumnTransformer's own, in the same double precision; a tree then gets the ranks of its inputs among its thresholds, which float32 holds.
"""

import os
from collections.abc import Sequence

import numpy as np

MISSING = "missing"  # what the models call a category that is not there
LARGEST = 3.4028234663852886e38  # of float32


class Encoding:
    """The preprocessing of a fitted pipeline, from plain data (`proof.encoding` writes it)."""

    def __init__(self, plan: dict) -> None:
        numbers = [f for f in plan["features"] if "categories" not in f]
        fills = [np.nan if f["fill"] is None else f["fill"] for f in numbers]
        self.fill, self.filled = np.array(fills, np.float64), any(f == f for f in fills)
        self.mean, self.scale = (np.array([f[k] for f in numbers]) for k in ("mean", "scale"))
        self.scaled = bool((self.mean != 0).any() or (self.scale != 1).any())
        self.categories = [f for f in plan["features"] if "categories" in f]
        self.places = [_places(f["categories"]) for f in self.categories]
        self.one_hot = any(f["one_hot"] for f in self.categories)
        self.cuts = [np.array(each, np.float64) for each in plan["cuts"]]
        self.single = plan["single"]

    def __call__(self, numbers: np.ndarray, categories: Sequence[Sequence]) -> np.ndarray:
        """The estimator's matrix in double; `numbers` is (rows, columns) with NaN for missing, `categories` a sequence a column with None for missing."""
        if self.filled:
            numbers = np.where(np.isnan(numbers), self.fill, numbers)
        if self.scaled:
            numbers = (numbers - self.mean) / self.scale
        if not self.categories:
            return numbers
        codes = np.empty((len(numbers), len(self.places)))
        for i, (place, values) in enumerate(zip(self.places, categories, strict=True)):
            codes[:, i] = [place.get(value, -1) for value in values]
        parts = self._one_hot(codes) if self.one_hot else [codes]
        return np.concatenate([numbers, *parts], axis=1)

    def ranks(self, x: np.ndarray) -> np.ndarray:
        """The matrix in float32 as the ONNX model reads it: by rank among a tree's thresholds, which loses nothing; else the numbers themselves."""
        if not self.cuts:  # a number beyond float32 is as good as its largest
            return np.clip(x, -LARGEST, LARGEST).astype(np.float32)
        if self.single:
            x = np.clip(x, -LARGEST, LARGEST).astype(np.float32)
        found = np.empty(x.shape, np.float32)
        for i, cuts in enumerate(self.cuts):
            found[:, i] = cuts.searchsorted(x[:, i])
        found[np.isnan(x)] = np.nan
        return found

    def _one_hot(self, codes: np.ndarray) -> list[np.ndarray]:
        wide = [len(f["categories"]) for f in self.categories]
        return [codes[:, [i]] == np.arange(n) for i, n in enumerate(wide)]


class Onnx:
    """A loaded ONNX estimator behind its preprocessing."""

    def __init__(self, plan: dict, model: bytes, threads: int = 1) -> None:
        # from 1.29 on it sends what it runs to its maker, and keeps an id in the user's home
        os.environ["ORT_DISABLE_TELEMETRY"] = "1"
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = threads
        options.log_severity_level = 3
        self.session = onnxruntime.InferenceSession(
            model, options, providers=["CPUExecutionProvider"]
        )
        self.output = [self.session.get_outputs()[-1].name]
        self.regression, self.encoding = plan["task"] == "regression", Encoding(plan)

    def predict(self, numbers: np.ndarray, categories: Sequence[Sequence]) -> np.ndarray:
        """Probabilities (rows, classes), or predicted numbers (rows,); arguments as `Encoding` takes them."""
        x = self.encoding.ranks(self.encoding(numbers, categories))
        answer = self.session.run(self.output, {"x": x})[0].astype(np.float64)
        return answer.ravel() if self.regression else answer


def _places(categories: Sequence[str]) -> dict[str | None, int]:
    places = {name: i for i, name in enumerate(categories)}
    return places | ({None: places[MISSING]} if MISSING in places else {})
