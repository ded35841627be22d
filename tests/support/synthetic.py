"""Small tables with a known truth, and what the pipeline makes of them."""

import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd

from modelkeep.data import splits
from modelkeep.monitoring import decisions, sources
from modelkeep.training import bundle, pipelines, trial, validation
from modelkeep.training import costs as costing

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
    return splits.prepare(frame, **stated | {"test_days": 35, "test_share": 0.4} | changes)


def fitted(parts, model="boosting", **knobs):
    """A pipeline that has learned from the training rows."""
    unfitted = pipelines.pipeline(parts.schema, model, **QUICK | knobs)
    return pipelines.fit(unfitted, parts.train, parts.schema)


def promise(parts, model="boosting", folds=3, **knobs):
    """What cross-validation on the training rows answered."""
    of, rows = parts.schema, parts.train
    unfitted = pipelines.pipeline(of, model, **QUICK | knobs)
    found = pipelines.cross_validate(unfitted, rows, of, splits.blocks(rows, of), folds)
    return validation.out_of_fold(rows, found, of)


def sealed(folder: Path, parts, model="boosting", costs=None, **knobs):
    """A bundle on disk, loaded again."""
    log = promise(parts, model, **knobs)
    of = parts.schema
    scores = validation.expected_performance(log, of, pipelines.outcome(log, of))
    bundle.save(
        folder,
        fitted=fitted(parts, model, **knobs),
        schema=of,
        train=parts.train,
        out_of_fold=log,
        scores=scores,
        provenance=MADE | costing.learn(costs or {}, of, log),
    )
    return bundle.load(folder)


def turn(root: Path, task: str, timed: bool, model: str) -> SimpleNamespace:
    """One turn of the loop over a synthetic table, in the notebooks' order; only the pages are left out."""
    as_of = "2020-04-01" if timed else "3000"
    raw = table(task, rows=6000, days=180, timed=timed)
    parts = prepared(task, raw, timed, as_of=as_of)
    of = parts.schema
    unfitted = pipelines.pipeline(of, model, **QUICK)
    folds = pipelines.cross_validate(unfitted, parts.train, of, splits.blocks(parts.train, of), 3)
    served = sealed(root / "models" / "candidate", parts, model)
    (root / "models" / "champion.json").write_text('{"version": null, "bundle": null}')
    log = served.out_of_fold
    judged = judge(root, served, parts.test)
    late = {"delay_days": 1, "wait_days": 2, "lost": 0.02, "seed": 0}
    served_log = sources.replayed(raw, served, 70, **late)
    seen = look(served, served_log)
    return SimpleNamespace(**locals())


BOUNDS = {"margin_auc": 0.005, "margin_loss": 0.005, "alpha": 0.05, "slices": []}


def judge(root: Path, candidate: bundle.Bundle, rows: pd.DataFrame) -> SimpleNamespace:
    """The held-back gate as the notebook applies it."""
    tried = trial.compare(root, candidate, rows.head(0), rows)
    verdict, churn, _ = trial.judge(root, candidate, tried, BOUNDS)
    margins = {g.metric: g.margin for g in verdict.gains}
    return SimpleNamespace(
        verdict=verdict,
        churn=churn,
        margins=margins,
        **{name: getattr(tried, name) for name in ("comparator", "outcome", "blocks")},
        **{name: getattr(tried, name) for name in ("ours", "theirs", "checked", "rows")},
    )


def look(served: bundle.Bundle, log: pd.DataFrame, **changes) -> decisions.MonitoringResult:
    """A look at a log as the notebook takes it, with fewer permutations."""
    knobs = {"window_days": 7, "window_rows": 300, "min_labels": 50, "min_coverage": 0.8}
    knobs |= {"false_alarms_per_year": 0.05, "fdr": 0.05, "permutations": 99, "seed": 0}
    return decisions.analyze(
        served.out_of_fold, served.reference, log, served.schema, **knobs | changes
    )


def said(shown: object) -> str:
    """All that something on a page says; it must be markup, and not speak of nan or None."""
    text = f"{shown!r} {re.sub('<svg.*?</svg>', '', shown._repr_html_(), flags=re.DOTALL)}"
    for word in ("nan", "None", "NaT", "inf"):
        assert not re.search(rf"\b{word}\b", text), text
    return text
