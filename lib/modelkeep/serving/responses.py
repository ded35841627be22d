"""The bodies of responses: a prediction or an error for each row, and errors of whole requests."""

import re
from collections.abc import Mapping, Sequence
from operator import attrgetter
from typing import NamedTuple

from msgspec.json import encode
from starlette.responses import Response

from modelkeep.serving.models import Prediction
from modelkeep.serving.requests import ValidationError
from modelkeep.serving.response_templates import fill

JSON = "application/json"
PARTS = attrgetter("model", "row.id", "best", "text", "notes")
ROW = re.compile(r"\$\.(?:rows|labels)\[\d+\]")  # the part of a place that names no column
INVALID = "is not valid"


class Reply(NamedTuple):
    """A status, a body and its headers, before they are a response of the web framework."""

    status: int
    body: bytes
    media_type: str = JSON
    headers: Mapping[str, str] = {}

    def response(self) -> Response:
        """The same for Starlette."""
        headers = {"content-type": self.media_type, **self.headers}
        return Response(self.body, self.status, headers)


def error(
    status: int,
    place: str,
    message: str,
    headers: Mapping[str, str] | None = None,
    *,
    open_inference: bool = False,
) -> Reply:
    """A reply that says what is wrong and where; the Open Inference Protocol has one text."""
    if open_inference:
        text = f"{place}: {message}" if place else message
        return Reply(status, encode({"error": text}), headers=headers or {})
    fields = {"place": place, "message": message} if place else {"message": message}
    return Reply(status, encode({"error": fields}), headers=headers or {})


def brief(found: ValidationError) -> ValidationError:
    """The same error for clients that may learn nothing of the schema."""
    if found.status not in (400, 422):
        return found
    row = ROW.match(found.place)
    return ValidationError(row[0] if row else "$", INVALID, found.status)


def rows(
    results: Sequence[Prediction | ValidationError],
    refused: Mapping[int, ValidationError],
    *,
    full: bool = True,
) -> Reply:
    """The reply to a request: `results` of the rows that could be read, `refused` of the others.

    Unless `full`, it has no notes, and errors name no column.
    """
    if not full:
        results, refused = _briefly(results, refused)
    if len(results) == 1 and not refused and type(one := results[0]) is Prediction:
        return Reply(200, one.model.template.single(one.row.id, one.best, one.text, one.notes))
    whole = results
    if refused:
        predicted, places = iter(results), range(len(results) + len(refused))
        whole = [refused.get(i) or next(predicted) for i in places]
    predictions = [each for each in results if type(each) is Prediction]
    if not predictions:
        return error(422, _place(whole[0], 0), whole[0].message)
    models, ids, best, numbers, notes = zip(*map(PARTS, predictions), strict=True)
    templates = [model.template for model in dict.fromkeys(models)]
    if len(templates) == 1:
        texts = map(templates[0].rows.__getitem__, best)
    else:
        texts = [m.template.rows[i] for m, i in zip(models, best, strict=True)]
    if len(predictions) < len(whole):
        left = iter(texts)
        texts = [
            next(left) if type(each) is Prediction else _row_error(each, i)
            for i, each in enumerate(whole)
        ]
    filled = fill(texts, ids, b",".join(numbers), notes)
    named = b",".join([template.model for template in templates])
    return Reply(200, b'{"models":{%b},"predictions":[%b]}' % (named, filled))


def _briefly(results: Sequence, refused: Mapping) -> tuple[list, dict]:
    shown = []
    for each in results:
        if type(each) is Prediction:
            each.notes = ()
            shown.append(each)
        else:
            shown.append(ValidationError("", INVALID))
    return shown, {i: brief(each) for i, each in refused.items()}


def _row_error(found: ValidationError, position: int) -> bytes:
    fields = {"place": _place(found, position), "message": found.message}
    return encode({"error": fields}).replace(b"%", b"%%")  # it stands among templates


def _place(found: ValidationError, position: int) -> str:
    return found.place if found.place.startswith("$") else f"$.rows[{position}]{found.place}"
