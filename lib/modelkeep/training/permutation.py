"""Permutation importance: how much worse a model predicts once a column is shuffled."""

import numpy as np
import pandas as pd

from modelkeep.data.columns import with_column
from modelkeep.data.schema import Schema
from modelkeep.evaluation import metrics
from modelkeep.training import pipelines
from modelkeep.training.bundle import Bundle

MOST_ROWS = (
    20_000  # of more rows, so many are drawn: the spread over shuffles is larger than theirs
)


def importance(
    model: Bundle, rows: pd.DataFrame, schema: Schema, *, repeats: int = 3, seed: int = 0
) -> list[dict]:
    """A line a feature, most important first: `column`, `added`, `spread`.

    `added` is the mean rise of the first metric of the task (log loss, squared error) over
    `repeats` shuffles of the column, `spread` its standard deviation (Breiman 2001). Rows are
    labelled rows that the model has not learned from.
    """
    random = np.random.default_rng(seed)
    if len(rows) > MOST_ROWS:
        rows = rows.iloc[np.sort(random.choice(len(rows), MOST_ROWS, replace=False))]
    y, first = pipelines.outcome(rows, schema), metrics.METRICS[schema.task][0]

    def loss(table: pd.DataFrame) -> float:
        values = metrics.per_row(schema.task, y, model.answer(table))[first]
        return float(values.mean())

    before, lines = loss(rows), []
    for column in schema.columns:
        added = []
        for _ in range(repeats):
            values = rows[column.name].iloc[random.permutation(len(rows))]
            added.append(loss(with_column(rows, column.name, values.array)) - before)
        line = {"column": column.name, "added": float(np.mean(added))}
        lines.append(line | {"spread": float(np.std(added))})
    return sorted(lines, key=lambda line: -line["added"])
