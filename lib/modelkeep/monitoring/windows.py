"""Windows of a log: how good the model was in each, and what was believed of it before labels came."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import pandas as pd

from modelkeep.data import splits
from modelkeep.data.schema import Schema
from modelkeep.evaluation import guards, metrics
from modelkeep.predictions import frames
from modelkeep.training import pipelines

PAST_WINDOWS = 2  # labelled windows that the estimate is corrected by
PIECES = 10  # into which a window is cut where there are no days


@dataclass(frozen=True)
class Window:
    """Rows of one stretch of time with what is known of their quality; `past` ones were answered in training's own test. `daily` holds realised quality by day: an array (days, 2) of values and rows; `gaps` the label gap and its sampling error by class (`guards.label_gap`)."""

    start: str
    rows: int
    labelled: int
    past: bool
    realised: dict[str, float]
    estimated: dict[str, float] = field(default_factory=dict)
    corrected: dict[str, float] = field(default_factory=dict)
    low: dict[str, float] = field(default_factory=dict)
    high: dict[str, float] = field(default_factory=dict)
    daily: dict[str, np.ndarray] = field(default_factory=dict, compare=False, repr=False)
    gaps: dict[str, tuple[float, float]] = field(default_factory=dict, compare=False, repr=False)

    @property
    def coverage(self) -> float:
        """The share of rows whose label is known."""
        return self.labelled / self.rows if self.rows else np.nan


def cut(rows: pd.DataFrame, of: Schema, days: int, size: int) -> list[tuple[str, pd.DataFrame]]:
    """Whole windows of `days` days counted back from the newest day, or of `size` rows where there is no time, each with its name; windows without a row are left out."""
    if of.time is None:
        first = len(rows) % size
        return [(f"row {i}", rows.iloc[i : i + size]) for i in range(first, len(rows), size)]
    if rows.empty:
        return []
    day = rows[of.time].to_numpy().astype("datetime64[D]")
    back = (day.max() - day).astype(int) // days  # windows between a row's and the newest
    whole = (int((day.max() - day.min()).astype(int)) + 1) // days
    return [
        (str(day.max() + 1 - days * (k + 1)), rows[back == k])
        for k in np.unique(back)[::-1]
        if k < whole
    ]


@dataclass(frozen=True)
class Told:
    """Windows in their order, and what later beliefs are made from: the labelled answers, and by how much beliefs have missed."""

    windows: tuple[Window, ...] = ()
    seen: tuple[tuple[np.ndarray, np.ndarray], ...] = ()
    misses: tuple[dict[str, float], ...] = ()


def quality(of: Schema, past: Sequence, now: Sequence, minimum: int) -> list[Window]:
    """Each window's realised quality and what was believed of it before its labels came; `past` and `now` are as `cut` gives them."""
    return list(follow(follow(Told(), of, past, minimum, True), of, now, minimum).windows)


def follow(told: Told, of: Schema, cut: Sequence, minimum: int, past: bool = False) -> Told:
    """Tell of more windows after those that were told of; who looks each week tells of the old ones once."""
    for start, rows in cut:
        labelled = rows[rows[of.label].notna()]
        p, enough = frames.predictions(rows, of), len(labelled) >= minimum
        real, daily = _realised(of, labelled) if enough else ({}, {})
        estimated, corrected = _beliefs(of, p, told.seen)
        missed = {k: [m[k] for m in told.misses if k in m] for k in corrected}
        low, high = _band(corrected, missed)
        window = Window(start, len(rows), len(labelled), past, real, estimated, corrected)
        gaps = _gaps(of, labelled, told.seen) if enough else {}
        window = replace(window, low=low, high=high, daily=daily, gaps=gaps)
        misses = {k: abs(real[k] - corrected[k]) for k in corrected.keys() & real.keys()}
        misses = {k: miss for k, miss in misses.items() if np.isfinite(miss)}
        seen = (
            [(pipelines.outcome(labelled, of), frames.predictions(labelled, of))] if enough else []
        )
        told = Told((*told.windows, window), (*told.seen, *seen), (*told.misses, misses))
    return told


def _gaps(of: Schema, rows: pd.DataFrame, seen: Sequence) -> dict[str, tuple[float, float]]:
    """How far labels are from predictions; of numbers in standard deviations of past residuals."""
    y, p = pipelines.outcome(rows, of), frames.predictions(rows, of)
    scale = 1.0
    if of.task == "regression":
        residuals = np.concatenate([a - b for a, b in seen or [(y, p)]])
        scale = max(float(np.std(residuals)), np.finfo(float).tiny)
    names = [of.label]
    if of.task != "regression":
        names = [f"{of.label} = {c}" for c in of.classes[of.task == "binary" :]]
    gap, error = guards.label_gap(of.task, y, p, scale)
    return dict(zip(names, zip(gap.tolist(), error.tolist(), strict=True), strict=True))


def _realised(of: Schema, rows: pd.DataFrame) -> tuple[dict, dict]:
    """Each metric and the bias in all, and by day."""
    y, p = pipelines.outcome(rows, of), frames.predictions(rows, of)
    values = metrics.per_row(of.task, y, p)
    if of.task != "multiclass":
        values["bias"] = p - y if of.task == "regression" else p[:, 1] - y
    days = splits.blocks(rows, of) if of.time else np.arange(len(rows)) * PIECES // len(rows)
    _, day = np.unique(days, return_inverse=True)
    n = np.bincount(day)
    daily = {k: np.column_stack([np.bincount(day, v) / n, n]) for k, v in values.items()}
    if "auc" in daily:  # no mean of rows: each day has an AUC of its own, or none and no weight
        areas = np.array([metrics.auc(y[day == d], p[day == d]) for d in range(len(n))])
        daily["auc"] = np.column_stack([np.nan_to_num(areas), n * np.isfinite(areas)])
    return {k: float(np.mean(v)) for k, v in values.items()}, daily


def _beliefs(of: Schema, p: np.ndarray, seen: Sequence) -> tuple[dict, dict]:
    """Quality believed without this window's labels: as the model says, and corrected by the newest labelled windows."""
    newest = seen[-PAST_WINDOWS:]
    past_y = np.concatenate([y for y, _ in newest]) if newest else None
    past_p = np.concatenate([q for _, q in newest]) if newest else None
    if of.task == "regression":
        if not newest:
            return {}, {}
        first = metrics.expected_errors(p, *map(np.concatenate, zip(*seen, strict=True)))
        return first, metrics.expected_errors(p, past_y, past_p)
    estimated = metrics.expected(of.task, p)
    if not newest:
        return estimated, {}
    return estimated, metrics.expected(of.task, p, metrics.recalibrated(p, past_y, past_p))


def _band(
    corrected: dict[str, float], misses: dict[str, list], cover: float = 0.9
) -> tuple[dict, dict]:
    """An interval from the estimate's own past misses: their conformal quantile, unknown while they are too few for it."""
    low, high = {}, {}
    for name, value in corrected.items():
        past = np.sort(misses.get(name, []))
        place = int(np.ceil((len(past) + 1) * cover))
        half = past[place - 1] if place <= len(past) else np.nan
        low[name] = max(value - half, 0.0)
        high[name] = min(value + half, 1.0) if name == "auc" else value + half
    return low, high
