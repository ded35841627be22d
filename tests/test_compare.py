import re
from hashlib import md5

import pytest

import tiny
from modelkeep import compare, experiments, files
from modelkeep.experiments import UnknownExperiment


def figure(title):
    svg = '<svg id="s"><clipPath id="p1"/><g clip-path="url(#p1)"/><use xlink:href="#m1"/></svg>'
    return f'<figure role="img"><h4>{title}</h4>{svg}</figure>'


def report(*titles):
    parts = [f'<h2 id="How-{n}">How {n}?<a href="#x"></a></h2>{t}' for n, t in enumerate(titles, 1)]
    return f"<!doctype html><h1>A page</h1>{''.join(parts)}"


def turn(root, depth, auc, **pages):
    """Leave in `root` what a turn with these parameters would leave."""
    stages = {}
    for stage, values in {"train": {"max_depth": depth, "seed": 0}, "evaluate": {"a": 1}}.items():
        html = pages.get(stage, "lost").encode()
        digest = md5(html).hexdigest()
        out = {"path": f"reports/{stage}.html", "hash": "md5", "md5": digest, "size": len(html)}
        deps = [{"path": "lib/a.py", "hash": "md5", "md5": "0123456789abcdef"}]
        params = {f"params/{stage}.yaml": values}
        stages[stage] = {"cmd": "x", "deps": deps, "params": params, "outs": [out]}
        if stage in pages:
            files.write_bytes(root / ".dvc/cache/files/md5" / digest[:2] / digest[2:], html)
            files.write_bytes(root / "reports" / f"{stage}.html", html)
    files.write_json(root / "dvc.lock", {"schema": "2.0", "stages": stages})
    files.write_json(root / "metrics/train.json", {"auc": auc, "rows": 1000, "deep": {"x": None}})
    told = {"stage": "train", "state": "done", "sentence": f"AUC <{auc}>.", "reasons": []}
    files.write_json(root / "verdicts/train.json", told)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A repository with two commits, and an experiment on the second whose page was lost."""
    root = tmp_path_factory.mktemp("clone")

    def git(*words):
        done = tiny.run(root, "git", *words)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    git("init", "-q", "-b", "main")
    outs = "stages:\n" + "".join(
        f"  {s}:\n    cmd: x\n    outs: [reports/{s}.html]\n" for s in ("train", "evaluate")
    )
    files.write_text(root / "dvc.yaml", outs)
    files.write_text(root / "params" / "train.yaml", "max_depth: 4\n")
    files.write_text(root / ".dvc" / "config", "")
    files.write_text(root / ".gitignore", "/reports\n/.dvc/cache\n/.dvc/tmp\n")
    git("add", "-A")
    git("commit", "-qm", "Empty")
    git("tag", "empty")
    turn(root, 4, 0.7, train=report(figure("A") + figure("B")), evaluate=report(figure("E")))
    git("add", "-A")
    git("commit", "-qm", "Results")
    turn(root, 8, 0.75, train=report(figure("C"), figure("D")))
    git("add", "-A")
    git("commit", "-qm", "Deeper")
    base, commit = git("rev-parse", "HEAD~"), git("rev-parse", "HEAD")
    git("reset", "-q", "--hard", base)
    git("update-ref", f"refs/exps/{base[:2]}/{base[2:]}/deeper", commit)
    turn(root, 4, 0.7, train=report(figure("A") + figure("B")), evaluate=report(figure("E")))
    return root


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


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("deepr", "`deepr` is not an experiment or a revision; did you mean `deeper`?"),
        ("zzzzzz", "there are `deeper`, `main`, `empty` and `workspace`"),
        ("empty", r"`empty` has no results \(no dvc.lock\): run `dvc repro` in it"),
        ("bold", "experiment `bold` failed and has no results; see reports/failed/train-bold.html"),
    ],
)
def test_a_name_without_results_is_a_clear_error(root, name, said):
    files.write_text(root / "reports" / "failed" / "train-bold.html", "")
    with pytest.raises(UnknownExperiment, match=said):
        compare.page(root, ["main", name], root / "reports" / "none.html")
    assert not (root / "reports" / "none.html").exists()


def test_a_name_of_two_experiments_is_ambiguous(root):
    for baseline in ("12" * 20, "34" * 20):
        ref = f"refs/exps/{baseline[:2]}/{baseline[2:]}/twice"
        assert tiny.run(root, "git", "update-ref", ref, "main").returncode == 0
    with pytest.raises(UnknownExperiment, match=r"mbiguous.*give a commit"):
        experiments.read(root, "twice")


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
