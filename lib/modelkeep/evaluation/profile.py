"""Profile rows into counts that add up exactly over requests, replicas, hours and days."""

import json
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, fields
from functools import reduce
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from modelkeep.core.errors import ModelkeepError
from modelkeep.evaluation.binning import (
    Bins,
    category_places,
    learn_categories,
    learn_numbers,
    null,
    number_places,
    numbers,
    view,
)

if TYPE_CHECKING:
    import pyarrow as pa  # to count tables; who reads a profile does without

FORMAT = 1  # raise it when to_json writes something that an older from_json would misread
CHUNK = 65_536  # values compared at once: they and their bins stay in the processor's cache
RUN = 4_096  # rows of one block in a row from which they are counted by themselves
PREDICTION = "(prediction)"  # what the model predicted is watched like a column
UNITS = {"day": "D", "hour": "h"}


class ProfileError(ModelkeepError, ValueError):
    """Rows, bins or blocks that cannot be counted together."""


@dataclass(frozen=True, eq=False)
class Profile:
    """Counts of rows by column: arrays of blocks by bins; `blocks` None: one block, rows apart.

    `sizes` by block: how many finite nonzero numbers, and the sum of their log2|x| + 1023 in
    1/4096 (linear between powers of two): whole numbers, so that any order gives one sum.
    """

    bins: tuple[Bins, ...]
    blocks: np.ndarray | None
    rows: np.ndarray
    counts: Mapping[str, np.ndarray]
    sizes: Mapping[str, np.ndarray]


def learn(table: "pa.Table", kinds: Mapping[str, str], blocks: np.ndarray | None = None) -> Profile:
    """Fix the bins of each column of `kinds` ("number" or "category") by these rows, and count."""
    labels, index = _index(blocks, table.num_rows)
    bins = []
    for name, kind in kinds.items():
        if kind not in ("number", "category"):
            raise ProfileError(f"column {name!r} is of kind {kind!r}; use number or category")
        column = _column(table, name)
        make = learn_numbers if kind == "number" else learn_categories
        bins.append(make(name, column, index))
    return _count(tuple(bins), table, labels, index)


def count(
    bins: tuple[Bins, ...], table: "pa.Table | pa.RecordBatch", blocks: np.ndarray | None = None
) -> Profile:
    """Count rows into the reference's bins; `blocks` is each row's block start (see `starts`)."""
    return _count(bins, table, *_index(blocks, table.num_rows))


def stream(
    bins: tuple[Bins, ...],
    batches: Iterable["pa.RecordBatch"],
    time: str | None = None,
    every: str = "day",
) -> Profile:
    """Count record batches in flat memory, by day or hour of the column `time` if it is named."""
    import pyarrow as pa

    def counted(batch: "pa.RecordBatch") -> Profile:
        return count(bins, batch, time and starts(_column(batch, time), every))

    nothing = pa.table({b.name: pa.nulls(0) for b in bins})
    none = time and np.zeros(0, f"datetime64[{UNITS[every]}]")
    return reduce(add, _counted(counted, batches), count(bins, nothing, none))


def starts(times: "pa.Array | pa.ChunkedArray | np.ndarray", every: str = "day") -> np.ndarray:
    """Return the start in UTC of each time's day or hour, as datetime64[D] or datetime64[h]."""
    if not isinstance(times, np.ndarray):
        times = _times(times)
    if every not in UNITS or times.dtype.kind != "M":
        raise ProfileError(f"cannot cut {times.dtype} by {every!r}; give times, and day or hour")
    if np.isnat(times).any():
        raise ProfileError(f"row {np.isnat(times).argmax()} has no time; fill or drop such rows")
    unit, step = np.datetime_data(times.dtype)
    ticks = np.timedelta64(1, UNITS[every]) // np.timedelta64(step, unit)
    if ticks < 1:  # dates by the hour
        return times.astype(f"datetime64[{UNITS[every]}]")
    return (times.view(np.int64) // ticks).view(f"datetime64[{UNITS[every]}]")


def add(a: Profile, b: Profile) -> Profile:
    """Add two profiles of the same bins; exact, so order and grouping do not matter."""
    kinds = [p.blocks if p.blocks is None else p.blocks.dtype for p in (a, b)]
    if a.bins != b.bins or kinds[0] != kinds[1]:
        raise ProfileError(f"profiles of other bins or blocks ({kinds}) do not add; count alike")
    blocks = None if a.blocks is None else np.union1d(a.blocks, b.blocks)
    size = 1 if blocks is None else len(blocks)
    rows = [0 if blocks is None else np.searchsorted(blocks, p.blocks) for p in (a, b)]

    def total(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        out = np.zeros((size, *x.shape[1:]), np.int64)
        out[rows[0]] += x if blocks is not None else x[0]
        out[rows[1]] += y if blocks is not None else y[0]
        return out

    counts = {name: total(x, b.counts[name]) for name, x in a.counts.items()}
    sizes = {name: total(x, b.sizes[name]) for name, x in a.sizes.items()}
    return Profile(a.bins, blocks, total(a.rows, b.rows), counts, sizes)


def window(profile: Profile, first: np.datetime64 | str, end: np.datetime64 | str) -> Profile:
    """Return the blocks that start at or after `first` and before `end`."""
    if profile.blocks is None:
        raise ProfileError("this profile has no blocks to cut by; count it with block starts")
    ends = [np.datetime64(t).astype(profile.blocks.dtype) for t in (first, end)]
    kept = slice(*np.searchsorted(profile.blocks, ends))
    counts = {name: x[kept] for name, x in profile.counts.items()}
    sizes = {name: x[kept] for name, x in profile.sizes.items()}
    return Profile(profile.bins, profile.blocks[kept], profile.rows[kept], counts, sizes)


def to_json(profile: Profile) -> str:
    """Write a profile as JSON text; equal profiles give equal bytes."""
    blocks = profile.blocks
    if blocks is not None:
        starts = np.datetime_as_string(blocks).tolist()
        blocks = {"unit": np.datetime_data(blocks.dtype)[0], "starts": starts}
    columns = [
        {f.name: getattr(b, f.name) for f in fields(Bins)}
        | {"counts": profile.counts[b.name].tolist(), "sizes": profile.sizes[b.name].tolist()}
        for b in profile.bins
    ]
    rows = profile.rows.tolist()
    content = {"format": FORMAT, "blocks": blocks, "rows": rows, "columns": columns}
    return json.dumps(content, allow_nan=False, separators=(",", ":")) + "\n"


def from_json(text: str) -> Profile:
    """Read what `to_json` wrote."""
    content = json.loads(text)
    if content.get("format") != FORMAT:
        found = content.get("format")
        raise ProfileError(f"profile format is {found!r}, must be {FORMAT}; learn it again")
    counts, sizes, bins = {}, {}, []
    for c in content["columns"]:
        values = {f.name: c[f.name] for f in fields(Bins)}
        bins.append(Bins(**{k: tuple(v) if type(v) is list else v for k, v in values.items()}))
        counts[c["name"]] = np.array(c["counts"], np.int64).reshape(-1, len(bins[-1].labels))
        sizes[c["name"]] = np.array(c["sizes"], np.int64).reshape(-1, 2)
    blocks = content["blocks"]
    blocks = blocks and np.array(blocks["starts"], f"datetime64[{blocks['unit']}]")
    return Profile(tuple(bins), blocks, np.array(content["rows"], np.int64), counts, sizes)


def _counted(
    count: Callable[["pa.RecordBatch"], Profile], batches: Iterable["pa.RecordBatch"]
) -> Iterator[Profile]:
    """Count two batches while the next one is read; no more of them are held."""
    waiting: deque[Future] = deque()
    with ThreadPoolExecutor(2) as workers:
        for batch in batches:
            if len(waiting) == 2:
                yield waiting.popleft().result()
            waiting.append(workers.submit(count, batch))
        yield from (each.result() for each in waiting)


def _column(table: "pa.Table | pa.RecordBatch", name: str) -> "pa.Array":
    import pyarrow as pa

    have = table.schema.names
    if have.count(name) != 1:
        found = f"{have.count(name)} times among {', '.join(have)}"
        raise ProfileError(f"column {name!r} must be in the table once; it is {found}")
    column = table.column(name)
    if isinstance(column, pa.ChunkedArray):
        column = column.unify_dictionaries().combine_chunks()
    return column


def _times(column: "pa.Array | pa.ChunkedArray") -> np.ndarray:
    import pyarrow as pa

    column = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    if pa.types.is_date(column.type):
        column = column.cast(pa.timestamp("s"))
    if not pa.types.is_timestamp(column.type):
        raise ProfileError(f"times are {column.type}, must be timestamps or dates; convert them")
    times = view(column, f"datetime64[{column.type.unit}]")
    return times if column.null_count == 0 else np.where(null(column), np.datetime64("NaT"), times)


def _index(blocks: np.ndarray | None, rows: int) -> tuple[np.ndarray | None, np.ndarray | None]:
    """Return the sorted block starts and the position of each row's among them."""
    if blocks is None:
        return None, None
    if blocks.dtype.kind != "M" or len(blocks) != rows:
        found = f"{len(blocks)} of {blocks.dtype} for {rows} rows"
        raise ProfileError(f"blocks must be one datetime64 for each row, not {found}; use starts")
    ticks = blocks.view(np.int64)
    if rows == 0 or np.ptp(ticks) > 1_000_000:
        return np.unique(blocks, return_inverse=True)
    present = np.bincount(ticks - ticks.min()) > 0
    index = (np.cumsum(present) - 1)[ticks - ticks.min()]
    return (ticks.min() + np.flatnonzero(present)).view(blocks.dtype), index


def _pieces(index: np.ndarray | None, rows: int) -> list[tuple[slice, int | None]]:
    """Cut rows into chunks; where blocks come in long runs (sorted rows), into chunks of one."""
    ends, blocks = [0, rows], [None if index is not None else 0]
    if index is not None:
        bounds = np.flatnonzero(np.diff(index)) + 1
        if (len(bounds) + 1) * RUN <= rows:
            ends = [0, *bounds.tolist(), rows]
            blocks = index[ends[:-1]].tolist()
    return [
        (slice(start, min(start + CHUNK, b)), block)
        for (a, b), block in zip(pairwise(ends), blocks, strict=True)
        for start in range(a, b, CHUNK)
    ]


def _count(
    bins: tuple[Bins, ...],
    table: "pa.Table | pa.RecordBatch",
    labels: np.ndarray | None,
    index: np.ndarray | None,
) -> Profile:
    size = 1 if labels is None else len(labels)
    pieces = _pieces(index, table.num_rows)
    counts = {b.name: np.zeros((size, len(b.labels)), np.int64) for b in bins}
    sizes = {b.name: np.zeros((size, 2), np.int64) for b in bins}
    for b in bins:
        number = b.kind == "number"
        values = (numbers if number else category_places)(b, _column(table, b.name))
        for rows, block in pieces:
            here = index[rows] if block is None else None
            kept = slice(None) if block is None else slice(block, block + 1)
            places = number_places(values[rows], b.cuts) if number else values[rows]
            counts[b.name][kept] += _tally(places, here, counts[b.name][kept].shape)
            if number:
                sizes[b.name][kept] += _magnitudes(values[rows], here, size)
    rows = [table.num_rows] if index is None else np.bincount(index, minlength=size)
    return Profile(tuple(bins), labels, np.array(rows, np.int64), counts, sizes)


def _magnitudes(values: np.ndarray, index: np.ndarray | None, size: int) -> np.ndarray:
    bits = (values.view(np.int64) >> 40) & 0x7FFFFF  # exponent and 12 bits more
    bits[bits >= 0x7FF000] = 0  # infinite or missing
    if index is None:
        return np.array([np.count_nonzero(bits), bits.sum()])
    nonzero = np.bincount(index, bits > 0, size)  # sums of whole numbers: exact below 2**53
    return np.stack([nonzero, np.bincount(index, bits, size)], axis=1).astype(np.int64)


def _tally(places: np.ndarray, index: np.ndarray | None, shape: tuple[int, int]) -> np.ndarray:
    flat = places if index is None else index * shape[1] + places
    return np.bincount(flat, minlength=shape[0] * shape[1]).reshape(shape)
