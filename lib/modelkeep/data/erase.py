"""Rows of one entity in files: count them in any file, and take them out of tables."""

import csv
import gzip
import io
import os
import re
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.feather as feather
import pyarrow.parquet as pq

from modelkeep.core import files
from modelkeep.core.errors import ModelkeepError

SHORTEST = 4  # a shorter name stands in many files by chance: it is looked for in tables only
PARQUET, ARROW, ZIP, GZIP = b"PAR1", b"ARROW1", b"PK\x03\x04", b"\x1f\x8b"
DEPTH = 3  # archives within archives


class EraseError(ModelkeepError, ValueError):
    """A table that no row can be taken out of."""


@dataclass(frozen=True)
class Wanted:
    """An entity (or a row's id where tables have no entity), and the ids of its rows."""

    entity: str
    entity_column: str  # '' where there is none
    id_column: str
    ids: set[str] = field(default_factory=set)

    @property
    def columns(self) -> dict[str, set[str]]:
        """The values that tell, by column."""
        own = {self.id_column: {self.entity} | self.ids} if self.id_column else {}
        return own | ({self.entity_column: {self.entity}} if self.entity_column else {})

    @property
    def pattern(self) -> re.Pattern | None:
        """The entity as a word of its own; None where it is too short to be looked for."""
        if len(self.entity) < SHORTEST:
            return None
        return re.compile(rb"(?<!\w)" + re.escape(self.entity.encode()) + rb"(?!\w)")


def occurrences(path: Path, wanted: Wanted) -> int:
    """How many rows of a table, or places of another file, are of the entity."""
    return _within(path.read_bytes(), wanted, DEPTH) if path.stat().st_size else 0


def remove(path: Path, wanted: Wanted, separator: str = "", encoding: str = "") -> int:
    """Take the entity's rows out of a table; how many there were. EraseError for other files."""
    content, name = path.read_bytes(), path.name.lower()
    if content.startswith((PARQUET, ARROW)):
        table = _arrow(content)
        own = _mask(table, wanted)
        if (n := pc.sum(own).as_py() or 0) > 0:
            files.write_bytes(path, _written(table.filter(pc.invert(own)), content))
        return n
    packed = name.endswith(".gz")
    if not name.removesuffix(".gz").endswith((".csv", ".tsv")):
        raise EraseError(f"{path.name}: no row can be taken out of this kind of file")
    text = gzip.decompress(content) if packed else content
    kept, n = _csv_without(text.decode(encoding or "utf-8-sig"), wanted, separator)
    if n:
        mark = "utf-8-sig" if not encoding and text.startswith(b"\xef\xbb\xbf") else "utf-8"
        new = kept.encode(encoding or mark)
        files.write_bytes(path, gzip.compress(new, mtime=0) if packed else new)
    return n


def ids(path: Path, wanted: Wanted, separator: str = "", encoding: str = "") -> set[str]:
    """The ids of the entity's rows in a table."""
    content = path.read_bytes()
    if not wanted.entity_column or not wanted.id_column:
        return set()
    if content.startswith((PARQUET, ARROW)):
        table = _arrow(content)
        if not {wanted.entity_column, wanted.id_column} <= {*table.column_names}:
            return set()
        own = table.filter(_mask(table, wanted))
        return {*_texts(own[wanted.id_column]).to_pylist()} - {None}
    text = gzip.decompress(content) if content.startswith(GZIP) else content
    try:
        rows = _records(text.decode(encoding or "utf-8-sig"), separator)
        _, header = next(rows, ("", []))
        place = header.index(wanted.id_column)
        return {row[place].strip() for _, row in rows if _of(row, header, wanted)}
    except (ValueError, IndexError):
        return set()


def _within(content: bytes, wanted: Wanted, depth: int) -> int:
    if content.startswith((PARQUET, ARROW)):
        try:
            return pc.sum(_mask(_arrow(content), wanted)).as_py() or 0
        except pa.ArrowInvalid:
            return 0  # a part of a file: nothing of it can be read
    if content.startswith(ZIP) and depth:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            return sum(
                _within(archive.read(name), wanted, depth - 1) for name in archive.namelist()
            )
    if content.startswith(GZIP) and depth:
        return _within(gzip.decompress(content), wanted, depth - 1)
    header = content[: content.find(b"\n")]
    if all(name.encode() in header for name in wanted.columns):
        try:
            return _csv_without(content.decode("utf-8-sig"), wanted, "")[1]
        except (UnicodeDecodeError, csv.Error):
            pass
    return len(wanted.pattern.findall(content)) if wanted.pattern else 0


def _arrow(content: bytes) -> pa.Table:
    source = pa.BufferReader(content)
    return pq.read_table(source) if content.startswith(PARQUET) else feather.read_table(source)


def _written(table: pa.Table, former: bytes) -> bytes:
    sink = pa.BufferOutputStream()
    if former.startswith(PARQUET):
        first = pq.ParquetFile(pa.BufferReader(former)).metadata.row_group(0).column(0)
        pq.write_table(table, sink, compression=first.compression.lower().replace("un", "none", 1))
    else:
        feather.write_feather(table, sink)
    return sink.getvalue().to_pybytes()


def _texts(column: pa.ChunkedArray) -> pa.ChunkedArray:
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    return column.cast(pa.string())


def _mask(table: pa.Table, wanted: Wanted) -> pa.ChunkedArray:
    """Which rows are the entity's; in a table without its columns, by any text in it."""
    columns = {name: v for name, v in wanted.columns.items() if name in table.column_names}
    if not columns:
        texts = [f.name for f in table.schema if _is_text(f.type)]
        columns = {key: {wanted.entity} for key in texts}
    own = pa.chunked_array([pa.array([False] * table.num_rows, pa.bool_())])
    for name, values in columns.items():
        found = pc.is_in(_texts(table[name]), pa.array(sorted(values), pa.string()))
        own = pc.or_(own, found)
    return own


def _is_text(kind: pa.DataType) -> bool:
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    return pa.types.is_string(kind) or pa.types.is_large_string(kind)


def _csv_without(text: str, wanted: Wanted, separator: str) -> tuple[str, int]:
    """The lines of a CSV file without the entity's rows, each kept line as it was."""
    rows = _records(text, separator)
    first, header = next(rows, ("", []))
    kept, n = [first], 0
    for lines, row in rows:
        if _of(row, header, wanted):
            n += 1
        else:
            kept.append(lines)
    return "".join(kept), n


def _of(row: list[str], header: list[str], wanted: Wanted) -> bool:
    cells = dict(zip(header, row, strict=False))
    return any(cells.get(name, "").strip() in v for name, v in wanted.columns.items())


def _records(text: str, separator: str) -> Iterator[tuple[str, list[str]]]:
    """Each record of a CSV file: its lines as they are, and its cells."""
    taken: list[str] = []
    separator = separator or max(",;\t|", key=text[: text.find("\n")].count)

    def lines() -> Iterator[str]:
        for line in io.StringIO(text, newline=""):
            taken.append(line)
            yield line

    for row in csv.reader(lines(), delimiter=separator):
        yield "".join(taken), row
        taken.clear()


def walk(folder: Path) -> Iterator[Path]:
    """The files below a folder, or the file itself; no links to elsewhere."""
    if folder.is_file():
        yield folder
    for place, _, names in os.walk(folder):
        yield from (Path(place) / name for name in sorted(names))
