"""How often a champion gets the smallest remedy that is enough, on rows whose truth is known.

Run: PYTHONPATH=tests/support python benchmarks/recalibration.py --runs 200      prints a table

A champion of 8,000 rows (60 boosted trees) meets later rows: alike, with another level, with half
the slope, or with another relation. `none` holds what the proof on rows left out has refused.
"""

import argparse
from collections import Counter

from scipy import stats

import levels

CONDITIONS = ((600, 14), (3_000, 28), (20_000, 28))  # rows, days


def shown(kinds: Counter, runs: int) -> str:
    """Each choice with its 95 % interval, the most frequent first."""
    parts = []
    for kind, hits in kinds.most_common():
        low, high = stats.binomtest(hits, runs).proportion_ci(0.95)
        parts.append(f"{kind} {hits / runs:.0%} ({low:.0%} to {high:.0%})")
    return "; ".join(parts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=200)
    runs = parser.parse_args().runs
    print("| task | rows of days | planted | decided |\n|---|---|---|---|")
    for task in levels.TASKS:
        model = levels.champion(task)
        for rows, days in CONDITIONS:
            for what in ("", "level", "slope", "concept"):
                seeds = range(1000, 1000 + runs)
                kinds = Counter(levels.decided(model, task, what, s, rows, days) for s in seeds)
                label = what or "nothing"
                print(
                    f"| {task} | {rows:,} of {days} | {label} | {shown(kinds, runs)} |", flush=True
                )


if __name__ == "__main__":
    main()
