"""The commands for cron and workflows: one unattended update, and notifications."""

import signal
import sys
import time
from pathlib import Path

import click

from modelkeep.cli import commands
from modelkeep.cli.commands import Output
from modelkeep.core.errors import ModelkeepError


@commands.command("update --dry-run", notifies=True)
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

    # where it is to end, it leaves no worktree behind; killed, the next one deletes it
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    now = float(timeline.moment(at)) if at else time.time()
    found = update.run(root, now, dry_run)
    if not dry_run:
        _keep(root, found["json"], now)
    return Output(found["text"], found["json"], found["code"])


@commands.command("notify --test")
@click.option("--test", is_flag=True, help="Send a message that says only that it arrives.")
def notify(root: Path, test: bool) -> Output:
    """Send the events that wait, by webhook and mail.

    Other commands do so by themselves, in the background; params/notify.yaml says where to.
    """
    from modelkeep.notifications import channels, delivery

    settings = channels.settings(root)
    done = delivery.test(root, settings, time.time()) if test else delivery.deliver(root, settings)
    failed = any(each.problem for each in done)
    facts = [
        {"event": d.event.id, "kind": d.event.kind, "channel": d.channel, "problem": d.problem}
        for d in done
    ]
    return Output(delivery.text(settings, done), facts, commands.FAILED if failed else 0)


def _keep(root: Path, result: dict, now: float) -> None:
    from modelkeep.notifications import channels, events

    try:
        if channels.settings(root).channels:
            events.keep_update(root, result, now)
    except (ModelkeepError, OSError) as error:
        print(f"modelkeep: nobody is notified: {error}", file=sys.stderr, flush=True)
