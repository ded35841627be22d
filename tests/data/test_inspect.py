"""Doubts about tables: each kind is named with a line that settles it, and clean tables have none."""

import numpy as np
import pandas as pd
import pytest
from sklearn import datasets

from modelkeep.data import inspect, io, splits
from modelkeep.data.inspect import Roles

N = 400
DRAW = np.random.default_rng(3)
DAYS = pd.Timestamp("2024-03-01") + pd.to_timedelta(np.sort(DRAW.integers(0, 90, N)), unit="D")


def table(**columns):
    """A clean table as text, and the columns in doubt."""
    draw = np.random.default_rng(5)
    usual = {"when": DAYS.astype("str"), "size": draw.normal(size=N).round(3)}
    usual |= {"shop": draw.choice(["north", "south"], N), "y": draw.choice(["no", "yes"], N)}
    return pd.DataFrame(usual | columns).astype("str")


def written(folder, frame):
    frame.to_csv(folder / "t.csv", index=False)
    return io.read("t.csv", folder, raw=True)


def doubts(folder, **columns):
    return inspect.doubts(written(folder, table(**columns)), Roles("y", "when"))


def test_a_clean_table_has_no_doubts(tmp_path):
    assert doubts(tmp_path) == []


NUMBERS = np.round(DRAW.gamma(2, 900, N), 2)
ENGLISH = [f"{x:,.2f}" for x in NUMBERS]
GERMAN = [x.replace(",", "_").replace(".", ",").replace("_", ".") for x in ENGLISH]
COLUMNS = {
    "decimal": ([str(x).replace(".", ",") for x in NUMBERS], {"decimal": ","}),
    "thousands": (ENGLISH, {"thousands": ","}),
    "german": (GERMAN, {"decimal": ",", "thousands": "."}),
    "currency": ([f"€ {x}" for x in GERMAN], {"decimal": ",", "thousands": ".", "strip": "€"}),
    "unit": ([f"{x} kg" for x in NUMBERS], {"strip": "kg"}),
    "share": ([f"{x}%" for x in NUMBERS], {"strip": "%"}),
}


@pytest.mark.parametrize("name", COLUMNS)
def test_numbers_written_as_text_are_settled_by_a_line_that_makes_them_numbers(name, tmp_path):
    values, rule = COLUMNS[name]
    (found,) = doubts(tmp_path, odd=values)
    assert found.settings == {"rules": {"odd": rule}} and found.safe
    assert "numbers written as text" in found.sentence and found.line.startswith("rules: {")
    read = io.read("t.csv", tmp_path, label="y", time_column="when", **inspect.merged([found]))
    parts = splits.prepare(
        read, label="y", time_column="when", test_days=20, **inspect.merged([found])
    )
    (column,) = [c for c in parts.schema.columns if c.name == "odd"]
    assert column.kind == "number" and parts.counts["quarantined"] == 0
    both = pd.concat([parts.train["odd"], parts.test["odd"]])
    assert np.allclose(both, NUMBERS)


@pytest.mark.parametrize("name", ["prediction", "answered_by", "labelled_at", 'a "b"'])
def test_columns_whose_name_is_taken_are_dropped(name, tmp_path):
    (found,) = doubts(tmp_path, **{name: ["u", "v"] * (N // 2)})
    assert found.safe and found.settings == {"drop": [name]}


@pytest.mark.parametrize(
    "values", [["1st class", "2nd class", "3rd class"], ["3 kg", "200 g"], ["size 4", "no 4"]]
)
def test_numbers_of_several_units_stay_categories(values, tmp_path):
    assert doubts(tmp_path, odd=[values[i * i % len(values)] for i in range(N)]) == []


@pytest.mark.parametrize(
    ("values", "words", "settings"),
    [
        ([f"{i % 90:05}" for i in range(N)], "leading zeros", {"rules": {"odd": {"kind": "category"}}}),
        ([f"u{i}" for i in range(N)], "an id or free text", {"drop": ["odd"]}),
        (list(range(7, 7 + N)), "a counter", {"drop": ["odd"]}),
        ([f"{i % 28 + 1:02}.0{i % 9 + 1}.1990" for i in range(N)], "dates", {"drop": ["odd"]}),
        ([""] * N, "every value is missing", {"drop": ["odd"]}),
        (["a"] * N, "every value is 'a'", {"drop": ["odd"]}),
    ],
)  # fmt: skip
def test_columns_that_teach_nothing_as_they_are(values, words, settings, tmp_path):
    (found,) = doubts(tmp_path, odd=values)
    assert words in found.sentence and found.settings == settings and found.safe


def test_na_among_codes_may_be_a_name(tmp_path):
    land = np.random.default_rng(0).choice(["NA", "DE", "FR", "GB", "US", "IT", "ES"], N)
    (found,) = doubts(tmp_path, land=land)
    assert "'NA'" in found.sentence and "NA" not in found.settings["na_values"] and found.safe
    read = io.read("t.csv", tmp_path, **found.settings)
    assert (read["land"] == "NA").sum() == (land == "NA").sum() > 0
    assert io.read("t.csv", tmp_path)["land"].isna().sum() == (land == "NA").sum()


def test_names_that_differ_by_case_or_space_only(tmp_path):
    shop = np.random.default_rng(0).choice(["North", "north", "new  york", "New York"], N)
    (found,) = doubts(tmp_path, shop=shop)
    assert "differ by case or space" in found.sentence and not found.line


@pytest.mark.parametrize("leak", ["class", "number"])
def test_a_column_that_decides_the_label_is_left_to_a_person(leak, tmp_path):
    y = table()["y"]
    copied = np.where(y == "yes", "paid", "open") if leak == "class" else (y == "yes") * 7.5
    (found,) = doubts(tmp_path, late_news=copied)
    assert "nearly decides y alone" in found.sentence and not found.safe
    assert found.settings == {"drop": ["late_news"]}


def test_a_good_column_is_no_leak(tmp_path):
    y = table()["y"] == "yes"
    good = np.where(DRAW.random(N) < 0.9, y, ~y)
    assert doubts(tmp_path, good=good.astype(int)) == []


@pytest.mark.parametrize(
    ("form", "safe"),
    [("%d.%m.%Y %H:%M", True), ("%d/%m/%Y", True), ("%m/%d/%Y", True), ("%d %b %Y", True)],
)
def test_times_are_read_by_the_format_that_is_named(form, safe, tmp_path):
    (found,) = doubts(tmp_path, when=DAYS.strftime(form))
    assert found.settings == {"date_format": form} and found.safe == safe
    read = io.read("t.csv", tmp_path, time_column="when", **found.settings)
    assert (pd.to_datetime(read["when"]) == DAYS).all()


def test_days_and_months_that_cannot_be_told_apart_are_left_to_a_person(tmp_path):
    early = DAYS - pd.to_timedelta(DAYS.day - DAYS.day % 12 - 1, unit="D")
    (found,) = doubts(tmp_path, when=early.strftime("%d/%m/%Y"))
    assert "fits too" in found.sentence and not found.safe


@pytest.mark.parametrize(("unit", "factor"), [("s", 1), ("ms", 1000)])
def test_epochs(unit, factor, tmp_path):
    seconds = DAYS.as_unit("s").astype("int64") * factor
    (found,) = doubts(tmp_path, when=seconds)
    assert found.settings == {"date_format": unit} and found.safe
    read = io.read("t.csv", tmp_path, time_column="when", **found.settings)
    assert (pd.to_datetime(read["when"]) == DAYS).all()


def test_names_that_no_request_can_hold(tmp_path):
    (found,) = doubts(tmp_path, **{'a "b"': np.arange(N) / 7})
    assert "no request can hold its name" in found.sentence and found.safe


def test_settings_of_several_doubts_are_one():
    parts = [{"drop": ["a"]}, {"rules": {"x": {"strip": "€"}}}, {"drop": ["b"]}, {"shuffle": True}]
    found = [inspect.Doubt("", "", each) for each in parts]
    expected = {"drop": ["a", "b"], "rules": {"x": {"strip": "€"}}, "shuffle": True}
    assert inspect.merged(found) == expected


@pytest.mark.parametrize(
    ("name", "sentences"), [("iris", 1), ("wine", 1), ("breast_cancer", 0), ("diabetes", 0)]
)
def test_teaching_tables(name, sentences):
    frame = getattr(datasets, f"load_{name}")(as_frame=True).frame
    found = inspect.doubts(frame, Roles("target"))
    assert len(found) == sentences and all("sorted by the label" in d.sentence for d in found)


def test_a_label_may_be_written_in_a_way_of_its_own(tmp_path):
    frame = table(y=[f"€ {x:,.2f}" for x in NUMBERS])
    (found,) = inspect.doubts(written(tmp_path, frame), Roles("y", "when"))
    settings = inspect.merged([found])
    read = io.read("t.csv", tmp_path, label="y", time_column="when", **settings)
    parts = splits.prepare(read, label="y", time_column="when", test_days=20, **settings)
    assert parts.schema.task == "regression" and parts.counts["quarantined"] == 0
    assert parts.train["y"].max() > 1000
