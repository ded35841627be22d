"""The words of docs/glossary.md: what stands for a thing elsewhere must not stand for it here."""

import io
import json
import keyword
import re
import tokenize

import pytest

import workspaces

# word: what to write; identifiers are compared whole and by their parts between underscores
IDENTIFIERS = {
    "told": "reported, the thing's noun",
    "said": "predictions, the thing's noun",
    "asked": "request, the thing's noun",
    "hindsight": "oracle",
    "whisper": "shadow",
    "promise": "expected performance",
    "promised": "expected",
    "knobs": "parameters",
    "shelf": "cache",
    "desk": "batcher",
    "leftovers": "cleanup",
    "mistakes": "quality outcomes",
    "heard": "shadow",
    "harmless": "non-inferior",
    "dwell": "min_step",
    "journal": "rollout log",
    "opening": "spec",
    "story": "report",
    "penalty": "l2",
    "partitions": "history",
    "sealed": "bundle, store",
    "turned": "update",
    "steering": "rollout",
}
# as whole identifiers only: their parts are words of other terms
VALUES = {
    "looks": "analyses, checks",
    "look": "analysis, check",
    "moved": "drifted, updated",
    "against": "reference",
}
PROSE = (
    (r"set aside", "quarantined"),
    (r"came true|the truth about", "label"),
    (r"leave the laboratory", "pass the gate"),
    (r"nobody hears", "shadow"),
    (r"knobs?", "parameters"),
    (r"hindsight", "oracle"),
    (r"a turn of the loop|turns? the loop", "cycle"),
    (r"whispers?", "shadow"),
    (r"golden rows", "reference predictions"),
)
# file names within bundles of format 3 are the format
FORMAT = ("promise.parquet", "golden.json")


def lines():
    """Each line of code, params, notebooks and documents that a user reads, with its place."""
    for name in workspaces.tracked():
        own = name.startswith(("lib/", "notebooks/", "params/", "docs/", "examples/"))
        if not (own or name in ("README.md", "CONTRIBUTING.md", "dvc.yaml", "Makefile")):
            continue
        path = workspaces.REPOSITORY / name
        if path.suffix in {".py", ".md", ".yaml", ".ipynb"} or name == "Makefile":
            text = path.read_text()
            if path.suffix == ".ipynb":
                text = "\n".join("".join(cell["source"]) for cell in json.loads(text)["cells"])
            for number, line in enumerate(text.splitlines(), 1):
                yield f"{name}:{number}", line


def names(text: str) -> list[tuple[int, str]]:
    """The identifiers of Python code with their lines."""
    tokens = tokenize.generate_tokens(io.StringIO(text).readline)
    return [
        (token.start[0], token.string)
        for token in tokens
        if token.type == tokenize.NAME and not keyword.iskeyword(token.string)
    ]


def test_identifiers_are_the_field_s_nouns():
    found = []
    for name in workspaces.tracked():
        if name.startswith("lib/") and name.endswith(".py"):
            for number, word in names((workspaces.REPOSITORY / name).read_text()):
                parts = {word, *word.lower().strip("_").split("_")} & set(IDENTIFIERS)
                instead = [IDENTIFIERS[part] for part in parts]
                instead += [VALUES[word]] if word in VALUES else []
                found += [f"{name}:{number}: {word}: {each}" for each in instead]
    assert found == []


@pytest.mark.parametrize(("pattern", "instead"), PROSE)
def test_prose_uses_the_glossary(pattern, instead):
    word = re.compile(rf"\b(?:{pattern})\b", re.IGNORECASE)
    found = [
        f"{place}: {line.strip()[:100]}"
        for place, line in lines()
        if word.search(line) and not any(file in line for file in FORMAT)
    ]
    assert found == [], f"write: {instead}"
