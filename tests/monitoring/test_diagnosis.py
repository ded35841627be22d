import numpy as np
import pandas as pd
import pytest
from sklearn import datasets
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor
from sklearn.model_selection import cross_val_predict

import shifted
import synthetic
from modelkeep.monitoring.diagnosis import DiagnosisError, diagnose, newest

QUICK = {"permutations": 199}
DRIFTS = {"harder": 0, "concept": 1, "new": 2}


def diagnosed(what="", task="binary", seed=1, timed=True, **settings):
    before, now = shifted.periods(seed, what, task)
    label = shifted.LABELS[task]
    return diagnose(before, now, label=label, time="when" if timed else "", **QUICK | settings)


@pytest.mark.parametrize("task", ["binary", "multiclass", "regression"])
@pytest.mark.parametrize("what", DRIFTS)
def test_a_pure_shift_is_attributed_to_its_own_term(what, task):
    if (what, task) == ("harder", "regression"):
        pytest.skip("noise is alike everywhere: no row of this table is harder")
    split = diagnosed(what, task).split
    shares = [t.value / split.drop.value for t in split.terms]
    assert shares[DRIFTS[what]] >= 0.8, shares
    assert sum(t.value for t in split.terms) == pytest.approx(split.drop.value, abs=1e-9)


@pytest.mark.parametrize(
    ("what", "kind", "target"),
    [
        ("", "wait", ""),
        ("harder", "wait", ""),
        ("level", "recalibrate", ""),
        ("concept", "retrain", None),
        ("new", "collect labels", "age above"),
        ("missing", "mend the source", "size"),
        ("unit", "mend the source", "size"),
        ("stuck", "mend the source", "size"),
    ],
)
def test_the_remedy_follows(what, kind, target):
    remedy = diagnosed(what).remedy
    assert remedy.kind == kind, remedy
    assert target is None or (
        remedy.target.startswith(target) and bool(remedy.target) == bool(target)
    )


def test_the_probability_of_class_1_alone_is_a_prediction_of_two_classes():
    pair = shifted.periods(1, "concept")
    named = [f.assign(late=(f["late"] == "yes").astype(int)) for f in pair]
    alone = [f.rename(columns={"p(yes)": "prediction"}).drop(columns="p(no)") for f in named]
    both = [f.rename(columns={"p(yes)": "p(1)", "p(no)": "p(0)"}) for f in named]
    found = [diagnose(*each, label="late", time="when", **QUICK) for each in (alone, both)]
    assert found[0].remedy == found[1].remedy and found[0].metric == found[1].metric
    assert found[0].split.drop.value == pytest.approx(found[1].split.drop.value)
    flags = [f.assign(late=f["late"] == 1) for f in alone]  # True and False
    assert diagnose(*flags, label="late", time="when", **QUICK).metric == found[0].metric
    with pytest.raises(DiagnosisError, match="predictions are missing"):
        diagnose(alone[0], both[1], label="late", time="when", **QUICK)
    price = [f.assign(late=f["late"] + 0.5) for f in alone]  # no label of 0 and 1
    assert diagnose(*price, label="late", time="when", **QUICK).metric != found[0].metric


def test_a_column_of_the_calendar_is_not_stuck():
    """The month of a day is one value for weeks, as it was before."""
    before, now = shifted.periods(1, "concept", rows=6000)
    before = before.assign(season=before["when"].dt.day // 3 * 1.0)
    result = diagnose(before, now.assign(season=11.0), label="late", time="when", **QUICK)
    (season,) = [c for c in result.columns if c.name == "season"]
    assert "stuck" not in season.broken and result.remedy.target != "season"


@pytest.mark.parametrize("task", ["multiclass", "regression"])
@pytest.mark.parametrize(("what", "kind"), [("", "wait"), ("concept", "retrain")])
def test_classes_and_numbers_get_a_remedy_too(task, what, kind):
    assert diagnosed(what, task).remedy.kind == kind


def test_the_segment_that_lost_is_the_target_of_retraining():
    before, now = shifted.periods(1, "segment", rows=60_000, days=30)
    result = diagnose(before, now, label="late", time="when", **QUICK)
    assert set(result.segments[0].condition.split(" and ")) == {"shop = west", "hour 18 to 21"}
    assert result.remedy.target == result.segments[0].condition


def test_a_drifted_column_has_its_contribution():
    column = diagnosed("missing").columns[0]
    assert (column.name, column.contribution.positive) == ("size", True)
    assert column.broken.startswith("missing share rose from 0.00% to")


def test_it_prints_itself_in_a_few_lines():
    result = diagnosed("new")
    text = synthetic.said(result)
    assert repr(result).splitlines()[0].startswith("Remedy: collect labels (age above")
    assert len(repr(result).splitlines()) <= 12
    assert "rows unlike before" in text


def test_before_labels_come_the_loss_is_estimated_and_said_to_be():
    before, now = shifted.periods(0, "harder")
    result = diagnose(before, now.drop(columns="late"), label="late", time="when", **QUICK)
    assert not result.labelled
    assert result.split.harder.value >= 0.8 * result.drop > 0
    assert "Estimated log loss" in repr(result)
    assert "assumes that the relation of inputs to labels is as before" in repr(result)
    _, now = shifted.periods(0, "concept")
    blind = diagnose(before, now.assign(late=None), label="late", time="when", **QUICK)
    assert blind.remedy.kind == "wait"
    numbers = shifted.periods(0, "new", "regression")
    numbers[1]["price"] = np.nan
    known = diagnose(*numbers, label="price", time="when", **QUICK)
    assert (known.labelled, known.remedy.kind) == (False, "collect labels")


@pytest.mark.parametrize("rows", [0, 50])
def test_too_few_rows_say_so(rows):
    before, now = shifted.periods(0)
    result = diagnose(before, now.head(rows), label="late", time="when")
    assert result.remedy.kind == "cannot say"
    assert f"{rows} rows of" in repr(result)
    few = diagnose(before.head(50), now, label="late", time="when")
    assert few.remedy.reason.startswith("the period before has too few labels: 50 rows of")


def test_few_days_leave_segments_unsaid():
    before, now = shifted.periods(0, rows=2000, days=9)
    result = diagnose(before, now, label="late", time="when", **QUICK)
    assert result.segments == ()
    assert any("9 blocks" in each for each in result.unknown)


def test_no_predictions_or_no_label_are_refused():
    before, now = shifted.periods(0, rows=500)
    with pytest.raises(DiagnosisError, match="no column 'p\\(no\\)'"):
        diagnose(before.drop(columns="p(no)"), now.drop(columns="p(no)"), label="late", time="when")
    with pytest.raises(DiagnosisError, match="label: 'lat' is no column"):
        diagnose(before, now, label="lat")


def test_the_same_rows_give_the_same_diagnosis():
    assert repr(diagnosed("missing")) == repr(diagnosed("missing"))


def test_periods_of_unequal_volume_without_a_change_need_nothing():
    """1,000 rows a day before, 60 now: no segment, no remedy."""
    kinds = []
    for seed in range(4):
        before = shifted.period(seed, rows=30_000)
        now = shifted.period(seed, rows=1800, month=7)
        kinds.append(diagnose(before, now, label="late", time="when", **QUICK).remedy.kind)
    assert kinds.count("wait") >= 3


@pytest.mark.parametrize("name", ["breast_cancer", "diabetes", "digits"])
def test_tables_of_scikit_learn_without_time(name):
    """A bundled table in two halves, in which nothing has changed."""
    x, y = getattr(datasets, f"load_{name}")(return_X_y=True, as_frame=True)
    x = x.iloc[:, :12].sample(frac=1, random_state=1)
    y = y.loc[x.index].to_numpy()
    x = x.reset_index(drop=True).rename(columns=str)
    numbers = name == "diabetes"
    kind = HistGradientBoostingRegressor if numbers else HistGradientBoostingClassifier
    model = kind(max_iter=30, random_state=0)
    p = cross_val_predict(model, x, y, cv=5, method="predict" if numbers else "predict_proba")
    named = {"prediction": p} if numbers else {f"p({k})": p[:, k] for k in range(p.shape[1])}
    table = pd.concat([x, pd.DataFrame(named)], axis=1).assign(label=y)
    half = len(table) // 2
    result = diagnose(table[:half], table[half:], label="label", **QUICK)
    assert result.remedy.kind == "wait", result
    few = diagnose(table[:half], table[half : half + 60], label="label", **QUICK)
    assert few.remedy.kind == "cannot say"


@pytest.mark.parametrize("what", ["", "segment", "new", "missing"])
def test_a_diagnosis_prints_its_tables(what):
    before, now = shifted.periods(1, what)
    result = diagnose(before, now, label="late", time="when", permutations=199)
    text = synthetic.said(result)
    assert f"Remedy: {result.remedy.kind}" in text
    assert "rows unlike before" in text
    for segment in result.segments:
        assert segment.condition in text
    for column in result.columns:
        assert column.name in text


def test_an_estimate_and_too_few_rows_say_so():
    before, now = shifted.periods(1, rows=3000)
    hidden = diagnose(before, now.assign(late=None), label="late", time="when", permutations=199)
    text = synthetic.said(hidden)
    assert "estimated log loss" in text and "Estimates assume" in text
    few = diagnose(before, now.head(40), label="late", time="when")
    assert synthetic.said(few).count("cannot say") >= 2  # text and markup


def test_the_newest_windows_are_compared(turns):
    """Four windows of the collected log: binary without time, other tasks by day."""
    for turn in turns.values():
        served, log = turn.served, turn.served_log
        result = newest(served, log, 7, 300)
        assert result.labelled or result.remedy.kind == "cannot say"
        days = served.schema.time and log[served.schema.time].dt.floor("D")
        if days is not None:
            since = days[log[served.schema.label].notna()].max() - np.timedelta64(27, "D")
            rows = (days >= since) & log[served.schema.label].notna()
            assert result.rows == rows.sum()
        else:
            assert result.rows <= 1200
        synthetic.said(result)


def test_an_empty_log_cannot_say(turns):
    turn = next(iter(turns.values()))
    result = newest(turn.served, turn.served_log.head(0), 7, 300)
    assert result.remedy.kind == "cannot say"
    synthetic.said(result)
