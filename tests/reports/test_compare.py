import re

import pytest

import recorded
import tiny
from modelkeep.reports import compare, experiments


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return recorded.repository(tmp_path_factory.mktemp("clone"))


@pytest.fixture(scope="module")
def page(root):
    return compare.compare(root, ["main", "deeper"], "reports/compare.html").page.read_text()


def row(page, name):
    (found,) = re.findall(rf'<tr class="(\w*)"><th>{name}</th>(.*?)</tr>', page)
    return found[0], re.findall(r"<td>(.*?)</td>", found[1])


def test_parameters_that_differ_are_shown_and_the_others_counted(page):
    assert row(page, "train.<wbr>max_depth") == ("differs", ["4", "8"])
    assert "<p>2 parameters the same.</p>" in page and "train.<wbr>seed" not in page
    assert "They differ in 1 parameter (train.max_depth); code and data are the same." in page


def test_metrics_have_their_difference_from_the_first(page):
    assert row(page, "train.<wbr>auc") == ("", ["0.7", "0.75 (+0.05)"])
    assert "<p>2 metrics the same.</p>" in page


def test_conclusions_stand_side_by_side_where_they_differ(page):
    assert page.index("AUC &lt;0.7&gt;.") < page.index("AUC &lt;0.75&gt;.")
    assert "Prepared." not in page and "<p>The same in all: prepare.</p>" in page


def test_what_is_not_to_be_had_is_said_on_top(page):
    why = "the candidate of main is not in the cache: `dvc pull` it, or run it again"
    assert f"deeper cannot be compared with main: {why}." in page[: page.index("<h2")]


def test_each_column_says_what_it_is(root, page):
    main = tiny.run(root, "git", "rev-parse", "main").stdout[:10]
    assert f"<th>main</th><td>commit {main}</td>" in page
    assert re.search(rf"<th>deeper</th><td>commit \w{{10}}, an experiment on {main}</td>", page)


def test_one_experiment_is_compared_with_head(root):
    done = compare.compare(root, ["deeper"], "reports/one.html")
    told = done.page.read_text()
    assert "<h1>HEAD and deeper, side by side</h1>" in told
    assert row(told, "train.<wbr>auc")[1] == ["0.7", "0.75 (+0.05)"]
    assert done.conclusion.startswith("deeper cannot be compared with HEAD")


def test_experiments_are_listed_by_what_differs(root):
    lines = experiments.listed(root).splitlines()
    assert lines[0].split() == ["experiment", "max_depth", "auc"]
    assert lines[-1].split() == ["deeper", "8", "0.75"]
    assert max(map(len, lines)) <= experiments.WIDTH


def test_the_page_loads_nothing_from_elsewhere(page):
    assert not re.search(r'(src|href)="(?!data:|#|\w+\.html)', page)
