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
            lines.append(f"{facts[name]} {_role(name, role)}{share}.")
    if last:
        verdict = rollout.verdict(rollout_log.read(last))
        facts["rollout"] = {"id": last.stem, "state": verdict.state, "sentence": verdict.sentence}
        lines.append(f"Rollout {last.stem}: {verdict.sentence}")
    facts["servers"], sentences = _servers(root)
    facts["update"] = _updates(root)
    lines += [*sentences, *(["An update is at work."] if facts["update"] else [])]
    if not found.agrees:
        facts["remedy"] = "modelkeep sync"
    return {"json": facts, "text": "\n".join(lines)}


def _role(name: str, role: store.Role) -> str:
    if role.salt.startswith(store.REVERSE):
        return "predicts silently beside the champion that replaced it (reverse shadow)"
    return f"answers as {name}"


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


def _servers(root: Path) -> tuple[list[dict], list[str]]:
    """What each server of this workspace reports of itself, and a sentence about each.

    Requested are the address of params/serve.yaml and those that running servers have written down.
    """
    settings = workspace.params(root, "serve")
    stated = store.address(str(settings["host"]), int(settings["port"]))
    found, sentences = [], []
    for address in dict.fromkeys([stated, *store.servers(releases.folder(root))]):
        try:
            with urlopen(f"{address}/health", timeout=1) as reply:
                health = json.load(reply)
        except (OSError, ValueError):
            continue
        found.append({"address": address, **health})
        sentences.append(f"A server answers at {address} with the model {health.get('model')}.")
    return found, sentences or [f"No server answers at {stated}."]


def _updates(root: Path) -> bool:
    lock = FileLock((git.folder(root) / commits.LOCK).with_suffix(".lock"), timeout=0)
    try:
        with lock:
            return False
    except Timeout:
        return True
