import json
import re
from html.parser import HTMLParser

import nbformat
import numpy as np
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from modelkeep.core import markup, pages
from modelkeep.core.markup import count, number, several, significant
from modelkeep.reports import figures, index, render

EVIL = "<script>alert(1)</script> & <b>"


class Page(HTMLParser):
    """What a browser would load, and the text outside of tags in its order."""

    def __init__(self, page):
        super().__init__()
        self.loads, self.tags, self.words = [], [], []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        for name, value in attrs:
            if name in ("src", "href", "xlink:href", "srcset", "data") and tag != "a":
                self.loads.append(value)

    def handle_data(self, data):
        self.words.append(data)

    @property
    def text(self):
        return " ".join(" ".join(self.words).split())


def html(markup):
    return [new_output("display_data", {"text/html": markup, "text/plain": "plain"})]


def notebook(*more, tags=("verdict",)):
    """An executed notebook with title, purpose, code, verdict and a story."""
    told = markup.verdict("better", "The verdict sentence.", ["one reason"])
    cells = [
        new_markdown_cell("# Title\n\nThe purpose."),
        new_code_cell("limit: int = 5  # a parameter", metadata={"tags": ["parameters"]}),
        new_code_cell("limit = 7", metadata={"tags": ["injected-parameters"]}),
        new_code_cell("secret_code()", outputs=[new_output("stream", text="printed\n")]),
        new_code_cell("judge()", outputs=html(told.markup), metadata={"tags": [*tags]}),
        new_markdown_cell("## A question\n\nThe story."),
        *more,
    ]
    for i, cell in enumerate(cells):
        cell.id = f"cell{i}"
    return new_notebook(cells=cells)


def test_the_verdict_stands_below_the_title():
    text = Page(render.render(notebook(), "train")).text
    order = [
        "Title",
        "The verdict sentence.",
        "one reason",
        "The purpose.",
        "A question",
        "The story.",
    ]
    places = [text.index(words) for words in order]
    assert places == sorted(places)
    assert all(text.count(words) == 1 for words in order[1:])


def test_without_a_verdict_the_order_stays():
    text = Page(render.render(notebook(tags=()), "train")).text
    assert text.index("The purpose.") < text.index("The verdict sentence.")


def test_rendering_leaves_the_notebook_as_it_was():
    given = notebook()
    before = nbformat.writes(given)
    render.render(given, "train")
    assert nbformat.writes(given) == before


def test_code_is_folded():
    page = render.render(notebook(), "train")
    for code in ("secret_code()", "limit = 7"):
        before = page[: page.index(code)]
        assert before.rindex("<details") > before.rfind("</details>")
    assert "<details open" not in page
    assert "parameters of this run" in page


def test_the_page_loads_nothing(tmp_path):
    figure = figures.bars({"a": 1.0}, name="n", title="t", caption="c")
    page = render.render(
        notebook(new_code_cell("f()", outputs=html(figure._repr_html_()))), "train"
    )
    loads = [each for each in Page(page).loads if not each.startswith(("data:", "#"))]
    assert loads == []
    assert not re.search(r"@import|url\(\s*['\"]?(?!#|data:)", page)
    assert "script" not in Page(page).tags and "link" in Page(page).tags
    assert Page(index.index(tmp_path)).loads == ["data:,"]


def test_the_page_is_the_same_each_time():
    assert render.render(notebook(), "train") == render.render(notebook(), "train")


def test_plain_output_and_errors_are_escaped():
    cells = [
        new_code_cell("a", outputs=[new_output("stream", text=EVIL)]),
        new_code_cell("b", outputs=[new_output("execute_result", {"text/plain": EVIL})]),
        new_code_cell(EVIL, outputs=[]),
        new_code_cell("d", outputs=[new_output("error", ename="E", evalue=EVIL, traceback=[EVIL])]),
    ]
    page = render.render(notebook(*cells), EVIL)
    assert "script" not in Page(page).tags
    assert page.count("&lt;script&gt;") >= 5


def test_a_failure_is_told_on_top_with_its_place():
    failed = new_code_cell(
        "boom()", outputs=[new_output("error", ename="KeyError", evalue="'x'", traceback=["boom"])]
    )
    page = render.render(notebook(failed), "train")
    text = Page(page).text
    assert text.index("KeyError: 'x'") < text.index("The verdict sentence.")
    assert "In the section “ A question ”" in text
    assert '<a href="#cell-cell6">' in page
    assert {"failed", "cell-cell6"} <= set(
        re.findall(r"<section ([^>]*failed[^>]*)>", page)[0].split('"')
    )


@pytest.mark.parametrize(
    ("state", "tone"),
    [
        ("better", "good"),
        ("non_inferior", "good"),
        ("fine", "good"),
        ("done", "good"),
        ("worse", "bad"),
        ("retrain", "bad"),
        ("failed", "bad"),
        ("look", "open"),
        ("inconclusive", "open"),
        ("insufficient", "open"),
        ("not run", "open"),
    ],
)
def test_a_state_has_a_colour(state, tone):
    assert markup.tone(state) == tone
    assert f'class="verdict {tone}"' in markup.verdict(state, "s").markup


def test_a_verdict_is_escaped_and_plain():
    told = markup.verdict("non_inferior", EVIL, [EVIL, "b"])
    assert set(Page(told.markup).tags) == {"div", "span", "p", "ul", "li"}
    assert "non inferior" in told.markup
    assert repr(told) == f"non_inferior: {EVIL}\n- {EVIL}\n- b"
    assert "<ul>" not in markup.verdict("fine", "s").markup


def test_provenance_is_one_table():
    told = markup.provenance({"code": EVIL, "rows": 12})
    assert Page(told.markup).tags.count("tr") == 2 and "script" not in Page(told.markup).tags
    assert repr(told).endswith("rows: 12")


def test_a_table_shows_numbers_as_numbers():
    rows = [{"name": EVIL, "n": 12_345, "x": 0.123456, "ok": True}, {"name": "b", "n": None}]
    told = markup.table(rows)
    assert "script" not in Page(told.markup).tags
    assert '<td class="number">12,345</td><td class="number">0.1235</td>' in told.markup
    assert told.markup.count("unknown") == 3
    assert "nan" not in repr(told) and repr(told).count("\n") == 1
    counted = markup.table([{"n": np.int64(3), "x": np.float64(0.5)}]).markup
    assert counted.count('<td class="number">') == 2


def test_an_empty_table_says_so():
    assert markup.table([], "No <row>.").markup == "<p>No &lt;row&gt;.</p>"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "unknown"),
        (float("nan"), "unknown"),
        (np.float64("nan"), "unknown"),
        (np.datetime64("NaT"), "unknown"),
        (0, "0"),
        (-0.0, "0"),
        (1234, "1,234"),
        (np.int64(1_234_567), "1,234,567"),
        (0.000012345, "1.234e-05"),
        (0.5, "0.5"),
        (0.123456, "0.1235"),
        (999.94, "999.9"),
        (1234.4, "1,234"),
        (9999.7, "10,000"),
        (-12_345.6, "-12,346"),
        (np.float32(0.25), "0.25"),
        (True, "True"),
        (np.bool_(False), "False"),
        ("12345", "12345"),
        (float("inf"), "inf"),
    ],
)
def test_a_number_as_a_reader_wants_it(value, text):
    assert number(value) == text


@pytest.mark.parametrize(
    ("names", "text"),
    [
        ([], ""),
        (["a"], "a"),
        (["a", "b"], "a and b"),
        (list("abc"), "a, b and c"),
        (list("abcd"), "a, b, c and d"),
        (list("abcdef"), "a, b, c, d and 2 more"),
        (("a", "b"), "a and b"),
    ],
)
def test_names_as_a_person_lists_them(names, text):
    assert several(names) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (2087.14, "2,090"), (38.34, "38.3"), (0.012345, "0.0123"), (16_236.0, "16,200"),
        (2.346e13, "2.3 × 10¹³"), (1e300, "1.0 × 10³⁰⁰"), (0.0, "0"), (float("nan"), "unknown"),
        (None, "unknown"), (999_999.0, "1,000,000"),
    ],
)  # fmt: skip
def test_evidence_has_three_digits(value, text):
    assert significant(value) == text


def test_a_count_with_its_noun():
    found = [count(0, "row"), count(1, "row"), count(2000, "row"), count(np.int64(1), "row")]
    assert found == ["0 rows", "1 row", "2,000 rows", "1 row"]


def write(root, place, content):
    path = root / place
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content))


@pytest.fixture
def cycle(tmp_path):
    """A workspace in which every stage but collect has run."""
    for stage in ("prepare", "train", "evaluate", "monitor"):
        state = {"stage": stage, "state": "done", "sentence": f"Look at <{stage}>."}
        write(tmp_path, f"verdicts/{stage}.json", state)
        write(tmp_path, f"reports/{stage}.html", "page")
    write(tmp_path, "metrics/train.json", {"log_loss": 0.5, "auc": 0.7})
    write(tmp_path, "metrics/monitor.json", {"newest_log_loss": 0.4})
    write(tmp_path, "plots/quality.csv", "window,log_loss_realised\n2026-01-05,.6\n2026-01-12,.4\n")
    write(tmp_path, "models/champion.json", {"version": "v1.2.0"})
    return tmp_path


def links(page):
    return re.findall(r'<a href="([^"#]+)"', page)


def test_the_front_page_tells_each_stage_in_the_order_of_the_pipeline(cycle):
    page = index.index(cycle)
    heads = re.findall(r"<h3>(?:<a [^>]*>)?(\w+)", page)
    assert tuple(heads) == pages.STAGES
    text = Page(page).text
    assert text.count("This stage has not run yet") == 1
    assert text.index("Look at <monitor>.") < text.index("Look at <prepare>.")  # it concludes
    assert "v1.2.0" in text and "2026-01-05 to 2026-01-12" in text
    assert "log loss, newest judged window 0.4 expected 0.5 on all rows of cross-validation" in text
    assert page.count('<svg class="spark"') == 1


def test_a_card_names_each_expected_value_and_the_labels_to_come(cycle):
    seen = {"expected": {"log_loss": 0.45}, "newest_waiting": 1234}
    verdict = {"stage": "monitor", "state": "ok", "sentence": "Calm.", "evidence": seen}
    write(cycle, "verdicts/monitor.json", verdict)
    write(cycle, "metrics/evaluate.json", {"test_log_loss": 0.48})
    text = Page(index.index(cycle)).text
    each = "expected 0.45 in a window, 0.5 on all rows of cross-validation, 0.48 on the test rows"
    assert f"{each}; 1,234 labels of this window still to come" in text
    assert "AUC, expected 0.7" in text  # not monitored: one value, with its name


def test_the_front_page_links_every_page_there_is_and_no_other(cycle):
    beside = ("compare", "backtest", "rollout-7", "update", "year", "investigations/a1")
    for place in (*beside, "failed/train"):
        write(cycle, f"reports/{place}.html", "page")
    page = index.write(cycle)
    found = set(links(page.read_text()))
    assert found >= {f"{place}.html" for place in beside}
    assert [link for link in found if not (cycle / "reports" / link).is_file()] == []
    assert "The last run of train failed" in Page(page.read_text()).text


def test_the_front_page_before_any_run(tmp_path):
    page = index.index(tmp_path)
    assert "No stage has run yet: `make run`" in Page(page).text and links(page) == []


def test_a_failed_page_has_no_dead_link_and_says_what_is_lost():
    failed = new_code_cell(
        "boom()", outputs=[new_output("error", ename="E", evalue="x", traceback=["b"])]
    )
    later = new_code_cell("later()", id="later")
    lost = {"lost": ["models/candidate"], "remedy": "dvc checkout train", "missing": ("train",)}
    page = render.render(notebook(failed, new_markdown_cell("## Later"), later), "train", **lost)
    assert links(page) == ["../index.html", *(f"../{s}.html" for s in pages.STAGES if s != "train")]
    text = Page(page).text
    assert "Not there any more: models/candidate ." in text and "dvc checkout train" in text
    assert text.count("This section did not run.") == 1
    early = notebook()
    early.cells[3].outputs, early.cells[4].outputs = failed.outputs, []
    told = Page(render.render(early, "train", lost=[])).text
    assert told.index("The purpose.") < told.index("This section did not run.")
    whole = render.render(notebook(failed), "train", lost=[])
    assert "The outputs of the last good run are still there." in Page(whole).text


def test_a_page_of_three_questions_has_contents():
    body = "<h1>T</h1>" + "".join(f"<h2>Question {i}?</h2>" for i in range(3))
    page = pages.page("T", body)
    for i in range(3):
        assert f'<a href="#section-{i + 1}">Question {i}?</a>' in page
        assert f'<h2 id="section-{i + 1}">' in page
    assert "On this page" not in pages.page("T", "<h2>One</h2>")


def test_a_page_can_be_put_into_another_frame():
    page = pages.framed_again(pages.page("T", "<p>body</p>"), "<a href='.'>up</a>", "<p>top</p>")
    text = Page(page.partition("</head>")[2]).text
    assert text == "up top body" and "prepare" not in text


def test_navigation_leads_to_every_other_page():
    page = render.render(notebook(), "train")
    nav = page[page.index("<nav") : page.index("</nav>")]
    assert '<b aria-current="page">train</b>' in nav
    for other in ("index", "prepare", "evaluate", "collect", "monitor"):
        assert f'href="{other}.html"' in nav
