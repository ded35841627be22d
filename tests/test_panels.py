"""Live panels: none without an address, a word where none answers, else what Prometheus tells (see also test_alarms)."""

import json
import re
import urllib.parse

import pytest

import monitors
import synthetic
from modelkeep import panels
from modelkeep.panels import PanelsError
from servers import free_port

NOW = 1_790_000_000.0


def test_without_an_address_nothing_is_drawn():
    shown = panels.live("", monitors.ROOT)
    assert shown._repr_html_() == "" and repr(shown) == ""


@pytest.mark.parametrize(
    "address", ["localhost:9090", "file:///etc/passwd", "http://", "http://a?b"]
)
def test_what_is_no_address_is_refused(address):
    with pytest.raises(PanelsError, match="is no address; write it as http://localhost:9090"):
        panels.live(address, monitors.ROOT)


def test_a_prometheus_that_is_not_there_is_told():
    address = f"http://127.0.0.1:{free_port()}"
    assert "did not tell" in synthetic.said(panels.live(address, monitors.ROOT))


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
            panels.live(f"http://{where}", monitors.ROOT)
        )


def test_at_most_six_panels_of_five_lines_each():
    names = ["$x$", "<b>", *"cdefgh"]
    series = [
        {
            "metric": {"feature": n, "version": "v", "cohort": n, "class": n},
            "values": [[NOW - 60, str(i)], [NOW, str(i)]],
        }
        for i, n in enumerate(names)
    ]
    answer, asked = told(series)
    with monitors.serving(answer) as where:
        figure = panels.live(f"http://{where}", monitors.ROOT, hours=2, now=NOW)
    assert {(*each["start"], *each["end"]) for each in asked} == {(str(NOW - 7200), str(NOW))}
    svg = figure.svg
    assert len(re.findall(r'id="axes_\d+"', svg)) == 6
    assert "h v" in svg and "<b>" not in svg
    assert "c v" not in svg  # the highest are shown
    assert "2026-09-21" in figure.caption and where in figure.caption
