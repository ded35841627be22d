"""A model bundle: write it from a fitted pipeline, and read it back, verified."""

import hashlib
import io
import json
import platform
import re
import zipfile
from dataclasses import asdict, dataclass
from html import escape
from importlib.metadata import version
from pathlib import Path
from types import MappingProxyType

import numpy as np
import pandas as pd
import skops.io
from sklearn.pipeline import Pipeline

from modelkeep.core import files
from modelkeep.core.markup import several
from modelkeep.data import schema as schemas
from modelkeep.data import splits
from modelkeep.data.schema import Schema
from modelkeep.evaluation import live_quality, metrics, profile
from modelkeep.evaluation.profile import Profile
from modelkeep.predictions import frames
from modelkeep.training import (
    boosters,
    calibration,
    custom,
    intervals,
    manifests,
    pipelines,
    reference,
)
from modelkeep.training.engines import export
from modelkeep.training.engines.export import Engine
from modelkeep.training.manifests import FORMAT, MANIFEST, BundleError

LIBRARIES = ("modelkeep", "numpy", "pandas", "scikit-learn", "skl2onnx", "skops")
# Beyond skops' own list, what scikit-learn's estimators are made of, and what the repository's own
# lib/pipeline.py defines (`custom.trusted`). A file that names any other type is refused.
TRUSTED = (
    "numpy.dtype",
    "numpy.mean",
    "scipy._lib.array_api_compat.numpy._aliases.asarray",
    "scipy.interpolate._bsplines.BSpline",
    "sklearn._loss.loss.HalfTweedieLossIdentity",
    "sklearn.calibration._CalibratedClassifier",
    "sklearn.calibration._SigmoidCalibration",
    "sklearn.ensemble._hist_gradient_boosting.predictor.TreePredictor",
    "sklearn.feature_selection._univariate_selection.f_classif",
    "sklearn.gaussian_process._gpc._BinaryGaussianProcessClassifierLaplace",
    "sklearn.gaussian_process.kernels.ConstantKernel",
    "sklearn.gaussian_process.kernels.Product",
    "sklearn.gaussian_process.kernels.RBF",
    "sklearn.metrics._dist_metrics.EuclideanDistance64",
    "sklearn.neighbors._kd_tree.KDTree",
    "sklearn.neural_network._stochastic_optimizers.AdamOptimizer",
    "sklearn.tree._tree.Tree",
)


NAME = r"(?:[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}|\d+)"  # of an object in skops' format


@dataclass(frozen=True)
class Bundle:
    """A verified model with what is needed to answer, to explain and to watch it."""

    sha256: str
    manifest: MappingProxyType
    schema: Schema
    pipeline: Pipeline
    engine: Engine
    reference: Profile
    out_of_fold: pd.DataFrame
    trained_rows: np.ndarray
    reference_rows: pd.DataFrame
    reference_predictions: np.ndarray

    @property
    def name(self) -> str:
        """The first ten digits of the manifest's hash: how pages call the model."""
        return self.sha256[:10]

    @property
    def recalibration(self) -> dict:
        """The new level and slope of a champion, with their proof; {} of a model trained anew."""
        return self.manifest.get("recalibration", {})

    def __repr__(self) -> str:
        kind, schema = calibration.inner(self.pipeline.steps[-1][1]), self.schema
        expected = {k: e["value"] for k, e in self.manifest["promise"].items()}
        scores = ", ".join(f"{metrics.NAMES[k]} {v:.4f}" for k, v in expected.items())
        classes = f" ({several(schema.classes)})" if schema.classes else ""
        known = schema.origin.get("as_of") or "the end of the table"
        new = self.recalibration
        if new:
            known += f"; a new {new['kind']} since, from {new['rows']:,} rows"
        return (
            f"Bundle {self.name}: {type(kind).__name__}, {schema.task}\n"
            f"  label: {schema.label}{classes}\n"
            f"  features: {len(schema.columns)} ({several([c.name for c in schema.columns], 6)})\n"
            f"  trained on {self.manifest['rows']:,} rows known at {known}\n"
            f"  expected (cross-validated in time order): {scores}"
        )

    def _repr_html_(self) -> str:
        return f"<pre>{escape(repr(self))}</pre>"

    def predict(self, rows: pd.DataFrame) -> np.ndarray:
        """Probabilities (rows, classes), or predicted numbers (rows,)."""
        return pipelines.predict(self.pipeline, rows, self.schema)

    def answer(self, rows: pd.DataFrame) -> np.ndarray:
        """What a server would say: by the fastest engine that was proven equal to `predict`."""
        if rows.empty:
            return _no_answers(self.schema)
        return self.engine.predict(*export.arrays(rows, self.schema))


def row_hashes(rows: pd.DataFrame, schema: Schema) -> np.ndarray:
    """One 64-bit hash a row over id, time and features: the proof that a row is no training row."""
    kinds = {schema.id: object, **({schema.time: "datetime64[us]"} if schema.time else {})}
    kinds |= {c.name: "float64" if c.kind == "number" else object for c in schema.columns}
    return pd.util.hash_pandas_object(rows[[*kinds]].astype(kinds), index=False).to_numpy()


def save(
    folder: Path,
    *,
    fitted: Pipeline,
    schema: Schema,
    train: pd.DataFrame,
    out_of_fold: pd.DataFrame,
    scores: dict,
    provenance: dict,
    before: np.ndarray | None = None,
    usual: pd.DataFrame | None = None,
) -> None:
    """Write the bundle by rename.

    The reference counts the rows `usual` (by default `out_of_fold`) as this model predicts them.
    `before` are hashes of rows that the model has learned from, beside those of `train`.
    """
    usual = out_of_fold if usual is None else usual
    hashes = _learned(train, schema, before)
    examples = edge_cases(train, schema)
    golden = pd.concat([train.head(10), examples.tail(10)])
    serving, plan, model = export.choose(fitted, schema, examples)
    engine = export.load(serving.engine, plan, model, fitted, schema)
    with files.folder(folder) as new:
        content = dump(fitted)
        files.write_bytes(new / "model.skops", content)
        files.write_text(new / "schema.json", schemas.to_json(schema))
        files.write_text(new / "reference.json", profile.to_json(_reference(engine, usual, schema)))
        splits.write(out_of_fold, new / "promise.parquet")
        files.write_json(new / "encoding.json", plan)
        files.write_json(new / "golden.json", _golden(fitted, schema, golden))
        if model:
            files.write_bytes(new / manifests.ENGINES[serving.engine], model)
        files.write_bytes(new / "trained_rows.npy", _array(hashes))
        manifest = {
            "format": FORMAT,
            "files": {p.name: files.sha256(p) for p in sorted(new.iterdir())},
            "serving": asdict(serving),
            "promise": {name: asdict(e) for name, e in scores.items()},
            **_errors(out_of_fold, schema),
            "live_quality": _live_quality(out_of_fold, schema),
            "rows": len(hashes),
            **({"own_code": own} if (own := own_code(content)) else {}),
            **provenance,
            # a patch release makes the same bytes: its number would make another model of them
            "python": ".".join(platform.python_version_tuple()[:2]),
            "libraries": {name: version(name) for name in LIBRARIES}
            | boosters.version(calibration.inner(fitted.steps[-1][1])),
        }
        files.write_json(new / MANIFEST, manifest)


def _reference(engine: Engine, usual: pd.DataFrame, schema: Schema) -> Profile:
    # equal within the tolerance is not equal enough for bins whose edges are predictions
    predicted = engine.predict(*export.arrays(usual, schema))
    return reference.learn(frames.with_predictions(usual, schema, predicted), schema)


def _learned(train: pd.DataFrame, schema: Schema, before: np.ndarray | None) -> np.ndarray:
    hashes = row_hashes(train, schema)
    return np.sort(hashes) if before is None else np.unique(np.concatenate([hashes, before]))


def _array(values: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, values, allow_pickle=False)
    return buffer.getvalue()


def _errors(out_of_fold: pd.DataFrame, schema: Schema) -> dict:
    """What a server needs to expect errors of numbers before labels come."""
    if schema.task != "regression":
        return {}
    y, p = pipelines.outcome(out_of_fold, schema), frames.predictions(out_of_fold, schema)
    cuts, means = metrics.errors_by_size(y, p)
    return {"errors": {"cuts": cuts, **means}, "intervals": intervals.learn(y, p)}


def _live_quality(out_of_fold: pd.DataFrame, schema: Schema) -> dict:
    """What a server needs to see, from labels, that the model has lost its skill."""
    known = pipelines.outcome(out_of_fold, schema), frames.predictions(out_of_fold, schema)
    days = splits.blocks(out_of_fold, schema) if schema.time else None
    return live_quality.learn(schema.task, *known, days)


def load(folder: Path) -> Bundle:
    """The bundle in `folder`; BundleError for a wrong hash or an untrusted type."""
    content = manifests.verify(folder)
    manifest = json.loads(content[MANIFEST])
    schema = schemas.from_json(content["schema.json"].decode())
    pipeline = undump(content["model.skops"])
    golden = json.loads(content["golden.json"])
    return Bundle(
        sha256=hashlib.sha256(content[MANIFEST]).hexdigest(),
        manifest=MappingProxyType(manifest),
        schema=schema,
        pipeline=pipeline,
        engine=export.load(*manifests.engine(content), pipeline, schema),
        reference=profile.from_json(content["reference.json"].decode()),
        out_of_fold=splits.load(io.BytesIO(content["promise.parquet"])),
        trained_rows=np.load(io.BytesIO(content["trained_rows.npy"]), allow_pickle=False),
        reference_rows=pd.DataFrame(golden["rows"]),
        reference_predictions=np.array(golden["answers"]),
    )


def dump(fitted: Pipeline) -> bytes:
    """The pipeline in skops' format; ids and dates are fixed, so equal pipelines give equal
    bytes.
    """
    with zipfile.ZipFile(io.BytesIO(skops.io.dumps(fitted))) as archive:
        content = {name: archive.read(name) for name in archive.namelist()}
    text = content.pop("schema.json").decode()
    # skops calls objects by their address in memory, and bytes at random: others in each process
    seen = dict.fromkeys(re.findall(rf'"(?:__id__": |file": ")({NAME})', text))
    number = {old: str(i) for i, old in enumerate(seen, start=1)}
    text = re.sub(rf'("__id__": |"file": ")({NAME})', lambda m: m[1] + number[m[2]], text)
    renamed = {re.sub(rf"^{NAME}", lambda m: number[m[0]], k): v for k, v in content.items()}
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in ("schema.json", *sorted(renamed)):
            body = text if name == "schema.json" else renamed[name]
            archive.writestr(zipfile.ZipInfo(name), body, zipfile.ZIP_DEFLATED, 6)
    return buffer.getvalue()


def undump(content: bytes) -> Pipeline:
    """The pipeline from skops' format, if it names only types that we trust."""
    named = set(skops.io.get_untrusted_types(data=content)) - set(TRUSTED)
    for package in sorted({name.partition(".")[0] for name in named} & set(boosters.KINDS)):
        boosters.library(package)
    named -= {*boosters.TRUSTED, *calibration.TRUSTED}
    try:
        own = {name for name in named if custom.trusted(name)}
    except custom.CustomError as error:
        raise BundleError(f"model.skops: {error}") from error
    if strangers := sorted(named - own):
        raise BundleError(
            f"model.skops names types that neither scikit-learn nor {custom.FILE} of this "
            f"repository has: {', '.join(strangers)}; do not load it, and find out who wrote it"
        )
    return skops.io.loads(
        content, trusted=[*TRUSTED, *boosters.TRUSTED, *calibration.TRUSTED, *own]
    )


def own_code(content: bytes) -> list[str]:
    """The modules of lib/pipeline.py, by hash, that a pipeline in skops' format uses."""
    names = {name.partition(".")[0] for name in skops.io.get_untrusted_types(data=content)}
    return sorted(name for name in names if name.startswith(custom.PREFIX))


def _no_answers(schema: Schema) -> np.ndarray:
    return np.zeros(0) if schema.task == "regression" else np.zeros((0, len(schema.classes)))


def edge_cases(train: pd.DataFrame, schema: Schema, rows: int = 5000) -> pd.DataFrame:
    """Real rows, then for each feature a row with it missing, unseen, zero, huge and at the
    extremes.
    """
    step = max(1, len(train) // rows)
    real = train.iloc[::step].head(rows)
    made = []
    for c in schema.columns:
        odd = [None, "never seen"]
        if c.kind == "number":
            seen = train[c.name]
            odd = [np.nan, 0.0, 1e9, -1e9, float(seen.min()), float(seen.max())]
        for i, value in enumerate(odd):
            row = real.iloc[[i % len(real)]].copy()
            row[c.name] = pd.Series([value], index=row.index, dtype=train[c.name].dtype)
            made.append(row)
    return pd.concat([real, *made], ignore_index=True)


def _golden(fitted: Pipeline, schema: Schema, rows: pd.DataFrame) -> dict:
    """Rows with their predictions: a copy of the model must give them back before it may serve."""
    frame = pipelines.features(rows, schema)
    return {
        "rows": frame.astype(object).where(frame.notna(), None).to_dict("records"),
        "answers": pipelines.predict(fitted, rows, schema).tolist(),
    }
