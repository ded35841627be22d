"""Why quality fell between any two tables, the smallest remedy, and why a model predicts so."""

import pandas as pd

from modelkeep.analyst import models, tables
from modelkeep.monitoring import diagnosis
from modelkeep.monitoring.diagnosis import Diagnosis
from modelkeep.training import candidates
from modelkeep.training import explain as shapley
from modelkeep.training.bundle import Bundle
from modelkeep.training.candidates import Candidate
from modelkeep.training.explain import Explanation


def diagnose(
    before: pd.DataFrame,
    now: pd.DataFrame,
    *,
    model: Bundle | None = None,
    label: str = "",
    time: str = "",
    seed: int = 0,
) -> Diagnosis:
    """Why quality is lower `now` than `before`, in which rows, and what helps.

    Rows that hold predictions keep them, others are predicted by `model` (the candidate of the
    workspace). With `label`, and `time` where rows have one, any two tables with predictions in
    `prediction` (a number, or the probability of class 1) or `p(CLASS)` are compared, outside a
    workspace too; all other columns count as features.
    """
    if label:
        return diagnosis.diagnose(before, now, label=label, time=time, seed=seed)
    model = model or models.candidate()
    before, now = (tables.original(rows, model.schema) for rows in (before, now))
    return diagnosis.diagnose(before, now, bundle=model, seed=seed)


def recalibrate(rows: pd.DataFrame, *, model: Bundle | None = None) -> Candidate:
    """The model with the new level (and slope) of its predictions that labelled rows ask for.

    `model` is the candidate of the workspace where none is given; rows that it has learned from
    or that have no label are left out. NotRecalibrated, with the reason, where no update is needed
    or proven.
    """
    model = model or models.candidate()
    rows, label = tables.original(rows, model.schema), model.schema.label
    return candidates.update(model, rows.dropna(subset=[label]) if label in rows else rows)


def explain(rows: pd.DataFrame, *, model: Bundle | None = None, seed: int = 0) -> Explanation:
    """What each column adds to the prediction of each row (Shapley values).

    `model` is the candidate of the workspace where none is given; predictions are compared with
    the mean of rows that cross-validation predicted.
    """
    model = model or models.candidate()
    return shapley.explain(model, tables.original(rows, model.schema), seed=seed)
