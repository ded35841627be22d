"""Live panels of model health, read from Prometheus and drawn on a page."""

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
# How legends of reference lines end; the first that is there is drawn as the limit.
REFERENCES = {" base rate": "loss of the base rate", " expected": "expected value"}


class LiveError(ModelkeepError, RuntimeError):
    """A Prometheus that does not answer, or with something else."""


@dataclass(frozen=True)
class Line:
    """One series of a panel: its legend, times in UTC, and values."""

    legend: str
    times: np.ndarray
    values: np.ndarray


def read(url: str, panel: Panel, start: float, end: float, timeout: float = 30) -> list[Line]:
    """Read a panel's lines between two moments, in seconds since 1970.

    Lines of one query come together, the panel's first query first, the highest end first.
    """
    step = max(1, int((end - start) / POINTS))
    lines = []
    for legend, expr in panel.queries.items():
        series = []
        request = {"query": expr, "start": start, "end": end, "step": step}
        for each in _query(url, request, timeout):
            times, values = np.array(each["values"], dtype=float).T
            moments = (times * 1000).astype("datetime64[ms]")
            series.append(Line(_legend(legend, each["metric"]), moments, values))
        # a panel's first query is what it is about
        lines += sorted(series, key=_height)
    return lines


def draw(panel: Panel, lines: list[Line]) -> figures.Figure | None:
    """Draw the highest line against the threshold or a reference; None where there is no line."""
    known = [line for line in lines if np.isfinite(line.values).any()]
    if not known:
        return None
    first, share = known[0], panel.unit in SHARES
    limit, limit_name = panel.threshold, "threshold"
    for end, name in REFERENCES.items():
        references = [line for line in known if line.legend.endswith(end)]
        if limit is None and references:
            limit, limit_name = float(references[0].values[-1]), name
    caption = f"{first.legend} is at {_text(_last(first), share)}"
    if limit is not None:
        caption += f"; the {limit_name} is {_text(limit, share)}"
    measured = [line for line in known if not line.legend.endswith(tuple(REFERENCES))]
    if (beside := len(measured)) > 1:
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


def _text(value: float, share: bool) -> str:
    return f"{value:.1%}" if share else markup.number(value)


def _height(line: Line) -> tuple[float, str]:
    return -np.nan_to_num(line.values[-1], nan=-np.inf), line.legend


def _legend(text: str, labels: Mapping[str, str]) -> str:
    return re.sub(r"{{(\w+)}}", lambda name: labels.get(name[1], ""), text).strip()


def _query(url: str, request: Mapping[str, object], timeout: float) -> list[dict]:
    address = f"{url.rstrip('/')}/api/v1/query_range?{urllib.parse.urlencode(request)}"
    if not address.startswith(("http://", "https://")):
        raise LiveError(f"{url!r} is not the address of a Prometheus; give http://host:port")
    try:
        with urllib.request.urlopen(address, timeout=timeout) as reply:
            return json.load(reply)["data"]["result"]
    except (OSError, ValueError, KeyError) as error:
        raise LiveError(
            f"{url}: Prometheus did not answer {request['query']!r}: {error}"
        ) from error


# the first six of these that have something to show
PREFERRED = ("drift", "missing", "classes", "coverage", "log_loss", "skill", "accuracy")
PREFERRED += ("absolute_error", "bias", "auc", "scores", "labels")
MOST = 6
WAIT = 10  # seconds for an answer of Prometheus


class PanelsError(ModelkeepError, ValueError):
    """An address that no Prometheus can have."""


def shown(address: str, root: Path, hours: float = 24, now: float | None = None) -> Html:
    """The panels of model health over the last hours; nothing without an address."""
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
    source = f"The {markup.number(hours)} hours up to {when}, from Prometheus at {address}."
    first = markup.table([], source)
    return Html(
        first.markup + "".join(figure._repr_html_() for figure in drawn),
        "\n".join([source, *map(repr, drawn)]),
    )
