"""The entry point of the command `modelkeep`."""

import os
import sys
from collections.abc import Sequence

import click

import modelkeep
from modelkeep.cli import automation, log, pipeline, rollout, serving, versions
from modelkeep.cli.commands import Sections

INTERRUPTED = 130
CLOSED = 141  # the exit code of who wrote to a pipe that nobody reads any more, as `head` leaves it
COMPLETION = """Completion of names in your shell: one of
  eval "$(_MODELKEEP_COMPLETE=bash_source modelkeep)"
  eval "$(_MODELKEEP_COMPLETE=zsh_source modelkeep)"
"""


def group() -> Sections:
    """All commands, section by section."""
    sections = {
        "Pipeline": [
            pipeline.init,
            pipeline.run,
            pipeline.verdicts,
            pipeline.compare,
            pipeline.search,
            pipeline.index,
            pipeline.clean,
        ],
        "Serving": [
            serving.serve,
            serving.score,
            serving.trace,
            log.log,
            serving.forget,
            serving.investigate,
            serving.monitoring,
        ],
        "Versions": [
            versions.status,
            versions.ship,
            versions.release,
            versions.promote,
            versions.rollback,
            versions.history,
            versions.show,
            versions.card,
            versions.champion,
            versions.sync,
        ],
        "Rollout": [rollout.rollout],
        "Automation": [automation.update, automation.notify],
    }
    return Sections(sections, name="modelkeep", help=modelkeep.__doc__, epilog="\b\n" + COMPLETION)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; 0: done, 1: a notebook failed, 2: the input is wrong."""
    argv = sys.argv[1:] if argv is None else list(argv)
    try:
        code = group().main(argv, prog_name="modelkeep", standalone_mode=False, obj=argv)
        sys.stdout.flush()  # at the interpreter's end it would be too late to be quiet
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return CLOSED
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except click.Abort:
        print("modelkeep: interrupted", file=sys.stderr)
        return INTERRUPTED
    return code or 0
