"""The map from a model's predictions to calibrated ones, from plain data."""

from collections.abc import Mapping

import numpy as np

TINY = 1e-6  # smaller probabilities have no useful logarithm


def apply(mapping: Mapping, p: np.ndarray) -> np.ndarray:
    """Calibrated probabilities (rows, classes) or numbers (rows,); as they are without a map.

    `{"method": "sigmoid", "level": [...], "slope": number}`: softmax(level + slope * log p).
    `{"method": "isotonic", "lines": [[x, y], ...]}`: a line a class (of two classes, of the
    second), scaled to add up to 1. `{"method": "line", "level": [a], "slope": b}`: a + b p, of
    numbers. `"after"` holds the map that is applied before.
    """
    if not mapping:
        return p
    p = apply(mapping.get("after", {}), p)
    if mapping["method"] == "line":
        return mapping["level"][0] + mapping["slope"] * p
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


def then(first: Mapping, second: Mapping) -> dict:
    """One map that does `first` and then `second`, which is `sigmoid` or `line`."""
    if not first:
        return dict(second)
    if first["method"] == "isotonic":
        return {**second, "after": dict(first)}
    # log p of a first map is level + slope * log p, less what all classes have in common
    levels = zip(first["level"], second["level"], strict=True)
    joined = [second["slope"] * a + b for a, b in levels]
    return {**first, "level": joined, "slope": second["slope"] * first["slope"]}
