"""What the answers to a request look like as JSON: a row each, with what was said of it or why it was refused."""

from collections.abc import Mapping, Sequence
from functools import lru_cache

from msgspec.json import encode

from modelkeep.rows import Refused
from modelkeep.serving import Model, Said
from modelkeep.web import Reply, refusal


def rows(said: Sequence[Said | Refused], refused: Mapping[int, Refused]) -> Reply:
    """The reply to a request from what was said of the rows that could be read, and what is wrong with the others."""
    whole = said
    if refused:
        answered, places = iter(said), range(len(said) + len(refused))
        whole = [refused.get(i) or next(answered) for i in places]
    models = dict.fromkeys([s.model for s in said if type(s) is Said])
    if not models:
        return refusal(422, _place(whole[0], 0), whole[0].message)
    named = b",".join([_named(m.name, m.version, m.sha256) for m in models])
    forms = {m: _forms(m.name, m.schema.classes) for m in models}
    told = b",".join([_row(each, i, forms) for i, each in enumerate(whole)])
    return Reply(200, b'{"models":{%b},"predictions":[%b]}' % (named, told))


def _row(each: Said | Refused, at: int, forms: Mapping[Model, list[bytes]]) -> bytes:
    if isinstance(each, Refused):
        return encode({"error": {"place": _place(each, at), "message": each.message}})
    notes = b',"notes":%b' % encode(each.notes) if each.notes else b""
    return forms[each.model][each.best] % (encode(each.row.id), *each.text.split(b","), notes)


@lru_cache(maxsize=16)
def _named(name: str, version: str, sha256: str) -> bytes:
    """A model among those that answered."""
    return encode({name: {"version": version, "sha256": sha256}})[1:-1]


@lru_cache(maxsize=16)
def _forms(name: str, classes: Sequence[str]) -> list[bytes]:
    """A row by the class that is most probable, with places for its id, numbers and notes: to make each row's text anew costs as much as the model."""
    head = b'{"id":%%b,"model":%b,' % encode(name)
    labels = [encode(each).replace(b"%", b"%%") for each in classes]
    if not labels:
        return [head + b'"prediction":%b%b}']
    each = b",".join(label + b":%b" for label in labels)
    rest = b',"probabilities":{' + each + b"}%b}"
    return [head + b'"label":' + label + rest for label in labels]


def _place(refused: Refused, at: int) -> str:
    return refused.place if refused.place.startswith("$") else f"$.rows[{at}]{refused.place}"
