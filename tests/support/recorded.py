"""A repository whose revisions have results on record, without any stage having run."""

from pathlib import Path

import tiny
from modelkeep.core import files


def cycle(root, depth, auc):
    """Leave in `root` what a cycle with these parameters would leave."""
    stages = {}
    for stage, values in {"train": {"max_depth": depth, "seed": 0}, "evaluate": {"a": 1}}.items():
        deps = [{"path": "lib/a.py", "hash": "md5", "md5": "0123456789abcdef"}]
        params = {f"params/{stage}.yaml": values}
        stages[stage] = {"cmd": "x", "deps": deps, "params": params, "outs": []}
    files.write_text(root / "params/train.yaml", f"max_depth: {depth}\nseed: 0\n")
    files.write_json(root / "dvc.lock", {"schema": "2.0", "stages": stages})
    files.write_json(root / "metrics/train.json", {"auc": auc, "rows": 1000, "deep": {"x": None}})
    for stage, sentence in {"train": f"AUC <{auc}>.", "prepare": "Prepared."}.items():
        verdict = {"stage": stage, "state": "done", "sentence": sentence, "reasons": []}
        files.write_json(root / f"verdicts/{stage}.json", verdict)


def repository(root: Path) -> Path:
    """Two commits, and an experiment `deeper` on the second."""

    def git(*words):
        done = tiny.run(root, "git", *words)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    git("init", "-q", "-b", "main")
    stage = {"cmd": "x", "params": [{"params/train.yaml": None}]}
    stage["metrics"] = [{"metrics/train.json": {"cache": False}}]
    files.write_json(root / "dvc.yaml", {"stages": {"train": stage, "evaluate": {"cmd": "x"}}})
    files.write_text(root / "params" / "train.yaml", "max_depth: 4\n")
    files.write_text(root / ".dvc" / "config", "")
    files.write_text(root / ".gitignore", "/reports\n/.dvc/cache\n/.dvc/tmp\n")
    git("add", "-A")
    git("commit", "-qm", "Empty")
    git("tag", "empty")
    cycle(root, 4, 0.7)
    git("add", "-A")
    git("commit", "-qm", "Results")
    cycle(root, 8, 0.75)
    git("add", "-A")
    git("commit", "-qm", "Deeper")
    base, commit = git("rev-parse", "HEAD~"), git("rev-parse", "HEAD")
    git("reset", "-q", "--hard", base)
    git("update-ref", f"refs/exps/{base[:2]}/{base[2:]}/deeper", commit)
    cycle(root, 4, 0.7)
    return root
