"""The metrics that a server exposes: counted as it goes, written by prometheus-client."""

import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from prometheus_client import CollectorRegistry, ProcessCollector, disable_created_metrics
from prometheus_client.exposition import choose_encoder

from modelkeep.core.errors import ModelkeepError
from modelkeep.monitoring import live_bins
from modelkeep.monitoring.collectors import Histogram, SeriesCollector, client_metric
from modelkeep.monitoring.contract import Contract
from modelkeep.monitoring.live_bins import LiveBins
from modelkeep.monitoring.model_metrics import Served

if TYPE_CHECKING:
    from modelkeep.training.bundle import Bundle

SCALARS = (  # metrics that prometheus-client keeps; no request waits for them
    "input_problems_total",
    "model_swaps_total",
    "labels_total",
    "label_delay_seconds",
    "log_committed_rows_total",
    "log_unlogged_rows_total",
    "log_commit_duration_seconds",
    "log_writable",
)


class TelemetryError(ModelkeepError, ValueError):
    """A model that is not in service, or a label value that the contract does not know."""


class Telemetry:
    """The state of all metrics of one process, registered with `registry`.

    Everything but `render` belongs to one thread. Requests and rows are counted in plain numbers
    and arrays, which the page reads; the rest are prometheus-client's own metrics.
    """

    def __init__(self, contract: Contract, registry: CollectorRegistry | None = None) -> None:
        disable_created_metrics()  # a second series for each counter, and nobody reads it
        self.contract, self.registry = contract, registry or CollectorRegistry()
        self.series = SeriesCollector(contract)
        self.registry.register(self.series)
        ProcessCollector(registry=self.registry)
        self.served: dict[str, Served] = {}
        self._scalars = {
            key: client_metric(self.registry, contract.metrics[key]) for key in SCALARS
        }
        self._scalars["log_writable"].set(1)
        self._add_requests()

    def requests(self, route: str, code: int, seconds: float) -> None:
        """Count one finished request."""
        try:
            self._requests[route, code] += 1
        except KeyError:
            route = route if route in self._durations else "other"
            self._requests[route, code if (route, code) in self._requests else "other"] += 1
        self._durations[route].observe(seconds)

    def prepare(self, bundle: "Bundle") -> LiveBins:
        """Make the live bins of a model before it serves: tens of milliseconds, in any thread."""
        # a bin is two series, and a column two more
        return live_bins.merge(bundle.reference, self.contract.drift_series // 2)

    def names(self, version: str) -> dict[str, dict[str, str]]:
        """Return the names of a model's bins by column and label: for people, never for labels."""
        columns = self.served[version].bins.columns
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
        """Put a model on the page, or give it another role; the oldest of more than three leaves.

        `seconds`: how long it took to load; `bins`: what `prepare` returned.
        """
        version = version or bundle.name
        self._known("role", role)
        served = self.served.pop(version, None)
        if served is None:
            served = self._begin(version, bundle, bins, seconds, now)
        served.intervals = getattr(bundle, "intervals", None)  # of the model as it was loaded now
        self.served[version] = served
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
        while len(self.served) >= self.contract.versions:
            self.retire(next(iter(self.served)))
        served.expose(self.series, bundle.manifest["promise"], seconds)
        left_out = len(served.bins.left_out)
        self.series.add("features_left_out", lambda: (left_out,), [{"version": version}], version)
        return served

    def retire(self, version: str) -> None:
        """Take a model off the page; labels of its predictions are not counted any more."""
        self.served.pop(version, None)
        for owner in (version, f"drift of {version}", f"role of {version}"):
            self.series.drop(owner)

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
        """Count predictions, their inputs and problems of input.

        `numbers` (rows, columns) and `categories` by column are in the schema's order, `answers`
        are probabilities (rows, classes) or numbers (rows,). The arrays must not be changed later.
        """
        served = self.served.get(version)
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
        """Count a change of the model in service."""
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
        """Count the label of a prediction made at `at`: the number of a class, or a value.

        `previous`: the label that it corrects; `now`: when it came, for its delay (None where it
        came before the prediction, or long ago).
        """
        if now is not None and previous is None:
            self._scalars["label_delay_seconds"].observe(max(now - at, 0.0))
        served = self.served.get(version)
        if served is not None:
            served.ground_truth(at, answer, truth, previous)

    def recall(self, version: str, at: float, rows: int) -> None:
        """Count predictions of the log that were made before this process started.

        For one replica alone: several would each count all. `truth` takes their labels.
        """
        if version in self.served:
            self.served[version].cohorts.answered(at, rows)

    def log_committed(self, rows: int, seconds: float) -> None:
        """Count one commit of the prediction log."""
        self._scalars["log_committed_rows_total"].inc(rows)
        self._scalars["log_commit_duration_seconds"].observe(seconds)
        self._scalars["log_writable"].set(1)

    def unlogged(self, rows: int) -> None:
        """Count rows that were answered and could not be logged."""
        self._scalars["log_unlogged_rows_total"].inc(rows)
        self._scalars["log_writable"].set(0)

    def settle(self, now: float | None = None) -> None:
        """Bring all counts up to `now`, before a page is written."""
        for served in self.served.values():
            served.settle(time.time() if now is None else now)

    def render(self, accept: str = "") -> tuple[bytes, str]:
        """Return the page and its content type: OpenMetrics where `accept` (a header) asks for it.

        It takes some 15 us a series; any thread may do it while others count.
        """
        encode, content_type = choose_encoder(accept)
        return encode(self.registry), content_type

    def _count(self, key: str, value: str, n: int) -> None:
        values = self.contract.metrics[key].values[self.contract.metrics[key].labels[0]]
        if value not in values and "other" not in values:
            raise TelemetryError(f"{key}: {value!r} is not one of {', '.join(values)}")
        self._scalars[key].labels(value if value in values else "other").inc(n)

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
        self.series.add("requests_total", self._requests.values, labels)
        buckets = self.contract.metrics["request_duration_seconds"].buckets
        self._durations = {route: Histogram(buckets) for route in values["route"]}
        for route, duration in self._durations.items():
            self.series.add("request_duration_seconds", duration.values, [{"route": route}])

    def _show_role(self, version: str, role: str, engine: str, task: str) -> None:
        owner = f"role of {version}"
        self.series.drop(owner)
        known = self.contract.metrics["model_info"].values["engine"]
        labels = {"version": version, "role": role, "task": task}
        labels["engine"] = engine if engine in known else "other"
        self.series.add("model_info", lambda: (1,), [labels], owner)

    def _expose_drift(self, served: Served, role: str) -> None:
        """Show a model's drift if there is room; others make room for the champion."""
        shown = [o for o in self.served.values() if o is not served and o.shows_drift]
        room = self.contract.drift_series - served.drift_series
        while role == "champion" and sum(o.drift_series for o in shown) > room:
            shown.pop(0).hide_drift(self.series)
        if not served.shows_drift and sum(o.drift_series for o in shown) <= room:
            served.expose_drift(self.series)
