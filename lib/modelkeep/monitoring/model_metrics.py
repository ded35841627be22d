"""The counts of one served model: rows, predictions, labels; read by the page of metrics."""

import math
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from math import log
from typing import TYPE_CHECKING

import numpy as np

from modelkeep.evaluation import live_quality
from modelkeep.evaluation.live_quality import DaySums
from modelkeep.evaluation.profile import PREDICTION
from modelkeep.monitoring.collectors import SeriesCollector, cumulative
from modelkeep.monitoring.live_bins import LiveBins
from modelkeep.training.engines import decision

if TYPE_CHECKING:
    from modelkeep.training.bundle import Bundle


DAY = 86_400
AGES = {"0": (0, 0), "1-2": (1, 2), "3-7": (3, 7), "8-28": (8, 28)}  # days, both included
OLDEST = 28
WINDOWS = ("1", "3", "8", "29")  # days up to today
SKILL = ("labelled_rows", "lost_gain", "day_variance", "row_variance")
TINY = 1e-15
ROWS, LABELLED = 0, 1
CLASSES, OTHER = 20, "other"
SUMS = {  # what a day holds beside rows and labelled ones, by task
    "binary": ("correct", "log_loss", "positive", "predicted_positive", "true_positive"),
    "multiclass": ("correct", "log_loss"),
    "regression": ("squared_error", "absolute_error", "error", "interval", "covered"),
}


class Cohorts:
    """Predictions of the last 28 days (UTC) and their labels; `cuts`: of the score's bins;
    `operating`: costs and rule of the manifest, where errors have one.
    """

    def __init__(
        self,
        task: str,
        classes: int = 0,
        cuts: Sequence[float] = (),
        operating: Mapping | None = None,
    ) -> None:
        self.task, self.cuts, self.operating = task, cuts, operating
        self.classes = min(classes, CLASSES + 1)
        self.sums = SUMS[task] + (("cost",) if operating else ())
        self.bins = len(cuts) + 1
        self._first = 2 + len(self.sums)
        extra = {"binary": 2 * self.bins, "multiclass": 3 * self.classes}.get(task, 0)
        self._width = self._first + extra
        self.days: dict[int, list[float]] = {}

    def answered(self, at: float, rows: int) -> None:
        """Count predictions that were made at `at`, in seconds since 1970."""
        self._day(at)[ROWS] += rows

    def truth(
        self, at: float, answer: Sequence[float], truth: float, previous: float | None = None
    ) -> None:
        """Count the label (the number of a class, or a value) of a prediction made at `at`.

        A correction comes with the `previous` label, which is taken away.
        """
        day = self._day(at)
        if previous is None:
            day[LABELLED] += 1
        else:
            for place, amount in self._parts(answer, previous):
                day[place] -= amount
        for place, amount in self._parts(answer, truth):
            day[place] += amount

    def by_age(self, now: float) -> list[list[float]]:
        """Return the sums of the days of each age in AGES; days that are too old are forgotten."""
        today = int(now // DAY)
        for day in [d for d in self.days if today - d > OLDEST]:
            del self.days[day]
        sums = []
        for first, last in AGES.values():
            days = [v for d, v in self.days.items() if first <= max(today - d, 0) <= last]
            sums.append([sum(each) for each in zip(*days)] or [0.0] * self._width)
        return sums

    def ranks(self, sums: Sequence[float]) -> tuple[list[float], list[float]]:
        """Return negatives by bin, and positives above the bin and half of those within."""
        positive = sums[self._first : self._first + self.bins]
        above, ranks = sum(positive), []
        for count in positive:
            ranks.append(above - count / 2)
            above -= count
        return list(sums[self._first + self.bins :]), ranks

    def by_class(self, sums: Sequence[float]) -> list[list[float]]:
        """Return labelled rows by label, by predicted class, and by class where both agree."""
        starts = range(self._first, self._width, max(self.classes, 1))
        return [list(sums[start : start + self.classes]) for start in starts]

    def _day(self, at: float) -> list[float]:
        return self.days.setdefault(int(at // DAY), [0.0] * self._width)

    def _parts(self, answer: Sequence[float], truth: float) -> Iterator[tuple[int, float]]:
        if self.task == "regression":
            error = answer[0] - truth
            yield from zip(range(2, 5), (error * error, abs(error), error))
            if len(answer) == 3:  # the number and the ends of its interval
                yield from ((5, 1.0), (6, float(answer[1] <= truth <= answer[2])))
            return
        actual, best = int(truth), max(range(len(answer)), key=answer.__getitem__)
        yield 2, float(best == actual)
        yield 3, -log(min(max(answer[actual], TINY), 1.0))
        if self.operating:
            chosen = decision.decide(self.operating, np.array([answer]))[0]
            yield self._first - 1, self.operating["costs"][actual][chosen]
        if self.task == "binary":
            yield from zip(range(4, 7), (float(actual), float(best), float(actual and best)))
            place = bisect_right(self.cuts, answer[1])
            yield self._first + place + (0 if actual else self.bins), 1.0
        else:
            correct = float(best == actual)
            actual, best = min(actual, CLASSES), min(best, CLASSES)
            yield self._first + actual, 1.0
            yield self._first + self.classes + best, 1.0
            yield self._first + 2 * self.classes + actual, correct


class Skill:
    """What a model gained by day over shuffled labels (evaluation.live_quality), by window."""

    def __init__(self, learned: Mapping[str, float], classes: int = 0) -> None:
        self.learned, self.classes = learned, classes
        self.days: dict[int, DaySums] = {}

    def ground_truth(
        self, at: float, answer: Sequence[float], label: float, previous: float | None = None
    ) -> None:
        """Count a label of a prediction made at `at`; a correction removes the `previous` one."""
        day = self.days.setdefault(int(at // DAY), DaySums(self.learned, self.classes))
        if previous is not None:
            day.add(answer, previous, -1)
        day.add(answer, label)

    def by_window(self, now: float) -> list[tuple[float, ...]]:
        """Return by window: labels, lost gain, and its variances between and within days.

        A window is the days up to today that the names in WINDOWS count.
        """
        today = int(now // DAY)
        self.days = {d: v for d, v in self.days.items() if today - d <= OLDEST}
        gains = {today - d: v.gains() for d, v in self.days.items()}
        rows = []
        for days in map(int, WINDOWS):
            labels = sum(v.labels for d, v in self.days.items() if today - d < days)
            kept = [gain for age, gain in gains.items() if age < days]
            rows.append((labels, *live_quality.evidence(kept, self.learned)))
        return rows


FOLD = 512  # rows that are kept until they are counted together
ERRORS = ("squared_error", "absolute_error")
EXPECTED = {"log_loss": "expected_log_loss_nats", "auc": "expected_auc_ratio"}
EXPECTED |= {name: f"expected_{name}" for name in ERRORS}
COHORT_SUMS = {"log_loss": "cohort_log_loss_nats", "error": "cohort_error", "cost": "cohort_cost"}
COHORT_SUMS |= {name: f"cohort_{name}" for name in ERRORS}


class Served:
    """The counts of one model; `bundle` gives its schema and manifest."""

    def __init__(
        self, version: str, bundle: "Bundle", bins: LiveBins, roles: Sequence[str], now: float
    ) -> None:
        schema = bundle.schema
        self.version, self.task, self.names = version, schema.task, tuple(schema.classes)
        self.classes = min(len(schema.classes), CLASSES + 1)
        self.rows = dict.fromkeys(roles, 0)
        self.loaded = now
        self.bins, self.shows_drift = bins, False
        prediction = {c.name: c for c in self.bins.columns}.get(PREDICTION)
        cuts = prediction.cuts if prediction and self.task == "binary" else ()
        operating = bundle.manifest.get("operating") or {}
        self.costs = {} if operating.get("column") else operating  # labels come without their rows
        self.cohorts = Cohorts(self.task, len(schema.classes), cuts, self.costs)
        self.counts = np.zeros(self.bins.starts[-1], np.int64)
        self.predicted = np.zeros(CLASSES + 1, np.int64)
        self.scores, self.scores_sum = np.zeros(11, np.int64), 0.0
        self._past = bundle.manifest.get("errors")  # of numbers; bundles had none before
        names = ERRORS if self.task == "regression" else ("log_loss", "correct", "positive")
        self.estimated = dict.fromkeys(names, 0.0)
        learned = bundle.manifest.get("live_quality")  # bundles had none before
        self.skill = Skill(learned, len(schema.classes)) if learned else None
        self.intervals = getattr(bundle, "intervals", None)
        self._windows = self.skill.by_window(now) if self.skill else []
        self._ages = self.cohorts.by_age(now)
        self._waiting: list[tuple] = []
        self.rows_waiting = 0

    def answered(
        self,
        role: str,
        numbers: np.ndarray,
        categories: Sequence[Sequence[str | None]],
        answers: np.ndarray,
        at: float,
    ) -> None:
        """Keep rows of one turn; they are counted with others, 512 at once."""
        rows = len(answers)
        if not rows:
            return
        self.rows[role] += rows
        self.cohorts.answered(at, rows)
        self._waiting.append((numbers, categories, answers))
        self.rows_waiting += rows
        if self.rows_waiting >= FOLD:
            self.fold()

    def settle(self, now: float) -> None:
        """Bring all counts up to `now`, for the page."""
        self.fold()
        self._ages = self.cohorts.by_age(now)
        if self.skill:
            self._windows = self.skill.by_window(now)

    def ground_truth(
        self, at: float, answer: Sequence[float], label: float, previous: float | None = None
    ) -> None:
        """Count a label of a prediction made at `at`."""
        self.cohorts.truth(at, answer, label, previous)
        if self.intervals and previous is None:
            self.intervals.observe(answer, label)
        if self.skill:
            self.skill.ground_truth(at, answer, label, previous)

    def fold(self) -> None:
        """Count the rows that wait."""
        if not self._waiting:
            return
        numbers, categories, answers = zip(*self._waiting)
        self._waiting, self.rows_waiting = [], 0
        answers = np.concatenate(answers).astype(np.float64)
        monitored = self._monitored(answers)
        numbers = np.concatenate(numbers)
        columns = [list(chain.from_iterable(parts)) for parts in zip(*categories)]
        if self.task == "multiclass":
            columns.append([self.names[i] for i in monitored.tolist()])
        else:
            numbers = np.column_stack([numbers, monitored])
        self.counts += self.bins.fold(numbers, columns)

    def _monitored(self, answers: np.ndarray) -> np.ndarray:
        """Count predictions; return what is monitored of them: a class, probability or number."""
        if self.task == "regression":
            if self._past:
                places = np.searchsorted(self._past["cuts"], answers.ravel())
                for name in ERRORS:
                    self.estimated[name] += float(np.asarray(self._past[name])[places].sum())
            return answers.ravel()
        chosen, best = answers.argmax(axis=1), answers.max(axis=1)
        self.predicted += np.bincount(np.minimum(chosen, CLASSES), minlength=CLASSES + 1)
        self.estimated["log_loss"] -= float((answers * np.log(np.maximum(answers, TINY))).sum())
        self.estimated["correct"] += float(best.sum())
        if self.task == "binary":
            best = answers[:, 1]
            self.estimated["positive"] += float(best.sum())
        places = np.searchsorted(np.arange(1, 11) / 10, best)
        self.scores += np.bincount(places, minlength=11)
        self.scores_sum += float(best.sum())
        return best if self.task == "binary" else chosen

    def expose(
        self, series: SeriesCollector, expected: Mapping[str, Mapping], load_seconds: float
    ) -> None:
        """Add all series of this model but those of drift and what its role is, at 0."""
        v = {"version": self.version}
        owner = self.version

        def add(key: str, values, labels: Sequence[Mapping[str, str]] = (v,)) -> None:
            series.add(key, values, labels, owner)

        add("rows_total", self.rows.values, [v | {"role": r} for r in self.rows])
        add("model_loaded_timestamp_seconds", lambda: (self.loaded,))
        add("model_load_duration_seconds", lambda: (load_seconds,))
        for name, stated in expected.items():
            value = math.nan if stated["value"] is None else stated["value"]
            add(EXPECTED[name], lambda value=value: (value,))
        if self.task == "regression":
            for name in ERRORS if self._past else ():
                add(f"estimated_{name}_total", lambda name=name: (self.estimated[name],))
        else:
            self._expose_classes(add, v)
        self._expose_cohorts(add, v)
        if (cost := self.costs.get("expected")) is not None:
            add("expected_cost", lambda: (cost,))
        if self.skill:
            self._expose_skill(add, v)

    def _expose_skill(self, add, v: dict) -> None:
        windows = [v | {"window": days} for days in WINDOWS]
        for place, name in enumerate(SKILL):
            add(f"window_{name}", lambda i=place: [w[i] for w in self._windows], windows)
        if base := self.skill.learned.get("base_rate_log_loss"):
            add("base_rate_log_loss_nats", lambda: (base,))

    def _expose_classes(self, add, v: dict) -> None:
        named = _indices(self.classes)
        classes = [v | {"class": name} for name in named]
        add("predictions_total", self.predicted[: len(named)].tolist, classes)
        add("score_ratio", lambda: cumulative(self.scores.tolist(), self.scores_sum))
        add("estimated_log_loss_nats_total", lambda: (self.estimated["log_loss"],))
        add("estimated_correct_rows_total", lambda: (self.estimated["correct"],))
        if self.task == "binary":
            add("estimated_positive_rows_total", lambda: (self.estimated["positive"],))

    def _expose_cohorts(self, add, v: dict) -> None:
        ages, cohorts = [v | {"cohort": age} for age in AGES], self.cohorts
        keys = ["cohort_rows", "cohort_labelled_rows"]
        keys += [COHORT_SUMS.get(name, f"cohort_{name}_rows") for name in cohorts.sums]
        for place, key in enumerate(keys, start=min(ROWS, LABELLED)):
            add(key, lambda place=place: [age[place] for age in self._ages], ages)
        if self.task == "binary":
            bins = [each | {"bin": f"{i:02}"} for each in ages for i in range(cohorts.bins)]
            for which, key in enumerate(
                ("cohort_negative_score_rows", "cohort_positive_rank_rows")
            ):
                add(key, lambda which=which: self._ranks(which), bins)
        if self.task == "multiclass":
            classes = [v | {"class": name} for name in _indices(self.classes)]
            keys = ("class_actual_rows", "class_predicted_rows", "class_correct_rows")
            for which, key in enumerate(keys):
                add(key, lambda which=which: self._by_class(which), classes)

    @property
    def drift_series(self) -> int:
        """Return how many series drift takes: two for each bin, two for each column."""
        return 2 * int(self.bins.starts[-1] + len(self.bins.columns))

    def expose_drift(self, series: SeriesCollector) -> None:
        """Add the series of drift: what was counted, and what the reference held."""
        bins, owner = self.bins, f"drift of {self.version}"
        features = [{"version": self.version, "feature": c.name} for c in bins.columns]
        each = [f | {"bin": b} for f, c in zip(features, bins.columns) for b in c.labels]
        before = np.concatenate([c.rows for c in bins.columns]).tolist()
        effects, missing = zip(*((c.day_effect, c.day_missing) for c in bins.columns))
        self.shows_drift = True
        series.add("feature_bin_rows_total", self.counts.tolist, each, owner)
        series.add("reference_bin_rows", lambda: before, each, owner)
        series.add("reference_day_effect", lambda: effects, features, owner)
        series.add("reference_day_missing_ratio", lambda: missing, features, owner)

    def hide_drift(self, series: SeriesCollector) -> None:
        """Take the series of drift away, for a model that matters more; counting goes on."""
        series.drop(f"drift of {self.version}")
        self.shows_drift = False

    def _ranks(self, which: int) -> list[float]:
        return [x for age in self._ages for x in self.cohorts.ranks(age)[which]]

    def _by_class(self, which: int) -> list[float]:
        return self.cohorts.by_class([sum(each) for each in zip(*self._ages)])[which]


def _indices(classes: int) -> list[str]:
    return [f"{i:02}" if i < CLASSES else OTHER for i in range(classes)]
