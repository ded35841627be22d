"""What is live now, on a page: the panels of model health that have something to show."""

import re
import time
from datetime import UTC, datetime
from pathlib import Path

from modelkeep import contract, live, report, rules
from modelkeep.live import LiveError
from modelkeep.report import Html

# the first six of these that have something to show
PREFERRED = ("drift", "missing", "classes", "coverage", "log_loss", "accuracy", "absolute_error")
PREFERRED += ("bias", "auc", "scores", "labels")
MOST = 6
WAIT = 10  # seconds for an answer of Prometheus


class PanelsError(ValueError):
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
            lines = live.read(address, panel, end - hours * 3600, end, WAIT)
            drawn += [figure for figure in [live.draw(panel, lines)] if figure]
            if len(drawn) == MOST:
                break
    except LiveError as error:  # the page is about the log, and is made all the same
        return report.table([], f"No live panel: {error}.")
    if not drawn:
        return report.table([], f"Prometheus at {address} has nothing about a model.")
    when = f"{datetime.fromtimestamp(end, UTC):%Y-%m-%d %H:%M} (UTC)"
    told = f"The {report.number(hours)} hours up to {when}, as Prometheus at {address} told them."
    first = report.table([], told)
    return Html(
        first.markup + "".join(figure._repr_html_() for figure in drawn),
        "\n".join([told, *map(repr, drawn)]),
    )
