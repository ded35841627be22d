import pytest

from logs import FIRST, entry
from modelkeep.predictions import records
from modelkeep.predictions.records import Call, Label, LabelledPrediction

SAID = LabelledPrediction(FIRST, "m" * 10, "champion", b"[0.25, 0.75]")
ROW = ("a", *SAID)


@pytest.mark.parametrize(
    ("known", "label", "outcome", "before"),
    [
        ([], ("1", 5), "first", None),
        ([("a", "1", 5)], ("1", 6), "same", "1"),
        ([("a", "0", 5)], ("1", 6), "corrected", "0"),
        ([("a", "0", 5)], ("1", 5), "corrected", "0"),
        ([("a", "0", 5)], ("1", 4), "outdated", "0"),
        ([("a", "0", 4), ("a", "1", 5)], ("1", 6), "same", "1"),
        ([("b", "0", 4)], ("1", 6), "first", None),
    ],
)
def test_what_a_label_changed(known, label, outcome, before):
    (told,) = records.labelled([Label("a", *label)], [ROW], known)
    assert told == ("a", outcome, "1", before, (SAID,))


def test_labels_of_one_batch_follow_each_other():
    values = [("1", 5), ("1", 6), ("0", 7), ("1", 2)]
    told = records.labelled([Label("a", *each) for each in values], [ROW, ROW], [])
    assert [each.outcome for each in told] == ["first", "same", "corrected", "outdated"]
    assert all(each.predictions == (SAID, SAID) for each in told)


def test_a_label_without_an_answer_is_early_until_there_is_one():
    (told,) = records.labelled([Label("a", "1", 5)], [], [])
    assert told == ("a", "early", "1", None, ())
    found = records.appended([entry("a"), entry("b"), entry("a")], [("a", "0", 1), ("a", "1", 2)])
    assert found == [("a", "first", "1", None, (SAID, SAID))]


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        ([(None, None)], (None, None)),
        ([("1", 5)], ("1", 5)),
        ([("1", 5), ("1", 9)], ("1", 5)),
        ([("0", 5), ("1", 7), ("1", 9)], ("1", 7)),
        ([("1", 5), ("0", 7), ("1", 9)], ("1", 9)),
    ],
)
def test_a_label_is_known_since_its_value_came(labels, expected):
    known = [("before", "0", 1), *(("a", *label) for label in labels if label[0])]
    rows = [entry("before"), entry("a"), entry("never")]
    found = records.joined(rows, known)
    assert [row[:8] for row in found] == rows
    assert [row[8:] for row in found] == [("0", 1), expected, (None, None)]


def test_answers_are_kept_by_model_and_moment_and_come_back_as_they_were():
    rows = [entry("é"), entry("b", entity="x", time=None), entry("c", role="canary"), entry("d")]
    groups = [*records.grouped([*rows, entry("e", FIRST + 1)])]
    assert [(g.at - FIRST, g.role, g.ids) for g in groups] == [
        (0, "champion", '["é","b"]'),
        (0, "canary", '["c"]'),
        (0, "champion", '["d"]'),
        (1, "champion", '["e"]'),
    ]
    assert [e for g in groups[:3] for e in records.ungrouped(*g[:3], *g[6:])] == rows


def test_a_call_is_kept_with_its_answers_or_alone():
    rows = [entry("a"), entry("b", role="canary")]
    calls = [Call(FIRST, "m" * 10, role, 0.5, 7, "[]") for role in ("canary", "shadow")]
    found = [(g.role, g.share, g.took, g.ids) for g in records.grouped(rows, calls)]
    assert found == [
        ("champion", None, None, '["a"]'),
        ("canary", 0.5, 7, '["b"]'),
        ("shadow", 0.5, 7, "[]"),
    ]
