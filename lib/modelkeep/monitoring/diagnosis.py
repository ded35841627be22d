"""Why quality fell, which rows lost it, and what helps: two periods of predictions compared.

`diagnose` needs the labels of both periods. While those of now are too few, the loss is estimated
from the predictions as before's labels correct them; then only other inputs can be seen.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

import numpy as np
import pandas as pd

from modelkeep.core import markup
from modelkeep.core.errors import ModelkeepError
from modelkeep.core.markup import Html, between, number
from modelkeep.data import schema as schemas
from modelkeep.data import splits
from modelkeep.data.columns import as_text, with_column
from modelkeep.data.schema import Schema
from modelkeep.evaluation import metrics, recalibration, segments, shift
from modelkeep.evaluation.recalibration import Choice, Outcomes
from modelkeep.evaluation.segments import Column, Period, Segment
from modelkeep.evaluation.shift import Split, Term
from modelkeep.monitoring import causes
from modelkeep.monitoring.causes import ColumnPart, Remedy, Side
from modelkeep.predictions import frames
from modelkeep.training import pipelines, reference
from modelkeep.training.bundle import Bundle

LEAST_ROWS, LEAST_BLOCKS = 200, 8  # labelled, in each period
WINDOWS = 4  # of the newest, that `newest` compares with the rows of cross-validation
NO_CONTRIBUTION = "cannot say: values of before hardly occur now"


class DiagnosisError(ModelkeepError, ValueError):
    """Two periods that cannot be compared."""


@dataclass(frozen=True)
class Diagnosis:
    """What two periods of predictions say about the drop of quality between them.

    `labelled` is False where the loss of now is an estimate. `split` and `choice` are None where
    rows are too few for them; `unknown` lists what is not known, with the reason.
    """

    metric: str
    labelled: bool
    rows_before: int
    rows: int
    loss_before: float
    loss: float
    split: Split | None
    columns: tuple[ColumnPart, ...]
    segments: tuple[Segment, ...]
    choice: Choice | None
    remedy: Remedy
    unknown: tuple[str, ...]

    @property
    def drop(self) -> float:
        """Return how much the mean loss rose."""
        return self.loss - self.loss_before

    def lines(self) -> list[str]:
        """Return the diagnosis in sentences, the remedy first."""
        basis = "" if self.labelled else "estimated "
        where = f" ({self.remedy.target})" if self.remedy.target else ""
        texts = [f"Remedy: {self.remedy.kind}{where}: {self.remedy.reason}."]
        change = f"{basis}{self.metric} {number(self.loss_before)} before, {number(self.loss)} now"
        change += f" ({self.rows_before:,} and {self.rows:,} rows)"
        texts.append(change[0].upper() + change[1:] + ".")
        if self.split:
            parts = [self.split.drop, *self.split.terms]
            texts.append("; ".join(f"{t.name} {t}" for t in parts).capitalize() + ".")
        for s in self.segments:
            share = "" if s.share is None else f", {s.share:.0%} of the drop"
            texts.append(f"Segment {s.condition}: {s.rows:,} rows, {s.excess:+.3g} a row{share}.")
        for c in self.columns[:3]:
            part = str(c.contribution) if c.contribution else NO_CONTRIBUTION
            texts.append(f"Column {c.name}: part of the drop {part}; {c.broken or 'drifted'}.")
        if not self.labelled:
            texts.append("Estimated: assumes that the relation of inputs to labels is as before.")
        return texts + [f"Cannot say: {e}." for e in self.unknown if e != self.remedy.reason]

    def __repr__(self) -> str:
        return "\n".join(self.lines())

    def _repr_html_(self) -> str:
        parts = [_summary_part(self)]
        if self.split is not None:
            parts += [_terms_part(self), _segments_part(self), _columns_part(self)]
        return "".join(part.markup for part in parts)


def diagnose(
    before: pd.DataFrame,
    now: pd.DataFrame,
    schema: Schema | None = None,
    *,
    bundle: Bundle | None = None,
    label: str = "",
    time: str = "",
    seed: int = 0,
    alpha: float = 0.05,
    permutations: int = 999,
) -> Diagnosis:
    """Say why quality is lower `now` than `before`, in which rows, and what helps.

    Both frames hold features, the label and the predictions, as a prediction log does: a column
    `p(CLASS)` for each class, or `prediction`. A bundle adds the predictions where they are not
    there, and its schema; without either, a schema is learned from `label` and `time`. Rows of one
    day are taken as alike, rows without time as independent. DiagnosisError if before has no
    labels, or predictions are missing.
    """
    schema = schema or (bundle.schema if bundle else None)
    if schema is None:
        schema, before, now = _cleaned(before, now, label, time)
    before, now = (_predicted(rows, schema, bundle) for rows in (before, now))
    known = [rows[rows[schema.label].notna()] for rows in (before, now)]
    few = [_too_few(rows, schema) for rows in known]
    if few[0]:
        return _cannot_say(schema, known, f"the period before has too few labels: {few[0]}")
    labelled = not few[1]
    if not labelled and (short := _too_few(now, schema)):
        return _cannot_say(schema, [known[0], now], f"the period now is too short: {short}")
    bins = reference.columns(known[0], schema)
    sides = [_side(rows, schema, bins) for rows in (known[0], known[1] if labelled else now)]
    if not labelled:
        sides = _estimated(schema.task, *sides)
    return _compared(schema, bins, *sides, labelled, (seed, alpha, permutations))


def newest(
    model: Bundle, log: pd.DataFrame, window_days: int, window_rows: int, seed: int = 0
) -> Diagnosis:
    """Compare the newest four windows with labels with the rows that cross-validation predicted.

    `window_rows` is of a table without time. Without any label the newest rows are taken.
    """
    schema = model.schema
    labelled = log[log[schema.label].notna()]
    rows = labelled if len(labelled) else log
    if schema.time is None:
        now = rows.iloc[-WINDOWS * window_rows :]
    else:
        days = rows[schema.time].to_numpy().astype("datetime64[D]")
        now = rows[days > days.max() - WINDOWS * window_days] if len(rows) else rows
    return diagnose(model.out_of_fold, now, bundle=model, seed=seed)


def _cleaned(
    before: pd.DataFrame, now: pd.DataFrame, label: str, time: str
) -> tuple[Schema, pd.DataFrame, pd.DataFrame]:
    """Return the schema of plain tables with predictions, and their rows that fit it."""
    if label not in before.columns:
        near = f"the columns are {markup.several(list(map(str, before.columns)))}"
        raise DiagnosisError(f"label: {label!r} is no column of the period before; {near}")
    if classes := _two_classes(before, now, label):
        before, now = (_both_probabilities(rows, classes) for rows in (before, now))
    given = [c for c in before.columns if c == "prediction" or str(c).startswith("p(")]
    other = {label, time, *given, frames.ANSWERED_BY, frames.LABELLED_AT}
    features = [c for c in before.columns if c not in other]
    schema = schemas.learn(
        before,
        label=label,
        time=time or None,
        id="row",
        entity=None,
        features=features,
        task="regression" if "prediction" in given else "auto",
    )
    tables = []
    for given_rows in (before, now):
        rows = given_rows.reset_index(drop=True)
        fitting = schemas.clean(rows, schema).rows
        tables.append(fitting.join(rows[[c for c in given if c in rows.columns]]))
    return schema, *tables


def _two_classes(before: pd.DataFrame, now: pd.DataFrame, label: str) -> list[str]:
    """The names of 0 and 1 where `prediction` is the probability of 1, as `mk.predict` gives it."""
    if not all("prediction" in rows.columns for rows in (before, now)):
        return []
    numbers = pd.to_numeric(pd.concat([before["prediction"], now["prediction"]]), errors="coerce")
    values = before[label].dropna().drop_duplicates().sort_values()
    known = pd.to_numeric(values, errors="coerce").tolist() == [0, 1]
    return as_text(values).tolist() if known and numbers.between(0, 1).all() else []


def _both_probabilities(rows: pd.DataFrame, classes: Sequence[str]) -> pd.DataFrame:
    p = rows["prediction"]
    return rows.drop(columns="prediction").assign(
        **{f"p({classes[0]})": 1 - p, f"p({classes[1]})": p}
    )


def _predicted(rows: pd.DataFrame, schema: Schema, bundle: Bundle | None) -> pd.DataFrame:
    """Return the rows with their predictions, and labels as the schema has them."""
    names = frames.prediction_columns(schema)
    missing = [name for name in names if name not in rows.columns]
    if missing and bundle is None:
        raise DiagnosisError(
            f"predictions are missing: there is no column {missing[0]!r}; give predictions as "
            f"{markup.several(names)}, or the bundle that makes them"
        )
    if schema.label not in rows.columns:
        rows = with_column(rows, schema.label, np.nan)
    return frames.with_predictions(rows, schema, bundle.predict(rows)) if missing else rows


def _too_few(rows: pd.DataFrame, schema: Schema) -> str:
    blocks = len(np.unique(splits.blocks(rows, schema)))
    if len(rows) >= LEAST_ROWS and blocks >= LEAST_BLOCKS:
        return ""
    unit = "days" if schema.time else "rows"
    needed = f"at least {LEAST_ROWS} rows of {LEAST_BLOCKS} {unit} are needed"
    return f"{len(rows):,} rows of {blocks} {unit}, and {needed}"


def _side(rows: pd.DataFrame, schema: Schema, bins: Sequence[Column]) -> Side:
    table = reference.table(rows, schema)
    places = reference.places(table, bins)
    p = frames.predictions(rows, schema)
    known = rows[schema.label].notna().all()
    y = pipelines.outcome(rows, schema) if known else None
    loss = _loss(schema.task, y, p) if known else np.full(len(rows), np.nan)
    return Side(rows, table, p, y, loss, splits.blocks(rows, schema), places)


def _loss(task: str, y: np.ndarray, p: np.ndarray) -> np.ndarray:
    return (p - y) ** 2 if task == "regression" else metrics.log_loss(y, p)


def _estimated(task: str, before: Side, now: Side) -> list[Side]:
    """Return both periods with the loss that before's labels let expect of the predictions."""
    if task == "regression":
        losses = segments.expected(before.loss, before.p, [before.p, now.p])
    else:
        beliefs = [metrics.recalibrated(s.p, before.y, before.p) for s in (before, now)]
        losses = [
            -np.sum(q * np.log(np.clip(s.p, metrics.TINY, 1)), axis=1)
            for q, s in zip(beliefs, (before, now), strict=True)
        ]
    return [
        Side(s.rows, s.table, s.p, None, loss, s.blocks, s.places)
        for s, loss in zip((before, now), losses, strict=True)
    ]


def _compared(
    schema: Schema,
    bins: Sequence[Column],
    before: Side,
    now: Side,
    labelled: bool,
    settings: tuple[int, float, int],
) -> Diagnosis:
    seed, alpha, permutations = settings
    unknown: list[str] = []
    odds = causes.odds(bins, before, now, seed)
    split = shift.split(before.loss, now.loss, *odds, before.blocks, now.blocks)
    columns = causes.columns(schema, bins, before, now, split, permutations, seed)
    found: tuple[Segment, ...] = ()
    try:
        found = _segments(schema.task, bins, before, now, labelled, split, alpha, seed)
    except segments.SegmentError as error:
        unknown.append(f"segments, as there are {error}")
    choice = None
    if labelled:
        try:
            choice = _choice(schema.task, bins, before, now, alpha)
        except recalibration.RecalibrationError as error:
            unknown.append(f"which update is enough, as {error}")
    remedy = causes.remedy(bins, before, now, odds, split, columns, found, choice)
    return Diagnosis(
        metric=metrics.NAMES[metrics.METRICS[schema.task][0]],
        labelled=labelled,
        rows_before=len(before.loss),
        rows=len(now.loss),
        loss_before=float(before.loss.mean()),
        loss=float(now.loss.mean()),
        split=split,
        columns=columns,
        segments=found,
        choice=choice,
        remedy=remedy,
        unknown=tuple(unknown),
    )


def _cannot_say(schema: Schema, known: Sequence[pd.DataFrame], why: str) -> Diagnosis:
    losses = [np.nan, np.nan]
    for i, rows in enumerate(known):
        if len(rows) and rows[schema.label].notna().all():
            y, p = pipelines.outcome(rows, schema), frames.predictions(rows, schema)
            losses[i] = float(_loss(schema.task, y, p).mean())
    metric = metrics.NAMES[metrics.METRICS[schema.task][0]]
    remedy = Remedy("cannot say", "", why)
    sizes = [len(rows) for rows in known]
    return Diagnosis(metric, True, *sizes, *losses, None, (), (), None, remedy, (why,))


def _segments(
    task: str,
    bins: Sequence[Column],
    before: Side,
    now: Side,
    labelled: bool,
    split: Split,
    alpha: float,
    seed: int,
) -> tuple[Segment, ...]:
    """Return the segments that lost more than their predictions let expect."""
    usual = [np.zeros(len(s.loss)) for s in (before, now)]
    if labelled:
        scores = [_score(task, s.p) for s in (before, now)]
        usual = segments.expected(before.loss, scores[0], scores)
    periods = [
        Period(s.places, s.loss - u, s.blocks) for s, u in zip((before, now), usual, strict=True)
    ]
    drop = split.drop.value if split.drop.positive else np.nan
    return segments.search(bins, *periods, drop=drop, alpha=alpha, seed=seed)


def _score(task: str, p: np.ndarray) -> np.ndarray:
    """Return one number a row by which its loss is expected."""
    if task == "regression":
        return p
    if task == "binary":
        return p[:, 1]
    return -np.sum(p * np.log(np.clip(p, metrics.TINY, 1)), axis=1)


def _choice(task: str, bins: Sequence[Column], before: Side, now: Side, alpha: float) -> Choice:
    names, values = recalibration.directions(bins, [before.places, now.places])
    outcomes = [
        Outcomes(s.y, s.p, v, s.blocks) for s, v in zip((now, before), values[::-1], strict=True)
    ]
    return recalibration.choose(task, *outcomes, names=names, alpha=alpha)


def _summary_part(diagnosis: Diagnosis) -> Html:
    """The remedy and the numbers behind it, in sentences."""
    remedy = diagnosis.remedy
    where = f": {remedy.target}" if remedy.target else ""
    basis = "" if diagnosis.labelled else "estimated "
    sentences = [f"{remedy.reason[0].upper()}{remedy.reason[1:]}."]
    if np.isfinite(diagnosis.drop):
        sentences.append(
            f"The {basis}{diagnosis.metric} is {number(diagnosis.loss)} on "
            f"{diagnosis.rows:,} rows, and was {number(diagnosis.loss_before)} on "
            f"{diagnosis.rows_before:,} rows that cross-validation predicted."
        )
    if not diagnosis.labelled:
        sentences.append("Estimates assume that the relation of inputs to labels is as before.")
    sentences += [f"Cannot say: {each}." for each in diagnosis.unknown if each != remedy.reason]
    first, text = f"Remedy: {remedy.kind}{where}.", " ".join(sentences)
    return Html(f"<p><b>{escape(first)}</b> {escape(text)}</p>", f"{first} {text}")


def _terms_part(diagnosis: Diagnosis) -> Html:
    """The drop and the three terms that add up to it."""
    split = diagnosis.split
    meanings = {
        split.drop: "",
        split.harder: "inputs as before, in another mix",
        split.relation: "the loss of the same inputs",
        split.unlike: f"{1 - split.shared:.0%} of the rows",
    }
    rows = [
        {
            "part of the drop": t.name,
            f"rise of {diagnosis.metric}": _interval(t),
            "share": f"{t.value / split.drop.value:.0%}" if split.drop.positive else "–",
            "meaning": meaning,
        }
        for t, meaning in meanings.items()
    ]
    return markup.table(rows)


def _segments_part(diagnosis: Diagnosis) -> Html:
    """The segments that lost quality."""
    rows = [
        {
            "segment": s.condition,
            "rows": s.rows,
            "more loss a row": between(s.excess, s.low, s.high),
            "share of the drop": "–" if s.share is None else f"{s.share:.0%}",
            "p": s.p,
        }
        for s in diagnosis.segments
    ]
    if any(each.startswith("segments") for each in diagnosis.unknown):
        return Html("", "")
    return markup.table(rows, "No segment lost more than all other rows.")


def _columns_part(diagnosis: Diagnosis) -> Html:
    """The part of the drop that the drift of each column accounts for."""
    rows = [
        {
            "drifted column": c.name,
            "effect": round(c.effect, 3),
            "part of the drop": _interval(c.contribution) if c.contribution else NO_CONTRIBUTION,
            "broken": c.broken or "no",
        }
        for c in diagnosis.columns[:8]
    ]
    return markup.table(rows, "No column has drifted.")


def _interval(term: Term) -> str:
    return between(term.value, term.low, term.high)
