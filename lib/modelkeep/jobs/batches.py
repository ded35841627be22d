"""Rows of files as a model predicts them: read, checked and predicted as the server does."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple

import msgspec
import numpy as np
import pandas as pd
import pyarrow as pa

from modelkeep.core.errors import ModelkeepError
from modelkeep.data import columns, schema, time_axis
from modelkeep.data import io as tables
from modelkeep.data.columns import Fault, as_text, as_times, stated_kind, with_column
from modelkeep.data.io import READING, Span
from modelkeep.data.schema import MADE_IDS, Schema
from modelkeep.predictions import frames
from modelkeep.predictions.records import CHAMPION, Group
from modelkeep.serving.models import Model
from modelkeep.serving.requests import MAX_ID
from modelkeep.training.engines import decision
from modelkeep.training.engines.encoding import LARGEST, Coded

CALL = 2048  # rows of one call of the model, and of one record of the log
TIME, NO_TIME = "datetime64[us]", -(2**63)  # in NumPy: missing
CONTROLS = r"[\x00-\x1f\x7f-\x9f]"


class ScoreError(ModelkeepError, ValueError):
    """A file that cannot be scored so."""


class Predicted(NamedTuple):
    """The predictions of a chunk; the arrays are of the rows that fit."""

    rows: pd.DataFrame
    times: pd.Series
    numbers: np.ndarray
    categories: list[Coded]
    values: np.ndarray
    quarantine: pd.DataFrame


class Predictor:
    """Reads, checks and predicts rows for a model, as the server does.

    `at` is when, in microseconds since 1970; `name` begins the ids of rows that have none.
    """

    def __init__(self, model: Model, at: int, name: str) -> None:
        self.model, self.name, learned = model, name, model.schema
        self.ids = bool(learned.origin.get("id_column")) or learned.id not in MADE_IDS
        limits = {"number": (-LARGEST, LARGEST), "category": (None, None)}
        bounded = [
            replace(
                c,
                low=limits[c.kind][0] if c.low is None else c.low,
                high=limits[c.kind][1] if c.high is None else c.high,
            )
            for c in learned.columns
        ]
        # a time may be missing, as in a request: it is checked apart
        self.checked = replace(learned, columns=tuple(bounded), time=None, axis=None)
        now = np.datetime64(at, "us")
        self.axis = time_axis.of_log(learned.axis, now, now)

    def chunks(self, span: Span, rows: int) -> Iterator[pd.DataFrame]:
        """The columns of the model in a span of a file, chunk by chunk."""
        learned = self.model.schema
        origin, rules = learned.origin, learned.origin.get("rules") or {}
        roles = [name for name in (learned.id, learned.time, learned.entity) if name]
        wanted = [*roles, *(c.name for c in learned.columns)]
        categories = [c.name for c in learned.columns if c.kind != "number"]
        stated = [name for name in rules if stated_kind(rules[name])]
        texts = [*filter(None, (learned.id, learned.entity)), *categories, *stated]
        reading = {k: origin[k] for k in READING if k in origin}
        reading |= {"rules": rules, "time_column": learned.time or ""}
        return tables.stream(span, wanted, texts, rows, **reading)

    def predict(self, table: pd.DataFrame, first: int) -> Predicted:
        """The predictions of a chunk whose first row is the `first` of all."""
        learned = self.model.schema
        table = table.set_axis(range(first, first + len(table)))
        if self.ids and learned.id not in table:
            raise ScoreError(
                f"id_column: the file has no column {learned.id!r}, which names the rows of the "
                "model's table; name the file's own id so"
            )
        if not self.ids:
            table = with_column(table, learned.id, [f"{self.name}-{i}" for i in table.index])
        entity = learned.entity if learned.entity in table else None
        times, faults = self._times(table)
        faults += _id_faults(table[learned.id])
        checked = replace(self.checked, entity=entity)
        cleaned = schema.clean(table, checked, unique=False, also=faults)
        rows = cleaned.rows
        numbers, categories = _arrays(rows, learned)
        values = self._values(numbers, categories)
        kept = rows.index.to_numpy() - first
        known = pd.Series(pd.NaT, rows.index, TIME) if times is None else times.iloc[kept]
        aside = cleaned.quarantine.rename(columns={"row": "position", "row_": "row"})
        return Predicted(rows, known, numbers, categories, values, aside)

    def _times(self, table: pd.DataFrame) -> tuple[pd.Series | None, list[Fault]]:
        name = self.model.schema.time
        if not name or name not in table:
            return None, []
        times, bad = as_times(table[name])
        faults = columns.faults(table[name], bad, "is not a date (ISO 8601, as 2013-01-31 17:05)")
        span = " to ".join(str(each)[:10] for each in self.axis)
        odd = time_axis.outside(times, self.axis)
        faults += columns.faults(table[name], odd, f"is far from training and now ({span})")
        return times, faults

    def _values(self, numbers: np.ndarray, categories: Sequence[Coded]) -> np.ndarray:
        # in the calls that the log records: a sum may depend on the rows beside it
        parts = [
            self.model.engine.predict(numbers[i : i + CALL], [c[i : i + CALL] for c in categories])
            for i in range(0, len(numbers), CALL)
        ]
        shape = (0, len(self.model.schema.classes)) if self.model.schema.classes else (0,)
        return np.concatenate(parts) if parts else np.zeros(shape)

    def output(self, chunk: Predicted) -> pa.Table:
        """The predictions as they are written."""
        learned, names = self.model.schema, frames.prediction_columns(self.model.schema)
        made = {"position": chunk.rows.index.to_numpy(), learned.id: chunk.rows[learned.id]}
        if learned.classes:
            classes = pa.array(learned.classes, pa.string())
            chosen = decision.decide(self.model.manifest.get("operating", {}), chunk.values)
            best = pa.array(chosen, pa.int32())
            made["prediction"] = pa.DictionaryArray.from_arrays(best, classes)
            made |= dict(zip(names, chunk.values.T, strict=True))
        else:
            made["prediction"] = chunk.values
        return pa.table({name: pa.array(values) for name, values in made.items()})


def _id_faults(ids: pd.Series) -> list[Fault]:
    text = as_text(ids)
    long = (text.str.len() > MAX_ID).fillna(False)
    faults = columns.faults(ids, long, f"is longer than {MAX_ID} characters")
    if not _may_have_controls(text):
        return faults
    odd = text.str.contains(CONTROLS, regex=True).fillna(False)
    return faults + columns.faults(ids, odd, "has a control character")


def _may_have_controls(texts: pd.Series) -> bool:
    """Whether a byte of one is among them: thirty times as fast as an expression for each text."""
    for part in pa.chunked_array(pa.array(texts)).chunks:  # a file may come in several pieces
        letters = np.frombuffer(part.buffers()[2] or b"", np.uint8)
        if ((letters < 0x20) | (letters == 0x7F) | (letters == 0xC2)).any():
            return True
    return False


def _arrays(rows: pd.DataFrame, learned: Schema) -> tuple[np.ndarray, list[Coded]]:
    """Numbers (rows, columns) and the texts of each category column, None for missing."""
    named = [[c.name for c in learned.columns if c.kind == k] for k in ("number", "category")]
    numbers = rows[named[0]].to_numpy(np.float64).reshape(len(rows), -1)
    texts = []
    for name in named[1]:
        codes, known = pd.factorize(rows[name])
        texts.append(Coded(codes, [*known, None]))  # -1, a missing one, is the last
    return numbers, texts


def records(model: Model, at: int, chunk: Predicted) -> Iterator[Group]:
    """The calls of a chunk as the log stores them."""
    encode, entity = msgspec.json.encode, model.schema.entity
    ids = chunk.rows[model.schema.id].tolist()
    known = entity in chunk.rows and entity != model.schema.id
    entities = chunk.rows[entity].astype(object) if known else pd.Series(ids, dtype=object)
    entities = entities.where(entities.notna(), ids).tolist()
    times = [None if t == NO_TIME else t for t in chunk.times.astype("int64").tolist()]
    values = chunk.values if chunk.values.ndim == 2 else chunk.values[:, None]
    for i in range(0, len(ids), CALL):
        call = slice(i, i + CALL)
        lists = [*chunk.numbers[call].T.tolist(), *([*c[call]] for c in chunk.categories)]
        own = ids[call], entities[call], times[call]
        features = encode(dict(zip(model.reader.names, lists, strict=True)))
        texts = [encode(each).decode() for each in own]
        yield Group(
            *(at, model.name, CHAMPION, None, None, None),
            *texts,
            features,
            encode(values[call].tolist()),
        )
