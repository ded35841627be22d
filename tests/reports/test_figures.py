import re
from functools import cache
from xml.etree import ElementTree

import numpy as np
import pytest

from modelkeep.core import pages
from modelkeep.evaluation import drift
from modelkeep.reports import figures
from modelkeep.reports.figures import BREACH, CURRENT

WEEKS = np.datetime64("2020-01-06") + 7 * np.arange(6)
TEXT = {"title": "Is a < b & c?", "caption": "12 rows, \"x\" > 'y' <script>"}
AWKWARD = "cost in $ and $x^2$ <b>&amp; " + "long " * 30
ROWS = [{"name": f"slice {i}", "value": i / 10, "low": -0.1, "high": i / 5} for i in range(3)]
POINTS = [
    {"predicted": i / 10, "observed": i / 9, "low": 0, "high": i / 8 - 0.03, "rows": 10}
    for i in range(1, 6)
]


SIX = np.linspace(0.1, 0.6, 6)
CALLS = {
    "timeline": lambda x, _: figures.timeline(x, {"a": SIX, "b": SIX}, **TEXT),
    "course": lambda x, n: figures.course(x, SIX, name=n, limit=0.3, share=True, **TEXT),
    "bars": lambda _, n: figures.bars({n: 0.2, n + "2": 0.5}, name=n, share=True, **TEXT),
    "forest": lambda _, n: figures.forest(
        [r | {"name": n + r["name"]} for r in ROWS], name=n, margin=1, **TEXT
    ),
    "calibration": lambda _, n: figures.calibration(POINTS, name=n, title=TEXT["title"]),
    "drifted": lambda x, n: figures.drifted(x, {n: SIX, "b": SIX / 9}, drift.LEVELS, **TEXT),
    "e_values": lambda x, _: figures.e_values(x, {"a": SIX * 1e9, "b": SIX}, 2000, **TEXT),
    "quality": lambda x, n: figures.quality(
        x, SIX, SIX, SIX, (SIX / 2, SIX * 2), 0.3, name=n, **TEXT
    ),
    "roc": lambda _, n: figures.roc(
        np.column_stack([SIX, SIX**0.5]), (0.3, 0.6), area=n, mark="here", **TEXT
    ),
    "importance": lambda _, n: figures.importance(
        [{"column": n, "added": 0.2, "spread": 0.01}, {"column": "b", "added": 0.1, "spread": 0}],
        name=n,
        **TEXT,
    ),
    "distributions": lambda _, n: figures.distributions(
        {n: ([n, "b"], SIX[:2], SIX[1:3]), "c": (["d"], SIX[:1], SIX[:1])}, **TEXT
    ),
    "waiting": lambda *_: figures.waiting(SIX, **TEXT),
}
KINDS = tuple(CALLS)
ON_TIME = ("timeline", "course", "drifted", "e_values", "quality")


@cache
def drawn(kind):
    """One figure of a kind."""
    return CALLS[kind](WEEKS, "name")


def words(figure):
    """The texts in a drawing, as a reader sees them."""
    return [t.text for t in ElementTree.fromstring(figure.svg).iter() if t.text and t.text.strip()]


@pytest.mark.parametrize("kind", KINDS)
def test_two_calls_give_the_same_bytes(kind):
    assert CALLS[kind](WEEKS, "name").svg == drawn(kind).svg


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_said_is_escaped(kind):
    markup = drawn(kind)._repr_html_()
    assert "<script>" not in markup and "a < b" not in markup
    assert '<p class="title">Is a &lt; b &amp; c?</p>' in markup
    # a reader of screens hears the picture by its title, then the caption: figure is no image
    assert '<svg role="img" aria-label="Is a &lt; b &amp; c?"' in markup
    assert "<figure role" not in markup
    if kind != "calibration":  # it says itself what it is made from
        assert "&gt; &#x27;y&#x27; &lt;script&gt;</figcaption>" in markup


@pytest.mark.parametrize("kind", KINDS)
def test_a_drawing_loads_nothing_and_says_nothing_of_the_machine(kind):
    svg = drawn(kind).svg
    assert svg.startswith("<svg") and svg.endswith("</svg>")
    assert not re.search(r'(?:href|src)="(?!#)', svg)
    assert not re.search(r"url\((?!#)|@import", svg)
    assert "<metadata>" not in svg


@pytest.mark.parametrize("kind", ["course", "bars", "forest", "drifted"])
def test_names_may_be_anything(kind):
    name = f"日本語 🛫 \t\x07 a_b^{{ \\alpha $\\beta$ {AWKWARD}"
    assert ElementTree.fromstring(CALLS[kind](WEEKS, name).svg) is not None


def test_a_dollar_is_a_dollar():
    assert "cost in $ and $x" in words(CALLS["bars"](WEEKS, "cost in $ and $x"))


def test_long_names_that_begin_alike_keep_bars_of_their_own():
    long = "the same beginning of a long name " * 2
    figure = figures.bars({long + "a": 1.0, long + "b": 2.0}, name="n", **TEXT)
    assert sum(w.startswith("the same") and w.endswith("…") for w in words(figure)) == 2


@pytest.mark.parametrize("kind", ON_TIME)
def test_windows_without_dates_are_numbered(kind):
    figure = CALLS[kind]([f"row {i}" for i in range(6)], "name")
    assert "part of the file, in its order" in words(figure)


def test_one_window_is_enough():
    one, x = np.array([0.5]), WEEKS[:1]
    figures.timeline(x, {"a": one}, **TEXT)
    figures.course(x, one, name="n", **TEXT)
    figures.drifted(x, {"a": one}, drift.LEVELS, **TEXT)
    figures.e_values(x, {"a": one}, 2000, **TEXT)
    figures.quality(x, one, one, one, (one, one), None, name="n", **TEXT)
    figures.bars({"a": 0.0}, name="n", **TEXT)
    figures.waiting(np.zeros(3), **TEXT)


def test_what_is_unknown_is_left_out():
    unknown = np.full(6, np.nan)
    some = np.where(np.arange(6) > 3, 0.5, np.nan)
    for values in (unknown, some):
        figures.course(WEEKS, values, name="n", **TEXT)
        figures.e_values(WEEKS, {"a": values}, 2000, **TEXT)
        figures.quality(WEEKS, values, unknown, values, (unknown, unknown), None, name="n", **TEXT)
    figures.forest(
        [{"name": "a", "value": np.nan, "low": np.nan, "high": np.nan}], name="n", **TEXT
    )
    wide = [p | {"low": np.nan, "high": np.nan} for p in POINTS]
    assert "none is off the line" in figures.calibration(wide, name="n", title="t").caption


def test_calibration_says_how_far_it_is_off():
    said = drawn("calibration").caption
    assert said.startswith("50 rows in 5 groups of equal size")
    off = sum(p["predicted"] > p["high"] for p in POINTS)
    assert f": {off} of 5 are off the line. The largest gap is 5.6%, at a predicted 50%." in said


def test_beyond_the_limit_is_red():
    assert BREACH in figures.bars({"a": 2.0}, name="n", limit=1, **TEXT).svg
    under = figures.bars({"a": 0.5}, name="n", **TEXT).svg
    assert BREACH not in under and CURRENT in under


def test_evidence_says_what_happens_at_its_threshold():
    assert "alerts at 2,000" in words(drawn("e_values"))
    back = figures.e_values(WEEKS, {"failed": SIX}, 60, then="goes back", **TEXT)
    assert "goes back at 60" in words(back)


def test_a_breach_in_a_forest_is_red():
    plain = figures.forest(ROWS, name="n", **TEXT).svg
    assert BREACH not in plain
    assert BREACH in figures.forest([ROWS[0] | {"breach": True}], name="n", **TEXT).svg


def test_a_figure_says_what_it_is_in_plain_text():
    assert repr(drawn("bars")) == f"{TEXT['title']} ({TEXT['caption']})"


def test_drawing_changes_no_setting():
    import matplotlib

    before = dict(matplotlib.rcParams)
    CALLS["bars"](WEEKS, "n")
    assert dict(matplotlib.rcParams) == before


@pytest.mark.parametrize("kind", KINDS)
def test_every_colour_of_a_drawing_follows_the_page(kind):
    variables = re.findall(r"var\(--[a-z]+, #[0-9a-f]{6}\)", drawn(kind).svg)
    bare = re.sub(r"var\(--[a-z]+, #[0-9a-f]{6}\)", "", drawn(kind).svg)
    assert variables and not re.search(r"(?:fill|stroke): #[0-9a-f]{6}", bare)


def luminance(colour):
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(a, b):
    high, low = sorted((luminance(a), luminance(b)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def test_text_and_marks_stand_out_on_light_and_on_dark_paper():
    """WCAG 2.1 AA: 4.5 to 1 for text, 3 to 1 for marks."""
    modes = re.findall(r":root \{(.*?)\}", pages.css(), re.DOTALL)
    for mode in modes[:2]:
        found = dict(re.findall(r"--(\w+): (#[0-9a-f]{3,6});", mode))
        colours = {
            k: v if len(v) == 7 else "#" + v[1] * 2 + v[2] * 2 + v[3] * 2 for k, v in found.items()
        }
        for name in ("ink", "soft", "blue", "orange", "red", "grey"):
            for ground in ("paper", "wash"):
                assert contrast(colours[name], colours[ground]) >= 4.5, (name, ground)
        for name in ("reference", "current", "candidate", "breach", "mild"):
            assert contrast(colours[name], colours["paper"]) >= 3, name
    light = dict(re.findall(r"--(\w+): (#[0-9a-f]{6});", modes[0]))
    assert {
        n: c for c, n in figures.PALETTE.items() if n not in ("paper",)
    }.items() <= light.items()


def test_an_unjudged_row_is_hollow_and_said():
    rows = [ROWS[0], ROWS[1] | {"judged": False}]
    figure = figures.forest(rows, name="n", **TEXT)
    assert "not judged: too few days" in words(figure)
    assert "not judged: too few days" not in words(figures.forest(ROWS, name="n", **TEXT))


def test_a_clipped_line_says_how_far_it_goes():
    text = " ".join(words(drawn("e_values")))
    assert "drawn up to here; it reaches 6.0 × 10⁸" in text and "drawn from" not in text
    deep = figures.e_values(WEEKS, {"a": SIX / 1e4}, 2000, **TEXT)
    assert "drawn from 0.01 on, and lower where it touches" in words(deep)
    low = figures.e_values(WEEKS, {"a": SIX}, 2000, **TEXT)
    assert not any(word.startswith("drawn up to") for word in words(low))


def test_windows_that_wait_for_labels_are_shaded():
    waiting = np.arange(6) >= 4
    for x in (WEEKS, np.arange(6)):
        figure = figures.course(x, SIX, name="n", waiting=waiting, **TEXT)
        assert "labels still to come" in words(figure)
    assert "labels still to come" not in words(drawn("course"))
