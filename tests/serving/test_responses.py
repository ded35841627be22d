import json

import msgspec
import numpy as np
import pytest

from modelkeep.serving import responses
from modelkeep.serving.requests import ValidationError
from modelkeep.serving.responses import Prediction, ResponseTemplate

CLASSES = {"classes": ["100 %", '"no"', "ü,%b"], "numbers": []}
IDS = ["a", 'q"', "\\\\", '","', "é,日本", "%s %b %%", "a-1-0", "[]"]
NOTES = [(), ("temp is 5 % above",), ('a "b"', "c")]
Row = msgspec.defstruct("Row", [("id", str)])


class Model:
    """The part of a model that a response names."""

    def __init__(self, name, classes):
        self.name, self.template = name, ResponseTemplate(name, "v1 50 %", name * 9, classes)


def answered(draw, models, classes):
    """A row that was answered, and what its reply must say."""
    one, id = models[draw.integers(len(models))], IDS[draw.integers(len(IDS))]
    notes = NOTES[draw.integers(len(NOTES))]
    values = draw.dirichlet(np.ones(len(classes))).tolist() if classes else [float(draw.normal())]
    best = int(np.argmax(values))
    text = json.dumps(values)[1:-1].replace(" ", "").encode()
    said = Prediction(Row(id), one, "champion", values, best, text, notes)
    told = {"id": id, "model": one.name} | ({"notes": [*notes]} if notes else {})
    if not classes:
        return said, told | {"prediction": values[0]}
    told |= {"label": classes[best], "probabilities": dict(zip(classes, values, strict=True))}
    return said, told


@pytest.mark.parametrize("kind", CLASSES)
@pytest.mark.parametrize("n", [1, 2, 7, 40])
@pytest.mark.parametrize("share", [0, 0.3, 1])
def test_a_reply_says_of_each_row_what_was_said_of_it(kind, n, share):
    """Rows of one model or two, refused when they were read or when they were checked, in any order."""
    classes, draw = CLASSES[kind], np.random.default_rng([n, int(10 * share)])
    for models in ([Model("m1", classes)], [Model("m1", classes), Model("m2", classes)]):
        said, refused, expected = [], {}, []
        for i in range(n):
            if draw.random() >= share:
                one, told = answered(draw, models, classes)
                said.append(one)
            elif draw.random() < 0.5:
                said.append(ValidationError(".temp", "is 5 % %b"))
                told = {"error": {"place": f"$.rows[{i}].temp", "message": "is 5 % %b"}}
            else:
                refused[i] = ValidationError(f"$.rows[{i}]", "no")
                told = {"error": {"place": f"$.rows[{i}]", "message": "no"}}
            expected.append(told)
        reply = responses.rows(said, refused)
        named = dict.fromkeys(told["model"] for told in expected if "model" in told)
        if not named:
            assert reply.status == 422
            continue
        body = json.loads(reply.body)
        assert reply.status == 200 and body["predictions"] == expected
        assert body["models"] == {m: {"version": "v1 50 %", "sha256": m * 9} for m in named}
