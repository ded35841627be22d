"""Rollouts for tests: a workspace with three models of one table, and traffic whose truth is known."""

import json
import os
import re
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np

import live
import synthetic
import workspaces
from modelkeep import store
from modelkeep.store import Now, Role

QUICK = {
    "steps": [20, 50],
    "margins": [2.0, 1.5],
    "metrics": ["failed", "wrong"],
    "maturity_hours": {"wrong": 1 / 3600},
    "slow_ms": 5000,
    "floor": 0.05,
    "look_seconds": 1,
    "dwell_minutes": 0,
    "max_hours": 1,
    "hold_hours": 1,
    "bake_hours": 2 / 3600,
}


def models(folder: Path) -> dict[str, Path]:
    """A champion, an equal of it (other knobs), and one that learned from shuffled labels."""
    parts = synthetic.prepared()
    synthetic.sealed(folder / "champion", parts)
    synthetic.sealed(folder / "good", parts, trees=22)
    train = parts.train.copy()
    shuffled = np.random.default_rng(0).permutation(train["late"].to_numpy())
    train["late"] = train["late"].array[:0]._from_sequence(shuffled, dtype=train["late"].dtype)
    synthetic.sealed(folder / "bad", type(parts)(**vars(parts) | {"train": train}))
    return {name: folder / name for name in ("champion", "good", "bad")}


def workspace(root: Path, models: dict[str, Path], **rules: object) -> dict[str, str]:
    """A workspace whose champion serves and whose store holds the others; their hashes by name."""
    live.workspace(root, models["champion"])
    path = root / "params" / "rollout.yaml"
    shutil.copy(live.ROOT / "params" / "rollout.yaml", path)
    workspaces.set_values(path, QUICK | rules, r"^({}: )(.*?)(\s+#)")
    found = {name: store.add(root / "serving", folder) for name, folder in models.items()}
    store.point(root / "serving", Now(Role(found["champion"])))
    return found


def modelkeep(root: Path, *arguments: str) -> subprocess.CompletedProcess:
    """Run `modelkeep rollout ...` and return what came of it."""
    command = [sys.executable, "-W", "error", "-m", "modelkeep", "rollout", *arguments]
    return subprocess.run(command, cwd=root, env=os.environ, capture_output=True, text=True)


def told(root: Path, *arguments: str) -> dict:
    """What a command says as JSON; it must do well."""
    done = modelkeep(root, *arguments, "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout)


class Traffic(threading.Thread):
    """Rows that a server is asked about, and their labels right after, until it is stopped."""

    def __init__(self, server: live.Server, rows: int = 50, pause: float = 0.05) -> None:
        super().__init__(daemon=True)
        self.server, self.rows, self.pause, self.sent, self.models = server, rows, pause, 0, set()
        self.halt, self.failed = threading.Event(), []

    def run(self) -> None:
        """Ask, and tell the truth."""
        seed = 100
        while not self.halt.wait(self.pause):
            seed += 1
            table = synthetic.table(rows=self.rows, seed=seed)
            asked = table.drop(columns=["late", "when"]).astype(object)
            body = {"rows": asked.where(asked.notna(), None).to_dict("records")}
            status, said = self.server.ask("POST", "/predict", body)
            if status != 200:
                self.failed.append(said)
                continue
            self.models |= {p.get("model") for p in said["predictions"]}
            truth = zip(table["key"], table["late"].tolist(), strict=True)
            labels = [{"id": key, "label": late} for key, late in truth]
            self.server.ask("POST", "/labels", {"labels": labels})
            self.sent += len(table)

    def __enter__(self) -> "Traffic":
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.halt.set()
        self.join(30)


def cuts(text: str) -> list[str]:
    """The whole lines of a record."""
    return re.findall(r".*\n", text)
