"""Small tables with a known truth, and what the pipeline makes of them."""

from pathlib import Path

import numpy as np
import pandas as pd

from modelkeep import bundle, models, tables, train

LABELS = {"binary": "late", "multiclass": "colour", "regression": "price"}
MADE = {"made": {"short": "0" * 10, "changed": False, "data": {}}}
QUICK = {"max_depth": 3, "trees": 20, "min_rows_leaf": 10}


def table(task="binary", rows=1200, days=60, seed=0, timed=True, **columns):
    """Rows from 1 January 2020 on whose outcome hangs on a number, a shop, and the day's mood."""
    draw = np.random.default_rng(seed)
    day = np.sort(draw.integers(0, days, rows))
    size, shop = draw.normal(0, 1, rows), draw.choice(["north", "south", "east"], rows)
    signal = size + (shop == "north") + draw.normal(0, 0.5, days)[day]
    noise = draw.normal(0, 1, rows)
    if task == "binary":
        truth = (signal + noise > 1).astype(int)
    elif task == "multiclass":
        truth = np.array(["blue", "green", "red"])[np.digitize(signal + noise, [-0.5, 1])]
    else:
        truth = (10 + 3 * signal + noise).round(3)
    made = {
        "key": [f"k{seed}-{i}" for i in range(rows)],
        "when": pd.Timestamp("2020-01-01") + pd.to_timedelta(day * 86_400 + 60, unit="s"),
        "size": size.round(3),
        "weight": np.where(draw.random(rows) < 0.1, np.nan, draw.gamma(2, 50, rows).round(2)),
        "shop": np.where(draw.random(rows) < 0.05, None, shop),
        LABELS[task]: truth,
    }
    frame = pd.DataFrame(made | columns)
    return frame if timed else frame.drop(columns="when")


def prepared(task="binary", frame=None, timed=True, **changes):
    """What `prepare` makes of a synthetic table: 35 days of test."""
    frame = table(task, timed=timed) if frame is None else frame
    stated = {"label": LABELS[task], "id_column": "key", "time_column": "when" if timed else ""}
    return tables.prepare(frame, **stated | {"test_days": 35, "test_share": 0.4} | changes)


def fitted(parts, model="boosting", **knobs):
    """A pipeline that has learned from the training rows."""
    unfitted = models.pipeline(parts.schema, model, **QUICK | knobs)
    return models.fit(unfitted, parts.train, parts.schema)


def promise(parts, model="boosting", folds=3, **knobs):
    """What cross-validation on the training rows answered."""
    of, rows = parts.schema, parts.train
    unfitted = models.pipeline(of, model, **QUICK | knobs)
    found = models.cross_validate(unfitted, rows, of, tables.blocks(rows, of), folds)
    return train.promise(rows, found, of)


def sealed(folder: Path, parts, model="boosting", **knobs):
    """A bundle on disk, loaded again."""
    log = promise(parts, model, **knobs)
    of = parts.schema
    scores = train.promised(log, of, models.outcome(log, of))
    bundle.seal(
        folder,
        fitted=fitted(parts, model, **knobs),
        of=of,
        train=parts.train,
        promise=log,
        scores=scores,
        provenance=MADE,
    )
    return bundle.load(folder)
