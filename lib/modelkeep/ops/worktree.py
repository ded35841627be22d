"""A throw-away Git worktree in which an unattended command works: one that is killed never was.

The worktree lies in .dvc/tmp, which Git and DVC ignore, and shares the repository and DVC's cache.
What was committed in it reaches the branch by `land`, in one moment; a kill before that leaves a
folder that the next `sweep` of the same name deletes, a kill after it leaves files that the next
`finish` brings.
"""

import configparser
import filecmp
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

PLACE = ".dvc/tmp"
LANDING = "modelkeep-landing.json"  # in the repository's folder, while files are being brought
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
    for left in sorted((root.resolve() / PLACE).glob(f"modelkeep-{name}-*")):
        _remove(root, left)
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
    _check_untouched(root, old, new)
    branch = git.run(root, "symbolic-ref", "HEAD").strip()
    files.write_json(git.folder(root) / LANDING, {"old": old, "new": new, "work": str(work)})
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
    """Bring the files of a commit that has landed; whether a killed command had left that to do."""
    marker = git.folder(root) / LANDING
    if not marker.exists():
        return False
    landing = json.loads(marker.read_bytes())
    old, new, work = landing["old"], landing["new"], Path(landing["work"])
    landed = _head(root) == new
    if landed:
        for path in _changed_data(root, old, new):
            _replace(work / path, root / path)
        for path in _changed(root, old, new):
            if path.endswith(".dvc"):
                _add(work / path.removesuffix(".dvc"), root / path.removesuffix(".dvc"))
        _restore(root, old, new)
    marker.unlink()
    return landed


def _remove(root: Path, top: Path) -> None:
    shutil.rmtree(top, ignore_errors=True)
    git.run(root, "worktree", "prune")


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


def _check_untouched(root: Path, old: str, new: str) -> None:
    """Raise WorktreeError where a file to be brought is neither as before nor as it will be."""
    paths = _changed(root, old, new)
    known = [_blobs(root, commit, paths) for commit in (old, new)]
    there = [path for path in paths if (root / path).is_file()]
    text = "".join(f"{root.resolve() / path}\n" for path in there)
    hashed = git.run(root, "hash-object", "--stdin-paths", text=text).split() if there else []
    now = dict(zip(there, hashed, strict=True))
    wrong = [p for p in paths if now.get(p) not in {blobs.get(p) for blobs in known}]
    if wrong:
        raise WorktreeError(
            f"{several(wrong)} changed here meanwhile, and the cycle has changed it too; "
            "commit your change or take it back (`git checkout -- FILE`); the next cycle goes on"
        )


def _blobs(root: Path, commit: str, paths: Sequence[str]) -> dict[str, str]:
    listed = git.run(root, "--literal-pathspecs", "ls-tree", "-r", "-z", commit, "--", *paths)
    entries = [line.split("\t", 1) for line in listed.split("\0") if line]
    return {path: facts.split()[2] for facts, path in entries}


def _changed_data(root: Path, old: str, new: str) -> list[str]:
    """The outs of stages in DVC's cache that differ between two commits."""
    before, after = (_locked(root, commit) for commit in (old, new))
    tracked = set(_blobs(root, new, sorted(after)))
    return [path for path in after if after[path] != before.get(path) and path not in tracked]


def _locked(root: Path, commit: str) -> dict[str, str]:
    """The outs that dvc.lock of a commit has, and their hashes."""
    try:
        text = git.run(root, "show", f"{commit}:./dvc.lock")
    except git.GitError:
        return {}
    stages = (workspace.value(text) or {}).get("stages") or {}
    return {o["path"]: o["md5"] for stage in stages.values() for o in stage.get("outs", ())}


def _replace(new: Path, place: Path) -> None:
    """Move a file or folder into its place, if it was not moved before."""
    if not new.exists():
        return
    place.parent.mkdir(parents=True, exist_ok=True)
    if place.is_dir() and not place.is_symlink():
        os.replace(place, new.with_name(f".{place.name}.{uuid4().hex[:8]}.tmp"))
    os.replace(new, place)


def _add(new: Path, place: Path) -> None:
    """Move the files of a folder that are not in its place yet, or are there with other content:
    a cycle begins where the place is as its commit has it (`commits.check_clean`)."""
    for path in sorted(new.rglob("*") if new.is_dir() else ()):
        target = place / path.relative_to(new)
        if not path.is_file() or path.name == ".gitignore":
            continue
        if not target.exists() or not filecmp.cmp(path, target, shallow=False):
            target.parent.mkdir(parents=True, exist_ok=True)
            os.replace(path, target)


def _restore(root: Path, old: str, new: str) -> None:
    """Bring the tracked files of a commit and the index, by an index beside: no lock is left."""
    index = root / git.run(root, "rev-parse", "--git-path", "index").strip()
    beside = index.with_name(f"{index.name}.modelkeep")
    beside.with_name(f"{beside.name}.lock").unlink(missing_ok=True)
    shutil.copy(index, beside)
    paths = "\0".join(_changed(root, old, new))
    options = ("--staged", "--worktree", "--pathspec-from-file=-", "--pathspec-file-nul")
    command = ("--literal-pathspecs", "restore", f"--source={new}", *options)
    git.run(root, *command, text=paths, index=beside)
    os.replace(beside, index)
