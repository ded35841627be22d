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

from modelkeep.predictions import records
from modelkeep.predictions.log import Label, PredictionLog, PredictionRecord, open_log

SIZES = (1, 32, 256)  # rows a commit
MADE = 60_000  # rows that are prepared beforehand
READ = 10  # rows a turn of the log that is read
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
START = 1_767_225_600_000_000
NAMES = {
    "of the server": lambda turn, i: f"{START + turn:x}-{i}",
    "of others, in order": lambda turn, i: f"{START + turn:x}{i:04x}",
    "of others, random": lambda turn, i: uuid.uuid4().hex,
}


def turns(kind: str, size: int) -> list[list[PredictionRecord]]:
    """Answers of the flights' model, those of a turn at the same moment."""
    name, model = NAMES[kind], "0123456789"
    return [
        [
            PredictionRecord(
                *(name(turn, i), START + turn, model, "champion", None, START + turn),
                *(FEATURES, b"[0.8123456,0.1876544]"),
            )
            for i in range(size)
        ]
        for turn in range(MADE // size)
    ]


def bare(folder: Path, durability: str, batches: list) -> Iterator[tuple[Callable, list]]:
    """A plain table without an index: the least that SQLite can do with a row each."""
    with closing(sqlite3.connect(folder / "bare.db", isolation_level=None)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute(f"PRAGMA synchronous = {durability}")
        connection.execute(BARE)

        def append(batch: list[PredictionRecord]) -> None:
            connection.execute("BEGIN IMMEDIATE")
            connection.executemany(INSERT, batch)
            connection.execute("COMMIT")

        yield append, batches


def ours(folder: Path, durability: str, batches: list) -> Iterator[tuple[Callable, list]]:
    """The log, with its indexes and its look for labels that came before; given what a server gives it."""
    with closing(open_log("sqlite:///ours.db", durability=durability, root=folder)) as log:
        log.label([Label(f"early{i}", "1", 0) for i in range(10_000)])
        yield lambda kept: log.write(*kept), [_kept(batch) for batch in batches]


def _kept(batch: list[PredictionRecord]) -> tuple:
    ids = [row.id for row in batch]
    turn = records.batch(ids[0])
    return [*records.grouped(batch)], [] if turn else ids, turn


def rate(append: Callable, batches: list, seconds: float) -> tuple[float, float]:
    """Batches a second, for at most so long, and CPU microseconds a commit."""
    began, cpu, done = time.perf_counter(), time.process_time(), 0
    for batch in batches:
        append(batch)
        done += 1
        if time.perf_counter() - began > seconds:
            break
    used = (time.process_time() - cpu) * 1e6
    return done / (time.perf_counter() - began), used / done


def measure(durability: str, size: int, kind: str, seconds: float, repeat: int) -> list[float]:
    """Rows a second and CPU microseconds a commit of the bare table, then of the log: medians of interleaved runs on fresh files."""
    found = {bare: [], ours: []}
    batches = turns(kind, size)
    for _ in range(repeat):
        for way, rates in found.items():
            with tempfile.TemporaryDirectory() as folder:
                for append, made in way(Path(folder), durability, batches):
                    per_second, cpu = rate(append, made, seconds)
                    rates.append((size * per_second, cpu))
    return [statistics.median(each) for rates in found.values() for each in zip(*rates)]


def reading(log: PredictionLog) -> tuple[float, float]:
    """Rows a second of a window that is read, and the share of the log's time that a window of 1 % takes."""
    began = time.perf_counter()
    n = sum(len(batch) for batch in log.read(START, START + MADE))
    whole = time.perf_counter() - began
    began = time.perf_counter()
    turns = MADE // READ
    middle = START + turns // 2
    assert sum(len(b) for b in log.read(middle, middle + turns // 100)) == turns // 100 * READ
    return n / whole, (time.perf_counter() - began) / whole


def room(size: int) -> float:
    """Bytes that a row takes in the file, its place in the index included."""
    batches = turns("of the server", size)
    with tempfile.TemporaryDirectory() as folder:
        with closing(open_log("sqlite:///room.db", durability="normal", root=Path(folder))) as log:
            for batch in batches:
                log.write(*_kept(batch))
        return (Path(folder) / "room.db").stat().st_size / (size * len(batches))


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
        for batch in turns("of the server", READ):
            log.write(*_kept(batch))
            log.label([Label(row.id, "1", row.at + 5) for row in batch])
        read, small = reading(log)
        log.close()
    print(f"\nRead {read:,.0f} labelled rows/s; 1 % of the log in {small:.1%} of the time.")

    alone, large = room(1), room(256)
    print(f"A row takes {alone:.0f} bytes where it comes alone, {large:.0f} in bodies of 256.")


if __name__ == "__main__":
    main()
