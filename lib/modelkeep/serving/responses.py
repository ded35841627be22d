"""What the answers to a request look like as JSON: a row each, with what was said of it or why it was refused."""

from collections.abc import Mapping, Sequence
from operator import attrgetter

from msgspec.json import encode

from modelkeep.serving.http import Reply, refusal
from modelkeep.serving.models import Prediction
from modelkeep.serving.requests import ValidationError
from modelkeep.serving.response_templates import filled

PARTS = attrgetter("model", "row.id", "best", "text", "notes")


def rows(
    said: Sequence[Prediction | ValidationError], refused: Mapping[int, ValidationError]
) -> Reply:
    """The reply to a request from what was said of the rows that could be read, and what is wrong with the others."""
    if len(said) == 1 and not refused and type(one := said[0]) is Prediction:
        return Reply(200, one.model.template.alone(one.row.id, one.best, one.text, one.notes))
    whole = said
    if refused:
        answered, places = iter(said), range(len(said) + len(refused))
        whole = [refused.get(i) or next(answered) for i in places]
    answered = [s for s in said if type(s) is Prediction]
    if not answered:
        return refusal(422, _place(whole[0], 0), whole[0].message)
    models, ids, best, numbers, notes = zip(*map(PARTS, answered), strict=True)
    forms = [model.template for model in dict.fromkeys(models)]
    if len(forms) == 1:
        texts = map(forms[0].rows.__getitem__, best)
    else:
        texts = [m.template.rows[i] for m, i in zip(models, best, strict=True)]
    if len(answered) < len(whole):
        given = iter(texts)
        texts = [
            next(given) if type(s) is Prediction else _refused(s, i) for i, s in enumerate(whole)
        ]
    told = filled(texts, ids, b",".join(numbers), notes)
    named = b",".join([form.model for form in forms])
    return Reply(200, b'{"models":{%b},"predictions":[%b]}' % (named, told))


def _refused(why: ValidationError, at: int) -> bytes:
    said = encode({"error": {"place": _place(why, at), "message": why.message}})
    return said.replace(b"%", b"%%")  # it stands among texts with places to fill


def _place(refused: ValidationError, at: int) -> str:
    return refused.place if refused.place.startswith("$") else f"$.rows[{at}]{refused.place}"
