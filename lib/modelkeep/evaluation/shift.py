"""The kind of shift that made the loss rise: other inputs, another relation, or unknown rows.

The rise is split at a distribution that both periods share (DISDE: Cai, Namkoong and Yadlowsky,
2023): the inputs of now wherever before had inputs like them. How much more frequent an input is
now than before, its odds, comes from a classifier of the periods that the caller has cross-fitted.
"""

from dataclasses import dataclass

import numpy as np
from scipy.special import stdtrit

from modelkeep.core.errors import ModelkeepError

UNLIKE = 15.0  # odds from which a row counts as unlike any before: half of its weight is gone
LEAST_ROWS = 200  # in each period
LEAST_BLOCKS = 8
COVERED = 0.8  # share of the rows of before whose bins now have rows, to undo a column's drift
LARGEST = 15.0  # weight of a row, so that single rows do not stand for whole bins


class ShiftError(ModelkeepError, ValueError):
    """Rows that no rise of loss can be split with."""


@dataclass(frozen=True)
class Term:
    """A part of the rise of the mean loss with its 95 % interval, in the loss's unit."""

    name: str
    value: float
    low: float
    high: float

    @property
    def positive(self) -> bool:
        """Return whether the interval lies above 0."""
        return self.low > 0

    def __str__(self) -> str:
        return f"{self.value:+.3g} ({self.low:+.3g} to {self.high:+.3g})"


@dataclass(frozen=True)
class Split:
    """The rise of the mean loss, `drop`, and three terms that add up to it.

    `harder`: inputs that both periods have, in another mix; `relation`: the loss of the same
    inputs; `unlike`: inputs that before did not have. `shared` is the share of the rows of now with
    inputs that before had too, `effective_rows` how many rows of before carry the comparison.
    """

    drop: Term
    harder: Term
    relation: Term
    unlike: Term
    shared: float
    effective_rows: float

    @property
    def terms(self) -> tuple[Term, Term, Term]:
        """Return the three terms."""
        return self.harder, self.relation, self.unlike


def split(
    loss_before: np.ndarray,
    loss: np.ndarray,
    odds_before: np.ndarray,
    odds: np.ndarray,
    blocks_before: np.ndarray,
    blocks: np.ndarray,
) -> Split:
    """Split the rise of the mean loss from before to now; all arrays are (rows,) of one period.

    `odds` are density now / density before at each row's inputs, of a model that has not seen the
    row's block. The shared distribution has the density of now times 1 / (1 + (odds / 15)^2), a
    balancing weight (Li, Morgan and Zaslavsky 2018). Intervals take the odds as known and rows of
    one block as alike. ShiftError below 200 rows or 8 blocks in either period.
    """
    for name, rows, labels in (
        ("before", loss_before, blocks_before),
        ("now", loss, blocks),
    ):
        if len(rows) < LEAST_ROWS or len(np.unique(labels)) < LEAST_BLOCKS:
            raise ShiftError(
                f"{len(rows)} rows in {len(np.unique(labels))} blocks in the period {name!r}: "
                f"{LEAST_ROWS} rows in {LEAST_BLOCKS} blocks are needed; take a longer period"
            )
    kept_before, kept = (1 / (1 + (o / UNLIKE) ** 2) for o in (odds_before, odds))
    weights = odds_before * kept_before
    if not weights.sum() > 0:
        raise ShiftError("no row of before is like any of now, so the two cannot be compared")
    a = _Mean(loss_before, np.ones(len(loss_before)), blocks_before)
    b = _Mean(loss_before, weights, blocks_before)
    c = _Mean(loss, kept, blocks)
    d = _Mean(loss, np.ones(len(loss)), blocks)
    return Split(
        drop=_difference("drop", d, a),
        harder=_difference("harder rows", b, a, paired=True),
        relation=_difference("changed relation", c, b),
        unlike=_difference("rows unlike before", d, c, paired=True),
        shared=float(kept.mean()),
        effective_rows=float(weights.sum() ** 2 / (weights @ weights)),
    )


def contribution(
    name: str,
    loss: np.ndarray,
    blocks: np.ndarray,
    places: np.ndarray,
    counts_before: np.ndarray,
) -> Term | None:
    """Return the part of the mean loss of now that the drift of one column accounts for.

    It is the mean loss less that of the rows weighted so that the column's bins `places` (rows,)
    have their shares of before, `counts_before` (bins,). None where the drift cannot be undone:
    a fifth of the rows of before are in bins that now have no row.
    """
    now = np.bincount(places, minlength=len(counts_before)).astype(float)
    share_before = counts_before / counts_before.sum()
    if share_before[now > 0].sum() < COVERED:
        return None
    ratio = np.divide(share_before, now / now.sum(), out=np.zeros(len(now)), where=now > 0)
    undone = _Mean(loss, np.minimum(ratio, LARGEST)[places], blocks)
    plain = _Mean(loss, np.ones(len(loss)), blocks)
    return _difference(name, plain, undone, paired=True)


class _Mean:
    """A weighted mean, and how much each block moves it."""

    def __init__(self, values: np.ndarray, weights: np.ndarray, blocks: np.ndarray) -> None:
        self.value = float(weights @ values / weights.sum())
        _, block = np.unique(blocks, return_inverse=True)
        self.moves = np.bincount(block, weights * (values - self.value) / weights.sum())


def _difference(name: str, one: _Mean, other: _Mean, *, paired: bool = False) -> Term:
    """Return one mean less another; `paired`: both are of the same rows."""
    moves = [one.moves - other.moves] if paired else [one.moves, other.moves]
    variance = sum(len(m) / (len(m) - 1) * float(m @ m) for m in moves)
    half = float(stdtrit(min(map(len, moves)) - 1, 0.975) * np.sqrt(variance))
    value = one.value - other.value
    return Term(name, value, value - half, value + half)
