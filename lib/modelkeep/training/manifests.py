"""The files of a model bundle: a manifest, a hash of each, read once and verified before anything
is parsed.

The manifest's format is one integer. Raise FORMAT when a file is added, dropped or read in another
way; keep reading the older format for as long as a bundle of it serves somewhere, and keep a bundle
of each format in the tests.
"""

import hashlib
import json
from pathlib import Path

from modelkeep.core.errors import ModelkeepError

FORMAT = 3
READS = (2, FORMAT)  # before 3 there was no trees.json
MANIFEST = "manifest.json"
FILES = (
    "encoding.json",
    "golden.json",
    "model.skops",
    "promise.parquet",
    "reference.json",
    "schema.json",
    "trained_rows.npy",
)
# what may answer, the fastest first, and the file that it alone needs; the others need model.skops
ENGINES = {
    "quickscorer": "trees.json",
    "onnx": "model.onnx",
    "estimator": "",
    "scikit-learn": "",
}


class BundleError(ModelkeepError, RuntimeError):
    """A bundle that is not what its manifest says."""


class UnknownFormat(BundleError):
    """A bundle of a format that this code does not read."""


def engine(content: dict[str, bytes]) -> tuple[str, dict, bytes]:
    """The name of a bundle's engine, the plan of its preprocessing, and the engine's file."""
    name = json.loads(content[MANIFEST])["serving"]["engine"]
    if name not in ENGINES or (ENGINES[name] or MANIFEST) not in content:
        raise BundleError(
            f"the bundle's engine is {str(name)[:40]!r}, which this code does not know or which "
            "has no file in the bundle; use the code of the bundle's commit"
        )
    return name, json.loads(content["encoding.json"]), content.get(ENGINES[name], b"")


def verify(folder: Path) -> dict[str, bytes]:
    """The files of the bundle, read once: what was hashed is what is parsed."""
    try:
        text = (folder / MANIFEST).read_bytes()
        manifest = json.loads(text)
        stated = dict(manifest["files"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BundleError(
            f"{folder}: no readable {MANIFEST} ({error}); run the stage train, or `dvc checkout` "
            "if the model was made before"
        ) from error
    if manifest.get("format") not in READS:
        known = " and ".join(map(str, READS))
        raise UnknownFormat(
            f"{folder}: bundle format {manifest.get('format')!r}, and this code reads {known}; "
            "use the code of the bundle's commit"
        )
    content = {MANIFEST: text}
    for name, sha256 in (dict.fromkeys(FILES) | stated).items():
        path = folder / name
        if path.name != name or name not in stated or not path.is_file():
            raise BundleError(f"{folder}: {name!r} is missing; restore it with `dvc checkout`")
        content[name] = path.read_bytes()
        found = hashlib.sha256(content[name]).hexdigest()
        if found != sha256:
            raise BundleError(
                f"{path}: its SHA-256 is {found[:12]}..., the manifest says {str(sha256)[:12]}...; "
                "the file was changed: restore it with `dvc checkout`"
            )
    return content
