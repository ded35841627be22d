"""The kinds of candidate: a model that is trained anew, or the champion with a new level and slope.

`recalibrated` is the smaller remedy. The closed test (`evaluation.recalibration`) says which update
of the champion's predictions is enough for the newest labelled rows that it has not learned from:
none, a new level, level and slope, or a refit. A copy of the champion takes level and slope; where
a refit would be needed it says so. The proof is the gain on rows that were left out, each quarter
of the days in turn.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.pipeline import Pipeline

from modelkeep.core.errors import ModelkeepError
from modelkeep.core.markup import between, count, number, several
from modelkeep.data import splits
from modelkeep.data.schema import Schema
from modelkeep.evaluation import comparison, metrics, recalibration
from modelkeep.evaluation.recalibration import Choice, Outcomes, Update
from modelkeep.predictions import frames
from modelkeep.training import baseline, bundle, calibration, pipelines, reference, validation
from modelkeep.training.bundle import Bundle
from modelkeep.training.pipelines import Fold

DAYS = 28  # of the newest rows, that a recalibration learns from
PARTS = 4  # of these days; each is predicted by an update fitted to the others
ALPHA = 0.05  # one-sided, of the closed test and of the proof
UPDATES = ("level", "level and slope")


class NotRecalibrated(ModelkeepError, ValueError):
    """The champion's predictions need no new level or slope, or more than that."""


@dataclass(frozen=True, repr=False)
class Candidate:
    """A fitted model, and what its bundle keeps of how it was made.

    `rows` it has learned from, beside those of `before` (hashes); `reference` are the rows that
    later ones are compared with. `recalibration` is evidence, {} of a model trained anew.
    """

    fitted: Pipeline
    schema: Schema
    rows: pd.DataFrame
    folds: Sequence[Fold]
    out_of_fold: pd.DataFrame
    reference: pd.DataFrame
    before: np.ndarray | None = None
    recalibration: dict = field(default_factory=dict)

    def predict(self, rows: pd.DataFrame) -> np.ndarray:
        """Probabilities (rows, classes), or predicted numbers (rows,)."""
        return pipelines.predict(self.fitted, rows, self.schema)

    def __repr__(self) -> str:
        if not self.recalibration:
            return f"A candidate trained anew on {count(len(self.rows), 'row')}"
        kind = self.recalibration["kind"]
        return "\n  ".join([f"The model with a new {kind}:", *sentences(self.recalibration)])

    @property
    def contents(self) -> dict:
        """What `bundle.save` takes of it."""
        rows = {"train": self.rows, "out_of_fold": self.out_of_fold, "usual": self.reference}
        return {"fitted": self.fitted, "schema": self.schema, "before": self.before, **rows}

    @property
    def facts(self) -> dict:
        """What its manifest says of it beside that."""
        return {"recalibration": self.recalibration} if self.recalibration else {}

    @property
    def outcome(self) -> np.ndarray:
        """The labels of the out-of-fold rows."""
        return pipelines.outcome(self.out_of_fold, self.schema)


def retrained(unfitted: Pipeline, rows: pd.DataFrame, schema: Schema, folds: int) -> Candidate:
    """A model that learns from these rows, cross-validated in the order of time."""
    tried = pipelines.cross_validate(unfitted, rows, schema, splits.blocks(rows, schema), folds)
    out_of_fold = validation.out_of_fold(rows, tried, schema)
    fitted = pipelines.fit(unfitted, rows, schema)
    return Candidate(fitted, schema, rows, tried, out_of_fold, out_of_fold)


def recalibrated(root: Path, version: str, rows: pd.DataFrame) -> Candidate:
    """The champion `version` with the new level (and slope) that these labelled rows ask for.

    ChampionError where that is not the champion; NotRecalibrated with the reason where the rows
    ask for none, or its gain is not proven.
    """
    name, folder = baseline.champion_version(root), baseline.champion_folder(root)
    if folder is None or name != version:
        raise baseline.ChampionError(
            f"recalibrate: {version!r} is not the champion, which is {name or 'none yet'}; set it "
            "in params/train.yaml to the champion's version, or to '' for a new model"
        )
    return update(bundle.load(folder), rows)


def update(champion: Bundle, rows: pd.DataFrame) -> Candidate:
    """As `recalibrated`, of a bundle; rows that it has learned from are left out."""
    schema, usual = champion.schema, champion.out_of_fold
    new = newest(champion, rows)
    if new.empty:
        raise NotRecalibrated("there is no labelled row that the champion has not learned from")
    found = learn(usual, new, champion.predict(new), schema)
    blocks = splits.blocks(new, schema)
    facts = {
        "of": champion.sha256,
        "kind": found.update.kind,
        "enough": found.enough,
        "level": list(found.update.level),
        "slope": found.update.slope,
        "rows": len(new),
        "days": len(np.unique(blocks)) if schema.time else None,
        "steps": [asdict(step) for step in found.choice.steps],
        "says": "" if found.enough else _not_enough(found.choice),
        "gain": asdict(found.gain),
    }
    fitted = calibration.recalibrated(champion.pipeline, found.update)
    log, known = validation.out_of_fold(new, found.folds, schema), champion.trained_rows
    return Candidate(fitted, schema, new, found.folds, log, usual, known, facts)


@dataclass(frozen=True)
class Learned:
    """A new level (and slope), the closed test behind it, and its proof on rows left out.

    `enough` is False where only a refit is enough, and level and slope help all the same.
    """

    update: Update
    choice: Choice
    folds: Sequence[Fold]
    gain: comparison.Gain

    @property
    def enough(self) -> bool:
        """Whether the closed test says so."""
        return self.choice.kind in UPDATES


def learn(usual: pd.DataFrame, new: pd.DataFrame, p: np.ndarray, schema: Schema) -> Learned:
    """The update that labelled rows `new`, predicted as `p`, ask for beside those of `usual`, which
    hold predictions that were made of them when they were new.

    NotRecalibrated where they ask for none, or its gain is not proven.
    """
    task, y, blocks = schema.task, pipelines.outcome(new, schema), splits.blocks(new, schema)
    try:
        choice = _choose(usual, new, schema, y, p)
    except recalibration.RecalibrationError as error:
        raise NotRecalibrated(f"rows that the champion has not learned from: {error}") from error
    chosen = choice.update
    if choice.kind == "refit":
        chosen = recalibration.fit(task, UPDATES[-1], y, p)
    if choice.kind == "none" or chosen.slope < recalibration.LEAST_SLOPE:
        raise NotRecalibrated(_not_enough(choice))
    folds = _folds(task, chosen.kind, y, p, blocks)
    after = np.empty_like(p, dtype=float)
    for fold in folds:
        after[fold.rows] = fold.predictions
    gain = _gain(task, y, after, p, blocks)
    if gain.low <= 0:
        raise NotRecalibrated(
            f"a new {chosen.kind} was tried, and on rows that were left out its gain is not "
            f"proven: {between(gain.gain, gain.low, gain.high)} in {metrics.NAMES[gain.metric]}"
        )
    return Learned(chosen, choice, folds, gain)


def sentences(new: Mapping) -> list[str]:
    """What a recalibration has learned, its proof, and the closed test that chose it."""
    gain = new["gain"]
    level = new["level"][-1] - new["level"][0] if len(new["level"]) == 2 else new["level"]
    shown = number(level) if np.ndim(level) == 0 else several([number(x) for x in level])
    of = f" of {count(new['days'], 'day')}" if new["days"] else ""
    tests = ", ".join(f"{step['kind']}: p {number(step['p'])}" for step in new["steps"])
    return [
        f"level {shown}, slope {number(new['slope'])}, from {count(new['rows'], 'row')}{of} that "
        "the champion had not learned from",
        f"on rows left out it lowers {metrics.NAMES[gain['metric']]} by "
        f"{between(gain['gain'], gain['low'], gain['high'])} a row",
        new["says"] or f"closed test, is this update enough? {tests}",
    ]


def newest(champion: Bundle, rows: pd.DataFrame) -> pd.DataFrame:
    """Those of the newest 28 days of rows that the champion has not learned from; without time,
    all that it has not learned from.
    """
    schema = champion.schema
    known = np.isin(bundle.row_hashes(rows, schema), champion.trained_rows)
    new = rows[~known].reset_index(drop=True)
    if schema.time is None or new.empty:
        return new
    day = splits.blocks(new, schema)
    return new[day > day.max() - DAYS].reset_index(drop=True)


def _choose(
    usual: pd.DataFrame, new: pd.DataFrame, schema: Schema, y: np.ndarray, p: np.ndarray
) -> Choice:
    bins = reference.columns(usual, schema)
    places = [reference.places(reference.table(each, schema), bins) for each in (usual, new)]
    names, values = recalibration.directions(bins, places)
    known = pipelines.outcome(usual, schema), frames.predictions(usual, schema)
    before = Outcomes(*known, values[0], splits.blocks(usual, schema))
    now = Outcomes(y, p, values[1], splits.blocks(new, schema))
    return recalibration.choose(schema.task, now, before, names=names, alpha=ALPHA)


def _not_enough(choice: Choice) -> str:
    p = ", ".join(f"{step.kind}: p {number(step.p)}" for step in choice.steps)
    if choice.kind == "none":
        return f"the newest labelled rows ask for no update of the predictions ({p})"
    return (
        f"a new level and slope are not enough ({p}); the relation has changed, most for "
        f"{choice.strongest}: that needs a model trained anew"
    )


def _folds(task: str, kind: str, y: np.ndarray, p: np.ndarray, blocks: np.ndarray) -> list[Fold]:
    found = []
    for part in np.array_split(np.unique(blocks), PARTS):
        inside = np.isin(blocks, part)
        q = recalibration.fit(task, kind, y[~inside], p[~inside])(p[inside])
        means = {k: float(np.mean(v)) for k, v in metrics.per_row(task, y[inside], q).items()}
        found.append(Fold(int((~inside).sum()), np.flatnonzero(inside), q, means))
    return found


def _gain(
    task: str, y: np.ndarray, after: np.ndarray, p: np.ndarray, blocks: np.ndarray
) -> comparison.Gain:
    """By how much the update lowers the loss of rows that it was not fitted to."""
    first = metrics.METRICS[task][0]
    gains = {first: comparison.gains(task, y, after, p)[first]}
    return comparison.judge(gains, blocks, {first: 0.0}, ALPHA).gains[0]
