"""What the answers to a request look like as JSON: a row each, with what was said of it or why it was refused."""

from collections.abc import Mapping, Sequence

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
    forms = dict.fromkeys([s.model.form for s in said if type(s) is Said])
    if not forms:
        return refusal(422, _place(whole[0], 0), whole[0].message)
    named = b",".join([form.model for form in forms])
    told = b",".join([_row(each, i) for i, each in enumerate(whole)])
    return Reply(200, b'{"models":{%b},"predictions":[%b]}' % (named, told))


def _row(each: Said | Refused, at: int) -> bytes:
    if type(each) is Said:
        return each.model.form.row(each.row.id, each.best, each.text, each.notes)
    return encode({"error": {"place": _place(each, at), "message": each.message}})


def _place(refused: Refused, at: int) -> str:
    return refused.place if refused.place.startswith("$") else f"$.rows[{at}]{refused.place}"
