"""How long it takes to trace any of 100,000 predictions, on SQLite and PostgreSQL.

Example: PYTHONPATH=tests/support python benchmarks/trace.py --url postgresql:///test
"""

import argparse
import json
import statistics
import tempfile
import time
from contextlib import closing
from pathlib import Path

import numpy as np

import logs
import tables
from modelkeep.jobs import trace
from modelkeep.predictions.log import Label, open_log
from modelkeep.predictions.records import grouped

CALL = 256  # rows of one call of the model


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--traces", type=int, default=300)
    parser.add_argument("--url", action="append", default=[], help="an empty database, too")
    wanted = parser.parse_args()
    print(f"| log of {wanted.rows:,} predictions | median | 99 of 100 | largest |")
    print("|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "ws"
        served = tables.bundle("cancer", Path(folder) / "bundle")
        tables.released(root, Path(folder) / "bundle")
        for url in (f"sqlite:///{folder}/log.db", *wanted.url):
            fill(url, served, wanted.rows)
            took = timed(root, url, wanted.rows, wanted.traces)
            shown = [f"{1000 * x:.0f} ms" for x in (statistics.median(took), took[-4], took[-1])]
            print(f"| {url.partition(':')[0]} | {' | '.join(shown)} |", flush=True)


def fill(url: str, served, rows: int) -> None:
    """Log rows of the table again and again, each with a label."""
    table = tables.prepared("cancer").train
    answers = served.answer(table)
    columns = [c.name for c in served.schema.columns]
    features = [json.dumps(row).encode() for row in table[columns].to_dict("records")]
    with closing(open_log(url)) as log:
        for start in range(0, rows, CALL):
            part = [
                logs.entry(
                    f"r{i}",
                    logs.FIRST + start,
                    model=served.name,
                    features=features[i % len(table)],
                    answer=json.dumps(answers[i % len(table)].tolist()).encode(),
                )
                for i in range(start, min(start + CALL, rows))
            ]
            log.write([*grouped(part)], [each.id for each in part])
            log.label([Label(each.id, "1", logs.FIRST + 10**9) for each in part])


def timed(root: Path, url: str, rows: int, traces: int) -> list[float]:
    """Seconds of traces of ids drawn by chance, sorted; each must hold."""
    took = []
    for i in np.random.default_rng(0).integers(0, rows, traces):
        started = time.perf_counter()
        (found,) = trace.trace(root, f"r{i}", url)
        took.append(time.perf_counter() - started)
        assert found.holds and len(found.checks) == 5, found
    return sorted(took)


if __name__ == "__main__":
    main()
