"""The shape of a notebook: canonical as it is committed, normal as it was executed."""

import json
import re
import subprocess
import sys
from pathlib import Path

from modelkeep.core import workspace
from modelkeep.core.errors import ModelkeepError

KERNEL = {"display_name": "Python 3", "language": "python", "name": "python3"}


class BadNotebook(ModelkeepError, ValueError):
    """A file is not a notebook of format 4."""


def read(path: Path) -> dict:
    """The notebook at `path` as plain data, each source as one string."""
    try:
        nb = json.loads(path.read_text(encoding="utf-8"))
        for cell in nb["cells"]:
            cell["source"] = "".join(cell["source"])
    except (ValueError, KeyError, TypeError) as error:
        remedy = "open it in JupyterLab and save it as a notebook of format 4"
        raise BadNotebook(f"{path} is not a notebook ({error!r}); {remedy}") from None
    return nb


def text(nb: dict) -> str:
    """The text that Jupyter writes for `nb`."""
    import nbformat

    return nbformat.writes(nbformat.from_dict(nb), version=4) + "\n"


def canonical(nb: dict) -> dict:
    """`nb` with nothing but its sources and tags: no outputs, no counts, no trace of who ran it."""
    cells = [_bare(cell, cell.get("id", f"cell-{n}")) for n, cell in enumerate(nb["cells"], 1)]
    return _document(cells)


def normal(nb: dict, root: Path) -> dict:
    """The executed `nb` without what differs from run to run: times, ids, paths, cuts in text."""
    cells = []
    for number, cell in enumerate(nb["cells"], 1):
        kept = _bare(cell, f"cell-{number}")
        if cell["cell_type"] == "code":
            kept["execution_count"] = cell.get("execution_count")
            kept["outputs"] = [_placeless(output, root) for output in _joined(cell["outputs"])]
        cells.append(kept)
    return _document(cells)


def tagged(nb: dict, tag: str) -> list[int]:
    """The places of the cells that carry `tag`."""
    return [n for n, cell in enumerate(nb["cells"]) if tag in cell["metadata"].get("tags", ())]


def headings(nb: dict) -> list[str]:
    """For each cell, the last heading at or above it."""
    names, last = [], ""
    for cell in nb["cells"]:
        if cell["cell_type"] == "markdown":
            lines = re.findall(r"^#+\s+(.+?)\s*$", cell["source"], re.MULTILINE)
            last = lines[-1] if lines else last
        names.append(last)
    return names


def on_save(model: dict, path: str, contents_manager: object, **_: object) -> None:
    """Jupyter's `pre_save_hook`: the notebook of a stage is saved canonical.

    Others keep their outputs on disk; `filtered` keeps those out of Git.
    """
    if model.get("type") != "notebook" or not model.get("content"):
        return
    place = Path(contents_manager.root_dir, path.strip("/")).resolve()
    try:
        root = workspace.root(place.parent)
        stage = place.parent == root / "notebooks" and place.stem in workspace.stages(root)
    except (workspace.NoWorkspace, workspace.BadParams):  # saving goes before checking
        return
    if stage:
        model["content"] = canonical(model["content"])


def after_save(os_path: str, model: dict, **_: object) -> None:
    """Jupyter's `post_save_hook`: let `git status` see at once that only outputs have changed.

    Git takes a file of another size for changed until it has compared what the filter leaves.
    """
    if model.get("type") != "notebook" or not Path(os_path).is_file():
        return
    folder, name = Path(os_path).parent, Path(os_path).name
    same = ["git", "-C", str(folder), "diff", "--quiet", "--", name]
    if subprocess.run(same, capture_output=True).returncode == 0:
        tracked = ["git", "-C", str(folder), "ls-files", "--error-unmatch", "--", name]
        if subprocess.run(tracked, capture_output=True).returncode == 0:
            subprocess.run(["git", "-C", str(folder), "add", "--", name], capture_output=True)


def filtered() -> None:
    """Git's clean filter for notebooks/: standard input, canonical, to standard output.

    It also evens out what an editor writes on opening (the kernel's name and version), so that a
    notebook that was only read is not changed. What is no notebook passes as it is.
    """
    raw = sys.stdin.buffer.read()
    try:
        nb = json.loads(raw)
        for cell in nb["cells"]:
            cell["source"] = "".join(cell["source"])
        raw = text(canonical(nb)).encode()
    except (ValueError, KeyError, TypeError):
        pass
    sys.stdout.buffer.write(raw)


def _document(cells: list[dict]) -> dict:
    metadata = {"kernelspec": KERNEL, "language_info": {"name": "python"}}
    return {"cells": cells, "metadata": metadata, "nbformat": 4, "nbformat_minor": 5}


def _bare(cell: dict, name: str) -> dict:
    tags = cell["metadata"].get("tags")
    kept = {key: cell[key] for key in ("cell_type", "source", "attachments") if key in cell}
    kept |= {"id": name, "metadata": {"tags": list(tags)} if tags else {}}
    return kept | ({"execution_count": None, "outputs": []} if cell["cell_type"] == "code" else {})


def _joined(outputs: list[dict]) -> list[dict]:
    # how the kernel cuts printed text into messages depends on time
    joined, streams = [], {}
    for output in outputs:
        if output["output_type"] != "stream":
            joined.append(output)
        elif output["name"] in streams:
            streams[output["name"]]["text"] += output["text"]
        else:
            streams[output["name"]] = dict(output)
            joined.append(streams[output["name"]])
    return joined


def _placeless(value: object, root: Path) -> object:
    if isinstance(value, dict):
        return {key: _placeless(item, root) for key, item in value.items()}
    if isinstance(value, list):
        return [_placeless(item, root) for item in value]
    if not isinstance(value, str):
        return value
    value = re.sub(
        r"\x1b\[[\d;]*m", "", value
    )  # colours of a terminal, for dark paper or for light
    if "/" not in value:
        return value
    value = re.sub(r"[^\s'\"]*/ipykernel_\d+/\d+\.py", "<cell>", value)
    value = re.sub(rf"(?<![\w./-]){re.escape(str(root))}/", "", value)
    return re.sub(rf"(?<![\w./-]){re.escape(sys.prefix)}/", "<python>/", value)
