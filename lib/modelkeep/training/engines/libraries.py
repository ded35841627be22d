"""The trees of LightGBM and XGBoost as plain arrays, so that our engine and explanations read them.

A row goes left where its value is at most the threshold, in double precision, or where its category
is one of a split's `codes`. XGBoost compares in
single precision and with "less than": its thresholds are moved to the double that decides alike.
"""

import json
from typing import NamedTuple

import numpy as np
from sklearn.base import BaseEstimator


class Nodes(NamedTuple):
    """One tree; each array has an element a node, the root first."""

    column: np.ndarray
    threshold: np.ndarray
    left: np.ndarray
    right: np.ndarray
    leaf: np.ndarray
    missing_left: np.ndarray
    value: np.ndarray  # what a leaf adds to the score
    codes: dict[int, frozenset[int]]  # by node that splits categories, those that go left


class Forest(NamedTuple):
    """Trees in the order of training, alternating between outputs, and what is added to each."""

    trees: list[Nodes]
    baseline: np.ndarray
    link: str  # scikit-learn's name


def read(estimator: BaseEstimator) -> Forest | None:
    """The trees of a fitted estimator; None where it has none of this kind."""
    package = type(estimator).__module__.partition(".")[0]
    if package == "lightgbm" and hasattr(estimator, "booster_"):
        return _lightgbm(estimator.booster_.model_to_string())
    if package == "xgboost" and hasattr(estimator, "get_booster"):
        return _xgboost(json.loads(estimator.get_booster().save_raw("json")))
    return None


def _lightgbm(text: str) -> Forest | None:
    """From the model's text, whose thresholds have all digits (its JSON rounds some)."""
    head, *parts = text.split("\nTree=")
    facts = dict(line.split("=", 1) for line in head.splitlines() if "=" in line)
    objective, *settings = facts["objective"].split()
    link = {"binary": "LogitLink", "multiclass": "MultinomialLogit", "regression": "IdentityLink"}
    if objective not in link or (objective == "binary" and settings != ["sigmoid:1"]):
        return None
    trees = [_text_tree(part) for part in parts]
    if any(tree is None for tree in trees):
        return None
    return Forest(trees, np.zeros(int(facts["num_tree_per_iteration"])), link[objective])


def _text_tree(text: str) -> Nodes | None:
    """One tree; a split's bits say whether it is of categories, where a missing value goes, and
    whether training met one (else it counts as 0). Leaves follow the splits.
    """
    lines = text.partition("\n\n")[0].splitlines()[1:]
    facts = {k: v.split() for k, v in (line.split("=", 1) for line in lines)}
    value = np.array(facts["leaf_value"], float)
    splits = len(value) - 1
    bits = np.array(facts["decision_type"] if splits else [], int)
    met = bits >> 2 & 3
    native = (bits & 1) > 0
    if (~native & (met == 1)).any():
        return None
    cut = np.array(facts["threshold"] if splits else [], float)
    codes = _bit_sets(facts, np.flatnonzero(native), cut)
    sides = [np.array(facts[side] if splits else [], int) for side in ("left_child", "right_child")]
    nowhere, none = np.full(len(value), -1), np.zeros(len(value))
    left, right = (np.append(np.where(s < 0, splits - 1 - s, s), nowhere) for s in sides)
    return Nodes(
        np.append(np.array(facts["split_feature"] if splits else [], int), none.astype(int)),
        np.append(cut, none),
        left,
        right,
        np.arange(splits + len(value)) >= splits,
        np.append(~native & np.where(met == 2, (bits & 2) > 0, cut >= 0), none.astype(bool)),
        np.append(np.zeros(splits), value),
        codes,
    )


def _bit_sets(facts: dict, nodes: np.ndarray, place: np.ndarray) -> dict[int, frozenset[int]]:
    """The categories that each of some splits sends left; a split's threshold is the place of its
    words of bits.
    """
    edges, words = (
        np.array(facts.get(f"cat_{name}", []), int) for name in ("boundaries", "threshold")
    )
    found = {}
    for node in nodes.tolist():
        own = words[edges[int(place[node])] : edges[int(place[node]) + 1]].tolist()
        found[node] = frozenset(
            32 * i + bit for i, word in enumerate(own) for bit in range(32) if word >> bit & 1
        )
    return found


def _xgboost(model: dict) -> Forest | None:
    learner = model["learner"]
    link = {
        "binary:logistic": "LogitLink",
        "multi:softprob": "MultinomialLogit",
        "multi:softmax": "MultinomialLogit",
        "reg:squarederror": "IdentityLink",
    }.get(learner["objective"]["name"])
    found = learner["gradient_booster"].get("model", {}).get("trees")
    if link is None or not found:
        return None
    outputs = max(int(learner["learner_model_param"]["num_class"]), 1)
    base = json.loads(learner["learner_model_param"]["base_score"])
    baseline = np.broadcast_to(np.array(base, float), (outputs,)).copy()
    if link == "LogitLink":
        baseline = np.log(baseline / (1 - baseline))
    trees = []
    for tree in found:
        codes = _listed(tree)
        swapped = np.isin(np.arange(len(tree["left_children"])), [*codes])
        sides = [np.array(tree[f"{side}_children"]) for side in ("left", "right")]
        # the categories that are listed go right: with sides changed, left
        left, right = (np.where(swapped, *pair) for pair in (sides[::-1], sides))
        cut = np.array(tree["split_conditions"], np.float32)
        trees.append(
            Nodes(
                np.array(tree["split_indices"]),
                _at_most(cut),
                left,
                right,
                left < 0,
                np.array(tree["default_left"], bool) ^ swapped,
                cut.astype(float),
                codes,
            )
        )
    return Forest(trees, baseline, link)


def _listed(tree: dict) -> dict[int, frozenset[int]]:
    """The categories that each split of categories lists."""
    parts = (tree.get(f"categories_{name}", ()) for name in ("nodes", "segments", "sizes"))
    return {
        node: frozenset(tree["categories"][start : start + size])
        for node, start, size in zip(*parts, strict=True)
    }


def _at_most(cut: np.ndarray) -> np.ndarray:
    """The largest doubles that single precision rounds to less than `cut` (float32)."""
    below = np.nextafter(cut, np.float32(-np.inf))
    middle = (below.astype(float) + cut.astype(float)) / 2
    return np.where(middle.astype(np.float32) < cut, middle, np.nextafter(middle, -np.inf))
