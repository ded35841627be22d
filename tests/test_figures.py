import re
from xml.etree import ElementTree

import numpy as np
import pytest

from modelkeep import figures
from modelkeep.figures import BREACH, CURRENT

WEEKS = np.datetime64("2020-01-06") + 7 * np.arange(6)
TEXT = {"title": "Is a < b & c?", "caption": "12 rows, \"x\" > 'y' <script>"}
AWKWARD = "cost in $ and $x^2$ <b>&amp; " + "long " * 30
ROWS = [{"name": f"slice {i}", "value": i / 10, "low": -0.1, "high": i / 5} for i in range(3)]
POINTS = [{"predicted": i / 10, "observed": i / 9, "low": 0, "high": i / 5} for i in range(1, 6)]


def drawn(x=WEEKS, name="name"):
    """One figure of each kind."""
    six = np.linspace(0.1, 0.6, 6)
    return {
        "timeline": figures.timeline(x, {"a": six, "b": six}, **TEXT),
        "course": figures.course(x, six, name=name, limit=0.3, limit_name="least", share=True, **TEXT),
        "bars": figures.bars({name: 0.2, name + "2": 0.5}, name=name, limit=0.3, share=True, **TEXT),
        "forest": figures.forest(
            [r | {"name": name + r["name"]} for r in ROWS], name=name, margin=1, **TEXT
        ),
        "calibration": figures.calibration(POINTS, name="candidate", **TEXT),
        "moved": figures.moved(x, {name: six, "b": six / 9}, {"note": 0.01, "warn": 0.1}, **TEXT),
        "evidence": figures.evidence(x, {"a": six * 1e9, "b": six}, 2000, **TEXT),
        "quality": figures.quality(
            x, six, six, six, (six / 2, six * 2), 0.3, name="log loss", **TEXT
        ),
        "waiting": figures.waiting(np.sort(six), **TEXT),
    }


KINDS = tuple(drawn())


def words(figure):
    """The texts in a drawing, as a reader sees them."""
    return [t.text for t in ElementTree.fromstring(figure.svg).iter() if t.text and t.text.strip()]


@pytest.mark.parametrize("kind", KINDS)
def test_two_calls_give_the_same_bytes(kind):
    assert drawn()[kind].svg == drawn()[kind].svg


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_said_is_escaped(kind):
    markup = drawn()[kind]._repr_html_()
    assert "<script>" not in markup and "a < b" not in markup
    assert "<h4>Is a &lt; b &amp; c?</h4>" in markup
    assert 'aria-label="Is a &lt; b &amp; c?"' in markup
    assert "&gt; &#x27;y&#x27; &lt;script&gt;</figcaption>" in markup


@pytest.mark.parametrize("kind", KINDS)
def test_a_drawing_loads_nothing_and_says_nothing_of_the_machine(kind):
    svg = drawn()[kind].svg
    assert svg.startswith("<svg") and svg.endswith("</svg>")
    assert not re.search(r'(?:href|src)="(?!#)', svg)
    assert not re.search(r"url\((?!#)|@import", svg)
    assert "matplotlib" not in svg.lower().replace("www.matplotlib", "")


@pytest.mark.parametrize("kind", ["course", "bars", "forest", "moved"])
def test_names_may_be_anything(kind):
    for name in (AWKWARD, "日本語 🛫 \t\x07", "a_b^{", "$", "\\alpha $\\beta$"):
        assert ElementTree.fromstring(drawn(name=name)[kind].svg) is not None


def test_a_dollar_is_a_dollar():
    assert "cost in $ and $x" in " ".join(words(drawn(name="cost in $ and $x")["bars"]))


def test_long_names_that_begin_alike_keep_bars_of_their_own():
    long = "the same beginning of a long name " * 2
    figure = figures.bars({long + "a": 1.0, long + "b": 2.0}, name="n", **TEXT)
    assert sum(w.startswith("the same") and w.endswith("…") for w in words(figure)) == 2


@pytest.mark.parametrize("kind", KINDS)
def test_windows_without_dates_are_numbered(kind):
    figure = drawn(x=[f"row {i}" for i in range(6)])[kind]
    if kind not in ("bars", "forest", "calibration", "waiting"):
        assert "part of the file, in its order" in words(figure)


def test_one_window_is_enough():
    one, x = np.array([0.5]), WEEKS[:1]
    figures.timeline(x, {"a": one}, **TEXT)
    figures.course(x, one, name="n", **TEXT)
    figures.moved(x, {"a": one}, {"note": 0.01}, **TEXT)
    figures.evidence(x, {"a": one}, 2000, **TEXT)
    figures.quality(x, one, one, one, (one, one), None, name="n", **TEXT)
    figures.bars({"a": 0.0}, name="n", **TEXT)
    figures.waiting(np.zeros(3), **TEXT)


def test_what_is_unknown_is_left_out():
    unknown = np.full(6, np.nan)
    some = np.where(np.arange(6) > 3, 0.5, np.nan)
    for values in (unknown, some):
        figures.course(WEEKS, values, name="n", **TEXT)
        figures.evidence(WEEKS, {"a": values}, 2000, **TEXT)
        figures.quality(
            WEEKS, values, unknown, values, (unknown, unknown), None, name="n", **TEXT
        )
    figures.forest([{"name": "a", "value": np.nan, "low": np.nan, "high": np.nan}], name="n", **TEXT)
    figures.calibration([p | {"low": np.nan, "high": np.nan} for p in POINTS], name="n", **TEXT)


def test_beyond_the_limit_is_red():
    assert BREACH in figures.bars({"a": 2.0}, name="n", limit=1, **TEXT).svg
    under = figures.bars({"a": 0.5}, name="n", **TEXT).svg
    assert BREACH not in under and CURRENT in under


def test_a_breach_in_a_forest_is_red():
    plain = figures.forest(ROWS, name="n", **TEXT).svg
    assert BREACH not in plain
    assert BREACH in figures.forest([ROWS[0] | {"breach": True}], name="n", **TEXT).svg


def test_a_figure_says_what_it_is_in_plain_text():
    assert repr(drawn()["bars"]) == f"{TEXT['title']} ({TEXT['caption']})"


def test_drawing_changes_no_setting():
    import matplotlib

    before = dict(matplotlib.rcParams)
    drawn()
    assert dict(matplotlib.rcParams) == before
