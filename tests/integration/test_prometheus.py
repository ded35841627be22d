"""On a real Prometheus, with real flights from two replicas: its numbers are those of pandas, and every panel shows something."""

import re
import time
from contextlib import ExitStack
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

import monitors
import synthetic
import watched
from modelkeep.evaluation import metrics
from modelkeep.evaluation.profile import PREDICTION
from modelkeep.monitoring import rules
from modelkeep.predictions import frames
from modelkeep.reports import live_panels as ranges
from modelkeep.training import pipelines
from modelkeep.training.engines import decision

LONG = {"day": "10m", "fast": "2m", "slow": "3m"}  # windows that hold all that is sent
DAYS = 4 * 86_400.0


COSTS = {"errors": {"blue": {"green": 2, "red": 5}, "green": {"blue": 1, "red": 1}}}
COSTS["errors"]["red"] = {"blue": 3, "green": 1}


@pytest.fixture(scope="module")
def live(tmp_path_factory, bundles, parts):
    folder = tmp_path_factory.mktemp("live")
    served = watched.flights_model(folder / "bundle")
    rows = watched.flights()
    rows = rows[rows["scheduled"].between("2013-06-01", "2013-06-11")]
    rows = watched.answered(served, rows.assign(temp=rows["temp"].where(rows["hour"] != 8)))
    dear = synthetic.sealed(folder / "dear", parts["multiclass"], "forest", costs=COSTS)
    bundles = bundles | {"multiclass": dear}
    replicas = [watched.Replica(late) for late in (0.5, 0.2, 0.0)]  # no row is lost by that
    with ExitStack() as stack:
        targets = [stack.enter_context(monitors.serving(r.page)) for r in replicas]
        for replica in replicas[:2]:
            replica.serve(served, "champion", "flights@v1")
        for task in ("multiclass", "regression"):
            replicas[2].serve(bundles[task], "canary", task)
        server = stack.enter_context(monitors.prometheus(folder / "prometheus", targets, **LONG))
        # counting begins when a step knows the one before
        read = 'modelkeep_feature_bin_rows_total{bin="missing",feature="temp"} offset 4s'
        monitors.wait(lambda: len(server.query(read)) == 2)
        send(replicas, served, rows, bundles)
        total = len(rows)
        full = 'modelkeep:feature_rows:day{version="flights@v1",feature="temp"}'
        monitors.wait(lambda: total in server.query(full).values(), 30, why=f"{total} rows")
        time.sleep(4)  # one more step: what follows from it
        world = {"server": server, "served": served, "rows": rows, "replicas": replicas}
        yield SimpleNamespace(**world, dear=dear)


def send(replicas, served, rows, bundles):
    """Rows to either replica, as a balancer would; all labels to the other one."""
    now, draw = time.time(), np.random.default_rng(0)
    for part in np.array_split(np.arange(len(rows)), 4):
        first = draw.random(len(part)) < 0.3
        for replica, mine in zip(replicas, (first, ~first)):
            replica.send(served, rows.iloc[part[mine]], "flights@v1", at=now - DAYS)
        time.sleep(1)
    known = rows[rows["late"].notna()]
    replicas[0].labels(served, known, "flights@v1", now - DAYS)
    for task in ("multiclass", "regression"):
        more = watched.answered(bundles[task], synthetic.table(task, rows=700, seed=1))
        replicas[2].send(bundles[task], more, task, at=now - DAYS)
        replicas[2].labels(bundles[task], more, task, now - DAYS)
    with replicas[0].lock:
        replicas[0].telemetry.problem("unseen", 3)
        replicas[0].telemetry.swap("done")


def shares(column, rows):
    """The share of each live bin in a column, by pandas."""
    values = rows[column.name]
    if column.kind == "number":
        edges = [-np.inf, *column.cuts, np.inf]
        found = pd.cut(values.astype(float), edges, right=False, labels=column.labels[:-1])
    else:
        names = {name: f"{i:02}" for i, name in enumerate(column.categories)}
        found = values.map(names).where(values.isna() | values.isin(names), "other")
    found = found.astype(object).where(values.notna(), "missing")
    return found.value_counts(normalize=True).reindex(column.labels, fill_value=0.0)


def said(rows, of):
    return rows.assign(**{PREDICTION: frames.predictions(rows, of)[:, 1]})


def test_the_cost_of_a_row_is_that_of_its_rule(live):
    rows = watched.answered(live.dear, synthetic.table("multiclass", rows=700, seed=1))
    p, matrix = frames.predictions(rows, live.dear.schema), np.zeros((3, 3))
    for label, line in COSTS["errors"].items():
        for named, cost in line.items():
            place = [live.dear.schema.classes.index(name) for name in (label, named)]
            matrix[*place] = cost
    rule = live.dear.manifest["operating"]
    chosen = decision.decide(rule, p)
    y = pd.Categorical(rows["colour"], live.dear.schema.classes).codes
    spent = matrix[y, chosen][y >= 0].mean()
    found = live.server.by("modelkeep:cost:cohort", "version", "cohort")
    assert [cost for key, cost in found.items() if key[0] == "multiclass" and cost == cost] == [
        pytest.approx(spent)
    ]


def test_psi_and_missing_shares_are_those_of_pandas(live):
    psi = live.server.by("modelkeep:psi:day", "version", "feature")
    missing = live.server.by("modelkeep:missing_share:day", "version", "feature")
    bins = live.replicas[0].telemetry.served["flights@v1"].bins
    now, before = (said(rows, live.served.schema) for rows in (live.rows, live.served.out_of_fold))
    # what is counted of the reference is what the engine says, and the log holds cross-validation's
    columns = [c for c in bins.columns if c.name != PREDICTION]
    assert len(columns) == 12
    for column in columns:
        q, p = (np.maximum(shares(column, rows), 1e-4) for rows in (now, before))
        expected = float(((q - p) * np.log(q / p)).sum())
        assert psi["flights@v1", column.name] == pytest.approx(expected, rel=1e-9, abs=1e-12)
        share = float(now[column.name].isna().mean())
        assert missing["flights@v1", column.name] == pytest.approx(share, rel=1e-9)
    assert missing["flights@v1", "temp"] > 0.05


def test_quality_is_that_of_the_offline_join(live):
    of, rows = live.served.schema, live.rows[live.rows["late"].notna()]
    y, p = pipelines.outcome(rows, of), frames.predictions(rows, of)
    called = p[:, 1] > p[:, 0]
    expected = {
        "labelled": len(rows),
        "coverage": len(rows) / len(live.rows),
        "accuracy": (called == y).mean(),
        "precision": y[called].mean(),
        "recall": called[y == 1].mean(),
        "log_loss": metrics.log_loss(y, p).mean(),
    }
    for name, value in expected.items():
        found = live.server.query(f'modelkeep:{name}:cohort{{version="flights@v1",cohort="3-7"}}')
        assert list(found.values()) == [pytest.approx(value, rel=1e-9)], name
    binned = live.server.query('modelkeep:auc:cohort{version="flights@v1",cohort="3-7"}')
    assert list(binned.values()) == [pytest.approx(metrics.auc(y, p), abs=0.01)]
    column = live.replicas[0].telemetry.served["flights@v1"].cohorts
    coarse = np.searchsorted(column.cuts, p[:, 1], "right")
    exact = metrics.auc(y, np.column_stack([-coarse, coarse]))
    assert list(binned.values()) == [pytest.approx(exact, rel=1e-9)]


def test_estimated_quality_is_that_of_the_scores(live):
    p = frames.predictions(live.rows, live.served.schema)
    found = live.server.by("modelkeep:estimated_log_loss:slow", "version")["flights@v1"]
    assert found == pytest.approx(metrics.expected("binary", p)["log_loss"], rel=0.01)


PANELS = rules.panels(monitors.CONTRACT, monitors.FAST | LONG)


@pytest.mark.parametrize("name", PANELS)
def test_every_panel_shows_something_in_its_unit(live, name):
    panel = PANELS[name]
    for legend, expr in panel.queries.items():
        found = live.server.query(expr)
        values = np.array(list(found.values()))
        assert len(values), expr
        assert np.isfinite(values).any(), expr
        known = values[np.isfinite(values)]
        for label in re.findall(r"{{(\w+)}}", legend):
            assert all(label in dict(series) for series in found), (legend, found)
        if panel.unit == "percentunit":
            assert (np.abs(known) <= 1).all()
        if panel.unit in ("s", "bytes"):
            assert (known >= 0).all()


@pytest.mark.parametrize("name", PANELS)
def test_every_panel_is_drawn_from_the_range_api(live, name):
    url, panel, now = f"http://127.0.0.1:{live.server.port}", PANELS[name], time.time()
    lines = ranges.read(url, panel, now - 120, now)
    assert len(lines) >= len(live.server.query(next(iter(panel.queries.values()))))
    figure = ranges.draw(panel, lines)
    assert panel.title in figure.title and "<svg" in figure.svg


def test_a_calm_day_raises_no_alert_on_inputs(live):
    assert not live.server.firing() & {"ModelkeepErrors", "ModelkeepSlow", "ModelkeepLog"}
