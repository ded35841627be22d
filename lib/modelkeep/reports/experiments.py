"""Experiments: what a revision, or the workspace as it is, has on record."""

import io
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from modelkeep.core import pages, workspace
from modelkeep.core.errors import ModelkeepError
from modelkeep.core.markup import count, number, several
from modelkeep.data import schema as schemas
from modelkeep.data import splits
from modelkeep.data.schema import Schema

if TYPE_CHECKING:
    from dvc.repo import Repo


Content = Callable[[str], bytes | None]  # a path below the root to its bytes, None if not there
WORKSPACE = "workspace"  # the name of the files as they are now
LOCKS = ("dvc.lock", "backtest/dvc.lock")
STAGES = (*pages.STAGES, *pages.BESIDE)
CANDIDATE = "models/candidate"
OUT_OF_FOLD = ("out_of_fold.parquet", "promise.parquet")  # the second: until format 3
ABOUT = ("Experiment", "rev", "typ", "Created", "parent", "State", "Executor")
ABSENT, WIDTH = "–", 160
PLOTS = ("backtest", "calibration", "quality")


class UnknownExperiment(ModelkeepError, ValueError):
    """A name is not an experiment or a revision that has results."""


@dataclass(frozen=True)
class Run:
    """What one cycle left on record: `inputs` are its code and data by hash, `plots` the CSV files
    of plots/ by name, `predictions` the out-of-fold rows of its candidate, in the library's form,
    with their schema; None with `lost` saying why where they are not to be had."""

    name: str
    origin: str
    params: dict[str, object]
    inputs: dict[str, object]
    metrics: dict[str, object]
    verdicts: dict[str, dict]
    plots: dict[str, str]
    schema: Schema | None = None
    predictions: pd.DataFrame | None = None
    lost: str = ""
    manifest: dict = field(default_factory=dict)  # of its candidate


def read(root: Path, name: str) -> Run:
    """What `name` has on record: params and inputs as dvc.lock says that they were run with."""
    content, origin = _files_now(root) if name == WORKSPACE else _files_of(root, name)

    def text(path: str) -> str | None:
        raw = content(path)
        return None if raw is None else raw.decode("utf-8")

    locks = [workspace.value(text(path) or "") or {} for path in LOCKS]
    lock = {stage: locked for each in locks for stage, locked in each.get("stages", {}).items()}
    if not lock:
        raise UnknownExperiment(f"`{name}` has no results (no dvc.lock): run `dvc repro` in it")
    made = {out["path"] for stage in lock.values() for out in stage.get("outs", ())}
    schema, predictions, lost = _predictions(content, name)
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
        plots={each: text(f"plots/{each}.csv") or "" for each in PLOTS},
        schema=schema,
        predictions=predictions,
        lost=lost,
        manifest=_json(text(f"{CANDIDATE}/manifest.json")),
    )


def listed(root: Path) -> str:
    """A line an experiment on HEAD: the parameters and metrics in which they differ, WIDTH wide.

    `dvc exp show` has a column for every parameter, metric and dependency there is.
    """
    from dvc.api import exp_show

    rows = exp_show(str(root))
    every = list(dict.fromkeys(key for row in rows for key in row))
    known = [key for key in every if key not in ABOUT and not _is_file(root, key)]
    differ = [key for key in known if len({str(row.get(key)) for row in rows}) > 1]
    measured = set(_flat({s: _file(root / f"metrics/{s}.json") for s in STAGES}))
    ends = {name.partition(".")[2] for name in measured}
    differ.sort(key=lambda key: key.startswith("metrics/") or key in ends)  # parameters first
    names = [row.get("Experiment") or row["rev"] for row in rows]
    if not differ:
        run = "`dvc exp run -n NAME -S 'params/train.yaml:max_depth=8'`"
        return (
            f"{several(names)} agree in all parameters and metrics, so none is better. "
            f"{run} makes an experiment that differs."
        )
    columns = {"experiment": names}
    for key in differ:
        name = re.sub(r"^(?:metrics|params)/(\w+)\.\w+:", r"\1.", key)
        columns[name] = [shown(row.get(key)) for row in rows]
    return _table(columns, len(rows))


def _table(columns: Mapping[str, Sequence[str]], rows: int) -> str:
    """Columns side by side, as many as there is room for."""
    widths = {name: max(map(len, (name, *cells))) + 2 for name, cells in columns.items()}
    ends = accumulate(widths.values())
    fit = [name for name, end in zip(columns, ends, strict=True) if end <= WIDTH]
    lines = ["".join(name.ljust(widths[name]) for name in fit).rstrip()]
    for row in range(rows):
        lines.append("".join(columns[name][row].ljust(widths[name]) for name in fit).rstrip())
    if left := len(columns) - len(fit):
        lines.append(f"{count(left, 'column')} more: `dvc exp show --only-changed`")
    return "\n".join(lines)


def shown(value: object) -> str:
    """A value as a table shows it: an absent one as a dash, empty text as ''."""
    if value is None or value == "None":  # as dvc.api writes it
        return ABSENT
    return number(value) if value != "" else "''"


def _is_file(root: Path, key: str) -> bool:
    """Whether a column of DVC's is the hash of a dependency."""
    return ("/" in key and ":" not in key) or (root / key).exists()


def _predictions(content: Content, name: str) -> tuple[Schema | None, pd.DataFrame | None, str]:
    """The schema and the out-of-fold predictions of a candidate, or why there are none."""
    stated = content(f"{CANDIDATE}/schema.json")
    rows = next((c for n in OUT_OF_FOLD if (c := content(f"{CANDIDATE}/{n}"))), None)
    if stated is None or rows is None:
        return (
            None,
            None,
            f"the candidate of {name} is not in the cache: `dvc pull` it, or run it again",
        )
    return schemas.from_json(stated.decode()), splits.load(io.BytesIO(rows)), ""


def _files_now(root: Path) -> tuple[Content, str]:
    def content(path: str) -> bytes | None:
        return (root / path).read_bytes() if (root / path).is_file() else None

    return content, "the files as they are now"


def _files_of(root: Path, name: str) -> tuple[Content, str]:
    from dvc.repo import Repo

    with Repo(str(root)) as repo:
        commit, origin = _resolved(root, repo, name)
    return contents(root, commit), origin


def contents(root: Path, commit: str) -> Content:
    """What reads a file as it was at a commit; None for one that neither Git, cache nor remote
    has."""
    from dvc.api import DVCFileSystem

    stored = DVCFileSystem(str(root), rev=commit)

    def content(path: str) -> bytes | None:
        try:
            return stored.read_bytes(path)
        except FileNotFoundError:
            return None

    return content


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


def _unknown(root: Path, repo: "Repo", name: str, message: str) -> UnknownExperiment:
    from dvc.repo.experiments.utils import exp_refs

    if "ambiguous" in message.lower():
        return UnknownExperiment(f"{message} (`dvc exp list --all` shows them; give a commit)")
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


def _file(path: Path) -> dict:
    return _json(path.read_text(encoding="utf-8")) if path.is_file() else {}


def _json(text: str | None) -> dict:
    return json.loads(text) if text else {}


def _flat(value: Mapping, where: str = "") -> dict[str, object]:
    flat = {}
    for key, item in value.items():
        nested = _flat(item, f"{where}{key}.") if isinstance(item, Mapping) else None
        flat |= {f"{where}{key}": item} if nested is None else nested
    return flat
