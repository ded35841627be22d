"""kill -9 just before each write of a command: what is on record and what serves must be whole, and the next command completes it."""

import os
import shutil
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path

import released
import workspaces
from modelkeep.registry import record, releases, store
from modelkeep.serving import models
from modelkeep.training import manifests
from servers import need

AT = released.SPRING + 90 * released.DAY


class Killer:
    """Runs a command that dies at its k-th write below a folder, with all that it started."""

    def __init__(self, folder: Path) -> None:
        self.library, self.count = folder / "killer.so", folder / "count"
        source = Path(__file__).with_name("killer.c")
        words = [need("cc", "gcc"), "-shared", "-fPIC", "-O1", "-o", str(self.library), str(source)]
        subprocess.run([*words, "-ldl"], check=True)

    def run(
        self, root: Path, words: Iterable[str], k: int, start: Iterable[str] = ("-m", "modelkeep")
    ) -> tuple[int, int]:
        """Run `modelkeep` (or another Python program) with these words; its exit code, and how often it wrote."""
        self.count.write_bytes(bytes(8))
        env = {"LD_PRELOAD": str(self.library), "KILLER_ROOT": str(root), "KILLER_AT": str(k)}
        env |= {"KILLER_COUNT": str(self.count), "PYTHONDONTWRITEBYTECODE": "1"}
        done = subprocess.run(
            [sys.executable, *start, *words],
            cwd=root,
            env=os.environ | env,
            start_new_session=True,
            capture_output=True,
        )
        return done.returncode, int.from_bytes(self.count.read_bytes(), sys.byteorder)


def scenes(root: Path) -> dict[str, tuple[list[str], Callable[[Path], None]]]:
    """The commands by name: their words, and what makes `root` ready for them."""

    def one(at: Path) -> None:
        releases.promote(at, record.read(at), AT, "v1.0.0", load=models.load)
        workspaces.commit(at, "Champion")

    def two(at: Path) -> None:
        one(at)
        releases.promote(at, record.read(at), AT, "v1.1.0", load=models.load)

    def unreleased(at: Path) -> None:
        workspaces.run(at, "git", "tag", "-d", "flights@v1.2.0")

    return {
        "release": (["release"], unreleased),
        "promote": (["promote", "v1.1.0"], one),
        "rollback": (["rollback", "v1.0.0"], two),
    }


def kills(killer: Killer, template: Path, name: str, folder: Path, some: int = 0) -> Counter:
    """Kill a command before each of its writes, or before so many of them; counts of what was then found."""
    words, ready = scenes(template)[name]
    start = folder / f"{name}-start" / "clone"
    shutil.copytree(template.parent, start.parent, symlinks=True)
    ready(start)
    code, writes = killer.run(_copy(start, folder / f"{name}-whole"), words, 0)
    assert code == 0 and writes > 0
    each = range(1, writes + 1)
    found = Counter(writes=writes)
    for k in each[:: max(1, writes // some)] if some else each:
        root = _copy(start, folder / f"{name}-{k}")
        code, _ = killer.run(root, words, k)
        found += Counter(killed=int(code == -signal.SIGKILL), ended=int(code == 0))
        found += Counter(other=int(code not in (0, -signal.SIGKILL)))
        found += torn(start, root)
        found += _uncompleted(root, name, words)
        shutil.rmtree(root.parent)
    return found


def _copy(start: Path, to: Path) -> Path:
    shutil.copytree(start.parent, to, symlinks=True)
    return to / start.name


def torn(start: Path, root: Path) -> Counter:
    """What is broken right after the kill: the repository, the record, what serves."""
    at, before = record.read(root), record.read(start)
    counters = [term.tag.counter for term in at.terms]
    wrong = Counter(
        repository=int(not sound(root)), gaps=int(counters != [*range(1, len(counters) + 1)])
    )
    serves = store.now(root / "serving")
    if serves is not None:
        store.check(root / "serving", serves.champion.sha256)
        either = {each.champion.version for each in (before, at) if each.champion}
        wrong["pointer"] = int(serves.champion.version not in either)
    return +wrong


def sound(root: Path) -> bool:
    """Whether Git finds nothing torn, throw-away worktrees aside: Git, killed while it makes one, leaves it without a commit."""
    words = ("git", "fsck", "--no-dangling")
    told = subprocess.run(words, cwd=root, capture_output=True, text=True).stderr.splitlines()
    return not [line for line in told if not line.startswith("error: worktrees/modelkeep-")]


def _uncompleted(root: Path, name: str, words: list[str]) -> Counter:
    """What the next command leaves wrong."""
    if name == "release":
        if "v1.2.0" not in record.read(root).versions:
            releases.release(root, record.read(root), AT)
        record.evidence(record.read(root).find("v1.2.0"))
        return Counter()
    act = releases.promote if name == "promote" else releases.rollback
    act(root, record.read(root), AT + 1, words[-1], load=models.load)
    at, serves = record.read(root), store.now(root / "serving")
    said = record.evidence(at.find(words[-1]))["hashes"]["bundle"]
    compared = released.load(root).sha256
    status = {
        line[3:] for line in workspaces.run(root, "git", "status", "--porcelain").splitlines()
    }
    manifests.verify(root / "models/champion")
    return +Counter(
        champion=int(at.champion.version != words[-1]),
        serving=int((serves.champion.sha256, serves.champion.version) != (said, words[-1])),
        compared=int(compared != said),
        litter=len(status - {"models/champion.json", "models/champion.dvc"}),
    )
