"""The results of a year: the log compared with requests and responses, and quality by week."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from clone import HISTORY
from modelkeep.backtest import frontier, point_in_time
from modelkeep.data.columns import as_text
from modelkeep.data.schema import Schema
from modelkeep.evaluation import metrics
from modelkeep.predictions import frames, log
from modelkeep.registry import record, timeline
from modelkeep.rollout import control, rollout_log
from modelkeep.rollout.rollout_log import RolloutLog
from modelkeep.training import bundle

NEAR = 1e-5  # tolerance between a logged prediction and its model's own
WEEK = np.timedelta64(7, "D")


@dataclass(frozen=True)
class Results:
    """The year's predictions in order of time, weekly quality served and without updates, and
    checks.
    """

    by: np.ndarray  # the short name of each row's model
    role: np.ndarray
    days: np.ndarray
    task: str
    starts: np.ndarray
    served: dict[str, np.ndarray]
    never: dict[str, np.ndarray]
    checks: dict[str, int | float]
    journals: list[RolloutLog]
    names: dict[str, str]  # the version of each released model, by its short name
    record: dict  # the content of `modelkeep history`

    def gain(self, metric: str) -> frontier.Interval:
        """The mean weekly gain of the served models over never updating."""
        block = min(4, len(self.starts))
        samples = frontier.bootstrap_weeks(len(self.starts), block, 2000, 0)
        return frontier.interval(
            frontier.gains(metric, self.served[metric], self.never[metric]), samples
        )


def evaluate(root: Path, table: pd.DataFrame, preparing: Mapping, traffic, first: str) -> Results:
    """Read and check the log of the clone at `root`.

    `traffic`: requests and responses of the clients. `first`: SHA-256 of the first champion.
    """
    models = {p.name[:10]: bundle.load(p) for p in sorted((root / "serving" / "bundles").glob("*"))}
    schema = models[first[:10]].schema
    with_log = control.open_log(root)
    batches = list(with_log.read(0, log.END))
    with_log.close()
    rows = frames.logged(batches, schema).rows
    raw = pd.concat([b.select(["id", "model", "role", "label"]).to_pandas() for b in batches])
    truth = pd.Series(as_text(table[schema.label]).to_numpy(), table[schema.id].to_numpy())
    checks = _once(raw, traffic) | _same(rows, schema, models, traffic)
    checks |= _labels(raw, truth, traffic) | _history(root, rows, preparing, truth, schema)
    predictions = frames.predictions(rows, schema)
    role = raw.drop_duplicates("id").set_index("id")["role"].reindex(rows[schema.id]).to_numpy()
    # also labels that were never sent
    rows[schema.label] = truth.reindex(rows[schema.id]).to_numpy()
    alone = models[first[:10]].answer(rows)
    starts, week = _weeks(rows[schema.time])
    journals = [rollout_log.read(p) for p in sorted((root / "rollouts").glob("*.jsonl"))]
    days = rows[schema.time].to_numpy().astype("datetime64[D]")
    quality = [_quality(rows, each, schema, week, len(starts)) for each in (predictions, alone)]
    by = rows[frames.ANSWERED_BY].to_numpy()
    return Results(by, role, days, schema.task, starts, *quality, checks, journals, *_record(root))


def _once(raw: pd.DataFrame, traffic) -> dict[str, int]:
    """Whether each requested row is in the log exactly once."""
    ids, requested = raw["id"], set(traffic.rows[traffic.id].iloc[: traffic.counts["requested"]])
    return {
        "rows requested": traffic.counts["requested"],
        "rows without a prediction": traffic.counts["failed"],
        "requested and not in the log": len(requested - set(ids)),
        "in the log and not requested": len(set(ids) - requested),
        "in the log twice": int(ids.duplicated().sum()),
    }


def _same(rows: pd.DataFrame, schema: Schema, models: Mapping, traffic) -> dict[str, int | float]:
    """Whether the log equals the responses, and the predictions of the model that it names."""
    predictions, by = frames.predictions(rows, schema), rows[frames.ANSWERED_BY].to_numpy()
    responses = [
        traffic.responses.get(i, ("", [np.nan] * predictions.shape[1])) for i in rows[schema.id]
    ]
    other = np.array([model for model, _ in responses]) != by
    other |= np.abs(np.array([answer for _, answer in responses]) - predictions).max(axis=1) > NEAR
    apart = np.zeros(len(rows))
    for name, model in models.items():
        mine = by == name
        apart[mine] = np.abs(model.answer(rows[mine]) - predictions[mine]).max(axis=1, initial=0)
    return {
        "response differs from the log": int(other.sum()),
        "differs from the named model": int((apart > NEAR).sum()),
        "largest difference from the named model": float(apart.max(initial=0)),
    }


def _labels(raw: pd.DataFrame, truth: pd.Series, traffic) -> dict[str, int]:
    """Whether the log has the labels that were sent, and no other."""
    known = raw[raw["label"].notna()]
    wrong = known["label"].to_numpy() != truth.reindex(known["id"]).to_numpy()
    return {
        "labels sent": traffic.counts["labels"],
        "labels lost": traffic.counts["labels"] - len(known),
        "labels unlike the table": int(wrong.sum()),
    }


def _history(
    root: Path, rows: pd.DataFrame, preparing: Mapping, truth: pd.Series, schema: Schema
) -> dict[str, int]:
    """Whether history has each of its rows once, with the true label."""
    parts = [pd.read_parquet(p) for p in sorted((root / HISTORY).glob("*.parquet"))]
    kept = pd.concat(parts, ignore_index=True)
    grown = kept[kept[schema.id].isin(rows[schema.id])]
    same = as_text(grown[schema.label]).to_numpy() == truth.reindex(grown[schema.id]).to_numpy()
    return {
        "served rows in history": len(grown),
        "in history twice": int(kept[schema.id].duplicated().sum()),
        "in history with another label": int((~same).sum()),
    }


def _weeks(times: pd.Series) -> tuple[np.ndarray, np.ndarray]:
    """The first days of the whole weeks, and each row's week."""
    days = times.to_numpy().astype("datetime64[D]")
    whole = int((days.max() + 1 - days.min()) / WEEK)
    return days.min() + WEEK * np.arange(whole), ((days - days.min()) / WEEK).astype(int)


def _quality(
    rows: pd.DataFrame, predictions: np.ndarray, schema: Schema, week: np.ndarray, weeks: int
) -> dict[str, np.ndarray]:
    by_week = [
        point_in_time.realised(rows[week == w], predictions[week == w], schema)
        for w in range(weeks)
    ]
    return {m: np.array([each[m] for each in by_week]) for m in metrics.METRICS[schema.task]}


def wrong(results: Results) -> dict[str, int]:
    """The checks that must be 0, and are not."""
    counts = ("rows requested", "labels sent", "served rows in history")
    zero = {k: v for k, v in results.checks.items() if k not in counts and isinstance(v, int)}
    return {k: v for k, v in zero.items() if v}


def _record(root: Path) -> tuple[dict[str, str], dict]:
    at = record.read(root)
    names = {record.evidence(t)["hashes"]["bundle"][:10]: v for v, t in at.versions.items()}
    return names, timeline.history(at)
