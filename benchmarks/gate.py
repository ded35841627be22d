"""How often the gate promotes a challenger that it should not, beside tests that take rows for independent: simulation on flights.

Two models of January to March, or one of them and one that has learned April too, answer the flights of May to December. A test set is whole days, drawn with replacement. What the challenger gains by row is real;
a constant is added to it, so that on average over all test sets the challenger is exactly as good as the champion, or exactly by the margin worse. Prints Markdown tables.
Run: python benchmarks/gate.py --draws 2000 (or --draws 100 for a first look)
"""

import argparse
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.special import stdtr

from modelkeep.backtest import point_in_time, trials
from modelkeep.core import workspace
from modelkeep.data import splits
from modelkeep.evaluation import comparison
from modelkeep.reports import backtest
from modelkeep.training import pipelines

SIZES = (7, 14, 30, 60)
CLEAR = 100.0  # margins by which a metric is better that should not decide
# by how many margins the challenger is better in log loss and in AUC
WORLDS = {
    "equal": (0, 0),
    "worse by the margin in both": (-1, -1),
    "worse by the margin in log loss, much better in AUC": (-1, CLEAR),
    "worse by the margin in AUC, much better in log loss": (CLEAR, -1),
    "better by four margins in both": (4, 4),
}
ASKED = (
    ("equal", "better"),
    *((world, "passes") for world in list(WORLDS)[:4]),
    *((list(WORLDS)[4], question) for question in ("better", "passes")),
)


@dataclass(frozen=True)
class Answered:
    """Rows of whole days that two models have answered."""

    y: np.ndarray
    day: np.ndarray  # 0, 1, 2, ... in order
    champion: np.ndarray
    challenger: np.ndarray

    def take(self, days: np.ndarray) -> "Answered":
        """The rows of some days; a day that is drawn twice is two days."""
        first = np.searchsorted(self.day, np.arange(self.day[-1] + 2))
        inside = np.concatenate([np.arange(first[d], first[d + 1]) for d in days])
        block = np.repeat(np.arange(len(days)), np.diff(first)[days])
        return Answered(self.y[inside], block, self.champion[inside], self.challenger[inside])

    def swapped(self, days: np.ndarray) -> "Answered":
        """Champion and challenger in each other's place on some days."""
        on = days[self.day][:, None]
        pair = (self.champion, self.challenger)
        return replace(self, champion=np.where(on, *pair[::-1]), challenger=np.where(on, *pair))


@dataclass(frozen=True)
class Draw:
    """One test set: each metric's gain by row, and the rows on which one model alone was right."""

    x: Mapping[str, np.ndarray]
    day: np.ndarray
    won: int
    lost: int


def drawn(answered: Answered, days: int, draws: int, seed: int, swap: bool = False, runs: bool = False) -> Iterator[Draw]:  # fmt: skip
    """Test sets of so many days: drawn one by one, or (`runs`) days that follow each other; with `swap` a coin decides on each day which of the two is the challenger."""
    random, every = np.random.default_rng(seed), int(answered.day[-1]) + 1
    for _ in range(draws):
        start = random.integers(0, every)
        chosen = (start + np.arange(days)) % every if runs else random.integers(0, every, days)
        test = answered.take(chosen)
        test = test.swapped(random.random(days) < 0.5) if swap else test
        x = comparison.gains("binary", test.y, test.challenger, test.champion)
        right, theirs = ((p.argmax(1) == test.y) for p in (test.challenger, test.champion))
        only = (int((right & ~theirs).sum()), int((theirs & ~right).sum()))
        yield Draw(x, test.day, *only)


def study(answered: Answered, days: int, draws: int, seed: int, alpha: float = 0.05, **how: bool) -> dict[str, dict[str, float]]:  # fmt: skip
    """By world, how often the gate and the others let the challenger pass: as `better` (gains above 0), or as not worse (gains above minus the margin); models that were swapped by a coin are equal as they are."""
    sets = list(drawn(answered, days, draws, seed, **how))
    margin = comparison.margins("binary", answered.y, answered.champion)
    mean = {m: 0.0 if how.get("swap") else np.mean([s.x[m].mean() for s in sets]) for m in margin}
    found: dict[str, dict[str, float]] = {}
    for world, by in WORLDS.items():
        shift = {m: k * margin[m] - mean[m] for m, k in zip(margin, by, strict=True)}
        told = [_words(s, shift, margin, alpha) for s in sets]
        found[world] = {k: float(np.mean([t[k] for t in told])) for k in told[0]}
    if how.get("swap"):
        found["equal"]["McNemar: better"] = float(np.mean([_mcnemar(s) for s in sets]))
    return found


def _words(
    s: Draw, shift: Mapping[str, float], margin: dict[str, float], alpha: float
) -> dict[str, bool]:
    x = {m: values + shift[m] for m, values in s.x.items()}
    judged = comparison.judge(x, s.day, margin, alpha)
    limits = {g.verdict for g in judged.gains}
    told = {"better": judged.word == "better", "passes": judged.word in trials.PASSES}
    told |= {"limits alone: better": limits == {"better"}}
    told |= {"limits alone: passes": limits <= set(trials.PASSES)}
    for name, m in (("paired t", "log_loss"), ("DeLong", "auc")):
        told[f"{name}: better"] = _above(x[m])
        told[f"{name}: passes"] = _above(x[m] + margin[m])
    return told


def _above(x: np.ndarray) -> bool:
    """The one-sided t test of a mean above 0, at 5 %, of rows as if they were independent."""
    return bool(stdtr(len(x) - 1, -x.mean() / x.std(ddof=1) * len(x) ** 0.5) < 0.05)


def _mcnemar(s: Draw) -> bool:
    """One-sided, at 5 %, with its normal approximation: hundreds of rows differ."""
    return bool((s.won - s.lost) > 1.6449 * max(s.won + s.lost, 1) ** 0.5)


def pairs(root: Path) -> Iterator[tuple[str, Answered]]:
    """Each challenger beside the champion, a model of January to March."""
    history = backtest.history(root, "2013-04-01", "", 1.0)
    linear = replace(history, learning={**history.learning, "model": "linear"}, _models={})
    champion = history.learn(0)
    weeks = [history.rows(w, champion.schema) for w in range(5, len(history.starts))]
    rows = pd.concat(weeks, ignore_index=True)
    rows = rows[rows["late"].notna()].reset_index(drop=True)
    y, days = pipelines.outcome(rows, champion.schema), splits.blocks(rows, champion.schema)
    day = np.unique(days, return_inverse=True)[1]
    theirs = point_in_time.predictions(champion, rows)
    for name, model in (("linear", linear.learn(0)), ("boosting that knows April", history.learn(4))):  # fmt: skip
        yield name, Answered(y, day, theirs, point_in_time.predictions(model, rows))


def main() -> None:
    """Print the tables."""
    asked = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    asked.add_argument("--draws", type=int, default=2000)
    asked.add_argument("--alpha", type=float, default=0.05, help="of each limit of the gate (.05)")
    told = asked.parse_args()
    ways = {"days drawn one by one": {}, "days that follow each other": {"runs": True}}
    ways |= {"drawn, swapped by a coin on each day": {"swap": True}}
    for name, answered in pairs(workspace.root(Path(__file__).parent)):
        for way, how in ways.items():
            rates = {d: study(answered, d, told.draws, d, told.alpha, **how) for d in SIZES}  # fmt: skip
            show(f"{name}; {way}; {told.draws:,} test sets", rates)


def show(title: str, rates: Mapping[int, Mapping[str, Mapping[str, float]]]) -> None:
    """One table: a row a world and question, a column a number of days."""
    print(f"\n| {title} | {' | '.join(f'{days} days' for days in rates)} |")
    print("|---" * (len(rates) + 1) + "|")
    tests = {"gate": "", "its limits": "limits alone: ", "t": "paired t: ", "DeLong": "DeLong: ", "McNemar": "McNemar: "}  # fmt: skip
    for world, question in ASKED:
        word = question.replace("passes", "not worse or better")
        for test, key in tests.items():
            cells = [f"{found[world].get(key + question, np.nan):.1%}" for found in rates.values()]
            if "nan%" not in cells:
                print(f"| {world}: {word}, by {test} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
