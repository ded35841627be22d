from collections import Counter

import numpy as np
import pytest
from scipy import stats
from scipy.special import expit, logit
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss

import shifted
from modelkeep.evaluation import recalibration
from modelkeep.evaluation.recalibration import Outcomes, RecalibrationError


def chosen(seed, what, rows=4000, days=30):
    before, now = shifted.periods(seed, what, rows=rows, days=days)
    columns, places = shifted.binned(before, now)
    names, values = recalibration.directions(columns, places)
    sides = [
        Outcomes(shifted.labels(f), shifted.predictions(f), v, shifted.days(f))
        for f, v in zip((before, now), values, strict=True)
    ]
    return recalibration.choose("binary", sides[1], sides[0], names=names)


@pytest.mark.parametrize(
    ("what", "kind", "least"),
    [("level", "level", 0.9), ("concept", "refit", 0.9), ("", "none", 0.95)],
)
def test_the_smallest_update_that_is_enough_is_chosen(what, kind, least):
    """The long form is benchmarks/diagnosis.py; the bound fails by chance once in 10,000."""
    runs = 30
    kinds = Counter(chosen(seed, what).kind for seed in range(runs))
    assert kinds[kind] >= stats.binom.ppf(1e-4, runs, least), kinds


def test_the_column_whose_relation_changed_is_named():
    assert chosen(0, "concept").strongest.startswith("age")


def test_a_model_that_never_fitted_is_not_called_changed():
    """The relation has another slope than the model says, before as well as now."""
    rng = np.random.default_rng(0)

    def side():
        x = rng.normal(0, 1, 4000)
        y = (rng.random(4000) < expit(0.5 * x)).astype(int)
        p = expit(2 * x)
        return Outcomes(y, np.column_stack([1 - p, p]), x[:, None], np.arange(4000) // 100)

    now, before = side(), side()
    assert recalibration.choose("binary", now, before, names=["x"]).kind == "none"
    assert recalibration.choose("binary", now, names=["x"]).kind == "level and slope"


def test_predictions_that_order_rows_wrongly_need_a_refit():
    rng = np.random.default_rng(0)
    x, blocks = rng.normal(0, 1, 4000), np.arange(4000) // 100
    y, p = (rng.random(4000) < expit(-x)).astype(int), expit(x)
    sides = Outcomes(y, np.column_stack([1 - p, p]), np.zeros((4000, 0)), blocks)
    assert recalibration.choose("binary", sides, names=[]).kind == "refit"


def test_level_and_slope_are_those_of_logistic_regression():
    rng = np.random.default_rng(1)
    p = rng.uniform(0.05, 0.95, 20_000)
    y = (rng.random(len(p)) < expit(0.7 + 0.6 * logit(p))).astype(int)
    both = np.column_stack([1 - p, p])
    update = recalibration.fit("binary", "level and slope", y, both)
    known = LogisticRegression(C=np.inf, tol=1e-8).fit(logit(p)[:, None], y)
    assert np.diff(update.level) == pytest.approx(known.intercept_[0], abs=1e-3)
    assert update.slope == pytest.approx(known.coef_[0, 0], abs=1e-3)
    assert update(both)[:, 1] == pytest.approx(
        known.predict_proba(logit(p)[:, None])[:, 1], abs=1e-3
    )
    level = recalibration.fit("binary", "level", y, both)
    assert level.slope == 1
    assert level(both)[:, 1].mean() == pytest.approx(y.mean(), abs=1e-3)


def test_updates_of_classes_and_of_numbers():
    rng = np.random.default_rng(2)
    p = rng.dirichlet([2, 2, 2], 5000)
    q = p * [1, 2, 0.5]
    q /= q.sum(axis=1, keepdims=True)
    y = (rng.random((5000, 1)) > q.cumsum(axis=1)[:, :2]).sum(axis=1)
    update = recalibration.fit("multiclass", "level", y, p)
    assert update(p).sum(axis=1) == pytest.approx(1)
    assert np.abs(update(p) - q).max() < 0.03 < np.abs(p - q).mean()
    sides = Outcomes(y, p, rng.normal(0, 1, (5000, 3)), np.arange(5000) // 100)
    assert recalibration.choose("multiclass", sides, names=list("abc")).kind == "level"
    number = recalibration.fit("regression", "level and slope", 3 + 2 * p[:, 0], p[:, 0])
    assert (number.level[0], number.slope) == (pytest.approx(3), pytest.approx(2))
    assert number(p[:, 0]) == pytest.approx(3 + 2 * p[:, 0])


@pytest.mark.parametrize("kind", ["none", "refit"])
def test_none_and_refit_leave_predictions_as_they_are(kind):
    p = np.array([[0.2, 0.8], [1.0, 0.0]])
    assert recalibration.fit("binary", kind, np.array([0, 1]), p)(p) is p


def test_certain_and_wrong_predictions_stay_finite():
    p = np.tile([0.0, 1.0], (500, 1))
    y = (np.arange(500) % 2).astype(int)
    for kind in ("level", "level and slope"):
        assert np.isfinite(recalibration.fit("binary", kind, y, p)(p)).all()


def test_numbers_and_classes_are_chosen_for_alike():
    rng = np.random.default_rng(3)
    x, blocks = rng.normal(0, 1, 3000), np.arange(3000) // 100
    y = 1 + x + rng.normal(0, 0.5, 3000)
    sides = Outcomes(y, x, np.column_stack([rng.normal(0, 1, 3000)]), blocks)
    assert recalibration.choose("regression", sides, names=["z"]).kind == "level"
    bent = Outcomes(y + 0.5 * sides.directions[:, 0], x, sides.directions, blocks)
    result = recalibration.choose("regression", bent, names=["z"])
    assert (result.kind, result.strongest) == ("refit", "z")


def test_too_few_blocks_or_one_class_are_refused():
    p = np.tile([0.4, 0.6], (100, 1))
    y, none = np.arange(100) % 2, np.zeros((100, 0))
    with pytest.raises(RecalibrationError, match="4 blocks of labelled rows: 8 are needed"):
        recalibration.choose("binary", Outcomes(y, p, none, np.arange(100) // 25), names=[])
    with pytest.raises(RecalibrationError, match="all 100 labels are of one class"):
        recalibration.choose("binary", Outcomes(y * 0, p, none, np.arange(100)), names=[])


@pytest.mark.parametrize(("level", "slope"), [(1.0, 3.0), (-4.0, 0.3), (0.0, 10.0), (3.0, 1.0)])
def test_predictions_that_are_far_off_are_brought_back(level, slope):
    """As scikit-learn's logistic regression on the log-odds; whole Newton steps went in a circle."""
    random = np.random.default_rng(0)
    x = random.normal(size=20_000)
    y = (random.random(len(x)) < 1 / (1 + np.exp(-x))).astype(int)
    odds = np.clip(slope * x + level, -13, 13)
    p = 1 / (1 + np.exp(-odds))
    update = recalibration.fit("binary", "level and slope", y, np.column_stack([1 - p, p]))
    theirs = LogisticRegression(C=np.inf, tol=1e-8).fit(odds[:, None], y)
    assert update.slope == pytest.approx(theirs.coef_[0, 0], rel=5e-3)
    # a little is drawn to 0, so that a class without rows stays finite
    level = theirs.intercept_[0]
    assert update.level[1] - update.level[0] == pytest.approx(level, rel=5e-3, abs=2e-3)


@pytest.mark.parametrize("task", ["binary", "regression"])
def test_a_direction_counts_by_what_it_can_save(task):
    """Beside the loss that scikit-learn's models save with the direction as a column."""
    rng = np.random.default_rng(4)
    x, z, blocks = *rng.normal(0, 1, (2, 40_000)), np.arange(40_000) // 1000
    for strength, kind in ((0.05, "none"), (0.25, "refit")):
        signal = x + strength * z
        if task == "binary":
            y, p = (rng.random(len(x)) < expit(signal)).astype(int), expit(x)
            p, columns = np.column_stack([1 - p, p]), np.column_stack([x, z])
            fitted = [LogisticRegression(C=np.inf).fit(c, y) for c in (columns[:, :1], columns)]
            losses = [
                log_loss(y, m.predict_proba(columns[:, : i + 1])) for i, m in enumerate(fitted)
            ]
        else:
            y, p = signal + rng.normal(0, 1, len(x)), x
            losses = [np.mean((y - x) ** 2), np.mean((y - x - strength * z) ** 2)]
        saved = 1 - losses[1] / losses[0]
        assert (saved > recalibration.MATERIAL) == (kind == "refit"), saved
        sides = Outcomes(y, p, z[:, None], blocks)
        assert recalibration.choose(task, sides, names=["z"]).kind == kind
