"""An open-loop client: requests are sent when they are due, whatever became of those before.

Example: python benchmarks/open_loop.py http://127.0.0.1:8080/predict bodies.txt --rate 20000 --seconds 30
wrk cannot do that (each of its connections waits for its answer). One process, one event loop (uvloop); a request that
is due while no connection is free is not sent, and counted as held back. Prints one line of JSON; times in milliseconds.
"""

import argparse
import asyncio
import json
import time
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import uvloop

TICK = 0.001  # seconds between two looks at what is due
GRACE = 5.0  # seconds that answers may take after the last request


class Load:
    """What is due, what was sent, and what came back."""

    def __init__(self, requests: list[bytes]) -> None:
        self.requests, self.sent, self.held, self.lost = requests, 0, 0, 0
        self.free: list[Connection] = []
        self.took: dict[int, list[float]] = {}
        self.lag: list[float] = []

    def send(self, due: float) -> None:
        """Send the next request, if a connection is free."""
        if not self.free:
            self.held += 1
            return
        self.free.pop().ask(self.requests[self.sent % len(self.requests)], due)
        self.sent += 1

    async def run(self, rate: float, seconds: float) -> None:
        """Send at the rate for so long, then wait for the last answers."""
        began, due, total = time.perf_counter(), 0, int(rate * seconds)
        while due < total:
            now = time.perf_counter()
            ready = min(total, int((now - began) * rate))
            if ready > due:
                self.lag.append(now - began - due / rate)
            for i in range(due, ready):
                self.send(began + i / rate)
            due = ready
            await asyncio.sleep(TICK)
        end = time.perf_counter() + GRACE
        while sum(map(len, self.took.values())) + self.lost < self.sent:
            if time.perf_counter() > end:
                break
            await asyncio.sleep(TICK)

    def told(self) -> dict:
        """The figures."""
        answers = {
            status: {"n": len(took), **_quantiles(took)}
            for status, took in sorted(self.took.items())
        }
        answered = sum(map(len, self.took.values()))
        missing = {"held_back": self.held, "unanswered": self.sent - answered}
        lag = round(1e3 * float(np.quantile(self.lag, 0.99)), 2)
        return {"sent": self.sent, **missing, "answers": answers, "sender_late_p99": lag}


def _quantiles(seconds: list[float]) -> dict[str, float]:
    found = np.quantile(seconds, [0.5, 0.99])
    return {name: round(1e3 * float(q), 2) for name, q in zip(("p50", "p99"), found)}


class Connection(asyncio.Protocol):
    """One connection, which carries one request at a time."""

    def __init__(self, load: Load) -> None:
        self.load, self.due, self.got = load, 0.0, b""

    def connection_made(self, transport: asyncio.Transport) -> None:
        """It is free."""
        self.transport = transport
        self.load.free.append(self)

    def ask(self, request: bytes, due: float) -> None:
        """Send a request."""
        self.due = due
        self.transport.write(request)

    def data_received(self, data: bytes) -> None:
        """Note the answer when it is whole; the time counts from when the request was due."""
        self.got += data
        head = self.got.find(b"\r\n\r\n")
        if head < 0:
            return
        at = self.got.lower().find(b"content-length:", 0, head)
        if len(self.got) < head + 4 + int(self.got[at + 15 : self.got.find(b"\r\n", at)]):
            return
        took = time.perf_counter() - self.due
        self.load.took.setdefault(int(self.got[9:12]), []).append(took)
        self.due, self.got = 0.0, b""
        self.load.free.append(self)

    def connection_lost(self, error: Exception | None) -> None:
        """A request that was not answered is lost."""
        if self.due:
            self.load.lost += 1
        elif self in self.load.free:
            self.load.free.remove(self)


async def run(url: str, bodies: Path, rate: float, seconds: float, connections: int) -> dict:
    """Open the connections, send, and return the figures."""
    place = urlsplit(url)
    head = f"POST {place.path} HTTP/1.1\r\nHost: {place.netloc}\r\nContent-Type: application/json\r\nContent-Length: "
    lines = bodies.read_bytes().splitlines()
    load = Load([head.encode() + b"%d\r\n\r\n" % len(line) + line for line in lines])
    loop = asyncio.get_running_loop()
    for _ in range(connections):
        await loop.create_connection(lambda: Connection(load), place.hostname, place.port)
    await load.run(rate, seconds)
    for each in load.free:
        each.transport.abort()
    return load.told()


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("url")
    parser.add_argument("bodies", type=Path, help="a file with one body a line")
    parser.add_argument("--rate", type=float, default=1000.0, help="requests a second")
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--connections", type=int, default=1000)
    given = parser.parse_args()
    print(json.dumps(uvloop.run(run(**vars(given)))))


if __name__ == "__main__":
    main()
