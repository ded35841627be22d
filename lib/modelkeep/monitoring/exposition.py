"""Prometheus' text format, written from arrays: 2,000 lines in about a millisecond, where a general client needs thirty."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from modelkeep.core.errors import ModelkeepError
from modelkeep.monitoring.contract import Contract, Metric

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class ExpositionError(ModelkeepError, ValueError):
    """A series that the contract does not allow."""


@dataclass(frozen=True)
class Block:
    """Some series of one metric: what their lines begin with, and where their values come from."""

    owner: str
    prefixes: tuple[str, ...]
    values: Callable[[], Iterable[float]]


class Exposition:
    """All series of one process, each on a line from the moment it is added."""

    def __init__(self, contract: Contract) -> None:
        self.contract = contract
        self._blocks: dict[str, list[Block]] = {key: [] for key in contract.metrics}

    @property
    def series(self) -> int:
        """Return how many series there are."""
        return sum(len(b.prefixes) for blocks in self._blocks.values() for b in blocks)

    def add(
        self,
        key: str,
        values: Callable[[], Iterable[float]],
        labels: Sequence[Mapping[str, str]] = ({},),
        owner: str = "",
    ) -> None:
        """Add series of the metric `key`, one for each of `labels`, in the order of what `values` gives when it is read (a histogram: counts by bucket, their sum, for each of `labels`)."""
        metric = self.contract.metrics[key]
        prefixes = tuple(p for each in labels for p in _prefixes(metric, each))
        self._blocks[key].append(Block(owner, prefixes, values))

    def drop(self, owner: str) -> None:
        """Take away the series that were added for `owner`."""
        for key, blocks in self._blocks.items():
            self._blocks[key] = [b for b in blocks if b.owner != owner]

    def render(self) -> bytes:
        """Return all series as they are now."""
        lines = []
        for key, blocks in self._blocks.items():
            if blocks:
                m = self.contract.metrics[key]
                lines.append(f"# HELP {m.name} {m.help}\n# TYPE {m.name} {m.type}\n")
            for block in blocks:
                values = map(_number, block.values())
                lines += map(str.__add__, block.prefixes, values)
        return "".join(lines).encode()


def cumulative(counts: Sequence[int], total: float) -> list[float]:
    """Return a histogram's series from its counts by bucket (the last: beyond all) and its sum."""
    found, so_far = [], 0
    for count in counts:
        found.append(so_far := so_far + count)
    return [*found, total, so_far]


def _prefixes(metric: Metric, labels: Mapping[str, str]) -> list[str]:
    if set(labels) != set(metric.labels):
        raise ExpositionError(f"{metric.name}: labels are {set(labels)}, must be {metric.labels}")
    for name, value in labels.items():
        known = metric.values[name]
        if not isinstance(known, int) and value not in known:
            raise ExpositionError(f"{metric.name}: {value!r} is not in the closed set of {name!r}")
    pairs = [f'{name}="{_escaped(labels[name])}"' for name in metric.labels]
    if metric.type != "histogram":
        return [_line(metric.name, pairs)]
    edges = [*(f"{b:g}" for b in metric.buckets), "+Inf"]
    buckets = [_line(f"{metric.name}_bucket", [*pairs, f'le="{edge}"']) for edge in edges]
    return [*buckets, _line(f"{metric.name}_sum", pairs), _line(f"{metric.name}_count", pairs)]


def _line(name: str, pairs: Sequence[str]) -> str:
    return f"{name}{{{','.join(pairs)}}} " if pairs else f"{name} "


def _escaped(text: str) -> str:
    return text.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")


def _number(value: float) -> str:
    text = repr(value)
    return {"nan": "NaN\n", "inf": "+Inf\n", "-inf": "-Inf\n"}.get(text) or text + "\n"
