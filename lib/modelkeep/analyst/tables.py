"""Rows as an analyst reads them: labels and predictions that `groupby().mean()` takes."""

import re
from collections.abc import Sequence
from html import escape

import numpy as np
import pandas as pd

from modelkeep.core import workspace
from modelkeep.core.errors import ModelkeepError
from modelkeep.data import splits
from modelkeep.data.columns import as_text
from modelkeep.data.schema import Schema
from modelkeep.evaluation.metrics import Estimate
from modelkeep.predictions import frames

MOST_GROUPS = 20  # a number with more distinct values is cut into GROUPS ranges
GROUPS = 5
FEWEST_BLOCKS = 5  # of fewer days no interval is stated


class RowsError(ModelkeepError, ValueError):
    """Rows, columns or groups that a question cannot be answered from."""


class Answer(pd.DataFrame):
    """A DataFrame that prints whole, with notes on how to read it below (`attrs["notes"]`)."""

    @property
    def _constructor(self) -> type["Answer"]:
        return Answer

    def __repr__(self) -> str:
        whole = ("display.max_colwidth", None, "display.max_columns", None, "display.width", 160)
        with pd.option_context(*whole):
            return "\n".join([super().__repr__(), *self.attrs.get("notes", ())])

    def _repr_html_(self) -> str:
        with pd.option_context("display.max_colwidth", None):
            table = super()._repr_html_()
        return table + "".join(f"<p>{escape(note)}</p>" for note in self.attrs.get("notes", ()))


class Facts(pd.Series):
    """A Series that prints its sentence (`attrs["sentence"]`) in place of its values."""

    def __repr__(self) -> str:
        return self.attrs.get("sentence") or super().__repr__()


def answer(table: pd.DataFrame, *notes: str) -> Answer:
    """The table with notes; a note on intervals that are not stated is added where needed."""
    bounds = [name for name in table if str(name).endswith(("low", "high"))]
    if bounds and table[bounds].isna().any(axis=None):
        few = f"<NA>: fewer than {FEWEST_BLOCKS} days, too few to state an interval."
        notes = (*notes, few)
    result = Answer(table)
    result.attrs = {**table.attrs, "notes": [note for note in notes if note]}
    return result


def labelled(rows: pd.DataFrame, label: str) -> str:
    """How many of the rows have a label, as a sentence."""
    known = int(rows[label].notna().sum())
    return f"By the {known:,} of {len(rows):,} rows that have a label."


def readable(rows: pd.DataFrame, schema: Schema) -> pd.DataFrame:
    """Rows with a numeric label and named predictions, for reading and grouping.

    Binary: label and `prediction` are 0.0 to 1.0, of the second class. Regression: both are the
    number. Multiclass: both are categories, and `p_CLASS` is the probability of each class.
    """
    rows = rows.copy(deep=False)
    if schema.label in rows:
        rows[schema.label] = _label(rows[schema.label], schema)
    names = frames.prediction_columns(schema)
    if schema.task == "regression" or not set(names) <= set(rows):
        return rows
    values = rows[names].to_numpy(dtype="float64")
    rows = rows.drop(columns=names)
    rows[prediction(schema)] = _prediction(values, schema)
    if schema.task == "multiclass":
        rows[probabilities(schema)] = values
    return rows


def original(rows: pd.DataFrame, schema: Schema) -> pd.DataFrame:
    """Rows as the library takes them, from rows of `readable` or rows that were never changed."""
    rows = rows.copy(deep=False)
    if schema.classes and schema.label in rows:
        label = rows[schema.label]
        if schema.task == "binary" and pd.api.types.is_numeric_dtype(label):
            places = label.map({0.0: schema.classes[0], 1.0: schema.classes[1]})
            rows[schema.label] = places.astype("str").where(label.notna())
        else:
            rows[schema.label] = as_text(label)
    if prediction(schema) in rows and schema.task != "regression":
        names, given = frames.prediction_columns(schema), probabilities(schema)
        if schema.task == "binary":
            positive = rows[prediction(schema)].to_numpy(dtype="float64")
            rows[names] = np.column_stack([1 - positive, positive])
        elif set(given) <= set(rows):
            rows[names] = rows[given].to_numpy()
    return rows


def prediction(schema: Schema) -> str:
    """The name of the column of predictions: `prediction`, unless the table has its own."""
    own = {schema.label, schema.id, *(column.name for column in schema.columns)}
    return "prediction" if "prediction" not in own else "model_prediction"


def probabilities(schema: Schema) -> list[str]:
    """The names of the columns of probabilities, usable as attributes: `p_CLASS`."""
    names = ["p_" + re.sub(r"\W", "_", each) for each in schema.classes]
    if len(set(names)) == len(names):
        return names
    return [f"{name}_{place}" for place, name in enumerate(names)]


def groups(rows: pd.DataFrame, by: str | Sequence | pd.Series) -> pd.Series:
    """The group of each row by a column, a list of columns, or one value a row.

    Numbers with many values are cut into five ranges of equally many rows; a missing value is a
    group of its own.
    """
    if isinstance(by, list) and all(isinstance(name, str) for name in by):
        parts = [groups(rows, name).astype("str") for name in by]
        return pd.Series([" / ".join(each) for each in zip(*parts, strict=True)], rows.index)
    if isinstance(by, str):
        if by not in rows:
            near = workspace.meant(by, list(rows.columns))
            raise RowsError(f"by: the rows have no column {by!r}{near}")
        values = rows[by]
    elif len(by) == len(rows):
        values = pd.Series(np.asarray(by), rows.index)
    else:
        raise RowsError(f"by: {len(by)} groups for {len(rows)} rows; give one value a row")
    if pd.api.types.is_numeric_dtype(values) and values.nunique() > MOST_GROUPS:
        values = pd.qcut(values, GROUPS, duplicates="drop")
    elif pd.api.types.is_datetime64_any_dtype(values):
        values = values.dt.strftime("%Y-%m")
    return values.astype(object).where(values.notna(), "missing")


def blocks(rows: pd.DataFrame, schema: Schema | None, time: str | None = None) -> np.ndarray:
    """The day of each row, within which rows are alike; each row by itself where there is none."""
    time = time or (schema.time if schema else None)
    if time is None or time not in rows:
        return np.arange(len(rows))
    if schema and time == schema.time:
        return splits.blocks(rows, schema)
    return pd.to_datetime(rows[time]).to_numpy().astype("datetime64[D]")


def interval(estimate: Estimate) -> tuple[float, float]:
    """The interval of a mean; NaN where too few days lie behind it to say one."""
    if estimate.blocks < FEWEST_BLOCKS:
        return np.nan, np.nan
    return estimate.low, estimate.high


def _label(values: pd.Series, schema: Schema) -> pd.Series:
    if schema.task == "regression" or pd.api.types.is_numeric_dtype(values):
        return values
    if schema.task == "binary":
        return (values == schema.classes[1]).astype("float64").where(values.notna())
    return pd.Series(pd.Categorical(values, categories=list(schema.classes)), values.index)


def _prediction(values: np.ndarray, schema: Schema) -> np.ndarray | pd.Categorical:
    if schema.task == "binary":
        return values[:, 1]
    best = np.array(schema.classes, dtype=object)[values.argmax(axis=1)]
    return pd.Categorical(best, categories=list(schema.classes))
