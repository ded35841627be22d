"""What errors cost, and how a model treats groups of rows."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from modelkeep.analyst import models, quality, tables
from modelkeep.data import splits
from modelkeep.evaluation import metrics
from modelkeep.predictions import frames
from modelkeep.training import costs as costing
from modelkeep.training import pipelines
from modelkeep.training.bundle import Bundle


def costs(
    rows: pd.DataFrame,
    errors: Mapping[str, Mapping[str, float]],
    *,
    column: str = "",
    model: Bundle | None = None,
) -> pd.DataFrame:
    """The cost a row of labelled rows, with its 95 % interval by day, the cheapest rule first.

    `errors` is `{LABEL: {PREDICTED: COST}}`; `column` names a feature that each row's cost is
    multiplied with. The rule is chosen on the model's out-of-fold predictions, not on `rows`.
    """
    model = model or models.candidate()
    schema = model.schema
    stated = costing.read({"errors": errors, "column": column}, schema.classes)
    known = model.out_of_fold
    y, p = pipelines.outcome(known, schema), frames.predictions(known, schema)
    days = splits.blocks(known, schema)
    rule = costing.choose(stated, y, p, days, costing.row_weights(known, column))
    rows, schema, p, y = quality.judged(rows, model)
    days, weights = tables.blocks(rows, schema), costing.row_weights(rows, column)
    rules = {rule.name: rule}
    rules |= {f"always {name}": place for place, name in enumerate(schema.classes)}
    lines = {}
    for name, each in rules.items():
        e = metrics.clustered(costing.per_row(stated, each, y, p, weights), days)
        low, high = tables.interval(e)
        lines[name] = {"cost": e.value, "low": low, "high": high, "rows": e.rows, "days": e.blocks}
    table = pd.DataFrame(lines).T.convert_dtypes().sort_values("cost")
    table.attrs["threshold"] = rule.threshold
    return tables.answer(table, f"{rule.name}: {rule.basis}.")


def groups(
    rows: pd.DataFrame,
    by: str | Sequence,
    *,
    threshold: float = quality.THRESHOLD,
    model: Bundle | None = None,
) -> pd.DataFrame:
    """Rates by group with 95 % intervals by day, in the words of fairlearn's MetricFrame.

    `selection_rate`: rows of which the second class is predicted (from `threshold` on); `error`:
    rows with the wrong class; `calibration`: mean prediction less mean label. Several classes have
    `error` alone, numbers `calibration` alone. `attrs["difference"]` holds the largest difference
    between two groups with an interval.
    """
    rows, schema, p, y = quality.judged(rows, model)
    days = tables.blocks(rows, schema)
    group = tables.groups(tables.readable(rows, schema), by).to_numpy()
    values = _group_values(schema.task, y, p, threshold)
    lines = {}
    for name in pd.unique(group):
        inside = group == name
        lines[name] = {"rows": int(inside.sum()), "days": len(np.unique(days[inside]))}
        for metric, each in values.items():
            e = metrics.clustered(each[inside], days[inside])
            low, high = tables.interval(e)
            if metric != "calibration":  # a share is nowhere below 0 or above 1
                low, high = np.clip([low, high], 0, 1)
            lines[name] |= {metric: e.value, f"{metric}_low": low, f"{metric}_high": high}
    table = pd.DataFrame(lines).T.convert_dtypes()
    judged = table[table[f"{next(iter(values))}_low"].notna()]
    table.attrs["difference"] = {
        name: float(judged[name].max() - judged[name].min()) if len(judged) > 1 else np.nan
        for name in values
    }
    texts = [f"{k} {v:.3g}" for k, v in table.attrs["difference"].items() if np.isfinite(v)]
    note = f"Largest difference between groups: {', '.join(texts) or 'cannot say'}."
    return tables.answer(table.sort_values("rows", ascending=False), note)


def _group_values(
    task: str, y: np.ndarray, p: np.ndarray, threshold: float
) -> dict[str, np.ndarray]:
    if task == "regression":
        return {"calibration": p - y}
    if task == "multiclass":
        return {"error": (p.argmax(axis=1) != y).astype(float)}
    selected = p[:, 1] >= threshold
    return {
        "selection_rate": selected.astype(float),
        "error": (selected != y).astype(float),
        "calibration": p[:, 1] - y,
    }
