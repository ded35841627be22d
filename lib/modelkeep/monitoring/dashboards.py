"""The Grafana dashboards, built from the contract's panels with Grafana's own typed SDK."""

import json
import re
from collections.abc import Mapping, Sequence
from itertools import count

from modelkeep.monitoring import rules
from modelkeep.monitoring.contract import Contract
from modelkeep.monitoring.rules import Panel

SOURCE = "${datasource}"
PROVISIONED = "modelkeep-prometheus"
# A target's label `model` (targets.yml) names what several replicas serve; it may be absent.
VARIABLES = {
    "model": "label_values(modelkeep_model_info, model)",
    "version": 'label_values(modelkeep_model_info{model=~"$model"}, version)',
    "instance": 'label_values(modelkeep_model_info{model=~"$model"}, instance)',
    "cohort": "label_values(modelkeep_cohort_rows, cohort)",
}
REPORTS = {"drift": "ModelkeepDrift", "missing": "ModelkeepMissing", "skill": "ModelkeepQuality"}
SELECTOR = re.compile(r"\b((?:modelkeep[_:]|process_|scrape_)[a-z0-9_:]+)(?:{([^}]*)})?")
FOLDER = "/etc/grafana/modelkeep"  # where compose.yml mounts grafana/dashboards
WIDE, NARROW, HIGH = 8, 4, 8  # of the 24 columns of a dashboard; heights in its own unit


def files(contract: Contract) -> dict[str, str]:
    """Return what Grafana reads, by the name of its file: data source, provider, dashboards."""
    source = {"name": "Prometheus", "uid": PROVISIONED, "type": "prometheus", "access": "proxy"}
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
    for name, stated in contract.dashboards.items():
        made[f"grafana/dashboards/{name}.json"] = _dashboard(name, stated, contract)
    return made


def _dashboard(name: str, stated: Mapping, contract: Contract) -> str:
    from grafana_foundation_sdk.builders import dashboard
    from grafana_foundation_sdk.cog.encoder import JSONEncoder

    values, panels = rules.settings(contract), rules.panels(contract)
    board = dashboard.Dashboard(stated["title"]).uid(f"modelkeep-{name}").tags(["modelkeep"])
    board = board.time("now-24h", "now").refresh("1m").timezone("browser").readonly()
    for variable in _variables():
        board = board.with_variable(variable)
    for title, each in contract.annotations.items():
        board = board.annotation(_annotation(title, each))
    for title, path in (("Reports of alerts", "/"), ("Runbook", "/runbook")):
        board = board.link(_link(title, values["investigate"] + path))
    numbers = count(1)  # Grafana needs another id for each
    for title, names in stated["rows"].items():
        board = board.with_row(dashboard.Row(title).id(next(numbers)))
        for each in names:
            reports = _reports(each, contract, values)
            board = board.with_panel(_panel(panels[each], reports).id(next(numbers)))
    made = json.loads(JSONEncoder(sort_keys=True, indent=1).encode(board.build()))
    for each in made["annotations"]["list"]:
        # of the Prometheus data source, which the SDK's types do not describe
        each["titleFormat"] = contract.annotations[each["name"]]["title"]
    return json.dumps(made, indent=1, ensure_ascii=False) + "\n"


def _variables() -> list:
    from grafana_foundation_sdk.builders import dashboard
    from grafana_foundation_sdk.models.dashboard import DataSourceRef, VariableRefresh

    source = dashboard.DatasourceVariable("datasource").label("data source").type("prometheus")
    made = [source]
    for name, query in VARIABLES.items():
        variable = dashboard.QueryVariable(name).query(query).include_all(True).multi(True)
        variable = variable.all_value(".*").refresh(VariableRefresh.ON_TIME_RANGE_CHANGED)
        made.append(variable.datasource(DataSourceRef("prometheus", SOURCE)))
    return made


def _annotation(name: str, stated: Mapping):
    from grafana_foundation_sdk.builders import dashboard
    from grafana_foundation_sdk.models.dashboard import DataSourceRef

    made = dashboard.AnnotationQuery().name(name).datasource(DataSourceRef("prometheus", SOURCE))
    return made.enable(True).icon_color(stated["colour"]).expr(stated["expr"])


def _link(title: str, address: str):
    from grafana_foundation_sdk.builders import dashboard
    from grafana_foundation_sdk.models.dashboard import DashboardLinkType

    made = dashboard.DashboardLink(title).type(DashboardLinkType.LINK).url(address)
    return made.target_blank(True)


def _reports(panel: str, contract: Contract, values: Mapping[str, str]) -> list:
    """Links from a panel to the newest report of the alert whose threshold it shows."""
    alert = REPORTS.get(panel)
    if alert not in contract.alerts:
        return []
    return [
        _link(f"Report of {alert}", f"{values['investigate']}/reports/{alert}?version=$version")
    ]


def _selected(expr: str, legend: str) -> str:
    """Return a query that keeps to the variables: by the labels that its legend shows.

    Recorded series have no other labels; a metric of a replica has its instance.
    """

    def selector(match: re.Match) -> str:
        name, stated = match[1], match[2] or ""
        labels = [each for each in VARIABLES if f"{{{{{each}}}}}" in legend and each != "model"]
        if ":" not in name and "instance" not in labels:
            labels.append("instance")
        chosen = [f'{label}=~"${label}"' for label in labels]
        return f"{name}{{{','.join([*filter(None, [stated]), *chosen])}}}" if chosen else name

    return SELECTOR.sub(selector, expr)


def _panel(panel: Panel, links: Sequence = ()):
    from grafana_foundation_sdk.builders import common, prometheus, stat, timeseries
    from grafana_foundation_sdk.models.common import GraphThresholdsStyleMode
    from grafana_foundation_sdk.models.dashboard import DataSourceRef

    wide = panel.kind == "timeseries"
    made = timeseries.Panel() if wide else stat.Panel()
    source = DataSourceRef("prometheus", SOURCE)
    made = made.title(panel.title).unit(panel.unit).datasource(source)
    made = made.links(list(links))
    made = made.description(" ".join(panel.shows)).span(WIDE if wide else NARROW).height(HIGH)
    for number, (legend, expr) in enumerate(panel.queries.items()):
        query = prometheus.Dataquery().expr(_selected(expr, legend)).legend_format(legend)
        query = query.ref_id(chr(65 + number))
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
