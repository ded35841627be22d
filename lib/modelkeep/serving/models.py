"""Models in service: the champion, perhaps a canary for some entities, perhaps a shadow that nobody hears."""

import hashlib
import json
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import repeat
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

import msgspec
import numpy as np
from msgspec import UNSET

from modelkeep.core.errors import ModelkeepError
from modelkeep.data import schema
from modelkeep.data.schema import Schema
from modelkeep.evaluation import profile
from modelkeep.evaluation.profile import Profile
from modelkeep.registry import store
from modelkeep.registry.store import Now, Role
from modelkeep.serving.requests import RowReader, ValidatedRows, ValidationError
from modelkeep.serving.response_templates import ResponseTemplate
from modelkeep.training import manifests
from modelkeep.training.engines.onnx import ALONE

GOLDEN = 1e-5  # the largest difference from a golden answer, relative where answers are numbers


class ServingError(ModelkeepError, RuntimeError):
    """A model that may not answer."""


@dataclass(frozen=True, eq=False)
class Model:
    """A verified model that answers."""

    name: str
    sha256: str
    version: str
    schema: Schema
    engine: object
    reader: RowReader
    template: ResponseTemplate
    reference: Profile
    manifest: MappingProxyType

    def answer(self, asked: ValidatedRows) -> np.ndarray:
        """Probabilities (rows, classes) or numbers (rows,) of rows that none is refused of."""
        return self.engine.predict(asked.numbers, asked.categories)


class Prediction(msgspec.Struct, gc=False):
    """One answered row."""

    row: msgspec.Struct
    model: Model
    role: str
    answer: list[float] | float
    best: int  # the class that is most probable
    text: bytes  # the answer as JSON, its numbers between commas
    notes: Sequence[str]


class ModelOutput(NamedTuple):
    """What one model said of its part of the rows; `asked` is None where it broke on them."""

    model: Model
    role: str
    asked: ValidatedRows | None  # the rows that it answered
    said: list[Prediction]  # of these
    answers: np.ndarray  # of these
    seconds: float
    failed: list[str]  # entities that got no answer of it
    refused: Mapping[int, ValidationError] = MappingProxyType({})  # by the place in its part
    problems: Mapping[str, int] = MappingProxyType({})


@dataclass(frozen=True)
class Service:
    """What answers at one moment; a change makes another one, so that no answer mixes two."""

    champion: Model
    canary: Model | None = None
    shadow: Model | None = None
    share: float = 0.0
    salt: str = ""

    @property
    def models(self) -> list[tuple[str, Model]]:
        """Who is in service, by role."""
        roles = {"champion": self.champion, "canary": self.canary, "shadow": self.shadow}
        return [(role, model) for role, model in roles.items() if model]

    @property
    def reader(self) -> RowReader:
        """What reads the requests; all models in service have the same columns."""
        return self.champion.reader

    def answer(
        self, rows: Sequence[msgspec.Struct]
    ) -> tuple[list[Prediction | ValidationError], list[ModelOutput]]:
        """What is said of each row, and the same by model; who asked a canary that breaks is answered by the champion."""
        out: list = [None] * len(rows)
        parts = []
        for model, role, places in self._split(rows):
            part = rows if len(places) == len(rows) else [rows[i] for i in places]
            try:
                answered = _answered(model, role, part)
            except Exception:
                if model is self.champion:
                    raise
                parts.append(_broken(model, role, part))
                answered = _answered(self.champion, "champion", part)
            parts.append(answered)
            if len(answered.said) == len(rows):
                return answered.said, parts
            said = iter(answered.said)
            for i, place in enumerate(places):
                out[place] = answered.refused.get(i) or next(said)
        return out, parts

    def predict_shadow(self, rows: Sequence[msgspec.Struct]) -> list[ModelOutput]:
        """What the shadow would have said."""
        try:
            return [_answered(self.shadow, "shadow", rows)]
        except Exception:
            return [_broken(self.shadow, "shadow", rows)]

    def unanswered(self, rows: Sequence[msgspec.Struct]) -> list[ModelOutput]:
        """What is to be counted when the champion broke: its part of the rows."""
        part = next((p for p in self._split(rows) if p[1] == "champion"), (None, "", ()))[2]
        return [_broken(self.champion, "champion", [rows[i] for i in part])]

    def _split(self, rows: Sequence[msgspec.Struct]) -> list[tuple[Model, str, Sequence[int]]]:
        if self.canary is None or self.share <= 0:
            return [(self.champion, "champion", range(len(rows)))]
        tried = [in_canary(self.salt, name, self.share) for name in entities(rows)]
        parts = [(self.champion, "champion", [i for i, yes in enumerate(tried) if not yes])]
        parts += [(self.canary, "canary", [i for i, yes in enumerate(tried) if yes])]
        return [part for part in parts if part[2]]


def entities(rows: Sequence[msgspec.Struct]) -> list[str]:
    """Whom each row is about, else its id."""
    if not rows or "entity" not in rows[0].__struct_fields__:
        return [row.id for row in rows]
    unknown = (UNSET, None)
    return [row.id if row.entity in unknown else str(row.entity) for row in rows]


def in_canary(salt: str, name: str, share: float) -> bool:
    """Whether an entity belongs to the share; it stays in as the share grows. 0 takes none, 1 all."""
    digest = hashlib.blake2b(f"{salt}\0{name}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") < share * 2**64


def _answered(model: Model, role: str, rows: Sequence[msgspec.Struct]) -> ModelOutput:
    started = time.perf_counter()
    checked, kept = model.reader.check(rows), range(len(rows))
    asked, refused, failed = checked, checked.refused, []
    if refused:
        failed = entities([rows[i] for i in refused])
        kept = [i for i in kept if i not in refused]
        asked, rows = checked.only(kept), [rows[i] for i in kept]
    shape = (0, len(model.schema.classes)) if model.schema.classes else (0,)
    answers = model.answer(asked) if rows else np.zeros(shape)
    notes = [checked.notes.get(i, ()) for i in kept] if checked.notes else repeat(())
    said = _said(model, role, rows, answers, notes)
    seconds = time.perf_counter() - started
    return ModelOutput(
        model, role, asked, said, answers, seconds, failed, refused, checked.problems
    )


def _said(
    model: Model, role: str, rows: Sequence, answers: np.ndarray, notes: Iterable
) -> list[Prediction]:
    """The answered rows; to write all numbers at once costs half of writing them row by row."""
    listed, best = answers.tolist(), repeat(0)
    texts = msgspec.json.encode(listed)
    if model.schema.classes:
        best, texts = answers.argmax(axis=1).tolist(), texts[2:-2].split(b"],[")
    else:
        texts = texts[1:-1].split(b",")
    return [*map(Prediction, rows, repeat(model), repeat(role), listed, best, texts, notes)]


def _broken(model: Model, role: str, rows: Sequence[msgspec.Struct]) -> ModelOutput:
    return ModelOutput(model, role, None, [], np.zeros(0), 0.0, entities(rows))


def load(folder: Path, at: Now, max_rows: int) -> Service:
    """The service that the store's pointer names, every model verified and its golden rows answered; ServingError if one may not serve."""
    roles = {"champion": at.champion, "canary": at.canary, "shadow": at.shadow}
    models = {name: _model(folder, role, max_rows) for name, role in roles.items() if role}
    first = models["champion"]
    for name, model in models.items():
        ours, theirs = ({(c.name, c.kind) for c in m.schema.columns} for m in (first, model))
        if ours != theirs or model.schema.classes != first.schema.classes:
            other = ", ".join(sorted(str(n) for n, _ in ours ^ theirs)) or "the classes"
            raise ServingError(
                f"the {name} {model.name} does not read what the champion {first.name} reads ({other}); "
                "a model of another schema cannot be tried beside it: promote it without a canary"
            )
    share = at.canary.share if at.canary else 0.0
    return Service(**models, share=share, salt=at.canary.salt if at.canary else "")


def _model(folder: Path, role: Role, max_rows: int) -> Model:
    content = store.check(folder, role.sha256)
    manifest = json.loads(content[manifests.MANIFEST])
    of = schema.from_json(content["schema.json"].decode())
    reference = profile.from_json(content["reference.json"].decode())
    model = Model(
        name=role.sha256[:10],
        sha256=role.sha256,
        version=role.version,
        schema=of,
        engine=_engine(content, of),
        reader=RowReader(of, reference.bins, max_rows),
        template=ResponseTemplate(role.sha256[:10], role.version, role.sha256, of.classes),
        reference=reference,
        manifest=MappingProxyType(manifest),
    )
    _check_golden(model, json.loads(content["golden.json"]))
    return model


def _engine(content: dict[str, bytes], of: Schema) -> object:
    name, plan, model = manifests.engine(content)
    if name in ALONE:
        return ALONE[name](plan, model)
    from modelkeep.training import bundle
    from modelkeep.training.engines import export  # scikit-learn takes a second to import

    return export.load(name, plan, model, bundle.undump(content["model.skops"]), of)


def _check_golden(model: Model, golden: dict) -> None:
    """Rows that were answered when the model was made get the same answers here, or it does not serve."""
    bodies = [msgspec.json.encode({"rows": [row]}) for row in golden["rows"]]
    read = [model.reader.decode(body)[0] for body in bodies]
    fits = [i for i, rows in enumerate(read) if rows]
    checked = model.reader.check([row for rows in read for row in rows])
    kept = [i for i in range(len(fits)) if i not in checked.refused]
    expected = np.array(golden["answers"])[fits][kept]
    apart = np.abs(model.answer(checked.only(kept)) - expected)
    apart = apart / np.maximum(1, np.abs(expected)) if not model.schema.classes else apart
    if not kept or not apart.max() <= GOLDEN:
        worst = float(apart.max()) if kept else float("nan")
        raise ServingError(
            f"the model {model.name} does not give back its golden answers here (largest difference {worst:.2g}, "
            f"at most {GOLDEN:g} is allowed); it stays out of service: install the libraries of its manifest"
        )
