"""What cross-validation promises: rows that were answered before they were learned from."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from modelkeep.data import splits
from modelkeep.data.schema import Schema
from modelkeep.evaluation import metrics
from modelkeep.evaluation.metrics import Estimate
from modelkeep.predictions import frames
from modelkeep.training.pipelines import Fold


def promise(rows: pd.DataFrame, folds: Sequence[Fold], of: Schema) -> pd.DataFrame:
    """The rows that cross-validation answered before it learned from them, with those answers, as a prediction log would hold them."""
    parts = [rows.iloc[fold.rows] for fold in folds]
    said = np.concatenate([fold.answers for fold in folds])
    return frames.answered(pd.concat(parts, ignore_index=True), of, said)


def promised(log: pd.DataFrame, of: Schema, outcome: np.ndarray) -> dict[str, Estimate]:
    """Each metric over all folds with its interval by block of time."""
    return metrics.summary(of.task, outcome, frames.answers(log, of), splits.blocks(log, of))
