"""A real `modelkeep investigate` for tests: in a whole workspace, on loopback, ended by its own pid."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import live
import tiny
import workspaces

WHOLE = ("dvc.yaml", "requirements.lock", "notebooks/", "params/", "lib/modelkeep/", "monitoring/")


def workspace(root: Path, candidate: Path) -> Path:
    """A workspace with a candidate, and the notebooks and the library that make reports; a commit of Git."""
    live.workspace(root, candidate)
    workspaces.copy(root, lambda name: name.startswith(WHOLE))
    workspaces.set_values(
        root / "params" / "monitor.yaml",
        {"permutations": 99, "min_labels": 50},
        r"^({}: )(.*?)(\s+#)",
    )
    (root / ".gitignore").write_text(
        "__pycache__/\n/data/\n/reports/\n/models/candidate/\n/serving/\n"
    )
    for words in (("init", "-q"), ("add", "-A"), ("commit", "-qm", "Start")):
        done = tiny.run(root, "git", *words)
        assert done.returncode == 0, done.stderr
    return root


def notification(*alerts: dict) -> dict:
    """What Alertmanager sends."""
    return {
        "version": "4",
        "groupKey": '{}:{alertname="A"}',
        "truncatedAlerts": 0,
        "status": "firing",
        "receiver": "investigate",
        "groupLabels": {},
        "commonLabels": {},
        "commonAnnotations": {},
        "externalURL": "http://localhost:9093",
        "alerts": list(alerts),
    }


def alert(name: str = "ModelkeepDrift", version: str = "", starts: float = 0.0, **labels) -> dict:
    """One alert that fires since a moment, as Alertmanager writes it."""
    began = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(starts)) + f"{starts % 1:.3f}"[1:] + "Z"
    said = {"alertname": name, "severity": "warn", "service": "modelkeep", **labels}
    return {
        "status": "firing",
        "labels": said | ({"version": version} if version else {}),
        "annotations": {"summary": f"{labels.get('feature', name)} is not as it was"},
        "startsAt": began,
        "endsAt": "0001-01-01T00:00:00Z",
        "generatorURL": "http://localhost:9090/graph",
        "fingerprint": "9f5b1c0d2e3a4b5c",
    }


@contextmanager
def investigating(root: Path, *changes: str, **env: str) -> Iterator[live.Server]:
    """`modelkeep investigate -p CHANGE ...` in a workspace, on a free port."""
    command = [sys.executable, "-W", "error", "-m", "modelkeep", "investigate"]
    for change in ("port=0", *changes):
        command += ["-p", change]
    process = subprocess.Popen(
        command,
        cwd=root,
        env={**os.environ, "MODELKEEP_TOKEN": "", "PYTHONPATH": str(root / "lib"), **env},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        said = []
        while not (said and said[-1].startswith("Investigating ")):
            line = process.stdout.readline()
            assert line, f"it ended: {''.join(said)}"
            said.append(line)
        yield live.Server(process, live.port(said[-1]), root)
    finally:
        process.kill()
        process.communicate()


def report(server: live.Server, path: str, seconds: float = 120) -> str:
    """The page at an address, as soon as it is made."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        status, body, _ = server.raw("GET", path)
        if status != 202:
            assert status == 200, body
            return body.decode()
        time.sleep(0.3)
    raise AssertionError(f"{path} was not made within {seconds} s")


def records(root: Path) -> list[dict]:
    """What is on record of each report."""
    found = sorted((root / "reports" / "investigations").glob("*.json"))
    return [json.loads(path.read_text()) for path in found]
