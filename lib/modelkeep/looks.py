"""What one look at a rollout counts: from the prediction log, one outcome an entity, by the split it was answered under"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from modelkeep.canary import Look, Stratum
from modelkeep.entries import CANARY, CHAMPION
from modelkeep.log import Log
from modelkeep.ramp import Rules

if TYPE_CHECKING:
    import pandas as pd

METRICS = ("failed", "slow", "wrong")
NEWEST = 50  # requests of the canary that the circuit breaker looks at
CHUNK = 600_000_000  # microseconds of answers that are read at once when counting begins anew
READ = ["at", "id", "role", "entity", "answer", "label", "labelled_at"]


class LooksError(ValueError):
    """Metrics that cannot be counted."""


@dataclass
class Cursor:
    """How far answers were counted, and which entities were met until then (as sorted hashes)."""

    upto: int
    met: np.ndarray

    def first(self, rows: "pd.DataFrame") -> "pd.DataFrame":
        """The rows of entities never met before, one each; they are met now."""
        at = np.searchsorted(self.met, rows["key"])
        known = self.met[np.minimum(at, len(self.met) - 1)] if len(self.met) else rows["key"] + 1
        new = rows[(known != rows["key"]).to_numpy() & ~rows["key"].duplicated().to_numpy()]
        self.met = np.union1d(self.met, new["key"].to_numpy(dtype=np.uint64))
        return new


class Counter:
    """Counts a rollout look by look; each answer is counted once, also after a restart."""

    def __init__(
        self, log: Log, rules: Rules, started: int, upto: int, *, slow_ms: float, truth: Mapping
    ) -> None:
        self.log, self.rules, self.started = log, rules, started
        self.slow, self.truth, self.newest = slow_ms * 1e3, truth, None
        waits = {round(1e6 * rules.maturity.get(name, 0)) for name in rules.metrics} | {0}
        self.cursors = {wait: Cursor(started, np.zeros(0, np.uint64)) for wait in waits}
        for wait, cursor in self.cursors.items():
            while cursor.upto < upto - wait:  # who was met before
                self._new(cursor, min(cursor.upto + CHUNK, upto - wait), upto)

    def look(self, until: int, share: float) -> Look:
        """What was counted since the last look, of answers before `until`; `share` is the canary's now."""
        counts: dict[str, list[Stratum]] = {}
        met = [0, 0]
        for wait, cursor in self.cursors.items():
            new = self._new(cursor, until - wait, until)
            if wait == 0:
                here = new[np.isclose(new["share"], share)] if len(new) else new
                met = [int((here["role"] == role).sum()) for role in (CHAMPION, CANARY)]
            for name in self.rules.metrics:
                if round(1e6 * self.rules.maturity.get(name, 0)) == wait:
                    counts[name] = self._strata(name, new, wait)
        return Look((until - self.started) / 1e6, counts, tuple(met), self.recent(until, 0))

    def recent(self, until: int, seconds: float) -> Stratum:
        """The canary's newest requests, one an entity, and the champion's of the last `seconds` before `until` (0: since the last look)."""
        if seconds:
            self._keep(rows(self.log, until - round(1e6 * seconds), until, until))
        if self.newest is None:
            return 0, 0, 0, 0
        ours = self.newest[self.newest["role"] == CANARY]
        theirs = self.newest[self.newest["role"] == CHAMPION]
        return (len(theirs), int(theirs["failed"].sum()), len(ours), int(ours["failed"].sum()))

    def _new(self, cursor: Cursor, until: int, known: int) -> "pd.DataFrame":
        found = rows(self.log, cursor.upto, max(until, cursor.upto), known)
        if cursor is self.cursors[0]:
            self._keep(found)
        cursor.upto = max(until, cursor.upto)
        return cursor.first(found)

    def _keep(self, found: "pd.DataFrame") -> None:
        import pandas as pd

        kept = found[found["role"] == CANARY]
        if self.newest is not None:
            kept = pd.concat([self.newest[self.newest["role"] == CANARY], kept])
        kept = kept.sort_values("at", kind="stable").drop_duplicates("key", keep="last")
        beside = found[found["role"] == CHAMPION].drop_duplicates("key", keep="last")
        self.newest = pd.concat([kept.tail(NEWEST), beside])

    def _strata(self, name: str, new: "pd.DataFrame", wait: int) -> list[Stratum]:
        """Counts by the share under which the rows were answered."""
        used, bad = outcome(name, new, slow=self.slow, wait=wait, truth=self.truth)
        shares, roles = new["share"].to_numpy()[used], new["role"].to_numpy()[used]
        found = []
        for share in np.unique(shares):
            ours, theirs = ((shares == share) & (roles == r) for r in (CANARY, CHAMPION))
            found.append(
                tuple(
                    int(n)
                    for n in (
                        theirs.sum(),
                        bad[used][theirs].sum(),
                        ours.sum(),
                        bad[used][ours].sum(),
                    )
                )  # fmt: skip
            )
        return found


def check(rules: Rules, slow_ms: float) -> None:
    """LooksError unless every metric of the rules can be counted."""
    if unknown := set(rules.metrics) - set(METRICS):
        raise LooksError(f"params/rollout.yaml: {sorted(unknown)} cannot be counted from the prediction log; `metrics` may hold {', '.join(METRICS)}")  # fmt: skip
    if "wrong" in rules.metrics and not rules.maturity.get("wrong"):
        raise LooksError("params/rollout.yaml: `wrong` needs a time for labels to come; give `maturity_hours: {wrong: HOURS}`")  # fmt: skip
    if not slow_ms > 0:
        raise LooksError(f"params/rollout.yaml: `slow_ms` is {slow_ms}; it must be above 0")


def rows(log: Log, start: int, end: int, known: int, rollout: bool = True) -> "pd.DataFrame":
    """Answers and failures of champion and canary with start <= at < end, in their order; `rollout`: only those given while there was a canary."""
    import pandas as pd

    calls = [c for c in log.calls(start, end) if c.role in (CHAMPION, CANARY)]
    calls = [c for c in calls if c.share > 0 or not rollout]
    empty = {"at": [], "id": [], "role": [], "entity": [], "answer": [], "label": []}
    parts = [b.select(READ).to_pandas() for b in log.read(start, end, known=known)] if calls else []
    said = pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(empty | {"labelled_at": []})  # fmt: skip
    said["at"] = said["at"].astype("datetime64[us]").astype("int64")
    said["entity"] = said["entity"].fillna(said["id"])
    failed = [(c.at, c.role, who) for c in calls for who in json.loads(c.failed)]
    broke = pd.DataFrame(failed, columns=["at", "role", "entity"]).assign(failed=True)
    every = pd.concat([broke, said.assign(failed=False)], ignore_index=True) if len(broke) else said.assign(failed=False)  # fmt: skip
    under = {(c.at, c.role): (c.took, c.share) for c in calls}
    pairs = list(zip(every["at"].tolist(), every["role"].tolist(), strict=True))
    every["took"] = [under.get(pair, (0, 0.0))[0] for pair in pairs]
    every["share"] = [under.get(pair, (0, 0.0))[1] for pair in pairs]
    every["key"] = np.array([_key(str(each)) for each in every["entity"]], dtype=np.uint64)
    every = every[np.array([pair in under for pair in pairs], dtype=bool)]
    # who was failed by the canary and then answered by the champion counts for the canary
    return every.sort_values(["at", "failed"], ascending=[True, False], kind="stable")


def outcome(
    name: str, new: "pd.DataFrame", *, slow: float, wait: int, truth: Mapping
) -> tuple[np.ndarray, np.ndarray]:
    """Which rows count for a metric, and which of them are bad."""
    failed = new["failed"].to_numpy(dtype=bool)
    if name == "failed":
        return np.ones(len(new), bool), failed
    if name == "slow":
        return ~failed, new["took"].to_numpy() > slow
    arrived = new["labelled_at"].to_numpy().astype("datetime64[us]").astype("int64")
    used = ~failed & new["label"].notna().to_numpy() & (arrived - new["at"].to_numpy() <= wait)
    bad = np.zeros(len(new), bool)
    for i in np.flatnonzero(used):
        told = wrong(json.loads(new["answer"].iloc[i]), new["label"].iloc[i], truth)
        used[i], bad[i] = told is not None, bool(told)
    return used, bad


def truth(task: str, classes: Sequence[str], promise: "pd.DataFrame", label: str, said: np.ndarray) -> dict:  # fmt: skip
    """What makes an answer wrong, from rows that the champion answered before it learned from them.

    Classes: it gave what came true no more probability than its share among all (the larger class is no safe haven). Numbers: it was farther off than half of these answers.
    """
    if task == "regression":
        apart = np.abs(said - promise[label].to_numpy(dtype=float))
        return {"apart": float(np.nanmedian(apart))}
    share = promise[label].astype(str).value_counts(normalize=True)
    return {"classes": [*classes], "share": [float(share.get(name, 0.0)) for name in classes]}


def wrong(answer: Sequence[float], label: str, truth: Mapping) -> bool | None:
    """Whether an answer was wrong; None for a label of no class of the model."""
    if "apart" in truth:
        return abs(answer[0] - float(label)) > truth["apart"]
    if label not in truth["classes"] or len(answer) != len(truth["classes"]):
        return None
    k = truth["classes"].index(label)
    return not answer[k] > truth["share"][k]


@dataclass(frozen=True)
class Before:
    """How the champion did before a rollout: entities a second, how many there are, its bad share by metric."""

    rate: float
    entities: int
    base: dict[str, float]


def before(log: Log, rules: Rules, since: int, until: int, *, slow_ms: float, truth: Mapping) -> Before:  # fmt: skip
    """What the log says of the champion between two moments; a metric without rows is left out."""
    cursor, total, bad = Cursor(since, np.zeros(0, np.uint64)), dict.fromkeys(rules.metrics, 0), dict.fromkeys(rules.metrics, 0)  # fmt: skip
    first, last, at = None, since, since
    while at < until:
        end = min(at + CHUNK, until)
        new = cursor.first(rows(log, at, end, until, rollout=False))
        new, at = new[new["role"] == CHAMPION], end
        if len(new):
            first, last = first or int(new["at"].iloc[0]), int(new["at"].iloc[-1])
        for name in rules.metrics:
            wait = round(1e6 * rules.maturity.get(name, 0))
            old = new[new["at"] + wait <= until]
            used, found = outcome(name, old, slow=slow_ms * 1e3, wait=wait, truth=truth)
            total[name], bad[name] = total[name] + int(used.sum()), bad[name] + int(found[used].sum())  # fmt: skip
    span = max((last - (first or last)) / 1e6, 1.0)
    base = {name: bad[name] / total[name] for name in rules.metrics if total[name]}
    return Before(len(cursor.met) / span, len(cursor.met), base)


def _key(name: str) -> int:
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "big")
