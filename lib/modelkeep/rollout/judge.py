"""Should the canary's share grow? A pure judge over counts, valid however often it is asked

Champion and canary answer side by side. A look brings what was counted since the last one, as strata: rows of one split of the traffic and, where labels come late, of one
cohort of answers that all had the same time to mature. Strata are never pooled. Count one outcome per entity: the requests of one user are alike.
"""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace

import numpy as np

from modelkeep.core.errors import ModelkeepError
from modelkeep.evaluation import sequential
from modelkeep.evaluation.sequential import Evidence
from modelkeep.rollout.planning import PROMOTE, Rules

SPLIT = 6.907755278982137  # ln 1000: evidence of a wrong sample ratio that stops a rollout
DOUBT = 0.6931471805599453  # ln 2: with so much evidence that it is worse the share does not grow for now
BREAKER_BAD, BREAKER_ROWS, BREAKER_CHAMPION = 25, 50, 0.1
Stratum = Sequence[int]  # champion rows, bad ones, canary rows, bad ones


class JudgeError(ModelkeepError, ValueError):
    """Counts or a record that the judge cannot use."""


@dataclass(frozen=True)
class Look:
    """What was counted since the last look, at `at` seconds after the start.

    `counts` holds strata by metric, `entities` those first seen in this step (champion's, canary's), `recent` the canary's last 50 requests and the champion's beside them,
    one an entity: counted by request, one user with a broken client opens the circuit breaker.
    """

    at: float
    counts: Mapping[str, Sequence[Stratum]]
    entities: Sequence[int] = (0, 0)
    recent: Stratum = (0, 0, 0, 0)


@dataclass(frozen=True)
class State:
    """All that the judge remembers; `final` is the word that ended the rollout, or empty."""

    found: Evidence
    step: int = 0
    since: float = 0.0
    at: float = 0.0
    entities: tuple[int, int] = (0, 0)
    final: str = ""

    def as_dict(self) -> dict:
        """Plain data for JSON; a record (see `line`) is enough to make it again."""
        found = {name: array.tolist() for name, array in vars(self.found).items()}
        found["base"] = [None if math.isnan(rate) else rate for rate in found["base"]]
        return {**vars(self), "found": found}


@dataclass(frozen=True)
class Verdict:
    """`wait`, `step_up`, `roll_back`, `hold`, `error` or `stop`; why, in numbers; the canary's share from now on.

    `evidence` holds natural logarithms by metric: that the canary is worse, and that it is not worse by the step's margin; `split`, that the sample ratio is wrong.
    """

    word: str
    reason: str
    share: float
    step: int
    evidence: dict[str, dict[str, float]]
    split: float


def start(rules: Rules, base: Mapping[str, float] | None = None) -> State:
    """Return the state before the first look; `base` is the champion's bad share by metric, where it is known."""
    for name, rate in (base or {}).items():
        if name not in rules.metrics or not 0 <= rate <= 1:
            raise JudgeError(f"$.base.{name}: {rate!r}; give a share from 0 to 1 of a guarded metric ({', '.join(rules.metrics)})")  # fmt: skip
    known = [(base or {}).get(name, math.nan) for name in rules.metrics]
    return State(sequential.begin(np.array(known, float)))


def judge(rules: Rules, state: State, look: Look) -> tuple[State, Verdict]:
    """Weigh one look: the state after it, and what to do now. Once final, a verdict is only repeated."""
    _check(rules, state, look)
    entities = (state.entities[0] + look.entities[0], state.entities[1] + look.entities[1])
    found = _weighed(rules, state, look)
    after = replace(state, at=look.at, entities=entities, found=found)
    names, worse = rules.metrics, sequential.is_worse(found).tolist()
    harmless = sequential.is_harmless(found).tolist()
    split = 0.0 if _baking(rules, state) else sequential.ratio(*entities, rules.share(state.step))
    decided = _decide(rules, after, look, max(zip(worse, names)), min(zip(harmless, names)), split)
    evidence = {
        name: {"worse": w, "harmless": h} for name, w, h in zip(names, worse, harmless, strict=True)
    }
    after = _moved(rules, after, decided[0])
    share = 0.0 if after.final in ("roll_back", "stop") else rules.share(after.step)
    return after, Verdict(*decided, share, after.step, evidence, split)


def breaks(recent: Stratum) -> bool:
    """Whether the circuit breaker opens: half of the canary's last requests failed, and not the champion's."""
    n_a, x_a, n_b, x_b = recent
    return x_b >= BREAKER_BAD and n_b <= BREAKER_ROWS and x_a <= BREAKER_CHAMPION * n_a


def opened(rules: Rules, base: Mapping[str, float] | None = None) -> str:
    """Return the first line of a rollout's record."""
    start(rules, base)
    return json.dumps({"rules": asdict(rules), "base": dict(base or {})})


def line(look: Look, verdict: Verdict) -> str:
    """Return the line of a rollout's record for one look: what was counted, and what was concluded."""
    return json.dumps({"look": vars(look), "verdict": vars(verdict)})


def replay(lines: Iterable[str]) -> tuple[Rules, State, list[Verdict]]:
    """Judge a rollout again from its record; refuses a record that concluded something else."""
    rows = [_parsed(number, text) for number, text in enumerate(lines, 1)]
    if not rows or "rules" not in rows[0]:
        raise JudgeError("line 1: a record begins with the rules of its rollout; start again")
    given = {k: tuple(v) if isinstance(v, list) else v for k, v in rows[0]["rules"].items()}
    rules = Rules(**given)
    state, verdicts = start(rules, rows[0]["base"]), []
    for number, row in enumerate(rows[1:], 2):
        if "look" not in row:  # what people did is on record too, and no evidence
            continue
        state, verdict = judge(rules, state, Look(**row["look"]))
        if verdict.word != row["verdict"]["word"]:
            raise JudgeError(
                f"line {number}: {row['verdict']['word']!r} is on record, its counts give {verdict.word!r}; "
                "the record was changed, or another version wrote it: abort this rollout and start again"
            )
        verdicts.append(verdict)
    return rules, state, verdicts


def _parsed(number: int, text: str) -> dict:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise JudgeError(f"line {number}: {error}; cut the record before this line") from None


def _baking(rules: Rules, state: State) -> bool:
    return state.step == len(rules.shares)


def _weighed(rules: Rules, state: State, look: Look) -> Evidence:
    """Weigh all metrics at once: the first stratum of each, then the second of each; who has none adds none."""
    found = state.found
    strata = [look.counts.get(name, ()) for name in rules.metrics]
    margin = rules.margins[min(state.step, len(rules.margins) - 1)]  # none is asked while baking
    for i in range(max(map(len, strata))):
        counts = np.array([each[i] if i < len(each) else (0, 0, 0, 0) for each in strata], float)
        found = sequential.weigh(found, counts, np.full(len(strata), margin), rules.floor)
    return found


def _decide(
    rules: Rules,
    now: State,
    look: Look,
    worst: tuple[float, str],
    least: tuple[float, str],
    split: float,
) -> tuple[str, str]:
    needed = math.log(len(rules.metrics) / rules.alpha)
    if now.final:
        return now.final, "decided before"
    if breaks(look.recent):
        rows, bad = look.recent[2:]
        return "roll_back", f"the circuit breaker opened: {bad} of the canary's last {rows} requests failed"  # fmt: skip
    if worst[0] >= needed:
        return "roll_back", f"`{worst[1]}` is worse than the champion's: evidence {worst[0]:.2f}, {needed:.2f} is enough"  # fmt: skip
    if split >= SPLIT:
        canary, all_ = now.entities[1], sum(now.entities)
        return "stop", f"the canary got {canary:,} of {all_:,} entities, its share is {rules.share(now.step):.1%}: evidence {split:.1f}, {SPLIT:.1f} is enough"  # fmt: skip
    if not _baking(rules, now) and now.at >= rules.longest:
        return _undecided(rules, now)
    if not any(s[0] + s[2] for strata in look.counts.values() for s in strata):
        return "error", f"no data: not one row in the look at {now.at:,.0f} s; see whether traffic arrives and is logged"  # fmt: skip
    return _bake(rules, now) if _baking(rules, now) else _grow(rules, now, worst, least)


def _undecided(rules: Rules, now: State) -> tuple[str, str]:
    if rules.undecided == PROMOTE and now.found.weighed.min() > 0:
        return "step_up", (
            f"no harm was shown in {now.at / 3600:.1f} h at step {now.step + 1}, and "
            f"{rules.longest / 3600:g} h were allowed; what is worse by little may pass so"
        )
    left = rules.longest + rules.hold - now.at
    said = f"undecided at step {now.step + 1} after {now.at / 3600:.1f} h, {rules.longest / 3600:g} h were allowed"
    if left > 0:
        return "hold", f"{said}; rolls back in {left / 3600:.1f} h"
    return "roll_back", f"{said} and {rules.hold / 3600:g} h to look at it"


def _bake(rules: Rules, now: State) -> tuple[str, str]:
    baked = now.at - now.since
    said = f"all traffic for {baked / 3600:.1f} h of {rules.bake / 3600:g} h"
    return ("step_up" if baked >= rules.bake else "wait"), said


def _grow(
    rules: Rules, now: State, worst: tuple[float, str], least: tuple[float, str]
) -> tuple[str, str]:
    needed, margin = math.log(1 / rules.alpha), rules.margins[now.step]
    if least[0] < needed:
        return "wait", f"`{least[1]}` may still be {margin:g} times worse: evidence against that {least[0]:.2f}, {needed:.2f} is needed"  # fmt: skip
    if worst[0] >= DOUBT:
        return "wait", f"`{worst[1]}` leans to worse: evidence {worst[0]:.2f}, below {DOUBT:.2f} the share may grow"  # fmt: skip
    if now.at - now.since < rules.dwell:
        return "wait", f"at this step for {now.at - now.since:,.0f} s, the least is {rules.dwell:,.0f} s"  # fmt: skip
    return "step_up", f"nothing is {margin:g} times worse: evidence against that at least {least[0]:.2f}, {needed:.2f} is enough"  # fmt: skip


def _moved(rules: Rules, now: State, word: str) -> State:
    if now.final or word in ("wait", "hold", "error"):
        return now
    if word != "step_up" or _baking(rules, now):
        return replace(now, final=word)
    found = replace(now.found, harmless=np.zeros_like(now.found.harmless))
    step = len(rules.shares) if now.at >= rules.longest else now.step + 1
    return replace(now, step=step, since=now.at, entities=(0, 0), found=found)


def _check(rules: Rules, state: State, look: Look) -> None:
    if not look.at > state.at:
        raise JudgeError(f"$.at: {look.at} s is not after the last look at {state.at} s; judge each look once")  # fmt: skip
    if unknown := set(look.counts) - set(rules.metrics):
        raise JudgeError(f"$.counts: {sorted(unknown)} not guarded; the rules guard {', '.join(rules.metrics)}")  # fmt: skip
    strata = {f"$.counts.{k}[{i}]": s for k, v in look.counts.items() for i, s in enumerate(v)}
    for where, (n_a, x_a, n_b, x_b) in {**strata, "$.recent": look.recent}.items():
        if not (0 <= x_a <= n_a and 0 <= x_b <= n_b):
            raise JudgeError(f"{where}: {x_a} bad of {n_a}, {x_b} bad of {n_b}; bad ones are from 0 to all rows")  # fmt: skip
    if min(look.entities) < 0:
        raise JudgeError(f"$.entities: {list(look.entities)}; both are 0 or more")
