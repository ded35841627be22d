"""The workspace: the folder of dvc.yaml and params/, its parameters, what a page was made of."""

import json
import os
import re
import subprocess
from collections.abc import Iterator, Mapping
from datetime import date
from difflib import get_close_matches
from functools import partial
from pathlib import Path

from modelkeep.core.errors import ModelkeepError
from modelkeep.core.files import sha256, write_text

# One cycle; and what DVC sees only after `make backtest` has switched it on: a stage that was
# never run would be missing in each status and checkout.
PIPELINES = ("dvc.yaml", "backtest/stage.yaml")
SOURCE = "${source}"  # the table is a dependency of the stages that read it
CODE = ("lib/", "notebooks/", "params/", "requirements.lock")
SHORT = 10  # the length of a commit's short form: Git's own grows with the repository


class NoWorkspace(ModelkeepError, RuntimeError):
    """No folder here or above is a Modelkeep workspace."""


class UnknownStage(ModelkeepError, ValueError):
    """dvc.yaml has no stage of that name."""


class BadParams(ModelkeepError, ValueError):
    """A params file cannot be read as names and plain values."""


def root(start: Path | None = None) -> Path:
    """The workspace's folder: `start` (default: the current folder) or the nearest one above it."""
    start = Path.cwd() if start is None else Path(start).resolve()
    for folder in (start, *start.parents):
        if (folder / "dvc.yaml").is_file() and (folder / "params").is_dir():
            return folder
    raise NoWorkspace(
        f"{start}: neither this folder nor one above it is a Modelkeep workspace (a folder with "
        "dvc.yaml and params/); go into your clone and try again"
    )


def stages(root: Path) -> dict[str, dict]:
    """What the pipelines declare for each stage, in order, with the value of `${source}`."""
    found = {}
    for path in (root / name for name in PIPELINES if (root / name).is_file()):
        text = path.read_text(encoding="utf-8")
        if SOURCE in text:
            text = text.replace(SOURCE, json.dumps(params(root, "prepare").get("source")))
        found |= (_yaml(path, text) or {}).get("stages") or {}
    return found


def locked(root: Path) -> dict[str, dict]:
    """What each stage of dvc.lock took and made when it ran last; empty without one."""
    path = root / "dvc.lock"
    return (_yaml(path) or {}).get("stages") or {} if path.is_file() else {}


def params(root: Path, stage: str) -> dict[str, object]:
    """The names and values of `params/<stage>.yaml`; a date without quotes is refused."""
    path = root / "params" / f"{stage}.yaml"
    if not path.is_file():
        known = sorted(p.stem for p in path.parent.glob("*.yaml"))
        hint = meant(stage, known) or "; write it"
        if (root / "notebooks" / f"{stage}.ipynb").is_file():
            hint = (
                f"; notebooks/{stage}.ipynb takes no parameters and is no stage: open it with "
                f"`make lab`, or `jupyter nbconvert --to html --execute notebooks/{stage}.ipynb`"
            )
        raise BadParams(f"params/{stage}.yaml is not there{hint}")
    values = _yaml(path) or {}
    if not isinstance(values, dict):
        raise BadParams(f"params/{stage}.yaml must be lines of `name: value`, not {values!r}")
    dates = [f'`{at}: "{x}"`' for at, x in _leaves(values, "") if isinstance(x, date)]
    if dates:  # a date object would reach the notebook as something else than the text
        raise BadParams(f"params/{stage}.yaml has dates without quotes; write {', '.join(dates)}")
    return values


def set_params(root: Path, name: str, values: Mapping[str, object]) -> None:
    """Change values on lines of `params/<name>.yaml`.

    Everything else stays as it is, comments too.
    """
    path = root / "params" / f"{name}.yaml"
    text = path.read_text(encoding="utf-8")
    for key, new in values.items():
        line = re.compile(rf"^({re.escape(key)}: )(.*?)(?:( +)(#.*))?$", re.MULTILINE)
        text, times = line.subn(partial(_line, written(new)), text)
        if times != 1:
            raise BadParams(f"params/{name}.yaml has {times} lines `{key}: ...`; write one")
    write_text(path, text)


def _line(new: str, found: re.Match) -> str:
    """The line with its comment where it was, if the value leaves room."""
    key, old, space, comment = found.groups(default="")
    return key + new + (" " * max(len(old + space) - len(new), 1) + comment if comment else "")


def written(plain: object) -> str:
    """A plain value as YAML on one line."""
    if not isinstance(plain, str):
        return json.dumps(plain, ensure_ascii=False)
    bare = re.fullmatch(r"\w[\w./:-]*", plain) and value(plain) == plain
    return plain if bare else "'" + plain.replace("'", "''") + "'"


def provenance(root: Path, stage: str) -> dict[str, object]:
    """Which commit last touched what `stage` is made of, and the hashes of its data.

    Keys: commit (40 hex digits, or why it is unknown), short, date (of the commit, ISO; empty:
    unknown), changed (since the commit; None: unknown), data (path: the first 12 digits of its
    SHA-256).
    """
    paths = _made_of(root, stage)
    made = set(_outs(root))
    committed = [path for path in paths if path not in made]
    tracked = {path for path in committed if _git(root, "ls-files", "--", path)}
    data = [path for path in paths if path not in tracked and not path.startswith(CODE)]
    commit = _commit(root, sorted(tracked))
    known = not commit.startswith("unknown")
    changed = _changed(root, committed) if known else None
    hashes = {path: _hash(root / path) for path in data}
    short = commit[:SHORT] if known else commit
    date = (_git(root, "log", "-1", "--format=%cs", commit) or "") if known else ""
    return {"commit": commit, "short": short, "date": date, "changed": changed, "data": hashes}


def meant(name: str, known: list[str]) -> str:
    """The words "did you mean ...?" for an error's message, or none."""
    close = get_close_matches(name, known, n=1, cutoff=0.6)
    return f"; did you mean `{close[0]}`?" if close else ""


def value(text: str) -> object:
    """What `text` means as YAML, or the text itself where it is not YAML."""
    from ruamel.yaml.error import YAMLError

    try:
        return _parsed(text)
    except YAMLError:
        return text


def _parsed(text: str) -> object:
    # DVC reads its params with this parser too: 1e-3 is a number, `no` is a word
    from ruamel.yaml import YAML

    return YAML(typ="safe", pure=True).load(text)


def _yaml(path: Path, text: str | None = None) -> object:
    from ruamel.yaml.error import YAMLError

    try:
        return _parsed(path.read_text(encoding="utf-8") if text is None else text)
    except (YAMLError, UnicodeDecodeError) as error:
        raise BadParams(f"{path.parent.name}/{path.name} is not YAML: {error}") from None


def _leaves(value: object, where: str) -> Iterator[tuple[str, object]]:
    if isinstance(value, dict):
        for name, item in value.items():
            yield from _leaves(item, f"{where}.{name}" if where else str(name))
    elif isinstance(value, list):
        for n, item in enumerate(value):
            yield from _leaves(item, f"{where}[{n}]")
    else:
        yield where, value


def names(entries: list | None) -> list[str]:
    """The paths of a stage's deps, outs, params or metrics, without their options."""
    return [next(iter(entry)) if isinstance(entry, dict) else entry for entry in entries or ()]


def _made_of(root: Path, stage: str) -> list[str]:
    known = stages(root)
    if stage not in known:
        raise UnknownStage(f"dvc.yaml has no stage `{stage}`{meant(stage, list(known))}")
    deps = [path for path in names(known[stage].get("deps")) if "://" not in path]
    # a bare name under `params` is a key of DVC's default file
    entries = known[stage].get("params") or ()
    files = [next(iter(e)) if isinstance(e, dict) else "params.yaml" for e in entries]
    return list(dict.fromkeys(path.rstrip("/") for path in deps + files))


def _outs(root: Path) -> Iterator[str]:
    for stage in stages(root).values():
        for kind in ("outs", "metrics", "plots"):
            yield from (path.rstrip("/") for path in names(stage.get(kind)))


def _commit(root: Path, paths: list[str]) -> str:
    if _git(root, "rev-parse", "--git-dir") is None:
        return "unknown (not a Git repository)"
    commit = _git(root, "log", "-1", "--format=%H", "--", *paths) if paths else None
    if not commit:
        return "unknown (nothing of it is committed)"
    shallow = root / _git(root, "rev-parse", "--git-path", "shallow")
    if shallow.is_file() and commit in shallow.read_text().split():
        return "unknown (shallow clone)"
    return commit


def _changed(root: Path, paths: list[str]) -> bool:
    """Whether anything differs from HEAD, by content too: Git's index compares sizes and whole
    seconds, and DVC writes params anew, aligned as they were, within one (`dvc exp run -S`).
    """
    if _git(root, "status", "--porcelain", "--", *paths):
        return True
    lines = (_git(root, "ls-tree", "-r", "-z", "HEAD", "--", *paths) or "").split("\0")
    known = dict(reversed(line.split("\t", 1)) for line in lines if line.startswith("100"))
    # Git's filter of notebooks takes a fifth of a second, and DVC writes none
    known = {path: facts for path, facts in known.items() if not path.endswith(".ipynb")}
    here = _git(root, "hash-object", "--stdin-paths", given="\n".join(known)) or ""
    return here.split() != [facts.split()[2] for facts in known.values()]


def _git(root: Path, *arguments: str, given: str = "") -> str | None:
    # a Git hook that runs us sets GIT_DIR and its like, which would point elsewhere
    clean = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    command = ["git", "-C", str(root), "--literal-pathspecs", *arguments]
    try:
        done = subprocess.run(command, input=given, capture_output=True, text=True, env=clean)
    except FileNotFoundError:
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def _hash(path: Path) -> str:
    return sha256(path)[:12] if path.exists() else "missing"
