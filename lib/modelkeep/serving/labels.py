"""Labels: read those that are posted, log them, and count them with their predictions."""

import time
from collections.abc import Callable, Sequence
from itertools import islice, takewhile
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from modelkeep.data.definitions import Schema
from modelkeep.monitoring.exporter import Telemetry
from modelkeep.predictions.log import (
    DAY,
    Label,
    LabelOutcome,
    PredictionLog,
    PredictionRecord,
)
from modelkeep.serving.requests import (
    Id,
    Number,
    ValidationError,
    explained,
    known_values,
    refuse_duplicates,
)

MAX_LABELS = 10_000  # labels in one request
UNMATCHED = DAY  # a label without a prediction for so long names a row that was never predicted
MAX_EARLY = 100_000  # ids that are remembered
MOST_OVERDUE = 5_000  # of them that are looked up at once
RECALLED = 28 * DAY  # how far back quality is shown by the age of predictions


class PostedLabel(msgspec.Struct, forbid_unknown_fields=True):
    """The label of the row with that id."""

    id: Id | Number
    label: str | Number | float | bool


class Labels(msgspec.Struct, forbid_unknown_fields=True):
    """The body of a request to `/labels`."""

    labels: Annotated[list[PostedLabel], Meta(min_length=1, max_length=MAX_LABELS)]


class EarlyLabels:
    """The ids of labels without a prediction yet; those that never get one count as `unmatched`."""

    def __init__(self) -> None:
        self._arrived: dict[str, int] = {}  # oldest first

    def note(self, outcomes: Sequence[LabelOutcome], now: int) -> None:
        """Remember early labels (`now` in microseconds), and forget those with a prediction."""
        for each in outcomes:
            if each.outcome != "early":
                self._arrived.pop(each.id, None)
            elif len(self._arrived) < MAX_EARLY:
                self._arrived.setdefault(each.id, now)

    def overdue(self, now: int) -> list[str]:
        """The ids that have waited too long, the oldest first; some thousand at most."""
        oldest = islice(self._arrived.items(), MOST_OVERDUE)
        return [id for id, _ in takewhile(lambda item: now - item[1] >= UNMATCHED, oldest)]

    def count_unmatched(
        self, overdue: Sequence[str], predicted: set[str], telemetry: Telemetry
    ) -> None:
        """Forget overdue ids, and count those without a prediction.

        `predicted`: those with one in the log, perhaps another replica's.
        """
        for id in overdue:
            if self._arrived.pop(id, None) is not None and id not in predicted:
                telemetry.label("unmatched")


def read(body: bytes, schema: Schema, now: int) -> list[Label]:
    """The labels of a body; ValidationError if one of them cannot be a label of this schema."""
    try:
        posted = msgspec.json.decode(body, type=Labels).labels
    except msgspec.ValidationError as error:
        raise explained(error) from None
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise ValidationError("$", f"not JSON: {error}", 400) from None
    # decoders keep the last of two equal keys without a word
    if body.count(b":") != 1 + 2 * len(posted) or b"\\" in body:
        refuse_duplicates(body)
    text = _class if schema.classes else _number
    return [
        Label(str(each.id), text(each.label, schema, f"$.labels[{i}].label"), now)
        for i, each in enumerate(posted)
    ]


def take(
    body: bytes,
    schema: Schema,
    log: PredictionLog,
    telemetry: Telemetry,
    early: EarlyLabels,
    clock: Callable[[], int] = time.time_ns,
) -> dict:
    """Log the labels of a body; the outcome of each: first, same, corrected, outdated or early."""
    now = clock() // 1000
    try:
        labels = read(body, schema, now)
    except ValidationError:
        telemetry.label("refused")
        raise
    outcomes = log.label(labels)
    count(outcomes, schema, telemetry, now / 1e6)
    early.note(outcomes, now)
    return {"labels": [{"id": each.id, "outcome": each.outcome} for each in outcomes]}


def count(
    outcomes: Sequence[LabelOutcome], schema: Schema, telemetry: Telemetry, now: float | None
) -> None:
    """Count labels with their predictions; `now` is when they arrived, None if that was before."""
    for each in outcomes:
        telemetry.label(each.outcome)
        if each.outcome not in ("first", "corrected"):
            continue
        truth = _value(each.value, schema)
        before = None if each.previous is None else _value(each.previous, schema)
        for prediction in each.predictions:
            value = msgspec.json.decode(prediction.answer)
            at = prediction.at / 1e6
            telemetry.truth(prediction.model, at, value, truth, previous=before, now=now)


def recall(rows: Sequence[tuple], models: set[str], schema: Schema, telemetry: Telemetry) -> None:
    """Count predictions of before this process started (of `PredictionLog.pages`), with labels."""
    for *prediction, label, _ in rows:
        record = PredictionRecord(*prediction)
        if record.model in models:
            at = record.at / 1e6
            telemetry.recall(record.model, at, 1)
            if label is not None:
                value = msgspec.json.decode(record.answer)
                telemetry.truth(record.model, at, value, _value(label, schema))


def _class(value: Any, schema: Schema, place: str) -> str:
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if str(value) in schema.classes:
        return str(value)
    message = f"{str(value)[:40]!r} is no class of {schema.label!r}"
    raise ValidationError(place, f"{message}; known are {known_values(schema.classes)}")


def _number(value: Any, schema: Schema, place: str) -> str:
    if isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e300:
        return repr(float(value))
    shown = msgspec.json.encode(value).decode()[:40]
    raise ValidationError(place, f"must be a number between -1e300 and 1e300, not {shown}")


def _value(text: str, schema: Schema) -> float:
    """A class as its position, or a number; NaN for a class that the model does not know."""
    if not schema.classes:
        return float(text)
    return schema.classes.index(text) if text in schema.classes else float("nan")
