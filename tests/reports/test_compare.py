import re

import pytest

import recorded
import tiny
from modelkeep.reports import compare


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return recorded.repository(tmp_path_factory.mktemp("clone"))


@pytest.fixture(scope="module")
def page(root):
    return compare.page(root, ["main", "deeper"], root / "reports" / "compare.html").read_text()


def row(page, name):
    (found,) = re.findall(rf'<tr class="(\w*)"><th>{name}</th>(.*?)</tr>', page)
    return found[0], re.findall(r"<td>(.*?)</td>", found[1])


def test_parameters_that_differ_stand_out_and_the_others_are_folded(page):
    assert row(page, "train.<wbr>max_depth") == ("differs", ["4", "8"])
    assert row(page, "train.<wbr>seed") == ("", ["0", "0"])
    folded = re.findall(r"<details.*?</details>", page, re.DOTALL)
    assert "<summary>2 parameters the same</summary>" in folded[0]
    assert "train.<wbr>seed" in folded[0]
    assert "max_depth" not in folded[0]
    assert "They differ in 1 parameter (train.max_depth); code and data are the same." in page


def test_metrics_have_their_difference_from_the_first(page):
    assert row(page, "train.<wbr>auc") == ("", ["0.7", "0.75 (+0.05)"])
    assert "<summary>2 metrics the same</summary>" in page
    assert row(page, "train.<wbr>deep.<wbr>x") == ("", ["unknown", "unknown"])


def test_verdicts_stand_side_by_side(page):
    assert page.index("AUC &lt;0.7&gt;.") < page.index("AUC &lt;0.75&gt;.")


def test_figures_of_one_question_stand_side_by_side(page):
    told = page[page.index("The figures of train") :]
    titles = re.findall(r"<h3>(.*?)</h3>|<h4>(.)</h4>|<p>(–)</p>", told)
    assert ["".join(t) for t in titles] == ["How 1?", *"AC", *"B–", "How 2?", *"–D"]


def test_no_id_is_used_twice_and_each_reference_meets_its_own(page):
    ids = re.findall(r' id="([^"]+)"', page)
    assert len(ids) == len(set(ids)) > 0
    for svg in re.findall(r"<svg.*?</svg>", page):
        assert set(re.findall(r"url\(#(.*?)\)", svg)) < set(re.findall(r' id="(.*?)"', svg))


def test_what_is_not_to_be_had_is_said(page):
    assert "deeper: reports/evaluate.html is not in the cache" in page
    assert "main: reports/evaluate.html" not in page
    assert "deeper: reports/monitor.html was not made" in page


def test_each_column_says_what_it_is(root, page):
    main = tiny.run(root, "git", "rev-parse", "main").stdout[:10]
    assert f"<th>main</th><td>commit {main}</td>" in page
    assert re.search(rf"<th>deeper</th><td>commit \w{{10}}, an experiment on {main}</td>", page)


def test_one_experiment_is_compared_with_the_workspace(root):
    out = root / "reports" / "one.html"
    told = compare.page(root, ["deeper"], out).read_text()
    assert "<h1>workspace and deeper, side by side</h1>" in told
    assert "<th>workspace</th><td>the files as they are now</td>" in told
    assert row(told, "train.<wbr>auc")[1] == ["0.7", "0.75 (+0.05)"]


def test_the_page_loads_nothing_from_elsewhere(page):
    assert not re.search(r'(src|href)="(?!data:|#|\w+\.html)', page)


def test_what_differs_is_said_in_one_sentence():
    assert (
        compare._said(["a.b"], ["c.py"])
        == "They differ in 1 parameter (a.b) and in code or data (c.py)."
    )
    assert compare._said([], ["c.py"]).endswith("(c.py); the parameters are the same.")
    assert compare._said([], []) == "Nothing differs."


def test_differences_read_well():
    told = compare._cells([0.5, 0.5, 0.51234, None, True, "a"], True)
    assert re.findall("<td>(.*?)</td>", told) == [
        *("0.5", "0.5 (same)", "0.5123 (+0.012)", "unknown", "True", "a")
    ]
    told = compare._cells([2000, 500, 3100], True)
    assert re.findall("<td>(.*?)</td>", told) == ["2,000", "500 (−1,500)", "3,100 (+1,100)"]
