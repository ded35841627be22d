"""What a row must look like: learn it, clean to it."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import pandas as pd

from modelkeep.data import columns, time_axis
from modelkeep.data.columns import Fault, as_numbers, as_text, as_times
from modelkeep.data.definitions import Column, Schema, SchemaError
from modelkeep.data.definitions import from_json as from_json
from modelkeep.data.definitions import to_json as to_json

TASKS = ("auto", "binary", "multiclass", "regression")
MAX_CLASSES = 20  # whole numbers with at most so many distinct values are classes
MADE_IDS = (
    "row",
    "row_number",
)  # the id made from the file order when the table has none


@dataclass(frozen=True)
class Cleaned:
    """Rows that fit, and as text those that do not with their `row`, `rule` and `reason`."""

    rows: pd.DataFrame
    quarantine: pd.DataFrame


def require(table: pd.DataFrame, wanted: Iterable[tuple[str, str | None]]) -> None:
    """Raise SchemaError for the first (role, column) in `wanted` that `table` does not have."""
    for role, name in wanted:
        if (name or role == "label") and name not in table.columns:
            near = columns.did_you_mean(name, table.columns)
            raise SchemaError(f"{role}: the table has no column {name!r}{near}")


def learn(
    rows: pd.DataFrame,
    *,
    label: str,
    time: str | None,
    id: str,
    entity: str | None,
    features: Sequence[str] | None = None,
    task: str = "auto",
    rules: Mapping[str, Mapping] | None = None,
    origin: Mapping | None = None,
) -> Schema:
    """Learn the schema of labelled `rows`; `rules` state kind, low, high, missing, unseen."""
    roles = {"label": label, "time": time or None, "entity": entity or None, "id": id}
    require(rows, [each for each in roles.items() if each[0] != "id" or id not in MADE_IDS])
    wanted = _wanted(rows, features, roles)
    rules = rules or {}
    _check_rules(rows, wanted, rules, label)
    task, classes = _classes(rows[label], task)
    for role, name in [*roles.items(), *(("features", name) for name in wanted)]:
        columns.check_name(role, name or "")
    learned = {name: columns.learn_column(rows[name], rules.get(name, {})) for name in wanted}
    ignored = {name: why for name, why in learned.items() if isinstance(why, str)}
    kept = tuple(column for column in learned.values() if isinstance(column, Column))
    if not kept:
        why = "; ".join(f"{name}: {reason}" for name, reason in list(ignored.items())[:5])
        raise SchemaError(f"features: no column is left to learn from ({why or 'no other column'})")
    roles.pop("label")
    origin = json.loads(json.dumps(dict(origin or {}), default=str))  # as it comes back
    return Schema(task, label, classes, kept, **roles, ignored=ignored, origin=origin)


def _wanted(
    rows: pd.DataFrame, features: Sequence[str] | None, roles: Mapping[str, str | None]
) -> list[str]:
    taken: dict[str, str] = {}
    for role, name in roles.items():
        if name in taken and taken[name] != "entity":  # a row may be an entity of its own
            raise SchemaError(f"{role}: {name!r} is the {taken[name]} already; name another column")
        taken |= {name: role} if name else {}
    if not features:
        return [name for name in rows.columns if name not in taken]
    require(rows, [("features", name) for name in features])
    for name in features:
        if name in taken:
            raise SchemaError(f"features: {name!r} is the {taken[name]}; take it off the list")
    return list(dict.fromkeys(features))


def _check_rules(
    rows: pd.DataFrame, wanted: list[str], rules: Mapping[str, Mapping], label: str
) -> None:
    require(rows, [("rules", name) for name in rules])
    for name, stated in rules.items():
        if name == label and set(stated) <= set(columns.WRITTEN):
            continue  # how its numbers are written
        if name not in wanted:
            near = columns.did_you_mean(name, wanted)
            raise SchemaError(f"rules: {name!r} is not a feature{near}")
        columns.check_rules(name, stated)


def _class_text(values: pd.Series) -> pd.Series:
    text = as_text(values)
    if pd.api.types.is_any_real_numeric_dtype(values.dtype):
        return text
    return text.str.strip().str.replace(r"^(-?\d+)\.0+$", r"\1", regex=True)


def _classes(values: pd.Series, task: str) -> tuple[str, tuple[str, ...]]:
    if task not in TASKS:
        raise SchemaError(f"task: {task!r} is not a task{columns.did_you_mean(task, TASKS)}")
    text, (numbers, bad) = _class_text(values), as_numbers(values)
    numeric = bad.sum() <= columns.MISFITS * text.notna().sum()
    counts = (text[np.isfinite(numbers)] if numeric else text).value_counts()
    if len(counts) < 2:
        raise SchemaError(
            f"label: {values.name!r} has one class or none ({', '.join(counts.index) or 'none'}) "
            f"in {len(values)} rows to learn from; a model needs two: "
            "take a longer history or another label"
        )
    if task == "auto":
        task = _task(numbers[np.isfinite(numbers)], numeric, len(counts))
    if task == "regression" and not numeric:
        raise SchemaError(f"label: {values.name!r} is not numbers; set task: multiclass")
    if task == "regression":
        return task, ()
    kept = _kept_classes(counts, task, str(values.name))
    kept = sorted(kept, key=float) if numeric and "True" not in kept else sorted(kept)
    return "binary" if len(kept) == 2 else "multiclass", tuple(kept)


def _task(numbers: np.ndarray, numeric: bool, distinct: int) -> str:
    if distinct == 2:
        return "binary"
    whole = distinct <= MAX_CLASSES and bool(np.all(numbers % 1 == 0))
    return "multiclass" if whole or not numeric else "regression"


def _kept_classes(counts: pd.Series, task: str, label: str) -> list[str]:
    kept = counts.iloc[:2] if task == "binary" else counts
    if task == "multiclass" and len(counts) > 2:
        kept = counts[counts > 1]  # a class of one row can be neither learned nor checked
    lost = counts.sum() - kept.sum()
    if lost > columns.MISFITS * counts.sum() or not 2 <= len(kept) <= columns.MAX_NAMES:
        raise SchemaError(
            f"label: {label!r} has {len(counts)} distinct values, too many for task {task!r}; "
            "set task: multiclass or regression, or take another label"
        )
    return list(kept.index)


def clean(
    table: pd.DataFrame, schema: Schema, *, unique: bool = True, also: Sequence[Fault] = ()
) -> Cleaned:
    """Bring `table` to `schema`; a row that does not fit is quarantined with its first reason.

    `unique`: a repeated id is a fault of the later row (a log may hold an id more than once);
    `also`: faults that the caller knows of, which come first.
    """
    roles = [("time", schema.time), ("entity", schema.entity)]
    roles += [("id", None if schema.id in MADE_IDS else schema.id)]
    require(table, roles + [("features", column.name) for column in schema.columns])
    table = table.set_axis(range(len(table))) if not table.index.is_unique else table
    fitted = list(_fitted(table, schema))
    fits = {values.name: values for values, _ in fitted}
    rows = pd.DataFrame(fits, index=table.index, copy=False)
    faults = [*also, *(fault for _, found in fitted for fault in found)]
    bad = _bad(faults, len(table))
    if unique and schema.id in table.columns:
        again = rows.loc[~bad, schema.id].duplicated().to_numpy()
        twice = np.zeros(len(table), bool)
        twice[np.flatnonzero(~bad)[again]] = True
        faults += columns.faults(rows[schema.id], twice, "is a duplicate id")
        bad |= twice
    return Cleaned(rows[~bad] if bad.any() else rows, quarantined(table, faults))


def nothing_quarantined() -> pd.DataFrame:
    """A quarantine without rows."""
    return pd.DataFrame({"row": [], "rule": [], "reason": []}).astype(
        {"rule": "str", "reason": "str"}
    )


def _fitted(table: pd.DataFrame, schema: Schema) -> Iterator[tuple[pd.Series, list[Fault]]]:
    yield _fit_id(table, schema.id)
    if schema.time:
        times, bad = as_times(table[schema.time])
        missing = times.isna().to_numpy() & ~bad
        written = table[schema.time]
        found = columns.faults(written, bad, "is not a date (ISO 8601, as 2013-01-31 17:05)")
        found += columns.faults(written, missing, "is missing")
        if schema.axis:
            odd = time_axis.outside(times, time_axis.parsed(schema.axis))
            found += columns.faults(written, odd, f"is outside the time axis {_shown(schema.axis)}")
        yield times, found
    if schema.entity and schema.entity != schema.id:
        yield as_text(table[schema.entity]), []
    for column in schema.columns:
        yield columns.fit(table[column.name], column)
    yield _fit_label(table, schema)


def _shown(axis: tuple[str, str]) -> str:
    return "..".join(each[:10] for each in axis)


def _fit_id(table: pd.DataFrame, name: str) -> tuple[pd.Series, list[Fault]]:
    if name not in table.columns:
        return as_text(table.index.to_series(name=name)), []
    ids = as_text(table[name])
    return ids, columns.faults(ids, ids.isna(), "is missing")


def _fit_label(table: pd.DataFrame, schema: Schema) -> tuple[pd.Series, list[Fault]]:
    """Return classes or float64, all missing where the table has no label yet."""
    if schema.label not in table.columns:
        kind = "float64" if schema.task == "regression" else "str"
        return pd.Series(np.nan, table.index, kind, schema.label), []
    values = table[schema.label]
    if schema.task == "regression":
        return columns.fit(values, Column(schema.label, "number"))
    text = _class_text(values)
    shown = ", ".join(schema.classes[:5]) + (", ..." if len(schema.classes) > 5 else "")
    bad = text.notna() & ~text.isin(schema.classes)
    return text, columns.faults(values, bad, f"is not one of {shown}")


def _bad(faults: list[Fault], rows: int) -> np.ndarray:
    bad = np.zeros(rows, bool)
    for fault in faults:
        bad[fault.reasons.index] = True
    return bad


@lru_cache(16)
def _nothing(names: tuple[str, ...], kind: np.dtype) -> pd.DataFrame:
    shown = (name + "_" * (name in ("row", "rule", "reason")) for name in names)
    nothing = pd.DataFrame(columns=["rule", "reason", *shown], dtype="str")
    nothing.insert(0, "row", np.empty(0, kind))
    return nothing


def quarantined(table: pd.DataFrame, faults: list[Fault]) -> pd.DataFrame:
    """Return the rows with faults as text, in table order, with the first fault of each."""
    if not faults:  # nearly always, and a backtest cleans a thousand weeks
        return _nothing(tuple(table.columns), table.index.dtype).copy(deep=False)
    found = [pd.DataFrame({"rule": each.rule, "reason": each.reasons}) for each in faults]
    first = pd.concat([pd.DataFrame({"rule": [], "reason": []}, dtype="str"), *found])
    first = first[~first.index.duplicated()].sort_index()
    rows = table.iloc[first.index]
    content = {
        "row": rows.index.to_numpy(),
        "rule": first["rule"],
        "reason": first["reason"],
    }
    names = {name + "_" * (name in content): name for name in rows.columns}
    texts = {shown: as_text(rows[name]) for shown, name in names.items()}
    content = {name: np.asarray(values) for name, values in (content | texts).items()}
    return pd.DataFrame(content).astype({name: "str" for name in content if name != "row"})
