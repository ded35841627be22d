"""A turn on its way: what it was asked, what it has done, and the two lines in which it ends"""

import json
import sys
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from modelkeep.core import parameters, workspace
from modelkeep.core.errors import ModelkeepError
from modelkeep.registry import record

RETRAIN = ("on_decision", "every_days", "never")
WHISPERS = ("if_unsure", "always", "never")
STATES = SAME, BETTER, WAITING, ALARM = ("same", "better", "waiting", "alarm")
CODES = {ALARM: 3}


class TurnError(ModelkeepError, ValueError):
    """Parameters or a moment that no turn can be taken with."""


@dataclass(frozen=True)
class Settings:
    """What params/update.yaml holds; each line there says what it means."""

    retrain: str = "on_decision"
    every_days: float = 7.0
    wait_days: float = 2.0
    shadow: str = "if_unsure"
    rollout: bool = True


@dataclass
class Turn:
    """A turn on its way: what it was asked, and what it has done."""

    root: Path
    now: float
    dry: bool = False
    settings: Settings = field(default_factory=Settings)
    state: str = SAME
    sentence: str = ""
    steps: list[str] = field(default_factory=list)
    facts: dict = field(default_factory=dict)

    @property
    def at(self) -> str:
        """The moment of the turn as ISO text, UTC."""
        return datetime.fromtimestamp(self.now, UTC).strftime("%Y-%m-%dT%H:%M:%S")

    def step(self, text: str) -> None:
        """Tell what was done, or would be."""
        self.steps.append(text)
        print(f"update: {text}", file=sys.stderr, flush=True)

    def end(self, state: str, sentence: str) -> None:
        """What the turn ends in; what weighs more is not forgotten for what comes later."""
        if STATES.index(state) >= STATES.index(self.state):
            self.state, self.sentence = state, sentence
        self.step(sentence)

    @property
    def champion(self) -> str:
        """The champion on record, in words."""
        term = record.read(self.root).champion
        return f"The champion {term.version}" if term else "No champion"

    def told(self) -> dict:
        """The two lines in which a turn ends, and its exit code."""
        said = {"state": self.state, "at": self.at, "dry_run": self.dry, "sentence": self.sentence}
        said |= {"steps": self.steps, **self.facts}
        text = f"{json.dumps(said)}\n{self.state}: {self.sentence}"
        return {"json": said, "text": text, "code": CODES.get(self.state, 0)}


def settings(root: Path) -> Settings:
    """The settings of params/update.yaml, checked by name, type and range."""
    found = Settings(**parameters.program(root, "update", Settings, {}))
    for name, known in (("retrain", RETRAIN), ("shadow", WHISPERS)):
        value = getattr(found, name)
        if value not in known:
            hint = workspace.meant(value, list(known)) or f"; take {', '.join(known)}"
            raise TurnError(f"params/update.yaml: {name}: {value!r} is not known{hint}")
    for name in ("every_days", "wait_days"):
        if getattr(found, name) < 0:
            raise TurnError(f"params/update.yaml: {name} is {getattr(found, name)}; days are 0 or more")  # fmt: skip
    return found
