"""Counts of a rollout from the prediction log: one outcome an entity, by the split of its time."""

import json
from collections import Counter as Tally
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

import numpy as np

from modelkeep.core.errors import ModelkeepError
from modelkeep.predictions.log import PredictionLog
from modelkeep.predictions.records import CANARY, CHAMPION, Call
from modelkeep.rollout import outcomes
from modelkeep.rollout.judge import FORMER_METRICS, Analysis, Stratum
from modelkeep.rollout.planning import Rules

if TYPE_CHECKING:
    import pandas as pd


METRICS = ("error", "latency", "quality")
NEWEST = 50  # requests of the canary that the circuit breaker looks at
CHUNK = 3_600_000_000  # microseconds of predictions that are read at once when counting begins anew
READ = ["at", "id", "role", "entity", "features", "answer", "label", "labelled_at"]


class CountsError(ModelkeepError, ValueError):
    """Metrics that cannot be counted."""


@dataclass
class Cursor:
    """The moment up to which rows were counted, and the entities met by then (sorted hashes)."""

    upto: int
    met: np.ndarray

    def first(self, rows: "pd.DataFrame") -> "pd.DataFrame":
        """The rows of entities never met before, one each; they are met now."""
        known = np.isin(rows["key"].to_numpy(), self.met)
        new = rows[~known & ~rows["key"].duplicated().to_numpy()]
        self.met = np.union1d(self.met, new["key"].to_numpy())
        return new


class Counter:
    """Counts a rollout by analysis; each prediction is counted once, also after a restart."""

    def __init__(
        self,
        log: PredictionLog,
        rules: Rules,
        started: int,
        upto: int,
        *,
        slow_ms: float,
        truth: Mapping,
    ) -> None:
        self.log, self.rules, self.started = log, rules, started
        self.slow, self.truth, self.newest = slow_ms * 1e3, truth, None
        waits = {round(1e6 * rules.label_maturity.get(name, 0)) for name in rules.metrics} | {0}
        self.cursors = {wait: Cursor(started, np.zeros(0, np.uint64)) for wait in waits}
        for wait, cursor in self.cursors.items():
            while cursor.upto < upto - wait:  # entities met before
                self._new(cursor, min(cursor.upto + CHUNK, upto - wait), upto)

    def analyze(self, until: int, share: float) -> Analysis:
        """The counts since the last analysis, of predictions before `until`; `share` is the
        canary's now.
        """
        counts: dict[str, list[Stratum]] = {}
        met = [0, 0]
        for wait, cursor in self.cursors.items():
            new = self._new(cursor, until - wait, until)
            if wait == 0:
                here = new[np.isclose(new["share"], share)] if len(new) else new
                met = [int((here["role"] == role).sum()) for role in (CHAMPION, CANARY)]
            for name in self.rules.metrics:
                if round(1e6 * self.rules.label_maturity.get(name, 0)) == wait:
                    counts[name] = self._strata(name, new, wait)
                    if name == "quality" and self.rules.slices:
                        counts |= self._by_slice(new, wait)
        return Analysis((until - self.started) / 1e6, counts, tuple(met), self.recent(until, 0))

    def recent(self, until: int, seconds: float) -> Stratum:
        """The canary's newest requests, one an entity, and the champion's beside them.

        The champion's are of the last `seconds` before `until` (0: since the last analysis).
        """
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

    def _by_slice(self, new: "pd.DataFrame", wait: int) -> dict[str, list[Stratum]]:
        """The counts of quality in each watched slice; a row without a prediction is in none."""
        import pandas as pd

        from modelkeep.data.columns import as_text

        rows = [json.loads(text) if isinstance(text, bytes) else {} for text in new["features"]]
        found = {}
        for each in self.rules.slices:
            values = as_text(pd.Series([row.get(each.column) for row in rows], dtype=object))
            inside = (values == each.value).to_numpy(bool)
            found[each.name] = self._strata("quality", new[inside], wait)
        return found

    def _strata(self, name: str, new: "pd.DataFrame", wait: int) -> list[Stratum]:
        """Counts by the share under which the rows were predicted."""
        used, bad = outcome(name, new, slow=self.slow, wait=wait, truth=self.truth)
        shares, roles = new["share"].to_numpy()[used], new["role"].to_numpy()[used]
        found = []
        for share in np.unique(shares):
            sides = [(shares == share) & (roles == role) for role in (CHAMPION, CANARY)]
            both = [(int(side.sum()), int(bad[used][side].sum())) for side in sides]
            found.append((*both[0], *both[1]))
        return found


def check(rules: Rules, slow_ms: float) -> None:
    """CountsError unless every metric of the rules can be counted."""
    if unknown := set(rules.metrics) - set(METRICS):
        known = [FORMER_METRICS[name] for name in sorted(unknown) if name in FORMER_METRICS]
        hint = f" (renamed to {', '.join(known)})" if known else ""
        raise CountsError(
            f"params/rollout.yaml: {sorted(unknown)} cannot be counted from the prediction log"
            f"{hint}; `metrics` may hold {', '.join(METRICS)}"
        )
    if "quality" in rules.metrics and not rules.label_maturity.get("quality"):
        raise CountsError(
            "params/rollout.yaml: `quality` needs a time for labels to come; "
            "give `label_maturity_hours: {quality: HOURS}`"
        )
    if not slow_ms > 0:
        raise CountsError(f"params/rollout.yaml: `slow_ms` is {slow_ms}; it must be above 0")


def rows(
    log: PredictionLog, start: int, end: int, known: int, rollout: bool = True
) -> "pd.DataFrame":
    """Predictions and failures of champion and canary with start <= at < end, in their order.

    `rollout`: only those served while there was a canary.
    """
    import pandas as pd

    calls = [c for c in log.calls(start, end) if c.role in (CHAMPION, CANARY)]
    calls = [c for c in calls if c.share > 0 or not rollout]
    if not calls:
        return _nothing()
    parts = [batch.select(READ).to_pandas() for batch in log.read(start, end, known=known)]
    answered = pd.concat(parts) if parts else pd.DataFrame(columns=READ, dtype=object)
    answered["at"] = answered["at"].astype("datetime64[us]").astype("int64")
    failed = [(c.at, c.role, who) for c in calls for who in json.loads(c.failed)]
    broke = pd.DataFrame(failed, columns=["at", "role", "entity"]).assign(failed=True)
    some = [part for part in (broke, answered.assign(failed=False)) if len(part)]
    every = pd.concat(some, ignore_index=True) if some else answered.assign(failed=False)
    every = every.reindex(columns=[*READ, "failed"])
    every["labelled_at"] = pd.to_datetime(every["labelled_at"]).astype("datetime64[us]")
    return _under(every, calls)


@cache
def _nothing() -> "pd.DataFrame":
    """No rows, with the columns and dtypes of `rows`."""
    import pandas as pd

    kinds = {"at": "int64", "labelled_at": "datetime64[us]", "failed": bool, "took": "int64"}
    kinds |= {"share": float, "key": np.uint64}
    return pd.DataFrame(
        {name: pd.Series(dtype=kinds.get(name, object)) for name in [*READ, *kinds]}
    )


def _under(every: "pd.DataFrame", calls: Sequence[Call]) -> "pd.DataFrame":
    """Rows with their call and their entity as a number; rows of no call are left out."""
    under = {(c.at, c.role): (c.took, c.share) for c in calls}
    pairs = list(zip(every["at"].tolist(), every["role"].tolist(), strict=True))
    every["took"] = [under.get(pair, (0, 0.0))[0] for pair in pairs]
    every["share"] = [under.get(pair, (0, 0.0))[1] for pair in pairs]
    who = every["entity"].fillna(every["id"])
    every["key"] = np.array([outcomes.key(str(each)) for each in who], dtype=np.uint64)
    every = every[np.array([pair in under for pair in pairs], dtype=bool)]
    # a row that the canary failed and the champion then predicted counts for the canary
    return every.sort_values(["at", "failed"], ascending=[True, False], kind="stable")


def outcome(
    name: str, new: "pd.DataFrame", *, slow: float, wait: int, truth: Mapping
) -> tuple[np.ndarray, np.ndarray]:
    """Which rows count for a metric, and which of them are bad."""
    failed = new["failed"].to_numpy(dtype=bool)
    if name == "error":
        return np.ones(len(new), bool), failed
    if name == "latency":
        return ~failed, new["took"].to_numpy() > slow
    if name != "quality":
        raise CountsError(f"{name!r} is no guardrail metric; there are {', '.join(METRICS)}")
    arrived = new["labelled_at"].to_numpy().astype("int64")
    used = ~failed & new["label"].notna().to_numpy() & (arrived - new["at"].to_numpy() <= wait)
    bad = np.zeros(len(new), bool)
    for i in np.flatnonzero(used):
        label = new["label"].iloc[i]
        wrong = outcomes.wrong(json.loads(new["answer"].iloc[i]), label, truth)
        used[i] = wrong is not None and outcomes.drawn(new["id"].iloc[i], label, truth)
        bad[i] = bool(wrong)
    return used, bad


@dataclass(frozen=True)
class Before:
    """The champion before a rollout: entities a second, their number, its bad share by metric, and
    the share of predictions that counts for each metric.
    """

    rate: float
    entities: int
    base: dict[str, float]
    counted: dict[str, float]


def before(
    log: PredictionLog, rules: Rules, since: int, until: int, *, slow_ms: float, truth: Mapping
) -> Before:
    """The champion between two moments of the log; a metric without rows is left out."""
    cursor, total, bad, every = Cursor(since, np.zeros(0, np.uint64)), Tally(), Tally(), Tally()
    moments: list[int] = []
    for start in range(since, until, CHUNK):
        new = rows(log, start, min(start + CHUNK, until), until, rollout=False)
        new = cursor.first(new[new["role"] == CHAMPION])
        moments += new["at"].tolist()
        for name in rules.metrics:
            wait = round(1e6 * rules.label_maturity.get(name, 0))
            old = new[new["at"] + wait <= until]
            used, found = outcome(name, old, slow=slow_ms * 1e3, wait=wait, truth=truth)
            every[name] += len(old)
            total[name] += int(used.sum())
            bad[name] += int(found[used].sum())
    span = max((moments[-1] - moments[0]) / 1e6, 1.0) if moments else 1.0
    base = {name: bad[name] / total[name] for name in rules.metrics if total[name]}
    counted = {name: total[name] / every[name] for name in base}
    return Before(len(cursor.met) / span, len(cursor.met), base, counted)
