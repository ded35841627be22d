import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

import synthetic
from modelkeep.monitoring import sources
from modelkeep.monitoring.sources import SourceError
from modelkeep.predictions import frames
from modelkeep.predictions.log import Label, PredictionRecord, open_log
from modelkeep.reports import collect
from modelkeep.reports.figures import Figure
from synthetic import said

TASKS = tuple(synthetic.LABELS)
LATE = {"delay_days": 1, "wait_days": 2, "lost": 0.02, "seed": 0}
SHOWN = (collect.arrived, collect.waiting, collect.mean_prediction, collect.example)


def of_rows(log):
    return sources.Collected(log, {"source": "replay"})


def with_as_of(served, as_of):
    schema = replace(served.schema, origin=served.schema.origin | {"as_of": as_of})
    return replace(served, schema=schema)


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("show", SHOWN)
def test_every_kind_of_log_is_shown(task, show, turns):
    shown = show(turns[task].served_log, turns[task].of)
    assert said(shown)
    drawn = show is not collect.example and (show, task) != (collect.waiting, "binary")
    assert isinstance(shown, Figure) == drawn


@pytest.mark.parametrize("task", ["multiclass", "regression"])
def test_the_log_is_what_came_after_as_of(task, turns):
    t = turns[task]
    log = t.served_log
    after = t.raw[(t.raw["when"] >= "2020-04-01") & (t.raw["when"] < "2020-06-10")]
    assert log["key"].tolist() == after["key"].tolist()
    assert np.allclose(frames.predictions(log, t.of), t.served.answer(log), rtol=1e-6)
    assert (log["answered_by"] == t.served.name).all()
    assert (log["labelled_at"].dropna() <= pd.Timestamp("2020-06-10")).all()
    told = collect.verdict(of_rows(log), t.of)
    known = log[t.of.label].notna().sum()
    assert told.state == "ok"
    assert told.evidence == {
        **{"rows_in": len(log), "rows": len(log), "labelled": known},
        **{"unlabelled": len(log) - known, "quarantined": 0, "reasons": {}},
    }
    assert f"{len(log):,} predictions from 2020-04-01 to 2020-06-09" in told.sentence
    assert f"{known:,} have a label ({known / len(log):.1%})" in told.sentence
    assert "half of the labels came within" in said(told)


def test_without_time_the_log_is_what_follows_in_the_file(turns):
    t = turns["binary"]
    learned = {*t.parts.train["key"], *t.parts.test["key"]}
    assert len(learned) == 3000 and set(t.served_log["key"]) == set(t.raw["key"]) - learned
    told = collect.verdict(of_rows(t.served_log), t.of)
    assert told.sentence.startswith("3,000 predictions, of which ")
    assert "labels came within" not in said(told)


def test_one_seed_gives_one_log(turns):
    t = turns["multiclass"]
    again = sources.replayed(t.raw, t.served, 70, **LATE)
    pd.testing.assert_frame_equal(again, t.served_log)
    fewer = sources.replayed(t.raw, t.served, 14, **LATE)
    assert len(fewer) < len(again) / 4


@pytest.mark.parametrize(("task", "as_of"), [("multiclass", ""), ("multiclass", "2021-01-01")])
def test_nothing_is_left_to_answer(task, as_of, turns):
    t = turns[task]
    log = sources.replayed(t.raw, with_as_of(t.served, as_of), 70, **LATE)
    assert log.empty
    told = collect.verdict(of_rows(log), t.of)
    assert told.state == "investigate" and "Nothing was collected" in told.sentence
    assert "a moment before the newest rows" in said(told)
    assert all(said(show(log, t.of)) for show in SHOWN)


def test_nothing_is_left_to_answer_in_a_file(turns):
    t = turns["binary"]
    log = sources.replayed(t.raw, with_as_of(t.served, ""), 70, **LATE)
    assert log.empty
    assert "fewer rows than the table has" in said(collect.verdict(of_rows(log), t.of))


def test_no_label_came_at_all(turns):
    t = turns["multiclass"]
    log = sources.replayed(t.raw, t.served, 70, **LATE | {"lost": 1.0})
    assert "0 have a label (0.0%)" in said(collect.verdict(of_rows(log), t.of))
    assert all(said(show(log, t.of)) for show in SHOWN)


def test_a_week_without_answers(turns):
    t = turns["regression"]
    log = t.served_log[~t.served_log["when"].between("2020-04-10", "2020-05-01")]
    assert all(said(show(log, t.of)) for show in SHOWN)


def test_rows_that_the_model_never_saw_the_like_of(turns):
    t = turns["multiclass"]
    raw = t.raw.assign(shop="nowhere", weight=np.nan)
    log = sources.replayed(raw, t.served, 7, **LATE)
    assert len(log) and np.isfinite(frames.predictions(log, t.of)).all()


def micros(moment):
    return None if pd.isna(moment) else pd.Timestamp(moment).value // 1000


def serve(t, root, url="sqlite:///log.db", seed=0):
    """Put a replay's rows into a real log, labels in any order; each row is answered when it happens."""
    of, rows = t.of, t.served_log
    names, timed = frames.prediction_columns(of), of.time is not None
    answers, labels = [], []
    for i, row in enumerate(rows.to_dict("records")):
        features = {c.name: None if pd.isna(row[c.name]) else row[c.name] for c in of.columns}
        at = micros(row[of.time]) if timed else i + 1
        said = json.dumps([row[name] for name in names]).encode()
        entity = row[of.entity] if of.entity else None
        given = json.dumps(features).encode()
        model = row["answered_by"]
        time = at if timed else None
        answers.append(
            PredictionRecord(row[of.id], at, model, "champion", entity, time, given, said)
        )
        if not pd.isna(row[of.label]):
            value = str(row[of.label]) if of.classes else repr(row[of.label])
            known = micros(row["labelled_at"]) if timed else len(rows) + 5
            labels.append(Label(row[of.id], value, known))
    book, order = open_log(url, root=root), np.random.default_rng(seed).permutation(len(labels))
    book.append(answers[:100])
    book.label([labels[i] for i in order])
    book.append(answers[100:])
    return book


@pytest.mark.parametrize("task", TASKS)
def test_a_log_gives_the_table_that_the_replay_gives(task, turns, tmp_path):
    t = turns[task]
    serve(t, tmp_path).close()
    until = "2020-06-10" if t.of.time else ""
    found = sources.log("log", tmp_path, t.served, 70, "sqlite:///log.db", until)
    expected = t.served_log.assign(labelled_at=found.rows["labelled_at"])
    if t.of.time:
        expected = t.served_log
        assert found.facts["answered (UTC)"] == "2020-04-01 00:00:00 to 2020-06-10 00:00:00"
    pd.testing.assert_frame_equal(found.rows, expected)
    assert found.facts["answered by"] == t.served.name and found.facts["log"] == "log.db"
    assert found.quarantine.empty
    told = collect.verdict(found, t.of)
    assert told.state == "ok" and told.evidence["labelled"] == t.served_log[t.of.label].count()
    assert all(said(show(found.rows, t.of)) for show in SHOWN)


def test_until_is_the_clock_of_a_log_that_grows(turns, tmp_path):
    t = turns["multiclass"]
    book = serve(t, tmp_path)
    asked = ("log", tmp_path, t.served, 14, "sqlite:///log.db", "2020-05-01")
    before = sources.log(*asked)
    days = before.rows["when"].dt.normalize().unique()
    assert days.min() == pd.Timestamp("2020-04-17") and days.max() == pd.Timestamp("2020-04-30")
    assert before.rows["labelled_at"].max() < pd.Timestamp("2020-05-01")
    assert before.rows["colour"].isna().sum() > 10
    late = micros("2020-05-02")
    book.label([Label(id, "red", late) for id in before.rows["key"]])
    book.append([PredictionRecord("new", late, "m", "champion", None, late, b"{}", b"[1, 0, 0]")])
    book.close()
    pd.testing.assert_frame_equal(sources.log(*asked).rows, before.rows)
    now = sources.log(*asked[:-1], "").rows
    assert now["when"].max() == t.served_log["when"].max()


def test_a_log_of_models_with_other_classes_says_what_it_leaves_out(turns, tmp_path):
    t = turns["multiclass"]
    book = serve(t, tmp_path)
    at = micros("2020-06-09")
    book.append([PredictionRecord("x", at, "other", "champion", None, at, b"{}", b"[0.5, 0.5]")])
    book.append([PredictionRecord("y", at, "shadow", "shadow", None, at, b"{}", b"[1, 0, 0]")])
    book.close()
    found = sources.log("log", tmp_path, t.served, 70, "sqlite:///log.db", "2020-06-10")
    assert len(found.rows) == len(t.served_log)
    assert found.facts["answered by"] == t.served.name
    told = collect.verdict(found, t.of)
    assert told.evidence["quarantined"] == 1 and "; 1 row quarantined." in told.sentence
    assert "quarantined: 1 for prediction: is of a model with other classes" in said(told)


def test_a_log_that_is_not_there_or_empty_is_said_in_a_sentence(turns, tmp_path):
    t = turns["regression"]
    asked = ("log", tmp_path, t.served, 70, "sqlite:///data/log.db")
    found = sources.log(*asked, "")
    assert not (tmp_path / "data").exists()
    told = collect.verdict(found, t.of)
    assert told.state == "investigate"
    assert told.sentence == "Nothing was collected: there is no prediction log at data/log.db."
    assert "`modelkeep serve`" in said(told)
    assert all(said(show(found.rows, t.of)) for show in SHOWN)
    open_log("sqlite:///data/log.db", root=tmp_path).close()
    told = collect.verdict(sources.log(*asked, ""), t.of)
    assert told.sentence == "Nothing was collected: data/log.db has no predictions yet."
    told = collect.verdict(sources.log(*asked, "2020-06-10"), t.of)
    assert "has no predictions from 2020-04-01 00:00:00 to 2020-06-10 00:00:00." in told.sentence


def test_what_cannot_be_collected(turns, tmp_path):
    served = turns["binary"].served
    with pytest.raises(SourceError, match="'kafka' is not known; there are: replay, log"):
        sources.log("kafka", tmp_path, served, 7, "", "")
    open_log("sqlite:///log.db", root=tmp_path).close()
    with pytest.raises(SourceError, match="until: 'soon' is not a date"):
        sources.log("log", tmp_path, served, 7, "sqlite:///log.db", "soon")
