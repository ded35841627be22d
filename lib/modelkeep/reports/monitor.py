"""What the page of `monitor` says: what drifted, how good the model was, and what to do."""

import re
from collections.abc import Sequence

import numpy as np
import pandas as pd

from modelkeep.core import markup
from modelkeep.core.markup import Html, count, number, several, significant
from modelkeep.core.verdicts import Verdict
from modelkeep.data.schema import Schema
from modelkeep.evaluation import drift, metrics
from modelkeep.monitoring.attribution import Attribution
from modelkeep.monitoring.decisions import MonitoringResult
from modelkeep.monitoring.diagnosis import Diagnosis
from modelkeep.monitoring.slices import Watched
from modelkeep.monitoring.windows import Window, cut
from modelkeep.predictions import frames
from modelkeep.predictions.frames import LABELLED_AT
from modelkeep.reports import figures
from modelkeep.reports.figures import Figure
from modelkeep.training import costs as costing
from modelkeep.training import intervals, pipelines, reference
from modelkeep.training.bundle import Bundle

SHOWN = 20  # columns in the figure of what drifted; the rest is in the table
LINES = 5  # columns whose weight is drawn
PANELS, BARS = 4, 12  # columns whose distribution is drawn, and bars of each
KINDS = ("realised", "estimated", "corrected")
SENTENCES = {
    "ok": "Leave the model in service: inputs and realised quality give no reason to act.",
    "investigate": "Keep the model in service and investigate: the inputs have drifted, "
    "but realised quality shows no significant decline.",
    "retrain": "Retrain: the labels show that the model has become worse.",
}


def verdict(
    seen: MonitoringResult,
    watched: Watched | None = None,
    rests: Attribution | None = None,
    why: Diagnosis | None = None,
) -> Verdict:
    """What to do with the model in service; a slice that has declined turns ok to investigate, and
    another weight of a column is noted. Where something is to be done, the remedy is named.
    """
    decision, declined = seen.decision, watched.reasons if watched else ()
    sentence, state = SENTENCES[decision.state], decision.state
    if not seen.now:
        sentence = "Investigate: there are no predictions by which the model could be judged."
    elif not any(w.realised for w in seen.now):
        sentence = "Investigate: too few labels have come to judge the model."
    elif decision.state == "investigate" and "guard" in decision.reasons[0]:
        sentence = (
            "Investigate now: labels, loss or columns are far outside their own past "
            "(see the first reason)."
        )
    elif decision.state == "investigate" and not (seen.drift_path >= seen.limit).any():
        sentence = (
            "Keep the model in service and investigate: too few labels have come to judge it."
        )
    elif decision.state == "ok" and (seen.drift_path >= seen.limit).any():
        sentence = (
            "Leave the model in service: quality has not declined. Inputs have drifted, but in "
            "columns that follow the calendar (see the reasons)."
        )
    if declined and state == "ok":
        state = "investigate"
        sentence = "Keep the model in service and investigate: it has become worse for a slice."
    if state != "ok" and why and why.remedy.kind != "cannot say":
        sentence = f"{sentence} {why.lines()[0]}"
    newest = _newest_judged(seen)
    waiting = newest.rows - newest.labelled if newest else None
    evidence = stage_metrics(seen) | {
        "newest_bias": newest.realised.get("bias") if newest else None,
        "newest_waiting": waiting,
        "expected": expected(seen),
        "e_drift": _last(seen.drift_path),
        "e_decline": _last(seen.quality_path),
        "alert_at": seen.limit,
    }
    if watched:
        evidence["slices"] = {each.name: _or_none(each.evidence) for each in watched.slices}
    reasons = (*declined, *decision.reasons, *(rests.notes if rests else ()))
    return Verdict("monitor", state, sentence, reasons, evidence)


def _or_none(value: float) -> float | None:
    return value if np.isfinite(value) else None


def stage_metrics(seen: MonitoringResult) -> dict:
    """The newest numbers, for `dvc metrics`: the last judged window's quality.

    They are few, so that `dvc exp show` fits a terminal; the verdict has the others.
    """
    newest = _newest_judged(seen)
    realised = newest.realised if newest else {}
    shown = {f"newest_{name}": value for name, value in realised.items() if name != "bias"}
    return {"windows": len(seen.now)} | shown


def _newest_judged(seen: MonitoringResult) -> Window | None:
    """The newest collected window with enough labels."""
    return next((w for w in reversed(seen.now) if w.realised), None)


def expected(seen: MonitoringResult) -> dict[str, float]:
    """The expected quality of a window, by metric: the mean over the windows that cross-validation
    predicted, weighted by their labelled rows.
    """
    past = [w for w in seen.windows if w.past and w.realised]
    values = {name: [w.realised.get(name, np.nan) for w in past] for name in _metrics(past)}
    known = {name: np.isfinite(each) for name, each in values.items()}
    rows = np.array([w.labelled for w in past])
    return {
        name: float(np.average(np.array(each)[known[name]], weights=rows[known[name]]))
        for name, each in values.items()
        if known[name].any()
    }


def _metrics(windows: Sequence[Window]) -> list[str]:
    return list(dict.fromkeys(name for w in windows for name in w.realised))


def _last(path: np.ndarray) -> float:
    return float(path[-1]) if len(path) else 0.0


def _moments(windows: Sequence[Window]) -> np.ndarray:
    if windows and windows[0].start[:4].isdigit():
        return np.array([w.start for w in windows], dtype="datetime64[D]")
    return np.arange(1, len(windows) + 1)


def drifted(seen: MonitoringResult) -> Figure | Html:
    """Which column drifted in which window, by size of effect."""
    if not seen.drifts:
        return markup.table([], "There is no window to show.")
    names = [c.name for c in seen.drifts[0].columns]
    effects = {
        name: np.array([_drawn(m.columns[i]) for m in seen.drifts]) for i, name in enumerate(names)
    }
    ordered = dict(sorted(effects.items(), key=lambda item: -item[1].max())[:SHOWN])
    first, rows = seen.drifts[0], [m.rows for m in seen.drifts]
    return figures.drifted(
        _moments(seen.now),
        ordered,
        drift.LEVELS,
        title="Effect of the drift by column and window",
        caption=f"{_how_many(seen)} Effect by window of {min(rows):,} to {max(rows):,} rows "
        f"against {first.rows_before:,} rows of the reference; "
        f"coloured where the drift is more than chance ({first.fdr:.0%} false discoveries a "
        f"window). In the newest, {seen.drifts[-1].why}. {_least(seen.drifts[-1])}",
    )


def distributions(
    seen: MonitoringResult, served: Bundle, log: pd.DataFrame, days: int, size: int
) -> Figure | Html:
    """Distributions of the columns that drifted furthest: in the newest window, and before."""
    drifted = [c for c in seen.drifts[-1].columns if c.alarm] if seen.drifts else []
    if not drifted:
        return markup.table([], "No column has drifted in the newest window.")
    schema, before = served.schema, served.reference
    _, rows = cut(log, schema, days, size)[-1]
    now = reference.count(rows, schema, before)
    panels, furthest = {}, sorted(drifted, key=lambda c: -c.effect)[:PANELS]
    for column in furthest:
        (bins,) = (b for b in before.bins if b.name == column.name)
        counts = [p.counts[column.name].sum(axis=0) for p in (before, now)]
        panels[column.name] = _shares(bins.labels, *counts, ordered=bins.kind == "number")
    left = [c.name for c in drifted if c not in furthest]
    caption = f"{before.rows.sum():,} rows of the reference, {len(rows):,} of the newest window."
    caption += f" Not drawn: {several(left)}." if left else ""
    title = "Shares of the reference and of the newest window"
    return figures.distributions(panels, title=title, caption=caption)


def _shares(names: Sequence[str], before: np.ndarray, now: np.ndarray, ordered: bool) -> tuple:
    """Shares of at most BARS bins: neighbours together where they have an order, else the rest."""
    shares = [counts / max(counts.sum(), 1) for counts in (before, now)]
    kept = np.flatnonzero((before + now) > 0)
    names, shares = [names[i] for i in kept], [each[kept] for each in shares]
    if len(names) <= BARS:
        return names, *shares
    if ordered:
        starts = np.unique(np.linspace(0, len(names), BARS + 1).astype(int))[:-1]
        lows = [re.sub(r"^[\[(]([^,]+),.*", r"from \1", names[i]) for i in starts]
        return lows, *(np.add.reduceat(each, starts) for each in shares)
    order = np.argsort(-np.abs(shares[1] - shares[0]), kind="stable")
    top, rest = np.sort(order[: BARS - 1]), order[BARS - 1 :]
    shown = [np.append(each[top], each[rest].sum()) for each in shares]
    return [*(names[i] for i in top), f"{len(rest)} others"], *shown


def _least(result: drift.Drift) -> str:
    """How many rows could show the smallest effect that has a name."""
    if result.least_rows is None:
        return "The reference is too small to show an effect of 0.01 at any size of the window."
    return (
        f"An effect of 0.01 needs {result.least_rows:,} rows a window "
        "(found with probability 0.8, in half of the columns)."
    )


def _drawn(column: drift.ColumnDrift) -> float:
    """The effect, at least that of a note where a finding has a name, 0 where nothing drifted."""
    return max(column.effect, drift.LEVELS["note"]) if column.alarm else 0.0


def _how_many(seen: MonitoringResult) -> str:
    drifted = [c.name for c in seen.drifts[-1].columns if c.alarm]
    return f"Drifted in the newest window: {several(drifted) or 'none'}."


def newest(seen: MonitoringResult) -> Html:
    """What the newest window says of each column, the largest effect first."""
    if not seen.drifts:
        return markup.table([], "There is no window to show.")
    columns = sorted(seen.drifts[-1].columns, key=lambda c: (-c.drifted, -c.effect))
    rows = [
        {
            "column": c.name,
            "drifted": c.level if c.alarm else "no",
            "effect": round(c.effect, 4),
            "p": c.p,
            "missing": f"{c.missing_before:.1%} → {c.missing:.1%}",
            "findings": several([f.name for f in c.findings]) or "none",
        }
        for c in columns
    ]
    return markup.table(rows)


def evidence(seen: MonitoringResult) -> Figure | Html:
    """The e-values of drift and of decline by window, and the alert threshold."""
    if not seen.now:
        return markup.table([], "There is no window to show.")
    paths = {"inputs have drifted": seen.drift_path, "quality has declined": seen.quality_path}
    crossed = [name for name, path in paths.items() if (path >= seen.limit).any()]
    action = "Labels decide: retrain" if crossed else "No reason to act"
    if crossed and "quality has declined" not in crossed:
        action = "Labels decide: no reason to retrain"
    return figures.e_values(
        _moments(seen.now),
        paths,
        seen.limit,
        title="E-values by window, and the alert threshold",
        caption=f"{count(len(seen.now), 'window')}; an e-value of 1 is no evidence, of "
        f"{significant(seen.limit)} an alert. Beyond the line: {several(crossed) or 'neither'}. "
        f"{action}.",
    )


def quality(seen: MonitoringResult, metric: str) -> Figure | Html:
    """Realised, estimated and corrected values of one metric by window, and the expected one."""
    windows = seen.now
    if not any(metric in w.estimated or metric in w.realised for w in windows):
        return markup.table([], "There is no window whose quality is known.")

    def line(values: str) -> np.ndarray:
        return np.array([getattr(w, values).get(metric, np.nan) for w in windows])

    usual = expected(seen).get(metric)
    real, corrected = line("realised"), line("corrected")
    miss = _mean(np.abs(real - corrected))
    labelled = sum(w.labelled for w in windows)
    return figures.quality(
        _moments(windows),
        real,
        line("estimated"),
        corrected,
        (line("low"), line("high")),
        usual,
        name=metrics.NAMES[metric],
        waiting=_waiting(windows),
        title=f"Is {metrics.NAMES[metric]} still as expected?",
        caption=f"{labelled:,} labels in {count(len(windows), 'window')}; expected in a window "
        f"{number(usual)}, newest realised {number(_newest(real))}; the corrected estimate missed "
        f"by {number(miss)} on average. Estimates assume that the link from inputs to outcome has "
        "not changed.",
    )


def costs(served: Bundle, log: pd.DataFrame, days: int, size: int) -> Figure | Html:
    """What a labelled row cost in each window, by the rule of the bundle."""
    schema = served.schema
    if (kept := costing.of(served.manifest)) is None:
        return markup.table([], "No costs are stated (`costs` in params/train.yaml).")
    if not log[schema.label].notna().any():
        return markup.table([], "No label has come yet.")
    stated, rule = kept

    def spent(rows: pd.DataFrame) -> float:
        rows = rows[rows[schema.label].notna()]
        if rows.empty:
            return np.nan
        y, p = pipelines.outcome(rows, schema), frames.predictions(rows, schema)
        weights = costing.row_weights(rows, stated.column)
        return float(costing.per_row(stated, rule, y, p, weights).mean())

    windows = [*cut(log, schema, days, size)]
    lines, usual = np.array([spent(rows) for _, rows in windows]), spent(served.out_of_fold)
    starts = [start for start, _ in windows]
    times = np.array(starts, "datetime64[D]") if schema.time else np.arange(1, len(starts) + 1)
    known = lines[~np.isnan(lines)]
    return figures.course(
        times,
        lines,
        name="cost a row",
        title="What do errors cost, window by window?",
        caption=f"Classes by {rule.name}; {count(len(known), 'window')} with labels, from "
        f"{number(known.min())} to {number(known.max())} a row. Cross-validation gave "
        f"{number(usual)}, with the same rule.",
        limit=usual,
        limit_name="expected",
    )


def slices(watched: Watched) -> Html:
    """How good each watched slice was in its newest judged window, the worst evidence first."""
    rows = []
    for each in sorted(watched.slices, key=lambda s: -np.nan_to_num(s.evidence)):
        judged = [w for w in each.now if w.realised]
        past = [w for w in each.windows if w.past and w.realised]
        name = next(iter((judged or past or [None])[-1].realised), "") if judged or past else ""
        usual = [w.realised[name] for w in past]
        rows.append(
            {
                "slice": each.name,
                "rows collected": f"{sum(w.rows for w in each.now):,}",
                "windows judged": f"{len(judged)} of {len(each.now)}",
                f"newest {metrics.NAMES.get(name, 'loss')}": number(judged[-1].realised[name])
                if judged
                else "cannot say",
                "expected": number(float(np.mean(usual))) if usual else "cannot say",
                "e-value": "cannot say" if np.isnan(each.evidence) else significant(each.evidence),
                "alert at": significant(watched.limit),
            }
        )
    none = "No slice is watched: `slices` in params/evaluate.yaml names columns, and without names "
    return markup.table(rows, f"{none}no category has at most ten values with enough days.")


def rests_on(rests: Attribution) -> Figure | Html:
    """The mean absolute Shapley value of the columns that matter most, window by window."""
    if not len(rests.starts):
        why = rests.why or "No whole window of predictions has been collected."
        return markup.table([], f"Nothing is explained: {why}")
    order = np.argsort(-np.maximum(rests.means.max(axis=0), np.nan_to_num(rests.usual)))
    dated = rests.starts[0][:4].isdigit()
    index = pd.to_datetime(list(rests.starts)) if dated else range(1, len(rests.starts) + 1)
    chosen = [*dict.fromkeys([*rests.changed, *(rests.columns[i] for i in order)])][:LINES]
    places = [rests.columns.index(name) for name in chosen]
    lines = {rests.columns[i]: pd.Series(rests.means[:, i], index) for i in places}
    now = "; ".join(
        f"{rests.columns[i]} {number(rests.means[-1, i])} (before {number(rests.usual[i])})"
        for i in places
    )
    changed = several(rests.changed) if rests.changed else "no column"
    return figures.overlay(
        lines,
        name=f"weight, {rests.scale}",
        title="What do predictions rest on, window by window?",
        caption=f"Shapley values of a sample of each window; newest window: {now}. By more than "
        f"chance has changed: {changed} (alert at {significant(rests.limit)}).",
    )


def intervals_held(served: Bundle, log: pd.DataFrame, days: int, size: int) -> Figure | Html:
    """The share of labels within 90 % prediction intervals by window, fixed and adaptive."""
    schema, learned = served.schema, served.manifest.get("intervals")
    if schema.task != "regression" or not learned:
        return markup.table([], "This model has no prediction intervals.")
    if not log[schema.label].notna().any():
        return markup.table([], "No label has come yet.")
    y = log[schema.label].to_numpy(dtype="float64", na_value=np.nan)
    p = frames.predictions(log, schema)
    low, high = intervals.static(learned, p)
    held = {"fixed": (low <= y) & (y <= high)}
    if schema.time:
        moments = (log[name].to_numpy("datetime64[us]") for name in (schema.time, LABELLED_AT))
        held = {"adaptive": intervals.replay(learned, y, p, *moments)} | held
    place = pd.Series(np.arange(len(log)), log.index)
    windows = [
        (start, place[rows.index].to_numpy()) for start, rows in cut(log, schema, days, size)
    ]
    known = ~np.isnan(y)
    lines = {
        name: np.array([_share(h[i][known[i]]) for _, i in windows]) for name, h in held.items()
    }
    starts = [start for start, _ in windows]
    times = np.array(starts, "datetime64[D]") if schema.time else np.arange(1, len(starts) + 1)
    spread = ", ".join(
        f"{name} {np.nanmin(v):.0%} to {np.nanmax(v):.0%}" for name, v in lines.items()
    )
    return figures.courses(
        times,
        lines,
        {},
        name="labels within the interval",
        title=f"Do intervals of {intervals.LEVEL:.0%} hold {intervals.LEVEL:.0%} of the labels?",
        caption=f"{known.sum():,} labels in {count(len(windows), 'window')}; {spread}. Fixed "
        "intervals are those of training, adaptive ones follow the labels that come back.",
    )


def _share(held: np.ndarray) -> float:
    return float(held.mean()) if len(held) else np.nan


def _waiting(windows: Sequence[Window]) -> np.ndarray:
    """Which windows may still be waiting for labels: the two newest, where some are missing."""
    late = np.arange(len(windows)) >= len(windows) - 2
    return late & np.array([w.labelled < w.rows for w in windows], dtype=bool)


def _mean(values: Sequence[float]) -> float | None:
    known = np.array(values)[np.isfinite(values)]
    return float(known.mean()) if len(known) else None


def _newest(values: np.ndarray) -> float | None:
    known = values[np.isfinite(values)]
    return float(known[-1]) if len(known) else None


def labels(seen: MonitoringResult, least: float) -> Figure | Html:
    """The share of predictions whose label is known, by window."""
    if not seen.now:
        return markup.table([], "There is no window to show.")
    share = np.array([w.coverage for w in seen.now])
    return figures.course(
        _moments(seen.now),
        share,
        name="predictions with a label",
        title="Share of predictions with a label, by window",
        caption=f"{sum(w.rows for w in seen.now):,} predictions; the two newest windows may still "
        "be waiting. "
        f"Of the others, {sum(c < least for c in share[:-2])} have too few.",
        limit=least,
        limit_name="at least",
        share=True,
        waiting=_waiting(seen.now),
    )


def course_csv(seen: MonitoringResult, metrics: Sequence[str]) -> str:
    """Quality by window for `dvc plots`."""
    lines = ["window," + ",".join(f"{m}_{kind}" for m in metrics for kind in KINDS)]
    for w in seen.now:
        cells = [getattr(w, kind).get(m) for m in metrics for kind in KINDS]
        texts = ["" if c is None or np.isnan(c) else f"{c:.6g}" for c in cells]
        lines.append(",".join([w.start, *texts]))
    return "\n".join(lines) + "\n"


def delay(log: pd.DataFrame, of: Schema) -> str:
    """How long half of the labels took, in words."""
    wait = frames.delays(log, of)
    return f"{number(np.median(wait))} days in the median" if len(wait) else "unknown"
