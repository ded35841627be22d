"""The record of a model in Git tags: versions with their evidence, and champions over time."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from modelkeep.core import git, workspace
from modelkeep.core.errors import ModelkeepError
from modelkeep.registry import tags
from modelkeep.registry.tags import Tag

SCHEMA = 1  # of the JSON in a tag; raise it when a key changes its meaning
CHAMPION = "champion"
TRIALS = ("canary", "shadow", "reverse-shadow")  # stages whose tags are trials that have ended
PASSED = (
    "promoted",
    "better",
    "non_inferior",
    "overtaken",
    "kept",
)  # ends that say nothing against one
VERSION = re.compile(r"v(\d+)\.(\d+)\.(\d+)(.*)")


class RecordError(ModelkeepError, RuntimeError):
    """The repository's tags do not hold the record."""


class UnknownVersion(ModelkeepError, ValueError):
    """There is no such version."""


@dataclass(frozen=True)
class Term:
    """A version became champion."""

    version: str
    tag: Tag
    details: Mapping  # the JSON in its tag; empty for a tag that GTO made


@dataclass(frozen=True)
class Trial:
    """A rollout of a version that has ended; `result` is the JSON in its tag.

    It has `rollout` (its id), `kind`, `end` (a word), `sentence` and what it rests on.
    """

    version: str
    tag: Tag
    result: Mapping


@dataclass(frozen=True)
class Record:
    """The tags at one moment; `terms` in order of their counters, `counter` the last one used."""

    model: str
    versions: Mapping[str, Tag]
    terms: tuple[Term, ...]
    counter: int
    latest: int  # the time of the newest tag
    trials: tuple[Trial, ...] = ()

    def tried(self, version: str) -> tuple[Trial, ...]:
        """The rollouts of a version that have ended, the oldest first."""
        return tuple(trial for trial in self.trials if trial.version == version)

    def objections(self, version: str) -> list[str]:
        """Reasons against a version: it was forced through its gate, did not pass a rollout, or was
        rolled back as champion.
        """
        forced = parsed(self.versions[version]).get("forced")
        found = [f"it was released by force: {forced}"] if forced else []
        found += [
            f"{trial.result.get('kind')} {trial.result.get('rollout')} ended as "
            f"{trial.result.get('end')}: {trial.result.get('sentence')}"
            for trial in self.tried(version)
            if trial.result.get("end") not in PASSED
        ]
        return found + [
            f"it was rolled back {when(term.tag.at)}: "
            f"{term.details.get('reason') or 'no reason given'}"
            for term in self.terms
            if term.details.get("action") == "rollback" and term.details.get("before") == version
        ]

    @property
    def champion(self) -> Term | None:
        """The champion now."""
        return self.terms[-1] if self.terms else None

    @property
    def before(self) -> str | None:
        """The version that a rollback restores: the champion before, without those rolled back."""
        stack: list[str] = []
        for term in self.terms:
            if term.details.get("action") == "rollback" and term.version in stack:
                while stack[-1] != term.version:
                    stack.pop()
            elif not stack or stack[-1] != term.version:
                stack.append(term.version)
        return stack[-2] if len(stack) > 1 else None

    def at(self, moment: int) -> tuple[Term | None, Term | None]:
        """The champion at that second, and the next one."""
        past = [term for term in self.terms if term.tag.at <= moment]
        coming = [term for term in self.terms if term.tag.at > moment]
        return (past[-1] if past else None), (coming[0] if coming else None)

    def find(self, version: str) -> Tag:
        """The tag of a version, given as `v1.2.0`, `1.2.0` or the tag's name."""
        number = version.removeprefix(f"{self.model}@")
        for each in (number, f"v{number}"):
            if each in self.versions:
                return self.versions[each]
        known = sorted(self.versions, key=order)
        there = f"there is {', '.join(known[-8:])}" if known else "there is none yet"
        hint = workspace.meant(number, known) or f"; {there}"
        raise UnknownVersion(
            f"{self.model} has no version {version!r} here{hint} "
            "(`modelkeep history` shows all, `git fetch --tags` brings those of others)"
        )


def read(root: Path) -> Record:
    """The record of the workspace's model; RecordError where there can be none."""
    ready(root)
    model = named(root)
    found = tags.read(root, model)
    gone = {tag.version for tag in found if tag.version and tag.cancelled}
    versions = {t.version: t for t in found if t.version and t.version not in gone}
    # GTO's rule: a stage belongs to the version of the commit that its tag is on
    by_commit = {tag.commit: version for version, tag in versions.items()}
    given = [tag for tag in found if tag.stage == CHAMPION and tag.annotated and not tag.cancelled]
    terms = [Term(by_commit[t.commit], t, parsed(t)) for t in given if t.commit in by_commit]
    tried = [tag for tag in found if tag.stage in TRIALS and tag.annotated and not tag.cancelled]
    trials = [Trial(by_commit[t.commit], t, parsed(t)) for t in tried if t.commit in by_commit]
    counter = max((tag.counter for tag in found if tag.stage not in TRIALS), default=0)
    latest = max((tag.at for tag in found), default=0)
    return Record(model, versions, tuple(terms), counter, latest, tuple(trials))


def ready(root: Path) -> None:
    """Check that this repository can hold a record; RecordError names what it lacks."""
    try:
        inside = git.run(root, "rev-parse", "--is-shallow-repository").strip()
    except git.GitError as error:
        if "not a git repository" not in str(error):
            raise
        raise RecordError(
            f"{root} is not in a Git repository, and versions are Git tags; "
            "`git init`, then commit what is here"
        ) from None
    if inside == "true":
        raise RecordError(
            "this is a shallow clone: versions and the order of champions may be missing here; "
            "`git fetch --unshallow --tags` brings them, then try again"
        )
    try:
        git.run(root, "rev-parse", "--verify", "--quiet", "HEAD^{commit}")
    except git.GitError:
        raise RecordError(
            "this repository has no commit yet, and a version is a tag on a commit; "
            "`git add -A && git commit`, then try again"
        ) from None


def named(root: Path) -> str:
    """The name of the workspace's model."""
    model = workspace.params(root, "serve").get("name")
    if not isinstance(model, str) or not re.fullmatch(tags.NAME, model):
        raise RecordError(
            f"params/serve.yaml: name is {model!r}, which cannot begin a Git tag of GTO's; "
            "take letters, digits, - and _ between two letters or digits"
        )
    return model


def parsed(tag: Tag) -> dict:
    """The JSON in a tag, without a signature after it; empty where there is none."""
    try:
        found, _ = json.JSONDecoder().raw_decode(tag.message)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def evidence(tag: Tag) -> dict:
    """The evidence of a version; RecordError for a tag without it."""
    found = parsed(tag) if tag.annotated else {}
    if "schema" not in found or not isinstance(found.get("hashes"), dict):
        raise RecordError(
            f"the tag {tag.name} holds no evidence: `modelkeep release` did not make it; "
            "release that commit under a version of its own "
            f"(`git checkout {tag.name}`, then `git switch -c NAME`)"
        )
    if found["schema"] != SCHEMA:
        raise RecordError(
            f"the tag {tag.name} holds evidence of schema {found['schema']!r}, "
            f"and this code reads {SCHEMA}; use the code of the tag's commit"
        )
    return found


def message(summary: str, content: Mapping) -> str:
    """The JSON for a tag, with the summary alone on the first line, which lists of tags show."""
    content = {"summary": summary, "schema": SCHEMA, **content}
    text = json.dumps(content, indent=1, ensure_ascii=False)
    return text.replace("{\n ", "{", 1) + "\n"


def order(version: str) -> tuple:
    """A sort key of versions, by their numbers; a pre-release goes before its release."""
    major, minor, patch, rest = VERSION.fullmatch(version).groups()
    return int(major), int(minor), int(patch), not rest.startswith("-"), rest


def following(record: Record) -> str:
    """The version after the newest: its middle number plus one."""
    if not record.versions:
        return "v1.0.0"
    major, minor, *_ = order(max(record.versions, key=order))
    return f"v{major}.{minor + 1}.0"


def when(at: int) -> str:
    """A moment as people read it."""
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M UTC")
