"""Windows of a log: realised quality of each, and quality estimated before labels come."""

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
PIECES = 10  # parts of a window where there are no days


@dataclass(frozen=True)
class Window:
    """Rows of some days and their quality.

    `past`: predicted by cross-validation, before the model served. `daily`: realised quality by
    day, an array (days, 2) of values and rows. `gaps`: the label gap and its sampling error by
    class (`guards.label_gap`).
    """

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


def cut(rows: pd.DataFrame, schema: Schema, days: int, size: int) -> list[tuple[str, pd.DataFrame]]:
    """Windows of `days` whole days, counted back from the newest day, each with its name.

    A table without time has windows of `size` rows. Windows without a row are left out.
    """
    if schema.time is None:
        first = len(rows) % size
        return [(f"row {i}", rows.iloc[i : i + size]) for i in range(first, len(rows), size)]
    if rows.empty:
        return []
    day = rows[schema.time].to_numpy().astype("datetime64[D]")
    back = (day.max() - day).astype(int) // days  # windows between a row's and the newest
    whole = (int((day.max() - day.min()).astype(int)) + 1) // days
    return [
        (str(day.max() + 1 - days * (k + 1)), rows[back == k])
        for k in np.unique(back)[::-1]
        if k < whole
    ]


@dataclass(frozen=True)
class WindowSeries:
    """Windows in order, with what later estimates need.

    `labelled`: outcomes and predictions of labelled rows by window. `errors`: absolute errors of
    past estimates.
    """

    windows: tuple[Window, ...] = ()
    labelled: tuple[tuple[np.ndarray, np.ndarray], ...] = ()
    errors: tuple[dict[str, float], ...] = ()


def quality(schema: Schema, past: Sequence, now: Sequence, minimum: int) -> list[Window]:
    """Realised and estimated quality of each window; `past` and `now` are windows from `cut`."""
    return list(
        extend(extend(WindowSeries(), schema, past, minimum, True), schema, now, minimum).windows
    )


def extend(
    series: WindowSeries, schema: Schema, cut: Sequence, minimum: int, past: bool = False
) -> WindowSeries:
    """The series with more windows behind it; a weekly caller passes each window once."""
    for start, rows in cut:
        labelled = rows[rows[schema.label].notna()]
        p, enough = frames.predictions(rows, schema), len(labelled) >= minimum
        real, daily = _realised(schema, labelled) if enough else ({}, {})
        estimated, corrected = _estimates(schema, p, series.labelled)
        past_errors = {k: [m[k] for m in series.errors if k in m] for k in corrected}
        low, high = usual_band(corrected, past_errors)
        window = Window(start, len(rows), len(labelled), past, real, estimated, corrected)
        gaps = _gaps(schema, labelled, series.labelled) if enough else {}
        window = replace(window, low=low, high=high, daily=daily, gaps=gaps)
        errors = {k: abs(real[k] - corrected[k]) for k in corrected.keys() & real.keys()}
        errors = {k: e for k, e in errors.items() if np.isfinite(e)}
        pair = (pipelines.outcome(labelled, schema), frames.predictions(labelled, schema))
        new = [pair] if enough else []
        series = WindowSeries(
            (*series.windows, window), (*series.labelled, *new), (*series.errors, errors)
        )
    return series


def _gaps(schema: Schema, rows: pd.DataFrame, labelled: Sequence) -> dict[str, tuple[float, float]]:
    """How far labels are from predictions; of numbers in standard deviations of past residuals."""
    y, p = pipelines.outcome(rows, schema), frames.predictions(rows, schema)
    scale = 1.0
    if schema.task == "regression":
        residuals = np.concatenate([a - b for a, b in labelled or [(y, p)]])
        scale = max(float(np.std(residuals)), np.finfo(float).tiny)
    names = [schema.label]
    if schema.task != "regression":
        names = [f"{schema.label} = {c}" for c in schema.classes[schema.task == "binary" :]]
    gap, error = guards.label_gap(schema.task, y, p, scale)
    return dict(zip(names, zip(gap.tolist(), error.tolist(), strict=True), strict=True))


def _realised(schema: Schema, rows: pd.DataFrame) -> tuple[dict, dict]:
    """Each metric and the bias in all, and by day."""
    y, p = pipelines.outcome(rows, schema), frames.predictions(rows, schema)
    values = metrics.per_row(schema.task, y, p)
    if schema.task != "multiclass":
        values["bias"] = p - y if schema.task == "regression" else p[:, 1] - y
    days = (
        splits.blocks(rows, schema) if schema.time else np.arange(len(rows)) * PIECES // len(rows)
    )
    _, day = np.unique(days, return_inverse=True)
    n = np.bincount(day)
    daily = {k: np.column_stack([np.bincount(day, v) / n, n]) for k, v in values.items()}
    if "auc" in daily:  # no mean of rows: each day has an AUC of its own, or none and no weight
        areas = np.array([metrics.auc(y[day == d], p[day == d]) for d in range(len(n))])
        daily["auc"] = np.column_stack([np.nan_to_num(areas), n * np.isfinite(areas)])
    return {k: float(np.mean(v)) for k, v in values.items()}, daily


def _estimates(schema: Schema, p: np.ndarray, labelled: Sequence) -> tuple[dict, dict]:
    """Quality estimated without this window's labels: from the probabilities, and recalibrated.

    Recalibration uses the newest labelled windows.
    """
    newest = labelled[-PAST_WINDOWS:]
    past_y = np.concatenate([y for y, _ in newest]) if newest else None
    past_p = np.concatenate([q for _, q in newest]) if newest else None
    if schema.task == "regression":
        if not newest:
            return {}, {}
        first = metrics.expected_errors(p, *map(np.concatenate, zip(*labelled, strict=True)))
        return first, metrics.expected_errors(p, past_y, past_p)
    estimated = metrics.expected(schema.task, p)
    if not newest:
        return estimated, {}
    return estimated, metrics.expected(schema.task, p, metrics.recalibrated(p, past_y, past_p))


def usual_band(
    corrected: dict[str, float], errors: dict[str, list], cover: float = 0.9
) -> tuple[dict, dict]:
    """An interval by the conformal quantile of past estimates' errors; NaN while they are too
    few.
    """
    low, high = {}, {}
    for name, value in corrected.items():
        past = np.sort(errors.get(name, []))
        place = int(np.ceil((len(past) + 1) * cover))
        half = past[place - 1] if place <= len(past) else np.nan
        low[name] = max(value - half, 0.0)
        high[name] = min(value + half, 1.0) if name == "auc" else value + half
    return low, high
