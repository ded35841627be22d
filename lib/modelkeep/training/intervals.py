"""Prediction intervals of numbers: split conformal, and adaptive where labels come back.

The score of a row is |label - prediction| over the mean absolute error of rows with predictions of
the same size. An interval is the prediction plus and minus a factor times that error; the factor is
a quantile of the scores of cross-validation (split conformal, Lei et al. 2018), which holds as long
as new rows are like those. In service the newest labels take the place of the oldest scores, and
the quantile is raised by half of what coverage lacks among them (proportional control of the
miscoverage, after Gibbs and Candes 2021, Angelopoulos, Candes and Tibshirani 2023).
"""

import math
from bisect import bisect_left
from collections import deque
from collections.abc import Mapping, Sequence

import numpy as np

LEVEL = 0.9  # of the intervals on pages
WINDOW = 1000  # scores that decide the factor
GAIN = 0.5  # of missing coverage; with 1, labels that come a week late make it swing
STEP = 20  # new labels after which the factor is taken anew
BINS = 10
LEAST = 50  # rows in a bin; a mean of fewer is noise
GOLDEN = 0.6180339887498949


def learn(y: np.ndarray, p: np.ndarray) -> dict:
    """The `intervals` of a manifest, from labels and out-of-fold predictions (rows,).

    `cuts` of the prediction, `scales` (the mean absolute error between cuts, in the label's unit),
    `scores` (at most WINDOW, sorted).
    """
    errors = np.abs(y - p)
    bins = int(np.clip(len(p) // LEAST, 1, BINS))
    cuts = np.unique(np.quantile(p, np.linspace(0, 1, bins + 1)[1:-1]))
    place = np.searchsorted(cuts, p)
    rows = np.bincount(place, minlength=len(cuts) + 1)
    sums = np.bincount(place, errors, minlength=len(cuts) + 1)
    usual = float(errors.mean()) or 1.0
    # a bin without errors would claim to know the label
    scales = np.maximum((sums + usual) / (rows + 1), usual / 100)
    scores = np.sort(errors / scales[place])
    if len(scores) > WINDOW:
        scores = np.quantile(scores, (np.arange(WINDOW) + 0.5) / WINDOW)
    rounded = [float(f"{score:.6g}") for score in scores]
    return {"cuts": cuts.tolist(), "scales": scales.tolist(), "scores": rounded}


def factor(scores: Sequence[float], level: float) -> float:
    """The conformal quantile: the ceil((n + 1) level)-th smallest score, at most the largest."""
    ordered = np.sort(np.asarray(scores, float))
    rank = math.ceil((len(ordered) + 1) * level - 1e-9)
    return float(ordered[min(max(rank, 1), len(ordered)) - 1])


def scale(learned: Mapping, p: np.ndarray) -> np.ndarray:
    """The mean absolute error (rows,) of rows with predictions of the same size."""
    return np.asarray(learned["scales"])[np.searchsorted(learned["cuts"], np.ravel(p))]


def static(learned: Mapping, p: np.ndarray, level: float = LEVEL) -> tuple[np.ndarray, np.ndarray]:
    """The lower and upper ends (rows,) of the split conformal intervals."""
    half = factor(learned["scores"], level) * scale(learned, p)
    return p - half, p + half


class Adaptive:
    """The intervals of a model in service, which follow the labels that come back."""

    def __init__(self, learned: Mapping, level: float = LEVEL) -> None:
        self.learned, self.level = learned, level
        self._cuts, self._scales = list(learned["cuts"]), list(learned["scales"])
        grid = (np.arange(WINDOW) + 0.5) / WINDOW
        mixed = np.argsort(np.arange(WINDOW) * GOLDEN % 1)  # the oldest leave evenly
        seed = np.quantile(learned["scores"], grid)[mixed]
        self._scores = deque(seed.tolist(), maxlen=WINDOW)
        self._covered = deque((grid[mixed] <= level).astype(int).tolist(), maxlen=WINDOW)
        self._hits, self._new = sum(self._covered), 0
        self._factor = factor(learned["scores"], level)

    @property
    def factor(self) -> float:
        """The half width of an interval, in mean absolute errors."""
        if self._new >= STEP:
            lacking = self.level - self._hits / len(self._covered)
            aim = min(max(self.level + GAIN * lacking, 0.0), 1.0)
            self._factor, self._new = factor(self._scores, aim), 0
        return self._factor

    def ends(self, p: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The lower and upper ends (rows,) of the intervals now."""
        half = self.factor * scale(self.learned, p)
        return p - half, p + half

    def observe(self, prediction: Sequence[float], label: float) -> None:
        """Count a label of a prediction: the number, then the ends of its interval if it had one.

        A label is counted once; corrections are not.
        """
        p = prediction[0]
        wide = self._scales[bisect_left(self._cuts, p)]
        self._new += 1
        self._scores.append(abs(label - p) / wide)
        if len(prediction) == 3:
            covered = int(prediction[1] <= label <= prediction[2])
            self._hits += covered - self._covered[0]
            self._covered.append(covered)


def replay(
    learned: Mapping,
    y: np.ndarray,
    p: np.ndarray,
    at: np.ndarray,
    known_at: np.ndarray,
    level: float = LEVEL,
) -> np.ndarray:
    """Whether the adaptive interval of each row holds its label, as a server would have made it.

    `y` (NaN: no label), `p`, times (datetime64) of predictions `at` in order, of labels `known_at`.
    """
    adaptive, wide = Adaptive(learned, level), scale(learned, p).tolist()
    labelled = np.flatnonzero(~np.isnan(y) & ~np.isnat(known_at))
    order = labelled[np.argsort(known_at[labelled], kind="stable")]
    waiting = iter(zip(order.tolist(), known_at[order].astype("int64").tolist()))
    label, known = next(waiting, (0, None))
    y, p, ends, covered = y.tolist(), p.tolist(), [], np.zeros(len(p), bool)
    for i, now in enumerate(at.astype("int64").tolist()):
        while known is not None and known <= now:
            if label < i:  # a label of a row that is not predicted yet counts for nothing
                adaptive.observe((p[label], *ends[label]), y[label])
            label, known = next(waiting, (0, None))
        half = adaptive.factor * wide[i]
        low, high = p[i] - half, p[i] + half
        ends.append((low, high))
        covered[i] = low <= y[i] <= high
    return covered
