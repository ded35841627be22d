"""What later windows are compared to: counts of features and predictions, by day where rows have a
time.

The predictions counted here are those of the model in service. Those of cross-validation are of
other models, and differ from its own as much as a real drift; but it has learned from these rows,
so trees of single rows say more extreme things of them than of new ones. Therefore predictions
inform, and only `inputs` page.
"""

from dataclasses import replace

import numpy as np
import pandas as pd
import pyarrow as pa

from modelkeep.data.schema import Schema
from modelkeep.evaluation import profile
from modelkeep.evaluation.profile import PREDICTION, Profile
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


def _table(log: pd.DataFrame, schema: Schema) -> pa.Table:
    table, predictions = pipelines.features(log, schema), frames.predictions(log, schema)
    if schema.task == "multiclass":
        table[PREDICTION] = np.array(schema.classes, dtype=object)[predictions.argmax(axis=1)]
    else:
        table[PREDICTION] = predictions if schema.task == "regression" else predictions[:, 1]
    return pa.Table.from_pandas(table, preserve_index=False)


def _days(log: pd.DataFrame, schema: Schema) -> np.ndarray | None:
    return None if schema.time is None else profile.starts(log[schema.time].to_numpy())
