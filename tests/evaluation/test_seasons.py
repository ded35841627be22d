import numpy as np
import pytest

from counts import counted
from modelkeep.evaluation import drift, profile, seasons

DAY = np.timedelta64(1, "D")


def shares(season):
    low = 0.25 + 0.2 * season
    return [0, low / 2, low / 2, (1 - low) / 2, (1 - low) / 2 - 0.02, 0, 0.02]


def history(rng, days, first=0, season=True, shift=0.0):
    """Daily counts of a column that follows the year, from day `first` on."""
    when = np.arange(first, first + days)
    wave = np.sin(2 * np.pi * when / 365.25) * season + shift
    return np.array([rng.multinomial(200, shares(w)) for w in wave])


def at(counts, first):
    made = counted(counts, blocks=True)
    blocks = made.blocks + first * DAY
    return profile.Profile(made.bins, blocks, made.rows, made.counts, made.sizes)


def test_windows_are_matched_with_the_same_weeks_of_earlier_years():
    rng = np.random.default_rng(0)
    reference = at(history(rng, 600), 0)
    window = at(history(rng, 7, 640), 640)
    (same,) = seasons.matched(reference, [window])
    apart = (window.blocks[3] - same.blocks).astype(int)
    assert len(same.blocks) >= 28
    assert np.abs(apart - 365).max() <= 14 + 4
    assert not drift.compare(same, window).alarm
    assert drift.compare(reference, window).alarm
    shifted = at(history(rng, 7, 640, shift=1.0), 640)
    assert drift.compare(same, shifted).alarm
    found = [
        drift.detect(reference, [w] * 3, windows_per_year=52, references=[same] * 3)
        for w in (window, shifted)
    ]
    assert found[0].path[-1] < 50 < found[1].path[-1]


@pytest.mark.parametrize("days", [90, 300])
def test_less_than_a_year_is_not_matched(days):
    rng = np.random.default_rng(1)
    reference, window = at(history(rng, days), 0), at(history(rng, 7, days + 10), days + 10)
    assert seasons.matched(reference, [window]) is None
    assert seasons.months(reference) == pytest.approx(days / 30.44, rel=0.01)


def test_columns_that_drift_within_the_reference_follow_the_calendar():
    rng = np.random.default_rng(2)
    assert seasons.calendar_columns(at(history(rng, 120), 0)) == ("x",)
    steady = [at(history(rng, 120, season=False), 0) for _ in range(20)]
    assert sum(map(bool, map(seasons.calendar_columns, steady))) <= 5  # 1 expected
    assert seasons.calendar_columns(at(history(rng, 12), 0)) == ()


def test_a_break_in_a_calendar_column_is_found_by_the_weeks_before_it():
    rng = np.random.default_rng(3)
    reference = at(history(rng, 120), 0)
    weeks = [at(history(rng, 7, d), d) for d in (120, 127, 134)]
    calm = seasons.newest_guard(reference, weeks, ["x"])
    assert not calm.held
    broken = history(rng, 7, 141)
    broken[:, -2] = broken[:, 1:-2].sum(axis=1)  # another unit: beyond the largest value
    broken[:, 1:-2] = 0
    held = seasons.newest_guard(reference, [*weeks, at(broken, 141)], ["x"])
    assert held.held and held.sentence.startswith("x is")


def test_missing_values_of_a_calendar_column_are_still_tested():
    rng = np.random.default_rng(4)
    reference = seasons.without(at(history(rng, 60), 0), ["x"])
    summer = history(rng, 7, 90)
    assert not drift.compare(reference, seasons.without(at(summer, 90), ["x"])).alarm
    summer[:, -1] += 20
    result = drift.compare(reference, seasons.without(at(summer, 90), ["x"]))
    assert [f.name for f in result.columns[0].findings] == ["missing share rose"]
