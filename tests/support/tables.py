"""scikit-learn's own tables without a time, and a small released model of each."""

import asyncio
import json
import shutil
import time
from contextlib import closing
from pathlib import Path

import pandas as pd
from sklearn import datasets

import live
import synthetic
import tiny
from modelkeep.data import splits
from modelkeep.monitoring import contract
from modelkeep.monitoring.exporter import Telemetry
from modelkeep.ops import serve
from modelkeep.predictions.log import open_log
from modelkeep.registry import record, store, tags
from modelkeep.registry.store import Now, Role
from modelkeep.serving.access import Access, Tokens
from modelkeep.serving.app import App

# name: loader, and the kind of model
TABLES = {
    "cancer": ("load_breast_cancer", "boosting"),
    "diabetes": ("load_diabetes", "boosting"),
    "iris": ("load_iris", "forest"),
}
RELEASED = 1_767_225_600  # 2026-01-01
FORMER, LATER = "a" * 32, "b" * 32
LOCK = f"outs: [{{path: data/prepared, md5: {FORMER}.dir}}, {{path: models, md5: {LATER}.dir}}]\n"
HASHES = {"data": f"{FORMER}.dir", "model": f"{LATER}.dir"}


def table(name: str) -> pd.DataFrame:
    """The rows of one of `TABLES`: its columns, `row` (the id) and `y` (the label)."""
    found = getattr(datasets, TABLES[name][0])(as_frame=True)
    frame = found.frame.rename(columns={"target": "y"})
    return frame.assign(row=[f"{name}-{i}" for i in range(len(frame))])


def prepared(name: str):
    """What `prepare` makes of it."""
    return splits.prepare(table(name), label="y", id_column="row", test_share=0.3)


def bundle(name: str, folder: Path):
    """A bundle that has learned from it."""
    return synthetic.sealed(folder, prepared(name), TABLES[name][1])


def released(root: Path, candidate: Path) -> str:
    """A workspace in Git whose champion v1.0.0 is the candidate; its SHA-256."""
    live.workspace(root, candidate)
    (root / "dvc.lock").write_text(LOCK)
    (root / ".gitignore").write_text("/data/\n/serving/\n/models/\n")
    for command in (("init", "-qb", "main"), ("add", "-A"), ("commit", "-qm", "Start")):
        tiny.run(root, "git", *command).check_returncode()
    commit = tiny.run(root, "git", "rev-parse", "HEAD").stdout.strip()
    sha256 = store.add(root / "serving", root / "models" / "candidate")
    store.point(root / "serving", Now(Role(sha256, "v1.0.0")))
    verdict = {"state": "better", "sentence": "It is better than a plain rule."}
    content = {"version": "v1.0.0", "commit": commit, "forced": None, "parent": None}
    content |= {"verdict": verdict, "hashes": HASHES | {"bundle": sha256}}
    content |= {"metrics": {"evaluate": {"auc": 0.9}}, "params": {"train": {"trees": 20}}}
    text = record.message("flights v1.0.0: better", content)
    tags.add(root, "flights@v1.0.0", commit, text, RELEASED)
    text = record.message("up", {"action": "promote", "version": "v1.0.0", "reason": "the first"})
    tags.add(root, "flights#champion#1", commit, text, RELEASED + 1)
    return sha256


def copied(root: Path, to: Path) -> Path:
    """A copy of a workspace for a test that changes it."""
    shutil.copytree(root, to, symlinks=True)
    return to


def requests(root: Path, *bodies: dict, clock=time.time_ns) -> list[dict]:
    """The replies of the server's application to bodies of /predict; all come in one batch."""
    settings = serve.settings(root, {})
    with closing(open_log(settings.log, root=root)) as log:
        telemetry = Telemetry(contract.read(root / contract.FILE))
        access = Access("none", settings.host, Tokens())
        app = App(settings, root, log, telemetry, access, clock)

        async def answered() -> list:
            replies = [asyncio.get_running_loop().create_future() for _ in bodies]
            for body, reply in zip(bodies, replies, strict=True):
                app.predict(json.dumps(body).encode(), reply.set_result)
            return [await reply for reply in replies]

        return [json.loads(reply.body) for reply in asyncio.run(answered())]


def rows(frame: pd.DataFrame) -> list[dict]:
    """Rows of a table as a client sends them."""
    return frame.astype(object).where(frame.notna(), None).to_dict("records")
