"""What our server bears: scrapes under load, a million requests, a log that grew, and twice what it can answer."""

import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import replace
from pathlib import Path

from modelkeep.registry import store
from modelkeep.registry.store import Now, Role
from servers import CLIENT_CORE, HERE, Failed, Running, Server, started

CALM, EVERY = 20, 0.5  # scrapes of one measurement, and seconds between two
CONNECTIONS = 3000  # of the open-loop client: more than the rows that may wait
CROWD = 64  # connections that find out what it can answer
ROWS = 16  # in a body of the overload, so that one core can send twice what the other answers
SCRAPES = "| scrape of /metrics | median ms | largest ms | KB | series | requests/s beside it |\n|---|---|---|---|---|---|"


def head() -> None:
    """Begin a table of goals."""
    print("\n| goal | at least or at most | measured | |\n|---|---|---|---|")


def goal(what: str, value: float, *, least: float = 0.0, most: float = float("inf")) -> None:
    """Print a goal, and whether it is met, as far as it was measured."""
    if value != value:
        print(f"| {what} | | not measured | |")
        return
    bound = f"at least {least:g}" if least else f"at most {most:.3g}"
    met = "met" if least <= value <= most else "**not met**"
    print(f"| {what} | {bound} | {value:.3g} | {met} |", flush=True)


def print_all(
    server: Server, row: dict, bodies: dict[int, Path], requests: int, overload: float
) -> None:
    """Print all of it, for one server; `bodies` are files of bodies by their number of rows."""
    with tempfile.TemporaryDirectory() as name:
        print("\n" + SCRAPES)
        with started(server, row, Path(name)) as running:
            longest = scrapes(running, bodies[1], "one model")
            grown = memory(running, bodies[1], requests)
        with started(server, row, Path(name)) as running:
            again = running.start
    with tempfile.TemporaryDirectory() as name:
        in_company(server.cwd, Path(name) / "store")
        print("\n" + SCRAPES)
        with started(server, row, Path(name)) as running:
            longest = max(longest, scrapes(running, bodies[1], "champion, canary and shadow"))
    slower = float("nan")
    if overload:
        with started(server, row) as running:
            slower = too_much(running, bodies[ROWS], overload)
    head()
    goal("the longest scrape, ms", longest, most=50)
    goal("growth of memory over the second half of the requests, MB", grown, most=5)
    goal(f"seconds from start to an answer, {requests:,} rows in the log", again, most=3)
    goal("p99 of what is answered at twice the load, times that at nine tenths", slower, most=2)


def in_company(root: Path, place: Path) -> None:
    """Put the candidate into a store as champion, canary and shadow: a page of metrics has no more than three models."""
    found = []
    with tempfile.TemporaryDirectory() as name:
        for i in range(3):
            copy = Path(name) / str(i)
            shutil.copytree(root / "models" / "candidate", copy)
            with open(copy / "manifest.json", "a") as manifest:
                manifest.write("\n" * i)  # the same model under another hash
            found.append(store.add(place, copy))
    champion, canary, shadow = (Role(sha256, f"v{i}") for i, sha256 in enumerate(found, start=1))
    store.point(place, Now(champion, replace(canary, share=0.1, salt="benchmark"), shadow))


def scrapes(running: Running, bodies: Path, who: str) -> float:
    """What one scrape takes of an idle and of a busy server, and what the busy one answers meanwhile; return the longest in ms."""
    running.wrk(bodies, 32, 1)
    alone = running.wrk(bodies, 32, round(CALM * EVERY))
    _scraped(f"{who}, idle", *_scrape(running), "")
    result = {}

    def load() -> None:
        result.update(running.wrk(bodies, 32, round(CALM * EVERY) + 2))

    thread = threading.Thread(target=load)
    thread.start()
    time.sleep(1)
    took, size, series = _scrape(running)
    thread.join()
    rate = result["requests"] / result["seconds"]
    beside = alone["requests"] / alone["seconds"]
    note = f"{rate:,.0f} (p99 {result['p99']:.1f} ms; without scrapes {beside:,.0f}, p99 {alone['p99']:.1f} ms)"
    _scraped(f"{who}, 32 connections", took, size, series, note)
    return 1e3 * max(took)


def _scraped(name: str, took: list[float], size: int, series: int, note: str) -> None:
    middle, most = 1e3 * statistics.median(took), 1e3 * max(took)
    print(f"| {name} | {middle:.1f} | {most:.1f} | {size / 1e3:.0f} | {series:,} | {note} |")


def _scrape(running: Running) -> tuple[list[float], int, int]:
    """Seconds of each scrape, and the size and the series of the last one."""
    took, page = [], b""
    for _ in range(CALM):
        began = time.perf_counter()
        page = running.get("/metrics")
        took.append(time.perf_counter() - began)
        time.sleep(EVERY)
    lines = page.splitlines()
    return took, len(page), sum(1 for line in lines if line and not line.startswith(b"#"))


def memory(running: Running, bodies: Path, requests: int) -> float:
    """Resident memory while so many requests of one row are answered; return by how many MB it grew over the second half."""
    print("\n| requests answered | resident MB | of it no file's MB |\n|---|---|---|")
    print(f"| a few | {running.memory():,.1f} | {running.anonymous():,.1f} |", flush=True)
    sent, shown, wrong, half = 0, 0, 0, 0.0
    while sent < requests:
        done = running.wrk(bodies, 32, 2)
        sent += done["requests"]
        wrong += done["refused"] + done["broken"]
        if not half and sent >= requests / 2:
            half = running.memory()
        if sent - shown >= requests / 10 or sent >= requests:
            shown = sent
            print(
                f"| {sent:,} | {running.memory():,.1f} | {running.anonymous():,.1f} |", flush=True
            )
    print(f"\nWrong replies: {wrong}; largest resident memory {running.peak():,.1f} MB.")
    return running.memory() - half


def too_much(running: Running, bodies: Path, seconds: float) -> float:
    """What it can answer, found by a crowd of connections that wait; then nine tenths of it, twice of it, and nine tenths again, in an open loop; return by how much p99 grew."""
    running.wrk(bodies, CROWD, 2)
    found = running.wrk(bodies, CROWD, 5)
    can = (found["requests"] - found["refused"]) / found["seconds"]
    print(
        f"\nRequests of {ROWS} rows: it can answer {can:,.0f} a second ({CROWD} connections of wrk). Open loop, {CONNECTIONS:,} connections, "
        "time from when a request was due:\n"
    )
    print(
        "| due a second | s | 200 | p50 ms | p99 ms | 503 | p50 ms | p99 ms | other | unanswered | held back | sender late p99 ms | memory MB | largest MB |"
    )
    print("|---" * 14 + "|")
    tails = []
    for rate, last in ((0.9 * can, min(10.0, seconds)), (2 * can, seconds), (0.9 * can, 5.0)):
        told = _open_loop(running, bodies, rate, last)
        answers = told["answers"]
        tails.append(answers.get("200", {}).get("p99", float("nan")))
        other = sum(a["n"] for status, a in answers.items() if status not in ("200", "503"))
        cells = [f"{rate:,.0f}", f"{last:g}"]
        for status in ("200", "503"):
            found = answers.get(status, {"n": 0, "p50": "", "p99": ""})
            cells += [f"{found['n']:,}", str(found["p50"]), str(found["p99"])]
        cells += [f"{n:,}" for n in (other, told["unanswered"], told["held_back"])]
        cells += [
            str(told["sender_late_p99"]),
            f"{running.memory():,.0f}",
            f"{running.peak():,.0f}",
        ]
        print("| " + " | ".join(cells) + " |", flush=True)
    return tails[1] / tails[0]


def _open_loop(running: Running, bodies: Path, rate: float, seconds: float) -> dict:
    words = ["taskset", "-c", CLIENT_CORE, sys.executable, str(HERE / "open_loop.py")]
    words += [running.url, str(bodies), "--rate", str(rate), "--seconds", str(seconds)]
    words += ["--connections", str(CONNECTIONS)]
    done = subprocess.run(words, capture_output=True, text=True)
    if done.returncode:
        raise Failed(f"the open-loop client failed: {done.stderr[-300:]}")
    return json.loads(done.stdout)
