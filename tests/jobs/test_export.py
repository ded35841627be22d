"""The prediction log as a Parquet file."""

from contextlib import closing

import pandas as pd
import pytest

import logs
import tables
from modelkeep.cli import main
from modelkeep.jobs import export
from modelkeep.jobs.export import ExportError
from modelkeep.predictions.log import Label, open_log

LOG = "sqlite:///data/log/predictions.db"
TIME = {"cancer": 2, "diabetes": 1, "iris": 3}  # columns of predictions


@pytest.mark.parametrize("name", tables.TABLES)
def test_each_prediction_is_a_row_with_its_features_and_label(name, tmp_path, monkeypatch, capsys):
    root = tmp_path / "ws"
    tables.bundle(name, tmp_path / "bundle")
    tables.released(root, tmp_path / "bundle")
    frame = tables.table(name).head(30)
    (reply,) = tables.requests(root, {"rows": tables.rows(frame)})
    with closing(open_log(LOG, root=root)) as log:
        log.label([Label(f"{name}-3", "1", logs.FIRST)])
        log.append([logs.entry("other", logs.FIRST)])  # of a model with other columns
    monkeypatch.chdir(root)
    assert main.main(["log", "export", "--out", "all.parquet"]) == 0
    assert capsys.readouterr().out == "31 predictions in all.parquet\n"
    found = pd.read_parquet("all.parquet").set_index("id")
    columns = [each for each in frame if each not in ("row", "y")]
    ours = found.drop("other")
    assert (ours[columns].to_numpy() == frame[columns].to_numpy()).all()
    said = reply["predictions"][3]
    given = [*said.get("probabilities", {}).values()] or [said["prediction"]]
    assert ours.loc[f"{name}-3"].iloc[-2 - TIME[name] : -2].tolist() == given
    assert ours["label"].count() == 1 and ours["labelled_at"].count() == 1
    assert found.loc["other", columns].isna().all()
    day = f"{pd.Timestamp(logs.FIRST, unit='us') + pd.Timedelta(days=1):%Y-%m-%d}"
    assert export.export(root, tmp_path / "x.parquet", until=day) == 1
    assert export.export(root, tmp_path / "x.parquet", since=day) == 30


def test_a_column_of_the_logs_own_name_is_an_error(tmp_path):
    frame = tables.table("iris").rename(columns={"sepal length (cm)": "model"})
    split = tables.splits.prepare(frame, label="y", id_column="row", test_share=0.3)
    tables.synthetic.sealed(tmp_path / "bundle", split, "forest")
    tables.released(tmp_path / "ws", tmp_path / "bundle")
    with pytest.raises(ExportError, match="column 'model' of the table"):
        export.export(tmp_path / "ws", tmp_path / "x.parquet")
