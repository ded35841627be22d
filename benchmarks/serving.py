"""What an answer costs: `modelkeep serve` beside other servers of the same model, and what it bears.

Example: python benchmarks/serving.py --peers --million      prints Markdown tables; some 20 minutes
Run it in a workspace with models/candidate. One server at a time on one core, the client (wrk, of Debian) on another; the servers
take turns in each round, each started anew on a free port of loopback. The peers get environments of their own in the cache folder.
"""

import argparse
import json
import os
import shutil
import signal
import statistics
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import strain

import servers
from modelkeep.core import workspace
from modelkeep.data.io import read
from modelkeep.training import bundle
from modelkeep.training.engines import export
from servers import LARGE, Failed, Running, Server

DIFFERENT, LINES, OF_ONE = 0.01, 32, 2000
PLAIN, FULL, NORMAL = "FastAPI, scikit-learn", "ours, durability full", "ours, durability normal"
BATCHING = ("MLServer, batching", "LitServe, batching", "BentoML, batching")


@dataclass
class Figures:
    """What was measured of one server, a value a round."""

    start: list[float] = field(default_factory=list)
    rate: list[float] = field(default_factory=list)
    p50: list[float] = field(default_factory=list)
    p99: list[float] = field(default_factory=list)
    rows: list[float] = field(default_factory=list)
    memory: list[float] = field(default_factory=list)
    apart: float = 0.0
    wrong: int = 0

    def median(self, name: str) -> float:
        """The median over the rounds."""
        return statistics.median(getattr(self, name))


@dataclass(frozen=True)
class Work:
    """The rows to send, as files of bodies (one a line) by shape and size, and what must come back."""

    files: dict[tuple[str, int], Path]
    rows: list[dict]
    expected: np.ndarray


def work(root: Path, folder: Path) -> Work:
    """Real flights without gaps, so that no server needs to know how to read a gap."""
    model = bundle.load(root / "models" / "candidate")
    names = [c.name for c in model.schema.columns]
    table = read("examples/flights", root)[names].dropna()
    table = table.sample(LARGE * LINES, random_state=0)
    rows = table.astype(object).to_dict("records")
    files = {}
    for shape, body in servers.SHAPES.items():
        for size, lines in ((1, OF_ONE), (16, OF_ONE // 4), (LARGE, LINES)):
            parts = [rows[i * size : (i + 1) * size] for i in range(lines)]
            files[shape, size] = folder / f"{shape}-{size}.txt"
            files[shape, size].write_text("".join(f"{json.dumps(body(p))}\n" for p in parts))
    return Work(files, rows[:LARGE], model.predict(table.head(LARGE)))


def convert(root: Path, path: Path) -> str:
    """The model's estimator as ONNX, for the bare app."""
    model = bundle.load(root / "models" / "candidate")
    cuts = export.encoding(model.pipeline, model.schema)["cuts"]
    width = model.pipeline["model"].n_features_in_
    path.write_bytes(export.to_onnx(model.pipeline, width, cuts))
    return str(path)


def check(server: Server, running: Running, given: Work) -> float:
    """The largest difference from the pipeline's own answers; fail if it is another model that answers."""
    most = 0.0
    for rows in (given.rows[:1], given.rows):
        reply = running.post(servers.SHAPES[server.shape](rows))
        if server.read is None:
            continue
        apart = np.abs(np.array(server.read(reply)) - given.expected[: len(rows)]).max()
        most = max(most, float(apart))
        if not apart <= DIFFERENT:
            raise Failed(f"its answers differ from the pipeline's by {apart:.2g}")
    return most


def measure(server: Server, running: Running, given: Work, seconds: int, to: Figures) -> None:
    """One round of one server that runs."""
    to.apart = max(to.apart, check(server, running, given))
    of = {size: given.files[server.shape, size] for size in (1, LARGE)}
    running.wrk(of[1], 32, 1)  # warm
    many = running.wrk(of[1], 32, seconds)
    one = running.wrk(of[1], 1, seconds)
    large = running.wrk(of[LARGE], 4, seconds)
    to.start.append(running.start)
    to.rate.append(many["requests"] / many["seconds"])
    to.p50.append(one["p50"])
    to.p99.append(one["p99"])
    to.rows.append(LARGE * large["requests"] / large["seconds"])
    to.memory.append(running.memory())
    to.wrong += sum(each["refused"] + each["broken"] for each in (many, one, large))


def rounds(
    tried: list[Server], given: Work, repeat: int, seconds: int
) -> tuple[dict[str, Figures], dict[str, str]]:
    """Figures by server, and why a server has none."""
    found, failed = {s.name: Figures() for s in tried}, {}
    for at in range(repeat):
        for server in tried:
            if server.name in failed:
                continue
            print(f"round {at + 1} of {repeat}: {server.name} ...", file=sys.stderr, flush=True)
            try:
                with servers.started(server, given.rows[0]) as running:
                    measure(server, running, given, seconds, found[server.name])
            except Failed as error:
                failed[server.name] = str(error)
    return {name: f for name, f in found.items() if name not in failed}, failed


def best(found: dict[str, Figures], names: Sequence[str], figure: str) -> float:
    """The best median of those that were measured; NaN if none was."""
    return max((found[n].median(figure) for n in names if n in found), default=float("nan"))


def peers(found: dict[str, Figures]) -> tuple[float, float]:
    """The best that batching peers do: requests of one row, and rows in large bodies, a second."""
    return best(found, BATCHING, "rate"), best(found, BATCHING, "rows")


def table(found: dict[str, Figures]) -> None:
    """Print what was measured, with the ratios to the plain way and to the best batching peer."""
    plain, peer, large = best(found, [PLAIN], "rate"), *peers(found)
    print(
        "| server | requests/s, 32 connections | times FastAPI | times the best batching peer | p50 ms, 1 connection | p99 ms "
        f"| rows/s in bodies of {LARGE} | times the best batching peer | start s | memory MB | largest difference from the pipeline | wrong replies |"
    )
    print("|---" * 12 + "|")
    for name, f in found.items():
        rate, rows = f.median("rate"), f.median("rows")
        print(
            f"| {name} | {rate:,.0f} | {rate / plain:.1f} | {rate / peer:.1f} | {f.median('p50'):.3f} | {f.median('p99'):.3f} "
            f"| {rows:,.0f} | {rows / large:.1f} | {f.median('start'):.2f} | {f.median('memory'):,.0f} | {f.apart:.1g} | {f.wrong} |"
        )


def goals(found: dict[str, Figures]) -> None:
    """Print the goals and whether they are met, as far as what they compare was measured."""
    plain, peer, large = best(found, [PLAIN], "rate"), *peers(found)
    empty = found["empty ASGI app"].median("p50")
    strain.head()
    for name, times in ((FULL, 100), (NORMAL, 150)):
        ours = found[name]
        strain.goal(
            f"{name}: times FastAPI at 32 connections", ours.median("rate") / plain, least=times
        )
        most = 4 * empty + 0.5
        strain.goal(f"{name}: p50 ms at 1 connection", ours.median("p50"), most=most)
        strain.goal(f"{name}: times the best peer's rows", ours.median("rows") / large, least=4)
        strain.goal(f"{name}: seconds from start to an answer", ours.median("start"), most=3)
    times = found[FULL].median("rate") / peer
    strain.goal(f"{FULL}: times the best batching peer at 32 connections", times, least=19)


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--seconds", type=int, default=5, help="of one measurement by wrk")
    parser.add_argument("--peers", action="store_true", help="also FastAPI and what batches")
    parser.add_argument(
        "--million", action="store_true", help="a million requests for memory, not 300,000"
    )
    parser.add_argument("--overload", type=float, default=30.0, help="seconds of too much; 0: no")
    parser.add_argument("--cache", type=Path, default=Path(tempfile.gettempdir()) / "serving_peers")
    given = parser.parse_args()
    lacking = [name for name in ("wrk", "taskset") if shutil.which(name) is None]
    if lacking:
        sys.exit(f"{' and '.join(lacking)}: not found; apt-get install wrk util-linux")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # what runs is ended then, too
    root = workspace.root()
    with tempfile.TemporaryDirectory() as name:
        sent = work(root, Path(name))
        os.environ["BENCHMARK_ONNX"] = convert(root, Path(name) / "model.onnx")
        tried, skipped = servers.every(root, given.cache, given.peers)
        os.sched_setaffinity(0, {int(servers.CLIENT_CORE)})  # this process asks, too
        found, failed = rounds(tried, sent, given.repeat, given.seconds)
        table(found)
        for server, why in (skipped | failed).items():
            print(f"\n{server} was not measured: {' '.join(why.split())}")
        if FULL in found and NORMAL in found:
            goals(found)
            ours = next(server for server in tried if server.name == FULL)
            files = {size: sent.files[ours.shape, size] for size in (1, 16)}
            most = 1_000_000 if given.million else 300_000
            strain.print_all(ours, sent.rows[0], files, most, given.overload)


if __name__ == "__main__":
    try:
        main()
    except Failed as error:
        sys.exit(f"serving.py: {error}")
