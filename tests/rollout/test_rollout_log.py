"""The log of a rollout: also one that an earlier version wrote, in its words."""

import json
import shutil
from pathlib import Path

import pytest

from modelkeep.reports import rollout
from modelkeep.rollout import judge, rollout_log
from modelkeep.rollout.judge import Analysis

FORMER = Path(__file__).parent / "format3"  # written by the code of before the words changed
ENDS = {
    "promoted": ("advance", ["no_data", "advance", "advance", "advance"], [0.1, 0.5, 1.0, 1.0]),
    "rolled_back": ("rollback", ["wait", "inconclusive", "rollback"], [0.1, 0.1, 0.0]),
    "stopped": ("abort", ["abort"], [0.0]),
    "by_hand": ("aborted_by_person", ["wait"], [0.1]),
}


@pytest.mark.parametrize("name", ENDS)
def test_a_log_of_an_earlier_version_reads_the_same(name):
    found = rollout_log.read(FORMER / f"{name}.jsonl")
    end, decisions, shares = ENDS[name]
    assert (found.end, [str(v.decision) for v in found.verdicts]) == (end, decisions)
    assert [v.share for v in found.verdicts] == shares
    assert set(found.rules.metrics) <= {"error", "latency", "quality"}
    assert found.rules.tolerated_error_rate == 0.02 and found.rules.bake == 600.0
    lines = [json.loads(line) for line in found.path.read_text().splitlines()]
    (first,) = [line["verdict"] for line in lines if "look" in line][-1:]
    former = {judge.FORMER_METRICS[k]: v["worse"] for k, v in first["evidence"].items()}
    values = {k: v["e_worse"] for k, v in found.verdicts[-1].evidence.items()}
    assert values == pytest.approx({k: judge.e_value(v) for k, v in former.items()})
    assert rollout.state(found)["analyses"] == len(decisions)
    assert rollout.counts(found).text and rollout.totals(found).text


def test_a_log_of_an_earlier_version_goes_on_in_the_words_of_today(tmp_path):
    path = tmp_path / "rollouts" / "promoted.jsonl"
    path.parent.mkdir()
    lines = (FORMER / "promoted.jsonl").read_text().splitlines(True)
    path.write_text("".join(lines[:3]))
    found = rollout_log.read(path)
    assert (found.end, found.share) == ("", 0.5)
    strata = {name: [(2000, 40, 2000, 10)] for name in ("error", "latency", "quality")}
    found, verdict = rollout_log.judged(found, Analysis(180.0, strata, (2000, 2000)))
    assert verdict.decision == judge.ADVANCE
    again = rollout_log.read(path)
    assert [str(v.decision) for v in again.verdicts] == ["no_data", "advance", "advance"]
    assert again.state.as_dict() == found.state.as_dict()


def test_a_log_whose_decision_was_changed_is_refused(tmp_path):
    path = tmp_path / "stopped.jsonl"
    shutil.copy(FORMER / "stopped.jsonl", path)
    path.write_text(path.read_text().replace('"stop"', '"step_up"'))
    with pytest.raises(judge.JudgeError, match="line 2: 'advance' is in the log, .* give 'abort'"):
        rollout_log.read(path)
