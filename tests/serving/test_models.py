import json
from dataclasses import replace

import numpy as np
import pytest

import example
import synthetic
from modelkeep.data import splits
from modelkeep.registry import store
from modelkeep.registry.store import Now, Role
from modelkeep.serving import models
from modelkeep.serving.models import ServingError, in_canary
from modelkeep.training import bundle, manifests
from modelkeep.training.engines import export
from modelkeep.training.engines.export import arrays
from modelkeep.training.engines.quickscorer import QuickScorer

TASKS = tuple(synthetic.LABELS)


def ask(service, rows):
    """The answers to rows as JSON brings them."""
    body = json.dumps({"rows": rows}).encode()
    decoded, refused, *_ = service.reader.decode(body)
    assert not refused
    for i, row in enumerate(decoded):
        row.id = str(i)
    return service.predict(decoded)


def as_json(frame, of):
    rows = frame[[c.name for c in of.columns]].astype(object)
    return rows.where(rows.notna(), None).to_dict("records")


@pytest.fixture(scope="session")
def stores(bundles, tmp_path_factory):
    """A store by task that serves the sealed bundle of it."""
    at, found = next(tmp_path_factory.getbasetemp().glob("bundles*")), {}
    for task in TASKS:
        found[task] = tmp_path_factory.mktemp("store")
        store.point(found[task], Now(Role(store.add(found[task], at / task))))
    return found


@pytest.fixture
def services(stores):
    return {task: models.load(at, store.now(at), 10_000) for task, at in stores.items()}


@pytest.mark.parametrize("task", TASKS)
def test_online_equals_offline_on_every_edge(task, services, bundles, parts):
    of, served = parts[task].schema, bundles[task]
    rows = bundle.edge_cases(parts[task].train, of)
    said, _ = ask(services[task], as_json(rows, of))
    expected = served.predict(rows)
    found = np.array([s.value for s in said])
    assert np.allclose(found, expected, rtol=1e-5 if task == "regression" else 0, atol=1e-5)


@pytest.mark.parametrize("name", manifests.ENGINES)
def test_online_equals_offline_whichever_engine_answers(name, services, bundles, parts, stores):
    of, served, service = parts["binary"].schema, bundles["binary"], services["binary"]
    content = store.check(stores["binary"], served.sha256)
    content[manifests.MANIFEST] = json.dumps({"serving": {"engine": name}}).encode()
    fitted, plan = bundle.undump(content["model.skops"]), json.loads(content["encoding.json"])
    content["model.onnx"] = export.to_onnx(fitted, len(plan["cuts"]), plan["cuts"])
    model = replace(service.champion, engine=models.load_engine(content, of))
    rows = bundle.edge_cases(parts["binary"].train, of)
    said, _ = ask(replace(service, champion=model), as_json(rows, of))
    assert np.abs(np.array([s.value for s in said]) - served.predict(rows)).max() <= 1e-5


def test_online_equals_offline_on_a_thousand_flights(tmp_path):
    table = example.table()
    roles = {"time_column": "scheduled", "id_column": "flight_id", "entity_column": "tailnum"}
    learned = splits.prepare(table.iloc[::60], label="late", **roles)
    served = synthetic.sealed(tmp_path / "b", learned, trees=60, max_depth=4)
    store.point(tmp_path, Now(Role(store.add(tmp_path, tmp_path / "b"))))
    service = models.load(tmp_path, store.now(tmp_path), 1000)
    rows = table.sample(1000, random_state=0)
    shuffled = [dict(reversed(row.items())) for row in as_json(rows, learned.schema)]
    said, _ = ask(service, shuffled)
    assert np.abs(np.array([s.value for s in said]) - served.predict(rows)).max() <= 1e-5


def test_the_share_is_exact_at_both_ends_and_sticky_between():
    names = [f"e{i}" for i in range(20_000)]
    assert not any(in_canary("s", name, 0.0) for name in names)
    assert all(in_canary("s", name, 1.0) for name in names)
    few, more = ({n for n in names if in_canary("s", n, share)} for share in (0.05, 0.25))
    assert few < more and abs(len(few) / 20_000 - 0.05) < 0.01
    other = {n for n in names if in_canary("t", n, 0.05)}
    assert len(few & other) < 120  # another rollout tries other entities


def test_a_canary_answers_its_share_and_nobody_else(stores, bundles, parts):
    at, sha256 = stores["binary"], bundles["binary"].sha256
    tried = Now(Role(sha256), canary=Role(sha256, "v2", 0.3, "salt"))
    service = models.load(at, tried, 10_000)
    said, found = ask(service, as_json(parts["binary"].train, parts["binary"].schema))
    for i, each in enumerate(said):
        assert each.role == ("canary" if in_canary("salt", str(i), 0.3) else "champion")
    assert [len(p.values) for p in found] == [
        sum(s.role == r for s in said) for r in ("champion", "canary")
    ]
    for share, role in ((0.0, "champion"), (1.0, "canary")):
        said, _ = ask(
            replace(service, share=share),
            as_json(parts["binary"].train.head(50), parts["binary"].schema),
        )
        assert {s.role for s in said} == {role}


def test_a_shadow_says_what_it_would_have_said(stores, bundles, parts):
    at, sha256 = stores["binary"], bundles["binary"].sha256
    service = models.load(at, Now(Role(sha256), shadow=Role(sha256)), 10_000)
    said, _ = ask(service, as_json(parts["binary"].train.head(20), parts["binary"].schema))
    (found,) = service.predict_shadow([s.row for s in said])
    assert [s.value for s in found.predictions] == [s.value for s in said]
    assert {s.role for s in said} == {"champion"} and found.role == "shadow"


def test_a_refused_row_costs_the_others_nothing(tmp_path):
    parts = synthetic.prepared(rules={"size": {"low": -10, "high": 10}})
    served = synthetic.sealed(tmp_path / "b", parts, "linear")
    store.point(tmp_path, Now(Role(store.add(tmp_path, tmp_path / "b"))))
    service = models.load(tmp_path, store.now(tmp_path), 10)
    rows = as_json(parts.test.head(3), parts.schema)
    said, found = ask(service, [rows[0], rows[1] | {"size": 99}, rows[2]])
    assert said[1].place == ".size" and len(found[0].rows.numbers) == 2
    answers = served.predict(parts.test.head(3))
    assert np.allclose([said[0].value, said[2].value], answers[[0, 2]], atol=1e-5)
    said, found = ask(service, [rows[1] | {"size": 99}])
    assert len(found[0].values) == len(found[0].rows.numbers) == 0


def test_a_model_that_does_not_repeat_its_reference_predictions_does_not_serve(
    stores, bundles, monkeypatch
):
    predict = QuickScorer.predict
    monkeypatch.setattr(QuickScorer, "predict", lambda *a: predict(*a) + 1e-4)
    with pytest.raises(
        ServingError, match=r"does not repeat its reference predictions here \(.*0\.0001"
    ):
        models.load(stores["binary"], store.now(stores["binary"]), 10)
    monkeypatch.setattr(QuickScorer, "predict", lambda *a: predict(*a) * np.nan)
    with pytest.raises(ServingError, match="reference predictions"):
        models.load(stores["binary"], store.now(stores["binary"]), 10)


def test_a_model_of_another_schema_cannot_be_tried_beside(tmp_path, bundles, tmp_path_factory):
    at = next(tmp_path_factory.getbasetemp().glob("bundles*"))
    both = [store.add(tmp_path, at / task) for task in ("binary", "multiclass")]
    with pytest.raises(ServingError, match=r"does not read what the champion .* \(the classes\)"):
        models.load(tmp_path, Now(Role(both[0]), canary=Role(both[1])), 10)


def test_arrays_of_a_frame_are_what_the_reader_makes(services, parts):
    of, rows = parts["binary"].schema, parts["binary"].test
    decoded, *_ = services["binary"].reader.decode(json.dumps({"rows": as_json(rows, of)}).encode())
    checked, (numbers, categories) = services["binary"].reader.check(decoded), arrays(rows, of)
    assert np.array_equal(checked.numbers, numbers, equal_nan=True)
    assert [list(c) for c in checked.categories] == [list(c) for c in categories]
    assert manifests.MANIFEST
