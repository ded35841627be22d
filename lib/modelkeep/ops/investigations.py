"""Investigations: one report for each alert, kept as files, made in a workspace of its own."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime, timedelta
from html import escape
from pathlib import Path

from modelkeep.core import files, markup, pages
from modelkeep.registry import store

FOLDER = "reports/investigations"
ID = re.compile(r"[0-9a-f]{16}")
WAITING, RUNNING, DONE, FAILED = "waiting", "running", "done", "failed"
TRIES = 3  # a report in whose making the process died so often is given up
SUMMARIES = 20  # sentences of the alert that are kept, each so long at most
LONG = 300
COPIED = (
    ".gitignore",
    "dvc.yaml",
    "requirements.lock",
    "notebooks",
    "params",
    "monitoring",
    "lib/modelkeep",
)


@dataclass(frozen=True)
class Case:
    """What is known of one report; `began` is when the alert did (UTC, ISO 8601)."""

    id: str
    alert: str
    version: str
    sha256: str
    began: str
    requested: float
    summaries: tuple[str, ...] = ()
    state: str = WAITING
    tries: int = 0
    days: int = 0
    sentence: str = ""

    @property
    def name(self) -> str:
        """The model's short name, as the log has it."""
        return self.sha256[:10]

    @property
    def when(self) -> str:
        """When the alert began, to the second."""
        return self.began[:19].replace("T", " ")

    @property
    def window(self) -> str:
        """From when to when predictions are examined, in words."""
        end = datetime.fromisoformat(self.began)
        start = end - timedelta(days=self.days)
        return f"{start:%Y-%m-%d %H:%M:%S} to {end:%Y-%m-%d %H:%M:%S} (UTC)"


def cases(root: Path) -> list[Case]:
    """What is known of each report of a workspace, in no order."""
    return [case for path in (root / FOLDER).glob("*.json") if (case := _read(path))]


@dataclass
class Book:
    """The reports of a workspace by their id; each change is on disk before it counts."""

    root: Path
    cases: dict[str, Case] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.cases |= {case.id: case for case in cases(self.root)}
        for left in self.folder.glob(".work-*"):  # of a process that was killed
            shutil.rmtree(left, ignore_errors=True)

    @property
    def folder(self) -> Path:
        """Where the reports are."""
        return self.root / FOLDER

    def put(self, case: Case) -> Case:
        """Keep what is known of a report."""
        files.write_json(self.folder / f"{case.id}.json", asdict(case))
        self.cases[case.id] = case
        return case

    def page(self, case: Case) -> Path:
        """Where the report is, once it is made."""
        return self.folder / f"{case.id}.html"

    @property
    def waiting(self) -> list[Case]:
        """What is to be made, the oldest first; what ran when the process died is among it."""
        open_ = [c for c in self.cases.values() if c.state in (WAITING, RUNNING)]
        return sorted(open_, key=lambda c: (c.requested, c.id))

    def newest(self, alert: str, version: str | None) -> Case | None:
        """The newest report of an alert about a model, or with None about any."""
        cases = [c for c in self.cases.values() if c.alert == alert]
        cases = [c for c in cases if version in (None, c.version)]
        return max(cases, key=lambda c: c.began, default=None)

    def sweep(self, keep: int) -> None:
        """Delete the oldest reports but so many."""
        made = [c for c in self.cases.values() if c.state in (DONE, FAILED)]
        for case in sorted(made, key=lambda c: c.requested)[: max(0, len(made) - keep)]:
            del self.cases[case.id]
            for path in (self.page(case), self.folder / f"{case.id}.json"):
                path.unlink(missing_ok=True)


def _read(path: Path) -> Case | None:
    try:
        case = Case(**json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None  # not ours
    ours = ID.fullmatch(path.stem) and case.id == path.stem and store.SHA256.fullmatch(case.sha256)
    return replace(case, summaries=tuple(case.summaries)) if ours else None


def copy(root: Path, place: Path, case: Case, work: Path | None = None) -> Path:
    """A workspace of this case, by default beside the reports.

    It has the library, notebooks and parameters as they are now, and the model of the alert.
    """
    work = work or root / FOLDER / f".work-{case.id}-{case.tries}"
    shutil.rmtree(work, ignore_errors=True)
    _history(root, work)
    work.mkdir(parents=True, exist_ok=True)
    for name in COPIED:
        if (root / name).is_dir():
            shutil.copytree(root / name, work / name, ignore=shutil.ignore_patterns("__pycache__"))
        elif (root / name).is_file():
            shutil.copy(root / name, work / name)
    for name, content in store.check(place, case.sha256).items():
        files.write_bytes(work / "models" / "candidate" / name, content)
    return work


def _history(root: Path, work: Path) -> None:
    """Clone the commits alone, so that the page can name the code that made it."""
    top = ["git", "-C", str(root), "rev-parse", "--show-cdup"]
    found = subprocess.run(top, capture_output=True, text=True)
    if found.returncode or found.stdout.strip():
        return  # not a repository, or not its top
    clone = ["git", "clone", "--quiet", "--shared", "--no-checkout", str(root), str(work)]
    if subprocess.run(clone, capture_output=True).returncode == 0:
        subprocess.run(["git", "-C", str(work), "reset", "--quiet"], capture_output=True)


def reached(log: str, root: Path) -> str:
    """The address of a log as it is reached from any folder."""
    path = log.removeprefix("sqlite:///")
    return log if path == log else f"sqlite:///{root / path}"


def commands(case: Case, log: str, prometheus: str) -> list[list[str]]:
    """What is run in the copy, in this order: an argument each, no shell."""
    start = [sys.executable, "-P", "-m", "modelkeep", "run"]
    values = {
        "source": "log",
        "log": log,
        "until": case.began,
        "days": case.days,
        "model": case.name,
    }
    given = [word for name, value in values.items() for word in ("-p", f"{name}={value}")]
    return [[*start, "collect", *given], [*start, "monitor", "-p", f"prometheus={prometheus}"]]


def surroundings(work: Path, secret: str) -> dict[str, str]:
    """The environment of these commands: the copy's library first, and not our own secret."""
    path = [str(work / "lib"), *filter(None, [os.environ.get("PYTHONPATH")])]
    kept = {name: value for name, value in os.environ.items() if name != secret}
    return kept | {"PYTHONPATH": os.pathsep.join(path)}


def finish(work: Path, stage: str, printed: str) -> tuple[str, str]:
    """The page and the conclusion of a run; `printed` is its output if it failed."""
    if not printed:
        verdict = json.loads((work / f"verdicts/{stage}.json").read_text(encoding="utf-8"))
        page = (work / f"reports/{stage}.html").read_text(encoding="utf-8")
        return page, f"{verdict['state']}: {verdict['sentence']}"
    path = work / f"reports/failed/{stage}.html"
    text = printed.strip().splitlines()
    sentence = next((t for t in reversed(text) if t.startswith("modelkeep: ")), "")
    sentence = (sentence.removeprefix("modelkeep: ") or f"{stage} ended without a word")[:LONG]
    sentence = sentence.replace(f"{work}{os.sep}", "")
    if path.is_file():
        return path.read_text(encoding="utf-8").replace(f"{work}{os.sep}", ""), sentence
    return failed(sentence), sentence


def failed(sentence: str) -> str:
    """The page in the place of a report that could not be made."""
    return page("No report", f"<h1>No report</h1>{markup.verdict('failed', sentence).markup}")


def heading(case: Case) -> str:
    """The top of a report: its alert, its model, and the predictions that it covers."""
    summaries = "".join(f"<p>{escape(each)}</p>" for each in case.summaries)
    return (
        f"<p>Requested by <strong>{escape(case.alert)}</strong> of {escape(case.when)} (UTC); "
        f"model {escape(case.name)}; its predictions from "
        f"{escape(case.window)}, and the labels that had come by then.</p>{summaries}"
    )


def headed(page: str, case: Case) -> str:
    """A page of a stage as the report of an alert, with its heading and links to other reports."""
    links = f'<a href=".">investigations</a> <b>{escape(case.alert)}</b>'
    return pages.framed_again(page, links, heading(case))


def page(title: str, body: str) -> str:
    """A page of ours in the house style."""
    return pages.page(f"{title} · Modelkeep", body, links='<a href="/">investigations</a>')


def awaited(case: Case, before: int) -> str:
    """The page of a report that is not made yet; it reloads by itself."""
    wait = f"{before} before it" if before else "it is next, or at work"
    body = f"<h1>{escape(case.alert)}: the report is being made</h1>{heading(case)}"
    body += f"<p>In the queue: {wait}. This page reloads by itself.</p>"
    again = '<meta http-equiv="refresh" content="3">\n<title>'
    return page(case.alert, body).replace("<title>", again, 1)


def listed(cases: Iterable[Case]) -> str:
    """The page of all reports, the newest alert first."""
    rows = []
    for case in sorted(cases, key=lambda c: c.began, reverse=True):
        link = f'<a href="/investigations/{case.id}">{escape(case.alert)}</a>'
        cells = (case.name, case.when, case.state, case.sentence)
        row = "".join(f"<td>{cell}</td>" for cell in (link, *map(escape, cells)))
        rows.append(f"<tr>{row}</tr>")
    head = "".join(
        f"<th>{h}</th>" for h in ("alert", "model", "began (UTC)", "state", "conclusion")
    )
    table = (
        f'<div class="tablebox"><table><thead><tr>{head}</tr></thead>{"".join(rows)}</table></div>'
    )
    text = table if rows else "<p>No alert has requested a report yet.</p>"
    return page("Investigations", f"<h1>Investigations</h1>{text}")
