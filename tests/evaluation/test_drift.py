import dataclasses
import json
import math

import numpy as np
import pyarrow as pa
import pytest
from scipy.stats import binom

from modelkeep.evaluation import drift, profile

KINDS = {"x": "number", "y": "number", "flat": "number", "c": "category", "d": "category"}
SHARES = [0.5, 0.3, 0.15, 0.045, 0.005]


def rows(rng: np.random.Generator, size: int, day: float = 0.0, **changes) -> pa.Table:
    """Draw rows; `day` is what the rows of one day have in common."""
    columns = {
        "x": rng.normal(day, 1, size),
        "y": np.where(rng.random(size) < 0.05, np.nan, rng.lognormal(0, 1, size)),
        "flat": np.ones(size),
        "c": rng.choice(list("abcde"), size, p=SHARES),
        "d": rng.choice(["p", "q"], size),
    }
    return pa.table(
        {name: pa.array(v, from_pandas=True) for name, v in (columns | changes).items()}
    )


def by_day(rng: np.random.Generator, days: int, size: int, alike: float, later: float = 0.0):
    """Draw days of rows that are alike, and give each row's day."""
    parts = [rows(rng, size, later + alike * rng.normal()) for _ in range(days)]
    starts = np.datetime64("2013-01-01") + np.arange(days)
    return pa.concat_tables(parts), np.repeat(starts, size)


def pair(now: pa.Table, size: int = 20_000) -> tuple[profile.Profile, profile.Profile]:
    reference = profile.learn(rows(np.random.default_rng(0), size), KINDS)
    return reference, profile.count(reference.bins, now)


def column(found: drift.Drift, name: str) -> drift.ColumnDrift:
    return next(c for c in found.columns if c.name == name)


def findings(found: drift.Drift) -> dict[str, list[str]]:
    return {c.name: [f.name for f in c.findings] for c in found.columns if c.findings}


def most(runs: int, rate: float) -> int:
    """Return how many of the runs may fail by chance: more have a probability below 1e-4."""
    return int(binom.isf(1e-4, runs, rate))


def test_effect_by_hand():
    reference, window = np.array([60, 30, 10, 0]), np.array([20, 20, 5, 5])
    raw = 2 * (0.2**2 / 1 + 0.1**2 / 0.7 + 0 + 0.1**2 / 0.1)
    expected = raw - 3 * (1 / 100 + 1 / 50)
    assert drift.effect(reference, window) == pytest.approx(expected)


@pytest.mark.parametrize("size", [500, 5_000])
def test_effect_has_no_bias_and_is_psi_where_it_is_small(size):
    rng = np.random.default_rng(1)
    p = np.full(20, 0.05)
    effects = [
        drift.effect(rng.multinomial(20_000, p), rng.multinomial(size, p)) for _ in range(400)
    ]
    assert abs(np.mean(effects)) < 4 * np.std(effects) / 20
    q = p + np.resize([0.01, -0.01], 20)
    psi = ((q - p) * np.log(q / p)).sum()
    many = 10**9
    assert drift.effect((p * many).astype(int), (q * many).astype(int)) == pytest.approx(
        psi, rel=0.02
    )


@pytest.mark.parametrize("size", [50, 500, 5_000])
def test_independent_rows_without_drift_rarely_alarm(size):
    rng = np.random.default_rng(size)
    runs, moved = 100, 0
    for _ in range(runs):
        reference = profile.learn(rows(rng, 5_000), KINDS)
        found = drift.compare(reference, profile.count(reference.bins, rows(rng, size)))
        moved += any(c.drifted for c in found.columns)
        assert all(c.level == "none" for c in found.columns if not c.drifted)
    assert moved <= most(runs, 0.05)


def test_days_alike_without_drift_rarely_alarm_by_blocks():
    rng = np.random.default_rng(2)
    runs, moved = 60, {"auto": 0, "rows": 0}
    for _ in range(runs):
        table, days = by_day(rng, 37, 100, alike=0.5)
        first = days < days[0] + 30
        reference = profile.learn(table.filter(pa.array(first)), KINDS, days[first])
        window = profile.count(reference.bins, table.filter(pa.array(~first)), days[~first])
        for by in moved:
            found = drift.compare(reference, window, by=by)
            assert found.by == ("blocks" if by == "auto" else "rows")
            moved[by] += any(c.drifted for c in found.columns)
    assert moved["auto"] <= most(runs, 0.05)
    assert moved["rows"] > runs / 2


@pytest.mark.parametrize(
    ("name", "change", "least"),
    [
        ("x", lambda t, rng: t["x"].to_numpy() + 0.25, 0.85),
        ("x", lambda t, rng: np.where(rng.random(len(t)) < 0.05, np.nan, t["x"].to_numpy()), 0.95),
        ("c", lambda t, rng: np.where(rng.random(len(t)) < 0.15, "b", t["c"].to_pylist()), 0.85),
        ("c", lambda t, rng: np.where(rng.random(len(t)) < 0.01, "new", t["c"].to_pylist()), 0.85),
    ],
)
def test_500_rows_show_a_change(name, change, least):
    rng = np.random.default_rng(3)
    runs, seen = 60, 0
    reference = profile.learn(rows(rng, 20_000), KINDS)
    for _ in range(runs):
        table = rows(rng, 500)
        place = table.column_names.index(name)
        values = pa.array(change(table, rng), from_pandas=True)
        window = profile.count(reference.bins, table.set_column(place, name, values))
        seen += column(drift.compare(reference, window), name).alarm
    assert seen >= binom.isf(1 - 1e-4, runs, least)


def test_days_show_a_change():
    rng = np.random.default_rng(4)
    table, days = by_day(rng, 60, 100, alike=0.3)
    later, when = by_day(rng, 7, 100, alike=0.3, later=1.0)
    reference = profile.learn(table, KINDS, days)
    window = profile.count(reference.bins, later, when + 60)
    found = drift.compare(reference, window)
    assert found.by == "blocks"
    assert [c.name for c in found.columns if c.alarm] == ["x"]
    assert column(found, "x").p == pytest.approx(1 / 1_000, rel=0.2)
    assert column(found, "x").level == "severe"
    again = drift.compare(reference, window)
    assert found == again
    assert found != drift.compare(reference, window, seed=1)


def test_permutations_suffice_for_many_columns():
    rng = np.random.default_rng(5)
    names = [f"x{i}" for i in range(60)]
    values = rng.normal(size=(5_000, 60))
    days = np.repeat(np.datetime64("2013-01-01") + np.arange(50), 100)
    table = pa.table(dict(zip(names, values.T, strict=True)))
    reference = profile.learn(table.slice(0, 4_000), dict.fromkeys(names, "number"), days[:4_000])
    later = table.slice(4_000).set_column(0, "x0", pa.array(values[4_000:, 0] + 2))
    window = profile.count(reference.bins, later, days[4_000:])
    found = drift.compare(reference, window, permutations=99)
    assert found.permutations >= 60 / 0.05
    assert column(found, "x0").drifted


def test_missing_share_is_a_finding_whatever_its_effect():
    rng = np.random.default_rng(6)
    table = rows(rng, 50_000)
    holes = np.where(rng.random(len(table)) < 0.004, np.nan, table["x"].to_numpy())
    found = drift.compare(*pair(table.set_column(0, "x", pa.array(holes, from_pandas=True))))
    x = column(found, "x")
    assert findings(found) == {"x": ["missing share rose"]}
    assert x.effect < drift.LEVELS["note"]
    assert x.alarm
    assert x.level == "note"
    assert found.alarm
    assert x.missing_before == 0
    assert x.missing == pytest.approx(0.004, abs=0.001)
    assert "missing share rose from 0.00% to 0.38%" in str(x.findings[0])


def test_missing_share_may_fall():
    table = rows(np.random.default_rng(7), 5_000)
    filled = np.nan_to_num(table["y"].to_numpy(), nan=1.0)
    found = drift.compare(*pair(table.set_column(1, "y", pa.array(filled))))
    assert findings(found) == {"y": ["missing share fell"]}


def test_unseen_category_is_a_finding_whatever_its_effect():
    table = rows(np.random.default_rng(8), 20_000)
    values = ["new" if i % 2_000 == 0 else v for i, v in enumerate(table["c"].to_pylist())]
    found = drift.compare(*pair(table.set_column(3, "c", pa.array(values)), 200_000))
    assert findings(found) == {"c": ["unseen category"]}
    assert column(found, "c").effect < drift.LEVELS["note"]
    assert column(found, "c").alarm
    assert column(found, "c").unseen == 10 / 20_000
    assert "10 of 20,000 rows" in str(column(found, "c").findings[0])


def test_small_moves_of_many_rows_are_no_alarm():
    table = rows(np.random.default_rng(9), 100_000)
    shifted = table.set_column(0, "x", pa.array(table["x"].to_numpy() + 0.05))
    x = column(drift.compare(*pair(shifted)), "x")
    assert x.drifted
    assert not x.alarm
    assert x.level == "none"


@pytest.mark.parametrize(
    ("times", "text"),
    [
        (1_000, "values are about 1,000 times larger"),
        (0.1, "values are about 10 times smaller"),
        (60, "values are about 61 times larger"),
        (1e-6, "values are about 1,000,000 times smaller"),
    ],
)
def test_unit_change_is_named(times, text):
    table = rows(np.random.default_rng(10), 2_000)
    scaled = table.set_column(1, "y", pa.array(table["y"].to_numpy() * times))
    found = drift.compare(*pair(scaled))
    (finding,) = [f for f in column(found, "y").findings if f.name == "unit change"]
    assert text in finding.sentence
    assert finding.now / finding.before == pytest.approx(times, rel=0.15)
    assert column(found, "y").level == "severe"


def test_out_of_range_is_named():
    table = rows(np.random.default_rng(11), 2_000)
    values = np.where(np.arange(2_000) < 100, -99.0, table["x"].to_numpy())
    found = drift.compare(*pair(table.set_column(0, "x", pa.array(values))))
    assert findings(found) == {"x": ["out of range"]}
    assert column(found, "x").below == 0.05
    assert column(found, "x").above < 0.01
    assert "5.00% of rows are below the reference's smallest value" in str(
        column(found, "x").findings[0]
    )


def test_a_constant_column_that_changes():
    table = rows(np.random.default_rng(12), 100, flat=np.full(100, 2.0))
    found = drift.compare(*pair(table))
    assert column(found, "flat").above == 1
    assert column(found, "flat").level == "severe"


def test_a_window_with_all_missing():
    empty = pa.array([None] * 50, pa.float64())
    table = rows(np.random.default_rng(13), 50)
    for name in ("x", "c"):
        kind = pa.float64() if name == "x" else pa.string()
        gone = table.set_column(table.column_names.index(name), name, empty.cast(kind))
        found = drift.compare(*pair(gone))
        assert findings(found) == {name: ["missing share rose"]}
        assert column(found, name).missing == 1


def test_a_reference_with_all_missing():
    empty = pa.table({"x": pa.array([None] * 500, pa.float64())})
    reference = profile.learn(empty, {"x": "number"})
    assert not drift.compare(reference, reference).alarm
    found = drift.compare(reference, profile.count(reference.bins, pa.table({"x": [1.0] * 20})))
    assert findings(found) == {"x": ["missing share fell"]}


def test_no_rows_is_an_error():
    reference, window = pair(rows(np.random.default_rng(14), 10).slice(0, 0))
    with pytest.raises(drift.DriftError, match="the window has no rows"):
        drift.compare(reference, window)
    with pytest.raises(drift.DriftError, match="the reference has no rows"):
        drift.compare(window, reference)
    with pytest.raises(drift.DriftError, match="100 and 0 rows"):
        drift.effect(np.array([50, 50]), np.array([0, 0]))


def test_other_bins_are_an_error():
    first, second = (profile.learn(rows(np.random.default_rng(i), 100), KINDS) for i in (1, 2))
    with pytest.raises(drift.DriftError, match="other bins"):
        drift.compare(first, second)


@pytest.mark.parametrize(
    ("days", "now", "by", "why"),
    [
        (30, 7, "blocks", "30 of the reference, 7 of the window"),
        (12, 7, "rows", "12 and 7 blocks are fewer than 20"),
        (40, 1, "rows", "1 of 41 blocks can be drawn in 41 ways, 100 are needed"),
    ],
)
def test_what_is_independent_is_chosen_and_said(days, now, by, why):
    table, when = by_day(np.random.default_rng(15), days + now, 20, alike=0)
    first = when < when[0] + days
    reference = profile.learn(table.filter(pa.array(first)), KINDS, when[first])
    window = profile.count(reference.bins, table.filter(pa.array(~first)), when[~first])
    found = drift.compare(reference, window)
    assert found.by == by
    assert why in found.why
    assert drift.compare(reference, window, by="rows").by == "rows"
    assert drift.compare(reference, window, by="blocks").by == "blocks"


def test_blocks_that_are_missing_or_of_another_kind():
    reference, window = pair(rows(np.random.default_rng(16), 100))
    assert "without blocks" in drift.compare(reference, window).why
    with pytest.raises(drift.DriftError, match="needs profiles that were counted with block"):
        drift.compare(reference, window, by="blocks")
    with pytest.raises(drift.DriftError, match="by is 'days'; it must be auto, blocks or rows"):
        drift.compare(reference, window, by="days")
    table, days = by_day(np.random.default_rng(16), 30, 20, alike=0)
    reference = profile.learn(table, KINDS, days)
    with pytest.raises(drift.DriftError, match="count both by day or both by hour"):
        drift.compare(reference, profile.count(reference.bins, table, days.astype("M8[h]")))


def test_a_result_is_plain_data():
    table = rows(np.random.default_rng(17), 100, flat=np.full(100, 2.0))
    text = json.dumps(dataclasses.asdict(drift.compare(*pair(table))))
    assert json.loads(text)["columns"][2]["findings"][0]["name"] == "out of range"


def test_the_path_of_evidence_by_hand():
    reference, same = pair(rows(np.random.default_rng(18), 200))
    nothing = profile.count(reference.bins, rows(np.random.default_rng(18), 1).slice(0, 0))
    moved = rows(np.random.default_rng(19), 200)
    moved = moved.set_column(0, "x", pa.array(moved["x"].to_numpy() + 3))
    windows = [same, nothing, same, profile.count(reference.bins, moved)]
    found = drift.detect(reference, windows, windows_per_year=52)
    assert found.threshold == 52 / 0.05
    assert found.first_alarm == 3
    first, third, last = found.e[0], found.e[2], found.e[3]
    assert math.isnan(found.e[1])
    assert math.isnan(found.p[1])
    assert found.path == pytest.approx(
        [first, first, (1 + first) * third, (1 + (1 + first) * third) * last]
    )
    assert [drift.evalue(p) for p in (found.p[0], found.p[3])] == [first, last]
    assert drift.detect(reference, [], windows_per_year=52).first_alarm is None


@pytest.mark.parametrize("by", ["rows", "blocks"])
def test_each_window_is_compared_with_all_before(by):
    table, days = by_day(np.random.default_rng(22), 44, 20, alike=0.3)
    whole = profile.learn(table, KINDS, days)
    reference, first, second = (
        profile.window(whole, days[0] + a, days[0] + b) for a, b in ((0, 30), (30, 37), (37, 44))
    )
    both = drift.detect(reference, [first, second], windows_per_year=52, by=by)
    later = drift.detect(profile.add(reference, first), [first, second], windows_per_year=52, by=by)
    alone = drift.detect(profile.add(reference, first), [second], windows_per_year=52, by=by)
    assert both.by == by
    assert both.p[0] != later.p[0]
    assert both.p[1] == pytest.approx(alone.p[0], abs=0.05 if by == "blocks" else 1e-12)


def test_looking_all_the_time_rarely_pages_by_rows():
    rng = np.random.default_rng(20)
    runs, pages, tested, late = 15, 0, 0, []
    for _ in range(runs):
        reference = profile.learn(rows(rng, 3_000), KINDS)
        windows = [profile.count(reference.bins, rows(rng, 100)) for _ in range(40)]
        pages += drift.detect(reference, windows, windows_per_year=40).first_alarm is not None
        looks = [drift.compare(reference, w) for w in windows]
        tested += any(c.drifted for look in looks for c in look.columns)
        moved = [profile.count(reference.bins, rows(rng, 100, day=0.5)) for _ in range(10)]
        page = drift.detect(reference, windows[:10] + moved, windows_per_year=40).first_alarm
        late.append(math.inf if page is None else page - 9)
    assert pages <= most(runs, 0.05)
    assert tested > most(runs, 0.05)
    assert min(late) >= 1
    assert np.median(late) <= 3


def test_looking_all_the_time_rarely_pages_by_blocks():
    rng = np.random.default_rng(21)
    runs, pages, late = 15, 0, []
    for _ in range(runs):
        table, days = by_day(rng, 30 + 20 * 7, 50, alike=0.5)
        first = days < days[0] + 30
        reference = profile.learn(table.filter(pa.array(first)), KINDS, days[first])
        rest = profile.count(reference.bins, table.filter(pa.array(~first)), days[~first])
        weeks = [profile.window(rest, day, day + 7) for day in rest.blocks[::7]]
        found = drift.detect(reference, weeks, windows_per_year=20, permutations=499)
        assert found.by == "blocks"
        pages += found.first_alarm is not None
        moved, when = by_day(rng, 42, 50, alike=0.5, later=2.0)
        after = profile.count(reference.bins, moved, when + 1_000)
        weeks = weeks[:5] + [profile.window(after, day, day + 7) for day in after.blocks[::7]]
        page = drift.detect(reference, weeks, windows_per_year=20, permutations=499).first_alarm
        late.append(math.inf if page is None else page - 4)
    assert pages <= most(runs, 0.05)
    assert np.median(late) <= 4
