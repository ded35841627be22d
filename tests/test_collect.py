from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

import synthetic
from modelkeep import collect, traffic
from modelkeep.figures import Figure
from synthetic import said

TASKS = tuple(synthetic.LABELS)
LATE = {"delay_days": 1, "wait_days": 2, "lost": 0.02, "seed": 0}
SHOWN = (collect.arrived, collect.waiting, collect.said, collect.example)


def of_rows(log):
    return collect.Collected(log, {"source": "replay"})


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
    assert np.allclose(traffic.answers(log, t.of), t.served.answer(log), rtol=1e-6)
    assert (log["answered_by"] == t.served.name).all()
    assert (log["labelled_at"].dropna() <= pd.Timestamp("2020-06-10")).all()
    told = collect.verdict(of_rows(log), t.of)
    known = log[t.of.label].notna().sum()
    assert told.state == "done" and told.evidence == {"rows": len(log), "labelled": known}
    assert f"{len(log):,} answers from 2020-04-01 to 2020-06-09" in told.sentence
    assert f"known for {known:,} of them ({known / len(log):.1%})" in told.sentence
    assert "half of the labels came within" in said(told)


def test_without_time_the_log_is_what_follows_in_the_file(turns):
    t = turns["binary"]
    assert t.served_log["key"].tolist() == t.raw["key"].iloc[3000:].tolist()
    told = collect.verdict(of_rows(t.served_log), t.of)
    assert told.sentence.startswith("3,000 answers; what came true is known for")
    assert "labels came within" not in said(told)


def test_one_seed_gives_one_log(turns):
    t = turns["multiclass"]
    again = collect.replayed(t.raw, t.served, 70, **LATE)
    pd.testing.assert_frame_equal(again, t.served_log)
    fewer = collect.replayed(t.raw, t.served, 14, **LATE)
    assert len(fewer) < len(again) / 4


@pytest.mark.parametrize(("task", "as_of"), [("multiclass", ""), ("multiclass", "2021-01-01")])
def test_nothing_is_left_to_answer(task, as_of, turns):
    t = turns[task]
    log = collect.replayed(t.raw, with_as_of(t.served, as_of), 70, **LATE)
    assert log.empty
    told = collect.verdict(of_rows(log), t.of)
    assert told.state == "look" and "Nothing was collected" in told.sentence
    assert "a moment before the newest rows" in said(told)
    assert all(said(show(log, t.of)) for show in SHOWN)


def test_nothing_is_left_to_answer_in_a_file(turns):
    t = turns["binary"]
    log = collect.replayed(t.raw, with_as_of(t.served, ""), 70, **LATE)
    assert log.empty
    assert "fewer rows than the table has" in said(collect.verdict(of_rows(log), t.of))


def test_no_label_came_at_all(turns):
    t = turns["multiclass"]
    log = collect.replayed(t.raw, t.served, 70, **LATE | {"lost": 1.0})
    assert "known for 0 of them (0.0%)" in said(collect.verdict(of_rows(log), t.of))
    assert all(said(show(log, t.of)) for show in SHOWN)


def test_a_week_without_answers(turns):
    t = turns["regression"]
    log = t.served_log[~t.served_log["when"].between("2020-04-10", "2020-05-01")]
    assert all(said(show(log, t.of)) for show in SHOWN)


def test_rows_that_the_model_never_saw_the_like_of(turns):
    t = turns["multiclass"]
    raw = t.raw.assign(shop="nowhere", weight=np.nan)
    log = collect.replayed(raw, t.served, 7, **LATE)
    assert len(log) and np.isfinite(traffic.answers(log, t.of)).all()
