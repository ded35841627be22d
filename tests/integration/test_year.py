"""The year's machinery on some days of a small table: its clock, its traffic, its checks, and a
planted model that goes back.
"""

import json
import sqlite3
from contextlib import closing

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

import rollouts
import synthetic
import tiny
import year
from clock import Clock
from clone import HISTORY, Clone, YearError, shuffled
from modelkeep.rollout import control
from page import page, verdict
from results import evaluate, wrong

ASKED = {"label": "late", "id_column": "key", "time_column": "when", "label_delay_days": 1}
RULES = {"label_maturity_hours": {"quality": 30}, "analysis_interval_seconds": 21_600}
RULES |= {"max_hours": 240, "bake_hours": 6}
CHANGE = "UPDATE answers SET ids = ?, answers = ? WHERE n = ?"
START, DAYS = "2020-03-01", 17


@pytest.fixture(scope="module")
def table():
    """Some hundred rows a day, at any hour; of a few of them nothing ever comes true."""
    found = synthetic.table(rows=700 * DAYS, days=DAYS, seed=7)
    draw = np.random.default_rng(7)
    hours = pd.to_timedelta(draw.integers(0, 24, len(found)), unit="h")
    late = found["late"].astype("Int8").mask(draw.random(len(found)) < 0.02)
    return found.assign(when=found["when"] + pd.Timedelta(days=60) + hours, late=late)


@pytest.fixture(scope="module")
def lived(table, tmp_path_factory):
    """Days under a good canary, and then under a planted one."""
    place = tmp_path_factory.mktemp("year")
    trio = rollouts.models(place / "models")
    (place / "clone").mkdir()
    hashes = rollouts.workspace(place / "clone", trio, **RULES)
    (place / "clone" / HISTORY).mkdir()
    table.iloc[:0].to_parquet(place / "clone" / HISTORY / "from.parquet")
    for command in (["init", "-q"], ["commit", "-q", "--allow-empty", "-m", "Start"]):
        assert tiny.run(place / "clone", "git", *command).returncode == 0
    days = year.Year(place, table, START, "2020-03-18", 0.05)
    days.serve(ASKED)
    try:
        for day in range(days.start, days.end, year.DAY):
            if days.controller is None and hashes:
                name = "good" if "good" in hashes else "bad"
                begun = control.start(place / "clone", hashes.pop(name), day, anyway=True)
                days.happened(
                    day,
                    "planted" if name == "bad" else "update",
                    rollout=begun.spec.id,
                    gate="worse",
                    version=name,
                )
                hashes = {k: v for k, v in hashes.items() if k == "bad"}
                days.follow()
            days.day(day)
    finally:
        days.stop()
    return days


@pytest.fixture(scope="module")
def results(lived):
    """The results of these days."""
    return evaluate(lived.clone.root, lived.table, ASKED, lived.traffic, lived.first)


def test_every_row_is_in_the_log_once_as_in_the_response(lived, results):
    assert wrong(results) == {}
    assert results.checks["rows requested"] == len(lived.table) == len(results.by)
    assert (
        0.85 < results.checks["labels sent"] / len(lived.table) < 0.93
    )  # the last day's are to come
    assert lived.traffic.counts["label first"] == results.checks["labels sent"]


def test_the_good_one_is_promoted_and_the_planted_one_goes_back(lived, results):
    assert [j.end for j in results.journals] == ["advance", "rollback"]
    good, bad = results.journals
    assert "`quality` is worse" in bad.verdicts[-1].reason
    for found in (good, bad):  # they began and ended in the time of the year, at full looks
        assert "2020-03" in str(np.datetime64(found.spec.started, "us"))
        assert found.state.at % 21_600 < 2 or found.state.at % 21_600 > 21_598
    by = results.by == bad.spec.canary["sha256"][:10]
    assert by.sum() < len(results.by) / 10
    assert results.days[by].max() <= np.datetime64(bad.upto, "us")


def test_answers_and_labels_are_of_the_time_of_the_year(lived):
    with closing(control.open_log(lived.clone.root)) as book:
        asked = [call.at for call in book.calls(0, 2**62)]
        rows = pa.Table.from_batches(book.read(0, 2**62)).to_pandas()
    first, last, n = min(asked), max(asked), len(set(asked))
    late = (rows["labelled_at"] - rows["at"]).dropna().agg(["min", "max"])
    assert 0 <= first - 1e6 * lived.start < 100
    assert lived.end - year.DAY < last / 1e6 < lived.end
    assert n >= DAYS * 20
    assert np.allclose(late.dt.total_seconds(), year.DAY, atol=1)


def test_quality_by_week_is_that_of_who_served(results):
    assert len(results.starts) == 2
    assert (results.served["auc"] > 0.6).all()
    assert np.isfinite(results.gain("auc").value)
    assert not np.array_equal(results.served["auc"], results.never["auc"])


def test_a_row_that_is_lost_doubled_or_changed_is_found(lived, results):
    path = lived.clone.root / "data/log/predictions.db"
    with sqlite3.connect(path) as base:
        n, ids, said = base.execute(
            "SELECT n, ids, answers FROM answers WHERE json_array_length(ids) > 2 LIMIT 1"
        ).fetchone()
        names, given = json.loads(ids), json.loads(said)
        other = ["nobody", names[2], *names[2:]], [*given[:2], [0.5, 0.5], *given[3:]]
        changed = [json.dumps(each) for each in other]
        base.execute(CHANGE, (changed[0], changed[1].encode(), n))
    base.close()
    try:
        found = wrong(evaluate(lived.clone.root, lived.table, ASKED, lived.traffic, lived.first))
    finally:
        with sqlite3.connect(path) as base:
            base.execute(CHANGE, (ids, said, n))
        base.close()
    assert found["requested and not in the log"] == 2
    assert found["in the log and not requested"] == found["in the log twice"] == 1
    assert found["response differs from the log"] >= 2
    assert found["differs from the named model"] >= 1


def test_its_page_says_first_what_the_year_comes_to(lived, results):
    made = {"short": "0" * 10, "changed": False}
    text = page(results, lived.events, year.PARAMS, made, 60.0)
    assert "rolled back after" in verdict(results, lived.events, 60.0, 1, 10).text
    assert text.index('class="verdict') < text.index("<h2")
    assert text.count("<figure") <= 6 and "http" not in text.split("<svg")[0]
    assert synthetic.said(verdict(results, lived.events, 60.0, 1, 10))
    assert verdict(results, lived.events, 60.0, 1, 10).text.startswith("done")


def test_a_clock_never_tells_a_process_the_same_time_twice(tmp_path):
    ours, theirs = Clock(tmp_path / "clock", 5.0), Clock(tmp_path / "clock")
    assert [theirs.nanoseconds() for _ in range(3)] == [5_000_000_000, 5_000_001_000, 5_000_002_000]
    ours.move(7.5)
    assert theirs.nanoseconds() == 7_500_000_000
    assert theirs.seconds() == 7.5


def test_only_labels_that_are_learned_from_are_shuffled(table):
    at = year.seconds("2020-03-17")
    asked = ASKED | {"test_days": 5}
    found = shuffled(table, asked, at, 0)
    old = table["when"] < "2020-03-10"
    same = found["late"].eq(table["late"]) | table["late"].isna()
    assert same[~old].all()
    assert 0.3 < same[old].mean() < 0.9
    assert found["late"].sum() == table["late"].sum()
    assert found.drop(columns="late").equals(table.drop(columns="late"))


def test_a_value_that_is_not_there_once_is_refused(tmp_path):
    clone = Clone(tmp_path)
    (tmp_path / "params").mkdir()
    path = tmp_path / "params" / "a.yaml"
    path.write_text("one: 1   # first\ntwo: {x: 2}   # second\n")
    clone.set({"a": {"one": [1, 2], "two": {"x": 3}}})
    assert path.read_text() == 'one: [1, 2]   # first\ntwo: {"x": 3}   # second\n'
    with pytest.raises(YearError, match="0 lines `three"):
        clone.set({"a": {"three": 3}})
