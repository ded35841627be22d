"""kill -9 before every write of unattended updates: is anything torn, lost or counted twice, and does the next one complete it?

Example: PYTHONPATH=tests/support python -P benchmarks/update_kills.py      prints a line a scene, and exits with 1 if something was wrong
"""

import argparse
import contextlib
import os
import sys
import tempfile
from pathlib import Path

import kills
import released
import synthetic
import turned
from modelkeep.ops import update


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--every", type=int, default=1, help="only every so many of the writes (1)")
    parser.add_argument("--first", type=int, default=1, help="from this write on (1)")
    parser.add_argument("--scene", default="", help="rows, candidate or ends (all)")
    arguments = parser.parse_args()
    update.run_monitor = lambda cycle: "fine"  # it writes nothing but its page
    wrong = 0
    with tempfile.TemporaryDirectory() as folder, released.surroundings(Path(folder)):
        place = Path(folder).resolve()
        killer = kills.Killer(place)
        for name in [arguments.scene] if arguments.scene else turned.SCENES:
            each = slice(arguments.first - 1, None, arguments.every)
            with open(os.devnull, "w") as nobody, contextlib.redirect_stderr(nobody):
                if not (first := place / "all" / "clone").exists():
                    turned.first(first, synthetic.prepared("binary"))
                start, at = turned.scene(first, place / "scenes", name)
                found = turned.kill(killer, start, at, place / name, each)
            bad = {k: n for k, n in found.items() if k not in turned.FINE}
            wrong += sum(bad.values())
            told = ", ".join(f"{found[k]} {k}" for k in turned.FINE)
            print(f"{name}: {told}; wrong: {bad or 0}", flush=True)
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
