"""dvc.yaml says what is so: one name for each stage, and the very files that it depends on."""

import ast
import re
import subprocess
from pathlib import Path

import pytest

import layers
import workspaces
from modelkeep.core import notebooks, pages, parameters, workspace

ROOT = Path(__file__).parents[2]
LIB = "lib/modelkeep"
EVERYWHERE = {"requirements.lock"}
STAGES = workspace.stages(ROOT)
NOTEBOOKS = list(STAGES)
OTHER_NOTEBOOKS = {"explore", "rollout"}  # no stages: a person asks, a rollout has ended
PROGRAMS = {
    "guards",
    "investigate",
    "notify",
    "rollout",
    "serve",
    "update",
}  # what runs beside the stages


def named(entries: list | None) -> list[str]:
    return [next(iter(entry)) if isinstance(entry, dict) else entry for entry in entries or ()]


def code(stage: str) -> ast.Module:
    """What runs in a stage beyond the library: its notebook's code."""
    cells = notebooks.read(ROOT / "notebooks" / f"{stage}.ipynb")["cells"]
    return ast.parse("\n".join(c["source"] for c in cells if c["cell_type"] == "code"))


def needed(stage: str) -> set[str]:
    """The packages of lib/ that a stage runs, all that its imports import in turn; of reports/ the page's own module alone."""
    found, fresh = set(), layers.imported(code(stage)) | {f"reports.{stage}"} & set(layers.MODULES)
    while fresh := fresh - found:
        found |= fresh
        fresh = {name for each in fresh for name in layers.imported(layers.MODULES[each])}
    packages = {f"{LIB}/{name.split('.')[0]}" for name in found} - {f"{LIB}/reports"}
    page = f"reports.{stage}"
    return packages | (
        {f"{LIB}/reports/{stage}.py"} if page in found and stage != "train" else set()
    )


def made_by_stages() -> dict[str, str]:
    return {
        path: stage
        for stage, said in STAGES.items()
        for kind in ("outs", "metrics")
        for path in named(said.get(kind))
    }


def test_a_stage_is_one_name_in_six_places():
    assert tuple(NOTEBOOKS) == (*pages.STAGES, *pages.BESIDE)
    assert {path.stem for path in (ROOT / "params").iterdir()} - PROGRAMS == set(NOTEBOOKS)
    written = {path.stem for path in (ROOT / "notebooks").glob("*.ipynb")}
    assert written - OTHER_NOTEBOOKS == set(NOTEBOOKS)


@pytest.mark.parametrize("stage", NOTEBOOKS)
def test_what_a_stage_reads_and_writes_bears_its_name(stage):
    said = STAGES[stage]
    assert said["cmd"] == f"modelkeep run {stage}"
    own, *others = said["params"]
    assert own == {f"params/{stage}.yaml": None}
    assert all(lines for each in others for lines in each.values())  # of another, by name
    assert said["metrics"] == [{f"metrics/{stage}.json": {"cache": False}}]
    assert f"notebooks/{stage}.ipynb" in said["deps"]
    outs = named(said["outs"])
    for path in (f"reports/{stage}.html", f"reports/{stage}.ipynb", f"verdicts/{stage}.json"):
        assert path in outs
    assert {f"verdicts/{stage}.json": {"cache": False}} in said["outs"]


def test_what_is_asked_for_by_name_is_not_in_the_turn():
    turn = (ROOT / "dvc.yaml").read_text()
    assert [stage for stage in pages.BESIDE if re.search(rf"\b{stage}\b", turn)] == []
    for stage in pages.BESIDE:  # its paths are those of the root, like everybody's
        assert STAGES[stage]["wdir"] == ".."


@pytest.mark.parametrize("stage", STAGES)
def test_every_dep_is_there_or_made_and_no_page_is_one(stage):
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True).stdout
    for path in STAGES[stage]["deps"]:
        kept = (ROOT / path).exists() or any(line.startswith(path) for line in listed.split("\n"))
        assert kept or path in made_by_stages(), f"{stage}: {path} is neither there nor made"
        assert not path.startswith("reports/"), f"{stage}: {path} is a leaf"
    assert set(STAGES[stage]["deps"]) >= EVERYWHERE
    assert len(set(STAGES[stage]["deps"])) == len(STAGES[stage]["deps"])


@pytest.mark.parametrize("stage", STAGES)
def test_the_lib_deps_are_what_the_stage_runs(stage):
    said = {path for path in STAGES[stage]["deps"] if path.startswith(LIB)}
    advice = [f"add    - {path}" for path in sorted(needed(stage) - said)]
    advice += [f"remove - {path}" for path in sorted(said - needed(stage))]
    assert not advice, "\n".join([f"under stages.{stage}.deps of dvc.yaml:", *advice])


@pytest.mark.parametrize("stage", NOTEBOOKS)
def test_a_notebook_names_only_files_that_its_stage_declares(stage):
    strings = [n.value for n in ast.walk(code(stage)) if isinstance(n, ast.Constant)]
    place = re.compile(r"(data|models|metrics|verdicts|plots|params|reports)/\S+")
    paths = [text for text in strings if isinstance(text, str) and place.fullmatch(text)]
    declared = [*STAGES[stage]["deps"], *named(STAGES[stage]["outs"])]
    declared += named(STAGES[stage]["metrics"])
    for path in paths:
        assert any(path == d or path.startswith(f"{d}/") for d in declared), f"{stage}: {path}"
    assert paths


@pytest.mark.parametrize("stage", [*NOTEBOOKS, "rollout"])
def test_params_and_parameters_cell_say_the_same(stage):
    nb = notebooks.read(ROOT / "notebooks" / f"{stage}.ipynb")
    lines, problems = parameters.declared(nb, stage)
    assert problems == []
    for line in lines.values():  # else Run All computes with 1 where the pipeline has 1.0
        assert line.type != "float" or isinstance(line.default, float), f"write {line.name} as 1.0"
    given = workspace.params(ROOT, stage)
    assert list(given) == list(lines)
    for name, line in lines.items():  # the values are the user's; names, types and meanings are not
        assert parameters.fits(given[name], line.annotation), f"params/{stage}.yaml: {name}"
    text = (ROOT / "params" / f"{stage}.yaml").read_text()
    meanings = dict(re.findall(r"^(\w+):.*?\s# (.+)$", text, re.MULTILINE))
    assert meanings == {name: line.meaning for name, line in lines.items()}


@pytest.mark.parametrize("path", sorted((ROOT / "params").glob("*.yaml")), ids=lambda p: p.stem)
def test_what_tests_run_with_has_each_parameter_in_its_words(path):
    """tests/support/shipped holds the example's settings: those of params/ are the user's."""
    here, there = (
        {
            line.partition(":")[0]: line.partition(" #")[2].strip()
            for line in each.read_text().splitlines()
        }
        for each in (path, workspaces.SHIPPED / "params" / path.name)
    )
    assert here == there
