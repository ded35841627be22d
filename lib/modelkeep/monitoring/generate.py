"""The folder monitoring/: everything that is made from the contract, and whether it still is."""

from pathlib import Path

from modelkeep.core import files
from modelkeep.monitoring import dashboards, rules
from modelkeep.monitoring.contract import FILE, MOST_SERIES, Contract, read

HEAD = """\
<!-- Made by `modelkeep monitoring` from metrics.yaml: change that file, and run it again. -->
# Metrics, rules and alerts

`metrics.yaml` is the contract; the rest of this folder but `targets.yml` and `compose.yml` is made
from it by `modelkeep monitoring`.
Write your replicas into `targets.yml`; then `docker compose --file monitoring/compose.yml up`
starts Prometheus, Alertmanager and Grafana (http://localhost:3000).
Without Docker, start `prometheus --config.file=monitoring/prometheus.yml` and
`alertmanager --config.file=monitoring/alertmanager.yml`.
"""


def make(contract: Contract) -> dict[str, str]:
    """Return every made file of monitoring/ by its name."""
    return {**rules.files(contract), **dashboards.files(contract), "README.md": _page(contract)}


def write(root: Path) -> list[str]:
    """Bring monitoring/ to what the contract says; return the files that changed."""
    folder, changed = (root / FILE).parent, []
    for name, text in make(read(root / FILE)).items():
        path = folder / name
        if not path.is_file() or path.read_text(encoding="utf-8") != text:
            files.write_text(path, text)
            changed.append(path.relative_to(root).as_posix())
    return changed


def _page(contract: Contract) -> str:
    parts = [HEAD, "## Metrics\n", _metrics(contract), "## Alerts\n", _alerts(contract)]
    return "\n".join(parts)


def _metrics(contract: Contract) -> str:
    count = MOST_SERIES - contract.drift_series
    lines = [
        f"At most {MOST_SERIES:,} series a replica, whatever the traffic and the table: {count:,} "
        "at most for all but live drift, which merges bins and leaves out columns until it fits.",
        "Labels have closed sets of values; no value of a row becomes a label. All series are "
        "there, at 0, before the first request.",
        "",
        "| metric | type | unit | labels | what it is | threshold |",
        "|---|---|---|---|---|---|",
    ]
    for m in contract.metrics.values():
        limit = f"{m.threshold}: {contract.settings[m.threshold]}" if m.threshold else ""
        labels = ", ".join(m.labels)
        lines.append(f"| `{m.name}` | {m.type} | {m.unit} | {labels} | {m.help} | {limit} |")
    return "\n".join(lines) + "\n"


def _alerts(contract: Contract) -> str:
    values, parts = rules.settings(contract), []
    for name, stated in contract.alerts.items():
        description = rules.fill(stated["description"], values)
        parts += [
            f"### {name}\n",
            f"{rules.fill(stated['summary'], values)} ({stated['severity']}).",
        ]
        parts += [description, "", f"```promql\n{rules.fill(stated['expr'], values)}\n```\n"]
    return "\n".join(parts)
