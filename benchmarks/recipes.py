"""How often a changed recipe that is judged over the weeks of history is judged rightly.

Each recipe reads a column that the other does not. Where both columns are noise of one kind, or tell equally much, the recipes are equal, whichever is the changed one; where one tells more, that
recipe is better or worse, by what the mean over all runs says. A column's values differ by row, or one value is a whole day's (like the weather), so that the rows of a day are alike in what they gain.
Linear models of 30 weeks; days have moods. Run: python benchmarks/recipes.py --runs 200      prints a Markdown table
"""

import argparse
from collections import Counter
from types import SimpleNamespace

import numpy as np
import pandas as pd
from scipy import stats

from modelkeep.backtest import recipes
from modelkeep.backtest.point_in_time import History
from modelkeep.evaluation.comparison import Verdict

ASKED = {"label": "y", "time_column": "at", "entity_column": "", "id_column": "", "task": "auto"}
LEARNING = {"model": "linear", "l2": 1.0, "folds": 3, "seed": 0}
BOUNDS = {"margin_auc": 0.005, "margin_loss": 0.005, "alpha": 0.05, "slices": []}
WEEKS = 30
# how much the former recipe's own column tells, and the changed one's (slopes in log-odds)
WORLDS = {
    "equal: noise for noise": (0.0, 0.0),
    "equal: as telling a column": (0.5, 0.5),
    "worse by about the margin": (0.18, 0.0),
    "worse": (0.5, 0.0),
    "better": (0.0, 0.5),
}


def table(seed: int, rows: int, by_day: bool, slopes: tuple[float, float]) -> pd.DataFrame:
    """Rows of 30 weeks; `former` and `changed` are the columns that one recipe alone reads."""
    rng = np.random.default_rng([seed, rows])
    day = np.repeat(np.arange(7 * WEEKS), rng.poisson(rows, 7 * WEEKS))
    a, *own = rng.normal(0, 1, (3, len(day)))
    if by_day:
        own = rng.normal(0, 1, (2, 7 * WEEKS))[:, day]
    signal = 1.5 * a - 1 + slopes[0] * own[0] + slopes[1] * own[1]
    signal = signal + rng.normal(0, 0.4, 7 * WEEKS)[day]
    y = (rng.logistic(0, 1, len(day)) < signal).astype(float)
    y[rng.random(len(day)) < 0.05] = np.nan  # labels that never come
    at = pd.Timestamp("2023-01-02") + pd.to_timedelta(day * 86_400 + 60, unit="s")
    return pd.DataFrame({"at": at, "a": a, "former": own[0], "changed": own[1], "y": y})


def without(name: str) -> SimpleNamespace:
    """An own lib/pipeline.py that does not read a column."""
    return SimpleNamespace(__name__=f"without_{name}", features=lambda frame: frame.drop(columns=name))  # fmt: skip


def judged(rows: pd.DataFrame) -> Verdict:
    """The verdict on the changed recipe."""
    stated = ASKED | {"features": ["a", "former", "changed"], "rules": {}}
    first = recipes.start(rows["at"])
    histories = [
        History(rows, stated, LEARNING, first, "", 1.0, code=without(other))
        for other in ("changed", "former")
    ]
    return recipes.walk_forward(*histories, (0, 0), BOUNDS)


def share(hits: int, runs: int) -> str:
    """A rate with its 95 % interval."""
    low, high = stats.binomtest(hits, runs).proportion_ci(0.95)
    return f"{hits / runs:.0%} ({low:.0%} to {high:.0%})"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=200)
    runs = parser.parse_args().runs
    print("| recipes | rows a day | columns differ by | gain in margins: log loss, AUC | better | non-inferior | worse | other |")  # fmt: skip
    print("|---|---|---|---|---|---|---|---|")
    for world, slopes in WORLDS.items():
        for rows, by_day in ((40, False), (40, True), (200, True)):
            verdicts = [judged(table(seed, rows, by_day, slopes)) for seed in range(runs)]
            words = Counter(verdict.word for verdict in verdicts)
            means = [
                np.mean([v.gains[i].gain / v.gains[i].margin for v in verdicts]) for i in (0, 1)
            ]
            known = [share(words.pop(w, 0), runs) for w in ("better", "non_inferior", "worse")]
            rest = share(sum(words.values()), runs)
            by = "day" if by_day else "row"
            print(f"| {world} | {rows} | {by} | {means[0]:+.1f}, {means[1]:+.1f} | {' | '.join(known)} | {rest} |", flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
