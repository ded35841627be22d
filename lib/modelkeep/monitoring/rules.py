"""Configuration, recording rules and alerts of Prometheus and Alertmanager, from the contract."""

import io
import re
from collections.abc import Mapping
from dataclasses import dataclass

from prometheus_client.utils import floatToGoString

from modelkeep.core.errors import ModelkeepError
from modelkeep.monitoring.contract import Contract

MADE = "# Made by `modelkeep monitoring` from metrics.yaml: change that file, and run it again.\n"
SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
SPAN = re.compile(r"(\d+)([smhd])")
BOUND = re.compile(r"<bound\(([a-z_:]+), ([a-z_:]+)\)>")
WHOLE_DAY = 0.9  # of the steps of a day must be there before drift is judged


class RulesError(ModelkeepError, ValueError):
    """A setting that is missing, or is not what a rule needs."""


def seconds(span: object) -> int:
    """Return a span of time as Prometheus writes it, such as 5m, in seconds."""
    match = SPAN.fullmatch(str(span))
    if not match:
        raise RulesError(f"{span!r} is not a span of time; write a number and one of s, m, h, d")
    return int(match[1]) * SECONDS[match[2]]


def settings(contract: Contract, changes: Mapping[str, object] | None = None) -> dict[str, str]:
    """Return what the names in angle brackets stand for; `changes` go before the contract's own."""
    values = {**contract.settings, **(changes or {})}
    step, day, scrape = (seconds(values[name]) for name in ("step", "day", "scrape"))
    follows = {
        "day_range": f"{day * 1000 - step * 500}ms",  # so that neither end holds one step more
        "day_steps": int(WHOLE_DAY * day / step),
        "since": f"{step + scrape}s",  # the last step, as of one scrape ago like this one
        "young_seconds": step + 3 * scrape,
        "slow_le": floatToGoString(values["slow_seconds"]),
    }
    return {name: str(value) for name, value in (values | follows).items()}


def fill(text: str, values: Mapping[str, str]) -> str:
    """Put settings in the place of their names."""

    def value(match: re.Match) -> str:
        if match[1] not in values:
            raise RulesError(f"<{match[1]}> in {text!r} is not a setting; there is: {[*values]}")
        return values[match[1]]

    text = BOUND.sub(lambda match: _bound(match[1], match[2]), str(text))
    return re.sub(r"<([a-z_]+)>", value, text)


def _bound(ratio: str, rows: str) -> str:
    """Return the lower limit of a ratio of so many rows (Wilson 1927), `bound_z` errors below."""
    share, z = f"clamp_max({ratio}, 1)", "<bound_z>"
    spread = f"sqrt({share} * (1 - {share}) / {rows} + {z} ^ 2 / (4 * {rows} ^ 2))"
    return f"({share} + {z} ^ 2 / (2 * {rows}) - {z} * {spread}) / (1 + {z} ^ 2 / {rows})"


def files(contract: Contract, changes: Mapping[str, object] | None = None) -> dict[str, str]:
    """Return the configuration and the rules by the name of their file."""
    values = settings(contract, changes)
    return {
        "prometheus.yml": as_yaml(_prometheus(values)),
        "rules/records.yml": as_yaml(_records(contract, values)),
        "rules/alerts.yml": as_yaml(_alerts(contract, values)),
        "alertmanager.yml": as_yaml(_alertmanager(values)),
    }


def as_yaml(content: object) -> str:
    """Return content as YAML, its order kept, under a line that says where it comes from."""
    from ruamel.yaml import YAML

    yaml, text = YAML(typ="rt", pure=True), io.StringIO()
    yaml.width, yaml.default_flow_style = 10_000, False
    yaml.dump(content, text)
    return MADE + text.getvalue()


def _prometheus(values: Mapping[str, str]) -> dict:
    every = values["scrape"]
    return {
        "global": {"scrape_interval": every, "scrape_timeout": every, "evaluation_interval": every},
        "rule_files": ["rules/*.yml"],
        "alerting": {
            "alertmanagers": [{"static_configs": [{"targets": [values["alertmanager"]]}]}]
        },
        "scrape_configs": [
            {
                "job_name": "modelkeep",
                "sample_limit": 2500,
                "file_sd_configs": [{"files": ["targets.yml"], "refresh_interval": every}],
            }
        ],
    }


def _records(contract: Contract, values: Mapping[str, str]) -> dict:
    groups = []
    for name, group in contract.records.items():
        rules = [{"record": k, "expr": fill(v, values)} for k, v in group["rules"].items()]
        every = fill(group["every"], values)
        groups.append({"name": f"modelkeep-{name}", "interval": every, "rules": rules})
    return {"groups": groups}


def _alerts(contract: Contract, values: Mapping[str, str]) -> dict:
    rules = []
    for name, stated in contract.alerts.items():
        annotations = {"summary": stated["summary"], "description": stated["description"]}
        if stated.get("report"):  # the others are not about a model
            address = f"<investigate>/reports/{name}?version={{{{ $labels.version }}}}"
            annotations |= {"report": address}
        annotations |= {"runbook_url": f"<investigate>/runbook/{name}"}
        rules.append(
            {
                "alert": name,
                "expr": fill(stated["expr"], values),
                "for": fill(stated["for"], values),
                "labels": {"severity": stated["severity"], "service": "modelkeep"},
                "annotations": {k: fill(v, values) for k, v in annotations.items()},
            }
        )
    return {"groups": [{"name": "modelkeep-alerts", "rules": rules}]}


def described(contract: Contract) -> dict[str, dict]:
    """Return the contract's alerts for people: settings filled in, labels by their names."""
    values = settings(contract)

    def text(stated: object) -> object:
        if not isinstance(stated, str):
            return stated
        return re.sub(r"{{ *\$(?:labels\.)?(\w+)[^}]*}}", r"(\1)", fill(stated, values))

    return {
        name: {key: text(value) for key, value in stated.items()}
        for name, stated in contract.alerts.items()
    }


def _alertmanager(values: Mapping[str, str]) -> dict:
    hook = {"url": f"{values['investigate']}/alerts", "send_resolved": True, "max_alerts": 100}
    down = {"source_matchers": ["alertname = ModelkeepDown"]}
    silent = {"target_matchers": ["alertname =~ ModelkeepNoTraffic|ModelkeepNoLabels"]}
    return {
        "route": {
            "receiver": "investigate",
            "group_by": ["alertname", "version"],
            "group_wait": values["group_wait"],
            "group_interval": values["hold"],
            "repeat_interval": "12h",
        },
        "receivers": [{"name": "investigate", "webhook_configs": [hook]}],
        "inhibit_rules": [down | silent],
    }


@dataclass(frozen=True)
class Panel:
    """One picture of a dashboard: queries by legend, and the threshold that is drawn in."""

    name: str
    title: str
    unit: str
    kind: str
    queries: Mapping[str, str]
    threshold: float | None
    shows: tuple[str, ...]  # what the metrics behind it are, in sentences


def panels(contract: Contract, changes: Mapping[str, object] | None = None) -> dict[str, Panel]:
    """Return every panel by its name, with its settings filled in."""
    values, made = settings(contract, changes), {}
    for name, stated in contract.panels.items():
        behind = [m for m in contract.metrics.values() if m.panel == name]
        limits = [float(values[m.threshold]) for m in behind if m.threshold]
        queries = {fill(k, values): fill(v, values) for k, v in stated["queries"].items()}
        made[name] = Panel(
            name,
            stated["title"],
            stated["unit"],
            stated.get("kind", "timeseries"),
            queries,
            limits[0] if limits else None,
            tuple(m.help for m in behind),
        )
    return made
