"""Predictions of boosted trees by bit vectors, equal to scikit-learn's sum to the last bit.

The leaves of a tree are the bits of a number, the leftmost leaf the lowest bit. A split that sends
a row to the right takes the leaves on its left away; the lowest bit that stays is the row's leaf.
What all splits of one column take away hangs on the value's rank among their thresholds alone, so
it is looked up: each rank of each column has a row of a table, with a number for each tree. Columns
of few ranks share rows: one for each combination, so that fewer are looked up. Source:
Lucchese et al., QuickScorer: a fast algorithm to rank documents with additive ensembles of
regression trees, SIGIR 2015.
"""

from collections.abc import Callable, Sequence
from itertools import pairwise

import msgspec
import numpy as np

from modelkeep.core.errors import ModelkeepError
from modelkeep.training.engines import calibration
from modelkeep.training.engines.encoding import Numbers, cuts, looked_up, places

BITS = (np.uint8, np.uint16, np.uint32, np.uint64)
LEAVES = 64  # of a tree at most
TABLE = 32 * 2**20  # bytes: a table that no cache holds is no faster than a walk
JOINED = 160 * 2**10  # bytes of the rows of columns that share them, at most
FEW = 16  # rows that one call looks up at once; for more, a call a column needs less memory
PART = 40_000  # leaves that are added up at once: more than a cache holds take twice as long

# [column, rank of the threshold (or those that go left), whether a missing value goes left, left,
# right]
Split = list


class Trees(msgspec.Struct):
    """Boosted trees as plain data, in the order of training; where there are several outputs, they
    alternate.
    """

    link: str
    baseline: list[float]
    trees: list[Split | float]  # a leaf is its number


class QuickScorerError(ModelkeepError, ValueError):
    """Trees that do not fit into bit vectors."""


class QuickScorer:
    """Boosted trees that read numbers as they are, then categories by their place (`plan` is that
    of `encoding.Encoding`).
    """

    def __init__(self, plan: dict, trees: bytes) -> None:
        given = msgspec.json.decode(trees, type=Trees)
        # NaN alone comes after infinity, so a missing value has a rank of its own
        self.cuts = [np.append(each, np.inf) for each in cuts(plan)]
        self.starts = np.cumsum([0, *(len(each) + 1 for each in self.cuts)])
        self.regression, self.link = plan["task"] == "regression", LINKS[given.link]
        self.calibration = plan.get("calibration", {})
        self.outputs = len(given.baseline)
        table, leaves = self._table(given.trees)
        self._join(table)
        leaves[: self.outputs] += np.array(given.baseline)[:, None]
        self.leaves, width = leaves.ravel(), leaves.shape[1]
        self.first = np.arange(0, leaves.size, width)[:, None] - 1  # leaf of each tree, from 1
        known = [f for f in plan["features"] if "categories" in f]
        self.numbers = len(plan["features"]) - len(known)
        self.rows = [self._rows(i, f) for i, f in enumerate(known, start=self.numbers)]

    def predict(self, numbers: np.ndarray, categories: Sequence[Sequence]) -> np.ndarray:
        """Probabilities (rows, classes), or predicted numbers (rows,); arguments as
        `encoding.Encoding` takes them.
        """
        ranks = np.empty((len(self.cuts), len(numbers)), np.intp)
        for i in range(self.numbers):
            ranks[self.place[i]] = self.cuts[i].searchsorted(numbers[:, i])
        for i, (rows, values) in enumerate(zip(self.rows, categories, strict=True), self.numbers):
            ranks[self.place[i]] = looked_up(values, rows)
        ranks *= self.strides
        at = np.add.reduceat(ranks, self.edges, axis=0)
        at += self.firsts
        size = max(FEW, PART // self.table.shape[1])
        parts = [self.sums_of_leaves(at[:, i : i + size]) for i in range(0, len(numbers), size)]
        answer = self.link(parts[0] if len(parts) == 1 else np.concatenate(parts))
        return calibration.apply(self.calibration, answer[:, 0] if self.regression else answer)

    def sums_of_leaves(self, at: np.ndarray) -> np.ndarray:
        """The sum of the trees (rows, outputs), from the places (groups, rows) in the table."""
        n = at.shape[1]
        if n == 1:  # NumPy would add a single column up in another order
            return self.sums_of_leaves(at[:, [0, 0]])[:1]
        if n <= FEW:
            stay = np.bitwise_and.reduce(self.table[at], axis=0)
        else:
            stay = self.table.take(at[0], axis=0)
            for column in at[1:]:
                stay &= self.table.take(column, axis=0)
        lowest = np.bitwise_count((stay - stay.dtype.type(1)) ^ stay)  # from 1
        # one row of memory a tree, as `take` makes it: NumPy then adds tree after tree. All places
        # exist, so no time is spent on a bounds check
        reached = self.leaves.take(lowest.T + self.first, mode="clip")
        return reached.reshape(-1, self.outputs, n).sum(axis=0).T

    def _table(self, trees: Sequence) -> tuple[np.ndarray, np.ndarray]:
        """The remaining leaves of each tree by rank (rows of all columns, trees), and leaf
        values.
        """
        most = max(map(_leaves, trees))
        if most > LEAVES:
            raise QuickScorerError(f"a tree has {most} leaves, and {LEAVES} is the most")
        kind = next(np.dtype(each) for each in BITS if 8 * np.dtype(each).itemsize >= most)
        size = int(self.starts[-1]) * len(trees) * kind.itemsize
        if size > TABLE:
            raise QuickScorerError(
                f"the table would take {size / 2**20:.2g} MB, and {TABLE / 2**20:.2g} is the most"
            )
        table = np.full((self.starts[-1], len(trees)), np.iinfo(kind).max, kind)
        leaves = np.zeros((len(trees), most))
        for i, tree in enumerate(trees):
            self._fill(table[:, i], leaves[i], tree, 0)
        return table, leaves

    def _join(self, table: np.ndarray) -> None:
        """Make the table of groups of columns: a row for each combination of their ranks."""
        parts = {(i,): table[a:b] for i, (a, b) in enumerate(pairwise(self.starts))}
        while len(parts) > 1:
            (few, one), (more, other) = sorted(parts.items(), key=lambda each: len(each[1]))[:2]
            if len(other) * one.nbytes > JOINED:
                break
            del parts[few], parts[more]
            parts[few + more] = (one[:, None] & other[None]).reshape(-1, table.shape[1])
        self.table = np.concatenate([*parts.values()])
        self.firsts = np.cumsum([0, *map(len, parts.values())])[:-1, None]
        order, sizes = [i for columns in parts for i in columns], np.diff(self.starts)
        self.place = np.argsort(order).tolist()  # of a column; those of a group are neighbours
        self.edges = np.cumsum([0, *map(len, parts)])[:-1]
        self.strides = np.concatenate(
            [np.cumprod([1, *sizes[list(columns[:0:-1])]])[::-1] for columns in parts]
        )[:, None]

    def _fill(self, stays: np.ndarray, leaves: np.ndarray, node: Split | float, first: int) -> int:
        """Enter a tree's nodes, whose leftmost leaf is the `first`; return the leaf after its
        last.
        """
        if not isinstance(node, list):
            leaves[first] = node
            return first + 1
        column, rank, missing_left, left, right = node
        middle = self._fill(stays, leaves, left, first)
        gone = stays.dtype.type((1 << middle) - (1 << first))
        end = self.starts[column + 1] - 1
        own = stays[self.starts[column] : end]
        if isinstance(rank, list):
            own[np.setdiff1d(np.arange(len(own)), rank)] &= ~gone
        else:
            own[rank + 1 :] &= ~gone
        if not missing_left:
            stays[end] &= ~gone
        return self._fill(stays, leaves, right, middle)

    def _rows(self, column: int, feature: dict) -> Numbers:
        """The rank of each category; an unseen one is coded -1, below all thresholds, or counts as
        a missing number where trees split sets of categories.
        """
        cuts, coded = self.cuts[column], places(feature["categories"]).items()
        unseen = len(cuts) if feature.get("native") else 0
        return Numbers(unseen, {name: int(cuts.searchsorted(code)) for name, code in coded})


def _leaves(node: Split | float) -> int:
    return _leaves(node[3]) + _leaves(node[4]) if isinstance(node, list) else 1


def _logit(raw: np.ndarray) -> np.ndarray:
    answer = np.empty((len(raw), 2))
    answer[:, 1:] = 1 / (1 + np.exp(-np.maximum(raw, -700)))  # below that it is as good as 0
    np.subtract(1, answer[:, 1], out=answer[:, 0])
    return answer


def _softmax(raw: np.ndarray) -> np.ndarray:
    parts = np.exp(raw - raw.max(axis=1, keepdims=True))
    return parts / parts.sum(axis=1, keepdims=True)


# scikit-learn's names
LINKS: dict[str, Callable] = {
    "LogitLink": _logit,
    "MultinomialLogit": _softmax,
    "LogLink": np.exp,
    "IdentityLink": np.asarray,
}
