"""What slowing the schedule down gains where retraining itself harms, and what it costs elsewhere.

The default policy, weekly, is replayed with and without the recipe guard (`slow_down` 2 and 1 of params/guards.yaml) on planted histories of 30 weeks (tests/support/histories.py: two weeks of noise, a
season of two weeks, seasons that alternate, a sudden and a slow change, none) and on flights. Prints a Markdown row for each history and window. Run: python benchmarks/recipe_guard.py [--only noise season flights]
"""

import argparse
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests" / "support"))

import histories  # noqa: E402
from modelkeep.backtest import replay  # noqa: E402
from modelkeep.backtest.policies import Policy  # noqa: E402
from modelkeep.evaluation import metrics  # noqa: E402
from modelkeep.reports import backtest  # noqa: E402
from modelkeep.training.maintenance import Rules  # noqa: E402

KINDS = ("noise", "season", "seasons", "sudden", "slow", "none")


def main() -> None:
    """Print the table."""
    asked = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    asked.add_argument("--only", nargs="*", default=[*KINDS, "flights"])
    asked.add_argument("--seeds", type=int, default=3)
    asked.add_argument("--weeks", type=int, default=30)
    told = asked.parse_args()
    print("| history | learns from | seeds | metric | never | guarded, not slowed | guarded | gain by slowing (each seed) | weeks without an update |")  # fmt: skip
    print("|---|---|---|---|---|---|---|---|---|", flush=True)
    for name in told.only:
        for days in (0,) if name == "flights" else (14, 0):
            if name == "flights":
                pasts = [backtest.history(ROOT, "2013-04-01", "", 1.0)]
            else:
                pasts = [histories.past(name, seed=k, weeks=told.weeks) for k in range(told.seeds)]
            row(name, days, [courses(past, days) for past in pasts])


def courses(past, days) -> list[replay.Replay]:
    """Never, the policy without the recipe guard, and with it."""
    policy, found = Policy("guarded", 1, history_days=days), [replay.replay(past, Policy("never"), histories.RULES)]  # fmt: skip
    for times in (1.0, Rules().slow_down):
        rules = replace(histories.RULES, guards=Rules(slow_down=times))
        found.append(replay.replay(past, policy, rules))
    return found


def row(name, days, seeds) -> None:
    """Print the means, and what slowing gained by seed."""
    first = next(iter(seeds[0][0].weeks[0].quality))
    sign = 1 if first in metrics.HIGHER_IS_BETTER else -1
    means = np.array([[np.nanmean(each.course(first)) for each in seed] for seed in seeds])
    gains = (sign * (means[:, 2] - means[:, 1])).round(4) + 0.0  # no minus zero
    slowed = [sum(w.held_by == "recipe guard" for w in seed[2].weeks) for seed in seeds]
    window = f"the last {days} days" if days else "everything"
    cells = [f"{m:.4f}" for m in means.mean(axis=0)]
    cells += [f"{gains.mean():+.4f} ({', '.join(f'{g:+.4f}' for g in gains)})"]
    cells += [", ".join(map(str, slowed))]
    print(f"| {name} | {window} | {len(seeds)} | {first} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
