"""Is the newest window so far outside its own past that a person must look before anything goes on?

A guard compares one number of the newest window with the same number of past windows and holds
beyond a limit. Guards catch breaks (a label batch of one class, a misjoined column), at once;
slow changes are for the detectors of `drift` and `decisions`.

A limit is `factor * (1 + 8 / windows) * sd`: sd is 1.48 times the median absolute value of the past
windows, and the factor in brackets allows for few of them. Where past values are normal, a label
guard holds by chance in less than 1 of 500 windows (8 or more past windows: 1 of 1,600), a loss
guard in less than 1 of 140 (1 of 1,000); `benchmarks/drift_rates.py --only guards` simulates it.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import logit

KNOWN_WINDOWS = 4  # past windows before which a guard knows no spread and uses a wide limit
MAD = 1.48  # median absolute value of a normal variable, times this, is its standard deviation
LABEL_SDS, LABEL_FLOOR, LABEL_FIRST = 4.0, 0.25, 0.5  # floors in logits, or residual sds
LOSS_SDS, LOSS_FLOOR, LOSS_FIRST = 5.0, 0.25, 0.5  # floors as shares of the usual loss
COLUMN_TIMES, COLUMN_FLOOR = 1.5, 0.1  # times the largest past distance, and a distance
CHANCE = 1e-3  # probability with which rows drawn at random exceed the noise of a distance


class GuardError(ValueError):
    """Inputs that no guard can judge."""


@dataclass(frozen=True)
class Guard:
    """What a guard measured: it holds where `value` is above `limit`; nan where nothing is known.

    `name` is of the guard, `sentence` states the result with its numbers.
    """

    name: str
    value: float
    limit: float
    held: bool
    sentence: str


def label_gap(
    task: str, y: np.ndarray, predictions: np.ndarray, scale: float = 1.0
) -> tuple[np.ndarray, np.ndarray]:
    """Return how far labels are from predictions, and the sampling error of that.

    `y` are class numbers or floats (rows,), `predictions` of a model that has not seen these rows
    (rows, classes) or (rows,). Binary: logit(share of class 1) - logit(mean prediction), shape
    (1,). Several classes: the same for each, shape (classes,). Regression: mean residual divided by
    `scale`, the standard deviation of past residuals, shape (1,).
    """
    n = len(y)
    if n == 0:
        raise GuardError("no labelled rows: a label gap needs at least one; wait for labels")
    if task == "regression":
        residuals = (np.asarray(y, float) - predictions) / scale
        return np.array([residuals.mean()]), np.array([residuals.std() / np.sqrt(n)])
    classes = [1] if task == "binary" else range(predictions.shape[1])
    count = np.array([np.count_nonzero(y == k) for k in classes])
    mean = np.clip(predictions.mean(axis=0)[list(classes)], 1e-6, 1 - 1e-6)
    rate = (count + mean) / (n + 1)  # one row as predicted: no logit of 0 or 1
    return logit(rate) - logit(mean), 1 / np.sqrt(n * mean * (1 - mean))


def label_guard(
    gap: np.ndarray,
    past: np.ndarray,
    error: np.ndarray | float = 0.0,
    names: Sequence[str] = ("label",),
) -> Guard:
    """Judge the label gap of the newest window by those of past windows.

    `gap` (k,), `past` (windows, k), `error` (k,) are of `label_gap`; `names` (k,) are of the label
    or the classes. The limit of each: 4 sds of the past gaps, 4 sampling errors, or .25, whichever
    is largest (.5 before four past windows).
    """
    past = np.asarray(past, float).reshape(-1, len(gap))
    past = past[np.isfinite(past).all(axis=1)]
    error = np.broadcast_to(np.asarray(error, float), gap.shape)
    spread = np.array([_spread(x, LABEL_SDS) for x in np.abs(past).T])
    known = len(past) >= KNOWN_WINDOWS
    floor = LABEL_FLOOR if known else LABEL_FIRST
    limits = np.maximum.reduce([spread if known else 0 * error, LABEL_SDS * error, floor + 0 * gap])
    worst = int(np.argmax(np.abs(gap) / limits))
    value, limit = float(abs(gap[worst])), float(limits[worst])
    side = "higher" if gap[worst] > 0 else "lower"
    sentence = (
        f"labels of {names[worst]} are {side} than predicted by {value:.2f} "
        f"(limit {limit:.2f}, from {len(past)} past windows)"
    )
    return Guard("label guard", value, limit, value > limit, sentence)


def loss_guard(
    loss: float, past: np.ndarray, error: float = 0.0, name: str = "log loss", unit: str = ""
) -> Guard:
    """Judge the mean loss of the newest window by those of past windows `past` (windows,).

    The limit above the past median: 5 sds of the past windows, 4 sampling errors, or a quarter of
    the median, whichever is largest (half of it before four past windows). Lower loss never holds.
    """
    past = np.asarray(past, float)
    past = past[np.isfinite(past)]
    if len(past) == 0 or not np.isfinite(loss):
        return Guard("loss guard", loss, np.nan, False, f"{name}: no past window to compare with")
    usual, known = float(np.median(past)), len(past) >= KNOWN_WINDOWS
    floor = abs(usual) * (LOSS_FLOOR if known else LOSS_FIRST)
    spread = _spread(np.abs(past - usual), LOSS_SDS) if known else 0.0
    limit = usual + max(spread, 4 * error, floor)
    sentence = (
        f"{name} is {loss:.3g}{unit}, usually {usual:.3g}{unit} "
        f"(limit {limit:.3g}{unit}, from {len(past)} past windows)"
    )
    return Guard("loss guard", float(loss), limit, loss > limit, sentence)


def _spread(deviations: np.ndarray, sds: float) -> float:
    """Return so many robust standard deviations, more where few windows estimate them."""
    if len(deviations) == 0:
        return 0.0
    return sds * (1 + 8 / len(deviations)) * MAD * float(np.median(deviations))


def distance(reference: np.ndarray, window: np.ndarray) -> tuple[float, float]:
    """Return how far two samples of a column are apart, from 0 to 1, and what noise can reach.

    Numbers: Kolmogorov's distance, missing (nan) below all; else categories: total variation,
    missing (None, nan) a category. The noise is what two samples of one distribution exceed with
    probability .001 at most (Dvoretzky, Kiefer, Wolfowitz; McDiarmid), rows independent.
    """
    n, m = len(reference), len(window)
    if min(n, m) == 0:
        raise GuardError(f"{n} and {m} rows: a distance needs rows on both sides")
    inverse = 1 / n + 1 / m
    if np.asarray(reference).dtype.kind in "fiub":
        a, b = (
            np.sort(np.nan_to_num(np.asarray(x, float), nan=-np.inf)) for x in (reference, window)
        )
        points = np.unique(np.concatenate([a, b]))
        apart = np.searchsorted(a, points, "right") / n - np.searchsorted(b, points, "right") / m
        return float(np.abs(apart).max()), float(np.sqrt(np.log(2 / CHANCE) / 2 * inverse))
    values = np.array([str(x) for x in (*reference, *window)])
    values[np.isin(values, ("None", "nan", "<NA>", "NaT"))] = ""
    _, code = np.unique(values, return_inverse=True)
    p, q = np.bincount(code[:n], minlength=code.max() + 1) / n, np.bincount(code[n:]) / m
    q = np.pad(q, (0, len(p) - len(q)))
    both = (n * p + m * q) / (n + m)
    mean = np.sqrt(both * (1 - both) * inverse / (2 * np.pi)).sum()
    noise = mean + np.sqrt(np.log(1 / CHANCE) / 2 * inverse)
    return float(np.abs(p - q).sum() / 2), float(noise)


def column_guard(
    distances: np.ndarray,
    past: np.ndarray,
    noise: np.ndarray | float = 0.0,
    names: Sequence[str] = (),
) -> Guard:
    """Judge how far columns are from the weeks before by the largest distance of earlier weeks.

    `distances` (columns,) and `past` (weeks, columns): `distance` of 7 days from the 28 days that
    ended 14 days before them; `noise` (columns,) as `distance` gives it. A column holds beyond 1.5
    times its largest past distance, its noise and .1, from the fifth week on; `value` and `limit`
    are of the column that is furthest beyond its limit.
    """
    past = np.asarray(past, float).reshape(-1, len(distances))
    if len(past) < KNOWN_WINDOWS or len(distances) == 0:
        sentence = f"columns: {len(past)} past windows, {KNOWN_WINDOWS} are needed"
        return Guard("column guard", np.nan, np.nan, False, sentence)
    usual = COLUMN_TIMES * past.max(axis=0)
    limits = np.maximum.reduce(
        [usual, np.broadcast_to(noise, usual.shape), 0 * usual + COLUMN_FLOOR]
    )
    worst = int(np.argmax(distances / limits))
    value, limit = float(distances[worst]), float(limits[worst])
    held = [i for i in np.argsort(-distances / limits) if distances[i] > limits[i]]
    named = [names[i] if len(names) else f"column {i}" for i in held or [worst]]
    several = f"; in all {len(held)} columns are beyond their limits" if len(held) > 1 else ""
    sentence = (
        f"{named[0]} is {value:.2f} from the weeks before (limit {limit:.2f}, "
        f"from {len(past)} past weeks){several}"
    )
    return Guard("column guard", value, limit, value > limit, sentence)
