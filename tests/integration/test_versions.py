"""What Git and DVC promise, kept by one real workspace: the slowest tests of all, so each turn is shared."""

import json
import re
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import psutil
import pytest

import workspaces
from modelkeep.core import notebooks, pages
from workspaces import RESULTS, run

PATIENCE_SECONDS = 300
INDEX = "reports/index.html"  # links what there is, so it is no output of a stage
CLEAN = "Data and pipelines are up to date.\n"
# notebooks that a person opens; the stages' own differ from a run only in the line that reads params
BY_HAND = ["explore.ipynb", "evaluate.ipynb"]
ALL = ["."]


@pytest.fixture(scope="module")
def clones(tmp_path_factory):
    """Two clones in two folders, each of which made its own turn, at the same time."""
    root = workspaces.build(tmp_path_factory.mktemp("one") / "clone")
    store = str(tmp_path_factory.mktemp("store"))
    run(root, "dvc", "remote", "add", "-q", "-d", "store", store)
    workspaces.commit(root, "A remote")
    run(root, "dvc", "push", "-q")
    second = workspaces.clone(root, tmp_path_factory.mktemp("two") / "a-longer-name" / "second")
    with ThreadPoolExecutor() as pool:
        list(pool.map(lambda folder: run(folder, "dvc", "repro", "--pull"), (root, second)))
    workspaces.commit(root, "Results")
    yield root, second
    for process in living_in(root):
        process.kill()


@pytest.fixture(scope="module")
def root(clones):
    """The first clone, where the results are committed."""
    return clones[0]


@pytest.fixture(scope="module")
def first(root):
    """The bytes of its turn."""
    return results(root)


def results(root):
    """The bytes of what the stages make, by name."""
    found = workspaces.content(root, *RESULTS)
    return {name: content for name, content in found.items() if name != INDEX}


@pytest.fixture(scope="module")
def sooner(root, first):
    """What `dvc exp run` printed and made; the workspace is then brought back."""
    told = run(root, "dvc", "exp", "run", "-n", "sooner", "-S", "params/collect.yaml:days=14")
    made = results(root)
    restore(root)
    return told, made


@pytest.fixture(scope="module")
def queue(root, sooner):
    """Two experiments, of which the first must fail, begun in the background."""
    for name, value in {"bold": "model=boosted", "shallow": "max_depth=3"}.items():
        run(root, "dvc", "exp", "run", "--queue", "-n", name, "-S", f"params/train.yaml:{value}")
    run(root, "sh", "-c", "dvc queue start > ../queue.log 2>&1")  # a pipe would wait for the worker


@pytest.fixture(scope="module")
def queued(root, queue):
    """What `dvc queue status` says when all is done."""
    patience = time.monotonic() + PATIENCE_SECONDS
    while not references(root, "shallow"):
        assert time.monotonic() < patience, run(root, "dvc", "queue", "status")
        time.sleep(0.5)
    while "Running" in (told := run(root, "dvc", "queue", "status")):
        assert time.monotonic() < patience, told
    return told


def restore(root):
    run(root, "git", "checkout", "-q", ".")
    run(root, "dvc", "checkout", "-q")


def references(root, name):
    """The full names of the experiments of that name."""
    listed = run(root, "git", "for-each-ref", "--format=%(refname)", "refs/exps").split()
    return [ref for ref in listed if ref.startswith("refs/exps/") and ref.endswith(f"/{name}")]


def living_in(root):
    """Our own processes that are still at work in this workspace."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.cwd().startswith(str(root)):
                found.append(process)
        except psutil.Error:
            continue
    return found


def test_a_second_repro_does_nothing(root, first):
    told = run(root, "dvc", "repro")
    assert told.endswith(CLEAN)
    assert "Running stage" not in told
    assert results(root) == first
    assert run(root, "git", "status", "--porcelain") == ""


def test_a_table_that_changed_is_prepared_anew(root, first):
    table = root / workspaces.TABLE
    kept = table.read_bytes()
    table.write_bytes(kept + b" ")
    told = json.loads(run(root, "dvc", "status", "--json"))
    assert told["prepare"] == [{"changed deps": {workspaces.TABLE: "modified"}}]
    table.write_bytes(kept)
    assert run(root, "dvc", "status") == CLEAN


def test_saving_a_run_notebook_changes_nothing_for_dvc(root, first):
    class Contents:
        root_dir = str(root)

    before = workspaces.content(root, "notebooks")
    for stage in pages.STAGES:
        path = f"notebooks/{stage}.ipynb"
        executed = notebooks.read(root / "reports" / f"{stage}.ipynb")
        cells = [
            c for c in executed["cells"] if c["metadata"].get("tags") != ["injected-parameters"]
        ]
        for cell, source in zip(cells, notebooks.read(root / path)["cells"], strict=True):
            cell |= {"id": source["id"]}
        model = {"type": "notebook", "content": {**executed, "cells": cells}}
        notebooks.on_save(model=model, path=path, contents_manager=Contents())
        (root / path).write_text(notebooks.text(model["content"]))
    assert workspaces.content(root, "notebooks") == before
    assert run(root, "dvc", "status") == CLEAN


def test_two_folders_make_the_same_bytes(clones, first):
    made = results(clones[1])
    assert sorted(made) == sorted(first)
    assert [path for path in made if made[path] != first[path]] == []


def test_pull_brings_the_bytes_that_were_pushed(root, first, tmp_path):
    run(root, "dvc", "push", "-q")
    third = workspaces.clone(root, tmp_path / "third")
    run(third, "dvc", "pull", "-q")
    assert results(third) == first
    assert run(third, "dvc", "status") == CLEAN


def test_an_experiment_runs_its_stage_and_those_below(sooner, first):
    told, made = sooner
    above = ["prepare", "train", "evaluate"]
    assert re.findall(r"Stage '(\w+)' didn't change", told) == above
    assert re.findall(r"Running stage '(\w+)'", told) == ["collect", "monitor"]
    changed = {path for path in made if made[path] != first[path]}
    assert {"metrics/collect.json", "reports/monitor.html"} <= changed
    assert not any(re.match(r"models|\w+/(prepare|train|evaluate)\b", path) for path in changed)


def test_checkout_brings_back_the_bytes_of_any_revision(root, first, sooner):
    commit = run(root, "git", "rev-parse", *references(root, "sooner")).strip()
    for revision, bytes_ in ((commit, sooner[1]), ("main", first)):
        run(root, "git", "checkout", "-q", revision)
        run(root, "dvc", "checkout", "-q")
        assert results(root) == bytes_
        assert run(root, "dvc", "status") == CLEAN


@pytest.mark.parametrize("names", [BY_HAND, pytest.param(ALL, marks=pytest.mark.slow)])
def test_run_all_works_and_says_the_same_as_the_pipeline(clones, first, queue, names):
    second = clones[1]  # meanwhile the other one works off its queue
    words = ["env", "OMP_NUM_THREADS=2", sys.executable, "-m", "pytest", "--nbval-lax"]
    words += ["-p", "no:cacheprovider", "-o", "filterwarnings=default"]  # nbval leaves files open
    told = run(second / "notebooks", *words, *names)
    assert re.search(r"\d+ passed", told)
    assert run(second, "git", "status", "--porcelain", "notebooks") == ""
    assert results(second) == first
    assert "rollout.ipynb is left out: no rollout is on record" in told
    assert "backtest.ipynb is left out" in told


def test_a_queue_is_worked_off_and_shown(root, sooner, queued):
    shown = json.loads(run(root, "dvc", "exp", "show", "--json"))
    found = {e["name"]: e["revs"][0] for base in shown for e in base["experiments"] or ()}
    assert set(found) >= {"shallow", "sooner"}
    metrics = {n: found[n]["data"]["metrics"] for n in ("shallow", "sooner")}
    windows = {n: m["metrics/monitor.json"]["data"]["windows"] for n, m in metrics.items()}
    assert windows == {"shallow": 4, "sooner": 2}
    quality = {n: m["metrics/train.json"]["data"]["log_loss"] for n, m in metrics.items()}
    assert quality["sooner"] != quality["shallow"]


def test_a_failed_experiment_leaves_its_page(root, first, queued):
    assert re.search(r"bold .*Failed", queued)
    page = (root / "reports" / "failed" / "train-bold.html").read_text()
    assert "ModelError" in page
    assert "boosted" in page
    told = run(root, "modelkeep", "compare", "bold", fails=True)
    assert "experiment `bold` failed and has no results; see reports/failed/train-bold" in told


def test_nothing_in_the_workspace_was_touched_by_the_queue(root, first, queued):
    assert run(root, "git", "status", "--porcelain") == ""
    left = results(root)
    assert {path: b for path, b in left.items() if "/failed/" not in path} == first


def test_experiments_are_compared_side_by_side(root, queued):
    run(root, "modelkeep", "compare", "main", "shallow", "sooner")
    page = (root / "reports" / "compare.html").read_text()
    assert "<h1>main, shallow and sooner, side by side</h1>" in page
    assert "2 parameters (train.max_depth and collect.days); code and data are the same" in page
    top = page[: page.index("<h2")]
    assert "sooner is as good as main: log loss +0" in top  # it differs in days of monitor
    assert re.search(r"shallow (is|cannot be distinguished from) .*: log loss [+−]0.\d+, ", top)
    assert len(re.findall(r"<figure", page)) == 3
    assert "not in the cache" not in page


def test_metrics_and_plots_of_two_revisions(root, queued):
    told = run(root, "dvc", "metrics", "diff", "--json", "main", *references(root, "shallow"))
    diff = json.loads(told)["metrics/train.json"]["log_loss"]
    assert diff["old"] != diff["new"]
    run(root, "dvc", "plots", "show", "-o", "dvc_plots")
    assert run(root, "git", "status", "--porcelain") == ""
    html = (root / "dvc_plots" / "index.html").read_text()
    assert "Calibration on the test rows" in html
    assert "Log loss by window" in html


def test_a_misspelt_parameter_stops_before_a_kernel_starts(root, first):
    told = run(root, "dvc", "exp", "run", "-S", "params/monitor.yaml:permutation=5", fails=True)
    assert "Key 'permutation' is not in struct" in told  # DVC's own words
    told = run(root, "dvc", "exp", "run", "-S", "params/monitor.yaml:+permutation=5", fails=True)
    assert "did you mean `permutations`?" in told
    assert "Monitor:" not in told  # the first heading, which is said as the first cell begins
    assert not (root / "reports" / "failed" / "monitor.html").exists()
    restore(root)
