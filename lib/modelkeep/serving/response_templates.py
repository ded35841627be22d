"""How the answers of one model look as JSON: made once, as to make the text of each row anew costs as much as the model."""

from collections.abc import Sequence
from itertools import chain

from msgspec.json import encode


class ResponseTemplate:
    """The texts of one model, with places for what differs from row to row."""

    def __init__(self, name: str, version: str, sha256: str, classes: Sequence[str]) -> None:
        # as it stands among those that answered
        self.model = encode({name: {"version": version, "sha256": sha256}})[1:-1]
        head = b'{"id":"%%b","model":%b,' % encode(name)
        labels = [encode(each).replace(b"%", b"%%") for each in classes]
        each = b",".join(label + b":%b" for label in labels)
        rest = b',"probabilities":{' + each + b"}%b}"
        # by the class that is most probable; with places for the id, the numbers and what is odd about the row
        self.rows = [head + b'"label":' + label + rest for label in labels]
        self.rows = self.rows or [head + b'"prediction":%b%b}']
        begin = b'{"models":{%b},"predictions":[' % self.model.replace(b"%", b"%%")
        self.replies = [begin + row + b"]}" for row in self.rows]

    def alone(self, id: str, best: int, numbers: bytes, notes: Sequence[str]) -> bytes:
        """The whole reply where one row was asked for, as most are: `filled` takes four times as long for it."""
        return self.replies[best] % (encode(id)[1:-1], *numbers.split(b","), _noted(notes))


def filled(
    rows: Sequence[bytes], ids: Sequence[str], numbers: bytes, notes: Sequence[Sequence[str]]
) -> bytes:
    """Rows of a form that follow each other, some of them without a place; of those with one the ids, the numbers between commas, and the notes.

    To fill all places at once takes two thirds of the time of a row after the other.
    """
    texts = encode(ids)
    # a quote within an id has a backslash
    names = [encode(id)[1:-1] for id in ids] if b"\\" in texts else texts[2:-2].split(b'","')
    each = numbers.split(b",")
    width = len(each) // len(ids)
    columns = names, *(each[i::width] for i in range(width)), map(_noted, notes)
    return b",".join(rows) % tuple(chain.from_iterable(zip(*columns, strict=True)))


def _noted(notes: Sequence[str]) -> bytes:
    return b',"notes":%b' % encode(notes) if notes else b""
