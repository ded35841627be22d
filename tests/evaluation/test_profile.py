import subprocess
import sys
from collections import Counter

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from modelkeep.evaluation import profile

KINDS = {"x": "number", "n": "number", "c": "category"}


def rows(size: int = 3_000, seed: int = 0) -> pa.Table:
    rng = np.random.default_rng(seed)
    x = rng.lognormal(size=size)
    x[rng.random(size) < 0.05] = np.nan
    c = rng.choice(["a", "b", "c"], size, p=[0.6, 0.3, 0.1])
    c[size // 2] = "d"
    minutes = np.sort(rng.integers(0, 20 * 1440, size))
    time = np.datetime64("2013-01-01T00:00:00", "us") + minutes.astype("timedelta64[m]")
    n = pa.array(rng.poisson(2, size), mask=rng.random(size) < 0.02)
    return pa.table({"x": x, "n": n, "c": c, "time": time})


def test_counts_are_those_of_a_plain_count():
    table = rows()
    days = profile.starts(table["time"])
    found = profile.learn(table, KINDS, days)
    for b in found.bins[:2]:
        values = table[b.name].cast(pa.float64()).to_numpy()
        for day, counts in zip(found.blocks, found.counts[b.name], strict=True):
            here = values[days == day]
            plain = np.histogram(here, [-np.inf, *b.cuts, np.inf])[0]
            assert counts.tolist() == [*plain, np.isnan(here).sum()]
    plain = Counter(zip(days.tolist(), table["c"].to_pylist(), strict=True))
    assert found.bins[2].categories == ("a", "b", "c")
    assert found.bins[2].rare == ("d",)
    for day, counts in zip(found.blocks.tolist(), found.counts["c"].tolist(), strict=True):
        assert counts == [*(plain[day, c] for c in "abcd"), 0, 0]
    assert found.rows.tolist() == [int((days == day).sum()) for day in found.blocks]


def test_sums_of_size_are_logarithms():
    values = np.array([0.0, np.nan, np.inf, 4.0, -4.0, 1024.0, 0.5])
    found = profile.learn(pa.table({"x": values}), {"x": "number"})
    ((count, total),) = found.sizes["x"].tolist()
    assert count == 4
    assert total / 4096 - 1023 * count == 2 + 2 + 10 - 1


@pytest.mark.parametrize("every", ["day", "hour", None])
def test_counts_add_up_in_any_order(every):
    table = rows()
    blocks = None if every is None else profile.starts(table["time"], every)
    whole = profile.learn(table, KINDS, blocks)
    rng = np.random.default_rng(1)
    order = rng.permutation(len(table))
    parts = []
    for chosen in np.array_split(order, [10, 10, 500, 501, 2_000]):
        mine = None if blocks is None else blocks[chosen]
        parts.append(profile.count(whole.bins, table.take(chosen), mine))
    for _ in range(3):
        rng.shuffle(parts)
        left = parts[0]
        for part in parts[1:]:
            left = profile.add(left, part)
        right = profile.add(profile.add(*parts[:2]), profile.add(*parts[2:4]))
        right = profile.add(profile.add(parts[4], parts[5]), right)
        assert profile.to_json(left) == profile.to_json(right) == profile.to_json(whole)


def test_sorted_and_mixed_rows_count_alike():
    table = rows(60_000)
    days = profile.starts(table["time"])
    assert len(table) > 5 * profile.RUN
    few = np.minimum(days, days[0] + 4)  # long runs of one block
    found = profile.learn(table, KINDS, few)
    order = np.random.default_rng(2).permutation(len(table))
    mixed = profile.count(found.bins, table.take(order), few[order])
    assert profile.to_json(mixed) == profile.to_json(found)


@pytest.mark.parametrize("time", [None, "time"])
def test_a_stream_counts_like_a_table(tmp_path, time):
    table = rows()
    pq.write_table(table, tmp_path / "rows.parquet", row_group_size=700)
    whole = profile.learn(table, KINDS, time and profile.starts(table[time]))
    file = pq.ParquetFile(tmp_path / "rows.parquet", read_dictionary=["c"])
    found = profile.stream(whole.bins, file.iter_batches(batch_size=450), time)
    assert profile.to_json(found) == profile.to_json(whole)
    nothing = profile.stream(whole.bins, [], time)
    assert nothing.rows.sum() == 0
    assert profile.to_json(profile.add(nothing, found)) == profile.to_json(whole)


def test_a_stream_passes_errors_on():
    found = profile.learn(rows(), KINDS)
    with pytest.raises(profile.ProfileError, match="column 'x' must be in the table once"):
        profile.stream(found.bins, rows().drop(["x"]).to_batches())


def test_a_window_is_its_blocks():
    table = rows()
    days = profile.starts(table["time"])
    whole = profile.learn(table, KINDS, days)
    first, end = np.datetime64("2013-01-05"), np.datetime64("2013-01-12")
    inside = (days >= first) & (days < end)
    direct = profile.count(whole.bins, table.filter(pa.array(inside)), days[inside])
    assert profile.to_json(profile.window(whole, first, end)) == profile.to_json(direct)
    assert profile.to_json(profile.window(whole, "2013-01-05", "2013-01-12")) == profile.to_json(
        direct
    )
    assert profile.window(whole, "2014-01-01", "2014-01-08").rows.sum() == 0


def test_json_gives_the_same_profile_and_bytes():
    table = rows()
    for blocks in (None, profile.starts(table["time"], "hour")):
        text = profile.to_json(profile.learn(table, KINDS, blocks))
        again = profile.from_json(text)
        assert profile.to_json(again) == text
        counted = profile.count(again.bins, table, blocks)
        assert profile.to_json(profile.add(again, counted)) == profile.to_json(
            profile.add(counted, again)
        )
    with pytest.raises(profile.ProfileError, match="profile format is 99, must be 1"):
        profile.from_json(text.replace('"format":1', '"format":99'))


@pytest.mark.parametrize("every", ["day", "hour"])
@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
def test_block_starts(unit, every):
    seconds = np.random.default_rng(3).integers(-(10**9), 10**9, 1_000)  # before 1970 too
    times = seconds.astype("datetime64[s]").astype(f"datetime64[{unit}]")
    expected = times.astype(f"datetime64[{'D' if every == 'day' else 'h'}]")
    zoned = pa.array(times).cast(pa.timestamp(unit, "America/New_York"))
    for given in (times, pa.array(times), pa.chunked_array([times, times])[:1_000], zoned):
        found = profile.starts(given, every)
        assert found.dtype == expected.dtype
        assert np.array_equal(found, expected)


def test_block_starts_of_dates():
    dates = np.array(["1969-12-31", "2013-02-28"], "datetime64[D]")
    for given in (dates, pa.array(dates)):
        assert np.array_equal(profile.starts(given), dates)
        hours = profile.starts(given, "hour")
        assert hours.dtype == "datetime64[h]"
        assert np.array_equal(hours, dates)


@pytest.mark.parametrize(
    ("times", "message"),
    [
        (pa.array(["2013-01-01"]), "times are string, must be timestamps"),
        (np.array([1, 2]), "cannot cut int64 by 'day'"),
        (pa.array([0, None], pa.timestamp("us")), "row 1 has no time"),
        (np.array(["2013-01-01", "NaT"], "datetime64[s]"), "row 1 has no time"),
    ],
)
def test_block_starts_need_times(times, message):
    with pytest.raises(profile.ProfileError, match=message):
        profile.starts(times)


def test_what_does_not_fit_is_refused():
    table = rows()
    days = profile.starts(table["time"])
    found = profile.learn(table, KINDS, days)
    with pytest.raises(profile.ProfileError, match="column 'c' must be in the table once"):
        profile.count(found.bins, table.drop(["c"]), days)
    with pytest.raises(profile.ProfileError, match=r"2 of datetime64.* for 3000 rows"):
        profile.count(found.bins, table, days[:2])
    with pytest.raises(profile.ProfileError, match="kind 'date'; use number or category"):
        profile.learn(table, {"x": "date"})
    with pytest.raises(profile.ProfileError, match="do not add"):
        profile.add(found, profile.count(found.bins, table))
    with pytest.raises(profile.ProfileError, match="do not add"):
        profile.add(found, profile.learn(rows(seed=1), KINDS, days))
    hours = profile.count(found.bins, table, profile.starts(table["time"], "hour"))
    with pytest.raises(profile.ProfileError, match="do not add"):
        profile.add(found, hours)
    with pytest.raises(profile.ProfileError, match="no blocks to cut by"):
        profile.window(profile.count(found.bins, table), "2013-01-01", "2013-01-02")


def test_no_rows_are_counted_as_none():
    found = profile.learn(rows(), KINDS)
    nothing = profile.count(found.bins, rows().slice(0, 0))
    assert nothing.rows.tolist() == [0]
    assert all(counts.sum() == 0 for counts in nothing.counts.values())


def test_blocks_far_apart():
    blocks = np.array(["1700-01-01", "2013-01-01", "9000-01-01"], "datetime64[s]")
    found = profile.learn(pa.table({"x": [1, 2, 3]}), {"x": "number"}, blocks[[2, 0, 1]])
    assert found.blocks.tolist() == blocks.tolist()
    assert found.counts["x"].argmax(axis=1).tolist() == [2, 3, 1]


def test_counting_and_comparing_need_no_pandas_or_scipy(tmp_path):
    pq.write_table(rows(), tmp_path / "rows.parquet")
    program = """
import sys
import pyarrow.parquet as pq
from modelkeep.evaluation import drift, profile
rows = pq.ParquetFile(sys.argv[1]).read()
kinds = {"x": "number", "n": "number", "c": "category"}
for days in (None, profile.starts(rows["time"])):
    reference = profile.learn(rows, kinds, days)
    drift.compare(reference, profile.count(reference.bins, rows, days))
    drift.detect(reference, [reference], windows_per_year=52)
profile.stream(reference.bins, rows.to_batches(), "time")
profile.from_json(profile.to_json(reference))
print([name for name in sys.modules if name.split(".")[0] in ("pandas", "scipy")])
"""
    command = [sys.executable, "-c", program, str(tmp_path / "rows.parquet")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]", done.stdout + done.stderr
