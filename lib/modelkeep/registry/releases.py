"""Versions released, promoted and rolled back: Git tags are the record, the pointer of the model
store decides what serves.
"""

import json
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from filelock import FileLock

from modelkeep.core import files, git, workspace
from modelkeep.core.errors import ModelkeepError
from modelkeep.core.markup import count, several
from modelkeep.data import definitions
from modelkeep.registry import evidence, record, store, tags
from modelkeep.registry.evidence import CANDIDATE
from modelkeep.registry.record import Record, when
from modelkeep.registry.store import Now, Role, StoreError
from modelkeep.registry.tags import Tag
from modelkeep.training import manifests
from modelkeep.training.manifests import BundleError, UnknownFormat

COPY = "models/champion"  # the champion as `evaluate` reads it: DVC tracks it by COPY.dvc

# Loads the models that a pointer names, and raises where one may not serve: the server's loading
Load = Callable[[Path, Now, int], object]


class Overtaken(ModelkeepError, RuntimeError):
    """Another process changed the record first; the message has its state now."""


class NotServable(ModelkeepError, RuntimeError):
    """A version that cannot be put in service; the message has the reason."""


@dataclass(frozen=True)
class Done:
    """The result of a command: `state` is released, promoted, rolled back or unchanged."""

    state: str
    version: str
    sentence: str
    tag: str = ""
    next: tuple[str, ...] = ()
    facts: dict = field(default_factory=dict)

    def __str__(self) -> str:
        return "\n".join([self.sentence, *self.next])

    def as_dict(self) -> dict:
        """For `--json`."""
        return {
            "state": self.state,
            "version": self.version,
            "tag": self.tag,
            "sentence": self.sentence,
            **self.facts,
        }


def release(root: Path, at: Record, now: float, version: str = "", forced: str = "") -> Done:
    """Tag the candidate of this commit with its evidence; evidence.NotFit if it is not fit."""
    version = version or record.following(at)
    if not record.VERSION.fullmatch(version) or not _fits_gto(at.model, version):
        raise record.UnknownVersion(f"{version!r} is not a version; say it like v1.2.0")
    if version in at.versions:
        raise _overtaken(at, f"there is a {version} already, of {when(at.versions[version].at)}")
    grounds = evidence.gather(root, at, forced)
    used = len(evidence.uses(at, grounds["hashes"]["test_rows"])) + 1
    called = tags.name(at.model, version=version)
    summary = f"{at.model} {version}: {grounds['verdict']['sentence']}"
    text = record.message(summary, {"version": version, **grounds, "test_rows_used": used})
    with git.lock(root):
        fresh = record.read(root)
        if (fresh.counter, [*fresh.versions]) != (at.counter, [*at.versions]):
            raise _overtaken(fresh, f"{version} was not released, for other tags came first")
        try:
            tags.add(root, called, grounds["commit"], text, _later(now, fresh))
        except tags.TagExists as error:
            raise _overtaken(fresh, str(error)) from None
    sentence = f"{summary} These test rows have now judged {count(used, 'candidate')}."
    share = f"Share it: git push origin {called} && dvc push"
    then = (share, f"Put it in service: modelkeep promote {version}")
    return Done("released", version, sentence, called, then, {"test_rows_used": used})


def promote(
    root: Path,
    at: Record,
    now: float,
    version: str,
    reason: str = "",
    other_schema: bool = False,
    *,
    load: Load,
) -> Done:
    """Make a version champion, on record and in service; Overtaken if it is no more as `at` says.

    Raises NotServable for a version with objections on record, unless there is a `reason`.
    """
    target = at.find(version)
    objections = at.objections(target.version)
    is_champion = at.champion is not None and at.champion.version == target.version
    if objections and not reason and not is_champion:
        raise NotServable(
            f"{target.version} has a record: {'; '.join(objections)}; if it is to be champion "
            f"all the same: `modelkeep promote {target.version} --reason 'why'`"
        )
    grounds = record.evidence(target)
    fetch(root, target, grounds)
    _check_serves(root, target, grounds, load)
    if at.champion and not other_schema:
        _check_same_schema(root, at, grounds, target.version)
    return _begin(root, at, now, target, "promote", reason)


def rollback(
    root: Path, at: Record, now: float, version: str = "", reason: str = "", *, load: Load
) -> Done:
    """Make a former champion (default: the one before) champion again.

    It needs no network if the store has the bundle.
    """
    back = version or at.before
    if back is None:
        raise record.UnknownVersion(
            f"{at.model} has no champion before this one to go back to; "
            "name a version: `modelkeep rollback VERSION` (`modelkeep history` shows all)"
        )
    target = at.find(back)
    grounds = record.evidence(target)
    fetch(root, target, grounds)
    _check_serves(root, target, grounds, load)
    return _begin(root, at, now, target, "rollback", reason)


def record_trial(root: Path, version: str, kind: str, result: dict, now: float) -> str:
    """Put a rollout that has ended on record, as a tag on its version.

    Returns the tag's name; empty if it is there already (`result["rollout"]` is its id).
    """
    with git.lock(root):
        at = record.read(root)
        known = {trial.result.get("rollout") for trial in at.tried(version)}
        if result["rollout"] in known or version not in at.versions:
            return ""
        counters = [t.tag.counter for t in at.trials if t.tag.stage == kind]
        called = tags.name(at.model, stage=kind, counter=max(counters, default=0) + 1)
        summary = f"{at.model} {version}, {kind} {result['end']}: {result['sentence']}"
        text = record.message(summary, {"version": version, "kind": kind, **result})
        tags.add(root, called, at.versions[version].commit, text, _later(now, at))
    return called


def settle(root: Path, at: Record) -> list[str]:
    """Bring the pointer, and the champion that `evaluate` reads, to the record; the paths changed.

    Call it under git.lock, with the champion in the store.
    """
    if at.champion is None:
        return []
    version = at.champion.version
    grounds = record.evidence(at.versions[version])
    place, sha256 = folder(root), grounds["hashes"]["bundle"]
    changed = []
    with store.changing(place):  # an analysis of a rollout may change it
        serves = store.now(place)
        if serves is None or (serves.champion.sha256, serves.champion.version) != (sha256, version):
            store.point(place, Now(Role(sha256, version)))
            changed.append(f"{place.name}/{store.POINTER}")
    return changed + _compare_with(root, version, grounds)


def resume(root: Path, at: Record) -> str:
    """Put the champion on record in service where nothing serves; a sentence on it."""
    target = at.versions[at.champion.version]
    fetch(root, target, record.evidence(target))
    with git.lock(root):
        settle(root, record.read(root))
    return f"{_champion(at)}, and is now."


def fetch(root: Path, target: Tag, grounds: dict) -> None:
    """Verify the version's bundle in the store, or get it from DVC's cache or remote at its tag."""
    place, sha256 = folder(root), grounds["hashes"]["bundle"]
    if _whole(place, sha256):
        return
    # DVC's index of a commit may be read half written: one process at a time builds it
    with tempfile.TemporaryDirectory() as beside, FileLock(git.folder(root) / "fetch.lock"):
        if _whole(place, sha256):
            return
        copy = Path(beside) / "bundle"
        _download(root, target, copy)
        actual = _sha256(copy) if (copy / manifests.MANIFEST).is_file() else ""
        if actual != sha256:
            raise NotServable(
                f"the bundle of {target.version} in DVC has the SHA-256 "
                f"{actual[:12] or 'of nothing'}, its tag has {sha256[:12]}; its copy was changed: "
                "`dvc fetch` it anew from a sound remote, or promote another version"
            )
        try:
            manifests.verify(copy)
        except UnknownFormat:
            raise
        except BundleError as error:
            raise NotServable(
                f"what DVC's remote has for {target.version} is damaged "
                f"({str(error).removeprefix(str(copy)).partition(';')[0].strip('/: ')}); nothing "
                "was changed: `dvc push` it "
                "again from a clone that has it, or promote another version"
            ) from None
        shutil.rmtree(store.path(place, sha256), ignore_errors=True)
        store.add(place, copy)


def _whole(place: Path, sha256: str) -> bool:
    """Whether the store has that bundle, undamaged."""
    try:
        return bool(store.check(place, sha256))
    except (BundleError, StoreError):
        return False


def folder(root: Path) -> Path:
    """The model store of this workspace."""
    return root / str(workspace.params(root, "serve")["store"])


def _download(root: Path, target: Tag, to: Path) -> None:
    try:
        from dvc.api import DVCFileSystem
        from dvc.repo import Repo

        with Repo(str(root)) as repo:  # where the remote is now, not where it was then
            config = {name: dict(repo.config[name]) for name in ("core", "remote")}
        stored = DVCFileSystem(str(root), rev=target.commit, config=config)
        stored.get(CANDIDATE, str(to), recursive=True)
    except Exception as error:  # DVC's remotes raise whatever their libraries raise
        here = sorted(p.name[:10] for p in (folder(root) / "bundles").glob("*"))
        raise NotServable(
            f"the model of {target.version} is neither in the store nor in DVC's cache, and the "
            "remote does not give it "
            f"({' '.join(str(error).split())[:200] or type(error).__name__}); "
            "bring the remote back (`dvc remote list`), or promote a version whose model is here: "
            f"the store has {several(here) or 'none'}"
        ) from None


def _check_serves(root: Path, target: Tag, grounds: dict, load: Load) -> None:
    # a server that cannot load it would stay with the model before, against the record
    rows = int(workspace.params(root, "serve")["max_rows"])
    load(folder(root), Now(Role(grounds["hashes"]["bundle"], target.version)), rows)


def _check_same_schema(root: Path, at: Record, grounds: dict, version: str) -> None:
    champion = record.parsed(at.versions[at.champion.version])
    try:
        theirs = _columns(root, champion["hashes"]["bundle"])
    except (BundleError, StoreError, KeyError):
        return  # a champion that is gone asks for nothing
    ours = _columns(root, grounds["hashes"]["bundle"])
    if ours != theirs:
        other = several(sorted(str(name) for name, _ in ours ^ theirs))
        raise NotServable(
            f"{version} has another schema than the champion {at.champion.version} ({other}), so "
            "requests of today's clients would be refused; "
            f"when they are ready: `modelkeep promote {version} --other-schema`"
        )


def _columns(root: Path, sha256: str) -> set[tuple]:
    found = definitions.from_json(store.check(folder(root), sha256)["schema.json"].decode())
    classes = {(f"class {name}", "") for name in found.classes}
    return {(column.name, column.kind) for column in found.columns} | classes


def _begin(root: Path, at: Record, now: float, target: Tag, action: str, reason: str) -> Done:
    """Tag, then point: killed between the two, the next promote or rollback does what is left."""
    with git.lock(root):
        fresh = record.read(root)
        before = fresh.champion.version if fresh.champion else None
        if before == target.version:
            return _unchanged(root, fresh)
        if fresh.counter != at.counter:
            raise _overtaken(fresh, f"{target.version} was not made champion")
        called = tags.name(at.model, stage=record.CHAMPION, counter=fresh.counter + 1)
        word = "is champion" if action == "promote" else "is champion again"
        summary = f"{at.model} {target.version} {word}"
        summary += f", in place of {before}" if before else ""
        summary += f": {reason}" if reason else ""
        content = {"action": action, "version": target.version, "before": before, "reason": reason}
        try:
            text = record.message(summary, content)
            tags.add(root, called, target.commit, text, _later(now, fresh))
        except tags.TagExists as error:
            raise _overtaken(record.read(root), str(error)) from None
        settle(root, record.read(root))
    state = "promoted" if action == "promote" else "rolled back"
    then = (
        "The next update compares with it: git add models && "
        f"git commit -m '{summary.partition(':')[0]}' && git push origin HEAD {called}"
    )
    sentence = f"{summary} ({called}); running servers follow."
    return Done(state, target.version, sentence, called, (then,), {"before": before})


def _unchanged(root: Path, at: Record) -> Done:
    done = settle(root, at)
    completed = f"; what was left undone is done now: {several(done)}" if done else ""
    sentence = f"{_champion(at)}{completed}."
    return Done("unchanged", at.champion.version, sentence, facts={"completed": done})


def _compare_with(root: Path, version: str, grounds: dict) -> list[str]:
    """Write the champion that `evaluate` reads; returns the files, which a person commits."""
    sha256, md5 = grounds["hashes"]["bundle"], grounds["hashes"]["model"]
    content = store.check(folder(root), sha256)
    size = sum(len(each) for each in content.values())
    out = {"md5": md5, "size": size, "nfiles": len(content), "hash": "md5", "path": Path(COPY).name}
    listed = "\n".join(f"{'- ' if not i else '  '}{k}: {v}" for i, (k, v) in enumerate(out.items()))
    changed = []
    if not (root / COPY / manifests.MANIFEST).is_file() or _sha256(root / COPY) != sha256:
        with files.folder(root / COPY) as new:
            for name, each in content.items():
                files.write_bytes(new / name, each)
        changed.append(COPY)
    named = {"version": version, "bundle": COPY, "sha256": sha256}
    for path, text in {
        f"{COPY}.dvc": f"outs:\n{listed}\n",
        evidence.CHAMPION: json.dumps(named, indent=1) + "\n",
    }.items():
        if not (root / path).is_file() or (root / path).read_text() != text:
            files.write_text(root / path, text)
            changed.append(path)
    return changed


def _sha256(bundle: Path) -> str:
    return files.sha256(bundle / manifests.MANIFEST)


def _overtaken(at: Record, what: str) -> Overtaken:
    return Overtaken(
        f"{what}; {_champion(at)}: see `modelkeep history`, and try again if you still want to"
    )


def _champion(at: Record) -> str:
    if at.champion is None:
        return f"{at.model} has no champion"
    term = at.champion
    made = f"{term.tag.name}, by {term.tag.who}, {when(term.tag.at)}"
    return f"{at.model} {term.version} is champion ({made})"


def _later(now: float, at: Record) -> int:
    # tags are ordered by whole seconds in GTO, and a clock may go back: each is newer than the last
    return max(int(now), at.latest + 1)


def _fits_gto(model: str, version: str) -> bool:
    parsed = tags.FORM.fullmatch(f"{model}@{version}")
    return parsed is not None and parsed["version"] == version
