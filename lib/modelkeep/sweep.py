"""Several backtests side by side: quality kept against retrains spent, and the policy to choose"""

from collections.abc import Mapping, Sequence
from html import escape

import numpy as np

from modelkeep import charts, frontier, report, scores
from modelkeep.frontier import Choice, Course
from modelkeep.report import count

BLOCK_WEEKS, DRAWS, SEED = 4, 2000, 0


def section(told: Mapping[str, tuple[str, Mapping]]) -> list[str]:
    """The part of a page on experiments, by name the text of its `plots/backtest.csv` and its verdict; nothing where fewer than two differ."""
    if len({text for text, _ in told.values()}) < 2:
        return []
    parts = ["<h2>Which maintenance policy?</h2>"]
    courses = {
        name: frontier.read(text, name, verdict["evidence"]["retrains"])
        for name, (text, verdict) in told.items()
    }
    if reason := _unlike(told, courses):
        return [*parts, f"<p>{escape(reason)}</p>"]
    first = next(iter(courses.values()))
    weeks = len(frontier.starts(next(iter(told.values()))[0]))
    drawn = frontier.draws(weeks, min(BLOCK_WEEKS, weeks), DRAWS, SEED)
    policies = [each["policy"] for each in courses.values()]
    for metric in first["never"].quality:
        chosen = frontier.choose(metric, policies, first["never"], first["weekly"], drawn)
        points = _points(metric, policies, first, drawn, chosen)
        parts.append(f"<p>{escape(_sentence(metric, chosen, weeks))}</p>")
        parts += [_drawn(metric, points, weeks)] if points else []
    names = {name: verdict["sentence"].split(":")[0] for name, (_, verdict) in told.items()}
    parts.append(report.provenance(names).markup)
    return parts


def _unlike(told: Mapping, courses: Mapping[str, Mapping[str, Course]]) -> str:
    """Why these backtests cannot be compared, or nothing: all must have lived through the same weeks."""
    (name, (text, _)), *others = told.items()
    for other, (its, _) in others:
        if frontier.starts(its) != frontier.starts(text):
            return f"{other} was replayed on other weeks than {name}: give both the same start and end."  # fmt: skip
        for metric, values in courses[name]["never"].quality.items():
            same = courses[other]["never"].quality.get(metric)
            if same is None or not np.allclose(same, values, equal_nan=True):
                return f"{other} and {name} begin with other models or data: only backtests that differ in their policy can be compared."  # fmt: skip
    return ""


def _points(
    metric: str,
    policies: Sequence[Course],
    first: Mapping[str, Course],
    drawn: np.ndarray,
    chosen: Choice,
) -> list[dict]:
    never, weekly = first["never"], first["weekly"]
    found, left = [], [] if any(c.retrains == 0 for c in policies) else [never]
    for course in (*left, *policies, weekly):
        share, _ = frontier.kept(metric, course, never, weekly, drawn)
        if np.isfinite(share.value):
            place = {"kept": share.value, "low": share.low, "high": share.high}
            what = {"name": course.name, "retrains": course.retrains}
            found.append({**what, **place, "chosen": course.name == chosen.name})
    return found


def _sentence(metric: str, chosen: Choice, weeks: int) -> str:
    others = ", ".join(f"{name} in {share:.0%}" for name, share in chosen.others.items())
    return (
        f"By {scores.NAMES[metric]}, choose {chosen.name}: of the policies that keep at least {frontier.KEEP:.0%} of what retraining every week "
        f"gains over never, it needs the fewest retrains. Drawing stretches of the {weeks} weeks anew, the same is chosen in {chosen.sure:.0%}"
        + (f" of draws; {others}." if others else " of draws.")
    )


def _drawn(metric: str, points: Sequence[dict], weeks: int) -> str:
    name = scores.NAMES[metric]
    each = "; ".join(f"{p['name']} {p['kept']:.0%} ({p['low']:.0%} to {p['high']:.0%}) for {count(p['retrains'], 'retrain')}" for p in points)  # fmt: skip
    return charts.frontier(
        points,
        keep=frontier.KEEP,
        name=f"share of the gain in {name} kept",
        title=f"How much of the gain in {name} is kept, for how many retrains?",
        caption=f"{weeks} weeks, 95 % intervals. Share kept: {each}.",
    )._repr_html_()
