"""Predictions of files: those of the server, each row once, whatever cuts a run off."""

import json
import os
import shutil
import signal
from contextlib import closing

import pandas as pd
import pytest
from pyarrow import feather

import modelkeep as mk
import synthetic
import tables
from modelkeep.cli import main
from modelkeep.data import io
from modelkeep.jobs import batches, score, trace
from modelkeep.jobs.score import ScoreError
from modelkeep.predictions.log import Label, PredictionLog, open_log
from modelkeep.registry import store
from modelkeep.registry.store import Now, Role

LOG = "sqlite:///data/log/predictions.db"


@pytest.fixture(scope="module", params=["flights-like", *tables.TABLES])
def served(request, tmp_path_factory, parts, bundles):
    """A released model and rows of its table that it has not seen; one table has time and texts."""
    root = tmp_path_factory.mktemp("score") / "ws"
    if request.param == "flights-like":
        synthetic.sealed(root.parent / "bundle", parts["binary"])
        frame = synthetic.table(seed=5, rows=300)
    else:
        tables.bundle(request.param, root.parent / "bundle")
        frame = tables.table(request.param)
    tables.released(root, root.parent / "bundle")
    return root, frame.sample(150, random_state=0).reset_index(drop=True)


@pytest.fixture
def small(monkeypatch):
    """Chunks of a few rows."""
    monkeypatch.setattr(score, "CHUNK", 40)
    monkeypatch.setattr(score, "SPAN", 40)
    monkeypatch.setattr(batches, "CALL", 16)


def written(folder):
    return pd.concat([pd.read_parquet(each) for each in sorted(folder.glob("part-*"))])


def fresh(root, to):
    """A copy of a workspace without a log."""
    shutil.rmtree(tables.copied(root, to) / "data", ignore_errors=True)
    return to


def logged(root):
    with closing(open_log(LOG, root=root)) as log:
        return [row for batch in log.read(0, 2**62) for row in batch.to_pylist()]


def test_ids_of_a_file_in_several_pieces_are_checked(served, small, tmp_path):
    root, frame = served[0], served[1].copy()
    key = frame.columns[-1] if "row" in frame else "key"
    frame[key] = frame[key].astype("str")
    frame.loc[70, key] = "a\x07b"
    feather.write_feather(frame, tmp_path / "rows.feather", chunksize=16)
    done = score.score(root, tmp_path / "rows.feather", tmp_path / "out")
    assert (done.rows, done.quarantined) == (149, 1)
    assert "has a control character" in next(iter(done.reasons))


def test_several_processes_write_what_one_writes(served, small, tmp_path, monkeypatch):
    root, frame = served[0], served[1].copy()
    frame.loc[60, frame.columns[-1] if "row" in frame else "key"] = None
    frame.to_parquet(tmp_path / "rows.parquet", row_group_size=40)
    alone, said = score.score(root, tmp_path / "rows.parquet", tmp_path / "one"), []
    monkeypatch.setattr(score, "MANY", 100)
    many = score.score(
        root, tmp_path / "rows.parquet", tmp_path / "two", report=said.append, processes=2
    )
    assert (many.rows, many.reasons) == (alone.rows, alone.reasons) and many.quarantined == 1
    assert said == [40, 80, 120, 150]
    for name in ["quarantine-000000000040.parquet", *(f"part-{i:012d}.parquet" for i in (0, 120))]:
        one, two = (pd.read_parquet(tmp_path / each / name) for each in ("one", "two"))
        pd.testing.assert_frame_equal(one, two)
    (tmp_path / "two" / "part-000000000080.parquet").unlink()
    again = score.score(root, tmp_path / "rows.parquet", tmp_path / "two", processes=2)
    assert (again.rows, again.resumed) == (149, 110)


def test_a_process_that_is_killed_is_told_in_a_sentence(served, small, tmp_path, monkeypatch):
    root, frame = served
    frame.to_parquet(tmp_path / "rows.parquet", row_group_size=40)
    monkeypatch.setattr(score, "MANY", 100)
    monkeypatch.setattr(score, "_span", deadly)
    with pytest.raises(ScoreError, match="a process of this run was killed"):
        score.score(root, tmp_path / "rows.parquet", tmp_path / "out", processes=2)


def deadly(*_):
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_predictions_are_those_of_the_server(served, small, tmp_path, ending):
    root, frame = served
    file, out = tmp_path / f"rows.{ending}", tmp_path / "out"
    frame.to_csv(file, index=False) if ending == "csv" else frame.to_parquet(file)
    done = score.score(root, file, out)
    found, key = written(out), frame.columns[-1] if "row" in frame else "key"
    assert (done.rows, done.quarantined, len(found)) == (150, 0, 150)
    assert found[key].tolist() == frame[key].tolist() and found["position"].tolist() == [
        *range(150)
    ]
    (reply,) = tables.requests(root, {"rows": tables.rows(at_noon(frame))})
    for row, said in zip(found.to_dict("records"), reply["predictions"], strict=True):
        if "probabilities" in said:
            assert {k: row[f"p({k})"] for k in said["probabilities"]} == said["probabilities"]
            assert row["prediction"] == said["label"]
        else:
            assert row["prediction"] == said["prediction"]


def at_noon(frame):
    """Times as text, which JSON has."""
    times = frame.select_dtypes("datetime").columns
    return frame.assign(**{name: frame[name].astype("str") for name in times})


def test_rows_that_the_server_refuses_are_quarantined_with_reasons(served, small, tmp_path):
    root, frame = served
    number = next(c.name for c in trace_schema(root).columns if c.kind == "number")
    odd = frame.astype({number: object})
    odd.loc[[3, 77], number] = ["a lot", 1e39]
    odd.to_csv(tmp_path / "rows.csv", index=False)
    done = score.score(root, tmp_path / "rows.csv", tmp_path / "out")
    assert (done.rows, done.quarantined) == (148, 2)
    aside = pd.concat(map(pd.read_parquet, sorted((tmp_path / "out").glob("quarantine*"))))
    assert aside["position"].tolist() == [3, 77] and set(aside["file"]) == {"rows.csv"}
    assert aside["reason"].tolist()[0] == f"{number}: 'a lot' is not a number"
    assert "is outside -3.40282e+38..3.40282e+38" in aside["reason"].tolist()[1]
    assert "2 rows quarantined" in str(done)


def trace_schema(root):
    role = store.now(root / "serving").champion
    return score.models.load(root / "serving", Now(role), 1).champion.schema


def test_times_may_be_missing_and_wrong_ones_are_quarantined(tmp_path, parts, small):
    root = tmp_path / "ws"
    synthetic.sealed(tmp_path / "bundle", parts["binary"])
    tables.released(root, tmp_path / "bundle")
    frame = at_noon(synthetic.table(seed=3, rows=6))
    frame.loc[[1, 2, 3], "when"] = [None, "soon", "9999-01-01"]
    frame.loc[4, "key"] = "x" * 201
    frame.loc[5, "shop"] = "west"
    frame.to_csv(tmp_path / "rows.csv", index=False)
    done = score.score(root, tmp_path / "rows.csv", tmp_path / "out.csv", log=True)
    assert done.rows == 3
    assert pd.read_csv(tmp_path / "out.csv")["position"].tolist() == [0, 1, 5]
    reasons = " ".join(pd.read_csv(tmp_path / "out.quarantine.csv")["reason"])
    for words in ("is not a date", "is far from training and now", "is longer than 200"):
        assert words in reasons
    first, second, last = sorted(logged(root), key=lambda row: row["id"])
    assert first["time"] is not None and second["time"] is None and last["time"] is not None
    without = frame.drop(columns=["when", "key", "shop"])
    with pytest.raises(Exception, match="key"):
        without.to_csv(tmp_path / "less.csv", index=False)
        score.score(root, tmp_path / "less.csv", tmp_path / "less")


def killed(root, file, out, at):
    """Run in a child that dies at its `at`-th write, before or after it; whether it has died."""
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    left = [at]

    def deadly(function):
        def call(*args, **named):
            for act in (None, function):
                result = act and act(*args, **named)
                left[0] -= 1
                if left[0] < 0:
                    os.kill(os.getpid(), signal.SIGKILL)
            return result

        return call

    try:
        score.files.write_bytes = deadly(score.files.write_bytes)
        PredictionLog.write = deadly(PredictionLog.write)
        score.score(root, file, out, log=True)
    finally:
        os._exit(0)


def test_a_killed_run_goes_on_and_nothing_is_predicted_or_logged_twice(served, small, tmp_path):
    root, frame = served
    if "shop" not in frame:
        return  # one table is enough: what is killed is the same
    frame.head(70).to_parquet(tmp_path / "rows.parquet")
    for at in range(99):
        copy, out = fresh(root, tmp_path / f"{at}"), tmp_path / f"{at}" / "out"
        died = killed(copy, tmp_path / "rows.parquet", out, at)
        killed(copy, tmp_path / "rows.parquet", out, at // 2)  # and once more
        score.score(copy, tmp_path / "rows.parquet", out, log=True)
        ids = written(out).iloc[:, 1].tolist()
        assert len(ids) == 70 and sorted(ids) == sorted({row["id"] for row in logged(copy)})
        assert len(logged(copy)) == 70
        if not died:
            break
    assert at == 10  # a state, and two chunks, each logged and written


def test_logged_rows_get_labels_and_are_traced_to_the_last_bit(served, small, tmp_path):
    root, frame = fresh(served[0], tmp_path / "ws"), served[1]
    frame.to_parquet(tmp_path / "rows.parquet")
    done = score.score(root, tmp_path / "rows.parquet", tmp_path / "out", log=True)
    assert done.logged and len(logged(root)) == 150
    ids = written(tmp_path / "out").iloc[:, 1].tolist()
    with closing(open_log(LOG, root=root)) as log:
        assert {each.outcome for each in log.label([Label(i, "1", 5) for i in ids])} == {"first"}
    for id in ids[::40]:
        (found,) = trace.trace(root, id)
        assert found.holds and {c.holds for c in found.checks} == {True}
        assert found.role == "champion" and "in a call of" in repr(found)
    shown = written(tmp_path / "out").iloc[0]
    assert list(trace.trace(root, ids[0])[0].prediction.values()) == [
        value for name, value in shown.items() if name.startswith("p(")
    ] or [shown["prediction"]]


def test_what_cannot_be_scored_says_why(served, small, tmp_path):
    root, frame = fresh(served[0], tmp_path / "ws"), served[1]
    frame.to_csv(tmp_path / "rows.csv", index=False)
    score.score(root, tmp_path / "rows.csv", tmp_path / "out")
    (tmp_path / "rows.csv").write_text((tmp_path / "rows.csv").read_text() + "\n")
    with pytest.raises(ScoreError, match="holds predictions of another source"):
        score.score(root, tmp_path / "rows.csv", tmp_path / "out")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "letter.txt").write_text("Dear")
    with pytest.raises(ScoreError, match="a folder of something else"):
        score.score(root, tmp_path / "rows.csv", tmp_path / "other")
    now = store.now(root / "serving")
    store.point(root / "serving", Now(now.champion, Role(now.champion.sha256, "", 0.1, "s")))
    with pytest.raises(ScoreError, match="a canary is in service"):
        score.score(root, tmp_path / "rows.csv", tmp_path / "new", log=True)
    with pytest.raises(Exception, match="no version 'v7'"):
        score.score(root, tmp_path / "rows.csv", tmp_path / "new", "v7")


def test_a_file_that_is_refused_leaves_nothing_and_another_may_follow(served, tmp_path):
    root, frame = served
    key = frame.columns[-1] if "row" in frame else "key"
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("Dear")
    for out in (tmp_path / "out", tmp_path / "out.parquet"):
        frame.drop(columns=key).to_csv(tmp_path / "rows.csv", index=False)
        with pytest.raises(ScoreError, match="the file has no column"):
            score.score(root, tmp_path / "rows.csv", out)
        assert sorted(each.name for each in tmp_path.iterdir() if "out" in each.name) == []
        frame.to_csv(tmp_path / "rows.csv", index=False)
        assert score.score(root, tmp_path / "rows.csv", out).rows == 150
        shutil.rmtree(out) if out.is_dir() else out.unlink()
    with pytest.raises(ScoreError, match="a folder of something else"):
        score.score(root, tmp_path / "rows.csv", tmp_path / "mine")
    assert (tmp_path / "mine" / "letter.txt").read_text() == "Dear"
    with pytest.raises(ScoreError, match=r"out.xlsx ends in .xlsx; predictions are written"):
        score.score(root, tmp_path / "rows.csv", tmp_path / "out.xlsx")


def test_the_command_scores_a_folder_by_a_version(served, tmp_path, monkeypatch, capsys):
    root, frame = served
    (tmp_path / "in").mkdir()
    frame.head(100).to_csv(tmp_path / "in" / "a.csv", index=False)
    frame.tail(50).to_csv(tmp_path / "in" / "b.csv", index=False)
    monkeypatch.chdir(root)
    words = ["score", str(tmp_path / "in"), "--model", "v1.0.0", "--json"]
    assert main.main([*words, "--out", str(tmp_path / "all.parquet")]) == 0
    assert json.loads(capsys.readouterr().out)["rows"] == 150
    assert len(pd.read_parquet(tmp_path / "all.parquet")) == 150
    assert not list(tmp_path.glob(".all*"))
    done = mk.score_file(tmp_path / "in" / "b.csv", tmp_path / "b")
    assert repr(done).startswith("50 predictions of v1.0.0")
    assert main.main([*words, "--out", str(tmp_path / "all.parquet")]) == 2


def test_rows_without_an_id_get_one_that_labels_can_name(tmp_path, small):
    frame = tables.table("iris").drop(columns="row")
    split = tables.splits.prepare(frame, label="y", test_share=0.3)
    synthetic.sealed(tmp_path / "bundle", split, "forest")
    tables.released(tmp_path / "ws", tmp_path / "bundle")
    frame.to_csv(tmp_path / "rows.csv", index=False)
    score.score(tmp_path / "ws", tmp_path / "rows.csv", tmp_path / "out", log=True)
    ids = written(tmp_path / "out").iloc[:, 1]
    assert ids.is_unique and set(ids) == {row["id"] for row in logged(tmp_path / "ws")}


def test_a_stream_has_the_rows_of_a_read(tmp_path):
    frame = synthetic.table(seed=1, rows=100).assign(code=[f"{i:03d}" for i in range(100)])
    frame.to_csv(tmp_path / "rows.csv", index=False, sep=";", decimal=",")
    names, reading = list(frame), {"separator": ";", "decimal": ","}
    parts = io.stream(io.Span(tmp_path / "rows.csv"), names, ["code"], 33, **reading)
    streamed = pd.concat(parts, ignore_index=True)
    whole = io.read("rows.csv", tmp_path, id_column="code", **reading)
    assert streamed.equals(whole) and streamed["code"][7] == "007"
    (tmp_path / "bad.csv").write_text("a,b\n1,2\n" * 30 + "1,2,3\n")
    with pytest.raises(io.TableError, match=r"bad.csv cannot be read"):
        [*io.stream(io.Span(tmp_path / "bad.csv"), ["a"], [], 7)]
