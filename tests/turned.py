"""Small repositories that take unattended turns: real Git, DVC, log and store; stages that only copy, history that grows."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import pandas as pd

import released
import rollouts
import synthetic
import workspaces
from modelkeep import log, schema, tables, update
from modelkeep.entries import Call, Entry, Label
from released import DAY
from workspaces import REPOSITORY, run

SOURCE = "data/history"
KNOWN = 40  # days of the table that are history; what follows was asked of a server
NEW_YEAR = 1_577_836_800  # 1 January 2020
NOW = NEW_YEAR + 62 * DAY
DVC = released.DVC.replace("stages:", "vars: [params/prepare.yaml:source]\nstages:").replace(
    "    deps: [made/prepared]",
    "    params: [{params/prepare.yaml: }]\n    deps: [made/prepared, '${source}']",
)
PREPARE = {"source": SOURCE, "label": "late", "time_column": "when", "entity_column": ""}
PREPARE |= {"id_column": "key", "as_of": "2020-02-10", "test_days": 35}
LINE = r"^({}: )(.*?)(\s+#)"


def build(root: Path, parts) -> Path:
    """A repository whose candidate may be released, with a history of 40 days that DVC tracks."""
    released.build(root, parts)
    for name in ("prepare", "update", "rollout", "collect"):
        shutil.copy(REPOSITORY / "params" / f"{name}.yaml", root / "params")
    settle(root, "prepare", **PREPARE)
    settle(root, "rollout", **rollouts.QUICK)
    settle(root, "update", retrain="every_days", every_days=7.0)
    (root / ".gitignore").write_text(released.IGNORED.replace("/data/", "/data/*\n!/data/*.dvc"))
    (root / "dvc.yaml").write_text(DVC)
    (root / SOURCE).mkdir(parents=True)
    rows = table()
    rows[rows["when"] < day(KNOWN)].to_parquet(root / SOURCE / "first.parquet")
    run(root, "dvc", "add", "-q", SOURCE)
    run(root, "dvc", "repro", "-q")
    workspaces.commit(root, "History")
    return root


def settle(root: Path, name: str, **values: object) -> None:
    """Set values in a params file."""
    workspaces.set_values(root / "params" / f"{name}.yaml", values, LINE)


def table() -> pd.DataFrame:
    """All rows, those of history and those that were asked later."""
    return synthetic.table()


def day(n: int) -> pd.Timestamp:
    """The beginning of a day of the table."""
    return pd.Timestamp("2020-01-01") + pd.Timedelta(days=n)


def served(root: Path, rows: pd.DataFrame, labels: bool = True, late: float = 1e-6) -> None:
    """Put rows into the log as a server would: answered when they happened, and labelled so many days later."""
    said, calls, truth = [], [], []
    for row in rows.to_dict("records"):
        at = int(row["when"].value // 1000)
        features = {k: None if pd.isna(row[k]) else row[k] for k in ("size", "weight", "shop")}
        own = (row["key"], at, "m", "champion", None, at, json.dumps(features).encode())
        said.append(Entry(*own, b"[0.6,0.4]"))
        calls.append(Call(at, "m", "champion", 0.0, 900, "[]"))
        truth.append(Label(row["key"], str(row["late"]), at + int(late * DAY * 1e6)))
    book = log.open_log("sqlite:///data/log/predictions.db", root=root)
    book.append(said, calls)
    if labels:
        book.label(truth)
    book.close()


def asked() -> pd.DataFrame:
    """The rows after history."""
    rows = table()
    return rows[rows["when"] >= day(KNOWN)]


def turn(root: Path, at: float = NOW, **more: object) -> dict:
    """Take a turn, and return what it says."""
    return update.run(root, at, **more)["json"]


def history(root: Path) -> pd.DataFrame:
    """All rows of history."""
    parts = sorted((root / SOURCE).glob("*.parquet"))
    return pd.concat([pd.read_parquet(p) for p in parts], ignore_index=True)


def first(root: Path, parts) -> Path:
    """The same after its first turn: v1.0.0 is champion, and the rows that a server was asked are in its log."""
    build(root, parts)
    served(root, asked())
    assert turn(root, NOW - DAY)["state"] == "better"
    settle(root, "rollout", max_hours=1e6)
    workspaces.commit(root, "Patience")
    return root


def parts_of(root: Path) -> SimpleNamespace:
    """What `released.made` needs of the prepared table, from what the last turn has made."""
    of = schema.from_json((root / "data/prepared/schema.json").read_text())
    return SimpleNamespace(test=tables.load(root / "data/prepared/test.parquet"), schema=of)


if (
    __name__ == "__main__"
):  # a turn in a process of its own, which may be killed; its monitor is not asked
    import sys

    update._monitor = lambda turn: "fine"
    found = update.run(Path.cwd(), float(sys.argv[1]))
    print(found["text"])
    sys.exit(found["code"])
