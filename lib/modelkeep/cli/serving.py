"""Commands of serving: the prediction server, reports on alerts, the monitoring files."""

from pathlib import Path

from modelkeep.cli import commands
from modelkeep.cli.commands import Output


@commands.command("serve -p port=9000")
@commands.parameters
def serve(root: Path, parameters: tuple) -> Output:
    """Answer rows over HTTP, and log each prediction."""
    from modelkeep.ops import serve

    serve.run(root, serve.settings(root, dict(parameters)))
    return Output("Stopped; every answer that was given is logged.", {"state": "done"})


@commands.command("investigate -p port=9001")
@commands.parameters
def investigate(root: Path, parameters: tuple) -> Output:
    """Take alerts from Alertmanager, and make a report for each."""
    from modelkeep.notifications import delivery
    from modelkeep.ops import investigate

    investigate.run(root, investigate.settings(root, dict(parameters)), delivery.begin)
    return Output("Stopped; what waits is made at the next start.", {"state": "done"})


@commands.command("monitoring")
def monitoring(root: Path) -> Output:
    """Generate rules and dashboards from monitoring/metrics.yaml."""
    from modelkeep.monitoring import generate

    changed = generate.write(root)
    return Output("\n".join(changed) or "monitoring/ was as metrics.yaml has it.", changed)
