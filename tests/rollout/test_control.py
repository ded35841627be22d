import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import live
import rollouts
import workspaces
from modelkeep.predictions.records import Call
from modelkeep.registry import store
from modelkeep.registry.store import Now, Role
from modelkeep.reports import rollout
from modelkeep.rollout import control, counts, judge, outcomes, planning, rollout_log
from modelkeep.rollout.control import RolloutError
from modelkeep.rollout.judge import JudgeError
from modelkeep.rollout.rollout_log import RolloutLogError
from modelkeep.training import baseline, bundle

TRUTH = {"classes": ["0", "1"], "share": [0.5, 0.5]}


@pytest.fixture(scope="module")
def trio(tmp_path_factory):
    return rollouts.models(tmp_path_factory.mktemp("trio"))


@pytest.fixture(scope="module")
def first(trio, tmp_path_factory):
    """A workspace with all three models; tests take copies."""
    root = tmp_path_factory.mktemp("first")
    return root, rollouts.workspace(root, trio)


@pytest.fixture
def world(first, tmp_path):
    shutil.copytree(first[0], tmp_path / "w")
    found = rollouts.World(tmp_path / "w", first[1])
    # the models' own truth hangs on their training; here every answer is 10 or 90 %
    yield found
    found.log.close()


def test_an_equal_canary_is_promoted_step_by_step_and_the_record_tells_it_again(world):
    controller = world.begin(reason="it is newer")
    assert world.serving() == ("champion", ("good", 0.2), None)
    seen = world.until_end(controller)
    assert seen[-1].end == "advance"
    assert world.serving() == ("good", None, None)
    shares = [each.share for each in seen]
    assert sorted(shares) == shares and set(shares) == {0.2, 0.5, 1.0}
    lines = seen[-1].path.read_text().splitlines()
    _, state, verdicts = judge.replay(lines)
    assert state.final == "advance"
    assert [v.decision for v in verdicts] == [v.decision for v in seen[-1].verdicts]
    again = rollout_log.read(seen[-1].path)
    assert (again.spec, again.end, again.share) == (seen[-1].spec, "advance", 1.0)
    assert again.spec.reason == "it is newer"
    assert store.check(world.root / "serving", world.hashes["champion"])  # the way back stays


def test_a_canary_that_is_wrong_more_often_goes_back_to_exactly_nothing(world):
    seen = world.until_end(world.begin(), wrong=0.75)
    assert (seen[-1].end, seen[-1].share) == ("rollback", 0.0)
    assert "`quality` is worse" in seen[-1].verdicts[-1].reason
    assert world.serving() == ("champion", None, None)


def test_a_canary_that_fails_outright_goes_back_at_the_first_look(world):
    controller = world.begin()
    for _ in range(2):
        world.traffic(600, failed=0.9)
    found = controller.turn()
    assert found.end == "rollback"
    assert "circuit breaker" in found.verdicts[-1].reason
    assert world.serving() == ("champion", None, None)


def test_a_pause_keeps_the_share_and_only_outright_failure_ends_it(world):
    controller = world.begin()
    world.until_end(controller, most=3)
    control.note(world.root, "pause", world.now, "lunch")
    before = world.serving()
    looks_before = len(controller.turn().verdicts)
    for found in world.until_end(controller, most=12):
        assert (found.paused, len(found.verdicts), world.serving()) == (True, looks_before, before)
    control.note(world.root, "resume", world.now)
    assert len(world.until_end(controller, most=2)[-1].verdicts) > looks_before
    control.note(world.root, "pause", world.now)
    for _ in range(3):
        world.traffic(400, failed=0.9)
    assert controller.turn().end == "rollback"
    assert world.serving() == ("champion", None, None)


def test_an_abort_gives_all_back_and_is_the_end(world):
    controller = world.begin()
    world.until_end(controller, most=2)
    control.note(world.root, "abort", world.now, "no more")
    assert world.serving() == ("champion", None, None)
    assert controller.turn().end == "aborted_by_person"
    with pytest.raises(RolloutError, match="has ended"):
        control.note(world.root, "resume", world.now)
    assert world.begin("bad").turn().share == 0.2  # and another one may begin


def test_a_champion_that_was_changed_meanwhile_ends_the_rollout(world):
    controller = world.begin()
    at = store.now(world.root / "serving")
    store.point(world.root / "serving", replace(at, champion=Role(world.hashes["bad"])))
    assert controller.turn().end == "overtaken"
    assert world.serving() == ("bad", None, None)
    store.point(world.root / "serving", Now(Role(world.hashes["good"])))
    controller.turn()
    assert world.serving() == ("good", None, None)  # what has ended leaves others alone


def test_a_look_that_has_begun_puts_no_canary_beside_a_champion_of_after_a_rollback(world):
    found = world.begin().turn()
    store.point(world.root / "serving", Now(Role(world.hashes["bad"])))  # what a rollback does
    assert control.settle(world.root, found) is False
    assert world.serving() == ("bad", None, None)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("champion", "is the champion already"),
        ("0123456789", "is no model of the store"),
        ("", "no version"),
    ],
)
def test_what_cannot_begin_is_refused_and_nothing_changes(world, name, says):
    with pytest.raises(RolloutError, match=says):
        control.start(world.root, world.hashes.get(name, name), world.now, anyway=True)
    assert world.serving() == ("champion", None, None)
    assert not (world.root / "rollouts").exists()


def test_one_rollout_at_a_time_and_none_without_a_plan(world):
    with pytest.raises(planning.PlanError, match="without traffic|not known"):
        control.start(world.root, world.hashes["good"], world.now)
    world.begin()
    with pytest.raises(RolloutError, match="one rollout at a time"):
        world.begin("bad")


def test_a_canary_watches_the_slices_of_the_gate(world, monkeypatch):
    monkeypatch.setattr(baseline, "SLICE_ROWS", 20)
    workspaces.settings(world.root, "evaluate")
    given = world.root / "params/evaluate.yaml", {"slices": ["shop"]}
    workspaces.set_values(*given, r"^({}: )(.*?)(\s+#)")
    controller = world.begin()
    found = rollout_log.read(rollout_log.newest(world.root))
    champion = bundle.load(store.path(world.root / "serving", world.hashes["champion"]))
    chosen = baseline.slice_values(champion.out_of_fold, champion.schema, ["shop"])
    assert chosen and [tuple(each) for each in found.rules.slices] == chosen
    verdict = world.until_end(controller, most=5)[-1].verdicts[-1]
    assert f"quality in {chosen[0][0]} = {chosen[0][1]}" in verdict.evidence
    assert "alert from" in repr(rollout.totals(rollout_log.read(rollout_log.newest(world.root))))


def test_a_shadow_is_heard_by_nobody_and_judged_by_days(world):
    controller = world.begin(kind=rollout_log.SHADOW)
    assert world.serving() == ("champion", None, "good")
    world.whisper(days=40, wrong=0.1)
    found = controller.turn()
    assert found.end == "judged"
    (said,) = found.events
    assert (said["verdict"], said["days"], said["pairs"]) == ("better", 40, 4000)
    assert 0.2 < said["disagree"] < 0.5
    assert said["shadow"]["error"] == 40 and said["champion"]["error"] == 0
    assert world.serving() == ("champion", None, None)


def test_a_shadow_waits_for_thirty_days(world):
    controller = world.begin(kind=rollout_log.SHADOW)
    world.whisper(days=29, wrong=0.1)
    assert (controller.turn().end, world.serving()) == ("", ("champion", None, "good"))
    world.now += 3700
    assert controller.turn().events[0]["verdict"] == "insufficient"


def counter(world, upto, **rules):
    found = planning.Rules(metrics=counts.METRICS, label_maturity={"quality": 1.0}, **rules)
    begun = int(1_750_000_000 * 1e6)
    return counts.Counter(world.log, found, begun, upto, slow_ms=50, truth=TRUTH)


def say(world, at, name, role="champion", share=0.2, took=1000, failed=(), label=0.1, **features):
    """One row answered at a second."""
    moment = int((1_750_000_000 + at) * 1e6)
    said = [
        rollouts.PredictionRecord(
            f"{name}@{at}",
            moment,
            role,
            role,
            name,
            None,
            json.dumps(features).encode(),
            b"[0.9,0.1]",
        )
    ]
    calls = [Call(moment, role, role, share, took, json.dumps(failed))]
    world.log.append([] if failed else said, calls)
    if label is not None:
        world.log.label([rollouts.Label(f"{name}@{at}", "1", moment + int(label * 1e6))])


def at(seconds):
    return int((1_750_000_000 + seconds) * 1e6)


def test_an_entity_is_counted_once_a_rollout_also_after_a_restart(world):
    say(world, 1, "a")
    say(world, 2, "a")
    say(world, 3, "b", "canary")
    ours = counter(world, at(0))
    assert ours.analyze(at(5), 0.2).counts["error"] == [(1, 0, 1, 0)]
    say(world, 6, "a")
    say(world, 7, "c")
    for found in (ours, counter(world, at(5))):
        look = found.analyze(at(10), 0.2)
        assert (look.counts["error"], look.entities) == ([(1, 0, 0, 0)], (1, 0))
        assert look.recent == (2, 0, 1, 0)


def test_splits_are_strata_and_rows_of_no_rollout_are_none(world):
    say(world, 1, "before", share=0.0)
    say(world, 2, "a", share=0.2)
    say(world, 3, "b", share=0.5)
    say(world, 4, "before", "canary", share=0.5)
    look = counter(world, at(0)).analyze(at(9), 0.5)
    assert look.counts["error"] == [(1, 0, 0, 0), (1, 0, 1, 0)]
    assert look.entities == (1, 1)


def test_who_was_failed_by_the_canary_counts_for_it_though_the_champion_answered(world):
    say(world, 2, "a", "canary", failed=["a"])
    say(world, 2, "a", "champion")
    look = counter(world, at(0)).analyze(at(9), 0.2)
    assert look.counts["error"] == [(0, 0, 1, 1)]
    assert look.counts["quality"] == look.counts["latency"] == []


def test_slow_is_the_models_own_time(world):
    say(world, 2, "a", took=50_000)
    say(world, 3, "b", "canary", took=50_001)
    assert counter(world, at(0)).analyze(at(9), 0.2).counts["latency"] == [(1, 0, 1, 1)]


def test_quality_is_counted_by_slice_as_the_schema_reads_values(world):
    say(world, 2, "a", label=1.0, gate=7, shop="north")
    say(world, 2.1, "b", "canary", label=1.0, gate="7", shop="south")
    say(world, 2.2, "c", "canary", label=1.0, gate=7.0)
    say(world, 2.3, "d", "canary", failed=["d"], label=None)
    say(world, 2.4, "e", label=None, gate="7")
    slices = planning.Slice("gate", "7"), planning.Slice("shop", "south")
    found = counter(world, at(0), slices=slices).analyze(at(9), 0.2).counts
    assert found["quality in gate = 7"] == [(1, 1, 2, 2)] == found["quality"]
    assert found["quality in shop = south"] == [(0, 0, 1, 1)]


@pytest.mark.parametrize("name", ["wrong", "speed"])
def test_a_metric_that_cannot_be_counted_is_refused(world, name):
    rules = planning.Rules(metrics=("error", name))
    with pytest.raises(counts.CountsError, match=f"'{name}'.* may hold error, latency, quality"):
        counts.check(rules, 200.0)
    begun = int(1_750_000_000 * 1e6)
    say(world, 2, "a")
    unchecked = counts.Counter(world.log, rules, begun, begun, slow_ms=50, truth=TRUTH)
    with pytest.raises(counts.CountsError, match=f"'{name}' is no guardrail metric"):
        unchecked.analyze(at(9), 0.2)


def test_labels_count_by_a_fixed_time_after_the_answer(world):
    say(world, 2, "soon", label=1.0)
    say(world, 2.5, "late", label=1.1)
    say(world, 3, "never", label=None)
    say(world, 8.5, "young")
    ours = counter(world, at(0))
    assert ours.analyze(at(9), 0.2).counts["quality"] == [(1, 1, 0, 0)]
    assert ours.analyze(at(10), 0.2).counts["quality"] == [(1, 1, 0, 0)]
    assert ours.analyze(at(11), 0.2).counts["quality"] == []


def test_wrong_is_no_better_than_the_share_of_all():
    late = {"classes": ["0", "1"], "share": [0.8, 0.2]}
    assert outcomes.wrong([0.7, 0.3], "1", late) is False
    assert outcomes.wrong([0.7, 0.3], "0", late) is True
    assert outcomes.wrong([0.8, 0.2], "0", late) is True  # it knows nothing
    assert outcomes.wrong([0.8, 0.2], "2", late) is None
    assert outcomes.wrong([5.0], "6.5", {"apart": 1.0}) is True


def test_of_each_class_equally_many_count_as_right_or_wrong():
    late = {"classes": ["0", "1"], "share": [0.8, 0.2]}
    kept = [[outcomes.drawn(f"r{i}", label, late) for i in range(8000)] for label in ("0", "1")]
    assert abs(sum(kept[0]) / 8000 - 0.25) < 4 * (0.25 * 0.75 / 8000) ** 0.5
    assert all(kept[1])
    assert all(outcomes.drawn("r", "6.5", {"apart": 1.0}) for _ in range(3))


def test_a_model_that_has_learned_of_a_worse_season_is_not_called_wrong_for_it():
    """The truth has become more common: who knows it tells more rows of it, and is right to."""
    late = {"classes": ["0", "1"], "share": [0.8, 0.2]}
    draw = np.random.default_rng(0)
    now = 1 / (1 + np.exp(-draw.normal(-0.6, 1.2, 20_000)))
    stale = now / (now + 3 * (1 - now))  # it believes in a third of the odds
    truth = np.where(draw.random(len(now)) < now, "1", "0")
    rates = {}
    for name, p in {"stale": stale, "fresh": now}.items():
        bad = [
            outcomes.wrong([1 - each, each], label, late)
            for each, label in zip(p, truth, strict=True)
        ]
        used = [outcomes.drawn(f"r{i}", label, late) for i, label in enumerate(truth)]
        rates[name] = np.mean(bad), np.mean(np.array(bad)[used])
    assert rates["fresh"][0] > rates["stale"][0] + 0.02  # counting all of them would be unfair
    assert rates["fresh"][1] < rates["stale"][1] - 0.02


@pytest.mark.parametrize("left", [1, 20, 300, 5000])
def test_a_line_that_was_never_finished_is_no_line(world, left):
    controller = world.begin()
    found = world.until_end(controller, most=3)[-1]
    text = found.path.read_bytes()
    found.path.write_bytes(text + (20 * text.splitlines(True)[-1][:-1])[:left])
    world.traffic()
    again = world.controller().turn()
    assert len(again.verdicts) == len(found.verdicts) + 1
    assert again.path.read_bytes().startswith(text)
    judge.replay(again.path.read_text().splitlines())


def test_a_record_that_was_changed_or_is_not_there_is_refused(world):
    found = world.until_end(world.begin(), most=4)[-1]
    lines = found.path.read_text().splitlines(True)
    found.path.write_text("".join([*lines[:2], lines[2][:40] + "\n", *lines[3:]]))
    with pytest.raises(JudgeError, match="line 3"):
        rollout_log.read(found.path)
    with pytest.raises(RolloutLogError, match="no rollout nothing"):
        rollout_log.find(world.root, "nothing")


def test_killed_at_every_write_it_is_the_old_split_or_the_new_one(world):
    """A process of its own is killed before lines that write (every 60th here, all of them in `make proof`); another goes on."""
    every = 1 if os.environ.get("MODELKEEP_EVERY_KILL") else 60
    done = subprocess.run(
        [
            sys.executable,
            Path(__file__).parents[1] / "support" / "killed.py",
            world.root,
            json.dumps(world.hashes),
            str(every),
        ],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    told = json.loads(done.stdout)
    assert set(told) == {"start", "advance", "rollback", "promote", "pause", "abort", "shadow"}
    assert min(each["kills"] for each in told.values()) >= max(1, 5 // every)
    assert [each["corrupt"] for each in told.values()] == [[]] * len(told)


def wrong_of(found):
    counts = [
        s
        for row in found.rows
        for s in row.get("analysis", {}).get("counts", {}).get("quality", [])
    ]
    return np.sum(counts, axis=0)


def test_end_to_end_a_good_canary_is_promoted_and_a_bad_one_goes_back(trio, tmp_path):
    """A real server, real traffic, real looks: only the times are short."""
    hashes = rollouts.workspace(tmp_path, trio)
    names = {sha256[:10]: name for name, sha256 in hashes.items()}
    with live.served(tmp_path) as server, rollouts.Traffic(server) as traffic:
        begun = rollouts.told(tmp_path, "start", hashes["good"], "--anyway")
        assert (begun["state"], begun["share"]) == ("running", 0.2)
        assert rollouts.told(tmp_path, "run")["state"] == "promoted"
        planned = rollouts.told(tmp_path, "plan", "--days", "0.01")
        assert planned["before"]["base"]["error"] == 0.0 and len(planned["plan"]["steps"]) == 2
        rollouts.told(tmp_path, "start", hashes["bad"], "--reason", "planted")
        assert rollouts.told(tmp_path, "run")["state"] == "rolled_back"
        assert rollouts.told(tmp_path, "status")["sentence"].startswith(
            "The canary was rolled back"
        )
        model = server.ask("GET", "/model")[1]
    assert traffic.failed == []
    assert {names[model] for model in traffic.models} == {"champion", "good", "bad"}
    assert store.now(tmp_path / "serving").champion.sha256 == hashes["good"]
    assert names[model["models"]["champion"]["model"]] in ("good", "bad")
    for path in sorted((tmp_path / "rollouts").glob("*.jsonl")):
        champion, bad, _, _ = wrong_of(rollout_log.read(path))
        assert 0.15 < bad / champion < 0.4
