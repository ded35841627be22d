import numpy as np
import pyarrow as pa
import pytest
from scipy import stats

from counts import counted
from modelkeep.evaluation import profile, two_sample


def spread(counts: np.ndarray) -> np.ndarray:
    return np.repeat(np.arange(len(counts)), counts)


def test_rank_p_is_that_of_mann_and_whitney():
    rng = np.random.default_rng(0)
    for n, m in ((40, 30), (500, 60), (1_000, 5_000)):
        before, now = rng.multinomial(n, [0.1] * 10), rng.multinomial(m, np.arange(6, 16) / 105)
        expected = stats.mannwhitneyu(
            spread(before), spread(now), method="asymptotic", use_continuity=False
        ).pvalue
        # SciPy's variance is that of n + m - 1 as well
        assert two_sample.rank_p(before, now) == pytest.approx(expected, rel=1e-9)
    assert two_sample.rank_p(np.array([5, 0]), np.array([9, 0])) == 1
    assert two_sample.rank_p(np.array([5, 2]), np.array([0, 0])) == 1
    huge = np.array([3 * 10**9, 4 * 10**9])
    assert two_sample.rank_p(huge, huge) == 1


@pytest.mark.parametrize("ordered", [True, False])
def test_spread_p_is_pearsons(ordered):
    rng = np.random.default_rng(1)
    before, now = rng.multinomial(5_000, [0.1] * 10), rng.multinomial(700, np.arange(6, 16) / 105)
    expected = stats.chi2_contingency([before, now], correction=False).pvalue
    assert two_sample.spread_p(before, now, ordered) == pytest.approx(expected)


def test_spread_p_pools_bins_to_five_rows_expected():
    before, now = np.array([300, 10, 20, 280, 200, 9]), np.array([50, 0, 1, 40, 50, 4])
    neighbours = [[300, 310, 209], [50, 41, 54]]
    smallest = [[300, 280, 200, 39], [50, 40, 50, 5]]
    for ordered, pooled in ((True, neighbours), (False, smallest)):
        expected = stats.chi2_contingency(pooled, correction=False).pvalue
        assert two_sample.spread_p(before, now, ordered) == pytest.approx(expected)
    assert two_sample.spread_p(np.array([3, 2]), np.array([1, 1]), True) == 1


def test_bin_p_is_exact_where_few_rows_are_expected():
    before, now = np.array([20_000, 30, 10_000, 0, 0]), np.array([500, 4, 290, 3, 0])
    p = two_sample.bin_p(before, now)
    n, m = now.sum(), before.sum()
    for i in (1, 3):
        law = stats.hypergeom(n + m, before[i] + now[i], n)
        assert p[i] == pytest.approx(2 * law.sf(now[i] - 1), rel=1e-9)
    for i in (0, 2):
        table = [[before[i], m - before[i]], [now[i], n - now[i]]]
        x2 = stats.chi2_contingency(table, correction=False).statistic
        assert p[i] == pytest.approx(stats.chi2.sf(x2 * (n + m - 1) / (n + m), 1))
    assert p[4] == 1


def test_row_test_combines_the_three():
    before, now = np.array([0, 400, 500, 600, 0, 30]), np.array([2, 30, 60, 90, 0, 9])
    bins = counted(before).bins[0]
    found = two_sample.row_tests(bins, counted(before), counted(now))
    single = two_sample.bin_p(before, now)
    parts = [
        two_sample.rank_p(before[:-1], now[:-1]),
        two_sample.spread_p(before, now, True),
        two_sample.sidak(single.min(), 5),
    ]
    assert found.p == pytest.approx(two_sample.cauchy(parts))
    assert found.missing == pytest.approx(single[-1])
    assert found.outside == pytest.approx(2 * single[0])


def test_unseen_categories_have_a_test_of_their_own():
    before, now = counted([5_000, 4_980, 20, 0, 0], "category"), [500, 495, 2]
    for unseen, low, high in ((0, 0.9, 1), (1, 0.08, 0.1), (3, 0.002, 0.003)):
        window = counted([*now, unseen, 0], "category")
        found = two_sample.row_tests(before.bins[0], before, window)
        assert low <= found.unseen <= high
        assert (found.p < 0.05) == (unseen == 3)
    often = counted([5_000, 4_980, 20, 0, 0], "category", once=20)
    assert two_sample.row_tests(often.bins[0], often, window).unseen > 0.3


def test_blocks_beyond_the_range_are_as_many_as_chance_puts_there():
    reference = counted([[0, 40, 40, 0, 0]] * 30, blocks=True)
    for new, expected in ((0, 1), (1, 2 * 7 / 37), (3, 2 * 7 * 6 * 5 / (37 * 36 * 35))):
        window = counted([[0, 40, 40, int(i < new), 0] for i in range(7)], blocks=True)
        p = two_sample.outside_p(reference.bins[0], reference, window)
        assert p == pytest.approx(min(1, expected))
    later = counted([[0, 40, 40, int(i < 4), 0] for i in range(30)], blocks=True)
    expected = 2 * stats.betabinom(7, 5, 26).sf(2)  # four blocks were beyond since
    assert two_sample.outside_p(later.bins[0], later, window) == pytest.approx(min(1, expected))


def test_a_profile_learned_from_rows_can_be_tested():
    rng = np.random.default_rng(6)
    table = pa.table({"x": rng.normal(size=2_000)})
    reference = profile.learn(table, {"x": "number"})
    same = profile.count(reference.bins, pa.table({"x": rng.normal(size=500)}))
    moved = profile.count(reference.bins, pa.table({"x": rng.normal(0.5, 1, 500)}))
    assert two_sample.row_tests(reference.bins[0], reference, same).p > 1e-4
    assert two_sample.row_tests(reference.bins[0], reference, moved).p < 1e-9
