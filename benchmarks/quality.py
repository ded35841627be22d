"""Quality before labels arrive: how far the estimates are from what came true, on 39 weeks of flights that the model never saw.

A model of January to March answers April to December. Each week's AUC and log loss are estimated without its labels, by the functions that
`monitor` uses, and compared with what came true. Prints a Markdown table. Run: python benchmarks/quality.py
"""

from pathlib import Path

import numpy as np

from modelkeep.core import workspace
from modelkeep.data import splits
from modelkeep.monitoring import decisions
from modelkeep.predictions import frames
from modelkeep.training import pipelines, validation

METRICS = ("auc", "log_loss")
COLUMNS = {"time_column": "scheduled", "entity_column": "tailnum", "id_column": "flight_id"}


def main() -> None:
    root = workspace.root(Path(__file__).parent)
    table = splits.read("examples/flights", root)
    known = {"as_of": "2013-04-01", "label_delay_days": 1, "test_days": 1}
    prepared = splits.prepare(table, label="late", source="examples/flights", **COLUMNS, **known)
    of, rows = prepared.schema, prepared.train
    chosen = workspace.params(root, "train")
    folds, kind = chosen.pop("folds"), chosen.pop("model")
    chosen.pop("withhold", None)
    unfitted = pipelines.pipeline(of, kind, **chosen)
    tried = pipelines.cross_validate(unfitted, rows, of, splits.blocks(rows, of), folds)
    fitted = pipelines.fit(unfitted, rows, of)
    year = splits.window(table, of, "2013-04-01", "2014-01-01").rows
    log = frames.with_predictions(year, of, pipelines.predict(fitted, year, of))
    past = decisions.cut(validation.out_of_fold(rows, tried, of), of, 7, 0)
    windows = decisions.quality(of, past, decisions.cut(log, of, 7, 0), 200)
    report([w for w in windows if w.past], [w for w in windows if not w.past])


def report(past: list, now: list) -> None:
    real = {m: np.array([w.realised[m] for w in now]) for m in METRICS}
    before = {m: np.array([w.realised[m] for w in past]) for m in METRICS}
    guesses = {
        "the estimate (the model's own probabilities)": lambda m: values(now, "estimated", m),
        "the estimate, recalibrated on the newest labelled weeks": lambda m: values(
            now, "corrected", m
        ),
        "the last value seen": lambda m: np.r_[before[m][-1], real[m][:-1]],
        "a constant (the mean of the training's own test)": lambda m: np.full(
            len(now), before[m].mean()
        ),
    }
    print(f"{len(now)} weeks; weekly AUC {real['auc'].mean():.3f} on average\n")
    print("| mean absolute error of | weekly AUC | weekly log loss |\n|---|---|---|")
    for name, guess in guesses.items():
        errors = [np.abs(guess(m) - real[m]).mean() for m in METRICS]
        print(f"| {name} | {errors[0]:.4f} | {errors[1]:.4f} |")
    inside = [covered(now, real, m) for m in METRICS]
    print(f"| coverage of the 90 % band | {inside[0]} | {inside[1]} |")


def values(windows: list, kind: str, metric: str) -> np.ndarray:
    return np.array([getattr(w, kind)[metric] for w in windows])


def covered(now: list, real: dict, metric: str) -> str:
    low, high = values(now, "low", metric), values(now, "high", metric)
    known = np.isfinite(low)
    share = np.mean((real[metric][known] >= low[known]) & (real[metric][known] <= high[known]))
    return f"{share:.0%} of {known.sum()} weeks"


if __name__ == "__main__":
    main()
