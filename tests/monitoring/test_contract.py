"""The contract names metrics as Prometheus wants them, and says where it does not."""

import copy

import pytest
from ruamel.yaml import YAML

import monitors
from modelkeep.monitoring import contract
from modelkeep.monitoring.contract import ContractError

FILE = monitors.ROOT / contract.FILE


@pytest.fixture
def content():
    return copy.deepcopy(YAML(typ="safe", pure=True).load(FILE.read_text()))


def test_every_metric_is_shown_and_counted_in_the_budget():
    names = " ".join(
        [
            *map(str, monitors.CONTRACT.records.values()),
            *map(str, monitors.CONTRACT.panels.values()),
        ]
        + [str(a) for a in monitors.CONTRACT.alerts.values()]
    )
    unseen = [m.name for m in monitors.CONTRACT.metrics.values() if m.name not in names]
    assert unseen == []
    assert monitors.CONTRACT.drift_series > 1000
    assert monitors.CONTRACT.versions == 3


@pytest.mark.parametrize(
    ("metric", "change", "told"),
    [
        ("rows_total", {"type": "gauge"}, "the name of a counter, and of nothing else, ends with"),
        ("rows_total", {"type": "count"}, "type 'count' must be one of counter, gauge, histogram"),
        ("rows_total", {"unit": "row"}, "unit 'row' is no base unit; did you mean `rows`"),
        ("log_writable", {"unit": "seconds"}, "must end with '_seconds'"),
        ("rows_total", {"labels": ["version", "user"]}, "'user' has no closed set"),
        ("rows_total", {"buckets": [1]}, "a histogram, and nothing else, has buckets"),
        ("score_ratio", {"buckets": [0.2, 0.1]}, "buckets, from low to high"),
        ("rows_total", {"help": "Rows"}, "help must be one sentence"),
        ("rows_total", {"panel": "row"}, "'row' is not a panel; did you mean `rows`"),
        ("rows_total", {"threshold": "efect"}, "'efect' is not a setting; did you mean `effect`"),
        ("rows_total", {"hlep": "x"}, "rows_total.hlep: is not known; did you mean `help`"),
        ("rows_total", {"own": True}, "own ones begin with process_"),
    ],
)
def test_a_broken_rule_is_told_with_its_place(content, metric, change, told):
    content["metrics"][metric] |= change
    with pytest.raises(ContractError, match=r"\$\.metrics\." + metric) as caught:
        contract.check(content)
    assert told in str(caught.value)


def test_names_that_histograms_need_are_refused(content):
    content["metrics"]["rows_sum"] = content["metrics"]["model_loaded_timestamp_seconds"]
    with pytest.raises(ContractError, match="must not end with one of _total, _count, _sum"):
        contract.check(content)


def test_open_sets_and_other_shapes_are_refused(content):
    content["labels"]["route"] = {"from": "the request"}
    with pytest.raises(ContractError, match=r"\$\.labels\.route: .* is no closed set"):
        contract.check(content)
    for broken, told in (
        ([], "the sections"),
        (content | {"format": 2}, "is 2, this code reads 1"),
    ):
        with pytest.raises(ContractError, match=told):
            contract.check(broken)


def test_labels_that_leave_no_room_for_drift_are_refused(content):
    content["labels"]["route"] = [f"route{i}" for i in range(60)]
    with pytest.raises(ContractError, match="leave -?[0-9]+ of 2000 series to live drift"):
        contract.check(content)


def test_a_panel_that_no_dashboard_shows_is_told(content):
    del content["dashboards"]["service"]["rows"]["Traffic"][0]
    with pytest.raises(ContractError, match=r"\$\.panels\.rows: each panel must be in one row"):
        contract.check(content)


def test_a_file_that_is_not_there_is_told(tmp_path):
    with pytest.raises(ContractError, match="restore it from Git"):
        contract.read(tmp_path / "metrics.yaml")
