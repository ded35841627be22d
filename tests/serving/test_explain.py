"""`explain: true` in a request: the Shapley values of the definition, beside the prediction."""

import itertools
import json
import math

import numpy as np
import pytest

import live
import modelkeep as mk
import tables
from modelkeep.core import workspace
from modelkeep.training import bundle, pipelines
from modelkeep.training.explain import Explainer


@pytest.fixture(scope="module", params=tables.TABLES)
def served(request, tmp_path_factory):
    root = tmp_path_factory.mktemp("explain") / "ws"
    made = tables.bundle(request.param, root.parent / "bundle")
    tables.released(root, root.parent / "bundle")
    return root, made, tables.table(request.param)


def definition(model, row, background, scale):
    """Shapley values of the first columns by their definition, over all subsets of these.

    The others keep the row's values, so that few subsets are left.
    """
    names = [c.name for c in model.schema.columns]

    def value(known):
        mixed = background.copy()
        for name in names:
            if name in known:
                mixed[name] = row[name]
        p = pipelines.predict(model.pipeline, mixed, model.schema)
        return scale(p).mean(axis=0)

    values = {}
    for name in names:
        others, total = [n for n in names if n != name], 0.0
        for size in range(len(names)):
            weight = math.factorial(size) * math.factorial(len(names) - size - 1)
            for chosen in itertools.combinations(others, size):
                total = total + weight * (value({*chosen, name}) - value({*chosen}))
        values[name] = total / math.factorial(len(names))
    return values


def test_an_explanation_comes_with_each_prediction(served):
    root, model, frame = served
    rows = tables.rows(frame.head(4))
    number = next(c.name for c in model.schema.columns)
    broken = rows[3] | {number: "a lot"}
    plain, (full) = tables.requests(
        root, {"rows": rows[:3]}, {"rows": [*rows[:3], broken], "explain": True}
    )
    expected = Explainer(model)(frame.head(3))
    for i, (with_, without) in enumerate(
        zip(full["predictions"], plain["predictions"], strict=False)
    ):
        said = with_.pop("explanation")
        assert with_ == without
        assert said == expected.as_dict(i)
        assert said["base"] + sum(said["values"].values()) == pytest.approx(said["output"])
        assert set(said["values"]) == {c.name for c in model.schema.columns}
    assert "error" in full["predictions"][3] and "explanation" not in full["predictions"][3]


def test_values_are_those_of_the_definition(tmp_path):
    """Iris has four columns, so that all subsets can be tried; diabetes as numbers on four."""
    small = tables.table("diabetes")[["bmi", "bp", "s5", "s6", "row", "y"]]
    split = tables.splits.prepare(small, label="y", id_column="row", test_share=0.3)
    regression = tables.synthetic.sealed(tmp_path / "diabetes", split)
    forest = tables.bundle("iris", tmp_path / "iris")
    for name, model, frame in (("d", regression, small), ("i", forest, tables.table("iris"))):
        background = model.out_of_fold.sample(20, random_state=0)
        rows = frame.head(2)
        said = Explainer(model, background)(rows)
        for i in range(2):
            expected = definition(model, rows.iloc[i], background, lambda p: p)
            values = np.array([expected[c] for c in said.columns])
            assert said.values[i] == pytest.approx(values, abs=1e-6), name


def test_the_server_explains_by_http_and_refuses_too_many_rows(served):
    root, _, frame = served
    rows = tables.rows(frame.head(3))
    with live.served(root, "auth=none", "explain_rows=2") as server:
        status, body = server.ask("POST", "/predict", {"rows": rows[:2], "explain": True})
        assert status == 200 and len(body["predictions"][1]["explanation"]["values"]) > 3
        status, body = server.ask("POST", "/predict", {"rows": rows, "explain": True})
        assert (status, body["error"]["place"]) == (422, "$.explain")
        status, body = server.ask("POST", "/predict", {"rows": rows[:1], "explain": False})
        assert status == 200 and "explanation" not in body["predictions"][0]
        status, body = server.ask("POST", "/predict", b'{"rows":[],"explain":1}')
        assert status == 422
        twice = b'{"explain":true,"rows":[%b],"explain":true}' % json.dumps(rows[0]).encode()
        assert server.ask("POST", "/predict", twice)[0] == 400


def test_a_server_that_tells_nothing_explains_nothing(served, tmp_path):
    root, _, frame = served
    copy = tables.copied(root, tmp_path / "ws")
    workspace.set_params(copy, "serve", {"errors": "brief"})
    (reply,) = tables.requests(copy, {"rows": tables.rows(frame.head(1)), "explain": True})
    assert "explanation" not in json.dumps(reply) and "error" in reply


def test_a_trace_explains(served, monkeypatch):
    root, model, frame = served
    (reply,) = tables.requests(root, {"rows": tables.rows(frame.head(1)), "explain": True})
    monkeypatch.chdir(root)
    found = mk.trace(frame["row"].iloc[0], explain=True)[-1]
    assert found.explanation == reply["predictions"][0]["explanation"]
    column, value = max(found.explanation["values"].items(), key=lambda each: abs(each[1]))
    assert f"  {value:+.3g}  {column} = " in repr(found)
    assert mk.trace(frame["row"].iloc[0])[-1].explanation is None
    assert bundle.load(root / "models" / "candidate").sha256 == model.sha256
