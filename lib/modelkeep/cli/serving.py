"""Commands of serving: the prediction server, reports on alerts, the monitoring files."""

from pathlib import Path

import click

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


@commands.command("trace UA1545-2013-06-01")
@click.argument("id", metavar="ID")
@click.option("--explain", is_flag=True, help="What each column adds to it.")
@click.option("--out", type=click.Path(path_type=Path), help="Also a page, reports/trace.html.")
def trace(root: Path, id: str, explain: bool, out: Path | None) -> Output:
    """Trace a prediction: row, model, evidence, label.

    The model bundle in the store predicts the row again. The exit code is 1 where a byte differs.
    """
    from modelkeep.jobs import trace, trace_page

    found = trace.trace(root, id, explain=explain)
    text = "\n\n".join(map(repr, found))
    if out:
        text += f"\n\n{commands.made(root, trace_page.write(found, out.resolve())).text}"
    code = 0 if all(each.holds for each in found) else commands.FAILED
    return Output(text, [each.as_dict() for each in found], code)


@commands.command("score bookings.csv --out predictions.parquet")
@click.argument("source", metavar="FILE_OR_FOLDER", type=click.Path(path_type=Path, exists=True))
@click.option("--out", type=click.Path(path_type=Path), required=True, help="A folder or a file.")
@click.option("--model", "version", default="", metavar="VERSION", help="Else the champion.")
@click.option("--log", is_flag=True, help="Also to the prediction log, as if they were served.")
@click.option(
    "--processes",
    type=click.IntRange(0),
    default=0,
    metavar="N",
    help="For large Parquet; else one a core.",
)
def score(root: Path, source: Path, out: Path, version: str, log: bool, processes: int) -> Output:
    """Predict the rows of CSV, TSV, Parquet, Feather or Excel files.

    --out is a folder, or a file that ends in .parquet or .csv. A run that was cut off goes on where
    it was; by runs with one --out no row is predicted or logged twice.
    """
    from modelkeep.jobs import score

    done = score.score(root, source.resolve(), out, version, log, commands.progress(), processes)
    return Output(str(done), done.as_dict())


@commands.command("forget N14228 --dry-run")
@click.argument("entity", metavar="ENTITY")
@click.option("--dry-run", is_flag=True, help="Say what would go; change nothing.")
def forget(root: Path, entity: str, dry_run: bool) -> Output:
    """Remove an entity's rows from log, history and cache, with a proof.

    Versions that learned from it are named. The exit code is 1 where a place still holds it.
    """
    from modelkeep.jobs import forget

    found = forget.forget(root, entity, dry_run=dry_run)
    return Output(repr(found), found.as_dict(), 0 if found.holds or dry_run else commands.FAILED)
