"""Git tags in GTO's format: all of one model read at once, and one more added, of a new name."""

import re
from dataclasses import dataclass, replace
from pathlib import Path

from modelkeep.core import git
from modelkeep.core.errors import ModelkeepError
from modelkeep.core.git import GitError

FIELDS = ("refname:strip=2", "objecttype", "objectname", "*objectname", "creatordate:unix")
FIELDS += ("taggername", "taggeremail", "contents")
# GTO's grammar (gto/constants.py), which a test compares: GTO takes a second to import, and a
# server does without it
NAME = "[a-zA-Z0-9](?:[a-zA-Z0-9-/_]*[a-zA-Z0-9])?"
META = "[0-9a-zA-Z-]+"
NUMBER, MARK = r"(?:0|[1-9]\d*)", r"(?:0|[1-9]\d*|\d*[a-zA-Z-][0-9a-zA-Z-]*)"
VERSION = rf"v{NUMBER}\.{NUMBER}\.{NUMBER}(?:-{MARK}(?:\.{MARK})*)?(?:\+{META}(?:\.{META})*)?"
FORM = re.compile(
    rf"(?P<name>{NAME})(?:#(?P<stage>{NAME})|@(?P<version>{VERSION}))(?P<cancel>!?)"
    r"(?:#(?P<counter>[0-9]+))?",
)


class TagExists(ModelkeepError, RuntimeError):
    """Somebody else has made the tag that was to be made."""


@dataclass(frozen=True)
class Tag:
    """A tag of a model: of a version (`version`), or of its stage (`stage`, `counter`)."""

    name: str
    commit: str
    at: int  # when it was made, in seconds of the epoch
    who: str
    message: str
    annotated: bool
    version: str = ""
    stage: str = ""
    counter: int = 0
    cancelled: bool = False  # GTO's `!`: a version or a stage that was taken back


def name(model: str, *, version: str = "", stage: str = "", counter: int = 0) -> str:
    """How GTO calls the tag of a version, or the one that gives it a stage."""
    return f"{model}@{version}" if version else f"{model}#{stage}#{counter}"


def read(root: Path, model: str) -> list[Tag]:
    """Every tag of the model, in the order of their counters and then of their time."""
    each = "".join(f"%({field})%00" for field in FIELDS)
    listed = git.run(root, "for-each-ref", f"--format={each}", "refs/tags").split("\0")
    found = []
    for start in range(0, len(listed) - 1, len(FIELDS)):
        # each record but the first begins with the line end of the one before
        called, kind, own, target, at, who, mail, message = listed[start : start + len(FIELDS)]
        called = called.lstrip("\n")
        parsed = FORM.fullmatch(called)
        if parsed is None or parsed["name"] != model:
            continue
        tag = Tag(
            called, target or own, int(at or 0), f"{who} {mail}".strip(), message, kind == "tag"
        )
        found.append(_meant(tag, parsed))
    return sorted(found, key=lambda tag: (tag.counter, tag.at, tag.name))


def add(root: Path, called: str, commit: str, message: str, at: int) -> None:
    """Make an annotated tag; TagExists if there is one of that name, whoever was faster."""
    try:
        _tag(root, called, commit, message, at)
    except GitError:
        if exists(root, called):
            raise TagExists(f"the tag {called} is there already") from None
        if not git.unlock(root, f"refs/tags/{called}"):
            raise
        _tag(root, called, commit, message, at)


def exists(root: Path, called: str) -> bool:
    """Whether there is a tag of that name."""
    return bool(git.run(root, "for-each-ref", f"refs/tags/{called}").strip())


def _meant(tag: Tag, parsed: re.Match) -> Tag:
    named = {"version": parsed["version"] or "", "stage": parsed["stage"] or ""}
    named |= {"counter": int(parsed["counter"] or 0), "cancelled": bool(parsed["cancel"])}
    return replace(tag, **named)


def _tag(root: Path, called: str, commit: str, message: str, at: int) -> None:
    options = ("--annotate", "--cleanup=verbatim", "--file=-")
    git.run(root, "tag", *options, called, commit, text=message, at=at)
