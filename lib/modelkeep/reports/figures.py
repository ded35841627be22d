"""The figures of pages, one function each: matplotlib to SVG, whose colours follow the page's.

A colour of the palette is written as a CSS variable of the page, so that figures follow its paper,
light or dark; outside of a page the colour for light paper is used.
"""

import io
import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.dates import AutoDateLocator, ConciseDateFormatter, date2num
from matplotlib.figure import Figure as Canvas
from matplotlib.ticker import MaxNLocator, PercentFormatter

from modelkeep.core.markup import significant

# each has a contrast of 3 to 1 or more with its paper (INK: 7), light here, dark in page.css
REFERENCE, CURRENT, CANDIDATE, BREACH = "#878e97", "#0b62a4", "#c77700", "#b3001b"
INK, FAINT, MILD = "#1d2733", "#dfe3e8", "#5a98c7"
PALETTE = {
    REFERENCE: "reference",
    CURRENT: "current",
    CANDIDATE: "candidate",
    BREACH: "breach",
    INK: "ink",
    FAINT: "line",
    MILD: "mild",
    "#ffffff": "paper",
}
STYLE = {
    "svg.fonttype": "none",
    "svg.hashsalt": "modelkeep",
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans", "sans-serif"],
    "font.size": 10.5,
    "figure.facecolor": "none",
    "savefig.facecolor": "none",
    "axes.facecolor": "none",
    "axes.edgecolor": REFERENCE,
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": FAINT,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "legend.frameon": False,
    "legend.fontsize": 9.5,
    "lines.linewidth": 1.8,
}
WIDTH = 5.0


@dataclass(frozen=True)
class Figure:
    """A drawing, its title above and what it is made from below; notebooks and pages show it."""

    title: str
    caption: str
    svg: str

    def _repr_html_(self) -> str:
        # a reader of screens meets title, picture (by its title) and caption; the paper is stated
        # for notebooks, whose page may be dark and knows none of our variables
        title = escape(self.title, quote=True)
        picture = self.svg.replace("<svg ", f'<svg role="img" aria-label="{title}" ', 1)
        return (
            f'<figure style="background: var(--paper, #fff); color: var(--ink, {INK})">'
            f'<p class="title">{title}</p>{picture}'
            f"<figcaption>{escape(self.caption)}</figcaption></figure>"
        )

    def __repr__(self) -> str:
        return f"{self.title} ({self.caption})"


def canvas(height: float = 2.9) -> Axes:
    """Axes in the house's style, as wide as all of them."""
    with matplotlib.rc_context(STYLE):
        return Canvas(figsize=(WIDTH, height), layout="constrained").add_subplot()


def finished(axes: Axes, title: str, caption: str) -> Figure:
    """The drawing with its legend above it, the same bytes each time."""
    with matplotlib.rc_context(STYLE):
        if axes.get_legend_handles_labels()[0]:
            axes.figure.legend(loc="outside upper left", ncols=2, handlelength=1.6)
        out, silent = io.StringIO(), dict.fromkeys(("Creator", "Date", "Format", "Type"))
        with warnings.catch_warnings():  # text stays text: its reader may have the letters
            warnings.filterwarnings("ignore", "Glyph .* missing from font")
            axes.figure.savefig(out, format="svg", metadata=silent)
    text = out.getvalue()
    return Figure(title, caption, _themed(text[text.index("<svg") :].strip()))


def _themed(svg: str) -> str:
    """The drawing with the palette's colours as variables of the page around it."""
    for colour, name in PALETTE.items():
        svg = re.sub(rf"(?<=[ \"]){colour}\b", f"var(--{name}, {colour})", svg)
    return svg


def shown(text: str, most: int = 36) -> str:
    """A name from the data as a drawing can hold it: not wider than itself, and never a formula."""
    text = "".join(c if c.isprintable() else " " for c in text)
    text = text if len(text) <= most else f"{text[: most - 1]}…"
    return text.replace("$", r"\$")


def on_time(axes: Axes, x: Sequence) -> np.ndarray:
    """Put dates below as dates, anything else as 1, 2, 3, ..., and return where they are."""
    x = np.asarray(x)
    if x.dtype.kind == "M":
        locator = AutoDateLocator(minticks=2, maxticks=6)
        axes.xaxis.set_major_locator(locator)
        axes.xaxis.set_major_formatter(ConciseDateFormatter(locator))
        if len(x) == 1:  # else it stands alone among four years
            axes.set_xlim(*(x + np.array([-12, 12], "timedelta64[h]")))
        return x
    axes.set_xlabel("part of the file, in its order")
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    return np.arange(1, len(x) + 1)


def shade(axes: Axes, moments: np.ndarray, waiting: np.ndarray | None) -> None:
    """Shade the parts at `waiting`, whose labels have not all come."""
    if waiting is None or not waiting.any():
        return
    dates = moments.dtype.kind == "M"
    moments = date2num(moments) if dates else moments.astype(float)
    step = np.median(np.diff(moments)) / 2 if len(moments) > 1 else 0.5
    for moment in moments[waiting]:
        axes.axvspan(moment - step, moment + step, color=REFERENCE, alpha=0.16, linewidth=0)
    axes.fill_between([], [], color=REFERENCE, alpha=0.16, label="labels still to come")


def timeline(x: Sequence, parts: dict[str, np.ndarray], *, title: str, caption: str) -> Figure:
    """Rows over time, stacked by part: the first grey, then blue, orange, red."""
    axes = canvas()
    moments = on_time(axes, x)
    colours = (REFERENCE, CURRENT, CANDIDATE, BREACH)
    width = np.median(np.diff(moments)) * 0.85 if len(moments) > 1 else 0.8
    bottom = np.zeros(len(moments))
    for (name, rows), colour in zip(parts.items(), colours, strict=False):
        axes.bar(moments, rows, width=width, bottom=bottom, color=colour, label=name)
        bottom = bottom + rows
    axes.set_ylabel("rows")
    axes.grid(axis="x", visible=False)
    return finished(axes, title, caption)


def course(
    x: Sequence,
    values: np.ndarray,
    *,
    name: str,
    title: str,
    caption: str,
    limit: float | None = None,
    limit_name: str = "",
    share: bool = False,
    waiting: np.ndarray | None = None,
) -> Figure:
    """One number over time against an optional limit; `waiting` marks parts without all labels."""
    axes = canvas(2.6)
    moments = on_time(axes, x)
    shade(axes, moments, waiting)
    axes.plot(moments, values, "o-", color=CURRENT, markersize=4, label=shown(name))
    if limit is not None:
        axes.axhline(limit, color=BREACH, linestyle="--", label=limit_name)
    if share:
        axes.yaxis.set_major_formatter(PercentFormatter(1))
    return finished(axes, title, caption)


def bars(
    values: dict[str, float],
    *,
    name: str,
    title: str,
    caption: str,
    limit: float | None = None,
    limit_name: str = "",
    share: bool = False,
    whole: bool = False,
) -> Figure:
    """One bar a name, longest on top; beyond the limit it is red; `whole` shows 0 to 100 %."""
    ordered = sorted(values.items(), key=lambda item: item[1])
    axes = canvas(0.9 + 0.27 * max(len(ordered), 2))
    sizes = [v for _, v in ordered]
    colours = [BREACH if limit is not None and v > limit else CURRENT for v in sizes]
    axes.barh(range(len(ordered)), sizes, color=colours, height=0.62)
    axes.set_yticks(range(len(ordered)), [shown(k) for k, _ in ordered])
    if limit is not None:
        axes.axvline(limit, color=BREACH, linestyle="--", label=limit_name)
    if share:
        axes.xaxis.set_major_formatter(PercentFormatter(1))
    if whole:
        axes.set_xlim(0, 1)
    axes.set_xlabel(shown(name, 70))
    axes.grid(axis="y", visible=False)
    return finished(axes, title, caption)


def forest(
    rows: Sequence[dict],
    *,
    name: str,
    title: str,
    caption: str,
    margin: float | None = None,
    zero: str = "no difference",
) -> Figure:
    """Value and interval a row (keys name, value, low, high, breach, judged); right of zero is
    better. A row that is not judged is grey and hollow."""
    axes = canvas(1.1 + 0.3 * max(len(rows), 2))
    axes.axvline(0, color=INK, linewidth=1, label=zero)
    if margin is not None:
        axes.axvline(-margin, color=BREACH, linestyle="--", label="margin: worse than this fails")
    for place, row in enumerate(reversed(rows)):
        judged = row.get("judged", True)
        colour = BREACH if row.get("breach") else CANDIDATE if judged else REFERENCE
        width, fill, edge = (3, colour, INK) if judged else (1, "#ffffff", REFERENCE)
        axes.plot([row["low"], row["high"]], [place, place], color=colour, linewidth=width)
        mark = {"markerfacecolor": fill, "markeredgecolor": edge, "markersize": 6}
        axes.plot(row["value"], place, "D", color=colour, **mark)
    if any(not row.get("judged", True) for row in rows):
        hollow = {"markerfacecolor": "#ffffff", "markeredgecolor": REFERENCE}
        axes.plot([], [], "D", color=REFERENCE, label="not judged: too few days", **hollow)
    axes.set_yticks(range(len(rows)), [shown(r["name"]) for r in reversed(rows)])
    axes.set_ylim(-0.6, len(rows) - 0.4)
    axes.set_xlabel(shown(name, 70))
    axes.grid(axis="y", visible=False)
    axes.xaxis.set_major_locator(MaxNLocator(5))
    return finished(axes, title, caption)


def calibration(rows: Sequence[dict], *, name: str, title: str) -> Figure:
    """Observed against predicted rate with intervals; on the diagonal both agree."""
    axes = canvas(3.4)
    predicted = [r["predicted"] for r in rows]
    top = max([*predicted, *(r["high"] for r in rows if np.isfinite(r["high"])), 0.05]) * 1.05
    axes.plot([0, top], [0, top], color=REFERENCE, linestyle="--", label="calibrated")
    for r in rows:
        axes.plot([r["predicted"]] * 2, [r["low"], r["high"]], color=CANDIDATE, linewidth=2.4)
    axes.plot(predicted, [r["observed"] for r in rows], "o", color=CANDIDATE, label=name)
    _shares(axes, "predicted", "observed")
    worst = max(rows, key=lambda r: abs(r["predicted"] - r["observed"]))
    off = sum(r["predicted"] < r["low"] or r["predicted"] > r["high"] for r in rows)
    says = f"{off} of {len(rows)} are off the line" if off else "none is off the line for sure"
    caption = (
        f"{sum(r['rows'] for r in rows):,} rows in {len(rows)} groups of equal size, with 95 % "
        f"intervals by block: {says}. "
        f"The largest gap is {abs(worst['predicted'] - worst['observed']):.1%}, "
        f"at a predicted {worst['predicted']:.0%}."
    )
    return finished(axes, title, caption)


def drifted(
    x: Sequence,
    effects: dict[str, np.ndarray],
    levels: dict[str, float],
    *,
    title: str,
    caption: str,
) -> Figure:
    """Which column drifted when: one row a column, one square a window.

    A square is darker and larger with the effect, red from the highest level on.
    """
    axes = canvas(1.2 + 0.27 * len(effects))
    moments = on_time(axes, x)
    levels = dict(sorted(levels.items(), key=lambda item: item[1]))
    floors = list(levels.values())
    shades = [FAINT, MILD, CURRENT, BREACH]
    for place, values in enumerate(reversed(list(effects.values()))):
        grade = np.searchsorted(floors, values, side="right")
        for step, shade in enumerate(shades):
            here = grade == step
            size = 14 + 16 * step
            axes.scatter(moments[here], np.full(here.sum(), place), s=size, c=shade, marker="s")
    names = ["stable", *levels]
    for step, shade in enumerate(shades):
        bound = f" (from {floors[step - 1]:g})" if step else ""
        axes.scatter([], [], s=14 + 16 * step, c=shade, marker="s", label=names[step] + bound)
    axes.set_yticks(range(len(effects)), [shown(k) for k in reversed(list(effects))])
    axes.set_ylim(-0.7, len(effects) - 0.3)
    axes.grid(visible=False)
    return finished(axes, title, caption)


def e_values(
    x: Sequence, paths: dict, threshold: float, *, title: str, caption: str, then: str = "alerts"
) -> Figure:
    """How e-values grow over windows, against the threshold of an action; logarithmic scale."""
    axes = canvas()
    moments = on_time(axes, x)
    colours, marks = (CURRENT, CANDIDATE, REFERENCE), ("o-", "s-", "^-")
    low, top = 1e-2, threshold * 1e3  # beyond these the line says nothing more
    for (name, path), colour, mark in zip(paths.items(), colours, marks, strict=False):
        axes.plot(moments, np.clip(path, low, top), mark, color=colour, markersize=4, label=name)
    highest = max(
        [np.nanmax(path) for path in paths.values() if np.isfinite(path).any()], default=0
    )
    if highest > top:
        axes.axhline(
            top,
            color=REFERENCE,
            linewidth=1,
            label=f"drawn up to here; it reaches {significant(highest)}",
        )
    if any((path < low).any() for path in paths.values()):
        floor = f"drawn from {low} on, and lower where it touches"
        axes.axhline(low, color=REFERENCE, linewidth=1, linestyle=":", label=floor)
    line = {"color": BREACH, "linestyle": "--", "label": f"{then} at {significant(threshold)}"}
    axes.axhline(threshold, **line)
    axes.set_yscale("log")
    axes.set_ylabel("e-value (log scale)")
    return finished(axes, title, caption)


def quality(
    x: Sequence,
    realised: np.ndarray,
    estimated: np.ndarray,
    corrected: np.ndarray,
    band: tuple[np.ndarray, np.ndarray],
    expected: float | None,
    *,
    name: str,
    title: str,
    caption: str,
    waiting: np.ndarray | None = None,
) -> Figure:
    """Realised, estimated and corrected quality by window; `band` is that of the corrected."""
    axes = canvas(3.2)
    moments = on_time(axes, x)
    shade(axes, moments, waiting)
    axes.fill_between(moments, *band, color=CANDIDATE, alpha=0.18, linewidth=0, label="90 % band")
    axes.plot(moments, estimated, ":", color=REFERENCE, label="estimated")
    axes.plot(
        moments, corrected, "s--", color=CANDIDATE, markersize=4, label="estimated, corrected"
    )
    axes.plot(moments, realised, "o-", color=CURRENT, markersize=5, label="realised")
    if expected is not None:
        axes.axhline(expected, color=INK, linewidth=1, label="expected")
    axes.set_ylabel(name)
    return finished(axes, title, caption)


def waiting(days: np.ndarray, *, title: str, caption: str) -> Figure:
    """The share of labels received after so many days (`days` sorted)."""
    axes = canvas(2.6)
    at = np.linspace(0, max(float(days[-1]), 1.0), 200)
    axes.plot(at, np.searchsorted(days, at, side="right") / len(days), color=CURRENT)
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axes.set_ylim(0, 1.03)
    axes.set(xlabel="days from prediction to label", ylabel="labels received")
    return finished(axes, title, caption)


def courses(
    x: Sequence,
    lines: Mapping[str, np.ndarray],
    marks: Mapping[str, np.ndarray],
    *,
    name: str,
    title: str,
    caption: str,
) -> Figure:
    """One number over time by line: the policy blue, never grey, every week orange, oracle thin.

    `marks` are weeks on the policy's line, the first orange, the second red.
    """
    axes = canvas(3.2)
    moments = on_time(axes, x)
    styles = [("o-", CURRENT, 1.8), (":", REFERENCE, 1.8), ("--", CANDIDATE, 1.8), ("-", INK, 0.7)]
    for place, ((label, values), style) in enumerate(zip(lines.items(), styles, strict=False)):
        mark, colour, width = style
        above = {"zorder": 3 - place / 10}  # the policy over the others, oracle under all
        line = {"color": colour, "linewidth": width, "markersize": 3, "label": label}
        axes.plot(moments, values, mark, **line, **above)
    first = next(iter(lines.values()))
    markers = (("D", CANDIDATE), ("X", BREACH))
    for (label, at), (mark, colour) in zip(marks.items(), markers, strict=False):
        if at.any():
            point = {"color": colour, "markeredgecolor": INK, "markersize": 6, "zorder": 4}
            axes.plot(moments[at], first[at], mark, label=label, **point)
    axes.set_ylabel(shown(name))
    return finished(axes, title, caption)


def roc(
    points: np.ndarray,
    marked: tuple[float, float],
    *,
    area: str,
    mark: str,
    title: str,
    caption: str,
) -> Figure:
    """The ROC curve by `points` (n, 2), false and true positive rate, and one threshold."""
    axes = canvas(3.4)
    axes.plot([0, 1], [0, 1], "--", color=REFERENCE, label="chance")
    axes.plot(points[:, 0], points[:, 1], color=CANDIDATE, label=area)
    axes.plot(*marked, "D", color=CURRENT, markeredgecolor=INK, markersize=6, label=mark)
    return finished(_shares(axes, "false positive rate", "true positive rate"), title, caption)


def importance(rows: Sequence[dict], *, name: str, title: str, caption: str) -> Figure:
    """A bar a column with its spread over shuffles (keys column, added, spread), largest on top."""
    axes = canvas(0.9 + 0.27 * max(len(rows), 2))
    ordered = [*reversed(rows)]
    places = range(len(ordered))
    spread = {"xerr": [row["spread"] for row in ordered], "ecolor": INK}
    axes.barh(places, [row["added"] for row in ordered], color=CANDIDATE, height=0.62, **spread)
    axes.set_yticks(places, [shown(row["column"]) for row in ordered])
    axes.axvline(0, color=INK, linewidth=1)
    axes.set_xlabel(shown(name, 70))
    axes.grid(axis="y", visible=False)
    axes.xaxis.set_major_locator(MaxNLocator(5))
    return finished(axes, title, caption)


def distributions(panels: Mapping[str, tuple], *, title: str, caption: str) -> Figure:
    """Shares of each column's bins, then (grey) and now (blue): a panel a column.

    `panels`: by column the names of its bins, their shares before, their shares now.
    """
    with matplotlib.rc_context(STYLE):
        canvas = Canvas(figsize=(WIDTH, 0.5 + 1.9 * len(panels)), layout="constrained")
        every = canvas.subplots(len(panels), squeeze=False)[:, 0]
        for axes, (name, (bins, before, now)) in zip(every, panels.items(), strict=True):
            places, first = np.arange(len(bins)), axes is every[0]
            labels = ("reference", "newest window") if first else (None, None)
            axes.bar(places - 0.2, before, width=0.4, color=REFERENCE, label=labels[0])
            axes.bar(places + 0.2, now, width=0.4, color=CURRENT, label=labels[1])
            names = [shown(each, 12) for each in bins]
            axes.set_xticks(places, names, rotation=35, ha="right", fontsize=8)
            axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
            axes.set_title(shown(name), loc="left", fontsize=10.5)
            axes.grid(axis="x", visible=False)
    return finished(every[0], title, caption)


RUNS = ((REFERENCE, "o-"), (CURRENT, "s-"), (CANDIDATE, "^-"), (BREACH, "D-"), (INK, "v-"))


def overlay(lines: Mapping, *, name: str, title: str, caption: str) -> Figure:
    """Series by date, or by part, on one scale, the first grey; more than five share colours."""
    axes = canvas(3.2)
    for place, (label, line) in enumerate(lines.items()):
        colour, mark = RUNS[place % len(RUNS)]
        x = line.index.to_numpy()
        moments = on_time(axes, x.astype("datetime64[D]") if x.dtype.kind == "M" else x)
        axes.plot(moments, line.to_numpy(), mark, color=colour, markersize=4, label=shown(label))
    axes.set_ylabel(shown(name))
    return finished(axes, title, caption)


def calibrations(points: Mapping[str, np.ndarray], *, title: str, caption: str) -> Figure:
    """Observed against predicted rates on one scale, a line of points (n, 2) each."""
    axes = canvas(3.4)
    top = max(float(np.max(each)) for each in points.values()) * 1.05
    axes.plot([0, top], [0, top], color=INK, linewidth=1, linestyle="--", label="calibrated")
    for place, (label, each) in enumerate(points.items()):
        colour, mark = RUNS[place % len(RUNS)]
        axes.plot(*each.T, mark, color=colour, markersize=5, label=shown(label))
    return finished(_shares(axes, "predicted", "observed"), title, caption)


def _shares(axes: Axes, xlabel: str, ylabel: str) -> Axes:
    """Axes of two shares."""
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(PercentFormatter(1, decimals=0))
    axes.set(xlabel=xlabel, ylabel=ylabel)
    return axes
