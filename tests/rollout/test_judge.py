import importlib.util
import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import binom

from modelkeep.evaluation import sequential
from modelkeep.rollout import judge
from modelkeep.rollout.judge import JudgeError, Look
from modelkeep.rollout.planning import Rules

RULES = Rules(longest=4 * 3600)
BASE = {"failed": 0.05}
THREE = Rules(metrics=("failed", "slow", "wrong"), longest=4 * 3600)


def counts(draw, share, factor=1.0, rows=6000, base=0.05):
    """One stratum of a minute."""
    n_a, n_b = int(draw.poisson(rows * (1 - share))), int(draw.poisson(rows * share))
    x_b = draw.binomial(n_b, min(1, base * factor))
    return (n_a, int(draw.binomial(n_a, base)), n_b, int(x_b))


def rollout(rules, factor, seed, base=BASE, looks=240):
    """One rollout of independent answers, a look a minute, until a final verdict or all traffic."""
    draw, state, lines = np.random.default_rng(seed), judge.start(rules, base), []
    lines.append(judge.opened(rules, base))
    for i in range(1, looks + 1):
        share = rules.share(state.step)
        strata = {name: [counts(draw, share, factor)] for name in rules.metrics}
        first = strata[rules.metrics[0]][0]
        look = Look(60.0 * i, strata, (first[0], first[2]))
        state, verdict = judge.judge(rules, state, look)
        lines.append(judge.line(look, verdict))
        if state.final or state.step == len(rules.shares):
            break
    return state, verdict, lines


def judged(*looks, rules=RULES, base=BASE):
    """The verdicts of some looks, and the state after them."""
    state, verdicts = judge.start(rules, base), []
    for look in looks:
        state, verdict = judge.judge(rules, state, look)
        verdicts.append(verdict)
    return state, verdicts


def test_an_equal_canary_gets_all_traffic_step_by_step():
    state, verdict, lines = rollout(RULES, 1.0, seed=0)
    words = [json.loads(line)["verdict"]["word"] for line in lines[1:]]
    shares = [json.loads(line)["verdict"]["share"] for line in lines[1:]]
    assert state.step == 4 and verdict.share == 1.0 and state.final == ""
    assert words.count("step_up") == 4 and set(words) == {"wait", "step_up"}
    assert shares == sorted(shares) and set(shares) == {0.01, 0.05, 0.25, 0.5, 1.0}
    assert "nothing is 1.1 times worse: evidence against that at least" in verdict.reason


def test_a_bad_canary_goes_back():
    state, verdict, _ = rollout(RULES, 2.0, seed=0)
    assert (verdict.word, verdict.share, state.final) == ("roll_back", 0.0, "roll_back")
    assert verdict.reason.startswith("`failed` is worse than the champion's: evidence ")
    assert verdict.reason.endswith(", 3.00 is enough")
    assert verdict.evidence["failed"]["worse"] >= math.log(20)


def test_a_replay_gives_the_same_to_the_last_digit():
    for factor in (1.0, 1.3, 2.0):
        state, verdict, lines = rollout(THREE, factor, 1, base=dict.fromkeys(THREE.metrics, 0.05))
        rules, again, verdicts = judge.replay(lines)
        assert rules == THREE and verdicts[-1] == verdict
        assert again.as_dict() == state.as_dict()
        assert [json.loads(line)["verdict"] for line in lines[1:]] == [vars(v) for v in verdicts]
        k = len(lines) // 2
        half, look = judge.replay(lines[:k])[1], Look(**json.loads(lines[k])["look"])
        assert judge.judge(rules, half, look)[1] == verdicts[k - 1]
        json.dumps(state.as_dict(), allow_nan=False)


def test_a_record_that_says_something_else_is_refused():
    lines = rollout(RULES, 1.0, seed=2)[2]
    with pytest.raises(JudgeError, match=r"line 2: 'step_up' is on record, its counts give 'wait'"):
        judge.replay([lines[0], lines[1].replace('"wait"', '"step_up"'), *lines[2:]])
    with pytest.raises(JudgeError, match=r"line 4: .*; cut the record before this line"):
        judge.replay([*lines[:3], lines[3][:50]])
    for short in ([], lines[1:]):
        with pytest.raises(JudgeError, match="line 1: a record begins with the rules"):
            judge.replay(short)
    assert judge.replay(lines[:1])[2] == []


def test_no_data_is_an_error_and_never_a_step():
    nothing = [Look(60.0, {}), Look(120.0, {"failed": []}), Look(180.0, {"failed": [(0, 0, 0, 0)]})]
    state, verdicts = judged(*nothing)
    assert [v.word for v in verdicts] == ["error"] * 3
    assert all(v.share == 0.01 and v.reason.startswith("no data: not one row") for v in verdicts)
    assert (state.found.worse == 0).all() and (state.found.harmless == 0).all()


def test_a_gap_changes_no_evidence():
    draw = np.random.default_rng(5)
    strata = [counts(draw, 0.01) for _ in range(3)]
    state, _ = judged(*(Look(60.0 * i, {"failed": [s]}) for i, s in enumerate(strata, 1)))
    looks = [
        Look(60.0, {"failed": [strata[0]]}),
        Look(120.0, {}),
        Look(180.0, {"failed": strata[1:]}),
    ]
    with_gap, verdicts = judged(*looks)
    assert [v.word for v in verdicts] == ["wait", "error", "wait"]
    assert with_gap.as_dict() == state.as_dict()


@pytest.mark.parametrize("side", [(500, 20, 0, 0), (0, 0, 500, 200)])
def test_one_side_alone_says_nothing(side):
    state, verdicts = judged(*(Look(60.0 * i, {"failed": [side]}) for i in range(1, 30)))
    assert {v.word for v in verdicts} == {"wait"}
    assert (state.found.worse == 0).all() and (state.found.harmless == 0).all()


@pytest.mark.parametrize("base", [0.0, 0.5, 1.0])
def test_all_bad_and_none_bad(base):
    rules = replace(RULES, floor=0.002)
    both = [Look(60.0 * i, {"failed": [(5940, 5940, 60, 60)]}) for i in range(1, 9)]
    assert "roll_back" not in {v.word for v in judged(*both, rules=rules, base={"failed": base})[1]}
    worst = judged(Look(60.0, {"failed": [(5940, 0, 60, 60)]}), base={"failed": base})[1]
    best = [Look(60.0 * i, {"failed": [(5940, 5940, 60, 0)]}) for i in range(1, 4)]
    assert worst[0].word == "roll_back"
    assert judged(*best, base={"failed": base})[1][1].word == "step_up"


def test_a_champion_that_never_fails_needs_a_floor():
    """That a rate of 0 is not twice another rate of 0 cannot be shown: below the floor nobody minds."""
    fine = [Look(60.0 * i, {"failed": [(5940, 0, 60, 0)]}) for i in range(1, 121)]
    assert {v.word for v in judged(*fine, base={"failed": 0})[1]} == {"wait"}
    words = [
        v.word for v in judged(*fine, base={"failed": 0}, rules=replace(RULES, floor=0.005))[1]
    ]
    assert 5 < words.index("step_up") < 30


def test_the_step_waits_for_its_least_time_and_for_every_metric():
    good = (5000, 500, 5000, 50)
    slow = replace(THREE, dwell=180.0)
    base = dict.fromkeys(THREE.metrics, 0.1)
    some = {"failed": [good], "slow": [good]}
    looks = [Look(60.0, some), Look(120.0, {**some, "wrong": [good]}), Look(180.0, some)]
    words = [(v.word, v.reason) for v in judged(*looks, rules=slow, base=base)[1]]
    assert words[0][1].startswith("`wrong` may still be 2 times worse: evidence against that 0.00")
    assert words[1] == ("wait", "at this step for 120 s, the least is 180 s")
    assert words[2][0] == "step_up"


def weighed(rules, worse, harmless):
    """A state in which each metric has this log evidence already, of one process (weight 1/2)."""
    state = judge.start(rules, dict.fromkeys(rules.metrics, 0.05))
    rows = len(rules.metrics)
    found = replace(
        state.found,
        worse=np.full((rows, 7), worse),
        harmless=np.full((rows, 6), harmless),
        starts=np.zeros((rows, 1, 7)),
        weighed=np.ones(rows, int),
    )
    return replace(state, found=found, at=600.0)


NEXT = Look(660.0, {"failed": [(100, 5, 0, 0)]})


def test_the_share_does_not_grow_while_evidence_leans_to_worse():
    """Also not when it could grow by its margin."""
    verdict = judge.judge(RULES, weighed(RULES, 2.0, 9.0), NEXT)[1]
    assert verdict.word == "wait" and verdict.reason.startswith("`failed` leans to worse: evidence")
    assert judge.judge(RULES, weighed(RULES, 1.0, 9.0), NEXT)[1].word == "step_up"


def test_more_metrics_need_more_evidence_each():
    """ln 20 for one, ln 60 for three: together they accuse a canary never worse in 5 %."""
    for worse, words in ((3.5, ("wait", "wait")), (4.0, ("roll_back", "wait")), (4.8, ("roll_back",) * 2)):  # fmt: skip
        for rules, word in zip((RULES, THREE), words):
            verdict = judge.judge(rules, weighed(rules, worse, 0.0), NEXT)[1]
            assert verdict.word == word, (worse, verdict)


def test_each_step_begins_anew():
    """Its evidence, its least time and its entities; what was found of being worse stays."""
    good = {"failed": [(5000, 250, 5000, 50)]}
    state, verdicts = judged(*(Look(60.0 * i, good, (50, 50)) for i in range(1, 9)), rules=replace(RULES, shares=(0.5, 0.51, 0.52, 0.53)))  # fmt: skip
    assert [v.word for v in verdicts] == ["wait", "step_up"] * 4
    assert [v.step for v in verdicts] == [0, 1, 1, 2, 2, 3, 3, 4]
    assert (state.found.harmless == 0).all() and state.entities == (0, 0) and state.since == 480.0
    assert state.found.weighed == 8 and (state.found.worse < -40).all()


def test_a_wrong_sample_ratio_stops():
    """A canary that loses 45 % of its entities; and one that loses none is not accused."""
    row = {"failed": [(5000, 250, 50, 3)]}
    state, verdicts = judged(*(Look(60.0 * i, row, (5973, 33)) for i in range(1, 9)))
    words = [v.word for v in verdicts]
    first = verdicts[words.index("stop")]
    assert state.final == "stop" and first.share == 0.0 and words[0] == "wait"
    assert " entities, its share is 1.0%: evidence " in first.reason
    right = judged(*(Look(60.0 * i, row, (5940, 60)) for i in range(1, 9)))[1]
    assert all(v.split < 0 and v.word != "stop" for v in right)


@pytest.mark.parametrize(
    ("recent", "opens"),
    [
        ((500, 50, 50, 25), True),
        ((500, 50, 50, 24), False),
        ((500, 51, 50, 25), False),
        ((500, 0, 30, 25), True),
        ((0, 0, 50, 25), True),
        ((0, 0, 0, 0), False),
    ],
)
def test_the_circuit_breaker(recent, opens):
    assert judge.breaks(recent) == opens
    verdict = judged(Look(1.0, {"failed": [(500, 5, 9, 0)]}, recent=recent))[1][0]
    assert verdict.word == ("roll_back" if opens else "wait")
    if opens:
        assert verdict.reason == f"the circuit breaker opened: 25 of the canary's last {recent[2]} requests failed"  # fmt: skip


def test_undecided_means_hold_then_back():
    """Also without any data; and a canary on hold can still go back, not up."""
    rules = replace(RULES, longest=3600.0, hold=600.0)
    _, verdicts = judged(*(Look(at, {}) for at in (3000.0, 3600.0, 4100.0, 4200.0)), rules=rules)
    assert [v.word for v in verdicts] == ["error", "hold", "hold", "roll_back"]
    assert [v.share for v in verdicts] == [0.01, 0.01, 0.01, 0.0]
    assert (
        verdicts[1].reason
        == "undecided at step 1 after 1.0 h, 1 h were allowed; rolls back in 0.2 h"
    )
    good, bad = ({"failed": [(5000, 250, 5000, x)]} for x in (50, 2500))
    assert judged(Look(3700.0, good), rules=rules)[1][0].word == "hold"
    assert judged(Look(3700.0, bad), rules=rules)[1][0].word == "roll_back"


def test_undecided_may_mean_promoted_unless_harm_was_shown_and_never_without_data():
    rules = replace(RULES, longest=3600.0, hold=600.0, bake=60.0, undecided="promote")
    rows = {"failed": [(500, 25, 5, 0)]}
    state, verdicts = judged(*(Look(at, rows) for at in (1800.0, 3600.0, 3700.0)), rules=rules)
    assert [v.word for v in verdicts] == ["wait", "step_up", "step_up"]
    assert [v.share for v in verdicts] == [0.01, 1.0, 1.0] and state.final == "step_up"
    assert "no harm was shown in 1.0 h" in verdicts[1].reason
    assert judged(Look(3700.0, {"failed": [(500, 25, 500, 250)]}), rules=rules)[1][0].word == "roll_back"  # fmt: skip
    _, verdicts = judged(*(Look(at, {}) for at in (3600.0, 4200.0)), rules=rules)
    assert [v.word for v in verdicts] == ["hold", "roll_back"]


def test_both_error_rates_of_a_canary_that_always_finishes():
    """4,000 entities at one half, the champion bad in 35 %: what is rolled back, by its harm."""
    rules = Rules(shares=(0.5,), margins=(3.0,), metrics=("wrong",), undecided="promote")
    rules = replace(rules, longest=3600.0, dwell=3600.0)
    back = {}
    for factor in (1.0, 1.2, 1.5):
        ends = [finished(rules, factor, seed) for seed in range(200)]
        back[factor] = np.mean([state.final == "roll_back" for state in ends])
        assert all(state.final or state.step == 1 for state in ends)  # none is undecided
    assert back[1.0] <= 0.05 + 4 * (0.05 * 0.95 / 200) ** 0.5
    assert back[1.2] > 0.7 and back[1.5] > 0.99


def finished(rules, factor, seed):
    """One rollout of 4,000 entities in 60 looks; the state when it has ended or has all traffic."""
    draw, state = np.random.default_rng(seed), judge.start(rules, {"wrong": 0.35})
    for i in range(1, 61):
        strata = {"wrong": [counts(draw, 0.5, factor, rows=67, base=0.35)]}
        state, _ = judge.judge(rules, state, Look(60.0 * i, strata))
        if state.final or state.step == 1:
            break
    return state


def test_after_promotion_it_bakes():
    """No champion beside it any more: only the breaker, late cohorts and missing data speak; `max_hours` does not."""
    rules = replace(RULES, shares=(0.5,), margins=(2.0,), bake=7200.0, longest=600.0)
    good, alone = {"failed": [(5000, 500, 5000, 50)]}, {"failed": [(0, 0, 5000, 50)]}
    state, verdicts = judged(
        Look(300.0, good), Look(3000.0, alone), Look(6000.0, {}), Look(7500.0, alone), rules=rules
    )
    assert [v.word for v in verdicts] == ["step_up", "wait", "error", "step_up"]
    assert {v.share for v in verdicts} == {1.0} and state.final == "step_up"
    assert verdicts[1].reason == "all traffic for 0.8 h of 2 h"
    state, _ = judged(Look(300.0, good), rules=rules)
    late = Look(900.0, {"failed": [(5000, 250, 5000, 1500), (0, 0, 5000, 900)]})
    assert judge.judge(rules, state, late)[1].word == "roll_back"
    broken = Look(900.0, alone, recent=(0, 0, 50, 40))
    assert judge.judge(rules, state, broken)[1].word == "roll_back"


def test_a_final_verdict_is_only_repeated():
    state, verdict, _ = rollout(RULES, 2.0, seed=0)
    good = Look(state.at + 60, {"failed": [(5000, 500, 5000, 0)] * 9})
    after, again = judge.judge(RULES, state, good)
    assert (again.word, again.reason, again.share) == ("roll_back", "decided before", 0.0)
    assert after.final == verdict.word


def test_late_labels_give_the_evidence_that_they_would_have_given_in_time():
    """`wrong` is counted thirty looks later, by cohort with the split of its own time: the same strata in the same order."""
    draw, rules = np.random.default_rng(8), replace(RULES, metrics=("failed", "wrong"))
    base = {"failed": 0.05, "wrong": 0.3}
    shares = [0.01] * 20 + [0.05] * 20 + [0.25] * 20
    cohorts = [counts(draw, share, 1.1, base=0.3) for share in shares]
    quick = [counts(draw, share) for share in shares]
    state = judge.start(rules, base)
    for i in range(90):
        look = {
            "failed": [quick[i]] if i < 60 else [],
            "wrong": [cohorts[i - 30]] if i >= 30 else [],
        }
        late = sequential.weigh(
            state.found, np.array([[0] * 4, look["wrong"][0] if look["wrong"] else [0] * 4]),
            np.array([2.0, 2.0]), 0,
        )  # fmt: skip
        after, _ = judge.judge(rules, state, Look(60.0 * (i + 1), look))
        assert (after.found.worse[1] == late.worse[1]).all()
        state = replace(after, step=0, final="")
    in_time = sequential.begin(np.array([0.3]))
    for cohort in cohorts:
        in_time = sequential.weigh(in_time, np.array([cohort]), np.array([2.0]), 0)
    assert (state.found.worse[1] == in_time.worse[0]).all()
    assert (state.found.starts[1] == in_time.starts[0]).all()


def test_no_labels_yet_is_wait_however_good_the_rest():
    rules = replace(RULES, metrics=("failed", "wrong"))
    good = {"failed": [(5000, 250, 5000, 50)]}
    looks = (Look(60.0 * i, good) for i in range(1, 60))
    _, verdicts = judged(*looks, rules=rules, base={"failed": 0.05, "wrong": 0.3})
    assert {v.word for v in verdicts} == {"wait"}
    assert verdicts[-1].reason.startswith("`wrong` may still be 2 times worse")


def test_counts_of_different_splits_are_never_pooled():
    """The rate doubles while the share grows: pooled, an equal canary looks worse by a third (Simpson's paradox)."""
    early, late = (9500, 475, 500, 25), (5000, 500, 5000, 500)
    pooled = tuple(np.add(early, late).tolist())
    _, verdicts = judged(Look(60.0, {"failed": [early]}), Look(120.0, {"failed": [late]}))
    assert verdicts[-1].word != "roll_back" and verdicts[-1].evidence["failed"]["worse"] < 0
    assert judged(Look(60.0, {"failed": [pooled]}))[1][0].word == "roll_back"
    both = judged(Look(60.0, {"failed": [early, late]}))[1][0]
    assert both.evidence == judged(Look(60.0, {"failed": [early]}), Look(61.0, {"failed": [late]}))[1][1].evidence  # fmt: skip


@pytest.mark.parametrize(
    ("look", "said"),
    [
        (Look(0.0, {}), r"\$.at: 0.0 s is not after the last look at 0.0 s; judge each look once"),
        (Look(9.0, {"speed": []}), r"\$.counts: \['speed'\] not guarded; the rules guard failed"),
        (Look(9.0, {"failed": [(9, 1, 5, 6)]}), r"\$.counts.failed\[0\]: 1 bad of 9, 6 bad of 5"),
        (Look(9.0, {"failed": [(9, -1, 5, 2)]}), r"-1 bad of 9"),
        (Look(9.0, {}, recent=(0, 1, 0, 0)), r"\$.recent: 1 bad of 0"),
        (Look(9.0, {}, entities=(-1, 0)), r"\$.entities: \[-1, 0\]; both are 0 or more"),
    ],
)
def test_counts_that_cannot_be_are_refused(look, said):
    with pytest.raises(JudgeError, match=said):
        judged(look)


@pytest.mark.parametrize("base", [{"speed": 0.1}, {"failed": 1.5}, {"failed": math.nan}])
def test_a_base_that_cannot_be_is_refused(base):
    with pytest.raises(JudgeError, match=r"\$.base.*give a share from 0 to 1 of a guarded metric"):
        judge.start(RULES, base)


@pytest.mark.parametrize("factor", [1.0, 1.2, 0.8])
def test_the_benchmark_simulates_this_judge(factor):
    """The same counts, weighed there by run and here look by look, end alike at the same minute."""
    path = Path(__file__).parents[2] / "benchmarks" / "judge.py"
    spec = importlib.util.spec_from_file_location("judge", path)
    benchmark = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(benchmark)

    class Recorded(benchmark.World):
        def draw(self, t, share, rng):
            drawn.append(super().draw(t, share, rng))
            return drawn[-1]

    for seed in range(3):
        drawn, state = [], judge.start(RULES, {"failed": benchmark.RATE})
        world = Recorded(benchmark.steady(factor))
        found = benchmark.rollouts(benchmark.Ours(RULES), world, 1, seed)
        for i, row in enumerate(drawn, 1):
            assert not state.final and state.step < 4
            look = Look(60.0 * i, {"failed": [tuple(row[0].tolist())]})
            state, _ = judge.judge(RULES, state, look)
        assert found["minutes"] == len(drawn) and found["left"] == state.step
        assert (found["end"] == -1) == (state.final == "roll_back")
        assert (found["end"] == 1) == (state.step == 4)


def test_equal_canaries_are_rolled_back_seldom():
    """At most 5 % over the whole life (fails by chance once in 10,000), and most reach all traffic."""
    runs = 60
    ends = [rollout(THREE, 1.0, seed)[0] for seed in range(runs)]
    assert sum(s.final == "roll_back" for s in ends) <= binom.isf(1e-4, runs, 0.05)
    assert sum(s.step == 4 for s in ends) >= binom.ppf(1e-4, runs, 0.9)


def test_worse_canaries_are_found():
    ends = [rollout(RULES, 1.5, seed)[0] for seed in range(60)]
    assert sum(s.final == "roll_back" for s in ends) >= binom.ppf(1e-4, 60, 0.97)
    assert not any(s.step == 4 for s in ends)
