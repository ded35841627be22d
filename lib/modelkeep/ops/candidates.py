"""What becomes of a candidate: the first champion, a shadow, a version and its canary, or nothing"""

import json

from modelkeep.core import files, git, verdicts
from modelkeep.core.errors import ModelkeepError
from modelkeep.ops import commits
from modelkeep.ops.cycle import ALARM, BETTER, SAME, WAITING, Turn
from modelkeep.registry import evidence, record, releases, store
from modelkeep.registry.evidence import CANDIDATE, PASSES
from modelkeep.registry.record import Record
from modelkeep.reports import rollout
from modelkeep.rollout import control, journal
from modelkeep.rollout.journal import CANARY, SHADOW, Opening
from modelkeep.serving import models
from modelkeep.training import manifests

NAME = "Candidate"  # of the trailer on its commit: the gate's word, and its bundle


def judge(turn: Turn, word: str) -> None:
    """Go on with the candidate of this turn as the gate's word has it."""
    sha256 = bundle(turn)
    if sha256 in _released(record.read(turn.root)):
        turn.end(SAME, f"{turn.champion} stays: the candidate is a version that there is already.")
    elif not _further(turn, word, sha256):
        turn.end(SAME, f"{turn.champion} stays: the candidate is {word.replace('_', ' ')}.")


def finish(turn: Turn) -> bool:
    """Go on with a candidate or a version of an earlier turn from which something is to come; whether the turn ends with it."""
    at = record.read(turn.root)
    word, sha256 = _unreleased(turn, at)
    try:
        if word and _further(turn, word, sha256):
            return True
    except evidence.NotFit as error:  # somebody has changed what it was made from
        state = ALARM if at.champion else SAME
        turn.end(state, f"The candidate is {word.replace('_', ' ')}, and not released: {error}")
    version = _untried(turn, at)
    if version and at.champion is None:
        return _first(turn, version)
    return bool(version) and _try(turn, version)


def bundle(turn: Turn) -> str:
    """The candidate's name in the store; nothing if there is none."""
    path = turn.root / CANDIDATE / manifests.MANIFEST
    return files.sha256(path) if path.is_file() else ""


def _unreleased(turn: Turn, at: Record) -> tuple[str, str]:
    """The gate's word on the newest candidate, and its bundle, if it was compared with the champion of now and is no version."""
    if at.champion is None:
        word = (verdicts.read(turn.root).get("evaluate") or {}).get("state", "")
        found = bundle(turn)
        return (word, found) if found and not at.versions else ("", "")
    commit, said = commits.trailed(turn.root, NAME)
    if not commit:
        return "", ""
    word, _, found = said.partition(" ")
    named = git.run(turn.root, "show", f"{commit}:./{evidence.CHAMPION}")
    against = json.loads(named).get("version")
    fresh = against == at.champion.version and found not in _released(at)
    return (word, found) if fresh else ("", "")


def _released(at: Record) -> set[str]:
    return {(record.parsed(t).get("hashes") or {}).get("bundle") for t in at.versions.values()}


def _untried(turn: Turn, at: Record) -> str:
    """The newest version, if a turn released it, and neither a rollout nor a person has done anything with it."""
    if not at.versions:
        return ""
    version = max(at.versions, key=record.order)
    tag = at.versions[version]
    ours = commits.TURN in git.run(turn.root, "log", "-1", "--format=%B", tag.commit)
    if at.champion is None:
        return version if ours or len(at.versions) == 1 else ""
    tried = any(o.canary["version"] == version for o in _trials(turn, CANARY))
    later = tag.at >= at.champion.tag.at and version not in {t.version for t in at.terms}
    return version if ours and later and not tried else ""


def _trials(turn: Turn, kind: str) -> list[Opening]:
    return [each for each in journal.openings(turn.root) if each.kind == kind]


def _further(turn: Turn, word: str, sha256: str) -> bool:
    """Shadow or release a candidate, if its verdicts are good enough for either; whether they are."""
    at = record.read(turn.root)
    whispers = [o for o in _trials(turn, SHADOW) if o.canary["sha256"] == sha256]
    if at.champion and not whispers and _is_to_whisper(turn, word):
        return _whisper(turn, sha256, word)
    passed, forced = word in PASSES, ""
    if whispers:
        said = rollout.said(journal.find(turn.root, whispers[-1].id))
        if not passed:
            forced = f"shadow {whispers[-1].id}: {said.get('verdict')}, {said.get('sentence')}"
        passed = said.get("verdict") in PASSES
    return passed and _release(turn, forced)


def _is_to_whisper(turn: Turn, word: str) -> bool:
    asked = turn.settings.shadow
    if word == "inconclusive":
        return asked != "never"
    return asked == "always" and word in PASSES


def _whisper(turn: Turn, sha256: str, word: str) -> bool:
    """Let the candidate answer beside the champion, heard by nobody."""
    why = f"the gate says {word.replace('_', ' ')}"
    if turn.dry:
        turn.end(WAITING, f"Would let the candidate whisper beside the champion: {why}.")
        return True
    place = control.folder(turn.root)
    store.add(place, turn.root / CANDIDATE)
    return _begin(turn, sha256, SHADOW, f"update: {why}", "the candidate")


def _release(turn: Turn, forced: str) -> bool:
    at = record.read(turn.root)
    if turn.dry:
        turn.end(SAME, "Would release the candidate, which has passed.")
        return True
    done = releases.release(turn.root, at, turn.now, forced=forced)
    turn.step(done.sentence)
    turn.facts["version"] = done.version
    if at.champion is None:
        return _first(turn, done.version)
    _try(turn, done.version)
    return True


def _first(turn: Turn, version: str) -> bool:
    """Make the first version champion."""
    if turn.dry:
        turn.end(BETTER, f"Would make {version} the first champion.")
        return True
    at = record.read(turn.root)
    done = releases.promote(
        turn.root, at, turn.now, version, "the first champion", load=models.load
    )
    subject = done.sentence.partition(" (")[0]
    commits.commit(turn.root, commits.FOLLOWS, subject, turn.now)
    turn.end(BETTER, done.sentence)
    return True


def _try(turn: Turn, version: str) -> bool:
    """Begin the canary of a released version; whether it goes on."""
    if not turn.settings.rollout:
        turn.end(SAME, f"{version} is released and waits for a person: `modelkeep rollout start {version}`, or `modelkeep promote {version}`.")  # fmt: skip
        return False
    if turn.dry:
        turn.end(WAITING, f"Would start the rollout of {version}.")
        return True
    return _begin(turn, version, CANARY, "update", version)


def _begin(turn: Turn, name: str, kind: str, reason: str, called: str) -> bool:
    """Start a rollout; what cannot begin is an alarm, and the turn may go on."""
    try:
        found = control.start(turn.root, name, turn.now, kind=kind, reason=reason)
    except ModelkeepError as error:
        turn.end(ALARM, f"{called} cannot begin as {kind}: {error}")
        return False
    turn.facts["rollout"] = found.opening.id
    share = f" at {found.share:.0%}" if kind == CANARY else ", heard by nobody"
    turn.end(WAITING, f"{called} has begun as {kind}{share} ({found.opening.id}); the next turns look at it.")  # fmt: skip
    return True
