"""Rollouts for tests: a workspace with three models of one table, and traffic whose truth is known."""

import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pandas as pd

import live
import synthetic
import workspaces
from modelkeep.predictions import log
from modelkeep.predictions.records import Call, Label, PredictionRecord
from modelkeep.registry import store
from modelkeep.registry.store import Now, Role
from modelkeep.rollout import control
from modelkeep.serving.models import in_canary

QUICK = {
    "steps": [20, 50],
    "margins": [2.0, 1.5],
    "metrics": ["error", "quality"],
    "label_maturity_hours": {"quality": 1 / 3600},
    "slow_ms": 5000,
    "tolerated_error_rate": 0.05,
    "analysis_interval_seconds": 1,
    "min_step_minutes": 0,
    "max_hours": 1,
    "hold_hours": 1,
    "bake_hours": 2 / 3600,
    "on_undecided": "rollback",
    "fit_plan": False,
}


def models(folder: Path) -> dict[str, Path]:
    """A champion, an equal of it (other knobs), and one that learned from shuffled labels."""
    parts = synthetic.prepared()
    synthetic.sealed(folder / "champion", parts)
    synthetic.sealed(folder / "good", parts, trees=22)
    train = parts.train.copy()
    shuffled = np.random.default_rng(0).permutation(train["late"].to_numpy())
    train["late"] = pd.array(shuffled, dtype=train["late"].dtype)
    synthetic.sealed(folder / "bad", type(parts)(**vars(parts) | {"train": train}))
    return {name: folder / name for name in ("champion", "good", "bad")}


def workspace(root: Path, models: dict[str, Path], **rules: object) -> dict[str, str]:
    """A workspace whose champion serves and whose store holds the others; their hashes by name."""
    live.workspace(root, models["champion"])
    path = root / "params" / "rollout.yaml"
    workspaces.settings(root, "rollout")
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


class World:
    """A log that fills as a server would fill it, at a clock of its own; nobody serves."""

    def __init__(self, root: Path, hashes: dict[str, str], start: float = 1_750_000_000.0) -> None:
        self.root, self.hashes, self.now, self.asked = root, hashes, start, 0
        self.log = log.open_log("sqlite:///data/log/predictions.db", root=root)
        self.draw = np.random.default_rng(0)

    def clock(self) -> float:
        """What the controller takes for the time."""
        return self.now

    def traffic(self, n: int = 200, wrong: float = 0.3, failed: float = 0.0, **late: float) -> None:
        """So many rows a second for a second: the canary is wrong or fails at these rates, the champion is wrong in 30 % and never fails."""
        at = store.now(self.root / "serving")
        share, salt = (at.canary.share, at.canary.salt) if at.canary else (0.0, "")
        moment = int(self.now * 1e6)
        rows = [f"e{self.asked + i}" for i in range(n)]
        self.asked += n
        asked = {"champion": [], "canary": []}
        for row in rows:
            asked["canary" if in_canary(salt, row, share) else "champion"].append(row)
        calls, said, labels = [], [], []
        for role, own in asked.items():
            broke = [r for r in own if role == "canary" and self.draw.random() < failed]
            calls.append(Call(moment, role, role, share, 1000, json.dumps(broke)))
            for row in (r for r in own if r not in broke):
                bad = self.draw.random() < (wrong if role == "canary" else 0.3)
                answer = b"[0.9,0.1]" if bad else b"[0.1,0.9]"
                said.append(PredictionRecord(row, moment, role, role, row, None, b"{}", answer))
                labels.append(Label(row, "1", moment + int(1e6 * late.get("seconds", 0.1))))
        self.log.append(said, calls)
        self.log.label(labels)
        self.now += 1.0

    def begin(self, name: str = "good", **asked: object) -> control.Controller:
        """Start a rollout of a model, and return what goes on with it."""
        control.start(self.root, self.hashes[name], self.now, anyway=True, **asked)
        return self.controller()

    def controller(self) -> control.Controller:
        """What goes on with the newest rollout, as after a restart."""
        return control.Controller(self.root, self.log, self.clock)

    def until_end(self, controller: control.Controller, most: int = 200, **traffic: float):
        """Traffic and looks until the rollout has ended; the states on the way."""
        seen = []
        for _ in range(most):
            self.traffic(**traffic)
            seen.append(controller.turn())
            if seen[-1].end:
                break
        return seen

    def whisper(self, days: int, wrong: float) -> None:
        """Rows of so many days, which both answer within some seconds."""
        for day in range(days):
            moment, time = int(self.now * 1e6), day * 86_400_000_000
            calls = [Call(moment, "c", "champion", 0.0, 900, "[]")]
            calls.append(Call(moment, "s", "shadow", 0.0, 800, '["x"]'))
            said, labels = [], []
            for i in range(100):
                for role, rate in (("champion", 0.3), ("shadow", wrong)):
                    true = self.draw.random() >= rate
                    answer = b"[0.2,0.8]" if true == bool(i % 2) else b"[0.7,0.3]"
                    row = (f"s{day}-{i}", moment, role, role, "x", time, b"{}", answer)
                    said.append(PredictionRecord(*row))
                labels.append(Label(f"s{day}-{i}", str(i % 2), moment + 1000))
            self.log.append(said, calls)
            self.log.label(labels)
            self.now += 0.05
        self.now += 3

    def serving(self) -> tuple:
        """Who answers: champion, canary and its share, shadow."""
        at = store.now(self.root / "serving")
        names = {sha256: name for name, sha256 in self.hashes.items()}
        canary = at.canary and (names[at.canary.sha256], at.canary.share)
        return names[at.champion.sha256], canary, at.shadow and names[at.shadow.sha256]
