"""What of a drift the season can explain: matched weeks, columns that follow the calendar."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from modelkeep.evaluation import guards, permutation, profile, two_sample
from modelkeep.evaluation.binning import Bins
from modelkeep.evaluation.guards import Guard
from modelkeep.evaluation.profile import Profile

NEAR_DAYS = 14  # a block is of the same season within so many days of the same date
LEAST_BLOCKS = 20  # matched blocks that a window needs
YEAR_DAYS = 365.25
BEFORE_DAYS, GAP_DAYS = 28, 14  # the column guard's weeks before, and what lies between
PERMUTATIONS = 999


def months(reference: Profile) -> float | None:
    """Return how many months the reference's blocks span; None without blocks."""
    days = _days(reference)
    return None if days is None else float(np.ptp(days) + 1) / YEAR_DAYS * 12


def _days(p: Profile) -> np.ndarray | None:
    return None if p.blocks is None or not len(p.blocks) else p.blocks.astype("M8[D]").astype(int)


def matched(reference: Profile, windows: Sequence[Profile]) -> list[Profile] | None:
    """Return the same weeks of earlier years for each window; None where any has too few."""
    known, found = _days(reference), []
    if known is None:
        return None
    for window in windows:
        days = _days(window)
        if days is None:
            return None
        ago = (days[0] + days[-1]) / 2 - known
        near = np.abs((ago + YEAR_DAYS / 2) % YEAR_DAYS - YEAR_DAYS / 2)
        inside = (near <= NEAR_DAYS + (days[-1] - days[0]) / 2) & (ago > YEAR_DAYS / 2)
        if inside.sum() < LEAST_BLOCKS:
            return None
        found.append(_only(reference, inside))
    return found


def _only(p: Profile, kept: np.ndarray) -> Profile:
    counts = {name: x[kept] for name, x in p.counts.items()}
    sizes = {name: x[kept] for name, x in p.sizes.items()}
    return Profile(p.bins, p.blocks[kept], p.rows[kept], counts, sizes)


def without(p: Profile, columns: Sequence[str]) -> Profile:
    """Return the profile without the values of some columns; missing values stay counted."""
    bins = tuple(Bins(b.name, "number") if b.name in columns else b for b in p.bins)
    counts = dict(p.counts)
    for name in columns:
        x = p.counts[name]
        present = x[:, :-1].sum(axis=1)
        counts[name] = np.stack([np.zeros_like(present), present, x[:, -1]], axis=1)
    return replace(p, bins=bins, counts=counts)


def calendar_columns(reference: Profile, fdr: float = 0.05, seed: int = 0) -> tuple[str, ...]:
    """Return the columns that drift within the reference itself, between its two halves."""
    if reference.blocks is None or len(reference.blocks) < LEAST_BLOCKS:
        return ()
    late = np.arange(len(reference.blocks)) >= len(reference.blocks) // 2
    halves = _only(reference, ~late), _only(reference, late)
    rng = np.random.default_rng(seed)
    plan = permutation.design(*halves, PERMUTATIONS, rng)
    p = [t.p for t in permutation.block_tests(*halves, plan, rng)]
    drifted = two_sample.discoveries(p, fdr)
    return tuple(b.name for b, d in zip(reference.bins, drifted, strict=True) if d)


def newest_guard(reference: Profile, windows: Sequence[Profile], columns: Sequence[str]) -> Guard:
    """Judge the newest window of these columns by the weeks before it (`guards.column_guard`)."""
    every = profile.add(reference, windows[-1])
    for window in windows[:-1]:
        every = profile.add(every, window)
    days, bins = _days(every), [b for b in every.bins if b.name in columns]
    end, length = days.max() + 1, int(np.ptp(_days(windows[-1]))) + 1
    rows, noises = [], []
    while end - length - GAP_DAYS - BEFORE_DAYS >= days.min():
        first = end - length
        now = (days >= first) & (days < end)
        before = (days >= first - GAP_DAYS - BEFORE_DAYS) & (days < first - GAP_DAYS)
        if now.any() and before.any() and min(every.rows[now].sum(), every.rows[before].sum()):
            pairs = [
                guards.counted_distance(
                    every.counts[b.name][before].sum(axis=0),
                    every.counts[b.name][now].sum(axis=0),
                    b.kind == "number",
                )
                for b in bins
            ]
            rows.append([d for d, _ in pairs])
            noises.append([n for _, n in pairs])
        end = first
    if not rows:
        return guards.column_guard(np.zeros(len(bins)), np.zeros((0, len(bins))))
    names = [b.name for b in bins]
    return guards.column_guard(np.array(rows[0]), np.array(rows[1:]), noises[0], names)
