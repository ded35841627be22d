"""The page is Prometheus' text format, as its own tools read it."""

import math
from types import SimpleNamespace

import pytest
from prometheus_client.parser import text_string_to_metric_families

import monitors
from modelkeep.monitoring.exposition import Exposition, ExpositionError, cumulative


@pytest.fixture
def page():
    return Exposition(monitors.CONTRACT)


def samples(page):
    found = {}
    for family in text_string_to_metric_families(page.render().decode()):
        for s in family.samples:
            key = (s.name, *sorted(s.labels.items()))
            assert key not in found
            found[key] = s.value
    return found


def test_values_and_odd_names_come_back(page):
    values = [3, 0.1 + 0.2, 1e-300, math.inf]
    odd = ["plain", 'a "quote"', "back\\slash\nand line", "Größe {x}"]
    labels = [{"version": v, "feature": "f", "bin": "00"} for v in odd]
    page.add("feature_bin_rows_total", lambda: values, labels)
    page.add("log_backlog_rows", lambda: (math.nan,))
    found = samples(page)
    name = "modelkeep_feature_bin_rows_total"
    assert [found[name, ("bin", "00"), ("feature", "f"), ("version", v)] for v in odd] == values
    assert math.isnan(found["modelkeep_log_backlog_rows",])
    assert page.series == 5


def test_a_histogram_is_cumulative_and_whole(page):
    page.add("label_delay_seconds", lambda: cumulative([1, 0, 2, *[0] * 8, 4], 12.5))
    found = samples(page)
    buckets = [(dict(k[1:])["le"], v) for k, v in found.items() if k[0].endswith("_bucket")]
    assert buckets[:3] == [("60", 1), ("600", 1), ("3600", 3)] and buckets[-1] == ("+Inf", 7)
    assert found["modelkeep_label_delay_seconds_sum",] == 12.5
    assert found["modelkeep_label_delay_seconds_count",] == 7


def test_labels_that_the_contract_does_not_know_are_refused(page):
    with pytest.raises(ExpositionError, match="'boss' is not in the closed set of 'role'"):
        page.add("rows_total", lambda: (0,), [{"version": "v", "role": "boss"}])
    with pytest.raises(ExpositionError, match="labels are {'version'}"):
        page.add("rows_total", lambda: (0,), [{"version": "v"}])


def test_what_is_dropped_is_gone(page):
    counts = SimpleNamespace(a=1, b=2)
    for owner in ("a", "b"):
        labels = [{"version": owner, "role": "champion"}]
        page.add("rows_total", lambda owner=owner: (getattr(counts, owner),), labels, owner)
    counts.b = 5
    page.drop("a")
    assert list(samples(page).values()) == [5]
    page.drop("b")
    assert page.render() == b""
