"""The README promises nothing that is not there: commands, files, modules and what they print."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from modelkeep.core import pages, workspace

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
GUIDES = {path.name: path.read_text() for path in sorted((ROOT / "docs").glob("*.md"))}
EVERYTHING = "\n".join([README, *GUIDES.values()])
EXAMPLE, SOURCE = "examples/flights", workspace.params(ROOT, "prepare")["source"]
LONGEST_LINES, MOST_WORDS = 120, 900
COMMANDS = sorted(
    {
        line.split()[1]
        for page in (README, *GUIDES.values())
        for block in re.findall(r"```console[^\n]*\n(.*?)```", page, re.DOTALL)
        for line in re.findall(r"^\$ (modelkeep [a-z]+)", block, re.MULTILINE)
    }
)


@pytest.fixture(scope="module")
def listed():
    """The commands that the command line names."""
    words = [sys.executable, "-m", "modelkeep", "--help"]
    text = subprocess.run(words, cwd=ROOT, capture_output=True, text=True).stdout
    return set(re.findall(r"^  ([a-z]+) +[A-Z]", text, re.MULTILINE))


def test_the_readme_is_short():
    assert len(README.splitlines()) <= LONGEST_LINES
    assert len(README.split()) <= MOST_WORDS


def test_make_targets_are_real():
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = re.findall(r"`make ([a-z]+)`|^\$ make ([a-z]+)", EVERYTHING, re.MULTILINE)
    named = {a or b for a, b in named}
    assert named <= targets
    assert {"run", "test"} <= named


def test_every_command_of_a_page_is_real(listed):
    assert set(COMMANDS) <= listed


def test_every_command_is_in_a_guide(listed):
    assert listed <= set(re.findall(r"modelkeep ([a-z]+)", EVERYTHING))


@pytest.mark.parametrize("command", ["run", "release", "compare", "update"])
def test_commands_have_help(command):
    words = [sys.executable, "-m", "modelkeep", command, "--help"]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0
    assert "example" in done.stdout.lower()


@pytest.mark.skipif(SOURCE != EXAMPLE, reason="the README is about the example")
def test_what_make_run_prints_is_what_is_on_record():
    for stage in pages.STAGES:
        sentence = json.loads((ROOT / f"verdicts/{stage}.json").read_text())["sentence"]
        assert f"{stage}: {sentence}" in README


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md", *(f"docs/{n}" for n in GUIDES)])
def test_the_files_and_links_of_a_page_are_there(page):
    text = (ROOT / page).read_text()
    folders = "tests|benchmarks|notebooks|params|lib|docs|monitoring|examples"
    named = set(re.findall(rf"`((?:{folders})/[\w./-]+)`", text))
    assert [path for path in named if not (ROOT / path).exists()] == []
    links = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", text)
    assert [link for link in links if not ((ROOT / page).parent / link).exists()] == []
    anchors = re.findall(r"\]\(([\w./-]+\.md)#([^)]+)\)", text)
    dead = [(link, at) for link, at in anchors if at not in anchored((ROOT / page).parent / link)]
    assert dead == []


def anchored(path: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    heads = re.findall(r"^#+ (.*)$", path.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", head.lower()).replace(" ", "-") for head in heads}
