"""How large the house is, and what a command costs before it does anything: `python benchmarks/house.py [COMMIT ...]`.

Sizes are counted in each commit (default: HEAD) without checking it out; times are medians of
processes started now, beside a bare `python -c pass`.
"""

import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from statistics import median

ROOT = Path(__file__).parents[1]
TIMES = 15


def git(*words: str) -> str:
    return subprocess.run(
        ["git", *words], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout


def modules(commit: str) -> dict[str, str]:
    """The library's modules by path, with their text."""
    names = git("ls-tree", "-r", "--name-only", commit, "lib/modelkeep").split()
    return {name: git("show", f"{commit}:{name}") for name in names if name.endswith(".py")}


def sizes(commit: str) -> dict[str, object]:
    texts = modules(commit)
    folders = Counter(str(Path(name).parent) for name in texts)
    lines = Counter()
    for name, text in texts.items():
        lines[Path(name).parts[2] if len(Path(name).parts) > 3 else ""] += text.count("\n")
    tests = [
        n for n in git("ls-tree", "-r", "--name-only", commit, "tests").split() if n.endswith(".py")
    ]
    long = sum(len(line) > 100 for text in texts.values() for line in text.splitlines())
    return {
        "modules": len(texts),
        "lines": sum(lines.values()),
        "lines above 100 columns": long,
        "modules in the fullest folder": max(folders.values()),
        "lines of tests": sum(git("show", f"{commit}:{name}").count("\n") for name in tests),
        "words of README": len(git("show", f"{commit}:README.md").split()),
        "lines of dvc.yaml": git("show", f"{commit}:dvc.yaml").count("\n"),
        "by package": dict(lines.most_common()),
    }


def seconds(*words: str) -> float:
    """The median of some starts of a process."""
    found = []
    for _ in range(TIMES):
        start = time.perf_counter()
        subprocess.run([sys.executable, *words], cwd=ROOT, check=True, capture_output=True)
        found.append(time.perf_counter() - start)
    return median(found)


def main() -> None:
    for commit in sys.argv[1:] or ["HEAD"]:
        print(commit)
        for name, value in sizes(commit).items():
            print(f"  {name}: {value}")
    bare = seconds("-c", "pass")
    for name, words in {
        "import modelkeep": ("-c", "import modelkeep as mk"),
        "modelkeep --help": ("-m", "modelkeep", "--help"),
        "modelkeep serve --help": ("-m", "modelkeep", "serve", "--help"),
    }.items():
        print(f"{name}: {seconds(*words) - bare:.3f} s above the {bare:.3f} s of python -c pass")


if __name__ == "__main__":
    main()
