"""The judge of a canary: counts in, a decision and its reason out, valid at every analysis.

Champion and canary serve side by side. An analysis brings the counts since the last one, as strata:
rows of one split of the traffic and, where labels come late, of one cohort of predictions that all
had the same time to mature. Strata are never pooled. Count one outcome per entity: the requests of
one user are alike.

All evidence that is reported is e-values; a decision is made at an alert threshold.
"""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from enum import StrEnum

import numpy as np

from modelkeep.core.errors import ModelkeepError
from modelkeep.core.markup import significant
from modelkeep.evaluation import sequential
from modelkeep.evaluation.sequential import Evidence
from modelkeep.rollout.planning import PROMOTE, Rules, Slice

MISMATCH = 1000.0  # from this e-value of a wrong sample ratio on a rollout is aborted
DOUBT = 2.0  # from this e-value on that it is worse, the share does not grow for now
LARGEST = 700.0  # logarithm of the largest e-value that is reported
BREAKER_BAD, BREAKER_ROWS, BREAKER_CHAMPION = 25, 50, 0.1
Stratum = Sequence[int]  # champion rows, bad ones, canary rows, bad ones


class Decision(StrEnum):
    """What an analysis concludes."""

    ADVANCE = "advance"  # the next step, or promoted after the last
    ROLLBACK = "rollback"
    INCONCLUSIVE = "inconclusive"  # the allowed time is over; a person may look before it goes back
    ABORT = "abort"  # the traffic is not split as it should be
    WAIT = "wait"
    NO_DATA = "no_data"


ADVANCE, ROLLBACK, INCONCLUSIVE, ABORT, WAIT, NO_DATA = Decision

# what logs of earlier versions call the same
FORMER = {
    "step_up": "advance",
    "roll_back": "rollback",
    "hold": "inconclusive",
    "stop": "abort",
    "error": "no_data",
}
FORMER_METRICS = {"failed": "error", "slow": "latency", "wrong": "quality"}
FORMER_RULES = {
    "maturity": "label_maturity",
    "floor": "tolerated_error_rate",
    "look": "interval",
    "dwell": "min_step",
    "undecided": "on_undecided",
}


class JudgeError(ModelkeepError, ValueError):
    """Counts or a record that the judge cannot use."""


@dataclass(frozen=True)
class Analysis:
    """The counts since the last analysis, at `at` seconds after the start.

    `counts` holds strata by metric, `entities` those first seen in this step (champion's,
    canary's), `recent` the canary's last 50 requests and the champion's beside them, one an entity:
    counted by request, one user with a broken client opens the circuit breaker.
    """

    at: float
    counts: Mapping[str, Sequence[Stratum]]
    entities: Sequence[int] = (0, 0)
    recent: Stratum = (0, 0, 0, 0)


@dataclass(frozen=True)
class State:
    """All that the judge remembers; `final` is the decision that ended the rollout, or empty."""

    evidence: Evidence
    step: int = 0
    since: float = 0.0
    at: float = 0.0
    entities: tuple[int, int] = (0, 0)
    final: str = ""

    def as_dict(self) -> dict:
        """Plain data for JSON; a record (see `line`) is enough to make it again."""
        evidence = {name: array.tolist() for name, array in vars(self.evidence).items()}
        evidence["base"] = [None if math.isnan(rate) else rate for rate in evidence["base"]]
        return {**vars(self), "evidence": evidence}


@dataclass(frozen=True)
class Verdict:
    """A decision, its reason in numbers, and the canary's share from now on.

    `evidence` holds e-values by metric: `e_worse` that the canary is worse, `e_noninferior` (not of
    slices) that it is not worse by the step's margin; `sample_ratio_mismatch` is the e-value of a
    wrong ratio.
    """

    decision: Decision
    reason: str
    share: float
    step: int
    evidence: dict[str, dict[str, float]]
    sample_ratio_mismatch: float


def start(rules: Rules, base: Mapping[str, float] | None = None) -> State:
    """Return the state before the first analysis; `base` is the champion's bad share by metric,
    where it is known.
    """
    for name, rate in (base or {}).items():
        if name not in rules.metrics or not 0 <= rate <= 1:
            raise JudgeError(
                f"$.base.{name}: {rate!r}; give a share from 0 to 1 of a guardrail metric "
                f"({', '.join(rules.metrics)})"
            )
    known = [(base or {}).get(name, math.nan) for name in _watched(rules)]
    return State(sequential.begin(np.array(known, float)))


def judge(rules: Rules, state: State, analysis: Analysis) -> tuple[State, Verdict]:
    """Return the state after one analysis, and the decision. Once final, it is only repeated."""
    _check(rules, state, analysis)
    entities = tuple(map(sum, zip(state.entities, analysis.entities, strict=True)))
    evidence = _weighed(rules, state, analysis)
    after = replace(state, at=analysis.at, entities=entities, evidence=evidence)
    names, worse = _watched(rules), sequential.log_e_worse(evidence).tolist()
    noninferior = sequential.log_e_noninferior(evidence).tolist()[: len(rules.metrics)]
    mismatch = 0.0
    if not _baking(rules, state):
        mismatch = sequential.sample_ratio_mismatch(*entities, rules.share(state.step))
    harm = _harm(rules, worse)
    worst, least = max(zip(worse, rules.metrics)), min(zip(noninferior, names))
    decision, reason = _decide(rules, after, analysis, harm, worst, least, mismatch)
    values = {name: {"e_worse": e_value(w)} for name, w in zip(names, worse, strict=True)}
    for name, n in zip(names, noninferior):  # a slice is watched for harm alone
        values[name]["e_noninferior"] = e_value(n)
    after = _after(rules, after, decision)
    share = 0.0 if after.final in (ROLLBACK, ABORT) else rules.share(after.step)
    return after, Verdict(decision, reason, share, after.step, values, e_value(mismatch))


def _watched(rules: Rules) -> tuple[str, ...]:
    """The guardrail metrics, then that of each slice."""
    return (*rules.metrics, *(each.name for each in rules.slices))


def _harm(rules: Rules, worse: Sequence[float]) -> str:
    """What is worse than the champion's, in words; empty where nothing is."""
    names = _watched(rules)
    alerts = [rules.alert] * len(rules.metrics) + [rules.slice_alert] * len(rules.slices)
    thresholds = [math.log(alert) for alert in alerts]
    over = [w - t for w, t in zip(worse, thresholds, strict=True)]
    at = over.index(max(over))
    if over[at] < 0:
        return ""
    shown = _with_threshold(worse[at], thresholds[at])
    return f"`{names[at]}` is worse than the champion's: {shown}"


def e_value(log: float) -> float:
    """The e-value of a logarithm, at most the largest that a record can hold."""
    return math.exp(min(log, LARGEST))


def breaks(recent: Stratum) -> bool:
    """Whether the circuit breaker opens: half of the canary's last requests failed, and not the
    champion's.
    """
    n_a, x_a, n_b, x_b = recent
    return x_b >= BREAKER_BAD and n_b <= BREAKER_ROWS and x_a <= BREAKER_CHAMPION * n_a


def opened(rules: Rules, base: Mapping[str, float] | None = None) -> str:
    """Return the first line of a rollout's log."""
    start(rules, base)
    return json.dumps({"rules": asdict(rules), "base": dict(base or {})})


def line(analysis: Analysis, verdict: Verdict) -> str:
    """Return the line of a rollout's log for one analysis: the counts, and the verdict."""
    return json.dumps({"analysis": vars(analysis), "verdict": vars(verdict)})


def replay(lines: Iterable[str]) -> tuple[Rules, State, list[Verdict]]:
    """Judge a rollout again from its log; refuses a log of other decisions."""
    rows = parse(lines)
    if not rows or "rules" not in rows[0]:
        raise JudgeError("line 1: a log begins with the rules of its rollout; start again")
    rules = rules_of(rows[0]["rules"])
    state, verdicts = start(rules, rows[0]["base"]), []
    for number, row in enumerate(rows[1:], 2):
        if "analysis" not in row:  # what people did is in the log too, and no evidence
            continue
        state, verdict = judge(rules, state, Analysis(**row["analysis"]))
        logged = row["verdict"]["decision"]
        if verdict.decision != logged:
            raise JudgeError(
                f"line {number}: {logged!r} is in the log, its counts give "
                f"{str(verdict.decision)!r}; the log was changed, or another version wrote it: "
                "abort this rollout and start again"
            )
        verdicts.append(verdict)
    return rules, state, verdicts


def rules_of(given: Mapping) -> Rules:
    """Rules from plain data, as `opened` writes them."""
    values = {k: tuple(v) if isinstance(v, list) else v for k, v in given.items()}
    values["slices"] = tuple(Slice(*each) for each in values.get("slices", ()))
    return Rules(**values)


def parse(lines: Iterable[str]) -> list[dict]:
    """The lines of a rollout's log as data; those of earlier versions in the words of today."""
    return [_today(_parsed(number, text)) for number, text in enumerate(lines, 1)]


def _today(row: dict) -> dict:
    if "rules" in row and "maturity" in row["rules"]:
        rules = {FORMER_RULES.get(k, k): v for k, v in row["rules"].items()}
        rules["metrics"] = [FORMER_METRICS.get(name, name) for name in rules["metrics"]]
        rules["label_maturity"] = _metrics(rules["label_maturity"])
        return {**row, "rules": rules, "base": _metrics(row["base"])}
    if "look" in row:
        former, verdict = row["look"], row["verdict"]
        row = {name: value for name, value in row.items() if name != "look"}
        row["analysis"] = {**former, "counts": _metrics(former["counts"])}
        row["verdict"] = {"decision": FORMER.get(verdict["word"], verdict["word"])}
    return row


def _metrics(by_metric: Mapping) -> dict:
    return {FORMER_METRICS.get(name, name): value for name, value in by_metric.items()}


def _parsed(number: int, text: str) -> dict:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise JudgeError(f"line {number}: {error}; cut the log before this line") from None


def _baking(rules: Rules, state: State) -> bool:
    return state.step == len(rules.shares)


def _weighed(rules: Rules, state: State, analysis: Analysis) -> Evidence:
    """Weigh all metrics at once: the first stratum of each, then the second of each; a metric
    without one adds none.
    """
    evidence = state.evidence
    strata = [analysis.counts.get(name, ()) for name in _watched(rules)]
    margin = rules.margins[min(state.step, len(rules.margins) - 1)]  # none is tested while baking
    margins = np.full(len(strata), margin)
    for i in range(max(map(len, strata))):
        counts = np.array([each[i] if i < len(each) else (0, 0, 0, 0) for each in strata], float)
        evidence = sequential.weigh(evidence, counts, margins, rules.tolerated_error_rate)
    return evidence


def _decide(
    rules: Rules,
    now: State,
    analysis: Analysis,
    harm: str,
    worst: tuple[float, str],
    least: tuple[float, str],
    mismatch: float,
) -> tuple[Decision, str]:
    if now.final:
        return Decision(now.final), "decided before"
    if breaks(analysis.recent):
        rows, bad = analysis.recent[2:]
        reason = f"the circuit breaker opened: {bad} of the canary's last {rows} requests failed"
        return ROLLBACK, reason
    if harm:
        return ROLLBACK, harm
    if mismatch >= math.log(MISMATCH):
        canary, total, share = now.entities[1], sum(now.entities), rules.share(now.step)
        return ABORT, (
            f"the canary got {canary:,} of {total:,} entities, its share is {share:.1%}: "
            f"{_with_threshold(mismatch, math.log(MISMATCH))}"
        )
    if not _baking(rules, now) and now.at >= rules.longest:
        return _undecided(rules, now)
    if not any(s[0] + s[2] for strata in analysis.counts.values() for s in strata):
        return NO_DATA, (
            f"no data: no row in the analysis at {now.at:,.0f} s; "
            "check whether traffic arrives and is logged"
        )
    return _bake(rules, now) if _baking(rules, now) else _grow(rules, now, worst, least)


def _with_threshold(log: float, threshold: float) -> str:
    return f"e-value {_shown(log)}, alert threshold {_shown(threshold)}"


def _shown(log: float) -> str:
    return significant(e_value(log))


def _undecided(rules: Rules, now: State) -> tuple[Decision, str]:
    passed, allowed = f"{now.at / 3600:.1f} h", f"{rules.longest / 3600:g} h"
    if rules.on_undecided == PROMOTE and now.evidence.weighed[: len(rules.metrics)].min() > 0:
        return ADVANCE, (
            f"no harm was shown in {passed} at step {now.step + 1}, and "
            f"{allowed} were allowed; a canary that is worse by little may pass so"
        )
    left = rules.longest + rules.hold - now.at
    reason = f"undecided at step {now.step + 1} after {passed}, {allowed} were allowed"
    if left > 0:
        return INCONCLUSIVE, f"{reason}; rolls back in {left / 3600:.1f} h"
    return ROLLBACK, f"{reason} and {rules.hold / 3600:g} h to look at it"


def _bake(rules: Rules, now: State) -> tuple[Decision, str]:
    baked = now.at - now.since
    reason = f"all traffic for {baked / 3600:.1f} h of {rules.bake / 3600:.3g} h"
    return (ADVANCE if baked >= rules.bake else WAIT), reason


def _grow(
    rules: Rules, now: State, worst: tuple[float, str], least: tuple[float, str]
) -> tuple[Decision, str]:
    threshold, margin = math.log(1 / rules.alpha), rules.margins[now.step]
    value, enough = _shown(least[0]), _shown(threshold)
    if least[0] < threshold:
        return WAIT, (
            f"`{least[1]}` may still be {margin:g} times worse: "
            f"e-value {value} against that, {enough} is needed"
        )
    if worst[0] >= math.log(DOUBT):
        return WAIT, (
            f"`{worst[1]}` leans to worse: e-value {_shown(worst[0])}, "
            f"below {DOUBT:g} the share may grow"
        )
    if now.at - now.since < rules.min_step:
        stay = f"{now.at - now.since:,.0f} s"
        return WAIT, f"at this step for {stay}, the least is {rules.min_step:,.0f} s"
    return ADVANCE, (
        f"nothing is {margin:g} times worse: "
        f"e-value at least {value} against that, {enough} is enough"
    )


def _after(rules: Rules, now: State, decision: Decision) -> State:
    if now.final or decision in (WAIT, INCONCLUSIVE, NO_DATA):
        return now
    if decision != ADVANCE or _baking(rules, now):
        return replace(now, final=decision)
    cleared = np.zeros_like(now.evidence.log_noninferior)
    evidence = replace(now.evidence, log_noninferior=cleared)
    step = len(rules.shares) if now.at >= rules.longest else now.step + 1
    return replace(now, step=step, since=now.at, entities=(0, 0), evidence=evidence)


def _check(rules: Rules, state: State, analysis: Analysis) -> None:
    if not analysis.at > state.at:
        raise JudgeError(
            f"$.at: {analysis.at} s is not after the last analysis at {state.at} s; "
            "judge each analysis once"
        )
    if unknown := set(analysis.counts) - set(_watched(rules)):
        raise JudgeError(
            f"$.counts: {sorted(unknown)} are no guardrail metrics; "
            f"the rules have {', '.join(rules.metrics)}"
        )
    counts = analysis.counts
    strata = {f"$.counts.{k}[{i}]": s for k, v in counts.items() for i, s in enumerate(v)}
    for where, (n_a, x_a, n_b, x_b) in {**strata, "$.recent": analysis.recent}.items():
        if not (0 <= x_a <= n_a and 0 <= x_b <= n_b):
            raise JudgeError(
                f"{where}: {x_a} bad of {n_a}, {x_b} bad of {n_b}; bad ones are from 0 to all rows"
            )
    if min(analysis.entities) < 0:
        raise JudgeError(f"$.entities: {list(analysis.entities)}; both are 0 or more")
