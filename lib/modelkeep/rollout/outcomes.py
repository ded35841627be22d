"""Quality outcomes: the rule by which a prediction is bad, and the rows that are counted."""

import hashlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import pandas as pd

    from modelkeep.data.schema import Schema


def truth(schema: "Schema", out_of_fold: "pd.DataFrame") -> dict:
    """The rule of a bad prediction, from the champion's `Bundle.out_of_fold`.

    Classes: the label's class got no more probability than its share, so that predicting the larger
    class is no remedy. Numbers: the error is above the median of these predictions.
    """
    from modelkeep.predictions import frames  # scikit-learn takes a second to import
    from modelkeep.training import pipelines

    known = out_of_fold[out_of_fold[schema.label].notna()]
    true = pipelines.outcome(known, schema)
    if not schema.classes:
        return {"apart": float(np.median(np.abs(frames.predictions(known, schema) - true)))}
    share = np.bincount(true, minlength=len(schema.classes)) / len(true)
    return {"classes": [*schema.classes], "share": share.tolist()}


def wrong(prediction: Sequence[float], label: str, truth: Mapping) -> bool | None:
    """Whether a prediction is bad; None for a label of no class of the model."""
    if "apart" in truth:
        return abs(prediction[0] - float(label)) > truth["apart"]
    if label not in truth["classes"] or len(prediction) != len(truth["classes"]):
        return None
    k = truth["classes"].index(label)
    return not prediction[k] > truth["share"][k]


def drawn(id: str, label: str, truth: Mapping) -> bool:
    """Whether a row's quality is counted: equally many of each class are drawn, always the same.

    Counting all would favour a model that predicts fewer of the rare class: with a limit at its
    share, this outcome is a proper score (Gneiting and Raftery 2007) only if a missed rare label
    weighs as much more than a false alarm as it is rarer.
    """
    if "apart" in truth:
        return True
    share = truth["share"][truth["classes"].index(label)]
    rarest = min(s for s in truth["share"] if s > 0)
    return key(id) / 2**64 * share < rarest


def key(name: str) -> int:
    """A hash of 64 bits of a name."""
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "big")
