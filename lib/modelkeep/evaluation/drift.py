"""Say which columns moved between two profiles, how far, and when it is time to page somebody."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from modelkeep.core.errors import ModelkeepError
from modelkeep.evaluation import profile, two_sample
from modelkeep.evaluation.binning import Bins
from modelkeep.evaluation.profile import Profile
from modelkeep.evaluation.two_sample import Tests, evalue

LEVELS = {"severe": 0.25, "warn": 0.1, "note": 0.01}
ALWAYS = ("missing share rose", "missing share fell", "unseen category")  # whatever the effect
UNIT_CHANGE = 5  # times larger or smaller from which we name it
TYPICAL_ROWS = 20  # nonzero numbers needed on either side for that
LEAST_BLOCKS = 20  # in reference and window together, to shuffle whole blocks


class DriftError(ModelkeepError, ValueError):
    """Profiles that cannot be compared."""


@dataclass(frozen=True)
class Finding:
    """Something about a column that has a name, in a sentence, with its numbers."""

    name: str
    sentence: str
    before: float
    now: float
    p: float

    def __str__(self) -> str:
        return self.sentence


@dataclass(frozen=True)
class Column:
    """How far one column moved; shares are of all rows, `below` and `above` of the old range."""

    name: str
    kind: str
    p: float
    moved: bool
    effect: float
    level: str
    alarm: bool
    missing_before: float
    missing: float
    unseen: float
    below: float
    above: float
    findings: tuple[Finding, ...]


@dataclass(frozen=True)
class Drift:
    """What `compare` found; `by` is what was taken as independent ("blocks", "rows"), and `why`."""

    columns: tuple[Column, ...]
    by: str
    why: str
    fdr: float
    draws: int
    rows_before: int
    rows: int

    @property
    def alarm(self) -> bool:
        """Return whether any column raises an alarm."""
        return any(c.alarm for c in self.columns)


@dataclass(frozen=True)
class Detection:
    """Evidence of drift by window: p, e, their Shiryaev-Roberts sum, and the first that pages."""

    p: tuple[float, ...]
    e: tuple[float, ...]
    path: tuple[float, ...]
    threshold: float
    page: int | None
    by: str


def effect(reference: np.ndarray, window: np.ndarray) -> float:
    """Return sum 2(q-p)^2/(p+q) of two rows of counts less its mean without drift (so below 0 too)."""
    n, m = reference.sum(), window.sum()
    if n == 0 or m == 0:
        raise DriftError(f"{n} and {m} rows: an effect needs rows on both sides")
    seen = (reference + window) > 0
    p, q = reference[seen] / n, window[seen] / m
    return float((2 * (q - p) ** 2 / (p + q)).sum() - (seen.sum() - 1) * (1 / n + 1 / m))


def compare(
    reference: Profile,
    window: Profile,
    *,
    by: str = "auto",
    fdr: float = 0.05,
    draws: int = 999,
    seed: int = 0,
) -> Drift:
    """Say of each column whether it moved, how far, and what has a name; `seed` is of the draws."""
    _check(reference, window)
    by, why = _choose(reference, window, by, len(reference.bins) / fdr)
    if by == "blocks":
        draws = max(draws, math.ceil(2 * len(reference.bins) / fdr))
        tests = list(two_sample.block_tests(reference, window, draws, np.random.default_rng(seed)))
    else:
        draws, tests = 0, [two_sample.row_tests(b, reference, window) for b in reference.bins]
    moved = two_sample.discoveries([t.p for t in tests], fdr)
    columns = tuple(
        _describe(b, reference, window, t, bool(m), fdr)
        for b, t, m in zip(reference.bins, tests, moved, strict=True)
    )
    return Drift(columns, by, why, fdr, draws, int(reference.rows.sum()), int(window.rows.sum()))


def detect(
    reference: Profile,
    windows: Sequence[Profile],
    *,
    windows_a_year: float,
    budget: float = 0.05,
    by: str = "auto",
    draws: int = 1999,
    seed: int = 0,
) -> Detection:
    """Watch windows as they come; without drift it pages with probability `budget` a year at most.

    Each window is compared with the reference and all windows before it: then the p-values of
    exchangeable blocks are independent (Vovk 2021, conformal test martingales), and R stays valid.
    """
    threshold, past, total, found, unit = windows_a_year / budget, reference, 0.0, [], by
    for i, window in enumerate(windows):
        p = e = math.nan
        if window.rows.sum() > 0:
            _check(past, window)
            unit = _choose(past, window, by, 1)[0]
            rng = np.random.default_rng([seed, i])
            p = two_sample.joint_p(past, window, unit, draws, rng)
            e = evalue(p)
            total = min((1 + total) * e, 1e300)
            past = profile.add(past, window)
        found.append((p, e, total))
    p, e, path = zip(*found, strict=True) if found else ((), (), ())
    page = next((i for i, r in enumerate(path) if r >= threshold), None)
    return Detection(p, e, path, threshold, page, unit)


def _check(reference: Profile, window: Profile) -> None:
    if reference.bins != window.bins:
        raise DriftError(
            "reference and window have other bins; count the window in the reference's"
        )
    units = [p.blocks.dtype for p in (reference, window) if p.blocks is not None]
    if len(set(units)) > 1:
        raise DriftError(f"blocks of {units[0]} and {units[1]}; count both by day or both by hour")
    for name, p in (("reference", reference), ("window", window)):
        if p.rows.sum() == 0:
            raise DriftError(f"the {name} has no rows, so nothing can be said; wait, or widen it")


def _choose(reference: Profile, window: Profile, by: str, least: float) -> tuple[str, str]:
    """Say what is taken as independent, and why; `least` is how many arrangements are needed."""
    if by not in ("auto", "blocks", "rows"):
        raise DriftError(f"by is {by!r}; it must be auto, blocks or rows")
    if by == "rows":
        return "rows", "rows are taken as independent, as asked"
    if reference.blocks is None or window.blocks is None:
        if by == "blocks":
            raise DriftError("by='blocks' needs profiles that were counted with block starts")
        return "rows", "rows are taken as independent: they were counted without blocks"
    before, now = len(reference.blocks), len(window.blocks)
    ways = math.comb(before + now, now)
    if by == "auto" and before + now < LEAST_BLOCKS:
        few = f"{before} and {now} blocks are fewer than {LEAST_BLOCKS}"
        return "rows", f"rows are taken as independent, which may be wrong: {few}"
    if by == "auto" and ways < least:
        few = f"{now} of {before + now} blocks can be drawn in {ways} ways, {least:,.0f} are needed"
        return "rows", f"rows are taken as independent, which may be wrong: {few}"
    return "blocks", f"whole blocks were shuffled: {before} of the reference, {now} of the window"


def _describe(
    b: Bins, reference: Profile, window: Profile, tests: Tests, moved: bool, fdr: float
) -> Column:
    before, now = (p.counts[b.name].sum(axis=0) for p in (reference, window))
    size = effect(before, now)
    found = tuple(_findings(b, reference, window, tests, fdr)) if moved else ()
    named = any(f.name in ALWAYS for f in found)
    level = next((k for k, v in LEVELS.items() if size >= v), "note" if named else "none")
    shares = before / before.sum(), now / now.sum()
    number = b.kind == "number"
    return Column(
        name=b.name,
        kind=b.kind,
        p=float(tests.p),
        moved=moved,
        effect=size,
        level=level if moved else "none",
        alarm=moved and level != "none",
        missing_before=float(shares[0][-1]),
        missing=float(shares[1][-1]),
        unseen=0.0 if number else float(shares[1][-2]),
        below=float(shares[1][0]) if number else 0.0,
        above=float(shares[1][-2]) if number else 0.0,
        findings=found,
    )


def _findings(
    b: Bins, reference: Profile, window: Profile, tests: Tests, fdr: float
) -> Iterator[Finding]:
    before, now = (p.counts[b.name].sum(axis=0) for p in (reference, window))
    n, m = before.sum(), now.sum()
    if tests.missing <= fdr:
        old, new = float(before[-1] / n), float(now[-1] / m)
        name = f"missing share {'rose' if new > old else 'fell'}"
        yield Finding(name, f"{name} from {old:.2%} to {new:.2%}", old, new, tests.missing)
    if tests.unseen <= fdr:
        text = (
            f"unseen category: {now[-2]:,} of {m:,} rows hold values that the reference never had"
        )
        old, new = float(before[-2] / n), float(now[-2] / m)
        yield Finding("unseen category", text, old, new, tests.unseen)
    low, high = now[0] / m, now[-2] / m
    old, new = float((before[0] + before[-2]) / n), float(low + high)
    if b.edges and tests.outside <= fdr and new > old:
        text = f"out of range: {low:.2%} of rows are below the reference's smallest value"
        text += f" {b.edges[0]:g}, {high:.2%} above its largest {b.edges[-1]:g}"
        yield Finding("out of range", text, old, new, tests.outside)
    yield from _unit_change(b, reference, window, tests)


def _unit_change(b: Bins, reference: Profile, window: Profile, tests: Tests) -> Iterator[Finding]:
    """Compare the typical (geometric mean) size of the numbers that are not 0."""
    sizes = [p.sizes[b.name].sum(axis=0) for p in (reference, window)]
    if min(count for count, _ in sizes) < TYPICAL_ROWS:
        return
    old, new = (2.0 ** (total / count / 4096 - 1023) for count, total in sizes)
    tens = round(math.log10(new / old))
    if abs(math.log10(new / old)) < math.log10(UNIT_CHANGE):
        return
    near = abs(math.log10(new / old) - tens) < 0.1
    times = 10 ** abs(tens) if near else float(f"{max(new / old, old / new):.2g}")
    larger = "larger" if new > old else "smaller"
    text = f"unit change: values are about {times:,.10g} times {larger}"
    yield Finding("unit change", text, old, new, tests.p)
