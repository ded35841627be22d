"""What later windows are compared to: counts of features and predictions, by day where rows have a
time.

The predictions counted here are those of the model in service. Those of cross-validation are of
other models, and differ from its own as much as a real drift; but it has learned from these rows,
so trees of single rows say more extreme things of them than of new ones. Therefore predictions
inform, and only `inputs` page.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pandas as pd
import pyarrow as pa

from modelkeep.data.schema import Schema
from modelkeep.evaluation import binning, profile
from modelkeep.evaluation.profile import PREDICTION, Profile
from modelkeep.evaluation.segments import Column
from modelkeep.predictions import frames
from modelkeep.training import pipelines


def learn(log: pd.DataFrame, schema: Schema) -> Profile:
    """Fix the bins by answered rows, and count them."""
    kinds = {c.name: c.kind for c in schema.columns}
    kinds[PREDICTION] = "category" if schema.task == "multiclass" else "number"
    return profile.learn(_table(log, schema), kinds, _days(log, schema))


def count(log: pd.DataFrame, schema: Schema, reference: Profile) -> Profile:
    """Answered rows in the reference's bins."""
    return profile.count(reference.bins, _table(log, schema), _days(log, schema))


def inputs(counted: Profile) -> Profile:
    """The counts without those of the predictions."""
    return replace(counted, bins=tuple(b for b in counted.bins if b.name != PREDICTION))


def table(rows: pd.DataFrame, schema: Schema) -> pa.Table:
    """The features of rows, as bins are learned and looked up in."""
    return pa.Table.from_pandas(pipelines.features(rows, schema), preserve_index=False)


def columns(rows: pd.DataFrame, schema: Schema) -> tuple[Column, ...]:
    """The features by bins that these rows fix."""
    kinds = {c.name: c.kind for c in schema.columns}
    learned = profile.learn(table(rows, schema), kinds)
    return tuple(Column(b, c.integer) for b, c in zip(learned.bins, schema.columns, strict=True))


def places(features: pa.Table, bins: Sequence[Column]) -> dict[str, np.ndarray]:
    """The bin (rows,) of each row in each column."""
    found = {}
    for b in (column.bins for column in bins):
        values = features.column(b.name).combine_chunks()
        if b.kind == "number":
            code = binning.number_places(binning.numbers(b, values), b.cuts)
        else:
            code = binning.category_places(b, values)
        found[b.name] = code.astype(np.int64)
    return found


def _table(log: pd.DataFrame, schema: Schema) -> pa.Table:
    frame, predictions = pipelines.features(log, schema), frames.predictions(log, schema)
    if schema.task == "multiclass":
        frame[PREDICTION] = np.array(schema.classes, dtype=object)[predictions.argmax(axis=1)]
    else:
        frame[PREDICTION] = predictions if schema.task == "regression" else predictions[:, 1]
    return pa.Table.from_pandas(frame, preserve_index=False)


def _days(log: pd.DataFrame, schema: Schema) -> np.ndarray | None:
    return None if schema.time is None else profile.starts(log[schema.time].to_numpy())
