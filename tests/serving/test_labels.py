"""Labels that arrive before their predictions, or whose row was never predicted."""

import json

import pytest

from modelkeep.data.schema import Schema
from modelkeep.predictions.records import LabelOutcome
from modelkeep.serving import labels
from modelkeep.serving.requests import ValidationError

HOUR = 3_600_000_000


class Counter:
    """The part of the metrics that counts labels."""

    def __init__(self):
        self.outcomes = []

    def label(self, outcome):
        self.outcomes.append(outcome)


def outcome(id, kind):
    return LabelOutcome(id, kind, "1", None, ())


def test_labels_of_rows_that_were_never_predicted_are_counted_after_a_day():
    early, counter = labels.EarlyLabels(), Counter()
    early.note([outcome("a", "early"), outcome("b", "early"), outcome("c", "first")], 0)
    early.note([outcome("a", "early")], 20 * HOUR)  # sent again: it has waited since the first
    early.note([outcome("b", "first")], 21 * HOUR)  # its prediction came
    assert early.overdue(23 * HOUR) == []
    assert early.overdue(24 * HOUR) == ["a"]
    for _ in range(2):  # it is counted once
        early.count_unmatched(["a"], set(), counter)
    assert counter.outcomes == ["unmatched"] and early.overdue(99 * HOUR) == []


def test_a_label_whose_row_another_replica_predicted_is_not_unmatched():
    early, counter = labels.EarlyLabels(), Counter()
    early.note([outcome("a", "early"), outcome("b", "early")], 0)
    early.count_unmatched(early.overdue(24 * HOUR), {"a"}, counter)
    assert counter.outcomes == ["unmatched"] and early.overdue(99 * HOUR) == []


def test_so_many_early_labels_are_remembered_and_no_more():
    early, counter = labels.EarlyLabels(), Counter()
    many = [outcome(str(i), "early") for i in range(labels.MAX_EARLY + 10)]
    early.note(many, 0)
    while overdue := early.overdue(30 * HOUR):
        assert len(overdue) <= labels.MOST_OVERDUE
        early.count_unmatched(overdue, set(), counter)
    assert len(counter.outcomes) == labels.MAX_EARLY


def refused(value, classes):
    """The message to a label that is none."""
    task = "multiclass" if classes else "regression"
    schema = Schema(task, "species", classes, (), "id", None, None, {})
    body = json.dumps({"labels": [{"id": "a", "label": value}]}).encode()
    with pytest.raises(ValidationError) as error:
        labels.read(body, schema, 0)
    return str(error.value)


@pytest.mark.parametrize(
    ("value", "classes", "message"),
    [
        ("elm", ("ash", "oak"), "'elm' is no class of 'species'; known are 'ash', 'oak'"),
        (7, tuple(map(str, range(100, 120))), "known are '100', '101', '102'"),
        (7, tuple(map(str, range(100, 120))), "'111' and 8 more"),
        ("12", (), 'must be a number between -1e300 and 1e300, not "12"'),
        (True, (), "must be a number between -1e300 and 1e300, not true"),
        (None, ("ash", "oak"), "must be true or false, a number or text, not null"),
    ],
)
def test_a_label_that_is_none_is_told_what_it_may_be(value, classes, message):
    assert message in refused(value, classes)
