"""Templates of the JSON of one model's predictions: its constant text is encoded only once."""

from collections.abc import Sequence
from itertools import chain

from msgspec.json import encode


class ResponseTemplate:
    """The texts of one model, with places for what differs from row to row."""

    def __init__(self, name: str, version: str, sha256: str, classes: Sequence[str]) -> None:
        # its entry in `models`
        self.model = encode({name: {"version": version, "sha256": sha256}})[1:-1]
        head = b'{"id":"%%b","model":%b,' % encode(name)
        labels = [encode(each).replace(b"%", b"%%") for each in classes]
        each = b",".join(label + b":%b" for label in labels)
        rest = b',"probabilities":{' + each + b"}%b}"
        # by the most probable class; with places for the id, the numbers and the notes
        self.rows = [head + b'"label":' + label + rest for label in labels]
        self.rows = self.rows or [head + b'"prediction":%b%b}']
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
