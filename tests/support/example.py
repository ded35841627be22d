"""The example's table, for tests."""

from pathlib import Path
from runpy import run_path

ROOT = Path(__file__).resolve().parents[2]
MODULE = run_path(str(ROOT / "examples" / "flights" / "table.py"))
table = MODULE["table"]
