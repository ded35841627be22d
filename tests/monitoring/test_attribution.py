"""What predictions rest on, by window: a column that breaks is noted, and calm ones are not."""

import numpy as np
import pandas as pd
import pytest
from scipy.stats import binom

import synthetic
from modelkeep.monitoring import attribution, decisions, windows
from modelkeep.reports import monitor
from modelkeep.training import explain
from modelkeep.training.explain import ExplainError

SETTINGS = {"window_days": 7, "window_rows": 200, "false_alarms_per_year": 0.05, "seed": 0}
LENGTHS = [10, pytest.param(200, marks=pytest.mark.slow)]


def served_rows(seed, task="binary", broken=None, timed=True):
    """Ten weeks of rows that training has not seen; from the fourth on a column may be broken."""
    frame = synthetic.table(task, rows=1400, days=70, seed=seed, timed=timed)
    if broken:
        late = np.arange(len(frame)) >= 400
        frame[broken] = frame[broken].where(~late, None if broken == "shop" else 3.0)
    rows = synthetic.prepared(task, frame, timed=timed, test_days=69, test_share=0.99)
    return rows.test


@pytest.mark.parametrize("task", ["binary", "multiclass"])
def test_means_are_those_of_the_explanations(task, bundles):
    served, log = bundles[task], served_rows(7, task)
    found = attribution.attribute(served, log, **SETTINGS)
    assert list(found.starts) == [start for start, _ in windows.cut(log, served.schema, 7, 200)]
    _, rows = windows.cut(log, served.schema, 7, 200)[0]
    values = np.abs(explain.Explainer(served, seed=0)(rows).values)
    values = values if values.ndim == 2 else values.mean(axis=2)
    assert set(found.columns) == {c.name for c in served.schema.columns}
    if len(rows) <= attribution.ROWS["trees"]:
        np.testing.assert_allclose(found.means[0], values.mean(axis=0), rtol=1e-9)
    else:  # a sample of them
        np.testing.assert_allclose(found.means[0], values.mean(axis=0), rtol=0.5)


def test_a_column_that_breaks_is_noted_and_named_on_the_page(bundles):
    log = served_rows(3, broken="size")
    found = attribution.attribute(bundles["binary"], log, **SETTINGS)
    assert "size" in found.changed
    assert found.notes[0].startswith("noted: what predictions rest on size has changed")
    figure = monitor.rests_on(found)
    assert "By more than chance has changed: size" in figure.caption


@pytest.mark.parametrize("runs", LENGTHS)
def test_calm_columns_keep_the_budget(runs, bundles):
    alarms = sum(
        bool(attribution.attribute(bundles["binary"], served_rows(s), **SETTINGS).changed)
        for s in range(100, 100 + runs)
    )
    chance = 1 - np.exp(-0.05 / 2 * 70 / decisions.YEAR_DAYS)
    assert alarms <= binom.ppf(1 - 1e-4, runs, chance)


def test_a_sample_takes_each_day_alike():
    days = np.repeat([0, 1, 2], [500, 30, 5])
    rows = pd.DataFrame({"day": days})
    drawn = attribution.sample(rows, days, 35, np.random.default_rng(0))["day"]
    assert drawn.value_counts().to_dict() == {0: 15, 1: 15, 2: 5} and drawn.is_monotonic_increasing


def test_what_cannot_be_explained_is_said(bundles, monkeypatch):
    def refuse(*given, **named):
        raise ExplainError("the background has no rows")

    monkeypatch.setattr(attribution, "Explainer", refuse)
    found = attribution.attribute(bundles["binary"], pd.DataFrame(), **SETTINGS)
    assert found.notes == () and found.changed == []
    assert "Nothing is explained: the background has no rows" in monitor.rests_on(found).text
