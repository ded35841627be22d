import numpy as np
import pyarrow as pa
import pytest

from modelkeep.evaluation import binning


def test_quantile_bins_hold_equal_shares():
    values = np.random.default_rng(0).normal(size=10_000)
    found = binning.learn_numbers("x", pa.array(values), None)
    places = binning.number_places(values, found.cuts)
    assert np.bincount(places, minlength=23).tolist() == [0, *[500] * 20, 0, 0]
    assert found.edges[0] == values.min()
    assert found.edges[-1] == values.max()
    assert len(found.labels) == 23


def test_places_are_those_of_a_binary_search():
    rng = np.random.default_rng(1)
    found = binning.learn_numbers("x", pa.array(rng.normal(size=500).round(1)), None)
    values = np.concatenate([rng.normal(0, 3, 5_000).round(1), found.edges, [np.inf, -np.inf]])
    expected = np.searchsorted(found.cuts, values, "right")
    assert np.array_equal(binning.number_places(values, found.cuts), expected)
    last = len(found.labels) - 1
    assert binning.number_places(np.array([np.nan]), found.cuts).tolist() == [last]


def test_smallest_and_largest_values_are_in_range():
    found = binning.learn_numbers("x", pa.array([3.0, 5.0, 9.0]), None)
    places = binning.number_places(np.array([2.9, 3.0, 9.0, 9.1]), found.cuts)
    assert [found.labels[i] for i in places] == ["below", "[3, 5)", "[9, 9]", "above"]


def test_a_heavy_value_has_a_bin_of_its_own():
    values = np.zeros(1_000)
    values[:30] = np.arange(1, 31)
    found = binning.learn_numbers("x", pa.array(values), None)
    assert np.bincount(binning.number_places(values, found.cuts)).tolist() == [0, 970, 30]


@pytest.mark.parametrize(
    ("values", "labels"),
    [
        ([7.0, 7.0], ("below", "[7, 7]", "above", "missing")),
        ([None, None], ("below", "above", "missing")),
        ([np.nan, np.inf], ("below", "above", "missing")),
        ([True, False, None], ("below", "[0, 1)", "[1, 1]", "above", "missing")),
    ],
)
def test_columns_with_hardly_any_values(values, labels):
    assert binning.learn_numbers("x", pa.array(values), None).labels == labels


def test_labels_of_close_edges_differ():
    found = binning.Bins("x", "number", edges=(1_000_000.1, 1_000_000.2, 1_000_000.3))
    assert found.labels[1:3] == ("[1000000.1, 1000000.2)", "[1000000.2, 1000000.3]")


def test_categories_are_common_rare_or_unseen():
    column = pa.array(["a"] * 1_000 + ["b"] * 2_000 + ["c"] * 3 + ["d"] * 2 + [None] * 7)
    found = binning.learn_categories("x", column, None)
    assert (found.categories, found.rare, found.once) == (("b", "a"), ("c", "d"), 0)
    now = pa.array(["c", "a", "zebra", None, "b", "d"])
    assert [found.labels[i] for i in binning.category_places(found, now)] == [
        *("rare", "a", "unseen", "missing", "b", "rare")
    ]


def test_a_thousandth_of_the_rows_is_common():
    found = binning.learn_categories("x", pa.array(["a"] * 1_997 + ["b"] * 2 + ["c"]), None)
    assert (found.categories, found.rare) == (("a", "b"), ("c",))


def test_categories_seen_in_one_block_only_are_counted():
    column = pa.array(["a", "a", "b", "b", "c", "d"])
    assert binning.learn_categories("x", column, None).once == 2
    assert binning.learn_categories("x", column, np.array([0, 1, 1, 1, 0, 0])).once == 3


def test_categories_that_are_named_like_bins_stay_apart():
    found = binning.learn_categories("x", pa.array(["missing", "rare", "a", ""]), None)
    assert found.labels == ("", "a", "'missing'", "'rare'", "rare", "unseen", "missing")


def test_categories_of_any_type():
    for column in (
        pa.array([1, 2, 2, None]),
        pa.array(["1", "2", "2", None]),
        pa.array(["1", "2", "2", None]).dictionary_encode(),
        pa.DictionaryArray.from_arrays(
            pa.array([0, 1, 1, 2], pa.int8()), pa.array(["1", "2", None])
        ),
    ):
        found = binning.learn_categories("x", column, None)
        assert found.categories == ("2", "1")
        assert binning.category_places(found, column).tolist() == [1, 0, 0, 4]


def test_too_many_rare_categories_are_forgotten(monkeypatch):
    monkeypatch.setattr(binning, "REMEMBERED", 2)
    column = pa.array(["a"] * 10_000 + ["b", "c", "d", "e"])
    found = binning.learn_categories("x", column, None)
    assert (found.rare, found.once) == (("b", "c"), 4)
    assert np.bincount(binning.category_places(found, column)).tolist() == [10_000, 2, 2]


@pytest.mark.parametrize("kind", [pa.int8(), pa.uint64(), pa.float32(), pa.decimal128(21, 1)])
def test_numbers_of_any_type(kind):
    column = pa.array([1, None, 3]).cast(kind)
    read = binning.numbers(binning.Bins("x", "number"), column)
    assert np.array_equal(read, [1, np.nan, 3], equal_nan=True)
    assert np.array_equal(binning.numbers(binning.Bins("x", "number"), column.slice(2)), [3])


def test_text_is_not_numbers():
    with pytest.raises(binning.BinsError, match="column 'x' holds string, not numbers"):
        binning.numbers(binning.Bins("x", "number"), pa.array(["1"]))
