"""Quality of predictions: by row, with intervals by block of time, and estimated without labels.

Outcomes `y` are class numbers (0, 1, ...) or floats; predictions `p` are an array (rows, classes)
of probabilities, or (rows,) for regression.
"""

from dataclasses import dataclass, replace

import numpy as np
from scipy.special import expit, stdtrit
from scipy.stats import rankdata

from modelkeep.core.errors import ModelkeepError

METRICS = {
    "binary": ("log_loss", "auc"),
    "multiclass": ("log_loss", "auc"),
    "regression": ("squared_error", "absolute_error"),
}
HIGHER_IS_BETTER = {"auc"}
NAMES = {
    "log_loss": "log loss",
    "auc": "AUC",
    "squared_error": "squared error",
    "absolute_error": "absolute error",
    "cost": "cost a row",
}
TINY = 1e-15


class ScoresError(ModelkeepError, ValueError):
    """Predictions or outcomes that no metric can be computed from."""


@dataclass(frozen=True)
class Estimate:
    """A mean with its standard error and interval, clustered in blocks of time."""

    value: float
    se: float
    low: float
    high: float
    rows: int
    blocks: int
    design_effect: float
    skewness: float  # of the blocks' sums about the mean


def clustered(x: np.ndarray, blocks: np.ndarray, confidence: float = 0.95) -> Estimate:
    """The mean of `x` and its interval: SE^2 = D/(D-1) sum_g (sum_{i in g} x_i - n_g mean)^2 / n^2,
    t with D-1 degrees of freedom.
    """
    if len(x) == 0:
        raise ScoresError("no rows to average; give at least one labelled row")
    mean, n = float(np.mean(x)), len(x)
    _, block = np.unique(blocks, return_inverse=True)
    deviation = np.bincount(block, weights=x - mean)
    d = len(deviation)
    if d < 2:
        return Estimate(mean, np.nan, np.nan, np.nan, n, d, np.nan, np.nan)
    se = float(np.sqrt(d / (d - 1) * np.sum(deviation**2)) / n)
    independent = float(np.var(x, ddof=1) / n)
    half = float(stdtrit(d - 1, 0.5 + confidence / 2)) * se
    effect = se**2 / independent if independent > 0 else 1.0
    spread = float(np.sqrt(np.mean(deviation**2)))
    skewness = float(np.mean((deviation / spread) ** 3)) if spread > 0 else 0.0
    return Estimate(mean, se, mean - half, mean + half, n, d, effect, skewness)


def losses(task: str, y: np.ndarray, p: np.ndarray) -> dict[str, np.ndarray]:
    """The first metric of the task, a loss, as one value a row (cheaper than `per_row`)."""
    if task == "regression":
        return {"squared_error": (p - y) ** 2}
    return {"log_loss": log_loss(y, p)}


def per_row(task: str, y: np.ndarray, p: np.ndarray) -> dict[str, np.ndarray]:
    """Each metric of the task as one value a row whose mean is the metric (for AUC: the AUC plus
    the row's influence on it).
    """
    if task == "regression":
        return {"squared_error": (p - y) ** 2, "absolute_error": np.abs(p - y)}
    return {"log_loss": log_loss(y, p), "auc": auc_influence(y, p)}


def summary(
    task: str, y: np.ndarray, p: np.ndarray, blocks: np.ndarray, confidence: float = 0.95
) -> dict[str, Estimate]:
    """Each metric of the task with its interval, of values that the metric can have."""
    found = {}
    for name, values in per_row(task, y, p).items():
        estimate = clustered(values, blocks, confidence)
        low, high = np.clip([estimate.low, estimate.high], 0, 1 if name == "auc" else np.inf)
        found[name] = replace(estimate, low=float(low), high=float(high))
    return found


def log_loss(y: np.ndarray, p: np.ndarray) -> np.ndarray:
    """Minus the logarithm of the probability that each row's outcome was given."""
    return -np.log(np.clip(p[np.arange(len(y)), y], TINY, 1))


def auc(y: np.ndarray, p: np.ndarray) -> float:
    """Area under the ROC curve; with more than two classes the mean over classes of one against the
    rest; NaN with one class.
    """
    return float(np.mean(auc_influence(y, p)))


def auc_influence(y: np.ndarray, p: np.ndarray) -> np.ndarray:
    """AUC plus each row's DeLong component over its class share (DeLong, DeLong and Clarke-Pearson
    1988); NaN with one class.
    """
    classes = [1] if p.shape[1] == 2 else list(np.unique(y))
    return np.mean([_one_against_rest(y == k, p[:, k]) for k in classes], axis=0)


def _one_against_rest(positive: np.ndarray, score: np.ndarray) -> np.ndarray:
    n, n_pos = len(score), int(positive.sum())
    n_neg = n - n_pos
    if n_pos == 0 or n_neg == 0:
        return np.full(n, np.nan)
    ranks, won = rankdata(score), np.empty(n)
    won[positive] = (ranks[positive] - rankdata(score[positive])) / n_neg
    won[~positive] = 1 - (ranks[~positive] - rankdata(score[~positive])) / n_pos
    area = float(np.mean(won[positive]))
    share = np.where(positive, n_pos / n, n_neg / n)
    return area + (won - area) / share


def calibration(y: np.ndarray, p: np.ndarray, blocks: np.ndarray, bins: int = 10) -> list[dict]:
    """Predicted against observed rate of the last class in bins of equal size, with the observed
    rate's interval.
    """
    if len(y) == 0:
        raise ScoresError("no rows to calibrate; give at least one labelled row")
    score = p[:, -1]
    happened = (y == p.shape[1] - 1).astype(float)
    rows = []
    for part in np.array_split(np.argsort(score, kind="stable"), min(bins, len(score))):
        seen = clustered(happened[part], blocks[part])
        rows.append(
            {
                "predicted": float(score[part].mean()),
                "observed": seen.value,
                "low": seen.low,
                "high": seen.high,
                "rows": len(part),
            }
        )
    return rows


def expected(task: str, p: np.ndarray, belief: np.ndarray | None = None) -> dict[str, float]:
    """Quality estimated without labels (CBPE): log loss and AUC of `p` if `belief` (by default `p`
    itself) held the true probabilities; a class that nobody believes in has no AUC.
    """
    if len(p) == 0:
        raise ScoresError("no rows to estimate from; give at least one answer")
    belief = p if belief is None else belief
    loss = -np.sum(belief * np.log(np.clip(p, TINY, 1)), axis=1)
    classes = [1] if task == "binary" else range(p.shape[1])
    areas = np.array([_expected_auc(p[:, k], belief[:, k]) for k in classes])
    known = areas[np.isfinite(areas)]
    return {
        "log_loss": float(np.mean(loss)),
        "auc": float(np.mean(known)) if len(known) else np.nan,
    }


def _expected_auc(score: np.ndarray, belief: np.ndarray) -> float:
    """Expected share of (positive, negative) pairs in the right order; ties count half."""
    _, tie = np.unique(score, return_inverse=True)
    pos, neg = np.bincount(tie, weights=belief), np.bincount(tie, weights=1 - belief)
    own = np.bincount(tie, weights=belief * (1 - belief))
    below = np.cumsum(neg) - neg
    pairs = pos.sum() * neg.sum() - own.sum()
    return float((pos @ below + (pos * neg - own).sum() / 2) / pairs) if pairs > 0 else np.nan


def recalibrated(
    p: np.ndarray, past_y: np.ndarray, past_p: np.ndarray, prior: float = 1000.0
) -> np.ndarray:
    """What to believe after labels: logit(q_k) = a_k + b_k logit(p_k) fitted on past rows,
    normalised; `prior` is the precision with which b_k is held near 1.
    """
    corrected = np.empty_like(p)
    for k in range(p.shape[1]):
        a, b = _logistic(_logit(past_p[:, k]), past_y == k, prior)
        corrected[:, k] = expit(a + b * _logit(p[:, k]))
    return corrected / corrected.sum(axis=1, keepdims=True)


def _logit(p: np.ndarray) -> np.ndarray:
    p = np.clip(p, 1e-6, 1 - 1e-6)
    return np.log(p / (1 - p))


def _logistic(x: np.ndarray, t: np.ndarray, prior: float) -> tuple[float, float]:
    """Newton's steps for intercept and slope; a weak pull of the intercept to 0 keeps one-class
    weeks finite.
    """
    beta, held = np.array([0.0, 1.0]), np.diag([1.0, prior])
    design = np.column_stack([np.ones_like(x), x])
    for _ in range(25):
        z = expit(design @ beta)
        gradient = design.T @ (t - z) - held @ (beta - [0, 1])
        hessian = (design * (z * (1 - z))[:, None]).T @ design + held
        step = np.linalg.solve(hessian, gradient)
        beta = beta + np.clip(step, -2, 2)
        if np.max(np.abs(step)) < 1e-10:
            break
    return float(beta[0]), float(beta[1])


def expected_errors(p: np.ndarray, past_y: np.ndarray, past_p: np.ndarray) -> dict[str, float]:
    """Regression without labels: the mean error that past labelled rows with predictions of the
    same size had (ten bins of `past_p`).
    """
    if len(p) == 0 or len(past_p) == 0:
        raise ScoresError("no rows to estimate from; give at least one answer and one label")
    cuts, means = errors_by_size(past_y, past_p)
    now = np.searchsorted(cuts, p)
    return {name: float(np.asarray(each)[now].mean()) for name, each in means.items()}


def errors_by_size(y: np.ndarray, p: np.ndarray) -> tuple[list[float], dict[str, list[float]]]:
    """The mean errors of rows in ten bins of their prediction, and the nine cuts between them."""
    cuts = np.quantile(p, np.linspace(0, 1, 11)[1:-1])
    place = np.searchsorted(cuts, p)
    count = np.bincount(place, minlength=10)
    result = {}
    for name, errors in per_row("regression", y, p).items():
        total = np.bincount(place, weights=errors, minlength=10)
        means = np.where(count > 0, total / np.maximum(count, 1), errors.mean())
        result[name] = means.tolist()
    return cuts.tolist(), result
