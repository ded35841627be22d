"""The records of the prediction log: predictions, labels, and what a new label changes."""

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from itertools import chain, groupby
from operator import itemgetter
from typing import NamedTuple

import msgspec
from msgspec.json import decode, encode

from modelkeep.core.errors import ModelkeepError

WHOLE_BATCH = -1  # the position in the index of a batch whose name stands for all of its ids
CHAMPION, CANARY, SHADOW = "champion", "canary", "shadow"


class PredictionRecord(NamedTuple):
    """One row and its prediction; times are microseconds since 1970 in UTC."""

    id: str  # the client's, or one that the server made; a row may be predicted more than once
    at: int  # when it was predicted
    model: str  # `Bundle.name`
    role: str  # predictions of a shadow are logged and never returned
    entity: str | None
    time: int | None  # when the row happened; None if the schema has no time
    features: bytes  # a JSON object, as the model used them: numbers, text, null
    answer: bytes  # a JSON array: probabilities in the order of the classes, or one number


class Call(NamedTuple):
    """One call of a model on a batch: its duration, and the entities without a prediction."""

    at: int  # as in its predictions
    model: str
    role: str
    share: float  # of the canary at that time; 0 if there was none
    took: int  # microseconds of this model alone, without the rest of the batch
    failed: str  # a JSON array of entities


class Group(NamedTuple):
    """The predictions of one model at one time, as the log stores them.

    Columns of one row are JSON arrays: a table row per prediction doubles the cost of a commit.
    """

    at: int
    model: str
    role: str
    share: float | None  # with the next two: of the call that made the predictions, if it is known
    took: int | None
    failed: str | None
    ids: str
    entities: str
    times: str
    features: bytes  # a JSON object of arrays by column name
    answers: bytes


class Label(NamedTuple):
    """The label of a row, and when it arrived (microseconds since 1970 in UTC)."""

    id: str
    value: str  # a class, or `repr` of a number
    at: int


class TracedPrediction(NamedTuple):
    """One prediction, with all rows that the same call of the model predicted."""

    batch: list[PredictionRecord]
    position: int  # of the prediction in `batch`
    share: float | None  # of the canary at that time; None if it is not known
    labels: tuple[Label, ...]  # all that arrived, the oldest first
    unchanged: bool | None  # whether the log has the call as it was written; None: of format 3
    labels_unchanged: bool | None

    @property
    def record(self) -> PredictionRecord:
        """The prediction."""
        return self.batch[self.position]


class LabelledPrediction(NamedTuple):
    """A prediction of the row that a label names."""

    at: int
    model: str
    role: str
    answer: bytes


class LabelOutcome(NamedTuple):
    """What a label changed, for live counts: each pair of prediction and label is reported once.

    `first`: the predictions had no label; `corrected`: they had `previous`; `same`: they had this
    label; `outdated`: they have one that arrived later; `early`: there is no prediction yet
    (`append` reports it when there is).
    """

    id: str
    outcome: str
    value: str
    previous: str | None
    predictions: tuple[LabelledPrediction, ...]


class LogError(ModelkeepError, RuntimeError):
    """The log cannot be read or written; nothing of the batch was stored.

    `retry_after`: seconds after which another try is worth it.
    """

    def __init__(self, message: str, retry_after: int = 5) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class LogMissing(LogError):
    """There is no log at this address yet."""


class _Value(NamedTuple):
    value: str
    at: int


def appended(records: Sequence[PredictionRecord], labels: Iterable[tuple]) -> list[LabelOutcome]:
    """The outcomes of labels that arrived before their predictions.

    `labels` are rows of (id, value, at), oldest first.
    """
    newest = _newest(labels)
    predictions = _by_id((r.id, r.at, r.model, r.role, r.answer) for r in records if r.id in newest)
    return [
        LabelOutcome(id, "first", newest[id].value, None, tuple(found))
        for id, found in predictions.items()
    ]


def labelled(
    labels: Sequence[Label], predictions: Iterable[tuple], previous: Iterable[tuple]
) -> list[LabelOutcome]:
    """The outcome of each of `labels`.

    `predictions` of their ids are rows of (id, at, model, role, answer), `previous` labels rows of
    (id, value, at), oldest first.
    """
    newest, by_id, outcomes = _newest(previous), _by_id(predictions), []
    for label in labels:
        before, matched = newest.get(label.id), tuple(by_id.get(label.id, ()))
        outcome = _outcome(label, before) if matched else "early"
        value = before and before.value
        outcomes.append(LabelOutcome(label.id, outcome, label.value, value, matched))
        if before is None or label.at >= before.at:
            newest[label.id] = _Value(label.value, label.at)
    return outcomes


def _outcome(label: Label, before: _Value | None) -> str:
    if before is None:
        return "first"
    if label.at < before.at:
        return "outdated"
    return "same" if label.value == before.value else "corrected"


def _newest(labels: Iterable[tuple]) -> dict[str, _Value]:
    return {id: _Value(value, at) for id, value, at in labels}


def _by_id(rows: Iterable[tuple]) -> dict[str, list[LabelledPrediction]]:
    predictions = defaultdict(list)
    for id, *values in rows:
        predictions[id].append(LabelledPrediction(*values))
    return predictions


def grouped(records: Iterable[PredictionRecord], calls: Iterable[Call] = ()) -> Iterator[Group]:
    """Predictions as the log stores them, in their order; then the calls that made none."""
    calls_left = {call[:3]: call[3:] for call in calls}
    for shared, group in groupby(records, key=itemgetter(1, 2, 3)):
        ids, _, _, _, entities, times, features, answers = zip(*group, strict=True)
        texts = [encode(each).decode() for each in (ids, entities, times)]
        rows = [decode(each) for each in features]
        columns = {name: [row.get(name) for row in rows] for name in dict.fromkeys(chain(*rows))}
        texts += [encode(columns), b"[" + b",".join(answers) + b"]"]
        yield Group(*shared, *calls_left.pop(shared, (None, None, None)), *texts)
    for shared, call in calls_left.items():
        yield Group(*shared, *call, "[]", "[]", "[]", b"{}", b"[]")


def ungrouped(*group: object) -> Iterator[PredictionRecord]:
    """The records of a group; `group` are its fields without those of its call."""
    shared, (features, answers) = group[:3], group[6:]
    ids, entities, times = map(decode, group[3:6])
    columns = ids, entities, times, _rows(features, len(ids)), _parts(answers)
    for id, *values in zip(*columns, strict=True):
        yield PredictionRecord(id, *shared, *values)


def picked(rows: Iterable[tuple], ids: Iterable[str]) -> Iterator[tuple]:
    """The predictions of `ids` as (id, at, model, role, answer).

    `rows` of the index are (id or batch, at, model, role, answers, ids, position).
    """
    of_batch = defaultdict(list)
    for id in ids:
        of_batch[batch(id)].append(id)
    for name, *shared, answers, batch_ids, position in rows:
        parts = _parts(answers)
        if position != WHOLE_BATCH:
            yield name, *shared, parts[position]
            continue
        by_id = dict(zip(decode(batch_ids), parts, strict=True))
        yield from ((id, *shared, by_id[id]) for id in of_batch[name] if id in by_id)


def traced(id: str, rows: Iterable[tuple], labels: Iterable[tuple]) -> list[TracedPrediction]:
    """The predictions of an id, the oldest first.

    `rows` of the index are (position, fields of a group, digest), `labels` (id, value, at, digest),
    oldest first.
    """
    arrived, whole, predictions = [], [], []
    for *label, written in labels:
        arrived.append(Label(*label))
        whole.append(_unchanged(label, written))
    for position, *fields, written in rows:
        group = Group(*fields)
        records = [*ungrouped(*group[:3], *group[6:])]
        places = [position]
        if position == WHOLE_BATCH:
            places = [i for i, record in enumerate(records) if record.id == id]
        state = tuple(arrived), _unchanged(group, written), _together(whole)
        predictions += [TracedPrediction(records, i, group.share, *state) for i in places]
    return predictions


def digest(values: Sequence) -> bytes:
    """16 bytes of BLAKE2 over the fields of a group or of a label, by which a change is seen."""
    parts = [each if type(each) is bytes else str(each).encode() for each in values]
    return hashlib.blake2b(b"\0".join(parts), digest_size=16).digest()


def _unchanged(values: Sequence, written: bytes | None) -> bool | None:
    return None if written is None else digest(values) == written


def _together(whole: Sequence[bool | None]) -> bool | None:
    return False if False in whole else None if None in whole else True


def texts(items: Iterable[str]) -> str:
    """Distinct texts as the JSON array that a statement takes for `items`."""
    return encode([*dict.fromkeys(items)]).decode()


def batch(id: str) -> str:
    """The name of the batch in which the server made this id, if it made it."""
    return id.rpartition("-")[0]


def _rows(features: bytes, n: int) -> list[bytes]:
    if features.startswith(b"["):  # format 2 stored rows
        return _parts(features)
    columns = decode(features)
    return [encode(dict(zip(columns, row))) for row in zip(*columns.values())] or [b"{}"] * n


@lru_cache(maxsize=1)  # labels of one batch follow each other
def _parts(array: bytes) -> list[bytes]:
    return [*map(bytes, decode(array, type=list[msgspec.Raw]))]


def joined(records: Sequence[PredictionRecord], labels: Iterable[tuple]) -> list[tuple]:
    """Records with their label and the time since when it is known.

    `labels` (id, value, at) are in the order of their arrival. The newest counts; it is known since
    its first arrival without another value after it: a label that is sent twice changes nothing.
    """
    newest: dict[str, tuple] = {}
    for id, value, at in labels:
        if id not in newest or value != newest[id][0]:
            newest[id] = value, at
    return [(*record, *newest.get(record.id, (None, None))) for record in records]
