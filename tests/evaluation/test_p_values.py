import math

import numpy as np
import pytest
from scipy import integrate, stats

from modelkeep.evaluation import two_sample


def test_normal_and_chi_square_tails_are_scipys():
    for z in (0, 0.5, -1.96, 8, -30):
        assert two_sample.normal(z) == pytest.approx(2 * stats.norm.sf(abs(z)), rel=1e-12)
    for df in (1, 2, 3, 8, 19, 20, 101, 1_000):
        for x in (0.01 * df, df, 1.5 * df, 4 * df + 50):
            assert two_sample.chi2(x, df) == pytest.approx(stats.chi2.sf(x, df), rel=1e-9)
    assert two_sample.chi2(0, 5) == two_sample.chi2(3, 0) == 1


def test_hypergeometric_tails_are_scipys():
    rng = np.random.default_rng(0)
    for _ in range(500):
        total = int(rng.integers(2, 10 ** rng.integers(1, 8)))
        drawn, marked = (int(rng.integers(1, total)) for _ in range(2))
        marked = min(marked, int(25 * total / drawn) + 1)
        law = stats.hypergeom(total, marked, drawn)
        count = int(law.ppf(rng.random())) + int(rng.integers(0, 2))
        if not max(0, drawn + marked - total) <= count <= min(drawn, marked):
            continue
        upper = count * total >= drawn * marked
        expected = min(1, 2 * (law.sf(count - 1) if upper else law.cdf(count)))
        found = two_sample.hypergeometric(count, drawn, marked, total)
        assert found == pytest.approx(expected, rel=1e-5, abs=1e-290)


def test_cauchy_combination():
    p = [0.01, 0.2, 0.9]
    t = np.mean(stats.cauchy.isf(p))  # none of them above .9
    assert two_sample.cauchy(p) == pytest.approx(stats.cauchy.sf(t))
    assert two_sample.cauchy([0.03] * 5) == pytest.approx(0.03)
    assert two_sample.cauchy([1e-200, 0.5]) == pytest.approx(2e-200)
    assert two_sample.cauchy([0.0, 1.0], [0.9, 0.1]) < 1e-200
    assert two_sample.cauchy([1.0]) == pytest.approx(0.9)


def test_sidak_of_small_and_large_p():
    assert two_sample.sidak(0.01, 20) == pytest.approx(1 - 0.99**20)
    assert two_sample.sidak(1e-30, 20) == pytest.approx(2e-29)
    assert two_sample.sidak(1.0, 20) == two_sample.sidak(0.3, 0) == 1


def test_discoveries_are_benjamini_and_hochbergs():
    rng = np.random.default_rng(1)
    for _ in range(200):
        p = rng.random(12) ** rng.integers(1, 5)
        expected = stats.false_discovery_control(p) <= 0.05
        assert np.array_equal(two_sample.discoveries(p, 0.05), expected)
    assert two_sample.discoveries([0.05], 0.05).tolist() == [True]


def test_evalues_integrate_to_one():
    for p in (1e-9, 1e-4, 0.03, 0.5, 0.97):
        mixture = integrate.quad(lambda k, p=p: k * p ** (k - 1), 0, 1)[0]
        assert two_sample.evalue(p) == pytest.approx(mixture)
    grid = np.exp(-np.linspace(0, 27, 200_001))
    e = np.array([two_sample.evalue(p) for p in grid])
    total = np.trapezoid((e * grid)[::-1], np.log(grid)[::-1])
    assert 0.9 < total <= 1 + 1e-9  # the missing part is p below 1e-12
    assert math.isfinite(two_sample.evalue(0))
    assert two_sample.evalue(1) == pytest.approx(0.5, abs=1e-3)


def test_unseen_with_nothing_seen_once_is_nearly_the_share_of_the_window():
    assert two_sample.unseen(1, 0, 100_000, 500) == pytest.approx(500 / 100_500, rel=0.01)
    assert two_sample.unseen(2, 0, 100_000, 500) < 1e-4
    assert two_sample.unseen(0, 3, 100, 100) == 1
    share, ratio = 1_000 / 1_010, 2_000 / 2_010  # one geometric: the closed form
    expected = share / (1 + share) * ratio**599
    assert two_sample.unseen(600, 0, 10, 1_000) == pytest.approx(expected)
    assert two_sample.unseen(10**6, 0, 100, 10**6) < 1e-6


@pytest.mark.parametrize("now", [500, 10_000])
@pytest.mark.parametrize("slope", [1.1, 2.0])
def test_unseen_is_rarely_small_when_nothing_changed(slope, now):
    """Draw both samples from one long tail of categories."""
    rng = np.random.default_rng(2)
    share = np.arange(1, 20_001) ** -slope
    small, runs = 0, 200
    for _ in range(runs):
        before = rng.multinomial(5_000, share / share.sum())
        after = rng.multinomial(now, share / share.sum())
        count, once = int(after[before == 0].sum()), int((before == 1).sum())
        small += two_sample.unseen(count, once, 5_000, now) <= 0.05
    assert small <= stats.binom.isf(1e-4, runs, 0.05)
