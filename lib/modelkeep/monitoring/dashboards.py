"""The Grafana dashboards, built from the contract's panels with Grafana's own typed SDK."""

import json
from collections.abc import Mapping
from itertools import count

from modelkeep.monitoring import rules
from modelkeep.monitoring.contract import Contract
from modelkeep.monitoring.rules import Panel

SOURCE = "modelkeep-prometheus"
FOLDER = "/etc/grafana/modelkeep"  # where compose.yml mounts grafana/dashboards
WIDE, NARROW, HIGH = 8, 4, 8  # of the 24 columns of a dashboard; heights in its own unit


def files(contract: Contract) -> dict[str, str]:
    """Return what Grafana reads, by the name of its file: data source, provider, dashboards."""
    source = {"name": "Prometheus", "uid": SOURCE, "type": "prometheus", "access": "proxy"}
    source |= {"url": "http://localhost:9090", "isDefault": True, "editable": False}
    source |= {"jsonData": {"timeInterval": str(contract.settings["scrape"])}}
    provider = {"name": "modelkeep", "type": "file", "folder": "Modelkeep"}
    provider |= {"options": {"path": FOLDER}, "allowUiUpdates": False}
    made = {
        "grafana/provisioning/datasources/prometheus.yml": rules.as_yaml(
            {"apiVersion": 1, "datasources": [source]}
        ),
        "grafana/provisioning/dashboards/modelkeep.yml": rules.as_yaml(
            {"apiVersion": 1, "providers": [provider]}
        ),
    }
    found = rules.panels(contract)
    for name, stated in contract.dashboards.items():
        made[f"grafana/dashboards/{name}.json"] = _dashboard(name, stated, found)
    return made


def _dashboard(name: str, stated: Mapping, found: Mapping[str, Panel]) -> str:
    from grafana_foundation_sdk.builders import dashboard
    from grafana_foundation_sdk.cog.encoder import JSONEncoder

    board = dashboard.Dashboard(stated["title"]).uid(f"modelkeep-{name}").tags(["modelkeep"])
    board = board.time("now-24h", "now").refresh("1m").timezone("browser").readonly()
    numbers = count(1)  # Grafana needs another id for each
    for title, names in stated["rows"].items():
        board = board.with_row(dashboard.Row(title).id(next(numbers)))
        for each in names:
            board = board.with_panel(_panel(found[each]).id(next(numbers)))
    text = JSONEncoder(sort_keys=True, indent=1).encode(board.build())
    return json.dumps(json.loads(text), indent=1, ensure_ascii=False) + "\n"


def _panel(panel: Panel):
    from grafana_foundation_sdk.builders import common, prometheus, stat, timeseries
    from grafana_foundation_sdk.models.common import GraphThresholdsStyleMode
    from grafana_foundation_sdk.models.dashboard import DataSourceRef

    wide = panel.kind == "timeseries"
    made = timeseries.Panel() if wide else stat.Panel()
    source = DataSourceRef("prometheus", SOURCE)
    made = made.title(panel.title).unit(panel.unit).datasource(source)
    made = made.description(" ".join(panel.shows)).span(WIDE if wide else NARROW).height(HIGH)
    for number, (legend, expr) in enumerate(panel.queries.items()):
        query = prometheus.Dataquery().expr(expr).legend_format(legend).ref_id(chr(65 + number))
        made = made.with_target(query.range() if wide else query.instant())
    if panel.threshold is not None:
        made = made.thresholds(_threshold(panel.threshold))
        style = common.GraphThresholdsStyleConfig().mode(GraphThresholdsStyleMode.DASHED)
        made = made.thresholds_style(style)
    return made


def _threshold(value: float):
    from grafana_foundation_sdk.builders.dashboard import ThresholdsConfig
    from grafana_foundation_sdk.models.dashboard import Threshold, ThresholdsMode

    steps = [Threshold(None, "transparent"), Threshold(value, "red")]
    return ThresholdsConfig().mode(ThresholdsMode.ABSOLUTE).steps(steps)
