"""What the pipeline costs: strict notebooks, DVC and pages against the same library calls in a plain script.

Works in a scratch clone of the committed state. Five plain scripts (the notebooks' own cells) and a turn of all stages are timed in turn, as whole
processes. Prints Markdown tables. Run: python benchmarks/pipeline.py [rounds]
"""

import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import psutil

from modelkeep.core import workspace

STAGES = ("prepare", "train", "evaluate", "collect", "monitor")
# The same conditions on both sides: one thread, as the strict runner sets it.
ENV = os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MPLBACKEND": "agg"}


def main(rounds: int = 3) -> None:
    root = workspace.root(Path(__file__).parent)
    with tempfile.TemporaryDirectory() as folder:
        clone = Path(folder) / "clone"
        command("git", "clone", "--quiet", str(root), str(clone), cwd=root)
        env = ENV | {"PYTHONPATH": str(clone / "lib"), "DVC_SITE_CACHE_DIR": f"{folder}/site"}
        seconds, peak = watched(["dvc", "repro"], clone, env)
        print(
            f"One whole turn (`dvc repro` in a fresh clone): {seconds:.0f} s, peak memory of all its processes {peak / 1e9:.2f} GB\n"
        )
        prices(clone, env, rounds)
        nothing_to_do(clone, env, rounds)


def prices(clone: Path, env: dict, rounds: int) -> None:
    """Print what each stage costs in a turn, and what the turn costs a stage, DVC's start and the index page among it."""
    scripts = {stage: plain(clone, stage) for stage in STAGES}
    pairs = []
    for _ in range(rounds):
        theirs = {k: timed([sys.executable, str(v)], clone, env) for k, v in scripts.items()}
        pairs.append((turn(clone, env), theirs))
    print("| stage | DVC, papermill and page | plain script | price |\n|---|---|---|---|")
    for stage in STAGES:
        ours, theirs = (statistics.median(p[i][stage] for p in pairs) for i in (0, 1))
        price = statistics.median(a[stage] - b[stage] for a, b in pairs)
        print(f"| {stage} | {ours:.1f} s | {theirs:.1f} s | {price:.1f} s |")
    a, b = (statistics.median(sum(p[i].values()) for p in pairs) for i in (0, 1))
    price = statistics.median(sum(a.values()) - sum(b.values()) for a, b in pairs) / len(STAGES)
    print(
        f"| all, with DVC's start and the index | {a:.1f} s | {b:.1f} s | {price:.1f} s a stage |"
    )


def turn(clone: Path, env: dict) -> dict[str, float]:
    """Seconds of each stage in one `dvc repro` that runs all, from the line that announces it to the next; under "" what came before the first."""
    begun, seconds, stage = time.perf_counter(), {}, ""
    words = ["dvc", "repro", "--force"]
    unbuffered = env | {"PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(
        words,
        cwd=clone,
        env=unbuffered,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as process:
        for line in process.stdout:
            if named := re.match("Running stage '(.+)':", line):
                begun, seconds[stage] = (now := time.perf_counter()), now - begun
                stage = named[1]
    seconds[stage] = time.perf_counter() - begun
    if process.returncode:
        raise SystemExit(f"dvc repro --force ended with {process.returncode} in {clone}")
    return seconds


def nothing_to_do(clone: Path, env: dict, rounds: int) -> None:
    pairs = [
        (timed(["dvc", "repro"], clone, env), timed(["dvc", "status"], clone, env))
        for _ in range(rounds + 2)
    ]
    ratio = statistics.median(a / b for a, b in pairs)
    repro, status = (statistics.median(p[i] for p in pairs) for i in (0, 1))
    print(
        f"\n`dvc repro` with nothing to do: {repro:.2f} s, {ratio:.2f} times `dvc status` ({status:.2f} s)"
    )


def plain(clone: Path, stage: str) -> Path:
    """The cells of a stage's notebook as a script, with the values of its params file."""
    cells = json.loads((clone / f"notebooks/{stage}.ipynb").read_text())["cells"]
    code = ["".join(c["source"]) for c in cells if c["cell_type"] == "code"]
    values = [f"{k} = {v!r}" for k, v in workspace.params(clone, stage).items()]
    lines = ["display = lambda *shown: None", code[0], *values, *code[1:]]
    script = clone.parent / f"{stage}.py"
    script.write_text("\n".join(lines) + "\n")
    return script


def command(*words: str, cwd: Path) -> None:
    subprocess.run(words, cwd=cwd, check=True, capture_output=True)


def timed(words: list[str], cwd: Path, env: dict) -> float:
    start = time.perf_counter()
    subprocess.run(words, cwd=cwd, env=env, check=True, capture_output=True)
    return time.perf_counter() - start


def watched(words: list[str], cwd: Path, env: dict) -> tuple[float, float]:
    """Seconds, and the largest memory that the process and its children had together (sampled)."""
    start, process = (
        time.perf_counter(),
        subprocess.Popen(
            words, cwd=cwd, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        ),
    )
    peaks = [0.0]
    watcher = threading.Thread(target=sample, args=(process.pid, peaks.append))
    watcher.start()
    process.wait()
    seconds = time.perf_counter() - start
    watcher.join()
    return seconds, max(peaks)


def sample(pid: int, note: Callable[[float], None]) -> None:
    while psutil.pid_exists(pid):
        try:
            family = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
            note(sum(p.memory_info().rss for p in family))
        except psutil.NoSuchProcess:
            pass
        time.sleep(0.2)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
