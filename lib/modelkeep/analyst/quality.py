"""How good predictions are, for whom, and what would change them."""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import pandas as pd

from modelkeep.analyst import models, tables
from modelkeep.analyst.tables import RowsError
from modelkeep.core import workspace
from modelkeep.data.columns import as_numbers, as_text
from modelkeep.data.schema import Schema
from modelkeep.evaluation import comparison, metrics
from modelkeep.predictions import frames
from modelkeep.training import baseline, explain, pipelines
from modelkeep.training.bundle import Bundle

THRESHOLD = 0.5
WORDS = {
    "better": "Conclusion: the candidate is better.",
    "non_inferior": "Conclusion: the candidate is not worse by more than the margin.",
    "worse": "Conclusion: the candidate is worse.",
    "inconclusive": "Conclusion: these rows cannot tell the two apart.",
    "insufficient": f"Conclusion: none; fewer than {comparison.MINIMUM_BLOCKS} days are too few.",
}


def predict(rows: pd.DataFrame, model: Bundle | None = None) -> pd.DataFrame:
    """The rows with the model's predictions, readable (see `tables.readable`).

    `model` is the candidate of the workspace where none is given.
    """
    model = model or models.candidate()
    rows = tables.original(rows, model.schema)
    return tables.readable(
        frames.with_predictions(rows, model.schema, model.predict(rows)), model.schema
    )


def score(
    rows: pd.DataFrame,
    by: str | Sequence | None = None,
    *,
    model: Bundle | None = None,
) -> pd.DataFrame:
    """Each metric of labelled rows with its 95 % interval by day; `by` gives one line a group.

    Rows that hold predictions keep them, others are predicted by `model` (the candidate). Without
    `by` the index is the metric; with it, the group, worst first.
    """
    given = rows
    rows, schema, p, y = judged(rows, model)
    days = tables.blocks(rows, schema)
    notes = [tables.labelled(given, schema.label), _better(schema)]
    if by is None:
        estimates = metrics.summary(schema.task, y, p, days)
        table = pd.DataFrame({name: _estimate(e) for name, e in estimates.items()})
        return tables.answer(table.T.convert_dtypes(), *notes)
    group = tables.groups(tables.readable(rows, schema), by).to_numpy()
    lines = {}
    for name in pd.unique(group):
        inside = group == name
        estimates = metrics.summary(schema.task, y[inside], p[inside], days[inside])
        line = {"rows": int(inside.sum()), "days": len(np.unique(days[inside]))}
        for metric, e in estimates.items():
            low, high = tables.interval(e)
            line |= {metric: e.value, f"{metric}_low": low, f"{metric}_high": high}
        lines[name] = line
    table = pd.DataFrame(lines).T.convert_dtypes()
    return tables.answer(
        table.sort_values(metrics.METRICS[schema.task][0], ascending=False), *notes
    )


def _better(schema: Schema) -> str:
    """Which direction of each metric is better, as a sentence."""
    names = metrics.METRICS[schema.task]
    words = {name: "higher" if name in metrics.HIGHER_IS_BETTER else "lower" for name in names}
    text = "; ".join(f"{metrics.NAMES[name]}: {word} is better" for name, word in words.items())
    return f"{text[0].upper()}{text[1:]}."


def calibration(rows: pd.DataFrame, bins: int = 10, *, model: Bundle | None = None) -> pd.DataFrame:
    """Predicted and observed rate of the last class, in bins of equally many labelled rows.

    A bin whose interval from `low` to `high` misses `predicted` is off for sure; filter the rows
    first to see a group.
    """
    given = rows
    rows, schema, p, y = judged(rows, model)
    note = tables.labelled(given, schema.label)
    if schema.task == "regression":
        cuts = pd.qcut(p, min(bins, len(p)), duplicates="drop")
        table = pd.DataFrame({"predicted": p, "observed": y})
        table = table.groupby(cuts, observed=True).agg(["mean", "size"])
        table = pd.DataFrame(
            {
                "predicted": table["predicted", "mean"].to_numpy(),
                "observed": table["observed", "mean"].to_numpy(),
                "rows": table["observed", "size"].to_numpy(),
            }
        )
        return tables.answer(table, note)
    points = pd.DataFrame(metrics.calibration(y, p, tables.blocks(rows, schema), bins))
    return tables.answer(points, note)


def compare(
    champion: Bundle | pd.Series | np.ndarray | None,
    candidate: Bundle | pd.Series | np.ndarray,
    rows: pd.DataFrame,
) -> pd.DataFrame:
    """The gain of `candidate` over `champion` on labelled rows, by the gate's paired test.

    Each is a model or its predictions, one a row; None is the better of two plain rules, as at the
    gate where there is no champion. A positive `gain` is better; `low` and `high`
    are one-sided 95 % limits, by day. Neither model may have learned from the rows.
    """
    model = next((each for each in (candidate, champion) if isinstance(each, Bundle)), None)
    model = model or models.candidate()
    note = tables.labelled(rows, model.schema.label) if model.schema.label in rows else ""
    schema, rows = model.schema, _labelled(tables.original(rows, model.schema), model.schema)
    y = pipelines.outcome(rows, schema)
    if champion is None:
        champion = baseline.plain(model, rows)[1]
    theirs, ours = (_given(each, rows, schema) for each in (champion, candidate))
    gains = comparison.gains(schema.task, y, ours, theirs)
    margins = comparison.margins(schema.task, y, theirs)
    verdict = comparison.judge(gains, tables.blocks(rows, schema), margins)
    table = pd.DataFrame([vars(gain) for gain in verdict.gains]).set_index("metric")
    table = table.rename(columns={"blocks": "days"})
    table.attrs["verdict"] = verdict.word
    sign = "gain: above 0 the candidate is better (its loss is lower, its AUC higher)."
    return tables.answer(table, WORDS[verdict.word], sign, note)


def confusion(
    rows: pd.DataFrame, threshold: float = THRESHOLD, *, model: Bundle | None = None
) -> pd.DataFrame:
    """Labelled rows by label (lines) and predicted class (columns).

    Binary: the second class is predicted from a probability of `threshold` on. Multiclass: the
    class of the largest probability is.
    """
    rows, schema, p, y = judged(rows, model)
    if schema.task == "regression":
        raise RowsError(f"{schema.label} is a number and has no classes; use mk.score(rows)")
    chosen = (p[:, 1] >= threshold).astype(int) if schema.task == "binary" else p.argmax(axis=1)
    names = list(schema.classes)
    counts = np.zeros((len(names), len(names)), int)
    np.add.at(counts, (y, chosen), 1)
    return pd.DataFrame(
        counts,
        index=pd.Index(names, name=schema.label),
        columns=pd.Index(names, name="predicted"),
    )


def importance(
    rows: pd.DataFrame,
    *,
    model: Bundle | None = None,
    repeats: int = 3,
    seed: int = 0,
) -> pd.DataFrame:
    """How much worse the first metric gets when a column is shuffled, most important first.

    Permutation importance (Breiman 2001) on labelled rows that the model has not learned from;
    `spread` is the standard deviation over `repeats` shuffles.
    """
    model = model or models.candidate()
    schema, rows = model.schema, _labelled(tables.original(rows, model.schema), model.schema)
    lines = explain.permutation_importance(model, rows, schema, repeats=repeats, seed=seed)
    return pd.DataFrame(lines).set_index("column")


def what_if(
    row: Mapping[str, object] | pd.Series,
    *,
    model: Bundle | None = None,
    **changes: Iterable | object,
) -> pd.DataFrame:
    """The prediction for one row, and for that row with other values in one or several columns.

    `row` names features and their values (others are missing); each of `changes` is a column with
    one value or a list of values, as `hour=range(5, 24)`. The first line is the row as it is.
    """
    model = model or models.candidate()
    schema = model.schema
    _check_names([*row.keys(), *changes], schema)
    start = {column.name: row.get(column.name) for column in schema.columns}
    lines = [start]
    for name, values in changes.items():
        single = isinstance(values, str) or not isinstance(values, Iterable)
        lines += [start | {name: value} for value in ([values] if single else values)]
    table = pd.DataFrame(lines, dtype=object)
    for column in schema.columns:
        values = table[column.name]
        table[column.name] = (
            _numbers(values, column.name) if column.kind == "number" else as_text(values)
        )
    result = tables.readable(frames.with_predictions(table, schema, model.predict(table)), schema)
    added = [name for name in result if name not in table]
    return result[[*changes, *added]]


def _numbers(values: pd.Series, name: str) -> pd.Series:
    numbers, wrong = as_numbers(values)
    if wrong.any():
        raise RowsError(f"{name}: {values[wrong].iloc[0]!r} is not a number")
    return numbers


def _check_names(names: Iterable[str], schema: Schema) -> None:
    features = [column.name for column in schema.columns]
    known = {*features, schema.id, schema.time, schema.entity, schema.label}
    for name in names:
        if name not in known and not str(name).startswith(("p(", "p_", "prediction")):
            near = workspace.meant(str(name), features)
            raise RowsError(f"{name!r} is not a feature of the model{near or f': {features}'}")


def judged(
    rows: pd.DataFrame, model: Bundle | None
) -> tuple[pd.DataFrame, Schema, np.ndarray, np.ndarray]:
    """Labelled rows in the library's form, their schema, their predictions and their labels."""
    schema = model.schema if model else models.schema() or models.candidate().schema
    rows = _labelled(tables.original(rows, schema), schema)
    if model is None and set(frames.prediction_columns(schema)) <= set(rows):
        p = frames.predictions(rows, schema)
    else:
        p = (model or models.candidate()).predict(rows)
    return frames.with_predictions(rows, schema, p), schema, p, pipelines.outcome(rows, schema)


def _labelled(rows: pd.DataFrame, schema: Schema) -> pd.DataFrame:
    if schema.label not in rows:
        raise RowsError(f"the rows have no column {schema.label!r}, the label; join it first")
    rows = rows[rows[schema.label].notna()]
    if rows.empty:
        raise RowsError(f"no row has a label in {schema.label!r}; take older rows")
    return rows


def _given(model: Bundle | pd.Series | np.ndarray, rows: pd.DataFrame, schema: Schema):
    if isinstance(model, Bundle):
        return model.predict(rows)
    values = model.reindex(rows.index) if isinstance(model, pd.Series) else model
    values = np.asarray(values, dtype="float64")
    if len(values) != len(rows) or not np.isfinite(values).all():
        raise RowsError(
            f"{len(values)} predictions for {len(rows)} labelled rows; give one number a row"
        )
    return np.column_stack([1 - values, values]) if _is_binary(values, schema) else values


def _is_binary(values: np.ndarray, schema: Schema) -> bool:
    return schema.task == "binary" and values.ndim == 1


def _estimate(e: metrics.Estimate) -> dict[str, float]:
    low, high = tables.interval(e)
    return {
        "value": e.value,
        "low": low,
        "high": high,
        "rows": e.rows,
        "days": e.blocks,
        "design_effect": e.design_effect,
    }
