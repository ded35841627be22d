"""Commands of the pipeline: a stage's notebook, the front page, comparisons, verdicts."""

import gc
from pathlib import Path

import click

from modelkeep.cli import commands
from modelkeep.cli.commands import Output
from modelkeep.core.errors import ModelkeepError


class Unclean(ModelkeepError, RuntimeError):
    """A notebook of a stage that is not as it is committed."""


class Run(commands.Command):
    """The command that names the stages of this workspace in its help."""

    def format_help_text(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the help, and the names that STAGE may have here."""
        super().format_help_text(ctx, formatter)
        if names := commands.stage_names():
            with formatter.section("Stages"), formatter.indentation():
                formatter.write_text(", ".join(names))


@click.command(cls=Run, epilog="Example: modelkeep run train -p max_depth=8")
@click.argument("stage", type=commands.Stage(), metavar="STAGE")
@commands.parameters
def run(root: Path, stage: str, parameters: tuple) -> Output:
    """Run a stage's notebook strictly."""
    from modelkeep.core import runner
    from modelkeep.ops import processes
    from modelkeep.reports import index, render

    processes.watch()
    try:
        page = runner.run(stage, root, dict(parameters), render=render.render)
    finally:  # the front page links a failed run, too
        index.write(root)
    gc.freeze()  # else the interpreter looks through all objects before it ends: .2 s
    return commands.made(root, page)


@commands.command("init sales.csv --label late --time sold_at --id order --yes")
@click.argument("table", type=click.Path(path_type=Path))
@click.option("--label", required=True, help="The column to predict.")
@click.option("--time", default="", help="The column that says when a row happened.")
@click.option("--id", default="", help="The column that names a row.")
@click.option("--entity", default="", help="The person or thing that a row belongs to.")
@click.option("--name", default="", help="The model's name; else the table's.")
@click.option("--encoding", default="", help="Of CSV files; else UTF-8.")
@click.option("--separator", default="", help="Between columns of CSV files; else guessed.")
@click.option("--yes", is_flag=True, help="Take the safe choice of each doubt, and write.")
@click.option("--dry-run", is_flag=True, help="Write nothing.")
def init(root: Path, table: Path, name: str, yes: bool, dry_run: bool, **stated: str) -> Output:
    """Point the workspace at a table: write every setting, list what is doubtful."""
    from modelkeep.data.inspect import Roles
    from modelkeep.ops import init

    roles = Roles(**{role: stated.pop(role) for role in ("label", "time", "id", "entity")})
    planned = init.plan(root, table, roles, name=name, yes=yes, **stated)
    done = [] if dry_run else init.write(root, planned)
    lines = [str(planned), "", *(f"wrote {each}" for each in done)]
    lines += [] if dry_run else ["", planned.next]
    data = {"settings": planned.settings, "problem": planned.problem, "wrote": done}
    data["doubts"] = [vars(doubt) for doubt in planned.left]
    return Output("\n".join(lines), data)


@commands.command("verdicts --json")
def verdicts(root: Path) -> Output:
    """Print what each stage concluded."""
    from modelkeep.core import verdicts
    from modelkeep.reports import index

    found, failed = verdicts.read(root), index.failed(root)
    old = dict.fromkeys(index.outdated(root), f" ({index.EARLIER})")
    lines = [f"{stage}: {each['sentence']}{old.get(stage, '')}" for stage, each in found.items()]
    lines += [f"{stage}: its last run failed; see reports/failed/{stage}.html" for stage in failed]
    lines = lines or ["There are no verdicts yet; `dvc repro` makes them."]
    lines += ["", "reports/index.html has the whole story."]
    return Output("\n".join(lines), found)


@commands.command("compare deep-trees more-trees")
@click.argument("experiments", metavar="[EXP...]", nargs=-1)
@click.option("--out", default="reports/compare.html", show_default=True, help="The page.")
def compare(root: Path, experiments: tuple[str, ...], out: str) -> Output:
    """Conclude which experiment is better, on a page of them side by side.

    One is compared with HEAD; without any, the experiments there are come as a table.
    """
    from modelkeep.reports import compare, index

    if not experiments:
        table = compare.experiments.listed(root)
        return Output(table, table.splitlines())
    done = compare.compare(root, list(experiments), Path(out))
    index.write(root)
    made = commands.made(root, done.page)
    return Output(f"{done.conclusion}\n{made.text}", made.data | {"conclusion": done.conclusion})


@commands.command("search --trials 30 --vary max_depth=2:8 --vary learning_rate=0.02:0.3")
@click.option("--trials", default=20, show_default=True, help="How many to run.")
@click.option("--vary", multiple=True, metavar="NAME=LOW:HIGH", help="Or NAME=A,B,C; repeatable.")
@click.option("--name", default="search", show_default=True, help="Trials are NAME-1, NAME-2, ...")
@click.option("--seed", default=0, show_default=True, help="The same seed asks the same trials.")
def search(root: Path, trials: int, vary: tuple[str, ...], name: str, seed: int) -> Output:
    """Look for better parameters of `train`; each trial is a DVC experiment.

    Trials are chosen by cross-validation in time order without its last fold, on which the best one
    is compared with the present parameters. A search that was cut off goes on where it was.
    """
    from modelkeep.ops import processes, search

    processes.watch()
    bar = commands.trials(trials)
    found = search.search(root, name, trials, vary, seed, bar)
    return Output(str(found), found.as_dict())


@commands.command("index")
def index(root: Path) -> Output:
    """Make the front page, reports/index.html."""
    from modelkeep.reports import index

    return commands.made(root, index.write(root))


@commands.command("clean")
@click.option("--all", "every", is_flag=True, help="Your own notebooks, too.")
@click.option("--check", is_flag=True, help="Change nothing; fail where there is one to clean.")
def clean(root: Path, every: bool, check: bool) -> Output:
    """Take the outputs off the stages' notebooks, as they are committed.

    DVC takes a notebook that was run in place for a changed stage.
    """
    from modelkeep.core import files, notebooks, pages, workspace

    stages = {*workspace.stages(root), *pages.STAGES, *pages.BESIDE}
    paths = sorted((root / "notebooks").rglob("*.ipynb"))
    changed = []
    for path in (path for path in paths if every or path.stem in stages):
        text = notebooks.text(notebooks.canonical(notebooks.read(path)))
        if text != path.read_text(encoding="utf-8"):
            changed.append(path.relative_to(root).as_posix())
            if not check:
                files.write_text(path, text)
    if check and changed:
        raise Unclean(
            f"{', '.join(changed)}: outputs make DVC run the stage again; `modelkeep clean` takes "
            "them off"
        )
    return Output("\n".join(changed) or "All notebooks were clean.", changed)
