"""Files that are whole or not there: everything is written beside its place, then renamed."""

import hashlib
import json
import math
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4


def write_bytes(path: Path, content: bytes) -> None:
    """Put `content` at `path`, making its folder where it is missing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = _beside(path)
    try:
        with open(beside, "xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Put `text` at `path` as UTF-8, line ends as they are."""
    write_bytes(path, text.encode())


def write_json(path: Path, value: object) -> None:
    """Put `value` at `path` as JSON, its order kept; not-a-number and infinity become null."""
    text = json.dumps(_plain(value), indent=1, ensure_ascii=False, allow_nan=False)
    write_text(path, text + "\n")


@contextmanager
def folder(path: Path) -> Iterator[Path]:
    """Yield a new folder that takes the place of `path` when the block ends well."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside, old = _beside(path), _beside(path)
    beside.mkdir()
    try:
        yield beside
        if path.exists():
            os.replace(path, old)
        os.replace(beside, path)
    finally:
        shutil.rmtree(beside, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)


def sha256(path: Path) -> str:
    """The SHA-256 of a file, or of a folder's relative names and contents, in hex."""
    if path.is_dir():
        names = sorted(p.relative_to(path).as_posix() for p in path.rglob("*") if p.is_file())
        listing = "".join(f"{sha256(path / name)}  {name}\n" for name in names)
        return hashlib.sha256(listing.encode()).hexdigest()
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _beside(path: Path) -> Path:
    return path.with_name(f".{path.name}.{uuid4().hex[:12]}.tmp")


def _plain(value: object) -> object:
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if hasattr(value, "tolist"):  # NumPy's scalars and arrays, without importing NumPy
        return _plain(value.tolist())
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return str(value) if isinstance(value, os.PathLike) else value
