"""Quality by age is the offline join's, whatever order labels come in."""

import numpy as np
import pytest

from modelkeep.evaluation import metrics
from modelkeep.monitoring.model_metrics import AGES, DAY, LABELLED, ROWS, Cohorts

NOW = 20_000.5 * DAY


def events(task, seed, rows=400):
    """Answers with their times, and labels: some twice, some corrected, some never."""
    draw = np.random.default_rng(seed)
    at = NOW - draw.uniform(0, 35 * DAY, rows)
    if task == "regression":
        said, truth = draw.normal(5, 2, (rows, 1)), draw.normal(5, 2, rows).round(2)
        wrong = truth + 1
    else:
        k = 2 if task == "binary" else 25
        said, truth = draw.dirichlet(np.ones(k), rows), draw.integers(0, k, rows)
        wrong = (truth + 1) % k
    labels = []
    for i in draw.permutation(rows)[: rows * 3 // 4]:
        if draw.random() < 0.3:
            labels += [(i, None, wrong[i]), (i, wrong[i], truth[i])]
        else:
            labels.append((i, None, truth[i]))
    return at, said, truth, labels


def told(task, seed, cuts=()):
    at, said, truth, labels = events(task, seed)
    found = Cohorts(task, 0 if task == "regression" else said.shape[1], cuts)
    for moment in at:
        found.answered(moment, 1)
    for i, before, value in labels:
        found.truth(at[i], said[i].tolist(), value, before)
    age = (NOW // DAY - at // DAY).astype(int)
    has = np.zeros(len(at), bool)
    has[[i for i, _, _ in labels]] = True
    return found, age, said, truth, has


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("task", ["binary", "multiclass", "regression"])
def test_sums_are_those_of_the_join(task, seed):
    found, age, said, truth, has = told(task, seed)
    for (first, last), sums in zip(AGES.values(), found.by_age(NOW)):
        rows = (age >= first) & (age <= last)
        known = rows & has
        assert (sums[ROWS], sums[LABELLED]) == (rows.sum(), known.sum())
        y, p = truth[known], said[known]
        if task == "regression":
            error = p[:, 0] - y
            expected = [(error**2).sum(), np.abs(error).sum(), error.sum()]
        else:
            called = p.argmax(axis=1)
            expected = [(called == y).sum(), metrics.log_loss(y, p).sum()]
            if task == "binary":
                expected += [y.sum(), called.sum(), (y * called).sum()]
        assert sums[2 : 2 + len(expected)] == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("task", ["binary", "multiclass"])
def test_costs_are_those_of_the_rule(task):
    at, said, truth, labels = events(task, 3)
    k = said.shape[1]
    matrix = np.random.default_rng(1).integers(1, 9, (k, k)) * (1 - np.eye(k))
    threshold = 0.3 if task == "binary" else None
    rule = {"threshold": threshold, "costs": matrix.tolist(), "calibration": {}}
    found = Cohorts(task, k, (0.5,) if task == "binary" else (), rule)
    for i, before, value in labels:
        found.truth(at[i], said[i].tolist(), value, before)
    known = sorted({i for i, _, _ in labels if NOW // DAY - at[i] // DAY <= 28})
    chosen = (said[:, 1] >= 0.3).astype(int) if threshold else (said @ matrix).argmin(axis=1)
    place = 2 + found.sums.index("cost")
    total = sum(sums[place] for sums in found.by_age(NOW))
    assert total == pytest.approx(matrix[truth, chosen][known].sum()) and total > 0
    total = [sum(each) for each in zip(*found.by_age(NOW))]
    if task == "multiclass":  # what follows the sums is in its place
        actual, _, _ = found.by_class(total)
        assert actual == np.bincount(np.minimum(truth[known], 20), minlength=21).tolist()


@pytest.mark.parametrize("seed", range(3))
def test_ranks_give_the_area_of_binned_scores(seed):
    cuts = (0.1, 0.2, 0.35, 0.5, 0.8)
    found, age, said, truth, has = told("binary", seed, cuts)
    for (first, last), sums in zip(AGES.values(), found.by_age(NOW)):
        known = has & (age >= first) & (age <= last)
        y, bins = truth[known], np.searchsorted(cuts, said[known][:, 1], "right")
        if y.min(initial=1) == y.max(initial=0):
            continue  # no pairs
        negatives, ranks = found.ranks(sums)
        area = np.dot(negatives, ranks) / (y.sum() * (1 - y).sum())
        assert area == pytest.approx(metrics.auc(y, np.column_stack([-bins, bins])), abs=1e-12)


def test_classes_beyond_twenty_are_one():
    found, age, said, truth, has = told("multiclass", 1)
    known = has & (age <= 28)
    total = [sum(each) for each in zip(*found.by_age(NOW))]
    actual, called, correct = found.by_class(total)
    y, c = np.minimum(truth[known], 20), np.minimum(said[known].argmax(axis=1), 20)
    assert actual == np.bincount(y, minlength=21).tolist()
    assert called == np.bincount(c, minlength=21).tolist()
    exact = truth[known] == said[known].argmax(axis=1)
    assert correct == np.bincount(y[exact], minlength=21).tolist()


def test_days_that_are_too_old_are_forgotten():
    found = Cohorts("binary", 2)
    for day in range(100):
        found.answered(NOW + day * DAY, 1)
        found.by_age(NOW + day * DAY)
    assert len(found.days) == 29
