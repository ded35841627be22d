"""Decisions about a candidate: first champion, shadow, version and canary, or nothing."""

from contextlib import closing
from dataclasses import replace
from pathlib import Path

from modelkeep.core import git, workspace
from modelkeep.core.errors import ModelkeepError
from modelkeep.core.markup import several
from modelkeep.ops import commits
from modelkeep.ops import cycle as cycles
from modelkeep.ops.cycle import IN_PROGRESS, NEEDS_ATTENTION, PROMOTED, UNCHANGED, Cycle
from modelkeep.predictions import log
from modelkeep.registry import evidence, record, releases, store
from modelkeep.registry.evidence import CANDIDATE, PASSES
from modelkeep.reports import rollout
from modelkeep.rollout import control, planning, rollout_log
from modelkeep.rollout.rollout_log import CANARY, SHADOW
from modelkeep.serving import models

DAY = 86_400.0
FIRST = "the first champion"
UNDECIDED = ("inconclusive", "insufficient")
WALKED = "Walk-Forward"  # the trailer of a candidate's commit: word and sentence
# what a model is made by; the settings beside a params file are the update's own
RECIPE = {
    commits.PREPARE: ("as_of",),
    commits.TRAIN: ("withhold", "recalibrate"),
    "lib/pipeline.py": (),
    "notebooks/prepare.ipynb": (),
    "notebooks/train.ipynb": (),
}


def is_refit(cycle: Cycle) -> bool:
    """Whether the next candidate is made as the champion was, from newer rows: settings, pipeline
    and notebooks are those of the champion's commit."""
    at = cycle.state.record
    if at.champion is None:
        return False
    commit = at.versions[at.champion.version].commit
    return not _changed(cycle.work, commit)


def _changed(root: Path, commit: str) -> list[str]:
    """The parts of the recipe that differ from a commit's."""
    return [path for path in RECIPE if _recipe(root, "HEAD", path) != _recipe(root, commit, path)]


def _recipe(root: Path, commit: str, path: str) -> object:
    try:
        text = git.run(root, "show", f"{commit}:./{path}")
    except git.GitError:
        text = ""  # not every workspace has a pipeline of its own
    if not (own := RECIPE[path]):
        return text
    return {k: v for k, v in (workspace.value(text) or {}).items() if k not in own}


def judge(cycle: Cycle, call: str) -> None:
    """Go on with the candidate of this cycle as the gate's verdict has it.

    Where nothing passes, `call` is why a person is needed; empty if nobody is.
    """
    state = cycle.state
    if state.candidate in state.released:
        cycle.end(UNCHANGED, f"{state.champion} stays: the candidate is a version already.")
    elif not _further(cycle):
        word = state.gate.replace("_", " ")
        status = NEEDS_ATTENTION if call else UNCHANGED
        why = f"; {call}" if call else ""
        cycle.end(status, f"{state.champion} stays: the candidate is {word}{why}.")


def finish(cycle: Cycle) -> bool:
    """Go on with a candidate or a version of an earlier cycle; whether this cycle ends with it."""
    if _is_open(cycle):
        try:
            if _further(cycle):
                return True
        except evidence.NotFit as error:  # somebody has changed what it was made from
            word = cycle.state.gate.replace("_", " ")
            status = NEEDS_ATTENTION if cycle.state.record.champion else UNCHANGED
            cycle.end(status, f"The candidate is {word}, and not released: {error}")
    version = waiting(cycle)
    if version and cycle.state.record.champion is None:
        return _promote(cycle, version, FIRST)
    return bool(version) and _try(cycle, version)


def waiting(cycle: Cycle) -> str:
    """The newest version, if a cycle released it, and neither a rollout nor a person has done
    anything with it; empty otherwise."""
    state, at = cycle.state, cycle.state.record
    if not at.versions:
        return ""
    version = max(at.versions, key=record.order)
    tag = at.versions[version]
    ours = commits.CYCLE in git.run(cycle.root, "log", "-1", "--format=%B", tag.commit)
    if at.champion is None:
        return version if ours or len(at.versions) == 1 else ""
    tried = any(t.canary["version"] == version for t in state.trials if t.kind == CANARY)
    later = tag.at >= at.champion.tag.at and version not in {t.version for t in at.terms}
    return version if ours and later and not tried else ""


def _is_open(cycle: Cycle) -> bool:
    """Whether the newest candidate was compared with the champion of now, and is no version."""
    state, at = cycle.state, cycle.state.record
    if at.champion is None:
        return bool(state.candidate and state.gate) and not at.versions
    if not commits.trailed(cycle.root, cycles.CANDIDATE)[0]:
        return False  # a person's candidate is a person's to release
    return state.compared == at.champion.version and state.candidate not in state.released


def _further(cycle: Cycle) -> bool:
    """Shadow or release the candidate, if its verdicts are good enough for either; whether so."""
    state = cycle.state
    shadows = [t for t in state.trials if t.kind == SHADOW]
    shadows = [t for t in shadows if t.canary["sha256"] == state.candidate]
    walked, _, sentence = _walked(cycle).partition(" ")
    if walked == "worse":
        return False
    if state.record.champion and not shadows and walked not in PASSES and _needs_shadow(cycle):
        return _shadow(cycle)
    passed, forced = state.gate in PASSES, ""
    if walked in PASSES:
        passed, forced = True, sentence
    if shadows:
        judged = rollout.shadow_result(rollout_log.find(cycle.root, shadows[-1].id))
        if not passed:
            forced = f"shadow {shadows[-1].id}: {judged.get('verdict')}, {judged.get('sentence')}"
        passed = judged.get("verdict") in PASSES
    return passed and _release(cycle, forced)


def walk_forward(cycle: Cycle, gate: str) -> str:
    """Judge a changed recipe that the held-back gate cannot decide, by fresh models of both
    recipes over the weeks of history; the verdict's word and a sentence, or nothing.
    """
    at, work = cycle.state.record, cycle.work
    if at.champion is None or gate not in UNDECIDED:
        return ""
    commit = at.versions[at.champion.version].commit
    if not (changed := _changed(work, commit)):
        return ""
    if notebooks := [path for path in changed if path.endswith(".ipynb")]:
        cycle.step(f"No walk-forward: {several(notebooks)} changed; history replays no notebook.")
        return ""
    from modelkeep.backtest import recipes
    from modelkeep.reports import backtest

    try:
        judged = recipes.walk_forward(*backtest.recipes(work, commit))
    except ModelkeepError as error:
        cycle.step(f"No walk-forward: {error}")
        return ""
    sentence = backtest.recipe_sentence(judged)
    cycle.step(sentence)
    return f"{judged.word} {sentence}"


def _walked(cycle: Cycle) -> str:
    """What `walk_forward` reported of the newest candidate."""
    commit, text = commits.trailed(cycle.root, WALKED)
    return text if commit == commits.trailed(cycle.root, cycles.CANDIDATE)[0] else ""


def _needs_shadow(cycle: Cycle) -> bool:
    setting, gate = cycle.settings.shadow, cycle.state.gate
    if gate == "inconclusive":
        return setting != "never"
    return setting == "always" and gate in PASSES


def _shadow(cycle: Cycle) -> bool:
    """Deploy the candidate as a shadow beside the champion."""
    why = f"the gate says {cycle.state.gate.replace('_', ' ')}"
    if cycle.dry:
        cycle.end(IN_PROGRESS, f"Would deploy the candidate as a shadow: {why}.")
        return True
    store.add(control.folder(cycle.root), cycle.root / CANDIDATE)
    return _begin(cycle, cycle.state.candidate, SHADOW, f"update: {why}", "the candidate")


def _release(cycle: Cycle, forced: str) -> bool:
    if cycle.dry:
        cycle.end(UNCHANGED, "Would release the candidate, which has passed.")
        return True
    # what is released is proved in the worktree: nobody's uncommitted change is part of it
    commits.dvc(cycle.work, "checkout", "--allow-missing")
    done = releases.release(cycle.work, cycle.state.record, cycle.now, forced=forced)
    cycle.step(done.sentence)
    cycle.facts["version"] = done.version
    if cycle.refresh().record.champion is None:
        return _promote(cycle, done.version, FIRST)
    _try(cycle, done.version)
    return True


def _promote(cycle: Cycle, version: str, reason: str) -> bool:
    """Make a version champion at once: the first one, or a refit without the risk of a canary."""
    if cycle.dry:
        cycle.end(PROMOTED, f"Would make {version} champion: {reason}.")
        return True
    _end_reverse_shadow(cycle)
    at = cycle.state.record
    done = releases.promote(cycle.root, at, cycle.now, version, reason, load=models.load)
    cycle.refresh()
    cycle.follow(cycle.following(), done.sentence.partition(" (")[0])
    cycle.end(PROMOTED, done.sentence)
    return True


def _try(cycle: Cycle, version: str) -> bool:
    """Begin the canary of a released version, or promote a refit at once where its predictions
    change no more than usual; whether this cycle ends with it."""
    if not cycle.settings.rollout:
        cycle.end(
            NEEDS_ATTENTION,
            f"{version} is released and waits for a person: "
            f"`modelkeep rollout start {version}`, or `modelkeep promote {version}`.",
        )
        return False
    verdict = record.evidence(cycle.state.record.versions[version])["verdict"]
    if verdict.get("refit") and not verdict.get("canary", True):
        return _promote(cycle, version, f"a refit, all at once: {verdict['risk']}")
    if cycle.dry:
        cycle.end(IN_PROGRESS, f"Would start the rollout of {version}.")
        return True
    if not verdict.get("refit"):
        return _begin(cycle, version, CANARY, "update", version)
    from modelkeep.training import maintenance

    guards = maintenance.rules(cycle.root)
    if not guards.canary_days:
        return _promote(cycle, version, "a refit; canary_days is 0")
    rules = _brief(cycle.root, guards.canary_share, guards.canary_days)
    reason = f"a refit of risk: {verdict.get('risk', '')}"
    return _begin(cycle, version, CANARY, reason, version, rules)


def _brief(root: Path, share: float, days: float) -> planning.Rules:
    """One step of that share for so many days, then all unless harm was shown; the reverse shadow
    follows in place of a bake."""
    rules, longest = planning.rules(workspace.params(root, "rollout")), days * DAY
    steps = {"shares": (share,), "margins": rules.margins[:1], "min_step": longest, "bake": 0.0}
    return replace(rules, **steps, longest=longest, on_undecided=planning.PROMOTE)


def _begin(
    cycle: Cycle,
    name: str,
    kind: str,
    reason: str,
    called: str,
    rules: planning.Rules | None = None,
) -> bool:
    """Start a rollout; where it cannot begin a person is needed, and the cycle may go on."""
    _end_reverse_shadow(cycle)
    try:
        found = control.start(cycle.root, name, cycle.now, kind=kind, reason=reason, rules=rules)
    except ModelkeepError as error:
        cycle.end(NEEDS_ATTENTION, f"{called} cannot begin as {kind}: {error}")
        return False
    cycle.facts["rollout"] = found.spec.id
    share = f" at {found.share:.0%}" if kind == CANARY else ""
    cycle.end(
        IN_PROGRESS,
        f"{called} has begun as {kind}{share} ({found.spec.id}); "
        "the next cycles analyse and advance it.",
    )
    return True


def take_back(cycle: Cycle) -> bool:
    """Judge the champion beside the former one, which predicts silently; whether it was taken back.

    What a person promoted in spite of its record is a person's to take back.
    """
    from modelkeep.evaluation import guards  # SciPy and scikit-learn take a second to import
    from modelkeep.rollout import reverse_shadow
    from modelkeep.training import maintenance

    at, guarded = cycle.state.record, (cycle.root / "params/guards.yaml").is_file()
    if not guarded or reverse_shadow.watched(at) is None:
        return False
    try:
        with closing(control.open_log(cycle.root)) as book:
            wait = cycle.settings.label_wait_days
            judged = reverse_shadow.judge(cycle.root, at, book, cycle.now, wait)
    except log.LogMissing:
        return False
    cycle.judged = judged
    if len(judged.differences):
        cycle.step(guards.report("reverse shadow", judged.sentence))
    if judged.guard.held:
        return _take_back(cycle)
    if judged.complete:
        _end_reverse_shadow(cycle)
    elif not cycle.dry and reverse_shadow.over(at, maintenance.rules(cycle.root), cycle.now):
        reverse_shadow.withdraw(cycle.root)
    return False


def _take_back(cycle: Cycle) -> bool:
    judged, at = cycle.judged, cycle.state.record
    reason = str(at.champion.details.get("reason") or "")
    if at.objections(judged.version) and not reason.startswith("rollout "):
        cycle.end(
            NEEDS_ATTENTION,
            f"{judged.sentence}; a person promoted {judged.version} in spite of its record "
            f"({reason or 'no reason given'}), so it stays: `modelkeep rollback` takes it back.",
        )
        return False
    if cycle.dry:
        cycle.end(NEEDS_ATTENTION, f"Would take {judged.version} back: {judged.sentence}.")
        return True
    _end_reverse_shadow(cycle, taken_back=True)
    reason = f"reverse shadow: {judged.sentence}"
    done = releases.rollback(
        cycle.root, cycle.state.record, cycle.now, judged.former, reason, load=models.load
    )
    cycle.refresh()
    cycle.follow(cycle.following(), f"Take {judged.version} back\n\n{judged.sentence}.")
    cycle.end(NEEDS_ATTENTION, f"Taken back: {done.sentence}")
    return True


def _end_reverse_shadow(cycle: Cycle, taken_back: bool = False) -> None:
    """Put what the reverse shadow has measured on record, as a trial and for later guards."""
    from modelkeep.rollout import reverse_shadow
    from modelkeep.training import maintenance

    judged, cycle.judged = cycle.judged, None
    if judged is None or cycle.dry:
        return
    word = reverse_shadow.TAKEN_BACK if taken_back else reverse_shadow.KEPT
    if reverse_shadow.end(cycle.root, cycle.state.record, judged, word, cycle.now):
        past = maintenance.read(cycle.work).with_differences(judged.differences)
        maintenance.write(cycle.work, past)
        title = f"Reverse shadow of {judged.version}: {word.replace('_', ' ')}"
        cycle.commit([commits.GUARDS], f"{title}\n\n{judged.sentence}.")
        cycle.land()
    cycle.refresh()


def begin_reverse_shadow(cycle: Cycle) -> None:
    """Let the former champion predict silently beside a new one, at the end of an update."""
    from modelkeep.rollout import reverse_shadow

    if not (cycle.root / "params/guards.yaml").is_file() or cycle.state is None:
        return
    try:
        if sentence := reverse_shadow.begin(cycle.root, cycle.state.record, cycle.now):
            cycle.step(sentence)
    except ModelkeepError as error:  # the new champion serves all the same
        cycle.step(f"No reverse shadow: {error}")
