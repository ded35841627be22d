from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from modelkeep.data import splits
from modelkeep.data.schema import SchemaError, to_json
from modelkeep.data.splits import TableError, prepare

DAYS, A_DAY = 40, 25
ROLES = {"label": "late", "time_column": "when", "id_column": "key", "entity_column": "who"}


def rows(**changes):
    """1,000 rows over the 40 days from 1 January to 9 February 2013, newest last."""
    n, draw = DAYS * A_DAY, np.random.default_rng(0)
    hours = pd.to_timedelta(np.arange(n) * 24 / A_DAY, "h")
    made = {
        "key": [f"k{i}" for i in range(n)],
        "when": (pd.Timestamp("2013-01-01") + hours).astype("datetime64[us]"),
        "who": [f"w{i % 7}" for i in range(n)],
        "temp": draw.normal(50, 10, n).round(3),
        "origin": draw.choice(["EWR", "JFK", "LGA"], n),
        "late": draw.integers(0, 2, n),
    }
    return pd.DataFrame(made | changes)


def split(table=None, **changes):
    return prepare(rows() if table is None else table, **(ROLES | {"test_days": 10} | changes))


def timeless(table=None, **changes):
    table = rows().drop(columns="when") if table is None else table
    return prepare(table, **(ROLES | {"time_column": "", "shuffle": False} | changes))


def adds_up(counts):
    out = ("train", "test", "unlabelled", "quarantined", "older")
    return counts["rows_in"] == sum(counts[name] for name in out)


def test_the_newest_days_are_the_test():
    parts = split()
    assert (len(parts.train), len(parts.test)) == (750, 250)
    assert parts.train["when"].max() < pd.Timestamp("2013-01-31") <= parts.test["when"].min()
    assert list(parts.train) == ["key", "when", "who", "temp", "origin", "late"]
    assert parts.counts == {
        "rows_in": 1_000,
        "later": 0,
        "older": 0,
        "train": 750,
        "test": 250,
        "unlabelled": 0,
        "quarantined": 0,
        "reasons": {},
    }


def test_only_what_was_known_is_used():
    counts = split(as_of="2013-02-01", label_delay_days=2).counts
    assert counts["later"] == 9 * A_DAY
    assert counts["unlabelled"] == 2 * A_DAY - 1  # the row exactly two days before has its label
    assert counts["train"] + counts["test"] == 29 * A_DAY + 1
    assert adds_up(counts)


def test_without_as_of_every_label_is_known():
    assert split(label_delay_days=2).counts["unlabelled"] == 0


def test_later_rows_change_nothing():
    known = rows()[lambda table: table["when"] < "2013-02-01"]
    broken = rows(temp=rows()["temp"].astype(object))
    broken.loc[broken["when"] >= "2013-02-01", ["key", "temp", "late"]] = ["k0", "abc", 7]
    one, other = (split(table, as_of="2013-02-01") for table in (known, broken))
    assert one.train.equals(other.train)
    assert one.test.equals(other.test)
    assert to_json(one.schema) == to_json(other.schema)
    assert other.counts["quarantined"] == 0


def test_a_label_that_has_not_come_is_not_looked_at():
    table = rows(late=rows()["late"].astype(object))
    table.loc[table["when"] > "2013-01-30", "late"] = "maybe"
    counts = split(table, as_of="2013-02-01", label_delay_days=2).counts
    assert counts["quarantined"] == 0
    assert counts["unlabelled"] == 2 * A_DAY - 1


def test_rows_without_a_label_are_counted():
    table = rows(late=rows()["late"].astype("Int8"))
    table.loc[table.index % 10 == 0, "late"] = pd.NA
    counts = split(table).counts
    assert (counts["unlabelled"], counts["quarantined"]) == (100, 0)
    assert adds_up(counts)


def test_days_without_labels_are_not_test_days():
    table = rows(late=rows()["late"].astype("Int8"))
    table.loc[table["when"] >= "2013-02-05", "late"] = pd.NA
    assert split(table).test["when"].min() == pd.Timestamp("2013-01-26")


def test_history_has_a_length():
    parts = split(history_days=20, as_of="2013-02-01")
    assert parts.counts["older"] == 11 * A_DAY
    assert parts.train["when"].min() >= pd.Timestamp("2013-01-12")
    assert adds_up(parts.counts)
    assert split(history_days=20).train["when"].min() == pd.Timestamp("2013-01-21")


def test_the_schema_is_learned_from_the_training_rows_only():
    table = rows()
    table.loc[table["when"] >= "2013-01-31", "origin"] = "NEW"
    parts = split(table)
    origin = next(column for column in parts.schema.columns if column.name == "origin")
    assert origin.categories == ("EWR", "JFK", "LGA")
    assert set(parts.test["origin"]) == {"NEW"}
    closed = {"origin": {"unseen": "reject"}}
    with pytest.raises(TableError, match="no row for testing fits.*'origin: was never seen'"):
        split(table, rules=closed)


def test_the_schema_says_what_it_came_from():
    origin = split(source="a.csv", as_of="2013-02-01", rules={"temp": {"low": -40}}).schema.origin
    assert origin["source"] == "a.csv"
    assert origin["as_of"] == "2013-02-01"
    assert origin["rules"] == {"temp": {"low": -40}}
    assert {name: origin[name] for name in splits.ROLES} == ROLES | {"features": []}


def test_rows_that_do_not_fit_are_counted_by_rule():
    table = rows(temp=rows()["temp"].astype(object), when=rows()["when"].astype("str"))
    table.loc[[3, 4, 990], "temp"] = ["abc", "x", "999"]
    table.loc[5, "when"] = "soon"
    table.loc[[6, 995], "key"] = "k1"
    parts = split(table, rules={"temp": {"high": 130}})
    assert parts.quarantine["row"].tolist() == [3, 4, 5, 6, 990, 995]
    assert parts.counts["reasons"] == {
        "temp: is not a number": 2,
        "key: is a duplicate id": 2,
        "when: is not a date (ISO 8601, as 2013-01-31 17:05)": 1,
        "temp: is outside -inf..130": 1,
    }
    assert adds_up(parts.counts)
    assert parts.quarantine["reason"].iloc[4] == "temp: '999' is outside -inf..130"


def test_unordered_rows_are_put_in_order():
    mixed = rows().sample(frac=1, random_state=0)
    assert split(mixed).train.equals(split().train)


def test_two_runs_are_the_same():
    one, other = split(), split()
    assert one.train.equals(other.train)
    assert to_json(one.schema) == to_json(other.schema)


def test_future_dates_are_later():
    table = rows()
    table.loc[5, "when"] = pd.Timestamp("2014-12-31")
    counts = split(table, as_of="2013-02-10").counts
    assert counts["later"] == 1
    assert counts["rows_in"] == 999


@pytest.mark.parametrize("as_of", ["", "2013-02-01"])
@pytest.mark.parametrize("odd", ["0001-01-01", "1900-01-01", "9999-12-31 23:59:59"])
def test_an_odd_time_is_quarantined_where_it_stands_and_stretches_nothing(odd, as_of):
    table, usual = rows(), split(as_of=as_of)
    table["when"] = table["when"].astype("str")
    table.loc[5, "when"] = odd
    parts = split(table, as_of=as_of)
    assert adds_up(parts.counts) and parts.counts["quarantined"] == 1
    assert parts.counts["rows_in"] == usual.counts["rows_in"]
    assert "is outside the time axis 20" in parts.quarantine["reason"].iloc[0]
    assert parts.test.equals(usual.test) and len(parts.train) == len(usual.train) - 1
    assert parts.schema.quarantined_share == pytest.approx(1 / usual.counts["rows_in"])


def test_up_to_a_tenth_of_the_times_may_be_odd_on_either_side():
    table = rows().astype({"when": "str"})
    table.loc[table.index % 10 == 3, "when"] = "1970-01-01"
    table.loc[table.index % 10 == 7, "when"] = "9999-01-01"
    parts = split(table)
    assert parts.counts["quarantined"] == 200
    assert parts.train["when"].min() >= rows()["when"].min()
    assert parts.test["when"].max() <= rows()["when"].max()


def test_several_classes_and_regression():
    several = split(rows(late=np.resize(["b", "a", "c"], 1_000)))
    assert (several.schema.task, several.schema.classes) == ("multiclass", ("a", "b", "c"))
    numbers = split(rows(late=rows()["temp"] * 2))
    assert numbers.schema.task == "regression"
    assert numbers.test["late"].dtype == "float64"


def test_two_hundred_columns():
    draw = np.random.default_rng(0)
    many = {f"c{i}": draw.normal(size=1_000) for i in range(200)}
    parts = split(rows(**many, same=1))
    assert len(parts.schema.columns) == 202
    assert list(parts.schema.ignored) == ["same"]


def test_no_time_column_counts_the_file_order():
    parts = timeless(test_share=0.2)
    assert parts.schema.time is None
    assert parts.train["key"].tolist() == [f"k{i}" for i in range(800)]
    assert parts.test["key"].tolist() == [f"k{i}" for i in range(800, 1_000)]
    assert adds_up(parts.counts)


def test_without_time_as_of_is_a_number_of_rows():
    parts = timeless(as_of="500", label_delay_days=3, history_days=3)
    assert (parts.counts["rows_in"], parts.counts["later"]) == (500, 500)
    assert parts.test["key"].iloc[-1] == "k499"
    with pytest.raises(TableError, match="'2013-07-01' is not a number of rows.*as_of: ''"):
        timeless(as_of="2013-07-01")
    with pytest.raises(TableError, match="as_of: nothing was known"):
        timeless(as_of="0")


def test_no_id_column_numbers_the_rows():
    parts = split(id_column="")
    assert parts.schema.id == "row"
    assert parts.test["row"].iloc[-1] == "999"
    parts = split(rows(row=np.resize([1, 2, 3, 2], 1_000)), id_column="")
    assert parts.schema.id == "row_number"
    assert "row" in [column.name for column in parts.schema.columns]
    with pytest.raises(TableError, match="id_column: set it"):
        split(rows(row=1, row_number=1), id_column="")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"as_of": "soon"}, "as_of: 'soon' is not a date .*write it as 2013-07-01"),
        ({"as_of": "2012-01-01"}, "as_of: nothing was known, the first row is of 2013-01-01"),
        ({"as_of": "2013-01-02", "label_delay_days": 9}, "no row is usable: of 1000 rows 975 are"),
        ({"test_days": 40}, "test_days: 40 of the 40 day.s. with labels.*from 1 to 39"),
        ({"test_days": 0}, "test_days: 0 of the 40"),
        ({"time_column": "", "test_share": 1}, "test_share: 1 of 1000 row.s. with labels leaves"),
        ({"time_column": "", "test_share": 0}, "test_share: 0 of 1000"),
    ],
)
def test_what_cannot_be_split_says_what_to_do(changes, said):
    with pytest.raises(TableError, match=said):
        split(**changes)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"label": "lat"}, r"label: the table has no column 'lat'; did you mean 'late'\?"),
        ({"time_column": "wen"}, r"time_column: .* did you mean 'when'\?"),
        ({"id_column": "kee"}, r"id_column: .* did you mean 'key'\?"),
        ({"features": ["tmp"]}, r"features: .* did you mean 'temp'\?"),
    ],
)
def test_a_column_that_is_not_there_says_which_was_meant(changes, said):
    with pytest.raises(SchemaError, match=said):
        split(**changes)


def test_no_usable_row():
    with pytest.raises(TableError, match="no row is usable: of 1000 rows .* have no label yet"):
        split(rows(late=None))
    with pytest.raises(TableError, match="no row is usable: of 0 rows"):
        split(rows().head(0))
    with pytest.raises(TableError, match="no value of 'when' is a date .*the first is '31.1.2013'"):
        split(rows(when="31.1.2013"))
    with pytest.raises(TableError, match="no row for training fits.*'temp: is outside 900..inf'"):
        split(rules={"temp": {"low": 900}})


def test_one_class_is_an_error_also_where_only_the_training_rows_have_one():
    with pytest.raises(SchemaError, match=r"'late' has one class or none \(1\) in 750 rows"):
        split(rows(late=1))
    with pytest.raises(SchemaError, match=r"'late' has one class or none \(0\) in 750 rows"):
        split(rows(late=(rows()["when"] >= "2013-01-31").astype(int)))


def test_window_gives_the_rows_that_follow_in_order():
    table = rows(temp=rows()["temp"].astype(object), late=rows()["late"].astype("Int8"))
    table.loc[table["when"] >= "2013-02-03", "late"] = pd.NA
    table.loc[800, "temp"] = "abc"
    learned = split(as_of="2013-02-01").schema
    mixed = table.sample(frac=1, random_state=0, ignore_index=True)
    found = splits.window(mixed, learned, "2013-02-01", pd.Timestamp("2013-02-08"))
    assert found.rows["key"].tolist() == [f"k{i}" for i in range(775, 950) if i != 800]
    assert found.rows.index.tolist() == list(range(174))
    assert found.rows["late"].isna().sum() == 5 * A_DAY
    assert found.quarantine["reason"].tolist() == ["temp: 'abc' is not a number"]
    assert mixed["temp"][found.quarantine["row"][0]] == "abc"


def test_window_may_have_no_label_column_and_no_row():
    learned = split(as_of="2013-02-01").schema
    unlabelled = rows().drop(columns="late")
    found = splits.window(unlabelled, learned, "2013-02-01", "2013-02-08")
    assert len(found.rows) == 7 * A_DAY
    assert found.rows["late"].isna().all()
    assert len(splits.window(unlabelled, learned, "2014-02-01", "2014-02-08").rows) == 0
    with pytest.raises(TableError, match="first: 'soon' is not a date"):
        splits.window(rows(), learned, "soon", "2013-02-08")


def test_window_without_time_is_of_positions():
    table = rows().drop(columns=["when", "key"])
    learned = timeless(table, id_column="", as_of="500").schema
    found = splits.window(table, learned, 500, 600)
    assert found.rows["row"].tolist() == [str(i) for i in range(500, 600)]


def test_written_rows_come_back_and_have_the_same_bytes(tmp_path):
    table = rows(temp=rows()["temp"].astype(object))
    table.loc[3, "temp"] = "abc"
    parts = split(table)
    for name in ("train", "quarantine"):
        frame, path = getattr(parts, name), tmp_path / "made" / f"{name}.parquet"
        splits.write(frame, path)
        first = path.read_bytes()
        splits.write(splits.load(path), path)
        assert path.read_bytes() == first
        pd.testing.assert_frame_equal(splits.load(path), frame)
    assert sorted(p.name for p in path.parent.iterdir()) == ["quarantine.parquet", "train.parquet"]


def test_an_empty_quarantine_comes_back(tmp_path):
    splits.write(split().quarantine, tmp_path / "rows.parquet")
    found = splits.load(tmp_path / "rows.parquet")
    assert list(found) == ["row", "rule", "reason", *rows()]
    assert len(found) == 0


def test_a_file_that_is_no_table_says_what_to_run(tmp_path):
    (tmp_path / "bad.parquet").write_text("x")
    for name in ("bad.parquet", "none.parquet"):
        with pytest.raises(TableError, match=f"{name} cannot be read .*run the stage"):
            splits.load(tmp_path / name)


def test_flights_as_the_params_have_them():
    roles = {"label": "late", "time_column": "scheduled", "id_column": "flight_id"}
    roles["entity_column"] = "tailnum"
    table = splits.read("examples/flights", Path(__file__).parents[2], **roles)
    parts = prepare(table, **roles, as_of="2013-07-01", label_delay_days=1, test_days=28)
    counts = dict(parts.counts)
    assert counts == {
        "rows_in": 166_158,
        "later": 170_618,
        "older": 0,
        "train": counts["train"],
        "test": counts["test"],
        "unlabelled": counts["unlabelled"],
        "quarantined": 0,
        "reasons": {},
    }
    assert adds_up(counts)
    assert parts.test["scheduled"].dt.floor("D").nunique() == 28
    assert parts.schema.ignored == {}
    assert [column.name for column in parts.schema.columns] == [
        *("carrier", "origin", "dest", "hour", "weekday", "distance"),
        *("temp", "humid", "wind_speed", "precip", "pressure", "visib"),
    ]


def by_class(rows_a_class=60):
    """A table without time, sorted by its label, as teaching tables are."""
    draw = np.random.default_rng(0)
    y = np.repeat(["a", "b", "c"], rows_a_class)
    return pd.DataFrame({"x": draw.normal(size=len(y)), "y": y})


def test_a_table_sorted_by_its_label_is_cut_from_each_class():
    parts = prepare(by_class(), label="y", test_share=0.2)
    assert parts.test["y"].value_counts().to_dict() == dict.fromkeys("abc", 12)
    assert set(parts.train["y"].head(20)) == set("abc")  # folds follow the order of the rows
    assert parts.train.equals(prepare(by_class(), label="y", test_share=0.2).train)
    other = prepare(by_class(), label="y", test_share=0.2, seed=1)
    assert set(other.test["row"]) != set(parts.test["row"])
    with pytest.raises(SchemaError, match="one class or none"):
        prepare(by_class().iloc[:72], label="y", shuffle=False, test_share=0.2)


def test_rows_that_come_later_are_those_that_no_split_has_seen():
    table = by_class()
    parts = prepare(table, label="y", as_of="100")
    later = splits.window(table, parts.schema, 100, len(table)).rows
    seen = {*parts.train["row"], *parts.test["row"]}
    assert len(later) == 80 and not seen & set(later["row"])
    assert len(seen) == 100 and set(later["y"]) == set("abc")


def test_a_file_that_grows_keeps_most_rows_where_they_were():
    draw = np.random.default_rng(1)
    table = pd.DataFrame({"x": draw.normal(size=900), "y": draw.choice(["a", "b"], 900)})
    before, after = (set(prepare(table.head(n), label="y").test["row"]) for n in (800, 900))
    assert len(before & after) > 0.8 * len(before)


def test_a_number_to_predict_is_drawn_without_classes():
    parts = prepare(by_class().drop(columns="y").assign(z=np.arange(180) / 7), label="z")
    assert (len(parts.train), len(parts.test)) == (144, 36)
    assert parts.test["z"].min() < 5 and parts.test["z"].max() > 20
