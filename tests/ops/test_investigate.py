"""Alerts to reports: what is asked for, once, whatever is sent; and a real one, through a kill."""

import asyncio
import json
import os
import shutil
import signal
import subprocess
import time
from dataclasses import replace
from datetime import UTC, datetime

import httpx
import pytest

import investigators
import live
import synthetic
from modelkeep.monitoring import contract, rules
from modelkeep.ops import alerts, investigate, investigations
from modelkeep.ops.alerts import AlertError
from modelkeep.ops.investigate import App, Settings
from modelkeep.ops.investigations import Book, Case
from modelkeep.registry import store
from modelkeep.registry.store import Now, Role

NOW = 1_790_000_000.0
KNOWN = rules.described(contract.read(live.ROOT / contract.FILE))
JSON = {"content-type": "application/json"}


@pytest.fixture
def root(tmp_path, bundles, tmp_path_factory):
    """A workspace with a store in which a model is in service."""
    at = next(tmp_path_factory.getbasetemp().glob("bundles*")) / "binary"
    sha256 = store.add(tmp_path / "serving", at)
    store.point(tmp_path / "serving", Now(Role(sha256, "flights@v1.0.0")))
    return tmp_path


def app(root, token="", **changes):
    """The application; no worker runs, so that what is asked for waits."""
    return App(Settings(**changes), root, KNOWN, token, clock=lambda: NOW)


def ask(found, method, path, content=None, headers=JSON):
    """Status, and the body as text, of one request."""

    async def one():
        way = httpx.ASGITransport(app=found, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=way, base_url="http://localhost") as client:
            body = json.dumps(content) if isinstance(content, dict | list) else content
            return await client.request(method, path, content=body, headers=headers)

    reply = asyncio.run(one())
    return reply.status_code, reply.text


def post(found, *sent):
    status, text = ask(found, "POST", "/alerts", investigators.notification(*sent))
    assert status == 200, text
    return json.loads(text)


def test_an_alert_is_asked_for_once(root, bundles):
    found, name = app(root), bundles["binary"].name
    sent = [investigators.alert(version=name, starts=NOW - 60, feature=f) for f in ("size", "shop")]
    first, again = post(found, *sent), post(found, sent[0])
    assert first == again and first["ignored"] == []
    (told,) = first["reports"]  # columns that moved at one moment share a report
    assert told["alert"] == "ModelkeepDrift" and told["model"] == name
    (case,) = found.book.waiting
    assert case.summaries == ("size is not as it was", "shop is not as it was")
    later = post(found, investigators.alert(version=name, starts=NOW - 30))
    assert later["reports"] != first["reports"] and len(found.book.waiting) == 2


def test_what_is_resolved_asks_for_nothing(root):
    found = app(root)
    sent = investigators.alert(starts=NOW) | {"status": "resolved"}
    assert post(found, sent) == {"reports": [], "ignored": []}


def test_the_model_is_the_one_that_the_alert_names(root, bundles):
    place, (binary, regression) = root / "serving", (bundles["binary"], bundles["regression"])
    shutil.copytree(place / "bundles" / binary.sha256, root / "other")
    assert alerts.model(place, "") == binary.sha256
    assert alerts.model(place, "flights@v1.0.0") == binary.sha256
    assert alerts.model(place, binary.name) == binary.sha256
    for wrong in (regression.name, binary.sha256[:9], "*", "..", f"{binary.sha256}0"):
        with pytest.raises(AlertError, match="is not in the store"):
            alerts.model(place, wrong)


def test_what_is_asked_for_waits_through_a_restart(root):
    sent = [investigators.alert(n, starts=NOW) for n in ("ModelkeepDrift", "ModelkeepQuality")]
    before = app(root)
    post(before, *sent)
    before.book.put(replace(before.book.waiting[0], state=investigations.RUNNING))
    after = app(root)
    assert after.book.waiting == before.book.waiting and len(after.book.waiting) == 2
    assert post(after, *sent) == post(before, *sent)


def test_a_report_in_whose_making_the_process_dies_is_given_up(root):
    found = app(root)
    post(found, investigators.alert(starts=NOW))
    (case,) = found.book.waiting
    tried = replace(case, tries=investigations.TRIES, state=investigations.RUNNING)
    asyncio.run(found.make(found.book.put(tried)))
    status, page = ask(found, "GET", f"/investigations/{case.id}")
    assert status == 200 and "given up" in page and found.book.waiting == []


def test_only_so_many_wait_and_alertmanager_may_ask_again(root):
    found = app(root, most_waiting=2)
    post(found, *(investigators.alert(starts=NOW - n) for n in range(2)))
    more = investigators.notification(investigators.alert(starts=NOW - 3))
    status, text = ask(found, "POST", "/alerts", more)
    assert status == 503 and "2 reports wait already" in text
    assert len(found.book.waiting) == 2


def test_the_oldest_reports_go(root):
    found = app(root)
    post(found, *(investigators.alert(starts=NOW - n) for n in range(4)))
    for case in found.book.waiting[:3]:
        found.give_up(case, "no")
    found.book.sweep(keep=1)
    assert len(found.book.cases) == 2 and len(found.book.waiting) == 1
    assert len([*found.book.folder.glob("*.html")]) == 1


def test_a_report_says_that_it_is_being_made(root, bundles):
    found = app(root)
    (told,) = post(found, investigators.alert("ModelkeepQuality", starts=NOW))["reports"]
    for path in (told["report"], "/reports/ModelkeepQuality?version=", "/reports/ModelkeepQuality"):
        status, page = ask(found, "GET", path)
        assert status == 202 and "is being made" in page and 'http-equiv="refresh"' in page
        assert bundles["binary"].name in page
    assert "ModelkeepQuality" in ask(found, "GET", "/")[1]
    assert ask(found, "GET", "/reports/ModelkeepDrift?version=x")[0] == 404


def test_the_newest_report_of_an_alert_is_found_for_a_model_and_for_all(root, bundles):
    found, name = app(root), bundles["binary"].name
    for version, starts in ((name, NOW - 60), ("", NOW - 30)):
        post(found, investigators.alert("ModelkeepQuality", version=version, starts=starts))
    pages = {
        version: ask(found, "GET", f"/reports/ModelkeepQuality?version={version}")
        for version in (name, "", ".*")
    }
    assert {status for status, _ in pages.values()} == {202}
    assert pages[".*"] == pages[""] != pages[name]


@pytest.mark.parametrize("alert", KNOWN)
def test_every_alert_has_its_runbook(root, alert):
    found = app(root)
    status, page = ask(found, "GET", f"/runbook/{alert}")
    assert status == 200 and KNOWN[alert]["summary"] in page
    (root / "docs").mkdir()
    guide = f"### {alert}\n\nSee `/health/ready`.\n\n### Another\n\nno\n"
    (root / "docs/monitoring.md").write_text(guide)
    page = ask(found, "GET", f"/runbook/{alert}")[1]
    assert "<code>/health/ready</code>" in page and "Another" not in page
    assert ask(found, "GET", "/runbook/Nothing")[0] == 404


HOSTILE_BODIES = [
    "",
    "{",
    "null",
    "[]",
    "{}",
    '{"version": "3", "alerts": []}',
    '{"version": 4, "alerts": []}',
    '{"version": "4"}',
    '{"version": "4", "alerts": {}}',
    '{"version": "4", "alerts": [1]}',
    '{"version": "4", "alerts": [{"status": "firing"}]}',
    '{"version": "4", "alerts": [{"status": "burning", "labels": {}, "startsAt": "2026-09-21T00:00:00Z"}]}',
    '{"version": "4", "alerts": [{"status": "firing", "labels": {"a": 1}, "startsAt": "2026-09-21T00:00:00Z"}]}',
    '{"version": "4", "alerts": [{"status": "firing", "labels": {}, "startsAt": "yesterday"}]}',
    '{"version": "4", "alerts": [{"status": "firing", "labels": {}, "startsAt": "2026-09-21T00:00:00"}]}',
    '{"version": "4", "alerts": [{"status": "firing", "labels": {}, "startsAt": NaN}]}',
    '{"version": "4", "alerts": ' + "[" * 5000,
    b"\xff\xfe{}",
    json.dumps({"version": "4", "alerts": [investigators.alert()] * 1001}),
]


@pytest.mark.parametrize("body", HOSTILE_BODIES, ids=range(len(HOSTILE_BODIES)))
def test_a_body_that_is_no_notification_is_refused(root, body):
    found = app(root)
    status, text = ask(found, "POST", "/alerts", body)
    assert status == 422 and "error" in json.loads(text)
    assert found.book.cases == {}


def test_a_large_body_is_refused(root):
    assert ask(app(root), "POST", "/alerts", b" " * 1_100_000)[0] == 413


@pytest.mark.parametrize(
    "labels",
    [
        {"alertname": "Watchdog"},
        {"alertname": "ModelkeepErrors"},  # of the service, not of a model
        {"alertname": "ModelkeepDown", "instance": "localhost:8080"},
        {"alertname": "../../etc/passwd"},
        {"alertname": "ModelkeepDrift; touch owned"},
        {},
        {"alertname": "ModelkeepDrift", "version": "../serving"},
        {"alertname": "ModelkeepDrift", "version": "$(touch owned)"},
        {"alertname": "ModelkeepDrift", "version": "0" * 64},
        {"alertname": "ModelkeepDrift", "version": "a" * 101},
        {"alertname": "ModelkeepDrift", "version": "x\n- source: replay"},
        {"alertname": "ModelkeepDrift\0"},
    ],
)
def test_an_alert_that_is_not_ours_is_ignored(root, labels):
    found = app(root)
    told = post(found, investigators.alert(starts=NOW) | {"labels": labels})
    assert told["reports"] == [] and len(told["ignored"]) == 1
    assert found.book.cases == {} and not (root / "owned").exists()


@pytest.mark.parametrize("began", ["0001-01-01T00:00:00Z", "9999-12-31T23:59:59Z", NOW + 3600])
def test_an_alert_of_an_impossible_time_is_ignored(root, began):
    sent = investigators.alert(starts=began if isinstance(began, float) else NOW)
    sent |= {"startsAt": began} if isinstance(began, str) else {}
    (why,) = post(app(root), sent)["ignored"]
    assert "set the clocks" in why


def test_nothing_of_an_alert_is_markup(root):
    found = app(root)
    sent = investigators.alert(starts=NOW)
    sent["annotations"]["summary"] = "<script>alert(1)</script>" + "x" * 10_000
    (told,) = post(found, sent)["reports"]
    page = ask(found, "GET", told["report"])[1]
    assert "<script>" not in page and "&lt;script&gt;" in page and len(page) < 20_000


def test_nothing_of_an_alert_is_a_word_of_a_command(root):
    found = app(root)
    sent = investigators.alert(starts=NOW, feature="--log=x")
    sent["annotations"] = {"summary": "-p log=x"}
    post(found, sent)
    (case,) = found.book.waiting
    made = investigations.commands(case, "sqlite:///a.db", "")
    words = [word for command in made for word in command]
    began = datetime.fromtimestamp(NOW, UTC).strftime("%Y-%m-%dT%H:%M:%S.%f")
    free = [w for w in words if "=" in w]
    assert free == [
        "source=log",
        "log=sqlite:///a.db",
        f"until={began}",
        "days=28",
        f"model={case.sha256[:10]}",
        "prometheus=",
    ]


@pytest.mark.parametrize(
    "path",
    [
        "/investigations/../../params/serve.yaml",
        "/investigations/%2e%2e%2f.lock",
        "/investigations/.lock",
        "/investigations/0123456789abcdef",
        "/investigations/0123456789ABCDEF",
        "/reports/..%2finvestigations",
        "/reports/%3Cscript%3E",
        "/elsewhere",
    ],
)
def test_an_id_cannot_leave_its_folder(root, path):
    assert ask(app(root), "GET", path)[0] == 404


def test_a_file_that_is_not_ours_is_no_report(root):
    folder = root / investigations.FOLDER
    folder.mkdir(parents=True)
    case = {
        "id": "0" * 16,
        "alert": "A",
        "version": "",
        "sha256": "../x",
        "began": "",
        "requested": 0,
    }
    (folder / f"{'0' * 16}.json").write_text(json.dumps(case))
    (folder / f"{'1' * 16}.json").write_text("{}")
    (folder / "x.json").write_text("no")
    assert Book(root).cases == {}


@pytest.mark.parametrize(
    ("host", "token", "given", "status"),
    [
        ("127.0.0.1", "", None, 200),
        ("127.0.0.1", "secret", None, 401),
        ("0.0.0.0", "", None, 401),
        ("0.0.0.0", "", "Bearer ", 401),
        ("0.0.0.0", "secret", "Bearer wrong", 401),
        ("0.0.0.0", "secret", "Bearer secret", 200),
    ],
)
def test_who_is_not_on_this_machine_needs_the_token(root, host, token, given, status):
    headers = JSON | ({"authorization": given} if given else {})
    body = investigators.notification()
    assert ask(app(root, token, host=host), "POST", "/alerts", body, headers)[0] == status


def test_what_a_web_page_can_send_by_itself_is_refused(root):
    body = investigators.notification()
    assert ask(app(root), "POST", "/alerts", body, {"content-type": "text/plain"})[0] == 415
    assert ask(app(root), "GET", "/alerts")[0] == 405
    assert ask(app(root), "DELETE", "/")[0] == 405


def test_the_notebooks_do_not_get_the_token(tmp_path, monkeypatch):
    monkeypatch.setenv(investigate.TOKEN, "secret")
    found = investigations.surroundings(tmp_path, investigate.TOKEN)
    assert "secret" not in found.values()
    assert found["PYTHONPATH"].split(os.pathsep)[0] == str(tmp_path / "lib")


@pytest.fixture(scope="module")
def whole(bundles, tmp_path_factory):
    """A workspace whose server has answered 600 rows, and knows what came true."""
    at = next(tmp_path_factory.getbasetemp().glob("bundles*")) / "binary"
    root = investigators.workspace(tmp_path_factory.mktemp("whole") / "clone", at)
    rows = synthetic.table(rows=600, seed=3)
    asked = json.loads(rows.drop(columns="late").to_json(orient="records", date_format="iso"))
    with live.served(root) as server:
        status, told = server.ask("POST", "/predict", {"rows": asked})
        assert status == 200
        truth = [
            {"id": said["id"], "label": str(y)}
            for said, y in zip(told["predictions"], rows["late"], strict=True)
        ]
        assert server.ask("POST", "/labels", {"labels": truth})[0] == 200
    return root


def tree(root):
    """Every file that is the user's own, and its bytes; SQLite tidies the log when its last reader leaves."""
    skip = {"investigations", "__pycache__", "log"}
    return {
        p.relative_to(root): p.read_bytes()
        for p in root.rglob("*")
        if p.is_file() and not skip & set(p.parts)
    }


def test_a_killed_process_makes_the_report_when_it_is_started_again(whole, bundles):
    name, before = bundles["binary"].name, tree(whole)
    sent = investigators.notification(
        investigators.alert(version=name, starts=time.time(), feature="size")
    )
    with investigators.investigating(whole) as first:
        (told,) = first.ask("POST", "/alerts", sent)[1]["reports"]
        assert first.raw("GET", told["report"])[0] == 202
        live_until(lambda: [*whole.glob("reports/investigations/.work-*/printed.txt")])
        time.sleep(1)  # in the middle of the first notebook
        first.process.send_signal(signal.SIGKILL)
        first.process.wait()
    assert [r["state"] for r in investigators.records(whole)] == ["running"]
    with investigators.investigating(whole) as second:
        page = investigators.report(second, told["report"])
        assert investigators.report(second, f"/reports/ModelkeepDrift?version={name}") == page
        assert second.ask("POST", "/alerts", sent)[1]["reports"] == [told]
        assert second.raw("GET", told["report"])[0] == 200  # not made again
        refused = subprocess.run(
            ["modelkeep", "investigate", "-p", "port=0"], cwd=whole, capture_output=True, text=True
        )
        assert refused.returncode == 2 and "another `modelkeep investigate`" in refused.stderr
        second.stop()
    (record,) = investigators.records(whole)
    assert record["state"] == "done" and record["tries"] == 2
    assert Case(**record).window in page and "<td>600</td>" in page and name in page
    assert "size is not as it was" in page
    assert "commit " in page and "uncommitted" not in page
    assert tree(whole) == before
    assert not [*whole.glob("reports/investigations/.work-*")]


def test_a_run_that_fails_leaves_its_page(whole):
    with investigators.investigating(whole, "log=mysql://nowhere") as server:
        sent = investigators.alert("ModelkeepQuality", starts=time.time() - 5)
        told = server.ask("POST", "/alerts", investigators.notification(sent))[1]
        page = investigators.report(server, told["reports"][0]["report"])
    (record,) = [r for r in investigators.records(whole) if r["alert"] == "ModelkeepQuality"]
    assert record["state"] == "failed" and "the address of the log" in record["sentence"]
    assert "Requested by <strong>ModelkeepQuality" in page and "the address of the log" in page
    assert str(whole) not in page
    assert not (whole / "reports" / "failed").exists()


def live_until(what, seconds=60):
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end
        time.sleep(0.05)
