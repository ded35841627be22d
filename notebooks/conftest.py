"""`pytest --nbval-lax notebooks/` runs what can run here, and says what is left out and why."""

from pathlib import Path

ROOT = Path(__file__).parents[1]
NEEDS = {
    "rollout.ipynb": ("rollouts/*.jsonl", "no rollout is on record; `modelkeep rollout start` makes one"),
    "backtest.ipynb": ("backtest/dvc.yaml", "the backtest is not switched on; `make backtest` runs it"),
    "explore.ipynb": ("models/candidate/manifest.json", "there is no candidate; `make run` makes one"),
}
LEFT_OUT = {name: why for name, (pattern, why) in NEEDS.items() if not any(ROOT.glob(pattern))}
collect_ignore = list(LEFT_OUT)


def pytest_report_header() -> list[str]:
    """The notebooks that are left out."""
    return [f"{name} is left out: {why}" for name, why in LEFT_OUT.items()]
