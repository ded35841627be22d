"""One prediction traced back to its row, model and evidence, and predicted again to the last bit."""

import json
import re
import sqlite3
import time
import uuid
from contextlib import closing
from dataclasses import replace
from html import unescape

import pytest

import logs
import modelkeep as mk
import servers
import tables
from modelkeep.cli import main
from modelkeep.jobs import trace, trace_page
from modelkeep.jobs.trace import TraceError
from modelkeep.predictions.log import Label, open_log

LOG = "data/log/predictions.db"


@pytest.fixture(scope="module", params=tables.TABLES)
def served(request, tmp_path_factory):
    """A released model of each table that has predicted 40 rows in two requests; the replies."""
    root = tmp_path_factory.mktemp("trace") / "ws"
    tables.bundle(request.param, root.parent / "bundle")
    sha256 = tables.released(root, root.parent / "bundle")
    rows = tables.rows(tables.table(request.param).head(40))
    replies = tables.requests(root, {"rows": rows[:25]}, {"rows": rows[25:]})
    with closing(open_log(f"sqlite:///{LOG}", root=root)) as log:
        log.label([Label(rows[3]["row"], str(rows[3]["y"]), time.time_ns() // 1000)])
    return root, sha256, rows, [each for reply in replies for each in reply["predictions"]]


def checks(found):
    return {check.step: check.holds for check in found.checks}


def test_a_prediction_is_traced_to_row_model_and_evidence(served):
    root, sha256, rows, replies = served
    for i in (0, 3, 39):
        (found,) = trace.trace(root, rows[i]["row"])
        features = {k: v for k, v in rows[i].items() if k not in ("row", "y")}
        assert found.row == features and found.notes == replies[i].get("notes", [])
        shown = replies[i].get("probabilities") or {"prediction": replies[i]["prediction"]}
        assert found.prediction == shown
        assert found.model["sha256"] == sha256 and found.model["rows"] > 100
        assert (found.version["version"], found.champion["reason"]) == ("v1.0.0", "the first")
        assert set(checks(found)) >= {"log", "bundle", "predicted again", "commit"}
        assert set(checks(found).values()) == {True}
    assert [label["value"] for label in trace.trace(root, rows[3]["row"])[0].labels] == [
        str(rows[3]["y"])
    ]
    for text in ("in a call of 40 rows", "the first", "v1.0.0", "Label: has not come"):
        assert text in repr(found)


def test_the_page_has_the_row_the_record_and_every_check(served):
    root, sha256, rows, _ = served
    found = trace.trace(root, rows[3]["row"], explain=True)
    page = trace_page.write(found, root / "reports" / "trace.html").read_text()
    text = unescape(re.sub(r"<[^>]+>", " ", page))
    assert "nothing that was checked has changed since" in text and sha256 in text
    for column in found[0].row:
        assert column in text
    for part in ("v1.0.0", "the first", str(rows[3]["y"]), found[0].explanation["scale"]):
        assert part in text
    assert all(check.sentence in text for check in found[0].checks)
    assert text.count("as it was") == len(found[0].checks)


def test_the_page_begins_with_what_differs(served):
    found = trace.trace(served[0], served[2][0]["row"])[0]
    bad = replace(found, checks=[*found.checks, trace.Check("log", False, "the digest is other")])
    page = trace_page.write([bad], served[0] / "reports" / "bad.html").read_text()
    top = page[page.index('class="verdict') :][:400]
    assert "something is not as it was" in top and "the digest is other" in top


def test_an_id_without_a_prediction_is_an_error(served):
    with pytest.raises(TraceError, match="no prediction of the id 'nobody'"):
        trace.trace(served[0], "nobody")


def changed(file):
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def test_a_changed_byte_of_the_model_is_named(served, tmp_path):
    root, sha256, rows, _ = served
    for file in sorted((root / "serving" / "bundles" / sha256).iterdir()):
        copy = tables.copied(root, tmp_path / file.name)
        changed(copy / file.relative_to(root))
        (found,) = trace.trace(copy, rows[0]["row"])
        (wrong,) = [check for check in found.checks if check.holds is False]
        assert wrong.step == "bundle" and not found.holds
        assert file.name in wrong.sentence or "manifest" in wrong.sentence


POINT = "CAST(replace(CAST({0} AS TEXT), '.', '.0') AS BLOB)"
CHANGES = (  # what is changed in the log, and the step that finds it
    (f"answers SET answers = {POINT.format('answers')}", "log"),
    (f"answers SET features = {POINT.format('features')}", "log"),
    ("answers SET ids = replace(ids, '-1\"', '-99\"')", "log"),
    ("answers SET role = 'canary'", "log"),
    ("answers SET at = at + 1", "log"),
    ("labels SET value = '7'", "label"),
    ("labels SET at = at + 1", "label"),
)


@pytest.mark.parametrize(("change", "step"), CHANGES)
def test_a_changed_byte_of_the_log_is_named(served, tmp_path, change, step):
    copy = tables.copied(served[0], tmp_path / "ws")
    with closing(sqlite3.connect(copy / LOG)) as connection:
        connection.execute(f"UPDATE {change}")
        connection.commit()
    found = trace.trace(copy, served[2][3]["row"])[0]
    wrong = [check.step for check in found.checks if check.holds is False]
    assert step in wrong and set(wrong) <= {step, "predicted again"} and not found.holds
    assert "changed in the database" in repr(found)


def test_evidence_of_another_commit_is_named(served, tmp_path):
    copy = tables.copied(served[0], tmp_path / "ws")
    (copy / "dvc.lock").write_text("outs: []\n")
    for command in (("add", "-A"), ("commit", "-qm", "Other"), ("tag", "-d", "flights@v1.0.0")):
        tables.tiny.run(copy, "git", *command).check_returncode()
    commit = tables.tiny.run(copy, "git", "rev-parse", "HEAD").stdout.strip()
    content = {"verdict": {"state": "better", "sentence": "It is."}}
    content |= {"hashes": tables.HASHES | {"bundle": served[1]}}
    text = tables.record.message("flights v1.0.0", content)
    tables.tags.add(copy, "flights@v1.0.0", commit, text, tables.RELEASED)
    found = trace.trace(copy, served[2][0]["row"])[0]
    assert checks(found)["commit"] is False and "does not name the data aaaaaaaa" in repr(found)


def test_the_command_prints_it_and_its_exit_code_tells(served, tmp_path, monkeypatch, capsys):
    root, _, rows, _ = served
    monkeypatch.chdir(root)
    assert main.main(["trace", rows[3]["row"]]) == 0
    assert "equal to the last bit" in capsys.readouterr().out
    assert main.main(["trace", rows[3]["row"], "--json"]) == 0
    assert json.loads(capsys.readouterr().out)[0]["id"] == rows[3]["row"]
    assert main.main(["trace", "nobody"]) == 2
    assert repr(mk.trace(rows[3]["row"])[0]).startswith(rows[3]["row"])
    copy = tables.copied(root, tmp_path / "ws")
    changed(next((copy / "serving" / "bundles").glob("*/model.skops")))
    monkeypatch.chdir(copy)
    assert main.main(["trace", rows[3]["row"]]) == 1


def test_each_prediction_of_an_id_is_found_in_both_databases(tmp_path):
    with servers.postgres() as server, pytest.MonkeyPatch.context() as patch:
        patch.setenv("PGPASSWORD", server.password)
        for url in (f"sqlite:///{tmp_path}/log.db", server.url()):
            with closing(open_log(url)) as log:
                twice = logs.entry("r1", logs.FIRST + 50, role="shadow")
                log.append([*logs.entries(3), twice])
                name = f"t{uuid.uuid4().hex}"
                whole = [logs.entry(f"{name}-{i}", logs.FIRST + 99) for i in range(3)]
                log.write([*logs.log_records.grouped(whole)], [], name)
                log.label([Label("r1", "1", 5), Label("r1", "0", 7)])
                found = log.find("r1")
                assert [each.record.role for each in found] == ["shadow", "champion"]
                assert [label.value for label in found[0].labels] == ["1", "0"]
                (own,) = log.find(f"{name}-2")
                assert own.record == whole[2] and own.position == 2 and len(own.batch) == 3
                assert log.find("r") == log.find(f"{name}-3") == log.find(name) == []
