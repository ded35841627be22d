"""What the answers to a request look like as JSON: a row each, with what was said of it or why it was refused."""

from collections.abc import Mapping, Sequence
from functools import lru_cache

from msgspec.json import encode

from modelkeep.rows import Refused
from modelkeep.serving import Said
from modelkeep.web import Reply, refusal


def rows(said: Sequence[Said | Refused], refused: Mapping[int, Refused]) -> Reply:
    """The reply to a request from what was said of the rows that could be read, and what is wrong with the others."""
    whole = said
    if refused:
        answered, places = iter(said), range(len(said) + len(refused))
        whole = [refused.get(i) or next(answered) for i in places]
    models = {s.model.name: s.model for s in said if type(s) is Said}
    if not models:
        return refusal(422, _place(whole[0], 0), whole[0].message)
    named = b",".join([_named(m.name, m.version, m.sha256) for m in models.values()])
    told = b",".join([_row(each, i) for i, each in enumerate(whole)])
    return Reply(200, b'{"models":{%b},"predictions":[%b]}' % (named, told))


def _row(each: Said | Refused, at: int) -> bytes:
    if isinstance(each, Refused):
        return encode({"error": {"place": _place(each, at), "message": each.message}})
    form, labels = _form(each.model.name, each.model.schema.classes)
    parts = each.text[1:-1].split(b",")
    said = [labels[each.answer.index(max(each.answer))]] if labels else []
    notes = b',"notes":%b' % encode(each.notes) if each.notes else b""
    return form % (encode(each.row.id), *said, *parts, notes)


@lru_cache(maxsize=16)
def _named(name: str, version: str, sha256: str) -> bytes:
    """A model among those that answered."""
    return encode({name: {"version": version, "sha256": sha256}})[1:-1]


@lru_cache(maxsize=16)
def _form(name: str, classes: Sequence[str]) -> tuple[bytes, list[bytes]]:
    """A row of a model with places for its id, label, numbers and notes; and its labels: to make each row's text anew costs as much as the model."""
    model, labels = encode(name), [encode(each) for each in classes]
    head = b'{"id":%%b,"model":%b,' % model
    if not labels:
        return head + b'"prediction":%b%b}', labels
    each = b",".join(label.replace(b"%", b"%%") + b":%b" for label in labels)
    return head + b'"label":%b,"probabilities":{' + each + b"}%b}", labels


def _place(refused: Refused, at: int) -> str:
    return refused.place if refused.place.startswith("$") else f"$.rows[{at}]{refused.place}"
