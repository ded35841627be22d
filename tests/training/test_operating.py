"""Costs from the params to bundle, gate, page and server."""

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

import synthetic
from modelkeep.core.markup import number
from modelkeep.evaluation import metrics
from modelkeep.predictions import frames
from modelkeep.registry import store
from modelkeep.registry.store import Now, Role
from modelkeep.reports import evaluate, monitor
from modelkeep.serving import models
from modelkeep.training import bundle, costs, pipelines, trial
from modelkeep.training.baseline import ChampionError
from modelkeep.training.costs import CostsError
from modelkeep.training.engines import decision
from synthetic import said

MISSED = {"errors": {"1": {"0": 5}, "0": {"1": 1}}}
COLOURS = {"errors": {"red": {"green": 9, "blue": 9}, "green": {"red": 1}, "blue": {"red": 1}}}


def operating(task, stated, parts):
    log = synthetic.promise(parts[task])
    return log, costs.learn(stated, parts[task].schema, log)["operating"]


def test_without_costs_the_manifest_says_nothing_and_the_most_probable_class_is_named(parts):
    of = parts["binary"].schema
    assert costs.learn({}, of, synthetic.promise(parts["binary"])) == {}
    assert decision.decide({}, np.array([[0.6, 0.4], [0.1, 0.9]])).tolist() == [0, 1]
    assert costs.of({}) is None


@pytest.mark.parametrize(("task", "stated"), [("binary", MISSED), ("multiclass", COLOURS)])
def test_what_the_manifest_keeps_decides_as_the_rule_that_was_learned(task, stated, parts):
    log, kept = operating(task, stated, parts)
    p = frames.predictions(log, parts[task].schema)
    known, rule = costs.of({"operating": kept})
    named = decision.decide(kept, p)
    assert (costs.decide(known, rule, p) == named).all()
    assert (known.matrix == costs.read(stated, parts[task].schema.classes).matrix).all()
    usual = costs.per_row(known, rule, pipelines.outcome(log, parts[task].schema), p).mean()
    y = pipelines.outcome(log, parts[task].schema)
    assert usual <= known.matrix[y, p.argmax(axis=1)].mean()


def test_costs_that_do_not_fit_the_label_are_refused(parts):
    log = synthetic.promise(parts["binary"])
    for stated, words in (
        ({"errors": {"late": {"0": 5}}}, "'late' is no class of the label: 0, 1"),
        ({"error": {}}, "'error' is unknown; use errors, column and retrain"),
        ({"errors": {"1": {"0": "much"}}}, "'much' is no number"),
        (MISSED | {"column": "fare"}, "the rows have no number 'fare'"),
    ):
        with pytest.raises(CostsError, match=words):
            costs.learn(stated, parts["binary"].schema, log)
    with pytest.raises(CostsError, match="the label is a number"):
        costs.learn(MISSED, parts["regression"].schema, synthetic.promise(parts["regression"]))


@pytest.fixture(scope="module")
def tried(parts, tmp_path_factory):
    """A candidate with costs, and its trial beside the plain rule."""
    folder = tmp_path_factory.mktemp("costs")
    synthetic.sealed(folder / "models/candidate", parts["binary"], costs=MISSED)
    (folder / "models/champion.json").write_text("{}")
    candidate = bundle.load(folder / "models/candidate")
    return (
        folder,
        candidate,
        trial.compare(folder, candidate, parts["binary"].train, parts["binary"].test),
    )


def test_the_gate_may_be_asked_in_money(tried):
    root, candidate, found = tried
    bounds = synthetic.BOUNDS | {"margin_cost": 0.05}
    judged, *_ = trial.judge(root, candidate, found, bounds | {"judge_by": "cost"})
    (gain,) = judged.gains
    lines = trial.costs_by_rule(candidate, found)
    assert gain.metric == "cost"
    assert gain.gain == pytest.approx((lines[found.beside] - lines["candidate"]).mean())
    assert gain.margin == pytest.approx(0.05 * lines[found.beside].mean())
    both, *_ = trial.judge(root, candidate, found, bounds | {"judge_by": "both"})
    assert [g.metric for g in both.gains] == [*metrics.METRICS["binary"], "cost"]
    assert "cost a row" in said(evaluate.gains(judged))
    with pytest.raises(ChampionError, match="judge_by: 'money' is not one of"):
        trial.judge(root, candidate, found, bounds | {"judge_by": "money"})
    plain = replace(candidate, manifest={})
    with pytest.raises(ChampionError, match="needs costs"):
        trial.judge(root, plain, found, bounds | {"judge_by": "cost"})


def test_the_page_compares_the_rule_with_naming_one_class(tried):
    _, candidate, found = tried
    lines = trial.costs_by_rule(candidate, found)
    shown = said(evaluate.costs(lines, found.blocks, candidate.manifest["operating"]))
    for name in ("candidate, threshold", "always 0", "always 1", found.beside):
        assert name in shown
    drawn = said(
        evaluate.errors(
            candidate.schema, found.outcome, found.ours, candidate.manifest["operating"]
        )
    )
    assert f"With the threshold {number(candidate.manifest['operating']['threshold'])}" in drawn
    missed = (found.outcome == 1).mean() * 5
    assert lines["always 0"].mean() == pytest.approx(missed)
    assert "No costs are stated" in said(evaluate.costs({}, found.blocks, {}))


def test_the_server_names_the_class_that_costs_least(tried, parts, tmp_path):
    root, candidate, _ = tried
    store.point(tmp_path, Now(Role(store.add(tmp_path, root / "models/candidate"))))
    service = models.load(tmp_path, store.now(tmp_path), 1000)
    rows = parts["binary"].test
    features = rows[[c.name for c in candidate.schema.columns]].astype(object)
    body = json.dumps({"rows": features.where(features.notna(), None).to_dict("records")})
    read, refused, *_ = service.reader.decode(body.encode())
    assert not refused
    for i, row in enumerate(read):
        row.id = str(i)
    found, _ = service.predict(read)
    cut = candidate.manifest["operating"]["threshold"]
    assert [each.best for each in found] == [int(each.value[1] >= cut) for each in found]
    assert 0 < sum(each.value[1] >= cut for each in found) < len(found)
    assert any(each.best != np.argmax(each.value) for each in found)


def test_the_monitor_shows_the_cost_of_each_window_as_pandas_does(tried, parts):
    _, candidate, _ = tried
    rows, of = parts["binary"].test, candidate.schema
    log = frames.with_predictions(rows, of, candidate.predict(rows))
    named = candidate.predict(rows)[:, 1] >= candidate.manifest["operating"]["threshold"]
    late = rows["late"].astype(str).to_numpy() == "1"
    cost = pd.Series(np.where(late, 5.0 * ~named, 1.0 * named), rows.index)
    week = (rows["when"] - rows["when"].min().normalize()) // pd.Timedelta(days=7)
    by_week = cost.groupby(week).mean()
    shown = said(monitor.costs(candidate, log, 7, 1000))
    assert f"{number(by_week.min())} to {number(by_week.max())} a row" in shown
    unlabelled = log.assign(late=log["late"].where(np.zeros(len(log), bool)))
    assert "No label has come yet" in said(monitor.costs(candidate, unlabelled, 7, 1000))
    plain = replace(candidate, manifest={})
    assert "No costs are stated" in said(monitor.costs(plain, log, 7, 1000))
