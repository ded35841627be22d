import datetime
from decimal import Decimal

import numpy as np
import pandas as pd
import pytest

from modelkeep.data import columns
from modelkeep.data.columns import Column, SchemaError, learn_column


def series(values, dtype=None, name="x"):
    return pd.Series(values, dtype=dtype, name=name)


@pytest.mark.parametrize(
    ("values", "dtype", "texts"),
    [
        ([1, 2], "int64", ["1", "2"]),
        ([1.0, None, 2.5], "float64", ["1", None, "2.5"]),
        ([1e10, 1.5e10, -0.0], "float64", ["10000000000", "15000000000", "0"]),
        ([2**60 + 1], "int64", ["1152921504606846977"]),
        ([1, None], "Int8", ["1", None]),
        ([0.1], "float32", ["0.1"]),
        ([True, False], "bool", ["True", "False"]),
        ([True, None], "boolean", ["True", None]),
        ([True, None, False], "object", ["True", None, "False"]),
        ([1, "x", 2.0, None, "", "  "], "object", ["1", "x", "2", None, None, None]),
        (["b", None, "a"], "category", ["b", None, "a"]),
        ([True, False], "category", ["True", "False"]),
        ([" x ", None], "str", [" x ", None]),
        ([datetime.date(2013, 1, 31)], "object", ["2013-01-31"]),
        ([], "object", []),
    ],
)
def test_text_of_any_type(values, dtype, texts):
    text = columns.as_text(series(values, dtype))
    assert text.dtype == "str"
    assert text.name == "x"
    assert [None if pd.isna(each) else each for each in text] == texts


def test_text_of_a_number_does_not_depend_on_its_neighbours():
    alone, beside = columns.as_text(series([1e12])), columns.as_text(series([1e12, 0.5]))
    assert alone[0] == beside[0] == "1000000000000"


def test_numbers_in_text_and_their_misfits():
    numbers, bad = columns.as_numbers(series(["12", " 12.5 ", "1e3", "abc", "NA", "", None, "1,5"]))
    np.testing.assert_array_equal(numbers, [12, 12.5, 1000, *[np.nan] * 5])
    assert bad.tolist() == [False, False, False, True, False, False, False, True]


def test_decimals_are_numbers():
    assert columns.as_numbers(series([Decimal("1.5"), None]))[0][0] == 1.5


@pytest.mark.parametrize(
    ("values", "moment"),
    [
        (["2013-01-31"], "2013-01-31"),
        (["2013-01-31 17:05"], "2013-01-31 17:05"),
        (["2013-01-31T17:05:00Z"], "2013-01-31 17:05"),
        (["2013-01-31T17:05:00+02:00"], "2013-01-31 15:05"),
        ([20130131], "2013-01-31"),
        ([datetime.date(2013, 1, 31)], "2013-01-31"),
        (pd.to_datetime(["2013-01-31"]).tz_localize("America/New_York"), "2013-01-31 05:00"),
        (["9999-12-31"], "9999-12-31"),
    ],
)
def test_times_are_naive_utc(values, moment):
    times, bad = columns.as_times(pd.Series(values))
    assert str(times.dtype) == "datetime64[us]"
    assert times[0] == pd.Timestamp(moment)
    assert not bad.any()


def test_what_is_no_date_is_told_from_what_is_missing():
    times, bad = columns.as_times(series(["x", None, "31.12.2013", "1/31/2013", ""]))
    assert times.isna().all()
    assert bad.tolist() == [True, False, True, True, False]


@pytest.mark.parametrize(
    ("values", "column"),
    [
        ([1, 2, 2], Column("x", "number", integer=True)),
        ([1.5, None], Column("x", "number")),
        ([1.0, np.inf, 2.0], Column("x", "number", integer=True)),
        (["1", " 2.5 ", "3"], Column("x", "number")),
        (["1"] * 19 + ["n/a", "oops"], Column("x", "number", integer=True)),
        (["1"] * 18 + ["no", "oops"], Column("x", "category", categories=("1",))),
        (["a", "b", "a", "b", "c"], Column("x", "category", categories=("a", "b"))),
        ([True, False, True, False], Column("x", "category", categories=("False", "True"))),
        (["a", "a", None], Column("x", "category", categories=("a",))),
        ([7, 7, None], Column("x", "number", integer=True)),
        ([*range(30), np.inf, np.inf], Column("x", "number", integer=True)),
    ],
)
def test_kind_is_learned(values, column):
    assert learn_column(series(values), {}) == column


@pytest.mark.parametrize(
    ("values", "why"),
    [
        ([7, 7, 7], "constant: every value is 7"),
        (["a", "a"], "constant: every value is 'a'"),
        ([None, None], "every value is missing"),
        ([np.nan, np.nan], "every value is missing"),
        (["", " "], "every value is missing"),
        ([f"id {i}" for i in range(50)], "free text or an identifier"),
        (range(50), "a counter"),
        (["2013-01-31", "2013-02-01"] * 5, "a date or time"),
        (["31/12/2013", "1/1/2014"] * 5, "a date or time"),
        (pd.to_datetime(["2013-01-31", None]), "a date or time"),
        (pd.to_timedelta(["1s", "2s"]), "a date or time"),
        ([datetime.date(2013, 1, 31)], "a date or time"),
        ([datetime.time(17, 5)], "a date or time"),
    ],
)
def test_columns_that_are_no_features_say_why(values, why):
    assert learn_column(series(values), {}).startswith(why)


def test_declared_categories_are_no_numbers():
    column = learn_column(series(["1", "2", "1", "2"], "category"), {})
    assert column == Column("x", "category", categories=("1", "2"))


def test_rare_categories_are_left_to_other():
    values = series(["often"] * 2_996 + ["enough"] * 3 + ["rare"] * 1)
    assert learn_column(values, {}).categories == ("enough", "often")
    values = series(["often"] * 3_001 + ["rare"] * 3)
    assert learn_column(values, {}).categories == ("often",)


def test_a_stated_kind_keeps_a_column():
    assert learn_column(series([3, 1, 3, 1]), {"kind": "category"}).categories == ("1", "3")
    assert learn_column(series([7, 7]), {"kind": "number"}).kind == "number"
    assert learn_column(series(["1"] * 9 + ["no"] * 9), {"kind": "number"}).kind == "number"


def test_unseen_reject_closes_the_list_with_rare_ones():
    values = series(["often"] * 3_000 + ["rare"])
    column = learn_column(values, {"unseen": "reject"})
    assert column.categories == ("often", "rare")
    _, found = columns.fit(series(["rare", "new", None]), column)
    assert [dict(each.reasons) for each in found] == [{1: "x: 'new' was never seen"}]
    many = series([str(i) + "a" for i in range(1_000)] + ["often"] * 9)
    with pytest.raises(SchemaError, match=r"rules.x.unseen: 'reject'.* 1001 values.*use 'other'"):
        learn_column(many, {"unseen": "reject"})


@pytest.mark.parametrize(
    ("rules", "said"),
    [
        ({"hihg": 3}, r"rules.x.hihg: no such rule; did you mean 'high'\?"),
        ({"missing": "drop"}, "rules.x.missing: 'drop' is not one of impute, reject"),
        ({"low": "cold"}, "rules.x.low: 'cold' is not a finite number"),
        ({"high": float("inf")}, "rules.x.high: inf is not a finite number"),
        ({"low": True}, "rules.x.low: True is not a finite number"),
        ({"low": 3, "high": 2}, "rules.x: low 3 is above high 2"),
    ],
)
def test_rules_that_cannot_hold_are_refused(rules, said):
    with pytest.raises(SchemaError, match=said):
        columns.check_rules("x", rules)


def test_rules_must_suit_the_kind():
    with pytest.raises(SchemaError, match="rules.x.unseen: the column is a number"):
        learn_column(series([1, 2, 2]), {"unseen": "reject"})
    with pytest.raises(SchemaError, match="rules.x.low: the column is a category"):
        learn_column(series(["a", "a", "b", "b"]), {"low": 1})


def test_numbers_that_do_not_fit_say_why():
    column = Column("x", "number", low=-40, high=130, missing="reject")
    values, found = columns.fit(series(["7", "abc", "inf", "999", "-40", None]), column)
    np.testing.assert_array_equal(values, [7, np.nan, np.inf, 999, -40, np.nan])
    reasons = [reason for fault in found for reason in fault.reasons.items()]
    assert reasons == [
        (1, "x: 'abc' is not a number"),
        (2, "x: 'inf' is not finite"),
        (2, "x: 'inf' is outside -40..130"),
        (3, "x: '999' is outside -40..130"),
        (5, "x: is missing"),
    ]
    assert columns.fit(series([999.0]), column)[1][0].reasons[0] == "x: 999 is outside -40..130"


def test_categories_keep_their_own_value_and_missing_may_be_refused():
    column = Column("x", "category", categories=("a",), missing="reject")
    values, found = columns.fit(series(["a", "new", None]), column)
    assert values.tolist()[:2] == ["a", "new"]
    assert pd.isna(values[2])
    assert [dict(each.reasons) for each in found] == [{2: "x: is missing"}]


def test_long_values_are_cut_in_reasons():
    (fault,) = columns.faults(series(["y" * 99]), [True], "is not a number")
    assert fault.reasons[0] == "x: '" + "y" * 40 + "' is not a number"


@pytest.mark.parametrize("name", ["self", "x", "new"])
def test_a_column_of_any_name_is_replaced_beside(name):
    rows = pd.DataFrame({"self": [1, 2], "x": [3, 4]})
    made = columns.with_column(rows, name, [5, 6])
    assert made[name].tolist() == [5, 6] and rows.to_dict("list") == {"self": [1, 2], "x": [3, 4]}
