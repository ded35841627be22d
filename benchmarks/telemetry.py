"""What the metrics cost the server: to count, and to write the page.

Example: python benchmarks/telemetry.py      needs models/candidate (`make run`); prints a Markdown table
CPU seconds of this process, the best of --repeat: other programs do not count.
"""

import argparse
import re
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from prometheus_client import CollectorRegistry, Counter, Histogram

from modelkeep.core import workspace
from modelkeep.monitoring import contract
from modelkeep.monitoring.exporter import Telemetry
from modelkeep.predictions import frames
from modelkeep.training import bundle, pipelines

ROWS = 20_480


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeat", type=int, default=5, help="the best of so many (%(default)s)")
    repeat = parser.parse_args().repeat
    root = workspace.root(Path(__file__).parent)
    served = bundle.load(root / "models" / "candidate")
    telemetry = Telemetry(contract.read(root / contract.FILE))
    print("| what | cost | beside it |\n|---|---|---|")
    for role in ("champion", "canary", "shadow"):
        telemetry.serve(served, role, version=f"flights@{role}")
    rows = rows_of(served)
    for size in (1, 11, 256):
        cost = best(lambda size=size: answer(telemetry, rows, size), repeat) / ROWS
        print(f"| a row answered, {size} in a turn | {cost * 1e6:.2f} us | |")
    cost = best(lambda: request(telemetry.requests), repeat) / ROWS
    print(f"| a request | {cost * 1e6:.2f} us | {client_request(repeat)} prometheus-client |")
    cost, page = best(telemetry.render, repeat), telemetry.render()[0]
    series = len(re.findall(rb"^[^#]", page, re.MULTILINE))
    print(f"| the page, {series} series, in any thread | {cost * 1e3:.2f} ms | |")
    cost = best(telemetry.settle, repeat)
    print(f"| what the event loop does of it | {cost * 1e3:.3f} ms | |")
    cost = best(lambda: telemetry.prepare(served), repeat)
    print(f"| live bins of a model, made in any thread before it serves | {cost * 1e3:.0f} ms | |")


def best(work: Callable[[], object], repeat: int) -> float:
    """The least CPU seconds that the work took."""
    found = []
    for _ in range(repeat):
        began = time.process_time()
        work()
        found.append(time.process_time() - began)
    return min(found)


def answer(telemetry: Telemetry, rows: tuple, size: int) -> None:
    """Count ROWS rows in turns of a size, and what waits."""
    numbers, categories, said = rows
    for i in range(0, ROWS, size):
        part = slice(i, i + size)
        told = numbers[part], [c[part] for c in categories], said[part]
        telemetry.answered("flights@champion", "champion", *told, at=1.7e9)


def rows_of(served: bundle.Bundle) -> tuple:
    """Rows as a server has them."""
    of, rows = served.schema, served.out_of_fold.head(ROWS)
    frame = pipelines.features(rows, of)
    named = {k: [c.name for c in of.columns if c.kind == k] for k in ("number", "category")}
    texts = frame[named["category"]].astype(object)
    texts = texts.where(texts.notna(), None).to_numpy().T.tolist()
    return frame[named["number"]].to_numpy(np.float64), texts, frames.predictions(rows, of)


def request(count: Callable[[str, int, float], None]) -> None:
    """Count ROWS requests."""
    for _ in range(ROWS):
        count("predict", 200, 0.0003)


def client_request(repeat: int) -> str:
    """The same with prometheus-client, as its documentation says."""
    registry = CollectorRegistry()
    requests = Counter("requests", "x", ["route", "code"], registry=registry)
    seconds = Histogram("seconds", "x", ["route"], registry=registry)

    def count(route: str, code: int, took: float) -> None:
        requests.labels(route, str(code)).inc()
        seconds.labels(route).observe(took)

    return f"{best(lambda: request(count), repeat) / ROWS * 1e6:.2f} us"


if __name__ == "__main__":
    main()
