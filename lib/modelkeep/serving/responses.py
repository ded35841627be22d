"""The bodies of responses: a prediction or an error for each row, and errors of whole requests."""

import re
from collections.abc import Mapping, Sequence
from itertools import chain
from operator import attrgetter
from typing import Any, NamedTuple

import msgspec
from msgspec.json import encode
from starlette.responses import Response

from modelkeep.serving.requests import ValidationError

JSON = "application/json"
PARTS = attrgetter("model", "row.id", "best", "text", "notes")
ROW = re.compile(r"\$\.(?:rows|labels)\[\d+\]")  # the part of a place that names no column
INVALID = "is not valid"


class Prediction(msgspec.Struct, gc=False):
    """The prediction of one row."""

    row: msgspec.Struct
    model: Any  # the `Model` of module models
    role: str
    value: list[float] | float
    best: int  # position of the most probable class
    text: bytes  # `value` as JSON, its numbers between commas; then the ends of its interval
    notes: Sequence[str]


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


def with_explanations(reply: Reply, explanations: Sequence[Mapping]) -> Reply:
    """The same reply, each of its predictions with its explanation."""
    body, left = msgspec.json.decode(reply.body), iter(explanations)
    for each in body["predictions"]:
        if "error" not in each:
            each["explanation"] = next(left)
    return reply._replace(body=encode(body))


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


class ResponseTemplate:
    """The texts of one model, with places for what differs from row to row."""

    def __init__(
        self,
        name: str,
        version: str,
        sha256: str,
        classes: Sequence[str],
        interval: bool = False,
    ) -> None:
        # its entry in `models`
        self.model = encode({name: {"version": version, "sha256": sha256}})[1:-1]
        head = b'{"id":"%%b","model":%b,' % encode(name)
        labels = [encode(each).replace(b"%", b"%%") for each in classes]
        each = b",".join(label + b":%b" for label in labels)
        rest = b',"probabilities":{' + each + b"}%b}"
        # by the most probable class; with places for the id, the numbers and the notes
        self.rows = [head + b'"label":' + label + rest for label in labels]
        ends = b',"interval":[%b,%b]' if interval else b""
        self.rows = self.rows or [head + b'"prediction":%b' + ends + b"%b}"]
        begin = b'{"models":{%b},"predictions":[' % self.model.replace(b"%", b"%%")
        self.responses = [begin + row + b"]}" for row in self.rows]

    def single(self, id: str, best: int, numbers: bytes, notes: Sequence[str]) -> bytes:
        """The whole response for one row: a quarter of the time of `fill`, and most are such."""
        return self.responses[best] % (encode(id)[1:-1], *numbers.split(b","), _notes(notes))


def fill(
    rows: Sequence[bytes], ids: Sequence[str], numbers: bytes, notes: Sequence[Sequence[str]]
) -> bytes:
    """Several rows of a template, joined; some of `rows` may have no places.

    `ids`, `numbers` (between commas) and `notes` are of the rows with places. To fill all places at
    once takes two thirds of the time of row by row.
    """
    texts = encode(ids)
    # a quote within an id has a backslash
    names = [encode(id)[1:-1] for id in ids] if b"\\" in texts else texts[2:-2].split(b'","')
    each = numbers.split(b",")
    width = len(each) // len(ids)
    columns = names, *(each[i::width] for i in range(width)), map(_notes, notes)
    return b",".join(rows) % tuple(chain.from_iterable(zip(*columns, strict=True)))


def _notes(notes: Sequence[str]) -> bytes:
    return b',"notes":%b' % encode(notes) if notes else b""
