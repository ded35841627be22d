"""What is in monitoring/ is what the contract makes, and Grafana can read it."""

import json
import re

import pytest
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.dashboard import Dashboard
from ruamel.yaml import YAML

import monitors
from modelkeep.monitoring import generate, rules

FOLDER = monitors.ROOT / "monitoring"
MADE = generate.make(monitors.CONTRACT)
PANELS = rules.panels(monitors.CONTRACT)
BOARDS = {p.stem: json.loads(p.read_text()) for p in sorted(FOLDER.glob("grafana/dashboards/*"))}


@pytest.mark.parametrize("name", MADE)
def test_what_is_committed_is_what_is_made(name):
    assert (FOLDER / name).read_text(encoding="utf-8") == MADE[name], "run: modelkeep monitoring"


def test_nothing_else_is_there():
    found = {p.relative_to(FOLDER).as_posix() for p in FOLDER.rglob("*") if p.is_file()}
    assert found - set(MADE) == {"metrics.yaml", "targets.yml", "compose.yml"}


def test_writing_says_what_changed(tmp_path):
    (tmp_path / "monitoring").mkdir()
    (tmp_path / "monitoring/metrics.yaml").write_text((FOLDER / "metrics.yaml").read_text())
    assert sorted(generate.write(tmp_path)) == sorted(f"monitoring/{name}" for name in MADE)
    assert generate.write(tmp_path) == []


def test_the_committed_configuration_is_taken():
    done = monitors.check("", "check", "config", str(FOLDER / "prometheus.yml"))
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("name", BOARDS)
def test_a_dashboard_is_whole(name):
    board, panels = BOARDS[name], BOARDS[name]["panels"]
    assert board["uid"] == f"modelkeep-{name}"
    assert len({p["id"] for p in panels}) == len(panels)
    shown = [p for p in panels if p["type"] != "row"]
    assert {p["datasource"]["uid"] for p in shown} == {"${datasource}"}
    assert all(p["targets"] and p["fieldConfig"]["defaults"]["unit"] for p in shown)
    places = [(p["gridPos"]["x"], p["gridPos"]["y"]) for p in panels]
    assert len(set(places)) == len(places)
    assert all(p["gridPos"]["x"] + p["gridPos"]["w"] <= 24 for p in panels)


@pytest.mark.parametrize("name", BOARDS)
def test_a_dashboard_is_what_grafanas_types_hold(name):
    """Decoded by Grafana's own schema and encoded again, nothing is lost."""
    again = json.loads(JSONEncoder().encode(Dashboard.from_json(BOARDS[name])))
    for each in again["annotations"]["list"]:
        each["titleFormat"] = "{{version}}"  # of the Prometheus data source, not of the schema
    known = json.loads(json.dumps(BOARDS[name]))
    for each in known["annotations"]["list"]:
        each["titleFormat"] = "{{version}}"
    assert again == known


@pytest.mark.parametrize("name", BOARDS)
def test_a_dashboard_has_variables_and_marks_releases(name):
    board = BOARDS[name]
    variables = [each["name"] for each in board["templating"]["list"]]
    assert variables == ["datasource", "model", "version", "instance", "cohort"]
    marks = {each["name"] for each in board["annotations"]["list"]}
    assert {"Releases", "Promotions", "Rollbacks"} <= marks
    assert all(link["url"].startswith("http://") for link in board["links"])


def test_the_first_row_is_latency_accuracy_and_errors_and_the_second_drift():
    row, *panels = BOARDS["model"]["panels"][:4]
    assert row["title"] == "Latency, accuracy, error rate"
    assert [p["title"].split()[0] for p in panels] == ["Time", "Accuracy", "Share"]
    assert BOARDS["model"]["panels"][4]["title"] == "Drift"
    drift = BOARDS["model"]["panels"][5]
    (link,) = drift["links"]
    assert link["url"] == "http://localhost:8001/reports/ModelkeepDrift?version=$version"


def test_a_query_keeps_to_the_variables_that_its_series_have():
    queries = {
        t["legendFormat"]: t["expr"]
        for b in BOARDS.values()
        for p in b["panels"]
        for t in p.get("targets", ())
    }
    assert queries["{{version}} {{role}}"] == 'modelkeep:rows:rate{version=~"$version"}'
    assert '{instance=~"$instance"}' in queries["{{outcome}}"]
    assert 'job="modelkeep",instance=~"$instance"' in queries["{{instance}} limit"]


def test_the_dashboards_show_every_panel():
    shown = [p["title"] for b in BOARDS.values() for p in b["panels"] if p["type"] != "row"]
    assert sorted(shown) == sorted(p.title for p in PANELS.values())


UNITS = {"seconds": {"s", "suffix:cores"}, "bytes": {"bytes"}, "ratio": {"percentunit"}}
UNITS |= {"nats": {"suffix:nats"}, "effect": {"suffix:effect"}, "label": {"none"}}
UNITS |= {"label_squared": {"none"}, "bool": {"bool_yes_no"}, "series": {"suffix:series"}}


@pytest.mark.parametrize("metric", monitors.CONTRACT.metrics.values(), ids=lambda m: m.key)
def test_a_panel_has_the_unit_of_its_metric(metric):
    panel = PANELS[metric.panel]
    if metric.unit in UNITS:
        assert panel.unit in UNITS[metric.unit]
    if metric.threshold:
        assert panel.threshold == float(monitors.CONTRACT.settings[metric.threshold])


def test_the_source_and_the_folder_are_those_of_the_compose_file():
    yaml = YAML(typ="safe", pure=True)
    compose = yaml.load((FOLDER / "compose.yml").read_text())["services"]
    provider = yaml.load(MADE["grafana/provisioning/dashboards/modelkeep.yml"])["providers"][0]
    mounts = dict(m.split(":")[:2] for m in compose["grafana"]["volumes"])
    assert mounts["./grafana/dashboards"] == provider["options"]["path"]
    for service in compose.values():
        assert service["image"].rpartition(":")[2].strip("v").count(".") >= 1  # a pinned version


def test_the_page_names_every_metric_and_alert():
    page = MADE["README.md"]
    for m in monitors.CONTRACT.metrics.values():
        assert f"| `{m.name}` |" in page
    for name in monitors.CONTRACT.alerts:
        assert f"### {name}\n" in page


def test_every_alert_has_a_section_in_the_runbook():
    guide = (monitors.ROOT / "docs/monitoring.md").read_text().partition("## Runbook")[2]
    assert re.findall(r"^### (\w+)$", guide, re.MULTILINE) == [*monitors.CONTRACT.alerts]
