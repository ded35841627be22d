"""The rules of a rollout, and the rows that each of its steps needs, before it starts."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import NamedTuple

import numpy as np

from modelkeep.core import parameters
from modelkeep.core.errors import ModelkeepError
from modelkeep.evaluation import sequential

BLOCKS = 200  # a step is simulated in so many blocks of its expected need
PATIENCE = 12  # and for at most so many times that need

ROLLBACK, PROMOTE = "rollback", "promote"
LADDER = (1.1, 1.2, 1.5, 2.0, 3.0)  # margins that are tried for this traffic, the strictest first
PROPOSED = (0.1, 0.5)  # the shares of a proposed plan
RATIOS = (1.0, 1.2, 1.5, 2.0)  # so many times the champion's rate: for which the risks are given
ANALYSES = 100  # in a simulated rollout
NAMES = (  # the parameters that `rules` needs
    "steps",
    "margins",
    "metrics",
    "label_maturity_hours",
    "alpha",
    "tolerated_error_rate",
    "analysis_interval_seconds",
    "min_step_minutes",
    "max_hours",
    "hold_hours",
    "bake_hours",
)


class PlanError(ModelkeepError, ValueError):
    """Rules that contradict themselves, or a rollout that cannot begin."""


class CannotFinish(PlanError):
    """A rollout that the traffic cannot decide in the time allowed."""


class Slice(NamedTuple):
    """Rows with one value of a category."""

    column: str
    value: str

    @property
    def name(self) -> str:
        """What the metric `quality` among these rows is called."""
        return f"quality in {self.column} = {self.value}"


@dataclass(frozen=True)
class Rules:
    """The rules that a rollout keeps; times in seconds since it began, shares from 0 to 1."""

    shares: tuple[float, ...] = (0.01, 0.05, 0.25, 0.5)
    margins: tuple[float, ...] = (2.0, 1.5, 1.2, 1.1)
    metrics: tuple[str, ...] = ("error",)
    label_maturity: dict[str, float] = field(default_factory=dict)
    alpha: float = 0.05
    tolerated_error_rate: float = 0.0
    interval: float = 60.0
    min_step: float = 120.0
    longest: float = 86_400.0
    hold: float = 7_200.0
    bake: float = 86_400.0
    on_undecided: str = ROLLBACK  # at `longest`: hold, then roll back; or promote without harm
    slices: tuple[Slice, ...] = ()  # in which `quality` is watched for harm

    def __post_init__(self) -> None:
        for name, value, rule, kept in _limits(self):
            if not kept:
                raise PlanError(f"params/rollout.yaml: `{name}` is {value!r}; it must be {rule}")

    @property
    def alert(self) -> float:
        """The e-value from which a guardrail metric is worse: with `alpha` over all of them, half
        of it where slices are watched beside them.
        """
        return len(self.metrics) * (2 if self.slices else 1) / self.alpha

    @property
    def slice_alert(self) -> float:
        """The e-value from which a slice is worse: with half of `alpha` over all slices."""
        return 2 * len(self.slices) / self.alpha

    def share(self, step: int) -> float:
        """The canary's share at a step: after the last one it has all."""
        return self.shares[step] if step < len(self.shares) else 1.0


@dataclass(frozen=True)
class Need:
    """The need of an equal canary at one step, or in all, on average and in nine rollouts of ten.

    `rows` are predictions that count, of champion and canary; `exposed` are all that the canary
    serves meanwhile; `hours` include the maturing of labels.
    """

    share: float
    margin: float
    rows: float
    rows_90: float
    exposed: float
    hours: float
    hours_90: float


@dataclass(frozen=True)
class Plan:
    """The need of a rollout, step by step and in all."""

    steps: tuple[Need, ...]
    total: Need
    sentence: str

    def as_dict(self) -> dict:
        """Plain data for JSON."""
        return asdict(self)


def rules(params: Mapping) -> Rules:
    """Return the rules that `params/rollout.yaml` holds; PlanError names what was renamed."""
    if problems := parameters.renamed(params, NAMES):
        raise PlanError(f"params/rollout.yaml: {'; '.join(problems)}")
    return Rules(
        shares=tuple(percent / 100 for percent in params["steps"]),
        margins=tuple(params["margins"]),
        metrics=tuple(params["metrics"]),
        label_maturity={n: 3600 * hours for n, hours in params["label_maturity_hours"].items()},
        alpha=params["alpha"],
        tolerated_error_rate=params["tolerated_error_rate"],
        interval=params["analysis_interval_seconds"],
        min_step=60 * params["min_step_minutes"],
        longest=3600 * params["max_hours"],
        hold=3600 * params["hold_hours"],
        bake=3600 * params["bake_hours"],
        on_undecided=params.get("on_undecided", ROLLBACK),
    )


def plan(
    rules: Rules,
    rows_a_second: float,
    base: Mapping[str, float],
    *,
    entities: float = math.inf,
    counted: Mapping[str, float] | None = None,
    runs: int = 500,
    seed: int = 0,
) -> Plan:
    """Return the need of each step if the canary is equal, by simulation; CannotFinish if it is
    above the limits.

    `rows_a_second` counts one prediction an entity, of which there are `entities`; `base` is the
    champion's bad share by metric, `counted` the share of predictions that count for it (all).
    Labels mature at each step anew.
    """
    _check_traffic(rules, rows_a_second, base)
    draw, rows, seconds = np.random.default_rng(seed), [], []
    rates = {name: rows_a_second * (counted or {}).get(name, 1.0) for name in rules.metrics}
    late = np.array([[rules.label_maturity.get(name, 0)] for name in rules.metrics])
    for step in range(len(rules.shares)):
        needed = np.stack(
            [
                _seconds(rules, step, name, rates[name], base[name], runs, draw)
                for name in rules.metrics
            ]
        )
        rows.append(np.max(needed, axis=0) * rows_a_second)
        seconds.append(np.maximum(np.max(needed + late, axis=0), rules.min_step))
    exposed = [
        s * float(t.mean()) * rows_a_second for s, t in zip(rules.shares, seconds, strict=True)
    ]
    needs = tuple(map(_need, rules.shares, rules.margins, rows, seconds, exposed))
    total = _need(1.0, 1.0, np.sum(rows, axis=0), np.sum(seconds, axis=0), sum(exposed))
    _refuse(rules, needs, total, entities)
    sentence = (
        f"An equal canary reaches all traffic after {total.rows:,.0f} predictions that count "
        f"({span(total.hours)}) on average, {total.rows_90:,.0f} ({span(total.hours_90)}) "
        f"in nine rollouts of ten; {rules.longest / 3600:g} h are allowed."
    )
    return Plan(needs, total, sentence)


def fitted(
    rules: Rules,
    rows_a_second: float,
    base: Mapping[str, float],
    *,
    entities: float = math.inf,
    counted: Mapping[str, float] | None = None,
) -> tuple[Rules, Plan | None]:
    """The strictest rules of two steps that this traffic can decide within `longest`, and their
    plan; no plan where it can decide none of `LADDER`: then half of the traffic is tried until
    `longest`, and `risks` says what that bounds.

    The first step, a tenth, is left at three times the excess of the second step's margin.
    """
    known = {"entities": entities, "counted": counted}
    for margin in LADDER:
        wide = 1 + 3 * (margin - 1)
        tried = replace(rules, shares=PROPOSED, margins=(wide, margin))
        try:
            return tried, plan(tried, rows_a_second, base, **known, runs=200)
        except CannotFinish:
            continue
    last = {"shares": PROPOSED[-1:], "margins": LADDER[-1:], "min_step": rules.longest}
    return replace(rules, **last, on_undecided=PROMOTE), None


def risks(
    rules: Rules,
    rows_a_second: float,
    base: Mapping[str, float],
    *,
    entities: float = math.inf,
    counted: Mapping[str, float] | None = None,
    runs: int = 400,
    seed: int = 0,
) -> dict[str, dict[float, float]]:
    """How often a canary is found worse within `longest` at the last step's share, by metric and
    by how many times the champion's rate its own is: at 1.0 the chance of a false rollback, above
    it that of finding the harm; the rest is promoted where `on_undecided` is `promote`.

    Simulated by `runs` rollouts, each entity counted once.
    """
    share, draw = rules.shares[-1], np.random.default_rng(seed)
    needed = math.log(rules.alert)
    found: dict[str, dict[float, float]] = {}
    for name in rules.metrics:
        late = rules.label_maturity.get(name, 0.0)
        rows = min(rows_a_second * max(rules.longest - late, 0.0), entities)
        rows *= (counted or {}).get(name, 1.0) / ANALYSES
        found[name] = {}
        for ratio in RATIOS:
            rate = min(ratio * base[name], 1.0)
            state, over = sequential.begin(np.full(runs, base[name])), np.zeros(runs, bool)
            for _ in range(ANALYSES):
                n_a, n_b = draw.poisson(rows * (1 - share), runs), draw.poisson(rows * share, runs)
                x = (draw.binomial(n_a, base[name]), draw.binomial(n_b, rate))
                counts = np.stack([n_a, x[0], n_b, x[1]], axis=-1)
                margin = np.full(runs, rules.margins[-1])
                state = sequential.weigh(state, counts, margin, rules.tolerated_error_rate)
                over |= sequential.log_e_worse(state) >= needed
            found[name][ratio] = float(over.mean())
    return found


def span(hours: float) -> str:
    """Return a time as one reads it."""
    return f"{60 * hours:.0f} min" if hours < 3 else f"{hours:.1f} h"


def _seconds(
    rules: Rules,
    step: int,
    name: str,
    rows_a_second: float,
    base: float,
    runs: int,
    draw: np.random.Generator,
) -> np.ndarray:
    share, margin = rules.shares[step], rules.margins[step]
    on_average = np.array([1 - share, (1 - share) * base, share, share * base])
    nulls = sequential.nulls(np.array(margin), rules.tolerated_error_rate)
    alternatives = sequential.growth(on_average, np.array(base), *nulls)[len(sequential.WORSE) :]
    speed = float(alternatives.max())
    if speed <= 1e-12:
        raise CannotFinish(
            f"`{name}`: of a champion that is bad in {base:.3%} no prediction can show that a "
            f"canary is not {margin:g} times worse; "
            "raise `tolerated_error_rate`, the rate of bad predictions that always passes, above 0"
        )
    needed = math.log(1 / rules.alpha)
    scale = (needed + math.log(len(alternatives))) / speed
    checks = math.ceil(scale / BLOCKS / (rows_a_second * rules.interval))
    rows = rows_a_second * rules.interval * checks
    blocks = _blocks(
        rules, step, base, rows, needed, math.ceil(PATIENCE * scale / rows), draw, runs
    )
    return blocks * checks * rules.interval


def _blocks(
    rules: Rules,
    step: int,
    base: float,
    rows: float,
    needed: float,
    most: int,
    draw: np.random.Generator,
    runs: int,
) -> np.ndarray:
    """Blocks of `rows` until an equal canary has passed, by run; `most` where it has not."""
    share, margin = rules.shares[step], rules.margins[step]
    found, passed = sequential.begin(np.full(runs, base)), np.full(runs, most)
    for block in range(most):
        n_b = draw.poisson(rows * share, runs)
        n_a = draw.poisson(rows * (1 - share), runs)
        counts = np.stack([n_a, draw.binomial(n_a, base), n_b, draw.binomial(n_b, base)], axis=-1)
        found = sequential.weigh(found, counts, np.full(runs, margin), rules.tolerated_error_rate)
        over = sequential.log_e_noninferior(found) >= needed
        passed = np.where(over & (passed == most), block + 1, passed)
        if (passed < most).all():
            break
    return passed


def _need(
    share: float, margin: float, rows: np.ndarray, seconds: np.ndarray, exposed: float
) -> Need:
    most = [float(np.quantile(each, 0.9)) for each in (rows, seconds / 3600)]
    mean, hours = float(rows.mean()), float(seconds.mean()) / 3600
    return Need(share, margin, mean, most[0], exposed, hours, most[1])


def _check_traffic(rules: Rules, rows_a_second: float, base: Mapping[str, float]) -> None:
    if not rows_a_second > 0:
        raise PlanError(
            f"{rows_a_second} predictions a second: without traffic nothing can be shown; "
            "start when there is some"
        )
    missing = [name for name in rules.metrics if not 0 <= base.get(name, -1) <= 1]
    if missing:
        raise PlanError(
            f"the champion's bad share of {', '.join(missing)} is not known: no prediction of the "
            "days read counts for it yet; wait until labels have come (label_maturity_hours), "
            "read more days, or leave it out of `metrics` in params/rollout.yaml"
        )


def _refuse(rules: Rules, needs: tuple[Need, ...], total: Need, entities: float) -> None:
    slowest = max(needs, key=lambda need: need.hours)
    relax = (
        f"relax the slowest step, {slowest.share:.1%} ({span(slowest.hours)}): "
        f"a larger share, or a margin above {slowest.margin:g}"
    )
    if total.rows_90 > entities:
        raise CannotFinish(
            f"this rollout cannot finish: an equal canary needs one prediction of each of "
            f"{total.rows_90:,.0f} entities in nine of ten, there are {entities:,.0f}; {relax}"
        )
    if total.hours_90 * 3600 > rules.longest:
        raise CannotFinish(
            f"this rollout cannot finish: an equal canary needs {span(total.hours)} on average "
            f"and {span(total.hours_90)} in nine of ten, `max_hours` is {rules.longest / 3600:g}; "
            f"raise `max_hours` to {math.ceil(total.hours_90)}, or {relax}"
        )


def _limits(rules: Rules) -> list[tuple[str, object, str, bool]]:
    shares, margins, late = rules.shares, rules.margins, rules.label_maturity
    grow = list(shares) == sorted(set(shares)) and len(shares) > 0
    known = set(late) <= set(rules.metrics) and min(late.values(), default=0) >= 0
    worst = rules.tolerated_error_rate * max(margins, default=1)
    above, times = min(margins, default=0) > 1, "0 or more (here in seconds)"
    ends = (ROLLBACK, PROMOTE)
    return [
        (
            "steps",
            shares,
            "growing shares above 0 and below 100 %",
            grow and shares[0] > 0 and shares[-1] < 1,
        ),
        ("margins", margins, "one a step, each above 1", len(margins) == len(shares) and above),
        (
            "metrics",
            rules.metrics,
            "at least one, each once",
            0 < len(rules.metrics) == len(set(rules.metrics)),
        ),
        ("label_maturity_hours", late, "0 or more, of guardrail metrics", known),
        ("alpha", rules.alpha, "above 0 and below 1", 0 < rules.alpha < 1),
        (
            "tolerated_error_rate",
            rules.tolerated_error_rate,
            "0 or more, and below 1 times the largest margin",
            0 <= worst < 1,
        ),
        ("analysis_interval_seconds", rules.interval, "above 0", rules.interval > 0),
        ("min_step_minutes", rules.min_step, times, rules.min_step >= 0),
        ("max_hours", rules.longest, times, rules.longest >= 0),
        ("hold_hours", rules.hold, times, rules.hold >= 0),
        ("bake_hours", rules.bake, times, rules.bake >= 0),
        ("on_undecided", rules.on_undecided, " or ".join(ends), rules.on_undecided in ends),
    ]
