"""One unattended cycle: it ends in a better model, the same model, or a call for a person."""

import itertools
import json
import subprocess
import tempfile
import traceback
from collections.abc import Mapping
from contextlib import ExitStack, closing
from pathlib import Path
from typing import NamedTuple

from modelkeep.core import files, verdicts, workspace
from modelkeep.core.errors import ModelkeepError
from modelkeep.core.markup import count, several
from modelkeep.ops import candidates, commits, cycle, investigations, worktree
from modelkeep.ops.cycle import FAILED, IN_PROGRESS, NEEDS_ATTENTION, PROMOTED, UNCHANGED, Cycle
from modelkeep.predictions import history, log
from modelkeep.registry import evidence, record, releases, timeline
from modelkeep.reports import rollout
from modelkeep.rollout import control, rollout_log
from modelkeep.rollout.judge import ABORT, INCONCLUSIVE

PAGE = "reports/update.html"
PUSH = "dvc push && git push --follow-tags origin HEAD"  # it shares a cycle; no cycle does so
STAGES = ("prepare", "train", "evaluate")
DAY = 86_400.0
GAP_DAYS = 60  # of the log in which the usual gap between requests is looked for
GAPS = 3  # so many times the largest of them, and a day, may have passed since the newest request
SOONEST = 1.0  # days after the last candidate at which the monitor may ask for the next
TOO_NEW = "too new"  # the champion, for the monitor to judge it
CALM = ("", TOO_NEW, "ok", "fine", "retrain")  # states of the monitor that need no person
ENDED = {rollout_log.PROMOTED: PROMOTED, ABORT: NEEDS_ATTENTION}  # other ends leave the champion


class UpdateError(ModelkeepError, ValueError):
    """What no cycle can begin from, or a step of it that failed."""


def run(root: Path, now: float, dry: bool = False) -> dict:
    """Run a cycle at `now` (seconds since 1970); `dry` only says what it would do.

    What fails ends it as `failed`, and nothing that serves has changed then. Returns the result as
    JSON and as text, and the exit code.
    """
    turn = Cycle(root, now, dry)
    try:
        turn.settings = cycle.settings(root)
        commits.ready(root)
        with commits.hold(root, now), ExitStack() as turn.stack:
            _steps(turn)
            if not turn.dry:
                candidates.begin_reverse_shadow(turn)
    except commits.AlreadyRunning as error:
        turn.end(IN_PROGRESS, f"Nothing was done: {error}.")
    except Exception as error:  # nobody is there: a defect of ours too ends in the two lines
        if not isinstance(error, ModelkeepError):
            traceback.print_exc()
        turn.end(FAILED, " ".join(str(error).split()) or type(error).__name__)
    return turn.result()


def _steps(turn: Cycle) -> None:
    if not turn.dry:
        if worktree.finish(turn.root):
            turn.step("A killed cycle had landed; what was left of it is done now.")
        worktree.sweep(turn.root, "update")
    turn.refresh()
    _check_clock(turn)
    if candidates.take_back(turn) or _advance(turn):
        return
    source = _source(turn)
    if not turn.dry:
        turn.facts["push"] = PUSH
        _settle(turn)
    if candidates.finish(turn):
        return
    _collect(turn, source)
    try:
        _improve(turn)
    except ModelkeepError:
        turn.land()  # the rows are sound, whatever became of the rest
        raise


def _improve(turn: Cycle) -> None:
    """Monitor the champion, and train where that is due."""
    word = run_monitor(turn) if turn.state.record.champion else ""
    if word not in CALM:
        sentence = turn.facts.get("monitor", word)
        version = turn.state.record.champion.version
        turn.end(NEEDS_ATTENTION, f"The monitor of {version} says {sentence}")
    due = _due(turn, word)
    smaller = _smaller(turn, word, due)
    if not (due.train or smaller):
        turn.land()
        turn.end(UNCHANGED, f"{turn.state.champion} stays: {due.why}.")
    elif turn.dry:
        first = "recalibrate the champion where that is enough" * smaller
        then = f"train a candidate ({due.why})" * due.train
        does = ", or ".join(filter(None, (first, then)))
        turn.end(UNCHANGED, f"Would {does}, ask the gate, commit, and go on as it says.")
    else:
        if (verdict := _retrain(turn, due, smaller)) is None:
            return
        call = ""
        if verdict["evidence"].get("refit"):
            what = "recalibration" if verdict["evidence"].get("recalibrated") else "refit"
            call = f"a {what} should pass: {verdict['sentence']}".rstrip(".")
        elif word == "retrain":
            call = "the monitor says retrain, and no candidate has passed"
        candidates.judge(turn, call)


def _check_clock(turn: Cycle) -> None:
    """Raise UpdateError where the moment is before what the last candidate knew, or farther after
    the newest request than requests usually are apart: what is committed at such a moment would
    count everything as known, and stop the cycles until it has come."""
    as_of = turn.state.prepare["as_of"]
    if turn.now < _moment(as_of):
        raise UpdateError(
            f"the moment {turn.at} is before as_of {as_of!r} of {commits.PREPARE}, which the last "
            "candidate knew; take a later --at"
        )
    if turn.state.record.champion is None:
        return
    try:
        with closing(control.open_log(turn.root)) as book:
            newest = book.newest()
            ago = (turn.now - newest / 1e6) / DAY if newest else 0.0
            if ago <= 1 or ago <= (usual := 1 + GAPS * _largest_gap(book, newest)):
                return
    except log.LogMissing:
        return  # without a log there is a call for a person anyway
    raise UpdateError(
        f"the moment {turn.at} is {ago:.1f} days after the newest request in the log, which is at "
        f"most {usual:.1f} days ago as requests usually come; if the clock (or --at) is right, "
        "requests have stopped or are not logged: see to that, then run the next cycle"
    )


def _largest_gap(book: log.PredictionLog, newest: int) -> float:
    """Days without a request, the most in a row, before the newest one."""
    since = newest - int(GAP_DAYS * DAY * 1e6)
    times = [call.at for call in book.calls(since, newest + 1)]
    gaps = [b - a for a, b in itertools.pairwise(times)]
    return max(gaps, default=0) / 1e6 / DAY


def _moment(as_of: object) -> float:
    return float(timeline.moment(str(as_of))) if as_of else 0.0


def _advance(turn: Cycle) -> bool:
    """Analyse the rollout that goes on, if there is one and it is due; whether it still does."""
    last = turn.state.last
    if last is None or last.end:
        return False
    id = turn.facts["rollout"] = last.spec.id
    if turn.dry:
        turn.end(IN_PROGRESS, f"Would analyse {id}: {rollout.verdict(last).sentence}")
        return True
    with closing(control.open_log(turn.root)) as book:
        controller = control.Controller(turn.root, book, lambda: turn.now, id)
        found = control.run(controller, lambda _: None, lambda _: None, once=True)
    turn.refresh()
    if not found.end:
        stuck = found.verdicts and found.verdicts[-1].decision == INCONCLUSIVE
        verdict = rollout.verdict(found)
        sentence = f"{id}: {verdict.sentence} {'; '.join(verdict.reasons)}".rstrip()
        turn.end(NEEDS_ATTENTION if stuck else IN_PROGRESS, sentence)
    return not found.end


def _source(turn: Cycle) -> str:
    """The folder of history; raises where no cycle can begin, before anything has changed."""
    source = history.folder(turn.root, turn.state.prepare)
    if unseen := commits.check_clean(turn.root, source):
        turn.step(f"Uncommitted changes are no part of this cycle: {', '.join(unseen[:5])}.")
    return source


def _settle(turn: Cycle) -> None:
    """Bring what serves to the record, and commit what has ended since the last cycle."""
    root, last, at = turn.root, turn.state.last, turn.state.record
    if last:
        with control.lock(control.folder(root)):
            control.settle(root, last)
        at = turn.refresh().record
    if at.champion:
        releases.resume(root, at)
    paths = turn.following()
    if not any(path.startswith(f"{rollout_log.FOLDER}/") for path in paths):
        turn.follow(paths, f"Compare with {at.model}'s champion of now")
        return
    verdict = rollout.verdict(last)
    title = f"Rollout {last.spec.id}: {verdict.state.replace('_', ' ')}"
    turn.follow(paths, "\n".join([title, "", verdict.sentence, *verdict.reasons]))
    reasons = " ".join(verdict.reasons)
    turn.end(ENDED.get(last.end, UNCHANGED), f"{title}. {verdict.sentence} {reasons}".rstrip())


def _collect(turn: Cycle, source: str) -> None:
    """Take the rows whose labels have come since the last cycle into history."""
    prepare = turn.state.prepare
    try:
        with closing(control.open_log(turn.root)) as book:
            wait = turn.settings.label_wait_days
            found = history.find(turn.root, prepare, book, turn.now, wait)
    except log.LogMissing as error:
        status = NEEDS_ATTENTION if turn.state.record.champion else UNCHANGED
        turn.end(status, f"There is no prediction log to learn from: {error}.")
        return
    turn.facts["rows"] = found.counts
    turn.step(f"{'Would take' if turn.dry else 'Takes'} {found.sentence}.")
    if finding := found.finding(_quarantined_share(turn.root)):
        turn.end(NEEDS_ATTENTION, finding)
    silent = (turn.now - found.labelled_until) / DAY
    if turn.state.record.champion and silent > turn.settings.silence_days + wait:
        turn.end(
            NEEDS_ATTENTION,
            f"No label has come for long: the newest labelled row is {silent:.1f} days old, "
            f"silence_days is {turn.settings.silence_days:g}; see whether labels are delivered.",
        )
    if turn.dry:
        return
    history.keep_quarantine(turn.root, found)
    if not len(found.rows) and not found.corrected:
        return
    commits.dvc(turn.work, "checkout", f"{source}.dvc")
    if len(found.rows):
        history.add(turn.work, source, found, prepare)
    history.correct(turn.work, source, found, prepare)
    commits.dvc(turn.work, "add", source)
    subject = f"Take {len(found.rows):,} rows that were served into history"
    subject += f", correct {count(found.corrected, 'label')}" if found.corrected else ""
    turn.commit([f"{source}.dvc"], f"{subject}\n\n{found.sentence}.")


def _quarantined_share(root: Path) -> float:
    """Of the known rows, those that prepare quarantined when it ran last."""
    path = root / "metrics" / "prepare.json"
    counts = json.loads(path.read_text()) if path.is_file() else {}
    known = counts.get("rows_in", 0) - counts.get("older", 0)
    return counts.get("quarantined", 0) / known if known else 0.0


def run_monitor(turn: Cycle) -> str:
    """The monitor's state of the champion on the log; its page is left in reports/."""
    root, at = turn.root, turn.state.record
    version = at.champion.version
    tag = at.versions[version]
    champion = record.evidence(tag)
    if not turn.dry:
        releases.fetch(root, tag, champion)
    case = investigations.Case(
        id="update",
        alert="update",
        version=version,
        sha256=champion["hashes"]["bundle"],
        began=turn.at,
        requested=turn.now,
        days=int(workspace.params(root, "collect")["days"]),
    )
    address = investigations.reached(str(workspace.params(root, "serve")["log"]), root)
    with tempfile.TemporaryDirectory(prefix="modelkeep-") as beside:
        work = investigations.copy(root, control.folder(root), case, Path(beside) / "work")
        for command in investigations.commands(case, address, ""):
            page, sentence = _reported(command, work, version)
        judged_by = json.loads((work / "verdicts/monitor.json").read_bytes())["evidence"]
    word, _, reason = sentence.partition(": ")
    if reason.lower().startswith(f"{word}: "):  # "investigate: Investigate: too few labels ..."
        sentence = word + reason[len(word) :]
    if word not in CALM and too_new(turn, judged_by):
        days, word = (turn.now - at.champion.tag.at) / DAY, TOO_NEW
        sentence = f"{TOO_NEW}: after {days:.1f} days no window of it has labels enough to judge it"
    if not turn.dry:
        files.write_text(root / PAGE, page)
    turn.facts["monitor"] = sentence
    turn.step(f"The monitor of {version} says {sentence}")
    return word


def too_new(turn: Cycle, judged_by: Mapping) -> bool:
    """Whether the monitor could judge no window yet, and need not have: the champion is younger
    than a window, its labels' way and the silence that an update bears. Drift counts at once.
    """
    settings, window = turn.settings, workspace.params(turn.root, "monitor")["window_days"]
    judged = judged_by.get("newest_waiting") is not None
    drifted = (judged_by.get("e_drift") or 0.0) >= judged_by.get("alert_at", float("inf"))
    age = (turn.now - turn.state.record.champion.tag.at) / DAY
    waits = float(window) + settings.label_wait_days + settings.silence_days
    return not judged and not drifted and age < waits


def _reported(command: list[str], work: Path, version: str) -> tuple[str, str]:
    env = investigations.surroundings(work, "")
    done = subprocess.run(command, cwd=work, env=env, capture_output=True, text=True)
    printed = (done.stdout + done.stderr or "it printed nothing") if done.returncode else ""
    page, sentence = investigations.finish(work, command[5], printed)
    if printed:
        raise UpdateError(f"{command[5]} of the champion {version} failed: {sentence}")
    return page, sentence


class Due(NamedTuple):
    """Whether a candidate is to be trained, why or why not, and whether the calendar says so."""

    train: bool
    why: str
    by_calendar: bool = False


def _due(turn: Cycle, word: str) -> Due:
    """Whether a candidate is to be trained, by the settings and the monitor's word."""
    setting, days = turn.settings.retrain, turn.settings.every_days
    if setting == "never":
        return Due(False, "retrain is never")
    days, slower = _interval(turn, days)
    if version := candidates.waiting(turn):
        return Due(False, f"{version} waits for a person")
    if not turn.state.candidate:
        return Due(True, "there is no candidate yet", True)
    age, held = _age(turn, trained=True), _held_days(turn)
    if held < min(age, days):
        return Due(False, f"data were held {held:.1f} days ago, and every_days is {days:g}{slower}")
    since = f"the last candidate is {age:.1f} days old"
    if age >= days and (setting == "every_days" or not word):
        return Due(True, since, True)
    if setting == "every_days" and word == "retrain" and age >= SOONEST:
        return Due(True, f"the monitor says retrain, and {since}")
    if age < days:
        return Due(False, f"{since}, and every_days is {days:g}{slower}")
    return Due(word == "retrain", f"the monitor says {word}")


def _age(turn: Cycle, trained: bool = False) -> float:
    """Days since the last candidate, or since the last one that was trained anew."""
    moment = _trained_at(turn) if trained else turn.state.prepare["as_of"]
    return (turn.now - _moment(moment)) / DAY


def _trained_at(turn: Cycle) -> str:
    """The moment of the last candidate that is no recalibration."""
    commit, moment = commits.trailed(turn.root, cycle.TRAINED)
    if commit and commit == commits.trailed(turn.root, cycle.CANDIDATE)[0]:
        return moment
    return str(turn.state.prepare["as_of"])


def _held_days(turn: Cycle) -> float:
    return (turn.now - _moment(commits.trailed(turn.root, cycle.HELD)[1])) / DAY


def _smaller(turn: Cycle, word: str, due: Due) -> bool:
    """Whether a new level of the champion is tried first: the monitor asks for a remedy, and no
    refit is due by the calendar.
    """
    able = turn.settings.recalibrate == "on_decision" and turn.state.record.champion is not None
    if word != "retrain" or due.by_calendar or not able or candidates.waiting(turn):
        return False
    return _age(turn) >= SOONEST and _held_days(turn) >= turn.settings.every_days


def _interval(turn: Cycle, days: float) -> tuple[float, str]:
    """Days between two candidates, more where retraining itself harms; and why they are more."""
    if not (turn.root / commits.GUARDS).is_file():
        return days, ""
    from modelkeep.training import maintenance

    rules = maintenance.rules(turn.root)
    times, guard = maintenance.schedule(maintenance.read(turn.root), rules)
    if guard.value == guard.value:  # nan: too few updates are known
        turn.step(guard.report)
    if times == 1:
        return days, ""
    return days * times, f" (slower by {times:g}: retraining itself harms, {guard.sentence})"


def _retrain(turn: Cycle, due: Due, smaller: bool) -> dict | None:
    """Make a candidate of what is known, ask its gate, commit both, and land; the verdict.

    `smaller`: the champion with a new level, where the closed test says that this is enough. A
    refit of the champion's recipe learns from everything known, unless a guard holds the data: then
    there is no candidate, and no verdict.
    """
    source, work, why = str(turn.state.prepare["source"]).rstrip("/"), turn.work, due.why
    # a training of another kind always keeps rows for the held-back gate
    refit = "withhold" in workspace.params(work, "train") and candidates.is_refit(turn)
    _set_training(turn, withhold=not refit, recalibrate="")
    commits.set_as_of(work, turn.at)
    champion = [path for path in commits.FOLLOWS[:1] if (work / path).is_file()]
    commits.dvc(work, "checkout", f"{source}.dvc", *champion)
    if refit and _held(turn):
        return None
    version, reason = "", "the recipe has changed"
    if smaller and refit:
        version, reason = _recalibrated(turn, or_refit=due.train)
    if version:
        _set_training(turn, recalibrate=version)
        why = f"the monitor says retrain, and {reason}"
    elif not due.train:
        turn.land()
        stays = f"{turn.state.champion} stays: {due.why}"
        turn.end(UNCHANGED, f"{stays}; it is not recalibrated, as {reason}.")
        return None
    turn.step(f"{f'Recalibrates {version}' if version else 'Trains a candidate'}: {why}.")
    commits.dvc(work, "repro", *STAGES)
    verdict = verdicts.read(work)["evaluate"]
    turn.facts["gate"] = verdict["state"]
    if refit:
        from modelkeep.training import maintenance  # scikit-learn takes a second to import

        maintenance.write(work, maintenance.read(work).after(verdict["evidence"]))
    _commit(turn, verdict, why, version, refit)
    if refit:
        from modelkeep.evaluation import guards

        for name, sentence in (("harm gate", "harm"), ("canary by risk", "risk")):
            turn.step(guards.report(name, verdict["evidence"][sentence]))
    return verdict


def _commit(turn: Cycle, verdict: dict, why: str, version: str, refit: bool) -> None:
    """Commit a candidate with its verdict, and land; `version` is the champion that it updates."""
    gate, bundle = verdict["state"], cycle.bundle(turn.work)
    turn.facts["candidate"] = bundle[:10]
    title = f"Recalibrate {version}" if version else "Train a candidate"
    title = f"{title}: {gate.replace('_', ' ')}"
    text = f"{title}\n\n{verdict['sentence']}\nMade because {why}."
    paths = [commits.PREPARE, commits.TRAIN, commits.GUARDS, *commits.MADE]
    trailers = {cycle.CANDIDATE: f"{gate} {bundle}"}
    if version:
        trailers[cycle.TRAINED] = _trained_at(turn)
    if not refit and (walked := candidates.walk_forward(turn, gate)):
        trailers[candidates.WALKED] = walked
    turn.commit(paths, text, **trailers)
    turn.land()
    turn.step(verdict["sentence"])


def _set_training(turn: Cycle, **values: bool | str) -> None:
    """Set what is the update's own in params/train.yaml: a refit learns from everything known, and
    a recalibration names the champion. A training of another kind has no such lines.
    """
    params = workspace.params(turn.work, "train")
    changed = {k: v for k, v in values.items() if k in params and params[k] != v}
    if changed and commits.TRAIN in evidence.changed(turn.root):
        raise UpdateError(
            f"{commits.TRAIN} has uncommitted changes, and this cycle sets {several([*changed])} "
            f"there; commit your change or take it back (`git checkout -- {commits.TRAIN}`)"
        )
    for name, value in changed.items():
        commits.set_training(turn.work, name, value)


def _recalibrated(turn: Cycle, or_refit: bool) -> tuple[str, str]:
    """The champion's version where a new level of it is enough, or helps and no refit may be made;
    else "". With the reason.
    """
    from modelkeep.training import candidates as kinds
    from modelkeep.training import trial

    version = turn.state.record.champion.version
    if "recalibrate" not in workspace.params(turn.work, "train"):
        return "", f"{commits.TRAIN} has no line `recalibrate:`"
    try:
        new = kinds.recalibrated(turn.work, version, trial.known(turn.work)).recalibration
    except kinds.NotRecalibrated as error:
        turn.step(f"No recalibration: {error}.")
        return "", str(error)
    if new["enough"]:
        return version, f"a new {new['kind']} is enough"
    if or_refit:
        turn.step(f"No recalibration: {new['says']}.")
        return "", new["says"]
    return version, f"no refit is due: a new {new['kind']} helps, though {new['says']}"


def _held(turn: Cycle) -> bool:
    """Ask the data guards before anything learns; data that they hold are put on record."""
    from modelkeep.training import maintenance, trial

    commits.dvc(turn.work, "repro", STAGES[0])
    checked = trial.check_prepared(turn.work)
    maintenance.write(turn.work, maintenance.read(turn.work).with_data(checked))
    for guard in checked.guards:
        turn.step(guard.report)
    if checked.hold or checked.overruled:
        turn.step(f"Data guards: {checked.sentence}.")
    if checked.hold:
        sentence = f"No candidate this time, the newest data are held: {checked.sentence}."
        text = f"Hold an update\n\n{sentence}"
        turn.commit([commits.GUARDS], text, **{cycle.HELD: turn.at})
        turn.land()
        turn.end(NEEDS_ATTENTION, sentence)
    return checked.hold
