"""Read a table: CSV, Parquet, Feather or Excel files, a folder of them, or a folder that makes its
own.
"""

import gzip
import io
import warnings
import zipfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from runpy import run_path
from typing import IO, NamedTuple

import pandas as pd
import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet as pq

from modelkeep.core.errors import ModelkeepError
from modelkeep.data import storage
from modelkeep.data.columns import MISFITS, WRITTEN, did_you_mean, stated_kind
from modelkeep.data.definitions import number_pattern

PACKED = ("", ".gz", ".zip", ".zst")
CSV = (*[kind + packed for kind in (".csv", ".tsv") for packed in PACKED],)
PARQUET, FEATHER, EXCEL = (".parquet", ".pq"), (".feather", ".arrow"), (".xlsx",)
READABLE = CSV + PARQUET + FEATHER + EXCEL
EPOCHS = ("s", "ms", "us", "ns")
MAKER = "table.py"
INDEX = "__index_level_"  # how pandas names a nameless index in a Parquet file
READING = ("separator", "decimal", "thousands", "encoding", "date_format", "na_values", "drop")
PARAMS = "params/prepare.yaml"


class TableError(ModelkeepError, ValueError):
    """A source cannot be read, or leaves nothing to work with."""


@dataclass(frozen=True)
class Format:
    """How a file writes its values, and which of its columns are read as text."""

    separator: str = ""  # '' guesses , ; | or a tab from the header
    decimal: str = "."
    thousands: str = ""
    encoding: str = ""  # '' is UTF-8
    na_values: Sequence[str] = ()  # () takes those of pandas
    texts: Sequence[str] = ()  # ids, entities and columns whose kind is stated
    rules: Mapping[str, Mapping] = field(default_factory=dict)  # by column, see `columns.RULES`
    raw: bool = False  # every column of a CSV file as text, nothing missing but the empty text

    def __post_init__(self) -> None:
        for where, (decimal, thousands, _) in {"": self.of(""), **self.own}.items():
            if len(decimal) != 1 or len(thousands) > 1 or decimal == thousands:
                raise TableError(
                    f"{where}decimal {decimal!r} and thousands {thousands!r} must be two marks of "
                    f"one character; mend {PARAMS}"
                )

    @property
    def own(self) -> dict[str, tuple[str, str, str]]:
        """The columns with marks of their own."""
        return {name: self.of(name) for name, r in self.rules.items() if set(r) & set(WRITTEN)}

    def of(self, name: str) -> tuple[str, str, str]:
        """Decimal mark, mark between thousands, and what is stripped, of a column's numbers."""
        rule, usual = self.rules.get(name, {}), (self.decimal, self.thousands, "")
        return tuple(rule.get(k, v) for k, v in zip(WRITTEN, usual, strict=True))

    def stated(self, name: str) -> object:
        """The kind that is stated for a column."""
        return stated_kind(self.rules.get(name, {}))


def read(
    source: str,
    root: Path,
    *,
    label: str = "",
    time_column: str = "",
    entity_column: str = "",
    id_column: str = "",
    features: Sequence[str] = (),
    rules: Mapping[str, Mapping] | None = None,
    separator: str = "",
    decimal: str = ".",
    thousands: str = "",
    encoding: str = "",
    date_format: str = "",
    na_values: Sequence[str] = (),
    drop: Sequence[str] = (),
    only: Sequence[str] = (),
    raw: bool = False,
) -> pd.DataFrame:
    """Read a file below `root` or at `s3://...`, a folder of them, or one with a `table.py` whose
    `table()` makes the rows.

    Ids, entities and columns with a stated kind are read as text, so "007" stays. Text of Parquet,
    Feather and Excel files becomes a categorical: whoever typed it meant text. With `features` (or
    `only`) no other column is read; `drop` leaves columns out.
    """
    roles = (label, time_column, entity_column, id_column)
    columns = list(only) or ([*roles, *features] if features else [])
    rules = rules or {}
    texts = [entity_column, id_column, *(name for name in rules if stated_kind(rules[name]))]
    form = Format(separator, decimal, thousands, encoding, tuple(na_values), texts, rules, raw)
    with storage.local(source, root, READABLE) as (name, place):
        if is_made(place / name):
            table = run_path(str(place / name / MAKER))["table"]()
            table = table[_known(columns, list(table), source)]
        else:
            table = _read_parts(_parts(name, place), columns, form, source, roles)
    if missing := [name for name in drop if not columns and name not in table.columns]:
        near = did_you_mean(missing[0], table.columns)
        raise TableError(f"drop: {source} has no column {missing[0]!r}{near}")
    if both := [name for name in drop if name and name in roles]:
        raise TableError(
            f"drop: {both[0]!r} is named as label, time, entity or id too, so it cannot be left "
            "out; take it off `drop`, or off that line, in params/prepare.yaml"
        )
    table = table.drop(columns=[name for name in drop if name in table.columns])
    if date_format and time_column in table.columns:
        table[time_column] = _times(table[time_column], date_format)
    return table


class Span(NamedTuple):
    """A file, or neighbouring row groups of a Parquet file, whose `rows` are known."""

    path: Path
    groups: Sequence[int] = ()
    rows: int | None = None


def spans(source: Path, rows: int) -> Iterator[Span]:
    """The parts of a file, or of a folder of them, that can be read apart; of Parquet those with
    at least so many rows.
    """
    for path in _parts(source.name, source.parent):
        if _ends(path, PARQUET):
            with _reading(path, Format()), pq.ParquetFile(path) as stored:
                every = range(stored.num_row_groups)
                parts = [*_row_groups(stored.metadata, rows, every)]
            yield from (Span(path, *each) for each in parts)
        else:
            yield Span(path)


def stream(
    span: Span,
    columns: Sequence[str],
    texts: Sequence[str],
    rows: int,
    **reading: object,
) -> Iterator[pd.DataFrame]:
    """The rows of a span, at most `rows` at a time.

    Of `columns` those that a file has are read, `texts` as text; `reading` are those of `read`, and
    `rules`, `time_column`. Only one chunk is held at a time (of Excel and Feather, a file).
    """
    at, form = str(reading.pop("time_column", "")), str(reading.pop("date_format", ""))
    reading.pop("drop", None)
    written = Format(texts=tuple(texts), **reading)
    tables = _chunks(span, columns, written, rows)
    while True:
        with _reading(span.path, written):
            table = next(tables, None)
        if table is None:
            return
        if form and at in table.columns:
            table[at] = _times(table[at], form)
        yield table


def _chunks(span: Span, columns: Sequence[str], form: Format, rows: int) -> Iterator[pd.DataFrame]:
    path = span.path
    if _ends(path, CSV):
        # all columns: pandas tells a line with too many fields only so
        options = _csv_options(path, [], form)
        with _open(path) as file, pd.read_csv(file, chunksize=rows, **options) as parts:
            for part in parts:
                yield _stripped(part[[name for name in part if name in columns]].copy(), form)
    elif _ends(path, PARQUET):
        with pq.ParquetFile(path) as stored:
            names = [name for name in _single(stored.schema_arrow.names, path) if name in columns]
            for groups, _ in _row_groups(stored.metadata, rows, span.groups):
                for batch in stored.iter_batches(rows, row_groups=groups, columns=names):
                    yield _from_arrow(pa.Table.from_batches([batch]).select(names), form)
    else:
        table = _read_file(path, [], form)
        kept = table[[name for name in table.columns if name in columns]]
        yield from (kept.iloc[i : i + rows] for i in range(0, len(kept), rows))


def _row_groups(
    stored: pq.FileMetaData, rows: int, among: Sequence[int]
) -> Iterator[tuple[list[int], int]]:
    """Neighbouring row groups of at least so many rows together, and their rows.

    An iterator over all of them holds more memory with each.
    """
    groups, held = [], 0
    for i in among:
        groups.append(i)
        held += stored.row_group(i).num_rows
        if held >= rows or i == among[-1]:
            yield groups, held
            groups, held = [], 0


def is_made(source: Path) -> bool:
    """Whether a source is a folder that makes its rows."""
    return (source / MAKER).is_file()


def _read_parts(
    parts: Sequence[Path], columns: Sequence[str], form: Format, source: str, roles: Sequence[str]
) -> pd.DataFrame:
    tables = [_read_file(part, columns, form) for part in parts]
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
    if not any(_ends(part, CSV) for part in parts):
        typed = table.select_dtypes("str").columns.difference(roles)
        for name in typed:
            if form.stated(name) != "number":
                table[name] = table[name].str.strip().astype("category")
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


def _ends(path: Path, endings: tuple[str, ...]) -> bool:
    return path.name.lower().endswith(endings)


def _readable(path: Path) -> bool:
    return _ends(path, READABLE) and path.name[0] not in "._"


def _endings() -> str:
    return ", ".join(READABLE)


def _known(columns: Sequence[str], names: list[str], where: str) -> list[str]:
    """Return which `columns` to read: those that are named, or all."""
    for name in columns:
        if name and name not in names:
            near = did_you_mean(name, names)
            raise TableError(f"{where} has no column {name!r}{near}")
    return [name for name in dict.fromkeys(columns or names) if name]


def _read_file(path: Path, columns: Sequence[str], form: Format) -> pd.DataFrame:
    reader = _read_csv if _ends(path, CSV) else _read_excel if _ends(path, EXCEL) else _read_arrow
    with _reading(path, form):
        return reader(path, columns, form)


@contextmanager
def _reading(path: Path, form: Format) -> Iterator[None]:
    """Errors of libraries that read a file, in our words."""
    try:
        # Without this pandas shifts or drops fields where a line is longer than the header.
        with warnings.catch_warnings():
            warnings.simplefilter("error", pd.errors.ParserWarning)
            yield
    except pd.errors.EmptyDataError:
        raise TableError(f"{path.name} is empty; it needs a header line and rows") from None
    except UnicodeError:
        raise TableError(
            f"{path.name}: line {_bad_line(path, form)} is not {form.encoding or 'UTF-8'}; set "
            f"encoding in {PARAMS} (latin-1, cp1252 and utf-16 are usual), or save it as UTF-8"
        ) from None
    except LookupError as error:
        raise TableError(f"encoding: {error}; Python's names are latin-1, cp1252, ...") from None
    except ImportError:
        raise TableError(
            f"{path.name}: Excel files need a package; `pip install openpyxl`, or save it as CSV"
        ) from None
    except (
        pd.errors.ParserError,
        pd.errors.ParserWarning,
        pa.ArrowInvalid,
        zipfile.BadZipFile,
        OSError,
        EOFError,
    ) as error:
        reason = " ".join(str(error).split())
        raise TableError(f"{path.name} cannot be read: {reason}; mend or remove it") from error


def _read_csv(path: Path, columns: Sequence[str], form: Format) -> pd.DataFrame:
    with _open(path) as file:
        return _stripped(pd.read_csv(file, **_csv_options(path, columns, form)), form)


def _stripped(table: pd.DataFrame, form: Format) -> pd.DataFrame:
    for name in table.select_dtypes("str").columns:
        table[name] = table[name].str.strip()
    return table if form.raw else _with_plain_numbers(table, form)


def _csv_options(path: Path, columns: Sequence[str], form: Format) -> dict[str, object]:
    """The options of `pandas.read_csv`, by the file's header."""
    options = {"encoding": form.encoding or "utf-8-sig"}
    with _open(path) as file, io.TextIOWrapper(file, options["encoding"], newline="") as lines:
        header = lines.readline()
    options["sep"] = form.separator or _separator(path, header)
    with _open(path) as file:
        first = pd.read_csv(file, header=None, nrows=1, dtype="str", **options).iloc[0]
    names = _single(first.dropna().tolist(), path)
    texts = names if form.raw else [name for name in form.texts if name in names]
    options["dtype"] = dict.fromkeys(texts, "str")
    options["usecols"] = _known(columns, names, path.name) if columns else None
    options |= {"decimal": form.decimal} if form.decimal.isascii() else {}
    return options | {"index_col": False, "low_memory": False} | _missing(form)


def _separator(path: Path, header: str) -> str:
    return "\t" if ".tsv" in path.suffixes else max(",;\t|", key=header.count)


def _missing(form: Format) -> dict[str, object]:
    if not form.na_values and not form.raw:
        return {}
    return {"keep_default_na": False, "na_values": ["", *form.na_values]}


def _open(path: Path) -> IO[bytes]:
    match path.suffix.lower():
        case ".gz":
            return gzip.open(path)
        case ".zst":
            return io.BufferedReader(pa.CompressedInputStream(pa.OSFile(str(path)), "zstd"))
        case ".zip":
            archive = zipfile.ZipFile(path)
            names = [name for name in archive.namelist() if not name.endswith("/")]
            if len(names) != 1:
                raise TableError(f"{path.name} holds {len(names)} files; pack one table a file")
            return archive.open(names[0])
    return open(path, "rb")


def _with_plain_numbers(table: pd.DataFrame, form: Format) -> pd.DataFrame:
    """Numbers in columns of text, written as `form` says, as Python writes them."""
    for name in table.select_dtypes("str").columns:
        decimal, thousands, strip = form.of(name)
        if (decimal, thousands, strip) == (".", "", ""):
            continue
        text = table[name].str.strip(f"{strip} ") if strip else table[name]
        fits = text.str.fullmatch(number_pattern(decimal, thousands)).fillna(False).astype(bool)
        usual = name not in form.texts and fits.sum() >= (1 - MISFITS) * text.count() > 0
        if usual or form.stated(name) == "number":
            plain = text.str.replace(thousands, "", regex=False) if thousands else text
            table[name] = table[name].mask(fits, plain.str.replace(decimal, ".", regex=False))
    return table


def _single(names: list[str], path: Path) -> list[str]:
    for name in names:
        if names.count(name) > 1:
            raise TableError(f"{path.name} has two columns named {name!r}; rename one")
    return names


def _bad_line(path: Path, form: Format) -> int:
    with _open(path) as lines:
        for number, line in enumerate(lines, 1):
            try:
                line.decode(form.encoding or "utf-8")
            except UnicodeError:
                return number
    return 0


def _read_arrow(path: Path, columns: Sequence[str], form: Format) -> pd.DataFrame:
    if _ends(path, FEATHER):
        table = pyarrow.feather.read_table(path)
    else:
        table = pq.read_table(path, columns=_wanted(pq.read_schema(path).names, path, columns))
    return _from_arrow(table.select(_wanted(table.column_names, path, columns)), form)


def _from_arrow(table: pa.Table, form: Format) -> pd.DataFrame:
    for place, stored in enumerate(table.schema):
        kind = pa.large_string() if stored.name in form.texts else None  # as pandas has them
        kind = pa.float64() if pa.types.is_decimal(stored.type) else kind
        if kind not in (None, stored.type) and not pa.types.is_dictionary(stored.type):
            table = table.set_column(place, stored.name, table.column(place).cast(kind))
    return table.to_pandas(
        ignore_metadata=True, date_as_object=False, split_blocks=True, self_destruct=True
    )


def _wanted(stored: Iterable[str], path: Path, columns: Sequence[str]) -> list[str]:
    names = _single([name for name in stored if not name.startswith(INDEX)], path)
    return _known(columns, names, path.name)


def _read_excel(path: Path, columns: Sequence[str], form: Format) -> pd.DataFrame:
    names = pd.read_excel(path, nrows=0, engine="openpyxl").columns
    wanted = _known(columns, list(names), path.name) if columns else None
    # as it was typed: pandas would take a text of digits, as 01234, for a number
    options = {"usecols": wanted, "dtype": object, "engine": "openpyxl"}
    table = pd.read_excel(path, **options, **_missing(form)).infer_objects()
    texts = {name: "str" for name in form.texts if name in table}
    return table.astype(texts | {n: "str" for n in table if table[n].dtype == object})


def _times(values: pd.Series, form: str) -> pd.Series:
    """Times of one format (or seconds, milliseconds ... since 1970) as ISO 8601.

    Other values stay as they are.
    """
    if form in EPOCHS:
        numbers = pd.to_numeric(values, errors="coerce")
        times = pd.to_datetime(numbers, unit=form, errors="coerce")
    else:
        times = pd.to_datetime(values.astype("str"), format=form, errors="coerce", utc="%z" in form)
    text = values.astype("str")
    return text.mask(times.notna(), times.map(lambda at: at.isoformat(), na_action="ignore"))
