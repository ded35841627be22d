"""Commands of versions: release, promote, roll back; the record of it."""

import time
from pathlib import Path

import click

from modelkeep.cli import commands
from modelkeep.cli.commands import Output


@commands.command("release", notifies=True)
@click.argument("version", type=commands.Version(), default="", metavar="[VERSION]")
@click.option("--force", metavar="REASON", default="", help="Let a failed gate through.")
def release(root: Path, version: str, force: str) -> Output:
    """Register the candidate of this commit as a version.

    A version is a Git tag with its evidence; by default it gets the next number.
    """
    from modelkeep.registry import record, releases

    return _done(releases.release(root, record.read(root), time.time(), version, force))


@commands.command("promote v1.2.0 --reason 'two weeks in shadow'", notifies=True)
@click.argument("version", type=commands.Version(), metavar="VERSION")
@click.option("--reason", metavar="WHY", default="", help="Goes on record.")
@click.option("--other-schema", is_flag=True, help="Clients send its columns now.")
def promote(root: Path, version: str, reason: str, other_schema: bool) -> Output:
    """Make a version champion, on record and in service."""
    from modelkeep.registry import record, releases
    from modelkeep.serving import models

    at, now = record.read(root), time.time()
    return _done(releases.promote(root, at, now, version, reason, other_schema, load=models.load))


@commands.command("rollback --reason 'calls from EWR'", notifies=True)
@click.argument("version", type=commands.Version(), default="", metavar="[VERSION]")
@click.option("--reason", metavar="WHY", default="", help="Goes on record.")
def rollback(root: Path, version: str, reason: str) -> Output:
    """Make a former champion champion again.

    By default that is the champion before; no network is needed.
    """
    from modelkeep.registry import record, releases
    from modelkeep.serving import models

    at, now = record.read(root), time.time()
    return _done(releases.rollback(root, at, now, version, reason, load=models.load))


@commands.command("history --json")
def history(root: Path) -> Output:
    """List the versions, and who was champion when and why."""
    from modelkeep.registry import record, timeline

    at = record.read(root)
    return _agreed(root, at, timeline.history(at))


@commands.command("show v1.2.0")
@click.argument("version", type=commands.Version(), metavar="VERSION")
def show(root: Path, version: str) -> Output:
    """Show the evidence of a version."""
    from modelkeep.registry import record, timeline

    return _printed(timeline.details(record.read(root), version))


@commands.command("card v1.2.0")
@click.argument("version", type=commands.Version(), metavar="VERSION")
def card(root: Path, version: str) -> Output:
    """Print the model card of a version, and write it as a page.

    It is made from the version's tags alone; a section without evidence says so.
    """
    from modelkeep.analyst import card
    from modelkeep.registry import record

    facts = card.facts(record.read(root), version)
    page = card.write(root, facts).relative_to(root).as_posix()
    return Output(f"{card.text(facts)}\n\n{page}", facts | {"page": page})


@commands.command("champion --at 2026-06-01T14:30")
@click.option("--at", metavar="DATE", default="", help="A date or time, UTC (default: now).")
def champion(root: Path, at: str) -> Output:
    """Print which version was champion at a moment."""
    from modelkeep.registry import record, timeline

    moment = timeline.moment(at) if at else int(time.time())
    record_ = record.read(root)
    result = timeline.champion_at(record_, moment)
    return _printed(result) if at else _agreed(root, record_, result)


@commands.command("status")
def status(root: Path) -> Output:
    """Print what is served here, what the record says, what runs."""
    from modelkeep.ops import status

    return _printed(status.status(root))


@commands.command("sync", notifies=True)
def sync(root: Path) -> Output:
    """Serve here what the record says."""
    from modelkeep.ops import status

    return _printed(status.sync(root))


@commands.command("ship", notifies=True)
@click.argument("version", type=commands.Version(), default="", metavar="[VERSION]")
@click.option("--force", metavar="REASON", default="", help="Let a failed gate through.")
@click.option("--anyway", is_flag=True, help="Start also where the plan cannot finish.")
def ship(root: Path, version: str, force: str, anyway: bool) -> Output:
    """Release the committed candidate and start its rollout.

    A version that was released before is taken up where it is; the first one becomes champion.
    """
    from modelkeep.ops import ship

    return _printed(ship.ship(root, time.time(), version, force, anyway))


def _done(done: object) -> Output:
    return Output(str(done), done.as_dict())


def _printed(result: dict) -> Output:
    return Output(result["text"], result["json"])


def _agreed(root: Path, at: object, result: dict) -> Output:
    """With a line more where something else is served here than the record says."""
    from modelkeep.registry import agreement

    found = agreement.compare(root, at)
    text = result["text"] if found.agrees else f"{result['text']}\n{found.sentence}"
    return Output(text, result["json"] | {"served": found.served, "agrees": found.agrees})
