"""The preprocessing of a pipeline without pandas or scikit-learn: ColumnTransformer's own, in
double precision in NumPy.

A whole pipeline in ONNX scales in float32, which sends values to the other side of a tree's split.
Here a tree gets the ranks of its inputs among its thresholds, which float32 holds.
"""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

MISSING = "missing"  # what the models call a category that is not there
LARGEST = 3.4028234663852886e38  # of float32


class Encoding:
    """The preprocessing of a fitted pipeline, from plain data (`proof.encoding` writes it)."""

    def __init__(self, plan: dict) -> None:
        numbers = [f for f in plan["features"] if "categories" not in f]
        fills = [np.nan if f["fill"] is None else f["fill"] for f in numbers]
        self.fill, self.filled = np.array(fills, np.float64), any(f == f for f in fills)
        self.mean, self.scale = (np.array([f[k] for f in numbers]) for k in ("mean", "scale"))
        self.scaled = bool((self.mean != 0).any() or (self.scale != 1).any())
        self.categories = [f for f in plan["features"] if "categories" in f]
        self.places = [
            Numbers(np.nan if f.get("native") else -1, places(f["categories"]))
            for f in self.categories
        ]
        self.one_hot = any(f["one_hot"] for f in self.categories)
        self.cuts = cuts(plan)
        self.single = plan["single"]

    @property
    def passes(self) -> bool:
        """Whether numbers come through as they are, and each category as one code."""
        return not (self.filled or self.scaled or self.one_hot)

    def __call__(self, numbers: np.ndarray, categories: Sequence[Sequence]) -> np.ndarray:
        """The estimator's matrix, float64.

        `numbers`: (rows, columns), NaN for missing. `categories`: a sequence a column, None for
        missing.
        """
        if self.filled:
            numbers = np.where(np.isnan(numbers), self.fill, numbers)
        if self.scaled:
            numbers = (numbers - self.mean) / self.scale
        if not self.categories:
            return numbers
        codes = np.empty((len(numbers), len(self.places)))
        for i, (place, values) in enumerate(zip(self.places, categories, strict=True)):
            codes[:, i] = looked_up(values, place)
        parts = self._one_hot(codes) if self.one_hot else [codes]
        return np.concatenate([numbers, *parts], axis=1)

    def ranks(self, x: np.ndarray) -> np.ndarray:
        """The matrix in float32 for ONNX: ranks among a tree's thresholds (exact), else the
        numbers.
        """
        if not self.cuts:  # a number beyond float32 is as good as its largest
            return np.clip(x, -LARGEST, LARGEST).astype(np.float32)
        if self.single:
            x = np.clip(x, -LARGEST, LARGEST).astype(np.float32)
        found = np.empty(x.shape, np.float32)
        for i, cuts in enumerate(self.cuts):
            found[:, i] = cuts.searchsorted(x[:, i])
        found[np.isnan(x)] = np.nan
        return found

    def _one_hot(self, codes: np.ndarray) -> list[np.ndarray]:
        wide = [len(f["categories"]) for f in self.categories]
        return [codes[:, [i]] == np.arange(n) for i, n in enumerate(wide)]


class Coded(Sequence):
    """A column of texts (None: missing) as whole numbers that say which of `known` each row has."""

    def __init__(self, codes: np.ndarray, known: Sequence[str | None]) -> None:
        self.codes, self.known = codes, known

    def __len__(self) -> int:
        return len(self.codes)

    def __getitem__(self, at: int | slice) -> "str | Coded | None":
        codes = self.codes[at]
        return Coded(codes, self.known) if isinstance(at, slice) else self.known[codes]

    def __iter__(self) -> Iterator[str | None]:
        return map(self.known.__getitem__, self.codes.tolist())


class Numbers(dict):
    """The number of each known text, and that of all others."""

    def __init__(self, unseen: float, known: Mapping[str | None, float]) -> None:
        super().__init__(known)
        self.unseen = unseen

    def __missing__(self, value: str | None) -> float:
        return self.unseen


def looked_up(values: Sequence, numbers: Numbers) -> Sequence | np.ndarray:
    """The number of each value; where coded ones are few, each is looked up once."""
    if isinstance(values, Coded) and len(values.known) < len(values):
        return np.array([*map(numbers.__getitem__, values.known)])[values.codes]
    return [*map(numbers.__getitem__, values)]


def cuts(plan: dict) -> list[np.ndarray]:
    """The thresholds of each column; JSON's null is infinity, which only missing values exceed."""
    return [np.array([np.inf if c is None else c for c in each]) for each in plan["cuts"]]


def places(categories: Sequence[str]) -> dict[str | None, int]:
    """The code of each category, and of a missing value if there is one for it."""
    codes = {name: i for i, name in enumerate(categories)}
    return codes | ({None: codes[MISSING]} if MISSING in codes else {})
