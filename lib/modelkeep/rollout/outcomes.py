"""What makes an answer wrong, and which answers count as right or wrong"""

import hashlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import pandas as pd

    from modelkeep.data.schema import Schema


def truth(of: "Schema", promise: "pd.DataFrame") -> dict:
    """What makes an answer wrong, from rows that the champion answered before it learned from them (see `Bundle.out_of_fold`).

    Classes: it gave what came true no more probability than its share among all, so that the larger class is no safe haven. Numbers: it was farther off than half of these answers.
    """
    from modelkeep.predictions import frames  # scikit-learn takes a second to import
    from modelkeep.training import pipelines

    known = promise[promise[of.label].notna()]
    true = pipelines.outcome(known, of)
    if not of.classes:
        return {"apart": float(np.median(np.abs(frames.predictions(known, of) - true)))}
    share = np.bincount(true, minlength=len(of.classes)) / len(true)
    return {"classes": [*of.classes], "share": share.tolist()}


def wrong(answer: Sequence[float], label: str, truth: Mapping) -> bool | None:
    """Whether an answer was wrong; None for a label of no class of the model."""
    if "apart" in truth:
        return abs(answer[0] - float(label)) > truth["apart"]
    if label not in truth["classes"] or len(answer) != len(truth["classes"]):
        return None
    k = truth["classes"].index(label)
    return not answer[k] > truth["share"][k]


def drawn(id: str, label: str, truth: Mapping) -> bool:
    """Whether a row is among those that count as right or wrong: of each class equally many are drawn, always the same.

    Counting all would favour whoever tells fewer of the rare class: with a limit at its share, being wrong is a proper score (Gneiting and Raftery 2007)
    only if a missed rare outcome weighs as much more than a false alarm as it is rarer.
    """
    if "apart" in truth:
        return True
    share = truth["share"][truth["classes"].index(label)]
    rarest = min(s for s in truth["share"] if s > 0)
    return key(id) / 2**64 * share < rarest


def key(name: str) -> int:
    """A name as a number of 64 bits that tells nothing of it."""
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "big")
