"""Has a model in service lost its skill? An anytime-valid test on sums that replicas add up.

Skill is gained loss: how much lower the loss of the predictions is than with the labels of the same
day shuffled among them. For classes that is log loss in nats; for numbers squared error, both sides
standardised by the reference and cut at `CUT`. The level of a day (more late flights than usual)
cancels, so a season is no loss of skill.

The model's own predictions say which gain to expect of a day's rows, times what they gained out of
fold for each nat that they expected. The lost gain of a day is the expected less the realised one
less a tolerance a label: `TOLERATED` of what the model gains over always predicting the base rate
(or of a third of what it gains over shuffled labels, if that is more: a model may rank well and be
ill calibrated). Under the null hypothesis it has mean at most 0 and variance
`day * expected^2 + row * expected`: rows of one day are alike, so days are weighted by what they
tell. The e-value is that of a normal mixture (Robbins 1970): counted from any one day on, however
often it is read, it exceeds 1 / alpha with probability at most alpha.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from operator import mul

import numpy as np

TOLERATED = 0.4  # of the gain over the base rate
SHARPEST = 15.0  # variance at which the mixture is sharpest
WEEK, FEW_WEEKS = 7, 4
CUT = 3.0  # standard deviations
TINY = 1e-15


def learn(task: str, y: np.ndarray, p: np.ndarray, blocks: np.ndarray | None) -> dict:
    """Learn what to expect from labels (rows,), out-of-fold predictions and their days.

    `blocks` is None where rows have no time. The result goes into a manifest: `scale` (realised
    for each expected gain), `tolerance` (a label), `day` and `row` (variances), for numbers
    `center` and `spread`, for classes `base_rate_log_loss`. It is empty for a model without skill.
    """
    from modelkeep.evaluation import metrics  # needs SciPy, which a server does without

    place = np.zeros(len(y), int)
    if blocks is not None:
        place = np.unique(blocks, return_inverse=True)[1]
    if task == "regression":
        units = {"center": float(np.median(y)), "spread": float(np.std(y)) or 1.0}
        label, prediction = _standard(y, **units), _standard(p, **units)
        realised = 2 * _centred(label, place) * _centred(prediction, place)
        expected = 2 * _centred(prediction, place) ** 2
        gain = float(np.var(label) - np.mean((label - prediction) ** 2))
    else:
        logs = np.log(np.maximum(p, TINY))
        apart = _centred(logs, place)
        known = np.eye(p.shape[1])[y]
        realised = (_centred(known, place) * apart).sum(axis=1)
        expected = (_centred(p, place) * apart).sum(axis=1)
        share = np.bincount(y, minlength=p.shape[1]) / len(y)
        base = float(-np.log(share[y]).mean())
        gain, units = base - float(metrics.log_loss(y, p).mean()), {"base_rate_log_loss": base}
    if min(expected.sum(), realised.sum()) <= 0:
        return {}
    gain = max(gain, float(realised.mean()) / 3)
    scale = float(realised.sum() / expected.sum())
    day, row = _noise(scale * expected - realised, expected, place)
    learned = {"scale": scale, "tolerance": TOLERATED * gain, "day": day, "row": row}
    return learned | units


def _standard(values: np.ndarray, center: float, spread: float) -> np.ndarray:
    return np.clip((np.ravel(values) - center) / spread, -CUT, CUT)


def _centred(values: np.ndarray, place: np.ndarray) -> np.ndarray:
    """Return values (rows,) or (rows, classes) less their mean in their block."""
    table = values.reshape(len(values), -1)
    sums = np.stack([np.bincount(place, column) for column in table.T], axis=1)
    means = sums / np.maximum(np.bincount(place), 1)[:, None]
    return (table - means[place]).reshape(values.shape)


def _noise(excess: np.ndarray, expected: np.ndarray, place: np.ndarray) -> tuple[float, float]:
    """Return the variances between days and within a day, by the method of moments.

    The one between days is the larger of that of days and that of weeks of days, so that days that
    resemble the one before do not count as independent.
    """
    rows = np.bincount(place)
    sums, expected = np.bincount(place, excess), np.bincount(place, expected)
    if len(rows) == 1:
        return 0.0, float((excess**2).sum() / expected.sum())
    row = float(((excess**2).sum() - (sums**2 / rows).sum()) / expected.sum())
    row = max(row, 0.0) or float((excess**2).sum() / expected.sum())  # one row a day
    groups = [np.arange(len(rows))]
    if len(rows) >= WEEK * FEW_WEEKS:
        groups.append(np.arange(len(rows)) // WEEK)
    squares = [(np.bincount(group, sums) ** 2).sum() for group in groups]
    between = (max(squares) - row * expected.sum()) / (expected**2).sum()
    return max(float(between), 0.0), row


class DaySums:
    """The sums of one day's labelled predictions, from which its gains follow.

    Plain numbers: a label is counted in a few microseconds, without NumPy.
    """

    __slots__ = ("classes", "labels", "learned", "logs", "numbers")

    def __init__(self, learned: Mapping[str, float], classes: int = 0) -> None:
        self.learned, self.labels = learned, 0
        self.numbers = [0.0] * 4  # label, prediction, their product, the prediction's square
        self.classes = [[0.0] * classes for _ in range(3)]  # labels, probabilities, their logs
        self.logs = [0.0, 0.0]  # of the label's class, and as the probabilities weigh them

    def add(self, prediction: Sequence[float], label: float, sign: int = 1) -> None:
        """Count a label: the number of a class, or a value; `sign` -1 takes it away again."""
        self.labels += sign
        if "spread" in self.learned:
            self._add_number(prediction[0], label, sign)
            return
        known, given, logs = self.classes
        known[int(label)] += sign
        for k, p in enumerate(prediction):
            log = math.log(max(p, TINY))
            given[k] += sign * p
            logs[k] += sign * log
            self.logs[1] += sign * p * log
            if k == label:
                self.logs[0] += sign * log

    def _add_number(self, prediction: float, label: float, sign: int) -> None:
        center, spread = self.learned["center"], self.learned["spread"]
        y, p = (min(max((v - center) / spread, -CUT), CUT) for v in (label, prediction))
        for place, value in enumerate((y, p, y * p, p * p)):
            self.numbers[place] += sign * value

    def gains(self) -> tuple[float, float]:
        """Return the lost gain (expected less realised less tolerated) and the expected one."""
        if not self.labels:
            return 0.0, 0.0
        if "spread" in self.learned:
            y, p, yp, pp = self.numbers
            realised, expected = 2 * (yp - y * p / self.labels), 2 * (pp - p * p / self.labels)
        else:
            known, given, logs = self.classes
            realised = self.logs[0] - sum(map(mul, known, logs)) / self.labels
            expected = self.logs[1] - sum(map(mul, given, logs)) / self.labels
        expected = max(expected, 0.0)
        lost = self.learned["scale"] * expected - realised
        return lost - self.learned["tolerance"] * self.labels, expected


def evidence(
    days: Iterable[tuple[float, float]], learned: Mapping[str, float]
) -> tuple[float, float, float]:
    """Return weighted sums over days of what `DaySums.gains` returns.

    They are the lost gain, and the variances that it has between and within days without a loss.
    Replicas share the days but not the rows: their lost gains and variances within days add up,
    and R times the sum of their variances between days is a bound (Cauchy and Schwarz).
    """
    ratio, unit = learned["day"] / learned["row"], math.sqrt(learned["row"])
    lost = between = within = 0.0
    for day_lost, expected in days:
        weight = 1 / (1 + ratio * expected)
        lost += weight * day_lost / unit
        between += ratio * (weight * expected) ** 2
        within += weight**2 * expected
    return lost, between, within


def log_e_value(lost: float, variance: float) -> float:
    """Return log e against "no more than the tolerance is lost", of the sums of `evidence`."""
    mixed = variance + SHARPEST
    return max(lost, 0.0) ** 2 / (2 * mixed) + 0.5 * math.log(SHARPEST / mixed)
