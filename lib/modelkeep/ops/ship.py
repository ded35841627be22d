"""From a committed candidate to a running rollout, in one command."""

from pathlib import Path

from modelkeep.registry import evidence, record, releases
from modelkeep.reports import rollout
from modelkeep.rollout import control
from modelkeep.rollout.rollout_log import CANARY
from modelkeep.serving import models


def ship(root: Path, now: float, version: str = "", force: str = "", anyway: bool = False) -> dict:
    """Release the candidate of this commit, or take a version that was released before, and start
    its rollout; the first version becomes champion. What stands on the way raises, with what was
    done until then on record. Returns JSON and text, which ends in what to push.
    """
    at = record.read(root)
    lines, tags = [], []
    if not version:
        version = _released(root, at)
    if not version:
        done = releases.release(root, at, now, forced=force)
        version, at = done.version, record.read(root)
        lines.append(done.sentence)
    target = at.find(version)
    version = target.version
    tags.append(target.name)
    if at.champion is None:
        why = "the first champion"
        done = releases.promote(root, at, now, version, why, load=models.load)
        lines.append(done.sentence)
        tags.append(done.tag)
        state, commit = "promoted", "git add models && git commit -m 'The first champion'"
    else:
        found = control.start(root, version, now, kind=CANARY, reason="ship", anyway=anyway)
        lines.append(rollout.text(found))
        lines.append("It goes on with `modelkeep rollout run`, or with each `modelkeep update`.")
        state, commit = "in_progress", ""
    push = ["dvc push", *([commit] if commit else [])]
    push.append(f"git push --atomic origin HEAD {' '.join(tags)}")
    lines.append(f"Share it, data before tags: {' && '.join(push)}")
    return {"json": {"state": state, "version": version, "push": push}, "text": "\n".join(lines)}


def _released(root: Path, at: record.Record) -> str:
    """The version that this commit is already; empty if it is none."""
    commit = evidence.on_a_branch(root)
    return next((version for version, tag in at.versions.items() if tag.commit == commit), "")
