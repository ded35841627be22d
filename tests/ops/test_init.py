"""`modelkeep init`: every setting is written, prepare works with them, and the house's tests do,
too.
"""

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn import datasets

import synthetic
import workspaces
from modelkeep.core import workspace
from modelkeep.data import splits
from modelkeep.data.inspect import Roles
from modelkeep.ops import init
from modelkeep.ops.init import InitError

ROOT = Path(__file__).parents[2]


@pytest.fixture
def root(tmp_path):
    """The settings of this repository, in a folder that Git and DVC know."""
    root = tmp_path / "ws"
    some = ("dvc.yaml", ".dvc/config", ".dvcignore", ".gitignore", "params/")
    workspaces.copy(root, lambda name: name.startswith(some))
    workspaces.run(root, "git", "init", "-q", "-b", "main")
    return root


def prepared(root):
    """What prepare makes with the settings that are on disk."""
    stated = workspace.params(root, "prepare")
    table = splits.read_again(stated, root)
    return splits.prepare(table, **stated)


def put(folder, frame, name="my table.csv"):
    path = folder / name
    frame.to_csv(path, index=False)
    return path


@pytest.mark.parametrize(
    ("load", "task"),
    [("iris", "multiclass"), ("wine", "multiclass"), ("breast_cancer", "binary"), ("diabetes", "regression")],
)  # fmt: skip
def test_a_table_without_time_needs_one_command(load, task, root, tmp_path):
    frame = getattr(datasets, f"load_{load}")(as_frame=True).frame
    planned = init.plan(root, put(tmp_path, frame), Roles("target"), yes=True)
    assert planned.left == [] and planned.problem == "" and planned.name == "my-table"
    init.write(root, planned)
    parts = prepared(root)
    assert parts.schema.task == task and parts.counts == planned.counts
    assert parts.counts["quarantined"] == 0 and parts.counts["later"] >= len(frame) // 6
    if task != "regression":
        assert set(parts.test["target"]) == set(parts.schema.classes)


@pytest.mark.parametrize("task", synthetic.LABELS)
def test_a_table_with_time_keeps_its_newest_days_for_a_replay(task, root, tmp_path):
    table = synthetic.table(task)
    roles = Roles(synthetic.LABELS[task], "when", "key")
    planned = init.plan(root, put(tmp_path, table), roles, yes=True)
    init.write(root, planned)
    parts, days = prepared(root), table["when"].dt.normalize()
    as_of = pd.Timestamp(workspace.params(root, "prepare")["as_of"])
    assert parts.counts["later"] == (days >= as_of).sum() > 0.1 * len(table)
    assert as_of + pd.Timedelta(days=workspace.params(root, "collect")["days"]) > days.max()
    assert [c["kind"] for c in planned.columns if c["column"] in ("when", "key")] == ["id", "time"]


def test_what_is_in_doubt_is_taken_with_yes_and_listed_without(root, tmp_path):
    table = synthetic.table()
    table["price"] = [f"€ {x:,.2f}" for x in np.random.default_rng(0).gamma(2, 900, len(table))]
    table["when"] = table["when"].dt.strftime("%d.%m.%Y %H:%M")
    path, roles = put(tmp_path, table), Roles("late", "when", "key")
    asked = init.plan(root, path, roles)
    assert {d.column for d in asked.left} == {"when", "price"} and asked.taken == []
    assert 'date_format: "%d.%m.%Y %H:%M"' in str(asked) and "prepare will fail" in str(asked)
    taken = init.plan(root, path, roles, yes=True)
    assert taken.left == [] and taken.problem == ""
    init.write(root, taken)
    parts = prepared(root)
    kinds = {c.name: c.kind for c in parts.schema.columns}
    assert kinds["price"] == "number" and parts.counts == taken.counts


def test_settings_keep_their_comments_and_the_name_is_in_both_places(root, tmp_path):
    before = (root / "params" / "prepare.yaml").read_text()
    init.write(
        root, init.plan(root, put(tmp_path, synthetic.table()), Roles("late", "when", "key"))
    )
    after = (root / "params" / "prepare.yaml").read_text()
    comments = [[line.partition("#")[2] for line in text.splitlines()] for text in (before, after)]
    assert comments[0] == comments[1] and "source: data/history " in after
    assert workspace.params(root, "serve")["name"] == "my-table"
    assert "\n  my-table: {path: models/candidate" in (root / "dvc.yaml").read_text()
    assert (root / "data" / "history.dvc").is_file()


def test_a_table_inside_stays_where_it_is(root):
    (root / "tables").mkdir()
    synthetic.table().to_parquet(root / "tables" / "sales.parquet")
    planned = init.plan(root, root / "tables" / "sales.parquet", Roles("late", "when", "key"))
    init.write(root, planned)
    assert workspace.params(root, "prepare")["source"] == "tables/sales.parquet"
    assert not (root / "data").exists()


def test_what_cannot_be_pointed_at(root, tmp_path):
    path = put(tmp_path, synthetic.table())
    with pytest.raises(InitError, match="there is no such file"):
        init.plan(root, tmp_path / "nowhere.csv", Roles("late"))
    with pytest.raises(InitError, match="--label: my table.csv has no column 'lat'; did you mean"):
        init.plan(root, path, Roles("lat"))
    path.write_bytes("stra\u00dfe,late\n1,2\n".encode("latin-1"))
    with pytest.raises(InitError, match=r"not UTF-8; give it as --encoding \(latin-1"):
        init.plan(root, path, Roles("late"))
    assert "stra\u00dfe" in str(init.plan(root, path, Roles("late"), encoding="latin-1"))
    put(tmp_path, synthetic.table())
    (root / "data" / "history").mkdir(parents=True)
    (root / "data" / "history" / "old.csv").write_text("a\n1\n")
    with pytest.raises(InitError, match="data/history holds old.csv already"):
        init.write(root, init.plan(root, path, Roles("late", "when", "key")))


def test_a_time_that_was_not_named_is_a_doubt(root, tmp_path):
    planned = init.plan(root, put(tmp_path, synthetic.table()), Roles("late", id="key"), yes=True)
    assert any("give it as --time" in doubt.sentence for doubt in planned.left)


def odd_table():
    """Times, numbers and codes as text: three doubts with a line each."""
    table = synthetic.table()
    table["when"] = table["when"].dt.strftime("%d.%m.%Y %H:%M")
    draws = np.random.default_rng(0)
    table["price"] = [f"{x:.2f}".replace(".", ",") for x in draws.gamma(2, 900, len(table))]
    table["zip"] = [f"{x:05d}" for x in draws.integers(0, 90, len(table))]
    return table


def test_windows_fit_the_table_before_its_doubts_are_settled(root, tmp_path):
    path, roles = put(tmp_path, odd_table()), Roles("late", "when", "key")
    unsettled, settled = (init.plan(root, path, roles, yes=yes) for yes in (False, True))
    assert unsettled.problem and not settled.problem
    for file in ("monitor", "collect", "backtest", "train"):
        assert unsettled.settings[file] == settled.settings[file], file
    keys = ("as_of", "test_days")
    assert all(unsettled.settings["prepare"][k] == settled.settings["prepare"][k] for k in keys)
    assert unsettled.settings["prepare"]["rules"] == {}
    assert "Before `dvc repro`" in unsettled.next and settled.next.startswith("`dvc repro` runs")


def test_running_it_again_keeps_the_lines_that_a_person_has_settled(root, tmp_path):
    path, roles = put(tmp_path, odd_table()), Roles("late", "when", "key")
    init.write(root, init.plan(root, path, roles))
    lines = {"date_format": "%d.%m.%Y %H:%M", "rules": {"zip": {"kind": "category"}}, "drop": []}
    workspace.set_params(root, "prepare", lines)
    again = init.plan(root, path, roles)
    assert [d.column for d in again.left] == ["price"] and again.problem == ""
    init.write(root, again)
    assert lines.items() <= workspace.params(root, "prepare").items()
    init.write(root, init.plan(root, path, roles, yes=True))
    stated = workspace.params(root, "prepare")
    assert set(stated["rules"]) == {"zip", "price"} and prepared(root).counts["train"]
    workspace.set_params(root, "prepare", {"drop": ["price"], "rules": {}})
    other = init.plan(root, path, roles)
    assert [d.column for d in other.left] == ["zip"] and other.settings["prepare"]["drop"]


def test_a_column_that_was_left_out_may_get_a_role_when_it_is_run_again(root, tmp_path):
    """As the first run proposes."""
    days = pd.date_range("2024-01-01", periods=400, freq="6h", tz="UTC")
    x = np.random.default_rng(0).normal(size=400).round(3)
    texts = days.strftime("%Y-%m-%dT%H:%M:%SZ")
    path = put(tmp_path, pd.DataFrame({"at": texts, "x": x, "y": (x * 2).round(2)}))
    init.write(root, init.plan(root, path, Roles("y"), yes=True))
    assert workspace.params(root, "prepare")["drop"] == ["at"]
    again = init.plan(root, path, Roles("y", "at"), yes=True)
    assert (again.settings["prepare"]["drop"], again.problem) == ([], "")
    assert again.settings["prepare"]["time_column"] == "at"


def test_another_table_gets_none_of_the_lines_before(root, tmp_path):
    workspace.set_params(root, "prepare", {"drop": ["temp"], "label_delay_days": 9})
    planned = init.plan(root, put(tmp_path, synthetic.table()), Roles("late", "when", "key"))
    assert planned.settings["prepare"]["drop"] == []
    assert planned.settings["prepare"]["label_delay_days"] == 1


def test_examples_in_text_are_quoted_and_doubts_of_one_parameter_come_as_one_line(root, tmp_path):
    text = str(init.plan(root, put(tmp_path, odd_table()), Roles("late", "when", "key")))
    assert re.search(r'price +\? +"[\d,]+", "', text) and re.search(r"late +label +\d, \d", text)
    rules = '{"price": {"decimal": ","}, "zip": {"kind": "category"}}'
    assert f"together: rules: {rules}" in text
