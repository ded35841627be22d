"""Experiments side by side: which is better, what was different, and what came of it."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

import numpy as np
from matplotlib.ticker import MaxNLocator, PercentFormatter

from modelkeep.backtest import frontier
from modelkeep.backtest.frontier import Choice, Course
from modelkeep.core import files, markup, pages
from modelkeep.core.markup import count, number, several
from modelkeep.evaluation import metrics
from modelkeep.reports import experiments, figures, paired
from modelkeep.reports.experiments import ABSENT, Run, shown

HEAD = "HEAD"
REFERENCES = re.compile(r'( id="|href="#|url\(#)')


@dataclass(frozen=True)
class Comparison:
    """A page that compares experiments, and what it concludes."""

    page: Path
    conclusion: str


def compare(root: Path, names: Sequence[str], out: Path) -> Comparison:
    """Write the page `out` (below `root`) on `names`: experiments, revisions, or `workspace`.

    The first is what the others are compared with; a single one is compared with HEAD, and HEAD
    itself with the workspace.
    """
    names = list(dict.fromkeys(names if len(names) > 1 else (HEAD, *names)))
    names = names if len(names) > 1 else [*names, experiments.WORKSPACE]
    runs = [experiments.read(root, name) for name in names]
    title = f"{several(names)}, side by side"
    results = [paired.compare(runs[0], run) for run in runs[1:]]
    conclusion = paired.conclusion(results)
    parts = [f"<h1>{escape(title)}</h1>{conclusion.markup}", *_differences(runs)]
    body = "\n".join([*parts, *_results(runs)])
    files.write_text(root / out, pages.page(f"{title} · Modelkeep", body, wide=True, current=""))
    return Comparison(root / out, "\n".join(result.sentence for result in results))


def _differences(runs: Sequence[Run]) -> list[str]:
    params, inputs = ([getattr(run, kind) for run in runs] for kind in ("params", "inputs"))
    changed, files_changed = _apart(params)[0], _apart(inputs)[0]
    origins = markup.provenance({run.name: run.origin for run in runs}).markup
    parts = [
        f"<p>{escape(_summary(changed, files_changed))}</p>{origins}",
        "<h2>What was different?</h2>",
    ]
    parts.append(_table(runs, params, "parameter"))
    if files_changed:
        rows = _rows(runs, inputs, "file", files_changed)
        parts.append(
            _folded(f"{count(len(files_changed), 'file')} of code or data that differ", rows)
        )
    return parts


def _summary(changed: Sequence[str], files_changed: Sequence[str]) -> str:
    params = f"{count(len(changed), 'parameter')} ({several(changed)})"
    code = f"code or data ({several(files_changed)})"
    if changed and files_changed:
        return f"They differ in {params} and in {code}."
    if changed:
        return f"They differ in {params}; code and data are the same."
    return (
        f"They differ in {code}; the parameters are the same."
        if files_changed
        else "Nothing differs."
    )


def _results(runs: Sequence[Run]) -> list[str]:
    backtests = {r.name: (r.plots["backtest"], r.verdicts["backtest"]) for r in runs}
    chosen = section({name: both for name, both in backtests.items() if all(both)})
    parts = [_own_ids(part, f"sweep-{place}-") for place, part in enumerate(chosen)]
    first = escape(runs[0].name)
    parts += ["<h2>What came of it?</h2>", _table(runs, [r.metrics for r in runs], "metric", True)]
    parts.append(f"<p>In brackets: the difference from <code>{first}</code>.</p>")
    drawn = [figure._repr_html_() for figure in paired.overlays(runs)]
    drawn = [_own_ids(each, f"overlay-{place}-") for place, each in enumerate(drawn)]
    parts += [f'<div class="side">{"".join(drawn)}</div>'] if drawn else []
    return [*parts, *_conclusions(runs)]


def _conclusions(runs: Sequence[Run]) -> list[str]:
    """What each stage concluded, where that is not the same in all."""
    parts, same = ["<h2>What did each stage conclude?</h2>"], []
    for stage in (*pages.STAGES, *pages.BESIDE):
        boxes = [_box(run.verdicts[stage]) for run in runs]
        if len(set(boxes)) > 1:
            parts.append(f"<h3>{stage}</h3>{_side(runs, boxes)}")
        elif any(run.verdicts[stage] for run in runs):
            same.append(stage)
    return [*parts, f"<p>The same in all: {several(same, 9)}.</p>"] if same else parts


def _apart(columns: Sequence[Mapping]) -> tuple[list[str], list[str]]:
    """Names whose values differ, and those whose are equal, each in order of appearance."""
    every = list(dict.fromkeys(name for column in columns for name in column))
    values = {name: [column.get(name, ABSENT) for column in columns] for name in every}
    differ = [name for name in every if any(v != values[name][0] for v in values[name])]
    return differ, [name for name in every if name not in differ]


def _table(
    runs: Sequence[Run], columns: Sequence[Mapping], noun: str, measured: bool = False
) -> str:
    differ, equal = _apart(columns)
    table = f"<p>No {noun} differs.</p>"
    if differ:
        table = _rows(runs, columns, noun, differ, measured, "" if measured else "differs")
        table += f"<p>{count(len(equal), noun)} the same.</p>" if equal else ""
    return table


def _folded(summary: str, content: str) -> str:
    return f'<details class="code"><summary>{summary}</summary>{content}</details>'


def _rows(
    runs: Sequence[Run],
    columns: Sequence[Mapping],
    noun: str,
    names: Sequence[str],
    measured: bool = False,
    style: str = "",
) -> str:
    head = "".join(f"<th>{escape(text)}</th>" for text in (noun, *(run.name for run in runs)))
    body = ""
    for name in names:
        cells = _cells([column.get(name, ABSENT) for column in columns], measured)
        mark = "/" if "/" in name else "."
        breakable = escape(name).replace(mark, f"{mark}<wbr>")
        body += f'<tr class="{style}"><th>{breakable}</th>{cells}</tr>'
    return f'<div class="tablebox"><table><thead><tr>{head}</tr></thead>{body}</table></div>'


def _cells(values: Sequence[object], measured: bool) -> str:
    texts = [number(value) if value is None else shown(value) for value in values]
    for place, value in enumerate(values):
        if measured and place and _are_numbers(value, values[0]):
            texts[place] += f" ({_difference(value - values[0])})"
    return "".join(f"<td>{escape(text)}</td>" for text in texts)


def _are_numbers(*values: object) -> bool:
    return all(isinstance(v, int | float) and not isinstance(v, bool) for v in values)


def _difference(by: float) -> str:
    size = number(abs(by)) if isinstance(by, int) or abs(by) >= 100 else f"{abs(by):.2g}"
    return ("+" if by > 0 else "−") + size if by else "same"


def _box(verdict: Mapping) -> str:
    return (
        markup.verdict(verdict["state"], verdict["sentence"]).markup
        if verdict
        else "<p>not run</p>"
    )


def _side(runs: Sequence[Run], contents: Sequence[str]) -> str:
    boxes = (
        f"<div><p><code>{escape(run.name)}</code></p>{content}</div>"
        for run, content in zip(runs, contents, strict=True)
    )
    return f'<div class="side">{"".join(boxes)}</div>'


def _own_ids(figure: str, prefix: str) -> str:
    # Matplotlib names parts alike in every drawing, and a clip path is found by its name
    return REFERENCES.sub(rf"\g<1>{prefix}", figure)


BLOCK_WEEKS, DRAWS, SEED = 4, 2000, 0


def section(backtests: Mapping[str, tuple[str, Mapping]]) -> list[str]:
    """The part of a page on policies, from `plots/backtest.csv` and the verdict of each by name.

    Nothing where fewer than two differ.
    """
    if len({text for text, _ in backtests.values()}) < 2:
        return []
    parts = ["<h2>Which maintenance policy?</h2>"]
    courses = {
        name: frontier.read(text, name, verdict["evidence"]["retrains"])
        for name, (text, verdict) in backtests.items()
    }
    if reason := _unlike(backtests, courses):
        return [*parts, f"<p>{escape(reason)}</p>"]
    first = next(iter(courses.values()))
    weeks = len(frontier.starts(next(iter(backtests.values()))[0]))
    drawn = frontier.bootstrap_weeks(weeks, min(BLOCK_WEEKS, weeks), DRAWS, SEED)
    policies = [each["policy"] for each in courses.values()]
    for metric in first["never"].quality:
        chosen = frontier.choose(metric, policies, first["never"], first["weekly"], drawn)
        points = _points(metric, policies, first, drawn, chosen)
        parts.append(f"<p>{escape(_sentence(metric, chosen, weeks))}</p>")
        parts += [_drawn(metric, points, weeks)] if points else []
    names = {name: verdict["sentence"].split(":")[0] for name, (_, verdict) in backtests.items()}
    parts.append(markup.provenance(names).markup)
    return parts


def _unlike(backtests: Mapping, courses: Mapping[str, Mapping[str, Course]]) -> str:
    """Why these backtests cannot be compared, or nothing: all must replay the same weeks."""
    (name, (text, _)), *others = backtests.items()
    for other, (its, _) in others:
        if frontier.starts(its) != frontier.starts(text):
            remedy = "give both the same start and end"
            return f"{other} was replayed on other weeks than {name}: {remedy}."
        for metric, values in courses[name]["never"].quality.items():
            same = courses[other]["never"].quality.get(metric)
            if same is None or not np.allclose(same, values, equal_nan=True):
                return (
                    f"{other} and {name} begin with other models or data: only backtests that "
                    "differ in their policy can be compared."
                )
    return ""


def _points(
    metric: str,
    policies: Sequence[Course],
    first: Mapping[str, Course],
    drawn: np.ndarray,
    chosen: Choice,
) -> list[dict]:
    never, weekly = first["never"], first["weekly"]
    points, left = [], [] if any(c.retrains == 0 for c in policies) else [never]
    for course in (*left, *policies, weekly):
        share, _ = frontier.benefit_retained(metric, course, never, weekly, drawn)
        if np.isfinite(share.value):
            place = {"kept": share.value, "low": share.low, "high": share.high}
            what = {"name": course.name, "retrains": course.retrains}
            points.append({**what, **place, "chosen": course.name == chosen.name})
    return points


def _sentence(metric: str, chosen: Choice, weeks: int) -> str:
    others = ", ".join(f"{name} in {share:.0%}" for name, share in chosen.others.items())
    return (
        f"By {metrics.NAMES[metric]}, choose {chosen.name}: of the policies that keep at least "
        f"{frontier.ENOUGH:.0%} of what retraining every week gains over never, it needs the "
        "fewest "
        f"retrains. In bootstrap samples of the {weeks} weeks, the same is chosen in "
        f"{chosen.probability:.0%}" + (f" of draws; {others}." if others else " of draws.")
    )


def _drawn(metric: str, points: Sequence[dict], weeks: int) -> str:
    name = metrics.NAMES[metric]
    each = "; ".join(
        f"{p['name']} {p['kept']:.0%} ({p['low']:.0%} to {p['high']:.0%}) "
        f"for {count(p['retrains'], 'retrain')}"
        for p in points
    )
    return _frontier_figure(
        points,
        keep=frontier.ENOUGH,
        name=f"share of the gain in {name} kept",
        title=f"How much of the gain in {name} is kept, for how many retrains?",
        caption=f"{weeks} weeks, 95 % intervals. Share kept: {each}.",
    )._repr_html_()


def _frontier_figure(
    points: Sequence[dict], *, keep: float, name: str, title: str, caption: str
) -> figures.Figure:
    """Share of the gain kept against retrains, a point with its interval each.

    Keys: name, retrains, kept, low, high, chosen; the chosen one is orange.
    """
    axes = figures.canvas(3.6)
    best, frontier_x, frontier_y = -np.inf, [], []
    for p in sorted(points, key=lambda p: (p["retrains"], -p["kept"])):
        if p["kept"] > best:
            best = p["kept"]
            frontier_x, frontier_y = [*frontier_x, p["retrains"]], [*frontier_y, p["kept"]]
    axes.step(
        frontier_x, frontier_y, where="post", color=figures.REFERENCE, linewidth=1, label="frontier"
    )
    axes.axhline(keep, color=figures.BREACH, linestyle="--", label=f"{keep:.0%} kept")
    for place, p in enumerate(sorted(points, key=lambda p: (p["retrains"], p["kept"]))):
        colour = figures.CANDIDATE if p["chosen"] else figures.CURRENT
        mark = "D" if p["chosen"] else "o"
        at = (p["retrains"], p["kept"])
        axes.plot([at[0]] * 2, [p["low"], p["high"]], color=colour, linewidth=1, alpha=0.5)
        axes.plot(*at, mark, color=colour, markeredgecolor=figures.INK)
        aside = {"xytext": (5, -11 if place % 2 else 4), "textcoords": "offset points"}
        axes.annotate(figures.shown(p["name"], 14), at, fontsize=8.5, **aside)
    low = min([0, *(p["kept"] for p in points)])
    axes.set_ylim(max(low, -1) - 0.15, max([1.15, *(p["kept"] + 0.15 for p in points)]))
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    axes.set(xlabel="retrains", ylabel=figures.shown(name, 60))
    return figures.finished(axes, title, caption)
