"""Commits that nobody watches: one turn at a time, from a clean tree; what a killed one left is undone, each step is a commit"""

import fcntl
import hashlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import chain
from pathlib import Path

import psutil

from modelkeep.core import files, git, workspace
from modelkeep.core.errors import ModelkeepError
from modelkeep.core.markup import several
from modelkeep.registry import evidence, record, releases


def clear(root: Path) -> None:
    """Take away the lock of a DVC that is dead, and the folder for a record of a run that it did not come to write."""
    with suppress(FileNotFoundError):
        _freed(root / ".dvc" / "tmp" / "rwlock")
    for run in (root / ".dvc" / "cache" / "runs").glob("*/*"):
        with suppress(OSError):
            run.rmdir()  # DVC looks for the newest record in it, and fails where there is none


def _freed(path: Path) -> None:
    """DVC's lock goes if a kill left it half written, or nobody lives who is named in it: DVC waits for a dead process that nobody has reaped, or for another one of its number."""
    try:
        said, written = json.loads(path.read_bytes()), path.stat().st_mtime
        holders = [*said["write"].values(), *chain.from_iterable(said["read"].values())]
        held = any(_lives(int(each["pid"]), written) for each in holders)
    except (ValueError, KeyError, TypeError, AttributeError):
        held = False
    if not held:
        path.unlink()


def _lives(pid: int, since: float) -> bool:
    """Whether a process is at work that was there at that time."""
    try:
        process = psutil.Process(pid)
        return process.status() != psutil.STATUS_ZOMBIE and process.create_time() <= since + 1
    except psutil.NoSuchProcess:
        return False


LOCK = "modelkeep-update.lock"
MADE = ("dvc.lock", "metrics", "verdicts", "plots")  # by a run of the pipeline, beside as_of
PREPARE = "params/prepare.yaml"
AS_OF = re.compile(r"^as_of:.*$", re.MULTILINE)
TURN = "Modelkeep-Turn"  # what each commit of ours ends in
FOLLOWS = (f"{releases.COPY}.dvc", evidence.CHAMPION, "rollouts")  # the record, not this commit
# DVC in a process of its own, which ends with its stages when this one is killed
DVC = (
    "import signal, sys; signal.signal(signal.SIGHUP, signal.SIG_DFL); "
    "from modelkeep.ops import processes; processes.watch(); "
    "from dvc.cli import main; sys.exit(main(sys.argv[1:]))"
)
BAR = re.compile(r"\|.*\[\d+:\d+")  # a bar of progress, drawn again and again
PATIENCE = 3.0  # seconds after which a lock of Git's that nobody holds is one of a killed Git


class Held(ModelkeepError, RuntimeError):
    """Another turn is at work here."""


class CommitError(ModelkeepError, RuntimeError):
    """A turn that cannot begin, or a step of it that failed."""


@dataclass
class Mark:
    """What the lock's file tells: when the turn before began if it was killed (else 0), and whether this one leaves the tree whole."""

    since: float
    whole: bool = True


@contextmanager
def hold(root: Path, now: float) -> Iterator[Mark]:
    """Hold the one lock of turns; Held says who has it.

    Its file says who works, and is emptied at the end: text in it that nobody holds is of a turn that was killed.
    """
    with open(_lock(root), "a+b") as file:
        _flock(file)
        file.seek(0)
        left = file.read()
        mark = Mark(_since(left))
        said = {"pid": os.getpid(), "host": os.uname().nodename, "since": time.time(), "at": now}
        # never empty in between: whoever comes after a kill must see that there was one
        file.write(json.dumps(said).encode() + b"\n")
        file.flush()
        try:
            yield mark
        finally:
            if mark.whole:
                file.truncate(0)


def free(root: Path) -> None:
    """Raise Held if a turn is at work; nothing is changed."""
    if _lock(root).exists():
        with open(_lock(root), "rb") as file:
            _flock(file)


def _lock(root: Path) -> Path:
    return root / git.run(root, "rev-parse", "--git-common-dir").strip() / LOCK


def _flock(file) -> None:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        file.seek(0)
        said = _said(file.read(), -1)
        since = datetime.fromtimestamp(said.get("since", time.time()), UTC)
        raise Held(
            f"process {said.get('pid', '?')} on {said.get('host', 'this machine')} is at a turn here since {since:%Y-%m-%d %H:%M:%S} UTC; "
            "wait for its end, one turn at a time"
        ) from None


def _since(left: bytes) -> float:
    """When the first of the turns began that were killed one after another; a torn line is of any time."""
    return float(_said(left, 0).get("since", 1.0)) if left else 0.0


def _said(text: bytes, line: int) -> dict:
    with suppress(ValueError, IndexError):
        return json.loads(text.splitlines()[line])
    return {}


def ready(root: Path) -> None:
    """Whether turns can be committed here: a repository with commits, whole, on a branch, and somebody to commit as; RecordError, NotFit or CommitError."""
    record.ready(root)
    evidence.on_a_branch(root)
    try:
        git.run(root, "var", "GIT_COMMITTER_IDENT")
        git.run(root, "var", "GIT_AUTHOR_IDENT")
    except git.GitError:
        raise CommitError(
            "Git does not know who commits here; `git config user.name NAME && git config user.email ADDRESS` says it"
        ) from None


def clean(root: Path, own: Sequence[str] = ()) -> None:
    """Raise CommitError if what a turn reads or commits has changes of somebody else; `own` is left out."""
    left = (*FOLLOWS, *own)
    changed = [p for p in evidence.changed(root) if not p.startswith(left)]
    if changed:
        raise CommitError(
            f"{several(changed)} {'has' if len(changed) == 1 else 'have'} uncommitted changes, and a turn commits what it reads and makes; "
            "`git add -A && git commit` keeps them, `git checkout -- FILE` takes a change back"
        )


def changes(root: Path, source: str) -> dict[str, str]:
    """The files of a folder that DVC tracks which are not as its `.dvc` has them: added, modified or deleted."""
    from dvc.dvcfile import load_file
    from dvc.repo import Repo

    with Repo(str(root)) as repo:
        listed = load_file(repo, str(root / f"{source}.dvc")).stage.outs[0].get_obj()
    if listed is None:
        raise CommitError(f"DVC's cache has no list of the files of {source}; `dvc fetch {source}` brings it")  # fmt: skip
    then = {"/".join(key): entry.value for key, _, entry in listed}
    there = [p for p in sorted((root / source).rglob("*")) if p.is_file()]
    now = {p.relative_to(root / source).as_posix(): _md5(p) for p in there}
    kinds = {name: "added" if name not in then else "modified" for name in now}
    kinds |= {name: "deleted" for name in then if name not in now}
    return {f"{source}/{n}": kind for n, kind in kinds.items() if now.get(n) != then.get(n)}


def _md5(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "md5").hexdigest()


def restore(root: Path, since: float = 0.0) -> None:
    """Bring back what the last commit has of all that a run of the pipeline writes: what was not committed never was. `since`: when a killed turn began."""
    if since:
        _unlock(root, since)
    clear(root)
    source = str(workspace.params(root, "prepare")["source"]).rstrip("/")
    for path in (*MADE, f"{source}.dvc"):
        if git.run(root, "ls-tree", "HEAD", "--", path).strip():
            git.run(root, "reset", "--quiet", "--", path)
            git.run(root, "checkout", "--quiet", "HEAD", "--", path)
        if path in MADE:
            git.run(root, "clean", "-fdq", "--", path)
    for left in (root / source).glob(".*.tmp"):  # DVC would take it for a part of history
        left.unlink()
    if then := AS_OF.search(git.run(root, "show", f"HEAD:./{PREPARE}")):
        git.run(root, "reset", "--quiet", "--", PREPARE)  # it was on its way into a commit
        _put(root, then[0])
    if (root / "dvc.lock").is_file():
        dvc(root, "checkout", "--force", "--allow-missing", "dvc.yaml")


def _unlock(root: Path, since: float) -> None:
    """Remove the locks that a killed Git has left, unless a Git may be at work."""
    folders = {
        root / git.run(root, "rev-parse", f"--git-{d}").strip() for d in ("dir", "common-dir")
    }
    every = {p for at in folders for w in ("*.lock", "refs/heads/**/*.lock") for p in at.glob(w)}
    every = [p for p in every if p.name not in (LOCK, git.LOCK)]
    found = [p for p in every if p.stat().st_mtime >= since - 1]
    if not found:
        return
    time.sleep(PATIENCE)
    if _git_works(root):
        raise CommitError(f"{several([p.name for p in found])} in .git is held by a Git that is at work; wait for its end")  # fmt: skip
    for path in found:
        path.unlink(missing_ok=True)


def _git_works(root: Path) -> bool:
    for process in psutil.process_iter():
        with suppress(psutil.Error, ValueError):
            if process.name() == "git" and Path(process.cwd()).is_relative_to(root.resolve()):
                return True
    return False


def set_as_of(root: Path, moment: str) -> None:
    """Put a moment into params/prepare.yaml, all else kept as it is written."""
    line = AS_OF.search((root / PREPARE).read_text(encoding="utf-8"))
    if line is None:
        raise CommitError(f"{PREPARE} has no line that begins with `as_of:`, so none can be set; write one")  # fmt: skip
    value, mark, comment = line[0].partition("#")
    said = f"as_of: '{moment}'"
    _put(root, f"{said} ".ljust(len(value)) + mark + comment if mark else said)


def _put(root: Path, line: str) -> None:
    text = (root / PREPARE).read_text(encoding="utf-8")
    changed = AS_OF.sub(lambda _: line, text, count=1)
    if changed != text:
        files.write_text(root / PREPARE, changed)


def commit(root: Path, paths: Sequence[str], message: str, at: float, **trailers: object) -> str:
    """Commit these paths alone, if they have changed; the commit, or nothing. `at` is the time on it."""
    named = [p for p in paths if (root / p).exists() or git.run(root, "ls-files", "--", p)]
    if not named:
        return ""
    git.run(root, "add", "--all", "--", *named)
    if not git.run(root, "diff", "--cached", "--name-only", "--", *named).strip():
        return ""
    when = datetime.fromtimestamp(at, UTC)
    said = [f"{TURN}: {when:%Y-%m-%dT%H:%M:%SZ}"]
    said += [f"Modelkeep-{k}: {v}" for k, v in trailers.items()]
    text = "\n".join([message.rstrip(), "", *said, ""])
    options = ("--quiet", "--cleanup=verbatim", f"--date=@{int(at)} +0000", "--file=-")
    git.run(root, "commit", *options, "--only", "--", *named, text=text, at=int(at))
    return git.run(root, "rev-parse", "HEAD").strip()


def trailed(root: Path, name: str) -> tuple[str, str]:
    """The newest commit of this branch that has a trailer of ours, and what it says there; nothing if there is none."""
    form = f"--format=%H%x00%(trailers:key=Modelkeep-{name},valueonly,separator=%x20)"
    said = git.run(root, "log", "-1", f"--grep=^Modelkeep-{name}: ", form).strip()
    commit, _, value = said.partition("\0")
    return commit, value.strip()


def dvc(root: Path, *words: str) -> str:
    """Run DVC of this environment, its lines shown as they come; CommitError with the one that tells why if it fails."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
    with subprocess.Popen(
        [sys.executable, "-P", "-c", DVC, *words],
        cwd=root,
        env=os.environ | {"PATH": path, "DVC_NO_ANALYTICS": "1", "DVC_IGNORE_ISATTY": "1"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    ) as process:
        lines = []
        for line in (each.rstrip() for each in process.stdout):
            if re.search(r"\w", line) and not BAR.search(line):
                lines.append(line)
                if words[0] == "repro":  # the rest takes a moment
                    print(line, file=sys.stderr, flush=True)
    if process.returncode:
        raise CommitError(f"`dvc {' '.join(words)}` failed: {_why(lines, process.returncode)}")
    return "\n".join(lines)


def _why(lines: Sequence[str], code: int) -> str:
    ours = [line for line in lines if line.startswith("modelkeep: ")]
    theirs = [line for line in lines if line.startswith("ERROR: ")]
    found = (ours or theirs or lines or [f"exit code {code}"])[-1]
    ended = f" (ended by {signal.Signals(-code).name})" if code < 0 else ""
    return found.removeprefix("modelkeep: ").removeprefix("ERROR: ") + ended
