"""Commits that nobody watches: one cycle at a time, what it needs, and what it writes into them."""

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
from datetime import UTC, datetime
from pathlib import Path

from filelock import FileLock, Timeout

from modelkeep.core import files, git
from modelkeep.core.errors import ModelkeepError
from modelkeep.core.markup import several
from modelkeep.registry import evidence, record, releases

LOCK = "modelkeep-update"  # .lock is held, .json says by whom
MADE = ("dvc.lock", "metrics", "verdicts", "plots")  # by a run of the pipeline, beside as_of
PREPARE, TRAIN = "params/prepare.yaml", "params/train.yaml"
GUARDS = "models/maintenance.json"  # maintenance.RECORD, without what that module imports
CYCLE = "Modelkeep-Cycle"  # the trailer of each commit of ours
FOLLOWS = (f"{releases.COPY}.dvc", evidence.CHAMPION, "rollouts")  # the record, not this commit
BAR = re.compile(r"\|.*\[\d+:\d+")  # a bar of progress, drawn again and again


class AlreadyRunning(ModelkeepError, RuntimeError):
    """Another cycle is at work here."""


class CommitError(ModelkeepError, RuntimeError):
    """A cycle that cannot begin, or a step of it that failed."""


@contextmanager
def hold(root: Path, now: float) -> Iterator[None]:
    """Hold the one lock of cycles; AlreadyRunning says who has it."""
    place = git.folder(root) / LOCK
    holder = place.with_suffix(".json")
    try:
        with FileLock(place.with_suffix(".lock"), timeout=0):
            named = {"pid": os.getpid(), "host": os.uname().nodename, "since": time.time()}
            files.write_json(holder, named | {"at": now})
            yield
    except Timeout:
        named = {}
        with suppress(OSError, ValueError):
            named = json.loads(holder.read_bytes())
        since = datetime.fromtimestamp(named.get("since", time.time()), UTC)
        raise AlreadyRunning(
            f"process {named.get('pid', '?')} on {named.get('host', 'this machine')} has run a "
            f"cycle here since {since:%Y-%m-%d %H:%M:%S} UTC; wait for its end"
        ) from None


def ready(root: Path) -> None:
    """Whether cycles can be committed here: a whole repository, on a branch, and somebody to
    commit as; RecordError, NotFit or CommitError otherwise."""
    record.ready(root)
    evidence.on_a_branch(root)
    try:
        git.run(root, "var", "GIT_COMMITTER_IDENT")
        git.run(root, "var", "GIT_AUTHOR_IDENT")
    except git.GitError:
        raise CommitError(
            "Git does not know who commits here; "
            "`git config user.name NAME && git config user.email ADDRESS` sets it"
        ) from None


def check_clean(root: Path, source: str) -> list[str]:
    """Raise CommitError if what a cycle writes has changes of somebody else.

    Returns the other paths with uncommitted changes: the cycle works on the last commit, and does
    not see them.
    """
    ours = (*MADE, PREPARE, GUARDS, f"{source}.dvc")
    changed = [path for path in evidence.changed(root) if not path.startswith(FOLLOWS)]
    wrong = [path for path in changed if path.startswith(ours)]
    if wrong:
        raise CommitError(
            f"{several(wrong)} {'has' if len(wrong) == 1 else 'have'} uncommitted changes, and a "
            "cycle writes there too; `git add -A && git commit` keeps them, "
            "`git checkout -- FILE` takes a change back"
        )
    if data := changes(root, source):
        raise CommitError(
            f"{several(list(data))} of history is not as {source}.dvc has it; `dvc add {source} && "
            f"git commit -m History {source}.dvc` keeps that, `dvc checkout --force {source}.dvc` "
            "takes it back"
        )
    return changed


def changes(root: Path, source: str) -> dict[str, str]:
    """Files of a folder that DVC tracks which are not as its `.dvc` has them, by path: added,
    modified or deleted."""
    from dvc.dvcfile import load_file
    from dvc.repo import Repo

    with Repo(str(root)) as repo:
        listed = load_file(repo, str(root / f"{source}.dvc")).stage.outs[0].get_obj()
    if listed is None:
        raise CommitError(
            f"DVC's cache has no list of the files of {source}; `dvc fetch {source}` brings it"
        )
    then = {"/".join(key): entry.value for key, _, entry in listed}
    there = [p for p in sorted((root / source).rglob("*")) if p.is_file()]
    now = {p.relative_to(root / source).as_posix(): md5(p) for p in there}
    kinds = {name: "added" if name not in then else "modified" for name in now}
    kinds |= {name: "deleted" for name in then if name not in now}
    return {f"{source}/{n}": kind for n, kind in kinds.items() if now.get(n) != then.get(n)}


def set_as_of(root: Path, moment: str) -> None:
    """Put a moment into params/prepare.yaml, all else kept as it is written."""
    _set(root / PREPARE, "as_of", f"'{moment}'")


def set_training(root: Path, name: str, value: bool | str) -> None:
    """Set a line of params/train.yaml that is the update's own: `withhold` or `recalibrate`."""
    _set(root / TRAIN, name, repr(value) if isinstance(value, str) else str(value).lower())


def _set(path: Path, name: str, value: str) -> None:
    text = path.read_text(encoding="utf-8")
    line = re.search(rf"^{name}:.*$", text, re.MULTILINE)
    if line is None:
        raise CommitError(
            f"params/{path.name} has no line that begins with `{name}:`, so none can be set; "
            "write one"
        )
    before, mark, comment = line[0].partition("#")
    new = f"{name}: {value}"
    new = f"{new} ".ljust(len(before)) + mark + comment if mark else new
    if new != line[0]:
        files.write_text(path, text[: line.start()] + new + text[line.end() :])


def commit(root: Path, paths: Sequence[str], message: str, at: float, **trailers: object) -> str:
    """Commit these paths alone, if they have changed; the commit, or nothing.

    `at` is the time on it, in seconds since 1970; each trailer becomes a line `Modelkeep-NAME`.
    """
    named = [p for p in paths if (root / p).exists() or git.run(root, "ls-files", "--", p)]
    if not named:
        return ""
    git.run(root, "add", "--all", "--", *named)
    if not git.run(root, "diff", "--cached", "--name-only", "--", *named).strip():
        return ""
    when = datetime.fromtimestamp(at, UTC)
    lines = [f"{CYCLE}: {when:%Y-%m-%dT%H:%M:%SZ}"]
    lines += [f"Modelkeep-{k}: {v}" for k, v in trailers.items()]
    text = "\n".join([message.rstrip(), "", *lines, ""])
    options = ("--quiet", "--cleanup=verbatim", f"--date=@{int(at)} +0000", "--file=-")
    git.run(root, "commit", *options, "--only", "--", *named, text=text, at=int(at))
    return git.run(root, "rev-parse", "HEAD").strip()


def trailed(root: Path, name: str) -> tuple[str, str]:
    """The newest commit of this branch with that trailer, and its value; empty if there is none."""
    form = f"--format=%H%x00%(trailers:key=Modelkeep-{name},valueonly,separator=%x20)"
    found = git.run(root, "log", "-1", f"--grep=^Modelkeep-{name}: ", form).strip()
    commit, _, value = found.partition("\0")
    return commit, value.strip()


def dvc(root: Path, *words: str) -> str:
    """Run DVC of this environment in a scratch worktree, its lines shown as they come.

    Raises CommitError with the line that tells why if it fails.
    """
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
    site = root / ".dvc" / "tmp" / "site"  # what DVC keeps of a worktree goes with it
    quiet = {"DVC_NO_ANALYTICS": "1", "DVC_IGNORE_ISATTY": "1", "DVC_SITE_CACHE_DIR": str(site)}
    with subprocess.Popen(
        [sys.executable, "-P", "-m", "dvc", *words],
        cwd=root,
        env=os.environ | {"PATH": path} | quiet,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    ) as process:
        lines = []
        try:
            for line in (each.rstrip() for each in process.stdout):
                if re.search(r"\w", line) and not BAR.search(line):
                    lines.append(line)
                    if words[0] == "repro":  # the rest takes a moment
                        print(line, file=sys.stderr, flush=True)
        except BaseException:
            process.terminate()
            raise
    if process.returncode:
        raise CommitError(f"`dvc {' '.join(words)}` failed: {_reason(lines, process.returncode)}")
    return "\n".join(lines)


def _reason(lines: Sequence[str], code: int) -> str:
    ours = [line for line in lines if line.startswith("modelkeep: ")]
    theirs = [line for line in lines if line.startswith("ERROR: ")]
    found = (ours or theirs or lines or [f"exit code {code}"])[-1]
    ended = f" (ended by {signal.Signals(-code).name})" if code < 0 else ""
    return found.removeprefix("modelkeep: ").removeprefix("ERROR: ") + ended


def md5(path: Path) -> str:
    """The MD5 of a file in hex, by which DVC knows it."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "md5").hexdigest()
