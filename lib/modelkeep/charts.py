"""Figures that compare policies: courses side by side, and quality kept against retrains spent"""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.ticker import MaxNLocator, PercentFormatter

from modelkeep import figures
from modelkeep.figures import BREACH, CANDIDATE, CURRENT, INK, REFERENCE, Figure


def courses(
    x: Sequence,
    lines: Mapping[str, np.ndarray],
    marks: Mapping[str, np.ndarray],
    *,
    name: str,
    title: str,
    caption: str,
) -> Figure:
    """One number over time, a line each: the policy blue, never grey, every week orange, hindsight thin; `marks` are weeks on the policy's line, the first orange, the second red."""
    axes = figures.canvas(3.2)
    moments = figures.on_time(axes, x)
    styles = [("o-", CURRENT, 1.8), (":", REFERENCE, 1.8), ("--", CANDIDATE, 1.8), ("-", INK, 0.7)]
    for place, ((label, values), style) in enumerate(zip(lines.items(), styles, strict=False)):
        mark, colour, width = style
        above = {"zorder": 3 - place / 10}  # the policy over the others, hindsight under all
        axes.plot(moments, values, mark, color=colour, linewidth=width, markersize=3, label=label, **above)  # fmt: skip
    first = next(iter(lines.values()))
    for (label, at), (mark, colour) in zip(marks.items(), (("D", CANDIDATE), ("X", BREACH)), strict=False):  # fmt: skip
        if at.any():
            axes.plot(moments[at], first[at], mark, color=colour, markeredgecolor=INK, markersize=6, label=label, zorder=4)  # fmt: skip
    axes.set_ylabel(figures.shown(name))
    return figures.finished(axes, title, caption)


def frontier(points: Sequence[dict], *, keep: float, name: str, title: str, caption: str) -> Figure:
    """Share of the gain kept against retrains, a point with its interval each (keys name, retrains, kept, low, high, chosen); the chosen one is orange."""
    axes = figures.canvas(3.6)
    best, frontier_x, frontier_y = -np.inf, [], []
    for p in sorted(points, key=lambda p: (p["retrains"], -p["kept"])):
        if p["kept"] > best:
            best = p["kept"]
            frontier_x, frontier_y = [*frontier_x, p["retrains"]], [*frontier_y, p["kept"]]
    axes.step(frontier_x, frontier_y, where="post", color=REFERENCE, linewidth=1, label="frontier")
    axes.axhline(keep, color=BREACH, linestyle="--", label=f"{keep:.0%} kept")
    for place, p in enumerate(sorted(points, key=lambda p: (p["retrains"], p["kept"]))):
        colour = CANDIDATE if p["chosen"] else CURRENT
        mark = "D" if p["chosen"] else "o"
        at = (p["retrains"], p["kept"])
        axes.plot([at[0]] * 2, [p["low"], p["high"]], color=colour, linewidth=1, alpha=0.5)
        axes.plot(*at, mark, color=colour, markeredgecolor=INK)
        aside = {"xytext": (5, -11 if place % 2 else 4), "textcoords": "offset points"}
        axes.annotate(figures.shown(p["name"], 14), at, fontsize=8.5, **aside)
    low = min([0, *(p["kept"] for p in points)])
    axes.set_ylim(max(low, -1) - 0.15, max([1.15, *(p["kept"] + 0.15 for p in points)]))
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    axes.set(xlabel="retrains", ylabel=figures.shown(name, 60))
    return figures.finished(axes, title, caption)
