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
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from modelkeep import drift, profile, workspace
from modelkeep.sources import read

KINDS = {
    **dict.fromkeys(["carrier", "origin", "dest", "weekday"], "category"),
    **dict.fromkeys(["hour", "distance", "temp", "humid", "wind_speed"], "number"),
    **dict.fromkeys(["precip", "pressure", "visib"], "number"),
}
CATEGORIES = [name for name, kind in KINDS.items() if kind == "category"]
PEERS = {"evidently": "evidently==0.7.23", "nannyml": "nannyml==0.13.1"}
LIMIT = 180  # seconds after which a peer is stopped
LARGE = 10_000_000

ONE_WINDOW = """
import sys
import pyarrow.parquet as pq
from modelkeep import drift, profile
reference = profile.from_json(open(sys.argv[1]).read())
rows = pq.ParquetFile(sys.argv[2], read_dictionary=sys.argv[3].split()).read()
found = drift.compare(reference, profile.count(reference.bins, rows))
print(found.alarm)
"""
WITH_REFERENCE = """
import sys
import pyarrow.parquet as pq
from modelkeep import drift, profile
before, rows = (pq.ParquetFile(p, read_dictionary=sys.argv[3].split()).read() for p in sys.argv[1:3])
kinds = {c: "category" if c in sys.argv[3].split() else "number" for c in rows.column_names}
reference = profile.learn(before, kinds)
found = drift.compare(reference, profile.count(reference.bins, rows))
print(found.alarm)
"""
WEEKS = """
import sys
import pyarrow.parquet as pq
from modelkeep import drift, profile
reference = profile.from_json(open(sys.argv[1]).read())
rows = pq.ParquetFile(sys.argv[2], read_dictionary=sys.argv[3].split()).read()
counts = profile.count(reference.bins, rows, profile.starts(rows["scheduled"]))
weeks = [profile.window(counts, d, d + 7) for d in counts.blocks[0] + 7 * __import__("numpy").arange(36)]
found = [drift.compare(reference, week) for week in weeks]
print(len(found), found[0].by, sum(f.alarm for f in found))
"""
STREAM = """
import sys
import pyarrow.parquet as pq
from modelkeep import drift, profile
reference = profile.from_json(open(sys.argv[1]).read())
file = pq.ParquetFile(sys.argv[2], read_dictionary=sys.argv[3].split())
batches = file.iter_batches(262_144, columns=[b.name for b in reference.bins])
found = drift.compare(reference, profile.stream(reference.bins, batches))
print(found.rows, found.alarm)
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
windows = [rows] if len(sys.argv) < 5 else [g for _, g in rows.groupby(rows.scheduled.dt.to_period("W"))]
for window in windows[: 1 if len(sys.argv) < 5 else 36]:
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
    rows = read("flights", workspace.root(Path(__file__).parent))
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


def write_large(rows, path: Path) -> None:
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
        command = [python, "-m", "pip", "install", "-q", PEERS[name]]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            print(f"{PEERS[name]} does not install: {done.stderr[-300:]}", file=sys.stderr)
            return None
        (folder / "ready").touch()
    return str(python)


def run(python: str, program: str, *arguments: object) -> tuple[float, float, str]:
    """Run a program in a process of its own; return seconds, peak MB, and what it printed last."""
    command = [python, "-c", program, *map(str, arguments)]
    with tempfile.TemporaryFile() as out:
        began = time.perf_counter()
        child = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT)
        while (ended := os.wait4(child.pid, os.WNOHANG))[0] == 0:
            if time.perf_counter() - began > LIMIT:
                child.kill()
            time.sleep(0.002)
        seconds = time.perf_counter() - began
        child.returncode = os.waitstatus_to_exitcode(ended[1])
        out.seek(0)
        lines = out.read().decode().strip().splitlines() or [""]
    said = lines[-1] if child.returncode in (0, -9) else f"failed: {lines[-1][:100]}"
    return (
        seconds,
        ended[2].ru_maxrss / 1024,
        f"stopped at {LIMIT} s" if child.returncode == -9 else said,
    )


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


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--peers", action="store_true", help="also Evidently and NannyML")
    parser.add_argument("--no-large-peers", action="store_true", help="spare them 10M rows")
    parser.add_argument("--cache", type=Path, default=Path(tempfile.gettempdir()) / "drift_speed")
    given = parser.parse_args()
    given.cache.mkdir(parents=True, exist_ok=True)
    paths, names = tables(given.cache), " ".join(CATEGORIES)
    python = {"ours": sys.executable}
    programs = {"evidently": EVIDENTLY, "nannyml": NANNYML}
    if given.peers:
        python |= {name: environment(given.cache, name) for name in PEERS}
    here = {
        "100,000 rows against a stored reference": (ONE_WINDOW, "before.json", "now"),
        "100,000 rows, 100,000 of reference read too": (WITH_REFERENCE, "before", "now"),
        "36 weekly windows": (WEEKS, "quarter.json", "rest"),
        "10,000,000 rows streamed": (STREAM, "before.json", "large"),
    }
    there = {
        "100,000 rows, 100,000 of reference read too": ("before", "now"),
        "36 weekly windows": ("quarter", "rest", "weekly"),
        "10,000,000 rows streamed": ("before", "large"),
    }
    print("| whole process, 12 columns | program | seconds | times ours | peak MB |")
    print("|---|---|---|---|---|")
    for case, (program, first, second) in here.items():
        calls = {"ours": (program, paths[first], paths[second], names)}
        for name in [n for n in PEERS if python.get(n) and case in there]:
            if not (given.no_large_peers and "large" in there[case]):
                files = [paths[f] for f in there[case][:2]]
                calls[name] = (programs[name], *files, names, *there[case][2:])
        ours = None
        for name, call in calls.items():
            times = given.repeat if name == "ours" or "large" not in there[case] else 1
            results = [run(python[name], *call) for _ in range(times)]
            seconds, peak = (statistics.median(r[i] for r in results) for i in (0, 1))
            ours = ours or seconds
            note = results[-1][2] if results[-1][2].startswith(("stopped", "failed")) else ""
            cells = f"{seconds:.2f} {note} | {seconds / ours:.1f} | {peak:,.0f}"
            print(f"| {case} | {PEERS.get(name, 'modelkeep')} | {cells} |", flush=True)
    count, bare = in_process(paths, given.repeat)
    print(f"\nCounting 100,000 rows in process: {count * 1e3:.1f} ms, ", end="")
    print(
        f"{count / 1.2e6 * 1e9:.1f} ns a value; a bare NumPy count: {bare * 1e3:.1f} ms, ", end=""
    )
    print(f"ratio {count / bare:.2f}")
    assert drift.LEVELS  # what was measured is what is installed


if __name__ == "__main__":
    main()
