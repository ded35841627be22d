"""A repository whose record has one of each: a release, a promotion, a trial held, a rollback."""

import workspaces
from modelkeep.core import workspace
from modelkeep.registry import record, tags
from workspaces import run

START = 1_364_774_400  # 1 April 2013
HOUR_LATER = START + 3_600.0
NAMES = "shop@v1.0.0", "shop#champion#1", "shop@v1.1.0", "shop#champion#2", "shop#canary#1"
NAMES += ("shop#champion#3",)


def tag(root, at, name, **content):
    """Put a tag of the record on HEAD."""
    tags.add(root, name, "HEAD", record.message(name, content), at)


def build(root):
    """Make it."""
    workspaces.settings(root, "serve", "notify")
    (root / "dvc.yaml").write_text("stages: {}\n")
    workspace.set_params(root, "serve", {"name": "shop"})
    run(root, "git", "init", "-q", "-b", "main")
    verdict = {"state": "better", "sentence": "The candidate is better."}
    for k, version in enumerate(("v1.0.0", "v1.1.0")):
        run(root, "git", "add", "-A")
        run(root, "git", "commit", "-q", "--allow-empty", "-m", version)
        metrics = {"evaluate": {"log_loss": 0.5 - k / 10}}
        tag(root, START + k * 100, f"shop@{version}", verdict=verdict, metrics=metrics)
        promotion = {"action": "promote", "reason": "a test"}
        tag(root, START + k * 100 + 10, f"shop#champion#{k + 1}", **promotion)
    held = {"rollout": "r1", "kind": "canary", "end": "inconclusive", "sentence": "Undecided."}
    tag(root, START + 120, "shop#canary#1", **held)
    run(root, "git", "checkout", "-q", "shop@v1.0.0")
    back = {"action": "rollback", "reason": "calls", "before": "v1.1.0"}
    tag(root, START + 200, "shop#champion#3", **back)
    run(root, "git", "checkout", "-q", "main")
    return root
