"""What maintenance policies would have kept on the flights of April to December, and for how many retrains.

A model of January to March is the first; each week's flights are answered by whatever a policy has in service. Models that policies share are trained once. Prints Markdown tables, a row as soon as it
is known; `--end 2013-07-01` takes less. Run: python benchmarks/backtest.py
"""

import argparse
import resource
import time
from pathlib import Path

import numpy as np

from modelkeep import backtest, frontier, replay, workspace
from modelkeep.policies import Policy

METRICS = ("auc", "log_loss")
POLICIES = (
    Policy("every", 4),
    Policy("every", 5),
    Policy("every", 6),
    Policy("every", 8),
    Policy("every", 13),
)
SLOWER = (
    Policy("every", 4, canary=True),
    Policy("every", 4, history_days=56),
    Policy("every", 4, history_days=112),
    Policy("estimate"),
    Policy("monitor"),
    Policy("every", 4, gate=True),
)


def main() -> None:
    asked = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    asked.add_argument("--start", default="2013-04-01")
    asked.add_argument("--end", default="")
    told = asked.parse_args()
    root = workspace.root(Path(__file__).parent)
    past = backtest.history(root, told.start, told.end, 1.0)
    rules = backtest.rules(root, Policy("never", canary=True), past)
    drawn = frontier.draws(len(past.starts), 4, 2000, 0)
    print(f"{len(past.starts)} weeks\n\n| policy | AUC | kept | log loss | kept | retrains | promoted | CPU s | peak MB |")  # fmt: skip
    print("|---|---|---|---|---|---|---|---|---|")
    courses = [measured(past, Policy("never"), rules, [], drawn)]
    courses.append(measured(past, Policy("every", 1), rules, courses, drawn))
    for policy in POLICIES:
        courses.append(measured(past, policy, rules, courses, drawn))
    print(
        "\nThe best schedules that hindsight can find, on everything:\n\n| retrains | AUC | kept | log loss | kept |\n|---|---|---|---|---|"
    )
    for spent in (1, 2, 4, 9, 19):
        found = [best_schedule(past, metric, spent) for metric in METRICS]
        cells = [
            f"{value:.4f} | {share_kept(value, metric, courses):.0%}"
            for value, metric in zip(found, METRICS, strict=True)
        ]
        print(f"| {spent} | {' | '.join(cells)} |", flush=True)
    print()
    for policy in SLOWER:
        courses.append(measured(past, policy, rules, courses, drawn))
    print()
    for metric in METRICS:
        chosen = frontier.choose(metric, courses[2:], courses[0], courses[1], drawn)
        print(f"By {metric}: {chosen.name} ({chosen.sure:.0%} of draws; {chosen.others})")


def measured(past, policy, rules, courses, drawn) -> frontier.Course:
    began = time.process_time()
    played = replay.replay(past, policy, rules)
    spent = time.process_time() - began
    retrains = sum(w.learned > 0 for w in played.weeks)
    course = frontier.Course(policy.name, retrains, {m: played.course(m) for m in METRICS})
    cells = []
    for metric in METRICS:
        cells.append(f"{np.nanmean(course.quality[metric]):.4f}")
        cells.append(kept(metric, course, courses, drawn))
    promoted = sum(w.promoted for w in played.weeks)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    print(f"| {policy.name} | {' | '.join(cells)} | {retrains} | {promoted} | {spent:.0f} | {peak:,} |", flush=True)  # fmt: skip
    return course


def best_schedule(past, metric, spent) -> float:
    """The best mean that so many retrains, put where hindsight wants them, could have had."""
    weeks, sign = len(past.starts), 1 if metric == "auc" else -1
    quality = np.full((weeks, weeks), np.nan)
    for week in range(weeks):
        for made in range(week + 1):
            quality[made, week] = sign * past.quality(past.learn(made), week)[metric]
    total = np.nancumsum(quality, axis=1)  # of a model, from its week on
    best = np.full(
        (spent + 1, weeks + 1), -np.inf
    )  # by retrains left, from a week on in which one is trained
    best[:, weeks] = 0
    for left in range(spent + 1):
        for week in range(weeks):
            ends = range(week + 1, weeks + 1) if left else [weeks]
            best[left, week] = max(
                total[week, end - 1] + best[left - 1, end] * (end < weeks) for end in ends
            )
    return sign * best[spent, 0] / weeks


def share_kept(value, metric, courses) -> float:
    never, weekly = (np.nanmean(course.quality[metric]) for course in courses[:2])
    return (value - never) / (weekly - never)


def kept(metric, course, courses, drawn) -> str:
    if len(courses) < 2:
        return "–"
    share, enough = frontier.kept(metric, course, courses[0], courses[1], drawn)
    return f"{share.value:.0%} ({share.low:.0%} to {share.high:.0%}); enough in {enough:.0%}"


if __name__ == "__main__":
    main()
