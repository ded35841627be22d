"""Sources: read a CSV or Parquet file, a folder of them, or the example."""

import gzip
import warnings
from collections.abc import Sequence
from pathlib import Path
from runpy import run_path
from typing import IO

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from modelkeep.core.errors import ModelkeepError
from modelkeep.data.columns import did_you_mean

CSV, PARQUET = (".csv", ".csv.gz"), (".parquet", ".pq")
MAKER = "table.py"
INDEX = "__index_level_"  # how pandas names a nameless index in a Parquet file


class TableError(ModelkeepError, ValueError):
    """A source cannot be read, or leaves nothing to work with."""


def read(
    source: str,
    root: Path,
    *,
    label: str = "",
    time_column: str = "",
    entity_column: str = "",
    id_column: str = "",
    features: Sequence[str] = (),
) -> pd.DataFrame:
    """Read a CSV or Parquet file below `root`, a folder of them, or one with a `table.py` whose `table()` makes the rows.

    Ids and entities are read as text, so "007" stays; with `features` no other column is read.
    """
    roles = (label, time_column, entity_column, id_column)
    columns = [*roles, *features] if features else ()
    texts = (entity_column, id_column)
    if (root / source / MAKER).is_file():
        table = run_path(str(root / source / MAKER))["table"]()
        return table[_known(columns, list(table), source)]
    parts = _parts(source, root)
    tables = [_read_file(part, columns, texts) for part in parts]
    every = list(dict.fromkeys(name for table in tables for name in table.columns))
    for part, table in zip(parts, tables, strict=True):
        lacking = [name for name in every if name not in table.columns]
        if lacking:
            raise TableError(
                f"source {source!r}: {part.name} has no column {lacking[0]!r}, which other files "
                "of the folder have; give every file the same columns"
            )
    table = tables[0] if len(tables) == 1 else pd.concat(tables, ignore_index=True)
    if table.empty:
        raise TableError(f"source {source!r} has no rows; point source at a table with rows")
    return table


def _parts(source: str, root: Path) -> list[Path]:
    path = root / source
    if path.is_dir():
        parts = sorted(p for p in path.iterdir() if _readable(p))
        if not parts:
            raise TableError(f"source {source!r}: the folder holds no {_endings()} file")
        return parts
    if not path.is_file():
        beside = sorted(p.name for p in path.parent.iterdir()) if path.parent.is_dir() else []
        near = did_you_mean(path.name, beside)
        raise TableError(f"source: there is no file or folder {source!r} in the repository{near}")
    if not _readable(path):
        raise TableError(f"source {source!r}: the ending is not one of {_endings()}")
    return [path]


def _readable(path: Path) -> bool:
    return path.name.lower().endswith(CSV + PARQUET) and path.name[0] not in "._"


def _endings() -> str:
    return ", ".join(CSV + PARQUET)


def _known(columns: Sequence[str], names: list[str], where: str) -> list[str]:
    """Return which `columns` to read: those that are named, or all."""
    for name in columns:
        if name and name not in names:
            near = did_you_mean(name, names)
            raise TableError(f"{where} has no column {name!r}{near}")
    return [name for name in dict.fromkeys(columns or names) if name]


def _read_file(path: Path, columns: Sequence[str], texts: Sequence[str]) -> pd.DataFrame:
    reader = _read_csv if path.name.lower().endswith(CSV) else _read_parquet
    try:
        return reader(path, columns, texts)
    except pd.errors.EmptyDataError:
        raise TableError(f"{path.name} is empty; it needs a header line and rows") from None
    except UnicodeDecodeError:
        raise TableError(f"{path.name}: line {_bad_line(path)} is not UTF-8; save it so") from None
    except (
        pd.errors.ParserError,
        pd.errors.ParserWarning,
        pa.ArrowInvalid,
        OSError,
        EOFError,
    ) as error:
        said = " ".join(str(error).split())
        raise TableError(f"{path.name} cannot be read: {said}; mend or remove it") from error


def _read_csv(path: Path, columns: Sequence[str], texts: Sequence[str]) -> pd.DataFrame:
    with _open(path) as lines:
        header = lines.readline().decode("utf-8-sig")
    mark = max(",;\t|", key=header.count)
    first = pd.read_csv(path, header=None, nrows=1, dtype="str", sep=mark).iloc[0]
    names = _single(first.dropna().tolist(), path)
    dtypes = {name: "str" for name in texts if name in names}
    wanted = _known(columns, names, path.name) if columns else None  # None: also the nameless
    with warnings.catch_warnings():
        # Without this pandas shifts or drops fields where a line is longer than the header.
        warnings.simplefilter("error", pd.errors.ParserWarning)
        return pd.read_csv(
            path, usecols=wanted, dtype=dtypes, index_col=False, low_memory=False, sep=mark
        )


def _open(path: Path) -> IO[bytes]:
    return gzip.open(path) if path.name.lower().endswith(".gz") else open(path, "rb")


def _single(names: list[str], path: Path) -> list[str]:
    for name in names:
        if names.count(name) > 1:
            raise TableError(f"{path.name} has two columns named {name!r}; rename one")
    return names


def _bad_line(path: Path) -> int:
    with _open(path) as lines:
        for number, line in enumerate(lines, 1):
            try:
                line.decode()
            except UnicodeDecodeError:
                return number
    return 0


def _read_parquet(path: Path, columns: Sequence[str], texts: Sequence[str]) -> pd.DataFrame:
    stored = pq.read_schema(path).names
    names = _single([name for name in stored if not name.startswith(INDEX)], path)
    table = pq.read_table(path, columns=_known(columns, names, path.name))
    for place, found in enumerate(table.schema):
        kind = pa.string() if found.name in texts else None
        kind = pa.float64() if pa.types.is_decimal(found.type) else kind
        if kind is not None:
            values = table.column(place).cast(kind)
            table = table.set_column(place, found.name, values)
    return table.to_pandas(
        ignore_metadata=True, date_as_object=False, split_blocks=True, self_destruct=True
    )
