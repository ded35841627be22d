"""Histories with a planted change, and policies to live through them."""

from functools import cache

import numpy as np
import pandas as pd

from modelkeep.backtest import replay
from modelkeep.backtest.point_in_time import History

START, BEFORE, WEEKS, ROWS = "2020-03-01", 60, 14, 60  # days before the start; rows a day
KNOBS = {
    "window_days": 7,
    "window_rows": 300,
    "false_alarms_per_year": 0.05,
    "fdr": 0.05,
    "permutations": 99,
}
KNOBS |= {"min_labels": 50, "min_coverage": 0.8, "seed": 0}
BOUNDS = {"margin_auc": 0.005, "margin_loss": 0.005, "alpha": 0.05, "slices": []}
RULES = replay.Rules(BOUNDS, KNOBS)
ASKED = {"label": "y", "time_column": "at", "entity_column": "", "id_column": "id"}
ASKED |= {"features": ["a", "b", "c"], "task": "auto", "rules": {}}
LEARNING = {"model": "linear", "l2": 1.0, "folds": 3, "seed": 0}


def table(kind="none", seed=0, task="binary", weeks=WEEKS, rows=ROWS):
    """Rows a day from 60 days before the start on; what they mean changes as `kind` says."""
    draw = np.random.default_rng(seed)
    day = np.repeat(np.arange(BEFORE + 7 * weeks), rows)
    week = (day - BEFORE) / 7  # of the replay; below 0 before it
    a, b, c = draw.normal(0, 1, (3, len(day)))
    slope_a, slope_b = np.full(len(day), 2.0), np.zeros(len(day))
    if kind == "sudden":
        slope_a, slope_b = np.where(week < 5, 2.0, 0.0), np.where(week < 5, 0.0, 2.0)
    if kind == "slow":
        turned = np.clip(week / weeks, 0, 1) * np.pi / 2
        slope_a, slope_b = 2 * np.cos(turned), 2 * np.sin(turned)
    if kind == "season":
        slope_a = np.where((week >= 6) & (week < 8), -2.0, 2.0)
    if kind == "seasons":  # a model of two weeks always knows the one before
        slope_a = np.where((week >= 0) & (week // 2 % 2 == 1), -2.0, 2.0)
    if kind == "covariate":
        a = a + np.where(week >= 5, 1.0, 0.0)
    signal = slope_a * a + slope_b * b
    if kind == "level":
        signal = signal + np.where(week >= 3, 1.5, 0.0)
    if kind == "future":  # each week has codes of its own, so only the week itself tells them
        whole, code = (day - BEFORE) // 7, draw.integers(0, 6, len(day))
        signal = 3.0 * draw.choice([-1, 1], (1000, 6))[whole + 100, code]
        c = np.char.add(np.char.add(whole.astype(str), "-"), code.astype(str)).astype(object)
    y = (draw.logistic(0, 1, len(day)) < signal).astype(int)
    if kind == "noise":
        y = np.where((week >= 6) & (week < 8), draw.integers(0, 2, len(day)), y)
    if task == "regression":
        y = (signal + draw.normal(0, 1, len(day))).round(3)
    at = pd.Timestamp(START) + pd.to_timedelta((day - BEFORE) * 86_400 + 60 * (np.arange(len(day)) % rows), unit="s")  # fmt: skip
    ids = [f"r{i}" for i in range(len(day))]
    return pd.DataFrame({"id": ids, "at": at, "a": a, "b": b, "c": c, "y": y})


def past(kind="none", delay=1.0, **made):
    """A planted history, ready to be replayed."""
    return History(table(kind, **made), ASKED, LEARNING, START, "", delay)


@cache
def shared(kind="none", delay=1.0, **made):
    """The same for tests that only replay it: a model is trained once, whichever test asks first."""
    return past(kind, delay, **made)


def loss(played):
    """The mean log loss by week."""
    return float(np.mean(played.course("log_loss")))
