"""Champions of small tables with a known truth, and later rows whose level or relation has changed."""

from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pandas as pd
from scipy.special import expit, softmax

import synthetic
from modelkeep.data import splits
from modelkeep.training import candidates
from modelkeep.training.candidates import NotRecalibrated

TASKS = ("binary", "multiclass", "regression")


def table(task, seed, rows, days, start, what="", mood=0.1):
    """Rows of a known relation, changed by `what`: the level, the slope, or the concept."""
    draw = np.random.default_rng([seed, TASKS.index(task)])
    day = np.sort(draw.integers(0, days, rows))
    size = draw.normal(0, 1, rows) + draw.normal(0, 0.3, days)[day]
    shop, weight = draw.choice(["north", "south", "east"], rows), draw.gamma(2, 50, rows)
    signal = 1.2 * size + 0.8 * (shop == "north") - 1.2
    if what == "concept":
        signal = 0.3 * size + 0.02 * (weight - 100) - 0.9 * (shop == "north") - 0.8
    signal = (0.5 if what == "slope" else 1.0) * signal + draw.normal(0, mood, days)[day]
    level = 1.0 * (what == "level")
    if task == "regression":
        truth = (10 + 3 * (signal + level) + draw.normal(0, 2, rows)).round(3)
    elif task == "binary":
        truth = (draw.random(rows) < expit(signal + level)).astype(int)
    else:
        q = softmax(np.column_stack([-signal, 0 * signal + 0.3, signal + level]), axis=1)
        drawn = draw.random((rows, 1)) > q.cumsum(axis=1)[:, :2]
        truth = np.array(["blue", "green", "red"])[drawn.sum(axis=1)]
    made = {
        "key": [f"{start}-{seed}-{i}" for i in range(rows)],
        "when": pd.Timestamp(start) + pd.to_timedelta(day * 86_400 + 60, unit="s"),
        "size": size.round(3),
        "weight": weight.round(2),
        "shop": shop,
        synthetic.LABELS[task]: truth,
    }
    return pd.DataFrame(made)


@cache
def champion(task, **knobs):
    """A model of 8,000 rows of 90 days."""
    parts = synthetic.prepared(task, table(task, 0, 8000, 90, "2020-01-01"))
    with TemporaryDirectory() as folder:
        return synthetic.sealed(Path(folder) / "model", parts, trees=60, **knobs)


def later(model, task, what, seed=1, rows=3000, days=28):
    """Rows that came after those of the champion, clean to its schema."""
    frame = table(task, seed, rows, days, "2020-06-01", what)
    return splits.window(frame, model.schema, "2020-06-01", "2021-01-01").rows


def decided(model, task, what, seed, rows=3000, days=28):
    """What is decided about the champion by such rows: none, level, level and slope, or refit."""
    try:
        given = later(model, task, what, seed, rows, days)
        new = candidates.update(model, given).recalibration
    except NotRecalibrated as error:
        return "refit" if "not enough" in str(error) else "none"
    return new["kind"] if new["enough"] else "refit"
