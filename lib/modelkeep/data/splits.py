"""Tables: keep what was known at a moment, split it in time, write it and read it back."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from modelkeep.core import files
from modelkeep.data import schema, time_axis
from modelkeep.data.columns import as_text, as_times, with_column
from modelkeep.data.io import READING, TableError, read
from modelkeep.data.schema import MADE_IDS, Cleaned, Schema

ROLES = ("label", "time_column", "entity_column", "id_column", "features")
AGAIN = (*ROLES, "rules", *READING)  # the parameters of `read`
__all__ = [
    "AGAIN",
    "READING",
    "ROLES",
    "Prepared",
    "TableError",
    "load",
    "prepare",
    "read",
    "window",
    "write",
]


def read_again(origin: Mapping, root: Path, only: Sequence[str] = ()) -> pd.DataFrame:
    """Read the table that `origin` (params/prepare.yaml, or a schema's origin) was about."""
    stated = {name: origin[name] for name in AGAIN if name in origin}
    return read(str(origin["source"]), root, **stated, only=only)


@dataclass(frozen=True)
class Prepared:
    """Clean rows for training and testing, the quarantine, and how many there are of each."""

    train: pd.DataFrame
    test: pd.DataFrame
    quarantine: pd.DataFrame
    schema: Schema
    counts: dict


def prepare(
    table: pd.DataFrame,
    *,
    label: str,
    time_column: str = "",
    entity_column: str = "",
    id_column: str = "",
    features: Sequence[str] = (),
    task: str = "auto",
    rules: Mapping[str, Mapping] | None = None,
    as_of: str = "",
    label_delay_days: float = 0,
    history_days: float = 0,
    test_days: int = 28,
    test_share: float = 0.2,
    shuffle: bool = True,
    seed: int = 0,
    source: str = "",
    **reading: object,
) -> Prepared:
    """Split what was known at `as_of` into clean train and test rows of one learned schema.

    A table with a time is cut by time. Without one, `shuffle` puts the rows in an order drawn from
    `seed` and keeps a share `test_share` of each class for testing; else the file's order counts.
    `reading` are the parameters of `read`, kept with the schema.
    """
    origin = _origin({k: v for k, v in locals().items() if k not in ("table", "reading")}, reading)
    table = table.reset_index(drop=True)
    named = {name: value for name, value in origin.items() if name.endswith("_column")}
    schema.require(table, [("label", label), *named.items()])
    roles = {"label": label, "time": time_column, "entity": entity_column}
    roles["id"] = id_column or _made_id(table)
    if time_column:
        known = _known_at(table[time_column], as_of, label_delay_days, history_days)
    else:
        known = _known_rows(len(table), as_of, origin)
    labelled = known.due & as_text(table[label]).notna().to_numpy()
    _check_labelled(table, labelled, known, time_column)
    newest = _newest_days(known.clock, labelled, test_days) if time_column else None
    if newest is None:
        strata = as_text(table[label]) if origin["shuffle"] else pd.Series("", table.index)
        newest = _last_rows(known.clock, labelled, strata, test_share)
    stated = {"features": features, "task": task, "rules": rules, "origin": origin}
    learned = schema.learn(table[labelled & ~newest], **roles, **stated)
    learned = _with_context(learned, known)
    inside = table[known.inside]
    inside = with_column(inside, label, inside[label].where(known.due[known.inside]))
    return _split(schema.clean(inside, learned), learned, newest, known)


def _origin(stated: dict, reading: Mapping) -> dict:
    """The parameters of prepare as the schema keeps them."""
    if unknown := set(reading) - set(READING):
        raise TypeError(f"prepare() has no parameter {min(unknown)!r}")
    return stated | dict(reading) | {"shuffle": stated["shuffle"] and not stated["time_column"]}


def _with_context(learned: Schema, known: "_Known") -> Schema:
    left_out = dict.fromkeys(learned.origin.get("drop", ()), "left out by `drop`")
    axis = known.axis and tuple(map(str, known.axis))
    return replace(learned, axis=axis, ignored=learned.ignored | left_out)


def _made_id(table: pd.DataFrame) -> str:
    free = [name for name in MADE_IDS if name not in table.columns]
    if not free:
        raise TableError(f"id_column: set it, as the table has its own {' and '.join(MADE_IDS)}")
    return free[0]


@dataclass(frozen=True)
class _Known:
    """Per row of a table: its moment, and if it is in the period and its label has come."""

    clock: np.ndarray  # datetime64[us], or the position in a table without time
    later: np.ndarray
    older: np.ndarray
    due: np.ndarray
    axis: time_axis.Limits | None = None

    @property
    def inside(self) -> np.ndarray:
        return ~self.later & ~self.older


def _known_at(values: pd.Series, as_of: str, delay: float, history: float) -> _Known:
    times, _ = as_times(values)
    now = _moment("as_of", as_of) if as_of else None
    axis = time_axis.limits(times[times < now] if as_of else times)
    clock = time_axis.placed(times, axis)
    now = now if as_of else _end(clock)
    later = clock >= np.datetime64(now)
    older = (clock < np.datetime64(now - pd.Timedelta(days=history))) & (history > 0)
    arrived = times <= now - pd.Timedelta(days=delay if as_of else 0)
    return _Known(clock, later, older, arrived.to_numpy() & ~later & ~older, axis)


def _end(clock: np.ndarray) -> pd.Timestamp:
    """The first moment after the newest day."""
    newest = clock[~np.isnat(clock)].max(initial=np.datetime64(0, "us"))
    return pd.Timestamp(newest).floor("D") + pd.Timedelta(days=1)


def _known_rows(rows: int, as_of: str, origin: Mapping) -> _Known:
    clock = _positions(rows, origin)
    if not str(as_of or rows).isdecimal():
        raise TableError(
            f"as_of: {as_of!r} is not a number of rows, as a table without time_column needs "
            "(its first rows are known); set time_column, or as_of: '' for every row"
        )
    later = clock >= int(as_of or rows)
    return _Known(clock, later, np.zeros(rows, bool), ~later)


@lru_cache(maxsize=1000)  # a backtest asks for the same weeks again and again
def _moment(name: str, value: object) -> pd.Timestamp:
    times, _ = as_times(pd.Series([value]))
    if times.isna().any():
        raise TableError(f"{name}: {value!r} is not a date (ISO 8601); write it as 2013-07-01")
    return times[0]


def _check_labelled(table: pd.DataFrame, labelled: np.ndarray, known: _Known, time: str) -> None:
    if labelled.any():
        return
    dated = known.clock[~np.isnat(known.clock)] if time else known.clock
    if len(table) and not len(dated):
        raise TableError(
            f"time_column: no row is usable, as no value of {time!r} is a date "
            f"(ISO 8601, as 2013-01-31 17:05), the first is {table[time].iloc[0]!r}"
        )
    if len(table) and known.later.sum() == len(dated):
        raise TableError(
            f"as_of: nothing was known, the first row is of {pd.Series(dated).min()}; "
            "choose a later one"
        )
    raise TableError(
        f"no row is usable: of {len(table)} rows {known.later.sum()} are later than as_of, "
        f"{known.older.sum()} older than history_days and the rest have no label yet; "
        "check label, as_of, label_delay_days and history_days"
    )


def _newest_days(clock: np.ndarray, labelled: np.ndarray, test_days: int) -> np.ndarray:
    days = np.unique(clock[labelled].astype("datetime64[D]"))
    if not 1 <= test_days < len(days):
        raise TableError(
            f"test_days: {test_days} of the {len(days)} day(s) with labels are to be for testing, "
            f"and one at least for training; set it from 1 to {len(days) - 1}, or take more days"
        )
    return clock >= days[-test_days]


def _last_rows(
    clock: np.ndarray, labelled: np.ndarray, strata: pd.Series, test_share: float
) -> np.ndarray:
    """The last rows in the order of `clock`, of each value of `strata` with enough rows."""
    rows = int(labelled.sum())
    size = round(rows * test_share)
    if not 0 < size < rows:
        raise TableError(
            f"test_share: {test_share} of {rows} row(s) with labels leaves none on one side; "
            "set it between 0 and 1, or take more rows"
        )
    few = strata.nunique() <= schema.MAX_CLASSES
    known = pd.DataFrame({"clock": clock, "value": strata if few else ""})[labelled]
    for by in ("value", lambda _: 0):  # so few rows of each value that none is left for testing
        groups = known.sort_values("clock", kind="stable").groupby(by)
        sizes = groups["clock"].transform("size")
        last = groups.cumcount() >= sizes - (sizes * test_share).round()
        if last.any():
            break
    chosen = np.zeros(len(labelled), bool)
    chosen[last.index[last]] = True
    return chosen


def _split(cleaned: Cleaned, learned: Schema, newest: np.ndarray, known: _Known) -> Prepared:
    rows, aside = _in_order(cleaned.rows, learned, known.clock), cleaned.quarantine
    labelled = rows[learned.label].notna().to_numpy()
    test = newest[rows.index]
    parts = [rows[labelled & side].reset_index(drop=True) for side in (~test, test)]
    counts = {"rows_in": int((~known.later).sum()), "later": int(known.later.sum())}
    counts |= {"older": int(known.older.sum()), "train": len(parts[0]), "test": len(parts[1])}
    counts |= {"unlabelled": int((~labelled).sum()), "quarantined": len(aside)}
    counts["reasons"] = {rule: int(n) for rule, n in aside["rule"].value_counts().items()}
    out = sum(counts[name] for name in ("train", "test", "unlabelled", "quarantined", "older"))
    assert counts["rows_in"] == out, counts
    for name, part in zip(("training", "testing"), parts, strict=True):
        if part.empty:
            worst = next(iter(counts["reasons"]), "none")
            raise TableError(
                f"no row for {name} fits the schema: {len(aside)} are in quarantine, most often "
                f"with {worst!r}; mend the source or the rules"
            )
    known_rows = counts["rows_in"] - counts["older"]
    learned = replace(learned, quarantined_share=len(aside) / known_rows if known_rows else 0.0)
    return Prepared(*parts, aside, learned, counts)


def _in_order(rows: pd.DataFrame, learned: Schema, clock: np.ndarray) -> pd.DataFrame:
    """Rows in the order of time, or of `clock` (by index) where they have none."""
    if not learned.time:
        return rows.iloc[np.argsort(clock[rows.index], kind="stable")]
    if rows[learned.time].is_monotonic_increasing:
        return rows
    return rows.sort_values(learned.time, kind="stable")


def window(table: pd.DataFrame, learned: Schema, first: object, last: object) -> Cleaned:
    """Clean the rows with first <= time < last, or at those positions in a table without time.

    A row whose time is unreadable or odd is quarantined in the window of the row before it.
    """
    table = table.reset_index(drop=True)
    clock = _clock(table, learned)
    if learned.time:
        first, last = (np.datetime64(_moment(*each)) for each in (("first", first), ("last", last)))
    cleaned = schema.clean(table[(clock >= first) & (clock < last)], learned)
    rows = _in_order(cleaned.rows, learned, clock).reset_index(drop=True)
    return Cleaned(rows, cleaned.quarantine)


def newest(
    table: pd.DataFrame, learned: Schema, first: object, last: object
) -> pd.Timestamp | None:
    """The newest usable time with first <= time < last; None where there is none."""
    if not learned.time:
        return None
    clock = _clock(table, learned)
    inside = clock[(clock >= np.datetime64(first)) & (clock < np.datetime64(last))]
    return pd.Timestamp(inside.max()) if len(inside) else None


def _clock(table: pd.DataFrame, learned: Schema) -> np.ndarray:
    """The place of each row: its time, or its position in a table without time."""
    if not learned.time:
        return _positions(len(table), learned.origin)
    schema.require(table, [("time", learned.time)])
    return time_axis.placed(as_times(table[learned.time])[0], time_axis.parsed(learned.axis))


def _positions(rows: int, origin: Mapping) -> np.ndarray:
    """The place of each row in the order of learning: that of the file, or a seeded shuffle of it.

    Each position draws its own number, so that a file that grows keeps the order of what was there.
    """
    if not origin.get("shuffle"):
        return np.arange(rows)
    return np.random.default_rng(int(origin.get("seed", 0))).random(rows).argsort().argsort()


def blocks(rows: pd.DataFrame, schema: Schema) -> np.ndarray:
    """The block of each row within which rows are alike: its day, or itself where rows have no
    time.
    """
    if schema.time is None:
        return np.arange(len(rows))
    return rows[schema.time].to_numpy().astype("datetime64[D]")


def period(rows: pd.DataFrame, schema: Schema) -> str:
    """The first and the last day of rows, as a page states them."""
    if schema.time is None or rows.empty:
        return "rows have no time" if schema.time is None else "no rows"
    return f"{rows[schema.time].min():%Y-%m-%d} to {rows[schema.time].max():%Y-%m-%d}"


def weeks(rows: pd.DataFrame, schema: Schema) -> tuple[np.ndarray, np.ndarray]:
    """The starts of the weeks, or twenty equal parts of the file, and which one each row is in."""
    if schema.time is None:
        return np.arange(1, 21), np.arange(len(rows)) * 20 // max(len(rows), 1)
    day = rows[schema.time].to_numpy().astype("datetime64[D]")
    if len(day) == 0:
        return day, np.zeros(0, int)
    week = (day - day.min()).astype(int) // 7
    return day.min() + 7 * np.arange(week.max() + 1).astype("timedelta64[D]"), week


def write(frame: pd.DataFrame, path: Path, notes: Mapping[bytes, bytes] | None = None) -> None:
    """Write `frame` as Parquet, the same bytes for the same values and notes about them."""
    table = pa.Table.from_pandas(frame, preserve_index=False).replace_schema_metadata(None)
    buffer = pa.BufferOutputStream()
    with pq.ParquetWriter(buffer, table.schema, compression="zstd", store_schema=False) as writer:
        writer.write_table(table)
        writer.add_key_value_metadata(notes or {})
    files.write_bytes(path, buffer.getvalue())


def load(path: Path) -> pd.DataFrame:
    """Read what `write` wrote."""
    try:
        return pq.read_table(path).to_pandas(ignore_metadata=True)
    except (OSError, pa.ArrowInvalid) as error:
        raise TableError(f"{path} cannot be read ({error}); run the stage that makes it") from error
