"""The log of a rollout: one line an analysis, whole or not there; its last line is what holds."""

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from modelkeep.core import files
from modelkeep.core.errors import ModelkeepError
from modelkeep.rollout import judge
from modelkeep.rollout.judge import Analysis, Decision, State, Verdict
from modelkeep.rollout.planning import Rules

FOLDER = "rollouts"
CANARY, SHADOW = "canary", "shadow"
ABORTED, OVERTAKEN = "aborted_by_person", "overtaken"  # ends that the judge did not decide
PROMOTED = Decision.ADVANCE  # from the last step there is nowhere else to go
EVENTS = {"abort": ABORTED, OVERTAKEN: OVERTAKEN, "judged": "judged"}  # those that end a rollout


class RolloutLogError(ModelkeepError, RuntimeError):
    """A log that is not there, or that no controller can go on from."""


@dataclass(frozen=True)
class RolloutSpec:
    """The models and the start of a rollout.

    `started` in microseconds since 1970, models as {sha256, version}; `truth` is the rule by which
    a prediction is wrong (see `outcomes.truth`).
    """

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
    """A rollout as logged; `rows` are lines after the first, `size` the bytes of whole lines."""

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
        """The decision or event that ended it, empty while it goes on."""
        ends = [EVENTS[e["event"]] for e in self.events if e["event"] in EVENTS]
        return self.state.final or (ends[0] if ends else "")

    @property
    def paused(self) -> bool:
        """Whether a person holds the share where it is."""
        people = [e["event"] for e in self.events if e["event"] in ("pause", "resume")]
        return not self.end and people[-1:] == ["pause"]

    @property
    def share(self) -> float:
        """The canary's share as the last line has it."""
        if self.end:
            return 1.0 if self.end == PROMOTED else 0.0
        return self.rules.share(self.state.step) if self.spec.kind == CANARY else 0.0

    @property
    def upto(self) -> int:
        """The moment up to which predictions are judged, in microseconds since 1970."""
        return self.spec.started + round(self.state.at * 1e6)


def begin(root: Path, rules: Rules, base: Mapping[str, float], spec: RolloutSpec) -> RolloutLog:
    """Write the first line of a new rollout's log."""
    path = root / FOLDER / f"{spec.id}.jsonl"
    if path.exists():
        raise RolloutLogError(f"{FOLDER}/{path.name} is there already; try again in a second")
    first = {**json.loads(judge.opened(rules, base)), "rollout": asdict(spec)}
    files.write_text(path, json.dumps(first) + "\n")
    return read(path)


def judged(rollout_log: RolloutLog, analysis: Analysis) -> tuple[RolloutLog, Verdict]:
    """Judge an analysis and log it; the verdict holds once this returns."""
    state, verdict = judge.judge(rollout_log.rules, rollout_log.state, analysis)
    row = {**json.loads(judge.line(analysis, verdict)), "final": state.final}
    grown = _appended(rollout_log, row)
    return replace(grown, state=state, verdicts=(*rollout_log.verdicts, verdict)), verdict


def noted(rollout_log: RolloutLog, event: str, at: int, **fields: object) -> RolloutLog:
    """Log an event beside the analyses, as of a person."""
    row = {"event": event, "at": at, **fields}
    return replace(_appended(rollout_log, row), events=(*rollout_log.events, row))


def read(path: Path) -> RolloutLog:
    """The rollout of a log, judged again from its counts; an unfinished last line is passed over.

    RolloutLogError or JudgeError if the log does not hold.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise RolloutLogError(
            f"there is no rollout {path.stem}; `modelkeep rollout status` shows the last one"
        ) from None
    whole = content[: content.rfind(b"\n") + 1]
    lines = whole.decode().splitlines()
    rules, state, verdicts = judge.replay(lines)
    first, *rows = judge.parse(lines)
    if "rollout" not in first:
        raise RolloutLogError(
            f"{FOLDER}/{path.name}: its first line does not say which models it is about; "
            "another program wrote it"
        )
    events = tuple(row for row in rows if "event" in row)
    spec = RolloutSpec(**first["rollout"])
    return RolloutLog(path, spec, rules, state, tuple(rows), tuple(verdicts), len(whole), events)


def newest(root: Path) -> Path | None:
    """The log of the rollout that began last."""
    paths = sorted((root / FOLDER).glob("*.jsonl"))
    return paths[-1] if paths else None


def specs(root: Path) -> list[RolloutSpec]:
    """The spec of every rollout, the oldest first."""
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
    """Add a line by one write, on disk when this returns; an unfinished last line goes first."""
    text = (json.dumps(row) + "\n").encode()
    with open(rollout_log.path, "r+b") as file:
        if file.seek(0, os.SEEK_END) > rollout_log.size:
            file.truncate(rollout_log.size)
        file.seek(rollout_log.size)
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    return replace(rollout_log, rows=(*rollout_log.rows, row), size=rollout_log.size + len(text))
