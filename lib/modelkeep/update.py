"""One unattended turn of the loop: it ends in a better model, the same model, or a clear alarm"""

import json
import subprocess
import sys
import tempfile
import traceback
from contextlib import closing
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from modelkeep import (
    evidence,
    files,
    investigations,
    journal,
    log,
    parameters,
    partitions,
    record,
    releases,
    rollout,
    sealed,
    store,
    story,
    tags,
    turns,
    verdicts,
    workspace,
)
from modelkeep.journal import CANARY, PROMOTED, SHADOW
from modelkeep.record import Record

RETRAIN = ("on_decision", "every_days", "never")
WHISPERS = ("if_unsure", "always", "never")
BETTER, SAME, WAITING, ALARM = "better", "same", "waiting", "alarm"
CODES = {ALARM: 3}
HELD = 4
PAGE = "reports/update.html"
STAGES = ("prepare", "train", "evaluate")
PUSH = "git push --follow-tags origin HEAD && dvc push"


class UpdateError(ValueError):
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
        """What the turn ends in; an alarm stays one."""
        if self.state != ALARM:
            self.state, self.sentence = state, sentence
        self.step(sentence)

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
            raise UpdateError(f"params/update.yaml: {name}: {value!r} is not known{hint}")
    for name in ("every_days", "wait_days"):
        if getattr(found, name) < 0:
            raise UpdateError(f"params/update.yaml: {name} is {getattr(found, name)}; days are 0 or more")  # fmt: skip
    return found


def run(root: Path, now: float, dry: bool = False) -> dict:
    """Take a turn at `now` (seconds since 1970); whatever fails is an alarm, and then nothing that serves has changed."""
    turn = Turn(root, now, dry)
    try:
        turn.settings = settings(root)
        _turn(turn)
    except turns.Held as error:
        turn.end(WAITING, f"Nothing was done: {error}")
        return turn.told() | {"code": HELD}
    except Exception as error:  # nobody is there: a defect of ours ends in the same two lines
        if not type(error).__module__.startswith("modelkeep."):
            traceback.print_exc()
        turn.state = SAME
        turn.end(ALARM, " ".join(str(error).split()) or type(error).__name__)
    return turn.told()


def _turn(turn: Turn) -> None:
    root = turn.root
    turns.ready(root)
    if turn.dry:
        turns.free(root)
        return _steps(turn)
    with turns.hold(root, turn.now) as mark:
        if mark.since:
            mark.whole = False
            turns.restore(root, mark.since)
            turn.step(
                "A turn that was killed left something undone; what it had not committed was taken back."
            )
            mark.whole = True
        if _goes_on(turn):
            return None
        _check(turn)
        mark.whole = False
        try:
            _steps(turn)
        except BaseException:
            turns.restore(root)
            mark.whole = True
            raise
        mark.whole = True
    return None


def _check(turn: Turn) -> None:
    """Refuse what a turn cannot begin from, before anything has changed."""
    root, prepare = turn.root, workspace.params(turn.root, "prepare")
    source = partitions.folder(root, prepare)
    if turn.now < _moment(prepare["as_of"]):
        raise UpdateError(
            f"--at {turn.at} is before as_of {prepare['as_of']!r} of {turns.PREPARE}, which the last candidate knew; take a later moment"
        )
    turns.clean(root)
    ours = f"{source}/{partitions.OURS}"
    said = turns.changes(root, source)
    if others := [p for p, how in said.items() if how != "added" or not p.startswith(ours)]:
        raise UpdateError(
            f"{report_of(others)} of history changed since its last commit; `dvc add {source} && git commit -m History {source}.dvc` keeps that, "
            f"`dvc checkout {source}.dvc` takes it back"
        )
    turn.facts["history"] = source


def report_of(names: list[str]) -> str:
    """Some names, in words."""
    from modelkeep.report import several

    return several(names)


def _steps(turn: Turn) -> None:
    if turn.dry and (_goes_on(turn) or _check(turn)):
        return
    _settle(turn)
    if _finish(turn):
        return
    _collect(turn)
    champion = record.read(turn.root).champion
    said = _monitor(turn) if champion else ""
    due, why = _due(turn, champion is not None, said)
    if not due:
        turn.end(SAME, f"{_champion(turn)} stays: {why}.")
    elif turn.dry:
        turn.end(
            SAME,
            f"Would train a candidate ({why}) on what was known at {turn.at}, ask the gate, and go on as it says.",
        )
    else:
        word = _retrain(turn, why)
        _decide(turn, word)


def _goes_on(turn: Turn) -> bool:
    """Take one look at the rollout that goes on, if there is one; whether it still does."""
    path = journal.newest(turn.root)
    found = journal.read(path) if path else None
    if found is None or found.end:
        return False
    id = found.opening.id
    if turn.dry:
        turn.end(WAITING, f"Would take one look at {id}: {story.verdict(found).sentence}")
        return True
    with closing(rollout.open_log(turn.root)) as book:
        controller = rollout.Controller(turn.root, book, lambda: turn.now, id)
        found = rollout.run(controller, lambda _: None, lambda _: None, once=True)
    turn.facts["rollout"] = id
    said = story.verdict(found)
    if not found.end:
        turn.end(WAITING, f"{id}: {said.sentence} ({'; '.join(said.reasons) or 'no look yet'})")
    return not found.end


def _settle(turn: Turn) -> None:
    """Bring what serves to the record, and put on record in Git what ended since the last turn."""
    root = turn.root
    path = journal.newest(root)
    found = journal.read(path) if path else None
    paths = [*turns.FOLLOWS]
    if turn.dry:
        return
    if found:
        with rollout.lock(rollout.folder(root)):
            rollout.settle(root, found)
    at = record.read(root)
    if at.champion:
        releases.resume(root, at)
    ended = found and tags.git(root, "status", "--porcelain", "--", journal.FOLDER).strip()
    said = story.verdict(found) if ended else None
    subject = (
        f"Rollout {found.opening.id}: {said.state.replace('_', ' ')}"
        if said
        else "Compare with the champion of now"
    )
    body = "\n".join([said.sentence, *said.reasons]) if said else ""
    if turns.commit(root, paths, f"{subject}\n\n{body}", turn.now):
        turn.end(
            BETTER if said and found.end == PROMOTED else SAME, said.sentence if said else subject
        )


def _finish(turn: Turn) -> bool:
    """Go on with a candidate that passed, or a version that waits for its rollout; whether the turn ends with it."""
    at = record.read(turn.root)
    word, sha256 = _candidate(turn, at)
    if word and _decide(turn, word, sha256):
        return True
    version = _untried(turn, at)
    return bool(version and _try(turn, version))


def _candidate(turn: Turn, at: Record) -> tuple[str, str]:
    """The gate's word on the newest candidate and its bundle, if nothing has come of it yet."""
    root = turn.root
    commit, said = turns.trailed(root, "Candidate")
    if at.champion is None:
        judged = verdicts.read(root).get("evaluate") or {}
        bundle = root / evidence.CANDIDATE / sealed.MANIFEST
        whole = bundle.is_file() and judged.get("state") in evidence.PASSES
        return (judged["state"], files.sha256(bundle)) if whole and not at.versions else ("", "")
    if not commit:
        return "", ""
    word, _, sha256 = said.partition(" ")
    against = json.loads(tags.git(root, "show", f"{commit}:./{evidence.CHAMPION}")).get("version")
    if against != at.champion.version or sha256 in _released(at):
        return "", ""
    return word, sha256


def _released(at: Record) -> set[str]:
    return {(record.parsed(t).get("hashes") or {}).get("bundle") for t in at.versions.values()}


def _untried(turn: Turn, at: Record) -> str:
    """The newest version, if a turn released it and no rollout has tried it since the champion came."""
    if not at.versions or at.champion is None:
        return ""
    version = max(at.versions, key=record.order)
    tag = at.versions[version]
    said = tags.git(turn.root, "log", "-1", "--format=%B", tag.commit)
    tried = any(each.canary["version"] == version for each in _trials(turn, CANARY))
    newer = tag.at >= at.champion.tag.at and version not in {t.version for t in at.terms}
    return version if newer and not tried and "Modelkeep-Turn: " in said else ""


def _trials(turn: Turn, kind: str) -> list[journal.Opening]:
    return [each for each in journal.openings(turn.root) if each.kind == kind]


def _collect(turn: Turn) -> None:
    """Take the rows that came true since the last turn into history, and commit them."""
    root, source = turn.root, turn.facts["history"]
    prepare = workspace.params(root, "prepare")
    try:
        with closing(rollout.open_log(root)) as book:
            found = partitions.find(root, prepare, book, turn.now, turn.settings.wait_days)
    except log.LogMissing as error:
        turn.step(f"No rows for history: {error}.")
        return
    counts = {k: v for k, v in vars(found).items() if k != "rows"}
    turn.facts |= {"rows": {"new": len(found.rows), **counts}}
    turn.step(f"{'Would take' if turn.dry else 'Took'} {found.sentence}.")
    if turn.dry:
        return
    if len(found.rows):
        partitions.add(root, source, found, str(prepare["time_column"]))
    if turns.changes(root, source):
        turns.dvc(root, "add", "--quiet", source)
    subject = f"Take {len(found.rows):,} rows that were served into history"
    turns.commit(root, [f"{source}.dvc"], f"{subject}\n\n{found.sentence}", turn.now)


def _monitor(turn: Turn) -> str:
    """What the monitor says of the champion on the log: fine, look or retrain; its page is left in reports/."""
    root, at = turn.root, record.read(turn.root)
    version = at.champion.version
    said = record.evidence(at.versions[version])
    releases.fetch(root, at.versions[version], said)
    serve = workspace.params(root, "serve")
    case = investigations.Case(
        id="update",
        alert="update",
        version=version,
        sha256=said["hashes"]["bundle"],
        began=turn.at,
        asked=turn.now,
        days=int(workspace.params(root, "collect")["days"]),
    )
    book = investigations.reached(str(serve["log"]), root)
    with tempfile.TemporaryDirectory(prefix="modelkeep-") as beside:
        work = investigations.copy(root, rollout.folder(root), case, Path(beside) / "work")
        for command in investigations.commands(case, book, ""):
            done = subprocess.run(command, cwd=work, env=investigations.surroundings(work, ""), capture_output=True, text=True)  # fmt: skip
            printed = (done.stdout + done.stderr or "it said nothing") if done.returncode else ""
            page, sentence = investigations.finish(work, command[5], printed)
            if printed:
                raise UpdateError(f"{command[5]} of the champion {version} failed: {sentence}")
    if not turn.dry:
        files.write_text(root / PAGE, page)
    turn.facts |= {"monitor": sentence}
    turn.step(f"The monitor says of {version}: {sentence}")
    return sentence.partition(":")[0]


def _due(turn: Turn, champion: bool, said: str) -> tuple[bool, str]:
    """Whether a candidate is to be trained, and why or why not."""
    asked, days = turn.settings.retrain, turn.settings.every_days
    gap = (turn.now - _moment(workspace.params(turn.root, "prepare")["as_of"])) / 86_400
    trained = (
        "train" in (workspace.value((turn.root / "dvc.lock").read_text()) or {}).get("stages", {})
        if (turn.root / "dvc.lock").is_file()
        else False
    )
    if asked == "never":
        return False, "retrain is never"
    if not trained:
        return True, "there is no candidate yet"
    if gap < days:
        return False, f"the last candidate is {gap:.1f} days old, and every_days is {days:g}"
    if asked == "every_days":
        return True, f"the last candidate is {gap:.1f} days old"
    if not champion:
        return True, "there is no champion yet"
    return said == "retrain", f"the monitor says {said}"


def _moment(as_of: object) -> float:
    from modelkeep import history

    return float(history.moment(str(as_of))) if as_of else 0.0


def _retrain(turn: Turn, why: str) -> str:
    """Train a candidate on what was known, ask the gate, commit; the gate's word."""
    root = turn.root
    turns.set_as_of(root, turn.at)
    turn.step(f"Training a candidate: {why}.")
    turns.dvc(root, "repro", *STAGES)
    said = verdicts.read(root)["evaluate"]
    sha256 = files.sha256(root / evidence.CANDIDATE / sealed.MANIFEST)
    word = said["state"]
    subject = f"Train a candidate: {word.replace('_', ' ')}"
    trailer = {"Candidate": f"{word} {sha256}"}
    text = f"{subject}\n\n{said['sentence']}\nTrained because {why}."
    turns.commit(root, [turns.PREPARE, *turns.MADE], text, turn.now, **trailer)
    turn.facts |= {"gate": word, "candidate": sha256[:10]}
    turn.step(said["sentence"])
    return word


def _decide(turn: Turn, word: str, sha256: str = "") -> bool:
    """What becomes of a candidate: first champion, shadow, release and canary, or nothing; whether something did."""
    root, at = turn.root, record.read(turn.root)
    sha256 = sha256 or files.sha256(root / evidence.CANDIDATE / sealed.MANIFEST)
    if sha256 in _released(at):
        turn.end(
            SAME, f"{_champion(turn)} stays: the candidate is a version that there is already."
        )
        return False
    passed, forced = word in evidence.PASSES, ""
    whisper = next(
        (o for o in reversed(_trials(turn, SHADOW)) if o.canary["sha256"] == sha256), None
    )
    if at.champion and whisper is None and _whispers(turn, word):
        return _whisper(turn, sha256, word)
    if whisper:
        told = story.said(journal.find(root, whisper.id))
        passed = told.get("verdict") in evidence.PASSES
        if word not in evidence.PASSES:
            forced = f"shadow {whisper.id}: {told.get('verdict', '')}, {told.get('sentence', '')}"
    if not passed:
        turn.end(SAME, f"{_champion(turn)} stays: the candidate is {word.replace('_', ' ')}.")
        return False
    if turn.dry:
        turn.end(SAME, f"Would release the candidate ({word}).")
        return True
    done = releases.release(root, at, turn.now, forced=forced)
    turn.step(done.sentence)
    turn.facts |= {"version": done.version, "push": PUSH}
    if at.champion is None:
        return _first(turn, done.version)
    _try(turn, done.version)
    return True


def _whispers(turn: Turn, word: str) -> bool:
    asked = turn.settings.shadow
    if word == "inconclusive":
        return asked != "never"
    return asked == "always" and word in evidence.PASSES


def _whisper(turn: Turn, sha256: str, word: str) -> bool:
    """Let the candidate answer beside the champion, heard by nobody."""
    if turn.dry:
        turn.end(WAITING, "Would let the candidate whisper beside the champion.")
        return True
    root = turn.root
    store.add(rollout.folder(root), root / evidence.CANDIDATE)
    why = f"update: the gate says {word.replace('_', ' ')}"
    found = rollout.start(root, sha256, turn.now, kind=SHADOW, reason=why)
    turn.facts["rollout"] = found.opening.id
    turn.end(
        WAITING,
        f"The candidate whispers beside the champion ({why}); it is judged when enough days have come true.",
    )
    return True


def _first(turn: Turn, version: str) -> bool:
    """Make the first version champion."""
    root = turn.root
    done = releases.promote(root, record.read(root), turn.now, version, "the first champion")
    turns.commit(root, turns.FOLLOWS, f"{done.sentence.partition(' (')[0]}", turn.now)
    turn.end(BETTER, done.sentence)
    return True


def _try(turn: Turn, version: str) -> bool:
    """Begin the canary of a released version; whether it goes on."""
    if not turn.settings.rollout:
        turn.end(
            SAME,
            f"{version} is released and waits for a person: `modelkeep rollout start {version}`, or `modelkeep promote {version}`.",
        )
        return False
    if turn.dry:
        turn.end(WAITING, f"Would start the rollout of {version}.")
        return True
    try:
        found = rollout.start(turn.root, version, turn.now, reason="update")
    except (ValueError, RuntimeError) as error:
        if not type(error).__module__.startswith("modelkeep."):
            raise
        turn.end(ALARM, f"{version} is released, but its rollout cannot begin: {error}")
        return False
    turn.facts["rollout"] = found.opening.id
    turn.end(WAITING, f"{version} is tried as a canary at {found.share:.0%}: {found.opening.id}.")
    return True


def _champion(turn: Turn) -> str:
    term = record.read(turn.root).champion
    return f"The champion {term.version}" if term else "No champion"
