"""The maintenance policy's decisions, each with what it must stop and what it must let pass."""

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from modelkeep.data import splits
from modelkeep.evaluation import comparison, guards
from modelkeep.predictions import frames
from modelkeep.training import costs, maintenance, pipelines, validation
from modelkeep.training.maintenance import MaintenanceError, Record, Rules, Tried

RULES = Rules()
GAINS = comparison.judge({"log_loss": np.ones(60)}, np.arange(60) // 2, {"log_loss": 1.0}).gains
TASKS = ("binary", "multiclass", "regression")


def table(task="binary", days=100, rows=60, seed=0):
    rng = np.random.default_rng(seed)
    n = days * rows
    a, b = rng.normal(0, 1, (2, n))
    signal = 1.5 * a + rng.logistic(0, 1, n)
    y = {
        "binary": (signal > 1).astype(int),
        "multiclass": np.digitize(signal, [-1, 1]),
        "regression": signal.round(3),
    }[task]
    at = pd.Timestamp("2021-01-01") + pd.to_timedelta(np.arange(n) * 86_400 // rows, unit="s")
    c = rng.choice(["x", "y", "z"], n)
    ids = np.arange(n).astype(str)
    return pd.DataFrame({"id": ids, "at": at, "a": a, "b": b, "c": c, "y": y})


def known(task="binary", change=None, **other):
    """Labelled rows of a table and their schema, the newest week changed."""
    frame = table(task, **other)
    newest = (frame["at"] >= frame["at"].max().floor("D") - pd.Timedelta(days=6)).to_numpy()
    frame = change(frame, newest) if change else frame
    roles = {"label": "y", "time_column": "at", "id_column": "id", "task": "auto"}
    parts = splits.prepare(frame, **roles, test_days=7)
    return pd.concat([parts.train, parts.test], ignore_index=True), parts.schema


def fitted(rows, schema):
    unfitted = pipelines.pipeline(schema, "linear")
    model = pipelines.fit(unfitted, rows, schema)
    return lambda asked: pipelines.predict(model, asked, schema)


@pytest.fixture(scope="module", params=TASKS)
def champion(request):
    """A model of all but the newest week, by task."""
    rows, schema = known(request.param)
    day = splits.blocks(rows, schema)
    return request.param, fitted(rows[day <= day.max() - 7], schema)


def one_label(frame, newest):
    return frame.assign(y=frame["y"].where(~newest, frame["y"].max()))


def other_unit(frame, newest):
    return frame.assign(a=frame["a"].where(~newest, frame["a"] * 1000))


def other_category(frame, newest):
    return frame.assign(c=frame["c"].where(~newest, "x"))


def test_a_usual_week_passes(champion):
    task, predict = champion
    checked = maintenance.check_data(*known(task), predict, Record(), RULES)
    assert not checked.hold and not checked.overruled
    assert checked.sentence == "labels and columns are like those of past weeks"
    assert set(checked.distances) == {"a", "b", "c"}


@pytest.mark.parametrize(
    ("change", "guard"),
    [(one_label, "label"), (other_unit, "column"), (other_category, "column")],
    ids=lambda x: getattr(x, "__name__", x),
)
def test_a_spoiled_week_holds(champion, change, guard):
    task, predict = champion
    checked = maintenance.check_data(*known(task, change), predict, Record(), RULES)
    assert checked.hold
    assert f"{guard} guard: " in checked.sentence


def moody(seed=0):
    """A table whose weeks differ in their rates, the newest by more than half a logit, a model of
    all weeks but that, and what its cross-validation says.
    """
    frame, rng = table("regression", seed=seed), np.random.default_rng(seed)
    week = ((frame["at"] - frame["at"].min()).dt.days // 7).to_numpy()
    mood = np.append(rng.normal(0, 0.8, week.max() - 1), [1.2, 1.2])
    late = frame["y"] + mood[week] > 1
    parts = splits.prepare(
        frame.assign(y=late.astype(int)), label="y", time_column="at", id_column="id", test_days=7
    )
    rows = pd.concat([parts.train, parts.test], ignore_index=True)
    before = rows[splits.blocks(rows, parts.schema) <= splits.blocks(rows, parts.schema).max() - 7]
    unfitted, blocks = (
        pipelines.pipeline(parts.schema, "linear"),
        splits.blocks(before, parts.schema),
    )
    folds = pipelines.cross_validate(unfitted, before, parts.schema, blocks, 5)
    expected = validation.out_of_fold(before, folds, parts.schema)
    return rows, parts.schema, fitted(before, parts.schema), expected


def test_weeks_of_cross_validation_stand_in_for_updates_before_there_are_any():
    held = {"alone": 0, "with": 0, "flipped": 0}
    for seed in range(6):
        rows, schema, predict, expected = moody(seed)
        given = rows, schema, predict, Record(), RULES
        held["alone"] += maintenance.check_data(*given).guards[0].held
        held["with"] += maintenance.check_data(*given, expected=expected).guards[0].held
        newest = splits.blocks(rows, schema) > splits.blocks(rows, schema).max() - 7
        one = rows.assign(y=rows["y"].where(~newest, schema.classes[1]))
        spoiled = one, schema, predict, Record(), RULES
        held["flipped"] += maintenance.check_data(*spoiled, expected=expected).guards[0].held
    assert held == {"alone": 6, "with": 0, "flipped": 6}


def test_gaps_of_past_updates_count_alone_once_there_are_enough():
    rows, schema, predict, expected = moody()
    record = Record(gaps=((0.01,), (-0.01,), (0.02,), (0.01,)))
    plain, other = (
        maintenance.check_data(rows, schema, predict, record, RULES, expected=each).guards[0]
        for each in (None, expected)
    )
    assert plain == other and "from 4 past windows" in plain.sentence


def test_harm_is_a_share_of_an_honest_loss():
    rows, schema = known()
    model = fitted(rows, schema)

    def sure(asked):  # it knows the labels of the rows that it has learned from
        truth = asked["y"].astype(float).to_numpy()
        return np.column_stack([1 - truth, truth]) * 0.9 + 0.05

    def less_sure(asked):
        return sure(asked) * 0.98 + 0.01

    expected = frames.with_predictions(rows, schema, model(rows))
    given = rows, schema, sure, less_sure, Record(), RULES, None
    assert maintenance.check_candidate(*given).guard.held
    assert not maintenance.check_candidate(*given, expected).guard.held


def test_two_holds_in_a_row_at_most():
    record, holds = Record(), []
    rows, schema = known("binary", other_unit)
    predict, passed = fitted(*known()), Tried(guards.harm_guard(GAINS), False)
    for _ in range(4):
        checked = maintenance.check_data(rows, schema, predict, record, RULES)
        record = record.with_data(checked)
        holds.append(checked.hold)
        record = record if checked.hold else record.with_candidate(passed, 0.1, 1)
    assert holds == [True, True, False, True]
    assert not maintenance.check_data(rows, schema, predict, Record(), Rules(max_holds=0)).hold


def test_the_harm_gate_lets_a_refit_pass_and_stops_what_has_learned_nonsense(champion):
    task, predict = champion
    rows, schema = known(task)
    refit = fitted(rows, schema)
    assert not maintenance.check_candidate(rows, schema, predict, refit, Record(), RULES).guard.held
    shuffled = rows.assign(y=rows["y"].sample(frac=1, random_state=0).to_numpy())
    nonsense = fitted(shuffled, schema)
    tried = maintenance.check_candidate(rows, schema, predict, nonsense, Record(holds=2), RULES)
    assert tried.guard.held and not tried.earlier


def test_the_harm_gate_counts_in_money_where_mistakes_have_a_cost():
    rows, schema = known()
    model = fitted(rows, schema)
    stated = costs.read({"errors": {"1": {"0": 20}, "0": {"1": 1}}}, schema.classes)
    cheap = costs.alone(stated)

    def shy(asked):  # as good a rank and loss nearly, but it misses what is dear
        p = model(asked)[:, 1]
        p = np.where((p > cheap.threshold) & (p < 0.12), 0.95 * cheap.threshold, p)
        return np.column_stack([1 - p, p])

    spent = costs.spending(stated, cheap, cheap, schema)
    plain = maintenance.check_candidate(rows, schema, model, shy, Record(), RULES)
    dear = maintenance.check_candidate(rows, schema, model, shy, Record(), RULES, spent)
    assert not plain.guard.held and dear.guard.held and "harm in cost" in dear.guard.sentence
    same = maintenance.check_candidate(rows, schema, model, model, Record(), RULES, spent)
    assert not same.guard.held


def test_what_harms_only_earlier_days_is_refused_twice_at_most():
    rows, schema = known()
    day = splits.blocks(rows, schema)
    changed = rows.assign(
        y=rows["y"].where(day <= day.max() - 28, (rows["b"] > 0).astype(int).astype(str))
    )
    old, new = fitted(rows, schema), fitted(changed[day > day.max() - 28], schema)
    record, refused = Record(), []
    for _ in range(3):
        tried = maintenance.check_candidate(changed, schema, old, new, record, RULES)
        record = record.with_candidate(tried, 0.1, 1)
        refused.append(tried.guard.held)
    assert refused == [True, True, False]
    assert record.holds == 0


def test_risk_is_measured_against_past_updates(champion):
    task, predict = champion
    rows, schema = known(task)
    refit = fitted(rows, schema)
    guard, value = maintenance.risk(rows, schema, predict, refit, 1, Record(), RULES)
    assert guard.held and value > 0
    record = Record()
    for _ in range(4):
        record = record.with_candidate(Tried(guards.harm_guard(GAINS), False), value, 1)
    assert not maintenance.risk(rows, schema, predict, refit, 1, record, RULES)[0].held
    nonsense = fitted(rows.assign(a=rows["a"].to_numpy()[::-1]), schema)
    assert maintenance.risk(rows, schema, predict, nonsense, 1, record, RULES)[0].held


def test_a_reverse_shadow_takes_a_worse_model_back():
    days = np.repeat(np.datetime64("2021-01-01") + np.arange(7), 50)
    y = np.random.default_rng(0).integers(0, 2, len(days))
    good = np.where(y[:, None] == [0, 1], 0.7, 0.3)
    found = maintenance.day_differences("binary", days, y, np.full((len(y), 2), 0.5), good)
    assert list(found.days) == list(np.unique(days)) and found.means.min() > 0
    assert found.loss == pytest.approx(-np.log([0.7, 0.3]) @ [1, 0])
    sure = found.errors, found.loss, Record(), RULES
    assert maintenance.reverse_shadow(found.means, *sure).held
    assert not maintenance.reverse_shadow(-found.means, *sure).held


def test_a_record_is_plain_data_and_is_read_back():
    record = Record(((0.1,), (0.2,)), (0.01,), (0.1, -0.1), (0.0,), 1)
    assert Record.from_dict(json.loads(json.dumps(record.as_dict()))) == record
    assert record.with_differences(np.array([np.nan])) == record
    later = record.with_differences(np.array([0.3, np.nan, 0.1]))
    assert later.differences == (0.1, -0.1, 0.3, 0.1) and later.weekly == (0.0, 0.2)
    with pytest.raises(MaintenanceError, match="not a record of past updates"):
        Record.from_dict({"gaps": 3})


def test_rules_that_make_no_sense_are_refused():
    for name, value in (("label_sds", 0), ("canary_share", 1.5), ("max_holds", -1)):
        with pytest.raises(MaintenanceError, match=f"{name} is {value}"):
            replace(RULES, **{name: value})


def test_a_table_without_time_is_judged_by_its_newest_rows():
    frame = table().drop(columns="at")
    parts = splits.prepare(frame, label="y", id_column="id", test_share=0.1)
    rows = pd.concat([parts.train, parts.test], ignore_index=True)
    predict = fitted(parts.train, parts.schema)
    assert not maintenance.check_data(rows, parts.schema, predict, Record(), RULES).hold
    newest = np.arange(len(rows)) >= len(rows) * 93 // 100
    spoiled = rows.assign(a=rows["a"].where(~newest, rows["a"] * 1000))
    assert maintenance.check_data(spoiled, parts.schema, predict, Record(), RULES).hold
