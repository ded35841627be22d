from types import SimpleNamespace

import numpy as np
import pytest
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import FunctionTransformer

import synthetic
from modelkeep.data import inspect, splits
from modelkeep.evaluation import metrics
from modelkeep.evaluation.metrics import Estimate
from modelkeep.predictions import frames
from modelkeep.reports import train
from modelkeep.reports.figures import Figure
from modelkeep.training import pipelines, validation
from synthetic import said

TASKS = tuple(synthetic.LABELS)


def found(blocks=20, rows=100, design_effect=9.0, low=0.5):
    return {"log_loss": Estimate(0.6, 0.05, low, 0.7, rows, blocks, design_effect, 0.0)}


def told(estimates=None, left=None, time="when", **serving):
    serving = {"engine": "onnx", "rows": 10, "largest_difference": 1e-7, "reason": ""} | serving
    fold = pipelines.Fold(10, np.arange(5), np.zeros(5), {"log_loss": 0.61234})
    manifest = {"serving": serving}
    schema, estimates = SimpleNamespace(label="y", time=time), estimates or found()
    return said(train.verdict("forest", estimates, [fold], manifest, schema, left or {}))


def test_rows_without_a_time_are_not_called_newer():
    assert "on rows newer than those it learned from" in told()
    assert "on rows other than those it learned from" in told(time=None)


@pytest.mark.parametrize("task", TASKS)
def test_every_page_can_be_shown(task, turns):
    t = turns[task]
    outcome = pipelines.outcome(t.log, t.of)
    expected_performance = validation.expected_performance(t.log, t.of, outcome)
    left = inspect.alone(t.parts.train, t.of.label, [c.name for c in t.of.columns])
    made = (t.model, expected_performance, t.folds, t.served.manifest, t.of, left)
    shown = said(train.verdict(*made))
    assert said(train.alone(left, t.of.label))
    assert f"The {t.model} candidate reaches" in shown
    for name in metrics.METRICS[task]:
        assert metrics.NAMES[name] in shown
    engine = "Bit vectors (QuickScorer)" if task == "binary" else "ONNX"
    assert f"{engine} will serve: the largest difference" in shown
    assert said(train.steps(t.unfitted)) and said(train.by_fold(t.folds))
    assert said(train.over_time(t.log, t.of, outcome, expected_performance))
    drawn = train.calibration(t.log, t.of, outcome)
    assert said(drawn) and isinstance(drawn, Figure) == (task != "regression")
    assert "golden.json" in said(train.contents(t.served.manifest))


@pytest.mark.parametrize("task", TASKS)
def test_the_promise_is_what_cross_validation_answered(task, turns):
    t = turns[task]
    assert len(t.log) == sum(len(f.rows) for f in t.folds)
    said_there = np.concatenate([f.predictions for f in t.folds])
    assert (frames.predictions(t.log, t.of) == said_there).all()
    assert t.log[t.of.id].tolist() == t.parts.train[t.of.id].iloc[-len(t.log) :].tolist()


def test_the_promise_has_an_interval_by_day(turns):
    t = turns["regression"]
    outcome = pipelines.outcome(t.log, t.of)
    squared = (outcome - t.log["prediction"]).to_numpy() ** 2
    wanted = metrics.clustered(squared, splits.blocks(t.log, t.of))
    assert validation.expected_performance(t.log, t.of, outcome)["squared_error"] == wanted


def test_days_are_named_only_where_they_matter():
    assert "rows of one day are alike: the interval is 3 times as wide" in told()
    for calm in (
        found(design_effect=1.0),
        found(blocks=100),
        found(blocks=1, design_effect=np.nan),
    ):
        assert "alike" not in told(calm)


def test_no_interval_is_no_interval():
    assert "reaches log loss 0.6 on rows" in told(found(low=np.nan))
    assert "reaches log loss 0.6 (0.5 to 0.7) on rows" in told()


def test_onnx_that_was_left_out_is_told_with_its_reason():
    shown = told(engine="estimator", reason="onnx: row 3 differs by 0.2")
    assert (
        "behind our preprocessing will serve" in shown and "left out: onnx: row 3 differs" in shown
    )


def test_steps_name_what_is_chosen(turns):
    shown = said(train.steps(turns["regression"].unfitted))
    assert "SimpleImputer, then StandardScaler" in shown and "Ridge()" in shown
    assert "HistGradientBoostingClassifier(" in said(train.steps(turns["binary"].unfitted))
    assert "as it is" in said(train.steps(turns["binary"].unfitted))


def test_own_steps_are_the_same_text_each_time_and_say_where_they_are_cut(turns):
    usual = turns["binary"].unfitted.steps
    own = ("features", FunctionTransformer(lambda frame: frame))
    assert "features of lib/pipeline.py" in said(train.steps(Pipeline([own, *usual])))
    assert "HistGradientBoostingClassifier(" in said(train.steps(Pipeline([own, *usual])))
    shown = said(train.steps(Pipeline([("mine", own[1]), *usual])))
    assert "FunctionTransformer(" in shown and "0x" not in shown and " …" in shown


def test_the_settings_of_any_kind_are_shown(kind, parts):
    shown = said(train.steps(pipelines.pipeline(parts["binary"].schema, kind, trees=33)))
    assert ("33" in shown) == (kind != "linear")


def test_a_column_that_nearly_decides_the_label_is_named_with_its_remedy():
    assert told(left={"age": 0.9}).startswith("ok:")
    shown = told(left={"boat": 0.01, "week": 0.04, "age": 0.9})
    assert shown.startswith("investigate:") and "too good to be true: see boat and week." in shown
    assert "boat nearly decides y alone (1.0% of the error is left)" in shown
    assert "`drop: [boat, week]`" in shown and "age" not in shown


def test_what_single_columns_say_is_drawn_or_said():
    drawn = train.alone({"boat": 0.01, "age": 0.9, "noise": 1.02}, "y")
    assert isinstance(drawn, Figure) and "boat removes 99%; nearly all of it: boat" in said(drawn)
    assert "no column decides more than 95%" in said(train.alone({"age": 0.6}, "y"))
    assert "No column alone removes 10%" in said(train.alone({"noise": 0.99}, "y"))
    assert "too few" in said(train.alone({}, "y"))
