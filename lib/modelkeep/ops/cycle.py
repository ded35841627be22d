"""A cycle on its way: its settings, the state that it reads once, its steps, and how it ends."""

import json
import shutil
import sys
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from modelkeep.core import files, git, parameters, verdicts, workspace
from modelkeep.core.errors import ModelkeepError
from modelkeep.ops import commits, worktree
from modelkeep.registry import evidence, record
from modelkeep.registry.record import Record
from modelkeep.rollout import rollout_log
from modelkeep.rollout.rollout_log import RolloutLog, RolloutSpec
from modelkeep.training import manifests

RETRAIN = ("every_days", "on_decision", "never")
RECALIBRATE = ("on_decision", "never")
SHADOWS = ("if_unsure", "always", "never")
# how a cycle ends, the graver later; and its exit code: from 20 on a person is needed
CODES = {"unchanged": 0, "promoted": 10, "in_progress": 11, "needs_attention": 20, "failed": 21}
STATES = (*CODES,)
UNCHANGED, PROMOTED, IN_PROGRESS, NEEDS_ATTENTION, FAILED = STATES
CANDIDATE = "Candidate"  # the trailer of its commit: the gate's state, and its bundle
TRAINED = "Trained"  # the trailer of a recalibration: the moment of the last model trained anew
HELD = "Held"  # the trailer of an update whose data a guard held: its moment


class CycleError(ModelkeepError, ValueError):
    """Parameters or a moment that no cycle can begin with."""


@dataclass(frozen=True)
class Settings:
    """What params/update.yaml holds; each line there says what it means."""

    retrain: str = "every_days"
    every_days: float = 7.0
    recalibrate: str = "on_decision"
    label_wait_days: float = 2.0
    silence_days: float = 14.0
    shadow: str = "if_unsure"
    rollout: bool = True


@dataclass(frozen=True)
class CycleState:
    """What a cycle knows of the repository, read once; a step that changes it reads it again.

    `candidate` is the SHA-256 of the bundle that the last cycle made, or of models/candidate where
    none has; `gate` its verdict, `compared` the version that it was compared with.
    """

    record: Record
    trials: tuple[RolloutSpec, ...]
    last: RolloutLog | None
    prepare: Mapping[str, object]
    candidate: str
    gate: str
    compared: str | None

    @property
    def released(self) -> set[str]:
        """The bundles of all versions."""
        tags = self.record.versions.values()
        return {(record.parsed(tag).get("hashes") or {}).get("bundle") for tag in tags}

    @property
    def champion(self) -> str:
        """The champion on record, in words."""
        term = self.record.champion
        return f"The champion {term.version}" if term else "No champion"


def read(root: Path) -> CycleState:
    """The state of a workspace."""
    last = rollout_log.newest(root)
    commit, value = commits.trailed(root, CANDIDATE)
    if commit:
        gate, _, candidate = value.partition(" ")
        named = git.run(root, "show", f"{commit}:./{evidence.CHAMPION}")
    else:
        gate = (verdicts.read(root).get("evaluate") or {}).get("state", "")
        candidate = bundle(root)
        champion = root / evidence.CHAMPION
        named = champion.read_text(encoding="utf-8") if champion.is_file() else "{}"
    return CycleState(
        record=record.read(root),
        trials=tuple(rollout_log.specs(root)),
        last=rollout_log.read(last) if last else None,
        prepare=workspace.params(root, "prepare"),
        candidate=candidate,
        gate=gate,
        compared=json.loads(named).get("version"),
    )


def bundle(root: Path) -> str:
    """The SHA-256 of models/candidate; empty if there is none."""
    path = root / evidence.CANDIDATE / manifests.MANIFEST
    return files.sha256(path) if path.is_file() else ""


@dataclass
class Cycle:
    """A cycle on its way. Commits are made in `work`, a throw-away worktree, until they `land`."""

    root: Path
    now: float
    dry: bool = False
    settings: Settings = field(default_factory=Settings)
    status: str = UNCHANGED
    sentence: str = ""
    steps: list[str] = field(default_factory=list)
    facts: dict = field(default_factory=dict)
    state: CycleState | None = None
    stack: ExitStack = field(default_factory=ExitStack)
    judged: object = None  # reverse_shadow.Judged of the champion, while one goes on
    _work: Path | None = None

    @property
    def at(self) -> str:
        """The moment of the cycle as ISO text, UTC."""
        return datetime.fromtimestamp(self.now, UTC).strftime("%Y-%m-%dT%H:%M:%S")

    @property
    def work(self) -> Path:
        """The worktree of this cycle, made when it is first needed."""
        if self._work is None:
            self._work = self.stack.enter_context(worktree.scratch(self.root, "update"))
        return self._work

    def refresh(self) -> CycleState:
        """Read the state, at the beginning and after a step that changed it."""
        self.state = read(self.root)
        return self.state

    def step(self, text: str) -> None:
        """Tell what was done, or would be."""
        self.steps.append(text)
        print(f"update: {text}", file=sys.stderr, flush=True)

    def end(self, status: str, sentence: str) -> None:
        """What the cycle ends in; what is graver is not forgotten for what comes later."""
        if STATES.index(status) >= STATES.index(self.status):
            self.status, self.sentence = status, sentence
        self.step(sentence)

    def commit(self, paths: list[str], message: str, **trailers: object) -> str:
        """Commit these paths of `work`, if they have changed; the commit, or nothing."""
        return commits.commit(self.work, paths, message, self.now, **trailers)

    def land(self) -> None:
        """Bring what was committed to the branch."""
        if self._work is not None and worktree.land(self.root, self._work):
            self.refresh()

    def following(self) -> list[str]:
        """Files of the record that promotions and rollouts have left in the workspace, and no
        commit has as they are."""
        options = ("--porcelain", "-z", "--untracked-files=all", "--no-renames")
        changed = git.run(self.root, "status", *options, "--", *commits.FOLLOWS).split("\0")
        grows = self.state.last and not self.state.last.end and self.state.last.path.name
        return [e[3:] for e in changed if e and not (grows and e.endswith(grows))]

    def follow(self, paths: list[str], message: str) -> None:
        """Commit these files as the workspace has them, and land."""
        for path in paths:
            target = self.work / path
            if (self.root / path).is_file():
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(self.root / path, target)
            else:
                target.unlink(missing_ok=True)
            if path.endswith(".dvc"):  # its data are in the workspace; the worktree has former ones
                shutil.rmtree(target.with_suffix(""), ignore_errors=True)
        if paths:
            self.commit(paths, message)
            self.land()

    def result(self) -> dict:
        """The two lines in which a cycle ends, and its exit code."""
        found = {"state": self.status, "at": self.at, "dry_run": self.dry}
        found |= {"sentence": self.sentence, "steps": self.steps, **self.facts}
        text = f"{json.dumps(found)}\n{self.status}: {self.sentence}"
        return {"json": found, "text": text, "code": CODES[self.status]}


def settings(root: Path) -> Settings:
    """The settings of params/update.yaml, checked by name, type and range."""
    found = Settings(**parameters.program(root, "update", Settings, {}))
    for name, known in (("retrain", RETRAIN), ("recalibrate", RECALIBRATE), ("shadow", SHADOWS)):
        value = getattr(found, name)
        if value not in known:
            hint = workspace.meant(value, list(known)) or f"; take {', '.join(known)}"
            raise CycleError(f"params/update.yaml: {name}: {value!r} is not known{hint}")
    for name in ("every_days", "label_wait_days", "silence_days"):
        if (value := getattr(found, name)) < 0:
            raise CycleError(f"params/update.yaml: {name} is {value}; days are 0 or more")
    return found
