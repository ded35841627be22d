"""What a year comes to: every answer in the log checked against what was asked and told, and quality by week."""

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

NEAR = 1e-5  # how far an answer may be from what the model says that it names
WEEK = np.timedelta64(7, "D")


@dataclass(frozen=True)
class Told:
    """The year's answers in the order of time, quality by week of what was served and of the first model left alone, and what was checked."""

    by: np.ndarray  # the short name of the model that answered each row
    role: np.ndarray
    days: np.ndarray
    task: str
    starts: np.ndarray
    served: dict[str, np.ndarray]
    never: dict[str, np.ndarray]
    checks: dict[str, int | float]
    journals: list[RolloutLog]
    names: dict[str, str]  # the version of each released model, by its short name
    record: dict  # what `modelkeep history` says

    def gain(self, metric: str) -> frontier.Interval:
        """By how much what was served is better than never updating, by week on average."""
        block = min(4, len(self.starts))
        drawn = frontier.bootstrap_weeks(len(self.starts), block, 2000, 0)
        return frontier.interval(frontier.gains(metric, self.served[metric], self.never[metric]), drawn)  # fmt: skip


def tell(root: Path, table: pd.DataFrame, asked: Mapping, seen, first: str) -> Told:
    """Read the log of the clone at `root` and check it; `seen` is the traffic as its clients saw it, `first` the SHA-256 of the first champion."""
    models = {p.name[:10]: bundle.load(p) for p in sorted((root / "serving" / "bundles").glob("*"))}
    of = models[first[:10]].schema
    with_log = control.open_log(root)
    batches = list(with_log.read(0, log.END))
    with_log.close()
    rows, _ = frames.logged(batches, of)
    raw = pd.concat([b.select(["id", "model", "role", "label"]).to_pandas() for b in batches])
    truth = pd.Series(as_text(table[of.label]).to_numpy(), table[of.id].to_numpy())
    checks = _once(raw, seen) | _same(rows, of, models, seen)
    checks |= _labels(raw, truth, seen) | _history(root, rows, asked, truth, of)
    said = frames.predictions(rows, of)
    role = raw.drop_duplicates("id").set_index("id")["role"].reindex(rows[of.id]).to_numpy()
    rows[of.label] = truth.reindex(rows[of.id]).to_numpy()  # also of those whose label never came
    alone = models[first[:10]].answer(rows)
    starts, week = _weeks(rows[of.time])
    journals = [rollout_log.read(p) for p in sorted((root / "rollouts").glob("*.jsonl"))]
    days = rows[of.time].to_numpy().astype("datetime64[D]")
    quality = [_quality(rows, each, of, week, len(starts)) for each in (said, alone)]
    by = rows[frames.ANSWERED_BY].to_numpy()
    return Told(by, role, days, of.task, starts, *quality, checks, journals, *_record(root))


def _once(raw: pd.DataFrame, seen) -> dict[str, int]:
    """Whether each row that was asked about is in the log exactly once."""
    ids, asked = raw["id"], set(seen.rows[seen.id].iloc[: seen.counts["asked"]])
    return {
        "rows asked": seen.counts["asked"],
        "rows without an answer": seen.counts["failed"],
        "asked and not in the log": len(asked - set(ids)),
        "in the log and not asked": len(set(ids) - asked),
        "in the log twice": int(ids.duplicated().sum()),
    }


def _same(rows: pd.DataFrame, of: Schema, models: Mapping, seen) -> dict[str, int | float]:
    """Whether the log holds what clients were told, and whether that is what the named model says."""
    said, by = frames.predictions(rows, of), rows[frames.ANSWERED_BY].to_numpy()
    told = [seen.given.get(i, ("", [np.nan] * said.shape[1])) for i in rows[of.id]]
    other = np.array([model for model, _ in told]) != by
    other |= np.abs(np.array([answer for _, answer in told]) - said).max(axis=1) > NEAR
    apart = np.zeros(len(rows))
    for name, model in models.items():
        mine = by == name
        apart[mine] = np.abs(model.answer(rows[mine]) - said[mine]).max(axis=1, initial=0)
    return {
        "told other than logged": int(other.sum()),
        "not what the named model says": int((apart > NEAR).sum()),
        "largest difference from the named model": float(apart.max(initial=0)),
    }


def _labels(raw: pd.DataFrame, truth: pd.Series, seen) -> dict[str, int]:
    """Whether the log has the labels that were sent, and no other."""
    known = raw[raw["label"].notna()]
    wrong = known["label"].to_numpy() != truth.reindex(known["id"]).to_numpy()
    return {
        "labels sent": seen.counts["labels"],
        "labels lost": seen.counts["labels"] - len(known),
        "labels other than the truth": int(wrong.sum()),
    }


def _history(root: Path, rows: pd.DataFrame, asked: Mapping, truth: pd.Series, of: Schema) -> dict[str, int]:  # fmt: skip
    """Whether history has each of its rows once, with the true label."""
    parts = [pd.read_parquet(p) for p in sorted((root / HISTORY).glob("*.parquet"))]
    kept = pd.concat(parts, ignore_index=True)
    grown = kept[kept[of.id].isin(rows[of.id])]
    same = as_text(grown[of.label]).to_numpy() == truth.reindex(grown[of.id]).to_numpy()
    return {
        "served rows in history": len(grown),
        "in history twice": int(kept[of.id].duplicated().sum()),
        "in history with another label": int((~same).sum()),
    }


def _weeks(times: pd.Series) -> tuple[np.ndarray, np.ndarray]:
    """The first days of the whole weeks, and each row's week."""
    days = times.to_numpy().astype("datetime64[D]")
    whole = int((days.max() + 1 - days.min()) / WEEK)
    return days.min() + WEEK * np.arange(whole), ((days - days.min()) / WEEK).astype(int)


def _quality(rows: pd.DataFrame, said: np.ndarray, of: Schema, week: np.ndarray, weeks: int) -> dict[str, np.ndarray]:  # fmt: skip
    by_week = [point_in_time.realised(rows[week == w], said[week == w], of) for w in range(weeks)]
    return {m: np.array([each[m] for each in by_week]) for m in metrics.METRICS[of.task]}


def wrong(told: Told) -> dict[str, int]:
    """The checks that must be 0, and are not."""
    counts = ("rows asked", "labels sent", "served rows in history")
    zero = {k: v for k, v in told.checks.items() if k not in counts and isinstance(v, int)}
    return {k: v for k, v in zero.items() if v}


def _record(root: Path) -> tuple[dict[str, str], dict]:
    at = record.read(root)
    names = {record.evidence(t)["hashes"]["bundle"][:10]: v for v, t in at.versions.items()}
    return names, timeline.told(at)
