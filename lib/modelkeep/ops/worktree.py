"""A throw-away Git worktree in which an unattended command works: one that is killed never was.

The worktree lies in .dvc/tmp, which Git and DVC ignore, and shares the repository and DVC's cache.
What was committed in it reaches the branch by `land`, in one moment; a kill before that leaves a
folder that the next `sweep` of the same name deletes, a kill after it leaves files that the next
`finish` brings from DVC's cache and the commit.
"""

import configparser
import json
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from uuid import uuid4

from modelkeep.core import files, git, workspace
from modelkeep.core.errors import ModelkeepError
from modelkeep.core.markup import several
from modelkeep.ops import commits

PLACE = ".dvc/tmp"
LANDING = "modelkeep-landing.json"  # in the repository's folder, while files are being brought
BESIDE = "modelkeep-landing.tmp"  # in PLACE: a file on its way
WITHOUT_HOOKS = ("-c", "core.hooksPath=/dev/null")  # DVC's hook would check out all data


class WorktreeError(ModelkeepError, RuntimeError):
    """What was made in a worktree cannot become the branch's."""


@contextmanager
def scratch(root: Path, name: str) -> Iterator[Path]:
    """Yield a workspace of the last commit, on no branch, which is deleted at the end.

    Data are not in it yet: `dvc checkout` brings them from the shared cache.
    """
    top = root.resolve() / PLACE / f"modelkeep-{name}-{uuid4().hex[:8]}"
    prefix = git.run(root, "rev-parse", "--show-prefix").strip()
    git.run(root, *WITHOUT_HOOKS, "worktree", "add", "--quiet", "--detach", str(top), "HEAD")
    work = top / prefix
    try:
        _share_cache(root, work)
        yield work
    finally:
        _remove(root, top)


def sweep(root: Path, name: str) -> None:
    """Delete the worktrees of that name that killed commands have left; hold a lock of that name,
    so that none of them is at work."""
    for place in (root.resolve() / PLACE, _entries(root)):
        for left in sorted(place.glob(f"modelkeep-{name}-*")):
            _remove(root, root.resolve() / PLACE / left.name)
    for run in _cache(root).glob("runs/*/*"):
        with suppress(OSError):
            run.rmdir()  # DVC looks for the newest record in it, and fails where there is none


def land(root: Path, work: Path) -> bool:
    """Fast-forward the branch of `root` to the commit of `work`, and bring what it changed.

    Returns whether there was anything. Raises WorktreeError, and nothing has happened then, if the
    branch has moved meanwhile or somebody has changed a file that is to be brought.
    """
    old, new = _head(root), _head(work)
    if old == new:
        return False
    if git.run(work, "merge-base", old, new).strip() != old:
        raise WorktreeError(
            "somebody has committed to this branch meanwhile, so nothing was taken over; "
            "the next cycle begins from that commit"
        )
    if wrong := _touched(root, old, new):
        raise WorktreeError(
            f"{several(wrong)} changed here meanwhile, and the cycle has changed it too; "
            "commit your change or take it back (`git checkout -- FILE`); the next cycle goes on"
        )
    branch = git.run(root, "symbolic-ref", "HEAD").strip()
    files.write_json(git.folder(root) / LANDING, {"old": old, "new": new})
    update = ("update-ref", "-m", "modelkeep: fast-forward", branch, new, old)
    try:
        git.run(root, *update)
    except git.GitError:
        if not git.unlock(root, "HEAD", branch):
            raise
        git.run(root, *update)
    finish(root)
    return True


def finish(root: Path) -> bool:
    """Bring the files of a commit that has landed; whether a killed command had left that to do.

    Data come from DVC's cache, so it may be repeated, and needs nothing of the worktree. A file
    that somebody has changed since the kill stays as it is.
    """
    marker = git.folder(root) / LANDING
    if not marker.exists():
        return False
    landing = json.loads(marker.read_bytes())
    old, new, head = landing["old"], landing["new"], _head(root)
    landed = git.run(root, "merge-base", head, new).strip() == new
    if landed:
        wrong = _touched(root, old, new)
        paths = [path for path in _changed(root, old, new) if path not in wrong]
        _bring(root, old, head, paths)
        _restore(root, head, paths)
    marker.unlink()
    return landed


def _remove(root: Path, top: Path) -> None:
    shutil.rmtree(top, ignore_errors=True)
    # `git worktree prune` keeps what a killed `git worktree add` has left, as locked
    shutil.rmtree(_entries(root) / top.name, ignore_errors=True)


def _entries(root: Path) -> Path:
    """Where Git keeps its worktrees, each in a folder of its name."""
    return git.folder(root) / "worktrees"


def _cache(root: Path) -> Path:
    """DVC's cache of a workspace, which its settings may have put elsewhere."""
    from dvc.config import Config

    folder = root / ".dvc"
    stated = Config(str(folder)).get("cache", {}).get("dir")
    return (folder / str(stated)).resolve() if stated else folder.resolve() / "cache"


def _share_cache(root: Path, work: Path) -> None:
    settings = configparser.ConfigParser()
    settings["cache"] = {"dir": str(_cache(root))}
    with open(work / ".dvc" / "config.local", "w", encoding="utf-8") as file:
        settings.write(file)


def _head(root: Path) -> str:
    return git.run(root, "rev-parse", "HEAD").strip()


def _changed(root: Path, old: str, new: str) -> list[str]:
    """The tracked files below the workspace that differ between two commits."""
    options = ("--name-only", "--no-renames", "--relative", "-z")
    return [path for path in git.run(root, "diff", *options, old, new).split("\0") if path]


def _touched(root: Path, old: str, new: str) -> list[str]:
    """The files that differ between two commits and are here neither as the one nor the other."""
    paths = _changed(root, old, new)
    known = [_blobs(root, commit, paths) for commit in (old, new)]
    there = [path for path in paths if (root / path).is_file()]
    text = "".join(f"{root.resolve() / path}\n" for path in there)
    hashed = git.run(root, "hash-object", "--stdin-paths", text=text).split() if there else []
    now = dict(zip(there, hashed, strict=True))
    return [p for p in paths if now.get(p) not in {blobs.get(p) for blobs in known}]


def _blobs(root: Path, commit: str, paths: Sequence[str]) -> dict[str, str]:
    listed = git.run(root, "--literal-pathspecs", "ls-tree", "-r", "-z", commit, "--", *paths)
    entries = [line.split("\t", 1) for line in listed.split("\0") if line]
    return {path: facts.split()[2] for facts, path in entries}


def _bring(root: Path, old: str, new: str, paths: Sequence[str]) -> None:
    """Bring the data of changed `.dvc` files and of a changed dvc.lock from DVC's cache.

    What a `.dvc` names may have got files of somebody else meanwhile, which stay.
    """
    cache, beside = _cache(root) / "files" / "md5", root / PLACE / BESIDE
    for path in (path for path in paths if path.endswith(".dvc")):
        for out in (_value(root, f"{new}:./{path}") or {}).get("outs", ()):
            _check_out(cache, str(out["md5"]), (root / path).parent / out["path"], beside)
    if "dvc.lock" not in paths:
        return
    before, after = (_locked(root, commit) for commit in (old, new))
    tracked = set(_blobs(root, new, sorted(after)))
    for path, md5 in after.items():
        if md5 != before.get(path) and path not in tracked:
            _check_out(cache, md5, root / path, beside, whole=True)


def _locked(root: Path, commit: str) -> dict[str, str]:
    """The outs that dvc.lock of a commit has, and their hashes."""
    stages = (_value(root, f"{commit}:./dvc.lock") or {}).get("stages") or {}
    return {o["path"]: o["md5"] for stage in stages.values() for o in stage.get("outs", ())}


def _value(root: Path, name: str) -> dict | None:
    """What a YAML file of a commit holds; None without the file."""
    try:
        return workspace.value(git.run(root, "show", name))
    except git.GitError:
        return None


def _check_out(cache: Path, md5: str, place: Path, beside: Path, whole: bool = False) -> None:
    """Make a file, or the files of a folder, as DVC's cache has them; `whole`: and no others.

    They are written at `beside` first, where a kill leaves no file that counts as data.

    A champion's copy need not be in the cache: its data are in place before it is committed.
    """
    listed = cache / md5[:2] / md5[2:]
    if not listed.is_file():
        return
    contents = {place: md5}
    if md5.endswith(".dir"):
        contents = {place / e["relpath"]: e["md5"] for e in json.loads(listed.read_bytes())}
    for path, md5 in contents.items():
        if not path.is_file() or commits.md5(path) != md5:
            path.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(cache / md5[:2] / md5[2:], beside)
            os.replace(beside, path)
    for path in sorted(place.rglob("*")) if whole else ():
        if path.is_file() and path not in contents:
            path.unlink()


def _restore(root: Path, new: str, paths: Sequence[str]) -> None:
    """Bring these tracked files of a commit, and the index, by an index beside: no lock is left."""
    index = root / git.run(root, "rev-parse", "--git-path", "index").strip()
    beside = index.with_name(f"{index.name}.modelkeep")
    beside.with_name(f"{beside.name}.lock").unlink(missing_ok=True)
    shutil.copy(index, beside)
    options = ("--staged", "--worktree", "--pathspec-from-file=-", "--pathspec-file-nul")
    command = ("--literal-pathspecs", "restore", f"--source={new}", *options)
    git.run(root, *command, text="\0".join(paths), index=beside)
    os.replace(beside, index)
