"""The command `modelkeep log`: take the prediction log out of its database."""

from collections.abc import Callable
from pathlib import Path

import click

from modelkeep.cli import commands
from modelkeep.cli.commands import Output
from modelkeep.core.markup import count


@click.group(cls=commands.Group)
def log() -> None:
    """The prediction log: export it."""


def action(example: str) -> Callable:
    """A decorator: the function is an action of `modelkeep log`."""
    return log.command(cls=commands.Command, epilog=f"Example: modelkeep log {example}")


@action("export --since 2026-05-01 --until 2026-06-01 --out may.parquet")
@click.option("--since", default="", metavar="DATE", help="The first day or moment (UTC).")
@click.option("--until", default="", metavar="DATE", help="The first day or moment after.")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="A Parquet file.")
@click.option("--shadow", is_flag=True, help="Predictions of shadows, too.")
def export(root: Path, since: str, until: str, out: Path, shadow: bool) -> Output:
    """Write predictions with their labels to a Parquet file."""
    from modelkeep.jobs import export
    from modelkeep.predictions import log, records

    roles = (*log.RETURNED, *([records.SHADOW] if shadow else []))
    rows = export.export(root, out, since, until, roles)
    return Output(f"{count(rows, 'prediction')} in {out}", {"rows": rows, "out": str(out)})
