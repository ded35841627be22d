"""The page of `evaluate`: the comparator, the paired test, and the verdict."""

from collections.abc import Mapping
from dataclasses import asdict
from types import MappingProxyType

import numpy as np
import pandas as pd

from modelkeep.core import markup
from modelkeep.core.markup import Html, between, count, number, several
from modelkeep.core.verdicts import Verdict
from modelkeep.data import splits
from modelkeep.data.schema import Schema
from modelkeep.evaluation import comparison, metrics
from modelkeep.reports import figures
from modelkeep.reports.figures import Figure
from modelkeep.training import intervals
from modelkeep.training.baseline import SLICE_ROWS
from modelkeep.training.engines import decision

LEARNED = "the candidate has learned from these rows: this bounds harm and is no measure of quality"
LEFT_OUT = "a new level and slope of the champion's predictions; the model below is as it was"
PARTS = {"value": "gain", "low": "low", "high": "high"}  # of a row in a forest figure
SAYS = {
    "better": "is better than",
    "non_inferior": "is not worse than",
    "worse": "is worse than",
    "inconclusive": "cannot be distinguished from",
    "insufficient": "cannot be compared yet with",
}


def verdict(
    judged: comparison.Verdict,
    comparator_name: str,
    checked: int,
    churn: comparison.Churn | None = None,
    refit: Mapping | None = None,
) -> Verdict:
    """Whether the candidate passes the gate: the held-back one, or for a refit the harm gate."""
    if refit:
        return _refit_verdict(judged, comparator_name, churn, refit)
    first = judged.gains[0]
    worse = [row["slice"] for row in judged.slices if row["verdict"] == "worse"]
    beside = f"{SAYS[judged.word]} {comparator_name}"
    sentence = f"The candidate {beside}, on {_seen_on(first)} that neither had seen."
    harmed = [g for g in judged.gains if g.verdict == "worse"]
    if judged.word == "worse" and harmed:
        sentence = f"{sentence[:-1]}: {'; '.join(map(amount, harmed))}."
    if judged.word == "insufficient":
        sentence = (
            f"The candidate {beside}: the test has {count(first.blocks, _unit(first))}, and "
            f"{comparison.MINIMUM_BLOCKS} are needed."
        )
    if worse and not harmed:
        certain = all(g.verdict in ("better", "non_inferior") for g in judged.gains)
        in_all = "is not worse than" if certain else SAYS["inconclusive"]
        sentence = (
            f"The candidate {in_all} {comparator_name} in all, but worse for "
            f"{several(worse)}: it may not pass."
        )
    reasons = [_gain(g) for g in judged.gains]
    if judged.word == "insufficient":
        parameter = {"row": "test_share", "day": "test_days"}[_unit(first)]
        lacking = count(comparison.MINIMUM_BLOCKS - first.blocks, f"more {_unit(first)}")
        reasons.append(f"{lacking} needed: raise {parameter}, or let a person decide")
    reasons.append(f"{count(checked, 'test row')} checked against the training rows: none leaked")
    if judged.slices:
        open_ = sum(row["verdict"] == "insufficient" for row in judged.slices)
        few = f"fewer than {count(comparison.MINIMUM_BLOCKS, _unit(first))}"
        undecided = f"; {open_} of them on {few}, so they are not judged" if open_ else ""
        reasons.append(
            f"worse for {len(worse)} of {count(len(judged.slices), 'named slice')}{undecided}"
        )
    evidence = judged.as_dict()
    if churn:
        reasons.append(_churn(churn))
        evidence["churn"] = asdict(churn)
    return Verdict("evaluate", judged.word, sentence, tuple(reasons), evidence)


def _refit_verdict(
    judged: comparison.Verdict, champion: str, churn: comparison.Churn, refit: Mapping
) -> Verdict:
    first, passed = judged.gains[0], judged.word != "worse"
    does = "does no harm beyond the limits beside" if passed else "may harm, compared with"
    rows = f"on the newest {_seen_on(first)}, all of them learned from."
    who, note = "The refit", LEARNED
    if refit.get("recalibrated"):
        who, note = "The recalibrated champion", LEFT_OUT
        rows = f"on the newest {_seen_on(first)}, each part of them left out in turn."
    sentence = f"{who} {does} {champion}, {rows}"
    harm = [_bounded(g) for g in judged.gains if np.isfinite(g.low)]
    evidence = judged.as_dict() | {**refit, "churn": asdict(churn)}
    begin = "begins as a canary" if refit["canary"] else "may answer all requests at once"
    harm.append(f"{begin}: {refit['risk']}")
    return Verdict("evaluate", judged.word, sentence, (*harm, _churn(churn), note), evidence)


def _bounded(g: comparison.Gain) -> str:
    limit = f"(limit {number(g.margin)})"
    if g.low > 0:
        return f"{metrics.NAMES[g.metric]}: better by at least {number(g.low)} {limit}"
    return f"{metrics.NAMES[g.metric]}: harm is at most {number(-g.low)} {limit}"


def _churn(churn: comparison.Churn) -> str:
    text = f"{churn.changed:.1%} of predictions change by more than {number(churn.threshold)}"
    if churn.changed_class is not None:
        text += f", {churn.changed_class:.1%} change the most probable class"
    return f"{text} ({count(churn.rows, 'row')})"


def _unit(g: comparison.Gain) -> str:
    """What the test permutes or counts as one: a day, or a row where rows have no time."""
    return "row" if g.blocks == g.rows else "day"


def _seen_on(g: comparison.Gain) -> str:
    rows = count(g.rows, "row")
    return rows if _unit(g) == "row" else f"{rows} of {count(g.blocks, 'day')}"


def _gain(g: comparison.Gain) -> str:
    return f"{amount(g)}, margin {number(g.margin)}: {g.verdict.replace('_', ' ')}"


def amount(g: comparison.Gain) -> str:
    """By how much the candidate's metric is higher or lower, and which of the two is better."""
    words = ("lower", "higher") if g.metric in metrics.HIGHER_IS_BETTER else ("higher", "lower")
    word = words[g.gain >= 0]
    limits = (g.low, g.high) if g.gain >= 0 else (-g.high, -g.low)
    text = f"{metrics.NAMES[g.metric]} {number(abs(g.gain))} {word}"
    if not np.isfinite(limits).all():
        return f"{text} ({words[1]} is better)"
    other = "" if limits[0] >= 0 else f" {words[g.gain < 0]}"
    span = f"{number(abs(limits[0]))}{other} to {number(limits[1])} {word}"
    return f"{text} ({span}; {words[1]} is better)"


def gains(judged: comparison.Verdict, margins: dict[str, float] | None = None) -> Figure | Html:
    """The gain in each metric as a share of its margin, so that one line is the margin of all."""
    margins = {g.metric: g.margin for g in judged.gains} if margins is None else margins
    if not all(m > 0 for m in margins.values()):
        return markup.table(
            [{"metric": metrics.NAMES[g.metric], "gain": g.gain} for g in judged.gains]
        )
    rows = [
        {"name": metrics.NAMES[g.metric], "breach": g.verdict == "worse"}
        | {part: getattr(g, name) / g.margin for part, name in PARTS.items()}
        for g in judged.gains
    ]
    stated = ", ".join(f"{metrics.NAMES[k]} {number(v)}" for k, v in margins.items())
    return figures.forest(
        rows,
        name="gain in margins; right of zero the candidate is better",
        title="Is the candidate better, and by how many margins?",
        caption=f"{_seen_on(judged.gains[0])}; one-sided limits at {judged.alpha:.0%} each; one "
        f"margin is {stated}. Conclusion: {judged.word.replace('_', ' ')}.",
        margin=1,
    )


def side_by_side(
    task: str,
    y: np.ndarray,
    ours: np.ndarray,
    theirs: np.ndarray,
    blocks: np.ndarray,
    comparator_name: str,
) -> Html:
    """Each metric of both models with its interval."""
    rows = []
    for name, predictions in (("candidate", ours), (comparator_name, theirs)):
        scores = metrics.summary(task, y, predictions, blocks)
        shown = {metrics.NAMES[k]: between(e.value, e.low, e.high) for k, e in scores.items()}
        rows.append({"model": name, **shown})
    return markup.table(rows)


def calibration(
    rows: pd.DataFrame,
    schema: Schema,
    y: np.ndarray,
    predictions: np.ndarray,
    learned: Mapping | None = None,
) -> Figure | Html:
    """Predicted against observed rates of the last class on the test rows; of numbers, the coverage
    of prediction intervals (`learned`: those of the manifest).
    """
    if schema.task == "regression":
        return _intervals(splits.blocks(rows, schema), y, predictions, learned)
    points = metrics.calibration(y, predictions, splits.blocks(rows, schema))
    return figures.calibration(
        points,
        name="candidate",
        title=f"How often was {schema.label} = {schema.classes[-1]}, by predicted probability?",
    )


LEVELS = (0.5, 0.8, 0.9, 0.95)


def _intervals(
    blocks: np.ndarray, y: np.ndarray, predictions: np.ndarray, learned: Mapping | None
) -> Html:
    if not learned:
        return markup.table([], "This bundle has no prediction intervals; train again.")
    rows = []
    for level in LEVELS:
        low, high = intervals.static(learned, predictions, level)
        held = metrics.clustered(((low <= y) & (y <= high)).astype(float), blocks)
        within = between(held.value, max(held.low, 0.0), min(held.high, 1.0))
        width = float(np.median(high - low))
        rows.append({"interval": f"{level:.0%}", "holds the label": within, "median width": width})
    return markup.table(rows)


def calibration_csv(
    schema: Schema, y: np.ndarray, predictions: np.ndarray, blocks: np.ndarray
) -> str:
    """The calibration's points for `dvc plots`."""
    lines = ["predicted,observed"]
    if schema.task != "regression":
        points = metrics.calibration(y, predictions, blocks)
        lines += [f"{r['predicted']:.6g},{r['observed']:.6g}" for r in points]
    return "\n".join(lines) + "\n"


def slice_figure(judged: comparison.Verdict) -> Figure | Html:
    """The gain in each named slice, worst first."""
    if not judged.slices:
        return markup.table([], "No slice has enough rows to be compared by itself.")
    ordered = sorted(judged.slices, key=lambda r: r["gain"])[:20]
    rows = [
        {"name": r["slice"], "breach": r["verdict"] == "worse"}
        | {"judged": r["verdict"] != "insufficient"}
        | {part: r[name] for part, name in PARTS.items()}
        for r in ordered
    ]
    metric = metrics.NAMES[judged.gains[0].metric]
    return figures.forest(
        rows,
        name=f"gain in {metric}: right of zero the candidate is better",
        title="For whom is the candidate better or worse?",
        caption=f"{count(len(rows), 'slice')} of {len(judged.slices)}, worst first, each with at "
        f"least {SLICE_ROWS} rows; 95 % intervals by block. "
        f"Worse for sure: {several([r['name'] for r in rows if r['breach']]) or 'none'}.",
    )


def errors(
    schema: Schema, y: np.ndarray, predictions: np.ndarray, operating: Mapping | None = None
) -> Figure | Html:
    """The ROC curve of the last class, and the rows of each class by predicted class.

    Two classes: the threshold is that of the least cost where costs are stated (`operating` of the
    manifest), else the one at which as many rows are predicted as are of the class.
    """
    if schema.task == "regression":
        return markup.table([], "A number has no classes to confuse.")
    score, positive = predictions[:, -1], y == predictions.shape[1] - 1
    if not 0 < positive.sum() < len(y):
        return markup.table([], f"The test rows are all of one class of {schema.label}.")
    order = np.argsort(-score, kind="stable")
    hits, wrong = np.cumsum(positive[order]), np.cumsum(~positive[order])
    points = np.column_stack([wrong / wrong[-1], hits / hits[-1]])
    shown = np.unique(np.linspace(0, len(y) - 1, 200).astype(int))
    cut = int(positive.sum()) - 1
    threshold = float(score[order[cut]])
    if operating and operating["threshold"] is not None:
        threshold = operating["threshold"]
        cut = max(int((score >= threshold).sum()) - 1, 0)
    name = f"{schema.label} = {schema.classes[-1]}"
    area = metrics.auc(positive.astype(int), np.column_stack([1 - score, score]))
    caption = (
        f"{len(y):,} test rows, {positive.sum():,} of them {name}. With the threshold "
        f"{number(threshold)}, "
        f"{points[cut, 1]:.1%} of these are found, and {points[cut, 0]:.1%} of the others are "
        "predicted so, too."
    )
    figure = figures.roc(
        np.vstack([[0, 0], points[shown]]),
        tuple(points[cut]),
        area=f"candidate, AUC {area:.3f}",
        mark=f"threshold {number(threshold)}",
        title=f"How many rows of {name} are found, at the price of how many others?",
        caption=caption,
    )
    binary = len(schema.classes) == 2
    chosen = decision.decide(operating or {}, predictions)
    chosen = (score >= threshold).astype(int) if binary else chosen
    table = _confusion(schema, y, chosen)
    return Html(figure._repr_html_() + table.markup, f"{figure!r}\n{table!r}")


def _confusion(schema: Schema, y: np.ndarray, chosen: np.ndarray) -> Html:
    counts = np.zeros((len(schema.classes),) * 2, int)
    np.add.at(counts, (y, chosen), 1)
    return markup.table(
        [
            {schema.label: name}
            | {f"predicted {k}": int(n) for k, n in zip(schema.classes, row, strict=True)}
            for name, row in zip(schema.classes, counts, strict=True)
        ]
    )


def importance(lines: list[dict], schema: Schema) -> Figure:
    """How much each column is used: the loss that is added once its values are shuffled."""
    loss = metrics.NAMES[metrics.METRICS[schema.task][0]]
    most = lines[0]
    unused = [row["column"] for row in lines if row["added"] <= 2 * row["spread"]]
    caption = (
        f"Shuffling {most['column']} adds {number(most['added'])} to the {loss} of the test rows"
    )
    caption += f"; indistinguishable from unused: {several(unused)}." if unused else "."
    return figures.importance(
        lines[:20],
        name=f"{loss} added by shuffling the column",
        title="Which columns does the candidate use?",
        caption=f"{caption} Mean and standard deviation over shuffles (permutation importance).",
    )


def design_effects(judged: comparison.Verdict) -> list[dict]:
    """Per metric, how many independent rows the test rows are worth."""
    return [
        {
            "metric": metrics.NAMES[g.metric],
            "rows": g.rows,
            "blocks": g.blocks,
            "design effect": g.design_effect,
            "worth so many independent rows": round(g.rows / g.design_effect)
            if g.design_effect > 0
            else None,
        }
        for g in judged.gains
    ]


def costs(lines: Mapping[str, np.ndarray], blocks: np.ndarray, operating: Mapping) -> Html:
    """What a row costs by each rule of `trial.costs_by_rule`, cheapest first, with intervals."""
    if not lines:
        return markup.table([], "No costs are stated (`costs` in params/train.yaml).")
    found = {name: metrics.clustered(each, blocks) for name, each in lines.items()}
    rows = [
        {"rule": _rule(name, operating), "cost a row": between(e.value, max(e.low, 0.0), e.high)}
        for name, e in sorted(found.items(), key=lambda item: item[1].value)
    ]
    return markup.table(rows)


def _rule(name: str, operating: Mapping) -> str:
    if name != "candidate":
        return name
    cut = operating["threshold"]
    how = "class of least expected cost" if cut is None else f"threshold {number(cut)}"
    return f"candidate, {how} ({operating['basis']})"


def stage_metrics(
    task: str,
    y: np.ndarray,
    predictions: np.ndarray,
    judged: comparison.Verdict,
    lines: Mapping[str, np.ndarray] = MappingProxyType({}),
) -> dict:
    """The candidate's metrics on the test rows and its gains, for `dvc metrics`."""
    rows = metrics.per_row(task, y, predictions)
    values = {f"test_{name}": float(np.mean(each)) for name, each in rows.items()}
    values |= {"test_cost": float(np.mean(lines["candidate"]))} if lines else {}
    return values | {f"gain_{g.metric}": g.gain for g in judged.gains}
