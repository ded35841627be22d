"""The command `modelkeep`."""

import argparse
import json
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import modelkeep
from modelkeep import steering, workspace

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
    except (ValueError, RuntimeError) as error:
        if not type(error).__module__.startswith("modelkeep."):
            raise  # a defect of ours: its traceback is worth more than a clean message
        print(f"modelkeep: {error}", file=sys.stderr)
        page = getattr(error, "page", None)
        if arguments.json:
            told = {"page": str(page)} if page else {}
            print(json.dumps({"state": "failed", "error": str(error), **told}, indent=1))
        return FAILED if page else BAD_INPUT
    print(json.dumps(result["json"], indent=1) if arguments.json else result["text"])
    return 0


def run(root: Path, arguments: argparse.Namespace) -> dict:
    """Run a stage's notebook strictly."""
    from modelkeep import parents, runner

    parents.watch()
    return _made(root, runner.run(arguments.stage, root, dict(arguments.parameters)))


def serve(root: Path, arguments: argparse.Namespace) -> dict:
    """Answer rows over HTTP, and log each answer."""
    from modelkeep import serve

    serve.run(root, serve.settings(root, dict(arguments.parameters)))
    return {"json": {"state": "done"}, "text": "Stopped; every answer that was given is logged."}


def index(root: Path, arguments: argparse.Namespace) -> dict:
    """Make reports/index.html from verdicts/."""
    from modelkeep import files, report, verdicts

    failed = [s for s in report.STAGES if (root / f"reports/failed/{s}.html").exists()]
    page = root / "reports" / "index.html"
    files.write_text(page, report.index(verdicts.read(root), failed))
    return _made(root, page)


def compare(root: Path, arguments: argparse.Namespace) -> dict:
    """Put experiments side by side on one page."""
    from modelkeep import compare

    return _made(root, compare.page(root, arguments.experiments, Path(arguments.out)))


def verdicts(root: Path, arguments: argparse.Namespace) -> dict:
    """Say what each stage concluded."""
    from modelkeep import verdicts

    found = verdicts.read(root)
    lines = [f"{stage}: {verdict['sentence']}" for stage, verdict in found.items()]
    lines = lines or ["There are no verdicts yet; `dvc repro` makes them."]
    lines += ["", "reports/index.html tells the whole story."]
    return {"json": found, "text": "\n".join(lines)}


def clean(root: Path, arguments: argparse.Namespace) -> dict:
    """Bring notebooks/ to the form in which they are committed: no outputs, no counts."""
    from modelkeep import files, notebooks

    changed = []
    for path in sorted((root / "notebooks").rglob("*.ipynb")):
        text = notebooks.text(notebooks.canonical(notebooks.read(path)))
        if text != path.read_text(encoding="utf-8"):
            files.write_text(path, text)
            changed.append(path.relative_to(root).as_posix())
    return {"json": changed, "text": "\n".join(changed) or "All notebooks were clean."}


def monitoring(root: Path, arguments: argparse.Namespace) -> dict:
    """Make the rules and dashboards of monitoring/ from its contract, metrics.yaml."""
    from modelkeep import monitoring

    changed = monitoring.write(root)
    return {"json": changed, "text": "\n".join(changed) or "monitoring/ was as metrics.yaml says."}


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
    one = _add(commands, run, "modelkeep run train -p max_depth=8")
    one.add_argument("stage", metavar="STAGE", help="a notebook of notebooks/, without .ipynb")
    _takes_parameters(one)
    _takes_parameters(_add(commands, serve, "modelkeep serve -p port=9000"))
    _add(commands, index, "modelkeep index")
    side = _add(commands, compare, "modelkeep compare deep-trees more-trees")
    side.add_argument("experiments", metavar="EXP", nargs="+", help="an experiment or a revision")
    side.add_argument("--out", default="reports/compare.html", help="the page (%(default)s)")
    _add(commands, verdicts, "modelkeep verdicts --json")
    _add(commands, clean, "modelkeep clean")
    _add(commands, monitoring, "modelkeep monitoring")
    steering.add(commands)
    return parser


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


def _add(
    commands: argparse._SubParsersAction, command: Callable[..., dict], example: str
) -> argparse.ArgumentParser:
    text = command.__doc__
    parser = commands.add_parser(
        command.__name__, help=text, description=text, epilog=f"Example: {example}"
    )
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    parser.set_defaults(command=command)
    return parser


def _pair(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not name or not equals:
        raise argparse.ArgumentTypeError(f"`{text}` is not NAME=VALUE")
    return name, value
