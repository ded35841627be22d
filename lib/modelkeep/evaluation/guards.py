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
from scipy.special import log_ndtr, logit

from modelkeep.core.errors import ModelkeepError
from modelkeep.evaluation.comparison import Gain

KNOWN_WINDOWS = 4  # past windows before which a guard knows no spread and uses a wide limit
MAD = 1.48  # median absolute value of a normal variable, times this, is its standard deviation
LABEL_SDS, LABEL_FLOOR, LABEL_FIRST = 4.0, 0.25, 0.5  # floors in logits, or residual sds
LOSS_SDS, LOSS_FLOOR, LOSS_FIRST = 5.0, 0.25, 0.5  # floors as shares of the usual loss
COLUMN_TIMES, COLUMN_FLOOR = 1.5, 0.1  # times the largest past distance, and a distance
TINY = 1e-15  # a predicted probability below it counts as it
PRIOR_SHARE, PRIOR_DAYS = 0.03, 20  # day's differences of refits before any is known: share of loss
MOST = 8.0  # sds that one day's difference counts for at most
RECIPE_UPDATES, RECIPE_SPREAD, RECIPE_ALPHA = 12, 1.5, 0.05  # newest updates; sds; error rate
CHANCE = 1e-3  # probability with which rows drawn at random exceed the noise of a distance


ERROR_RATES = {
    "label guard": "holds a usual week in less than 1 of 500",
    "column guard": "holds a column whose rows are drawn at random in 1 of 1,000",
    "harm gate": "passes a candidate that harms as much as the limit in 5 %",
    "canary by risk": "costs days of a smaller share where it errs",
    "reverse shadow": "takes an equal model back with probability shadow_alpha at most",
    "recipe guard": "slows down in 1 to 3 % of years in which retraining changes nothing",
}


class GuardError(ModelkeepError, ValueError):
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

    @property
    def report(self) -> str:
        """The result with its error rate, for the report of an update."""
        return report(self.name, self.sentence)


def report(name: str, sentence: str) -> str:
    """A guard's result with its error rate."""
    return f"{name.capitalize()}: {sentence}; it {ERROR_RATES[name]}."


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
    sds: float = LABEL_SDS,
) -> Guard:
    """Judge the label gap of the newest window by those of past windows.

    `gap` (k,), `past` (windows, k), `error` (k,) are of `label_gap`; `names` (k,) are of the label
    or the classes. The limit of each: `sds` (4) sds of the past gaps, 4 sampling errors, or .25,
    whichever is largest (.5 before four past windows).
    """
    past = np.asarray(past, float).reshape(-1, len(gap))
    past = past[np.isfinite(past).all(axis=1)]
    error = np.broadcast_to(np.asarray(error, float), gap.shape)
    spread = np.array([_spread(x, sds) for x in np.abs(past).T])
    known = len(past) >= KNOWN_WINDOWS
    floor = LABEL_FLOOR if known else LABEL_FIRST
    limits = np.maximum.reduce([spread if known else 0 * error, sds * error, floor + 0 * gap])
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
    noise = _share_noise((n * p + m * q) / (n + m), inverse)
    return float(np.abs(p - q).sum() / 2), noise


def counted_distance(
    reference: np.ndarray, window: np.ndarray, ordered: bool
) -> tuple[float, float]:
    """Return `distance` from counts by bin (bins,), the last one missing; `ordered` for numbers."""
    if ordered:
        reference, window = (np.roll(x, 1) for x in (reference, window))
    n, m = int(reference.sum()), int(window.sum())
    p, q, inverse = reference / n, window / m, 1 / n + 1 / m
    if ordered:
        return float(np.abs(np.cumsum(p - q)).max()), float(
            np.sqrt(np.log(2 / CHANCE) / 2 * inverse)
        )
    return float(np.abs(p - q).sum() / 2), _share_noise((n * p + m * q) / (n + m), inverse)


def _share_noise(shares: np.ndarray, inverse: float) -> float:
    mean = np.sqrt(shares * (1 - shares) * inverse / (2 * np.pi)).sum()
    return float(mean + np.sqrt(np.log(1 / CHANCE) / 2 * inverse))


def column_guard(
    distances: np.ndarray,
    past: np.ndarray,
    noise: np.ndarray | float = 0.0,
    names: Sequence[str] = (),
    times: float = COLUMN_TIMES,
) -> Guard:
    """Judge how far columns are from the weeks before by the largest distance of earlier weeks.

    `distances` (columns,) and `past` (weeks, columns): `distance` of 7 days from the 28 days that
    ended 14 days before them; `noise` (columns,) as `distance` gives it. A column holds beyond 1.5
    times its largest past distance (at most halfway from there to 1), its noise and .1, from the
    fifth week on; `value` and `limit` are of the column that is furthest beyond its limit.
    """
    past = np.asarray(past, float).reshape(-1, len(distances))
    if len(past) < KNOWN_WINDOWS or len(distances) == 0:
        sentence = f"columns: {len(past)} past windows, {KNOWN_WINDOWS} are needed"
        return Guard("column guard", np.nan, np.nan, False, sentence)
    largest = past.max(axis=0)
    usual = np.minimum(times * largest, (1 + largest) / 2)  # below 1, the largest there is
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


def harm_guard(newest: Sequence[Gain], before: Sequence[Gain] = ()) -> Guard:
    """Judge a candidate that has learned from the rows on which it is compared with the champion.

    `newest` and `before` are the gains by metric (`comparison.judge`) on the newest 28 days and on
    the 28 days before; each margin is the harm that is tolerated. Held if the upper one-sided limit
    of the newest harm is above the margin, or if the mean harm before is above it and its lower
    limit is above 0. Learned rows flatter the candidate: this bounds harm on them, and is no
    measure of quality. A candidate that is as harmful as the margin on these rows passes with
    probability alpha of the limits (5 %) at most; so does one that harmed the days before is held.
    `value` is the largest harm in margins and `limit` is 1.
    """
    parts = [(-g.low / g.margin, g, "newest") for g in newest if np.isfinite(g.low)]
    if not parts:
        return Guard("harm gate", np.nan, 1.0, True, "no two labelled days to compare models on")
    sure = [g for g in before if np.isfinite(g.high)]
    parts += [(-g.gain / g.margin if g.high < 0 else 0.0, g, "earlier") for g in sure]
    value, gain, window = max(parts, key=lambda part: part[0])
    limit = "at most " if window == "newest" else ""
    harm = -gain.low if window == "newest" else -gain.gain
    name = gain.metric.replace("_", " ")
    sentence = (
        f"harm in {name} on {gain.blocks} {window} days is {limit}{harm:.3g} "
        f"(limit {gain.margin:.3g}; rows that the candidate has learned from)"
    )
    return Guard("harm gate", float(value), 1.0, value > 1, sentence)


def divergence(task: str, champion: np.ndarray, candidate: np.ndarray, scale: float = 1.0) -> float:
    """Return the mean Kullback-Leibler divergence of two models' predictions, in nats a row.

    Predictions are (rows, classes) probabilities, or (rows,) numbers: then normal distributions
    with the standard deviation `scale` of residuals.
    """
    if len(champion) == 0:
        raise GuardError("no rows: a divergence needs at least one")
    if task == "regression":
        return float(np.mean((champion - candidate) ** 2) / (2 * scale**2))
    p, q = (np.clip(x, TINY, 1) for x in (champion, candidate))
    return float(np.mean(np.sum(p * np.log(p / q), axis=1)))


def canary_guard(value: float, past: np.ndarray, weeks: float, times: float = 4.0) -> Guard:
    """Judge whether a candidate is unlike earlier ones, so that few requests are to try it first.

    `value` is the divergence of candidate and champion, `past` those of past updates by week of
    the champion's age, `weeks` the age of this champion. Held (begin as a canary) above `times` the
    median past divergence at that age, or while fewer than four are known. It refuses nothing: its
    error costs days of a smaller share, not a model.
    """
    past = np.asarray(past, float)
    past = past[np.isfinite(past)]
    if len(past) < KNOWN_WINDOWS:
        sentence = (
            f"{len(past)} past updates are known, {KNOWN_WINDOWS} are needed to know the risk"
        )
        return Guard("canary by risk", value, np.nan, True, sentence)
    limit = times * float(np.median(past)) * max(weeks, 1.0)
    sentence = f"predictions diverge by {value:.2g} nats a row (limit {limit:.2g})"
    return Guard("canary by risk", value, limit, value > limit, sentence)


def usual_difference(past: np.ndarray, loss: float) -> float:
    """Return the scale of a day's mean loss difference between a refit and its predecessor.

    Twice the median absolute difference of `past` days, with 3 % of `loss` worth 20 days.
    """
    past = np.asarray(past, float)
    known = np.abs(past[np.isfinite(past)])
    return 2 * float(np.median([*known, *[PRIOR_SHARE * loss] * PRIOR_DAYS]))


def shadow_evalues(differences: np.ndarray, scale: float) -> np.ndarray:
    """Return by day the e-value of "the new champion is worse than the old one".

    `differences` (days,) are mean losses of the new less those of the old, on the same rows; days
    without labels are nan and change nothing. One-sided normal mixture over standardised
    differences of at most 8: 2 / sqrt(1 + n) * exp(s^2 / (2 (1 + n))) * Phi(s / sqrt(1 + n)), s the
    sum of n differences (Robbins 1970): under equal or better models it ever reaches 1 / alpha with
    probability alpha at most, if a day's difference is sub-Gaussian with the given scale.
    """
    known = np.isfinite(differences)
    z = np.where(known, np.clip(np.nan_to_num(differences) / scale, -MOST, MOST), 0.0)
    s, n = np.cumsum(z), np.cumsum(known)
    root = np.sqrt(1 + n)
    return np.exp(np.log(2 / root) + s**2 / (2 * root**2) + log_ndtr(s / root))


def shadow_guard(differences: np.ndarray, scale: float, alpha: float = 0.01) -> Guard:
    """Judge a new champion beside the old one, which predicts silently: take it back when held."""
    evalues = shadow_evalues(np.asarray(differences, float), scale)
    value, limit = float(evalues.max(initial=0.0)), 1 / alpha
    days = int(np.isfinite(differences).sum())
    sentence = (
        f"e-value of the new champion being worse: {value:.3g} after {days} labelled days "
        f"(taken back at {limit:.0f})"
    )
    return Guard("reverse shadow", value, limit, value >= limit, sentence)


def recipe_guard(weekly: np.ndarray) -> Guard:
    """Judge whether retraining itself harms: held where new models are worse than their
    predecessors.

    `weekly` (updates,) are mean loss differences of each new champion less the one before, on the
    same rows, oldest first; the newest 12 are judged. The scale is 1.5 robust standard deviations
    of successive differences. In a year of weekly updates that change nothing it holds by chance in
    1 to 3 % (10 % where neighbouring weeks correlate by .3); harm of one standard deviation a week
    is found in 74 %.
    """
    weekly = np.asarray(weekly, float)
    weekly = weekly[np.isfinite(weekly)]
    limit, newest = 1 / RECIPE_ALPHA, weekly[-RECIPE_UPDATES:]
    steps = np.abs(np.diff(weekly))
    spread = MAD * float(np.median(steps)) / np.sqrt(2) if len(steps) else 0.0
    if len(weekly) < KNOWN_WINDOWS or spread == 0:
        sentence = f"{len(weekly)} updates compared with their predecessors, {KNOWN_WINDOWS} needed"
        return Guard("recipe guard", np.nan, limit, False, sentence)
    scale = RECIPE_SPREAD * (1 + 3 / len(steps)) * spread
    value, mean = float(shadow_evalues(newest, scale)[-1]), float(newest.mean())
    side = "worse" if mean > 0 else "better"
    sentence = (
        f"the last {len(newest)} new models were {side} than their predecessors by "
        f"{abs(mean):.3g} in loss a row on average (e-value {value:.3g}, limit {limit:.0f})"
    )
    return Guard("recipe guard", value, limit, value >= limit, sentence)
