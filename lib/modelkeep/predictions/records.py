"""What the prediction log holds: answers, labels, and what a label changes."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from itertools import chain, groupby
from operator import itemgetter
from typing import NamedTuple

import msgspec
from msgspec.json import decode, encode

from modelkeep.core.errors import ModelkeepError

WHOLE = -1  # stands in the index where a turn's name stands for all of its ids
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
    features: bytes  # a JSON object of arrays, a name each
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


class LogError(ModelkeepError, RuntimeError):
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
        ids, _, _, _, entities, times, features, answers = zip(*group, strict=True)
        texts = [encode(each).decode() for each in (ids, entities, times)]
        rows = [decode(each) for each in features]
        columns = {name: [row.get(name) for row in rows] for name in dict.fromkeys(chain(*rows))}
        texts += [encode(columns), b"[" + b",".join(answers) + b"]"]
        yield Group(*shared, *told.pop(shared, (None, None, None)), *texts)
    for shared, call in told.items():
        yield Group(*shared, *call, "[]", "[]", "[]", b"{}", b"[]")


def ungrouped(*kept: object) -> Iterator[Entry]:
    """The answers of a group, of which its call is left out."""
    shared, (ids, entities, times), (features, answers) = kept[:3], map(decode, kept[3:6]), kept[6:]
    parts = ids, entities, times, _rows(features, len(ids)), _parts(answers)
    for id, *own in zip(*parts, strict=True):
        yield Entry(id, *shared, *own)


def picked(found: Iterable[tuple], asked: Iterable[str]) -> Iterator[tuple]:
    """Of rows (id or turn, at, model, role, answers, ids, place) the answers that were asked for, as (id, at, model, role, answer)."""
    of_turn = defaultdict(list)
    for id in asked:
        of_turn[turn(id)].append(id)
    for name, *known, answers, ids, place in found:
        parts = _parts(answers)
        if place != WHOLE:
            yield name, *known, parts[place]
            continue
        by_id = dict(zip(decode(ids), parts, strict=True))
        yield from ((id, *known, by_id[id]) for id in of_turn[name] if id in by_id)


def turn(id: str) -> str:
    """The turn of the server that made this id, if one did."""
    return id.rpartition("-")[0]


def _rows(features: bytes, n: int) -> list[bytes]:
    if features.startswith(b"["):  # format 2 kept rows
        return _parts(features)
    columns = decode(features)
    return [encode(dict(zip(columns, row))) for row in zip(*columns.values())] or [b"{}"] * n


@lru_cache(maxsize=1)  # labels of one turn follow each other
def _parts(array: bytes) -> list[bytes]:
    return [*map(bytes, decode(array, type=list[msgspec.Raw]))]


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
