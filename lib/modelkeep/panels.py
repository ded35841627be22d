"""Live panels: what a dashboard would show of the models now, drawn from what Prometheus has."""

import json
import math
import re
import time
import urllib.parse
import urllib.request
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.dates import AutoDateLocator, ConciseDateFormatter
from matplotlib.figure import Figure as Canvas
from matplotlib.ticker import PercentFormatter

from modelkeep import contract, figures, report, rules
from modelkeep.figures import Figure
from modelkeep.report import Html
from modelkeep.rules import Panel

# the first six of these that have something to show
PREFERRED = ("drift", "missing", "classes", "coverage", "log_loss", "accuracy", "absolute_error")
PREFERRED += ("bias", "auc", "scores", "labels")
MOST, LINES = 6, 5
DASHES = ("-", "--", ":", "-.", (0, (1, 3)))  # one for each line
POINTS = 120
WAIT = 10  # seconds for an answer of Prometheus


class PanelsError(ValueError):
    """An address that no Prometheus can have."""


def live(address: str, root: Path, hours: float = 24, now: float | None = None) -> Figure | Html:
    """The panels of model health over the last hours, from the Prometheus at an address; without an address, nothing."""
    if not address:
        return Html("", "")
    if not re.fullmatch(r"https?://[^/?#@\s]+(/[^?#@\s]*)?", address):
        raise PanelsError(
            f"prometheus: {address!r} is no address; write it as http://localhost:9090"
        )
    end = time.time() if now is None else now
    known = rules.panels(contract.read(root / contract.FILE))
    shown: dict[str, tuple] = {}
    try:
        for name in PREFERRED:
            lines = _lines(address, known[name], end - hours * 3600, end)
            if lines and len(shown) < MOST:
                shown[name] = (known[name], lines)
    except (OSError, ValueError, KeyError) as error:
        return report.table([], f"Prometheus at {address} did not tell ({error}).")
    if not shown:
        return report.table([], f"Prometheus at {address} has nothing about a model.")
    when = f"{datetime.fromtimestamp(end, UTC):%Y-%m-%d %H:%M} (UTC)"
    caption = f"The last {report.number(hours)} hours, as Prometheus at {address} told them at {when}; at most {LINES} lines a panel, those that are highest now."
    return _drawn([*shown.values()], caption)


def _lines(address: str, panel: Panel, start: float, end: float) -> dict[str, tuple]:
    """The highest lines of a panel by legend: times and values."""
    found = {}
    step = max(1, round((end - start) / POINTS))
    for legend, expr in panel.queries.items():
        words = {"query": expr, "start": start, "end": end, "step": step}
        url = f"{address.rstrip('/')}/api/v1/query_range?{urllib.parse.urlencode(words)}"
        with urllib.request.urlopen(url, timeout=WAIT) as reply:
            told = json.load(reply)["data"]["result"]
        for series in told:
            at, value = np.array(series["values"], dtype="float64").T
            if np.isfinite(value).any():
                found[_named(legend, series["metric"])] = at, value
    highest = sorted(found, key=lambda name: -np.nan_to_num(found[name][1][-1], nan=-math.inf))
    return {name: found[name] for name in highest[:LINES]}


def _named(legend: str, labels: Mapping[str, str]) -> str:
    """A legend with the labels of a series in it, as Grafana writes it."""
    return re.sub(r"{{(\w+)}}", lambda name: labels.get(name[1], ""), legend)


def _drawn(shown: Sequence[tuple[Panel, dict]], caption: str) -> Figure:
    with matplotlib.rc_context(figures.STYLE):
        canvas = Canvas(figsize=(figures.WIDTH, 2.2 * len(shown)), layout="constrained")
        every = canvas.subplots(len(shown), 1, squeeze=False)[:, 0]
        for axes, (panel, lines) in zip(every, shown, strict=True):
            _draw(axes, panel, lines)
    return figures.finish(every[0], "What is live now?", caption)


def _draw(axes: Axes, panel: Panel, lines: Mapping[str, tuple]) -> None:
    """One panel: its lines by their dashes, what was promised black, the threshold red."""
    drawn = []
    for (name, (at, value)), dashes in zip(lines.items(), DASHES, strict=False):
        colour = figures.INK if "promise" in name else figures.CURRENT
        moments = (at * 1e6).astype("int64").astype("datetime64[us]")
        drawn += axes.plot(moments, value, linestyle=dashes, color=colour)
    if panel.threshold is not None:
        drawn.append(axes.axhline(panel.threshold, color=figures.BREACH, linestyle="--"))
    named = [name.replace("$", r"\$")[:40] for name in lines] + ["threshold"]
    axes.legend(drawn, named[: len(drawn)], loc="upper left", fontsize=7.5)
    axes.set_title(panel.title, loc="left", fontsize=10.5)
    if panel.unit == "percentunit":
        axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    locator = AutoDateLocator(minticks=3, maxticks=6)
    axes.xaxis.set_major_locator(locator)
    axes.xaxis.set_major_formatter(ConciseDateFormatter(locator))
