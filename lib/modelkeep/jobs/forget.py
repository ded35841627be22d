"""One entity forgotten: its rows leave log, history and DVC's cache, and a search proves it."""

import json
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import asdict, dataclass, field
from html import escape
from pathlib import Path

import msgspec

from modelkeep.core import git, workspace
from modelkeep.core.errors import ModelkeepError
from modelkeep.core.markup import count, several
from modelkeep.data import erase, io
from modelkeep.data.erase import EraseError, Wanted
from modelkeep.predictions import marks
from modelkeep.predictions.log import LogMissing, PredictionLog, open_log
from modelkeep.registry import record, releases, store
from modelkeep.registry.record import Record

MADE = ("data", "models", "reports", ".dvc/tmp")  # by the stages
SHORT_HASH = 32  # digits of an MD5
SEARCHED_IDS = 100  # so many ids are searched in the log's bytes; each costs a pass over the file


class ForgetError(ModelkeepError, ValueError):
    """An entity that cannot be forgotten."""


@dataclass(frozen=True)
class Check:
    """A place and whether it is proven free of the entity; None: it could not be searched."""

    place: str
    holds: bool | None
    sentence: str


@dataclass(frozen=True)
class Forgotten:
    """What an entity had, what was removed, and the proof that nothing is left."""

    entity: str
    dry_run: bool
    predictions: int
    labels: int
    files: Mapping[str, int]  # rows by file of the history
    deleted: list[str]  # files of the workspace and of DVC's cache, which a run makes anew
    versions: list[Mapping]  # {version, rows (None: unknown), sentence}
    checks: list[Check] = field(default_factory=list)
    next: list[str] = field(default_factory=list)

    @property
    def holds(self) -> bool:
        """Whether no check found a rest."""
        return all(check.holds is not False for check in self.checks)

    def as_dict(self) -> dict:
        """For `--json`."""
        return asdict(self)

    def __repr__(self) -> str:
        return "\n".join(_lines(self))

    def _repr_html_(self) -> str:
        return f"<pre>{escape(repr(self))}</pre>"


def forget(root: Path, entity: str, *, dry_run: bool = False, url: str = "") -> Forgotten:
    """Remove the rows of an entity from log, history and DVC's cache, and search for a rest.

    Versions that learned from it are named; a model in service stays until another is promoted.
    `dry_run` changes nothing. ForgetError for an empty name.
    """
    if not entity.strip():
        raise ForgetError("the entity's name is empty; name it as the log and the history have it")
    prepare = workspace.params(root, "prepare")
    columns = str(prepare["entity_column"]), str(prepare["id_column"])
    wanted = Wanted(entity, *columns, set())
    tables = _history(root, prepare)
    form = str(prepare["separator"]), str(prepare["encoding"])
    for path in tables:
        wanted.ids.update(erase.ids(path, wanted, *form))
    erased, log = _log(root, url, entity, dry_run)
    wanted.ids.update(erased.ids if erased else ())
    cache = _cache(root)
    learned = _learned(root, wanted, cache)
    rows, checks = _from_history(root, tables, wanted, form, dry_run)
    deleted, left = _deleted(root, wanted, cache, tables, dry_run)
    checks = [*_log_checks(log, entity, erased, dry_run), *checks, *left]
    return Forgotten(
        entity=entity,
        dry_run=dry_run,
        predictions=erased.predictions if erased else 0,
        labels=erased.labels if erased else 0,
        files=rows,
        deleted=deleted,
        versions=learned,
        checks=[*checks, *_elsewhere(root, prepare, tables)],
        next=_next(str(prepare["source"]), rows, learned, deleted),
    )


def _history(root: Path, prepare: Mapping) -> list[Path]:
    """The tables of the history that are here; none where the source makes its own rows."""
    source = str(prepare["source"])
    place = root / source
    if "://" in source or io.is_made(place):
        return []
    return [path for path in erase.walk(place) if path.name.lower().endswith(io.READABLE)]


def _log(root: Path, url: str, entity: str, dry_run: bool) -> tuple[object, PredictionLog | None]:
    address = url or str(workspace.params(root, "serve")["log"])
    try:
        log = open_log(address, root=root, create=False)
    except LogMissing:
        return None, None
    with closing(log):
        erased = log.erase(entity, dry_run)
        if not dry_run and (erased.predictions or erased.labels or erased.unreached):
            log.erase(entity)  # what came while the first pass was under way
    return erased, log


def _log_checks(
    log: PredictionLog | None, entity: str, erased: object, dry_run: bool
) -> list[Check]:
    if log is None:
        return [Check("log", True, "there is no prediction log here")]
    what = f"{count(erased.predictions, 'prediction')}, {count(erased.labels, 'label')}"
    if dry_run:
        found = erased.predictions or erased.labels or erased.unreached
        return [Check("log", not found, f"{log.address} has {what} of it")]
    with closing(log):
        left = log.erase(entity, dry_run=True)
        paths = log.scrub()
    if left.predictions or left.labels or left.unreached:
        return [Check("log", False, f"{left.predictions + left.labels} rows came meanwhile: again")]
    if not paths:
        text = f"no row of {log.address} is of it, and the tables were written anew; the server's "
        return [
            Check("log", True, text + "WAL and backups keep rows as long as their settings say")
        ]
    return [_bytes_checked(paths, entity, erased.ids)]


def _bytes_checked(paths: list[Path], entity: str, ids: tuple[str, ...]) -> Check:
    """Search the bytes of the log's files for the entity and for the ids of its rows."""
    quoted = msgspec.json.encode(entity)
    some = [id for id in ids if len(id) > erase.SHORTEST][:SEARCHED_IDS]
    content = {path.name: path.read_bytes() for path in paths}
    found = [name for name, each in content.items() if quoted in each]
    rest = [
        id
        for id in some
        if any(
            re.search(rb"(?<!\w)" + re.escape(id.encode()) + rb"\"", c) for c in content.values()
        )
    ]
    size = sum(map(len, content.values()))
    names = several(list(content))
    if found or rest:
        return Check("log", False, f"{several(found or names)} has bytes of {entity} or {rest[:3]}")
    text = f"none of the {size:,} bytes of {names} (free pages and WAL included) holds {entity}"
    return Check("log", True, text + f" or one of {count(len(some), 'id')} of its rows")


def _from_history(
    root: Path, tables: list[Path], wanted: Wanted, form: tuple[str, str], dry_run: bool
) -> tuple[dict[str, int], list[Check]]:
    rows, checks, left = {}, [], 0
    for path in tables:
        name = path.relative_to(root).as_posix()
        found = erase.occurrences(path, wanted)
        if found:
            rows[name] = found
        if not dry_run:
            marks.forget(path, wanted.ids | {wanted.entity})
        try:
            if found and not dry_run:
                erase.remove(path, wanted, *form)
                left += erase.occurrences(path, wanted)
        except EraseError as error:
            checks.append(
                Check("history", False, f"{error}; save it as CSV or Parquet, then again")
            )
    if dry_run:
        left = sum(rows.values())
    files = count(len(tables), "file")
    checks.append(
        Check("history", not left, f"{count(left, 'row')} of it in {files} of the history")
    )
    return rows, checks


def _cache(root: Path) -> Path | None:
    """DVC's cache of this workspace."""
    if not (root / ".dvc").is_dir():
        return None
    from dvc.repo import Repo

    with Repo(str(root)) as repo:
        return Path(repo.cache.local.path)


def _object(cache: Path, md5: str) -> Path:
    return cache / md5[:2] / md5[2:]


def _learned(root: Path, wanted: Wanted, cache: Path | None) -> list[dict]:
    """The versions whose training rows hold the entity, or are not here to be searched."""
    try:
        at: Record | None = record.read(root)
    except (record.RecordError, git.GitError):
        return []
    versions = []
    for version in sorted(at.versions, key=record.order):
        hashes = record.parsed(at.versions[version]).get("hashes") or {}
        rows = _rows_of(cache, str(hashes.get("data", "")), wanted) if cache else None
        if rows is None:
            text = "its rows are not in DVC's cache here: `dvc fetch` them, or ask who has them"
        else:
            text = f"{rows['train']} of its training rows and {rows['test']} of its test rows"
        if rows is None or any(rows.values()):
            count_ = None if rows is None else rows["train"]
            versions.append({"version": version, "rows": count_, "sentence": text})
    return versions


def _rows_of(cache: Path, data: str, wanted: Wanted) -> dict[str, int] | None:
    listed = _object(cache, data)
    if len(data) < SHORT_HASH or not listed.is_file():
        return None
    paths = {
        each["relpath"]: _object(cache, each["md5"]) for each in json.loads(listed.read_text())
    }
    found = {}
    for part in ("train", "test"):
        path = paths.get(f"{part}.parquet")
        if path is None or not path.is_file():
            return None
        found[part] = erase.occurrences(path, wanted)
    return found


def _deleted(
    root: Path, wanted: Wanted, cache: Path | None, tables: list[Path], dry_run: bool
) -> tuple[list[str], list[Check]]:
    """Files that hold the entity and that a run makes anew are deleted; those in service stay."""
    place = releases.folder(root)
    now = store.now(place) if (place / store.POINTER).exists() else None
    served = {role.sha256 for role in (now.champion, now.canary, now.shadow) if role} if now else ()
    deleted, left, searched = [], [], 0
    for path in _made(root, place, cache, {*tables}):
        searched += 1
        found = erase.occurrences(path, wanted)
        if not found:
            continue
        name = path.relative_to(root).as_posix() if path.is_relative_to(root) else str(path)
        if any(sha in path.parts for sha in served) or path.is_relative_to(root / releases.COPY):
            text = f"{name} of a model in service holds {count(found, 'row')} of it"
            left.append(Check("models", False, f"{text}: promote one without, then forget again"))
            continue
        deleted.append(name)
        if not dry_run and place / "bundles" in path.parents:
            shutil.rmtree(path.parent)  # a bundle that lacks a file serves nobody
        elif not dry_run:
            path.unlink()
    state = f"{count(len(deleted), 'file')} of {searched:,} {'hold' if dry_run else 'held'} it"
    if wanted.pattern is None:
        text = f"{wanted.entity!r} is too short to be looked for in files that are no tables"
        left.append(Check("workspace", None, text))
    done = "they would be deleted" if dry_run else "deleted; none of the others does"
    return deleted, [Check("cache", not (dry_run and deleted), f"{state}: {done}"), *left]


def _made(root: Path, place: Path, cache: Path | None, tables: set[Path]) -> Iterator[Path]:
    for folder in (*(root / name for name in MADE), place / "bundles", cache):
        for path in [*erase.walk(folder)] if folder else ():
            if not path.exists():  # with its bundle
                continue
            log = path.name.endswith((".db", ".db-wal", ".db-shm"))
            if path not in tables and not log and path.suffix != ".dvc" and not path.is_symlink():
                yield path


def _elsewhere(root: Path, prepare: Mapping, tables: list[Path]) -> list[Check]:
    """What this command cannot reach."""
    source, checks = str(prepare["source"]), []
    if not tables:
        text = f"source {source!r} is made or kept elsewhere: take the rows out there"
        checks.append(Check("history", None, text))
    try:
        names = [path.relative_to(root).as_posix() for path in tables]
        tracked = git.run(root, "ls-files", "--", *names).split("\n") if names else []
        if tracked := [name for name in tracked if name]:
            text = (
                f"Git keeps former versions of {several(tracked)}: rewrite them (git filter-repo)"
            )
            checks.append(Check("git", False, text))
    except git.GitError:
        pass
    text = "DVC remotes, clones and backups were not searched: `dvc gc --cloud` there, after a push"
    return [*checks, Check("elsewhere", None, text)]


def _next(source: str, rows: Mapping, versions: list, deleted: list[str]) -> list[str]:
    commands = [f"dvc add {source} && git add {source}.dvc"] if rows else []
    if rows or deleted:
        commands.append("dvc repro && git add -A && git commit -m 'Rows of an entity erased'")
    if versions:
        commands.append("modelkeep ship  # a model that has not learned from it")
    return commands


def _lines(found: Forgotten) -> list[str]:
    verb = "would be removed" if found.dry_run else "removed"
    rows = sum(found.files.values())
    what = [count(found.predictions, "prediction"), count(found.labels, "label")]
    what += [
        f"{count(rows, 'row')} of history",
        f"{count(len(found.deleted), 'file')} made from it",
    ]
    lines = [f"{found.entity}: {', '.join(what)} {verb}"]
    lines += [f"  {n:>6,} rows  {name}" for name, n in found.files.items()]
    word = "to delete" if found.dry_run else "deleted"
    objects = [name for name in found.deleted if Path(name).is_absolute() or ".dvc/" in name]
    lines += [f"  {word}: {name}" for name in found.deleted if name not in objects]
    lines += [f"  {word}: {count(len(objects), 'object')} of DVC's cache"] if objects else []
    lines += ["Versions that learned from it:" if found.versions else "No version learned from it."]
    lines += [f"  {each['version']}: {each['sentence']}" for each in found.versions]
    states = {True: "ok", False: "LEFT", None: "unknown"}
    lines += ["Checks:", *(f"  {states[c.holds]:<8}{c.place}: {c.sentence}" for c in found.checks)]
    return lines + (["Next:", *(f"  {each}" for each in found.next)] if found.next else [])
