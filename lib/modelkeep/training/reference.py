"""What later windows are compared to: counts of features and predictions, by day where rows have a time.

The predictions counted here are those of the model in service. Those of cross-validation are of other models, and differ from its own as
much as a real drift; but it has learned from these rows, so trees of single rows say more extreme things of them than of new ones.
Therefore predictions inform, and only `inputs` page.
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


def learn(log: pd.DataFrame, of: Schema) -> Profile:
    """Fix the bins by answered rows, and count them."""
    kinds = {c.name: c.kind for c in of.columns}
    kinds[PREDICTION] = "category" if of.task == "multiclass" else "number"
    return profile.learn(_table(log, of), kinds, _days(log, of))


def count(log: pd.DataFrame, of: Schema, against: Profile) -> Profile:
    """Answered rows in the reference's bins."""
    return profile.count(against.bins, _table(log, of), _days(log, of))


def inputs(counted: Profile) -> Profile:
    """The counts without those of the predictions."""
    return replace(counted, bins=tuple(b for b in counted.bins if b.name != PREDICTION))


def _table(log: pd.DataFrame, of: Schema) -> pa.Table:
    table, said = pipelines.features(log, of), frames.answers(log, of)
    if of.task == "multiclass":
        table[PREDICTION] = np.array(of.classes, dtype=object)[said.argmax(axis=1)]
    else:
        table[PREDICTION] = said if of.task == "regression" else said[:, 1]
    return pa.Table.from_pandas(table, preserve_index=False)


def _days(log: pd.DataFrame, of: Schema) -> np.ndarray | None:
    return None if of.time is None else profile.starts(log[of.time].to_numpy())
