"""What counting and comparing cost, whole processes, beside Evidently and NannyML.

Example: python benchmarks/drift_speed.py --repeat 3 --peers      prints a Markdown table
The peers get environments of their own in the cache folder; --no-large-peers spares them 10M rows.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
import venv
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from modelkeep.core import workspace
from modelkeep.data.io import read
from modelkeep.evaluation import profile

KINDS = {
    **dict.fromkeys(["carrier", "origin", "dest", "weekday"], "category"),
    **dict.fromkeys(["hour", "distance", "temp", "humid", "wind_speed"], "number"),
    **dict.fromkeys(["precip", "pressure", "visib"], "number"),
}
CATEGORIES = [name for name, kind in KINDS.items() if kind == "category"]
PEERS = {"evidently": "evidently==0.7.23", "nannyml": "nannyml==0.13.1"}
BESIDE = ("pandas<2.3", "statsmodels")  # what both need to be imported, and do not ask for
LIMIT = 180  # seconds after which a peer is stopped
LARGE = 10_000_000

ONE_WINDOW = """
import sys
import pyarrow.parquet as pq
from modelkeep.evaluation import drift, profile
reference = profile.from_json(open(sys.argv[1]).read())
rows = pq.ParquetFile(sys.argv[2], read_dictionary=sys.argv[3].split()).read()
found = drift.compare(reference, profile.count(reference.bins, rows))
print(found.alarm)
"""
WITH_REFERENCE = """
import sys
import pyarrow.parquet as pq
from modelkeep.evaluation import drift, profile
before, rows = (pq.ParquetFile(p, read_dictionary=sys.argv[3].split()).read() for p in sys.argv[1:3])
kinds = {c: "category" if c in sys.argv[3].split() else "number" for c in rows.column_names}
reference = profile.learn(before, kinds)
found = drift.compare(reference, profile.count(reference.bins, rows))
print(found.alarm)
"""
WEEKS = """
import sys
import numpy as np
import pyarrow.parquet as pq
from modelkeep.evaluation import drift, profile
reference = profile.from_json(open(sys.argv[1]).read())
rows = pq.ParquetFile(sys.argv[2], read_dictionary=sys.argv[3].split()).read()
counts = profile.count(reference.bins, rows, profile.starts(rows["scheduled"]))
days = counts.blocks[0] + 7 * np.arange(36)
found = [drift.compare(reference, profile.window(counts, d, d + 7)) for d in days]
print(len(found), found[0].by, sum(f.alarm for f in found))
"""
STREAM = """
import sys
import pyarrow.parquet as pq
from modelkeep.evaluation import drift, profile
reference = profile.from_json(open(sys.argv[1]).read())
file = pq.ParquetFile(sys.argv[2], read_dictionary=sys.argv[3].split(), pre_buffer=False)
batches = file.iter_batches(262_144, columns=[b.name for b in reference.bins])
found = drift.compare(reference, profile.stream(reference.bins, batches))
print(found.rows, found.alarm)
"""
MEASURE = """
import os, sys, threading, time
began = time.perf_counter()
child = os.posix_spawn(sys.argv[2], sys.argv[2:], os.environ)
stop = threading.Timer(float(sys.argv[1]), os.kill, (child, 9))
stop.start()
_, status, used = os.wait4(child, 0)
seconds = time.perf_counter() - began
stop.cancel()
cpu = used.ru_utime + used.ru_stime
print(os.waitstatus_to_exitcode(status), seconds, cpu, used.ru_maxrss / 1024)
"""
EVIDENTLY = """
import sys, warnings
warnings.simplefilter("ignore")
import pandas as pd
from evidently import DataDefinition, Dataset, Report
from evidently.presets import DataDriftPreset
before, rows = (pd.read_parquet(p) for p in sys.argv[1:3])
names = sys.argv[3].split()
numbers = [c for c in before.columns if c not in names and c != "scheduled"]
definition = DataDefinition(numerical_columns=numbers, categorical_columns=names)
reference = Dataset.from_pandas(before[numbers + names], data_definition=definition)
windows = [rows]
if len(sys.argv) > 4:
    weeks = (rows.scheduled - rows.scheduled.min().normalize()).dt.days // 7
    windows = [window for _, window in rows.groupby(weeks)]
for window in windows:
    now = Dataset.from_pandas(window[numbers + names], data_definition=definition)
    Report([DataDriftPreset()]).run(now, reference).dict()
print(len(windows))
"""
NANNYML = """
import sys, warnings
warnings.simplefilter("ignore")
import nannyml as nml
import pandas as pd
before, rows = (pd.read_parquet(p) for p in sys.argv[1:3])
names = sys.argv[3].split()
columns = [c for c in before.columns if c != "scheduled"]
chunks = {"chunk_size": len(rows)} if len(sys.argv) < 5 else {"chunk_period": "W"}
stamp = {} if len(sys.argv) < 5 else {"timestamp_column_name": "scheduled"}
calculator = nml.UnivariateDriftCalculator(
    column_names=columns, treat_as_categorical=names, **stamp, **chunks
)
print(len(calculator.fit(before).calculate(rows).to_df()))
"""


def tables(cache: Path) -> dict[str, Path]:
    """Write the rows that all programs read, and return their paths."""
    rows = read("examples/flights", workspace.root(Path(__file__).parent))
    day = rows["scheduled"].to_numpy().astype("datetime64[D]")
    first = day < np.datetime64("2013-04-01")
    order = np.random.default_rng(0).permutation(len(rows))
    parts = {
        "before": rows[list(KINDS)].iloc[order[:100_000]],
        "now": rows[list(KINDS)].iloc[order[100_000:200_000]],
        "quarter": rows[[*KINDS, "scheduled"]][first],
        "rest": rows[[*KINDS, "scheduled"]][~first & (day < np.datetime64("2013-12-09"))],
    }
    paths = {name: cache / f"{name}.parquet" for name in (*parts, "large")}
    for name, part in parts.items():
        pq.write_table(pa.Table.from_pandas(part, preserve_index=False), paths[name])
    for name, source in (("before", "before"), ("quarter", "quarter")):
        table = pq.read_table(paths[source])
        days = profile.starts(table["scheduled"]) if source == "quarter" else None
        paths[f"{name}.json"] = cache / f"{name}.json"
        paths[f"{name}.json"].write_text(profile.to_json(profile.learn(table, KINDS, days)))
    if not paths["large"].exists():
        write_large(rows[list(KINDS)], paths["large"])
    return paths


def write_large(rows: pd.DataFrame, path: Path) -> None:
    """Write 10 million rows drawn from the flights; noise keeps the weather from compressing."""
    rng = np.random.default_rng(1)
    source = pa.Table.from_pandas(rows, preserve_index=False)
    temporary = path.with_suffix(".part")
    with pq.ParquetWriter(temporary, source.schema) as writer:
        for _ in range(0, LARGE, 500_000):
            part = source.take(rng.integers(0, len(rows), 500_000))
            for name in ("temp", "humid", "wind_speed", "pressure"):
                noisy = part[name].to_numpy() + rng.normal(0, 0.01, 500_000)
                place = part.column_names.index(name)
                part = part.set_column(place, name, pa.array(noisy, from_pandas=True))
            writer.write_table(part)
    os.replace(temporary, path)


def environment(cache: Path, name: str) -> str | None:
    """Make an environment with one peer and return its Python, or None where it does not install."""
    folder = cache / f"venv-{name}"
    python = folder / "bin" / "python"
    if not (folder / "ready").exists():
        venv.create(folder, with_pip=True, clear=True)
        command = [python, "-m", "pip", "install", "-q", PEERS[name], *BESIDE]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            print(f"{PEERS[name]} does not install: {done.stderr[-300:]}", file=sys.stderr)
            return None
        (folder / "ready").touch()
    return str(python)


def run(python: str, program: str, *arguments: object) -> tuple[float, float, float, str]:
    """Run a program in a process of its own; return seconds, CPU seconds, peak MB, its last line."""
    command = [sys.executable, "-S", "-c", MEASURE, str(LIMIT), python, "-c", program]
    done = subprocess.run([*command, *map(str, arguments)], capture_output=True, text=True)
    *said, last = [line for line in done.stdout.splitlines() if line.strip()]
    code, *figures = map(float, last.split())
    note = said[-1] if said else ""
    if code == -9:
        note = f"stopped at {LIMIT} s"
    return *figures, note if code in (0, -9) else f"failed: {done.stderr[-200:]}"


def in_process(paths: dict[str, Path], repeat: int) -> tuple[float, float]:
    """Return the seconds of `count` on rows in memory, and of bare NumPy with the same edges."""
    reference = profile.from_json(paths["before.json"].read_text())
    rows = pq.ParquetFile(paths["now"], read_dictionary=CATEGORIES).read().combine_chunks()
    numbers = {
        b.name: (np.array(b.cuts), rows[b.name].to_numpy()) for b in reference.bins if b.edges
    }
    codes = {c: rows[c].combine_chunks().indices.to_numpy() for c in CATEGORIES}

    def bare() -> None:
        for cuts, values in numbers.values():
            np.bincount(np.searchsorted(cuts, values, "right"))
        for code in codes.values():
            np.bincount(code)

    return (
        median(lambda: profile.count(reference.bins, rows), repeat * 5),
        median(bare, repeat * 5),
    )


def median(call: Callable[[], object], repeat: int) -> float:
    """Return the median seconds of a call."""
    seconds = []
    for _ in range(repeat):
        began = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - began)
    return statistics.median(seconds)


def cases(paths: dict[str, Path], peers: dict[str, str], large: bool) -> Iterator[tuple]:
    """Yield case, program's name, Python, program and its arguments; ours comes first in a case."""
    ours = {
        "100,000 rows against a stored reference": (ONE_WINDOW, "before.json", "now"),
        "100,000 rows, 100,000 of reference read too": (WITH_REFERENCE, "before", "now"),
        "36 weekly windows": (WEEKS, "quarter.json", "rest"),
        "10,000,000 rows streamed": (STREAM, "before.json", "large"),
    }
    theirs = {
        "100,000 rows, 100,000 of reference read too": ("before", "now"),
        "36 weekly windows": ("quarter", "rest", "weekly"),
        "10,000,000 rows streamed": ("before", "large"),
    }
    names = " ".join(CATEGORIES)
    programs = {"evidently": EVIDENTLY, "nannyml": NANNYML}
    for case, (program, reference, now) in ours.items():
        yield case, "modelkeep", sys.executable, program, paths[reference], paths[now], names
        if case in theirs and (large or "large" not in theirs[case]):
            before, after, *more = theirs[case]
            files = (paths[before], paths[after], names, *more)
            for name, python in peers.items():
                yield case, PEERS[name], python, programs[name], *files


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--peers", action="store_true", help="also Evidently and NannyML")
    parser.add_argument("--no-large-peers", action="store_true", help="spare them 10M rows")
    parser.add_argument("--cache", type=Path, default=Path(tempfile.gettempdir()) / "drift_speed")
    given = parser.parse_args()
    given.cache.mkdir(parents=True, exist_ok=True)
    paths = tables(given.cache)
    peers = {name: environment(given.cache, name) for name in PEERS} if given.peers else {}
    peers = {name: python for name, python in peers.items() if python}
    print("| whole process, 12 columns | program | seconds | times ours | CPU s | peak MB |")
    print("|---|---|---|---|---|---|")
    ours = 1.0
    for case, name, *call in cases(paths, peers, not given.no_large_peers):
        slow = name != "modelkeep" and case.startswith("10,000,000")
        results = [run(*call) for _ in range(1 if slow else given.repeat)]
        seconds, cpu, peak = (statistics.median(r[i] for r in results) for i in range(3))
        ours = seconds if name == "modelkeep" else ours
        said = results[-1][3]
        note = f" ({said})" if said.startswith(("stopped", "failed")) else ""
        cells = f"{seconds:.2f}{note} | {seconds / ours:.1f} | {cpu:.2f} | {peak:,.0f}"
        print(f"| {case} | {name} | {cells} |", flush=True)
    count, bare = in_process(paths, given.repeat)
    nanoseconds = count / 100_000 / len(KINDS) * 1e9
    print(
        f"\nCounting 100,000 rows in process: {count * 1e3:.1f} ms, {nanoseconds:.1f} ns a value;"
    )
    print(f"a bare NumPy count of the same: {bare * 1e3:.1f} ms, ratio {count / bare:.2f}")


if __name__ == "__main__":
    main()
