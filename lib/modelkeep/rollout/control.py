"""The controller of a rollout: count, judge, log, change the share; the log's last line serves."""

from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from filelock import FileLock

from modelkeep.core import workspace
from modelkeep.core.errors import ModelkeepError
from modelkeep.data import schema
from modelkeep.predictions import log as logs
from modelkeep.predictions.log import PredictionLog
from modelkeep.registry import store
from modelkeep.registry.store import Now, Role
from modelkeep.rollout import counts, judge, outcomes, planning, rollout_log
from modelkeep.rollout.counts import Counter
from modelkeep.rollout.planning import Plan, Rules, Slice
from modelkeep.rollout.rollout_log import (
    ABORTED,
    CANARY,
    OVERTAKEN,
    PROMOTED,
    SHADOW,
    RolloutLog,
    RolloutSpec,
)
from modelkeep.serving import models

LAG = 1.0  # seconds after which every prediction of a moment is in the log
RECENT = 300.0  # seconds in which a paused canary's failures are looked for
ENDS = {
    PROMOTED: "promoted",
    judge.ROLLBACK: "rolled_back",
    judge.ABORT: "aborted",
    ABORTED: ABORTED,
}
DAYS = 7.0  # of the log that say how the champion does


class RolloutError(ModelkeepError, RuntimeError):
    """A rollout that cannot begin, or cannot go on."""


def folder(root: Path) -> Path:
    """The model store of this workspace."""
    return root / str(workspace.params(root, "serve")["store"])


def open_log(root: Path) -> PredictionLog:
    """The prediction log of the workspace's server."""
    settings = workspace.params(root, "serve")
    return logs.open_log(
        settings["log"], durability=settings["durability"], root=root, create=False
    )


@dataclass(frozen=True)
class Planned:
    """The rules of a rollout for the traffic of the last days: those of params/rollout.yaml, or,
    where these cannot finish (`why` says so), such as this traffic can decide."""

    rules: Rules
    plan: Plan | None  # none where it can decide nothing: the risks say what is bounded
    before: counts.Before
    risks: dict[str, dict[float, float]]
    entity: bool  # whether outcomes are counted once an entity, or once a request
    why: str = ""


def planned(root: Path, log: PredictionLog, now: float, days: float = DAYS) -> Planned:
    """What a rollout needs at the traffic of the last days; PlanError if it cannot begin, or
    cannot finish and `fit_plan` of params/rollout.yaml is false."""
    rules, slow_ms = _rules(root)
    at = store.now(folder(root))
    if at is None:
        raise RolloutError("no model is in service; `modelkeep serve` begins with the candidate")
    rules, truth = standards(root, at.champion.sha256, rules)
    seen = _before(log, rules, now, days, slow_ms, truth)
    return _planned(root, at, rules, seen)


def _planned(root: Path, at: Now, rules: Rules, seen: counts.Before) -> Planned:
    entities = _entities(root, at, seen)
    known = {"entities": entities, "counted": seen.counted}
    why = ""
    try:
        plan = planning.plan(rules, seen.rate, seen.base, **known)
    except planning.CannotFinish as error:
        if not workspace.params(root, "rollout").get("fit_plan", False):
            raise
        why = str(error)
        rules, plan = planning.fitted(rules, seen.rate, seen.base, **known)
    risks = planning.risks(rules, seen.rate, seen.base, **known)
    return Planned(rules, plan, seen, risks, entities < float("inf"), why)


def start(
    root: Path,
    name: str,
    now: float,
    *,
    kind: str = CANARY,
    reason: str = "",
    anyway: bool = False,
    rules: Rules | None = None,
) -> RolloutLog:
    """Begin: the model named (a SHA-256 of the store) gets the first step's share, or is a shadow.

    `anyway`: also where the plan says that it cannot finish; `rules` in place of those of
    params/rollout.yaml, without a plan.
    """
    own, slow_ms = _rules(root)
    anyway, rules = anyway or rules is not None, rules or own
    place = folder(root)
    with lock(place):
        at = _ready(root, place)
        sha256, version, refused = _named(root, name)
        if sha256 == at.champion.sha256:
            raise RolloutError(f"{sha256[:10]} is the champion already; start another model")
        role = Role(sha256, version, rules.shares[0], "try")
        rows = int(workspace.params(root, "serve")["max_rows"])
        models.load(place, Now(at.champion, **{kind: role}), rows)  # they must fit together
        watching, truth = standards(root, at.champion.sha256, rules)
        rules = watching if kind == CANARY else rules
        with closing(open_log(root)) as log:
            seen = _before(log, rules, now, DAYS, slow_ms, truth)
        if kind == CANARY and not anyway:
            rules = _planned(root, at, rules, seen).rules
        if refused:  # what its gate found worse must not be promoted for want of evidence
            rules = replace(rules, on_undecided=planning.ROLLBACK)
        spec = RolloutSpec(
            id=f"{datetime.fromtimestamp(now, UTC):%Y%m%d-%H%M%S}-{sha256[:8]}",
            kind=kind,
            started=int(now * 1e6),
            champion={"sha256": at.champion.sha256, "version": at.champion.version},
            canary={"sha256": sha256, "version": version},
            slow_ms=slow_ms,
            truth=truth,
            reason=reason,
        )
        found = rollout_log.begin(root, rules, seen.base, spec)
        settle(root, found)
    return found


def settle(root: Path, found: RolloutLog) -> bool:
    """Bring the pointer to the log's last line; whether it was not there.

    A rollout that has ended touches only its own roles.
    """
    place, spec = folder(root), found.spec
    if found.end == PROMOTED and _mine(store.now(place), spec):
        promote(root, found)
        _record_trial(root, found)
        return True
    if found.end:
        _record_trial(root, found)
    role = Role(**spec.canary, share=found.share or 1.0, salt=spec.id)
    with store.changing(place):
        at = store.now(place)
        if found.end:
            want, ours = Now(at.champion), _mine(at, spec)
        else:  # not beside another champion, as after a rollback: the next analysis ends it
            want = Now(at.champion, **{spec.kind: role})
            ours = at.champion.sha256 == spec.champion["sha256"]
        if not ours or (at.canary, at.shadow) == (want.canary, want.shadow):
            return False
        store.point(place, want)
    return True


def _record_trial(root: Path, found: RolloutLog) -> None:
    """Put a rollout of a version that has ended on record in Git."""
    spec = found.spec
    if not spec.canary["version"]:
        return
    from modelkeep.registry import releases

    judged = next((e for e in found.events if e["event"] == "judged"), {})
    last = found.verdicts[-1] if found.verdicts else None
    result = {
        "rollout": spec.id,
        "end": judged.get("verdict") or ENDS.get(found.end, found.end),
        "sentence": judged.get("sentence") or (last.reason if last else found.end),
        "champion": spec.champion["version"],
        "analyses": len(found.verdicts),
        "share": max((v.share for v in found.verdicts), default=found.rules.shares[0]),
        "evidence": last.evidence if last else judged.get("gains"),
    }
    now = found.rows[-1].get("at") or found.upto
    releases.record_trial(root, spec.canary["version"], spec.kind, result, now / 1e6)


def _mine(at: Now, spec: RolloutSpec) -> bool:
    return any(role and role.salt == spec.id for role in (at.canary, at.shadow))


def promote(root: Path, found: RolloutLog) -> None:
    """Make the canary champion, on record if it is a version; the former one stays in the store."""
    canary = found.spec.canary
    if not canary["version"]:
        store.point(folder(root), Now(Role(**canary)))
        return
    from modelkeep.registry import (
        record,
        releases,  # a model without a version needs no Git
    )

    why = f"rollout {found.spec.id}: {found.verdicts[-1].reason}"
    releases.promote(
        root, record.read(root), found.upto / 1e6, canary["version"], why, load=models.load
    )


def note(root: Path, event: str, now: float, reason: str = "", id: str = "") -> RolloutLog:
    """Pause, resume or abort a rollout: a pause keeps the share, an abort ends it."""
    with lock(folder(root)):
        found = rollout_log.find(root, id)
        if found.end:
            raise RolloutError(f"{found.spec.id} has ended ({found.end}); nothing was changed")
        if event == "resume" and not found.paused:
            raise RolloutError(f"{found.spec.id} is not paused; nothing was changed")
        if event != "pause" or not found.paused:
            found = rollout_log.noted(found, event, int(now * 1e6), reason=reason)
        settle(root, found)
    return found


class Controller:
    """Goes on with a rollout; killed at any point, another one goes on from the log."""

    def __init__(
        self, root: Path, log: PredictionLog, clock: Callable[[], float], id: str = ""
    ) -> None:
        self.root, self.log, self.clock = root, log, clock
        self.path = rollout_log.find(root, id).path
        self.found: RolloutLog | None = None
        self.counter: Counter | None = None
        self.analyzed = 0.0  # not every analysis is logged: while it is paused, or a shadow

    @property
    def due(self) -> float:
        """When the next analysis is due, in seconds since 1970."""
        found = self.found
        if found is None:
            return 0.0
        age = max(self.analyzed - found.spec.started / 1e6, 0.0)
        # an analysis of a shadow reads all its predictions
        wait = max(found.rules.interval, age / 20 if found.spec.kind == SHADOW else 0.0)
        return max(found.upto / 1e6 + found.rules.interval + LAG, self.analyzed + wait)

    def turn(self) -> RolloutLog:
        """Bring the pointer to the record, and make one analysis if it is due."""
        with lock(folder(self.root)):
            self._read()
            if not self.found.end and self._overtaken():
                self._note(OVERTAKEN, champion=store.now(folder(self.root)).champion.sha256)
            settle(self.root, self.found)
            if not self.found.end and self.clock() >= self.due:
                self._analyze(int((self.clock() - LAG) * 1e6))
                settle(self.root, self.found)
        return self.found

    def _read(self) -> None:
        if self.found is None or self.path.stat().st_size != self.found.size:
            self.found, self.counter = rollout_log.read(self.path), None

    def _analyze(self, until: int) -> None:
        found, spec, self.analyzed = self.found, self.found.spec, self.clock()
        if spec.kind == SHADOW:
            from modelkeep.rollout import shadow  # and so does SciPy

            result = shadow.judge(self.log, found, until)
            if result["verdict"]:
                self._note("judged", **result)
            return
        if self.counter is None:
            settings = {"slow_ms": spec.slow_ms, "truth": spec.truth}
            self.counter = Counter(self.log, found.rules, spec.started, found.upto, **settings)
        # a person holds it: only a canary that fails outright goes back meanwhile
        if found.paused and not judge.breaks(self.counter.recent(until, RECENT)):
            return
        # counted, but not on record, is to be counted again
        counter, self.counter = self.counter, None
        self.found, _ = rollout_log.judged(found, counter.analyze(until, found.share))
        self.counter = counter

    def _overtaken(self) -> bool:
        """Whether another model is champion now, or was meanwhile: then the canary is gone."""
        at, spec = store.now(folder(self.root)), self.found.spec
        other = at.champion.sha256 != spec.champion["sha256"]
        if other or _mine(at, spec):
            return other
        from modelkeep.core import git
        from modelkeep.registry import record

        try:
            term = record.read(self.root).champion
        except (record.RecordError, git.GitError):
            return False  # where nothing is on record nothing was promoted
        return bool(term) and term.tag.at > spec.started / 1e6

    def _note(self, event: str, **fields: object) -> None:
        self.found = rollout_log.noted(self.found, event, int(self.clock() * 1e6), **fields)


def run(
    controller: Controller,
    sleep: Callable[[float], None],
    say: Callable[[RolloutLog], None],
    once: bool = False,
) -> RolloutLog:
    """Analyse whenever it is due, until the rollout has ended; `once`: one analysis at most."""
    while True:
        logged = controller.found and len(controller.found.rows)
        try:
            found = controller.turn()
        except logs.LogError:
            if once or controller.found is None:
                raise
            found = controller.found  # the log goes on by itself, and so do we
        if len(found.rows) != logged:
            say(found)
        if once or found.end:
            return found
        sleep(max(0.05, min(controller.due - controller.clock(), found.rules.interval)))


def lock(place: Path) -> FileLock:
    """What one command at a time may hold in a store; the lock of a killed one is free."""
    place.mkdir(parents=True, exist_ok=True)
    return FileLock(place / "rollout.lock")


def _rules(root: Path) -> tuple[Rules, float]:
    params = workspace.params(root, "rollout")
    rules = planning.rules(params)
    counts.check(rules, params["slow_ms"])
    return rules, float(params["slow_ms"])


def _ready(root: Path, place: Path) -> Now:
    last = rollout_log.newest(root)
    if last is not None and not (found := rollout_log.read(last)).end:
        raise RolloutError(
            f"{found.spec.id} goes on with {found.spec.canary['sha256'][:10]}; "
            "one rollout at a time: wait for its end, or `modelkeep rollout abort`"
        )
    if last is not None:
        settle(root, found)  # it may have been killed before its last step
    at = store.now(place)
    if at is None:
        raise RolloutError("no model is in service; `modelkeep serve` begins with the candidate")
    if at.canary or (at.shadow and not at.shadow.salt.startswith(store.REVERSE)):
        raise RolloutError(
            f"{place.name}/{store.POINTER} names a canary or a shadow that no rollout put there; "
            "point the store at the champion alone"
        )
    return at


def _named(root: Path, name: str) -> tuple[str, str, bool]:
    """The SHA-256 and version of the model that is meant, which is in the store then, and whether
    the gate found that version worse than its champion.
    """
    known = [path.name for path in sorted((folder(root) / "bundles").glob("*"))]
    meant = [sha256 for sha256 in known if len(name) >= 7 and sha256.startswith(name)]
    if len(meant) == 1:
        return meant[0], "", False
    from modelkeep.registry import record, releases

    try:
        target = record.read(root).find(name)
    except (record.RecordError, record.UnknownVersion) as error:
        there = ", ".join(sha256[:10] for sha256 in known) or "none"
        raise RolloutError(
            f"{name!r} is no model of the store (there is {there}), and no version: {error}"
        ) from None
    evidence = record.evidence(target)
    releases.fetch(root, target, evidence)
    refused = evidence["verdict"]["state"] == "worse"
    return evidence["hashes"]["bundle"], target.version, refused


def standards(root: Path, champion: str, rules: Rules) -> tuple[Rules, dict]:
    """What the champion's predictions of cross-validation set: the rules with the gate's slices
    (params/evaluate.yaml, where quality is a guardrail), and the rule of a bad prediction.
    """
    from modelkeep.training import baseline, bundle  # scikit-learn takes a second to import

    model = bundle.load(store.path(folder(root), champion))
    truth = outcomes.truth(model.schema, model.out_of_fold)
    if "quality" not in rules.metrics or not (root / "params/evaluate.yaml").is_file():
        return rules, truth
    named = workspace.params(root, "evaluate").get("slices", [])
    chosen = baseline.slice_values(model.out_of_fold, model.schema, named)
    return replace(rules, slices=tuple(Slice(*each) for each in chosen)), truth


def _before(
    log: PredictionLog, rules: Rules, now: float, days: float, slow_ms: float, truth: dict
) -> counts.Before:
    until = int((now - LAG) * 1e6)
    since = max(until - int(days * 86_400e6), 0)
    return counts.before(log, rules, since, until, slow_ms=slow_ms, truth=truth)


def _entities(root: Path, at: Now, seen: counts.Before) -> float:
    content = store.check(folder(root), at.champion.sha256)
    columns = schema.from_json(content["schema.json"].decode())
    once = columns.entity and columns.entity != columns.id
    return seen.entities if once else float("inf")
