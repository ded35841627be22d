"""The scratch clone in which the year happens: a history of its own, commits, releases, and one bad model that is planted."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pandas as pd

from modelkeep.core import files, workspace
from modelkeep.registry import record, releases
from modelkeep.rollout import control

HISTORY, PLANTED = "history", "planted"


class YearError(RuntimeError):
    """The year cannot go on."""


class Clone:
    """A clone of a repository; its commits and tags are of the time that the year has reached."""

    def __init__(self, root: Path) -> None:
        self.root = root
        kept = {k: v for k, v in os.environ.items() if not k.startswith("GIT_")}
        path = os.pathsep.join([str(Path(sys.executable).parent), kept["PATH"]])
        site = str(root / ".dvc" / "tmp" / "site")
        lib = os.pathsep.join([str(root / "lib"), *filter(None, [kept.get("PYTHONPATH")])])
        self.env = {**kept, "PATH": path, "PYTHONPATH": lib, "DVC_SITE_CACHE_DIR": site}  # fmt: skip
        self.env |= {"DVC_NO_ANALYTICS": "1", "OMP_NUM_THREADS": "1"}

    def make(self, source: Path, history: pd.DataFrame, params: Mapping[str, Mapping], at: float) -> None:  # fmt: skip
        """Clone `source` here, with a history of its own and other values on some lines of its params."""
        self.root.parent.mkdir(parents=True, exist_ok=True)
        command = ["git", "clone", "--quiet", str(source), str(self.root)]
        subprocess.run(command, check=True, env=self.env)
        self.run(at, "git", "checkout", "--quiet", "-B", "year")  # also where HEAD was on no branch
        for key, value in {"name": "Year", "email": "year@localhost"}.items():
            self.run(at, "git", "config", f"user.{key}", value)
        for tag in self.run(at, "git", "tag").split():
            self.run(at, "git", "tag", "--delete", tag)  # this year has a record of its own
        self.keep(HISTORY, history, "from.parquet", at)
        self.set(params)
        self.commit(at, "A history that grows, and the rules of this year")

    def keep(self, folder: str, rows: pd.DataFrame, name: str, at: float) -> None:
        """Put rows into a folder that DVC tracks."""
        (self.root / folder).mkdir(exist_ok=True)
        rows.to_parquet(self.root / folder / name, index=False)
        self.run(at, "dvc", "add", "--quiet", folder)

    def set(self, params: Mapping[str, Mapping]) -> None:
        """Change values in params files; the comments beside them stay."""
        for stage, values in params.items():
            path = self.root / "params" / f"{stage}.yaml"
            text = path.read_text()
            for name, value in values.items():
                shown = json.dumps(value)
                line = re.compile(rf"^({name}: )(.*?)(\s+#|$)", re.M)
                text, times = line.subn(lambda m, new=shown: m[1] + new + m[3], text)
                if times != 1:
                    raise YearError(f"params/{stage}.yaml has {times} lines `{name}: ...`")
            files.write_text(path, text)

    def run(self, at: float, *command: str, fails: bool = False) -> str:
        """What a command prints in the clone, at that time; YearError with its last words if it fails."""
        dated = {f"GIT_{who}_DATE": f"@{int(at)} +0000" for who in ("AUTHOR", "COMMITTER")}
        words = [sys.executable, "-m", *command] if command[0] == "modelkeep" else command
        done = subprocess.run(words, cwd=self.root, env=self.env | dated, capture_output=True, text=True)  # fmt: skip
        if done.returncode and not fails:
            said = (done.stdout + done.stderr)[-3000:]
            raise YearError(f"{' '.join(command)} ended with {done.returncode} at {moment(at)}: {said}")  # fmt: skip
        return done.stdout

    def commit(self, at: float, message: str) -> None:
        """Commit all that has changed, if anything has."""
        self.run(at, "git", "add", "--all")
        if self.run(at, "git", "status", "--porcelain").strip():
            self.run(at, "git", "commit", "--quiet", "--message", message)

    def turn(self, at: float) -> dict:
        """One unattended turn, as cron would have it."""
        said = self.run(at, "modelkeep", "update", "--at", moment(at), fails=True).splitlines()
        if len(said) < 2 or not said[-2].startswith("{"):
            raise YearError(f"`modelkeep update --at {moment(at)}` did not say what it did: {said[-5:]}")  # fmt: skip
        return json.loads(said[-2])

    def plant(self, at: float, seed: int = 0) -> tuple[str, str]:
        """Train on shuffled labels, release it by force, and start it as canary; its version, and what the gate said."""
        asked = workspace.params(self.root, "prepare")
        before = {name: asked[name] for name in ("source", "as_of")}
        rows = pd.concat(pd.read_parquet(p) for p in sorted((self.root / HISTORY).glob("*.parquet")))  # fmt: skip
        self.keep(PLANTED, shuffled(rows, asked, at, seed), "shuffled.parquet", at)
        self.set({"prepare": {"source": PLANTED, "as_of": moment(at)}})
        self.run(at, "dvc", "repro", "--quiet", "prepare", "train", "evaluate")
        self.commit(at, "Planted: a candidate that learned from shuffled labels")
        done = releases.release(self.root, record.read(self.root), at, forced="planted")
        said = json.loads((self.root / "verdicts" / "evaluate.json").read_text())
        control.start(self.root, done.version, at, reason="planted: its labels were shuffled")
        self.set({"prepare": before})
        self.commit(at, "Back to the true history")
        return done.version, f"{said['state']}: {said['sentence']}"


def shuffled(rows: pd.DataFrame, asked: Mapping, at: float, seed: int) -> pd.DataFrame:
    """The rows with the labels shuffled among those that are learned from; those that the gate tests on stay true."""
    last = np.datetime64(int(at), "s") - np.timedelta64(int(asked["test_days"]) + 2, "D")
    old = (rows[asked["time_column"]] < last).to_numpy() & rows[asked["label"]].notna().to_numpy()
    label = rows[asked["label"]].to_numpy(dtype=object, copy=True)
    label[old] = np.random.default_rng(seed).permutation(label[old])
    return rows.assign(**{asked["label"]: pd.Series(label, rows.index).astype(rows[asked["label"]].dtype)})  # fmt: skip


def moment(at: float) -> str:
    """A time as commands take it."""
    return f"{datetime.fromtimestamp(at, UTC):%Y-%m-%dT%H:%M:%S}"
