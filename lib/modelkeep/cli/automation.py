"""The command for cron and workflows: one unattended update."""

import signal
import sys
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

    \b
    Exit codes:
       0  unchanged        the champion stays
      10  promoted         there is a new champion
      11  in_progress      a rollout goes on, or another cycle is at work
      20  needs_attention  a person is needed; the sentence says for what
      21  failed           nothing was changed; the sentence says why
    """
    from modelkeep.ops import update
    from modelkeep.registry import timeline

    # told to end, it leaves no worktree behind; killed, the next one deletes it
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    now = float(timeline.moment(at)) if at else time.time()
    found = update.run(root, now, dry_run)
    return Output(found["text"], found["json"], found["code"])
