"""A changed recipe beside the former one: fresh models of both over the weeks of history.

The newest days of the held-back gate may be too few to decide between two recipes. Here both are
trained every four weeks on what was known then and predict the same rows of the four weeks ahead;
all rows are judged as one, paired, by the gate's own rule.
"""

from collections.abc import Mapping

import numpy as np
import pandas as pd

from modelkeep.backtest import point_in_time
from modelkeep.backtest.point_in_time import History
from modelkeep.data import splits
from modelkeep.evaluation import comparison
from modelkeep.evaluation.comparison import Verdict
from modelkeep.training import baseline, pipelines

EVERY = 4  # weeks that a pair of models predicts
LEARNED = 1 / 3  # of the time is learned from by the first pair


def start(times: pd.Series) -> str:
    """The day from which the rows of a history are predicted."""
    known = times.dropna()
    return str((known.min() + (known.max() - known.min()) * LEARNED).date())


def walk_forward(
    former: History, changed: History, days: tuple[float, float], bounds: Mapping
) -> Verdict:
    """Judge the changed recipe by the parameters of evaluate; both histories are of one table.

    `days`: of history that each recipe learns from (0: all). Each limit is one-sided at `alpha`,
    clustered by day; days after one another share a model, so neighbouring days may be more alike
    than the limits allow for.
    """
    weeks = range(0, len(changed.starts), EVERY)
    for history, past in zip((former, changed), days, strict=True):
        history.learn_ahead([(week, past, 0) for week in weeks])
    parts = [part for week in weeks if (part := _pair(former, changed, days, bounds, week))]
    if not parts:
        return Verdict("insufficient", (), bounds["alpha"])
    schema, rows = parts[-1][0], pd.concat([part[1] for part in parts], ignore_index=True)
    gains = {name: np.concatenate([part[2][name] for part in parts]) for name in parts[0][2]}
    share = np.array([len(part[1]) for part in parts]) / len(rows)
    margins = {name: float(share @ [part[3][name] for part in parts]) for name in gains}
    blocks, alpha = splits.blocks(rows, schema), bounds["alpha"]
    judged = comparison.judge(gains, blocks, margins, alpha)
    named = baseline.slices(rows, schema, bounds["slices"])
    return comparison.judge_slices(judged, next(iter(gains.values())), blocks, named, alpha)


def _pair(
    former: History, changed: History, days: tuple[float, float], bounds: Mapping, week: int
) -> tuple | None:
    """Schema, labelled rows, gains and margins of the weeks that a pair of models predicts."""
    old, new = former.learn(week, days[0]), changed.learn(week, days[1])
    baseline.check_comparable(old.schema, new.schema)
    schema, ahead = new.schema, range(week, min(week + EVERY, len(changed.starts)))
    rows = pd.concat([changed.rows(w, schema) for w in ahead], ignore_index=True)
    rows = rows[rows[schema.label].notna().to_numpy()].reset_index(drop=True)
    if rows.empty:
        return None
    y = pipelines.outcome(rows, schema)
    ours, theirs = (point_in_time.predictions(model, rows) for model in (new, old))
    limits = bounds["margin_auc"], bounds["margin_loss"]
    gains = comparison.gains(schema.task, y, ours, theirs)
    return schema, rows, gains, comparison.margins(schema.task, y, theirs, *limits)
