"""kill -9 before every write of release, promote and rollback: is anything torn, and does the next command complete it?

Example: PYTHONPATH=tests/support python -P benchmarks/release_kills.py      prints a line a command, and exits with 1 if something was torn
"""

import argparse
import sys
import tempfile
from pathlib import Path

import kills
import released

FINE = ("writes", "killed", "ended")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--some", type=int, default=0, help="only so many of the writes (all)")
    arguments = parser.parse_args()
    wrong = 0
    with tempfile.TemporaryDirectory() as folder, released.surroundings(Path(folder)):
        place = Path(folder).resolve()
        template = released.three(place / "all" / "clone")
        killer = kills.Killer(place)
        for name in kills.scenes(template):
            found = kills.kills(killer, template, name, place, arguments.some)
            bad = {k: n for k, n in found.items() if k not in FINE}
            wrong += sum(bad.values())
            print(
                f"{name}: {', '.join(f'{found[k]} {k}' for k in FINE)}; torn: {bad or 0}",
                flush=True,
            )
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
