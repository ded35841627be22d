import numpy as np
import pytest
from scipy import stats

from modelkeep.evaluation import shift
from modelkeep.evaluation.shift import ShiftError


def rows(seed, centre=0.0, slope=1.0, n=4000, days=20):
    """Inputs x, the loss (slope * x^2 plus noise), and the day of each row."""
    rng = np.random.default_rng(seed)
    x = rng.normal(centre, 1, n)
    return x, slope * x**2 + rng.normal(0, 0.5, n), np.sort(rng.integers(0, days, n))


def split(before, now, odds=lambda x: np.ones(len(x))):
    """The split by known odds."""
    return shift.split(before[1], now[1], odds(before[0]), odds(now[0]), before[2], now[2])


def shares(result):
    return [t.value / result.drop.value for t in result.terms]


def test_terms_add_up_to_the_drop():
    rng = np.random.default_rng(0)
    for seed in range(20):
        before, now = rows(seed), rows(100 + seed, 1, 2)
        odds = [rng.lognormal(0, 2, len(side[0])) for side in (before, now)]
        result = shift.split(before[1], now[1], *odds, before[2], now[2])
        assert sum(t.value for t in result.terms) == pytest.approx(result.drop.value, abs=1e-9)
        assert result.drop.value == pytest.approx(now[1].mean() - before[1].mean(), abs=1e-12)
        assert all(t.low <= t.value <= t.high for t in (result.drop, *result.terms))


def test_another_mix_of_the_same_inputs_is_harder_rows():
    result = split(rows(0), rows(1, 0.7), lambda x: np.exp(0.7 * x - 0.245))  # the true odds
    assert shares(result)[0] > 0.8
    assert result.harder.positive and not result.relation.positive


def test_another_loss_of_the_same_inputs_is_a_changed_relation():
    result = split(rows(0), rows(1, slope=1.5))
    assert shares(result)[1] > 0.9
    assert result.relation.positive


def test_inputs_that_before_did_not_have_are_unlike_before():
    now = rows(1)
    far = np.arange(4000) % 10 == 0
    x = np.where(far, now[0] + 10, now[0])
    now = (x, np.where(far, 5.0, now[1]), now[2])
    result = split(rows(0), now, lambda x: np.where(x > 5, 1000.0, 0.9))
    assert shares(result)[2] > 0.9
    assert result.shared == pytest.approx(0.9, abs=0.01)
    assert result.unlike.positive


def test_intervals_hold_the_truth():
    """95 % intervals of the drop and of the relation, with days that differ; 200 runs."""
    held = np.zeros(2)
    for seed in range(200):
        sides = []
        for i in range(2):
            x, loss, day = rows([seed, i], n=1000, days=20)
            mood = np.random.default_rng([seed, i, 2]).normal(0, 0.5, 20)
            sides.append((x, loss + mood[day] + 0.3 * i, day))
        result = split(*sides)
        held += [t.low < 0.3 < t.high for t in (result.drop, result.relation)]
    assert (held >= stats.binom.ppf(1e-4, 200, 0.93)).all()


def test_the_drift_of_a_column_is_undone_by_its_bins():
    rng = np.random.default_rng(0)
    places = rng.choice(3, 6000, p=[0.2, 0.3, 0.5])
    loss = np.array([0.0, 1.0, 2.0])[places]
    part = shift.contribution("c", loss, np.arange(6000) // 100, places, np.array([50, 30, 20.0]))
    assert part.value == pytest.approx(loss.mean() - 0.7, abs=1e-12)
    assert part.positive
    calm = shift.contribution("c", loss, np.arange(6000) // 100, places, np.bincount(places) * 1.0)
    assert calm.value == pytest.approx(0, abs=1e-12)


def test_drift_to_new_bins_alone_cannot_be_undone():
    places = np.full(1000, 2)
    counts = np.array([500, 500, 0.0])
    assert shift.contribution("c", np.ones(1000), np.arange(1000), places, counts) is None


def test_too_few_rows_or_blocks_are_refused():
    with pytest.raises(ShiftError, match="100 rows in 20 blocks in the period 'now'"):
        split(rows(0), rows(1, n=100))
    with pytest.raises(ShiftError, match="in 3 blocks in the period 'before'"):
        split(rows(0, days=3), rows(1))
