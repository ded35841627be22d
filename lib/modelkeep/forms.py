"""How the answers of one model look as JSON: made once, as to make the text of each row anew costs as much as the model."""

from collections.abc import Sequence

from msgspec.json import encode


class Form:
    """The texts of one model, with places for what differs from row to row."""

    def __init__(self, name: str, version: str, sha256: str, classes: Sequence[str]) -> None:
        # as it stands among those that answered
        self.model = encode({name: {"version": version, "sha256": sha256}})[1:-1]
        head = b'{"id":%%b,"model":%b,' % encode(name)
        labels = [encode(each).replace(b"%", b"%%") for each in classes]
        each = b",".join(label + b":%b" for label in labels)
        rest = b',"probabilities":{' + each + b"}%b}"
        # by the class that is most probable
        self.rows = [head + b'"label":' + label + rest for label in labels]
        self.rows = self.rows or [head + b'"prediction":%b%b}']

    def row(self, id: str, best: int, numbers: bytes, notes: Sequence[str]) -> bytes:
        """One answered row; `numbers` stand between commas."""
        noted = b',"notes":%b' % encode(notes) if notes else b""
        return self.rows[best] % (encode(id), *numbers.split(b","), noted)
