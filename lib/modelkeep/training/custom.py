"""The user's own part of a model: `estimator` and `features` of lib/pipeline.py.

A model that uses code of that file names it by its hash. Whoever reads the model takes the code
from this repository, from the file as it is or from its history in Git, and only where its hash is
the stated one: nothing in a bundle decides what is trusted.
"""

import hashlib
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pandas as pd
from sklearn.base import BaseEstimator
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import FunctionTransformer

from modelkeep.core import git, workspace
from modelkeep.core.errors import ModelkeepError
from modelkeep.data.columns import Column
from modelkeep.data.schema import Schema
from modelkeep.training import pipelines

FILE = "lib/pipeline.py"
PREFIX = "pipeline_"  # a module's name: this and the first digits of its file's hash
DIGITS = 16
CHECKED_ROWS = 20  # rows whose features alone are compared with those among others


class CustomError(ModelkeepError, ValueError):
    """A lib/pipeline.py that no model can be made with, or that is not to be found."""


def current(root: Path, commit: str = "") -> ModuleType | None:
    """The module of lib/pipeline.py as it is, or as a commit has it; None where there is none."""
    path = root / FILE
    if commit:
        listed = git.run(root, "ls-tree", "--name-only", commit, "--", FILE).strip()
        return _module(git.run(root, "show", f"{commit}:./{FILE}").encode()) if listed else None
    return _module(path.read_bytes()) if path.is_file() else None


def find(name: str, root: Path | None = None) -> ModuleType:
    """The module of that name (`pipeline_` and digits of a hash), from the file or its history."""
    if name in sys.modules:
        return sys.modules[name]
    try:
        root = root or workspace.root()
    except ModelkeepError as error:
        raise CustomError(f"{FILE}: the model needs {name}, and {error}") from error
    path = root / FILE
    if path.is_file() and _named(path.read_bytes()) == name:
        return _module(path.read_bytes())
    for commit in git.run(root, "log", "--all", "--format=%H", "--", FILE).split():
        try:
            content = git.run(root, "show", f"{commit}:./{FILE}").encode()
        except git.GitError:
            continue  # the commit that deleted it
        if _named(content) == name:
            return _module(content)
    raise CustomError(
        f"{FILE}: the model needs the file with the hash {name.removeprefix(PREFIX)}..., which is "
        "neither here nor in this repository's history; fetch the commit that made the model"
    )


def estimator(root: Path, schema: Schema, params: Mapping) -> Pipeline:
    """The unfitted pipeline of lib/pipeline.py for params/train.yaml (without it:
    `pipelines.pipeline`).
    """
    return made(current(root), schema, params)


def made(module: ModuleType | None, schema: Schema, params: Mapping) -> Pipeline:
    """The unfitted pipeline of a module of lib/pipeline.py, its features first."""
    build, own = getattr(module, "estimator", None), getattr(module, "features", None)
    schema = schema if own is None else with_features(own, schema)
    unfitted = build(schema, dict(params)) if build else pipelines.pipeline(schema, **params)
    if not isinstance(unfitted, BaseEstimator) and not hasattr(unfitted, "fit"):
        raise CustomError(
            f"{FILE}: estimator(schema, params) returns {type(unfitted).__name__}; "
            "it must return a scikit-learn estimator or Pipeline"
        )
    if schema.classes and not hasattr(unfitted, "predict_proba"):
        raise CustomError(
            f"{FILE}: estimator(schema, params) returns {type(unfitted).__name__}, which gives no "
            "probabilities; wrap it in sklearn.calibration.CalibratedClassifierCV"
        )
    steps = unfitted.steps if isinstance(unfitted, Pipeline) else [("model", unfitted)]
    if own is None:
        return unfitted if isinstance(unfitted, Pipeline) else Pipeline(steps)
    return Pipeline([("features", FunctionTransformer(own)), *steps])


def with_features(own: Callable, schema: Schema) -> Schema:
    """The schema of what `features` returns: its new columns are numbers, dropped ones are gone.

    Learned from one row with 0 for each number and the first category of each other column.
    """
    row = {
        c.name: [0.0]
        if c.kind == "number"
        else pd.Series([*c.categories[:1], np.nan][:1], dtype=object)
        for c in schema.columns
    }
    frame = own(pd.DataFrame(row))
    if not isinstance(frame, pd.DataFrame):
        raise CustomError(f"{FILE}: features(frame) returns {type(frame).__name__}, no DataFrame")
    known = {c.name: c for c in schema.columns}
    added = [name for name in frame.columns if name not in known]
    texts = [n for n in added if not pd.api.types.is_numeric_dtype(frame[n].dtype)]
    if texts:
        raise CustomError(
            f"{FILE}: features(frame) adds {', '.join(map(repr, texts))} as text; a new column "
            "must "
            "be a number or true and false: encode it there"
        )
    columns = [known.get(name) or Column(name, "number") for name in frame.columns]
    return replace(schema, columns=tuple(columns))


def trusted(type_name: str, root: Path | None = None) -> bool:
    """Whether a type or function that a model names is defined in a lib/pipeline.py of this
    repository.
    """
    module_name, _, name = type_name.partition(".")
    if not module_name.startswith(PREFIX) or "." in name:
        return False
    return getattr(getattr(find(module_name, root), name, None), "__module__", "") == module_name


def check(unfitted: Pipeline, rows: pd.DataFrame, schema: Schema) -> None:
    """Raise CustomError where `features` gives a row something else alone than among others."""
    if "features" not in unfitted.named_steps:
        return
    own = unfitted.named_steps["features"].transform
    frame = pipelines.features(rows, schema)
    among = own(frame.copy())
    if not isinstance(among, pd.DataFrame) or len(among) != len(frame):
        raise CustomError(
            f"{FILE}: features(frame) must return a DataFrame with a row for each row"
        )
    for i in np.linspace(0, len(frame) - 1, min(CHECKED_ROWS, len(frame))).astype(int):
        alone = own(frame.iloc[[i]].copy())
        for name in among.columns:
            if name in alone and _same(among[name].iloc[i], alone[name].iloc[0]):
                continue
            raise CustomError(
                f"{FILE}: features(frame) gives column {name!r} of row {i} another value alone "
                "than "
                "among other rows; a request holds one row: use no means, ranks or neighbours of "
                "rows there, but a transformer with fit"
            )


def _same(a: object, b: object) -> bool:
    return (pd.isna(a) and pd.isna(b)) or a == b


def _named(content: bytes) -> str:
    return PREFIX + hashlib.sha256(content.replace(b"\r\n", b"\n")).hexdigest()[:DIGITS]


def _module(content: bytes) -> ModuleType:
    name = _named(content)
    if name not in sys.modules:
        module = ModuleType(name, f"{FILE} with the hash {name.removeprefix(PREFIX)}")
        module.__file__ = FILE
        sys.modules[name] = module
        try:
            exec(compile(content, FILE, "exec"), module.__dict__)
        except Exception as error:
            del sys.modules[name]
            raise CustomError(f"{FILE}: {type(error).__name__}: {error}; mend it") from error
    return sys.modules[name]
