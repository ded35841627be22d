"""The splits of fitted trees, by rank.

A tree depends only on the side of a threshold on which a value lies. So a value's rank among the
thresholds is as good as the value, and float32 holds it exactly.
"""

import copy
from collections.abc import Iterator, Sequence

import msgspec
import numpy as np
from sklearn.base import BaseEstimator

from modelkeep.core.errors import ModelkeepError
from modelkeep.training.engines import encoding, libraries
from modelkeep.training.engines.quickscorer import Trees


class TreesError(ModelkeepError, ValueError):
    """An estimator of another kind than the expected trees."""


def cuts(estimator: BaseEstimator, width: int) -> list[list[float]]:
    """The thresholds of each column of the matrix, sorted; no columns where the estimator is not
    made of such trees.
    """
    found: list[set] = [set() for _ in range(width)]
    for tree in _of_library(estimator):
        for node, codes in tree.codes.items():  # each code gets a rank of its own
            found[tree.column[node]] |= {code + side for code in codes for side in (-0.5, 0.5)}
    for features, thresholds, inner in _splits(estimator):
        for column, value in zip(features[inner].tolist(), thresholds[inner].tolist(), strict=True):
            found[column].add(value)
    return [sorted(each) for each in found] if any(found) else []


def ranked(estimator: BaseEstimator, ranks: Sequence[Sequence[float]]) -> BaseEstimator:
    """A copy that splits at the thresholds' ranks."""
    if not ranks:
        return estimator
    twin = copy.deepcopy(estimator)
    for features, thresholds, inner in _splits(twin):
        for i in np.flatnonzero(inner):
            thresholds[i] = np.searchsorted(ranks[features[i]], thresholds[i])
    return twin


def single(estimator: BaseEstimator) -> bool:
    """Whether the trees look at values in float32, as those of a forest do."""
    return not boosted(estimator)


def boosted(estimator: BaseEstimator) -> bool:
    """Whether the trees add up to a score, and not to a mean as those of a forest do."""
    return hasattr(estimator, "_predictors") or libraries.read(estimator) is not None


def plain(estimator: BaseEstimator, plan: dict) -> bytes:
    """Boosted trees as `quickscorer.Trees`, from the plan of their preprocessing; TreesError where
    that or they are something else.
    """
    groups, other = getattr(estimator, "_predictors", None), libraries.read(estimator)
    if not (groups or other) or not plan["cuts"]:
        raise TreesError("these are no boosted trees that split numbers")
    if not encoding.Encoding(plan).passes:
        raise TreesError("the trees read numbers that were scaled, filled or spread over columns")
    ranks = encoding.cuts(plan)
    if other:
        trees = [_ranked(tree, 0, ranks) for tree in other.trees]
        return msgspec.json.encode(Trees(other.link, other.baseline.tolist(), trees))
    trees = [_nested(t.nodes, 0, ranks) for group in groups for t in group]
    baseline = estimator._baseline_prediction.ravel().tolist()
    return msgspec.json.encode(Trees(type(estimator._loss.link).__name__, baseline, trees))


def _of_library(estimator: BaseEstimator) -> list[libraries.Nodes]:
    found = libraries.read(estimator)
    return found.trees if found else []


def _nested(nodes: np.ndarray, at: int, ranks: list[np.ndarray]) -> list | float:
    node = nodes[at]
    if node["is_leaf"]:
        return float(node["value"])
    column = int(node["feature_idx"])
    rank = int(np.searchsorted(ranks[column], node["num_threshold"]))
    sides = [_nested(nodes, int(node[side]), ranks) for side in ("left", "right")]
    return [column, rank, bool(node["missing_go_to_left"]), *sides]


def _ranked(tree: libraries.Nodes, at: int, ranks: list[np.ndarray]) -> list | float:
    if tree.leaf[at]:
        return float(tree.value[at])
    column = int(tree.column[at])
    rank: int | list = int(np.searchsorted(ranks[column], tree.threshold[at]))
    if at in tree.codes:
        rank = np.searchsorted(ranks[column], sorted(tree.codes[at])).tolist()
    sides = [_ranked(tree, int(side[at]), ranks) for side in (tree.left, tree.right)]
    return [column, rank, bool(tree.missing_left[at]), *sides]


def _splits(estimator: BaseEstimator) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Per tree the column, the threshold (writable) and whether it is a split, of each node."""
    for group in getattr(estimator, "_predictors", ()):
        for tree in group:
            nodes = tree.nodes
            if nodes["is_categorical"].any():
                return
            yield nodes["feature_idx"], nodes["num_threshold"], nodes["is_leaf"] == 0
    for tree in _of_library(estimator):
        native = np.isin(np.arange(len(tree.leaf)), [*tree.codes])
        yield tree.column, tree.threshold, ~tree.leaf & ~native
    trees = getattr(estimator, "estimators_", ())
    for tree in [t.tree_ for t in trees if hasattr(t, "tree_")] if type(trees) is list else ():
        yield tree.feature, tree.threshold, tree.children_left >= 0
