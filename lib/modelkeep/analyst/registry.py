"""Which versions there are, and which one was champion on a day."""

from html import escape
from pathlib import Path

import pandas as pd

from modelkeep.analyst import card as cards
from modelkeep.analyst import tables
from modelkeep.analyst.tables import Facts
from modelkeep.core import verdicts, workspace
from modelkeep.core.markup import Html
from modelkeep.registry import record, timeline
from modelkeep.registry.record import Record


class Registry:
    """The versions and champions on record in Git, read once when it is made."""

    def __init__(self, root: Path | None = None) -> None:
        self._record: Record = record.read(root or workspace.root())

    @property
    def model(self) -> str:
        """What the model is called."""
        return self._record.model

    @property
    def champion(self) -> str | None:
        """The version that is champion now."""
        term = self._record.champion
        return term.version if term else None

    def versions(self) -> pd.DataFrame:
        """A line a version, newest first: released_at, by, state of the gate."""
        lines = timeline.history(self._record)["json"]["versions"]
        return _table(lines, ["version", "at", "by", "state", "why"]).set_index("version")

    def champions(self) -> pd.DataFrame:
        """A line a change of champion, newest first: version, at, action, reason."""
        lines = timeline.history(self._record)["json"]["terms"]
        return _table(lines, ["version", "at", "action", "reason", "by"]).set_index("at")

    def champion_at(self, day: str) -> pd.Series:
        """Which version was champion as a day begins, or at a time (UTC), since and until when."""
        found = timeline.champion_at(self._record, timeline.moment(str(day)))
        facts = Facts(found["json"], name=self.model, dtype=object)
        facts.attrs["sentence"] = found["text"]
        return facts

    def commit(self, version: str) -> str:
        """The commit that a version was released from."""
        return self._record.find(version).commit

    def __repr__(self) -> str:
        names = ", ".join(self.versions().index[:5]) or "none yet"
        return (
            f"Registry of {self.model}\n  champion: {self.champion or 'none'}\n  versions: {names}"
        )

    def _repr_html_(self) -> str:
        return f"<pre>{escape(repr(self))}</pre>"


def _table(lines: list[dict], columns: list[str]) -> pd.DataFrame:
    table = pd.DataFrame(lines, columns=columns)
    table["at"] = pd.to_datetime(table["at"].str.removesuffix(" UTC"))
    return table


def card(version: str, *, root: Path | None = None) -> Html:
    """The model card of a version, from its tags alone."""
    facts = cards.facts(record.read(root or workspace.root()), version)
    body = "".join(
        f"<h3>{escape(heading)}</h3>"
        + "".join(each if isinstance(each, str) else each._repr_html_() for each in content)
        for heading, content in cards.sections(facts).items()
    )
    return Html(body, cards.text(facts))


def reports(root: Path, version: str = "") -> pd.DataFrame:
    """The pages of a version (of the files as they are now where none is named): a line a stage.

    Columns: stage, state, sentence, page (its path here). The pages of a version are fetched from
    DVC's cache or remote into `.dvc/tmp/reports/VERSION`; a page that neither has is missing.
    """
    if not version:
        conclusions = verdicts.read(root)
        pages = {stage: root / "reports" / f"{stage}.html" for stage in conclusions}
    else:
        conclusions, pages = _fetched(root, Registry(root).commit(version), version)
    lines = [
        {
            "stage": stage,
            "state": verdict["state"],
            "sentence": verdict["sentence"],
            "page": _place(pages[stage], root),
        }
        for stage, verdict in conclusions.items()
    ]
    table = pd.DataFrame(lines, columns=["stage", "state", "sentence", "page"]).set_index("stage")
    return tables.answer(table)


def _place(page: Path, root: Path) -> str | None:
    return page.relative_to(root).as_posix() if page.exists() else None


def _fetched(root: Path, commit: str, version: str) -> tuple[dict, dict[str, Path]]:
    from modelkeep.core import files
    from modelkeep.reports import experiments

    stored = experiments.contents(root, commit)
    conclusions, pages = {}, {}
    for stage in experiments.STAGES:
        verdict = stored(f"verdicts/{stage}.json")
        if verdict is None:
            continue
        conclusions[stage] = verdicts.parsed(
            verdict.decode(), f"verdicts/{stage}.json of {version}"
        )
        page = stored(f"reports/{stage}.html")
        pages[stage] = root / ".dvc" / "tmp" / "reports" / version / f"{stage}.html"
        if page is not None:
            files.write_bytes(pages[stage], page)
    return conclusions, pages
