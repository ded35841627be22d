"""Rows a second of `modelkeep score` beside the pipeline's own predictions, and its peak memory.

Run in a workspace with a champion: python benchmarks/score.py --rows 1000000
Rows of the model's table are repeated into one Parquet file; each program reads and writes it, one
after the other, with as many threads or processes as it takes by itself. Memory is that of the
largest process.
"""

import argparse
import re
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from joblib.externals.loky import get_reusable_executor

from modelkeep.core import workspace
from modelkeep.data import schema, splits
from modelkeep.jobs import score
from modelkeep.registry import releases, store

CHUNK = 32_768


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--baseline-rows", type=int, default=1_000_000)
    parser.add_argument("--processes", type=int, default=0, help="of score; else one a core")
    parser.add_argument("--only", choices=("score", "pipeline"), help="used by the program itself")
    parser.add_argument("--file", type=Path)
    wanted = parser.parse_args()
    root = workspace.root()
    if wanted.only:
        return PROGRAMS[wanted.only](root, wanted.file, wanted.processes)
    print("| program | rows | rows a second | peak memory of a process |")
    print("|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for name, rows in (("pipeline", wanted.baseline_rows), ("score", wanted.rows)):
            file = Path(folder) / f"{name}.parquet"
            write(root, file, rows)
            words = ["--only", name, "--file", file, "--processes", wanted.processes]
            command = [sys.executable, __file__, *map(str, words)]
            printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
            seconds, kilobytes = map(float, printed.split())
            shown = f"{rows / seconds:,.0f} | {kilobytes / 1024:,.0f} MB"
            print(f"| {name} | {rows:,} | {shown} |", flush=True)
    return None


def loaded(root: Path):
    from modelkeep.training import bundle  # scikit-learn, which `score` does not need

    return bundle.load(
        store.path(releases.folder(root), store.now(releases.folder(root)).champion.sha256)
    )


def write(root: Path, file: Path, rows: int) -> None:
    """The table's rows again and again, in row groups of one chunk."""
    table = splits.read_again(loaded(root).schema.origin, root).head(CHUNK)
    part = pa.Table.from_pandas(table, preserve_index=False)
    with pq.ParquetWriter(file, part.schema) as writer:
        for start in range(0, rows, len(part)):
            writer.write_table(part.slice(0, min(len(part), rows - start)))


def by_pipeline(root: Path, file: Path, _: int) -> None:
    """Read, clean, predict by scikit-learn's pipeline, and write: what a script would do."""
    model, parts = loaded(root), []
    started = time.perf_counter()
    for batch in pq.ParquetFile(file).iter_batches(CHUNK):
        rows = schema.clean(batch.to_pandas(), model.schema, unique=False).rows
        parts.append(pa.table(dict(enumerate_columns(model.predict(rows)))))
    pq.write_table(pa.concat_tables(parts), file.with_name("predictions.parquet"))
    show(time.perf_counter() - started)


def enumerate_columns(values) -> list[tuple[str, object]]:
    columns = values.T if values.ndim == 2 else [values]
    return [(f"p{i}", column) for i, column in enumerate(columns)]


def by_score(root: Path, file: Path, processes: int) -> None:
    """The same by `modelkeep score`, its model loaded within the time."""
    started = time.perf_counter()
    score.score(root, file, file.with_name("scored"), processes=processes)
    show(time.perf_counter() - started)


def show(seconds: float) -> None:
    status = Path("/proc/self/status").read_text()
    own = int(re.search(r"VmHWM:\s+(\d+)", status)[1])  # of this program, not of who started it
    get_reusable_executor().shutdown()  # the memory of those that have ended is known
    print(seconds, max(own, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss))


PROGRAMS = {"score": by_score, "pipeline": by_pipeline}

if __name__ == "__main__":
    main()
