"""The command for cron and workflows: one unattended update."""

import time
from pathlib import Path

import click

from modelkeep.cli import commands
from modelkeep.cli.commands import Output


@commands.command("update --dry-run")
@click.option("--dry-run", is_flag=True, help="Say what it would do, and change nothing.")
@click.option("--at", metavar="DATE", default="", help="A date or time, UTC (default: now).")
def update(root: Path, dry_run: bool, at: str) -> Output:
    """Run one unattended retraining cycle.

    Labelled rows go into history; the monitor judges the champion; perhaps a candidate is
    trained, judged, released and rolled out.
    """
    from modelkeep.ops import update
    from modelkeep.registry import timeline

    now = float(timeline.moment(at)) if at else time.time()
    found = update.run(root, now, dry_run)
    return Output(found["text"], found["json"], found["code"])
