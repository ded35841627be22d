"""Experiments: what a revision, or the workspace as it is, has on record."""

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING

from modelkeep.core import pages, workspace
from modelkeep.core.errors import ModelkeepError
from modelkeep.core.markup import several

if TYPE_CHECKING:
    from dvc.repo import Repo


WORKSPACE = "workspace"  # the name of the files as they are now
LOCKS = ("dvc.lock", "backtest/dvc.lock")
STAGES = (*pages.STAGES, *pages.BESIDE)
FIGURED = ("evaluate", "monitor", "train")
HEADING_OR_FIGURE = re.compile(r"<h2[^>]*>(.*?)</h2>|(<figure.*?</figure>)", re.DOTALL)


class UnknownExperiment(ModelkeepError, ValueError):
    """A name is not an experiment or a revision that has results."""


@dataclass(frozen=True)
class Run:
    """What one turn left on record: `inputs` are its code and data by hash, `drawn` the figures by
    stage (see `figures`), `lost` says by stage why there are none."""

    name: str
    origin: str
    params: dict[str, object]
    inputs: dict[str, object]
    metrics: dict[str, object]
    verdicts: dict[str, dict]
    drawn: dict[str, dict[tuple[str, int], str]]
    lost: dict[str, str]
    backtest: str = ""  # quality by week under its policy


def read(root: Path, name: str) -> Run:
    """What `name` has on record: params and inputs as dvc.lock says that they were run with."""
    text, origin = _files_now(root) if name == WORKSPACE else _files_of(root, name)
    locks = [workspace.value(text(path) or "") or {} for path in LOCKS]
    lock = {stage: locked for each in locks for stage, locked in each.get("stages", {}).items()}
    if not lock:
        raise UnknownExperiment(f"`{name}` has no results (no dvc.lock): run `dvc repro` in it")
    made = {out["path"] for stage in lock.values() for out in stage.get("outs", ())}
    pages = {stage: text(f"reports/{stage}.html") for stage in FIGURED}
    return Run(
        name,
        origin,
        params={
            f"{stage}.{key}": value
            for stage, locked in lock.items()
            for given in locked.get("params", {}).values()
            for key, value in given.items()
        },
        inputs={
            dep["path"]: dep.get("md5", "")[: workspace.SHORT]
            for locked in lock.values()
            for dep in locked.get("deps", ())
            if dep["path"] not in made
        },
        metrics=_flat({s: _json(text(f"metrics/{s}.json")) for s in STAGES}),
        verdicts={s: _json(text(f"verdicts/{s}.json")) for s in STAGES},
        drawn={stage: figures(html or "") for stage, html in pages.items()},
        lost={stage: _lost(stage, made) for stage, html in pages.items() if html is None},
        backtest=text("plots/backtest.csv") or "",
    )


def figures(html: str) -> dict[tuple[str, int], str]:
    """The figures of a page by the heading that they stand under and their place there."""
    found, heading = {}, ""
    for title, figure in HEADING_OR_FIGURE.findall(html):
        if figure:
            place = sum(under == heading for under, _ in found)
            found[heading, place] = figure
        else:
            heading = re.sub(r"<[^>]*>", "", title).strip()
    return found


def _files_now(root: Path) -> tuple[Callable[[str], str | None], str]:
    def text(path: str) -> str | None:
        return (root / path).read_text(encoding="utf-8") if (root / path).is_file() else None

    return text, "the files as they are now"


def _files_of(root: Path, name: str) -> tuple[Callable[[str], str | None], str]:
    from dvc.repo import Repo

    with Repo(str(root)) as repo:
        commit, origin = _resolved(root, repo, name)
    return texts(root, commit), origin


def texts(root: Path, commit: str) -> Callable[[str], str | None]:
    """What reads a file's text as it was at a commit; None for one that neither Git, cache nor
    remote has."""
    from dvc.api import DVCFileSystem

    stored = DVCFileSystem(str(root), rev=commit)

    def text(path: str) -> str | None:
        try:
            return stored.read_text(path, encoding="utf-8")
        except FileNotFoundError:
            return None

    return text


def _resolved(root: Path, repo: "Repo", name: str) -> tuple[str, str]:
    from dvc.exceptions import DvcException
    from dvc.repo.experiments.utils import exp_refs_by_rev
    from dvc.scm import resolve_rev

    try:
        commit = resolve_rev(repo.scm, name)
    except DvcException as error:
        raise _unknown(root, repo, name, str(error)) from None
    short = f"commit {commit[: workspace.SHORT]}"
    for ref in exp_refs_by_rev(repo.scm, commit):  # also of experiments that build on it
        if repo.scm.get_ref(str(ref)) == commit:
            short += f", an experiment on {ref.baseline_sha[: workspace.SHORT]}"
    return commit, short


def _unknown(root: Path, repo: "Repo", name: str, said: str) -> UnknownExperiment:
    from dvc.repo.experiments.utils import exp_refs

    if "ambiguous" in said.lower():
        return UnknownExperiment(f"{said} (`dvc exp list --all` shows them; give a commit)")
    failed = sorted((root / "reports" / "failed").glob(f"*-{name}.html"))
    if failed:
        where = failed[0].relative_to(root).as_posix()
        return UnknownExperiment(f"experiment `{name}` failed and has no results; see {where}")
    known = sorted({ref.name for ref in exp_refs(repo.scm)})
    known += [*repo.scm.list_branches(), *repo.scm.list_tags(), WORKSPACE]
    near = get_close_matches(name, known, n=3, cutoff=0.5)
    hint = f"did you mean {several([f'`{x}`' for x in near])}?" if near else ""
    hint = hint or f"there are {several([f'`{x}`' for x in known], 8)}"
    return UnknownExperiment(f"`{name}` is not an experiment or a revision; {hint}")


def _lost(stage: str, made: set[str]) -> str:
    if (path := f"reports/{stage}.html") in made:
        return f"{path} is not in the cache: `dvc pull` it, or run it again."
    return f"{path} was not made."


def _json(text: str | None) -> dict:
    return json.loads(text) if text else {}


def _flat(value: Mapping, where: str = "") -> dict[str, object]:
    found = {}
    for key, item in value.items():
        nested = _flat(item, f"{where}{key}.") if isinstance(item, Mapping) else None
        found |= {f"{where}{key}": item} if nested is None else nested
    return found
