"""Collectors for prometheus-client: series over arrays that a server keeps, and its scalars."""

import threading
import time
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product

from prometheus_client import CollectorRegistry, Counter, Gauge
from prometheus_client import Histogram as ClientHistogram
from prometheus_client.metrics_core import Metric as Family
from prometheus_client.registry import Collector
from prometheus_client.samples import Sample
from prometheus_client.utils import floatToGoString

from modelkeep.core.errors import ModelkeepError
from modelkeep.monitoring.contract import Contract, Metric

CLIENT_TYPES = {"counter": Counter, "gauge": Gauge, "histogram": ClientHistogram}
# A page takes 30 ms of the interpreter: a thread that writes it lets others go on in between.
SAMPLES, PAUSE_SECONDS = 20, 1e-3


class SeriesError(ModelkeepError, ValueError):
    """A series that the contract does not allow."""


def client_metric(registry: CollectorRegistry, metric: Metric) -> Counter | Gauge | ClientHistogram:
    """Register a metric of the contract with prometheus-client; every series begins at 0."""
    options = {"buckets": metric.buckets} if metric.type == "histogram" else {}
    made = CLIENT_TYPES[metric.type](
        metric.name, metric.help, metric.labels, registry=registry, **options
    )
    for values in product(*(metric.values[name] for name in metric.labels)):
        if values:
            made.labels(*values)
    return made


class Histogram:
    """A histogram in plain numbers: one observation costs a third of prometheus-client's."""

    __slots__ = ("buckets", "counts", "total")

    def __init__(self, buckets: Sequence[float]) -> None:
        self.buckets, self.counts, self.total = buckets, [0] * (len(buckets) + 1), 0.0

    def observe(self, value: float) -> None:
        """Count one value."""
        self.counts[bisect_left(self.buckets, value)] += 1
        self.total += value

    def values(self) -> list[float]:
        """Return its series: cumulative counts, sum, count."""
        return cumulative(self.counts, self.total)


def cumulative(counts: Sequence[int], total: float) -> list[float]:
    """Return a histogram's series from its counts by bucket (the last: beyond all) and its sum."""
    series, so_far = [], 0
    for count in counts:
        series.append(so_far := so_far + count)
    return [*series, total, so_far]


@dataclass(frozen=True)
class Block:
    """Some series of one metric: sample names with labels, and where their values come from."""

    owner: str
    names: tuple[tuple[str, dict[str, str]], ...]
    values: Callable[[], Iterable[float]]


@dataclass(frozen=True)
class _Samples:
    """The samples of some blocks, read when they are written."""

    blocks: tuple[Block, ...]

    def __iter__(self) -> Iterator[Sample]:
        alone, written = threading.current_thread() is threading.main_thread(), 0
        for block in self.blocks:
            for (name, labels), value in zip(block.names, block.values(), strict=True):
                yield Sample(name, labels, value, None, None)
                written += 1
                if not (alone or written % SAMPLES):
                    time.sleep(PAUSE_SECONDS)


class SeriesCollector(Collector):
    """All series that are read from arrays, each on the page from the moment it is added.

    `add` and `drop` belong to one thread; `collect` may run in another at the same time.
    """

    def __init__(self, contract: Contract) -> None:
        self.contract = contract
        self._blocks: dict[str, tuple[Block, ...]] = dict.fromkeys(contract.metrics, ())

    def add(
        self,
        key: str,
        values: Callable[[], Iterable[float]],
        labels: Sequence[Mapping[str, str]] = ({},),
        owner: str = "",
    ) -> None:
        """Add series of the metric `key`, one for each of `labels`, in the order of `values()`.

        A histogram has for each of `labels` its counts by bucket, their sum and their number.
        """
        metric = self.contract.metrics[key]
        names = tuple(name for each in labels for name in _names(metric, each))
        self._blocks[key] = (*self._blocks[key], Block(owner, names, values))

    def drop(self, owner: str) -> None:
        """Take away the series that were added for `owner`."""
        for key, blocks in self._blocks.items():
            self._blocks[key] = tuple(b for b in blocks if b.owner != owner)

    def collect(self) -> Iterator[Family]:
        """Yield each metric that has series."""
        for key, blocks in self._blocks.items():
            if blocks:
                metric = self.contract.metrics[key]
                family = Family(metric.name.removesuffix("_total"), metric.help, metric.type)
                family.samples = _Samples(blocks)
                yield family


def _names(metric: Metric, labels: Mapping[str, str]) -> list[tuple[str, dict[str, str]]]:
    if set(labels) != set(metric.labels):
        raise SeriesError(f"{metric.name}: labels are {set(labels)}, must be {metric.labels}")
    for name, value in labels.items():
        known = metric.values[name]
        if not isinstance(known, int) and value not in known:
            raise SeriesError(f"{metric.name}: {value!r} is not in the closed set of {name!r}")
    own = {name: labels[name] for name in metric.labels}
    if metric.type != "histogram":
        return [(metric.name, own)]
    edges = [floatToGoString(edge) for edge in (*metric.buckets, float("inf"))]
    buckets = [(f"{metric.name}_bucket", own | {"le": edge}) for edge in edges]
    return [*buckets, (f"{metric.name}_sum", own), (f"{metric.name}_count", own)]
