"""What the answers to a request look like as JSON: a row each, with what was said of it or why it was refused."""

from collections.abc import Mapping, Sequence

import msgspec

from modelkeep.rows import Refused
from modelkeep.serving import Said
from modelkeep.web import Reply, refusal


def rows(said: Sequence[Said | Refused], refused: Mapping[int, Refused]) -> Reply:
    """The reply to a request from what was said of the rows that could be read, and what is wrong with the others."""
    whole = said
    if refused:
        answered, places = iter(said), range(len(said) + len(refused))
        whole = [refused.get(i) or next(answered) for i in places]
    models = {s.model.name: s.model for s in said if isinstance(s, Said)}
    if not models:
        return refusal(422, _place(whole[0], 0), whole[0].message)
    told = [_row(each, i) for i, each in enumerate(whole)]
    named = {n: {"version": m.version, "sha256": m.sha256} for n, m in models.items()}
    return Reply(200, msgspec.json.encode({"models": named, "predictions": told}))


def _row(each: Said | Refused, at: int) -> dict:
    if isinstance(each, Refused):
        return {"error": {"place": _place(each, at), "message": each.message}}
    model, answer = each.model, each.answer
    classes = model.schema.classes
    told: dict = {"id": each.row.id, "model": model.name}
    if classes:
        told["label"] = classes[answer.index(max(answer))]
        told["probabilities"] = dict(zip(classes, answer, strict=True))
    else:
        told["prediction"] = answer
    return told | ({"notes": each.notes} if each.notes else {})


def _place(refused: Refused, at: int) -> str:
    return refused.place if refused.place.startswith("$") else f"$.rows[{at}]{refused.place}"
