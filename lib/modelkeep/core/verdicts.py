"""What a stage concluded: one word, one sentence, and the reasons with their numbers."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

from modelkeep.core import files, markup, pages
from modelkeep.core.errors import ModelkeepError
from modelkeep.core.markup import Html


class BadVerdict(ModelkeepError, ValueError):
    """A file of verdicts/ is not a verdict."""


@dataclass(frozen=True)
class Verdict:
    """The conclusion of a stage; notebooks show it as the box on top of the page."""

    stage: str
    state: str
    sentence: str
    reasons: tuple[str, ...] = ()
    evidence: dict = field(default_factory=dict)

    def _repr_html_(self) -> str:
        return markup.verdict(self.state, self.sentence, self.reasons).markup

    def __repr__(self) -> str:
        return markup.verdict(self.state, self.sentence, self.reasons).text


def write(verdict: Verdict, root: Path) -> None:
    """Put the verdict on record in `verdicts/<stage>.json`."""
    files.write_json(root / "verdicts" / f"{verdict.stage}.json", asdict(verdict))


def read(root: Path) -> dict[str, dict]:
    """The verdicts on record by stage, in the order of the cycle."""
    paths = {stage: root / "verdicts" / f"{stage}.json" for stage in pages.STAGES}
    return {
        stage: parsed(path.read_text(encoding="utf-8"), f"verdicts/{stage}.json")
        for stage, path in paths.items()
        if path.exists()
    }


def parsed(text: str, where: str) -> dict:
    """The verdict in a file's text; BadVerdict names the file and the remedy."""
    conflict = "<<<<<<<" in text
    try:
        verdict = json.loads(text)
        if isinstance(verdict, dict) and {"state", "sentence"} <= set(verdict):
            return verdict
        problem = "it has no state and sentence"
    except ValueError as error:
        problem = "it holds an unresolved merge" if conflict else f"it is not JSON: {error}"
    stage = where.split("/")[-1].split(".")[0]
    raise BadVerdict(
        f"{where} cannot be read ({problem}); run `dvc repro {stage}` to make it again"
    )


def provenance(made: Mapping, **facts: object) -> Html:
    """The table of what a page was made from: code, inputs (see `workspace.provenance`), facts."""
    code = f"commit {made['short']}" if made["changed"] is not None else made["short"]
    code += f" of {made['date']}" if made.get("date") else ""
    if made["changed"]:
        code += " with uncommitted changes"
    named = {name.replace("_", " "): markup.number(value) for name, value in facts.items()}
    inputs = {path: f"SHA-256 {sha}…" for path, sha in made["data"].items()}
    return markup.provenance({"code": code, **named, **inputs})
