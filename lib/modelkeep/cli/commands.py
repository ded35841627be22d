"""What all commands have in common: a workspace, `--json`, errors as one line, completion."""

import json
import os
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import click

import modelkeep
from modelkeep.core import pages, workspace
from modelkeep.core.errors import ModelkeepError

FAILED, BAD_INPUT = 1, 2  # exit codes: a notebook failed; the input is wrong
RENAMED = {"explain": "show", "live": "champion"}


@dataclass(frozen=True)
class Output:
    """What a command prints: `text` for people, `data` as JSON; and its exit code."""

    text: str
    data: object
    code: int = 0


class Command(click.Command):
    """A command in a workspace; its function takes `root` and returns an Output.

    `notifies`: it may leave events of which people are to be notified.
    """

    def __init__(self, *args: object, notifies: bool = False, **settings: object) -> None:
        super().__init__(*args, **settings)
        self.notifies = notifies
        self.params.append(click.Option(["--json"], is_flag=True, help="Print JSON."))

    def invoke(self, ctx: click.Context) -> None:
        """Run the function, print what it returns, and end with its exit code."""
        as_json = ctx.params.pop("json")
        try:
            root = workspace.root()
            use_own_library(root, ctx.find_root().obj)
            ctx.params["root"] = root
            output = super().invoke(ctx)
        except ModelkeepError as error:
            page = getattr(error, "page", None)
            if as_json:
                made = {"page": str(page)} if page else {}
                print(json.dumps({"state": "failed", "error": str(error), **made}, indent=1))
            print(f"modelkeep: {error}", file=sys.stderr)
            ctx.exit(FAILED if page else BAD_INPUT)
        if self.notifies:
            from modelkeep.notifications import delivery

            delivery.begin(root)
        print(json.dumps(output.data, indent=1) if as_json else output.text)
        ctx.exit(output.code)


class Group(click.Group):
    """A group that names the command that was probably meant."""

    def resolve_command(self, ctx: click.Context, args: list[str]) -> tuple:
        """The command that the first word names; a usage error that suggests one otherwise."""
        name = args[0]
        if self.get_command(ctx, name) is None and not name.startswith("-"):
            known = RENAMED.get(name)
            hint = f"; it is `{known}` now" if known in self.commands else ""
            hint = hint or workspace.meant(name, self.list_commands(ctx))
            ctx.fail(f"There is no command `{name}`{hint}.")
        return super().resolve_command(ctx, args)


class Sections(Group):
    """The commands under headings, in the order in which they were added."""

    def __init__(self, sections: Mapping[str, list[click.Command]], **settings: object) -> None:
        self.sections = sections
        every = [command for commands in sections.values() for command in commands]
        super().__init__(commands=every, **settings)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write a list of commands for each section."""
        width = max(len(str(name)) for name in self.commands)
        for title, commands in self.sections.items():
            limit = formatter.width - 6 - width
            rows = [(f"{c.name:<{width}}", c.get_short_help_str(limit)) for c in commands]
            with formatter.section(title):
                formatter.write_dl(rows)


class Stage(click.ParamType):
    """A notebook of notebooks/, by its name without .ipynb."""

    name = "stage"

    def shell_complete(self, ctx: object, param: object, incomplete: str) -> list:
        """The stages that begin so."""
        return _items(stage_names(), incomplete)


class Version(click.ParamType):
    """A version on record."""

    name = "version"

    def shell_complete(self, ctx: object, param: object, incomplete: str) -> list:
        """The versions that begin so, from the tags alone."""
        from modelkeep.core import git

        with suppress(ModelkeepError):
            listed = git.run(workspace.root(), "tag", "--list", "--sort=-v:refname", "*@v*")
            return _items([name.partition("@")[2] for name in listed.split()], incomplete)
        return []


class Pair(click.ParamType):
    """NAME=VALUE."""

    name = "name=value"

    def convert(self, value: object, param: object, ctx: click.Context | None) -> tuple[str, str]:
        """Name and value as text."""
        if isinstance(value, tuple):
            return value
        name, equals, text = str(value).partition("=")
        if not name or not equals:
            self.fail(f"`{value}` is not NAME=VALUE", param, ctx)
        return name, text


def command(example: str, **settings: object) -> Callable:
    """A decorator: the function is a command, its docstring the help, with an example below."""
    return click.command(cls=Command, epilog=f"Example: modelkeep {example}", **settings)


def parameters(function: Callable) -> Callable:
    """A decorator: the command takes values that go before those of the params file."""
    return click.option(
        *("-p", "--parameter", "parameters"),
        metavar="NAME=VALUE",
        type=Pair(),
        multiple=True,
        help="A value that goes before the params file's, for this run only; may be repeated.",
    )(function)


def stage_names() -> list[str]:
    """The notebooks of this workspace, the pipeline's stages first; none outside a workspace."""
    try:
        root = workspace.root()
    except ModelkeepError:
        return []
    found = {path.stem for path in (root / "notebooks").glob("*.ipynb")}
    return [s for s in pages.STAGES if s in found] + sorted(found - set(pages.STAGES))


def made(root: Path, page: Path) -> Output:
    """A page that was written: its path from the workspace."""
    path = page.relative_to(root).as_posix() if page.is_relative_to(root) else str(page)
    return Output(path, {"state": "done", "page": path})


def progress() -> Callable[[int], None]:
    """What writes how many rows are done, and how many a second, to a terminal's last line."""
    started = time.perf_counter()

    def report(rows: int) -> None:
        if sys.stderr.isatty():
            pace = rows / (time.perf_counter() - started)
            print(f"\r{rows:,} rows, {pace:,.0f} a second ", end="", file=sys.stderr, flush=True)

    return report


def trials(total: int) -> Callable[[int, float | None], None]:
    """What draws the bar of a search on a terminal's last line, with the least loss so far."""
    from tqdm import tqdm

    bar = tqdm(total=total, unit="trial", disable=None, leave=False)

    def report(done: int, best: float | None) -> None:
        bar.set_postfix_str("" if best is None else f"best {best:.4f}", refresh=False)
        bar.update(done - bar.n)
        if done == total:
            bar.close()

    return report


def use_own_library(root: Path, argv: list[str]) -> None:
    """Start again with the workspace's own lib/, where this is the library of another tree."""
    # an experiment of DVC's runs in a copy of the tree: the code that runs must be that tree's
    own = root / "lib"
    path = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    imported = Path(modelkeep.__file__).resolve().parent
    if path[0] == str(own) or not (own / "modelkeep").is_dir() or imported == own / "modelkeep":
        return
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(own), *filter(None, path)])}
    os.execve(sys.executable, [sys.executable, "-P", "-m", "modelkeep", *argv], environment)


def _items(names: list[str], incomplete: str) -> list:
    from click.shell_completion import CompletionItem

    return [CompletionItem(name) for name in names if name.startswith(incomplete)]
