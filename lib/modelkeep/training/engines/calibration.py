"""The map from a model's probabilities to calibrated ones, from plain data."""

from collections.abc import Mapping

import numpy as np

TINY = 1e-6  # smaller probabilities have no useful logarithm


def apply(mapping: Mapping, p: np.ndarray) -> np.ndarray:
    """Calibrated probabilities (rows, classes); as they are where there is no map.

    `{"method": "sigmoid", "level": [...], "slope": number}`: softmax(level + slope * log p).
    `{"method": "isotonic", "lines": [[x, y], ...]}`: a line a class (of two classes, of the
    second), scaled to add up to 1.
    """
    if not mapping:
        return p
    if mapping["method"] == "sigmoid":
        scores = np.array(mapping["level"]) + mapping["slope"] * np.log(np.clip(p, TINY, 1))
        parts = np.exp(scores - scores.max(axis=1, keepdims=True))
        return parts / parts.sum(axis=1, keepdims=True)
    if p.shape[1] == 2:
        ((x, y),) = mapping["lines"]
        second = np.interp(p[:, 1], x, y)
        return np.column_stack([1 - second, second])
    lines = zip(mapping["lines"], p.T, strict=True)
    found = np.column_stack([np.interp(each, x, y) for (x, y), each in lines])
    total = found.sum(axis=1, keepdims=True)
    return np.where(total > 0, found / np.where(total > 0, total, 1), p)
