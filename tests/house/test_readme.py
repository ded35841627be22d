"""The README promises nothing that is not there: commands, files, modules and what they print."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from modelkeep.core import markup, pages

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"```console\n(.*?)```", README, re.DOTALL)
COMMANDS = re.findall(r"^\$ (.+?)(?:\s+#.*)?$", "\n".join(BLOCKS), re.MULTILINE)


def test_make_targets_are_real():
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = set(re.findall(r"`make ([a-z]+)`|^\$ make ([a-z]+)", README, re.MULTILINE))
    assert {a or b for a, b in named} <= targets
    assert {"run", "test"} <= {a or b for a, b in named}


@pytest.mark.parametrize(
    "command",
    sorted(
        set(re.findall(r"modelkeep ([a-z]+)", README))
        & {"run", "index", "compare", "verdicts", "clean"}
    ),
)
def test_commands_have_help(command):
    done = subprocess.run(
        [sys.executable, "-m", "modelkeep", command, "--help"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0
    assert "example" in done.stdout.lower()


def test_every_subcommand_is_named():
    listed = subprocess.run(
        [sys.executable, "-m", "modelkeep", "--help"], cwd=ROOT, capture_output=True, text=True
    ).stdout
    commands = set(re.findall(r"^  ([a-z]+) +[A-Z]", listed, re.MULTILINE))
    assert commands
    assert commands <= set(re.findall(r"modelkeep ([a-z]+)", README))


def test_what_make_run_prints_is_what_is_on_record():
    for stage in pages.STAGES:
        sentence = json.loads((ROOT / f"verdicts/{stage}.json").read_text())["sentence"]
        assert f"{stage}: {sentence}" in README


def test_the_files_that_it_names_are_there():
    named = set(re.findall(r"`((?:tests|benchmarks|notebooks|params|lib|docs)/[\w./-]+)`", README))
    assert len(named) > 5
    assert [path for path in named if not (ROOT / path).exists()] == []
    for picture in re.findall(r"!\[.+?\]\((.+?)\)", README):
        assert (ROOT / picture).is_file()


def test_a_word_for_each_state_that_a_stage_can_end_in():
    for states in markup.TONES.values():
        for state in set(states) - {"failed"}:
            assert f"`{state}`" in README
