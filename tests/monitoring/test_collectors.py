"""Series over arrays come back from prometheus-client's page, whoever counts meanwhile."""

import math
import threading
from types import SimpleNamespace

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.openmetrics import exposition as openmetrics
from prometheus_client.openmetrics.parser import text_string_to_metric_families as strict
from prometheus_client.parser import text_string_to_metric_families

import monitors
from modelkeep.monitoring.collectors import SeriesCollector, SeriesError, cumulative


@pytest.fixture
def registry():
    return CollectorRegistry()


@pytest.fixture
def series(registry):
    made = SeriesCollector(monitors.CONTRACT)
    registry.register(made)
    return made


def samples(registry, parse=text_string_to_metric_families, write=generate_latest):
    found = {}
    for family in parse(write(registry).decode()):
        for s in family.samples:
            key = (s.name, *sorted(s.labels.items()))
            assert key not in found
            found[key] = s.value
    return found


def test_values_and_odd_names_come_back(registry, series):
    values = [3, 0.1 + 0.2, 1e-300, math.inf]
    odd = ["plain", 'a "quote"', "back\\slash\nand line", "Größe {x}"]
    labels = [{"version": v, "feature": "f", "bin": "00"} for v in odd]
    series.add("feature_bin_rows_total", lambda: values, labels)
    series.add("features_left_out", lambda: (math.nan,), [{"version": "v"}])
    name = "modelkeep_feature_bin_rows_total"
    for found in (samples(registry), samples(registry, strict, openmetrics.generate_latest)):
        assert [found[name, ("bin", "00"), ("feature", "f"), ("version", v)] for v in odd] == values
        assert math.isnan(found["modelkeep_features_left_out", ("version", "v")])
        assert len(found) == 5


def test_a_histogram_is_cumulative_and_whole(registry, series):
    series.add("label_delay_seconds", lambda: cumulative([1, 0, 2, *[0] * 8, 4], 12.5))
    found = samples(registry, strict, openmetrics.generate_latest)
    buckets = [(dict(k[1:])["le"], v) for k, v in found.items() if k[0].endswith("_bucket")]
    assert buckets[:3] == [("60.0", 1), ("600.0", 1), ("3600.0", 3)] and buckets[-1] == ("+Inf", 7)
    assert found["modelkeep_label_delay_seconds_sum",] == 12.5
    assert found["modelkeep_label_delay_seconds_count",] == 7


def test_labels_that_the_contract_does_not_know_are_refused(series):
    with pytest.raises(SeriesError, match="'boss' is not in the closed set of 'role'"):
        series.add("rows_total", lambda: (0,), [{"version": "v", "role": "boss"}])
    with pytest.raises(SeriesError, match="labels are {'version'}"):
        series.add("rows_total", lambda: (0,), [{"version": "v"}])


def test_what_is_dropped_is_gone(registry, series):
    counts = SimpleNamespace(a=1, b=2)
    for owner in ("a", "b"):
        labels = [{"version": owner, "role": "champion"}]
        series.add("rows_total", lambda owner=owner: (getattr(counts, owner),), labels, owner)
    counts.b = 5
    series.drop("a")
    assert list(samples(registry).values()) == [5]
    series.drop("b")
    assert samples(registry) == {}


def test_models_come_and_go_while_a_page_is_written(registry, series):
    labels = [{"version": "v", "feature": f"f{i}", "bin": "00"} for i in range(400)]
    series.add("feature_bin_rows_total", lambda: [1] * 400, labels, "v")
    pages = []
    thread = threading.Thread(target=lambda: pages.append(samples(registry)))
    thread.start()
    while thread.is_alive():
        series.add("features_left_out", lambda: (0,), [{"version": "w"}], "w")
        series.drop("w")
    thread.join()
    assert sum(name == "modelkeep_feature_bin_rows_total" for name, *_ in pages[0]) == 400
