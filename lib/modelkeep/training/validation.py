"""Expected performance: out-of-fold predictions, by models that had not learned from the rows."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from modelkeep.data import splits
from modelkeep.data.schema import Schema
from modelkeep.evaluation import metrics
from modelkeep.evaluation.metrics import Estimate
from modelkeep.predictions import frames
from modelkeep.training.pipelines import Fold


def rows(train: pd.DataFrame, test: pd.DataFrame, withhold: bool) -> pd.DataFrame:
    """The rows that a candidate learns from: without the test rows, or all in the order of time."""
    return train if withhold else pd.concat([train, test], ignore_index=True)


def out_of_fold(rows: pd.DataFrame, folds: Sequence[Fold], schema: Schema) -> pd.DataFrame:
    """The rows of cross-validation with their out-of-fold predictions, in the form of a log."""
    parts = [rows.iloc[fold.rows] for fold in folds]
    predictions = np.concatenate([fold.predictions for fold in folds])
    return frames.with_predictions(pd.concat(parts, ignore_index=True), schema, predictions)


def expected_performance(
    log: pd.DataFrame, schema: Schema, outcome: np.ndarray
) -> dict[str, Estimate]:
    """Each metric over all folds with its interval by block of time."""
    return metrics.summary(
        schema.task, outcome, frames.predictions(log, schema), splits.blocks(log, schema)
    )
