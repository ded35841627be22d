"""What columns hold: rates by group, distributions then and now, drift between two DataFrames."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import pyarrow as pa

from modelkeep.analyst import models, tables
from modelkeep.analyst.tables import RowsError
from modelkeep.core import workspace
from modelkeep.data.columns import as_text
from modelkeep.data.schema import Schema
from modelkeep.evaluation import drift as detection
from modelkeep.evaluation import metrics, profile

FEWEST_NUMBERS = 10  # whole numbers with at most so many distinct values are categories


def rate(rows: pd.DataFrame, by: str | Sequence, *, column: str | None = None) -> pd.DataFrame:
    """The mean of a column by group with its 95 % interval by day: `rate`, `low`, `high`.

    `column` is the label of the workspace where none is given. A column of several classes gives
    the share of each class, without intervals. Groups are those of `tables.groups`, the highest
    rate first.
    """
    schema = models.schema()
    rows = tables.readable(rows, schema) if schema else rows
    name = column or (schema.label if schema else None)
    if name is None or name not in rows:
        near = workspace.meant(str(name), list(rows.columns))
        raise RowsError(f"column: the rows have no column {name!r}{near}")
    note = f"{name} is known in {rows[name].notna().sum():,} of {len(rows):,} rows."
    rows = rows[rows[name].notna()]
    group, days = tables.groups(rows, by).to_numpy(), tables.blocks(rows, schema)
    if not pd.api.types.is_numeric_dtype(rows[name]):
        shares = pd.crosstab(group, rows[name].to_numpy(), normalize="index")
        shares["rows"] = pd.Series(group).value_counts()
        shares = shares.rename_axis(index=by if isinstance(by, str) else None, columns=name)
        return tables.answer(shares, note)
    values = rows[name].to_numpy(dtype="float64")
    lines, bounded = {}, bool(np.isin(values, (0, 1)).all())
    for each in pd.unique(group):
        e = metrics.clustered(values[group == each], days[group == each])
        low, high = tables.interval(e)
        if bounded:  # a share is nowhere below 0 or above 1
            low, high = np.clip([low, high], 0, 1)
        line = {"rate": e.value, "low": low, "high": high}
        lines[each] = line | {"rows": e.rows, "days": e.blocks}
    table = pd.DataFrame(lines).T.convert_dtypes().sort_values("rate", ascending=False)
    return tables.answer(table.rename_axis(by if isinstance(by, str) else None), note)


def drift(
    before: pd.DataFrame,
    now: pd.DataFrame,
    *,
    columns: Sequence[str] = (),
    time: str | None = None,
    fdr: float = 0.05,
    seed: int = 0,
) -> pd.DataFrame:
    """Which columns differ between two DataFrames: level, effect (PSI-like), p and the finding.

    Any two tables will do. Days are shuffled whole where the tables have a time (`time`, or that
    of the workspace); `result.attrs["basis"]` says what was taken as independent. Of the columns
    with a level other than `none`, a share of at most `fdr` differ by chance.
    """
    schema = models.schema()
    kinds = _kinds(before, now, schema, columns, time)
    days = [_days(rows, schema, time) for rows in (before, now)]
    days = days if all(each is not None for each in days) else [None, None]
    reference = profile.learn(_table(before, kinds), kinds, days[0])
    window = profile.count(reference.bins, _table(now, kinds), days[1])
    result = detection.compare(reference, window, fdr=fdr, seed=seed)
    lines = [
        {
            "column": c.name,
            "level": c.level,
            "effect": c.effect,
            "p": c.p,
            "missing_before": c.missing_before,
            "missing_now": c.missing,
            "finding": "; ".join(map(str, c.findings)),
        }
        for c in result.columns
    ]
    lines.sort(key=lambda line: (line["level"] == "none", -line["effect"]))
    table = pd.DataFrame(lines).set_index("column")
    table.attrs["basis"] = result.why
    return tables.answer(table, _levels())


def _levels() -> str:
    """What the words of the column `level` mean."""
    ordered = sorted(detection.LEVELS.items(), key=lambda item: item[1])
    floors = ", ".join(f"{name} from {floor:g}" for name, floor in ordered)
    return (
        f"level: none where chance explains the difference, else by effect: {floors}; a finding is "
        "at least a note, however small its effect."
    )


def distribution(column: str, before: pd.DataFrame, now: pd.DataFrame) -> pd.DataFrame:
    """How the values of a column are distributed, then and now: `before` and `now` are shares.

    Numbers are cut into ten ranges of equally many rows of `before`; values that `before` did not
    have are lines of their own, and so are missing values.
    """
    for rows in (before, now):
        if column not in rows:
            near = workspace.meant(column, list(rows.columns))
            raise RowsError(f"column: the rows have no column {column!r}{near}")
    parts = [before[column], now[column]]
    if _kind(parts[0]) == "number":
        cuts = np.unique(parts[0].dropna().quantile(np.linspace(0, 1, 11)[1:-1]))
        edges = [-np.inf, *cuts, np.inf]
        parts = [pd.cut(part, edges).astype("str").where(part.notna(), "missing") for part in parts]
        order = [str(each) for each in pd.IntervalIndex.from_breaks(edges)]
    else:
        parts = [part.astype("str").where(part.notna(), "missing") for part in parts]
        order = [*parts[0].value_counts().index]
    counts = [part.value_counts() for part in parts]
    every = dict.fromkeys([*order, *counts[1].index, *counts[0].index])
    table = pd.DataFrame({"before": counts[0], "now": counts[1]}).reindex(every).fillna(0)
    table = (table / table.sum()).assign(change=lambda shares: shares.now - shares.before)
    table = table[(table.before > 0) | (table.now > 0)].rename_axis(column)
    sizes = (
        f"Shares of {len(before):,} rows before and of {len(now):,} now; change is now - before."
    )
    return tables.answer(table, sizes)


def _kinds(
    before: pd.DataFrame,
    now: pd.DataFrame,
    schema: Schema | None,
    columns: Sequence[str],
    time: str | None,
) -> Mapping[str, str]:
    stated = {c.name: c.kind for c in schema.columns} if schema else {}
    own = {schema.id, schema.time, schema.entity} if schema else set()
    both = [name for name in before if name in set(now.columns)]
    for name in columns:
        if name not in both:
            raise RowsError(f"columns: {name!r} is not in both tables{workspace.meant(name, both)}")
    chosen = columns or [name for name in both if name not in own | {time}]
    times = [n for n in chosen if pd.api.types.is_datetime64_any_dtype(before[n])]
    kinds = {n: stated.get(n) or _kind(before[n]) for n in chosen if n not in times}
    if not kinds:
        raise RowsError("the tables have no column in common to compare")
    return kinds


def _kind(values: pd.Series) -> str:
    if not pd.api.types.is_numeric_dtype(values) or pd.api.types.is_bool_dtype(values):
        return "category"
    return "category" if values.nunique() <= FEWEST_NUMBERS and _whole(values) else "number"


def _whole(values: pd.Series) -> bool:
    return bool((values.dropna() % 1 == 0).all())


def _table(rows: pd.DataFrame, kinds: Mapping[str, str]) -> pa.Table:
    parts = {
        name: rows[name].to_numpy(dtype="float64", na_value=np.nan)
        if kind == "number"
        else as_text(rows[name]).astype(object).to_numpy()
        for name, kind in kinds.items()
    }
    return pa.Table.from_pandas(pd.DataFrame(parts), preserve_index=False)


def _days(rows: pd.DataFrame, schema: Schema | None, time: str | None) -> np.ndarray | None:
    name = time or (schema.time if schema else None)
    if name is None or name not in rows:
        return None
    return profile.starts(pd.to_datetime(rows[name]).to_numpy().astype("datetime64[us]"))
