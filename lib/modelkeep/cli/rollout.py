"""The command `modelkeep rollout`: plan it, start it, see where it stands, hold it, end it, or let it run"""

import argparse
import sys
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path


def add(commands: argparse._SubParsersAction) -> None:
    """Add the command and what can be done with it."""
    text = "Try a model on few entities, and let evidence decide whether its share grows."
    parser = commands.add_parser("rollout", help=text, description=text)
    actions = parser.add_subparsers(required=True, metavar="ACTION")
    one = subcommand(actions, plan, "modelkeep rollout plan --days 3")
    one.add_argument("--days", type=float, default=7.0, help="of the log that are looked at (%(default)s)")  # fmt: skip
    one = subcommand(actions, start, "modelkeep rollout start 5f79afb6c2 --shadow")
    one.add_argument("model", metavar="VERSION|SHA256", help="a model of the store")
    one.add_argument("--shadow", action="store_true", help="let it answer the same rows, heard by nobody")  # fmt: skip
    one.add_argument("--anyway", action="store_true", help="also where the plan says that it cannot finish")  # fmt: skip
    _takes_reason(one)
    _takes_id(subcommand(actions, status, "modelkeep rollout status --json"))
    for action in (pause, resume, abort):
        example = f"modelkeep rollout {action.__name__} --reason 'a holiday, nobody is here'"
        one = subcommand(actions, action, example)
        _takes_reason(one)
        _takes_id(one)
    one = subcommand(actions, run, "modelkeep rollout run --once")
    one.add_argument("--once", action="store_true", help="one look if it is due, as from cron")
    _takes_id(one)


def plan(root: Path, arguments: argparse.Namespace) -> dict:
    """Say what each step needs at the traffic of the last days; refuse what cannot finish."""
    from modelkeep.rollout import control

    with closing(control.open_log(root)) as log:
        found, seen = control.planned(root, log, time.time(), arguments.days)
    before = {"rate": seen.rate, "entities": seen.entities, "base": seen.base}
    rates = ", ".join(f"{name} {rate:.2%}" for name, rate in seen.base.items())
    lines = [f"The champion answers {seen.rate:,.2f} new entities a second; bad: {rates}."]
    for need in found.steps:
        share, margin = f"{need.share:.0%}", f"{need.margin:g} times worse"
        lines.append(f"  {share:>4}, until {margin} is refuted: {need.rows:,.0f} answers, {need.hours:.2f} h; the canary gives {need.exposed:,.0f}")  # fmt: skip
    return {"json": {**found.as_dict(), "before": before}, "text": "\n".join([*lines, found.sentence])}  # fmt: skip


def start(root: Path, arguments: argparse.Namespace) -> dict:
    """Begin a rollout: the model gets the first step's share, or whispers as shadow."""
    from modelkeep.rollout import control, journal

    kind = journal.SHADOW if arguments.shadow else journal.CANARY
    asked = {"kind": kind, "reason": arguments.reason, "anyway": arguments.anyway}
    return _told(control.start(root, arguments.model, time.time(), **asked))


def status(root: Path, arguments: argparse.Namespace) -> dict:
    """Say where a rollout stands, with a picture of the evidence over time."""
    from modelkeep.rollout import journal

    return _told(journal.find(root, arguments.id))


def pause(root: Path, arguments: argparse.Namespace) -> dict:
    """Hold the share where it is; only a canary that fails outright goes back meanwhile."""
    return _noted(root, arguments, "pause")


def resume(root: Path, arguments: argparse.Namespace) -> dict:
    """Go on after a pause."""
    return _noted(root, arguments, "resume")


def abort(root: Path, arguments: argparse.Namespace) -> dict:
    """End a rollout: the champion answers everybody again."""
    return _noted(root, arguments, "abort")


def run(root: Path, arguments: argparse.Namespace) -> dict:
    """Look whenever a look is due, until the rollout has ended."""
    from modelkeep.reports import rollout
    from modelkeep.rollout import control

    def say(found: rollout.Journal) -> None:
        last = rollout.verdict(found)
        told = f" ({last.reasons[0]})" if last.reasons else ""
        print(f"{time.strftime('%H:%M:%S')} {last.sentence}{told}", file=sys.stderr, flush=True)

    with closing(control.open_log(root)) as log:
        controller = control.Controller(root, log, time.time, arguments.id)
        return _told(control.run(controller, time.sleep, say, arguments.once))


def _noted(root: Path, arguments: argparse.Namespace, event: str) -> dict:
    from modelkeep.rollout import control

    return _told(control.note(root, event, time.time(), arguments.reason, arguments.id))


def _told(found: object) -> dict:
    from modelkeep.reports import rollout

    return {"json": rollout.told(found), "text": rollout.text(found)}


def subcommand(
    commands: argparse._SubParsersAction, command: Callable[..., dict], example: str
) -> argparse.ArgumentParser:
    """A command of this name, told by its docstring."""
    text = command.__doc__
    parser = commands.add_parser(
        command.__name__, help=text, description=text, epilog=f"Example: {example}"
    )
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    parser.set_defaults(command=command)
    return parser


def _takes_reason(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--reason", default="", help="why, for the record")


def _takes_id(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("id", metavar="ID", nargs="?", default="", help="a rollout; the last one")
