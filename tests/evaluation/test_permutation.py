import math

import numpy as np
import pyarrow as pa
import pytest
from scipy import stats

from counts import blocked, counted
from modelkeep.evaluation import drift, permutation, profile, two_sample
from modelkeep.evaluation.permutation import Design


def blocks(reference, window, permutations, rng):
    plan = permutation.design(reference, window, permutations, rng)
    return permutation.block_tests(reference, window, plan, rng)


def joint(reference, window, permutations, rng):
    plan = permutation.design(reference, window, permutations, rng)
    return max(permutation.joint_ps(reference, window, plan, rng))


def test_blocks_are_exact_where_rows_mislead():
    rng = np.random.default_rng(2)
    shares, runs = np.array([1e-6, 0.2, 0.4, 0.3, 0.1, 1e-6, 0.05]), 150
    shares /= shares.sum()
    small = {"rows": 0, "blocks": 0}
    for _ in range(runs):
        reference = counted(blocked(rng, 30, shares), blocks=True)
        window = counted(blocked(rng, 7, shares), blocks=True)
        b = reference.bins[0]
        (tests,) = blocks(reference, window, 199, rng)
        small["blocks"] += tests.p <= 0.05
        small["rows"] += two_sample.row_tests(b, reference, window).p <= 0.05
    assert small["blocks"] <= stats.binom.isf(1e-5, runs, 0.05)
    assert small["rows"] > runs / 2


def test_blocks_find_what_moved():
    rng = np.random.default_rng(3)
    shares = np.array([0.01, 0.3, 0.4, 0.2, 0.04, 0.01, 0.04])
    later = np.array([0.01, 0.15, 0.3, 0.3, 0.19, 0.01, 0.04])
    lost = np.array([0.01, 0.2, 0.3, 0.2, 0.04, 0.01, 0.24])
    reference = counted(blocked(rng, 60, shares, alike=200), blocks=True)
    for now, named in ((later, False), (lost, True)):
        window = counted(blocked(rng, 7, now, alike=200), blocks=True)
        (tests,) = blocks(reference, window, 999, rng)
        assert tests.p == pytest.approx(1 / 1_000, rel=0.2)
        assert (tests.missing == 1 / 1_000) == named
        assert joint(reference, window, 999, rng) == 1 / 1_000


def many(columns, shifted=0, seed=8):
    """A reference of 50 days and a week of independent columns, the first ones shifted."""
    rng = np.random.default_rng(seed)
    names, days = [f"x{i}" for i in range(columns)], np.arange(57).repeat(40)
    values = rng.normal(size=(len(days), columns)).round(2)
    values[days >= 50, :shifted] += 1
    table = pa.table(dict(zip(names, values.T, strict=True)))
    dates = np.datetime64("2013-01-01") + days
    first = np.count_nonzero(days < 50)
    kinds = dict.fromkeys(names, "number")
    reference = profile.learn(table.slice(0, first), kinds, dates[:first])
    return reference, profile.count(reference.bins, table.slice(first), dates[first:])


def test_few_permutations_are_not_staged():
    reference, window = many(3)
    staged, _ = permutation.staged_tests(reference, window, 300, np.random.default_rng(1))
    assert staged == blocks(reference, window, 300, np.random.default_rng(1))


def test_what_few_permutations_settle_is_not_tested_again():
    """The p-values of both stages are as rare as they say, and a change has a small one."""
    columns, all_of_them = 300, 20_000
    reference, window = many(columns, shifted=2)
    rng = np.random.default_rng(2)
    tests, plan = permutation.staged_tests(reference, window, all_of_them, rng)
    assert plan.drawn.shape[1] == all_of_them + 1
    found = np.array([each.p for each in tests])
    assert (found[:2] <= 2 / all_of_them).all()
    for level in (0.001, 0.01, permutation.SETTLED, 0.05, 0.2):
        assert (found[2:] <= level).sum() <= stats.binom.isf(1e-5, columns - 2, level)
    assert stats.kstest(found[2:], "uniform").pvalue > 1e-5


def test_unseen_categories_are_counted_in_blocks():
    days, now = [[50, 40, 2, 0, 0]] * 40, [[50, 40, 2, 0, 0]] * 6
    reference = counted(days, "category", blocks=True)
    rng = np.random.default_rng(4)
    for where, low, high in (([90, 0, 0], 0.05, 0.2), ([30, 30, 30], 0, 0.01)):
        new = [[50, 40, 2, n, 0] for n in where]
        (tests,) = blocks(reference, counted(new + now[3:], "category", blocks=True), 999, rng)
        assert low < tests.unseen < high


def test_columns_without_any_difference():
    same = counted([[0, 9, 0, 0]] * 30, blocks=True)
    rng = np.random.default_rng(5)
    (tests,) = blocks(same, same, 99, rng)
    assert (tests.p, tests.missing, tests.outside) == (0.9, 1, 1)
    assert two_sample.row_tests(same.bins[0], same, same).p > 0.89
    gone = counted([[0, 0, 0, 9]] * 30, blocks=True)
    (tests,) = blocks(gone, gone, 99, rng)
    assert tests.p == 0.9
    (tests,) = blocks(same, gone, 99, rng)
    assert tests.missing == 1 / 100
    assert tests.p == pytest.approx(1 / 100, rel=0.2)


def slow_p(reference, window, drawn, pools):
    """The documented statistic of a category column, one permutation at a time, in plain Python."""
    rows = [sum(block) for block in (*reference, *window)]
    counts = [[*block[:-3], block[-3] + block[-2], block[-1]] for block in (*reference, *window)]
    values = [[math.sqrt(c * n) for c in block] for block, n in zip(counts, rows, strict=True)]
    values = [v + [sum(v[i] for i in pool) for pool in pools] for v in values]
    z = []
    for j in range(len(values[0])):
        v = [block[j] for block in values]
        mean = sum(v) / sum(rows)
        spread = [(x - n * mean) ** 2 / n for x, n in zip(v, rows, strict=True)]
        slope = np.cov(rows, spread, bias=True)[0, 1] / np.var(rows)
        slope = min(max(slope, 0), np.mean(spread) / np.mean(rows))
        level = np.mean(spread) - slope * np.mean(rows)
        one = []
        for chosen in drawn.T:
            rest = [g for g in range(len(rows)) if g not in chosen]
            sums = [sum(rows[g] for g in side) for side in (chosen, rest)]
            apart = sum(v[g] for g in chosen) / sums[0] - sum(v[g] for g in rest) / sums[1]
            squares = [sum(rows[g] ** 2 for g in side) for side in (chosen, rest)]
            variance = level * (1 / sums[0] + 1 / sums[1])
            variance += slope * sum(q / s**2 for q, s in zip(squares, sums, strict=True))
            one.append(abs(apart) / math.sqrt(variance))
        z.append(np.array(one) / math.sqrt(np.mean(np.square(one))))
    single, pooled = np.array(z[: len(counts[0])]), np.array(z[len(counts[0]) :])
    x = (pooled**2).sum(axis=0)
    wide = x.var() / x.mean() ** 2 / 9
    normal = np.maximum(((x / x.mean()) ** (1 / 3) - 1 + wide) / math.sqrt(wide), 0)
    total = np.exp(single.max(axis=0) ** 2 / 2) / len(single) + np.exp(normal**2 / 2)
    return np.mean(total >= total[0] * (1 - 1e-9))


def test_the_statistic_is_that_of_a_slow_independent_implementation():
    rng = np.random.default_rng(7)
    shares = np.array([0.5, 0.3, 0.1, 0.04, 0.06])
    for later in (shares, np.array([0.42, 0.36, 0.12, 0.04, 0.06])):
        before, now = blocked(rng, 18, shares), blocked(rng, 5, later)
        before[:, -2:-1], now[:, -2:-1] = 0, 0  # no unseen category
        reference = counted(before, "category", blocks=True)
        window = counted(now, "category", blocks=True)
        sets = np.array([rng.permutation(23)[:5] for _ in range(199)]).T
        drawn = np.column_stack([np.arange(18, 23), sets])
        plan = Design(drawn, (reference.rows, window.rows), False, False)
        (tests,) = permutation.block_tests(reference, window, plan, rng)
        pools = [[0], [1], [2], [3]]  # each bin has 5 expected rows
        expected = slow_p(before.tolist(), now.tolist(), drawn, pools)
        assert tests.p == pytest.approx(two_sample.cauchy([expected, 1], [0.9, 0.1]))


def test_sizes_are_matched_by_rank():
    a, b = permutation.matched_sizes(np.array([100, 10, 50, 40]), np.array([30, 60]))
    assert b.tolist() == [25, 60]  # between 10 and 40, and between 50 and 100
    assert a.tolist() == [60, 10, 50, 38]
    same = np.array([5, 7, 7, 9])
    assert all((x == same).all() for x in permutation.matched_sizes(same, same))


def test_thinning_draws_rows_without_replacement():
    rng = np.random.default_rng(8)
    counts = np.tile([[30, 0, 60, 10]], (4_000, 1))
    rows = np.resize([0, 20, 50, 100], 4_000)
    kept = permutation.thinned(counts, rows, rng)
    assert (kept.sum(axis=1) == rows).all()
    assert ((kept >= 0) & (kept <= counts)).all()
    for n in (20, 50):
        drawn = kept[rows == n]
        law = stats.hypergeom(100, 30, n)
        assert drawn[:, 0].mean() == pytest.approx(law.mean(), abs=5 * law.std() / 1_000**0.5)
        assert drawn[:, 0].var() == pytest.approx(law.var(), rel=0.25)
    assert (kept[rows == 100] == counts[0]).all()


def test_blocks_are_exchanged_within_their_weekday():
    rng = np.random.default_rng(9)
    reference, window = counted([[0, 9, 9, 0]] * 60, blocks=True), counted([[0, 9, 9, 0]] * 67)
    whole = counted([[0, 9, 9, 0]] * 67, blocks=True)
    window = profile.window(whole, whole.blocks[60], whole.blocks[66] + 1)
    plan = permutation.design(reference, window, 99, rng)
    assert plan.stratified and not plan.thinned
    assert (np.sort(plan.drawn % 7, axis=0) == np.arange(7)[:, None]).all()
    assert (np.sort(plan.drawn[:, 0]) == np.arange(60, 67)).all()
    assert len(np.unique(plan.drawn)) > 60
    few = profile.window(whole, whole.blocks[60], whole.blocks[61])
    assert not permutation.design(reference, few, 99, rng).stratified


WEEK = np.array([1, 1, 1, 1, 1.2, 0.4, 0.3])
SHARES = {
    "number": np.r_[0, np.full(20, 0.0495), 0, 0.01],
    "category": [0.5, 0.3, 0.15, 0.05, 0, 0],
}


def days(rng, first, count, rows, week, alike):
    """Counts by column of days of about so many rows."""
    when = np.arange(first, first + count)
    sizes = np.maximum(rng.poisson(rows * (WEEK[when % 7] if week else np.ones(count))), 1)
    made = {}
    for kind, shares in SHARES.items():
        own = np.tile(shares, (count, 1))
        if alike:
            own = np.array([rng.dirichlet(np.maximum(p / alike, 1e-9)) for p in own])
        made[kind] = np.array([rng.multinomial(n, p) for n, p in zip(sizes, own, strict=True)])
    return made


@pytest.mark.parametrize(
    ("before", "now", "week", "alike"),
    [(60, 30, False, 0), (20, 600, False, 0), (1_000, 30, True, 0.01), (5, 60, True, 0.05)],
)
def test_other_volumes_are_no_drift(before, now, week, alike):
    """The long form of this is `benchmarks/drift_rates.py --only volume`."""
    rng, runs = np.random.default_rng(10), 60
    drifted = crossed = 0
    for _ in range(runs):
        old, new = (days(rng, *s, week, alike) for s in ((0, 40, before), (104, 7, now)))
        reference, window = (
            [counted(x, kind, blocks=True) for kind, x in each.items()] for each in (old, new)
        )
        p = [blocks(*pair, 199, rng)[0].p for pair in zip(reference, window, strict=True)]
        drifted += two_sample.discoveries(p, 0.05).any()
        crossed += joint(reference[0], window[0], 199, rng) <= 0.05
    assert drifted <= stats.binom.isf(1e-4, runs, 0.05)
    assert crossed <= stats.binom.isf(1e-4, runs, 0.05)


def test_a_shift_is_found_at_another_volume():
    rng, found = np.random.default_rng(11), 0
    for _ in range(20):
        old = counted(days(rng, 0, 60, 300, True, 0)["number"], blocks=True)
        new = days(rng, 104, 7, 100, True, 0)["number"]
        higher = rng.binomial(new[:, 1:6], 0.5)  # an eighth of the rows goes from low to high
        new[:, 1:6], new[:, 16:21] = new[:, 1:6] - higher, new[:, 16:21] + higher
        found += blocks(old, counted(new, blocks=True), 199, rng)[0].p <= 0.05
    assert found >= 18


def test_the_report_says_how_and_from_how_many_rows():
    rng = np.random.default_rng(12)
    old = counted(days(rng, 0, 60, 300, False, 0)["number"], blocks=True)
    new = counted(days(rng, 104, 7, 30, False, 0)["number"], blocks=True)
    result = drift.compare(old, new)
    assert "blocks thinned to equal sizes (12% of the reference's rows kept" in result.why
    assert 700 < result.least_rows < 1_200  # (1.96 + .84)^2 / .01, less rows of one column
    for correlation, enough in ((0.05, True), (0.2, False)):
        alike = counted(days(rng, 0, 60, 300, False, correlation)["number"], blocks=True)
        assert (drift.compare(alike, new).least_rows is not None) == enough
