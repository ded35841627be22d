"""Tiny workspaces for the tests: a stage for each notebook that is asked for."""

import json
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

NOTEBOOKS = Path(__file__).parent / "notebooks"
QUIET_DVC = {"DVC_NO_ANALYTICS": "1", "DVC_IGNORE_ISATTY": "1"}


def workspace(root: Path, **stages: str) -> Path:
    """A workspace at `root` whose stages have the notebook and params of that name and text."""
    for folder in ("notebooks", "params"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    lines = ["stages:"]
    for stage, params in stages.items():
        shutil.copy(NOTEBOOKS / f"{stage}.ipynb", root / "notebooks")
        (root / "params" / f"{stage}.yaml").write_text(params)
        command = f"{shlex.quote(sys.executable)} -m modelkeep run {stage}"
        lines += [f"  {stage}:", f"    cmd: {json.dumps(command)}"]
        lines += [f"    deps: [notebooks/{stage}.ipynb, data]", "    params:"]
        lines += [f"    - params/{stage}.yaml:", f"    outs: [reports/{stage}.html]"]
    (root / "data").mkdir(exist_ok=True)
    (root / "data" / "rows.csv").write_text("a,b\n1,2\n")
    (root / "dvc.yaml").write_text("\n".join(lines) + "\n")
    return root


def run(root: Path, *command: str, **env: str) -> subprocess.CompletedProcess:
    """Run a command in `root`, with `env` added to the environment."""
    return subprocess.run(
        command, cwd=root, env=surroundings(root, **env), capture_output=True, text=True
    )


def surroundings(root: Path, **env: str) -> Mapping[str, str]:
    """An environment in which Git and DVC neither see nor touch what is this machine's."""
    home = {name: str(root.parent / "home") for name in ("HOME", "DVC_SITE_CACHE_DIR")}
    who = {
        f"GIT_{role}_{what}": "a@b"
        for role in ("AUTHOR", "COMMITTER")
        for what in ("NAME", "EMAIL")
    }
    return {**os.environ, **home, **who, **QUIET_DVC, "GIT_CONFIG_NOSYSTEM": "1", **env}
