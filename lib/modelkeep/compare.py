"""Experiments side by side: what was different about them, and what came of it."""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

from modelkeep import files, report, workspace
from modelkeep.report import count, number, several

if TYPE_CHECKING:
    from dvc.repo import Repo

WORKSPACE = "workspace"  # the name of the files as they are now
FIGURED = ("evaluate", "monitor", "train")
ABSENT = "–"
REFERENCES = re.compile(r'( id="|href="#|url\(#)')
HEADING_OR_FIGURE = re.compile(r"<h2[^>]*>(.*?)</h2>|(<figure.*?</figure>)", re.DOTALL)


class UnknownExperiment(ValueError):
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


def page(root: Path, names: Sequence[str], out: Path) -> Path:
    """Write the page `out` (below `root`) on `names`: experiments, revisions, or `workspace`.

    The first is what the others are compared with; a single one is compared with the workspace.
    """
    names = list(dict.fromkeys(names if len(names) > 1 else (WORKSPACE, *names)))
    runs = [read(root, name) for name in names]
    title = f"{several(names)}, side by side"
    body = "\n".join([f"<h1>{escape(title)}</h1>", *_differences(runs), *_results(runs)])
    files.write_text(root / out, report.page(f"{title} · Modelkeep", body, wide=True, current=""))
    return root / out


def read(root: Path, name: str) -> Run:
    """What `name` has on record: params and inputs as dvc.lock says that they were run with."""
    text, origin = _files_now(root) if name == WORKSPACE else _files_of(root, name)
    lock = (workspace.value(text("dvc.lock") or "") or {}).get("stages", {})
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
            dep["path"]: dep.get("md5", ABSENT)[:10]
            for locked in lock.values()
            for dep in locked.get("deps", ())
            if dep["path"] not in made
        },
        metrics=_flat({s: _json(text(f"metrics/{s}.json")) for s in report.STAGES}),
        verdicts={s: _json(text(f"verdicts/{s}.json")) for s in report.STAGES},
        drawn={stage: figures(html or "") for stage, html in pages.items()},
        lost={stage: _lost(stage, made) for stage, html in pages.items() if html is None},
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
    from dvc.api import DVCFileSystem
    from dvc.repo import Repo

    with Repo(str(root)) as repo:
        commit, origin = _resolved(root, repo, name)
    stored = DVCFileSystem(str(root), rev=commit)

    def text(path: str) -> str | None:
        try:
            return stored.read_text(path, encoding="utf-8")
        except FileNotFoundError:  # also what is in neither cache nor remote
            return None

    return text, origin


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


def _differences(runs: Sequence[Run]) -> list[str]:
    params, inputs = ([getattr(run, kind) for run in runs] for kind in ("params", "inputs"))
    changed, moved = _apart(params)[0], _apart(inputs)[0]
    said = f"{count(len(changed), 'parameter')}" if changed else "no parameter"
    said += f" ({several(changed)})" if changed else ""
    code = f"in code or data ({several(moved)})" if moved else "not in code or data"
    origins = report.provenance({run.name: run.origin for run in runs}).markup
    return [
        f"<p>{escape(f'They differ in {said} and {code}.')}</p>{origins}",
        "<h2>What was different?</h2>",
        _table(runs, params, ("parameter", "parameters")),
        _table(runs, inputs, ("piece of code or data", "pieces of code and data")),
    ]


def _results(runs: Sequence[Run]) -> list[str]:
    metrics = [run.metrics for run in runs]
    first = escape(runs[0].name)
    parts = ["<h2>What came of it?</h2>", _table(runs, metrics, ("metric", "metrics"), True)]
    parts.append(f"<p>In brackets: the difference from <code>{first}</code>.</p>")
    parts.append("<h2>What did each stage conclude?</h2>")
    for stage in report.STAGES:
        parts.append(f"<h3>{stage}</h3>{_side(runs, [_box(r.verdicts[stage]) for r in runs])}")
    for stage in FIGURED:
        parts += _figures(runs, stage)
    return parts


def _apart(columns: Sequence[Mapping]) -> tuple[list[str], list[str]]:
    """Names whose values differ, and those whose are equal, each in order of appearance."""
    every = list(dict.fromkeys(name for column in columns for name in column))
    values = {name: [column.get(name, ABSENT) for column in columns] for name in every}
    differ = [name for name in every if any(v != values[name][0] for v in values[name])]
    return differ, [name for name in every if name not in differ]


def _table(
    runs: Sequence[Run], columns: Sequence[Mapping], nouns: tuple[str, str], measured: bool = False
) -> str:
    differ, equal = _apart(columns)
    told = f"<p>No {nouns[0]} differs.</p>"
    if differ:
        told = _rows(runs, columns, nouns[0], differ, measured, "" if measured else "differs")
    if equal:
        many = f"{len(equal):,} {nouns[len(equal) > 1]} the same"
        rows = _rows(runs, columns, nouns[0], equal, False)
        told += f'<details class="code"><summary>{many}</summary>{rows}</details>'
    return told


def _rows(
    runs: Sequence[Run],
    columns: Sequence[Mapping],
    noun: str,
    names: Sequence[str],
    measured: bool,
    style: str = "",
) -> str:
    head = "".join(f"<th>{escape(text)}</th>" for text in (noun, *(run.name for run in runs)))
    body = ""
    for name in names:
        cells = _cells([column.get(name, ABSENT) for column in columns], measured)
        mark = "/" if "/" in name else "."
        breakable = escape(name).replace(mark, f"{mark}<wbr>")
        body += f'<tr class="{style}"><th>{breakable}</th>{cells}</tr>'
    return f'<div class="tablebox"><table><thead><tr>{head}</tr></thead>{body}</table></div>'


def _cells(values: Sequence[object], measured: bool) -> str:
    shown = [value if value == ABSENT else number(value) for value in values]
    for place, value in enumerate(values):
        if measured and place and _are_numbers(value, values[0]):
            shown[place] += f" ({_difference(value - values[0])})"
    return "".join(f"<td>{escape(text)}</td>" for text in shown)


def _are_numbers(*values: object) -> bool:
    return all(isinstance(v, int | float) and not isinstance(v, bool) for v in values)


def _difference(by: float) -> str:
    size = number(abs(by)) if isinstance(by, int) or abs(by) >= 100 else f"{abs(by):.2g}"
    return ("+" if by > 0 else "−") + size if by else "same"


def _box(told: Mapping) -> str:
    return report.verdict(told["state"], told["sentence"]).markup if told else "<p>not run</p>"


def _side(runs: Sequence[Run], told: Sequence[str]) -> str:
    boxes = (
        f"<div><p><code>{escape(run.name)}</code></p>{content}</div>"
        for run, content in zip(runs, told, strict=True)
    )
    return f'<div class="side">{"".join(boxes)}</div>'


def _figures(runs: Sequence[Run], stage: str) -> list[str]:
    parts = [f"<h2>The figures of {stage}</h2>"]
    parts += [f"<p>{escape(f'{r.name}: {r.lost[stage]}')}</p>" for r in runs if stage in r.lost]
    drawn, last = [run.drawn[stage] for run in runs], None
    parts.append("<p>Each figure has its own scale.</p>" if any(drawn) else "")
    for row, key in enumerate(dict.fromkeys(key for page in drawn for key in page)):
        told = [
            _own_ids(page.get(key, f"<p>{ABSENT}</p>"), f"{stage}-{row}-{column}-")
            for column, page in enumerate(drawn)
        ]
        parts.append((f"<h3>{key[0]}</h3>" if key[0] != last else "") + _side(runs, told))
        last = key[0]
    return parts


def _own_ids(figure: str, prefix: str) -> str:
    # Matplotlib names parts alike in every drawing, and a clip path is found by its name
    return REFERENCES.sub(rf"\g<1>{prefix}", figure)
