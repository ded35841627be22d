"""Processes that promote at the same moment: who won, and what the others were told."""

import subprocess
import sys
from collections import Counter
from pathlib import Path

from modelkeep.registry import record, releases, store

# All have read the record before the first of them promotes.
PROMOTE = """
import sys, time
from pathlib import Path
from modelkeep.registry import record, releases
from modelkeep.serving import models as serving
root, mine = Path(sys.argv[1]), int(sys.argv[2])
while sys.stdin.readline():
    at = record.read(root)
    now = at.champion.version if at.champion else ""
    others = sorted(set(at.versions) - {now})
    print("ready", flush=True)
    sys.stdin.readline()
    try:
        version = others[mine % len(others)]
        done = releases.promote(root, at, time.time(), version, load=serving.load)
        print(done.state, done.version, done.tag, flush=True)
    except releases.Overtaken as error:
        print("told", " ".join(str(error).split()), flush=True)
"""


def race(root: Path, processes: int, rounds: int) -> Counter:
    """Let so many promote at once, so often; counts of what was right and what was not."""
    words = [sys.executable, "-c", PROMOTE, str(root)]
    racers = [
        subprocess.Popen([*words, str(k)], cwd=root, stdin=-1, stdout=-1, text=True)
        for k in range(processes)
    ]
    found = Counter()
    try:
        for _ in range(rounds):
            for line in ("look\n", "go\n"):
                for racer in racers:
                    racer.stdin.write(line)
                    racer.stdin.flush()
                said = [racer.stdout.readline().split(maxsplit=1) for racer in racers]
            found += _judged(root, said)
    finally:
        for racer in racers:
            racer.communicate()
    counters = [term.tag.counter for term in record.read(root).terms]
    found["gaps"] = int(counters != list(range(1, rounds + 1)))
    return found


def _judged(root: Path, said: list[list[str]]) -> Counter:
    at = record.read(root)
    champion = at.champion
    states = Counter(each[0] if each else "crashed" for each in said)
    won = [each[1].split() for each in said if each and each[0] == "promoted"]
    right = won == [[champion.version, champion.tag.name]]
    truth = f"{at.model} {champion.version} is champion ({champion.tag.name}"
    told = sum(truth in each[1] for each in said if each and each[0] == "told")
    serves = store.now(releases.folder(root)).champion.version == champion.version
    return Counter(
        rounds=1,
        winners=states["promoted"],
        **{"rounds with one winner": int(right), "told the truth": told},
        **{"wanted the same": states["unchanged"], "told wrong": states["told"] - told},
        crashed=states["crashed"],
        **{"serving another": int(not serves)},
    )
