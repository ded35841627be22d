"""The prediction log as one Parquet file: a column for each feature, prediction and label."""

from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq

from modelkeep.core import workspace
from modelkeep.core.errors import ModelkeepError
from modelkeep.data import schema as schemas
from modelkeep.data.schema import Schema
from modelkeep.predictions import frames
from modelkeep.predictions.log import RETURNED, open_log
from modelkeep.registry import releases, store, timeline

MICROSECONDS, EVER = 10**6, 2**62


class ExportError(ModelkeepError, ValueError):
    """A log that cannot be exported so."""


def export(
    root: Path, out: Path, since: str = "", until: str = "", roles: Sequence[str] = RETURNED
) -> int:
    """Write the predictions of `since` <= time < `until` (UTC) to a Parquet file; how many.

    Columns: id, predicted_at, model, role, entity, time, the features and predictions of the
    champion's schema (null where another model had others), label, labelled_at. Only one page of
    the log is held at a time.
    """
    start, end = (timeline.moment(text) * MICROSECONDS if text else None for text in (since, until))
    learned, rows = _schema(root), 0
    kinds = _columns(learned)
    out.parent.mkdir(parents=True, exist_ok=True)
    beside = out.with_name(f".{out.name}.tmp")
    url = str(workspace.params(root, "serve")["log"])
    log = open_log(url, root=root, create=False)
    with closing(log), pq.ParquetWriter(beside, kinds) as writer:
        for batch in log.read(start or 0, EVER if end is None else end, roles=roles):
            writer.write_table(_table(batch, learned, kinds))
            rows += len(batch)
    beside.replace(out)
    return rows


def _schema(root: Path) -> Schema:
    place = releases.folder(root)
    now = store.now(place)
    if now is None:
        raise ExportError("no model is in service, whose columns the file would have")
    content = store.check(place, now.champion.sha256)
    return schemas.from_json(content["schema.json"].decode())


def _columns(learned: Schema) -> pa.Schema:
    """The file's columns; those of features and predictions have the names of the table."""
    text, number, moment = pa.string(), pa.float64(), pa.timestamp("us", "UTC")
    fixed = {"id": text, "predicted_at": moment, "model": text, "role": text}
    fixed |= {"entity": text, "time": moment}
    own = {c.name: number if c.kind == "number" else text for c in learned.columns}
    own |= dict.fromkeys(frames.prediction_columns(learned), number)
    last = {"label": text, "labelled_at": moment}
    if taken := own.keys() & {*fixed, *last}:
        raise ExportError(
            f"column {min(taken)!r} of the table has the name of one of the log's; rename it there"
        )
    return pa.schema(fixed | own | last)


def _table(batch: pa.RecordBatch, learned: Schema, kinds: pa.Schema) -> pa.Table:
    given = batch.rename_columns(
        ["predicted_at" if name == "at" else name for name in batch.schema.names]
    )
    features = [msgspec.json.decode(each) for each in given["features"].to_pylist()]
    outputs = [msgspec.json.decode(each) for each in given["answer"].to_pylist()]
    names = frames.prediction_columns(learned)
    outputs = [dict(zip(names, a)) if len(a) == len(names) else {} for a in outputs]
    arrays = []
    for field in kinds:
        if field.name in given.schema.names:
            arrays.append(given[field.name].cast(field.type))
            continue
        rows = outputs if field.name in names else features
        arrays.append(_array([row.get(field.name) for row in rows], field.type))
    return pa.Table.from_arrays(arrays, schema=kinds)


def _array(values: list, kind: pa.DataType) -> pa.Array:
    fits = (float, int) if kind == pa.float64() else str
    return pa.array([each if isinstance(each, fits) else None for each in values], kind)
