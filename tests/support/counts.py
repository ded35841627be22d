"""Profiles made from counts, and counts of blocks whose rows are alike."""

import numpy as np

from modelkeep.evaluation.binning import Bins
from modelkeep.evaluation.profile import Profile


def counted(counts, kind: str = "number", once: int = 0, blocks: bool = False) -> Profile:
    """Make a profile of one column from its counts (blocks x bins)."""
    counts = np.atleast_2d(np.array(counts, np.int64))
    width = counts.shape[1]
    if kind == "number":
        bins = Bins("x", kind, edges=tuple(float(i) for i in range(width - 2)))
    else:
        bins = Bins("x", kind, categories=tuple(str(i) for i in range(width - 3)), once=once)
    assert len(bins.labels) == width
    when = np.datetime64("2013-01-01") + np.arange(len(counts)) if blocks else None
    sizes = {"x": np.zeros((len(counts), 2), np.int64)}
    return Profile((bins,), when, counts.sum(axis=1), {"x": counts}, sizes)


def blocked(rng, blocks: int, shares, rows: int = 100, alike: float = 20.0) -> np.ndarray:
    """Draw counts of blocks whose rows are alike: each block has shares of its own."""
    sizes = rng.poisson(rows, blocks) + 1
    own = rng.dirichlet(alike * np.asarray(shares), blocks)
    return np.array([rng.multinomial(n, p) for n, p in zip(sizes, own, strict=True)])
