"""The prediction log as a table: what was asked, what the model said, what came true and when that was known."""

import numpy as np
import pandas as pd

from modelkeep.schema import Schema

ANSWERED_BY, LABELLED_AT = "answered_by", "labelled_at"
DAY = np.timedelta64(1, "D")


class LogError(ValueError):
    """Rows that a prediction log cannot hold."""


def answer_columns(of: Schema) -> list[str]:
    """The names of the columns that hold an answer: one probability a class, or the predicted number."""
    names = ["prediction"] if of.task == "regression" else [f"p({name})" for name in of.classes]
    own = {of.id, of.time, of.entity, of.label, *(c.name for c in of.columns)}
    taken = own & {*names, ANSWERED_BY, LABELLED_AT}
    if taken:
        raise LogError(
            f"column {min(taken)!r} has a name that the prediction log needs; rename it in the table, "
            "or leave it out by `features` in params/prepare.yaml"
        )
    return names


def answers(rows: pd.DataFrame, of: Schema) -> np.ndarray:
    """What the model said, as probabilities (rows, classes) or numbers (rows,)."""
    values = rows[answer_columns(of)].to_numpy(dtype="float64")
    return values.ravel() if of.task == "regression" else values


def answered(rows: pd.DataFrame, of: Schema, said: np.ndarray) -> pd.DataFrame:
    """The rows with what a model said of them."""
    return rows.assign(
        **dict(zip(answer_columns(of), said.T if said.ndim == 2 else [said], strict=True))
    )


def replay(
    rows: pd.DataFrame,
    of: Schema,
    said: np.ndarray,
    *,
    model: str,
    as_of: np.datetime64 | None,
    delay_days: float,
    wait_days: float,
    lost: float,
    seed: int,
) -> pd.DataFrame:
    """The log that serving `rows` would have left at `as_of`: each label arrives `delay_days` plus an exponential wait after its row, a share `lost` never does."""
    log = answered(rows, of, said).assign(**{ANSWERED_BY: model})
    random = np.random.default_rng(seed)
    wait, gone = random.exponential(wait_days, len(log)), random.random(len(log)) < lost
    gone |= log[of.label].isna().to_numpy()
    if of.time is None:
        log[LABELLED_AT] = pd.Series(pd.NaT, index=log.index, dtype="datetime64[us]")
    else:
        days = pd.to_timedelta(delay_days + wait, unit="D")
        arrives = (log[of.time] + days).astype("datetime64[us]")
        gone |= (arrives > as_of).to_numpy()
        log[LABELLED_AT] = arrives.mask(gone)
    log[of.label] = log[of.label].mask(gone)
    return log


def delays(log: pd.DataFrame, of: Schema) -> np.ndarray:
    """Days from row to label, of the labels that have come."""
    if of.time is None:
        return np.zeros(0)
    wait = (log[LABELLED_AT] - log[of.time]).dropna()
    return np.sort(wait.to_numpy() / DAY)
