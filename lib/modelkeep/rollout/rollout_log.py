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


class RolloutLogError(ModelkeepError, RuntimeError):
    """A record that is not there, or that nobody can go on from."""


@dataclass(frozen=True)
class RolloutSpec:
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
class RolloutLog:
    """A rollout as its record tells it; `rows` are the lines after the first, `size` the bytes of all whole lines."""

    path: Path
    spec: RolloutSpec
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
        return self.rules.share(self.state.step) if self.spec.kind == CANARY else 0.0

    @property
    def upto(self) -> int:
        """The moment up to which answers are judged, in microseconds since 1970."""
        return self.spec.started + round(self.state.at * 1e6)


def begin(root: Path, rules: Rules, base: Mapping[str, float], spec: RolloutSpec) -> RolloutLog:
    """Put the first line of a new rollout on record."""
    path = root / FOLDER / f"{spec.id}.jsonl"
    if path.exists():
        raise RolloutLogError(f"{FOLDER}/{path.name} is there already; try again in a second")
    first = {**json.loads(judge.opened(rules, base)), "rollout": asdict(spec)}
    files.write_text(path, json.dumps(first) + "\n")
    return read(path)


def judged(rollout_log: RolloutLog, look: Look) -> tuple[RolloutLog, Verdict]:
    """Judge a look and put it on record; the verdict holds once this returns."""
    state, verdict = judge.judge(rollout_log.rules, rollout_log.state, look)
    row = {**json.loads(judge.line(look, verdict)), "final": state.final}
    grown = _appended(rollout_log, row)
    return replace(grown, state=state, verdicts=(*rollout_log.verdicts, verdict)), verdict


def noted(rollout_log: RolloutLog, event: str, at: int, **said: object) -> RolloutLog:
    """Put on record what a person did, or what happened beside the looks."""
    row = {"event": event, "at": at, **said}
    return replace(_appended(rollout_log, row), events=(*rollout_log.events, row))


def read(path: Path) -> RolloutLog:
    """The rollout on record, judged again from its counts; RolloutLogError or JudgeError if the record does not hold. A last line that was never finished is passed over."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise RolloutLogError(f"there is no rollout {path.stem}; `modelkeep rollout status` shows the last one") from None  # fmt: skip
    whole = content[: content.rfind(b"\n") + 1]
    lines = whole.decode().splitlines()
    rules, state, verdicts = judge.replay(lines)
    first, *rows = map(json.loads, lines)
    if "rollout" not in first:
        raise RolloutLogError(f"{FOLDER}/{path.name}: its first line does not say which models it is about; another program wrote it")  # fmt: skip
    events = tuple(row for row in rows if "event" in row)
    spec = RolloutSpec(**first["rollout"])
    return RolloutLog(path, spec, rules, state, tuple(rows), tuple(verdicts), len(whole), events)


def newest(root: Path) -> Path | None:
    """The record of the rollout that began last."""
    paths = sorted((root / FOLDER).glob("*.jsonl"))
    return paths[-1] if paths else None


def specs(root: Path) -> list[RolloutSpec]:
    """What every rollout on record was about, the oldest first."""
    found = []
    for path in sorted((root / FOLDER).glob("*.jsonl")):
        with open(path, encoding="utf-8") as file:
            found.append(RolloutSpec(**json.loads(file.readline())["rollout"]))
    return found


def find(root: Path, id: str = "") -> RolloutLog:
    """The rollout of that id, by default the last one."""
    path = root / FOLDER / f"{id}.jsonl" if id else newest(root)
    if path is None:
        raise RolloutLogError(
            "there was no rollout yet; `modelkeep rollout start VERSION` begins one"
        )
    return read(path)


def _appended(rollout_log: RolloutLog, row: dict) -> RolloutLog:
    """Add a line by one write, on disk when this returns; what a killed writer left of a line goes first."""
    text = (json.dumps(row) + "\n").encode()
    with open(rollout_log.path, "r+b") as file:
        if file.seek(0, os.SEEK_END) > rollout_log.size:
            file.truncate(rollout_log.size)
        file.seek(rollout_log.size)
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    return replace(rollout_log, rows=(*rollout_log.rows, row), size=rollout_log.size + len(text))
