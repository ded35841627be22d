"""What predictions rest on, by window: the mean absolute Shapley value of each column over time.

A column whose weight has changed is noted, with one rate of false alarms over all columns. It never
changes what to do: what predictions rest on moves with the inputs, also where the model is right.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from modelkeep.core.markup import number, significant
from modelkeep.data import splits
from modelkeep.evaluation import drift
from modelkeep.monitoring import decisions
from modelkeep.monitoring.windows import cut
from modelkeep.training.bundle import Bundle
from modelkeep.training.explain import Explainer, ExplainError

ROWS = {"trees": 140, "sampled": 28}  # of a window that are explained; a row of others costs more
PAST = 6  # newest windows of cross-validation that are compared with


@dataclass(frozen=True)
class Attribution:
    """Mean absolute Shapley values (windows, columns) of the collected windows, in `scale`.

    `usual` (columns,) are those of cross-validation; `paths` (windows, columns) sums of evidence
    that a column's weight is another than before, and `limit` the sum that is noted.
    """

    starts: tuple[str, ...]
    columns: tuple[str, ...]
    means: np.ndarray
    usual: np.ndarray
    paths: np.ndarray
    limit: float
    scale: str
    why: str = ""  # why nothing could be explained

    @property
    def notes(self) -> tuple[str, ...]:
        """A sentence for each column whose weight has changed."""
        found = []
        for name in self.changed:
            place = self.columns.index(name)
            value = significant(float(self.paths[:, place].max()))
            found.append(
                f"noted: what predictions rest on {name} has changed, {number(self.usual[place])} "
                f"before and {number(self.means[-1, place])} in the newest window (e-value {value})"
            )
        return tuple(found)

    @property
    def changed(self) -> list[str]:
        """The columns whose weight has changed in some window."""
        return [
            c for c, p in zip(self.columns, self.paths.T, strict=True) if _reached(p, self.limit)
        ]


def attribute(
    served: Bundle,
    log: pd.DataFrame,
    *,
    window_days: int,
    window_rows: int,
    false_alarms_per_year: float,
    seed: int,
    permutations: int = 499,
    **others: float,
) -> Attribution:
    """Explain a sample of each window's rows, drawn alike from its days. `others` are not used."""
    nothing = np.zeros((0, 0))
    try:
        explainer = Explainer(served, seed=seed)
    except ExplainError as error:
        return Attribution((), (), nothing, nothing, nothing, np.inf, "", str(error))
    size, schema = ROWS[explainer.kind], served.schema
    past, now = (cut(rows, schema, window_days, window_rows) for rows in (served.out_of_fold, log))
    past = past[-PAST:]
    random, scale, parts = np.random.default_rng(seed), "", []
    for _, rows in [*past, *now]:
        drawn = sample(rows, splits.blocks(rows, schema), size, random)
        found = explainer(drawn)
        scale, values = found.scale, np.abs(found.values)
        values = values if values.ndim == 2 else values.mean(axis=2)
        parts.append(_by_day(values, splits.blocks(drawn, schema)))
    means = np.array([np.average(day, axis=0, weights=rows) for day, rows in parts])
    paths = _paths(parts, len(past), permutations, seed)
    budget = false_alarms_per_year / 2 / max(len(explainer.names), 1)
    usual = means[: len(past)].mean(axis=0) if past else np.full(len(explainer.names), np.nan)
    limit = decisions.YEAR_DAYS / window_days / budget
    starts = tuple(start for start, _ in now)
    return Attribution(starts, explainer.names, means[len(past) :], usual, paths, limit, scale)


def sample(
    rows: pd.DataFrame, blocks: np.ndarray, size: int, random: np.random.Generator
) -> pd.DataFrame:
    """Up to `size` rows, as many of each block as it has room for."""
    order = random.permutation(len(rows))
    place = pd.Series(blocks[order]).groupby(blocks[order]).cumcount().to_numpy()
    return rows.iloc[np.sort(order[np.argsort(place, kind="stable")[:size]])]


def _by_day(values: np.ndarray, blocks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The mean of each block (blocks, columns), and its rows."""
    _, place = np.unique(blocks, return_inverse=True)
    rows = np.bincount(place)
    sums = np.stack([np.bincount(place, each) for each in values.T], axis=1)
    return sums / rows[:, None], rows


def _paths(parts: Sequence[tuple], past: int, permutations: int, seed: int) -> np.ndarray:
    """The sum of evidence of each column after each collected window (windows, columns)."""
    e = [_evidence(parts[: i + 1], permutations, [seed, i]) for i in range(past, len(parts))]
    columns = parts[0][0].shape[1] if parts else 0
    if not e:
        return np.zeros((0, columns))
    return np.stack([decisions.evidence(each) for each in np.array(e).T], axis=1)


def _evidence(parts: Sequence[tuple], permutations: int, seed: list[int]) -> np.ndarray:
    """The e-value of each column that the last window differs from all before, by permuted days."""
    days, rows = (np.concatenate(each) for each in zip(*parts, strict=True))
    new = len(parts[-1][1])
    if len(rows) < drift.LEAST_BLOCKS or new == len(rows):
        return np.full(days.shape[1], np.nan)
    taken = decisions.permuted(len(rows), new, permutations, np.random.default_rng(seed))
    n, all_rows = taken @ rows, rows.sum()
    sums, total = taken @ (days * rows[:, None]), (days * rows[:, None]).sum(axis=0)
    apart = np.abs(sums / n[:, None] - (total - sums) / (all_rows - n)[:, None])
    p = (apart >= apart[0] * (1 - 1e-9)).mean(axis=0)
    return np.array([drift.evalue(float(each)) for each in p])


def _reached(path: np.ndarray, limit: float) -> bool:
    return bool((path >= limit).any())
