"""The command `modelkeep rollout`: plan it, start it, see where it stands, hold it, end it."""

import sys
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import asdict
from pathlib import Path

import click

from modelkeep.cli import commands
from modelkeep.cli.commands import Output


@click.group(cls=commands.Group)
def rollout() -> None:
    """Try a model on few entities: canary or shadow."""


def action(example: str, notifies: bool = False) -> Callable:
    """A decorator: the function is an action of `modelkeep rollout`."""
    epilog = f"Example: modelkeep rollout {example}"
    return rollout.command(cls=commands.Command, epilog=epilog, notifies=notifies)


def takes_id(function: Callable) -> Callable:
    """A decorator: the action is about a rollout, by default the last one."""
    return click.argument("id", default="", metavar="[ID]")(function)


def takes_reason(function: Callable) -> Callable:
    """A decorator: the action takes a reason for the record."""
    return click.option("--reason", metavar="WHY", default="", help="Goes on record.")(function)


@action("plan --days 3")
@click.option("--days", type=float, default=7.0, show_default=True, help="Days of the log.")
def plan(root: Path, days: float) -> Output:
    """Print what each step needs at this traffic, and the risks.

    Where the plan of params/rollout.yaml cannot finish, one that this traffic can decide is
    proposed, and taken by `start` (`fit_plan`).
    """
    from modelkeep.reports import rollout
    from modelkeep.rollout import control

    with closing(control.open_log(root)) as log:
        found = control.planned(root, log, time.time(), days)
    return Output(rollout.planned(found), asdict(found))


@action("start v1.2.0 --shadow")
@click.argument("model", type=commands.Version(), metavar="VERSION|SHA256")
@click.option("--shadow", is_flag=True, help="A shadow deployment: it predicts beside, silently.")
@click.option("--anyway", is_flag=True, help="Also where the plan cannot finish.")
@takes_reason
def start(root: Path, model: str, shadow: bool, anyway: bool, reason: str) -> Output:
    """Begin a rollout.

    The model is a version, or a bundle of the store by its hash.
    """
    from modelkeep.rollout import control, rollout_log

    kind = rollout_log.SHADOW if shadow else rollout_log.CANARY
    settings = {"kind": kind, "reason": reason, "anyway": anyway}
    return _shown(control.start(root, model, time.time(), **settings))


@action("status --json")
@takes_id
def status(root: Path, id: str) -> Output:
    """Print where a rollout stands, with its evidence."""
    from modelkeep.rollout import rollout_log

    return _shown(rollout_log.find(root, id))


@action("pause --reason 'a holiday, nobody is here'")
@takes_id
@takes_reason
def pause(root: Path, id: str, reason: str) -> Output:
    """Hold the share where it is.

    Only a canary that fails outright goes back meanwhile.
    """
    return _noted(root, "pause", id, reason)


@action("resume")
@takes_id
@takes_reason
def resume(root: Path, id: str, reason: str) -> Output:
    """Go on after a pause."""
    return _noted(root, "resume", id, reason)


@action("abort --reason 'the wrong model'", notifies=True)
@takes_id
@takes_reason
def abort(root: Path, id: str, reason: str) -> Output:
    """End a rollout: the champion serves all requests again."""
    return _noted(root, "abort", id, reason)


@action("run --once", notifies=True)
@click.option("--once", is_flag=True, help="One analysis if it is due, as from cron.")
@takes_id
def run(root: Path, once: bool, id: str) -> Output:
    """Analyse when it is due, until the rollout ends."""
    from modelkeep.reports import rollout
    from modelkeep.rollout import control

    def report(found: object) -> None:
        last = rollout.verdict(found)
        reason = f" ({last.reasons[0]})" if last.reasons else ""
        line = f"{time.strftime('%H:%M:%S')} {last.sentence}{reason}"
        print(line, file=sys.stderr, flush=True)

    with closing(control.open_log(root)) as log:
        controller = control.Controller(root, log, time.time, id)
        return _shown(control.run(controller, time.sleep, report, once))


def _noted(root: Path, event: str, id: str, reason: str) -> Output:
    from modelkeep.rollout import control

    return _shown(control.note(root, event, time.time(), reason, id))


def _shown(found: object) -> Output:
    from modelkeep.reports import rollout

    return Output(rollout.text(found), rollout.state(found))
