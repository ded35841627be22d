"""The model store: bundles by content hash, and one small file that names those in service."""

import hashlib
import json
import re
import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from filelock import FileLock

from modelkeep.core import files
from modelkeep.core.errors import ModelkeepError
from modelkeep.training import manifests

POINTER = "now.json"
SERVERS = "servers"
REVERSE = "reverse-shadow "  # how the salt of a former champion begins that predicts silently
SHA256 = re.compile(r"[0-9a-f]{64}")


class StoreError(ModelkeepError, RuntimeError):
    """A store, a pointer or a bundle that nothing can be served from."""


@dataclass(frozen=True)
class Role:
    """A bundle in service; it serves the `share` of entities (champion: 1) that `salt` selects."""

    sha256: str
    version: str = ""
    share: float = 1.0
    salt: str = ""


@dataclass(frozen=True)
class Now:
    """The bundles in service: champion, canary, shadow; `serial` grows with each change."""

    champion: Role
    canary: Role | None = None
    shadow: Role | None = None
    serial: int = 0


def add(store: Path, folder: Path) -> str:
    """Copy a bundle into the store, verified, and return its SHA-256; one already there stays."""
    content = manifests.verify(folder)
    sha256 = hashlib.sha256(content[manifests.MANIFEST]).hexdigest()
    place = path(store, sha256)
    if not place.exists():
        with files.folder(place) as new:
            for name, text in content.items():
                files.write_bytes(new / name, text)
    check(store, sha256)
    return sha256


def path(store: Path, sha256: str) -> Path:
    """Where the bundle of that hash is kept; nothing but a hash is a name."""
    if not SHA256.fullmatch(sha256):
        raise StoreError(
            f"{sha256[:80]!r} is not a SHA-256 of 64 hex digits; take one of the store"
        )
    return store / "bundles" / sha256


def check(store: Path, sha256: str) -> dict[str, bytes]:
    """The files of a bundle of the store, verified against its name."""
    content = manifests.verify(path(store, sha256))
    found = hashlib.sha256(content[manifests.MANIFEST]).hexdigest()
    if found != sha256:
        raise StoreError(
            f"{path(store, sha256)}: its manifest's SHA-256 is {found[:12]}...; "
            "the bundle was changed: delete its folder, and add it again"
        )
    return content


def now(store: Path) -> Now | None:
    """Who answers, None while nobody does."""
    place = store / POINTER
    try:
        found = json.loads(place.read_bytes())
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise StoreError(
            f"{place} is not JSON ({error}); point the store at a model again"
        ) from None
    try:
        roles = {k: found[k] and Role(**found[k]) for k in ("champion", "canary", "shadow")}
        return Now(**roles, serial=found["serial"])
    except (KeyError, TypeError) as error:
        raise StoreError(f"{place} names no models ({error}); point the store at one") from None


def point(store: Path, new: Now) -> Now:
    """Put these models in service at once, if all are whole; the former ones stay in the store."""
    for role in (new.champion, new.canary, new.shadow):
        if role:
            check(store, role.sha256)
    before = now(store)
    new = Now(new.champion, new.canary, new.shadow, before.serial + 1 if before else 1)
    files.write_json(store / POINTER, asdict(new))
    return new


def changing(store: Path) -> FileLock:
    """Hold the pointer while it is changed; the lock of a killed holder is free."""
    return FileLock(store / "now.lock")


def sweep(store: Path, keep: set[str]) -> list[str]:
    """Delete the bundles that neither answer nor are to be kept, and return their hashes."""
    at = now(store)
    roles = (at.champion, at.canary, at.shadow) if at else ()
    keep = keep | {role.sha256 for role in roles if role}
    gone = [p for p in sorted((store / "bundles").glob("*")) if p.name not in keep]
    for each in gone:
        shutil.rmtree(each)
    return [each.name for each in gone]


def address(host: str, port: int) -> str:
    """Where a server that listens on a host and port answers on its own machine."""
    host = {"0.0.0.0": "127.0.0.1", "::": "[::1]", "[::]": "[::1]"}.get(host, host)
    return f"http://{host}:{port}"


@contextmanager
def announced(store: Path, address: str) -> Iterator[None]:
    """While a server answers from this store, a file there has its address."""
    name = re.sub(r"[^\w.-]+", "-", f"{socket.gethostname()}-{address}")
    place = store / SERVERS / f"{name}.json"
    with suppress(OSError):  # a store that is read-only serves all the same
        files.write_json(place, {"host": socket.gethostname(), "address": address})
    try:
        yield
    finally:
        with suppress(OSError):
            place.unlink()


def servers(store: Path) -> list[str]:
    """The addresses of this machine that servers of this store have written down.

    One that was killed leaves its file: ask the address.
    """
    found = []
    for path in sorted((store / SERVERS).glob("*.json")):
        with suppress(OSError, ValueError, KeyError):
            stated = json.loads(path.read_text(encoding="utf-8"))
            found += [stated["address"]] if stated["host"] == socket.gethostname() else []
    return found
