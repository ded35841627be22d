"""Versions released, promoted and rolled back: Git tags are the record, the sealed store's pointer is what serves."""

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

COPY = (
    "models/champion"  # the champion as `evaluate` reads it: a folder that DVC tracks by COPY.dvc
)

# What loads the models that a pointer names, and raises where one may not serve: the server's own loading
Load = Callable[[Path, Now, int], object]


class Overtaken(ModelkeepError, RuntimeError):
    """Somebody else was faster, and what is true now."""


class NotServable(ModelkeepError, RuntimeError):
    """A version that cannot be put in service, and why."""


@dataclass(frozen=True)
class Done:
    """What a command did: `state` is released, promoted, rolled back or unchanged."""

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
    """Register the candidate of this commit under a tag that holds its evidence; refused by evidence.NotFit."""
    version = version or record.following(at)
    if not record.VERSION.fullmatch(version) or not _fits_gto(at.model, version):
        raise record.UnknownVersion(f"{version!r} is not a version; say it like v1.2.0")
    if version in at.versions:
        raise _overtaken(at, f"there is a {version} already, of {when(at.versions[version].at)}")
    said = evidence.gather(root, at, forced)
    used = len(evidence.uses(at, said["hashes"]["test_rows"])) + 1
    called = tags.name(at.model, version=version)
    summary = f"{at.model} {version}: {said['verdict']['sentence']}"
    text = record.message(summary, {"version": version, **said, "test_rows_used": used})
    with git.lock(root):
        fresh = record.read(root)
        if (fresh.counter, [*fresh.versions]) != (at.counter, [*at.versions]):
            raise _overtaken(fresh, f"{version} was not released, for other tags came first")
        try:
            tags.add(root, called, said["commit"], text, _later(now, fresh))
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
    against = at.objections(target.version)
    is_champion = at.champion is not None and at.champion.version == target.version
    if against and not reason and not is_champion:
        raise NotServable(
            f"{target.version} has a record: {'; '.join(against)}; if it is to be champion all the "
            f"same: `modelkeep promote {target.version} --reason 'why'`"
        )
    said = record.evidence(target)
    fetch(root, target, said)
    _check_serves(root, target, said, load)
    if at.champion and not other_schema:
        _check_same_schema(root, at, said, target.version)
    return _begin(root, at, now, target, "promote", reason)


def rollback(
    root: Path, at: Record, now: float, version: str = "", reason: str = "", *, load: Load
) -> Done:
    """Make a former champion (default: the one before) champion again; what is in the store needs no network."""
    back = version or at.before
    if back is None:
        raise record.UnknownVersion(
            f"{at.model} has no champion before this one to go back to; "
            "name a version: `modelkeep rollback VERSION` (`modelkeep history` shows all)"
        )
    target = at.find(back)
    said = record.evidence(target)
    fetch(root, target, said)
    _check_serves(root, target, said, load)
    return _begin(root, at, now, target, "rollback", reason)


def record_trial(root: Path, version: str, kind: str, result: dict, now: float) -> str:
    """Put a rollout that has ended on record, as a tag on its version; the tag, or nothing where
    it is there already (`result["rollout"]` is its id)."""
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
    """Bring what serves, and what `evaluate` compares with, to what the record says; the places that were not. Call it under tags.lock, with the champion in the store."""
    if at.champion is None:
        return []
    version = at.champion.version
    said = record.evidence(at.versions[version])
    place, sha256 = folder(root), said["hashes"]["bundle"]
    changed = []
    with store.changing(place):  # a rollout's look may be at it
        serves = store.now(place)
        if serves is None or (serves.champion.sha256, serves.champion.version) != (sha256, version):
            store.point(place, Now(Role(sha256, version)))
            changed.append(f"{place.name}/{store.POINTER}")
    return changed + _compare_with(root, version, said)


def resume(root: Path, at: Record) -> str:
    """Put the champion on record in service where nothing is; the sentence that says so."""
    target = at.versions[at.champion.version]
    fetch(root, target, record.evidence(target))
    with git.lock(root):
        settle(root, record.read(root))
    return f"{_truth(at)}, and is now."


def fetch(root: Path, target: Tag, said: dict) -> None:
    """Have the version's bundle in the store, verified; from DVC's cache or remote at its tag where it is not."""
    place, sha256 = folder(root), said["hashes"]["bundle"]
    if _whole(place, sha256):
        return
    # DVC's index of a commit may be read half written: one process at a time builds it
    with tempfile.TemporaryDirectory() as beside, FileLock(git.folder(root) / "fetch.lock"):
        if _whole(place, sha256):
            return
        copy = Path(beside) / "bundle"
        _download(root, target, copy)
        found = (
            files.sha256(copy / manifests.MANIFEST) if (copy / manifests.MANIFEST).is_file() else ""
        )
        if found != sha256:
            raise NotServable(
                f"what DVC has for {target.version} has the SHA-256 {found[:12] or 'of nothing'}, its tag says {sha256[:12]}; "
                "its copy was changed: `dvc fetch` it anew from a remote that is sound, or promote another version"
            )
        try:
            manifests.verify(copy)
        except UnknownFormat:
            raise
        except BundleError as error:
            raise NotServable(
                f"what DVC's remote has for {target.version} is damaged "
                f"({str(error).removeprefix(str(copy)).partition(';')[0].strip('/: ')}); nothing was changed: `dvc push` it "
                "again from a clone that has it, or promote another version"
            ) from None
        shutil.rmtree(store.path(place, sha256), ignore_errors=True)
        store.add(place, copy)


def _whole(place: Path, sha256: str) -> bool:
    """Whether the store has that bundle; a damaged one is to be brought again."""
    try:
        return bool(store.check(place, sha256))
    except (BundleError, StoreError):
        return False


def folder(root: Path) -> Path:
    """The sealed store of this workspace."""
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
            f"the model of {target.version} is neither in the store nor in DVC's cache, and the remote does not give it "
            f"({' '.join(str(error).split())[:200] or type(error).__name__}); bring the remote back (`dvc remote list`), "
            f"or promote a version whose model is here: the store has {several(here) or 'none'}"
        ) from None


def _check_serves(root: Path, target: Tag, said: dict, load: Load) -> None:
    # a server that cannot load it would stay with the model before, against the record
    rows = int(workspace.params(root, "serve")["max_rows"])
    load(folder(root), Now(Role(said["hashes"]["bundle"], target.version)), rows)


def _check_same_schema(root: Path, at: Record, said: dict, version: str) -> None:
    champion = record.parsed(at.versions[at.champion.version])
    try:
        theirs = _columns(root, champion["hashes"]["bundle"])
    except (BundleError, StoreError, KeyError):
        return  # a champion that is gone asks for nothing
    ours = _columns(root, said["hashes"]["bundle"])
    if ours != theirs:
        other = several(sorted(str(name) for name, _ in ours ^ theirs))
        raise NotServable(
            f"{version} is of another schema than the champion {at.champion.version} ({other}), so clients that send what that reads would be refused; "
            f"when they are ready: `modelkeep promote {version} --other-schema`"
        )


def _columns(root: Path, sha256: str) -> set[tuple]:
    of = definitions.from_json(store.check(folder(root), sha256)["schema.json"].decode())
    return {(c.name, c.kind) for c in of.columns} | {(f"class {name}", "") for name in of.classes}


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
        said = {"action": action, "version": target.version, "before": before, "reason": reason}
        try:
            text = record.message(summary, said)
            tags.add(root, called, target.commit, text, _later(now, fresh))
        except tags.TagExists as error:
            raise _overtaken(record.read(root), str(error)) from None
        settle(root, record.read(root))
    state = "promoted" if action == "promote" else "rolled back"
    then = f"The next turn compares with it: git add models && git commit -m '{summary.partition(':')[0]}' && git push origin HEAD {called}"
    sentence = f"{summary} ({called}); running servers follow."
    return Done(state, target.version, sentence, called, (then,), {"before": before})


def _unchanged(root: Path, at: Record) -> Done:
    done = settle(root, at)
    told = f"; what was left undone is done now: {several(done)}" if done else ""
    sentence = f"{_truth(at)}{told}."
    return Done("unchanged", at.champion.version, sentence, facts={"completed": done})


def _compare_with(root: Path, version: str, said: dict) -> list[str]:
    """Name the champion to `evaluate`: files for a person to commit, since what is compared belongs to a commit."""
    sha256, md5 = said["hashes"]["bundle"], said["hashes"]["model"]
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
        f"{what}; {_truth(at)}: look at it (`modelkeep history`), and try again if you still want to"
    )


def _truth(at: Record) -> str:
    if at.champion is None:
        return f"{at.model} has no champion"
    term = at.champion
    return f"{at.model} {term.version} is champion ({term.tag.name}, by {term.tag.who}, {when(term.tag.at)})"


def _later(now: float, at: Record) -> int:
    # tags are ordered by whole seconds in GTO, and a clock may go back: each is newer than the last
    return max(int(now), at.latest + 1)


def _fits_gto(model: str, version: str) -> bool:
    parsed = tags.FORM.fullmatch(f"{model}@{version}")
    return parsed is not None and parsed["version"] == version
