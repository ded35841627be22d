"""The models in service: the champion, and perhaps a canary for some entities or a shadow."""

import hashlib
import json
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import repeat
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

import msgspec
import numpy as np
from msgspec import UNSET

from modelkeep.core.errors import ModelkeepError
from modelkeep.data import definitions
from modelkeep.data.definitions import Schema
from modelkeep.evaluation import profile
from modelkeep.evaluation.profile import Profile
from modelkeep.registry import store
from modelkeep.registry.store import Now, Role
from modelkeep.serving.requests import RowReader, ValidatedRows, ValidationError
from modelkeep.serving.responses import Prediction, ResponseTemplate
from modelkeep.training import manifests
from modelkeep.training.engines import decision
from modelkeep.training.engines.onnx import ALONE
from modelkeep.training.intervals import Adaptive

# the largest difference from a reference prediction, relative where predictions are numbers
TOLERANCE = 1e-5
MOST_EXPLAINERS = 2  # champion and canary


class ServingError(ModelkeepError, RuntimeError):
    """A model that may not serve."""


@dataclass(frozen=True, eq=False)
class Model:
    """A verified model in service."""

    name: str
    sha256: str
    version: str
    schema: Schema
    engine: object
    reader: RowReader
    template: ResponseTemplate
    reference: Profile
    manifest: MappingProxyType
    intervals: Adaptive | None = None  # of numbers, where the settings ask for them

    def predict(self, rows: ValidatedRows) -> np.ndarray:
        """Probabilities (rows, classes) or numbers (rows,) of rows of which none is refused."""
        return self.engine.predict(rows.numbers, rows.categories)


class ModelOutput(NamedTuple):
    """What one model made of its part of a batch; `rows` is None where it failed."""

    model: Model
    role: str
    rows: ValidatedRows | None  # those with a prediction
    predictions: list[Prediction]  # of these
    values: np.ndarray  # of these
    seconds: float
    failed: list[str]  # entities without a prediction
    refused: Mapping[int, ValidationError] = MappingProxyType({})  # by position in its part
    problems: Mapping[str, int] = MappingProxyType({})


@dataclass(frozen=True)
class Service:
    """The models in service at one moment; a change makes another one: no response mixes two."""

    champion: Model
    canary: Model | None = None
    shadow: Model | None = None
    share: float = 0.0
    salt: str = ""

    @property
    def models(self) -> list[tuple[str, Model]]:
        """The models by role."""
        roles = {"champion": self.champion, "canary": self.canary, "shadow": self.shadow}
        return [(role, model) for role, model in roles.items() if model]

    @property
    def reader(self) -> RowReader:
        """The reader of requests; all models in service have the same columns."""
        return self.champion.reader

    @property
    def champion_only(self) -> "Service":
        """The champion for every entity, for requests that name its version."""
        return replace(self, canary=None, share=0.0) if self.canary else self

    def predict(
        self, rows: Sequence[msgspec.Struct]
    ) -> tuple[list[Prediction | ValidationError], list[ModelOutput]]:
        """The prediction or error of each row, and the same by model.

        Where a canary fails, the champion predicts its rows.
        """
        results: list = [None] * len(rows)
        outputs = []
        for model, role, places in self._split(rows):
            part = rows if len(places) == len(rows) else [rows[i] for i in places]
            try:
                output = _output(model, role, part)
            except Exception:
                if model is self.champion:
                    raise
                outputs.append(_failure(model, role, part))
                output = _output(self.champion, "champion", part)
            outputs.append(output)
            if len(output.predictions) == len(rows):
                return output.predictions, outputs
            predictions = iter(output.predictions)
            for i, place in enumerate(places):
                results[place] = output.refused.get(i) or next(predictions)
        return results, outputs

    def predict_shadow(self, rows: Sequence[msgspec.Struct]) -> list[ModelOutput]:
        """The shadow's predictions of the same rows."""
        try:
            return [_output(self.shadow, "shadow", rows)]
        except Exception:
            return [_failure(self.shadow, "shadow", rows)]

    def failures(self, rows: Sequence[msgspec.Struct]) -> list[ModelOutput]:
        """What to count when the champion failed: its part of the rows."""
        part = next((p for p in self._split(rows) if p[1] == "champion"), (None, "", ()))[2]
        return [_failure(self.champion, "champion", [rows[i] for i in part])]

    def _split(self, rows: Sequence[msgspec.Struct]) -> list[tuple[Model, str, Sequence[int]]]:
        if self.canary is None or self.share <= 0:
            return [(self.champion, "champion", range(len(rows)))]
        canary = [in_canary(self.salt, name, self.share) for name in entities(rows)]
        parts = [(self.champion, "champion", [i for i, yes in enumerate(canary) if not yes])]
        parts += [(self.canary, "canary", [i for i, yes in enumerate(canary) if yes])]
        return [part for part in parts if part[2]]


def entities(rows: Sequence[msgspec.Struct]) -> list[str]:
    """The entity of each row, else its id."""
    if not rows or "entity" not in rows[0].__struct_fields__:
        return [row.id for row in rows]
    unknown = (UNSET, None)
    return [row.id if row.entity in unknown else str(row.entity) for row in rows]


def in_canary(salt: str, name: str, share: float) -> bool:
    """Whether an entity is in the canary's share; it stays in as the share grows."""
    digest = hashlib.blake2b(f"{salt}\0{name}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") < share * 2**64


def _output(model: Model, role: str, rows: Sequence[msgspec.Struct]) -> ModelOutput:
    started = time.perf_counter()
    checked, kept = model.reader.check(rows), range(len(rows))
    valid, refused, failed = checked, checked.refused, []
    if refused:
        failed = entities([rows[i] for i in refused])
        kept = [i for i in kept if i not in refused]
        valid, rows = checked.only(kept), [rows[i] for i in kept]
    shape = (0, len(model.schema.classes)) if model.schema.classes else (0,)
    values = model.predict(valid) if rows else np.zeros(shape)
    notes = [checked.notes.get(i, ()) for i in kept] if checked.notes else repeat(())
    predictions = _predictions(model, role, rows, values, notes)
    seconds = time.perf_counter() - started
    problems = checked.problems
    return ModelOutput(model, role, valid, predictions, values, seconds, failed, refused, problems)


def _predictions(
    model: Model, role: str, rows: Sequence, values: np.ndarray, notes: Iterable
) -> list[Prediction]:
    """One prediction a row; to encode all numbers at once costs half of row by row."""
    listed, best = values.tolist(), repeat(0)
    texts = msgspec.json.encode(listed)
    if model.schema.classes:
        best = decision.decide(model.manifest.get("operating", {}), values).tolist()
        texts = texts[2:-2].split(b"],[")
    else:
        texts = texts[1:-1].split(b",")
        if model.intervals and listed:
            texts = _with_ends(model.intervals, values)
    return [*map(Prediction, rows, repeat(model), repeat(role), listed, best, texts, notes)]


def _with_ends(intervals: Adaptive, values: np.ndarray) -> list[bytes]:
    """Each number with the ends of its interval."""
    low, high = intervals.ends(values)
    table = np.column_stack([values, low, high]).tolist()
    return msgspec.json.encode(table)[2:-2].split(b"],[")


def _failure(model: Model, role: str, rows: Sequence[msgspec.Struct]) -> ModelOutput:
    return ModelOutput(model, role, None, [], np.zeros(0), 0.0, entities(rows))


class Explainers:
    """Explains predictions; on the first request a model is loaded for it with scikit-learn."""

    def __init__(self, store: Path) -> None:
        self.store, self.explainers = store, {}

    def explain(self, predictions: Sequence[Prediction]) -> list[dict]:
        """The Shapley values of each prediction as plain values; work for a thread."""
        explanations: list = [None] * len(predictions)
        for model in dict.fromkeys(each.model for each in predictions):
            places = [i for i, each in enumerate(predictions) if each.model is model]
            made = self.explain_rows(model, [predictions[i].row for i in places])
            for i, each in zip(places, made, strict=True):
                explanations[i] = each
        return explanations

    def explain_rows(self, model: Model, rows: Sequence[msgspec.Struct]) -> list[dict]:
        """The same of rows that one model reads, none of which is refused."""
        result = self._explainer(model)(model.reader.frame(model.reader.check(rows)))
        return [result.as_dict(i) for i in range(len(rows))]

    def _explainer(self, model: Model) -> Callable:
        if model.sha256 not in self.explainers:
            from modelkeep.training import bundle
            from modelkeep.training.explain import Explainer

            loaded = bundle.load(store.path(self.store, model.sha256))
            newest = [*self.explainers.items()][1 - MOST_EXPLAINERS :]
            self.explainers = {**dict(newest), model.sha256: Explainer(loaded)}
        return self.explainers[model.sha256]


def load(
    folder: Path,
    at: Now,
    max_rows: int,
    extra_keys: str = "table",
    level: float = 0.0,
    before: Service | None = None,
) -> Service:
    """The service that the store's pointer names; ServingError if one of its models may not serve.

    Every model is verified, and must repeat its reference predictions. `level` is that of
    prediction intervals (0: none); those of models that served `before` go on as they were.
    """
    roles = {"champion": at.champion, "canary": at.canary, "shadow": at.shadow}
    known = {m.sha256: m.intervals for _, m in before.models if m.intervals} if before else {}
    options = max_rows, extra_keys, level, known
    models = {name: _model(folder, role, *options) for name, role in roles.items() if role}
    first = models["champion"]
    for name, model in models.items():
        ours, theirs = ({(c.name, c.kind) for c in m.schema.columns} for m in (first, model))
        if ours != theirs or model.schema.classes != first.schema.classes:
            other = ", ".join(sorted(str(n) for n, _ in ours ^ theirs)) or "the classes"
            raise ServingError(
                f"the {name} {model.name} does not read what the champion {first.name} reads "
                f"({other}); a model of another schema cannot be tried beside it: promote it "
                "without a canary"
            )
    share = at.canary.share if at.canary else 0.0
    return Service(**models, share=share, salt=at.canary.salt if at.canary else "")


def _model(
    folder: Path,
    role: Role,
    max_rows: int,
    extra_keys: str,
    level: float,
    known: Mapping[str, Adaptive],
) -> Model:
    content = store.check(folder, role.sha256)
    manifest = json.loads(content[manifests.MANIFEST])
    schema = definitions.from_json(content["schema.json"].decode())
    reference = profile.from_json(content["reference.json"].decode())
    intervals, learned = known.get(role.sha256), manifest.get("intervals")
    if level and learned and not intervals:  # bundles had none before
        intervals = Adaptive(learned, level)
    interval = intervals is not None
    model = Model(
        name=role.sha256[:10],
        sha256=role.sha256,
        version=role.version,
        schema=schema,
        engine=load_engine(content, schema),
        reader=RowReader(schema, reference.bins, max_rows, extra_keys),
        template=ResponseTemplate(
            role.sha256[:10], role.version, role.sha256, schema.classes, interval
        ),
        reference=reference,
        manifest=MappingProxyType(manifest),
        intervals=intervals,
    )
    _check_reference_predictions(model, json.loads(content["golden.json"]))
    return model


def load_engine(content: dict[str, bytes], schema: Schema) -> object:
    """The engine that the manifest names; scikit-learn where it needs that."""
    name, plan, file = manifests.engine(content)
    try:
        if name in ALONE:
            return ALONE[name](plan, file)
        from modelkeep.training import bundle
        from modelkeep.training.engines import export  # scikit-learn takes a second to import
    except ModuleNotFoundError as error:
        raise ServingError(
            f"the model's engine is {name}, which needs {error.name}, and that is not installed "
            f"here; `pip install {error.name}`, or serve from the whole environment "
            "(requirements.lock)"
        ) from None
    return export.load(name, plan, file, bundle.undump(content["model.skops"]), schema)


def _check_reference_predictions(model: Model, reference: dict) -> None:
    """Raise ServingError unless the model predicts its reference rows here as when it was made."""
    bodies = [msgspec.json.encode({"rows": [row]}) for row in reference["rows"]]
    read = [model.reader.decode(body).rows for body in bodies]
    fits = [i for i, rows in enumerate(read) if rows]
    checked = model.reader.check([row for rows in read for row in rows])
    kept = [i for i in range(len(fits)) if i not in checked.refused]
    expected = np.array(reference["answers"])[fits][kept]
    apart = np.abs(model.predict(checked.only(kept)) - expected)
    apart = apart / np.maximum(1, np.abs(expected)) if not model.schema.classes else apart
    if not kept or not apart.max() <= TOLERANCE:
        worst = float(apart.max()) if kept else float("nan")
        raise ServingError(
            f"the model {model.name} does not repeat its reference predictions here (largest "
            f"difference {worst:.2g}, at most {TOLERANCE:g} is allowed); it stays out of service: "
            "install the libraries of its manifest"
        )
