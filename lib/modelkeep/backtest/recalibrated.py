"""The first model with a new level (and slope) every four weeks, and never trained again.

It shows what the smaller remedy retains of the benefit of retraining. The functions are those of an
update (`training.candidates`); each is tried on the rows that have come since the last one.
"""

import json

import numpy as np
import pandas as pd

from modelkeep.backtest import cache
from modelkeep.backtest.point_in_time import History
from modelkeep.evaluation.recalibration import Update
from modelkeep.training import candidates, validation
from modelkeep.training.candidates import NotRecalibrated

EVERY = 4  # weeks


def course(history: History) -> dict[str, np.ndarray]:
    """Each metric by week; kept with the history's results."""
    name = cache.name(history.made_of, "recalibrated", history.content(), str(history.starts))
    if not (content := history.results.get(name)):
        weeks = _weeks(history)
        content = json.dumps(weeks).encode()
        history.results.put(name, content)
    weeks = json.loads(content)
    return {metric: np.array([week[metric] for week in weeks], float) for metric in weeks[0]}


def _weeks(history: History) -> list[dict[str, float]]:
    model, since = history.learn(0), 0
    usual, updates, weeks = history.out_of_fold(model), [], []
    for week in range(len(history.starts)):
        if week and week % EVERY == 0:
            rows, p = _known(history, week, since, updates)
            try:
                found = candidates.learn(usual, rows, p, model.schema)
            except NotRecalibrated:
                pass
            else:
                updates.append(found.update)
                usual, since = validation.out_of_fold(rows, found.folds, model.schema), week
        rows, p = history.predicted(model, week)
        weeks.append(history.realised(rows, _updated(updates, p), model.schema))
    return weeks


def _known(
    history: History, week: int, since: int, updates: list[Update]
) -> tuple[pd.DataFrame, np.ndarray]:
    """The labelled rows of the last four weeks since the week `since`, as known when `week` began,
    with the predictions that were made of them.
    """
    model, parts, predicted = history.learn(0), [], []
    schema, delay = model.schema, pd.Timedelta(days=history.label_delay_days)
    for past in range(max(since, week - EVERY), week):
        rows, p = history.predicted(model, past)
        arrived = rows[schema.time] + delay <= history.starts[week]
        arrived = (arrived & rows[schema.label].notna()).to_numpy()
        parts.append(rows[arrived])
        predicted.append(_updated(updates, p[arrived]))
    return pd.concat(parts, ignore_index=True), np.concatenate(predicted)


def _updated(updates: list[Update], p: np.ndarray) -> np.ndarray:
    for update in updates:
        p = update(p)
    return p
