"""Many processes that promote at once: exactly one wins a round, and the others are told what is now true.

Example: PYTHONPATH=tests/support python benchmarks/promote_race.py --rounds 50      prints one line, and exits with 1 if a round had not one winner
"""

import argparse
import sys
import tempfile
from pathlib import Path

import races
import released

WRONG = ("told wrong", "crashed", "serving another", "gaps")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=50)
    parser.add_argument("--processes", type=int, default=16)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, released.surroundings(Path(folder)):
        root = released.three(Path(folder) / "all" / "clone")
        found = races.race(root, arguments.processes, arguments.rounds)
    print(f"{arguments.processes} processes:", ", ".join(f"{n} {k}" for k, n in found.items()))
    wrong = sum(found[name] for name in WRONG) or found["rounds with one winner"] - found["rounds"]
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
