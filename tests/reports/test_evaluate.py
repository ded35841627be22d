import json
import shutil
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

import synthetic
from modelkeep.core import markup
from modelkeep.evaluation import comparison, metrics
from modelkeep.evaluation.comparison import LeakError
from modelkeep.reports import evaluate
from modelkeep.reports.figures import Figure
from modelkeep.training import baseline, bundle, pipelines
from modelkeep.training.baseline import ChampionError, SliceError
from modelkeep.training.bundle import BundleError
from synthetic import said

TASKS = tuple(synthetic.LABELS)


def gain(metric="log_loss", verdict="better", value=0.02, rows=1000, blocks=40, **more):
    low, high = value - 0.01, value + 0.01
    made = {"margin": 0.005, "low": low, "high": high, "design_effect": 4.0} | more
    return comparison.Gain(metric, value, verdict=verdict, rows=rows, blocks=blocks, **made)


def judged(word="better", *gains, slices=()):
    return comparison.Verdict(word, gains or (gain(), gain("auc")), 0.05, slices)


def told(verdict):
    return evaluate.verdict(verdict, "the champion v1", 1000)


def cut(name="shop a", verdict="worse", value=-0.1):
    return {"slice": name, "gain": value, "low": -0.2, "high": 0.1, "rows": 300} | {
        "blocks": 40,
        "p": 0.001,
        "verdict": verdict,
    }


@pytest.fixture
def workspace(turns, tmp_path):
    """A folder with the multiclass candidate, and no champion yet."""
    shutil.copytree(turns["multiclass"].root, tmp_path / "here")
    return tmp_path / "here"


def crown(root, **named):
    (root / "models" / "champion.json").write_text(json.dumps(named))


def champion(root, parts, **parameters):
    """Seal another model and name it the champion."""
    synthetic.sealed(root / "models" / "old", parts, "linear", **parameters)
    crown(root, bundle="models/old", version="v1.0.0")


@pytest.mark.parametrize("task", TASKS)
def test_every_page_can_be_shown(task, turns):
    t, j = turns[task], turns[task].judged
    shown = said(evaluate.verdict(j.verdict, j.comparator.name, j.checked))
    assert "is better than always saying the" in shown
    assert f"{len(t.parts.test):,} test rows checked" in shown
    drawn = evaluate.gains(j.verdict, j.margins)
    assert isinstance(drawn, Figure) and said(drawn)
    assert said(
        evaluate.side_by_side(task, j.outcome, j.ours, j.theirs, j.blocks, j.comparator.name)
    )
    calibration = evaluate.calibration(t.parts.test, t.of, j.outcome, j.ours)
    assert said(calibration) and isinstance(calibration, Figure) == (task != "regression")
    learned = t.served.manifest.get("intervals")
    calibration = evaluate.calibration(t.parts.test, t.of, j.outcome, j.ours, learned)
    assert ("90%" in said(calibration)) == (task == "regression")
    assert said(evaluate.slice_figure(j.verdict))
    assert said(markup.table(evaluate.design_effects(j.verdict)))
    lines = evaluate.calibration_csv(t.of, j.outcome, j.ours, j.blocks).splitlines()
    assert lines[0] == "predicted,observed" and len(lines) == (1 if task == "regression" else 11)
    found = evaluate.stage_metrics(task, j.outcome, j.ours, j.verdict)
    assert {f"gain_{g.metric}" for g in j.verdict.gains} < set(found)
    assert not set(found) & set(metrics.METRICS[task])  # train's: DVC then prints no file's name
    assert all(np.isfinite(list(found.values())))


def test_days_are_days_and_rows_are_rows(turns):
    timed, untimed = (
        said(evaluate.verdict(turns[t].judged.verdict, "x", 1)) for t in ("multiclass", "binary")
    )
    assert "of 35 days that neither had seen" in timed
    assert "days" not in untimed and "1,200 rows that neither had seen" in untimed


@pytest.mark.parametrize("task", TASKS)
def test_a_plain_baseline_says_the_same_of_every_row(task, turns):
    t = turns[task]
    comparator = baseline.comparator(t.root, t.served, t.parts.test, t.parts.train)
    assert (comparator.predictions == comparator.predictions[0]).all()
    assert (
        comparator.name.endswith("mean" if task == "regression" else "rate")
        or "past" in comparator.name
        or "training rows" in comparator.name  # without time nothing is past
    )
    past = t.log[t.of.label]
    if task == "regression":
        assert past.min() < comparator.predictions[0] < past.max()
    else:
        assert comparator.predictions[0].sum() == pytest.approx(1)
        shares = past.value_counts(normalize=True)[list(t.of.classes)]
        assert np.allclose(comparator.predictions[0], shares, atol=0.1)


def test_the_baseline_is_the_better_of_past_and_newest(turns):
    t = turns["regression"]
    rows = t.parts.test.assign(price=t.log["price"].mean() + 0.0)
    assert (
        baseline.comparator(t.root, t.served, rows, t.parts.train).name
        == "always saying the mean of the past"
    )
    newest = t.log.tail(200)["price"].mean() + 3.0
    log = t.served.out_of_fold.copy()
    log.loc[log["when"] >= log["when"].max() - pd.Timedelta(days=34), "price"] = newest
    moved = replace(t.served, out_of_fold=log)
    rows = t.parts.test.assign(price=newest)
    assert (
        baseline.comparator(t.root, moved, rows, t.parts.train).name
        == "always saying the newest mean"
    )


def test_the_champion_is_compared_by_name(turns, workspace):
    t = turns["multiclass"]
    champion(workspace, t.parts)
    found = baseline.comparator(workspace, t.served, t.parts.test, t.parts.train)
    assert found.name == "the champion v1.0.0"
    old = bundle.load(workspace / "models" / "old")
    assert (found.predictions == old.predict(t.parts.test)).all()
    assert len(found.trained_rows) == len(t.served.trained_rows) + len(old.trained_rows)


def test_the_same_bundle_is_not_better_than_itself(turns, workspace):
    t = turns["multiclass"]
    crown(workspace, bundle="models/candidate", version=None)
    found = synthetic.judge(workspace, t.served, t.parts.test)
    assert found.verdict.word == "non_inferior"
    shown = said(evaluate.verdict(found.verdict, found.comparator.name, found.checked))
    assert f"is not worse than the champion {t.served.name}" in shown
    assert said(evaluate.gains(found.verdict, found.margins))
    assert said(markup.table(evaluate.design_effects(found.verdict)))


@pytest.mark.parametrize("columns", [2, None])
def test_the_recipe_of_a_champion_that_saw_test_rows_is_compared_from_the_same_rows(
    columns, turns, workspace
):
    """Each refit learns from everything known, so a changed recipe finds no row that it lacks."""
    t = turns["multiclass"]
    fewer = replace(t.of, columns=t.of.columns[:columns])
    everything = pd.concat([t.parts.train, t.parts.test], ignore_index=True)
    champion(workspace, replace(t.parts, train=everything, schema=fewer))
    found = baseline.comparator(workspace, t.served, t.parts.test, t.parts.train)
    assert found.name == "the champion v1.0.0 fitted to the same rows"
    twin = synthetic.fitted(replace(t.parts, schema=fewer), "linear")
    expected = pipelines.predict(twin, t.parts.test, fewer)
    assert np.allclose(found.predictions, expected)
    old = bundle.load(workspace / "models" / "old")
    assert not np.allclose(found.predictions, old.predict(t.parts.test))


def test_a_candidate_that_saw_the_test_rows_stops_the_page(turns, workspace):
    t = turns["multiclass"]
    with pytest.raises(LeakError, match="either model"):
        synthetic.judge(workspace, t.served, t.parts.train)


@pytest.mark.parametrize(
    ("other", "words"),
    [
        ({"task": "regression", "classes": ()}, "task is regression, the candidate's multiclass"),
        ({"classes": ("a", "b", "c")}, "classes is a, b and c"),
        ({"label": "shade"}, "label is shade"),
        ({"time": None}, "time is none"),
        ({"columns": "more"}, "needs height .number., which the candidate's rows do not have"),
    ],
)
def test_a_champion_that_cannot_be_compared(other, words, turns):
    ours = turns["multiclass"].of
    if "columns" in other:
        other = {"columns": (*ours.columns, replace(ours.columns[0], name="height"))}
    with pytest.raises(ChampionError, match=words):
        baseline.check_comparable(replace(ours, **other), ours)


@pytest.mark.parametrize("text", ["", "[]", "null", '"v1"', "{"])
def test_a_champion_file_that_is_none(text, turns, workspace):
    (workspace / "models" / "champion.json").write_text(text)
    with pytest.raises(ChampionError, match=r"models/champion\.json: not readable"):
        baseline.comparator(
            workspace, turns["multiclass"].served, turns["multiclass"].parts.test, None
        )


def test_a_champion_whose_bundle_is_gone(turns, workspace):
    crown(workspace, bundle="models/gone", version="v1")
    with pytest.raises(BundleError, match="gone"):
        baseline.comparator(
            workspace, turns["multiclass"].served, turns["multiclass"].parts.test, None
        )


def test_too_few_days_are_insufficient(tmp_path):
    parts = synthetic.prepared(test_days=12)
    served = synthetic.sealed(tmp_path / "models" / "candidate", parts, "linear")
    crown(tmp_path, bundle=None)
    found = synthetic.judge(tmp_path, served, parts.test)
    shown = said(evaluate.verdict(found.verdict, found.comparator.name, found.checked))
    assert found.verdict.word == "insufficient"
    assert "The candidate cannot be compared yet with always saying" in shown
    assert "the test has 12 days, and 30 are needed." in shown
    assert "18 more days needed: raise test_days" in shown
    assert said(evaluate.gains(found.verdict, found.margins))


@pytest.mark.parametrize("blocks", [1, 2])
def test_hardly_any_day_is_still_a_page(blocks):
    unknown = {"low": np.nan, "high": np.nan, "design_effect": np.nan} if blocks == 1 else {}
    few = judged("insufficient", gain(blocks=blocks, **unknown))
    assert said(told(few)) and said(evaluate.gains(few, {"log_loss": 0.005}))
    assert said(markup.table(evaluate.design_effects(few)))
    y, p = np.array([0, 1]), np.tile([0.5, 0.5], (2, 1))
    assert said(evaluate.side_by_side("binary", y, p, p, np.zeros(2), "x"))


def test_a_table_without_time_is_told_to_test_on_more_rows():
    shown = said(told(judged("insufficient", gain(rows=20, blocks=20))))
    assert "the test has 20 rows, and 30 are needed." in shown
    assert "10 more rows needed: raise test_share" in shown


def test_a_loss_is_not_called_a_gain():
    shown = said(told(judged("worse", gain(value=-0.02, verdict="worse"), gain("auc"))))
    loss = "log loss 0.02 higher (0.01 to 0.03 higher; lower is better)"
    assert f"{loss}, margin 0.005: worse" in shown and f"neither had seen: {loss}." in shown
    assert "AUC 0.02 higher (0.01 to 0.03 higher; higher is better)" in shown


@pytest.mark.parametrize(
    ("metric", "value", "text"),
    [
        ("auc", -0.01, "AUC 0.01 lower (0 to 0.02 lower; higher is better)"),
        ("auc", 0.004, "AUC 0.004 higher (0.006 lower to 0.014 higher; higher is better)"),
        (
            "log_loss",
            -0.004,
            "log loss 0.004 higher (0.006 lower to 0.014 higher; lower is better)",
        ),
        ("log_loss", 0.004, "log loss 0.004 lower (0.006 higher to 0.014 lower; lower is better)"),
    ],
)
def test_an_amount_says_its_direction_and_which_is_better(metric, value, text):
    assert evaluate.amount(gain(metric, value=value)) == text


@pytest.mark.parametrize(
    ("gains", "words"),
    [
        ((gain(), gain("auc")), "is not worse than the champion v1 in all, but worse for shop a"),
        (
            (gain(verdict="inconclusive"), gain("auc")),
            "cannot be distinguished from the champion v1 in all, but worse for shop a",
        ),
        ((gain(verdict="worse"), gain("auc")), "is worse than the champion v1, on"),
    ],
)
def test_a_worse_slice_is_told_for_what_it_is(gains, words):
    slices = (cut(), cut("shop b", "not shown worse"), cut("shop c", "insufficient"))
    shown = said(told(judged("worse", *gains, slices=slices)))
    assert words in shown
    assert (
        "worse for 1 of 3 named slices; 1 of them on fewer than 30 days, so they are not judged"
        in shown
    )


def test_slices_are_drawn_worst_first():
    slices = tuple(cut(f"shop {i}", "not shown worse", i / 10) for i in range(30))
    shown = evaluate.slice_figure(judged(slices=(*slices, cut())))
    assert "20 slices of 31, worst first" in shown.caption
    assert "Worse for sure: shop a." in shown.caption
    assert "No slice has enough rows" in said(evaluate.slice_figure(judged()))


def test_a_margin_of_nothing_is_a_table():
    assert "gain: 0.02" in said(evaluate.gains(judged(), {"log_loss": 0.0, "auc": 0.005}))


def test_the_caption_states_the_error_rate():
    wide = replace(judged(), alpha=0.1)
    assert "limits at 10% each" in evaluate.gains(wide, {"log_loss": 1, "auc": 1}).caption


def test_slices_are_the_values_with_rows_enough(turns):
    t = turns["multiclass"]
    rows, schema = t.parts.test, t.of
    found = baseline.slices(rows, schema, [])
    many = rows["shop"].value_counts()
    assert set(found) == {f"shop {name}" for name in many.index[many >= baseline.SLICE_ROWS]}
    assert all(
        (rows["shop"][found[f"shop {n}"]] == n).all() for n in ("north",) if f"shop {n}" in found
    )
    assert baseline.slices(rows, schema, ["shop"]).keys() == found.keys()
    assert baseline.slices(rows.head(10), schema, []) == {}


@pytest.mark.parametrize("name", ["size", "shp", "colour"])
def test_a_slice_that_cannot_be_cut(name, turns):
    t = turns["multiclass"]
    with pytest.raises(SliceError, match=f"'{name}' is not a category .* there is: shop"):
        baseline.slices(t.parts.test, t.of, [name])
