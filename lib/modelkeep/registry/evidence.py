"""The evidence of a version: verdict, metrics, params and hashes of a commit fit to be released."""

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING

from modelkeep.core import git, verdicts, workspace
from modelkeep.core.errors import ModelkeepError
from modelkeep.core.markup import several
from modelkeep.registry import record
from modelkeep.registry.record import Record
from modelkeep.training import manifests

if TYPE_CHECKING:
    import pandas as pd


CANDIDATE = "models/candidate"
CHAMPION = "models/champion.json"
PASSES = ("better", "non_inferior")
READ = ("dvc.yaml", "dvc.lock", "params", "models", ".dvc/config")
TURN = "`dvc repro && git add -A && git commit`"


class NotFit(ModelkeepError, RuntimeError):
    """This commit's candidate may not be released; the message has the reason."""


def gather(root: Path, at: Record, forced: str = "") -> dict:
    """The evidence for the candidate of this commit.

    NotFit unless it is whole, committed and has passed the gate (`forced`: the reason to release it
    all the same).
    """
    commit = on_a_branch(root)
    _committed(root)
    locked = _locked(root)
    judged = _judged(root, at, forced)
    _declared(root, at.model)
    _reproduced(root)
    bundle = _bundle(root, commit)
    _new(at, commit, bundle)
    outs = {out["path"]: out["md5"] for stage in locked.values() for out in stage.get("outs", ())}
    return {
        "parent": at.champion.version if at.champion else None,
        "commit": commit,
        "forced": forced or None,
        "purpose": workspace.params(root, "serve").get("purpose") or None,
        "data": _data(root),
        "expected": _json(root / CANDIDATE / manifests.MANIFEST).get("promise"),
        "monitor": _monitored(root, locked, outs[CANDIDATE]),
        "verdict": judged,
        "metrics": {
            stage: _json(root / f"metrics/{stage}.json") for stage in ("train", "evaluate")
        },
        "hashes": {
            "bundle": bundle,
            "model": outs[CANDIDATE],
            "data": outs["data/prepared"],
            "report": outs["reports/evaluate.html"],
            "test_rows": test_rows(root),
        },
        "params": {
            path.removeprefix("params/").removesuffix(".yaml"): values
            for stage in locked.values()
            for path, values in stage.get("params", {}).items()
        },
    }


def _data(root: Path) -> dict:
    """What the candidate has learned from, as the model card says it."""
    import pyarrow.parquet as pq

    schema, prepared = (
        _json(root / "data/prepared/schema.json"),
        _json(root / "metrics/prepare.json"),
    )
    origin = schema.get("origin") or {}
    facts = {"label": schema["label"], "task": schema["task"], "classes": schema["classes"]}
    facts |= {"columns": [column["name"] for column in schema["columns"]]}
    facts |= {name: origin.get(name) for name in ("source", "as_of")}
    facts |= {name: prepared.get(name) for name in ("train", "test", "quarantined")}
    made = _json(root / CANDIDATE / manifests.MANIFEST)
    facts["withheld"] = (made.get("params") or {}).get("withhold", True)
    if update := made.get("recalibration"):
        facts["recalibration"] = {k: update[k] for k in ("kind", "level", "slope", "rows")}
        facts["recalibration"]["version"] = made["params"].get("recalibrate")
    for part in ("train", "test"):
        path = root / f"data/prepared/{part}.parquet"
        if schema["time"] and path.is_file():
            times = pq.read_table(path, columns=[schema["time"]])[0].drop_null()
            ends = min(times.to_pylist(), default=""), max(times.to_pylist(), default="")
            facts[f"{part}_period"] = [str(end)[:16] for end in ends]
    return facts


def _monitored(root: Path, locked: dict, candidate: str) -> dict | None:
    """What the monitor reported of this candidate; None where its page is of another one."""
    seen = verdicts.read(root).get("monitor")
    deps = {dep["path"]: dep.get("md5") for dep in (locked.get("monitor") or {}).get("deps", ())}
    if seen is None or deps.get(CANDIDATE) != candidate:
        return None
    return {name: seen.get(name) for name in ("state", "sentence", "reasons")}


def uses(at: Record, rows: str) -> list[str]:
    """The versions that were judged on these test rows (their hash), oldest first."""
    found = {
        version: record.parsed(tag).get("hashes") or {} for version, tag in at.versions.items()
    }
    return sorted((v for v, h in found.items() if h.get("test_rows") == rows), key=record.order)


def test_rows(root: Path) -> str:
    """A hash of the ids and times of the test rows, in any order."""
    import pandas as pd

    schema = _json(root / "data/prepared/schema.json")
    keys = [schema[role] for role in ("id", "time") if schema[role]]
    rows = pd.read_parquet(root / "data/prepared/test.parquet", columns=keys)
    return hashlib.sha256(_sorted(rows).encode()).hexdigest()


def _sorted(rows: "pd.DataFrame") -> str:
    return "\n".join(sorted(rows.astype(str).agg("\t".join, axis=1)))


def on_a_branch(root: Path) -> str:
    """The commit of HEAD; NotFit if HEAD is on no branch.

    In a linked worktree it is enough that the commit is on some branch.
    """
    commit = git.run(root, "rev-parse", "HEAD").strip()
    try:
        git.run(root, "symbolic-ref", "--quiet", "HEAD")
    except git.GitError:
        linked = git.run(root, "rev-parse", "--git-dir", "--git-common-dir").split("\n")
        if linked[0] != linked[1] and git.run(root, "branch", "--all", "--contains", commit):
            return commit
        raise NotFit(
            "HEAD is detached, so what comes after this version would be on no branch; "
            "`git switch -c NAME` makes one here, then try again"
        ) from None
    return commit


def changed(root: Path) -> list[str]:
    """Paths that a candidate is made from, or that a run makes, with uncommitted changes."""
    paths = {*READ, *_read_or_made(root)}
    options = ("--porcelain", "--untracked-files=all", "--", *sorted(paths))
    status = git.run(root, "--literal-pathspecs", "status", *options)
    return [line[3:] for line in status.splitlines()]


def _committed(root: Path) -> None:
    if found := changed(root):
        raise NotFit(
            f"{several(found)} {'has' if len(found) == 1 else 'have'} uncommitted changes, "
            f"and a version is a commit; {TURN} commits them, "
            "or `git checkout -- FILE` takes a change back"
        )


def _read_or_made(root: Path) -> set[str]:
    kinds = ("deps", "outs", "metrics", "plots")
    found = {path for stage in workspace.stages(root).values() for path in _paths(stage, kinds)}
    return {path for path in found if "://" not in path}


def _paths(stage: dict, kinds: tuple[str, ...]) -> list[str]:
    entries = [entry for kind in kinds for entry in stage.get(kind) or ()]
    return [next(iter(entry)) if isinstance(entry, dict) else entry for entry in entries]


def _locked(root: Path) -> dict:
    path = root / "dvc.lock"
    found = workspace.value(path.read_text()) if path.is_file() else None
    stages = (found or {}).get("stages") or {}
    missing = [stage for stage in ("train", "evaluate") if stage not in stages]
    if missing:
        raise NotFit(f"the stage {several(missing)} has not run yet: {TURN}, then release")
    return stages


def _judged(root: Path, at: Record, forced: str) -> dict:
    found = verdicts.read(root).get("evaluate")
    if found is None:
        raise NotFit(f"there is no verdict of the stage evaluate: {TURN}, then release")
    compared = _json(root / CHAMPION).get("version")
    champion = at.champion.version if at.champion else None
    if compared != champion and not forced:
        raise NotFit(
            f"the candidate was compared with {compared or 'no champion'}, "
            f"and {champion or 'none'} is champion; "
            f"`modelkeep promote {champion or 'VERSION'}` writes {CHAMPION}, then {TURN}"
        )
    if found["state"] not in PASSES and not forced:
        raise NotFit(
            f"the gate says {found['state'].replace('_', ' ')}: {found['sentence']} "
            f"{_amounts(found)}Train another candidate, or let it through with `--force 'why'`, "
            "which is put on record"
        )
    return {"state": found["state"], "sentence": found["sentence"], **found["evidence"]}


def _amounts(found: dict) -> str:
    """The first reasons of the gate: the difference by metric, where the sentence lacks it."""
    count = len(found["evidence"].get("gains", ()))
    text = "; ".join(found["reasons"][:count])
    return f"({text}) " if text and found["state"] != "worse" else ""


def _declared(root: Path, model: str) -> None:
    artifacts = workspace.value((root / "dvc.yaml").read_text()).get("artifacts") or {}
    if (artifacts.get(model) or {}).get("path") != CANDIDATE:
        raise NotFit(
            f"dvc.yaml has no artifact `{model}` (the name in params/serve.yaml) with the path "
            f"{CANDIDATE}; write `artifacts: {{{model}: {{path: {CANDIDATE}, type: model}}}}`, "
            "so that `dvc artifacts get` finds it, and commit"
        )


def _reproduced(root: Path) -> None:
    from dvc.exceptions import DvcException
    from dvc.rwlock import RWLockFileCorruptedError

    try:
        try:
            stale = _stale(root)
        except RWLockFileCorruptedError:
            # a killed DVC left it half written; this reader holds the lock of its writers
            (root / ".dvc" / "tmp" / "rwlock").unlink(missing_ok=True)
            stale = _stale(root)
    except DvcException as error:
        raise NotFit(f"`dvc status` fails ({error}); repair that, then release") from None
    if names := [each.rpartition(":")[2] for each in stale]:  # DVC says path:stage
        raise NotFit(
            f"`dvc status` is not clean: {several(names)} changed since the last run, so this "
            f"commit makes another candidate; {TURN}, or `dvc checkout` to have its data back"
        )


def _stale(root: Path) -> dict:
    from dvc.repo import Repo

    with Repo(str(root)) as repo:
        found = repo.status()
    # what comes after `evaluate` makes no candidate, and a backtest may never have been run
    before = _before(root, "evaluate")
    named = {name: name.rpartition(":")[2] for name in found}
    return {k: found[k] for k, name in named.items() if name in before or name.endswith(".dvc")}


def _before(root: Path, last: str) -> set[str]:
    """The stage, and those that make what it reads."""
    stages = workspace.stages(root)
    reads = {name: set(_paths(stage, ("deps",))) for name, stage in stages.items()}
    makes = {name: set(_paths(stage, ("outs", "metrics"))) for name, stage in stages.items()}
    found, fresh = set(), {last}
    while fresh := fresh - found:
        found |= fresh
        fresh = {name for name in makes for each in fresh if makes[name] & reads.get(each, set())}
    return found


def _bundle(root: Path, commit: str) -> str:
    """The hash of the candidate's manifest: files verified, and as DVC has it for this commit."""
    ours = manifests.verify(root / CANDIDATE)[manifests.MANIFEST]
    from dvc.api import DVCFileSystem

    try:
        theirs = DVCFileSystem(str(root), rev=commit).read_bytes(
            f"{CANDIDATE}/{manifests.MANIFEST}"
        )
    except Exception as error:  # DVC's remotes raise whatever their libraries raise
        raise NotFit(
            f"DVC has no copy of {CANDIDATE} for this commit ({error or type(error).__name__}); "
            "`dvc commit`, then release"
        ) from None
    if ours != theirs:
        raise NotFit(
            f"{CANDIDATE} is not the bundle of dvc.lock; `dvc checkout {CANDIDATE}` brings it "
            "back, "
            f"or {TURN} makes a new one"
        )
    return hashlib.sha256(ours).hexdigest()


def _new(at: Record, commit: str, bundle: str) -> None:
    for version, tag in at.versions.items():
        if tag.commit == commit:
            raise NotFit(
                f"this commit is {version} already; `modelkeep show {version}` has its evidence"
            )
        if (record.parsed(tag).get("hashes") or {}).get("bundle") == bundle:
            raise NotFit(
                f"this bundle is {version} already; `modelkeep promote {version}` makes it champion"
            )


def _json(path: Path) -> dict:
    return json.loads(path.read_bytes()) if path.exists() else {}
