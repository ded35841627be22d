import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import msgspec
import numpy as np
import pytest

import synthetic
from modelkeep.serving import requests
from modelkeep.serving.requests import RowReader, RowsError, ValidationError

RULES = {"size": {"low": -10, "high": 10, "missing": "reject"}, "shop": {"unseen": "reject"}}
GOOD = {"size": 0.5, "weight": 100.0, "shop": "north"}


def reader(sealed, most=100):
    return RowReader(sealed.schema, sealed.reference.bins, most)


@pytest.fixture(scope="module")
def free(bundles):
    """A reader without rules: what does not fit is imputed or other."""
    return reader(bundles["binary"])


@pytest.fixture(scope="module")
def strict(tmp_path_factory):
    parts = synthetic.prepared(rules=RULES)
    return reader(synthetic.sealed(tmp_path_factory.mktemp("strict") / "b", parts, "linear"))


def body(*several, **changes):
    return json.dumps({"rows": list(several) or [GOOD | changes]}).encode()


def check(reader, *several, **changes):
    decoded, refused, *_ = reader.decode(body(*several, **changes))
    assert not refused
    return reader.check(decoded)


def refusal(reader, text):
    with pytest.raises(ValidationError) as found:
        reader.decode(text)
    return found.value


def test_a_row_that_fits(free):
    found = check(free)
    assert found.numbers.tolist() == [[0.5, 100.0]] and [*map(list, found.categories)] == [
        ["north"]
    ]
    assert (found.refused, found.notes, found.problems) == ({}, {}, {})


def test_null_is_missing_and_counted(free):
    found = check(free, weight=None, shop=None)
    assert np.isnan(found.numbers[0, 1]) and found.categories[0][0] is None
    assert found.problems == {"missing": 2, "unseen": 0, "out_of_range": 0, "refused": 0}


@pytest.mark.parametrize(
    ("value", "text"), [(3, "3"), (3.0, "3"), (2.5, "2.5"), (True, "True"), ("  ", None)]
)
def test_categories_are_read_as_the_pipeline_reads_them(free, value, text):
    assert check(free, shop=value).categories[0][0] == text


def test_what_training_has_not_seen_is_answered_noted_and_counted(free):
    found = check(free, {**GOOD, "size": 99}, {**GOOD, "shop": "moon"}, GOOD)
    assert found.notes == {
        0: ["size is above the largest value of the training"],
        1: ["shop was not seen in training"],
    }
    assert found.problems == {"missing": 0, "unseen": 1, "out_of_range": 1, "refused": 0}
    assert check(free, size=-99).notes == {0: ["size is below the smallest value of the training"]}


def test_rules_refuse_row_by_row(strict):
    given = [GOOD, {"size": 11}, {"size": None}, {"shop": "moon"}, {"shop": None}, {"weight": None}]
    found = check(strict, *[GOOD | each for each in given])
    said = {i: (each.place, each.message) for i, each in found.refused.items()}
    assert said == {
        1: (".size", "11 is outside -10..10"),
        2: (".size", "is missing, and this column must have a value"),
        3: (
            ".shop",
            "was never seen, and this column is a closed list; known are 'east', 'north', 'south'",
        ),
    }
    assert found.problems["refused"] == 3


def test_numbers_that_a_model_cannot_hold_are_refused(free):
    assert "outside" in check(free, weight=1e300).refused[0].message


@pytest.mark.parametrize(
    ("change", "place", "rule"),
    [
        ({"size": "1"}, "$.rows[0].size", "must be a number or null, not text"),
        ({"size": True}, "$.rows[0].size", "must be a number or null, not true or false"),
        ({"size": [1]}, "$.rows[0].size", "must be a number or null, not a list"),
        (
            {"shop": {}},
            "$.rows[0].shop",
            "must be true or false, a number, text or null, not an object",
        ),
        ({"shop": "x" * 1001}, "$.rows[0].shop", "must be text of at most 1000 characters"),
        (
            {"sise": 1},
            "$.rows[0]",
            "has the unknown key 'sise' (did you mean 'size'?); take it off",
        ),
        ({"secret": 1}, "$.rows[0]", "has the unknown key 'secret'; take it off"),
        ({"key": ""}, "$.rows[0].key", "must be text, not empty"),
        ({"key": "a\nb"}, "$.rows[0].key", "text without control characters"),
        ({"key": "a\n"}, "$.rows[0].key", "text without control characters"),
        ({"key": "a\x85"}, "$.rows[0].key", "text without control characters"),
        ({"key": 2**63}, "$.rows[0].key", "a whole number of at most 9223372036854775807"),
        ({"shop": 10**400}, "$.rows[0].shop", "9223372036854775807"),
        (
            {"a": 1, "size ": 2, "b": 3},
            "$.rows[0]",
            "keys 'a', 'size ' (did you mean 'size'?), 'b'",
        ),
        ({"key": "k" * 201}, "$.rows[0].key", "must be text of at most 200 characters"),
    ],
)
def test_a_row_that_is_none_says_where_and_why(free, change, place, rule):
    found, refused, *_ = free.decode(body(**change))
    assert found == [] and refused[0].place == place and rule in refused[0].message


def test_a_column_that_is_not_there_must_be_sent_as_null(free):
    refused = free.decode(body({"size": 1, "weight": 2}))[1]
    assert str(refused[0]) == "$.rows[0].shop: is not there; send null if it is not known"


def test_all_columns_that_are_not_there_are_named_at_once(free):
    (error,) = free.decode(body({"size": 1})).refused.values()
    assert str(error) == "$.rows[0]: lacks 'weight', 'shop'; send null where a value is not known"


def test_a_row_of_the_table_is_taken_as_it_is(bundles):
    """The label and what prepare left out are no features: they are ignored and counted."""
    schema, bins = bundles["binary"].schema, bundles["binary"].reference.bins
    table = replace(schema, ignored={"colour": "is constant"}, origin={"drop": ["comment"]})
    row = GOOD | {schema.label: 1, "colour": "red", "comment": "x"}
    decoded = RowReader(table, bins, 10).decode(body(row, GOOD, row))
    assert (len(decoded.rows), decoded.refused, decoded.ignored) == (3, {}, 2)
    assert RowReader(table, bins, 10).check(decoded.rows).numbers.tolist() == [[0.5, 100.0]] * 3
    strict = RowReader(table, bins, 10, "refuse").decode(body(row)).refused[0].message
    assert all(name in strict for name in (schema.label, "colour", "comment"))
    other = body(GOOD | {"secret": 1})
    assert RowReader(table, bins, 10).decode(other).refused
    assert RowReader(table, bins, 10, "ignore").decode(other).ignored == 1
    listed = RowReader(replace(table, origin={"features": ["size"]}), bins, 10)
    assert listed.decode(other).ignored == 1  # the rest of the table is not known there
    assert listed.decode(body(GOOD | {"kye": "typo of the id"})).refused


def test_numbers_and_times_are_read_as_the_table_writes_them(bundles):
    schema, bins = bundles["binary"].schema, bundles["binary"].reference.bins
    rules = {"size": {"decimal": ",", "thousands": "."}, "weight": {"strip": "kg"}}
    origin = {"decimal": ".", "rules": rules, "date_format": "%d.%m.%Y %H:%M"}
    table = RowReader(replace(schema, origin=origin), bins, 10)
    row = {"size": "-1.234,5", "weight": "2.5 kg", "shop": " north ", "when": "31.12.2013 23:05"}
    found = check(table, row, GOOD)
    assert found.numbers.tolist() == [[-1234.5, 2.5], [0.5, 100.0]]
    assert [*map(list, found.categories)] == [["north", "north"]] and not found.refused
    assert found.times == [requests.when("2013-12-31T23:05"), None]
    for wrong in ({"size": "1,2,3"}, {"weight": "2.5 lb"}, {"weight": ""}):
        assert "must be a number or null" in table.decode(body(row | wrong)).refused[0].message
    assert check(table, row | {"when": "31/12/2013"}).refused[0].place == ".when"


@pytest.mark.parametrize(
    "text",
    ["0001-01-01T00:00:00", "1900-01-01", "9999-12-31T23:59:59", "1969-12-31", "2300-01-01T00:00Z"],
)
def test_times_far_from_training_and_from_now_are_refused(free, text):
    refused = check(free, when=text).refused
    assert refused[0].place == ".when" and "far from the times" in refused[0].message
    assert check(free, GOOD, GOOD | {"when": text}).problems["refused"] == 1


def test_times_of_training_and_around_now_are_taken(free):
    now = datetime.now(UTC)
    times = [now - timedelta(days=300), now, now + timedelta(days=360), datetime(2020, 1, 1)]
    assert check(free, *[GOOD | {"when": each.isoformat()} for each in times]).refused == {}
    learned = replace(free.schema)
    object.__setattr__(learned, "axis", ("1850-01-01", "1900-01-01"))
    first, last = requests.time_axis(learned)
    assert first.year == 1850 and last > now  # history that is old stays answerable


def test_one_bad_row_does_not_refuse_the_others(free):
    found, refused, *_ = free.decode(body(GOOD, {"size": "x"}, GOOD))
    assert len(found) == 2 and list(refused) == [1] and refused[1].place.startswith("$.rows[1]")


@pytest.mark.parametrize(
    ("text", "status"),
    [
        (b"", 400),
        (b"{", 400),
        (b"nan", 400),
        (b'{"rows": [{"size": NaN}]}', 400),
        (b'{"rows": [{"size": Infinity}]}', 400),
        (b"\xff\xfe", 400),
        (b"\xef\xbb\xbf{}", 400),
        (b'{"rows": [' + b"[" * 100_000, 400),
        (b"[" * 1_000_000, 422),
        (b'{"rows": ' + b'{"a":' * 100_000, 422),
        (b"[]", 422),
        (b"null", 422),
        (b'"rows"', 422),
        (b"{}", 422),
        (b'{"rows": []}', 422),
        (b'{"rows": {}}', 422),
        (b'{"rows": null}', 422),
        (b'{"rows": [], "rows": []}', 422),
        (b'{"row": []}', 422),
    ],
)
def test_a_body_that_is_none(free, text, status):
    assert refusal(free, text).status == status


def test_duplicate_keys_are_refused_wherever_they_are(free):
    once, twice = b'"weight": 100.0', b'"weight": 100.0, "weight": 1'
    for text in (body(), body(GOOD, GOOD), body(key="a:b"), body(shop="a:b"), body(key="\\")):
        assert len(free.decode(text)[0]) >= 1
        assert refusal(free, text.replace(once, twice, 1)).message.startswith(
            "has the key 'weight'"
        )
    assert refusal(free, body().replace(b'{"rows"', b'{"rows": 1, "rows"')).status in (400, 422)
    # an escaped colon in a value makes up for the colon of a second key
    hidden = body(key="a:b").replace(once, twice).replace(b"a:b", b"a\\u003ab")
    assert "twice" in refusal(free, hidden).message


def test_more_rows_than_may_be(bundles):
    few = reader(bundles["binary"], 2)
    assert len(few.decode(body(GOOD, GOOD))[0]) == 2
    assert refusal(few, body(GOOD, GOOD, GOOD)).message == "must be a list of at most 2 items"


def test_who_and_when_are_taken_where_they_are_given(free):
    row = free.decode(body(key="k1", when="2020-01-02T00:00:01"))[0][0]
    assert row.id == "k1" and requests.when(row.time) == 1_577_923_201_000_000
    assert free.decode(body(key=17))[0][0].id == 17
    assert requests.when(msgspec.UNSET) is None
    assert requests.when("2020-01-02T01:00:01+01:00") == 1_577_923_201_000_000
    with pytest.raises(ValidationError, match="is not a time"):
        requests.when("yesterday")


def test_two_models_with_the_same_columns_read_each_others_rows(bundles):
    ours, other = reader(bundles["binary"]), reader(bundles["multiclass"])
    assert ours.check(other.decode(body())[0]).numbers.tolist() == [[0.5, 100.0]]


def test_any_names_are_columns(tmp_path):
    """Spaces, quotes, dunders and words of Python are names of columns somewhere."""
    names = {"size": "class", "weight": "a b'", "shop": "__init__"}
    frame = synthetic.table().rename(columns=names)
    made = reader(synthetic.sealed(tmp_path / "b", synthetic.prepared(frame=frame), "linear"))
    row = {names[k]: v for k, v in GOOD.items()}
    assert made.check(made.decode(json.dumps({"rows": [row]}).encode())[0]).numbers.shape == (1, 2)


def test_a_name_that_no_client_could_send_is_told(bundles):
    of = replace(bundles["binary"].schema, id='a"b')
    with pytest.raises(RowsError, match="rename it in the table"):
        RowReader(of, bundles["binary"].reference.bins, 10)
