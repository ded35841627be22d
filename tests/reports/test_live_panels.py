"""Panels from Prometheus' range API: what it answers is what is drawn, and what it does not is told."""

import json

import numpy as np
import pytest

import monitors
from modelkeep.monitoring import rules
from modelkeep.reports import live_panels
from modelkeep.reports.live_panels import LiveError
from synthetic import said

PANELS = rules.panels(monitors.CONTRACT)


def answering(*series):
    """A range API that gives the same series to every query."""
    result = [{"metric": m, "values": [[t, str(v)] for t, v in values]} for m, values in series]
    return monitors.serving(lambda *_: json.dumps({"data": {"result": result}}).encode())


def test_lines_have_legends_and_the_highest_is_first():
    low = {"feature": "temp", "version": "a"}, [(0, 0.1), (60, 0.2)]
    high = {"feature": "hour", "version": "a"}, [(0, 0.1), (60, 0.7)]
    unknown = {"feature": "lost", "version": "a"}, [(0, "NaN"), (60, "NaN")]
    with answering(low, unknown, high) as at:
        lines = live_panels.read(f"http://{at}", PANELS["drift"], 0, 60)
    assert [line.legend for line in lines] == ["hour a", "temp a", "lost a"]
    assert lines[0].times.tolist() == np.array([0, 60_000], "datetime64[ms]").tolist()
    assert lines[0].values.tolist() == [0.1, 0.7]
    figure = live_panels.draw(PANELS["drift"], lines)
    assert "threshold" in figure.svg and "hour a" in figure.svg
    limit = PANELS["drift"].threshold
    assert (
        figure.caption
        == f"hour a is at 0.7; the threshold is {limit}. It is the highest of 2 lines."
    )
    assert said(figure)


def test_the_loss_of_the_base_rate_is_the_limit_of_log_loss():
    labels = {"version": "a", "cohort": "0"}
    results = [[{"metric": labels, "values": [[0, value]]}] for value in ("0.5", "0.7", "0.6")]
    replies = [json.dumps({"data": {"result": each}}).encode() for each in results]
    with monitors.serving(lambda *_: replies.pop(0)) as at:
        read = live_panels.read(f"http://{at}", PANELS["log_loss"], 0, 60)
    assert [line.legend for line in read] == ["a 0", "a base rate", "a expected"]
    figure = live_panels.draw(PANELS["log_loss"], read)
    assert "a 0" in figure.svg and "loss of the base rate" in figure.svg
    assert figure.caption == "a 0 is at 0.5; the loss of the base rate is 0.7."


def test_a_share_is_told_in_per_cent_and_the_newest_may_be_missing():
    series = {"version": "a", "cohort": "0"}, [(0, 0.25), (60, 0.125), (120, "NaN")]
    with answering(series) as at:
        figure = live_panels.draw(
            PANELS["accuracy"], live_panels.read(f"http://{at}", PANELS["accuracy"], 0, 120)
        )
    assert figure.caption == "a 0 is at 12.5%."


def test_no_line_is_no_figure():
    with answering() as at:
        assert (
            live_panels.draw(
                PANELS["drift"], live_panels.read(f"http://{at}", PANELS["drift"], 0, 60)
            )
            is None
        )


def test_what_cannot_be_read_is_told():
    with pytest.raises(LiveError, match="is not the address of a Prometheus"):
        live_panels.read("file:///etc", PANELS["psi"], 0, 60)
    with pytest.raises(LiveError, match="did not answer 'modelkeep:psi:day'"):
        live_panels.read("http://127.0.0.1:9", PANELS["psi"], 0, 60)
    with monitors.serving(lambda *_: b"<html>") as at, pytest.raises(LiveError, match="not answer"):
        live_panels.read(f"http://{at}", PANELS["psi"], 0, 60)
