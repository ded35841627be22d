"""Maintenance policies: when to retrain, on how much history, and the tests of a candidate."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from modelkeep.core.errors import ModelkeepError
from modelkeep.evaluation import metrics
from modelkeep.monitoring.windows import Window

KINDS = ("guarded", "never", "every", "monitor", "estimate")


class PolicyError(ModelkeepError, ValueError):
    """A policy with impossible settings."""


@dataclass(frozen=True)
class Policy:
    """When a candidate is trained, and which tests it must pass.

    `kind`: never, every (`weeks` weeks), guarded, monitor (it says `retrain`), estimate (it has
    declined). `test_days`: withheld for the gate.
    """

    kind: str
    weeks: int = 4
    history_days: float = 0
    gate: bool = False
    test_days: int = 30
    canary: bool = False

    def __post_init__(self) -> None:
        for name, value, rule, valid in (
            ("policy", self.kind, f"one of {', '.join(KINDS)}", self.kind in KINDS),
            ("weeks", self.weeks, "1 or more", self.weeks >= 1),
            ("history_days", self.history_days, "0 (all) or more", self.history_days >= 0),
            ("test_days", self.test_days, "1 or more", self.test_days >= 1),
            (
                "history_days",
                self.history_days,
                f"above test_days ({self.test_days}) with a gate, which takes these away",
                not (self.gate and 0 < self.history_days <= self.test_days),
            ),
        ):
            if not valid:
                raise PolicyError(f"params/backtest.yaml: `{name}` is {value!r}; it must be {rule}")

    @property
    def held(self) -> int:
        """The newest labelled days withheld from a candidate; 0 without a gate."""
        return self.test_days if self.gate else 0

    @property
    def watches(self) -> bool:
        """Whether the policy reads the log each week."""
        return self.kind in ("monitor", "estimate")

    @property
    def name(self) -> str:
        """The policy in words."""
        if self.kind == "never":
            return "never"
        when = {
            "every": "every week" if self.weeks == 1 else f"every {self.weeks} weeks",
            "monitor": "when the monitor says so",
            "estimate": "when the estimate declines",
        }.get(self.kind, "")
        if self.kind == "guarded":
            return "guarded" if self.weeks == 1 else f"guarded, every {self.weeks} weeks"
        past = f"the last {self.history_days:g} days" if self.history_days else "everything"
        tests = [name for name, on in (("gate", self.gate), ("canary", self.canary)) if on]
        return f"{when}, on {past}" + (f", {' and '.join(tests)}" if tests else "")


@dataclass(frozen=True)
class Week:
    """One week under a policy: the champion's key, its metrics, and the update at the beginning.

    `best_at_hand`: metrics of the best other model that was available.
    """

    start: np.datetime64
    champion: tuple[int, float, int]
    quality: dict[str, float]
    best_at_hand: dict[str, float]
    called: str = ""  # the reason for a candidate
    state: str = ""  # the monitor's state
    candidate: str = ""  # the gate's verdict, `promoted` without a gate
    canary: str = ""  # how a rollout ended in this week
    promoted: bool = False
    learned: int = 0  # rows that the candidate learned from
    held_by: str = ""  # the guard that held, refused or took back the candidate
    reason: str = ""  # its sentence


@dataclass(frozen=True)
class Replay:
    """A policy and the weeks under it."""

    policy: Policy
    weeks: tuple[Week, ...]

    def course(self, metric: str) -> np.ndarray:
        """One metric by week."""
        return np.array([w.quality[metric] for w in self.weeks])


def scheduled(policy: Policy, weeks: int) -> list[int]:
    """The weeks in which a candidate is trained by schedule."""
    return list(range(policy.weeks, weeks, policy.weeks)) if policy.kind == "every" else []


def estimate_declined(windows: Sequence[Window], task: str) -> str:
    """The reason for a decline by the estimate, or nothing.

    A decline: the better end of the newest window's band is worse than the expected performance.
    """
    first = metrics.METRICS[task][0]
    expected_performance = [w.realised[first] for w in windows if w.past and first in w.realised]
    now = [w for w in windows if not w.past]
    if (
        not now
        or not expected_performance
        or not np.isfinite(best := now[-1].low.get(first, np.nan))
    ):
        return ""
    if best <= np.mean(expected_performance):
        return ""
    name = metrics.NAMES[first]
    return (
        f"{name} is estimated at {best:.4g} at least, {np.mean(expected_performance):.4g} was "
        "expected"
    )
