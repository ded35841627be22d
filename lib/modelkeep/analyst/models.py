"""The workspace and the model that a question is about where it names none."""

from functools import lru_cache
from pathlib import Path

from modelkeep.core import workspace
from modelkeep.core.errors import ModelkeepError
from modelkeep.data import schema as schemas
from modelkeep.data.schema import Schema
from modelkeep.training import bundle, manifests
from modelkeep.training.bundle import Bundle

CANDIDATE = "models/candidate"
SCHEMA = "data/prepared/schema.json"


class NotMade(ModelkeepError, RuntimeError):
    """A stage has not made yet what is needed."""


def candidate(root: Path | None = None) -> Bundle:
    """The candidate of a workspace (default: the one around the current folder)."""
    return load((root or workspace.root()) / CANDIDATE)


def load(folder: Path) -> Bundle:
    """The bundle of a folder, verified; read again only once it has changed."""
    manifest = folder / manifests.MANIFEST
    if not manifest.is_file():
        raise NotMade(f"{folder} holds no model: `make run` makes the candidate, then ask again")
    return _loaded(folder, manifest.stat().st_mtime_ns)


@lru_cache(maxsize=4)
def _loaded(folder: Path, changed: int) -> Bundle:
    return bundle.load(folder)


def schema(root: Path | None = None) -> Schema | None:
    """The schema of a workspace's prepared rows; None where there is no workspace or none yet."""
    try:
        path = (root or workspace.root()) / SCHEMA
    except workspace.NoWorkspace:
        return None
    return schemas.from_json(path.read_text(encoding="utf-8")) if path.is_file() else None
