"""Live bins: the reference's, merged; counted as pandas counts; as many as the budget holds."""

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

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
    live = live_bins.of(reference(table()), most)
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
    live = live_bins.of(reference(frame), 1000)
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
    live = {c.name: c for c in live_bins.of(reference(frame), 1000).columns}
    total = np.array([2000, 2000, 2000, 0])
    assert live["few"].day_effect == drift.effect(total, np.array([300, 0, 0, 0]))
    assert live["few"].day_missing == 0
    share = frame["normal"].isna().to_numpy().reshape(20, 300).mean(axis=1).max()
    assert live["normal"].day_missing == share
    assert live["normal"].day_effect < 0.15
    pooled = {c.name: c for c in live_bins.of(reference(frame, days=100), 1000).columns}
    two = drift.effect(total, np.array([120, 0, 0, 0]))  # days of 60 rows are taken two and two
    assert pooled["few"].day_effect == two


@pytest.mark.parametrize("most", range(4, 120, 9))
def test_the_budget_holds_and_what_the_model_said_stays(most):
    live = live_bins.of(reference(table()), most)
    assert live.starts[-1] + len(live.columns) <= max(most, 4)
    assert len(live.columns) + len(live.left_out) == 6
    assert "letter" in {c.name for c in live.columns}  # the last column is the prediction's
    assert set(live.left_out) <= set(table())
    counts = live.fold(*split(table(100)))
    assert counts.sum() == 100 * len(live.columns)


def test_no_rows_are_no_counts():
    live = live_bins.of(reference(table()), 100)
    assert live.fold(np.zeros((0, 5)), [[]]).sum() == 0
