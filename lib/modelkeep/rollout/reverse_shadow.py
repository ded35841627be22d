"""After a promotion the former champion predicts silently beside the new one, which is taken back
when it is proven worse.

Nothing but the record (the champion's tag), the pointer and the prediction log is read, so that a
killed update loses nothing: the next one judges the same days again.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from modelkeep.evaluation.guards import Guard
from modelkeep.predictions.log import PredictionLog
from modelkeep.registry import record, releases, store
from modelkeep.registry.record import Record, Term
from modelkeep.registry.store import Now, Role
from modelkeep.rollout import outcomes, rollout_log, shadow
from modelkeep.serving import models
from modelkeep.training import bundle, maintenance
from modelkeep.training.maintenance import Rules

KIND = "reverse-shadow"  # of the trial on record
KEPT, TAKEN_BACK = "kept", "taken_back"
DAY = 86_400.0


@dataclass(frozen=True)
class Judged:
    """A new champion beside the former one, on the days whose labels are known.

    `differences` (days,) are mean losses of the new less those of the former, `complete` says
    whether no more days are to come.
    """

    id: str
    version: str
    former: str
    guard: Guard
    differences: np.ndarray
    rows: int
    complete: bool

    @property
    def sentence(self) -> str:
        """What was measured, with its numbers."""
        if not len(self.differences):
            return f"no day with labels of both {self.version} and {self.former}"
        mean = float(self.differences.mean())
        better = "worse" if mean > 0 else "better"
        return (
            f"{self.version} is {better} than {self.former} by {abs(mean):.3g} in loss a row "
            f"on {self.rows:,} rows; {self.guard.sentence}"
        )


def watched(at: Record) -> Term | None:
    """The champion's term, if a reverse shadow belongs to it and has not ended.

    One that has ended in a take-back which a kill cut short goes on.
    """
    term = at.champion
    if term is None or term.details.get("action") != "promote" or at.before is None:
        return None
    tried = [trial.result for trial in at.tried(term.version)]
    ended = {result.get("rollout") for result in tried if result.get("end") != TAKEN_BACK}
    return None if name(term) in ended else term


def name(term: Term) -> str:
    """The id of a term's reverse shadow."""
    return f"{KIND}-{term.tag.counter}"


def begin(root: Path, at: Record, now: float) -> str:
    """Let the former champion predict silently, if nothing else is being tried; a sentence, or ''
    where nothing has begun."""
    term, rules = watched(at), maintenance.rules(root)
    if term is None or now >= term.tag.at + rules.shadow_days * DAY or _running(root):
        return ""
    place, former = releases.folder(root), at.versions[at.before]
    evidence = record.evidence(former)
    releases.fetch(root, former, evidence)
    role = Role(evidence["hashes"]["bundle"], at.before, salt=f"{store.REVERSE}{name(term)}")
    with store.changing(place):
        pointer = store.now(place)
        free = pointer and not pointer.canary and not pointer.shadow
        if not free or pointer.champion.version != term.version:
            return ""
        models.load(place, Now(pointer.champion, shadow=role), 1)  # they must fit together
        store.point(place, Now(pointer.champion, shadow=role))
    return (
        f"{at.before} predicts silently beside {term.version} for {rules.shadow_days:g} days, and "
        "takes over again if that is proven worse."
    )


def judge(
    root: Path, at: Record, log: PredictionLog, now: float, wait_days: float
) -> Judged | None:
    """Judge the champion beside the former one by the days that are `wait_days` old; None where no
    reverse shadow belongs to it."""
    term = watched(at)
    if term is None:
        return None
    rules, starts = maintenance.rules(root), term.tag.at
    end = min([starts + rules.shadow_days * DAY, *_later_rollouts(root, starts), now])
    known, truth = _labelled(root, at, log, (starts, end, now))
    day = known["day"].to_numpy().astype("datetime64[D]")
    old_enough = np.datetime64(int(now - wait_days * DAY), "s").astype("datetime64[D]")
    known, day = known[day < old_enough], day[day < old_enough]
    means, errors, loss = np.zeros(0), np.zeros(0), 1.0
    if len(known):
        task, y, new, old = shadow.outcomes(known, truth)
        each = maintenance.day_differences(task, day, y, new, old)
        means, errors, loss = each.means, each.errors, each.loss
    guard = maintenance.reverse_shadow(means, errors, loss, maintenance.read(root), rules)
    complete = now >= end + wait_days * DAY and end < now
    return Judged(name(term), term.version, at.before, guard, means, len(known), complete)


def end(root: Path, at: Record, judged: Judged, word: str, now: float) -> str:
    """Put the reverse shadow on record as a trial of the new champion; its tag."""
    withdraw(root)
    result = {
        "rollout": judged.id,
        "end": word,
        "sentence": judged.sentence,
        "champion": judged.former,
        "days": len(judged.differences),
        "rows": judged.rows,
        "evidence": judged.guard.value,
    }
    return releases.record_trial(root, judged.version, KIND, result, now)


def withdraw(root: Path) -> None:
    """Let the former champion predict no more."""
    place = releases.folder(root)
    with store.changing(place):
        pointer = store.now(place)
        if pointer and is_reverse(pointer.shadow):
            store.point(place, Now(pointer.champion, pointer.canary))


def over(at: Record, rules: Rules, now: float) -> bool:
    """Whether the days of the former champion's predictions have passed."""
    return at.champion is None or now >= at.champion.tag.at + rules.shadow_days * DAY


def is_reverse(role: Role | None) -> bool:
    """Whether a role of the pointer is a former champion that is on its reverse shadow."""
    return role is not None and role.salt.startswith(store.REVERSE)


def _running(root: Path) -> bool:
    last = rollout_log.newest(root)
    return last is not None and not rollout_log.read(last).end


def _later_rollouts(root: Path, since: float) -> list[float]:
    starts = (spec.started / 1e6 for spec in rollout_log.specs(root))
    return [each for each in starts if each > since]


def _labelled(
    root: Path, at: Record, log: PredictionLog, moments: tuple[float, float, float]
) -> tuple[pd.DataFrame, dict]:
    """Rows from start to end that both predicted and whose label is known by now, and the rule of
    their labels."""
    start, end, now = moments
    sha256 = record.evidence(at.versions[at.champion.version])["hashes"]["bundle"]
    champion = bundle.load(store.path(releases.folder(root), sha256))
    truth = outcomes.truth(champion.schema, champion.out_of_fold)
    wait = int((now - end) * 1e6)
    both = shadow.pairs(log, int(start * 1e6), int(end * 1e6), wait)
    return shadow.labelled(both, truth), truth
