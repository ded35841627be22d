"""The scratch clone of the year: a history, commits, releases, and one planted bad model."""

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
    """A clone of a repository; its commits and tags have the simulated time."""

    def __init__(self, root: Path) -> None:
        self.root = root
        kept = {k: v for k, v in os.environ.items() if not k.startswith("GIT_")}
        path = os.pathsep.join([str(Path(sys.executable).parent), kept["PATH"]])
        site = str(root / ".dvc" / "tmp" / "site")
        lib = os.pathsep.join([str(root / "lib"), *filter(None, [kept.get("PYTHONPATH")])])
        self.env = {**kept, "PATH": path, "PYTHONPATH": lib, "DVC_SITE_CACHE_DIR": site}
        self.env |= {"DVC_NO_ANALYTICS": "1", "OMP_NUM_THREADS": "1"}

    def make(
        self, source: Path, history: pd.DataFrame, params: Mapping[str, Mapping], at: float
    ) -> None:
        """Clone `source` here, with another history and other values in params."""
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
        """The output of a command in the clone at that time; YearError if it fails."""
        dated = {f"GIT_{who}_DATE": f"@{int(at)} +0000" for who in ("AUTHOR", "COMMITTER")}
        words = [sys.executable, "-m", *command] if command[0] == "modelkeep" else command
        done = subprocess.run(
            words, cwd=self.root, env=self.env | dated, capture_output=True, text=True
        )
        if done.returncode and not fails:
            output = (done.stdout + done.stderr)[-3000:]
            raise YearError(
                f"{' '.join(command)} ended with {done.returncode} at {moment(at)}: {output}"
            )
        return done.stdout

    def commit(self, at: float, message: str) -> None:
        """Commit all that has changed, if anything has."""
        self.run(at, "git", "add", "--all")
        if self.run(at, "git", "status", "--porcelain").strip():
            self.run(at, "git", "commit", "--quiet", "--message", message)

    def update(self, at: float) -> dict:
        """One unattended update, as from cron."""
        lines = self.run(at, "modelkeep", "update", "--at", moment(at), fails=True).splitlines()
        if len(lines) < 2 or not lines[-2].startswith("{"):
            raise YearError(
                f"`modelkeep update --at {moment(at)}` printed no JSON line: {lines[-5:]}"
            )
        return json.loads(lines[-2])

    def plant(self, at: float, seed: int = 0) -> tuple[str, str]:
        """Train on shuffled labels, release by force, start as canary; the version and the gate's
        verdict.
        """
        preparing = workspace.params(self.root, "prepare")
        before = {"prepare": {name: preparing[name] for name in ("source", "as_of")}}
        before["train"] = {"withhold": workspace.params(self.root, "train")["withhold"]}
        rows = pd.concat(
            pd.read_parquet(p) for p in sorted((self.root / HISTORY).glob("*.parquet"))
        )
        self.keep(PLANTED, shuffled(rows, preparing, at, seed), "shuffled.parquet", at)
        # the newest rows, whose labels are true, are the gate's: the model must not learn from them
        bad = {"prepare": {"source": PLANTED, "as_of": moment(at)}, "train": {"withhold": True}}
        self.set(bad)
        self.run(at, "dvc", "repro", "--quiet", "prepare", "train", "evaluate")
        self.commit(at, "Planted: a candidate that learned from shuffled labels")
        done = releases.release(self.root, record.read(self.root), at, forced="planted")
        gate = json.loads((self.root / "verdicts" / "evaluate.json").read_text())
        control.start(self.root, done.version, at, reason="planted: its labels were shuffled")
        self.set(before)
        self.commit(at, "Back to the true history")
        return done.version, f"{gate['state']}: {gate['sentence']}"


def shuffled(rows: pd.DataFrame, preparing: Mapping, at: float, seed: int) -> pd.DataFrame:
    """The rows with shuffled labels, except those of the gate's test."""
    last = np.datetime64(int(at), "s") - np.timedelta64(int(preparing["test_days"]) + 2, "D")
    old = (rows[preparing["time_column"]] < last).to_numpy() & rows[
        preparing["label"]
    ].notna().to_numpy()
    label = rows[preparing["label"]].to_numpy(dtype=object, copy=True)
    label[old] = np.random.default_rng(seed).permutation(label[old])
    return rows.assign(
        **{preparing["label"]: pd.Series(label, rows.index).astype(rows[preparing["label"]].dtype)}
    )


def moment(at: float) -> str:
    """A time in the form of the commands."""
    return f"{datetime.fromtimestamp(at, UTC):%Y-%m-%dT%H:%M:%S}"
