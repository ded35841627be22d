"""What the server counts is what NumPy counts; all of it is there from the start, and never more than 2,000 series."""

import re
import time
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.openmetrics.parser import text_string_to_metric_families as strict
from prometheus_client.parser import text_string_to_metric_families

import monitors
import synthetic
import watched
from modelkeep.evaluation import live_quality, metrics, profile
from modelkeep.evaluation.profile import PREDICTION
from modelkeep.monitoring.contract import MOST_SERIES
from modelkeep.monitoring.exporter import Telemetry, TelemetryError
from modelkeep.predictions import frames
from modelkeep.training import pipelines

NOW = 1_700_000_000.0


def page(telemetry, now=NOW):
    """Every sample by its name and the values of its labels, in the contract's order."""
    found = {}
    for family in text_string_to_metric_families(watched.text(telemetry, now)):
        for s in family.samples:
            name = s.name.removeprefix("modelkeep_")
            metric = monitors.CONTRACT.metrics.get(re.sub("_(bucket|sum|count)$", "", name))
            labels = [*(metric.labels if metric else ()), *(["le"] if "le" in s.labels else [])]
            key = (name, *(s.labels[label] for label in labels))
            assert key not in found, key
            found[key] = s.value
    return found


@pytest.fixture
def telemetry():
    return Telemetry(monitors.CONTRACT)


def sent(telemetry, served, rows, version, turn=7, at=NOW):
    """Rows in small turns; returns what was said."""
    numbers, categories = watched.seen(rows, served.schema)
    said = served.predict(rows)
    for i in range(0, len(rows), turn):
        part = slice(i, i + turn)
        told = numbers[part], [c[part] for c in categories], said[part]
        telemetry.answered(version, "champion", *told, at=at)
    return said


@pytest.mark.parametrize("task", synthetic.LABELS)
def test_answers_are_counted_as_numpy_counts_them(telemetry, bundles, task):
    served = bundles[task]
    telemetry.serve(served, "champion", version="v", now=NOW)
    before = page(telemetry)
    rows = watched.answered(served, synthetic.table(task, rows=1500, seed=3))
    said = sent(telemetry, served, rows, "v")
    assert telemetry.served["v"].rows_waiting < 512  # memory is bounded without a reader
    found = page(telemetry)
    assert set(found) == set(before)  # no series appears late
    assert found["rows_total", "v", "champion"] == 1500
    assert found["cohort_rows", "v", "0"] == 1500
    for name in ("size", "weight", "shop", PREDICTION):
        bins = [v for k, v in found.items() if k[:3] == ("feature_bin_rows_total", "v", name)]
        assert sum(bins) == 1500, name
    assert found["feature_bin_rows_total", "v", "weight", "missing"] == rows["weight"].isna().sum()
    assert found["feature_bin_rows_total", "v", "shop", "missing"] == rows["shop"].isna().sum()
    if task == "regression":
        assert not [k for k in found if k[0] in ("predictions_total", "score_ratio_count")]
        promise = served.out_of_fold
        past = pipelines.outcome(promise, served.schema), frames.predictions(promise, served.schema)
        for name, mean in metrics.expected_errors(said, *past).items():
            assert found[f"estimated_{name}_total", "v"] == pytest.approx(1500 * mean)
        return
    chosen = said.argmax(axis=1)
    for k in range(said.shape[1]):
        assert found["predictions_total", "v", f"{k:02}"] == (chosen == k).sum()
    score = said[:, 1] if task == "binary" else said.max(axis=1)
    for edge in (0.1, 0.5, 0.9):
        assert found["score_ratio_bucket", "v", f"{edge:g}"] == (score <= edge).sum()
    assert found["score_ratio_sum", "v"] == pytest.approx(score.sum())
    loss = -(said * np.log(said)).sum()
    assert found["estimated_log_loss_nats_total", "v"] == pytest.approx(loss)
    assert found["estimated_correct_rows_total", "v"] == pytest.approx(said.max(axis=1).sum())


def test_everything_is_there_at_zero_before_traffic(telemetry, bundles):
    telemetry.serve(bundles["binary"], "champion", version="v", now=NOW)
    found = page(telemetry)
    counted = [k for k in found if k[0].endswith("_total") and not k[0].startswith("process_")]
    assert len(counted) > 100
    assert {found[k] for k in counted} == {0}
    done = monitors.check(watched.text(telemetry, NOW), "check", "metrics")
    assert done.returncode == 0 and not done.stdout + done.stderr, done.stdout + done.stderr


@pytest.mark.parametrize("accept", ["", "application/openmetrics-text;version=1.0.0,text/plain"])
def test_a_page_has_the_contracts_metrics_in_the_format_that_is_asked_for(
    bundles, parts, accept, tmp_path
):
    registry = CollectorRegistry()
    telemetry = Telemetry(monitors.CONTRACT, registry)
    costs = {"errors": {"1": {"0": 5}, "0": {"1": 1}}}
    dear = {"binary": synthetic.sealed(tmp_path / "dear", parts["binary"], costs=costs)}
    for task, served in (bundles | dear).items():
        telemetry.serve(served, "champion", version=task, now=NOW)
    telemetry.settle(NOW)
    text, kind = telemetry.render(accept)
    parse = strict if accept else text_string_to_metric_families
    families = {family.name: family for family in parse(text.decode())}
    known = {m.name.removesuffix("_total"): m for m in monitors.CONTRACT.metrics.values()}
    assert set(families) == set(known)
    assert all(known[name].type == f.type for name, f in families.items())
    assert kind.startswith("application/openmetrics-text" if accept else "text/plain")
    assert registry.get_sample_value("modelkeep_labels_total", {"outcome": "first"}) == 0


@pytest.mark.parametrize("column", ["", "size"])
def test_what_mistakes_cost_is_shown_where_no_column_weights_them(column, parts, tmp_path):
    given = parts["binary"]
    if column:
        given = type(given)(**vars(given) | {"train": given.train.assign(size=1.0)})
    costs = {"errors": {"1": {"0": 5}, "0": {"1": 1}}, "column": column}
    served = synthetic.sealed(tmp_path / "dear", given, costs=costs)
    registry = CollectorRegistry()
    telemetry = Telemetry(monitors.CONTRACT, registry)
    telemetry.serve(served, "champion", version="v", now=NOW)
    for truth in (1, 0):  # a missed one costs 5, and what is named right nothing
        telemetry.truth("v", NOW, [0.999, 0.001], truth, now=NOW)
    telemetry.settle(NOW)
    shown = registry.get_sample_value("modelkeep_cohort_cost", {"version": "v", "cohort": "0"})
    usual = registry.get_sample_value("modelkeep_expected_cost", {"version": "v"})
    assert shown == (None if column else 5)
    if not column:
        y = pipelines.outcome(served.out_of_fold, served.schema)
        p = frames.predictions(served.out_of_fold, served.schema)[:, 1]
        named = p >= served.manifest["operating"]["threshold"]
        assert usual == pytest.approx(np.where(y == 1, 5 * ~named, named).mean())


def test_requests_problems_labels_and_the_log(telemetry):
    for route, code in (("predict", 200), ("predict", 500), ("/etc/passwd", 200), ("model", 418)):
        telemetry.requests(route, code, 0.003)
    telemetry.problem("unseen", 3)
    telemetry.problem("a kind of its own")
    telemetry.label("first")
    telemetry.swap("refused")
    telemetry.log_committed(32, 0.002)
    found = page(telemetry)
    assert (
        found["requests_total", "predict", "200"] == found["requests_total", "predict", "500"] == 1
    )
    assert found["requests_total", "other", "200"] == found["requests_total", "model", "other"] == 1
    assert found["request_duration_seconds_bucket", "predict", "0.0025"] == 0
    assert found["request_duration_seconds_bucket", "predict", "0.005"] == 2
    assert found["input_problems_total", "unseen"] == 3
    assert found["input_problems_total", "other"] == 1
    assert found["labels_total", "first"] == found["model_swaps_total", "refused"] == 1
    assert found["log_committed_rows_total",] == 32
    assert found["log_writable",] == 1
    telemetry.unlogged(4)
    found = page(telemetry)
    assert found["log_unlogged_rows_total",] == 4 and found["log_writable",] == 0
    with pytest.raises(TelemetryError, match="'late' is not one of first, same, corrected"):
        telemetry.label("late")


def test_labels_reach_the_cohorts_and_the_delay(telemetry, bundles):
    served = bundles["binary"]
    telemetry.serve(served, "champion", version="v", now=NOW)
    rows = watched.answered(served, synthetic.table(rows=300, seed=5))
    said = sent(telemetry, served, rows, "v", at=NOW - 2 * 86_400)
    truth = pipelines.outcome(rows, served.schema)
    for answer, true in zip(said.tolist(), truth.tolist()):
        telemetry.truth("v", NOW - 2 * 86_400, answer, true, now=NOW)
    telemetry.truth("gone", NOW, [0.5, 0.5], 1, now=NOW)  # of a model that has left
    found = page(telemetry)
    assert found["cohort_rows", "v", "1-2"] == found["cohort_labelled_rows", "v", "1-2"] == 300
    called = said.argmax(axis=1)
    assert found["cohort_correct_rows", "v", "1-2"] == (called == truth).sum()
    assert found["cohort_true_positive_rows", "v", "1-2"] == (called & truth).sum()
    assert found["label_delay_seconds_count",] == 301
    later = page(telemetry, NOW + 86_400 * 3)
    assert later["cohort_rows", "v", "1-2"] == 0 and later["cohort_rows", "v", "3-7"] == 300


@pytest.mark.parametrize("task", synthetic.LABELS)
def test_labels_of_a_day_give_the_skill_that_was_learned(telemetry, bundles, task):
    served = bundles[task]
    telemetry.serve(served, "champion", version="v", now=NOW)
    rows = watched.answered(served, synthetic.table(task, rows=600, seed=5))
    said, truth = served.predict(rows), pipelines.outcome(rows, served.schema)
    learned = live_quality.learn(task, truth, said, None)
    answers = np.atleast_2d(said.T).T.tolist()
    for answer, true in zip(answers[:50], truth[50:100].tolist()):
        telemetry.truth("v", NOW, answer, true)  # wrong, and corrected below
    for i, (answer, true) in enumerate(zip(answers, truth.tolist())):
        previous = truth.tolist()[50 + i] if i < 50 else None
        telemetry.truth("v", NOW, answer, true, previous=previous)
    found, known = page(telemetry), served.manifest["live_quality"]
    for days in ("1", "29"):
        assert found["window_labelled_rows", "v", days] == 600
        lost, between, within = (
            found[f"window_{name}", "v", days]
            for name in ("lost_gain", "day_variance", "row_variance")
        )
        weight = 1 - np.sqrt(between * known["day"] / known["row"])  # one day has all labels
        expected = within / weight**2
        realised = known["scale"] * expected - lost * np.sqrt(known["row"]) / weight
        realised -= 600 * known["tolerance"]
        if task != "regression":  # numbers are standardised by the reference
            assert realised == pytest.approx(learned["scale"] * expected, rel=1e-6)


def test_a_model_gets_another_role_and_the_oldest_leaves(telemetry, bundles):
    for number in range(5):
        telemetry.serve(bundles["binary"], "canary", version=f"v{number}", now=NOW + number)
    telemetry.serve(bundles["binary"], "champion", version="v2", now=NOW + 9)
    found = page(telemetry)
    assert {k[1] for k in found if k[0] == "model_info"} == {"v2", "v3", "v4"}
    assert ("model_info", "v2", "champion", "quickscorer", "binary") in found
    assert ("model_info", "v2", "canary", "quickscorer", "binary") not in found
    assert found["model_loaded_timestamp_seconds", "v2"] == NOW + 2
    telemetry.serve(bundles["binary"], "shadow", version="v5", now=NOW)
    assert {k[1] for k in page(telemetry) if k[0] == "rows_total"} == {"v4", "v2", "v5"}
    with pytest.raises(TelemetryError, match="model 'v3' is not in service; call serve first"):
        telemetry.answered("v3", "champion", np.zeros((1, 2)), [[None]], np.array([[0.5, 0.5]]))
    with pytest.raises(TelemetryError, match="role 'boss' is not one of champion"):
        telemetry.serve(bundles["binary"], "boss")


def wide(task, columns, classes):
    """A bundle of a table with so many columns and classes, as far as metrics need it."""
    draw, rows = np.random.default_rng(0), 2000
    frame = pd.DataFrame(
        {
            f"c{i}": draw.normal(size=rows) if i % 3 else draw.choice(list("abcdefghijk"), rows)
            for i in range(columns)
        }
    )
    kinds = {n: "number" if frame[n].dtype == float else "category" for n in frame}
    names = tuple(f"class {k}" for k in range(classes))
    kinds[PREDICTION] = "category" if task == "multiclass" else "number"
    frame[PREDICTION] = draw.choice(names, rows) if task == "multiclass" else draw.random(rows)
    day = np.datetime64("2020-01-01") + np.arange(rows) // 100
    reference = profile.learn(pa.Table.from_pandas(frame, preserve_index=False), kinds, day)
    estimate = {"value": 0.5, "se": 0.01, "blocks": 30}
    said = ("squared_error", "absolute_error") if task == "regression" else ("log_loss", "auc")
    manifest = {"serving": {"engine": "onnx"}, "promise": dict.fromkeys(said, estimate)}
    of = SimpleNamespace(task=task, classes=names)
    if task == "regression":
        errors = dict.fromkeys(said, [1.0] * 10)
        manifest["errors"] = {"cuts": [i / 10 for i in range(1, 10)], **errors}
    return SimpleNamespace(schema=of, name="wide", reference=reference, manifest=manifest), frame


@pytest.mark.parametrize("columns", [1, 60, 200])
@pytest.mark.parametrize(
    ("task", "classes"), [("binary", 2), ("multiclass", 20), ("multiclass", 50), ("regression", 0)]
)
def test_there_are_never_more_than_2000_series(telemetry, task, classes, columns):
    served, frame = wide(task, columns, classes)
    bins = telemetry.prepare(served)
    for number in range(4):
        role = ("champion", "canary", "shadow")[number % 3]
        telemetry.serve(
            served, role, version=f"a version with a long name {number}", bins=bins, now=NOW
        )
        numbers = frame.select_dtypes(float).drop(columns=PREDICTION, errors="ignore").to_numpy()
        texts = [n for n in frame if frame[n].dtype != float and n != PREDICTION]
        draw = np.random.default_rng(number)
        said = draw.random(2000) if task == "regression" else draw.dirichlet(np.ones(classes), 2000)
        words = numbers, frame[texts].to_numpy().T.tolist(), said
        telemetry.answered(f"a version with a long name {number}", role, *words, at=NOW)
        for route in range(50):
            telemetry.requests(f"/{route}", 200 + route, 0.1)
        assert len(page(telemetry)) <= MOST_SERIES
    champion = "a version with a long name 3"
    found = page(telemetry)
    watched_live = {k[2] for k in found if k[:2] == ("reference_day_effect", champion)}
    assert PREDICTION in watched_live
    assert len(watched_live) == min(columns + 1, len(watched_live))
    assert found["features_left_out", champion] == columns + 1 - len(watched_live)
    assert len(watched_live) >= min(columns + 1, 150)


def test_a_canary_that_had_no_room_is_shown_when_it_is_promoted(telemetry):
    served, _ = wide("binary", 200, 2)
    telemetry.serve(served, "champion", version="old", now=NOW)
    telemetry.serve(served, "canary", version="new", now=NOW)

    def shown():
        return {k[1] for k in page(telemetry) if k[0] == "feature_bin_rows_total"}

    assert shown() == {"old"}
    telemetry.serve(served, "champion", version="new")
    telemetry.serve(served, "shadow", version="old")
    assert shown() == {"new"}


def test_bins_have_names_for_people(telemetry, bundles):
    telemetry.serve(bundles["binary"], "champion", version="v", now=NOW)
    names = telemetry.names("v")
    assert set(names["shop"].values()) == {"north", "south", "east", "other", "missing"}
    assert names["size"]["00"].startswith("below ") and names["size"]["missing"] == "missing"


def test_rows_of_before_a_start_come_from_the_log(telemetry, bundles):
    telemetry.serve(bundles["binary"], "champion", version="v", now=NOW)
    telemetry.recall("v", NOW - 86_400 * 5, 40)
    telemetry.truth("v", NOW - 86_400 * 5, [0.2, 0.8], 1)
    found = page(telemetry)
    assert found["cohort_rows", "v", "3-7"] == 40
    assert found["cohort_labelled_rows", "v", "3-7"] == 1
    assert found["rows_total", "v", "champion"] == 0  # counters begin with the process
    assert found["label_delay_seconds_count",] == 0


def test_no_value_of_a_row_becomes_a_label(telemetry, bundles):
    served = bundles["multiclass"]
    telemetry.serve(served, "champion", version="v", now=NOW)
    rows = watched.answered(served, synthetic.table("multiclass", rows=600, seed=1))
    sent(telemetry, served, rows.assign(shop="secret shop"), "v")
    text = watched.text(telemetry, time.time())
    for word in ("secret", "north", "south", "east", "blue", "green", "red"):
        assert f'"{word}' not in text
    assert frames.prediction_columns(served.schema)[0] not in text
