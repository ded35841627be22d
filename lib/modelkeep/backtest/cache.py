"""Results of earlier runs on disk, by a hash of their inputs; a damaged result counts as
missing.
"""

import hashlib
import json
import platform
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from modelkeep.core import files

LIBRARIES = ("numpy", "pandas", "scikit-learn", "scipy", "skops")


@dataclass(frozen=True)
class ResultCache:
    """A folder of results, each under the hash of its inputs.

    Without a folder nothing is kept. The folder may be deleted at any time.
    """

    folder: Path | None = None

    def get(self, name: str) -> bytes:
        """The result of that name; empty if it is missing or damaged."""
        path = self._place(name)
        if path is None or not path.is_file():
            return b""
        stated, _, content = path.read_bytes().partition(b"\n")
        return content if stated == _digest(content).encode() else b""

    def put(self, name: str, content: bytes) -> None:
        """Write a result, with its hash before it."""
        if path := self._place(name):
            files.write_bytes(path, _digest(content).encode() + b"\n" + content)

    def _place(self, name: str) -> Path | None:
        return self.folder and self.folder / name[:2] / name


def name(*inputs: object) -> str:
    """The name of a result: one hash over plain values."""
    return _digest(json.dumps(inputs, sort_keys=True, default=str).encode())


def code() -> dict[str, str]:
    """The inputs of a result beside data and params: code, libraries, kind of machine."""
    ours = (path.read_bytes() for path in sorted(Path(__file__).parents[1].rglob("*.py")))
    on = {"python": platform.python_version(), "machine": platform.machine()}
    return {"modelkeep": _digest(b"\0".join(ours)), **on, **{n: version(n) for n in LIBRARIES}}


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
