"""The folder monitoring/: everything that is made from the contract, and whether it still is."""

from pathlib import Path

from modelkeep.core import files
from modelkeep.monitoring import contract, dashboards, rules
from modelkeep.monitoring.contract import MOST_SERIES, Contract

HEAD = """<!-- Made by `modelkeep monitoring` from metrics.yaml: change that file, and run it again. -->
# Metrics, rules and alerts

`metrics.yaml` is the contract; the rest of this folder but `targets.yml` and `compose.yml` is made from it by `modelkeep monitoring`.
Write your replicas into `targets.yml`; then `docker compose --file monitoring/compose.yml up` starts Prometheus, Alertmanager and Grafana (http://localhost:3000).
Without Docker, start `prometheus --config.file=monitoring/prometheus.yml` and `alertmanager --config.file=monitoring/alertmanager.yml`.
"""


def make(of: Contract) -> dict[str, str]:
    """Return every made file of monitoring/ by its name."""
    return {**rules.files(of), **dashboards.files(of), "README.md": _page(of)}


def write(root: Path) -> list[str]:
    """Bring monitoring/ to what the contract says; return the files that changed."""
    folder, changed = (root / contract.FILE).parent, []
    for name, text in make(contract.read(root / contract.FILE)).items():
        path = folder / name
        if not path.is_file() or path.read_text(encoding="utf-8") != text:
            files.write_text(path, text)
            changed.append(path.relative_to(root).as_posix())
    return changed


def _page(of: Contract) -> str:
    parts = [HEAD, "## Metrics\n", _metrics(of), "## Alerts\n", _alerts(of)]
    return "\n".join(parts)


def _metrics(of: Contract) -> str:
    count = MOST_SERIES - of.drift_series
    lines = [
        f"At most {MOST_SERIES:,} series a replica, whatever the traffic and the table: {count:,} at most for all but live drift, which takes bins and, in the end, columns out until it fits.",
        "Labels have closed sets of values; no value of a row becomes a label. All series are there, at 0, before the first request.",
        "",
        "| metric | type | unit | labels | what it is | threshold |",
        "|---|---|---|---|---|---|",
    ]
    for m in of.metrics.values():
        limit = f"{m.threshold}: {of.settings[m.threshold]}" if m.threshold else ""
        labels = ", ".join(m.labels)
        lines.append(f"| `{m.name}` | {m.type} | {m.unit} | {labels} | {m.help} | {limit} |")
    return "\n".join(lines) + "\n"


def _alerts(of: Contract) -> str:
    values, parts = rules.settings(of), []
    for name, stated in of.alerts.items():
        said = rules.fill(stated["description"], values)
        parts += [
            f"### {name}\n",
            f"{rules.fill(stated['summary'], values)} ({stated['severity']}).",
        ]
        parts += [said, "", f"```promql\n{rules.fill(stated['expr'], values)}\n```\n"]
    return "\n".join(parts)
