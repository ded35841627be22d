"""Git tags in GTO's format: all of one model's read at once, and one more added that nobody else has."""

import fcntl
import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

FIELDS = ("refname:strip=2", "objecttype", "objectname", "*objectname", "creatordate:unix")
FIELDS += ("taggername", "taggeremail", "contents")
LOCK = "modelkeep.lock"
OF_USER = (
    "GIT_AUTHOR_",
    "GIT_COMMITTER_",
    "GIT_CONFIG_GLOBAL",
    "GIT_CONFIG_SYSTEM",
    "GIT_CONFIG_NO",
)
STALE_TENTHS = (
    30  # of a second; a lock of one tag, whose name is ours alone, is held for milliseconds
)


class GitError(RuntimeError):
    """Git cannot do what a release needs."""


class TagExists(RuntimeError):
    """Somebody else has made the tag that was to be made."""


@dataclass(frozen=True)
class Tag:
    """A tag that speaks of a model: of a version (`version`), or of who has a stage (`stage`, `counter`)."""

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


def git(root: Path, *arguments: str, text: str | None = None, at: int | None = None) -> str:
    """What Git says in `root`; GitError with Git's own words if it fails. `at` is the time on what it makes."""
    # a Git hook that runs us sets GIT_DIR and its like, which would point elsewhere
    kept = {
        k: v for k, v in os.environ.items() if not k.startswith("GIT_") or k.startswith(OF_USER)
    }
    if at is not None:
        kept |= {"GIT_COMMITTER_DATE": f"@{at} +0000"}
    command = ["git", "-C", str(root), *arguments]
    try:
        done = subprocess.run(command, input=text, capture_output=True, text=True, env=kept)
    except FileNotFoundError:
        raise GitError("git is not installed; releases are Git tags: install it") from None
    if done.returncode:
        said = " ".join(done.stderr.split()) or f"exit code {done.returncode}"
        raise GitError(f"git {arguments[0]} failed: {said}")
    return done.stdout


def name(model: str, *, version: str = "", stage: str = "", counter: int = 0) -> str:
    """How GTO calls the tag of a version, or the one that gives it a stage."""
    from gto.base import Action
    from gto.tag import name_tag

    if version:
        return name_tag(Action.REGISTER, model, version=version, simple=True)
    return f"{name_tag(Action.ASSIGN, model, stage=stage, simple=True)}#{counter}"


def read(root: Path, model: str) -> list[Tag]:
    """Every tag of the model, in the order of their counters and then of their time."""
    from gto.tag import parse_name

    each = "".join(f"%({field})%00" for field in FIELDS)
    listed = git(root, "for-each-ref", f"--format={each}", "refs/tags").split("\0")
    found = []
    for start in range(0, len(listed) - 1, len(FIELDS)):
        # each record but the first begins with the line end of the one before
        called, kind, own, target, at, who, mail, message = listed[start : start + len(FIELDS)]
        called = called.lstrip("\n")
        parsed = parse_name(called, raise_on_fail=False)
        if parsed.get("name") != model:
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
        if not _unlocked(root, called):
            raise
        _tag(root, called, commit, message, at)


def exists(root: Path, called: str) -> bool:
    """Whether there is a tag of that name."""
    return bool(git(root, "for-each-ref", f"refs/tags/{called}").strip())


@contextmanager
def lock(root: Path) -> Iterator[None]:
    """Hold what one command at a time may hold in this repository; a killed holder holds it no more."""
    place = root / git(root, "rev-parse", "--git-common-dir").strip() / LOCK
    with open(place, "ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _meant(tag: Tag, parsed: dict) -> Tag:
    said = {key: parsed[key] for key in ("version", "stage", "counter") if key in parsed}
    cancelled = parsed["action"].value.startswith(("de", "un"))
    return Tag(**tag.__dict__ | said | {"cancelled": cancelled})


def _tag(root: Path, called: str, commit: str, message: str, at: int) -> None:
    options = ("--annotate", "--cleanup=verbatim", "--file=-")
    git(root, "tag", *options, called, commit, text=message, at=at)


def _unlocked(root: Path, called: str) -> bool:
    """Whether a killed Git's lock of that one tag was in the way, and is there no more."""
    common = root / git(root, "rev-parse", "--git-common-dir").strip()
    left = common / "refs" / "tags" / f"{called}.lock"
    if not left.exists():
        return False
    for _ in range(STALE_TENTHS):
        if not left.exists():
            return True
        time.sleep(0.1)
    left.unlink(missing_ok=True)
    return True
