"""The maintenance policy: what decides about a refit, in a backtest and in an unattended update.

An update asks five questions, in this order (docs/backtest.md has the error rates):

1. `check_data`, before training: label guard and column guard; held data train nothing, at most
   `max_holds` updates in a row.
2. `check_candidate`, after training on everything known: the harm gate.
3. `risk`: does the candidate begin as a canary (`canary_share` for `canary_days`) or at once?
4. `reverse_shadow`, while the old champion predicts silently: is the new one taken back?
5. `schedule`, over past updates: does retraining itself harm, so that it is to be done less often?

What past updates measured is a `Record`; each of these functions returns what it measured, and
`Record` keeps it. All functions are pure: rows, predictions and numbers in, a decision out. "Rows"
are cleaned labelled rows of one schema, in the order of time.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import numpy as np
import pandas as pd

from modelkeep.core import files, parameters
from modelkeep.core.errors import ModelkeepError
from modelkeep.data import splits
from modelkeep.data.schema import Schema
from modelkeep.evaluation import comparison, guards, metrics
from modelkeep.evaluation.guards import Guard
from modelkeep.predictions import frames
from modelkeep.training import pipelines

NEW_DAYS, GATE_DAYS = 7, 28  # of the newest labelled rows: what guards look at, and the harm gate
GAP_DAYS = 14  # the column guard's reference ended so long before the end of the newest rows
ALPHA = 0.05  # one-sided error rate of each limit of the harm gate
RECENT = 52  # updates that a record keeps
RECORD = "models/maintenance.json"  # of past updates, in Git beside models/champion.json
Predict = Callable[[pd.DataFrame], np.ndarray]
# rows, predictions of champion and candidate -> what each row costs by either
Spent = Callable[[pd.DataFrame, np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]


class MaintenanceError(ModelkeepError, ValueError):
    """Rules or a record that no update can go by."""


@dataclass(frozen=True)
class Rules:
    """What params/guards.yaml holds; each line there says what it means."""

    label_sds: float = 4.0
    column_times: float = 1.5
    harm_loss: float = 0.05
    harm_auc: float = 0.02
    max_holds: int = 2
    canary_times: float = 4.0
    canary_share: float = 0.1
    canary_days: float = 2.0
    shadow_days: float = 7.0
    shadow_alpha: float = 0.01
    slow_down: float = 2.0

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            top = {"canary_share": 1.0, "shadow_alpha": 0.5}.get(name, np.inf)
            low = 0.0 if name in ("max_holds", "canary_days", "shadow_days") else 1e-9
            low = 1.0 if name == "slow_down" else low
            if not low <= value <= top:
                least = "at least 1" if name == "slow_down" else "above 0"
                raise MaintenanceError(
                    f"params/guards.yaml: {name} is {value!r}; it must be {least}"
                    f"{f' and at most {top:g}' if np.isfinite(top) else ''}"
                )


def rules(root: Path) -> Rules:
    """The rules of params/guards.yaml, checked by name, type and range."""
    return Rules(**parameters.program(root, "guards", Rules, {}))


@dataclass(frozen=True)
class Record:
    """What the guards of past updates measured, oldest first; plain data, kept as JSON.

    `gaps` of labels (one tuple an update), `divergences` a week of the champion's age,
    `differences` of daily loss between a refit and its predecessor, `weekly` the same as one mean
    an update (recipe guard), `holds` in a row until now.
    """

    gaps: tuple[tuple[float, ...], ...] = ()
    divergences: tuple[float, ...] = ()
    differences: tuple[float, ...] = ()
    weekly: tuple[float, ...] = ()
    holds: int = 0

    def with_data(self, checked: "Checked") -> "Record":
        """The record after `check_data`."""
        gaps = (*self.gaps, checked.gap)[-RECENT:] if checked.gap else self.gaps
        return replace(self, gaps=gaps, holds=self.holds + checked.hold)

    def with_candidate(self, tried: "Tried", divergence: float, weeks: float) -> "Record":
        """The record after `check_candidate` and `risk`; `weeks` is the champion's age."""
        if tried.guard.held:
            return replace(self, holds=self.holds + tried.earlier)
        each = divergence / max(weeks, 1.0)
        return replace(self, divergences=(*self.divergences, each)[-RECENT:], holds=0)

    def after(self, evidence: Mapping) -> "Record":
        """The record after a verdict of `evaluate` on a refit; any other leaves it as it is."""
        if not evidence.get("refit") or evidence.get("recalibrated"):
            return self
        held = evidence["word"] == "worse"
        guard = Guard("harm gate", np.nan, 1.0, held, evidence["harm"])
        tried = Tried(guard, evidence["earlier"])
        return self.with_candidate(tried, evidence["divergence"], evidence["weeks"])

    def with_differences(self, days: np.ndarray) -> "Record":
        """The record after a reverse shadow of a refit ended; nan where a day had no labels."""
        known = [float(x) for x in days if np.isfinite(x)]
        if not known:
            return self
        kept = (*self.differences, *known)[-7 * RECENT :]
        return replace(
            self, differences=kept, weekly=(*self.weekly, float(np.mean(known)))[-RECENT:]
        )

    def as_dict(self) -> dict:
        """Plain data for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping) -> "Record":
        """What `as_dict` wrote."""
        try:
            lists = {
                k: tuple(map(float, data[k])) for k in ("divergences", "differences", "weekly")
            }
            gaps = tuple(tuple(map(float, gap)) for gap in data["gaps"])
            return cls(gaps=gaps, holds=int(data["holds"]), **lists)
        except (KeyError, TypeError, ValueError) as error:
            raise MaintenanceError(f"not a record of past updates: {error!r}") from error


def read(root: Path) -> Record:
    """The record of this repository, empty before the first update."""
    path = root / RECORD
    try:
        return Record.from_dict(json.loads(path.read_text())) if path.is_file() else Record()
    except ValueError as error:
        raise MaintenanceError(
            f"{RECORD}: {error}; `git checkout {RECORD}`, or delete it"
        ) from error


def write(root: Path, record: Record) -> None:
    """Keep the record of this repository."""
    files.write_json(root / RECORD, record.as_dict())


def newest(rows: pd.DataFrame, schema: Schema) -> pd.DataFrame:
    """The rows of the newest 28 days, on which the harm gate compares."""
    return rows[_newest(rows, schema, GATE_DAYS)]


@dataclass(frozen=True)
class Checked:
    """What `check_data` says: the guards, the label gap that it measured, and whether to hold."""

    guards: tuple[Guard, ...]
    gap: tuple[float, ...]
    hold: bool  # no candidate this time, and a person must look
    overruled: bool  # a guard held, but `max_holds` updates in a row were held before
    distances: dict[str, float] = field(default_factory=dict)  # of the columns, for later weeks

    @property
    def sentence(self) -> str:
        """Why data are held, or that they are not."""
        held = [g for g in self.guards if g.held]
        if not held:
            return "labels and columns are like those of past weeks"
        text = "; ".join(f"{g.name}: {g.sentence}" for g in held)
        return f"{text}; trained all the same after the holds before" if self.overruled else text


def check_data(
    rows: pd.DataFrame,
    schema: Schema,
    champion: Predict,
    record: Record,
    rules: Rules,
    past_distances: Sequence[Mapping[str, float]] | None = None,
    expected: pd.DataFrame | None = None,
) -> Checked:
    """Judge the newest labelled week before anything learns from it.

    `champion` predicts rows, and must not have learned from those of the newest week (the model of
    an earlier update has not). `past_distances` are those of `column_distances` for earlier weeks;
    without them they are measured on `rows`. `expected` are rows with out-of-fold predictions of
    the champion's training: their weeks, at least four, stand in for past updates while there
    are few.
    """
    newest = rows[_newest(rows, schema, NEW_DAYS)]
    scale = 1.0
    if schema.task == "regression":
        scale = float(np.std(pipelines.outcome(rows, schema))) or 1.0
    y, predictions = pipelines.outcome(newest, schema), champion(newest)
    gap, error = guards.label_gap(schema.task, y, predictions, scale)
    names = schema.classes if schema.task == "multiclass" else (schema.label,)
    past = [x for x in record.gaps if len(x) == len(gap)]
    if len(past) < guards.KNOWN_WINDOWS and expected is not None:
        earlier = earlier_gaps(expected, schema, scale)
        # two or three weeks, and as many that were held, would make a limit that nothing reaches
        past = [*earlier, *past] if len(earlier) >= guards.KNOWN_WINDOWS else past
    past = np.array(past).reshape(-1, len(gap))
    label = guards.label_guard(gap, past, error, names, rules.label_sds)
    past_distances = earlier_distances(rows, schema) if past_distances is None else past_distances
    columns, distances = _columns(rows, schema, past_distances, rules)
    held = label.held or columns.held
    overruled = held and record.holds >= rules.max_holds
    gaps = tuple(map(float, gap))
    return Checked((label, columns), gaps, held and not overruled, overruled, distances)


def earlier_gaps(expected: pd.DataFrame, schema: Schema, scale: float) -> list[np.ndarray]:
    """The label gap of each whole week that cross-validation has predicted, oldest first.

    Each model knew the rows before its fold alone, so these gaps are as wide as those of updates,
    or wider. `scale` as in `guards.label_gap`.
    """
    day, gaps = _days(expected, schema), []
    edges = np.arange(day.max(), day.min() + NEW_DAYS - 2, -NEW_DAYS) if len(day) else ()
    for last in edges[:RECENT]:
        week = expected[(day <= last) & (day > last - NEW_DAYS)]
        if len(week):
            y, predicted = pipelines.outcome(week, schema), frames.predictions(week, schema)
            gaps.append(guards.label_gap(schema.task, y, predicted, scale)[0])
    return gaps[::-1]


def _columns(
    rows: pd.DataFrame, schema: Schema, past: Sequence[Mapping[str, float]], rules: Rules
) -> tuple[Guard, dict[str, float]]:
    measured = column_distances(rows, schema, 0)
    if not measured:
        return Guard("column guard", np.nan, np.nan, False, "columns: too few days to compare"), {}
    names = [*measured]
    distances, noise = np.array([*measured.values()]).T
    before = np.array([[week.get(name, 0.0) for name in names] for week in past])
    guard = guards.column_guard(distances, before, noise, names, rules.column_times)
    return guard, dict(zip(names, distances.tolist(), strict=True))


def column_distances(
    rows: pd.DataFrame, schema: Schema, weeks_ago: int
) -> dict[str, tuple[float, float]]:
    """Each column's distance of one week from the 28 days that ended 14 days before, with its
    noise.

    Empty where the week has no row, or the days before it are fewer than seven.
    """
    day = _days(rows, schema)
    if not len(day):
        return {}
    last = day.max() - NEW_DAYS * weeks_ago  # the week's last day
    edge = last - GAP_DAYS
    inside = (day > last - NEW_DAYS) & (day <= last)
    before = (day <= edge) & (day > edge - GATE_DAYS)
    if not inside.any() or len(np.unique(day[before])) < NEW_DAYS:
        return {}
    new, old = rows[inside], rows[before]
    return {
        c.name: guards.distance(*(_values(part[c.name], c.kind) for part in (old, new)))
        for c in schema.columns
    }


def _values(values: pd.Series, kind: str) -> np.ndarray:
    if kind == "number":
        return values.to_numpy(dtype="float64", na_value=np.nan)
    return values.astype(object).to_numpy()


def earlier_distances(rows: pd.DataFrame, schema: Schema) -> list[dict[str, float]]:
    """The distances of all earlier weeks (at most a year), newest first: of each column by name."""
    weeks = []
    while (each := column_distances(rows, schema, len(weeks) + 1)) and len(weeks) < RECENT:
        weeks.append({name: distance for name, (distance, _) in each.items()})
    return weeks


@dataclass(frozen=True)
class Tried:
    """What `check_candidate` says: the harm gate, held if the candidate must not serve.

    `earlier` if only the earlier window speaks against it: a true change looks so too, hence such a
    refusal counts as a hold, of which there are `max_holds` in a row at most.
    """

    guard: Guard
    earlier: bool
    gains: tuple[comparison.Gain, ...] = ()  # by metric, on the newest days


def check_candidate(
    rows: pd.DataFrame,
    schema: Schema,
    champion: Predict,
    candidate: Predict,
    record: Record,
    rules: Rules,
    spent: Spent | None = None,
    expected: pd.DataFrame | None = None,
) -> Tried:
    """Judge a candidate that has learned from `rows` beside the champion: the harm gate.

    `spent`: where errors have a cost, harm in it counts as harm in a loss does. `expected` as in
    `check_data`: harm is a share of the loss that these rows show, where that of `rows` is smaller
    because the champion has learned from them.
    """
    newest = _newest(rows, schema, GATE_DAYS)
    before = _newest(rows, schema, 2 * GATE_DAYS) & ~newest
    gains = [
        _gains(part, schema, champion(part), candidate(part), rules, spent, expected)
        if len(part)
        else ()
        for part in (rows[newest], rows[before])
    ]
    alone, both = guards.harm_guard(gains[0]), guards.harm_guard(*gains)
    earlier = both.held and not alone.held
    overruled = earlier and record.holds >= rules.max_holds
    return Tried(alone if overruled else both, earlier and not overruled, gains[0])


def check_update(
    rows: pd.DataFrame,
    schema: Schema,
    before: np.ndarray,
    after: np.ndarray,
    rules: Rules,
    spent: Spent | None = None,
) -> Tried:
    """Judge the champion's predictions with a new level beside those `before`, of rows that
    neither has learned from.
    """
    gains = _gains(rows, schema, before, after, rules, spent)
    # a new level leaves the order of rows; that of parts with levels of their own is another one
    gains = tuple(gain for gain in gains if gain.metric != "auc")
    return Tried(guards.harm_guard(gains), False, gains)


def _gains(
    rows: pd.DataFrame,
    schema: Schema,
    theirs: np.ndarray,
    ours: np.ndarray,
    rules: Rules,
    spent: Spent | None,
    expected: pd.DataFrame | None = None,
) -> tuple[comparison.Gain, ...]:
    y, harms = pipelines.outcome(rows, schema), (rules.harm_auc, rules.harm_loss)
    gains = comparison.gains(schema.task, y, ours, theirs)
    margins = comparison.margins(schema.task, y, theirs, *harms)
    if expected is not None and len(expected):
        known = pipelines.outcome(expected, schema), frames.predictions(expected, schema)
        honest = comparison.margins(schema.task, *known, *harms)
        margins = {name: max(margin, honest[name]) for name, margin in margins.items()}
    if spent is not None:
        before, after = spent(rows, theirs, ours)
        gains["cost"] = before - after
        margins["cost"] = rules.harm_loss * float(np.mean(before))
    blocks = splits.blocks(rows, schema)
    return comparison.judge(gains, blocks, margins, ALPHA).gains


def risk(
    rows: pd.DataFrame,
    schema: Schema,
    champion: Predict,
    candidate: Predict,
    weeks: float,
    record: Record,
    rules: Rules,
) -> tuple[Guard, float]:
    """Judge whether a candidate begins as a canary, with the divergence for the record.

    `weeks` is the champion's age: by how much later the candidate knows the world.
    """
    newest = rows[_newest(rows, schema, NEW_DAYS)]
    theirs, ours = champion(newest), candidate(newest)
    scale = 1.0
    if schema.task == "regression":
        scale = float(np.std(pipelines.outcome(newest, schema) - theirs)) or 1.0
    value = guards.divergence(schema.task, theirs, ours, scale)
    past = np.array(record.divergences, float)
    return guards.canary_guard(value, past, weeks, rules.canary_times), value


@dataclass(frozen=True)
class DayDifferences:
    """Mean losses of a new champion less those of the former one, on the same rows.

    `days`, `means` and the means' sampling errors `errors`, each (days,), in order; `loss` is the
    former champion's mean loss of a row.
    """

    days: np.ndarray
    means: np.ndarray
    errors: np.ndarray
    loss: float


def day_differences(
    task: str, days: np.ndarray, y: np.ndarray, new: np.ndarray, old: np.ndarray
) -> DayDifferences:
    """Compare a new champion with the former one by day.

    `days` (rows,), `y` (rows,), predictions (rows, classes) or (rows,): labelled rows only.
    """
    first = metrics.METRICS[task][0]
    ours, theirs = (metrics.losses(task, y, p)[first] for p in (new, old))
    x = ours - theirs
    distinct, index, n = np.unique(days, return_inverse=True, return_counts=True)
    means = np.bincount(index, x) / n
    squares = np.bincount(index, (x - means[index]) ** 2)
    # of the error of a day with one row nothing is known
    errors = np.where(n > 1, np.sqrt(squares / np.maximum(n - 1, 1) / n), np.abs(means))
    return DayDifferences(distinct, means, errors, float(theirs.mean()))


def reverse_shadow(
    means: np.ndarray, errors: np.ndarray, loss: float, record: Record, rules: Rules
) -> Guard:
    """Judge a new champion by the days on which the former one predicted silently beside it.

    `means`, `errors` (days,) are of `day_differences`, nan where no label has come; `loss` is the
    usual mean loss. A day counts for less where twice its sampling error is above the usual
    difference: few rows must not take a model back.
    """
    scale = guards.usual_difference(np.array(record.differences), loss)
    weighted = means * scale / np.maximum(scale, 2 * np.nan_to_num(errors))
    return guards.shadow_guard(weighted, scale, rules.shadow_alpha)


def schedule(record: Record, rules: Rules) -> tuple[float, Guard]:
    """By how many times the schedule is to be slower, and the guard that says why."""
    guard = guards.recipe_guard(np.array(record.weekly))
    return (rules.slow_down if guard.held else 1.0), guard


def _days(rows: pd.DataFrame, schema: Schema) -> np.ndarray:
    """Each row's day; without time a hundredth of the rows stands for a day."""
    if schema.time is None:
        return np.arange(len(rows)) * 100 // max(len(rows), 1)
    return splits.blocks(rows, schema)


def _newest(rows: pd.DataFrame, schema: Schema, days: int) -> np.ndarray:
    day = _days(rows, schema)
    return day > day.max() - days if len(day) else np.zeros(0, bool)
