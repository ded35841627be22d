import json

import pytest

import rollouts
import synthetic
from modelkeep.core import files
from modelkeep.reports import rollout
from modelkeep.rollout import judge, planning, rollout_log
from modelkeep.rollout.judge import Analysis
from modelkeep.rollout.rollout_log import RolloutSpec

RULES = planning.Rules(metrics=("error", "quality"), interval=60.0, min_step=0.0, bake=0.0)
ROLES = {"champion": {"sha256": "a" * 64, "version": "v1.0.0"}}
ROLES["canary"] = {"sha256": "b" * 64, "version": ""}
OPENING = {"slow_ms": 200.0, "truth": {"apart": 1.0}, "started": 1_750_000_000_000_000}


def record(root, looks=(), events=(), kind="canary", **changes):
    """A rollout with these counts by look, an hour each."""
    files.write_json(root / "dvc.yaml", {})
    spec = RolloutSpec(id="one", kind=kind, **ROLES | OPENING | changes)
    found = rollout_log.begin(root, RULES, {"error": 0.01, "quality": 0.2}, spec)
    for i, strata in enumerate(looks, 1):
        look = Analysis(3600.0 * i, {"error": [strata], "quality": [strata]})
        found, _ = rollout_log.judged(found, look)
    for event in events:
        found = rollout_log.noted(found, event, OPENING["started"], reason="lunch")
    return found


SAME, WORSE = (9900, 990, 100, 10), (9900, 990, 100, 40)


def shown(found):
    """All that the page shows."""
    parts = [rollout.evidence(found, q) for q in rollout.THRESHOLDS] + [rollout.shares(found)]
    parts += [
        rollout.counts(found),
        rollout.totals(found),
        rollout.paired(found),
        rollout.verdict(found),
    ]
    return "\n".join(synthetic.said(part) for part in parts)


def test_nothing_has_happened_yet(tmp_path):
    found = record(tmp_path)
    assert "There was no analysis yet" in shown(found)
    assert rollout.state(found)["state"] == "running"
    assert "1%" in rollout.text(found)


def test_a_canary_that_goes_back_is_told_with_its_evidence(tmp_path):
    found = record(tmp_path, [SAME, WORSE, WORSE])
    told = rollout.state(found)
    assert (told["state"], told["share"], told["step"]) == ("rolled_back", 0.0, 0)
    assert "goes back at 40" in rollout.text(found)
    assert rollout.text(found).count("▁") >= 2 and "█" in rollout.text(found)
    page = shown(found)
    assert "quality crossed" in page or "error and quality crossed" in page
    assert "10.00% of 9,900 | 40.00% of 100" in page
    assert json.loads(json.dumps(told)) == told


def test_the_share_is_drawn_as_steps(tmp_path):
    found = record(tmp_path, [(50_000, 5000, 5000, 500)] * 2)
    assert found.share > 0.01
    assert "The steps are 1%, 5%, 25%, 50% and 100%" in synthetic.said(rollout.shares(found))


@pytest.mark.parametrize(
    ("events", "state"),
    [(["pause"], "paused"), (["pause", "resume"], "running"), (["abort"], "aborted_by_person")],
)
def test_what_people_did_is_told_with_their_reason(tmp_path, events, state):
    found = record(tmp_path, [SAME], events)
    verdict = rollout.verdict(found)
    assert verdict.state == state
    assert sum("lunch" in reason for reason in verdict.reasons) == len(events)
    assert rollout_log.read(found.path).events == found.events


def test_a_shadow_that_was_judged(tmp_path):
    gain = {"metric": "log_loss", "gain": 0.1, "low": 0.05, "high": 0.15, "verdict": "better"}
    said = {"verdict": "better", "sentence": "log_loss: gain +0.1", "gains": [gain]}
    said |= {"labelled": 900, "days": 31, "pairs": 1000, "disagree": 0.125}
    found = record(tmp_path, kind="shadow")
    assert "no client gets its predictions" in rollout.verdict(found).sentence
    found = rollout_log.noted(found, "judged", 1, **said)
    assert rollout.state(found)["last"]["days"] == 31
    assert "12.5% of 1,000 rows" in shown(found)
    assert rollout.verdict(found).sentence.startswith("The shadow is better: log_loss")


def test_rules_that_have_changed_since_are_named(tmp_path):
    found = record(tmp_path)
    assert "the same rules" in rollout.changed(found, RULES)
    other = planning.Rules(metrics=("error",), interval=60.0, min_step=0.0, bake=0.0)
    assert "metrics: ('error', 'quality') then" in rollout.changed(found, other)


def test_the_record_is_one_that_the_judge_reads_by_itself(tmp_path):
    found = record(tmp_path, [SAME, SAME], ["pause", "resume"])
    _, state, verdicts = judge.replay(found.path.read_text().splitlines())
    assert (state.at, len(verdicts)) == (7200.0, 2)


@pytest.mark.parametrize("action", ["plan", "start", "status", "pause", "resume", "abort", "run"])
def test_every_action_has_an_example(action):
    done = rollouts.modelkeep(rollouts.live.ROOT, action, "--help")
    assert done.returncode == 0
    assert f"Example: modelkeep rollout {action}" in " ".join(done.stdout.split())
    assert "--json" in done.stdout


def test_a_mistake_is_a_sentence_and_no_traceback(tmp_path):
    (tmp_path / "params").mkdir()
    (tmp_path / "dvc.yaml").write_text("")
    done = rollouts.modelkeep(tmp_path, "status")
    assert done.returncode == 2
    assert done.stderr.startswith("modelkeep: there was no rollout yet")
