"""Live bins: the reference's, merged; counted as pandas counts; as many as the budget holds."""

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

import monitors
from modelkeep.evaluation import drift, profile
from modelkeep.monitoring import live_bins


def table(rows=6000, seed=0, **more):
    draw = np.random.default_rng(seed)
    known = {
        "normal": np.where(draw.random(rows) < 0.03, np.nan, draw.normal(0, 1, rows)),
        "heavy": np.where(draw.random(rows) < 0.8, 0.0, draw.gamma(2, 5, rows)),
        "constant": np.full(rows, 7.0),
        "few": draw.integers(0, 3, rows).astype(float),
        "absent": np.full(rows, np.nan),
        "letter": draw.choice(list("abcdefghijklmnopqrstuvwxyz"), rows, p=letters()),
    }
    return pd.DataFrame(known | more)


def letters():
    p = 0.8 ** np.arange(26)
    return p / p.sum()


def reference(frame, days=20):
    kinds = {n: "category" if n.startswith("letter") else "number" for n in frame}
    day = np.datetime64("2020-01-01") + np.arange(len(frame)) * days // len(frame)
    return profile.learn(pa.Table.from_pandas(frame, preserve_index=False), kinds, day)


def split(frame):
    numbers = frame[[n for n in frame if not n.startswith("letter")]].to_numpy("float64")
    return numbers, [frame[n].tolist() for n in frame if n.startswith("letter")]


def by_column(live, counts):
    parts = np.split(counts, live.starts[1:-1])
    return {c.name: dict(zip(c.labels, p.tolist())) for c, p in zip(live.columns, parts)}


@pytest.mark.parametrize("most", [1000, 40, 25])
def test_counts_are_those_of_pandas(most):
    live = live_bins.merge(reference(table()), most)
    frame = table(3000, seed=1)
    frame.loc[:9, "normal"] = [np.inf, -np.inf, 1e300, -1e300, *[np.nan] * 6]
    frame.loc[:99, "letter"] = None
    frame.loc[100:120, "letter"] = "never seen"
    found = by_column(live, live.fold(*split(frame)))
    for column in live.columns:
        values = frame[column.name]
        if column.kind == "number":
            edges = [-np.inf, *column.cuts, np.nextafter(np.inf, np.inf)]
            kept = values.clip(upper=np.finfo(float).max)
            expected = pd.cut(kept, edges, right=False, labels=list(column.labels[:-1]))
        else:
            places = {n: f"{i:02}" for i, n in enumerate(column.categories)}
            expected = values.map(lambda v, p=places: p.get(v, "other"), na_action="ignore")
        expected = expected.astype(object).where(values.notna(), "missing").value_counts()
        told = {k: n for k, n in found[column.name].items() if n}
        assert told == expected.to_dict(), column.name


def test_the_reference_in_live_bins_is_its_rows_counted_again():
    frame = table()
    live = live_bins.merge(reference(frame), 1000)
    again = live.fold(*split(frame))
    assert again.tolist() == np.concatenate([c.rows for c in live.columns]).tolist()
    sizes = {c.name: len(c.labels) for c in live.columns}
    assert sizes == {"normal": 11, "heavy": 6, "constant": 4, "few": 4, "absent": 2, "letter": 22}
    normal = live.columns[0]
    assert normal.rows[:-1].min() > 0.08 * normal.rows.sum()  # merged evenly
    assert live.columns[2].names == ("below 7", "7 to 7", "7 and above", "missing")


def test_how_far_a_day_of_the_reference_is_from_all_of_it():
    frame = table()
    frame["few"] = np.repeat([0.0, 1.0, 2.0], 2000)  # weeks of their own
    live = {c.name: c for c in live_bins.merge(reference(frame), 1000).columns}
    total = np.array([2000, 2000, 2000, 0])
    assert live["few"].day_effect >= drift.effect(total, np.array([300, 0, 0, 0]))
    assert live["few"].day_missing == 0
    share = frame["normal"].isna().to_numpy().reshape(20, 300).mean(axis=1).max()
    assert live["normal"].day_missing == share
    assert live["normal"].day_effect < 0.15


def days_of_rows(draw, days, rows, concentration=40, bins=10):
    """Days whose shares differ, by multinomial draws; the first seven days of ten resemble."""
    usual = np.full(bins, 1 / bins)
    shares = [draw.dirichlet(concentration * usual) for _ in range(days)]
    return [np.repeat(np.arange(bins), draw.multinomial(draw.poisson(rows) + 1, s)) for s in shares]


@pytest.mark.parametrize(("before", "now"), [(20, 600), (60, 1800), (300, 9000), (3000, 600)])
def test_days_of_another_volume_are_no_drift(before, now):
    """The rule of ModelkeepDrift without its z: where day effects are large, and many live days."""
    draw, alerts = np.random.default_rng(before), 0
    for _ in range(3):
        past = days_of_rows(draw, 60, before)
        frame = pd.DataFrame({"few": np.concatenate(past).astype(float)})
        table_ = pa.Table.from_pandas(frame, preserve_index=False)
        day = np.repeat(np.datetime64("2020-01-01") + np.arange(60), [len(d) for d in past])
        (column,) = live_bins.merge(profile.learn(table_, {"few": "number"}, day), 100).columns
        for rows in days_of_rows(draw, 30, now):
            counts = np.bincount(np.searchsorted(column.cuts, rows, "right"), minlength=11)
            excess = drift.effect(column.rows, counts) - column.day_effect
            alerts += excess > monitors.CONTRACT.settings["effect"]
    assert alerts <= 1  # of 90 days; it was a third of the first kind


@pytest.mark.parametrize("most", range(4, 120, 9))
def test_the_budget_holds_and_what_the_model_said_stays(most):
    live = live_bins.merge(reference(table()), most)
    assert live.starts[-1] + len(live.columns) <= max(most, 4)
    assert len(live.columns) + len(live.left_out) == 6
    assert "letter" in {c.name for c in live.columns}  # the last column is the prediction's
    assert set(live.left_out) <= set(table())
    counts = live.fold(*split(table(100)))
    assert counts.sum() == 100 * len(live.columns)


def test_no_rows_are_no_counts():
    live = live_bins.merge(reference(table()), 100)
    assert live.fold(np.zeros((0, 5)), [[]]).sum() == 0
