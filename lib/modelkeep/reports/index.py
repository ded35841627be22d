"""The front page: where the model stands, its key figures, and links to every page there is."""

import csv
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from math import isfinite
from pathlib import Path

from modelkeep.core import files, markup, pages, verdicts, workspace
from modelkeep.core.markup import count, number

PAGE = "reports/index.html"
EARLIER = "This is of an earlier run: what it is made of has changed or failed since; `dvc repro`."
OTHERS = {  # headings, and the pages below reports/ that stand under each
    "Failed runs": "failed/*.html",
    "Model cards": "card-*.html",
    "Comparisons": "compare*.html",
    "Backtest": "backtest*.html",
    "Rollouts": "rollout*.html",
    "Updates": "update*.html",
    "The simulated year": "year.html",
    "Traces": "trace*.html",
    "Investigations of alerts": "investigations/*.html",
}


@dataclass(frozen=True)
class Card:
    """A key figure: name, value, a small trend (SVG or nothing) and what to compare it with."""

    name: str
    value: str
    trend: str
    note: str


def write(root: Path) -> Path:
    """Make `reports/index.html` from what the stages have left, and return its path."""
    files.write_text(root / PAGE, index(root))
    return root / PAGE


def index(root: Path) -> str:
    """The front page of a workspace, whatever of its stages has run."""
    conclusions, old = verdicts.read(root), outdated(root)
    body = pages.template("front").render(
        name=escape(_name(root)),
        conclusion=_conclusion(root, conclusions),
        facts=markup.provenance(_facts(root, conclusions)).markup,
        cards=_cards(root, conclusions),
        stages=[_stage(root, s, conclusions.get(s), s in old) for s in pages.STAGES],
        others=_others(root),
    )
    missing = tuple(s for s in pages.STAGES if not (root / f"reports/{s}.html").exists())
    return pages.page(f"{_name(root)} · Modelkeep", body, missing=missing)


def failed(root: Path) -> list[str]:
    """The stages whose last run failed."""
    return [s for s in pages.STAGES if (root / f"reports/failed/{s}.html").exists()]


def outdated(root: Path) -> list[str]:
    """The stages whose conclusion is of an earlier run: what they take was made anew since then,
    or failed.
    """
    locks, old = workspace.locked(root), failed(root)
    made = {
        out["path"]: (stage, out.get("md5"))
        for stage, lock in locks.items()
        for out in lock.get("outs", ())
    }
    for stage in (stage for stage in pages.STAGES if stage in locks):
        for dep in locks[stage].get("deps", ()):
            maker, md5 = made.get(dep["path"], ("", None))
            if maker and (maker in old or md5 != dep.get("md5")):
                old.append(stage)
                break
    return [stage for stage in pages.STAGES if stage in {*old} - {*failed(root)}]


def sparkline(values: Sequence[float], level: float) -> str:
    """A line without axes, as small as a word: the course of a key figure, its level dashed."""
    known = [value for value in values if isfinite(value)]
    if len(known) < 2:
        return ""
    low, high = min(*known, level), max(*known, level)
    step, scale = 114 / (len(known) - 1), 24 / (high - low or 1.0)
    heights = [27 - scale * (value - low) for value in (*known, level)]
    points = " ".join(f"{3 + step * i:.1f},{y:.1f}" for i, y in enumerate(heights[:-1]))
    return (
        f'<svg class="spark" viewBox="0 0 120 30" aria-hidden="true">'
        f'<path d="M3 {heights[-1]:.1f}H117" class="level"/><polyline points="{points}"/>'
        f'<circle cx="117" cy="{heights[-2]:.1f}" r="3"/></svg>'
    )


def _name(root: Path) -> str:
    path = root / "params" / "serve.yaml"
    return (
        str(workspace.params(root, "serve").get("name", root.name)) if path.exists() else root.name
    )


def _conclusion(root: Path, conclusions: Mapping[str, Mapping]) -> str:
    """What stands on top: a failure, else the monitor's conclusion, else the last stage's."""
    if broken := failed(root):
        sentence = f"The last run of {markup.several(broken)} failed: see below."
        return markup.verdict("failed", sentence).markup
    last = next(
        (conclusions[stage] for stage in reversed(pages.STAGES) if stage in conclusions), None
    )
    if last is None:
        return markup.verdict(
            "not run", "No stage has run yet: `make run` runs all of them."
        ).markup
    stage = last.get("stage", "")
    reasons = [EARLIER] if stage in outdated(root) else []
    return markup.verdict(last["state"], last["sentence"], reasons).markup


def _facts(root: Path, conclusions: Mapping[str, Mapping]) -> dict[str, object]:
    """The few facts under the conclusion: champion, candidate, dates."""
    champion = _json(root / "models/champion.json").get("version")
    facts: dict[str, object] = {"champion": champion or "none yet"}
    manifest = root / "models/candidate/manifest.json"
    if manifest.exists():
        gate = conclusions.get("evaluate", {}).get("state")
        state = f", {gate.replace('_', ' ')} at the gate" if gate else ""
        facts["candidate"] = f"{files.sha256(manifest)[:10]}{state}"
    if (root / "params/prepare.yaml").exists():
        known = workspace.params(root, "prepare").get("as_of")
        facts["history known at"] = known or "the end of the table"
    windows = _course(root)
    if windows:
        facts["monitored windows"] = f"{windows[0]['window']} to {windows[-1]['window']}"
    return facts


def _cards(root: Path, conclusions: Mapping[str, Mapping]) -> list[Card]:
    """Each metric of the task: newest realised, expected, and its course; then rows and labels."""
    pooled, tested = (_json(root / f"metrics/{s}.json") for s in ("train", "evaluate"))
    newest, course = _json(root / "metrics/monitor.json"), _course(root)
    seen = conclusions.get("monitor", {}).get("evidence", {})
    cards = []
    for name in (key for key in pooled if not key.startswith("expected")):
        text = name.replace("_", " ").replace("auc", "AUC")
        value, usual = newest.get(f"newest_{name}"), seen.get("expected", {}).get(name)
        line = sparkline(
            [_number(row.get(f"{name}_realised")) for row in course],
            pooled[name] if usual is None else usual,
        )
        if value is None:
            note = _expectations(None, None, tested.get(f"test_{name}"))
            cards.append(Card(f"{text}, expected", number(pooled[name]), line, note))
        else:
            waiting = seen.get("newest_waiting")
            note = _expectations(usual, pooled[name], tested.get(f"test_{name}"))
            note += f"; {count(waiting, 'label')} of this window still to come" if waiting else ""
            cards.append(Card(f"{text}, newest judged window", number(value), line, note))
    rows, collected = _json(root / "metrics/prepare.json"), _json(root / "metrics/collect.json")
    if rows.get("train"):
        note = f"and {number(rows.get('test'))} to test on, "
        note += f"{number(rows.get('quarantined'))} quarantined"
        cards.append(Card("rows to learn from", number(rows["train"]), "", note))
    if collected.get("rows"):
        share = collected["labelled"] / collected["rows"]
        note = f"{share:.0%} of them with a label"
        cards.append(Card("predictions collected", number(collected["rows"]), "", note))
    return cards


def _expectations(window: float | None, pooled: float | None, tested: float | None) -> str:
    """The expected values of a metric, each with the rows that it is of."""
    values = {"in a window": window, "on all rows of cross-validation": pooled}
    values |= {"on the test rows": tested}
    parts = [f"{number(value)} {rows}" for rows, value in values.items() if value is not None]
    return f"expected {', '.join(parts)}" if parts and pooled is not None else ", ".join(parts)


def _stage(root: Path, stage: str, verdict: Mapping | None, old: bool) -> str:
    """A stage's name, linked where its page is there, and its conclusion; `old`: of an earlier
    run.
    """
    there = (root / f"reports/{stage}.html").exists()
    name = f'<a href="{stage}.html">{stage}</a>' if there else stage
    if verdict is None:
        box = markup.verdict("not run", "This stage has not run yet.")
    else:
        box = markup.verdict(verdict["state"], verdict["sentence"], [EARLIER] if old else [])
    return f"<h3>{name}</h3>{box.markup}"


def _others(root: Path) -> dict[str, list[str]]:
    """Links to the pages that are no stage's, under their headings."""
    listed = {}
    for heading, pattern in OTHERS.items():
        paths = sorted((root / "reports").glob(pattern))
        links = [(path.relative_to(root / "reports").as_posix(), path.stem) for path in paths]
        if links:
            listed[heading] = [f'<a href="{escape(a)}">{escape(name)}</a>' for a, name in links]
    return listed


def _course(root: Path) -> list[dict[str, str]]:
    path = root / "plots/quality.csv"
    return list(csv.DictReader(path.read_text().splitlines())) if path.exists() else []


def _number(text: str | None) -> float:
    return float(text) if text else float("nan")


def _json(path: Path) -> dict:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):  # a page of what is there; the stage itself says what is wrong
        return {}
    return value if isinstance(value, dict) else {}
