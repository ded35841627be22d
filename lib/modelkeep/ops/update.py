"""One unattended turn of the loop: it ends in a better model, the same model, or a clear alarm"""

import json
import subprocess
import tempfile
import traceback
from contextlib import closing
from pathlib import Path

from modelkeep.core import files, git, verdicts, workspace
from modelkeep.core.errors import ModelkeepError
from modelkeep.core.markup import several
from modelkeep.ops import candidates, commits, cycle, investigations
from modelkeep.ops.cycle import ALARM, BETTER, SAME, WAITING, Turn
from modelkeep.predictions import history, log
from modelkeep.registry import record, releases, timeline
from modelkeep.reports import rollout
from modelkeep.rollout import control, journal
from modelkeep.rollout.journal import PROMOTED, Journal

HELD = 4  # the exit code of who finds another one at work
PAGE = "reports/update.html"
PUSH = "git push --follow-tags origin HEAD && dvc push"  # what shares a turn; it shares nothing by itself
STAGES = ("prepare", "train", "evaluate")


class UpdateError(ModelkeepError, ValueError):
    """What no turn can begin from, or a step of it that failed."""


def run(root: Path, now: float, dry: bool = False) -> dict:
    """Take a turn at `now` (seconds since 1970); what fails is an alarm, and nothing that serves has changed then. `dry` only says what it would do."""
    turn = Turn(root, now, dry)
    try:
        turn.settings = cycle.settings(root)
        _held(turn)
    except commits.Held as error:
        turn.end(WAITING, f"Nothing was done: {error}")
        return turn.told() | {"code": HELD}
    except Exception as error:  # nobody is there: a defect of ours too ends in the two lines
        if not isinstance(error, ModelkeepError):
            traceback.print_exc()
        turn.end(ALARM, " ".join(str(error).split()) or type(error).__name__)
    return turn.told()


def _held(turn: Turn) -> None:
    """The turn under its lock: first what a killed one left, and at a failure what this one leaves."""
    root = turn.root
    commits.ready(root)
    if turn.dry:
        commits.free(root)
        return None if _goes_on(turn) else _steps(turn, _source(turn))
    with commits.hold(root, turn.now) as mark:
        if mark.since:
            mark.whole = False
            commits.restore(root, mark.since)
            mark.whole = True
            turn.step("A turn was killed; what it had not committed was taken back.")
        if _goes_on(turn):
            return None
        source = _source(turn)
        mark.whole = False
        try:
            _steps(turn, source)
        except BaseException:
            commits.restore(root)
            mark.whole = True
            raise
        mark.whole = True
    return None


def _goes_on(turn: Turn) -> bool:
    """Take one look at the rollout that goes on, if there is one; whether it still does."""
    found = _newest(turn)
    if found is None or found.end:
        return False
    id = turn.facts["rollout"] = found.opening.id
    if turn.dry:
        turn.end(WAITING, f"Would take one look at {id}: {rollout.verdict(found).sentence}")
        return True
    with closing(control.open_log(turn.root)) as book:
        controller = control.Controller(turn.root, book, lambda: turn.now, id)
        found = control.run(controller, lambda _: None, lambda _: None, once=True)
    if not found.end:
        said = rollout.verdict(found)
        turn.end(WAITING, f"{id}: {said.sentence} {'; '.join(said.reasons)}".rstrip())
    return not found.end


def _newest(turn: Turn) -> Journal | None:
    path = journal.newest(turn.root)
    return journal.read(path) if path else None


def _source(turn: Turn) -> str:
    """The folder of history; UpdateError and others where no turn can begin, before anything has changed."""
    root, prepare = turn.root, workspace.params(turn.root, "prepare")
    source = history.folder(root, prepare)
    if turn.now < _moment(prepare["as_of"]):
        raise UpdateError(
            f"--at {turn.at} is before as_of {prepare['as_of']!r} of {commits.PREPARE}, which the last candidate knew; take a later moment"
        )
    commits.clean(root)
    ours = f"{source}/{history.OURS}"
    said = commits.changes(root, source)
    if others := [p for p, how in said.items() if how != "added" or not p.startswith(ours)]:
        raise UpdateError(
            f"{several(others)} of history is not as {source}.dvc has it; `dvc add {source} && git commit -m History {source}.dvc` keeps that, "
            f"`dvc checkout --force {source}.dvc` takes it back"
        )
    return source


def _moment(as_of: object) -> float:
    return float(timeline.moment(str(as_of))) if as_of else 0.0


def _steps(turn: Turn, source: str) -> None:
    """What a turn does when no rollout goes on."""
    if not turn.dry:
        turn.facts["push"] = PUSH
        _settle(turn)
    if candidates.finish(turn):
        return
    _collect(turn, source)
    said = _monitor(turn) if record.read(turn.root).champion else ""
    due, why = _due(turn, said)
    if not due:
        turn.end(SAME, f"{turn.champion} stays: {why}.")
    elif turn.dry:
        turn.end(SAME, f"Would train a candidate ({why}), ask the gate, commit, and go on as it says.")  # fmt: skip
    else:
        candidates.judge(turn, _retrain(turn, why))


def _settle(turn: Turn) -> None:
    """Bring what serves to the record, and commit what has ended since the last turn."""
    root, found = turn.root, _newest(turn)
    if found:
        with control.lock(control.folder(root)):
            control.settle(root, found)
    at = record.read(root)
    if at.champion:
        releases.resume(root, at)
    subject, body, state = f"Compare with {at.model}'s champion of now", "", SAME
    if found and git.run(root, "status", "--porcelain", "--", journal.FOLDER).strip():
        said = rollout.verdict(found)
        subject, body = f"Rollout {found.opening.id}: {said.state.replace('_', ' ')}", said.sentence
        state = BETTER if found.end == PROMOTED else SAME
        body = "\n".join([body, *said.reasons])
    if commits.commit(root, commits.FOLLOWS, f"{subject}\n\n{body}", turn.now):
        turn.end(state, f"{subject}. {body}".replace("\n", " "))


def _collect(turn: Turn, source: str) -> None:
    """Take the rows that came true since the last turn into history, and commit them."""
    root, prepare = turn.root, workspace.params(turn.root, "prepare")
    try:
        with closing(control.open_log(root)) as book:
            found = history.find(root, prepare, book, turn.now, turn.settings.wait_days)
    except log.LogMissing as error:
        return turn.step(f"No rows for history: {error}.")
    turn.facts["rows"] = found.counts
    turn.step(f"{'Would take' if turn.dry else 'Takes'} {found.sentence}.")
    if finding := found.finding(_quarantined_share(root)):
        turn.step(finding)
    if turn.dry:
        return None
    history.keep_quarantine(root, found)
    if len(found.rows):
        history.add(root, source, found, str(prepare["time_column"]))
    if commits.changes(root, source):  # also what a killed turn had added
        commits.dvc(root, "add", source)
    subject = f"Take {len(found.rows):,} rows that were served into history"
    commits.commit(root, [f"{source}.dvc"], f"{subject}\n\n{found.sentence}.", turn.now)
    return None


def _quarantined_share(root: Path) -> float:
    """Of the known rows, those that prepare quarantined when it ran last."""
    path = root / "metrics" / "prepare.json"
    counts = json.loads(path.read_text()) if path.is_file() else {}
    known = counts.get("rows_in", 0) - counts.get("older", 0)
    return counts.get("quarantined", 0) / known if known else 0.0


def _monitor(turn: Turn) -> str:
    """What the monitor says of the champion on the log: fine, look or retrain; its page is left in reports/."""
    root, at = turn.root, record.read(turn.root)
    version = at.champion.version
    said = record.evidence(at.versions[version])
    if not turn.dry:
        releases.fetch(root, at.versions[version], said)
    case = investigations.Case(
        id="update",
        alert="update",
        version=version,
        sha256=said["hashes"]["bundle"],
        began=turn.at,
        asked=turn.now,
        days=int(workspace.params(root, "collect")["days"]),
    )
    address = investigations.reached(str(workspace.params(root, "serve")["log"]), root)
    with tempfile.TemporaryDirectory(prefix="modelkeep-") as beside:
        work = investigations.copy(root, control.folder(root), case, Path(beside) / "work")
        for command in investigations.commands(case, address, ""):
            page, sentence = _told(command, work, version)
    if not turn.dry:
        files.write_text(root / PAGE, page)
    turn.facts["monitor"] = sentence
    turn.step(f"The monitor of {version} says {sentence}")
    return sentence.partition(":")[0]


def _told(command: list[str], work: Path, version: str) -> tuple[str, str]:
    env = investigations.surroundings(work, "")
    done = subprocess.run(command, cwd=work, env=env, capture_output=True, text=True)
    printed = (done.stdout + done.stderr or "it said nothing") if done.returncode else ""
    page, sentence = investigations.finish(work, command[5], printed)
    if printed:
        raise UpdateError(f"{command[5]} of the champion {version} failed: {sentence}")
    return page, sentence


def _due(turn: Turn, said: str) -> tuple[bool, str]:
    """Whether a candidate is to be trained, and why or why not."""
    asked, days = turn.settings.retrain, turn.settings.every_days
    age = (turn.now - _moment(workspace.params(turn.root, "prepare")["as_of"])) / 86_400
    if asked == "never":
        return False, "retrain is never"
    if not candidates.bundle(turn):
        return True, "there is no candidate yet"
    if age < days:
        return False, f"the last candidate is {age:.1f} days old, and every_days is {days:g}"
    if asked == "every_days" or not said:
        return True, f"the last candidate is {age:.1f} days old"
    return said == "retrain", f"the monitor says {said}"


def _retrain(turn: Turn, why: str) -> str:
    """Train a candidate on what is known, ask the gate, commit; the gate's word."""
    root = turn.root
    turn.step(f"Trains a candidate: {why}.")
    commits.set_as_of(root, turn.at)
    commits.dvc(root, "repro", *STAGES)
    said = verdicts.read(root)["evaluate"]
    word = turn.facts["gate"] = said["state"]
    turn.facts["candidate"] = candidates.bundle(turn)[:10]
    text = (
        f"Train a candidate: {word.replace('_', ' ')}\n\n{said['sentence']}\nTrained because {why}."
    )
    trailer = {candidates.NAME: f"{word} {candidates.bundle(turn)}"}
    commits.commit(root, [commits.PREPARE, *commits.MADE], text, turn.now, **trailer)
    turn.step(said["sentence"])
    return word
