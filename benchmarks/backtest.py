"""What maintenance policies would have kept on the flights of April to December, and for how many retrains.

A model of January to March is the first; each week's flights are answered by whatever a policy has in service. Models that policies share are trained once, and kept for the next run. Prints
Markdown tables, a row as soon as it is known; `--end 2013-07-01` takes less. Run: python benchmarks/backtest.py
"""

import argparse
import resource
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np

from modelkeep.backtest import frontier, policies, replay
from modelkeep.backtest.cache import ResultCache
from modelkeep.backtest.policies import Policy
from modelkeep.core import workspace
from modelkeep.reports import backtest

METRICS = ("auc", "log_loss")
POLICIES = (
    Policy("guarded", 1),
    *(Policy("every", n) for n in (4, 5, 6, 8, 13)),
    *(Policy("every", 4, history_days=days) for days in (56, 112, 168)),
    Policy("every", 4, gate=True),
    Policy("every", 4, canary=True),
    *(Policy(kind, gate=gate) for kind in ("estimate", "monitor") for gate in (False, True)),
    Policy("monitor", history_days=112),
)
RETRAINS = 9  # a quarter of 38
SCHEDULES = 100_000


def main() -> None:
    """Print the tables."""
    asked = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    asked.add_argument("--start", default="2013-04-01")
    asked.add_argument("--end", default="")
    asked.add_argument("--only", type=int, nargs="*", help="places in the list of policies, from 0")
    asked.add_argument("--memory", action="store_true", help="peak memory by weeks, and no more")
    asked.add_argument("--days", type=float, help="print the peak of one replay, on so many days")
    asked.add_argument("--fit", action="store_true", help="print the peak of fitting the two largest models of that replay, and no more")  # fmt: skip
    told = asked.parse_args()
    root = workspace.root(Path(__file__).parent)
    if told.memory:
        return memory()
    past = backtest.history(root, told.start, told.end, 1.0)
    rules = backtest.rules(root, Policy("never", canary=True), past)
    if told.days is not None:
        alone, policy = replace(past, results=ResultCache()), Policy("every", 4, told.days)
        if told.fit:
            last = policies.scheduled(policy, len(past.starts))[-2:]
            alone.learn_ahead([(week, told.days, 0) for week in last])
        else:
            replay.replay(alone, policy, rules)
        print(len(past.starts), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
        return None
    drawn = frontier.bootstrap_weeks(len(past.starts), 4, 2000, 0)
    print(f"{len(past.starts)} weeks\n\n| policy | AUC | kept | log loss | kept | retrains | promoted | CPU s | peak MB |")  # fmt: skip
    print("|---|---|---|---|---|---|---|---|---|")
    courses = [measured(past, Policy("never"), rules, [], drawn)]
    courses.append(measured(past, Policy("every", 1), rules, courses, drawn))
    chosen = [p for i, p in enumerate(POLICIES) if told.only is None or i in told.only]
    for policy in chosen:
        courses.append(measured(past, policy, rules, courses, drawn))
    for metric in METRICS:
        best = frontier.choose(metric, courses[2:], courses[0], courses[1], drawn)
        print(f"\nBy {metric}: {best.name} ({best.probability:.0%} of draws; {best.others})")
    calendars({m: matrix(past, m) for m in METRICS})
    return None


def memory() -> None:
    """Each replay in a process of its own, every model trained in it; beside it what its two largest models take that are fitted at once."""
    print("| every 4 weeks, on | weeks | peak MB | to fit two models alone |\n|---|---|---|---|")
    for days in (0, 112):
        for end in ("2013-06-10", "2013-08-19", ""):
            asked = [sys.executable, __file__, "--days", str(days), "--end", end]
            each = [
                subprocess.run([*asked, *more], capture_output=True, text=True, check=True)
                for more in ([], ["--fit"])
            ]
            cells = " | ".join([*each[0].stdout.split(), each[1].stdout.split()[1]])
            print(f"| {f'the last {days} days' if days else 'everything'} | {cells} |", flush=True)


def matrix(past, metric) -> np.ndarray:
    """By week of training and week of service, how good a model on everything was; larger is better."""
    weeks, sign = len(past.starts), 1 if metric == "auc" else -1
    quality = np.full((weeks, weeks), np.nan)
    for made in range(weeks):
        for week in range(made, weeks):
            quality[made, week] = sign * past.quality(past.learn(made), week)[metric]
    return quality


def share(quality, schedule) -> float:
    """What a schedule (the weeks in which a model is trained, on everything) keeps of the weekly gain."""
    weeks = np.arange(len(quality))
    serving = np.maximum.accumulate(np.where(np.isin(weeks, schedule), weeks, 0))
    ours, never, weekly = (quality[m, weeks].mean() for m in (serving, np.zeros_like(weeks), weeks))
    return (ours - never) / (weekly - never)


def calendars(quality) -> None:
    """Calendars that begin in any week, schedules of chance, and what oracle could have chosen."""
    weeks = len(quality["auc"])
    print("\n| schedule, on everything | retrains | AUC kept | log loss kept |\n|---|---|---|---|")
    for n in range(4, 9):
        kept = np.array([[share(quality[m], range(first, weeks, n)) for m in METRICS] for first in range(1, n + 1)])  # fmt: skip
        spent = sorted({len(range(first, weeks, n)) for first in range(1, n + 1)})
        cells = [f"{x.min():.0%} to {x.max():.0%}, mean {x.mean():.0%}" for x in kept.T]
        print(f"| every {n} weeks, begun in any of {n} weeks | {spent[0]} to {spent[-1]} | {cells[0]} | {cells[1]} |")  # fmt: skip
    random = np.random.default_rng(0)
    drawn = [random.choice(np.arange(1, weeks), RETRAINS, replace=False) for _ in range(SCHEDULES)]
    kept = np.array([[share(quality[m], weeks_of) for m in METRICS] for weeks_of in drawn])
    cells = [f"mean {x.mean():.0%}; {frontier.ENOUGH:.0%} or more in {(x >= frontier.ENOUGH).mean():.1%}" for x in kept.T]  # fmt: skip
    both = (kept >= frontier.ENOUGH).all(axis=1).mean()
    print(f"| {SCHEDULES:,} drawn by chance (both in {both:.2%}) | {RETRAINS} | {cells[0]} | {cells[1]} |")  # fmt: skip
    for spent in (1, 2, 4, 9, 19):
        cells = [f"{best_share(quality[m], spent):.0%}" for m in METRICS]
        print(f"| the best that oracle can find | {spent} | {cells[0]} | {cells[1]} |")


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


def best_share(quality, spent) -> float:
    """What so many retrains keep, put where oracle wants them (dynamic programming over weeks)."""
    weeks = len(quality)
    total = np.nancumsum(quality, axis=1)  # of a model, from its week on
    # by retrains left, from a week on in which one is trained
    best = np.full((spent + 1, weeks + 1), -np.inf)
    best[:, weeks] = 0
    for left in range(spent + 1):
        for week in range(weeks):
            ends = range(week + 1, weeks + 1) if left else [weeks]
            best[left, week] = max(
                total[week, end - 1] + best[left - 1, end] * (end < weeks) for end in ends
            )
    never, weekly = quality[0].mean(), np.diagonal(quality).mean()
    return (best[spent, 0] / weeks - never) / (weekly - never)


def kept(metric, course, courses, drawn) -> str:
    if len(courses) < 2:
        return "–"
    share, enough = frontier.benefit_retained(metric, course, courses[0], courses[1], drawn)
    return f"{share.value:.0%} ({share.low:.0%} to {share.high:.0%}); enough in {enough:.0%}"


if __name__ == "__main__":
    main()
