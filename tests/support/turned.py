"""Small repositories that take unattended turns: real Git, DVC, log and store; stages that only copy, history that grows."""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import pandas as pd

import kills
import released
import rollouts
import synthetic
import workspaces
from modelkeep.data import schema, splits
from modelkeep.ops import commits, cycle, update
from modelkeep.predictions import log
from modelkeep.predictions.records import Call, Label, PredictionRecord
from modelkeep.registry import record, store
from modelkeep.rollout import rollout_log
from released import DAY
from workspaces import run

SOURCE = "data/history"
KNOWN = 40  # days of the table that are history; what follows was asked of a server
NEW_YEAR = 1_577_836_800  # 1 January 2020
NOW = NEW_YEAR + 70 * DAY
DVC = released.DVC.replace("stages:", "vars: ['params/prepare.yaml:source']\nstages:").replace(
    "    deps: [made/prepared]",
    "    params: [{params/prepare.yaml: }]\n    deps: [made/prepared, '${source}']",
)
PREPARE = {"source": SOURCE, "label": "late", "time_column": "when", "entity_column": ""}
PREPARE |= {"id_column": "key", "as_of": "2020-02-10", "test_days": 35}
WHOLE = (
    ".dvc/",
    ".dvcignore",
    ".gitignore",
    "dvc.yaml",
    "examples/",
    "lib/",
    "models/",
    "monitoring/",
)
WHOLE += ("notebooks/", "params/", "requirements.lock")
ENDED = {*cycle.CODES.values()} - {cycle.CODES[cycle.FAILED]}
FINE = ("writes", "killed", "ended")
SCENES = ("rows", "candidate", "ends")
LINE = r"^({}: )(.*?)(\s+#)"


def build(root: Path, parts, refits: bool = False) -> Path:
    """A repository whose candidate may be released, with a history of 40 days that DVC tracks.

    `refits`: its training can withhold the newest rows, or learn from them.
    """
    released.build(root, parts)
    if refits:
        text = "model: linear\ntrees: 1\nwithhold: true  # the newest rows\nrecalibrate: ''\n"
        (root / "params" / "train.yaml").write_text(text)
        workspaces.settings(root, "guards")
    workspaces.settings(root, "prepare", "update", "rollout", "collect")
    settle(root, "prepare", **PREPARE)
    settle(root, "rollout", **rollouts.QUICK)
    settle(root, "update", retrain="every_days", every_days=7.0)
    if refits:
        settle(root, "update", silence_days=99.0)  # their labels all come from one table
    ignored = released.IGNORED.replace("/data/", "/data/?*\n!/data/*.dvc")
    (root / ".gitignore").write_text(ignored.replace("/made/\n", ""))
    (root / "dvc.yaml").write_text(DVC)
    (root / SOURCE).mkdir(parents=True)
    rows = table()
    rows[rows["when"] < day(KNOWN)].to_parquet(root / SOURCE / "first.parquet")
    run(root, "dvc", "add", "-q", SOURCE)
    run(root, "dvc", "repro", "-q")
    workspaces.commit(root, "History")
    return root


def whole(root: Path) -> Path:
    """This repository with its real stages, on 75 days of a small table; nothing has run in it."""
    workspaces.copy(root, lambda n: n.startswith(WHOLE) and not n.startswith("models/candidate"))
    settle(root, "prepare", **PREPARE | {"as_of": "", "test_days": 30})
    settle(root, "train", trees=20, folds=3)
    settle(root, "monitor", permutations=99, min_labels=50)
    settle(root, "update", retrain="every_days", label_wait_days=0.0)
    metrics = ["error", "latency"]  # nobody waits two days for labels here
    settle(root, "rollout", metrics=metrics, label_maturity_hours={})
    (root / SOURCE).mkdir(parents=True)
    rows = synthetic.table(rows=3000, days=90)
    rows[rows["when"] < day(75)].to_parquet(root / SOURCE / "first.parquet")
    run(root, "git", "init", "-q", "-b", "main")
    run(root, "dvc", "add", "-q", SOURCE)
    workspaces.commit(root, "Start")
    return root


def settle(root: Path, name: str, **values: object) -> None:
    """Set values in a params file."""
    workspaces.set_values(root / "params" / f"{name}.yaml", values, LINE)


def table() -> pd.DataFrame:
    """All rows, those of history and those that were asked later; one week nobody asked."""
    rows = synthetic.table()
    return rows[(rows["when"] < day(45)) | (rows["when"] >= day(50))]


def day(n: int) -> pd.Timestamp:
    """The beginning of a day of the table."""
    return pd.Timestamp("2020-01-01") + pd.Timedelta(days=n)


def served(root: Path, rows: pd.DataFrame, model: str = "m") -> None:
    """Put rows into the log as a server would: answered when they happened, and labelled at once."""
    said, calls, truth = [], [], []
    for row in rows.to_dict("records"):
        at = int(row["when"].value // 1000)
        features = {k: None if pd.isna(row[k]) else row[k] for k in ("size", "weight", "shop")}
        own = (row["key"], at, model, "champion", None, at, json.dumps(features).encode())
        said.append(PredictionRecord(*own, b"[0.6,0.4]"))
        calls.append(Call(at, model, "champion", 0.0, 900, "[]"))
        truth.append(Label(row["key"], str(row["late"]), at + 100_000))
    book = log.open_log("sqlite:///data/log/predictions.db", root=root)
    book.append(said, calls)
    book.label(truth)
    book.close()


def asked() -> pd.DataFrame:
    """The rows after history."""
    rows = table()
    return rows[rows["when"] >= day(KNOWN)]


def turn(root: Path, at: float = NOW, **more: object) -> dict:
    """Take a turn, and return what it says."""
    return update.run(root, at, **more)["json"]


def command(root: Path, *words: str) -> tuple[int, dict]:
    """`modelkeep update` as cron runs it: its exit code, and what it said."""
    path = [str(root / "lib"), *filter(None, [os.environ.get("PYTHONPATH")])]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(path), "PATH": os.defpath}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-m", "modelkeep", "update", *words],
        cwd=root,
        env=env,  # this library first, and no environment activated
        capture_output=True,
        text=True,
    )
    line, words = done.stdout.splitlines()[-2:]
    found = json.loads(line)
    assert words == f"{found['state']}: {found['sentence']}", done.stderr
    return done.returncode, found


def history(root: Path) -> pd.DataFrame:
    """All rows of history."""
    parts = sorted((root / SOURCE).glob("*.parquet"))
    return pd.concat([pd.read_parquet(p) for p in parts], ignore_index=True)


def first(root: Path, parts, refits: bool = False) -> Path:
    """The same after its first turn: v1.0.0 is champion, and the rows that a server was asked are in its log."""
    build(root, parts, refits)
    served(root, asked())
    assert turn(root, NOW - DAY)["state"] == "promoted"
    return root


def made(root: Path, k: int, state: str = "better") -> None:
    """Let the next training make the k-th spare bundle, and the gate say that of it."""
    released.made(root, parts_of(root), k, state)
    workspaces.commit(root, f"Made {k}")


def busy(root: Path, until: float) -> rollouts.World:
    """Traffic for which a rollout can be planned: 300 rows a second up to a moment; and what makes more of it."""
    world = rollouts.World(root, {}, until - 12)
    for _ in range(10):
        world.traffic(300)
    world.now = until
    return world


def parts_of(root: Path) -> SimpleNamespace:
    """What `released.made` needs of the prepared table, from what the last turn has made."""
    of = schema.from_json((root / "data/prepared/schema.json").read_text())
    return SimpleNamespace(test=splits.load(root / "data/prepared/test.parquet"), schema=of)


def scene(first: Path, folder: Path, name: str) -> tuple[Path, float]:
    """A repository at a moment from which a turn has something to do.

    `rows`: to take; `candidate`: one that is to be tried; `ends`: a rollout that is about to end.
    """
    shutil.copytree(first.parent, folder / name, symlinks=True)
    root = folder / name / first.name
    if name == "rows":
        settle(root, "update", retrain="never")
        workspaces.commit(root, "Never")
        return root, NOW
    busy(root, NOW).log.close()
    made(root, 1)
    if name == "candidate":
        return root, NOW
    assert turn(root)["state"] == "in_progress"
    world = rollouts.World(root, {}, NOW + 1)
    for _ in range(2):
        world.traffic(600, failed=0.95)
    world.log.close()
    return root, world.now + 2


def kill(killer: kills.Killer, start: Path, at: float, folder: Path, each: slice) -> Counter:
    """Kill a turn before each of its writes (or those of a slice), let the next turn follow; counts of what was found."""
    program = [str(Path(__file__).resolve())]
    whole = _copy(start, folder / "whole")
    code, writes = killer.run(whole, [str(at)], 0, program)
    assert code in cycle.CODES.values() and writes > 0, code
    expected, found = _outcome(whole, at), Counter(writes=writes)
    for k in list(range(1, writes + 1))[each]:
        root = _copy(start, folder / str(k))
        code, _ = killer.run(root, [str(at)], k, program)
        found["killed" if code == -signal.SIGKILL else "ended" if code in ENDED else "other"] += 1
        found += kills.torn(start, root)
        after = _outcome(root, at)
        wrong = {name: 1 for name, value in expected.items() if after[name] != value}
        if wrong:
            print(f"killed before write {k}: {wrong} {after}", flush=True)
        found += Counter(wrong)
        shutil.rmtree(root.parent)
    shutil.rmtree(whole.parent)
    return found


def _copy(start: Path, to: Path) -> Path:
    shutil.copytree(start.parent, to, symlinks=True)
    return to / start.name


def _outcome(root: Path, at: float) -> dict[str, object]:
    """What holds after another turn."""
    said = turn(root, at + 60)
    rows, serves = history(root), store.now(root / "serving")
    litter = run(root, "git", "status", "--porcelain", "--", ".", ":!rollouts").splitlines()
    litter += [p.name for p in (root / SOURCE).iterdir() if p.name.startswith(".")]
    litter += [p.name for p in (root / ".dvc/tmp").glob("modelkeep-*")]
    litter += [p.name for p in (root / ".git/worktrees").glob("*")]
    return {
        "failed": said["sentence"] if said["state"] == "failed" else "",
        "lost": sorted(set(table()["key"]) - set(rows["key"])),
        "doubled": int(rows["key"].duplicated().sum()),
        "unrecorded": commits.changes(root, SOURCE),
        "versions": sorted(record.read(root).versions),
        "champion": (record.read(root).champion.version, serves.champion.version),
        "canary": serves.canary and (serves.canary.version, serves.canary.share),
        "rollouts": sorted(rollout_log.read(p).end for p in (root / "rollouts").glob("*.jsonl")),
        "litter": litter,
    }


# a turn in a process of its own, which may be killed; its monitor, which writes a page alone, is not asked
if __name__ == "__main__":
    update.run_monitor = lambda turn: "ok"
    told = update.run(Path.cwd(), float(sys.argv[1]))
    print(told["text"])
    sys.exit(told["code"])
