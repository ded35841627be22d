"""`modelkeep serve` on a clock that another program sets.

Run: python examples/flights/year/server.py CLOCK, in a workspace
"""

import sys
from pathlib import Path

from clock import Clock
from modelkeep.core import workspace
from modelkeep.ops import processes, serve

if __name__ == "__main__":
    processes.watch()  # a killed year leaves no server
    root = workspace.root()
    moved = Clock(Path(sys.argv[1]))
    serve.run(root, serve.settings(root, {"port": "0"}), moved.nanoseconds)
