"""Candidate and champion on the same rows: the held-back gate, or the harm gate of a refit.

A candidate that was kept away from the test rows (a first version, a changed recipe) is judged on
them. One that has learned from everything known (`withhold: false` in params/train.yaml, a refit
of an unchanged recipe) is judged by `maintenance.check_candidate`; its quality is then shown by
out-of-fold predictions, as rows that a model has learned from are no measure of quality.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from modelkeep.data import schema as schemas
from modelkeep.data import splits
from modelkeep.evaluation import comparison
from modelkeep.predictions import frames
from modelkeep.training import baseline, bundle, costs, maintenance, pipelines
from modelkeep.training.baseline import ChampionError, Comparator
from modelkeep.training.bundle import Bundle


@dataclass(frozen=True)
class Trial:
    """What a candidate is judged by and shown with.

    `comparator` is compared with; `rows` are labelled, with `outcome` and `blocks` (rows,), and
    predictions `ours` and `theirs` that are a measure of quality, of the model named `beside`.
    `champion` is the champion of a refit, `known` all rows that a refit has learned from;
    `checked` test rows were proved to be new to both models.
    """

    comparator: Comparator
    rows: pd.DataFrame
    outcome: np.ndarray
    blocks: np.ndarray
    ours: np.ndarray
    theirs: np.ndarray
    beside: str
    checked: int
    champion: Bundle | None = None
    known: pd.DataFrame | None = None

    @property
    def refit(self) -> bool:
        """Whether the candidate has learned from everything known."""
        return self.champion is not None


def compare(root: Path, candidate: Bundle, train: pd.DataFrame, test: pd.DataFrame) -> Trial:
    """Predict by candidate and champion (or the better plain rule) the rows of the candidate's
    trial.
    """
    schema = candidate.schema
    if candidate.manifest.get("params", {}).get("withhold") is False:
        return _refit(root, candidate, pd.concat([train, test], ignore_index=True))
    comparator = baseline.comparator(root, candidate, test, train)
    hashes = bundle.row_hashes(test, schema)
    checked = comparison.refuse_leaks(hashes, comparator.trained_rows, "either model")
    outcome, blocks = pipelines.outcome(test, schema), splits.blocks(test, schema)
    ours = candidate.predict(test)
    if _harms(root, schema.task, outcome, ours, comparator.out_of_fold, blocks):
        comparator = comparator.out_of_fold
    theirs = comparator.predictions
    return Trial(comparator, test, outcome, blocks, ours, theirs, comparator.name, checked)


def _harms(
    root: Path,
    task: str,
    outcome: np.ndarray,
    ours: np.ndarray,
    before: Comparator | None,
    blocks: np.ndarray,
) -> bool:
    """Whether the candidate is worse than what the champion predicted out of fold, by more than
    the harm gate tolerates: a recipe fitted to the same rows shows no fault of these rows.
    """
    if before is None:
        return False
    stated = (root / "params/guards.yaml").is_file()
    rules = maintenance.rules(root) if stated else maintenance.Rules()
    gains = comparison.gains(task, outcome, ours, before.predictions)
    limits = rules.harm_auc, rules.harm_loss
    margins = comparison.margins(task, outcome, before.predictions, *limits)
    return comparison.judge(gains, blocks, margins, maintenance.ALPHA).word == "worse"


def _refit(root: Path, candidate: Bundle, known: pd.DataFrame) -> Trial:
    folder = baseline.champion_folder(root)
    if folder is None:
        raise ChampionError(
            "withhold: the candidate has learned from the test rows, and there is no champion to "
            "compare it with; set withhold: true in params/train.yaml for a first version"
        )
    champion, schema = bundle.load(folder), candidate.schema
    baseline.check_comparable(champion.schema, schema)
    rows = candidate.out_of_fold
    name, plain = baseline.plain(candidate, rows)
    called = baseline.champion_name(root, champion)
    comparator = Comparator(called, champion.predict(rows), champion.trained_rows)
    outcome, blocks = pipelines.outcome(rows, schema), splits.blocks(rows, schema)
    ours = frames.predictions(rows, schema)
    if candidate.recalibration:  # the champion has not learned from these rows
        name, plain = called, comparator.predictions
    return Trial(comparator, rows, outcome, blocks, ours, plain, name, 0, champion, known)


def judge(
    root: Path, candidate: Bundle, trial: Trial, bounds: Mapping
) -> tuple[comparison.Verdict, comparison.Churn, dict]:
    """The gate's verdict within the parameters of evaluate (params/guards.yaml for a refit).

    The third part is evidence of a refit for `maintenance.Record.after`, else empty.
    """
    task, schema = candidate.schema.task, candidate.schema
    if trial.refit:
        return _judge_refit(root, candidate, trial)
    gains, margins = _gains(candidate, trial, bounds)
    judged = comparison.judge(gains, trial.blocks, margins, bounds["alpha"])
    named = baseline.slices(trial.rows, schema, bounds["slices"])
    first = next(iter(gains.values()))
    judged = comparison.judge_slices(judged, first, trial.blocks, named, bounds["alpha"])
    return judged, comparison.churn(task, trial.ours, trial.theirs), {}


JUDGED = ("quality", "cost", "both")


def _gains(
    candidate: Bundle, trial: Trial, bounds: Mapping
) -> tuple[dict[str, np.ndarray], dict[str, float]]:
    """The gain of each metric by row, and its margin: those of quality, the cost, or both."""
    by, kept = bounds.get("judge_by", "quality"), costs.of(candidate.manifest)
    if by not in JUDGED:
        raise ChampionError(
            f"judge_by: {by!r} is not one of {', '.join(JUDGED)}; set it in params/evaluate.yaml"
        )
    if by != "quality" and kept is None:
        raise ChampionError(
            f"judge_by: {by!r} needs costs, and the candidate knows none; state `costs` in "
            "params/train.yaml, or set judge_by: quality in params/evaluate.yaml"
        )
    task, gains, margins = candidate.schema.task, {}, {}
    if by != "cost":
        limits = bounds["margin_auc"], bounds["margin_loss"]
        gains = comparison.gains(task, trial.outcome, trial.ours, trial.theirs)
        margins = comparison.margins(task, trial.outcome, trial.theirs, *limits)
    if by != "quality":
        lines = costs_by_rule(candidate, trial)
        gains["cost"] = lines[trial.beside] - lines["candidate"]
        margins["cost"] = bounds["margin_cost"] * float(np.mean(lines[trial.beside]))
    return gains, margins


def costs_by_rule(candidate: Bundle, trial: Trial) -> dict[str, np.ndarray]:
    """What each row costs (rows,) by the candidate, by what it is shown beside, and where one
    class is always named; {} where no costs are stated.

    What stands beside decides by the costs alone: its probabilities are taken as they are.
    """
    if (kept := costs.of(candidate.manifest)) is None:
        return {}
    stated, rule = kept
    weights, y = costs.row_weights(trial.rows, stated.column), trial.outcome
    lines = {
        "candidate": costs.per_row(stated, rule, y, trial.ours, weights),
        trial.beside: costs.per_row(stated, costs.alone(stated), y, trial.theirs, weights),
    }
    for place, name in enumerate(candidate.schema.classes):
        lines[f"always {name}"] = costs.per_row(stated, place, y, trial.ours, weights)
    return lines


def _judge_refit(
    root: Path, candidate: Bundle, trial: Trial
) -> tuple[comparison.Verdict, comparison.Churn, dict]:
    schema, rules, record = candidate.schema, maintenance.rules(root), maintenance.read(root)
    models = trial.champion.predict, candidate.predict
    spent = costs.beside(candidate.manifest, trial.champion.manifest, schema)
    if candidate.recalibration:
        predicted = trial.theirs, trial.ours
        tried = maintenance.check_update(trial.rows, schema, *predicted, rules, spent)
    else:
        expected = trial.champion.out_of_fold
        tried = maintenance.check_candidate(
            trial.known, schema, *models, record, rules, spent, expected
        )
    weeks = _weeks(trial.champion, candidate)
    canary, value = maintenance.risk(trial.known, schema, *models, weeks, record, rules)
    evidence = {"refit": True, "harm": tried.guard.sentence, "earlier": tried.earlier}
    evidence |= {"recalibrated": True} if candidate.recalibration else {}
    evidence |= {
        "divergence": value,
        "weeks": weeks,
        "canary": canary.held,
        "risk": canary.sentence,
    }
    newest = maintenance.newest(trial.known, schema)
    churn = comparison.churn(schema.task, candidate.predict(newest), trial.champion.predict(newest))
    word = "worse" if tried.guard.held else "non_inferior"
    return comparison.Verdict(word, tried.gains, maintenance.ALPHA), churn, evidence


def _weeks(champion: Bundle, candidate: Bundle) -> float:
    """By how many weeks the candidate knows more than the champion; 1 where rows have no time."""
    moments = [pd.Timestamp(b.schema.origin.get("as_of") or "NaT") for b in (champion, candidate)]
    if candidate.schema.time is None or pd.isna(moments[0]) or pd.isna(moments[1]):
        return 1.0
    return max((moments[1] - moments[0]) / pd.Timedelta(days=7), 1.0)


def known(root: Path) -> pd.DataFrame:
    """All rows that `prepare` has made, in the order of time."""
    parts = [splits.load(root / f"data/prepared/{name}.parquet") for name in ("train", "test")]
    return pd.concat(parts, ignore_index=True)


def check_prepared(root: Path) -> maintenance.Checked:
    """Judge what `prepare` has made before anything learns from it, by the champion and the
    record.
    """
    schema = schemas.from_json((root / "data/prepared/schema.json").read_text())
    folder = baseline.champion_folder(root)
    if folder is None:
        raise ChampionError(
            "models/champion.json: there is no champion whose predictions labels can be compared "
            "with; a first version is judged by the held-back gate"
        )
    champion, rows = bundle.load(folder), known(root)
    baseline.check_comparable(champion.schema, schema)
    record, rules = maintenance.read(root), maintenance.rules(root)
    expected = champion.out_of_fold
    return maintenance.check_data(rows, schema, champion.predict, record, rules, expected=expected)
