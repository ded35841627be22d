"""The record of a rollout: one line a look, whole or not there; what its last line says is what holds"""

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from modelkeep.core import files
from modelkeep.core.errors import ModelkeepError
from modelkeep.rollout import judge
from modelkeep.rollout.judge import Look, State, Verdict
from modelkeep.rollout.planning import Rules

FOLDER = "rollouts"
CANARY, SHADOW = "canary", "shadow"
ABORTED, OVERTAKEN = "abort", "overtaken"
PROMOTED = "step_up"  # as the judge calls it: from the last step there is nowhere else to go


class JournalError(ModelkeepError, RuntimeError):
    """A record that is not there, or that nobody can go on from."""


@dataclass(frozen=True)
class Opening:
    """What a rollout is about; `started` in microseconds since 1970, models as {sha256, version}, `truth` is what makes an answer wrong (see `mistakes.truth`)."""

    id: str
    kind: str
    started: int
    champion: Mapping[str, str]
    canary: Mapping[str, str]
    slow_ms: float
    truth: Mapping
    reason: str = ""


@dataclass(frozen=True)
class Journal:
    """A rollout as its record tells it; `rows` are the lines after the first, `size` the bytes of all whole lines."""

    path: Path
    opening: Opening
    rules: Rules
    state: State
    rows: tuple[dict, ...] = ()
    verdicts: tuple[Verdict, ...] = ()
    size: int = 0
    events: tuple[dict, ...] = field(default=())

    @property
    def end(self) -> str:
        """The word that ended it, empty while it goes on."""
        ends = [e["event"] for e in self.events if e["event"] in (ABORTED, OVERTAKEN, "judged")]
        return self.state.final or (ends[0] if ends else "")

    @property
    def paused(self) -> bool:
        """Whether a person holds the share where it is."""
        asked = [e["event"] for e in self.events if e["event"] in ("pause", "resume")]
        return not self.end and asked[-1:] == ["pause"]

    @property
    def share(self) -> float:
        """The canary's share as the last line has it."""
        if self.end:
            return 1.0 if self.end == PROMOTED else 0.0
        return self.rules.share(self.state.step) if self.opening.kind == CANARY else 0.0

    @property
    def upto(self) -> int:
        """The moment up to which answers are judged, in microseconds since 1970."""
        return self.opening.started + round(self.state.at * 1e6)


def begin(root: Path, rules: Rules, base: Mapping[str, float], opening: Opening) -> Journal:
    """Put the first line of a new rollout on record."""
    path = root / FOLDER / f"{opening.id}.jsonl"
    if path.exists():
        raise JournalError(f"{FOLDER}/{path.name} is there already; try again in a second")
    first = {**json.loads(judge.opened(rules, base)), "rollout": asdict(opening)}
    files.write_text(path, json.dumps(first) + "\n")
    return read(path)


def judged(journal: Journal, look: Look) -> tuple[Journal, Verdict]:
    """Judge a look and put it on record; the verdict holds once this returns."""
    state, verdict = judge.judge(journal.rules, journal.state, look)
    row = {**json.loads(judge.line(look, verdict)), "final": state.final}
    grown = _appended(journal, row)
    return replace(grown, state=state, verdicts=(*journal.verdicts, verdict)), verdict


def noted(journal: Journal, event: str, at: int, **said: object) -> Journal:
    """Put on record what a person did, or what happened beside the looks."""
    row = {"event": event, "at": at, **said}
    return replace(_appended(journal, row), events=(*journal.events, row))


def read(path: Path) -> Journal:
    """The rollout on record, judged again from its counts; JournalError or CanaryError if the record does not hold. A last line that was never finished is passed over."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise JournalError(f"there is no rollout {path.stem}; `modelkeep rollout status` shows the last one") from None  # fmt: skip
    whole = content[: content.rfind(b"\n") + 1]
    lines = whole.decode().splitlines()
    rules, state, verdicts = judge.replay(lines)
    first, *rows = map(json.loads, lines)
    if "rollout" not in first:
        raise JournalError(f"{FOLDER}/{path.name}: its first line does not say which models it is about; another program wrote it")  # fmt: skip
    events = tuple(row for row in rows if "event" in row)
    opening = Opening(**first["rollout"])
    return Journal(path, opening, rules, state, tuple(rows), tuple(verdicts), len(whole), events)


def newest(root: Path) -> Path | None:
    """The record of the rollout that began last."""
    paths = sorted((root / FOLDER).glob("*.jsonl"))
    return paths[-1] if paths else None


def openings(root: Path) -> list[Opening]:
    """What every rollout on record was about, the oldest first."""
    found = []
    for path in sorted((root / FOLDER).glob("*.jsonl")):
        with open(path, encoding="utf-8") as file:
            found.append(Opening(**json.loads(file.readline())["rollout"]))
    return found


def find(root: Path, id: str = "") -> Journal:
    """The rollout of that id, by default the last one."""
    path = root / FOLDER / f"{id}.jsonl" if id else newest(root)
    if path is None:
        raise JournalError("there was no rollout yet; `modelkeep rollout start VERSION` begins one")
    return read(path)


def _appended(journal: Journal, row: dict) -> Journal:
    """Add a line by one write, on disk when this returns; what a killed writer left of a line goes first."""
    text = (json.dumps(row) + "\n").encode()
    with open(journal.path, "r+b") as file:
        if file.seek(0, os.SEEK_END) > journal.size:
            file.truncate(journal.size)
        file.seek(journal.size)
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    return replace(journal, rows=(*journal.rows, row), size=journal.size + len(text))
