"""Gate and canary of a candidate within a backtest."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import pandas as pd

from modelkeep.backtest import point_in_time
from modelkeep.backtest.point_in_time import WEEK, History, Model
from modelkeep.core.errors import ModelkeepError
from modelkeep.data import splits
from modelkeep.data.schema import Schema
from modelkeep.evaluation import comparison
from modelkeep.rollout import judge, outcomes, planning
from modelkeep.serving.models import in_canary
from modelkeep.training import baseline, bundle, pipelines

HOUR = np.timedelta64(1, "h")
PASSES = ("better", "non_inferior")
QUALITY = "quality"  # the only guardrail metric that a history holds


class TrialError(ModelkeepError, ValueError):
    """A trial that this history does not allow."""


def examine(past: History, candidate: Model, champion: Model, bounds: Mapping) -> str:
    """The gate's verdict, by the newest known rows that neither model has learned from.

    `bounds`: parameters of evaluate.
    """
    learned, test = past.trained_on(candidate)
    baseline.check_comparable(champion.schema, candidate.schema)
    hashes = bundle.row_hashes(test, champion.schema)
    rows = test[~np.isin(hashes, past.trained_on(champion)[0])].reset_index(drop=True)
    if rows.empty:
        return "insufficient"
    schema = candidate.schema
    comparison.refuse_leaks(bundle.row_hashes(rows, schema), learned, "the candidate")
    y, blocks = pipelines.outcome(rows, schema), splits.blocks(rows, schema)
    ours, champions = (
        point_in_time.predictions(candidate, rows),
        point_in_time.predictions(champion, rows),
    )
    gains = comparison.gains(schema.task, y, ours, champions)
    margins = comparison.margins(
        schema.task, y, champions, bounds["margin_auc"], bounds["margin_loss"]
    )
    first, named = next(iter(gains.values())), baseline.slices(rows, schema, bounds["slices"])
    judged = comparison.judge(gains, blocks, margins, bounds["alpha"])
    return comparison.judge_slices(judged, first, blocks, named, bounds["alpha"]).word


@dataclass
class Rollout:
    """A running canary: the judge's state, and the predictions whose labels have not matured."""

    candidate: Model
    rules: planning.Rules
    state: judge.State
    began: np.datetime64
    share: float
    salt: str
    since: np.datetime64  # earlier predictions had another share
    truth: Mapping  # the rule of a quality outcome, as in `outcomes`
    counted: set[str] = field(default_factory=set)
    waiting: list[tuple] = field(default_factory=list)

    @property
    def final(self) -> str:
        """`advance` (promoted), `rollback` or `abort`, or nothing yet."""
        return self.state.final


def rules(params: Mapping, task: str, label_delay_days: float) -> planning.Rules:
    """The rules of params/rollout.yaml for the quality metric alone, analysed once an hour."""
    if task == "regression":
        raise TrialError(
            "canary: regression has no quality outcome here; "
            "set canary: false in params/backtest.yaml"
        )
    stated = planning.rules(params)
    matures = stated.label_maturity.get(QUALITY, 0.0)
    if label_delay_days * 86_400 > matures:
        raise TrialError(
            f"label_maturity_hours: {QUALITY} is counted {matures / 3600:g} h after a prediction, "
            f"and labels come after {label_delay_days:g} days: none would count; "
            "raise it in params/rollout.yaml"
        )
    return replace(
        stated,
        metrics=(QUALITY,),
        label_maturity={QUALITY: matures},
        interval=max(stated.interval, 3600),
    )


def begin(
    candidate: Model, past: History, champion: Model, week: int, by: planning.Rules
) -> Rollout:
    """A rollout that begins with a week."""
    state, at = judge.start(by), past.starts[week].astype("datetime64[us]")
    truth = outcomes.truth(champion.schema, past.learned_from(*champion.key)[0])
    return Rollout(candidate, by, state, at, by.share(0), f"week {candidate.week}", at, truth)


def roll(
    going: Rollout, past: History, champion: Model, week: int
) -> tuple[pd.DataFrame, np.ndarray, np.ndarray]:
    """One week of a rollout: its rows, their predictions, and which ones are the canary's."""
    rows, predictions = past.predicted(champion, week)
    other = point_in_time.predictions(going.candidate, rows)
    schema, start = champion.schema, past.starts[week].astype("datetime64[us]")
    wrong = _wrong(rows, schema, (predictions, other), going.truth)
    times, names = rows[schema.time].to_numpy().astype("datetime64[us]"), _entities(rows, schema)
    by_canary = np.zeros(len(rows), bool)
    for hour in range(int(WEEK / HOUR)):
        first, last = start + hour * HOUR, start + (hour + 1) * HOUR
        for i in range(*np.searchsorted(times, [first, last])):
            by_canary[i] = going.share > 0 and in_canary(going.salt, names[i], going.share)
            going.waiting.append((times[i], names[i], by_canary[i], wrong[i, int(by_canary[i])]))
        if not going.final:
            _analyse(going, last)
    predictions = np.where(
        by_canary[(slice(None), *[None] * (predictions.ndim - 1))], other, predictions
    )
    return rows, predictions, by_canary


def _analyse(going: Rollout, now: np.datetime64) -> None:
    """Judge the predictions that have matured since the last analysis, one an entity."""
    matured = now - np.timedelta64(round(going.rules.label_maturity[QUALITY]), "s")
    due = [each for each in going.waiting if each[0] < matured]
    going.waiting = going.waiting[len(due) :]
    counts, entities = np.zeros(4, int), [0, 0]
    for at, name, by_canary, wrong in due:
        if at < going.since or name in going.counted or np.isnan(wrong):
            continue
        going.counted.add(name)
        entities[int(by_canary)] += 1
        counts[2 * int(by_canary) :][:2] += (1, int(wrong))
    seconds = float((now - going.began) / np.timedelta64(1, "s"))
    analysis = judge.Analysis(seconds, {QUALITY: [counts.tolist()]}, entities)
    step = going.state.step
    going.state, verdict = judge.judge(going.rules, going.state, analysis)
    going.share = verdict.share
    if going.state.step != step:
        going.since, going.counted = now, set()


def _entities(rows: pd.DataFrame, schema: Schema) -> list[str]:
    ids = rows[schema.id].astype(str)
    return list(
        rows[schema.entity].astype(object).where(rows[schema.entity].notna(), ids)
        if schema.entity
        else ids
    )


def _wrong(
    rows: pd.DataFrame, schema: Schema, predictions: Sequence[np.ndarray], truth: Mapping
) -> np.ndarray:
    """Quality outcomes (rows, models): 1 is wrong; NaN without a label, or where a row is not
    counted.
    """
    outcome = np.full((len(rows), len(predictions)), np.nan)
    ids, labels = (
        rows[schema.id].astype(str).to_numpy(),
        rows[schema.label].astype(object).to_numpy(),
    )
    for i in np.flatnonzero(rows[schema.label].notna()):
        if outcomes.drawn(ids[i], str(labels[i]), truth):
            outcome[i] = [outcomes.wrong(each[i], str(labels[i]), truth) for each in predictions]
    return outcome
