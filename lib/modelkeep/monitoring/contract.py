"""The metrics contract: each metric's unit, labels, help, threshold, panel; read and checked."""

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from modelkeep.core.errors import ModelkeepError
from modelkeep.core.workspace import meant

FILE = "monitoring/metrics.yaml"
FORMAT = 1  # raise it when the file gets a shape that an older reader would misread
MOST_SERIES = 2000  # of one replica, whatever the traffic and whatever the table
TYPES = ("counter", "gauge", "histogram")
SHARED = ("process_",)  # names that all Prometheus clients agree on
# Unit -> what the name ends with, before the `_total` of a counter; base units only.
UNITS = {"seconds": "_seconds", "bytes": "_bytes", "ratio": "_ratio", "nats": "_nats"}
UNITS |= {"rows": "_rows", "requests": "requests", "labels": "labels", "swaps": "_swaps"}
UNITS |= {"info": "_info", "series": "series", "columns": "", "files": "_fds", "bool": ""}
UNITS |= {"effect": "_effect", "label": "_error", "label_squared": "_squared_error"}
UNITS |= {"gain": "_gain", "variance": "_variance", "cost": "_cost"}
EXTRA = {"rows": ("rows", "_rows", "_problems", "predictions")}
NAME = re.compile(r"[a-z][a-z0-9]*(_[a-z0-9]+)*")
RESERVED = ("_total", "_count", "_sum", "_bucket")
SECTIONS = "format prefix settings labels metrics records alerts dashboards annotations panels"
KEYS = "type unit labels help panel threshold buckets tasks drift most own"


class ContractError(ModelkeepError, ValueError):
    """A metrics contract that breaks a rule."""


@dataclass(frozen=True)
class Metric:
    """One metric; `values`: the closed set of each label's values, or how many there may be."""

    key: str
    name: str
    type: str
    unit: str
    labels: tuple[str, ...]
    values: Mapping[str, tuple[str, ...] | int]
    help: str
    panel: str
    threshold: str | None = None
    buckets: tuple[float, ...] = ()
    tasks: tuple[str, ...] = ("binary", "multiclass", "regression")
    drift: bool = False  # one for each bin or feature: what is left of the budget is theirs
    own: bool = False

    @property
    def most(self) -> int:
        """Return how many series it can have; for a metric of `drift` that is no bound."""
        if self.unit == "info":  # its other labels say what is so of the first
            return int(self.values[self.labels[0]])
        sizes = (v if isinstance(v, int) else len(v) for v in self.values.values())
        return math.prod(sizes) * (len(self.buckets) + 3 if self.type == "histogram" else 1)


@dataclass(frozen=True)
class Contract:
    """The whole file: metrics by key, and what is made of them."""

    metrics: Mapping[str, Metric]
    settings: Mapping[str, object]
    records: Mapping[str, dict]
    alerts: Mapping[str, dict]
    dashboards: Mapping[str, dict]
    annotations: Mapping[str, dict]
    panels: Mapping[str, dict]

    @property
    def drift_series(self) -> int:
        """Return how many series are left for live drift when all others are there."""
        fixed = [m for m in self.metrics.values() if not m.drift]
        tasks = {task for m in fixed for task in m.tasks}
        return MOST_SERIES - max(sum(m.most for m in fixed if t in m.tasks) for t in tasks)

    @property
    def versions(self) -> int:
        """Return how many models are exposed at most."""
        return next(m.values["version"] for m in self.metrics.values() if "version" in m.labels)


def read(path: Path) -> Contract:
    """Read a contract; ContractError says where it breaks which rule."""
    from ruamel.yaml import YAML, YAMLError

    try:
        content = YAML(typ="safe", pure=True).load(path.read_text(encoding="utf-8"))
    except (OSError, YAMLError) as error:
        raise ContractError(f"{path}: {error}; restore it from Git") from error
    return check(content)


def check(content: object) -> Contract:
    """Make a contract of what the file holds."""
    if not isinstance(content, dict) or set(content) != set(SECTIONS.split()):
        raise ContractError(f"$: the sections must be exactly {SECTIONS}")
    if content["format"] != FORMAT:
        raise ContractError(f"$.format: is {content['format']!r}, this code reads {FORMAT}")
    labels = {name: _values(f"$.labels.{name}", v) for name, v in content["labels"].items()}
    metrics = {}
    for key, stated in content["metrics"].items():
        metrics[key] = _metric(key, stated, labels, content)
    others = ("settings", "records", "alerts", "dashboards", "annotations", "panels")
    contract = Contract(metrics, *(content[name] for name in others))
    _check_panels(contract)
    _check_settings(contract)
    if contract.drift_series < MOST_SERIES // 2:
        raise ContractError(
            f"$.metrics: leave {contract.drift_series} of {MOST_SERIES} series to live drift; "
            "take labels or buckets away"
        )
    return contract


def _values(where: str, stated: object) -> tuple[str, ...] | int:
    if isinstance(stated, list) and all(isinstance(v, str) for v in stated):
        return tuple(stated)
    match stated:
        case {"most": int(most), **rest} if not rest:
            return most
        case {"indices": int(count), "and": list(more), **rest} if not rest:
            return (*(f"{i:02}" for i in range(count)), *more)
    raise ContractError(
        f"{where}: {stated!r} is no closed set; give a list of texts, {{most: 3}}, "
        "or {indices: 20, and: [other]}"
    )


def _metric(key: str, stated: dict, labels: Mapping, content: dict) -> Metric:
    where = f"$.metrics.{key}"
    for each in set(stated) - set(KEYS.split()):
        raise ContractError(f"{where}.{each}: is not known{meant(each, KEYS.split())}")
    for each in ("type", "unit", "labels", "help", "panel"):
        if each not in stated:
            raise ContractError(f"{where}.{each}: is missing")
    for each in stated["labels"]:
        if each not in labels:
            raise ContractError(f"{where}.labels: {each!r} has no closed set{meant(each, labels)}")
    threshold = stated.get("threshold")
    if threshold is not None and threshold not in content["settings"]:
        near = meant(threshold, content["settings"])
        raise ContractError(f"{where}.threshold: {threshold!r} is not a setting{near}")
    prefix = "" if stated.get("own") else content["prefix"]
    values = {name: labels[name] for name in stated["labels"]}
    if "most" in stated:
        values["bin"] = values["bin"][: stated["most"]]
    stated = {k: tuple(v) if isinstance(v, list) else v for k, v in stated.items() if k != "most"}
    metric = Metric(key, prefix + key, values=values, **stated)
    for fault in _faults(metric):
        raise ContractError(f"{where}: {fault}")
    return metric


def _faults(m: Metric) -> Iterator[str]:
    """Say where a metric breaks Prometheus' rules for names and units."""
    if not NAME.fullmatch(m.key) or (m.own and not m.key.startswith(SHARED)):
        rule = f"lower case words joined by _, own ones begin with {SHARED[0]}"
        yield f"the name {m.key!r} must be {rule}"
    if m.type not in TYPES:
        yield f"type {m.type!r} must be one of {', '.join(TYPES)}"
    if m.unit not in UNITS:
        yield f"unit {m.unit!r} is no base unit{meant(m.unit, UNITS)}"
        return
    if (m.type == "counter") != m.key.endswith("_total"):
        yield "the name of a counter, and of nothing else, ends with _total"
    stem = m.key.removesuffix("_total") if m.type == "counter" else m.key
    if stem.endswith(RESERVED):
        yield f"the name must not end with one of {', '.join(RESERVED)}: histograms need them"
    if not stem.endswith(EXTRA.get(m.unit, (UNITS[m.unit],))):
        yield f"a name of unit {m.unit!r} must end with {UNITS[m.unit]!r}"
    if (m.type == "histogram") != bool(m.buckets) or sorted(set(m.buckets)) != list(m.buckets):
        yield "a histogram, and nothing else, has buckets, from low to high"
    if not m.help.endswith(".") or "\n" in m.help or "\\" in m.help:
        yield "help must be one sentence on one line"


def _check_settings(contract: Contract) -> None:
    edges, slow = contract.metrics["request_duration_seconds"].buckets, "slow_seconds"
    if contract.settings[slow] not in edges:
        raise ContractError(
            f"$.settings.{slow}: {contract.settings[slow]!r} must be a bucket of "
            f"request_duration_seconds, one of {', '.join(map(str, edges))}"
        )


def _check_panels(contract: Contract) -> None:
    shown = [p for d in contract.dashboards.values() for row in d["rows"].values() for p in row]
    for name in set(shown) ^ set(contract.panels):
        raise ContractError(f"$.panels.{name}: each panel must be in one row of a dashboard")
    for m in contract.metrics.values():
        if m.panel not in contract.panels:
            near = meant(m.panel, contract.panels)
            raise ContractError(f"$.metrics.{m.key}.panel: {m.panel!r} is not a panel{near}")
