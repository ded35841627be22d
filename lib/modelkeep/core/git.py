"""Git, run in a workspace: one call, the repository's lock, and the lock that a killed Git left."""

import os
import subprocess
import time
from pathlib import Path

from filelock import FileLock

from modelkeep.core.errors import ModelkeepError

LOCK = "modelkeep.lock"
OF_USER = (
    "GIT_AUTHOR_",
    "GIT_COMMITTER_",
    "GIT_CONFIG_GLOBAL",
    "GIT_CONFIG_SYSTEM",
    "GIT_CONFIG_NO",
)
PATIENCE = 3.0  # seconds; Git holds the lock of one ref for milliseconds


class GitError(ModelkeepError, RuntimeError):
    """Git refused a command."""


def run(
    root: Path,
    *arguments: str,
    text: str | None = None,
    at: int | None = None,
    index: Path | None = None,
) -> str:
    """Return the output of Git in `root`; GitError with Git's own words if it fails.

    `text` is its input, `at` the time (seconds since 1970) on what it makes, `index` another
    index than the worktree's own.
    """
    # a Git hook that runs us sets GIT_DIR and its like, which would point elsewhere
    kept = {
        k: v for k, v in os.environ.items() if not k.startswith("GIT_") or k.startswith(OF_USER)
    }
    if at is not None:
        kept |= {"GIT_COMMITTER_DATE": f"@{at} +0000"}
    if index is not None:
        kept |= {"GIT_INDEX_FILE": str(index)}
    command = ["git", "-C", str(root), *arguments]
    try:
        done = subprocess.run(command, input=text, capture_output=True, text=True, env=kept)
    except FileNotFoundError:
        raise GitError("git is not installed; releases are Git tags: install it") from None
    if done.returncode:
        reason = " ".join(done.stderr.split()) or f"exit code {done.returncode}"
        raise GitError(f"git {arguments[0]} failed: {reason}")
    return done.stdout


def folder(root: Path) -> Path:
    """The folder of the repository that all its worktrees share."""
    return root / run(root, "rev-parse", "--git-common-dir").strip()


def lock(root: Path) -> FileLock:
    """What one command at a time may hold in this repository; the lock of a killed one is free."""
    return FileLock(folder(root) / LOCK)


def unlock(root: Path, *names: str) -> bool:
    """Remove locks of refs that a killed Git has left; whether there were any.

    `names` are paths below the shared folder, without `.lock`. A lock that is younger than
    `PATIENCE` is waited for: a Git may be at work.
    """
    left = [path for name in names if (path := folder(root) / f"{name}.lock").exists()]
    end = time.monotonic() + PATIENCE
    while any(path.exists() for path in left) and time.monotonic() < end:
        time.sleep(0.1)
    for path in left:
        path.unlink(missing_ok=True)
    return bool(left)
