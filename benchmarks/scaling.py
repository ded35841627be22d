"""What it costs as it grows: `python benchmarks/scaling.py [log|versions|columns|history ...]`.

Each table has CPU seconds of this process and its children, beside wall-clock seconds: other
programs run on the same cores. docs/scaling.md has the figures.
"""

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa

from modelkeep.core import workspace
from modelkeep.data import splits
from modelkeep.evaluation import drift, profile
from modelkeep.predictions import history
from modelkeep.predictions.log import Label, open_log
from modelkeep.predictions.records import PredictionRecord
from modelkeep.registry import record

DAY = 86_400_000_000
FIRST = 1_577_836_800_000_000  # 2020, in microseconds
NEW = 5_000  # rows since the last update
COLUMNS = 10


def cpu() -> float:
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in used)


def timed(call: Callable, *given: object, **named: object) -> tuple[float, float, object]:
    """CPU and wall-clock seconds of a call, and its result."""
    began, used = time.perf_counter(), cpu()
    result = call(*given, **named)
    return cpu() - used, time.perf_counter() - began, result


def memory() -> float:
    """The most memory of this process so far, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def log() -> None:
    """Rows in the log against what an update takes from it, and what a week's report reads."""
    print("rows in the log | first update, next one of 5,000 rows | the last 5,000: CPU s | log MB")
    for rows in (10_000, 100_000, 1_000_000):
        with tempfile.TemporaryDirectory() as folder:
            book = open_log(f"sqlite:///{folder}/log.db", durability="normal")
            _fill(book, rows)
            root, prepare = Path(folder), _known(Path(folder), rows - NEW)
            now = (FIRST + rows * 1_000_000 + 2 * DAY) / 1e6
            first, _, new = timed(history.find, root, prepare, book, now, 0.0)
            assert len(new.rows) == NEW
            history.add(root, prepare["source"], new, prepare)
            _fill(book, NEW, begin=rows + 2 * DAY // 1_000_000)
            later = now + NEW + 2 * DAY / 1e6
            after, _, new = timed(history.find, root, prepare, book, later, 0.0)
            assert len(new.rows) == NEW and new.known == 0
            week, _, _ = timed(_count, book, FIRST + (rows - NEW) * 1_000_000)
            size = sum(p.stat().st_size for p in Path(folder).glob("log.db*")) / 1e6
            book.close()
        print(f"{rows:>9,} | {first:.2f}, {after:.2f} | {week:.2f} | {size:.0f}", flush=True)


def _known(root: Path, rows: int) -> dict:
    """A history of so many of the log's rows; the parameters of prepare that name its columns."""
    table = pd.DataFrame({f"c{i}": np.full(rows, 0.1) for i in range(COLUMNS - 1)})
    table["shop"], table["late"], table["id"] = "north", np.arange(rows) % 2, np.arange(rows)
    table["id"] = "r" + table["id"].astype("str")
    table["at"] = pd.to_datetime(FIRST + np.arange(rows) * 1_000_000, unit="us")
    splits.write(table, root / "data/history/first.parquet")
    (root / "data/history.dvc").write_text("outs: []\n")
    roles = {"label": "late", "time_column": "at", "entity_column": "", "id_column": "id"}
    params = workspace.params(Path(__file__).parents[1], "prepare")
    return params | roles | {"source": "data/history", "features": [], "rules": {}, "drop": []}


def _count(book, start: int) -> int:
    return sum(len(batch) for batch in book.read(start, FIRST + 10**18))


def _fill(book, rows: int, size: int = 1000, begin: int = 0) -> None:
    """Rows of ten features, one a second, each with a label a day later."""
    features = {f"c{i}": 0.123456 * i for i in range(COLUMNS - 1)} | {"shop": "north"}
    text = json.dumps(features).encode()
    for start in range(begin, begin + rows, size):
        ids = range(start, min(start + size, begin + rows))
        book.append(
            [
                PredictionRecord(
                    f"r{i}",
                    FIRST + start * 1_000_000,
                    "m",
                    "champion",
                    None,
                    None,
                    text,
                    b"[0.4,0.6]",
                )
                for i in ids
            ]
        )
        book.label([Label(f"r{i}", str(i % 2), FIRST + start * 1_000_000 + DAY) for i in ids])


def versions() -> None:
    """Versions and tags against the commands of releases, each a process of its own."""
    print("versions, tags | reading the record, CPU s | by command: CPU s")
    for number in (10, 100, 1000):
        with tempfile.TemporaryDirectory() as folder:
            root = Path(folder)
            tags = _repository(root, number)
            used, _, found = timed(record.read, root)
            assert len(found.versions) == number
            commands = []
            for words in (["history"], ["champion"], ["show", f"v{number}.0.0"], ["status"]):
                line = [sys.executable, "-m", "modelkeep", *words]
                spent, _, done = timed(subprocess.run, line, cwd=root, capture_output=True)
                commands.append(
                    f"{words[0]} {spent:.2f}" + (" (failed)" if done.returncode else "")
                )
        print(f"{number:>5,}, {tags:,} | {used:.2f} | {', '.join(commands)}", flush=True)


def _repository(root: Path, number: int) -> int:
    """A repository with so many versions, each of them champion once; the number of its tags."""
    (root / "params").mkdir()
    source = Path(__file__).parents[1]
    (root / "params/serve.yaml").write_text((source / "params/serve.yaml").read_text())
    (root / "dvc.yaml").write_text("stages: {}\n")
    who, lines = "Ada <ada@example.org>", []
    for n in range(1, number + 1):
        at = f"{1_600_000_000 + n * 100} +0000"
        lines += ["commit refs/heads/main", f"mark :{n}", f"committer {who} {at}", "data 1", "x"]
        lines += [f"M 100644 inline f{n % 7}", f"data {len(str(n))}", str(n), ""]
    for n in range(1, number + 1):
        verdict = {"state": "better", "sentence": "It is better. " * 20, "gains": []}
        evidence = {"schema": 1, "parent": None, "commit": "0" * 40, "forced": None}
        evidence |= {"verdict": verdict, "metrics": {"evaluate": {f"m{i}": 0.5 for i in range(30)}}}
        evidence |= {"params": {"train": {f"p{i}": i for i in range(40)}}}
        evidence |= {"hashes": {"bundle": f"{n:064x}", "test_rows": f"{n // 4:064x}"}}
        said = {"schema": 1, "action": "promote", "version": f"v{n}.0.0"}
        for name, content in ((f"flights@v{n}.0.0", evidence), (f"flights#champion#{n}", said)):
            text = json.dumps(content)
            at = f"{1_600_000_000 + n * 100 + 1} +0000"
            lines += [f"tag {name}", f"from :{n}", f"tagger {who} {at}", f"data {len(text)}", text]
    subprocess.run(["git", "init", "-q", "-b", "main", root], check=True)
    text = "\n".join([*lines, ""])
    subprocess.run(["git", "fast-import", "--quiet"], input=text, text=True, cwd=root, check=True)
    subprocess.run(["git", "reset", "-q", "HEAD"], cwd=root, check=True)
    subprocess.run(["git", "pack-refs", "--all"], cwd=root, check=True)
    return 2 * number


def columns() -> None:
    """Columns against the time and memory of drift (100,000 rows of 90 days against a week)."""
    print("columns | reference, CPU s | window, CPU s | tests, CPU s | MB at most")
    generator, rows, recent = np.random.default_rng(0), 100_000, 10_000
    for width in (10, 100, 300, 1000):
        names = [f"c{i}" for i in range(width)]
        kinds = dict.fromkeys(names, "number")
        days = np.datetime64("2020-01-01") + np.sort(generator.integers(0, 90, rows))
        later = np.datetime64("2020-04-01") + np.sort(generator.integers(0, 7, recent))
        table = pa.table({n: generator.standard_normal(rows, np.float32) for n in names})
        newer = pa.table({n: generator.standard_normal(recent, np.float32) for n in names})
        learn, _, reference = timed(profile.learn, table, kinds, days)
        count, _, window = timed(profile.count, reference.bins, newer, later)
        test, _, _ = timed(drift.compare, reference, window)
        print(f"{width:>7,} | {learn:.1f} | {count:.1f} | {test:.1f} | {memory():,.0f}", flush=True)


def prepared() -> None:
    """Rows of history against reading, cleaning and splitting them."""
    print("rows of history | CSV: CPU s | Parquet: CPU s | MB at most")
    generator = np.random.default_rng(0)
    for rows in (10_000, 100_000, 1_000_000):
        numbers = {f"c{i}": generator.standard_normal(rows).round(4) for i in range(COLUMNS - 1)}
        table = pd.DataFrame(numbers | {"shop": generator.choice(["north", "south", "east"], rows)})
        table["late"], table["id"] = generator.integers(0, 2, rows), np.arange(rows)
        table["at"] = pd.Timestamp("2020-01-01") + pd.to_timedelta(np.arange(rows), "min")
        spent = []
        with tempfile.TemporaryDirectory() as folder:
            table.to_csv(f"{folder}/t.csv", index=False)
            table.to_parquet(f"{folder}/t.parquet")
            for name in ("t.csv", "t.parquet"):
                used, _, _ = timed(_prepare, name, Path(folder))
                spent.append(f"{used:.1f}")
        print(f"{rows:>9,} | {' | '.join(spent)} | {memory():,.0f}", flush=True)


def _prepare(name: str, root: Path) -> None:
    roles = {"label": "late", "time_column": "at", "entity_column": "", "id_column": "id"}
    table = splits.read(name, root, **roles)
    splits.prepare(table, **roles, test_days=2)


def main() -> None:
    parts = {"log": log, "versions": versions, "columns": columns, "history": prepared}
    for name in sys.argv[1:] or parts:
        print(f"\n{parts[name].__doc__}")
        parts[name]()


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()
