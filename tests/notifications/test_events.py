import json

import pytest

from modelkeep.notifications import events
from notified import START


def test_each_thing_on_record_is_one_event(root):
    found = events.read(root, 0)
    assert [(e.id, e.kind, e.version) for e in found] == [
        ("shop@v1.0.0", "release", "v1.0.0"),
        ("shop#champion#1", "promotion", "v1.0.0"),
        ("shop@v1.1.0", "release", "v1.1.0"),
        ("shop#champion#2", "promotion", "v1.1.0"),
        ("shop#canary#1", "hold", "v1.1.0"),
        ("shop#champion#3", "rollback", "v1.0.0"),
    ]
    assert found[2].figures == {"evaluate log_loss": 0.4}
    assert "in place of v1.0.0" in found[3].sentence
    assert found[4].sentence == "The canary of shop v1.1.0 ended as inconclusive: Undecided."
    assert found[5].sentence.endswith(": calls.")
    assert found == events.read(root, 0)


def test_older_events_are_left_out(root):
    assert [e.kind for e in events.read(root, START + 115)] == ["hold", "rollback"]


@pytest.mark.parametrize(("state", "known"), [("done", 1), ("failed", 1), ("running", 0)])
def test_a_report_on_an_alert_is_an_event_when_it_is_made(root, state, known):
    case = {"id": "0" * 16, "alert": "DriftHigh", "version": "v1.1.0", "sha256": "ab" * 32}
    case |= {"began": "2013-04-01T00:00:00", "requested": START + 300.0, "state": state}
    case |= {"summaries": ["Inputs have drifted."], "sentence": "Two columns drifted"}
    place = root / "reports/investigations"
    place.mkdir(parents=True)
    (place / f"{case['id']}.json").write_text(json.dumps(case))
    found = [e for e in events.read(root, 0) if e.kind == "alarm"]
    assert len(found) == known
    for event in found:
        assert event.sentence == "Alert DriftHigh: Inputs have drifted. Two columns drifted."
        assert event.page == f"reports/investigations/{case['id']}.html"


def test_the_end_of_an_update_is_kept_until_it_is_old(root):
    result = {"state": "needs_attention", "at": "2013-04-01T01:00:00"}
    result |= {"sentence": "No label came.", "steps": ["a"], "push": "git push"}
    for _ in range(2):  # the same update is one event
        events.keep_update(root, result, START + 500)
    (event,) = (e for e in events.read(root, 0) if e.kind == "update")
    assert event.sentence == "Update needs attention: No label came."
    assert event.figures == {"state": "needs_attention", "push": "git push"}
    events.forget_updates(root, START + 501)
    assert not [e for e in events.read(root, 0) if e.kind == "update"]
