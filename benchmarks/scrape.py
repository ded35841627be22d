"""What a scrape takes, and what it costs the predictions beside it: three models, as many series as there may be.

Example: PYTHONPATH=tests/support python -P benchmarks/scrape.py --pairs 5      prints Markdown tables
Each pair is a load without scrapes and the same load with them, one after the other, in turns: what
else runs on the machine meets both. The order changes from pair to pair.
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
import threading
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import numpy as np
import strain

import live
import servers
import synthetic

BODIES = 500


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=5, help="(%(default)s)")
    parser.add_argument("--seconds", type=int, default=5, help="of each load (%(default)s)")
    parser.add_argument("--every", type=float, default=2.0, help="seconds (%(default)s)")
    parser.add_argument("--columns", type=int, default=12, help="beside four (%(default)s)")
    parser.add_argument("--connections", type=int, default=8, help="(%(default)s)")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        place, frame = Path(name), synthetic.table()
        noise = np.random.default_rng(0).normal(size=(len(frame), chosen.columns)).round(3)
        wide = frame.join(synthetic.pd.DataFrame(noise).add_prefix("x"))
        learned = synthetic.prepared(frame=wide)
        synthetic.sealed(place / "candidate", learned)
        root = live.workspace(place / "workspace", place / "candidate")
        strain.in_company(root, place / "store")
        names = [c.name for c in learned.schema.columns]
        rows = learned.train[names].dropna().head(BODIES).astype(object).to_dict("records")
        bodies = place / "bodies.txt"
        bodies.write_text("".join(json.dumps({"rows": [row]}) + "\n" for row in rows))
        os.sched_setaffinity(0, {int(servers.CLIENT_CORE)})
        with servers.started(servers._ours(root, "full"), rows[0], place) as running:
            running.wrk(bodies, chosen.connections, 1)
            ratios = [pair(running, bodies, chosen, i) for i in range(chosen.pairs)]
            page = running.get("/metrics").splitlines()
    series = sum(1 for line in page if not line.startswith(b"#"))
    print(f"\n{series:,} series; median ratio of p99 {statistics.median(ratios):.2f}")
    strain.head()
    strain.goal("p99 while scraped, times that without", statistics.median(ratios), most=1.2)


def pair(running: servers.Running, bodies: Path, chosen: argparse.Namespace, number: int) -> float:
    """Both loads; return p99 with scrapes over p99 without."""
    if not number:
        print("| p99 without, ms | with | requests/s without | with | longest scrape, ms |")
        print("|---|---|---|---|---|")
    found, took = {}, [0.0]
    for scraped in (number % 2 == 0, number % 2 == 1):
        stop = threading.Event()
        thread = threading.Thread(target=scrape, args=(running, stop, chosen.every, took))
        if scraped:
            thread.start()
        found[scraped] = running.wrk(bodies, chosen.connections, chosen.seconds)
        stop.set()
        if scraped:
            thread.join()
    without, beside = found[False], found[True]
    rates = [each["requests"] / each["seconds"] for each in (without, beside)]
    print(
        f"| {without['p99']:.1f} | {beside['p99']:.1f} | {rates[0]:,.0f} | {rates[1]:,.0f} "
        f"| {1e3 * max(took):.0f} |",
        flush=True,
    )
    return beside["p99"] / without["p99"]


def scrape(running: servers.Running, stop: threading.Event, every: float, took: list) -> None:
    """Read the page now and every so often."""
    while True:
        began = time.perf_counter()
        running.get("/metrics")
        took.append(time.perf_counter() - began)
        if stop.wait(every):
            return


if __name__ == "__main__":
    main()
