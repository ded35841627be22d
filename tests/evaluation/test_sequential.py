import math
from itertools import product

import numpy as np
import pytest
from scipy.special import rel_entr
from scipy.stats import betabinom, binom

from modelkeep.evaluation import sequential
from modelkeep.evaluation.sequential import BETTER, WORSE

BASES = (1e-9, 0.001, 0.05, 0.4, 0.9, 1.0)
BLOCKS = tuple(product((1, 2, 9, 40), (1, 3, 20)))
POINTS = np.array([0, 1e-6, 0.001, 0.01, 0.05, 0.2, 0.5, 0.8, 0.99, 1])
SPLIT = len(WORSE)


def expectations(n_a, n_b, base, margin, floor, points):
    """The exact expectation of each alternative's e-value at each pair of true rates, all outcomes enumerated."""
    x_a, x_b = (g.ravel() for g in np.meshgrid(np.arange(n_a + 1), np.arange(n_b + 1)))
    counts = np.stack([np.full_like(x_a, n_a), x_a, np.full_like(x_a, n_b), x_b], axis=-1)
    asked = sequential.nulls(np.full(len(counts), margin), floor)
    e = np.exp(sequential.growth(counts.astype(float), np.full(len(counts), base), *asked))
    chance = [binom.pmf(x_a, n_a, p_a) * binom.pmf(x_b, n_b, p_b) for p_a, p_b in points]
    return np.array(chance) @ e


@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize(("n_a", "n_b"), BLOCKS)
def test_what_is_never_worse_gains_no_evidence(n_a, n_b, base):
    points = [(p, q) for p in POINTS for q in POINTS if q <= p]
    found = expectations(n_a, n_b, base, 2.0, 0.0, points)[:, :SPLIT]
    assert found.max() <= 1 + 1e-9


@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize(("n_a", "n_b"), BLOCKS)
@pytest.mark.parametrize(("margin", "floor"), [(1.1, 0), (2.0, 0), (1.5, 0.002), (1.2, 0.1)])
def test_what_is_worse_by_the_margin_gains_no_evidence(n_a, n_b, base, margin, floor):
    edge = [(p, margin * max(p, floor)) for p in POINTS if margin * max(p, floor) <= 1]
    beyond = [(p, q + (1 - q) * far) for p, q in edge for far in (0.0, 1e-3, 0.1, 1.0)]
    found = expectations(n_a, n_b, base, margin, floor, beyond)[:, SPLIT:]
    assert found.max() <= 1 + 1e-9


def test_nothing_is_given_away():
    """At the nearest point of the null hypothesis the expectation is 1, and evidence grows where the alternative is true."""
    edge = [(p, p) for p in np.linspace(0.05, 0.25, 2001)]
    worse = expectations(60, 30, 0.05, 2.0, 0.0, edge)[:, :SPLIT]
    assert worse.max(axis=0) == pytest.approx(np.ones(SPLIT), abs=1e-3)
    for rho in (1.5, 2.0):
        i = list(WORSE).index(rho)
        assert expectations(60, 30, 0.05, 2.0, 0.0, [(0.05, 0.05 * rho)])[0, i] > 1.1


def divergence(p, q):
    """Kullback and Leibler's, of two coins."""
    return rel_entr(p, q) + rel_entr(1 - p, 1 - q)


@pytest.mark.parametrize(("n_a", "n_b"), [(990, 10), (500, 500)])
@pytest.mark.parametrize("base", [0.001, 0.02, 0.05, 0.6])
@pytest.mark.parametrize(("margin", "floor"), [(2.0, 0.0), (1.2, 0.015), (1.5, 0.1)])
def test_it_divides_by_the_nearest_point_of_the_null_hypothesis(n_a, n_b, base, margin, floor):
    """Found here on a fine grid: its edge, its corner at the floor, or the floor itself."""
    asked = sequential.nulls(np.array(margin), floor)
    p_a = np.linspace(0, 1, 200_001)[1:-1]
    for i, (rho, m, f) in enumerate(zip(*asked)):
        expected = max(base, f)
        t_b = min(rho * expected, (1 + expected) / 2)
        counts = np.array([n_a, n_a * base, n_b, n_b * t_b])
        ours = sequential.growth(counts, np.array(base), *asked)[i]
        p_b = m * np.maximum(p_a, f)
        p_a_, p_b = p_a[p_b < 1], p_b[p_b < 1]
        nearest = n_a * divergence(base, p_a_) + n_b * divergence(t_b, p_b)
        assert ours == pytest.approx(nearest.min(), rel=1e-3, abs=1e-3)


def oracle(x_a, x_b, share, rho, r):
    """Events only (Lindon and Malek, arXiv 2011.03567)."""
    part = lambda k: share * k / (share * k + 1 - share)  # noqa: E731
    return x_b * np.log(part(rho) / part(r)) + x_a * np.log((1 - part(rho)) / (1 - part(r)))


@pytest.mark.parametrize("share", [0.01, 0.25, 0.5])
@pytest.mark.parametrize("margin", [1.1, 2.0])
def test_for_rare_events_it_is_the_oracle_of_events_only(share, margin):
    n = 10_000_000
    for x_a, x_b in ((0, 1), (3, 0), (20, 20), (5, 40)):
        counts = np.array([n * (1 - share), x_a, n * share, x_b])
        rho, margins, floor = sequential.nulls(np.array(margin), 0)
        ours = sequential.growth(counts, np.array(1e-6), rho, margins, floor)
        theirs = oracle(x_a, x_b, share, rho, margins)
        assert ours == pytest.approx(theirs, abs=2e-3)


def test_it_leans_the_way_the_oracle_leans():
    """At 5 % the two differ in size, as ours sees answers without events too, not in what they say."""
    draw, share, same = np.random.default_rng(0), 0.3, []
    n_a, n_b = np.full(500, 14_000), np.full(500, 6_000)
    factor = np.repeat([0.7, 1.0, 1.3, 1.6, 2.5], 100)
    x_a, x_b = draw.binomial(n_a, 0.05), draw.binomial(n_b, 0.05 * factor)
    counts = np.stack([n_a, x_a, n_b, x_b], axis=-1).astype(float)
    rho, margins, floor = sequential.nulls(np.full(500, 1.5), 0)
    ours = sequential.growth(counts, np.full(500, 0.05), rho, margins, floor)
    theirs = oracle(x_a[:, None], x_b[:, None], share, rho, margins)
    for half in (slice(None, SPLIT), slice(SPLIT, None)):
        a, b = sequential.mean(ours[:, half]), sequential.mean(theirs[:, half])
        sure = (abs(a) > 1) & (abs(b) > 1)
        same.append(np.mean(np.sign(a[sure]) == np.sign(b[sure])))
        assert np.corrcoef(a, b)[0, 1] > 0.99
    assert min(same) > 0.99


@pytest.mark.parametrize(
    "counts", [(0, 0, 0, 0), (5, 2, 0, 0), (0, 0, 5, 5), (9, 9, 9, 9), (9, 0, 9, 9), (9, 9, 9, 0)]
)
@pytest.mark.parametrize("base", [math.nan, 0.0, 0.3, 1.0])
def test_all_good_all_bad_and_one_side_only(counts, base):
    found = sequential.begin(np.array([base]))
    for _ in range(3):
        found = sequential.weigh(found, np.array([counts]), np.array([1.5]), 0.01)
    logs = np.concatenate([found.log_worse, found.log_noninferior], axis=1)
    assert np.isfinite(logs).all() and np.isfinite(sequential.log_e_worse(found))
    if 0 in (counts[0], counts[2]):
        assert (logs == 0).all() and found.weighed == 0
    assert np.isnan(found.base) == (math.isnan(base) and counts[0] == 0)


def test_a_first_stratum_teaches_the_rate_and_is_no_evidence():
    found = sequential.weigh(
        sequential.begin(np.array([math.nan])), np.array([[99, 9, 50, 50]]), np.array([2.0]), 0
    )
    assert found.base == pytest.approx(9.5 / 100)
    assert (found.log_worse == 0).all() and (found.log_noninferior == 0).all()
    found = sequential.weigh(found, np.array([[100, 20, 50, 50]]), np.array([2.0]), 0)
    assert found.base == pytest.approx(0.095 + (0.2 - 0.095) / 15)
    assert sequential.log_e_worse(found) > 20


def test_the_mixture_is_what_it_says():
    """Weights 1/(k(k+1)), a fresh process each ten strata, what has not begun waits at 1."""
    draw, found, steps = np.random.default_rng(1), sequential.begin(np.array([0.1])), []
    for _ in range(430):
        n_a, n_b = draw.integers(50, 100, 2)
        counts = np.array([[n_a, draw.binomial(n_a, 0.1), n_b, draw.binomial(n_b, 0.1)]])
        before = found.log_worse
        found = sequential.weigh(found, counts, np.array([2.0]), 0)
        steps.append((found.log_worse - before)[0])
        n = len(steps)
        if n in (1, 10, 11, 95, 400, 430):
            starts = range(0, min(n, 400), 10)
            e = [np.exp(np.sum(steps[s:], axis=0)).mean() for s in starts]
            weights = [1 / (k * (k + 1)) for k in range(1, len(e) + 1)]
            w = np.dot(weights, e) + 1 - sum(weights)
            assert sequential.log_e_worse(found)[0] == pytest.approx(math.log(w), abs=1e-9)


def test_the_sample_ratio_is_a_beta_binomial():
    for share, champion, canary in ((0.01, 990, 10), (0.25, 700, 300), (0.5, 0, 0), (0.5, 40, 0)):
        n, a, b = champion + canary, 1000 * share, 1000 * (1 - share)
        expected = betabinom.logpmf(canary, n, a, b) - binom.logpmf(canary, n, share)
        assert sequential.sample_ratio_mismatch(champion, canary, share) == pytest.approx(
            expected, abs=1e-8
        )
    chances = binom.pmf(np.arange(201), 200, 0.25)
    e = [math.exp(sequential.sample_ratio_mismatch(200 - k, k, 0.25)) for k in range(201)]
    assert np.dot(chances, e) == pytest.approx(1, abs=1e-9)


@pytest.mark.parametrize(("share", "margin"), [(0.01, 2.0), (0.05, 1.5), (0.25, 1.2), (0.5, 1.1)])
def test_worse_by_the_margin_leaves_its_step_seldom(share, margin):
    """However often one looks: at each of 60 minutes, at 100 answers a second, the base rate doubling."""
    draw, runs, passed = np.random.default_rng(3), 1000, np.zeros(1000, bool)
    found = sequential.begin(np.full(runs, 0.05))
    for look in range(60):
        p = 0.05 * (1 + look / 60)
        n_a, n_b = draw.poisson(6000 * (1 - share), runs), draw.poisson(6000 * share, runs)
        counts = [n_a, draw.binomial(n_a, p), n_b, draw.binomial(n_b, p * margin)]
        found = sequential.weigh(found, np.stack(counts, axis=-1), np.full(runs, margin), 0)
        passed |= sequential.log_e_noninferior(found) >= math.log(20)
    assert passed.sum() <= binom.isf(1e-4, runs, 0.05)


def test_the_alternatives_are_those_of_the_page():
    rho, margin, floor = sequential.nulls(np.array(1.5), 0.01)
    assert list(rho) == [*WORSE, 1.25, *BETTER] == [1.05, 1.1, 1.2, 1.5, 2, 4, 10, 1.25, 1, 0.95, 0.9, 0.8, 0.5]  # fmt: skip
    assert list(margin) == [1] * 7 + [1.5] * 6
    assert list(floor) == [0] * 7 + [0.01] * 6
