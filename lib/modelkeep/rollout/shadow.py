"""A shadow beside the champion: both predict the same rows, and are judged once enough days have
labels.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING

import numpy as np

from modelkeep.evaluation import comparison
from modelkeep.predictions.log import PredictionLog
from modelkeep.predictions.records import CHAMPION, SHADOW
from modelkeep.rollout.rollout_log import RolloutLog

if TYPE_CHECKING:
    import pandas as pd


DAY = 86_400_000_000  # microseconds
READ = ["at", "id", "role", "time", "answer", "label", "labelled_at"]


def judge(log: PredictionLog, found: RolloutLog, until: int) -> dict:
    """The gate's `verdict` on a shadow by `until`, with evidence; empty while days are missing."""
    spec, rules = found.spec, found.rules
    wait = round(1e6 * max(rules.label_maturity.values(), default=0.0))
    both = pairs(log, spec.started, until, wait)
    known = labelled(both[both["at"] <= until - wait], spec.truth, wait)
    days = len(np.unique(known["day"])) if len(known) else 0
    facts = {"days": days, "pairs": len(both), "labelled": len(known)}
    facts |= disagreement(both, spec.truth) | _calls(log, spec.started, until, spec.slow_ms)
    if days < comparison.MINIMUM_BLOCKS:
        over = until - spec.started >= rules.longest * 1e6
        word = "insufficient" if over else ""
        sentence = f"{days} days have labels of {comparison.MINIMUM_BLOCKS} that are needed"
        return {"verdict": word, "sentence": sentence, **facts}
    judged = paired(known, spec.truth, rules.alpha)
    sentence = "; ".join(
        f"{g.metric}: gain {g.gain:+.4g} ({g.low:+.4g} to {g.high:+.4g})" for g in judged.gains
    )
    gains = [{k: None if v != v else v for k, v in asdict(g).items()} for g in judged.gains]
    return {"verdict": judged.word, "sentence": sentence, **facts, "gains": gains}


def pairs(log: PredictionLog, start: int, end: int, known: int) -> "pd.DataFrame":
    """Rows that champion and shadow both predicted; `known`: a label may come so many microseconds
    after `end`.
    """
    import pandas as pd

    batches = log.read(start, end, roles=(CHAMPION, SHADOW), known=end + known)
    parts = [batch.select(READ).to_pandas() for batch in batches]
    every = pd.concat(parts) if parts else pd.DataFrame({name: [] for name in READ}, dtype=object)
    for name in ("at", "labelled_at"):
        every[name] = pd.to_datetime(every[name]).astype("datetime64[us]")
    every["day"] = pd.to_datetime(every["time"]).fillna(every["at"]).astype("datetime64[us]")
    every["day"] = every["day"].to_numpy().astype("datetime64[D]")
    every["at"] = every["at"].astype("int64")
    ours = every.loc[every["role"] == SHADOW, ["id", "at", "answer"]]
    theirs = every[every["role"] == CHAMPION]
    both = theirs.merge(ours, on=["id", "at"], suffixes=("", "_shadow"))
    return both.drop_duplicates("id")  # a row that is requested again is no other row


def disagreement(both: "pd.DataFrame", truth: Mapping) -> dict[str, float | None]:
    """The share of rows on which the two disagree: another class, or numbers farther apart than the
    champion's usual error.
    """
    if not len(both):
        return {"disagree": None}
    ours, theirs = _predictions(both["answer_shadow"]), _predictions(both["answer"])
    if "apart" in truth:
        differ = np.abs(ours - theirs)[:, 0] > truth["apart"]
    else:
        differ = ours.argmax(axis=1) != theirs.argmax(axis=1)
    return {"disagree": float(differ.mean())}


def paired(rows: "pd.DataFrame", truth: Mapping, alpha: float) -> comparison.Verdict:
    """The gate's verdict on labelled rows, by the day of the row."""
    task, y, theirs, ours = outcomes(rows, truth)
    margin = comparison.margins(task, y, theirs)
    return comparison.judge(
        comparison.gains(task, y, ours, theirs), rows["day"].to_numpy(), margin, alpha
    )


def outcomes(
    rows: "pd.DataFrame", truth: Mapping
) -> tuple[str, np.ndarray, np.ndarray, np.ndarray]:
    """The task, labels, and the predictions of champion and shadow on labelled rows."""
    theirs, ours = _predictions(rows["answer"]), _predictions(rows["answer_shadow"])
    if "apart" in truth:
        return "regression", rows["label"].to_numpy(dtype=float), theirs[:, 0], ours[:, 0]
    task = "binary" if len(truth["classes"]) == 2 else "multiclass"
    codes = {name: k for k, name in enumerate(truth["classes"])}
    return task, rows["label"].map(codes).to_numpy(int), theirs, ours


def labelled(both: "pd.DataFrame", truth: Mapping, wait: int | None = None) -> "pd.DataFrame":
    """The rows whose label came (within `wait` microseconds), of a class that the models know."""
    known = both["label"].notna()
    if wait is not None:
        known &= both["labelled_at"].astype("int64") - both["at"] <= wait
    return both[known & both["label"].isin(truth["classes"])] if "classes" in truth else both[known]


def _predictions(texts: "pd.Series") -> np.ndarray:
    values = json.loads(b"[" + b",".join(texts) + b"]")
    width = min(map(len, values), default=0)  # some numbers may have an interval, and some none
    return np.array([each[:width] for each in values], dtype=float)


def _calls(log: PredictionLog, start: int, end: int, slow_ms: float) -> dict[str, object]:
    """Errors and latency of both, by role."""
    found: dict[str, object] = {}
    calls = log.calls(start, end)
    for role in (CHAMPION, SHADOW):
        took = np.array([c.took for c in calls if c.role == role]) / 1e3
        failed = sum(len(json.loads(c.failed)) for c in calls if c.role == role)
        middle, high = np.quantile(took, [0.5, 0.99]).tolist() if len(took) else (None, None)
        slow = float((took > slow_ms).mean()) if len(took) else None
        found[role] = {"error": failed, "ms": middle, "ms_99": high, "latency": slow}
    return found
