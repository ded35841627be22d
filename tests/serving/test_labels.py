"""Labels that arrive before their predictions, or whose row was never predicted."""

from modelkeep.predictions.records import LabelOutcome
from modelkeep.serving import labels

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
    early.count_unmatched(counter, 23 * HOUR)
    assert counter.outcomes == []
    early.count_unmatched(counter, 24 * HOUR)
    early.count_unmatched(counter, 99 * HOUR)
    assert counter.outcomes == ["unmatched"]


def test_so_many_early_labels_are_remembered_and_no_more():
    early, counter = labels.EarlyLabels(), Counter()
    many = [outcome(str(i), "early") for i in range(labels.MAX_EARLY + 10)]
    early.note(many, 0)
    early.count_unmatched(counter, 30 * HOUR)
    assert len(counter.outcomes) == labels.MAX_EARLY
