"""The command `modelkeep`."""

import argparse
import gc
import json
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import modelkeep
from modelkeep.cli import rollout
from modelkeep.cli.rollout import subcommand
from modelkeep.core import workspace
from modelkeep.core.errors import ModelkeepError

FAILED, BAD_INPUT, INTERRUPTED = 1, 2, 130


def main(argv: Sequence[str] | None = None) -> int:
    """Run one subcommand; 0: done, 1: a notebook failed, 2: the input is wrong."""
    argv = sys.argv[1:] if argv is None else list(argv)
    arguments = _parser().parse_args(argv)
    try:
        root = workspace.root()
        _use_own_library(root, argv)
        result = arguments.command(root, arguments)
    except KeyboardInterrupt:
        print("modelkeep: interrupted", file=sys.stderr)
        return INTERRUPTED
    except ModelkeepError as error:  # what else is raised is a defect of ours
        print(f"modelkeep: {error}", file=sys.stderr)
        page = getattr(error, "page", None)
        if arguments.json:
            told = {"page": str(page)} if page else {}
            print(json.dumps({"state": "failed", "error": str(error), **told}, indent=1))
        return FAILED if page else BAD_INPUT
    print(json.dumps(result["json"], indent=1) if arguments.json else result["text"])
    return result.get("code", 0)


def run(root: Path, arguments: argparse.Namespace) -> dict:
    """Run a stage's notebook strictly."""
    from modelkeep.core import runner
    from modelkeep.ops import processes
    from modelkeep.reports import render

    processes.watch()
    page = runner.run(arguments.stage, root, dict(arguments.parameters), render=render.render)
    gc.freeze()  # else the interpreter looks through all objects before it ends: a fifth of a second
    return _made(root, page)


def serve(root: Path, arguments: argparse.Namespace) -> dict:
    """Answer rows over HTTP, and log each answer."""
    from modelkeep.ops import serve

    serve.run(root, serve.settings(root, dict(arguments.parameters)))
    return {"json": {"state": "done"}, "text": "Stopped; every answer that was given is logged."}


def investigate(root: Path, arguments: argparse.Namespace) -> dict:
    """Take Alertmanager's alerts, and run a report for each."""
    from modelkeep.ops import investigate

    investigate.run(root, investigate.settings(root, dict(arguments.parameters)))
    return {"json": {"state": "done"}, "text": "Stopped; what waits is made at the next start."}


def index(root: Path, arguments: argparse.Namespace) -> dict:
    """Make reports/index.html from verdicts/."""
    from modelkeep.core import files, pages, verdicts
    from modelkeep.reports import index

    failed = [s for s in pages.STAGES if (root / f"reports/failed/{s}.html").exists()]
    page = root / "reports" / "index.html"
    files.write_text(page, index.index(verdicts.read(root), failed))
    return _made(root, page)


def compare(root: Path, arguments: argparse.Namespace) -> dict:
    """Put experiments side by side on one page."""
    from modelkeep.reports import compare

    return _made(root, compare.page(root, arguments.experiments, Path(arguments.out)))


def verdicts(root: Path, arguments: argparse.Namespace) -> dict:
    """Say what each stage concluded."""
    from modelkeep.core import verdicts

    found = verdicts.read(root)
    lines = [f"{stage}: {verdict['sentence']}" for stage, verdict in found.items()]
    lines = lines or ["There are no verdicts yet; `dvc repro` makes them."]
    lines += ["", "reports/index.html tells the whole story."]
    return {"json": found, "text": "\n".join(lines)}


def clean(root: Path, arguments: argparse.Namespace) -> dict:
    """Bring notebooks/ to the form in which they are committed: no outputs, no counts."""
    from modelkeep.core import files, notebooks

    changed = []
    for path in sorted((root / "notebooks").rglob("*.ipynb")):
        text = notebooks.text(notebooks.canonical(notebooks.read(path)))
        if text != path.read_text(encoding="utf-8"):
            files.write_text(path, text)
            changed.append(path.relative_to(root).as_posix())
    return {"json": changed, "text": "\n".join(changed) or "All notebooks were clean."}


def monitoring(root: Path, arguments: argparse.Namespace) -> dict:
    """Make the rules and dashboards of monitoring/ from its contract, metrics.yaml."""
    from modelkeep.monitoring import generate

    changed = generate.write(root)
    return {"json": changed, "text": "\n".join(changed) or "monitoring/ was as metrics.yaml says."}


def release(root: Path, arguments: argparse.Namespace) -> dict:
    """Register this commit's candidate as a version: a Git tag with its evidence."""
    from modelkeep.registry import record, releases

    at, now = record.read(root), time.time()
    return _done(releases.release(root, at, now, arguments.version, arguments.force))


def promote(root: Path, arguments: argparse.Namespace) -> dict:
    """Make a version champion: on record, and in running servers."""
    from modelkeep.registry import record, releases
    from modelkeep.serving import models

    asked = (arguments.version, arguments.reason, arguments.other_schema)
    return _done(releases.promote(root, record.read(root), time.time(), *asked, load=models.load))


def rollback(root: Path, arguments: argparse.Namespace) -> dict:
    """Make the champion before, or a version that you name, champion again."""
    from modelkeep.registry import record, releases
    from modelkeep.serving import models

    asked = (arguments.version, arguments.reason)
    return _done(releases.rollback(root, record.read(root), time.time(), *asked, load=models.load))


def history(root: Path, arguments: argparse.Namespace) -> dict:
    """Say which versions there are, and who was champion when and why."""
    from modelkeep.registry import record, timeline

    return timeline.told(record.read(root))


def explain(root: Path, arguments: argparse.Namespace) -> dict:
    """Say what a version rests on."""
    from modelkeep.registry import record, timeline

    return timeline.explained(record.read(root), arguments.version)


def live(root: Path, arguments: argparse.Namespace) -> dict:
    """Say which version was champion at a moment."""
    from modelkeep.registry import record, timeline

    moment = timeline.moment(arguments.at) if arguments.at else int(time.time())
    return timeline.live(record.read(root), moment)


def update(root: Path, arguments: argparse.Namespace) -> dict:
    """Take one unattended turn: rows into history, monitor, perhaps a candidate, its gate and its rollout."""
    from modelkeep.ops import update
    from modelkeep.registry import timeline

    now = float(timeline.moment(arguments.at)) if arguments.at else time.time()
    return update.run(root, now, arguments.dry_run)


def _done(done: Any) -> dict:
    return {"json": done.as_dict(), "text": str(done)}


def _made(root: Path, page: Path) -> dict:
    where = page.relative_to(root).as_posix() if page.is_relative_to(root) else str(page)
    return {"json": {"state": "done", "page": where}, "text": where}


def _use_own_library(root: Path, argv: list[str]) -> None:
    # an experiment of DVC's runs in a copy of the tree: the code that runs must be that tree's
    own = root / "lib"
    path = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    imported = Path(modelkeep.__file__).resolve().parent
    if path[0] == str(own) or not (own / "modelkeep").is_dir() or imported == own / "modelkeep":
        return
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(own), *filter(None, path)])}
    os.execve(sys.executable, [sys.executable, "-P", "-m", "modelkeep", *argv], environment)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="modelkeep", description=modelkeep.__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    one = subcommand(commands, run, "modelkeep run train -p max_depth=8")
    one.add_argument("stage", metavar="STAGE", help="a notebook of notebooks/, without .ipynb")
    _takes_parameters(one)
    _takes_parameters(subcommand(commands, serve, "modelkeep serve -p port=9000"))
    _takes_parameters(subcommand(commands, investigate, "modelkeep investigate -p port=9001"))
    subcommand(commands, index, "modelkeep index")
    side = subcommand(commands, compare, "modelkeep compare deep-trees more-trees")
    side.add_argument("experiments", metavar="EXP", nargs="+", help="an experiment or a revision")
    side.add_argument("--out", default="reports/compare.html", help="the page (%(default)s)")
    subcommand(commands, verdicts, "modelkeep verdicts --json")
    subcommand(commands, clean, "modelkeep clean")
    subcommand(commands, monitoring, "modelkeep monitoring")
    rollout.add(commands)
    _releases(commands)
    return parser


def _releases(commands: argparse._SubParsersAction) -> None:
    one = subcommand(commands, release, "modelkeep release")
    one.add_argument("version", metavar="VERSION", nargs="?", default="", help="default: the next")
    one.add_argument("--force", metavar="REASON", default="", help="let a failed gate through")
    up = subcommand(commands, promote, "modelkeep promote v1.2.0 --reason 'two weeks in shadow'")
    up.add_argument("version", metavar="VERSION", help="one of `modelkeep history`")
    up.add_argument("--other-schema", action="store_true", help="clients send its columns now")
    back = subcommand(commands, rollback, "modelkeep rollback --reason 'calls from EWR'")
    back.add_argument("version", metavar="VERSION", nargs="?", default="", help="default: before")
    for each in (up, back):
        each.add_argument("--reason", metavar="WHY", default="", help="goes on record")
    subcommand(commands, history, "modelkeep history --json")
    what = subcommand(commands, explain, "modelkeep explain v1.2.0")
    what.add_argument("version", metavar="VERSION", help="one of `modelkeep history`")
    then = subcommand(commands, live, "modelkeep live --at 2026-06-01T14:30")
    turn = subcommand(commands, update, "modelkeep update --dry-run")
    turn.add_argument("--dry-run", action="store_true", help="say what it would do, change nothing")
    for each in (then, turn):
        each.add_argument("--at", metavar="DATE", default="", help="a date or time, UTC (now)")


def _takes_parameters(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        *("-p", "--parameter"),
        dest="parameters",
        metavar="NAME=VALUE",
        type=_pair,
        action="append",
        default=[],
        help="a value that goes before the params file's, for this run only",
    )


def _pair(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not name or not equals:
        raise argparse.ArgumentTypeError(f"`{text}` is not NAME=VALUE")
    return name, value
