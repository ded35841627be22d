"""The prediction log as a table: what was asked, what the model said, what came true and when that was known."""

import json
from collections.abc import Iterable

import numpy as np
import pandas as pd
import pyarrow as pa

from modelkeep.core.errors import ModelkeepError
from modelkeep.data.columns import as_numbers, as_text
from modelkeep.data.schema import Schema

ANSWERED_BY, LABELLED_AT = "answered_by", "labelled_at"
DAY = np.timedelta64(1, "D")
READ = ("id", "at", "model", "role", "entity", "time", "features", "answer", "label", "labelled_at")


class LogError(ModelkeepError, ValueError):
    """Rows that a prediction log cannot hold."""


def answer_columns(of: Schema) -> list[str]:
    """The names of the columns that hold an answer: one probability a class, or the predicted number."""
    names = ["prediction"] if of.task == "regression" else [f"p({name})" for name in of.classes]
    own = {of.id, of.time, of.entity, of.label, *(c.name for c in of.columns)}
    taken = own & {*names, ANSWERED_BY, LABELLED_AT}
    if taken:
        raise LogError(
            f"column {min(taken)!r} has a name that the prediction log needs; rename it in the table, "
            "or leave it out by `features` in params/prepare.yaml"
        )
    return names


def answers(rows: pd.DataFrame, of: Schema) -> np.ndarray:
    """What the model said, as probabilities (rows, classes) or numbers (rows,)."""
    values = rows[answer_columns(of)].to_numpy(dtype="float64")
    return values.ravel() if of.task == "regression" else values


def answered(rows: pd.DataFrame, of: Schema, said: np.ndarray) -> pd.DataFrame:
    """The rows with what a model said of them."""
    return rows.assign(
        **dict(zip(answer_columns(of), said.T if said.ndim == 2 else [said], strict=True))
    )


def replay(
    rows: pd.DataFrame,
    of: Schema,
    said: np.ndarray,
    *,
    model: str,
    as_of: np.datetime64 | None,
    delay_days: float,
    wait_days: float,
    lost: float,
    seed: int,
) -> pd.DataFrame:
    """The log that serving `rows` would have left at `as_of`: each label arrives `delay_days` plus an exponential wait after its row, a share `lost` never does."""
    log = answered(rows, of, said).assign(**{ANSWERED_BY: model})
    random = np.random.default_rng(seed)
    wait, gone = random.exponential(wait_days, len(log)), random.random(len(log)) < lost
    gone |= log[of.label].isna().to_numpy()
    if of.time is None:
        log[LABELLED_AT] = pd.Series(pd.NaT, index=log.index, dtype="datetime64[us]")
    else:
        days = pd.to_timedelta(delay_days + wait, unit="D")
        arrives = (log[of.time] + days).astype("datetime64[us]")
        gone |= (arrives > as_of).to_numpy()
        log[LABELLED_AT] = arrives.mask(gone)
    log[of.label] = log[of.label].mask(gone)
    return log


def logged(batches: Iterable[pa.RecordBatch], of: Schema) -> tuple[pd.DataFrame, list[str]]:
    """The batches of a log (see `log.Log.read`) as the table that `replay` makes, and what of them does not fit this schema."""
    parts = [batch.to_pandas() for batch in batches]
    nothing = pd.DataFrame({name: [] for name in READ}, dtype=object)
    said = pd.concat(parts, ignore_index=True) if parts else nothing
    values, names = _json(said["answer"]), answer_columns(of)
    fits = np.array([len(each) == len(names) for each in values], dtype=bool)
    notes = _note((~fits).sum(), "answers of a model with other classes were left out")
    said, values = said[fits], [each for each, fit in zip(values, fits, strict=True) if fit]
    table = pd.DataFrame(_asked(said, of), index=said.index)
    label = as_text(said["label"])
    if of.classes:
        known = label.isin(of.classes)
        notes += _note((label.notna() & ~known).sum(), "labels are of no class of this model")
        label = label.where(known)
    table[of.label] = label if of.classes else as_numbers(said["label"])[0]
    answers_given = np.array(values, dtype="float64").reshape(len(values), len(names))
    table = answered(table, of, answers_given)
    table[ANSWERED_BY] = said["model"].astype("str")
    table[LABELLED_AT] = said["labelled_at"].astype("datetime64[us]").where(label.notna())
    if of.time:
        table = table.sort_values(of.time, kind="stable")
    return table.reset_index(drop=True), notes


def _asked(said: pd.DataFrame, of: Schema) -> dict[str, object]:
    """What the rows were: id, time, entity and features."""
    table = {of.id: said["id"].astype("str")}
    if of.time:  # a row that says nothing of its time happened when it was answered
        time, at = (said[name].astype("datetime64[us]") for name in ("time", "at"))
        table[of.time] = time.fillna(at)
    if of.entity and of.entity != of.id:
        table[of.entity] = as_text(said["entity"])
    features = _json(said["features"])
    for column in of.columns:
        values = [row.get(column.name) for row in features]
        values = pd.Series(values, said.index, dtype=object, name=column.name)
        number = column.kind == "number"
        table[column.name] = as_numbers(values)[0] if number else as_text(values)
    return table


def _json(texts: pd.Series) -> list:
    return json.loads(b"[" + b",".join(texts) + b"]")


def _note(n: int, what: str) -> list[str]:
    return [f"{n:,} {what}"] if n else []


def delays(log: pd.DataFrame, of: Schema) -> np.ndarray:
    """Days from row to label, of the labels that have come."""
    if of.time is None:
        return np.zeros(0)
    wait = (log[LABELLED_AT] - log[of.time]).dropna()
    return np.sort(wait.to_numpy() / DAY)
