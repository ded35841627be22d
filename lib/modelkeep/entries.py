"""What the prediction log holds: answers, labels, and what a label changes."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from itertools import groupby
from operator import itemgetter
from typing import NamedTuple

import msgspec

CHAMPION, CANARY, SHADOW = "champion", "canary", "shadow"


class Entry(NamedTuple):
    """One answered row; moments are microseconds since 1970 in UTC."""

    id: str  # the client's, or one that the server made; a row may be asked about twice
    at: int  # when it was answered
    model: str  # `Bundle.name`
    role: str  # shadow answers are logged and never shown
    entity: str | None
    time: int | None  # when the row happened; None if the schema has no time
    features: bytes  # a JSON object, as they were used: numbers, text, null
    answer: bytes  # a JSON array: probabilities in the order of the classes, or one number


class Call(NamedTuple):
    """One call of a model on the rows that came together: how long it took, and for whom it had no answer."""

    at: int  # as in its answers
    model: str
    role: str
    share: float  # of the canary at that moment; 0 if there was none
    took: int  # microseconds of the model itself: what rows wait for together says nothing of one model
    failed: str  # a JSON array of entities


class Group(NamedTuple):
    """Answers that one model gave at one moment, as they are kept: JSON arrays of what differs, for a row of a table each costs as much as the rest of an answer."""

    at: int
    model: str
    role: str
    share: float | None  # with the next two: of the call that gave the answers, where it is told
    took: int | None
    failed: str | None
    ids: str
    entities: str
    times: str
    features: bytes
    answers: bytes


class Label(NamedTuple):
    """What came true of a row, and when that arrived (microseconds since 1970 in UTC)."""

    id: str
    value: str  # a class, or `repr` of a number
    at: int


class Said(NamedTuple):
    """An answer that a label concerns."""

    at: int
    model: str
    role: str
    answer: bytes


class Labelled(NamedTuple):
    """What a label changed, so that live counts can follow: each pair of answer and label is told once.

    `first`: the answers had no label; `corrected`: they had `before`; `same`: they had this one; `outdated`: they have one that
    arrived later; `early`: there is no answer yet (`append` tells of it when there is).
    """

    id: str
    outcome: str
    value: str
    before: str | None
    answers: tuple[Said, ...]


class LogError(RuntimeError):
    """The log cannot be read or written; nothing of the batch was kept. Worth another try after `retry_after` seconds."""

    def __init__(self, message: str, retry_after: int = 5) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class LogMissing(LogError):
    """There is no log at this address yet."""


class _Known(NamedTuple):
    value: str
    at: int


def appended(entries: Sequence[Entry], known: Iterable[tuple]) -> list[Labelled]:
    """What is to be told of new answers whose label had come before; `known` are rows of (id, value, at), oldest first."""
    newest = _newest(known)
    said = _said((e.id, e.at, e.model, e.role, e.answer) for e in entries if e.id in newest)
    return [
        Labelled(id, "first", newest[id].value, None, tuple(answers))
        for id, answers in said.items()
    ]


def labelled(
    labels: Sequence[Label], answers: Iterable[tuple], known: Iterable[tuple]
) -> list[Labelled]:
    """What each of `labels` changed, given the answers of their ids (id, at, model, role, answer) and the labels known before."""
    newest, said, told = _newest(known), _said(answers), []
    for label in labels:
        before, concerned = newest.get(label.id), tuple(said.get(label.id, ()))
        outcome = _outcome(label, before) if concerned else "early"
        told.append(Labelled(label.id, outcome, label.value, before and before.value, concerned))
        if before is None or label.at >= before.at:
            newest[label.id] = _Known(label.value, label.at)
    return told


def _outcome(label: Label, before: _Known | None) -> str:
    if before is None:
        return "first"
    if label.at < before.at:
        return "outdated"
    return "same" if label.value == before.value else "corrected"


def _newest(known: Iterable[tuple]) -> dict[str, _Known]:
    return {id: _Known(value, at) for id, value, at in known}


def _said(rows: Iterable[tuple]) -> dict[str, list[Said]]:
    found = defaultdict(list)
    for id, *answer in rows:
        found[id].append(Said(*answer))
    return found


def grouped(entries: Iterable[Entry], calls: Iterable[Call] = ()) -> Iterator[Group]:
    """Answers as they are kept, in their order, with their calls; then the calls that gave none."""
    told = {call[:3]: call[3:] for call in calls}
    for shared, group in groupby(entries, key=itemgetter(1, 2, 3)):
        ids, _, _, _, entities, times, *parts = zip(*group, strict=True)
        texts = [msgspec.json.encode(each).decode() for each in (ids, entities, times)]
        texts += [b"[" + b",".join(part) + b"]" for part in parts]
        yield Group(*shared, *told.pop(shared, (None, None, None)), *texts)
    for shared, call in told.items():
        yield Group(*shared, *call, "[]", "[]", "[]", b"[]", b"[]")


def ungrouped(*kept: object) -> Iterator[Entry]:
    """The answers of a group, of which its call is left out."""
    shared, texts = kept[:3], map(msgspec.json.decode, kept[3:6])
    for id, *own in zip(*texts, *map(_parts, kept[6:]), strict=True):
        yield Entry(id, *shared, *own)


def picked(row: tuple) -> tuple:
    """Of (id, at, model, role, answers, place) the one answer."""
    *known, answers, place = row
    return *known, _parts(answers)[place]


@lru_cache(maxsize=1)  # labels of one turn follow each other
def _parts(array: bytes) -> list[bytes]:
    return [*map(bytes, msgspec.json.decode(array, type=list[msgspec.Raw]))]


def joined(rows: Sequence[Entry], labels: Iterable[tuple]) -> list[tuple]:
    """Answers with their label and since when it is known, from the labels (id, value, at) in the order of their arrival.

    The newest label counts; it is known since it came first without another one after it, so that a label that is sent twice
    changes nothing.
    """
    newest: dict[str, tuple] = {}
    for id, value, at in labels:
        if id not in newest or value != newest[id][0]:
            newest[id] = value, at
    return [(*row, *newest.get(row.id, (None, None))) for row in rows]
