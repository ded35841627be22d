"""What came true: read the labels that are posted, keep them, and count what they say of past answers."""

import time
from collections.abc import Callable, Sequence
from datetime import UTC
from typing import Annotated, Any

import msgspec
import pyarrow as pa
from msgspec import Meta

from modelkeep.data.schema import Schema
from modelkeep.monitoring.exporter import Telemetry
from modelkeep.predictions.log import DAY, Label, LabelOutcome, PredictionLog
from modelkeep.serving.requests import Id, ValidationError

MOST = 10_000  # labels in one request
RECALLED = 28 * DAY  # how far back quality is shown by the age of answers


class Posted(msgspec.Struct, forbid_unknown_fields=True):
    """What came true of the row of that id."""

    id: Id | int
    label: str | int | float | bool


class Body(msgspec.Struct, forbid_unknown_fields=True):
    """What is posted to `/labels`."""

    labels: Annotated[list[Posted], Meta(min_length=1, max_length=MOST)]


def read(body: bytes, of: Schema, now: int) -> list[Label]:
    """The labels of a body; ValidationError, and none is kept, if one of them cannot be a label of this schema."""
    try:
        posted = msgspec.json.decode(body, type=Body).labels
    except msgspec.ValidationError as error:
        raise ValidationError("$", str(error)) from None
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise ValidationError("$", f"not JSON: {error}", 400) from None
    text = _class if of.classes else _number
    return [
        Label(str(each.id), text(each.label, of, f"$.labels[{i}].label"), now)
        for i, each in enumerate(posted)
    ]


def take(
    body: bytes,
    of: Schema,
    log: PredictionLog,
    telemetry: Telemetry,
    clock: Callable[[], int] = time.time_ns,
) -> dict:
    """Keep the labels of a body; what each of them was: first, same, corrected, outdated, or early."""
    now = clock() // 1000
    try:
        labels = read(body, of, now)
    except ValidationError:
        telemetry.label("refused")
        raise
    found = log.label(labels)
    count(found, of, telemetry, now / 1e6)
    return {"labels": [{"id": each.id, "outcome": each.outcome} for each in found]}


def count(
    found: Sequence[LabelOutcome], of: Schema, telemetry: Telemetry, now: float | None
) -> None:
    """Count what labels say of the answers that they concern; `now` is when they came, None if that was long ago."""
    for each in found:
        telemetry.label(each.outcome)
        if each.outcome not in ("first", "corrected"):
            continue
        truth = _value(each.value, of)
        before = None if each.previous is None else _value(each.previous, of)
        for said in each.predictions:
            answer = msgspec.json.decode(said.answer)
            telemetry.truth(said.model, said.at / 1e6, answer, truth, previous=before, now=now)


def recall(batch: pa.RecordBatch, models: set[str], of: Schema, telemetry: Telemetry) -> None:
    """Count answers that were given before this process began, with the labels that they have."""
    for row in batch.select(["at", "model", "answer", "label"]).to_pylist():
        if row["model"] in models:
            at = row["at"].replace(tzinfo=UTC).timestamp()
            telemetry.recall(row["model"], at, 1)
            if row["label"] is not None:
                answer = msgspec.json.decode(row["answer"])
                telemetry.truth(row["model"], at, answer, _value(row["label"], of))


def _class(value: Any, of: Schema, place: str) -> str:
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if str(value) in of.classes:
        return str(value)
    raise ValidationError(
        place, f"must be one of the {len(of.classes)} classes that the model knows"
    )


def _number(value: Any, of: Schema, place: str) -> str:
    if isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e300:
        return repr(float(value))
    raise ValidationError(place, "must be a number")


def _value(text: str, of: Schema) -> float:
    """A class as its number, or a number; a class that the model does not know is none."""
    if not of.classes:
        return float(text)
    return of.classes.index(text) if text in of.classes else float("nan")
