"""Small repositories with a candidate to release: real Git, real DVC, sealed bundles, and stages that only copy."""

import json
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import synthetic
import warm
import workspaces
from modelkeep.core import files
from modelkeep.data import schema, splits
from modelkeep.registry import record, releases
from modelkeep.training import bundle
from workspaces import REPOSITORY, run

DVC = """\
stages:
  prepare:
    cmd: rm -rf data/prepared && mkdir -p data && cp -r made/prepared data/
    deps: [made/prepared]
    outs: [data/prepared]
  train:
    cmd: rm -rf models/candidate && cp -r made/candidate models/ && mkdir -p metrics && cp made/train.json metrics/
    params: [{params/train.yaml: }]
    deps: [made/candidate, data/prepared]
    outs: [models/candidate]
    metrics: [metrics/train.json: {cache: false}]
  evaluate:
    cmd: mkdir -p reports verdicts && cp made/evaluate.html reports/ && cp made/verdict.json verdicts/evaluate.json && cp made/evaluate.json metrics/
    deps: [made/evaluate.html, made/verdict.json, models/candidate, models/champion.json]
    outs: [reports/evaluate.html, verdicts/evaluate.json: {cache: false}]
    metrics: [metrics/evaluate.json: {cache: false}]
artifacts:
  flights: {path: models/candidate, type: model}
"""
SPRING, DAY = 1_364_774_400, 86_400  # 1 April 2013
CONFIG = """\
[core]
    analytics = false
    check_update = false
    remote = store
['remote "store"']
    url = ../../remote
"""
IGNORED = "/data/\n/reports/\n/made/\n/models/candidate/\n/models/champion/\n/serving/\n.*.tmp\n"
GAIN = {"metric": "log_loss", "gain": 0.1, "low": 0.05, "high": 0.15, "margin": 0.003}
GAIN |= {"verdict": "better", "rows": 500, "blocks": 35, "design_effect": 2.0}


def build(root: Path, parts) -> Path:
    """A repository of one commit, fit to be released, with a DVC remote beside it; the next candidates are in `spare/` beside it."""
    (root / "params").mkdir(parents=True)
    workspaces.settings(root, "serve")
    (root / "params" / "train.yaml").write_text("trees: 1\n")
    shutil.copytree(REPOSITORY / "monitoring", root / "monitoring")
    (root / "dvc.yaml").write_text(DVC)
    (root / ".gitignore").write_text(IGNORED)
    (root / "models").mkdir()
    (root / "models/champion.json").write_text('{"version": null, "bundle": null}\n')
    run(root, "git", "init", "-q", "-b", "main")
    (root / ".dvc").mkdir()
    (root / ".dvc/config").write_text(CONFIG)
    (root / ".dvc/.gitignore").write_text("/config.local\n/tmp\n/cache\n")
    for k in range(3):
        synthetic.sealed(root.parent / f"spare/{k}", parts, trees=3 + k)
    turn(root, parts, 0)
    return root


def three(root: Path, parts=None) -> Path:
    """A repository of three releases, none of them promoted."""
    parts = parts or synthetic.prepared("binary")
    build(root, parts)
    for k in range(3):
        if k:
            turn(root, parts, k)
        releases.release(root, record.read(root), SPRING + k * DAY)
    return root


@contextmanager
def surroundings(home: Path) -> Iterator[None]:
    """A name to release under, neither this machine's Git settings nor its DVC's, a warm DVC."""
    said = workspaces.surroundings(home / "x") | {"DVC_NO_ANALYTICS": "1"}
    said |= {"DVC_SITE_CACHE_DIR": said["XDG_CONFIG_HOME"], "HOME": said["XDG_CONFIG_HOME"]}
    for who in ("AUTHOR", "COMMITTER"):
        said |= {f"GIT_{who}_NAME": "Ada", f"GIT_{who}_EMAIL": "ada@example.org"}
    with pytest.MonkeyPatch.context() as patch:
        for name, value in said.items():
            patch.setenv(name, value)
        patch.setattr(sys, "executable", str(warm.folder() / "python"))
        yield


def turn(root: Path, parts, k: int, state: str = "better") -> str:
    """The turn that makes the k-th spare bundle the candidate; the commit."""
    made(root, parts, k, state)
    run(root, "dvc", "repro", "-q")
    run(root, "dvc", "push", "-q")
    return workspaces.commit(root, f"Candidate {k}")


def made(root: Path, parts, k: int, state: str = "better") -> None:
    """Everything that a turn with the k-th bundle makes, and that stages only copy."""
    shutil.rmtree(root / "made", ignore_errors=True)
    shutil.copytree(root.parent / f"spare/{k}", root / "made/candidate")
    splits.write(parts.test, root / "made/prepared/test.parquet")
    files.write_text(root / "made/prepared/schema.json", schema.to_json(parts.schema))
    (root / "made/evaluate.html").write_text(f"<p>{k} {state}</p>")
    sentence = "The candidate is better than a plain rule, on 500 rows of 35 days."
    reason = "log loss 0.01 lower (0.01 higher to 0.03 lower; lower is better)"
    verdict = {"stage": "evaluate", "state": state, "sentence": sentence, "reasons": [reason]}
    verdict["evidence"] = {"word": state, "gains": [GAIN], "alpha": 0.05, "slices": []}
    for path, value in {
        "made/verdict.json": verdict,
        "made/evaluate.json": {"log_loss": 0.5 + k / 100},
        "made/train.json": {"log_loss": 0.6},
    }.items():
        files.write_json(root / path, value)


def sha256(root: Path, k: int) -> str:
    """The k-th bundle's name in the store."""
    return files.sha256(root.parent / f"spare/{k}" / "manifest.json")


def pointer(root: Path) -> dict:
    """What the store's pointer says, an empty one where there is none."""
    path = root / "serving/now.json"
    return json.loads(path.read_text()) if path.exists() else {}


def load(root: Path) -> bundle.Bundle:
    """The champion as `evaluate` reads it."""
    named = json.loads((root / "models/champion.json").read_text())
    return bundle.load(root / named["bundle"])
