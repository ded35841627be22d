"""Point-in-time history: the rows and labels known at a moment, and the weeks that follow."""

import json
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache, partial
from hashlib import sha256
from types import ModuleType

import numpy as np
import pandas as pd
from sklearn.pipeline import Pipeline
from threadpoolctl import ThreadpoolController, threadpool_limits

from modelkeep.backtest import cache
from modelkeep.backtest.cache import ResultCache
from modelkeep.core.errors import ModelkeepError
from modelkeep.data import schema as schemas
from modelkeep.data import splits
from modelkeep.data.columns import as_times
from modelkeep.data.schema import Schema
from modelkeep.data.splits import Prepared
from modelkeep.evaluation import metrics
from modelkeep.training import bundle, custom, pipelines, validation
from modelkeep.training import costs as costing

WEEK, DAY = np.timedelta64(7, "D"), np.timedelta64(1, "D")
THREADS = 2
# parameters of train that make no other pipeline
NO_PARTS = ("folds", "withhold", "recalibrate", "costs")
REMEMBERED = 3  # models whose training rows are held in memory


class HistoryError(ModelkeepError, ValueError):
    """A history that cannot be replayed."""


@dataclass(frozen=True)
class Model:
    """A model of the backtest: trained when `week` began, without the newest `held` days."""

    week: int
    history_days: float
    held: int
    schema: Schema
    rows: int
    seconds: float  # of computing, when it was trained
    name: str  # hash of code, parameters and rows
    read: Callable[[], Pipeline] = field(repr=False, compare=False)

    @cached_property
    def pipeline(self) -> Pipeline:
        """The fitted pipeline, read on first use."""
        return self.read()

    @property
    def key(self) -> tuple[int, float, int]:
        """Week, days of history, days withheld: the same key gives the same model."""
        return self.week, self.history_days, self.held


@dataclass
class History:
    """A labelled table in order of time, and the models trained on it.

    No method shows a row before its time or a label before it arrived.

    `preparing` and `learning`: parameters of prepare and train. `clock`: seconds of computing.
    `results`: models and their metrics, kept for later runs.
    """

    table: pd.DataFrame
    preparing: Mapping
    learning: Mapping
    start: str
    end: str = ""
    label_delay_days: float = 0
    results: ResultCache = field(default_factory=ResultCache)
    clock: Callable[[], float] = time.thread_time
    code: ModuleType | None = None  # of lib/pipeline.py
    _models: dict[tuple, Model] = field(default_factory=dict)
    _scores: dict[tuple, dict[str, float]] = field(default_factory=dict)
    _proofs: dict[tuple, tuple[np.ndarray, pd.DataFrame]] = field(default_factory=dict)
    _cleaned: tuple[int, list] = (-1, [])
    _out_of_fold: dict[tuple, pd.DataFrame] = field(default_factory=dict)  # of one model

    def __post_init__(self) -> None:
        if not (name := self.preparing["time_column"]):
            raise HistoryError(
                "time_column: a backtest replays time, and the rows have none; set it in "
                "params/prepare.yaml"
            )
        times, _ = as_times(self.table[name])
        order = np.argsort(times.to_numpy(), kind="stable")[: int(times.notna().sum())]
        self.table = self.table.iloc[order].reset_index(drop=True)
        self._times = times.to_numpy()[order]
        self.starts = _weeks(self._times, self.start, self.end)

    def known(self, week: int, history_days: float, test_days: int) -> Prepared:
        """The prepared rows of `prepare`, had it run when a week began."""
        before = self.table.iloc[: np.searchsorted(self._times, self.starts[week])]
        stated = {"as_of": str(self.starts[week]), "label_delay_days": self.label_delay_days}
        stated |= {"history_days": history_days, "test_days": test_days}
        return splits.prepare(before, **{**self.preparing, **stated})

    def learn(self, week: int, history_days: float = 0, held: int = 0) -> Model:
        """The model of a training run when a week began; each is trained once."""
        key = (week, history_days, held)
        if key not in self._models:
            start = self.starts[week]
            rows = self.content(self._times[0], start)
            name = cache.name(self.made_of, str(start), history_days, held, rows)
            self._models[key] = self._recalled(key, name) or self._trained(key, name)
        return self._models[key]

    def _recalled(self, key: tuple, name: str) -> Model | None:
        head, _, pipeline = self.results.get(name).partition(b"\n")
        if not head:
            return None
        made = json.loads(head)
        schema = schemas.from_json(made["schema"])
        return Model(
            *key, schema, made["rows"], made["seconds"], name, partial(bundle.undump, pipeline)
        )

    def _trained(self, key: tuple, name: str) -> Model:
        began = self.clock()
        rows, test, schema = self.learned_from(*key)
        fitted = pipelines.fit(self.unfitted(schema), rows, schema)
        if key[2]:
            self._keep(key, rows, test, schema)
        made = {"rows": len(rows), "seconds": self.clock() - began}
        if self.results.folder:
            head = json.dumps({**made, "schema": schemas.to_json(schema)}).encode()
            self.results.put(name, head + b"\n" + bundle.dump(fitted))
        return Model(*key, schema, **made, name=name, read=lambda: fitted)

    @property
    def spent(self) -> dict[tuple, float]:
        """Seconds of computing by model, of the time when it was trained."""
        return {key: model.seconds for key, model in self._models.items()}

    @cached_property
    def made_of(self) -> list:
        """The inputs of every result: code, columns, parameters."""
        columns = self.table.dtypes.astype(str).to_dict()
        own = self.code.__name__ if self.code else ""
        return [cache.code(), own, columns, self.preparing, self.learning, self.label_delay_days]

    @cached_property
    def _hashes(self) -> np.ndarray:
        return pd.util.hash_pandas_object(self.table, index=False).to_numpy()

    def content(self, first: np.datetime64 | None = None, last: np.datetime64 | None = None) -> str:
        """One hash over the rows from `first` to `last`, or over all."""
        if first is None:
            return sha256(self._hashes.tobytes()).hexdigest()
        inside = slice(*np.searchsorted(self._times, [first, last]))
        return sha256(self._hashes[inside].tobytes()).hexdigest()

    def learned_from(
        self, week: int, history_days: float, held: int
    ) -> tuple[pd.DataFrame, pd.DataFrame, Schema]:
        """Training rows, withheld rows and schema; with `held` 0 the newest day is for training,
        too.
        """
        parts = self.known(week, history_days, held or 1)
        if held:
            return parts.train, parts.test, parts.schema
        both = pd.concat([parts.train, parts.test], ignore_index=True)
        return both, parts.test.iloc[:0], parts.schema

    def out_of_fold(self, model: Model) -> pd.DataFrame:
        """The rows of a model's cross-validation with out-of-fold predictions, as in `train`."""
        if model.key not in self._out_of_fold:
            rows, _, schema = self.learned_from(*model.key)
            blocks, folds = splits.blocks(rows, schema), self.learning["folds"]
            tried = pipelines.cross_validate(self.unfitted(schema), rows, schema, blocks, folds)
            self._out_of_fold = {model.key: validation.out_of_fold(rows, tried, schema)}
        return self._out_of_fold[model.key]

    def trained_on(self, model: Model) -> tuple[np.ndarray, pd.DataFrame]:
        """Hashes of a model's training rows, and its withheld rows; the newest few are in
        memory.
        """
        if model.key not in self._proofs:
            self._keep(model.key, *self.learned_from(*model.key))
        self._proofs[model.key] = self._proofs.pop(model.key)  # the newest used comes last
        return self._proofs[model.key]

    def _keep(self, key: tuple, rows: pd.DataFrame, test: pd.DataFrame, schema: Schema) -> None:
        self._proofs[key] = (bundle.row_hashes(rows, schema), test)
        for oldest in list(self._proofs)[:-REMEMBERED]:
            del self._proofs[oldest]

    def learn_ahead(self, keys: Iterable[tuple[int, float, int]]) -> None:
        """Train models that the replay needs, two at a time."""
        # a limit of its own in each thread would lift the other's when it ends
        with threadpool_limits(1), ThreadPoolExecutor(THREADS) as workers:
            list(workers.map(lambda key: self.learn(*key), dict.fromkeys(keys)))

    def unfitted(self, schema: Schema) -> Pipeline:
        """An unfitted pipeline by the parameters of train."""
        parameters = {k: v for k, v in self.learning.items() if k not in NO_PARTS}
        return custom.made(self.code, schema, parameters)

    def rows(self, week: int, schema: Schema) -> pd.DataFrame:
        """The rows of a week, clean to a model's schema."""
        if self._cleaned[0] != week:
            self._cleaned = (week, [])
        schema = _as_cleaned(schema)
        for known, rows in self._cleaned[1]:
            if known == schema:
                return rows
        first, last = self.starts[week], self.starts[week] + WEEK
        raw = self.table.iloc[slice(*np.searchsorted(self._times, [first, last]))]
        rows = splits.window(raw, schema, str(first), str(last)).rows
        self._cleaned[1].append((schema, rows))
        return rows

    def predicted(self, model: Model, week: int) -> tuple[pd.DataFrame, np.ndarray]:
        """The rows of a week and a model's predictions."""
        rows = self.rows(week, model.schema)
        return rows, predictions(model, rows)

    def quality(self, model: Model, week: int) -> dict[str, float]:
        """A model's metrics in a week, by all labels of the table."""
        if (key := (model.key, week)) not in self._scores:
            start = self.starts[week]
            parts = [model.name, str(start), self.content(start, start + WEEK)]
            stated = self.learning.get("costs")
            name = cache.name(*parts, *([json.dumps(stated, sort_keys=True)] if stated else []))
            if not (content := self.results.get(name)):
                scores = self.realised(*self.predicted(model, week), model.schema)
                content = json.dumps(scores).encode()
                self.results.put(name, content)
            self._scores[key] = json.loads(content)
        return self._scores[key]

    def realised(
        self, rows: pd.DataFrame, predictions: np.ndarray, schema: Schema
    ) -> dict[str, float]:
        """Each metric over the labelled rows, and what one costs where costs are stated.

        The rule is that of the costs alone: probabilities are taken as they are.
        """
        found, stated = realised(rows, predictions, schema), self.costs
        if stated is None:
            return found
        labelled = rows[schema.label].notna().to_numpy()
        if not labelled.any():
            return found | {"cost": np.nan}
        rows, rule = rows[labelled], costing.alone(stated)
        y, weights = pipelines.outcome(rows, schema), costing.row_weights(rows, stated.column)
        spent = costing.per_row(stated, rule, y, predictions[labelled], weights)
        return found | {"cost": float(spent.mean())}

    @cached_property
    def costs(self) -> costing.Costs | None:
        """What errors and a retrain cost (params/train.yaml); None where it is not stated."""
        stated = self.learning.get("costs")
        return costing.read(stated, self.learn(0).schema.classes) if stated else None

    def spent_beside(self, schema: Schema) -> Callable | None:
        """What the harm gate counts in money (`maintenance.Spent`); None without costs."""
        if self.costs is None:
            return None
        rule = costing.alone(self.costs)
        return costing.spending(self.costs, rule, rule, schema)


def _as_cleaned(schema: Schema) -> Schema:
    """The schema's part that cleaning depends on: categories only where unseen ones are refused."""
    columns = (c if c.unseen == "reject" else replace(c, categories=()) for c in schema.columns)
    return replace(schema, origin={}, ignored={}, columns=tuple(columns))


@lru_cache(maxsize=1)
def _threads() -> ThreadpoolController:
    return ThreadpoolController()  # looks through all loaded libraries: 4 ms, at each prediction


def predictions(model: Model, rows: pd.DataFrame) -> np.ndarray:
    """A model's predictions; an empty array for no rows."""
    if rows.empty:
        return np.zeros((0, len(model.schema.classes)) if model.schema.classes else 0)
    # boosting waits for its second thread on each of its trees
    with _threads().limit(limits=1):
        return pipelines.predict(model.pipeline, rows, model.schema)


def realised(rows: pd.DataFrame, predictions: np.ndarray, schema: Schema) -> dict[str, float]:
    """Each metric of the task over the labelled rows; NaN where there is none."""
    labelled = rows[schema.label].notna().to_numpy()
    if not labelled.any():
        return dict.fromkeys(metrics.METRICS[schema.task], np.nan)
    y = pipelines.outcome(rows[labelled], schema)
    values = metrics.per_row(schema.task, y, predictions[labelled])
    return {name: float(np.mean(v)) for name, v in values.items()}


def _weeks(times: np.ndarray, start: str, end: str) -> np.ndarray:
    moments, _ = as_times(pd.Series([start, end or str(times[-1].astype("datetime64[D]") + DAY)]))
    if moments.isna().any():
        raise HistoryError(
            f"start, end: {start!r} and {end!r} must be dates (ISO 8601), as 2013-04-01"
        )
    first, last = moments.to_numpy().astype("datetime64[D]")
    weeks = int((min(last, times[-1].astype("datetime64[D]") + DAY) - first) / WEEK)
    if weeks < 2 or first <= times[0]:
        raise HistoryError(
            f"start: from {first} to {last} there are {max(weeks, 0)} whole weeks to replay, and "
            "the rows are of "
            f"{times[0].astype('datetime64[D]')} to {times[-1].astype('datetime64[D]')}; two are "
            "needed, and rows before them"
        )
    return first + WEEK * np.arange(weeks)
