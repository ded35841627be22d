"""What the answers to a request look like as JSON: a row each, with what was said of it or why it was refused."""

from collections.abc import Mapping, Sequence

from msgspec.json import encode

from modelkeep.forms import filled
from modelkeep.rows import Refused
from modelkeep.serving import Said
from modelkeep.web import Reply, refusal


def rows(said: Sequence[Said | Refused], refused: Mapping[int, Refused]) -> Reply:
    """The reply to a request from what was said of the rows that could be read, and what is wrong with the others."""
    whole = said
    if refused:
        answered, places = iter(said), range(len(said) + len(refused))
        whole = [refused.get(i) or next(answered) for i in places]
    forms = dict.fromkeys([s.model.form for s in said if type(s) is Said])
    if not forms:
        return refusal(422, _place(whole[0], 0), whole[0].message)
    named = b",".join([form.model for form in forms])
    answered = [s for s in whole if type(s) is Said]
    ids, notes = [s.row.id for s in answered], [s.notes for s in answered]
    texts = [
        s.model.form.rows[s.best] if type(s) is Said else _refused(s, i)
        for i, s in enumerate(whole)
    ]
    told = filled(texts, ids, b",".join([s.text for s in answered]), notes)
    return Reply(200, b'{"models":{%b},"predictions":[%b]}' % (named, told))


def _refused(why: Refused, at: int) -> bytes:
    said = encode({"error": {"place": _place(why, at), "message": why.message}})
    return said.replace(b"%", b"%%")  # it stands among texts with places to fill


def _place(refused: Refused, at: int) -> str:
    return refused.place if refused.place.startswith("$") else f"$.rows[{at}]{refused.place}"
