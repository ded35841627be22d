"""kill -9 while the prediction log is written: is every acknowledged row there, once, in a sound file?

Example: python benchmarks/log_kills.py --times 200      prints one line, and exits with 1 if a row was lost
"""

import argparse
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from modelkeep.predictions.log import LogError, open_log

FRESH = 20  # kills of one file, then another one
WRITERS = 2  # processes that write at once
WRITE = """
import sys, threading, time
from pathlib import Path
from modelkeep.predictions.records import grouped
from modelkeep.predictions.log import PredictionRecord, Label, open_log
url, durability, root, writer, size = sys.argv[1:]
log = open_log(url, durability=durability, root=Path(root))
def tidy():
    while True:  # more often than a server
        log.checkpoint()
        time.sleep(0.01)
threading.Thread(target=tidy, daemon=True).start()
print("ready", flush=True)
for batch in range(1_000_000):
    at = time.time_ns() // 1000
    turn = f"{writer}-{batch}"
    ids = [f"{turn}-{i}" for i in range(int(size))]
    rows = [PredictionRecord(i, at, "m", "champion", None, at, b'{"x": 1.5}', b"[0.25, 0.75]") for i in ids]
    by_turn = batch % 2  # as ids of the server, else as those of others
    log.write([*grouped(rows)], [] if by_turn else ids, turn if by_turn else "")
    (told,) = log.label([Label(ids[0], "1", at)])
    assert told.outcome == "first", told
    print(*ids, flush=True)
"""


def kills(url: str, root: Path, times: int, durability: str = "full", seed: int = 0) -> Counter:
    """Kill `WRITERS` processes that many times while they write; counts of acknowledged, lost, doubled and unasked-for rows, and of logs that are broken."""
    chance, found, acknowledged = random.Random(seed), Counter(), set()
    for turn in range(times):
        if "{}" in url and turn % FRESH == 0:
            acknowledged = set()
        here = url.format(turn // FRESH)
        fresh = _killed(here, root, durability, turn, chance)
        acknowledged |= fresh
        found += Counter(kills=1, acknowledged=len(fresh))
        found += checked(here, root, acknowledged)
    return found


def _killed(url: str, root: Path, durability: str, turn: int, chance: random.Random) -> set[str]:
    """The rows that the writers acknowledged before they were killed."""
    writers = []
    for k in range(WRITERS):
        size = str(chance.choice([1, 7, 64]))
        words = [sys.executable, "-c", WRITE, url, durability, str(root), f"{turn}-{k}", size]
        writers.append(subprocess.Popen(words, stdout=subprocess.PIPE, text=True))
    for writer in writers:
        assert writer.stdout.readline() == "ready\n"
    time.sleep(chance.uniform(0, 0.1))
    for writer in writers:
        writer.kill()
    said = [writer.communicate()[0] for writer in writers]
    # the last line may have been cut off in the middle
    return {id for text in said for line in text.split("\n")[:-1] for id in line.split()}


def checked(url: str, root: Path, acknowledged: set[str]) -> Counter:
    log = open_log(url, root=root)
    try:
        log.check()
        broken = 0
    except LogError:
        broken = 1
    batches = [batch.to_pydict() for batch in log.read(0, 2**62)]
    log.close()
    times = Counter(id for batch in batches for id in batch["id"])
    wrong = sum(a != b"[0.25, 0.75]" for batch in batches for a in batch["answer"])
    lost, doubled = len(acknowledged - set(times)), sum(n > 1 for n in times.values())
    # the first row of an acknowledged batch had its label committed, too
    labelled = {i for b in batches for i, v in zip(b["id"], b["label"], strict=True) if v == "1"}
    unlabelled = sum(id.endswith("-0") and id not in labelled for id in acknowledged)
    return Counter(lost=lost, doubled=doubled, wrong=wrong, broken=broken, unlabelled=unlabelled)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--times", type=int, default=200)
    parser.add_argument("--durability", default="full", choices=["full", "normal"])
    parser.add_argument("--url", default="sqlite:///log-{}.db", help="(%(default)s)")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = kills(arguments.url, Path(folder), arguments.times, arguments.durability)
    bad = ("lost", "doubled", "wrong", "broken", "unlabelled")
    print(f"{found['kills']} kills, {found['acknowledged']:,} acknowledged rows:", end=" ")
    print(", ".join(f"{found[name]} {name}" for name in bad))
    return int(any(found[name] for name in bad))


if __name__ == "__main__":
    sys.exit(main())
