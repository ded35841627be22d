"""What `ruff` says, with the rules of pyproject.toml."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("command", ["check --quiet", "format --check --quiet"])
def test_ruff_has_nothing_to_say(command):
    words = [sys.executable, "-m", "ruff", *command.split(), "--no-cache", "."]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr
