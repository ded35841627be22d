"""Watched slices: the quality of each by window, judged with one rate of false alarms over all."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from modelkeep.core.markup import significant
from modelkeep.data.schema import Schema
from modelkeep.monitoring import decisions
from modelkeep.monitoring.windows import Window, cut, quality
from modelkeep.training import baseline


@dataclass(frozen=True)
class WatchedSlice:
    """The windows of a slice, and the sum of evidence that its quality has declined."""

    name: str
    windows: tuple[Window, ...]
    path: np.ndarray

    @property
    def now(self) -> tuple[Window, ...]:
        """The collected windows, oldest first."""
        return tuple(w for w in self.windows if not w.past)

    @property
    def evidence(self) -> float:
        """The newest sum; NaN while too few days have labels."""
        return float(self.path[-1]) if len(self.path) else np.nan


@dataclass(frozen=True)
class Watched:
    """All slices, and the sum of evidence at which one of them has declined."""

    slices: tuple[WatchedSlice, ...]
    limit: float

    @property
    def declined(self) -> tuple[WatchedSlice, ...]:
        """The slices whose evidence has reached the limit in some window."""
        return tuple(each for each in self.slices if (each.path >= self.limit).any())

    @property
    def reasons(self) -> tuple[str, ...]:
        """A sentence for each slice that has declined."""
        found = []
        for each in self.declined:
            at = int(np.argmax(each.path >= self.limit))
            found.append(
                f"quality has declined in the slice {each.name}: e-value "
                f"{significant(float(each.path[at]))} (alert at {significant(self.limit)}, for "
                f"{len(self.slices)} slices together), in the window from {each.now[at].start}"
            )
        return tuple(found)


def watch(
    out_of_fold: pd.DataFrame,
    log: pd.DataFrame,
    schema: Schema,
    named: Sequence[str],
    *,
    window_days: int,
    window_rows: int,
    min_labels: int,
    false_alarms_per_year: float,
    seed: int,
    permutations: int = 1999,
    **others: float,
) -> Watched:
    """Judge each slice of `named` columns as `decisions.analyze` judges all rows.

    Slices are those of the gate (`baseline.slices`). Together they have half of
    `false_alarms_per_year`, beside what both detectors have. `others` are not used.
    """
    found = []
    for column, value in baseline.slice_values(out_of_fold, schema, named):
        past, now = (
            cut(rows[(rows[column] == value).to_numpy()], schema, window_days, window_rows)
            for rows in (out_of_fold, log)
        )
        judged = quality(schema, past, now, min_labels)
        e = decisions.surprise(judged, permutations, seed)[len(judged) - len(now) :]
        found.append(WatchedSlice(f"{column} = {value}", tuple(judged), decisions.evidence(e)))
    budget = false_alarms_per_year / 2 / max(len(found), 1)
    return Watched(tuple(found), decisions.YEAR_DAYS / window_days / budget)
