"""The prediction log as a table: features, predictions, labels, and when each label arrived."""

import json
from collections.abc import Iterable
from dataclasses import replace

import numpy as np
import pandas as pd
import pyarrow as pa

from modelkeep.core.errors import ModelkeepError
from modelkeep.data import time_axis
from modelkeep.data.columns import Fault, as_text
from modelkeep.data.schema import Cleaned, Schema, clean

ANSWERED_BY, LABELLED_AT = "answered_by", "labelled_at"
DAY = np.timedelta64(1, "D")
OTHER_CLASSES = "prediction: is of a model with other classes"
READ = ("id", "at", "model", "role", "entity", "time", "features", "answer", "label", "labelled_at")


class LogError(ModelkeepError, ValueError):
    """Rows that a prediction log cannot hold."""


def prediction_columns(schema: Schema) -> list[str]:
    """The names of a prediction's columns: one probability a class, or the predicted number."""
    names = (
        ["prediction"] if schema.task == "regression" else [f"p({name})" for name in schema.classes]
    )
    own = {schema.id, schema.time, schema.entity, schema.label, *(c.name for c in schema.columns)}
    taken = own & {*names, ANSWERED_BY, LABELLED_AT}
    if taken:
        raise LogError(
            f"column {min(taken)!r} has a name that the prediction log needs; rename it in the "
            "table, or name it in `drop` of params/prepare.yaml"
        )
    return names


def predictions(rows: pd.DataFrame, schema: Schema) -> np.ndarray:
    """The predictions, as probabilities (rows, classes) or numbers (rows,)."""
    values = rows[prediction_columns(schema)].to_numpy(dtype="float64")
    return values.ravel() if schema.task == "regression" else values


def with_predictions(rows: pd.DataFrame, schema: Schema, predictions: np.ndarray) -> pd.DataFrame:
    """The rows with the predictions of a model."""
    columns = predictions.T if predictions.ndim == 2 else [predictions]
    return rows.assign(**dict(zip(prediction_columns(schema), columns, strict=True)))


def replay(
    rows: pd.DataFrame,
    schema: Schema,
    predictions: np.ndarray,
    *,
    model: str,
    as_of: np.datetime64 | None,
    delay_days: float,
    wait_days: float,
    lost: float,
    seed: int,
) -> pd.DataFrame:
    """The log that serving `rows` would have left at `as_of`.

    Each label arrives `delay_days` plus an exponential wait of `wait_days` after its row; a share
    `lost` never does.
    """
    log = with_predictions(rows, schema, predictions).assign(**{ANSWERED_BY: model})
    random = np.random.default_rng(seed)
    wait, gone = random.exponential(wait_days, len(log)), random.random(len(log)) < lost
    gone |= log[schema.label].isna().to_numpy()
    if schema.time is None:
        log[LABELLED_AT] = pd.Series(pd.NaT, index=log.index, dtype="datetime64[us]")
    else:
        days = pd.to_timedelta(delay_days + wait, unit="D")
        arrives = (log[schema.time] + days).astype("datetime64[us]")
        gone |= (arrives > as_of).to_numpy()
        log[LABELLED_AT] = arrives.mask(gone)
    log[schema.label] = log[schema.label].mask(gone)
    return log


def logged(batches: Iterable[pa.RecordBatch], schema: Schema, model: str = "") -> Cleaned:
    """The batches of a log (see `log.PredictionLog.read`) as the table that `replay` makes, and the
    quarantined rows.

    `model`: only its predictions. A row is quarantined when its features, time or label do not fit
    `schema`, or when its prediction has other classes: rows read = rows + quarantine.
    """
    parts = [batch.to_pandas() for batch in batches]
    nothing = pd.DataFrame({name: [] for name in READ}, dtype=object)
    log = pd.concat(parts, ignore_index=True) if parts else nothing
    log = log[log["model"] == model].reset_index(drop=True) if model else log
    names, values = prediction_columns(schema), _json(log["answer"])
    fits = {1, 3} if schema.task == "regression" else {len(names)}  # 3: with an interval
    alike = np.array([len(each) in fits for each in values], dtype=bool)
    cleaned = clean(_raw(log, schema), _with_log_axis(schema, log["at"]), unique=False, also=[
        Fault(OTHER_CLASSES, pd.Series(OTHER_CLASSES, np.flatnonzero(~alike), dtype="str"))
    ])  # fmt: skip
    kept = cleaned.rows.index
    given = [values[i][: len(names)] for i in kept]
    given = np.array(given, dtype="float64").reshape(len(kept), len(names))
    table = with_predictions(cleaned.rows, schema, given)
    table[ANSWERED_BY] = log["model"][kept].astype("str")
    arrived = log["labelled_at"][kept].astype("datetime64[us]")
    table[LABELLED_AT] = arrived.where(table[schema.label].notna())
    order = [name for name in table if name != schema.label]
    order.insert(order.index(names[0]), schema.label)
    table = table[order]
    if schema.time:
        table = table.sort_values(schema.time, kind="stable")
    return Cleaned(table.reset_index(drop=True), cleaned.quarantine)


def _with_log_axis(schema: Schema, at: pd.Series) -> Schema:
    if not schema.time:
        return schema
    ends = (at.min(), at.max()) if len(at) else (time_axis.EARLIEST,) * 2
    axis = time_axis.of_log(schema.axis, *(np.datetime64(each, "us") for each in ends))
    return replace(schema, axis=tuple(map(str, axis)))


def _raw(log: pd.DataFrame, schema: Schema) -> pd.DataFrame:
    """Rows as they were predicted: id, time, entity, features and label, not yet cleaned."""
    table = {schema.id: log["id"].astype("str")}
    if schema.time:  # a row without a time happened when it was predicted
        time, at = (log[name].astype("datetime64[us]") for name in ("time", "at"))
        table[schema.time] = time.fillna(at)
    if schema.entity and schema.entity != schema.id:
        table[schema.entity] = as_text(log["entity"])
    features = _json(log["features"])
    for column in schema.columns:
        values = [row.get(column.name) for row in features]
        table[column.name] = pd.Series(values, log.index, dtype=object)
    return pd.DataFrame({**table, schema.label: as_text(log["label"])}, index=log.index)


def _json(texts: pd.Series) -> list:
    return json.loads(b"[" + b",".join(texts) + b"]")


def delays(log: pd.DataFrame, schema: Schema) -> np.ndarray:
    """Days from row to label, of the labels that have come."""
    if schema.time is None:
        return np.zeros(0)
    wait = (log[LABELLED_AT] - log[schema.time]).dropna()
    return np.sort(wait.to_numpy() / DAY)
