"""What a killed DVC leaves behind that the next one stumbles over."""

import json
from contextlib import suppress
from itertools import chain
from pathlib import Path

import psutil


def clear(root: Path) -> None:
    """Take away the lock of a DVC that is dead, and the folder for a record of a run that it did not come to write."""
    with suppress(FileNotFoundError):
        _freed(root / ".dvc" / "tmp" / "rwlock")
    for run in (root / ".dvc" / "cache" / "runs").glob("*/*"):
        with suppress(OSError):
            run.rmdir()  # DVC looks for the newest record in it, and fails where there is none


def _freed(path: Path) -> None:
    """DVC's lock goes if a kill left it half written, or nobody lives who is named in it: DVC waits for a dead process that nobody has reaped, or for another one of its number."""
    try:
        said, written = json.loads(path.read_bytes()), path.stat().st_mtime
        holders = [*said["write"].values(), *chain.from_iterable(said["read"].values())]
        held = any(_lives(int(each["pid"]), written) for each in holders)
    except (ValueError, KeyError, TypeError, AttributeError):
        held = False
    if not held:
        path.unlink()


def _lives(pid: int, since: float) -> bool:
    """Whether a process is at work that was there at that time."""
    try:
        process = psutil.Process(pid)
        return process.status() != psutil.STATUS_ZOMBIE and process.create_time() <= since + 1
    except psutil.NoSuchProcess:
        return False
