import numpy as np
import pytest
from scipy import stats
from scipy.special import logit

from modelkeep.evaluation import comparison, guards
from modelkeep.evaluation.guards import GuardError


def week(rng, rate=0.3, told=0.3, n=700):
    y = (rng.random(n) < rate).astype(int)
    return y, np.column_stack([np.full(n, 1 - told), np.full(n, told)])


def past_gaps(rng, weeks=12, sd=0.1):
    return rng.normal(0, sd, (weeks, 1))


def test_a_label_gap_by_hand():
    y, p = np.r_[np.ones(40, int), np.zeros(60, int)], np.tile([0.7, 0.3], (100, 1))
    gap, error = guards.label_gap("binary", y, p)
    assert gap == pytest.approx(logit([40.3 / 101]) - logit(0.3))
    assert error == pytest.approx([1 / np.sqrt(100 * 0.21)])
    three, _ = guards.label_gap("multiclass", np.r_[y, 2], np.tile([0.5, 0.3, 0.2], (101, 1)))
    assert three.shape == (3,)
    assert three[1] == pytest.approx(logit(40.3 / 102) - logit(0.3))
    numbers, error = guards.label_gap("regression", np.array([3.0, 5]), np.array([1.0, 1]), scale=2)
    assert (numbers, error) == (pytest.approx([1.5]), pytest.approx([0.5 / np.sqrt(2)]))


def test_labels_of_one_class_hold_whatever_the_past():
    rng = np.random.default_rng(0)
    for weeks in (0, 2, 4, 30):
        for rate in (0.0, 1.0):
            gap, error = guards.label_gap("binary", *week(rng, rate))
            guard = guards.label_guard(gap, past_gaps(rng, weeks), error)
            assert guard.held, (weeks, rate)
            assert guard.value > guard.limit
            assert ("higher" if rate else "lower") in guard.sentence


def test_one_class_of_several_that_vanishes_holds_and_is_named():
    rng = np.random.default_rng(1)
    p = np.tile([0.5, 0.3, 0.2], (500, 1))
    past = [guards.label_gap("multiclass", rng.choice(3, 500, p=p[0]), p)[0] for _ in range(8)]
    calm, error = guards.label_gap("multiclass", rng.choice(3, 500, p=p[0]), p)
    assert not guards.label_guard(calm, np.array(past), error, "abc").held
    gone, error = guards.label_gap("multiclass", rng.choice(2, 500, p=[0.6, 0.4]), p)
    guard = guards.label_guard(gone, np.array(past), error, "abc")
    assert guard.held and guard.sentence.startswith("labels of c are lower than predicted by")


def test_a_residual_far_from_zero_holds():
    rng = np.random.default_rng(2)
    past = np.array([[rng.normal(0, 0.1)] for _ in range(8)])
    for shift, held in ((0.0, False), (3.0, True)):
        y = rng.normal(10 + shift, 1, 200)
        gap, error = guards.label_gap("regression", y, np.full(200, 10.0), scale=1.0)
        assert guards.label_guard(gap, past, error).held == held


@pytest.mark.parametrize(("weeks", "rate"), [(4, 1 / 500), (8, 1 / 1_500), (26, 1 / 3_000)])
def test_label_guards_rarely_hold_by_chance(weeks, rate):
    """Whatever the size of usual gaps: 20,000 windows of normal gaps, well above the floor."""
    rng, runs = np.random.default_rng(weeks), 20_000
    gaps = rng.normal(0, 3, (runs, weeks + 1))
    held = sum(guards.label_guard(g[:1], g[1:, None]).held for g in gaps)
    assert held <= stats.binom.isf(1e-4, runs, rate)


def test_few_labels_are_noise():
    """With fewer labels than before a gap is noisier, and no reason to hold."""
    rng, held = np.random.default_rng(3), 0
    past = np.array([guards.label_gap("binary", *week(rng, n=20_000))[0] for _ in range(12)])
    for _ in range(500):
        gap, error = guards.label_gap("binary", *week(rng, n=40))
        held += guards.label_guard(gap, past, error).held
    assert held <= 4


def test_a_loss_far_above_its_past_holds():
    past = np.array([0.55, 0.53, 0.56, 0.54, 0.57, 0.55, 0.52, 0.56])
    guard = guards.loss_guard(0.94, past)
    assert guard.held and guard.value == 0.94
    assert guard.sentence == "log loss is 0.94, usually 0.55 (limit 0.698, from 8 past windows)"
    assert not guards.loss_guard(0.62, past).held
    assert not guards.loss_guard(0.1, past).held
    assert not guards.loss_guard(0.94, past, error=0.2).held
    assert not guards.loss_guard(0.94, past[:0]).held
    assert guards.loss_guard(0.94, past[:2]).limit == pytest.approx(0.81)


def test_loss_guards_rarely_hold_by_chance():
    rng, runs = np.random.default_rng(4), 20_000
    loss = rng.normal(10, 3, (runs, 9))
    held = sum(guards.loss_guard(x[0], x[1:]).held for x in loss)
    assert held <= stats.binom.isf(1e-4, runs, 1 / 1_000)


def test_distances_are_those_of_kolmogorov_and_of_shares():
    rng = np.random.default_rng(5)
    a, b = rng.normal(size=300), rng.normal(0.3, 1, 200)
    assert guards.distance(a, b)[0] == pytest.approx(stats.ks_2samp(a, b).statistic)
    holes = np.r_[b[:150], np.full(50, np.nan)]
    assert guards.distance(holes, b[:150])[0] == pytest.approx(0.25)
    texts = np.array(["a"] * 6 + ["b"] * 4, object), np.array(["a"] * 5 + [None] * 5, object)
    assert guards.distance(*texts)[0] == pytest.approx(0.5)
    with pytest.raises(GuardError, match="0 and 200 rows"):
        guards.distance(a[:0], b)


@pytest.mark.parametrize(("n", "m"), [(2_800, 10), (200, 50), (50, 5_000)])
def test_the_noise_of_distances_is_rarely_exceeded(n, m):
    rng, runs, beyond = np.random.default_rng(6), 400, np.zeros(2)
    shares = rng.dirichlet(np.ones(30))
    for _ in range(runs):
        numbers = guards.distance(rng.normal(size=n), rng.normal(size=m))
        drawn = [rng.choice(30, k, p=shares).astype(str).astype(object) for k in (n, m)]
        texts = guards.distance(*drawn)
        beyond += [numbers[0] > numbers[1], texts[0] > texts[1]]
    assert (beyond <= stats.binom.isf(1e-4, runs, guards.CHANCE)).all()


def test_a_misjoined_column_holds_and_is_named():
    past = np.array([[0.05, 0.2], [0.06, 0.25], [0.04, 0.2], [0.05, 0.3]])
    names = ("carrier", "temp")
    guard = guards.column_guard(np.array([0.4, 0.44]), past, names=names)
    assert guard.held and (guard.value, guard.limit) == (0.4, 0.1)
    assert guard.sentence.startswith("carrier is 0.40 from the weeks before (limit 0.10")
    both = guards.column_guard(np.array([0.4, 0.5]), past, names=names)
    assert "2 columns are beyond" in both.sentence
    assert not guards.column_guard(np.array([0.09, 0.44]), past, names=names).held
    assert not guards.column_guard(np.array([0.4, 0.4]), past, noise=0.5, names=names).held
    assert not guards.column_guard(np.array([0.9, 0.9]), past[:3], names=names).held


def gains(harm, sd, days=28, rows=50, margin=0.02, seed=0):
    """The gains of a candidate that is worse by `harm` a row, with noise of days and rows."""
    rng = np.random.default_rng(seed)
    day = np.repeat(np.arange(days), rows)
    x = -harm + rng.normal(0, sd, days)[day] + rng.normal(0, 3 * sd, len(day))
    return comparison.judge({"log_loss": x}, day, {"log_loss": margin}).gains


def test_the_harm_gate_passes_an_equal_candidate_and_stops_a_harmful_one():
    assert not guards.harm_guard(gains(0, 0.01), gains(0, 0.01, seed=1)).held
    guard = guards.harm_guard(gains(0.05, 0.01), gains(0, 0.01, seed=1))
    assert guard.held and "harm in log loss on 28 newest days" in guard.sentence
    assert not guards.harm_guard(gains(0.01, 0.001)).held  # worse for sure, and tolerated


def test_what_the_newest_window_rewards_the_window_before_stops():
    spoiled = gains(-0.1, 0.01)  # a batch of wrong labels that the candidate has learned
    assert not guards.harm_guard(spoiled).held
    guard = guards.harm_guard(spoiled, gains(0.05, 0.01, seed=1))
    assert guard.held and "earlier days" in guard.sentence
    assert not guards.harm_guard(spoiled, gains(0.03, 0.2, seed=2)).held  # not sure enough


def test_the_harm_gate_holds_at_the_tolerated_harm_in_95_of_100():
    passed = sum(not guards.harm_guard(gains(0.02, 0.01, seed=i)).held for i in range(400))
    assert passed <= 45  # 5 % of 400 is 20; above 45 by chance in less than 1 of 100,000


def test_nothing_to_compare_on_is_no_pass():
    assert guards.harm_guard(()).held
    assert guards.harm_guard(gains(0, 0.01, days=1)).held


def test_divergence_by_hand():
    p, q = np.array([[0.5, 0.5]]), np.array([[0.25, 0.75]])
    wanted = 0.5 * np.log(2) + 0.5 * np.log(0.5 / 0.75)
    assert guards.divergence("binary", p, q) == pytest.approx(wanted)
    assert guards.divergence("regression", np.array([1.0]), np.array([3.0]), 2.0) == 0.5
    with pytest.raises(GuardError, match="no rows"):
        guards.divergence("binary", p[:0], q[:0])


def test_a_candidate_unlike_earlier_ones_begins_as_a_canary():
    past = np.array([0.01, 0.012, 0.009, 0.011])
    assert guards.canary_guard(0.02, past[:3], 1).held
    assert not guards.canary_guard(0.02, past, 1).held
    assert guards.canary_guard(0.05, past, 1).held
    assert not guards.canary_guard(0.05, past, 2).held  # an older champion, so more may change


def test_equal_champions_are_taken_back_in_one_of_a_hundred_at_most():
    rng = np.random.default_rng(0)
    back = 0
    for _ in range(2000):
        past, new = rng.standard_t(3, 40) * 0.01, rng.standard_t(3, 7) * 0.01
        back += guards.shadow_guard(new, guards.usual_difference(past, 0.3)).held
    assert back <= 38  # 1 % of 2,000 is 20; above 38 by chance in less than 1 of 10,000


def test_a_worse_champion_is_taken_back_within_days():
    days = np.full(7, 0.05)
    scale = guards.usual_difference(np.array([0.01, -0.01, 0.005]), 0.4)
    evalues = guards.shadow_evalues(days, scale)
    assert (np.diff(evalues) > 0).all()
    assert guards.shadow_guard(days, scale).held
    assert not guards.shadow_guard(-days, scale).held
    assert not guards.shadow_guard(np.full(7, np.nan), scale).held
    waits = guards.shadow_evalues(np.r_[np.nan, days], scale)
    np.testing.assert_allclose(waits[1:], evalues)
    once = guards.shadow_evalues(np.array([10.0]), scale)
    assert once == pytest.approx(guards.shadow_evalues(np.array([8 * scale]), scale))


def held_in_a_year(mean, years=300, seed=0):
    """In how many years of weekly updates the recipe guard ever holds."""
    rng = np.random.default_rng(seed)
    found = mean + rng.standard_normal((years, 52))
    return np.mean([any(guards.recipe_guard(w[:t]).held for t in range(4, 53)) for w in found])


def test_the_recipe_guard_holds_where_retraining_harms_and_hardly_ever_elsewhere():
    assert held_in_a_year(0.0) <= 0.05
    assert held_in_a_year(-0.5) <= 0.01
    assert held_in_a_year(1.0) >= 0.6
    assert not guards.recipe_guard(np.array([0.1, 0.1, 0.1])).held
