"""The metrics that we expose: counts kept by the server as it goes, written as one page when Prometheus asks."""

import time
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import psutil

from modelkeep.core.errors import ModelkeepError
from modelkeep.monitoring import live_bins
from modelkeep.monitoring.contract import Contract
from modelkeep.monitoring.exposition import Exposition, cumulative
from modelkeep.monitoring.live_bins import LiveBins
from modelkeep.monitoring.model_metrics import Served

if TYPE_CHECKING:
    from modelkeep.training.bundle import Bundle


class TelemetryError(ModelkeepError, ValueError):
    """A model that is not in service, or a label value that the contract does not know."""


class Histogram:
    """A histogram in plain numbers: one observation is a bisection and two additions."""

    __slots__ = ("buckets", "counts", "total")

    def __init__(self, buckets: Sequence[float]) -> None:
        self.buckets, self.counts, self.total = buckets, [0] * (len(buckets) + 1), 0.0

    def observe(self, value: float) -> None:
        """Count one value."""
        self.counts[bisect_left(self.buckets, value)] += 1
        self.total += value

    def values(self) -> list[float]:
        """Return what is written of it."""
        return cumulative(self.counts, self.total)


class Telemetry:
    """The state of all metrics of one process; not for more than one thread."""

    def __init__(self, contract: Contract, started: float | None = None) -> None:
        self.contract, self.page = contract, Exposition(contract)
        self._served: dict[str, Served] = {}
        self._process = psutil.Process()
        self._render_seconds = 0.0
        self.backlog, self.writable = 0, True  # of the prediction log, as its owner last said
        self._counts = {
            key: self._counter(key)
            for key in ("input_problems_total", "model_swaps_total", "labels_total")
        }
        self._add_requests()
        self._delay = self._histogram("label_delay_seconds")
        self._add_log()
        self._add_process(started)

    def requests(self, route: str, code: int, seconds: float) -> None:
        """Count one finished request."""
        try:
            self._requests[route, code] += 1
        except KeyError:
            route = route if route in self._durations else "other"
            self._requests[route, code if (route, code) in self._requests else "other"] += 1
        self._durations[route].observe(seconds)

    def prepare(self, bundle: "Bundle") -> LiveBins:
        """Make the live bins of a model before it serves; this takes tens of milliseconds, and any thread may do it."""
        # a bin is two series, and a column two more
        return live_bins.of(bundle.reference, self.contract.drift_series // 2)

    def names(self, version: str) -> dict[str, dict[str, str]]:
        """Return what the labels of a model's bins stand for, by column: for people, never for labels."""
        columns = self._served[version].bins.columns
        return {c.name: dict(zip(c.labels, c.names)) for c in columns}

    def serve(
        self,
        bundle: "Bundle",
        role: str,
        *,
        version: str | None = None,
        engine: str | None = None,
        bins: LiveBins | None = None,
        seconds: float = 0.0,
        now: float | None = None,
    ) -> None:
        """A model begins to answer, or gets another role; `seconds`: how long it took to load; `bins`: what `prepare` gave. The oldest of more than three leaves the page."""
        version = version or bundle.name
        self._known("role", role)
        served = self._served.pop(version, None)
        if served is None:
            served = self._begin(version, bundle, bins, seconds, now)
        self._served[version] = served
        self._expose_drift(served, role)
        engine = engine or bundle.manifest["serving"]["engine"]
        self._show_role(version, role, engine, served.task)

    def _begin(
        self,
        version: str,
        bundle: "Bundle",
        bins: LiveBins | None,
        seconds: float,
        now: float | None,
    ) -> Served:
        roles = self.contract.metrics["rows_total"].values["role"]
        now = time.time() if now is None else now
        served = Served(version, bundle, bins or self.prepare(bundle), roles, now)
        while len(self._served) >= self.contract.versions:
            self.retire(next(iter(self._served)))
        served.expose(self.page, bundle.manifest["promise"], seconds)
        left_out = len(served.bins.left_out)
        self.page.add("features_left_out", lambda: (left_out,), [{"version": version}], version)
        return served

    def retire(self, version: str) -> None:
        """A model leaves the page; what is still said of it is forgotten."""
        self._served.pop(version, None)
        for owner in (version, f"drift of {version}", f"role of {version}"):
            self.page.drop(owner)

    def answered(
        self,
        version: str,
        role: str,
        numbers: np.ndarray,
        categories: Sequence[Sequence[str | None]],
        answers: np.ndarray,
        problems: Mapping[str, int] | None = None,
        at: float | None = None,
    ) -> None:
        """Count rows that a model answered: numbers (rows, columns), categories by column, and answers (rows, classes) or (rows,), columns in the schema's order. The arrays must not be changed afterwards."""
        served = self._served.get(version)
        if served is None:
            raise TelemetryError(f"model {version!r} is not in service; call serve first")
        at = time.time() if at is None else at
        served.answered(role, numbers, categories, answers, at)
        for kind, rows in (problems or {}).items():
            self.problem(kind, rows)

    def problem(self, kind: str, n: int = 1) -> None:
        """Count problems of input."""
        self._count("input_problems_total", kind, n)

    def swap(self, result: str) -> None:
        """Count a model that was to be put in service."""
        self._count("model_swaps_total", result, 1)

    def label(self, outcome: str, n: int = 1) -> None:
        """Count labels that came."""
        self._count("labels_total", outcome, n)

    def truth(
        self,
        version: str,
        at: float,
        answer: Sequence[float],
        truth: float,
        *,
        previous: float | None = None,
        now: float | None = None,
    ) -> None:
        """Count what came true of the answer that a model gave at `at`: the number of a class, or a value; `previous`: what was thought before; `now`: when the label came, for its delay (None where it came before the answer, or long ago)."""
        if now is not None and previous is None:
            self._delay.observe(max(now - at, 0.0))
        served = self._served.get(version)
        if served is not None:
            served.cohorts.truth(at, answer, truth, previous)

    def recall(self, version: str, at: float, rows: int) -> None:
        """Take rows of before this process started into the cohorts, from the log; give `truth` their labels. For one replica alone: several would each count all."""
        if version in self._served:
            self._served[version].cohorts.answered(at, rows)

    def log_committed(self, rows: int, seconds: float) -> None:
        """Count one commit of the prediction log."""
        self._log["committed"] += rows
        self._commit.observe(seconds)
        self.writable = True

    def unlogged(self, rows: int) -> None:
        """Count rows that were answered and could not be logged."""
        self._log["unlogged"] += rows
        self.writable = False

    def render(self, now: float | None = None) -> bytes:
        """Return the page of metrics."""
        started = time.perf_counter()
        for served in self._served.values():
            served.settle(time.time() if now is None else now)
        text = self.page.render()
        self._render_seconds = time.perf_counter() - started
        return text

    def _counter(self, key: str) -> dict[str, int]:
        (label,) = self.contract.metrics[key].labels
        counts = dict.fromkeys(self.contract.metrics[key].values[label], 0)
        self.page.add(key, counts.values, [{label: value} for value in counts])
        return counts

    def _count(self, key: str, value: str, n: int) -> None:
        counts = self._counts[key]
        if value not in counts and "other" not in counts:
            raise TelemetryError(f"{key}: {value!r} is not one of {', '.join(counts)}")
        counts[value if value in counts else "other"] += n

    def _histogram(self, key: str, labels: Mapping[str, str] | None = None) -> Histogram:
        histogram = Histogram(self.contract.metrics[key].buckets)
        self.page.add(key, histogram.values, [labels or {}])
        return histogram

    def _known(self, label: str, value: str) -> None:
        known = self.contract.metrics["model_info"].values[label]
        if value not in known:
            raise TelemetryError(f"{label} {value!r} is not one of {', '.join(known)}")

    def _add_requests(self) -> None:
        values = self.contract.metrics["requests_total"].values
        pairs = [(route, code) for route in values["route"] for code in values["code"]]
        # the server has the code as a number
        self._requests = {(r, int(c) if c.isdigit() else c): 0 for r, c in pairs}
        labels = [{"route": r, "code": c} for r, c in pairs]
        self.page.add("requests_total", self._requests.values, labels)
        self._durations = {
            route: self._histogram("request_duration_seconds", {"route": route})
            for route in values["route"]
        }

    def _add_log(self) -> None:
        self._log = {"committed": 0, "unlogged": 0}
        for name in self._log:
            self.page.add(f"log_{name}_rows_total", lambda name=name: (self._log[name],))
        self._commit = self._histogram("log_commit_duration_seconds")
        self.page.add("log_backlog_rows", lambda: (self.backlog,))
        self.page.add("log_writable", lambda: (int(self.writable),))

    def _add_process(self, started: float | None) -> None:
        process = self._process
        since = process.create_time() if started is None else started
        self.page.add("process_start_time_seconds", lambda: (since,))
        self.page.add("process_resident_memory_bytes", lambda: (process.memory_info().rss,))
        self.page.add("process_cpu_seconds_total", lambda: (sum(process.cpu_times()[:2]),))
        self.page.add("process_open_fds", lambda: (process.num_fds(),))
        self.page.add("series", lambda: (self.page.series,))
        self.page.add("render_duration_seconds", lambda: (self._render_seconds,))

    def _show_role(self, version: str, role: str, engine: str, task: str) -> None:
        owner = f"role of {version}"
        self.page.drop(owner)
        known = self.contract.metrics["model_info"].values["engine"]
        labels = {"version": version, "role": role, "task": task}
        labels["engine"] = engine if engine in known else "other"
        self.page.add("model_info", lambda: (1,), [labels], owner)

    def _expose_drift(self, served: Served, role: str) -> None:
        """Show a model's drift if there is room; for the champion others make room, the oldest first."""
        shown = [o for o in self._served.values() if o is not served and o.shows_drift]
        room = self.contract.drift_series - served.drift_series
        while role == "champion" and sum(o.drift_series for o in shown) > room:
            shown.pop(0).hide_drift(self.page)
        if not served.shows_drift and sum(o.drift_series for o in shown) <= room:
            served.expose_drift(self.page)
