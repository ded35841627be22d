"""A real workspace, small enough for tests: this repository on a few flights, in a folder."""

import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import example
import tiny
import warm

REPOSITORY = Path(__file__).parents[2]
SHIPPED = Path(__file__).parent / "shipped"  # what a user sets here is no matter of these tests
TABLE = "history/flights.parquet"
ROWS_A_DAY, END = 60, "2013-05-01"
SMALL = {
    "prepare": {"source": TABLE, "as_of": "2013-04-01"},
    "train": {"trees": 20, "folds": 3},
    "collect": {"days": 28},
    "monitor": {"permutations": 99, "min_labels": 100},
}
RESULTS = ("metrics", "verdicts", "plots", "models/candidate", "reports", "data")


def build(root: Path) -> Path:
    """Make a repository of one commit at `root`; no stage has run in it."""
    copy(root, lambda name: not name.startswith(RESULTS) and name != "dvc.lock")
    for stage, values in SMALL.items():
        set_values(root / "params" / f"{stage}.yaml", values, r"^({}: )(.*?)(\s+#)")
        set_values(root / "notebooks" / f"{stage}.ipynb", values, r'^(\s*"{}: \w+ = )(.*?)(  #)')
    few_flights(root / TABLE)
    run(root, "git", "init", "-q", "-b", "main")
    run(root, "dvc", "add", "-q", TABLE)
    commit(root, "Start")
    return root


def copy(root: Path, wanted: Callable[[str], bool] = lambda name: True) -> None:
    """Copy this repository's files by name, as the example has them: no settings, table or remote
    of a user.
    """
    for name in filter(wanted, tracked()):
        if name.startswith("data/"):
            continue
        own = SHIPPED / name.lstrip(".")
        own = own if own.is_file() else REPOSITORY / name
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(own, root / name)
    if (stages := root / "dvc.yaml").is_file():  # the artifact has the project's name
        text = re.sub(
            r"^  \S+: (?={path: models/candidate,)", "  flights: ", stages.read_text(), flags=re.M
        )
        stages.write_text(text)


def settings(root: Path, *names: str) -> None:
    """Put the example's params files of these names into a workspace."""
    (root / "params").mkdir(parents=True, exist_ok=True)
    for name in names:
        shutil.copy(SHIPPED / "params" / f"{name}.yaml", root / "params")


def tracked() -> list[str]:
    """What Git tracks here, and what it would, as far as it is there."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=REPOSITORY, capture_output=True, check=True, text=True)
    names = listed.stdout.split("\0")
    return sorted(name for name in names if name and (REPOSITORY / name).is_file())


def set_values(path: Path, values: dict, line: str) -> None:
    """Change the values on lines of a params file or of a notebook's parameters cell."""
    text = path.read_text()
    for name, value in values.items():
        shown = json.dumps(value)
        shown = json.dumps(shown)[1:-1] if path.suffix == ".ipynb" else shown
        text, times = re.subn(
            line.format(name), lambda found, new=shown: found[1] + new + found[3], text, flags=re.M
        )
        assert times == 1, f"{path}: {name} stands there {times} times"
    path.write_text(text)


def few_flights(path: Path) -> None:
    """Write the first months with so many rows of each day."""
    rows = example.table()
    rows = rows[rows["scheduled"] < END]
    days = rows["scheduled"].dt.normalize()
    few = rows.groupby(days, group_keys=False).sample(ROWS_A_DAY, random_state=0)
    path.parent.mkdir(parents=True)
    few.sort_index().to_parquet(path)


def clone(root: Path, to: Path) -> Path:
    """Clone a repository, as a colleague would."""
    to.parent.mkdir(parents=True, exist_ok=True)
    run(to.parent, "git", "clone", "-q", str(root), to.name)
    return to


def commit(root: Path, message: str) -> str:
    """Commit everything and return the commit."""
    run(root, "git", "add", "-A")
    run(root, "git", "commit", "-qm", message)
    return run(root, "git", "rev-parse", "HEAD").strip()


def run(root: Path, *command: str, fails: bool = False) -> str:
    """Run a command in `root` and return what it printed; it must do as well as expected."""
    done = tiny.run(root, *command, **surroundings(root))
    assert (done.returncode != 0) == fails, (
        f"{command}: {done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    )
    return done.stdout + done.stderr if fails else done.stdout


def surroundings(root: Path) -> dict[str, str]:
    """What a command is told so that it finds this Python and leaves this machine alone."""
    home = str(root.parent / "home")
    os.makedirs(home, exist_ok=True)
    places = (
        "DVC_GLOBAL_CONFIG_DIR",
        "DVC_SYSTEM_CONFIG_DIR",
        "XDG_CONFIG_HOME",
        "JUPYTER_DATA_DIR",
    )
    path = os.pathsep.join([str(warm.folder()), str(warm.REAL.parent), os.environ["PATH"]])
    return {**dict.fromkeys(places, home), "PATH": path, "GIT_CONFIG_GLOBAL": os.devnull}


def content(root: Path, *places: str) -> dict[str, bytes]:
    """The bytes of each file in these places, by name."""
    found = [path for place in places for path in [root / place, *(root / place).rglob("*")]]
    return {p.relative_to(root).as_posix(): p.read_bytes() for p in sorted(found) if p.is_file()}
