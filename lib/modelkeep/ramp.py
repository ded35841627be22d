"""The rules of a rollout, and what each of its steps needs before it starts"""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field

import numpy as np

from modelkeep import eprocess

BLOCKS, PATIENCE = (
    200,
    12,
)  # a step is drawn in so many blocks of its expected need, at most so many times that


class RampError(ValueError):
    """Rules that contradict themselves, or a rollout that cannot finish."""


@dataclass(frozen=True)
class Rules:
    """What a rollout is promised to keep to; times in seconds since it began, shares from 0 to 1."""

    shares: tuple[float, ...] = (0.01, 0.05, 0.25, 0.5)
    margins: tuple[float, ...] = (2.0, 1.5, 1.2, 1.1)
    metrics: tuple[str, ...] = ("failed",)
    maturity: dict[str, float] = field(default_factory=dict)
    alpha: float = 0.05
    floor: float = 0.0
    look: float = 60.0
    dwell: float = 120.0
    longest: float = 86_400.0
    hold: float = 7_200.0
    bake: float = 86_400.0

    def __post_init__(self) -> None:
        for name, value, rule, kept in _limits(self):
            if not kept:
                raise RampError(f"params/rollout.yaml: `{name}` is {value!r}; it must be {rule}")

    def share(self, step: int) -> float:
        """The canary's share at a step: after the last one it has all."""
        return self.shares[step] if step < len(self.shares) else 1.0


@dataclass(frozen=True)
class Need:
    """What an equal canary needs at one step, or in all, in answers that count: on average, and in nine rollouts of ten."""

    share: float
    margin: float
    rows: float
    rows_90: float
    canary_rows: float
    hours: float
    hours_90: float


@dataclass(frozen=True)
class Plan:
    """What a rollout needs before it starts, step by step and in all."""

    steps: tuple[Need, ...]
    total: Need
    sentence: str

    def as_dict(self) -> dict:
        """Plain data for JSON."""
        return asdict(self)


def rules(params: Mapping) -> Rules:
    """Return the rules that `params/rollout.yaml` holds."""
    return Rules(
        shares=tuple(percent / 100 for percent in params["steps"]),
        margins=tuple(params["margins"]),
        metrics=tuple(params["metrics"]),
        maturity={name: 3600 * hours for name, hours in params["maturity_hours"].items()},
        alpha=params["alpha"],
        floor=params["floor"],
        look=params["look_seconds"],
        dwell=60 * params["dwell_minutes"],
        longest=3600 * params["max_hours"],
        hold=3600 * params["hold_hours"],
        bake=3600 * params["bake_hours"],
    )


def plan(
    rules: Rules, rows_a_second: float, base: Mapping[str, float], *, runs: int = 500, seed: int = 0
) -> Plan:
    """Say what each step needs if the canary is equal, by drawing rollouts; refuse what cannot finish.

    `rows_a_second` counts one answer per entity, `base` the champion's bad share by metric. The time that labels need to mature is added at each step.
    """
    if not rows_a_second > 0:
        raise RampError(f"{rows_a_second} answers a second: without traffic nothing can be shown; start when there is some")  # fmt: skip
    missing = [name for name in rules.metrics if not 0 <= base.get(name, -1) <= 1]
    if missing:
        raise RampError(f"the champion's bad share of {', '.join(missing)} is not known; take it from the prediction log (0 to 1)")  # fmt: skip
    draw, seconds = np.random.default_rng(seed), []
    for step in range(len(rules.shares)):
        waits = [
            _seconds(rules, step, name, rows_a_second, base[name], runs, draw)
            for name in rules.metrics
        ]
        seconds.append(np.maximum(np.max(waits, axis=0), rules.dwell))
    needs = [_need(s, m, t, rows_a_second) for s, m, t in zip(rules.shares, rules.margins, seconds)]
    exposed = sum(need.canary_rows for need in needs)
    total = _need(0.0, 0.0, np.sum(seconds, axis=0), rows_a_second, exposed)
    _refuse(rules, needs, total)
    sentence = (
        f"An equal canary reaches all traffic after {total.rows:,.0f} answers ({total.hours:.1f} h) on average, {total.rows_90:,.0f} ({total.hours_90:.1f} h) "
        f"in nine rollouts of ten; {rules.longest / 3600:g} h are allowed."
    )
    return Plan(tuple(needs), total, sentence)


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
    asked = eprocess.nulls(np.array(margin), rules.floor)
    alternatives = eprocess.growth(on_average, np.array(base), *asked)[len(eprocess.WORSE) :]
    speed = float(alternatives.max())
    if speed <= 1e-12:
        raise RampError(
            f"`{name}`: of a champion that is bad in {base:.3%} no answer can show that a canary is not {margin:g} times worse; "
            "raise `floor`, the share of bad answers that nobody minds, above 0"
        )
    needed = math.log(1 / rules.alpha)
    scale = (needed + math.log(len(alternatives))) / speed
    looks = math.ceil(scale / BLOCKS / (rows_a_second * rules.look))
    rows = rows_a_second * rules.look * looks
    blocks = _blocks(
        rules, step, base, rows, needed, math.ceil(PATIENCE * scale / rows), draw, runs
    )
    return blocks * looks * rules.look + rules.maturity.get(name, 0)


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
    """Blocks of `rows` until an equal canary has passed, one number a run; `most` where it has not."""
    share, margin = rules.shares[step], rules.margins[step]
    found, passed = eprocess.begin(np.full(runs, base)), np.full(runs, most)
    for block in range(most):
        n_b = draw.poisson(rows * share, runs)
        n_a = draw.poisson(rows * (1 - share), runs)
        counts = np.stack([n_a, draw.binomial(n_a, base), n_b, draw.binomial(n_b, base)], axis=-1)
        found = eprocess.weigh(found, counts, np.full(runs, margin), rules.floor)
        over = eprocess.is_harmless(found) >= needed
        passed = np.where(over & (passed == most), block + 1, passed)
        if (passed < most).all():
            break
    return passed


def _need(
    share: float, margin: float, seconds: np.ndarray, speed: float, canary: float | None = None
) -> Need:
    average, most = float(seconds.mean()), float(np.quantile(seconds, 0.9))
    exposed = average * speed * share if canary is None else canary
    hours = (average / 3600, most / 3600)
    return Need(share, margin, average * speed, most * speed, exposed, *hours)


def _refuse(rules: Rules, needs: list[Need], total: Need) -> None:
    if total.hours_90 * 3600 <= rules.longest:
        return
    slowest = max(needs, key=lambda need: need.hours)
    raise RampError(
        f"this rollout cannot finish: an equal canary needs {total.hours:.1f} h on average and {total.hours_90:.1f} h in nine of ten, `max_hours` is {rules.longest / 3600:g}; "
        f"raise `max_hours` to {math.ceil(total.hours_90)}, or relax the slowest step, {slowest.share:.1%} ({slowest.hours:.1f} h): a larger share or a margin above {slowest.margin:g}"
    )


def _limits(rules: Rules) -> list[tuple[str, object, str, bool]]:
    shares, margins, late = rules.shares, rules.margins, rules.maturity
    grow = list(shares) == sorted(set(shares)) and len(shares) > 0
    known = set(late) <= set(rules.metrics) and min(late.values(), default=0) >= 0
    worst = max(margins, default=1)
    times = {"dwell_minutes": rules.dwell, "max_hours": rules.longest, "hold_hours": rules.hold}
    return [
        ("steps", shares, "growing shares above 0 and below 100 %", grow and shares[0] > 0 and shares[-1] < 1),
        ("margins", margins, "one a step, each above 1", len(margins) == len(shares) and min(margins) > 1),
        ("metrics", rules.metrics, "at least one, each once", 0 < len(rules.metrics) == len(set(rules.metrics))),
        ("maturity_hours", late, "0 or more, of guarded metrics", known),
        ("alpha", rules.alpha, "above 0 and below 1", 0 < rules.alpha < 1),
        ("floor", rules.floor, "0 or more, and below 1 times the largest margin", 0 <= rules.floor * worst < 1),
        ("look_seconds", rules.look, "above 0", rules.look > 0),
        *((name, seconds, "0 or more (here in seconds)", seconds >= 0) for name, seconds in times.items()),
        ("bake_hours", rules.bake, "0 or more (here in seconds)", rules.bake >= 0),
    ]  # fmt: skip
