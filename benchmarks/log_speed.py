"""What keeping an answer costs: the prediction log beside a bare table of the same rows, in the same run.

Example: python benchmarks/log_speed.py --seconds 2      prints a Markdown table
"""

import argparse
import sqlite3
import statistics
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

from modelkeep.log import Entry, Label, Log, open_log

SIZES = (1, 32, 256)  # rows a commit
MADE = 60_000  # rows that are prepared beforehand and used again with other ids
FEATURES = (
    b'{"carrier":"UA","origin":"EWR","dest":"IAH","weekday":"Tue","hour":5.0,"distance":1400.0,'
    b'"temp":39.02,"humid":59.37,"wind_speed":12.66,"precip":0.0,"pressure":1011.9,"visib":10.0}'
)
BARE = (
    "CREATE TABLE answers (n INTEGER PRIMARY KEY, id TEXT, at INTEGER, model TEXT, role TEXT, "
    "entity TEXT, time INTEGER, features BLOB, answer BLOB)"
)
INSERT = (
    "INSERT INTO answers (id, at, model, role, entity, time, features, answer) "
    "VALUES (?, ?, ?, ?, ?, ?, ?, ?)"
)
NAMES = {
    "in order": lambda i: f"{1_767_225_600_000_000 + i:x}",  # as a server makes them
    "random": lambda i: uuid.uuid4().hex,
}


def rows(name: Callable[[int], str], first: int, n: int) -> list[Entry]:
    """Answers of the flights' model."""
    start, model = 1_767_225_600_000_000, "0123456789"
    return [
        Entry(
            *(name(i), start + i, model, "champion", None, start + i),
            *(FEATURES, b"[0.8123456,0.1876544]"),
        )
        for i in range(first, first + n)
    ]


def bare(folder: Path, durability: str) -> Iterator[Callable]:
    """A plain table without an index: the least that SQLite can do."""
    with closing(sqlite3.connect(folder / "bare.db", isolation_level=None)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute(f"PRAGMA synchronous = {durability}")
        connection.execute(BARE)

        def append(batch: list[Entry]) -> None:
            connection.execute("BEGIN IMMEDIATE")
            connection.executemany(INSERT, batch)
            connection.execute("COMMIT")

        yield append


def ours(folder: Path, durability: str) -> Iterator[Callable]:
    """The log, with its indexes and its look for labels that came before."""
    with closing(open_log("sqlite:///ours.db", durability=durability, root=folder)) as log:
        log.label([Label(f"early{i}", "1", 0) for i in range(10_000)])
        yield log.append


def rate(append: Callable, batches: list[list[Entry]], seconds: float) -> tuple[float, float]:
    """Rows a second, for at most so long, and CPU microseconds a commit."""
    began, cpu, done = time.perf_counter(), time.process_time(), []
    for batch in batches:
        append(batch)
        done.append(len(batch))
        if time.perf_counter() - began > seconds:
            break
    used = (time.process_time() - cpu) * 1e6
    return sum(done) / (time.perf_counter() - began), used / len(done)


def measure(durability: str, size: int, kind: str, seconds: float, repeat: int) -> list[float]:
    """Rows a second and CPU microseconds a commit of the bare table, then of the log: medians of interleaved runs on fresh files."""
    found = {bare: [], ours: []}
    made = rows(NAMES[kind], 0, MADE)
    batches = [made[i : i + size] for i in range(0, MADE, size)]
    for _ in range(repeat):
        for way, rates in found.items():
            with tempfile.TemporaryDirectory() as folder:
                for append in way(Path(folder), durability):
                    rates.append(rate(append, batches, seconds))
    return [statistics.median(each) for rates in found.values() for each in zip(*rates)]


def reading(log: Log) -> tuple[float, float]:
    """Rows a second of a window that is read, and the share of the log's time that a window of 1 % takes."""
    began = time.perf_counter()
    start = 1_767_225_600_000_000
    n = sum(len(batch) for batch in log.read(start, start + MADE))
    whole = time.perf_counter() - began
    began = time.perf_counter()
    middle = start + MADE // 2
    assert sum(len(b) for b in log.read(middle, middle + MADE // 100)) == MADE // 100
    return n / whole, (time.perf_counter() - began) / whole


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=1.0, help="of each run (%(default)s)")
    parser.add_argument("--repeat", type=int, default=3)
    asked = parser.parse_args()
    print(
        "| synchronous | ids | rows a commit | bare table, rows/s | log, rows/s | log / bare |",
        end="",
    )
    print(" CPU a commit, bare | log |\n|---|---|---|---|---|---|---|---|")
    for durability in ("full", "normal"):
        for kind in NAMES:
            for size in SIZES:
                plain, plain_cpu, kept, cpu = measure(
                    durability, size, kind, asked.seconds, asked.repeat
                )
                head = f"| {durability.upper()} | {kind} | {size} | {plain:,.0f} | {kept:,.0f}"
                tail = f"{kept / plain:.2f} | {plain_cpu:,.0f} us | {cpu:,.0f} us"
                print(f"{head} | {tail} |", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        log = open_log("sqlite:///read.db", root=Path(folder))
        made = rows(NAMES["in order"], 0, MADE)
        log.append(made)
        log.label([Label(row.id, "1", row.at + 5) for row in made])
        read, small = reading(log)
        log.close()
    print(f"\nRead {read:,.0f} labelled rows/s; 1 % of the log in {small:.1%} of the time.")


if __name__ == "__main__":
    main()
