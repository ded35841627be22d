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


def test_jupyter_saves_canonical_inside_notebooks_only(tmp_path):
    root = tiny.workspace(tmp_path / "clone", hello="")
    executed = notebooks.read(tiny.NOTEBOOKS / "executed.ipynb")
    bare = notebooks.canonical(executed)
    assert saved(root, "notebooks/a.ipynb") == bare
    assert saved(root / "notebooks", "/a.ipynb") == bare
    assert saved(tmp_path, "clone/notebooks/deep/a.ipynb") == bare
    assert saved(root, "reports/a.ipynb") == executed
    assert saved(tmp_path, "a.ipynb") == executed
    assert saved(root, "notebooks/a.ipynb", kind="file") == executed


def test_normal_joins_what_the_kernel_cut_and_hides_where_it_ran(tmp_path):
    def stream(name, text):
        return {"output_type": "stream", "name": name, "text": text}

    shown = {"output_type": "display_data", "metadata": {}, "data": {"text/html": f"{tmp_path}/x"}}
    outputs = [
        stream("stdout", "a"),
        stream("stderr", f"{tmp_path}/b /tmp/ipykernel_7/8.py:1"),
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
    source, report = root / "notebooks" / "executed.ipynb", root / "reports" / "executed.ipynb"
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
