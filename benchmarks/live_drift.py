"""How often live drift would alert on real days: every day of flights in live bins, beside the days of the reference.

Example: python benchmarks/live_drift.py      needs models/candidate (`make run`); names the days and the columns
The rule is that of monitoring/metrics.yaml on whole days, in NumPy; tests/monitoring/test_rules.py proves that PromQL is the same.
"""

from collections.abc import Iterator
from pathlib import Path
from runpy import run_path

import numpy as np
import pandas as pd

from modelkeep.core import workspace
from modelkeep.evaluation import drift
from modelkeep.evaluation.profile import PREDICTION
from modelkeep.monitoring import contract, live_bins
from modelkeep.monitoring.live_bins import LiveBins
from modelkeep.training import bundle, pipelines


def main() -> None:
    """Print each day outside the reference on which something would alert."""
    root = workspace.root(Path(__file__).parent)
    served, of = bundle.load(root / "models" / "candidate"), contract.read(root / contract.FILE)
    live = live_bins.merge(served.reference, of.drift_series // 2)
    table = run_path(str(root / "examples" / "flights" / "table.py"))["table"]()
    days = table[served.schema.time].dt.floor("D")
    known = set(served.reference.blocks.astype("datetime64[ns]").tolist())
    outside = [
        d for d in days.unique() if d.to_datetime64().astype("datetime64[ns]").item() not in known
    ]
    alerts = {day: list(moved(live, served, table[days == day], of)) for day in outside}
    alerts = {day: found for day, found in alerts.items() if found}
    print(f"{len(alerts)} of {len(outside)} days")
    for day, found in alerts.items():
        print(f"{day:%d %B}: {', '.join(found)}")


def moved(live: LiveBins, served: bundle.Bundle, rows: pd.DataFrame, of) -> Iterator[str]:
    """The columns that would alert on these rows."""
    frame = pipelines.features(rows, served.schema)
    kinds = {
        k: [c.name for c in served.schema.columns if c.kind == k] for k in ("number", "category")
    }
    numbers = np.column_stack([frame[kinds["number"]].to_numpy(float), np.zeros(len(rows))])
    texts = frame[kinds["category"]].astype(object)
    counts = live.fold(numbers, texts.where(texts.notna(), None).to_numpy().T.tolist())
    for column, start in zip(live.columns, live.starts):
        now = counts[start : start + len(column.labels)]
        if column.name == PREDICTION or now.sum() < of.settings["least_rows"]:
            continue
        if drift.effect(column.rows, now) - column.day_effect > of.settings["effect"]:
            yield column.name
        if now[-1] / now.sum() - column.day_missing > of.settings["missing_rise"]:
            yield f"{column.name} missing"


if __name__ == "__main__":
    main()
