"""Git, run in a workspace: one call, and the lock that one command at a time may hold."""

import fcntl
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from modelkeep.core.errors import ModelkeepError

LOCK = "modelkeep.lock"
OF_USER = (
    "GIT_AUTHOR_",
    "GIT_COMMITTER_",
    "GIT_CONFIG_GLOBAL",
    "GIT_CONFIG_SYSTEM",
    "GIT_CONFIG_NO",
)


class GitError(ModelkeepError, RuntimeError):
    """Git cannot do what a release needs."""


def run(root: Path, *arguments: str, text: str | None = None, at: int | None = None) -> str:
    """What Git says in `root`; GitError with Git's own words if it fails. `at` is the time on what it makes."""
    # a Git hook that runs us sets GIT_DIR and its like, which would point elsewhere
    kept = {
        k: v for k, v in os.environ.items() if not k.startswith("GIT_") or k.startswith(OF_USER)
    }
    if at is not None:
        kept |= {"GIT_COMMITTER_DATE": f"@{at} +0000"}
    command = ["git", "-C", str(root), *arguments]
    try:
        done = subprocess.run(command, input=text, capture_output=True, text=True, env=kept)
    except FileNotFoundError:
        raise GitError("git is not installed; releases are Git tags: install it") from None
    if done.returncode:
        said = " ".join(done.stderr.split()) or f"exit code {done.returncode}"
        raise GitError(f"git {arguments[0]} failed: {said}")
    return done.stdout


@contextmanager
def lock(root: Path) -> Iterator[None]:
    """Hold what one command at a time may hold in this repository; a killed holder holds it no more."""
    place = root / run(root, "rev-parse", "--git-common-dir").strip() / LOCK
    with open(place, "ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
