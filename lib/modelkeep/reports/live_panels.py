"""What is live now, on a page: the panels of model health that have something to show."""

import json
import re
import time
import urllib.parse
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from modelkeep.core import markup
from modelkeep.core.errors import ModelkeepError
from modelkeep.core.markup import Html
from modelkeep.monitoring import contract, rules
from modelkeep.monitoring.rules import Panel
from modelkeep.reports import figures

POINTS = 240  # of a line, at most
SHARES = ("percentunit",)
PROMISE = "promise, "  # in the legend of what was promised, before its bound
LIMIT = f"{PROMISE}limit"


class LiveError(ModelkeepError, RuntimeError):
    """A Prometheus that does not answer, or not what was asked."""


@dataclass(frozen=True)
class Line:
    """One series of a panel: its legend, times in UTC, and values."""

    legend: str
    times: np.ndarray
    values: np.ndarray


def read(url: str, panel: Panel, start: float, end: float, timeout: float = 30) -> list[Line]:
    """Read a panel's lines between two moments, in seconds since 1970; what is measured before what was promised, then that which ends highest first."""
    step = max(1, int((end - start) / POINTS))
    lines = []
    for legend, expr in panel.queries.items():
        found = []
        asked = {"query": expr, "start": start, "end": end, "step": step}
        for series in _ask(url, asked, timeout):
            times, values = np.array(series["values"], dtype=float).T
            moments = (times * 1000).astype("datetime64[ms]")
            found.append(Line(_legend(legend, series["metric"]), moments, values))
        # a panel's first query is what it is about
        lines += sorted(found, key=_height)
    return lines


def draw(panel: Panel, lines: list[Line]) -> figures.Figure | None:
    """Draw the line that ends highest against the panel's threshold or what was promised, and say where it is; None where there is no line."""
    known = [line for line in lines if np.isfinite(line.values).any()]
    if not known:
        return None
    first, share = known[0], panel.unit in SHARES
    promised = [line for line in known if line.legend.endswith(LIMIT)]
    limit, limit_name = panel.threshold, "threshold"
    if limit is None and promised:
        limit, limit_name = float(promised[0].values[-1]), "limit of the promise"
    caption = f"{first.legend} is at {_told(_last(first), share)}"
    if limit is not None:
        caption += f"; the {limit_name} is {_told(limit, share)}"
    if (beside := sum(PROMISE not in line.legend for line in known)) > 1:
        caption += f". It is the highest of {beside} lines"
    return figures.course(
        first.times,
        first.values,
        name=first.legend,
        title=panel.title,
        caption=f"{caption}.",
        limit=limit,
        limit_name=limit_name,
        share=share,
    )


def _last(line: Line) -> float:
    """The newest value that is a number."""
    return float(line.values[np.isfinite(line.values)][-1])


def _told(value: float, share: bool) -> str:
    return f"{value:.1%}" if share else markup.number(value)


def _height(line: Line) -> tuple[float, str]:
    return -np.nan_to_num(line.values[-1], nan=-np.inf), line.legend


def _legend(text: str, labels: Mapping[str, str]) -> str:
    return re.sub(r"{{(\w+)}}", lambda name: labels.get(name[1], ""), text).strip()


def _ask(url: str, words: Mapping[str, object], timeout: float) -> list[dict]:
    address = f"{url.rstrip('/')}/api/v1/query_range?{urllib.parse.urlencode(words)}"
    if not address.startswith(("http://", "https://")):
        raise LiveError(f"{url!r} is not the address of a Prometheus; give http://host:port")
    try:
        with urllib.request.urlopen(address, timeout=timeout) as reply:
            return json.load(reply)["data"]["result"]
    except (OSError, ValueError, KeyError) as error:
        raise LiveError(f"{url}: Prometheus did not answer {words['query']!r}: {error}") from error


# the first six of these that have something to show
PREFERRED = ("drift", "missing", "classes", "coverage", "log_loss", "accuracy", "absolute_error")
PREFERRED += ("bias", "auc", "scores", "labels")
MOST = 6
WAIT = 10  # seconds for an answer of Prometheus


class PanelsError(ModelkeepError, ValueError):
    """An address that no Prometheus can have."""


def shown(address: str, root: Path, hours: float = 24, now: float | None = None) -> Html:
    """The panels of model health over the last hours, from the Prometheus at an address; without an address, nothing."""
    if not address:
        return Html("", "")
    if not re.fullmatch(r"https?://[^/?#@\s]+(/[^?#@\s]*)?", address):
        raise PanelsError(
            f"prometheus: {address!r} is no address; write it as http://localhost:9090"
        )
    end = time.time() if now is None else now
    known, drawn = rules.panels(contract.read(root / contract.FILE)), []
    try:
        for panel in (known[name] for name in PREFERRED):
            lines = read(address, panel, end - hours * 3600, end, WAIT)
            drawn += [figure for figure in [draw(panel, lines)] if figure]
            if len(drawn) == MOST:
                break
    except LiveError as error:  # the page is about the log, and is made all the same
        return markup.table([], f"No live panel: {error}.")
    if not drawn:
        return markup.table([], f"Prometheus at {address} has nothing about a model.")
    when = f"{datetime.fromtimestamp(end, UTC):%Y-%m-%d %H:%M} (UTC)"
    told = f"The {markup.number(hours)} hours up to {when}, as Prometheus at {address} told them."
    first = markup.table([], told)
    return Html(
        first.markup + "".join(figure._repr_html_() for figure in drawn),
        "\n".join([told, *map(repr, drawn)]),
    )
