import json
import sys
from pathlib import Path

import pytest

import tiny
from modelkeep.core import parameters, runner
from modelkeep.reports import render

HELLO = "word: ho\ntimes: 3\n"


def written(root, *patterns):
    paths = [path for pattern in patterns or ("reports/**/*",) for path in root.glob(pattern)]
    return {
        path.relative_to(root).as_posix(): path.read_bytes()
        for path in sorted(paths)
        if path.is_file()
    }


@pytest.fixture(scope="module")
def hello(tmp_path_factory):
    root = tiny.workspace(tmp_path_factory.mktemp("here"), hello=HELLO)
    runner.run("hello", root, render=render.render)
    return root


def hostile(folder):
    """What a user may have lying about: another kernel of the same name, a profile, a style."""
    spec = {"argv": ["false"], "display_name": "Mine", "language": "python"}
    startup = "import warnings; warnings.simplefilter('ignore')"
    for path, text in {
        "jupyter/kernels/python3/kernel.json": json.dumps(spec),
        "ipython/profile_default/startup/00.py": startup,
        "startup.py": startup,
        "matplotlibrc": "lines.linewidth: 9\n",
    }.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(text)
    return {
        "JUPYTER_PATH": str(folder / "jupyter"),
        "JUPYTER_DATA_DIR": str(folder / "jupyter"),
        "IPYTHONDIR": str(folder / "ipython"),
        "PYTHONSTARTUP": str(folder / "startup.py"),
        "MATPLOTLIBRC": str(folder / "matplotlibrc"),
        "MPLBACKEND": "svg",
        "PYTHONHASHSEED": "7",
        "PYTHONPATH": "/nowhere",
    }


def test_two_runs_in_two_folders_and_surroundings_make_the_same_bytes(
    hello, tmp_path, monkeypatch, capfd
):
    root = tiny.workspace(tmp_path / "elsewhere" / "deep", hello=HELLO)
    for name, value in hostile(tmp_path / "hostile").items():
        monkeypatch.setenv(name, value)
    page = runner.run("hello", root, render=render.render)
    assert page == root / "reports" / "hello.html"
    assert written(root) == written(hello)
    assert sorted(written(root)) == ["reports/hello.html", "reports/hello.ipynb"]
    assert capfd.readouterr().err.splitlines() == [
        "hello  1/6 Hello",
        "hello  2/6 Say it",
        "hello  4/6 Say where",
        "hello  6/6 Draw it",
    ]


def test_the_executed_notebook_says_what_happened_and_nothing_of_where(hello):
    text = (hello / "reports" / "hello.ipynb").read_text()
    nb = json.loads(text)
    outputs = [cell["outputs"] for cell in nb["cells"] if cell["cell_type"] == "code"]
    injected = next(c for c in nb["cells"] if c["metadata"].get("tags") == ["injected-parameters"])
    assert "".join(injected["source"]) == '# Parameters\nword = "ho"\ntimes = 3\n'
    assert outputs[3][0]["text"] == ["ho\n", "ho\n", "ho\n"]
    assert outputs[4][0]["text"][0].startswith("True ")
    assert outputs[5][0]["text"][0] == "<cell>:1: UserWarning: here\n"
    assert outputs[6][0]["data"]["image/png"]
    for secret in (str(hello), sys.prefix, "papermill", "/tmp", "iopub"):
        assert secret not in text
    assert "ho\nho\nho\n" in (hello / "reports" / "hello.html").read_text()


def test_nothing_starts_where_a_parameter_is_wrong(tmp_path):
    root = tiny.workspace(tmp_path, hello="word: ho\n")
    with pytest.raises(parameters.WrongParameters, match="`times` is missing"):
        runner.run("hello", root, render=render.render)
    assert written(root) == {}


def test_a_failure_is_a_page_and_what_stood_before_stays(tmp_path, monkeypatch):
    """Under `dvc exp run --temp` the page is also where the experiment came from."""
    monkeypatch.setenv("DVC_EXP_NAME", "bold-idea")
    root = tiny.workspace(tmp_path / ".dvc" / "tmp" / "exps" / "tmpabc", fails="divisor: 0\n")
    (root / "reports").mkdir()
    (root / "reports" / "fails.html").write_text("the last good one")
    with pytest.raises(runner.NotebookFailed) as error:
        runner.run("fails", root, render=render.render)
    assert error.value.page == tmp_path / "reports" / "failed" / "fails-bold-idea.html"
    assert str(error.value) == (
        f"fails failed in “Divide”: ZeroDivisionError: division by zero; see {error.value.page}"
    )
    kept = written(root, "reports/failed/*")
    assert sorted(kept) == ["reports/failed/fails.html", "reports/failed/fails.ipynb"]
    assert (root / "reports" / "fails.html").read_text() == "the last good one"
    names = ["fails-bold-idea.html", "fails-bold-idea.ipynb", "fails.html", "fails.ipynb"]
    assert sorted(written(tmp_path, "reports/failed/*")) == [f"reports/failed/{n}" for n in names]
    page = kept["reports/failed/fails.html"].decode()
    assert "so far" in page
    assert "never shown" not in page
    assert page.index("division by zero") < page.index("so far")
    assert "Divide" in page


def test_a_failed_page_names_what_dvc_deleted_and_the_command_that_brings_it_back(tmp_path):
    root = tiny.workspace(tmp_path, fails="divisor: 0\n", hello=HELLO)
    page, metrics = root / "reports" / "failed" / "fails.html", "metrics/fails.json"
    pipeline = (root / "dvc.yaml").read_text()
    kept = f"outs: [reports/fails.html]\n    metrics: [{metrics}: {{cache: false}}]"
    (root / "dvc.yaml").write_text(pipeline.replace("outs: [reports/fails.html]", kept))
    with pytest.raises(runner.NotebookFailed):
        runner.run("fails", root, render=render.render)
    assert "The outputs of the last good run are still there." in page.read_text()
    outs = [{"path": "reports/fails.html"}, {"path": metrics}]
    lock = {"schema": "2.0", "stages": {"fails": {"outs": outs}}}
    (root / "dvc.lock").write_text(json.dumps(lock))
    with pytest.raises(runner.NotebookFailed):
        runner.run("fails", root, render=render.render)
    text = page.read_text()
    assert f"<code>reports/fails.html</code>, <code>{metrics}</code>" in text
    assert f"<code>dvc checkout fails &amp;&amp; git checkout -- {metrics}</code>" in text


def test_a_good_run_takes_the_old_failure_away(tmp_path):
    root = tiny.workspace(tmp_path, fails="divisor: 1\n", hello=HELLO)
    (root / "reports" / "failed").mkdir(parents=True)
    for name in ("fails.html", "fails.ipynb", "hello.html"):
        (root / "reports" / "failed" / name).write_text("old")
    runner.run("fails", root, render=render.render)
    assert list(written(root, "reports/failed/*")) == ["reports/failed/hello.html"]
    assert "never shown" in (root / "reports" / "fails.html").read_text()


@pytest.mark.parametrize(
    ("stage", "params", "said"),
    [("dies", "signal: 9\n", "DeadKernel"), ("exits", "code: 0\n", "SystemExit")],
)
def test_a_notebook_that_stops_without_an_error_fails(tmp_path, stage, params, said):
    root = tiny.workspace(tmp_path, **{stage: params})
    with pytest.raises(runner.NotebookFailed, match=said):
        runner.run(stage, root, render=render.render)
    assert said in (root / "reports" / "failed" / f"{stage}.html").read_text()
    assert not Path(root, "reports", f"{stage}.html").exists()


def test_run_all_takes_the_values_of_the_params_file_and_a_run_says_when_it_has_others(tmp_path):
    """By hand there is no injected cell: the params file is the home of a value, not the cell."""
    import nbformat
    from nbclient import NotebookClient

    root = tiny.workspace(tmp_path / "ws", by_hand="word: file\ntimes: 2\n")
    dvc = root / "dvc.yaml"
    dvc.write_text(dvc.read_text().replace(", data]", ", data, lib/modelkeep/core]"))
    nb = nbformat.read(root / "notebooks" / "by_hand.ipynb", as_version=4)
    NotebookClient(nb, resources={"metadata": {"path": str(root / "notebooks")}}).execute()
    assert nb.cells[-1].outputs[0].text == "file 2.0 {}\n"
    page = runner.run("by_hand", root, render=render.render).read_text()
    assert "file 2.0 {}" in page
    page = runner.run("by_hand", root, {"times": "3"}, render=render.render).read_text()
    assert "other values" in page and "times 3.0 (params/by_hand.yaml: 2)" in page
