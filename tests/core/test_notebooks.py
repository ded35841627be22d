import json
import shutil
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from urllib.request import Request, urlopen

import pytest

import modelkeep
import tiny
from modelkeep.core import notebooks

REPOSITORY = Path(__file__).parents[2]
FIXTURES = sorted(tiny.NOTEBOOKS.glob("*.ipynb"))


class Contents:
    def __init__(self, root):
        self.root_dir = str(root)


def saved(root, path, name="executed", kind="notebook"):
    model = {"type": kind, "content": notebooks.read(tiny.NOTEBOOKS / f"{name}.ipynb")}
    notebooks.on_save(model=model, path=path, contents_manager=Contents(root))
    return model["content"]


@pytest.mark.parametrize("path", FIXTURES, ids=lambda path: path.stem)
def test_a_canonical_notebook_stays_the_same_bytes(path):
    nb = notebooks.canonical(notebooks.read(path))
    assert notebooks.canonical(nb) == nb
    assert (notebooks.text(nb) == path.read_text()) == (path.stem != "executed")


def test_canonical_drops_all_but_sources_and_tags():
    executed = notebooks.read(tiny.NOTEBOOKS / "executed.ipynb")
    nb = notebooks.canonical(executed)
    assert [cell["source"] for cell in nb["cells"]] == [c["source"] for c in executed["cells"]]
    assert nb["cells"][1] == {
        "cell_type": "code",
        "execution_count": None,
        "id": "b",
        "metadata": {"tags": ["x"]},
        "outputs": [],
        "source": "print(1)",
    }
    assert sorted(nb["metadata"]) == ["kernelspec", "language_info"]
    assert nb["metadata"]["kernelspec"]["name"] == "python3"


def test_jupyter_saves_only_the_notebooks_of_stages_canonical(tmp_path):
    root = tiny.workspace(tmp_path / "clone", hello="")
    executed = notebooks.read(tiny.NOTEBOOKS / "executed.ipynb")
    bare = notebooks.canonical(executed)
    assert saved(root, "notebooks/hello.ipynb") == bare
    assert saved(root / "notebooks", "/hello.ipynb") == bare
    assert saved(tmp_path, "clone/notebooks/hello.ipynb") == bare
    for mine in ("notebooks/mine.ipynb", "notebooks/deep/hello.ipynb", "reports/hello.ipynb"):
        assert saved(root, mine) == executed
    assert saved(tmp_path, "hello.ipynb") == executed
    assert saved(root, "notebooks/hello.ipynb", kind="file") == executed


FILTER = "from modelkeep.core import notebooks; notebooks.filtered()"


@pytest.fixture
def repository(tmp_path):
    """A Git repository set up as `make` does it, with one notebook of a user's own."""
    root = tiny.workspace(tmp_path / "clone", hello="")
    tiny.run(root, "git", "init", "-q", "-b", "main").check_returncode()
    shutil.copy(REPOSITORY / ".gitattributes", root)
    command = f'"{sys.executable}" -P -c "{FILTER}"'
    tiny.run(root, "git", "config", "filter.notebooks.clean", command).check_returncode()
    tiny.run(root, "git", "config", "merge.made.driver", "true").check_returncode()
    shutil.copy(tiny.NOTEBOOKS / "executed.ipynb", root / "notebooks" / "mine.ipynb")
    return root


def git(root, *words):
    done = tiny.run(root, "git", *words)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_git_takes_a_notebook_without_its_outputs_and_leaves_the_file(repository):
    mine = repository / "notebooks" / "mine.ipynb"
    before = mine.read_bytes()
    git(repository, "add", "-A")
    git(repository, "commit", "-qm", "Start")
    committed = git(repository, "show", "HEAD:notebooks/mine.ipynb")
    assert committed == notebooks.text(notebooks.canonical(notebooks.read(mine)))
    assert mine.read_bytes() == before
    # another editor opens it, runs it and writes its own metadata
    nb = json.loads(before)
    nb["metadata"] = {"kernelspec": {"display_name": "venv (3.12)", "name": "venv"}, "vscode": {}}
    nb["cells"][-1]["metadata"]["collapsed"] = True
    mine.write_text(json.dumps(nb))
    assert git(repository, "diff") == ""
    notebooks.after_save(os_path=str(mine), model={"type": "notebook"})
    assert git(repository, "status", "--porcelain") == ""
    nb["cells"][1]["source"] = "print(2)"
    mine.write_text(json.dumps(nb))
    notebooks.after_save(os_path=str(mine), model={"type": "notebook"})
    assert git(repository, "status", "--porcelain") == " M notebooks/mine.ipynb\n"
    new = repository / "notebooks" / "new.ipynb"
    new.write_text(json.dumps(nb))
    notebooks.after_save(os_path=str(new), model={"type": "notebook"})
    assert git(repository, "status", "--porcelain").endswith("?? notebooks/new.ipynb\n")
    mine.write_text("no notebook")
    git(repository, "add", "-A")
    assert git(repository, "show", ":notebooks/mine.ipynb") == "no notebook"


RECIPE = (
    "git checkout --ours -- dvc.lock metrics verdicts plots && git add -A && git commit --no-edit"
)


@pytest.mark.parametrize("driver", [True, False], ids=["driver", "recipe"])
def test_two_branches_that_both_ran_merge_and_the_run_is_made_again(repository, driver):
    made = ("dvc.lock", "metrics/train.json", "verdicts/train.json", "plots/quality.csv")

    def ran(value):
        for name in made:
            (repository / name).parent.mkdir(exist_ok=True)
            (repository / name).write_text(f"{value}\n")
        (repository / "params" / f"{value}.yaml").write_text("x: 1\n")
        git(repository, "add", "-A")
        git(repository, "commit", "-qm", value)

    ran("start")
    git(repository, "switch", "-qc", "other")
    ran("theirs")
    git(repository, "switch", "-q", "main")
    ran("ours")
    if driver:
        git(repository, "merge", "-q", "--no-edit", "other")
    else:
        git(repository, "config", "--unset", "merge.made.driver")
        assert tiny.run(repository, "git", "merge", "-q", "other").returncode == 1
        assert RECIPE in (REPOSITORY / "docs" / "experiments.md").read_text()
        tiny.run(repository, "sh", "-c", RECIPE).check_returncode()
    assert {(repository / name).read_text() for name in made} == {"ours\n"}
    assert (repository / "params" / "theirs.yaml").exists()
    assert git(repository, "status", "--porcelain") == ""


def test_normal_joins_what_the_kernel_cut_and_hides_where_it_ran(tmp_path):
    def stream(name, text):
        return {"output_type": "stream", "name": name, "text": text}

    shown = {"output_type": "display_data", "metadata": {}, "data": {"text/html": f"{tmp_path}/x"}}
    outputs = [
        stream("stdout", "a"),
        stream("stderr", f"\x1b[39m{tmp_path}/b\x1b[0m /tmp/ipykernel_7/8.py:1"),
        shown,
    ]
    outputs += [stream("stdout", f"c {sys.prefix}/lib x{tmp_path}/y"), stream("stderr", "d")]
    cell = {"cell_type": "code", "source": "", "metadata": {"papermill": {}}, "execution_count": 3}
    nb = notebooks.normal({"cells": [{**cell, "id": "random", "outputs": outputs}]}, tmp_path)
    assert nb["cells"] == [
        {
            **{**cell, "id": "cell-1", "metadata": {}},
            "outputs": [
                stream("stdout", f"ac <python>/lib x{tmp_path}/y"),
                stream("stderr", "b <cell>:1d"),
                {**shown, "data": {"text/html": "x"}},
            ],
        }
    ]


def test_the_heading_of_a_cell_is_the_last_above_it():
    def markdown(source):
        return {"cell_type": "markdown", "source": source, "metadata": {}}

    code = {"cell_type": "code", "source": "# no heading", "metadata": {}}
    cells = [code, markdown("# A\ntext\n## B  "), code, markdown("text #c"), code]
    assert notebooks.headings({"cells": cells}) == ["", "B", "B", "B", "B"]


@pytest.mark.parametrize("text", ["", "{}", json.dumps({"cells": [{}]}), "[1]"])
def test_what_is_no_notebook_is_refused(tmp_path, text):
    (tmp_path / "a.ipynb").write_text(text)
    with pytest.raises(notebooks.BadNotebook, match="is not a notebook"):
        notebooks.read(tmp_path / "a.ipynb")


def told(runtime):
    """What a Jupyter server wrote of itself into `runtime`; None until it also listens.

    It writes the file before, and not at once.
    """
    try:
        said = json.loads(next(runtime.glob("jpserver-*.json")).read_text())
        socket.create_connection(("127.0.0.1", said["port"])).close()
    except (StopIteration, ValueError, ConnectionRefusedError):
        return None
    return said


@contextmanager
def jupyter(folder, tmp_path):
    """A server started in `folder` with Modelkeep's configuration; yields its address and token."""
    config, runtime = tmp_path / "etc", tmp_path / "runtime"
    config.mkdir()
    shutil.copy(Path(modelkeep.__file__).parent / "core" / "jupyter_server_config.json", config)
    places = {"JUPYTER_CONFIG_PATH": str(config), "JUPYTER_RUNTIME_DIR": str(runtime)}
    command = [sys.executable, "-m", "jupyter_server", "--allow-root", "--no-browser", "--port=0"]
    with subprocess.Popen(
        [*command, "--ServerApp.ip=127.0.0.1"],
        cwd=folder,
        env=tiny.surroundings(folder, **places),
        stderr=subprocess.DEVNULL,
    ) as server:
        try:
            while not (said := told(runtime)):
                assert server.poll() is None, f"Jupyter ended with {server.returncode}"
                time.sleep(0.1)
            yield said
        finally:
            server.kill()


def test_saving_an_executed_notebook_in_jupyter_leaves_the_file_as_it_was(tmp_path):
    root = tiny.workspace(tmp_path / "clone", hello="")
    executed = notebooks.read(tiny.NOTEBOOKS / "executed.ipynb")
    source, report = root / "notebooks" / "hello.ipynb", root / "reports" / "executed.ipynb"
    report.parent.mkdir()
    for path in (source, report):
        path.write_text(notebooks.text(notebooks.canonical(executed)))
    before = source.read_bytes()
    with jupyter(tmp_path, tmp_path) as server:
        for path in (source, report):
            address = f"{server['url']}api/contents/{path.relative_to(tmp_path).as_posix()}"
            model = {"type": "notebook", "format": "json", "content": executed}
            headers = {"Authorization": f"token {server['token']}"}
            body = json.dumps(model).encode()
            with urlopen(Request(address, body, headers, method="PUT")) as answer:
                assert answer.status == 200
    assert source.read_bytes() == before
    assert report.read_text() == notebooks.text(executed)
