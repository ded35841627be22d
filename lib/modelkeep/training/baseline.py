"""The comparator of a candidate: the champion, or the better of two plain rules; and its slices."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from modelkeep.core.errors import ModelkeepError
from modelkeep.core.markup import several
from modelkeep.data import splits
from modelkeep.data.columns import as_text
from modelkeep.data.schema import Schema
from modelkeep.evaluation import comparison, metrics
from modelkeep.predictions import frames
from modelkeep.training import bundle, pipelines
from modelkeep.training.bundle import Bundle

SLICE_ROWS = 200  # a named slice with fewer test rows is not compared
SLICE_NAMES = 10


class ChampionError(ModelkeepError, ValueError):
    """The file models/champion.json does not name a usable bundle."""


class SliceError(ModelkeepError, ValueError):
    """A slice that cannot be cut."""


@dataclass(frozen=True)
class Comparator:
    """The comparator: its predictions on the test rows, and hashes of both models' training
    rows.

    `out_of_fold`: where the champion has learned from the test rows, the comparator that its own
    cross-validation makes, on rows that its folds had not seen.
    """

    name: str
    predictions: np.ndarray
    trained_rows: np.ndarray
    out_of_fold: "Comparator | None" = None


def comparator(
    root: Path, candidate: Bundle, rows: pd.DataFrame, train: pd.DataFrame
) -> Comparator:
    """The champion that `models/champion.json` names, or the better of two plain baselines.

    A champion that has learned from some of the test rows, as refits do, cannot be judged on them:
    its pipeline is then fitted to the candidate's own training rows `train`, so that the two
    recipes are compared, from the same rows.
    """
    named = _named(root / "models" / "champion.json")
    folder = champion_folder(root)
    if folder is None:
        name, predictions = plain(candidate, rows)
        return Comparator(name, predictions, candidate.trained_rows)
    champion = bundle.load(folder)
    if named.get("sha256", champion.sha256) != champion.sha256:
        raise ChampionError(
            f"{named['bundle']} holds the model {champion.name}, models/champion.json names "
            f"{named['sha256'][:10]}; "
            f"`dvc checkout {named['bundle']}` brings that here"
        )
    check_comparable(champion.schema, candidate.schema)
    name = champion_name(root, champion)
    # by its own schema: with other features a row has another hash
    if np.isin(bundle.row_hashes(rows, champion.schema), champion.trained_rows).any():
        twin = pipelines.fit(champion.pipeline, train, champion.schema)
        predictions = pipelines.predict(twin, rows, champion.schema)
        honest = _out_of_fold(champion, f"{name} out of fold", rows, candidate)
        known = candidate.trained_rows
        return Comparator(f"{name} fitted to the same rows", predictions, known, honest)
    both = np.concatenate([candidate.trained_rows, champion.trained_rows])
    return Comparator(name, champion.predict(rows), both)


def _out_of_fold(
    champion: Bundle, name: str, rows: pd.DataFrame, candidate: Bundle
) -> Comparator | None:
    """The champion's out-of-fold predictions of the rows that it has learned from, and its own of
    the others; None where cross-validation has not predicted one of them.
    """
    schema, log = champion.schema, champion.out_of_fold
    learned = np.isin(bundle.row_hashes(rows, schema), champion.trained_rows)
    place = (
        pd.Index(as_text(log[schema.id])).drop_duplicates().get_indexer(as_text(rows[schema.id]))
    )
    if log[schema.id].duplicated().any() or (place[learned] < 0).any():
        return None
    predictions = champion.predict(rows)
    predictions[learned] = frames.predictions(log, schema)[place[learned]]
    return Comparator(name, predictions, candidate.trained_rows)


def champion_name(root: Path, champion: Bundle) -> str:
    """Return the champion in words: by its version, or by its bundle where it has none."""
    named = _named(root / "models" / "champion.json")
    return f"the champion {named.get('version') or champion.name}"


def champion_version(root: Path) -> str:
    """The version that `models/champion.json` names; "" where there is none."""
    return _named(root / "models" / "champion.json").get("version") or ""


def champion_folder(root: Path) -> Path | None:
    """The folder of the bundle that `models/champion.json` names; None where there is none yet."""
    named = _named(root / "models" / "champion.json").get("bundle")
    return root / named if named else None


def _named(path: Path) -> dict:
    try:
        named = json.loads(path.read_text())
        if isinstance(named, dict):
            return named
        error = f"it holds {named!r}"
    except (OSError, ValueError) as found:
        error = str(found)
    raise ChampionError(
        f'models/{path.name}: not readable as {{"version": ..., "bundle": ...}} ({error}); '
        "set bundle to the champion's folder, or to null where there is none"
    )


def check_comparable(champion: Schema, candidate: Schema) -> None:
    """The test rows are clean to the candidate's schema; the champion must be able to read them."""
    for what in ("task", "label", "classes", "id", "time"):
        theirs, ours = getattr(champion, what), getattr(candidate, what)
        if theirs != ours:
            shown = [several(x) if isinstance(x, tuple) else x or "none" for x in (theirs, ours)]
            raise ChampionError(
                f"models/champion.json: the champion's {what} is {shown[0]}, the candidate's "
                f"{shown[1]}; "
                "they cannot be compared: set bundle to null to start anew"
            )
    have = {(c.name, c.kind) for c in candidate.columns}
    lost = [f"{c.name} ({c.kind})" for c in champion.columns if (c.name, c.kind) not in have]
    if lost:
        raise ChampionError(
            f"models/champion.json: the champion needs {several(lost)}, which the candidate's "
            "rows do not have; "
            "keep such columns by `features` and `rules` in params/prepare.yaml, or set bundle to "
            "null to start anew"
        )


def plain(candidate: Bundle, rows: pd.DataFrame) -> tuple[str, np.ndarray]:
    """The better of two plain rules on the test rows.

    One predicts the share of each class (or the mean) in all rows of cross-validation, the other,
    where rows have a time, in the newest of them, as many days as the test has.
    """
    schema = candidate.schema
    known = candidate.out_of_fold
    blocks = splits.blocks(known, schema)
    newest = np.unique(blocks)[-len(np.unique(splits.blocks(rows, schema))) :]
    what = "mean" if schema.task == "regression" else "rate"
    choices = {f"always saying the {what} of the training rows": known}
    if schema.time:
        choices = {
            f"always saying the {what} of the past": known,
            f"always saying the newest {what}": known[blocks >= newest[0]],
        }
    y, found = pipelines.outcome(rows, schema), {}
    for name, past in choices.items():
        outcome = pipelines.outcome(past, schema)
        if schema.task == "regression":
            predictions = np.full(len(rows), outcome.mean())
        else:
            share = np.bincount(outcome, minlength=len(schema.classes)) + 0.5
            predictions = np.tile(share / share.sum(), (len(rows), 1))
        found[name] = predictions
    first = metrics.METRICS[schema.task][0]
    loss = {
        name: metrics.per_row(schema.task, y, predictions)[first].mean()
        for name, predictions in found.items()
    }
    best = min(loss, key=loss.get)
    return best, found[best]


def slices(rows: pd.DataFrame, schema: Schema, named: Sequence[str]) -> dict[str, np.ndarray]:
    """Which rows (rows,) are in each of `slice_values`, by column and value in words."""
    chosen = slice_values(rows, schema, named)
    return {f"{name} {value}": (rows[name] == value).to_numpy() for name, value in chosen}


def slice_values(rows: pd.DataFrame, schema: Schema, named: Sequence[str]) -> list[tuple[str, str]]:
    """The columns and values that slices are cut by; only values with enough rows are compared.

    Without names, the values of small categories, of those that have enough days to be judged.
    """
    known = {c.name: c for c in schema.columns if c.kind == "category"}
    for name in named:
        if name not in known:
            raise SliceError(
                f"slices: {name!r} is not a category among the features; there is: "
                f"{', '.join(known) or 'none'}"
            )
    chosen = named or [k for k, c in known.items() if len(c.categories) <= SLICE_NAMES]
    blocks, least = splits.blocks(rows, schema), comparison.MINIMUM_BLOCKS
    found = []
    for name, value in ((k, v) for k in chosen for v in known[k].categories):
        inside = (rows[name] == value).to_numpy()
        few = not named and len(np.unique(blocks[inside])) < least
        if inside.sum() >= SLICE_ROWS and not few:
            found.append((name, value))
    return found
