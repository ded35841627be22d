"""Prediction intervals: split conformal against a naive form, and coverage over a year of drift."""

import numpy as np
import pytest

from modelkeep.training import intervals

DAYS, A_DAY, WEEK = 364, 600, 7


def naive(y, p, level):
    """Split conformal by counting: the smallest score that enough of n + 1 are not above."""
    scores = sorted(abs(a - b) for a, b in zip(y, p, strict=True))
    enough = [s for i, s in enumerate(scores, 1) if i / (len(scores) + 1) >= level - 1e-12]
    return enough[0] if enough else scores[-1]


@pytest.mark.parametrize("rows", [5, 19, 40, 99])
@pytest.mark.parametrize("level", [0.5, 0.8, 0.9, 0.95])
def test_few_rows_have_the_intervals_of_split_conformal(rows, level):
    draw = np.random.default_rng(rows)
    y, p = draw.normal(size=rows), draw.normal(size=rows)
    learned = intervals.learn(y, p)  # too few for bins of the prediction
    low, high = intervals.static(learned, p, level)
    assert (high - low) / 2 == pytest.approx(np.full(rows, naive(y, p, level)), rel=1e-5)


@pytest.mark.parametrize("level", [0.8, 0.9])
def test_new_rows_are_covered_and_large_errors_get_wide_intervals(level):
    draw = np.random.default_rng(1)
    p = draw.uniform(1, 10, 60_000)
    y = p + draw.standard_t(4, len(p)) * p / 10
    learned = intervals.learn(y[:20_000], p[:20_000])
    low, high = intervals.static(learned, p, level)
    held = ((low <= y) & (y <= high))[20_000:]
    assert held.mean() == pytest.approx(level, abs=0.012)
    for part in (p[20_000:] < 3, p[20_000:] > 8):
        assert held[part].mean() == pytest.approx(level, abs=0.035)
    wide = high - low
    assert np.median(wide[p > 8]) > 2.5 * np.median(wide[p < 3])


def test_a_model_that_is_never_wrong_has_intervals_all_the_same():
    y = np.arange(300.0)
    low, high = intervals.static(intervals.learn(y, y), y)
    assert (low <= y).all() and (high >= y).all()


def year(kind, seed):
    """Labels, predictions and times of a year; `kind` is the drift that is planted."""
    draw = np.random.default_rng(seed)
    days = np.arange(DAYS * A_DAY) / A_DAY
    p = draw.normal(10, 3, len(days))
    noise = draw.normal(size=len(days)) + draw.normal(0, 0.1, DAYS)[days.astype(int)]
    scale = {
        "none": np.ones(len(days)),
        "errors that grow": 1 + days / DAYS,
        "season": 1 + 0.4 * np.sin(2 * np.pi * days / DAYS),
        "jump": np.where(days > 150, 1.25, 1.0),
        "level": np.ones(len(days)),
    }[kind]
    shift = np.clip((days - 100) / 90, 0, 1) if kind == "level" else 0
    at = np.datetime64("2021-01-01", "us") + (days * 86_400e6).astype("timedelta64[us]")
    return p + scale * noise + shift, p, at


@pytest.mark.parametrize("kind", ["none", "errors that grow", "season", "jump", "level"])
def test_each_week_of_a_year_with_drift_is_covered(kind):
    draw = np.random.default_rng(100)
    known = draw.normal(10, 3, 8000)
    learned = intervals.learn(known + draw.normal(size=8000), known)
    y, p, at = year(kind, seed=7)
    late = (draw.exponential(0.5, len(y)) * 86_400e6).astype("timedelta64[us]")
    held = intervals.replay(learned, y, p, at, at + np.timedelta64(12, "h") + late)
    weekly = held.reshape(-1, WEEK * A_DAY).mean(axis=1)
    assert weekly.min() >= 0.88 and weekly.max() <= 0.92, (kind, weekly.min(), weekly.max())
    low, high = intervals.static(learned, p)
    fixed = ((low <= y) & (y <= high)).reshape(-1, WEEK * A_DAY).mean(axis=1)
    assert (kind == "none") == (fixed.min() >= 0.88 and fixed.max() <= 0.92)


def test_labels_that_never_come_leave_the_intervals_of_training():
    draw = np.random.default_rng(3)
    p = draw.normal(size=2000)
    learned = intervals.learn(p + draw.normal(size=2000), p)
    low, high = intervals.static(learned, p)
    y = np.where(np.arange(2000) % 2, p + 1, np.nan)
    never = np.full(2000, np.datetime64("NaT", "us"))
    held = intervals.replay(learned, y, p, np.arange(2000).astype("datetime64[us]"), never)
    assert (held == ((low <= y) & (y <= high))).all()
    adaptive = intervals.Adaptive(learned)
    assert adaptive.ends(p)[1] == pytest.approx(high)


def test_intervals_follow_the_labels_that_come_back():
    draw = np.random.default_rng(4)
    p = draw.normal(size=5000)
    adaptive = intervals.Adaptive(intervals.learn(p + draw.normal(size=5000), p))
    before = adaptive.factor
    for size in (4.0, 0.25):
        for value in draw.normal(size=3000):
            low, high = adaptive.ends(np.zeros(1))
            adaptive.observe((0.0, low[0], high[0]), size * value)
        assert adaptive.factor == pytest.approx(size * before, rel=0.2)
