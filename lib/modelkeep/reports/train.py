"""What the page of `train` says: expected performance of the candidate, and how it is served."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict

import numpy as np
import pandas as pd
from sklearn.pipeline import Pipeline

from modelkeep.core import markup
from modelkeep.core.markup import Html, between, count, number, several
from modelkeep.core.verdicts import Verdict
from modelkeep.data import inspect, splits
from modelkeep.data.schema import Schema
from modelkeep.evaluation import metrics
from modelkeep.evaluation.metrics import Estimate
from modelkeep.predictions import frames
from modelkeep.reports import figures
from modelkeep.reports.figures import Figure
from modelkeep.training import candidates
from modelkeep.training.pipelines import Fold

MOST_COLUMNS = 8  # in the figure of single columns
WORTH_DRAWING = 0.1  # of the error, removed by the best of them
MOST_TEXT = 300  # characters of a step of one's own


def verdict(
    model: str,
    found: dict[str, Estimate],
    folds: Sequence[Fold],
    manifest: dict,
    schema: Schema,
    left: Mapping[str, float],
) -> Verdict:
    """Expected performance on rows that the candidate has not seen, newer ones where they have a
    time.

    `left` is the label's error that each column leaves alone (`inspect.alone`): a column that
    nearly decides it calls for a person, because the performance may be too good to be true.
    """
    parts = " and ".join(
        f"{metrics.NAMES[k]} {between(e.value, e.low, e.high)}" for k, e in found.items()
    )
    unseen = "newer than those" if schema.time else "other than those"
    sentence = f"The {model} candidate reaches {parts} on rows {unseen} it learned from."
    reasons = []
    if new := manifest.get("recalibration"):
        sentence = f"The champion with a new {new['kind']} reaches {parts} on rows left out."
        reasons = candidates.sentences(new)
    first = next(iter(found))
    each = ", ".join(number(fold.scores[first]) for fold in folds)
    reasons += [
        f"{metrics.NAMES[first]} by fold, oldest first: {each}",
        _served(manifest["serving"]),
    ]
    wider = found[first].design_effect ** 0.5
    if wider > 1.05 and found[first].blocks < found[first].rows:
        reasons.append(
            f"rows of one day are alike: the interval is {number(wider)} times as wide as "
            "independent rows would make it"
        )
    evidence = {"expected": {name: asdict(e) for name, e in found.items()}}
    doubted = {name: share for name, share in left.items() if share < inspect.ALONE}
    if not doubted:
        return Verdict("train", "ok", sentence, tuple(reasons), evidence)
    reasons = [
        *(f"{name} {inspect.decides(schema.label, share)}" for name, share in doubted.items()),
        f"params/prepare.yaml: `drop: [{', '.join(doubted)}]` leaves out what is not known yet "
        "when a prediction is made",
        *reasons,
    ]
    sentence += f" That may be too good to be true: see {several([*doubted])}."
    return Verdict("train", "investigate", sentence, tuple(reasons), evidence)


def _served(serving: dict) -> str:
    name = {"quickscorer": "Bit vectors (QuickScorer)", "onnx": "ONNX"}
    name["estimator"] = "scikit-learn's estimator behind our preprocessing"
    rows, engine = count(serving["rows"], "row"), serving["engine"]
    text = (
        f"{name.get(engine, 'the whole scikit-learn pipeline')} will serve: the largest "
        f"difference from the pipeline on {rows} is {serving['largest_difference']:.1e}"
    )
    return f"{text}; left out: {serving['reason']}" if serving["reason"] else text


def by_fold(folds: Sequence[Fold]) -> Html:
    """Each fold's sizes and scores, oldest first."""
    rows = []
    for i, fold in enumerate(folds, start=1):
        named = {metrics.NAMES[k]: v for k, v in fold.scores.items()}
        rows.append(
            {"fold": i, "learned from": fold.training_rows, "tested on": len(fold.rows), **named}
        )
    return markup.table(rows)


def over_time(
    log: pd.DataFrame, schema: Schema, outcome: np.ndarray, found: dict[str, Estimate]
) -> Figure:
    """The first metric by week of the folds' test rows, around its mean."""
    name = next(iter(found))
    week, index = splits.weeks(log, schema)
    loss = metrics.per_row(schema.task, outcome, frames.predictions(log, schema))[name]
    n = np.bincount(index, minlength=len(week))
    mean = np.bincount(index, weights=loss, minlength=len(week)) / np.where(n > 0, n, np.nan)
    return figures.course(
        week,
        mean,
        name=metrics.NAMES[name],
        title=f"How much does {metrics.NAMES[name]} vary when nothing is wrong?",
        caption=f"{len(log):,} rows in {len(week)} parts; from {number(np.nanmin(mean))} to "
        f"{number(np.nanmax(mean))}, on average {number(found[name].value)}. "
        "In service, a value inside this range is no news.",
    )


def calibration(log: pd.DataFrame, schema: Schema, outcome: np.ndarray) -> Figure | Html:
    """Predicted against observed rates on rows that were not learned from."""
    if schema.task == "regression":
        return markup.table(
            [], "Calibration is a question for classes; this model predicts numbers."
        )
    rows = metrics.calibration(outcome, frames.predictions(log, schema), splits.blocks(log, schema))
    return figures.calibration(
        rows,
        name="candidate",
        title=f"When it says {schema.label} = {schema.classes[-1]} with 30 %, is it 30 %?",
    )


def steps(unfitted: Pipeline) -> Html:
    """What the pipeline does to which columns, and with which settings it learns."""
    names = [*unfitted.named_steps]
    rows = [{"columns": "all", "step": "features of lib/pipeline.py"}]
    if names == ["columns", "model"]:
        rows = []
    elif names != ["features", "columns", "model"]:
        return markup.table([{"step": k, "is": _shown(v)} for k, v in unfitted.steps])
    for _, step, names in getattr(unfitted["columns"], "transformers", ()):
        parts = (
            [type(s).__name__ for _, s in step.steps] if hasattr(step, "steps") else ["as it is"]
        )
        rows.append({"columns": ", ".join(names), "step": ", then ".join(parts)})
    model = unfitted["model"]
    usual = type(model)().get_params()
    params = {
        k: v for k, v in model.get_params(deep=False).items() if v == v
    }  # XGBoost: missing=nan
    chosen = [f"{k}={v}" for k, v in params.items() if v != usual.get(k)]
    rows.append({"columns": "all", "step": f"{type(model).__name__}({', '.join(chosen)})"})
    return markup.table(rows)


def _shown(step: object) -> str:
    """A step as text: without addresses, which differ from run to run; what is cut says so."""
    text = re.sub(r" at 0x[0-9a-f]+", "", " ".join(repr(step).split()))
    return text if len(text) <= MOST_TEXT else f"{text[:MOST_TEXT]} …"


def alone(left: Mapping[str, float], label: str) -> Figure | Html:
    """The columns that say most of the label alone, as the share of its error that they decide."""
    if not left:
        return markup.table([], "Cannot say: the rows are too few.")
    best = {name: max(1 - share, 0.0) for name, share in left.items()}
    name, share = next(iter(best.items()))
    if share < WORTH_DRAWING:
        most = f"{WORTH_DRAWING:.0%} of the error that a constant makes in {label}"
        return markup.table([], f"No column alone removes {most}, so none looks like a copy.")
    nearly = [each for each, part in best.items() if part > 1 - inspect.ALONE]
    end = (
        f"nearly all of it: {several(nearly)}. Was that known when the prediction was due?"
        if nearly
        else f"no column decides more than {1 - inspect.ALONE:.0%}, so none looks like a copy."
    )
    return figures.bars(
        dict([*best.items()][:MOST_COLUMNS]),
        name="share of the error removed",
        title=f"How much of the error in {label} does one column remove?",
        caption=f"A tree on one column, on rows that it has not seen, against a constant. "
        f"{name} removes {share:.0%}; {end}",
        limit=1 - inspect.ALONE if nearly else None,
        limit_name="nearly decides it",
        share=True,
        whole=True,
    )


def contents(manifest: Mapping) -> Html:
    """The files of the bundle with their hashes."""
    says = {
        "encoding.json": "the fitted preprocessing as plain data",
        "golden.json": "reference rows with their predictions, to check a copy",
        "model.onnx": "the estimator for serving",
        "trees.json": "the boosted trees for serving",
        "model.skops": "the pipeline, in a format that runs no code",
        "promise.parquet": "rows with out-of-fold predictions",
        "reference.json": "counts that later windows are compared to",
        "schema.json": "what a row must look like",
        "trained_rows.npy": "a hash of each training row",
    }
    named = manifest["files"].items()
    return markup.table([{"file": k, "holds": says[k], "SHA-256": f"{v[:12]}…"} for k, v in named])
