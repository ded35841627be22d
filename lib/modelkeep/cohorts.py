"""Live quality by the age of an answer: sums that add over replicas, from labels in any order."""

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from math import log

DAY = 86_400
AGES = {"0": (0, 0), "1-2": (1, 2), "3-7": (3, 7), "8-28": (8, 28)}  # days, both included
OLDEST = 28
TINY = 1e-15
ROWS, LABELLED = 0, 1
CLASSES, OTHER = 20, "other"
SUMS = {  # what a day holds beside rows and labelled ones, by task
    "binary": ("correct", "log_loss", "positive", "called_positive", "true_positive"),
    "multiclass": ("correct", "log_loss"),
    "regression": ("squared_error", "absolute_error", "error"),
}


class Cohorts:
    """What one model said on each of the last 28 days (UTC), and what came true of it; `cuts` are those of the score's bins."""

    def __init__(self, task: str, classes: int = 0, cuts: Sequence[float] = ()) -> None:
        self.task, self.cuts = task, cuts
        self.classes = min(classes, CLASSES + 1)
        self.sums = SUMS[task]
        self.bins = len(cuts) + 1
        self._first = 2 + len(self.sums)
        extra = {"binary": 2 * self.bins, "multiclass": 3 * self.classes}.get(task, 0)
        self._width = self._first + extra
        self._days: dict[int, list[float]] = {}

    def answered(self, at: float, rows: int) -> None:
        """Count rows that were answered at `at`, in seconds since 1970."""
        self._day(at)[ROWS] += rows

    def truth(
        self, at: float, answer: Sequence[float], truth: float, previous: float | None = None
    ) -> None:
        """Count what came true (the number of a class, or a value) of the answer given at `at`; a correction takes what it was thought to be away."""
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
        for day in [d for d in self._days if today - d > OLDEST]:
            del self._days[day]
        found = []
        for first, last in AGES.values():
            days = [v for d, v in self._days.items() if first <= max(today - d, 0) <= last]
            found.append([sum(each) for each in zip(*days)] or [0.0] * self._width)
        return found

    def ranks(self, sums: Sequence[float]) -> tuple[list[float], list[float]]:
        """Return negatives by bin, and positives above the bin and half of those within."""
        positive = sums[self._first : self._first + self.bins]
        above, ranks = sum(positive), []
        for count in positive:
            ranks.append(above - count / 2)
            above -= count
        return list(sums[self._first + self.bins :]), ranks

    def by_class(self, sums: Sequence[float]) -> list[list[float]]:
        """Return labelled rows by true class, by said class, and by class where both agree."""
        starts = range(self._first, self._width, max(self.classes, 1))
        return [list(sums[start : start + self.classes]) for start in starts]

    def _day(self, at: float) -> list[float]:
        return self._days.setdefault(int(at // DAY), [0.0] * self._width)

    def _parts(self, answer: Sequence[float], truth: float) -> Iterator[tuple[int, float]]:
        if self.task == "regression":
            error = answer[0] - truth
            yield from zip(range(2, 5), (error * error, abs(error), error))
            return
        actual, said = int(truth), max(range(len(answer)), key=answer.__getitem__)
        yield 2, float(said == actual)
        yield 3, -log(min(max(answer[actual], TINY), 1.0))
        if self.task == "binary":
            yield from zip(range(4, 7), (float(actual), float(said), float(actual and said)))
            place = bisect_right(self.cuts, answer[1])
            yield self._first + place + (0 if actual else self.bins), 1.0
        else:
            right = float(said == actual)
            actual, said = min(actual, CLASSES), min(said, CLASSES)
            yield self._first + actual, 1.0
            yield self._first + self.classes + said, 1.0
            yield self._first + 2 * self.classes + actual, right
