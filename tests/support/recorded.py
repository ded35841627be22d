"""A repository whose revisions have results on record, without any stage having run."""

from hashlib import md5
from pathlib import Path

import tiny
from modelkeep.core import files


def figure(title):
    svg = '<svg id="s"><clipPath id="p1"/><g clip-path="url(#p1)"/><use xlink:href="#m1"/></svg>'
    return f'<figure role="img"><h4>{title}</h4>{svg}</figure>'


def report(*titles):
    parts = [f'<h2 id="How-{n}">How {n}?<a href="#x"></a></h2>{t}' for n, t in enumerate(titles, 1)]
    return f"<!doctype html><h1>A page</h1>{''.join(parts)}"


def turn(root, depth, auc, **pages):
    """Leave in `root` what a turn with these parameters would leave."""
    stages = {}
    for stage, values in {"train": {"max_depth": depth, "seed": 0}, "evaluate": {"a": 1}}.items():
        html = pages.get(stage, "lost").encode()
        digest = md5(html).hexdigest()
        out = {"path": f"reports/{stage}.html", "hash": "md5", "md5": digest, "size": len(html)}
        deps = [{"path": "lib/a.py", "hash": "md5", "md5": "0123456789abcdef"}]
        params = {f"params/{stage}.yaml": values}
        stages[stage] = {"cmd": "x", "deps": deps, "params": params, "outs": [out]}
        if stage in pages:
            files.write_bytes(root / ".dvc/cache/files/md5" / digest[:2] / digest[2:], html)
            files.write_bytes(root / "reports" / f"{stage}.html", html)
    files.write_json(root / "dvc.lock", {"schema": "2.0", "stages": stages})
    files.write_json(root / "metrics/train.json", {"auc": auc, "rows": 1000, "deep": {"x": None}})
    told = {"stage": "train", "state": "done", "sentence": f"AUC <{auc}>.", "reasons": []}
    files.write_json(root / "verdicts/train.json", told)


def repository(root: Path) -> Path:
    """Two commits, and an experiment `deeper` on the second, one page of which was lost."""

    def git(*words):
        done = tiny.run(root, "git", *words)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    git("init", "-q", "-b", "main")
    outs = "stages:\n" + "".join(
        f"  {s}:\n    cmd: x\n    outs: [reports/{s}.html]\n" for s in ("train", "evaluate")
    )
    files.write_text(root / "dvc.yaml", outs)
    files.write_text(root / "params" / "train.yaml", "max_depth: 4\n")
    files.write_text(root / ".dvc" / "config", "")
    files.write_text(root / ".gitignore", "/reports\n/.dvc/cache\n/.dvc/tmp\n")
    git("add", "-A")
    git("commit", "-qm", "Empty")
    git("tag", "empty")
    turn(root, 4, 0.7, train=report(figure("A") + figure("B")), evaluate=report(figure("E")))
    git("add", "-A")
    git("commit", "-qm", "Results")
    turn(root, 8, 0.75, train=report(figure("C"), figure("D")))
    git("add", "-A")
    git("commit", "-qm", "Deeper")
    base, commit = git("rev-parse", "HEAD~"), git("rev-parse", "HEAD")
    git("reset", "-q", "--hard", base)
    git("update-ref", f"refs/exps/{base[:2]}/{base[2:]}/deeper", commit)
    turn(root, 4, 0.7, train=report(figure("A") + figure("B")), evaluate=report(figure("E")))
    return root
