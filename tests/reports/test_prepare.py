import numpy as np
import pandas as pd
import pytest

import synthetic
from modelkeep.data import inspect
from modelkeep.reports import prepare
from modelkeep.reports.figures import Figure
from synthetic import said

TASKS = tuple(synthetic.LABELS)
SHOWN = (
    prepare.timeline,
    prepare.label_course,
    prepare.columns,
    prepare.ignored,
    prepare.missing,
    prepare.quarantine,
)


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("show", SHOWN)
def test_every_kind_of_table_is_shown(task, show, turns):
    assert said(show(turns[task].parts))


@pytest.mark.parametrize("task", TASKS)
def test_the_sentence_accounts_for_every_known_row(task, turns):
    parts = turns[task].parts
    told, c = prepare.verdict(parts), parts.counts
    assert told.state == "ok" and told.evidence == c
    assert told.sentence == (
        f"Of {c['rows_in']:,} known rows, {c['train']:,} are for training, {c['test']:,} for testing, "
        f"{c['unlabelled']:,} have no label (yet) and 0 are quarantined."
    )
    assert f"{c['later']:,} rows later than as_of: not used" in said(told)


def test_quarantine_makes_one_look_when_it_is_large():
    frame = synthetic.table(rows=1000)
    frame.loc[frame.index % 10 == 0, "size"] = 99.0
    parts = synthetic.prepared(frame=frame, rules={"size": {"low": -50, "high": 50}})
    told = prepare.verdict(parts)
    assert told.state == "investigate" and "100 are quarantined" in told.sentence
    assert "quarantined: 100 for size: is outside" in said(told)
    assert "is outside" in said(prepare.quarantine(parts))


def test_older_rows_are_named():
    parts = synthetic.prepared(as_of="2020-02-25", history_days=50, test_days=10)
    assert parts.counts["older"] > 0
    assert f"{parts.counts['older']} are older than history_days" in said(prepare.verdict(parts))


@pytest.mark.parametrize(
    ("timed", "changes", "words"),
    [
        (True, {"test_days": 30}, "30 days to test on are enough for the gate"),
        (True, {"test_days": 29}, "29 days to test on are too few for the gate"),
        (False, {"test_share": 0.4}, "480 rows to test on are enough for the gate"),
        (False, {"test_share": 0.01}, "12 rows to test on are too few for the gate"),
    ],
)
def test_it_says_if_the_test_is_long_enough(timed, changes, words):
    parts = synthetic.prepared(timed=timed, **changes)
    assert words in said(prepare.timeline(parts))


def test_the_label_is_told_in_its_own_terms(turns):
    course = {task: said(prepare.label_course(turns[task].parts)) for task in TASKS}
    assert "Does late stay as common as it was?" in course["binary"]
    assert "in twenty parts, in the order of learning" in course["binary"]
    assert "Does colour stay as common as it was?" in course["multiclass"]
    assert "Does price stay as large as it was?" in course["regression"]
    assert "by week" in course["regression"]


def test_fewer_rows_than_parts_of_the_file():
    parts = synthetic.prepared(frame=synthetic.table(rows=12, timed=False), timed=False)
    assert said(prepare.label_course(parts)) and said(prepare.timeline(parts))


def test_a_month_without_rows():
    frame = synthetic.table()
    frame.loc[frame.index > 300, "when"] += pd.Timedelta(days=60)
    parts = synthetic.prepared(frame=frame)
    assert said(prepare.label_course(parts)) and said(prepare.timeline(parts))


def test_columns_are_told_by_what_they_hold():
    frame = synthetic.table(often=np.arange(1200) % 7, empty=None, same="x")
    parts = synthetic.prepared(frame=frame, rules={"shop": {"missing": "reject"}})
    shown = said(prepare.columns(parts))
    assert "0 to 6, whole" in shown and "3 names: east, north and south" in shown
    assert "missing: quarantine" in shown and "missing: allowed" in shown
    left = said(prepare.ignored(parts))
    assert "empty" in left and "constant" in left


def test_a_category_whose_names_are_all_rare():
    frame = synthetic.table(rows=600, note=[f"note {i}" for i in range(600)])
    parts = synthetic.prepared(frame=frame, rules={"note": {"kind": "category"}})
    assert "0 names: all are rare" in said(prepare.columns(parts))


def test_missing_values_are_drawn_where_there_are_any():
    frame = synthetic.table()
    assert isinstance(prepare.missing(synthetic.prepared(frame=frame)), Figure)
    whole = synthetic.prepared(frame=frame.assign(weight=1.0 * np.arange(1200) % 7, shop="a"))
    assert "No value of any column is missing." in said(prepare.missing(whole))


def test_numbers_that_were_read_as_text_are_hinted_at():
    frame = synthetic.table(rows=400)
    frame["price"] = [
        f"{x:.2f}".replace(".", ",") for x in np.random.default_rng(0).gamma(2, 9, 400)
    ]
    hints = inspect.hints(frame, inspect.Roles("late", "when", "key"), {})
    told = prepare.verdict(synthetic.prepared(frame=frame, test_days=20), hints)
    assert told.state == "investigate"
    assert 'rules: {"price": {"decimal": ","}}' in said(told)
    assert inspect.hints(frame, inspect.Roles("late", "when", "key"), {"price": {}}) == []


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({}, "the test rows are 40% of each class, drawn with seed 0"),
        ({"shuffle": False}, "the test rows are the last 40% of the file (shuffle is false)"),
    ],
)
def test_the_verdict_says_how_a_table_without_time_was_cut(changes, words):
    assert words in said(prepare.verdict(synthetic.prepared(timed=False, **changes)))
