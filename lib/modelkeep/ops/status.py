"""What is served here, what the record says, and what runs; and the command that settles it."""

import json
from pathlib import Path
from urllib.request import urlopen

from filelock import FileLock, Timeout

from modelkeep.core import git, workspace
from modelkeep.ops import commits
from modelkeep.registry import agreement, record, releases, store
from modelkeep.reports import rollout
from modelkeep.rollout import control, rollout_log


def status(root: Path) -> dict:
    """The state of a workspace, as JSON and as text."""
    at = record.read(root)
    found = agreement.compare(root, at)
    pointer = store.now(releases.folder(root))
    last = rollout_log.newest(root)
    lines = [found.sentence]
    facts: dict = {"recorded": found.recorded, "served": found.served, "agrees": found.agrees}
    for name in ("canary", "shadow"):
        role = getattr(pointer, name, None)
        facts[name] = role and (role.version or role.sha256[:10])
        if role:
            share = f" with {role.share:.0%} of the entities" if name == "canary" else ""
            lines.append(f"{facts[name]} answers as {name}{share}.")
    if last:
        verdict = rollout.verdict(rollout_log.read(last))
        facts["rollout"] = {"id": last.stem, "state": verdict.state, "sentence": verdict.sentence}
        lines.append(f"Rollout {last.stem}: {verdict.sentence}")
    facts["server"], sentence = _server(root)
    facts["update"] = _updates(root)
    lines += [sentence, *(["An update is at work."] if facts["update"] else [])]
    if not found.agrees:
        facts["remedy"] = "modelkeep sync"
    return {"json": facts, "text": "\n".join(lines)}


def sync(root: Path) -> dict:
    """Serve what the record says, and put on record what has ended here."""
    at = record.read(root)
    last = rollout_log.newest(root)
    if last:
        with control.lock(control.folder(root)):
            control.settle(root, rollout_log.read(last))
    before = agreement.compare(root, at)
    if at.champion is not None:
        releases.resume(root, at)
    after = agreement.compare(root, record.read(root))
    done = "was in agreement" if before.agrees and before.served else "is in agreement now"
    facts = {"before": before.served, "served": after.served, "recorded": after.recorded}
    sentence = (
        f"Record and service: it {done}. {after.sentence}" if after.served else after.sentence
    )
    return {"json": facts, "text": sentence}


def _server(root: Path) -> tuple[dict | None, str]:
    """What a server at the address of params/serve.yaml says of itself, and a sentence."""
    settings = workspace.params(root, "serve")
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(str(settings["host"]), settings["host"])
    address = f"http://{host}:{settings['port']}"
    try:
        with urlopen(f"{address}/health", timeout=1) as reply:
            found = json.load(reply)
    except (OSError, ValueError):
        return None, f"No server answers at {address}."
    return found, f"A server answers at {address} with the model {found.get('model')}."


def _updates(root: Path) -> bool:
    lock = FileLock((git.folder(root) / commits.LOCK).with_suffix(".lock"), timeout=0)
    try:
        with lock:
            return False
    except Timeout:
        return True
