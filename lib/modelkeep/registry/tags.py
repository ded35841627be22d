"""Git tags in GTO's format: all of one model's read at once, and one more added that nobody else has."""

from dataclasses import dataclass
from pathlib import Path

from modelkeep.core import git
from modelkeep.core.errors import ModelkeepError
from modelkeep.core.git import GitError

FIELDS = ("refname:strip=2", "objecttype", "objectname", "*objectname", "creatordate:unix")
FIELDS += ("taggername", "taggeremail", "contents")


class TagExists(ModelkeepError, RuntimeError):
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
    listed = git.run(root, "for-each-ref", f"--format={each}", "refs/tags").split("\0")
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
        if not git.unlock(root, f"refs/tags/{called}"):
            raise
        _tag(root, called, commit, message, at)


def exists(root: Path, called: str) -> bool:
    """Whether there is a tag of that name."""
    return bool(git.run(root, "for-each-ref", f"refs/tags/{called}").strip())


def _meant(tag: Tag, parsed: dict) -> Tag:
    said = {key: parsed[key] for key in ("version", "stage", "counter") if key in parsed}
    cancelled = parsed["action"].value.startswith(("de", "un"))
    return Tag(**tag.__dict__ | said | {"cancelled": cancelled})


def _tag(root: Path, called: str, commit: str, message: str, at: int) -> None:
    options = ("--annotate", "--cleanup=verbatim", "--file=-")
    git.run(root, "tag", *options, called, commit, text=message, at=at)
