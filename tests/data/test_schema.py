import json

import numpy as np
import pandas as pd
import pytest

from modelkeep.data import schema
from modelkeep.data.schema import SchemaError

N = 200


def rows(**changes):
    draw = np.random.default_rng(0)
    made = {
        "key": [f"k{i}" for i in range(N)],
        "when": pd.date_range("2013-01-01", periods=N, freq="6h"),
        "who": [f"w{i % 7}" for i in range(N)],
        "temp": draw.normal(50, 10, N),
        "origin": draw.choice(["EWR", "JFK", "LGA"], N),
        "late": np.arange(N) % 2,
    }
    return pd.DataFrame(made | changes)


def learn(table, **changes):
    roles = {"label": "late", "time": "when", "id": "key", "entity": "who"}
    return schema.learn(table, **(roles | changes))


def with_bad(column, position, value):
    table = rows()
    table[column] = table[column].astype(object)
    table.loc[position, column] = value
    return table


def test_every_other_column_is_a_feature():
    learned = learn(rows(), origin={"source": "x.csv"})
    assert [column.name for column in learned.columns] == ["temp", "origin"]
    assert (learned.task, learned.classes) == ("binary", ("0", "1"))
    assert (learned.id, learned.time, learned.entity) == ("key", "when", "who")
    assert learned.origin == {"source": "x.csv"}


def test_constant_and_other_useless_columns_are_ignored_with_a_reason():
    table = rows(same=3, empty=None, note=[f"text {i}" for i in range(N)], seen=rows()["when"])
    learned = learn(table)
    assert [column.name for column in learned.columns] == ["temp", "origin"]
    assert learned.ignored == {
        "same": "constant: every value is 3",
        "empty": "every value is missing",
        "note": "free text or an identifier: no value has 0.1 % of the rows",
        "seen": "a date or time: the model learns from numbers and categories",
    }


def test_no_feature_left_is_an_error():
    with pytest.raises(SchemaError, match="no column is left.*same: constant"):
        learn(rows(same=3), features=["same"])
    with pytest.raises(SchemaError, match="no column is left.*no other column"):
        learn(rows()[["key", "when", "who", "late"]])


def test_features_may_be_listed():
    assert [each.name for each in learn(rows(), features=["origin", "temp"]).columns] == [
        "origin",
        "temp",
    ]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"label": "laet"}, r"label: the table has no column 'laet'; did you mean 'late'\?"),
        ({"label": ""}, "label: the table has no column ''"),
        ({"time": "wehn"}, r"time: .* did you mean 'when'\?"),
        ({"id": "kye"}, r"id: .* did you mean 'key'\?"),
        ({"entity": "zzz"}, "entity: .*; there is: key, when, who, temp, origin, late"),
        ({"features": ["tmep"]}, r"features: .* did you mean 'temp'\?"),
        ({"features": ["late"]}, "features: 'late' is the label"),
        ({"time": "late"}, "time: 'late' is the label already"),
        ({"rules": {"tmep": {}}}, r"rules: .* did you mean 'temp'\?"),
        ({"rules": {"late": {"low": 0}}}, "rules: 'late' is not a feature"),
        ({"rules": {"temp": {"hihg": 1}}}, r"rules.temp.hihg: no such rule; did you mean 'high'"),
        ({"task": "binray"}, r"task: 'binray' is not a task; did you mean 'binary'\?"),
    ],
)
def test_a_wrong_name_says_which_was_meant(changes, said):
    with pytest.raises(SchemaError, match=said):
        learn(rows(), **changes)


def test_a_row_may_be_its_own_entity():
    learned = learn(rows(), entity="key")
    assert list(schema.clean(rows(), learned).rows) == [
        "key",
        "when",
        "who",
        "temp",
        "origin",
        "late",
    ]


@pytest.mark.parametrize(
    ("label", "task", "classes"),
    [
        ([0, 1], "binary", ("0", "1")),
        ([1.0, 0.0], "binary", ("0", "1")),
        (["1", "0"], "binary", ("0", "1")),
        (["1.0", "0"], "binary", ("0", "1")),
        ([True, False], "binary", ("False", "True")),
        (["yes", "no"], "binary", ("no", "yes")),
        ([2, 10], "binary", ("2", "10")),
        (["c", "a", "b"], "multiclass", ("a", "b", "c")),
        ([10, 9, 8], "multiclass", ("8", "9", "10")),
        (list(range(20)), "multiclass", tuple(map(str, range(20)))),
        (list(range(25)), "regression", ()),
        ([0.5, 1.5, 2.5, 3.0], "regression", ()),
        (["0.5", "1.5", "2.5", "3"], "regression", ()),
    ],
)
def test_task_and_classes_are_told_from_the_label(label, task, classes):
    learned = learn(rows(late=(label * N)[:N]))
    assert (learned.task, learned.classes) == (task, classes)


def test_the_task_may_be_stated():
    assert learn(rows(), task="regression").task == "regression"
    assert learn(rows(late=np.arange(N) % 40), task="multiclass").task == "multiclass"
    assert learn(rows(late=["a", "b", "c", "d"] * (N // 4)), task="multiclass").classes == tuple(
        "abcd"
    )
    with pytest.raises(SchemaError, match="'late' is not numbers; set task: multiclass"):
        learn(rows(late=["a", "b"] * (N // 2)), task="regression")
    with pytest.raises(SchemaError, match="3 distinct values, too many for task 'binary'"):
        learn(rows(late=(["a", "b", "c"] * N)[:N]), task="binary")


def test_a_stray_label_makes_no_class():
    labels = ["0", "1"] * (N // 2)
    labels[5] = "maybe"
    learned = learn(rows(late=labels))
    assert learned.classes == ("0", "1")
    assert learn(rows(late=[np.inf, np.inf, *([0.0, 1.0] * N)[: N - 2]])).classes == ("0", "1")
    words = ["no", "yes"] * (N // 2)
    words[5] = "maybe"
    assert learn(rows(late=words), task="binary").classes == ("no", "yes")
    assert learn(rows(late=["c", *(["a", "b"] * N)[: N - 1]])).classes == ("a", "b")


@pytest.mark.parametrize("label", [1, "yes", None])
def test_one_class_or_no_label_is_an_error(label):
    with pytest.raises(SchemaError, match="'late' has one class or none .* in 200 rows"):
        learn(rows(late=label))


def test_a_label_of_names_or_ids_is_an_error():
    with pytest.raises(SchemaError, match="200 distinct values, too many for task 'multiclass'"):
        learn(rows(late=[f"text {i}" for i in range(N)]))


def test_clean_rows_have_the_types_of_the_schema():
    table = rows(temp=[str(i % 50) for i in range(N)], key=range(N), when="2013-01-01T05:00:00Z")
    cleaned = schema.clean(table, learn(table)).rows
    kinds = {name: str(dtype) for name, dtype in cleaned.dtypes.items()}
    assert kinds == {
        "key": "str",
        "when": "datetime64[us]",
        "who": "str",
        "temp": "float64",
        "origin": "str",
        "late": "str",
    }
    assert cleaned["key"].iloc[1] == "1"
    assert cleaned["when"].iloc[0] == pd.Timestamp("2013-01-01 05:00")
    assert len(cleaned) == N


@pytest.mark.parametrize(
    ("column", "value", "rule", "reason"),
    [
        ("temp", "abc", "temp: is not a number", "temp: 'abc' is not a number"),
        ("temp", np.inf, "temp: is not finite", "temp: 'inf' is not finite"),
        ("temp", 999, "temp: is outside -40..130", "temp: '999' is outside -40..130"),
        ("temp", None, "temp: is missing", "temp: is missing"),
        ("origin", "XYZ", "origin: was never seen", "origin: 'XYZ' was never seen"),
        ("key", None, "key: is missing", "key: is missing"),
        ("key", "k0", "key: is a duplicate id", "key: 'k0' is a duplicate id"),
        ("when", None, "when: is missing", "when: is missing"),
        ("late", "maybe", "late: is not one of 0, 1", "late: 'maybe' is not one of 0, 1"),
    ],
)
def test_a_row_that_does_not_fit_is_set_aside_with_its_reason(column, value, rule, reason):
    rules = {"temp": {"low": -40, "high": 130, "missing": "reject"}, "origin": {"unseen": "reject"}}
    cleaned = schema.clean(with_bad(column, 5, value), learn(rows(), rules=rules))
    assert cleaned.rows.index.tolist() == [i for i in range(N) if i != 5]
    aside = cleaned.quarantine
    assert list(aside) == ["row", "rule", "reason", *rows().columns]
    assert (aside["row"][0], aside["rule"][0], aside["reason"][0]) == (5, rule, reason)
    assert len(aside) == 1
    assert pd.isna(aside[column][0]) if value is None else aside[column][0] == str(value)


def test_a_text_that_is_no_date_is_set_aside():
    table = rows(when=rows()["when"].astype("str"))
    table.loc[5, "when"] = "yesterday"
    aside = schema.clean(table, learn(rows())).quarantine
    assert aside["reason"].tolist() == [
        "when: 'yesterday' is not a date (ISO 8601, as 2013-01-31 17:05)"
    ]


def test_the_first_of_several_reasons_is_given():
    table = with_bad("temp", 5, "abc")
    table.loc[5, "late"] = 7
    assert schema.clean(table, learn(rows())).quarantine["reason"].tolist() == [
        "temp: 'abc' is not a number"
    ]


def test_a_duplicate_of_a_row_that_does_not_fit_is_kept():
    table = with_bad("temp", 0, "abc")
    table.loc[5, "key"] = "k0"
    cleaned = schema.clean(table, learn(rows()))
    assert cleaned.quarantine["row"].tolist() == [0]
    assert 5 in cleaned.rows.index


def test_clean_never_raises_for_bad_rows():
    learned = learn(rows())
    worst = pd.DataFrame({name: [["list"], {"a": 1}, object, b"x", ""] for name in rows()})
    cleaned = schema.clean(worst, learned)
    assert len(cleaned.rows) == 0
    assert len(cleaned.quarantine) == 5
    empty = schema.clean(rows().head(0), learned)
    assert (len(empty.rows), len(empty.quarantine)) == (0, 0)
    assert empty.rows.dtypes.equals(schema.clean(rows(), learned).rows.dtypes)


def test_rows_without_a_label_are_kept():
    learned = learn(rows())
    assert schema.clean(with_bad("late", 5, None), learned).rows["late"].isna().sum() == 1
    assert schema.clean(rows().drop(columns="late"), learned).rows["late"].isna().all()
    numbers = learn(rows(late=np.arange(N) / 7))
    cleaned = schema.clean(rows(late=[None, "abc", *np.arange(N - 2)]), numbers)
    assert cleaned.rows["late"].dtype == "float64"
    assert np.isnan(cleaned.rows["late"].iloc[0])
    assert cleaned.quarantine["reason"].tolist() == ["late: 'abc' is not a number"]


def test_a_missing_column_says_which_was_meant():
    table = rows().rename(columns={"temp": "tmep"})
    with pytest.raises(SchemaError, match=r"features: .*'temp'; did you mean 'tmep'\?"):
        schema.clean(table, learn(rows()))
    with pytest.raises(SchemaError, match="id: the table has no column 'key'"):
        schema.clean(rows().drop(columns="key"), learn(rows()))


def test_an_id_is_made_from_the_order_where_there_is_none():
    table = rows().drop(columns="key")
    cleaned = schema.clean(table, learn(table, id="row"))
    assert cleaned.rows["row"].tolist() == [str(i) for i in range(N)]


def test_own_columns_named_like_the_quarantine_are_kept():
    table = rows(reason=["r"] * N, temp="abc")
    aside = schema.clean(table, learn(rows())).quarantine
    assert aside["reason_"].tolist() == ["r"] * N
    assert aside["reason"][0] == "temp: 'abc' is not a number"


def test_json_comes_back_the_same():
    rules = {"temp": {"low": -40, "high": 130.5}, "origin": {"unseen": "reject"}}
    origin = {"source": "Zürich.csv", "features": (), "rules": rules}
    learned = learn(rows(same=1), rules=rules, origin=origin)
    text = schema.to_json(learned)
    assert schema.from_json(text) == learned
    assert schema.to_json(schema.from_json(text)) == text
    assert json.loads(text)["format"] == 1
    assert "Zürich" in text


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{}", '{"format": 1}', '{"format": 1, "columns": [{"name": "x"}]}'],
)
def test_other_text_is_no_schema(text):
    with pytest.raises(SchemaError, match="schema.json is not a schema .*run prepare again"):
        schema.from_json(text)


def test_another_format_is_refused():
    text = schema.to_json(learn(rows())).replace('"format": 1', '"format": 2')
    with pytest.raises(SchemaError, match="format is 2 and not 1; run prepare again"):
        schema.from_json(text)
