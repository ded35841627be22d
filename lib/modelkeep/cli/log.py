"""The command `modelkeep log`: export the prediction log, and drop what is old."""

import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import click

from modelkeep.cli import commands
from modelkeep.cli.commands import Output
from modelkeep.core.markup import count

if TYPE_CHECKING:
    from modelkeep.predictions.removal import Removed


@click.group(cls=commands.Group)
def log() -> None:
    """The prediction log: export it, drop what is old."""


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


@action("prune --keep-days 90")
@click.option("--keep-days", type=click.FloatRange(0, min_open=True), required=True)
def prune(root: Path, keep_days: float) -> Output:
    """Remove predictions and labels older than so many days, while servers go on writing.

    `keep_days` in params/serve.yaml lets the server do it by itself.
    """
    from modelkeep.core import workspace
    from modelkeep.predictions.log import DAY, open_log

    url = str(workspace.params(root, "serve")["log"])
    with closing(open_log(url, root=root, create=False)) as opened:
        gone = opened.prune(time.time_ns() // 1000 - round(keep_days * DAY))
        total = opened.removed()
    lines = [f"{_rows(gone)} removed"]
    lines += [f"{reason}: {_rows(each)} in all" for reason, each in total.items()]
    data = {"removed": gone._asdict(), **{name: each._asdict() for name, each in total.items()}}
    return Output("\n".join(lines), data)


def _rows(gone: "Removed") -> str:
    return f"{count(gone.predictions, 'prediction')} and {count(gone.labels, 'label')}"
