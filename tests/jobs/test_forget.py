"""The rows of an entity leave log, history and cache; what still holds them is named."""

import dataclasses
import gzip
import hashlib
import json
from contextlib import closing

import pandas as pd
import pytest

import logs
import modelkeep as mk
import tables
import workspaces
from modelkeep.cli import main
from modelkeep.core import workspace as params
from modelkeep.data import erase, splits
from modelkeep.jobs import forget
from modelkeep.jobs.forget import ForgetError
from modelkeep.predictions.log import Label, open_log

OWN = "Anna-17"
LOG = "sqlite:///data/log/predictions.db"


def people(n=30, first=0):
    """Rows of five people; every fifth is of one of them."""
    who = [OWN if i % 5 == 0 else f"Anna-17{i % 5}" for i in range(n)]
    return pd.DataFrame(
        {"row": [f"visit{first + i:04}" for i in range(n)], "who": who, "x": range(n), "y": 1}
    )


def cached(cache, content):
    md5 = hashlib.md5(content).hexdigest()
    (cache / md5[:2]).mkdir(parents=True, exist_ok=True)
    (cache / md5[:2] / md5[2:]).write_bytes(content)
    return md5


@pytest.fixture
def workspace(tmp_path):
    """A repository with a history in four kinds of file, a log, DVC's cache and two versions."""
    root = tmp_path / "ws"
    (root / ".dvc").mkdir(parents=True)
    (root / ".dvc/config").write_text("[core]\n    analytics = false\n")
    (root / "dvc.yaml").write_text("stages: {}\n")
    workspaces.settings(root, "prepare", "serve")
    roles = {"source": "data/history", "entity_column": "who", "id_column": "row", "label": "y"}
    params.set_params(root, "prepare", roles)
    history = root / "data/history"
    history.mkdir(parents=True)
    people(30).to_csv(history / "a.csv", index=False, sep=";")
    splits.write(people(20, 30), history / "b.parquet")
    people(10, 50).to_feather(history / "c.feather")
    (history / "d.csv.gz").write_bytes(gzip.compress(people(5, 60).to_csv(index=False).encode()))
    cache = root / ".dvc/cache/files/md5"
    (root / "data/prepared").mkdir()
    for part, rows in (("train", people(30)), ("test", people(20, 30))):
        splits.write(rows, root / f"data/prepared/{part}.parquet")
    files = [
        {"relpath": f"{part}.parquet", "md5": cached(cache, path.read_bytes())}
        for part in ("train", "test")
        for path in [root / f"data/prepared/{part}.parquet"]
    ]
    data = cached(cache, json.dumps(files).encode())
    (cache / data[:2] / data[2:]).rename(cache / data[:2] / f"{data[2:]}.dir")
    cached(cache, b"nothing of anybody")
    cached(cache, b"<p>the row of Anna-17, as a page shows it</p>")
    (root / ".gitignore").write_text("/data/\n/serving/\n/.dvc/cache/\n/.dvc/tmp/\n")
    for command in (("init", "-qb", "main"), ("add", "-A"), ("commit", "-qm", "Start")):
        tables.tiny.run(root, "git", *command).check_returncode()
    commit = tables.tiny.run(root, "git", "rev-parse", "HEAD").stdout.strip()
    for version, hashes in (("v1.0.0", f"{data}.dir"), ("v1.1.0", "0" * 32 + ".dir")):
        text = tables.record.message(version, {"hashes": {"data": hashes, "bundle": version}})
        tables.tags.add(root, f"flights@{version}", commit, text, tables.RELEASED)
    with closing(open_log(LOG, root=root)) as log:
        rows = people(40, 100)
        log.append([
            logs.entry(row.row, logs.FIRST + i, entity=row.who) for i, row in rows.iterrows()
        ])  # fmt: skip
        log.label([Label("visit0100", "1", logs.FIRST + 99), Label("visit0101", "1", 9)])
    return root


def test_nothing_is_changed_by_a_dry_run(workspace):
    before = {path: path.read_bytes() for path in erase.walk(workspace / ".dvc/cache")}
    before |= {path: path.read_bytes() for path in erase.walk(workspace / "data/history")}
    found = forget.forget(workspace, OWN, dry_run=True)
    assert (found.predictions, found.labels) == (8, 1)
    assert sum(found.files.values()) == 6 + 4 + 2 + 1 and len(found.files) == 4
    assert {path: path.read_bytes() for path in before} == before
    assert "would be removed" in repr(found)


def test_the_rows_are_gone_everywhere_and_nobody_elses_are(workspace):
    found = forget.forget(workspace, OWN)
    assert found.holds and (found.predictions, found.labels) == (8, 1)
    assert sum(found.files.values()) == 13
    history = workspace / "data/history"
    kept = people(30).query("who != @OWN").to_csv(index=False, sep=";")
    assert (history / "a.csv").read_text() == kept
    assert len(pd.read_parquet(history / "b.parquet")) == 16
    assert len(pd.read_feather(history / "c.feather")) == 8
    assert len(pd.read_csv(history / "d.csv.gz")) == 4
    assert not (workspace / "data/prepared/train.parquet").exists()
    left = [path.read_bytes() for path in erase.walk(workspace / ".dvc/cache")]
    assert b"nothing of anybody" in left and not any(b"Anna-17," in each for each in left)
    assert [each["version"] for each in found.versions] == ["v1.0.0", "v1.1.0"]
    assert [each["rows"] for each in found.versions] == [6, None]
    text = repr(found)
    for part in ("6 of its training rows", "free pages and WAL included", "dvc add data/history"):
        assert part in text
    again = forget.forget(workspace, OWN)
    assert again.holds and again.predictions == 0 and not again.files and not again.deleted


def test_a_model_in_service_that_keeps_rows_is_named(workspace):
    place = workspace / "serving/bundles" / ("a" * 64)
    splits.write(people(), place / "promise.parquet")
    now = dataclasses.asdict(tables.Now(tables.Role("a" * 64, "v1.0.0")))
    (workspace / "serving/now.json").write_text(json.dumps(now))
    splits.write(people(), workspace / "serving/bundles" / ("b" * 64) / "promise.parquet")
    found = forget.forget(workspace, OWN)
    (left,) = [check for check in found.checks if check.holds is False]
    assert left.place == "models" and "6 rows" in left.sentence and not found.holds
    assert (place / "promise.parquet").exists()
    assert not (workspace / "serving/bundles" / ("b" * 64)).exists()


def test_a_history_in_git_is_named(workspace):
    tables.tiny.run(workspace, "git", "add", "-f", "data/history/a.csv")
    found = forget.forget(workspace, OWN)
    assert [check.place for check in found.checks if check.holds is False] == ["git"]


def test_a_row_without_an_entity_is_forgotten_by_its_id(workspace):
    params.set_params(workspace, "prepare", {"entity_column": ""})
    found = forget.forget(workspace, "visit0031")
    assert found.files == {"data/history/b.parquet": 1} and found.predictions == 0


def test_the_command_and_the_function(workspace, monkeypatch, capsys):
    monkeypatch.chdir(workspace)
    assert main.main(["forget", OWN, "--dry-run"]) == 0
    assert "8 predictions, 1 label, 13 rows of history" in capsys.readouterr().out
    assert mk.forget(OWN, dry_run=True).predictions == 8
    assert main.main(["forget", OWN, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["labels"] == 1
    with pytest.raises(ForgetError, match="the entity's name is empty"):
        forget.forget(workspace, " ")


def test_quoted_and_long_records_of_csv_keep_their_bytes(tmp_path):
    path = tmp_path / "x.csv"
    lines = [
        "who,row,note\r\n",
        '"Anna-17",1,"a\r\nb"\r\n',
        'Bo,2,"c ""d""\r\n e"\r\n',
        "Bo,3,\r\n",
    ]
    path.write_bytes("".join(lines).encode())
    wanted = erase.Wanted(OWN, "who", "row")
    assert erase.occurrences(path, wanted) == 1 and erase.remove(path, wanted) == 1
    assert path.read_bytes().decode() == "".join([lines[0], *lines[2:]])


@pytest.mark.parametrize("name", ["a.xlsx", "a.zip"])
def test_a_file_that_cannot_be_rewritten_is_an_error(tmp_path, name):
    (tmp_path / name).write_bytes(b"PK")
    with pytest.raises(erase.EraseError, match="no row can be taken out"):
        erase.remove(tmp_path / name, erase.Wanted(OWN, "who", "row"))


def test_an_empty_table_holds_nobody(tmp_path):
    splits.write(people(0), tmp_path / "x.parquet")
    assert erase.occurrences(tmp_path / "x.parquet", erase.Wanted(OWN, "who", "row")) == 0
