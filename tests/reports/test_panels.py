"""Live panels: none without an address, a word where none answers, else what Prometheus tells (see also test_alarms)."""

import json
import urllib.parse

import pytest

import monitors
import synthetic
from modelkeep.reports import live_panels
from modelkeep.reports.live_panels import PanelsError
from servers import free_port

NOW = 1_790_000_000.0


def test_without_an_address_nothing_is_drawn():
    shown = live_panels.shown("", monitors.ROOT)
    assert shown._repr_html_() == "" and repr(shown) == ""


@pytest.mark.parametrize(
    "address", ["localhost:9090", "file:///etc/passwd", "http://", "http://a?b"]
)
def test_what_is_no_address_is_refused(address):
    with pytest.raises(PanelsError, match="is no address; write it as http://localhost:9090"):
        live_panels.shown(address, monitors.ROOT)


def test_a_prometheus_that_is_not_there_is_told():
    address = f"http://127.0.0.1:{free_port()}"
    assert "No live panel" in synthetic.said(live_panels.shown(address, monitors.ROOT))


def told(series):
    """A Prometheus that has the same series for each query, and what it was asked."""
    asked = []

    def answer(path, body):
        asked.append(urllib.parse.parse_qs(urllib.parse.urlsplit(path).query))
        return json.dumps({"status": "success", "data": {"result": series}}).encode()

    return answer, asked


def test_nothing_to_show_is_told():
    answer, _ = told([])
    with monitors.serving(answer) as where:
        assert "has nothing about a model" in synthetic.said(
            live_panels.shown(f"http://{where}", monitors.ROOT)
        )


def test_at_most_six_panels():
    asked = {"feature": "<b>", "version": "v", "cohort": "0", "class": "$x$"}
    answer, queries = told([{"metric": asked, "values": [[NOW - 60, "1"], [NOW, "0.5"]]}])
    with monitors.serving(answer) as where:
        found = live_panels.shown(f"http://{where}", monitors.ROOT, hours=2, now=NOW)
    assert {(*each["start"], *each["end"]) for each in queries} == {(str(NOW - 7200), str(NOW))}
    assert found.markup.count("<figure") == 6 and "<b>" not in found.markup
    assert "The 2 hours up to 2026-09-21" in found.text and where in found.text
