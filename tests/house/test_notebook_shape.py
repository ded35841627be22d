"""Notebooks are letters: one order, little code, no outputs, nothing that belongs to the library."""

import ast
import json
import re
import subprocess
from pathlib import Path

import pytest

import layers
from modelkeep.core import notebooks, pages, parameters

FOLDER = Path(__file__).parents[2] / "notebooks"
PATHS = sorted(FOLDER.rglob("*.ipynb"))
STAGES = [FOLDER / f"{stage}.ipynb" for stage in (*pages.STAGES, *pages.BESIDE)]
MOST_CELLS, MOST_LINES, MOST_LINES_A_CELL, FEWEST_WORDS = 15, 60, 10, 400
FORBIDDEN = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.Lambda | ast.Try | ast.While

every = pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
stages = pytest.mark.parametrize("path", STAGES, ids=lambda path: path.stem)


def code(path: Path, without_parameters: bool = False) -> list[str]:
    cells = notebooks.read(path)["cells"]
    found = [cell for cell in cells if cell["cell_type"] == "code"]
    left_out = {parameters.TAG} if without_parameters else set()
    return [c["source"] for c in found if not left_out & set(c["metadata"].get("tags", ()))]


def lines(source: str) -> list[str]:
    return [line for line in source.splitlines() if line.strip()]


def problems(sources: list[str]) -> list[str]:
    """What a cell holds that belongs to lib/ or to nobody; magics and shell do not even parse."""
    found = []
    for source in sources:
        try:
            nodes = list(ast.walk(ast.parse(source)))
        except SyntaxError as error:
            found.append(f"no plain Python: {error.text}")
            continue
        found += [ast.unparse(node) for node in nodes if isinstance(node, FORBIDDEN)]
        names = [ast.unparse(n) for n in nodes if isinstance(n, ast.Name | ast.Attribute)]
        found += [name for name in names if name in ("sys.path", "get_ipython")]
    return found


def test_no_figure_repeats_the_heading_over_it():
    heads = {
        line.lstrip("# ")
        for path in PATHS
        for cell in notebooks.read(path)["cells"]
        if cell["cell_type"] == "markdown"
        for line in cell["source"].splitlines()
        if line.startswith("#")
    }
    reports = (FOLDER.parent / "lib" / "modelkeep" / "reports").glob("*.py")
    nodes = [node for path in reports for node in ast.walk(ast.parse(path.read_text()))]
    titles = {n.value.value for n in nodes if is_title(n) and isinstance(n.value, ast.Constant)}
    assert len(titles) > 10 and titles & heads == set()


def is_title(node: ast.AST) -> bool:
    if isinstance(node, ast.Assign):
        return isinstance(node.targets[0], ast.Name) and node.targets[0].id == "title"
    return isinstance(node, ast.keyword) and node.arg == "title"


@stages
def test_a_stage_is_saved_without_outputs(path):
    clean = notebooks.text(notebooks.canonical(notebooks.read(path)))
    assert path.read_text() == clean, f"run `modelkeep clean` to mend notebooks/{path.name}"


@every
def test_it_is_committed_without_outputs(path):
    words = ["git", "show", f":notebooks/{path.relative_to(FOLDER).as_posix()}"]
    shown = subprocess.run(words, cwd=FOLDER, capture_output=True, text=True)
    if shown.returncode == 0:  # your own may not be in Git
        clean = notebooks.text(notebooks.canonical(json.loads(shown.stdout) | {}))
        assert shown.stdout == clean, "run `make`, which sets up Git's filter, and add it again"


@every
def test_it_is_short_and_defines_nothing(path):
    sources = code(path)
    assert len(sources) <= MOST_CELLS
    assert sum(len(lines(source)) for source in sources) <= MOST_LINES
    for source in code(path, without_parameters=True):
        assert len(lines(source)) <= MOST_LINES_A_CELL, source
    assert problems(sources) == []
    ifs = [node for s in sources for node in ast.walk(ast.parse(s)) if isinstance(node, ast.If)]
    assert len(ifs) <= 1


@every
def test_it_imports_in_one_cell_before_all_other_code(path):
    imports = ast.Import | ast.ImportFrom
    having = [
        any(isinstance(node, imports) for node in ast.walk(ast.parse(source)))
        for source in code(path, without_parameters=True)
    ]
    assert having == [True] + [False] * (len(having) - 1)


@every
def test_it_begins_with_a_title_and_its_purpose(path):
    first = notebooks.read(path)["cells"][0]
    assert first["cell_type"] == "markdown"
    assert re.match(r"# .+\n\n\S", first["source"])
    titles = [c for c in notebooks.read(path)["cells"][1:] if re.match(r"# ", c["source"])]
    assert [t for t in titles if t["cell_type"] == "markdown"] == []


@stages
def test_a_stage_tells_its_story(path):
    cells = notebooks.read(path)["cells"]
    told = " ".join(cell["source"] for cell in cells if cell["cell_type"] == "markdown")
    assert len(told.split()) >= FEWEST_WORDS


@stages
def test_a_stage_has_its_parameters_then_its_verdict_then_questions(path):
    nb = notebooks.read(path)
    cells = nb["cells"]
    assert notebooks.tagged(nb, parameters.TAG) == [1]
    declared, wrong = parameters.declared(nb, path.name)
    assert wrong == []
    assert declared
    (verdict,) = notebooks.tagged(nb, "verdict")
    kinds = [cell["cell_type"] for cell in cells]
    assert kinds[1 : verdict + 1] == ["code"] * verdict
    below = cells[verdict + 1 :]
    headed = [c["source"].startswith("## ") for c in below if c["cell_type"] == "markdown"]
    assert all(headed)
    assert kinds[verdict + 1] == "markdown"
    assert kinds[-2:] == ["markdown", "code"]
    assert "verdicts.write(" in cells[-1]["source"]
    writing = [n for n, c in enumerate(cells) if re.search(r"\bwrite(_\w+)?\(", c["source"])]
    assert writing == [len(cells) - 1]


def test_the_rule_sees_what_does_not_belong():
    for source in (
        *(
            "def f():\n    pass",
            "class A:\n    pass",
            "try:\n    x\nfinally:\n    y",
            "f = lambda: 1",
        ),
        *("while x:\n    y", "%matplotlib inline", "!ls", "import sys\nsys.path.append('a')"),
    ):
        assert problems([source]), source
    assert problems(["x = [f(y) for y in z]\nx"]) == []


PACKAGES = {"core", "data", "evaluation", "predictions", "training", "reports"}
WATCHING = ("attribution", "decisions", "diagnosis", "slices", "sources", "windows")
MODULES = {f"monitoring.{name}" for name in WATCHING}
OWN = {"backtest": {"backtest"}, "rollout": {"rollout"}}  # pages about that package's work


@every
def test_it_imports_only_the_small_shared_library(path):
    sources = "\n".join(code(path))
    names = layers.imported(ast.parse(sources)) - {"__init__"}
    allowed = PACKAGES | OWN.get(path.stem, set())
    strange = {n for n in names if n.split(".")[0] not in allowed and n not in MODULES}
    assert strange == set()
