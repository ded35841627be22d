"""The alert on lost skill: calm months never, shuffled labels within 2,000, on tables of others.

Each table has out-of-fold predictions, from which the test learns what to expect, and days of fresh
rows. Days begin with none in the past, so that the first window is the hardest.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import pytest
from sklearn.datasets import load_breast_cancer, load_diabetes, load_wine
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.model_selection import cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import monitors
from modelkeep.evaluation import live_quality
from modelkeep.monitoring.model_metrics import DAY, Skill

E_VALUE = monitors.CONTRACT.settings["e_value"]
LEAST = monitors.CONTRACT.settings["least_labels"]
Day = tuple[np.ndarray, np.ndarray]  # labels, predictions


@dataclass(frozen=True)
class Table:
    """What is learned of a table, and a day of fresh rows."""

    learned: dict
    day: Callable[[np.random.Generator], Day]
    classes: int


def bootstrap(y: np.ndarray, p: np.ndarray, classes: int, rows: int) -> Table:
    """A table without time: each day draws rows of it."""
    learned = live_quality.learn("binary" if classes else "regression", y, p, None)

    def day(draw: np.random.Generator) -> Day:
        rows_now = draw.integers(0, len(y), draw.poisson(rows))
        return y[rows_now], p[rows_now]

    return Table(learned, day, classes)


def moody(strength: float, rows: int) -> Table:
    """A generated table whose days differ in level and in how much the input says."""

    def day(draw: np.random.Generator) -> Day:
        x = draw.normal(size=max(draw.poisson(rows), 1))
        level, slope = draw.normal(0, 0.5), strength * (1 + draw.normal(0, 0.2))
        y = draw.random(len(x)) < 1 / (1 + np.exp(1.2 - level - slope * x))
        q = 1 / (1 + np.exp(1.2 - strength * x))
        return y.astype(int), np.column_stack([1 - q, q])

    draw = np.random.default_rng(7)
    past = [day(draw) for _ in range(90)]
    y, p = (np.concatenate(parts) for parts in zip(*past))
    blocks = np.repeat(np.arange(90), [len(labels) for labels, _ in past])
    return Table(live_quality.learn("binary", y, p, blocks), day, 2)


@lru_cache
def table(name: str) -> Table:
    logistic = make_pipeline(StandardScaler(), LogisticRegression(C=0.1))
    if name == "diabetes":
        x, y = load_diabetes(return_X_y=True)
        return bootstrap(y, cross_val_predict(Ridge(0.1), x, y, cv=5), 0, 100)
    if name in ("cancer", "wine"):
        load = load_breast_cancer if name == "cancer" else load_wine
        x, y = load(return_X_y=True)
        p = cross_val_predict(logistic, x, y, cv=5, method="predict_proba")
        return bootstrap(y, p, p.shape[1], 100)
    return moody(*{"generated": (1.0, 300), "few a day": (1.5, 40)}[name])


def stream(name: str, seed: int, spoil: str = "") -> Iterator[Day]:
    """Days without end; `spoil`: labels are shuffled within a day, or a share is flipped."""
    draw, known = np.random.default_rng(seed), table(name)
    while True:
        y, p = known.day(draw)
        if spoil == "shuffled":
            y = draw.permutation(y)
        elif spoil:
            other = (y + draw.integers(1, known.classes, len(y))) % known.classes
            y = np.where(draw.random(len(y)) < float(spoil), other, y)
        yield y, p


def labels_until_alarm(name: str, days: Iterator[Day], most: int) -> int | None:
    """How many labels come before the alert, read four times a day; None: not within `most` days."""
    known = table(name)
    skill, labels = Skill(known.learned, known.classes), 0
    for number, (y, p) in zip(range(most), days):
        for part in np.array_split(np.arange(len(y)), 4):
            for label, prediction in zip(y[part].tolist(), np.atleast_2d(p[part].T).T.tolist()):
                skill.ground_truth(number * DAY, prediction, label)
            labels += len(part)
            for n, lost, *variances in skill.by_window(number * DAY):
                e = live_quality.log_e_value(lost, sum(variances))
                if n >= LEAST and e > np.log(E_VALUE):
                    return labels
    return None


TABLES = ("cancer", "wine", "diabetes", "generated", "few a day")


@pytest.mark.parametrize("name", TABLES)
def test_calm_months_never_alarm(name):
    # one alarm in 20 years is allowed; benchmarks/live_quality.py counts a hundred
    assert labels_until_alarm(name, stream(name, 1), 2 * 365) is None


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("name", TABLES)
def test_shuffled_labels_alarm_within_2000(name, seed):
    assert labels_until_alarm(name, stream(name, seed, "shuffled"), 28) <= 2000


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("name", ["cancer", "wine"])
def test_a_fifth_of_the_labels_flipped_alarms_within_800(name, seed):
    assert labels_until_alarm(name, stream(name, seed, "0.2"), 28) <= 800


def test_a_model_that_gains_nothing_is_not_judged():
    y = np.random.default_rng(0).integers(0, 2, 500)
    assert live_quality.learn("binary", y, np.full((500, 2), 0.5), None) == {}
