"""The rules are what the contract says, Prometheus takes them, and their numbers are NumPy's."""

import json

import numpy as np
import pytest
from ruamel.yaml import YAML

import monitors
from modelkeep.evaluation import drift, live_quality
from modelkeep.monitoring import rules
from modelkeep.monitoring.rules import RulesError

SMALL = {"day": "1h", "step": "5m"}
STEPS = 12


@pytest.fixture
def folder(tmp_path):
    for name, text in rules.files(monitors.CONTRACT, SMALL).items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    (tmp_path / "targets.yml").write_text("[]")
    return tmp_path


def test_prometheus_and_alertmanager_take_them(folder):
    done = monitors.check("", "check", "config", str(folder / "prometheus.yml"))
    assert done.returncode == 0, done.stdout + done.stderr
    monitors.need("amtool", "prometheus-alertmanager")
    done = monitors.subprocess.run(
        ["amtool", "check-config", folder / "alertmanager.yml"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def test_a_wrong_span_or_name_is_told():
    with pytest.raises(RulesError, match="'5 minutes' is not a span of time"):
        rules.files(monitors.CONTRACT, {"step": "5 minutes"})
    with pytest.raises(RulesError, match="<dya> in 'x.<dya>.' is not a setting"):
        rules.fill("x[<dya>]", rules.settings(monitors.CONTRACT))


def test_every_alert_says_what_to_do_and_links_are_absolute():
    alerts = YAML(typ="safe").load(rules.files(monitors.CONTRACT, HOST)["rules/alerts.yml"])
    for rule in alerts["groups"][0]["rules"]:
        name, told = rule["alert"], rule["annotations"]
        assert told["runbook_url"] == f"https://keep.example/runbook/{name}"
        assert len(told["description"].split()) > 10
        about_a_model = "$labels.version" in told["summary"]
        assert about_a_model == ("report" in told), name
        assert told.get("report", "https://keep.example/reports/").startswith(
            f"https://keep.example/reports/{name}?" if about_a_model else "https://keep.example/"
        )


HOST = {"investigate": "https://keep.example"}


def service(codes, seconds=0.001, steps=40, every=60):
    """Requests by code and minute, each so slow, of one replica."""
    where = {"job": "modelkeep", "instance": "r", "route": "predict"}
    total, inputs = sum(codes.values()), []
    for code, rate in codes.items():
        inputs.append(series("modelkeep_requests_total", counted(rate, steps), **where, code=code))
    for edge in ("0.1", "0.25", "0.5", "+Inf"):
        below = total if edge == "+Inf" or seconds <= float(edge) else 0
        name = "modelkeep_request_duration_seconds_bucket"
        inputs.append(series(name, counted(below, steps), **where, le=edge))
    name = "modelkeep_request_duration_seconds_count"
    return [*inputs, series(name, counted(total, steps), **where)]


def counted(rate, steps):
    return [round(rate * step) for step in range(steps)]


@pytest.mark.parametrize(
    ("codes", "seconds", "expected"),
    [
        ({"200": 0, "500": 6.7}, 0.001, {"ModelkeepErrors"}),  # 400 an hour, all fail
        ({"200": 6, "503": 0.7}, 0.001, {"ModelkeepErrors"}),  # a tenth of them
        ({"200": 6.7}, 0.3, {"ModelkeepSlow"}),
        ({"200": 6.7, "500": 0.1}, 0.001, set()),
        ({"200": 0, "500": 0.1}, 0.001, set()),  # six an hour are too few to say
        ({"200": 6000, "500": 180}, 0.001, set()),  # 3 % are allowed
        ({"200": 6000, "500": 360}, 0.001, {"ModelkeepErrors"}),
    ],
)
def test_low_traffic_that_fails_alerts(tmp_path, codes, seconds, expected):
    for name, text in rules.files(monitors.CONTRACT).items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    asked = 'count by (alertname) (ALERTS{alertname=~"ModelkeepErrors|ModelkeepSlow",alertstate="firing"})'
    found = [{"labels": f'{{alertname="{name}"}}', "value": 1} for name in expected]
    test = {"expr": asked, "eval_time": "35m", "exp_samples": found}
    content = {"rule_files": ["rules/records.yml", "rules/alerts.yml"]}
    content |= {"evaluation_interval": "15s", "group_eval_order": [*GROUPS, "modelkeep-alerts"]}
    inputs = service(codes, seconds)
    content["tests"] = [{"interval": "1m", "input_series": inputs, "promql_expr_test": [test]}]
    (tmp_path / "unit.yml").write_text(json.dumps(content))
    done = monitors.check("", "test", "rules", str(tmp_path / "unit.yml"))
    assert done.returncode == 0, done.stdout + done.stderr


GROUPS = ["modelkeep-service", "modelkeep-quality", "modelkeep-drift"]


def test_the_evidence_of_replicas_is_that_of_their_sums(folder):
    """One replica: the e-value of evaluation.live_quality. Three: their number times the days'."""
    sums = [(40.0, 9.0, 20.0), (15.0, 2.0, 60.0), (-3.0, 5.0, 50.0), (30.0, 7.0, 0.5)]
    inputs, asked = [], []
    for number, (lost, between, within) in enumerate(sums):
        for replicas in (1, 3):
            version = f"{replicas} of {number}"
            values = {"window_lost_gain": lost, "window_labelled_rows": 900}
            values |= {"window_day_variance": between, "window_row_variance": within}
            for name, value in values.items():
                for replica in range(replicas):
                    where = {"job": "modelkeep", "instance": f"r{replica}", "version": version}
                    each = [value / replicas] * 40
                    inputs.append(series(f"modelkeep_{name}", each, **where, window="8"))
            log_e = live_quality.log_e_value(lost, replicas * between + within)
            value = f'modelkeep:quality_e_value:window{{version="{version}"}}'
            asked.append((f"abs({value} / {float(np.exp(log_e))!r} - 1) < bool 1e-9", version))
    tests = [
        {
            "expr": expr,
            "eval_time": "60m",
            "exp_samples": [{"labels": f'{{version="{version}",window="8"}}', "value": 1}],
        }
        for expr, version in asked
    ]
    content = {"rule_files": ["rules/records.yml"], "evaluation_interval": "5m"}
    content["group_eval_order"] = GROUPS
    content["tests"] = [{"interval": "5m", "input_series": inputs, "promql_expr_test": tests}]
    (folder / "unit.yml").write_text(json.dumps(content))
    done = monitors.check("", "test", "rules", str(folder / "unit.yml"))
    assert done.returncode == 0, done.stdout + done.stderr


def series(name, values, **labels):
    said = ",".join(f'{k}="{v}"' for k, v in labels.items())
    return {"series": f"{name}{{{said}}}", "values": " ".join(map(str, values))}


def counters(steps, reset_at=None):
    """A counter by step from rows by step (steps, bins): from 0 on, and again from 0 at a restart."""
    found = np.vstack([np.zeros(steps.shape[1], int), np.cumsum(steps, axis=0)])
    if reset_at is not None:
        found[reset_at:] -= found[reset_at - 1]
    return found.T.tolist()


def case(seed):
    """Rows by step of two replicas, the reference, and what NumPy makes of the last day's sums."""
    draw = np.random.default_rng(seed)
    bins = int(draw.integers(3, 13))
    p = draw.dirichlet(np.ones(bins))
    q = draw.dirichlet(np.ones(bins) * 20 * p + 0.05)
    reference = draw.multinomial(int(draw.integers(1000, 200_000)), p)
    steps = draw.multinomial(int(draw.integers(30, 5000)), q, size=(2, STEPS + 6))
    reference[1], steps[:, :, 1] = (0, 0) if seed % 2 else (reference[1], 0)
    window = steps[:, -STEPS:].sum(axis=(0, 1))
    return steps, reference, expected(window, reference)


def expected(window, reference):
    n, m = window.sum(), reference.sum()
    q, p = window / n, reference / m
    seen = window + reference > 0
    df = seen.sum() - 1
    floored = np.maximum(q, 1e-4), np.maximum(p, 1e-4)
    x2 = float(((q - p)[seen] ** 2 / (window + reference)[seen]).sum() * n * m)
    z = ((x2 / df) ** (1 / 3) - (1 - 2 / (9 * df))) / np.sqrt(2 / (9 * df))
    return {
        "modelkeep:feature_rows:day": n,
        "modelkeep:psi:day": ((floored[0] - floored[1]) * np.log(floored[0] / floored[1])).sum(),
        "modelkeep:drift_df:day": df,
        "modelkeep:drift_x2:day": x2,
        "modelkeep:drift_z:day": z,
        "modelkeep:drift_effect:day": drift.effect(reference, window),
        "modelkeep:missing_share:day": q[-1],
    }


def test_x2_is_that_of_two_samples():
    """The oracle of the oracle: SciPy's Pearson chi-square of the two rows of counts."""
    from scipy.stats import chi2_contingency

    window, reference = np.array([30, 50, 40]), np.array([400, 500, 900])
    told = expected(window, reference)
    there = chi2_contingency([window, reference], correction=False)
    assert told["modelkeep:drift_x2:day"] == pytest.approx(there.statistic, rel=1e-12)
    assert told["modelkeep:drift_df:day"] == there.dof


def test_drift_is_what_numpy_says(folder):
    labels = [f"{i:02}" for i in range(12)]
    inputs, asked = [], []
    for seed in range(8):
        steps, reference, told = case(seed)
        names = [*labels[: len(reference) - 1], "missing"]
        for replica in range(2):
            where = {"job": "modelkeep", "instance": f"r{replica}", "version": "v"}
            # the second replica is started again between two steps
            reset = STEPS - 2 if replica else None
            rows = counters(steps[replica], reset)
            if not seed:
                late = STEPS + 7 - (reset or STEPS + 7)
                loaded = [0] * (STEPS + 7 - late) + [(reset or 0) * 300 - 20] * late
                inputs.append(series("modelkeep_model_loaded_timestamp_seconds", loaded, **where))
            where |= {"feature": f"f{seed}"}
            for name, values, size in zip(names, rows, reference):
                key = {**where, "bin": name}
                inputs.append(series("modelkeep_feature_bin_rows_total", values, **key))
                there = [int(size)] * len(values)
                inputs.append(series("modelkeep_reference_bin_rows", there, **key))
            usual = [0.5] * len(values)
            inputs.append(series("modelkeep_reference_day_effect", usual, **where))
        for name, value in told.items():
            near = (
                f'abs({name}{{feature="f{seed}",version="v"}} / {float(value)!r} - 1) < bool 1e-9'
            )
            if value == 0:
                near = f'abs({name}{{feature="f{seed}",version="v"}}) < bool 1e-12'
            asked.append((near, f"f{seed}", name))
        more = f'abs(modelkeep:drift_excess:day{{feature="f{seed}"}} - {told["modelkeep:drift_effect:day"] - 0.5}) < bool 1e-9'
        asked.append((more, f"f{seed}", "excess"))
    run(folder, inputs, asked)


def run(folder, inputs, asked):
    tests = [
        {
            "expr": expr,
            "eval_time": f"{(STEPS + 7) * 5}m",  # a step sees what was read a scrape before it
            "exp_samples": [{"labels": f'{{feature="{f}",version="v"}}', "value": 1}],
        }
        for expr, f, _ in asked
    ]
    content = {
        "rule_files": ["rules/records.yml"],
        "evaluation_interval": "5m",
        "group_eval_order": GROUPS,
        "tests": [{"interval": "5m", "input_series": inputs, "promql_expr_test": tests}],
    }
    (folder / "unit.yml").write_text(json.dumps(content))
    done = monitors.check("", "test", "rules", str(folder / "unit.yml"))
    assert done.returncode == 0, (done.stdout + done.stderr)[:6000]


def alone(folder, values, loaded, expected):
    """The day's rows of one bin of one replica that was loaded at a time in seconds."""
    where = {"job": "modelkeep", "instance": "late", "version": "v"}
    loaded, read = (scraped(each) for each in (loaded, values))
    inputs = [
        series("modelkeep_model_loaded_timestamp_seconds", loaded, **where),
        series("modelkeep_feature_bin_rows_total", read, **where, feature="f", bin="00"),
    ]
    asked = f"modelkeep:bin_rows:day == bool {expected}"
    at = {"eval_time": f"{(len(values) - 1) * 5}m"}
    tests = [{"expr": asked, **at, "exp_samples": [{"labels": LABELS, "value": 1}]}]
    content = {"rule_files": ["rules/records.yml"], "evaluation_interval": "5m"}
    content |= {"tests": [{"interval": "15s", "input_series": inputs, "promql_expr_test": tests}]}
    (folder / "unit.yml").write_text(json.dumps(content))
    done = monitors.check("", "test", "rules", str(folder / "unit.yml"))
    assert done.returncode == 0, done.stdout + done.stderr


def scraped(values):
    """Values by step of 5 minutes as scrapes of 15 s read them, each first one scrape before its step."""
    each = [[value] * 20 if value != "stale" else ["stale", *["_"] * 19] for value in values]
    return [value for part in each for value in part][1:]


LABELS = '{bin="00",feature="f",version="v"}'


def test_a_replica_that_is_first_read_after_it_began_loses_no_row(folder):
    # `increase` sees 20 of these 120 rows
    alone(folder, ["_", "_", "_", 100, 110, 120], ["_", "_", "_", *[700] * 3], 120)


@pytest.mark.parametrize(("gap", "counted"), [(1, 100), (6, 100), (14, 20)])
def test_a_gap_in_reading_loses_no_row_within_an_hour_and_counts_none_twice(folder, gap, counted):
    values = [0, 10, 20, *["stale", *["_"] * gap][:gap], 80, 90, 100]
    alone(folder, values, [0] * len(values), counted)


def test_a_restart_keeps_what_was_counted(folder):
    alone(folder, [0, 10, 20, 3, 13], [0, 0, 0, 890, 890], 33)
