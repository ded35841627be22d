"""Thresholds by cost: against the oracle's, scikit-learn's, and on tables that are not flights."""

import numpy as np
import pytest
from scipy.special import expit
from sklearn.datasets import load_breast_cancer, load_digits, load_wine
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import confusion_matrix, make_scorer
from sklearn.model_selection import (
    FixedThresholdClassifier,
    TunedThresholdClassifierCV,
    cross_val_predict,
)
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from modelkeep.training import costs
from modelkeep.training.costs import CostsError, Operating

MISSED = {"errors": {"yes": {"no": 8}, "no": {"yes": 1}}}


def planted(seed, distorted, rows=20_000):
    """Labels and predictions (rows, 2) of a model whose scores are calibrated, or far from it."""
    rng = np.random.default_rng(seed)
    x = rng.normal(-1, 1.5, rows)
    y, p = (rng.random(rows) < expit(x)).astype(int), expit(2.5 * x + 1 if distorted else x)
    return y, np.column_stack([1 - p, p]), np.arange(rows) // 200


@pytest.mark.parametrize("distorted", [False, True])
def test_the_chosen_threshold_costs_at_most_5_percent_more_than_the_oracles(distorted):
    """The oracle knows the relation: it predicts `yes` where x says at least 1 / 9."""
    stated = costs.read(MISSED, ("no", "yes"))
    y, p, days = planted(0, distorted)
    rule = costs.choose(stated, y, p, days, None)
    assert rule.basis.startswith("the cheapest") or not distorted
    new_y, new_p, _ = planted(1, distorted, rows=200_000)
    oracle = Operating(float(expit(2.5 * np.log(1 / 8) + 1)) if distorted else 1 / 9, "")
    ours, best = (costs.per_row(stated, r, new_y, new_p).mean() for r in (rule, oracle))
    assert ours <= 1.05 * best
    usual = costs.per_row(stated, Operating(0.5, ""), new_y, new_p).mean()
    assert usual > 1.2 * best


def test_the_threshold_is_as_cheap_as_scikit_learns():
    x, y = load_breast_cancer(return_X_y=True)
    stated = costs.read({"errors": {"0": {"1": 20}, "1": {"0": 1}}}, ("0", "1"))
    model = make_pipeline(StandardScaler(), LogisticRegression())

    def saved(y_true, y_pred):
        return -(confusion_matrix(y_true, y_pred, labels=[0, 1]) * stated.matrix).sum()

    tuned = TunedThresholdClassifierCV(model, scoring=make_scorer(saved), cv=5, random_state=0)
    theirs = tuned.fit(x[::2], y[::2]).best_threshold_
    p = cross_val_predict(model, x[::2], y[::2], cv=5, method="predict_proba")
    rule = costs.choose(stated, y[::2], p, np.arange(len(p)), None)
    fitted = model.fit(x[::2], y[::2])
    fixed = FixedThresholdClassifier(fitted, threshold=theirs).fit(x[::2], y[::2])
    assert -saved(y[1::2], costs.decide(stated, rule, fitted.predict_proba(x[1::2]))) <= (
        1.05 * -saved(y[1::2], fixed.predict(x[1::2]))
    )


def test_several_classes_get_the_class_of_least_expected_cost():
    """The model is far too unsure: by its own probabilities every row would be called a 9."""
    x, y = load_digits(return_X_y=True)
    names = tuple(map(str, range(10)))
    errors = {a: {b: 20 if a == "9" else 1 for b in names if b != a} for a in names}
    stated = costs.read({"errors": errors}, names)
    model = make_pipeline(StandardScaler(), LogisticRegression(C=0.001))
    p = cross_val_predict(model, x[::2], y[::2], cv=5, method="predict_proba")
    rule = costs.choose(stated, y[::2], p, np.arange(len(p)), None)
    assert rule.threshold is None and "recalibrated" in rule.basis
    new = model.fit(x[::2], y[::2]).predict_proba(x[1::2])
    ours, raw = (
        costs.per_row(stated, each, y[1::2], new).mean() for each in (rule, Operating(None, ""))
    )
    assert ours < 0.8 * stated.matrix[y[1::2], new.argmax(axis=1)].mean() < raw


def test_few_labels_of_several_classes_leave_probabilities_as_they_are():
    x, y = load_wine(return_X_y=True)
    stated = costs.read({"errors": {str(a): {str((a + 1) % 3): 1} for a in range(3)}}, tuple("012"))
    model = make_pipeline(StandardScaler(), LogisticRegression())
    p = cross_val_predict(model, x, y, cv=5, method="predict_proba")
    assert costs.choose(stated, y, p, np.arange(len(p)), None).update is None


def test_rows_may_cost_more_than_others():
    y, p, days = planted(0, False, rows=2000)
    stated = costs.read(MISSED | {"column": "amount"}, ("no", "yes"))
    weights = np.where(np.arange(2000) % 2, 3.0, 0.0)
    rule = costs.choose(stated, y, p, days, weights)
    odd = slice(1, None, 2)
    alone = costs.per_row(stated, rule, y[odd], p[odd])
    assert costs.per_row(stated, rule, y, p, weights).sum() == pytest.approx(3 * alone.sum())


def test_few_labels_leave_the_threshold_to_the_costs():
    y, p, days = planted(0, True, rows=200)
    rule = costs.choose(costs.read(MISSED, ("no", "yes")), y[:80], p[:80], days[:80], None)
    assert rule.threshold == pytest.approx(1 / 9) and "50 are needed" in rule.basis


@pytest.mark.parametrize(
    ("stated", "classes", "error"),
    [
        ({"error": {}}, ("a", "b"), "'error' is unknown"),
        ({"errors": {"a": {"b": 1}}}, (), "the label is a number"),
        ({"errors": {"c": {"b": 1}}}, ("a", "b"), "'c' is no class of the label: a, b"),
        ({"errors": {"a": {"b": "much"}}}, ("a", "b"), "'much' is no number"),
        ({"errors": {"a": {"b": 1}}}, ("a", "b"), "must cost more than the right class"),
    ],
)
def test_costs_that_do_not_fit_are_refused(stated, classes, error):
    with pytest.raises(CostsError, match=error):
        costs.read(stated, classes)


def test_without_costs_there_is_none():
    assert costs.read({}, ("a", "b")) is None
