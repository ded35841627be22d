"""The bins of a column: fixed by the reference, found for any value, without pandas or SciPy."""

from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from modelkeep.core.errors import ModelkeepError

if TYPE_CHECKING:
    import pyarrow as pa  # to count tables; who reads bins does without

QUANTILES = 20
COMMON = 0.001  # share of the reference's rows from which a category has a bin of its own
REMEMBERED = 10_000  # rare categories kept; any more are "unseen" in the reference too


class BinsError(ModelkeepError, ValueError):
    """A column that is not what its bins are made for."""


@dataclass(frozen=True)
class Bins:
    """The bins of one column, fixed by the reference; `once`: its categories in only one block.

    `edges`: the smallest value, the left edges of the other bins, the largest value.
    """

    name: str
    kind: str
    edges: tuple[float, ...] = ()
    categories: tuple[str, ...] = ()
    rare: tuple[str, ...] = ()
    once: int = 0

    @cached_property
    def cuts(self) -> tuple[float, ...]:
        """Return what numbers are compared with: a bin is the number of cuts that are reached."""
        if not self.edges:
            return (-np.inf,)
        return (*self.edges[:-1], float(np.nextafter(self.edges[-1], np.inf)))

    @cached_property
    def labels(self) -> tuple[str, ...]:
        """Return readable bin names, in the order of the counts."""
        if self.kind == "number":
            return ("below", *_ranges(self.edges), "above", "missing")
        special = ("rare", "unseen", "missing")
        return (*(repr(c) if c in special else c for c in self.categories), *special)

    @cached_property
    def places(self) -> dict[str, int]:
        """Return the bin of each category that the reference knows."""
        own = {c: i for i, c in enumerate(self.categories)}
        return own | dict.fromkeys(self.rare, len(own))


def numbers(bins: Bins, column: "pa.Array") -> np.ndarray:
    """Return a column as float64, NaN where missing."""
    import pyarrow as pa

    kind, types = column.type, pa.types
    plain = types.is_integer(kind) or types.is_floating(kind) or types.is_decimal(kind)
    if not (plain or types.is_boolean(kind) or types.is_null(kind)):
        raise BinsError(f"column {bins.name!r} holds {kind}, not numbers; make it a category")
    if types.is_boolean(kind):
        column = column.cast(pa.uint8())
    values = view(column.cast(pa.float64(), safe=False), np.float64)
    return values if column.null_count == 0 else np.where(null(column), np.nan, values)


def learn_numbers(name: str, column: "pa.Array", index: np.ndarray | None) -> Bins:
    """Fix the bins of numbers: 20 quantiles, ties merged, a heavy value alone in its bin."""
    values = numbers(Bins(name, "number"), column)
    values = values[np.isfinite(values)]
    if len(values) == 0:
        return Bins(name, "number")
    ordered = np.sort(values[:: 1 + len(values) // 1_000_000])
    points = ordered[np.arange(QUANTILES) * len(ordered) // QUANTILES]
    tied = np.unique(points[1:][np.diff(points) == 0])
    after = np.searchsorted(ordered, tied, "right")
    edges = np.union1d(points, ordered[after[after < len(ordered)]])
    low, high = float(values.min()), float(values.max())
    return Bins(name, "number", (low, *edges[edges > low].tolist(), high))


def number_places(values: np.ndarray, cuts: tuple[float, ...]) -> np.ndarray:
    """Return the bin of each of some thousand numbers; faster than a binary search."""
    places, reached = np.zeros(len(values), np.uint8), np.empty(len(values), bool)
    for cut in cuts:
        np.greater_equal(values, cut, out=reached)
        places += reached.view(np.uint8)
    places[np.isnan(values)] = len(cuts) + 1
    return places


def learn_categories(name: str, column: "pa.Array", index: np.ndarray | None) -> Bins:
    """Fix the bins of categories: those of 0.1 % of the rows each, the most frequent first."""
    codes, names = _codes(column)
    rows = units = np.bincount(codes, minlength=len(names))
    if index is not None:
        blocks = int(index.max(initial=0)) + 1
        pairs = np.unique(codes.astype(np.int64) * blocks + index)
        units = np.bincount(pairs // blocks, minlength=len(names))
    seen = [i for i, c in enumerate(names) if c is not None and rows[i]]
    known = [names[i] for i in sorted(seen, key=lambda i: (-rows[i], names[i]))]
    common = int((rows[seen] >= COMMON * len(codes)).sum())
    rare = tuple(known[common : common + REMEMBERED])
    once = int((units[seen] == 1).sum())
    return Bins(name, "category", (), tuple(known[:common]), rare, once)


def category_places(bins: Bins, column: "pa.Array") -> np.ndarray:
    """Return the bin of each row's category."""
    codes, names = _codes(column)
    unseen = len(bins.categories) + 1
    places = [unseen + 1 if c is None else bins.places.get(c, unseen) for c in names]
    return np.array(places, np.uint16)[codes]


def _ranges(edges: tuple[float, ...]) -> list[str]:
    distinct = len(set(edges))
    digits = next(d for d in (4, 6, 9, 12, 17) if len({f"{e:.{d}g}" for e in edges}) == distinct)
    names = [f"[{e:.{digits}g}, {f:.{digits}g})" for e, f in pairwise(edges)]
    return [*names[:-1], *(name[:-1] + "]" for name in names[-1:])]


def _codes(column: "pa.Array") -> tuple[np.ndarray, list[str | None]]:
    """Return each row's position in a list of the different values, which ends with None."""
    import pyarrow as pa

    if not pa.types.is_dictionary(column.type):
        column = column.cast(pa.string()).dictionary_encode()
    names = [*column.dictionary.cast(pa.string()).to_pylist(), None]
    codes = view(column.indices, f"i{column.indices.type.bit_width // 8}")
    return (
        codes if column.null_count == 0 else np.where(null(column), len(names) - 1, codes),
        names,
    )


def view(array: "pa.Array", dtype: type | str) -> np.ndarray:
    """Return an Arrow array's values without a copy (`to_numpy` would import pandas: 0.4 s)."""
    if len(array) == 0:
        return np.zeros(0, dtype)
    return np.frombuffer(array.buffers()[1], dtype)[array.offset : array.offset + len(array)]


def null(array: "pa.Array") -> np.ndarray:
    """Return which values of an Arrow array are null."""
    import pyarrow as pa

    return view(array.is_null().cast(pa.uint8()), np.bool_)
