"""The front page."""

from collections.abc import Mapping, Sequence

from modelkeep.core.markup import verdict
from modelkeep.core.pages import STAGES, page


def index(verdicts: Mapping[str, Mapping], failed: Sequence[str] = ()) -> str:
    """The front page: the sentence of each stage, in the order of the loop."""
    items = []
    for stage in STAGES:
        told = verdicts.get(stage)
        if told is None:
            box = verdict("not run", "This stage has not run yet: `make run` runs all of them.")
        else:
            box = verdict(told["state"], told["sentence"])
        link = f'<a href="{stage}.html">{stage}</a>' if told else stage
        items.append(f"<li><h2>{link}</h2>{box.markup}</li>")
    broken = "".join(
        verdict("failed", f"The last run of {stage} failed: see failed/{stage}.html.").markup
        for stage in failed
    )
    body = (
        "<h1>One turn of the loop</h1><p>History is prepared, a candidate is trained and judged, its answers and what came true are collected, "
        f'and the monitor says what to do next.</p>{broken}<ul class="stages">{"".join(items)}</ul>'
    )
    return page("One turn of the loop · Modelkeep", body)
