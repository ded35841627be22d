"""Which experiment is better, from out-of-fold predictions of one table by two models."""

import re
from dataclasses import replace

import numpy as np
import pytest

import synthetic
from modelkeep.evaluation import metrics
from modelkeep.predictions import frames
from modelkeep.reports import paired
from modelkeep.reports.experiments import Run
from modelkeep.training import costs as costing
from modelkeep.training import pipelines

PLOTS = {"backtest": "", "calibration": "", "quality": ""}
TASKS = tuple(synthetic.LABELS)


@pytest.fixture(scope="module")
def runs():
    """By task an experiment on 60 days, one with noise added to its predictions, one with other noise."""
    made = {}
    for task in TASKS:
        parts = synthetic.prepared(task, synthetic.table(task, rows=3000, days=120))
        rows = synthetic.promise(parts)
        draw = np.random.default_rng(0)
        made[task] = [
            run(f"{task}-{size}", parts.schema, rows, noise(rows, parts.schema, size, draw))
            for size in (0, 0.9, 1e-4)
        ]
    return made


def run(name, schema, rows, predictions):
    rows = frames.with_predictions(rows, schema, predictions)
    return Run(name, "", {}, {}, {}, {}, PLOTS, schema, rows)


def noise(rows, schema, size, draw):
    p = frames.predictions(rows, schema)
    if schema.task == "regression":
        return p + draw.normal(0, 3 * size, len(p))
    p = p * np.exp(draw.normal(0, size, p.shape))
    return p / p.sum(axis=1, keepdims=True)


@pytest.mark.parametrize("task", TASKS)
def test_noise_makes_an_experiment_worse_and_its_removal_better(runs, task):
    plain, noisy, alike = runs[task]
    worse = paired.compare(plain, noisy)
    assert worse.verdict.word == "worse"
    name = metrics.NAMES[metrics.METRICS[task][0]]
    pattern = rf"{noisy.name} is not better than {plain.name}: {name} \+[\d.]+, [\d.]+ to [\d.]+"
    assert re.match(pattern, worse.sentence), worse.sentence
    assert paired.compare(noisy, plain).verdict.word == "better"
    assert paired.compare(plain, alike).verdict.word == "non_inferior"
    same = paired.compare(plain, plain)
    assert f"{plain.name} is as good as {plain.name}: {name} +0, 0 to 0" in same.sentence


def test_only_rows_that_both_predicted_are_compared(runs):
    plain, noisy, _ = runs["binary"]
    half = noisy.predictions.iloc[::-2]  # also in another order
    less = paired.compare(
        plain, run("half", noisy.schema, half, frames.predictions(half, noisy.schema))
    )
    assert less.verdict.gains[0].rows == len(half)
    shared = plain.predictions[plain.predictions.key.isin(half.key)]
    y = pipelines.outcome(shared, plain.schema)
    loss = metrics.log_loss(y, frames.predictions(shared, plain.schema)).mean()
    theirs = half.iloc[::-1]
    other = metrics.log_loss(y, frames.predictions(theirs, noisy.schema)).mean()
    assert less.verdict.gains[0].gain == pytest.approx(loss - other)


def test_what_cannot_be_compared_is_said(runs):
    plain = runs["binary"][0]
    other = runs["multiclass"][0]
    assert "their task, label and classes differ" in paired.compare(plain, other).sentence
    none = Run("old", "", {}, {}, {}, {}, PLOTS, lost="its candidate is gone")
    sentence = paired.compare(plain, none).sentence
    assert sentence == f"old cannot be compared with {plain.name}: its candidate is gone."


def test_the_best_experiment_stands_on_top(runs):
    plain, noisy, _ = runs["binary"]
    box = paired.conclusion([paired.compare(noisy, each) for each in (noisy, plain)])
    assert repr(box).startswith(f"better: {plain.name} is better than {noisy.name}")


def test_curves_that_differ_are_drawn_on_one_scale(runs):
    plain, noisy, _ = runs["binary"]
    (figure,) = paired.overlays([plain, noisy])
    assert plain.name in figure.svg and noisy.name in figure.svg
    assert paired.overlays([plain, plain]) == []


def test_experiments_that_state_the_same_costs_are_compared_in_money(runs):
    plain, noisy, _ = runs["binary"]
    costs = {"errors": {"1": {"0": 5}, "0": {"1": 1}}}
    stated = [
        replace(each, manifest=costing.learn(costs, each.schema, each.predictions))
        for each in (plain, noisy)
    ]
    verdict = paired.compare(*stated).verdict
    gain = next(gain for gain in verdict.gains if gain.metric == "cost")
    spent = []
    for each in stated:
        y = pipelines.outcome(each.predictions, each.schema)
        p = frames.predictions(each.predictions, each.schema)[:, 1]
        named = p >= each.manifest["operating"]["threshold"]
        spent.append(np.where(y == 1, 5 * ~named, named).mean())
    assert gain.gain == pytest.approx(spent[0] - spent[1]) and gain.gain < 0
    assert "cost a row +" in paired.compare(*stated).sentence
    others = {"errors": {"1": {"0": 9}, "0": {"1": 1}}}
    other = replace(noisy, manifest=costing.learn(others, noisy.schema, noisy.predictions))
    for pair in ((stated[0], other), (plain, stated[1])):
        names = {gain.metric for gain in paired.compare(*pair).verdict.gains}
        assert names == {"log_loss", "auc"}
