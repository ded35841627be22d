"""Which columns have drifted between two profiles, how far, and when to raise an alarm."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from modelkeep.core.errors import ModelkeepError
from modelkeep.evaluation import permutation, profile, two_sample
from modelkeep.evaluation.binning import Bins
from modelkeep.evaluation.profile import Profile
from modelkeep.evaluation.two_sample import Tests, evalue

LEVELS = {"severe": 0.25, "warn": 0.1, "note": 0.01}
ALWAYS = ("missing share rose", "missing share fell", "unseen category")  # whatever the effect
UNIT_CHANGE = 5  # times larger or smaller from which we name it
TYPICAL_ROWS = 20  # nonzero numbers needed on either side for that
LEAST_BLOCKS = 20  # in reference and window together, to permute whole blocks


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
class ColumnDrift:
    """How far one column has drifted; shares are of all rows, `below` and `above` of the old range.

    `least_rows`: how many rows a window needs to show an effect of .01 here, with probability .8.
    """

    name: str
    kind: str
    p: float
    drifted: bool
    effect: float
    level: str
    alarm: bool
    missing_before: float
    missing: float
    unseen: float
    below: float
    above: float
    findings: tuple[Finding, ...]
    least_rows: int | None


@dataclass(frozen=True)
class Drift:
    """What `compare` measured; `by` is what was taken as independent ("blocks", "rows"), and `why`.

    `permutations` is 0 where rows were tested.
    """

    columns: tuple[ColumnDrift, ...]
    by: str
    why: str
    fdr: float
    permutations: int
    rows_before: int
    rows: int

    @property
    def alarm(self) -> bool:
        """Return whether any column raises an alarm."""
        return any(c.alarm for c in self.columns)

    @property
    def least_rows(self) -> int | None:
        """Return the rows a window needs to show an effect of .01 in half of the columns."""
        needed = sorted(math.inf if c.least_rows is None else c.least_rows for c in self.columns)
        middle = needed[(len(needed) - 1) // 2] if needed else math.inf
        return None if math.isinf(middle) else int(middle)


@dataclass(frozen=True)
class Detection:
    """Drift over windows: p-values, e-values, their Shiryaev-Roberts sum (`path`), all by window.

    `first_alarm` is the first window whose sum reaches the `threshold`; None if there is none.
    """

    p: tuple[float, ...]
    e: tuple[float, ...]
    path: tuple[float, ...]
    threshold: float
    first_alarm: int | None
    by: str


def effect(reference: np.ndarray, window: np.ndarray) -> float:
    """Return sum 2(q-p)^2/(p+q) of two rows of counts less its mean without drift (can be < 0)."""
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
    permutations: int = 999,
    seed: int = 0,
) -> Drift:
    """Test each column, measure how far it drifted, and name what can be named.

    `fdr` is the share of false names among drifted columns (Benjamini and Hochberg); without drift
    any column is named with this probability. `seed` is of permutations and thinning.
    """
    _check(reference, window)
    by, why = _choose(reference, window, by, len(reference.bins) / fdr)
    if by == "blocks":
        grid = len(reference.bins) / fdr  # the smallest p-value that Benjamini and Hochberg ask for
        permutations = max(permutations, math.ceil(4 * grid), min(2_000, math.ceil(8 * grid)))
        rng = np.random.default_rng(seed)
        tests, plan = permutation.staged_tests(reference, window, permutations, rng)
        why = f"{why}; {plan}"
    else:
        permutations = 0
        tests = [two_sample.row_tests(b, reference, window) for b in reference.bins]
    drifted = two_sample.discoveries([t.p for t in tests], fdr)
    columns = tuple(
        _describe(b, reference, window, t, bool(d), fdr, by)
        for b, t, d in zip(reference.bins, tests, drifted, strict=True)
    )
    rows = int(reference.rows.sum()), int(window.rows.sum())
    return Drift(columns, by, why, fdr, permutations, *rows)


def detect(
    reference: Profile,
    windows: Sequence[Profile],
    *,
    windows_per_year: float,
    false_alarms_per_year: float = 0.05,
    by: str = "auto",
    permutations: int = 1999,
    seed: int = 0,
    references: Sequence[Profile] | None = None,
) -> Detection:
    """Watch windows as they come, with so many false alarms a year at most without drift.

    Each window is compared with the reference and all windows before it: then the p-values of
    exchangeable blocks are independent (Vovk 2021, conformal test martingales), and the sum stays
    valid. The e-value of a window is the mean over its thinnings. `references` has one for each
    window (the same season of earlier years) instead; their p-values are only nearly independent.
    """
    threshold = windows_per_year / false_alarms_per_year
    past, total, found, unit = reference, 0.0, [], by
    for i, window in enumerate(windows):
        p = e = math.nan
        if window.rows.sum() > 0:
            before = references[i] if references else past
            _check(before, window)
            unit = _choose(before, window, by, 1)[0]
            rng = np.random.default_rng([seed, i])
            ps = _joint(before, window, unit, permutations, rng)
            p = two_sample.cauchy(ps) if len(ps) > 1 else ps[0]
            e = float(np.mean([evalue(each) for each in ps]))
            total = min((1 + total) * e, 1e300)
            past = profile.add(past, window)
        found.append((p, e, total))
    p, e, path = zip(*found, strict=True) if found else ((), (), ())
    first = next((i for i, r in enumerate(path) if r >= threshold), None)
    return Detection(p, e, path, threshold, first, unit)


def _joint(
    past: Profile, window: Profile, by: str, permutations: int, rng: np.random.Generator
) -> list[float]:
    """Return p-values of all columns together: one by rows, one a thinning by blocks."""
    if by == "rows":
        return [two_sample.cauchy([two_sample.row_tests(b, past, window).p for b in past.bins])]
    plan = permutation.design(past, window, permutations, rng)
    return permutation.joint_ps(past, window, plan, rng)


def least_rows(reference: Profile, window: Profile, name: str, alpha: float, by: str) -> int | None:
    """Return how many rows a window needs to show an effect of .01 with probability .8.

    For a test of one direction at two-sided `alpha`, as the noncentral chi-square has it; rows of
    one block alike as they are in the reference. None: the reference itself is too small.
    """
    quantile = NormalDist().inv_cdf
    needed = (quantile(1 - alpha / 2) + quantile(0.8)) ** 2 / LEVELS["note"]
    alike = _alike(reference.counts[name]) if by == "blocks" else 0.0
    before, now = (1 + alike * (max(p.rows.mean(), 1) - 1) for p in (reference, window))
    independent = reference.rows.sum() / before
    if independent <= needed:
        return None
    return math.ceil(now / (1 / needed - 1 / independent))


def _alike(counts: np.ndarray) -> float:
    """Return the correlation of rows within a block, by the dispersion of its shares."""
    counts = counts[counts.sum(axis=1) > 0][:, counts.sum(axis=0) > 0]
    blocks, bins = counts.shape
    rows = counts.sum(axis=1, keepdims=True)
    if blocks < 2 or bins < 2 or rows.mean() <= 1:
        return 0.0
    expected = rows * counts.sum(axis=0) / counts.sum()
    dispersion = (np.square(counts - expected) / expected).sum() / ((blocks - 1) * (bins - 1))
    return float(np.clip((dispersion - 1) / (rows.mean() - 1), 0, 1))


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
            raise DriftError(f"the {name} has no rows, so there is nothing to compare; widen it")


def _choose(reference: Profile, window: Profile, by: str, least: float) -> tuple[str, str]:
    """Say what is taken as independent, and why; `least` is how many arrangements are needed."""
    if by not in ("auto", "blocks", "rows"):
        raise DriftError(f"by is {by!r}; it must be auto, blocks or rows")
    if by == "rows":
        return "rows", "rows are taken as independent, as requested"
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
    return "blocks", f"whole blocks were permuted: {before} of the reference, {now} of the window"


def _describe(
    b: Bins,
    reference: Profile,
    window: Profile,
    tests: Tests,
    drifted: bool,
    fdr: float,
    by: str,
) -> ColumnDrift:
    before, now = (p.counts[b.name].sum(axis=0) for p in (reference, window))
    size = effect(before, now)
    found = tuple(_findings(b, reference, window, tests, fdr)) if drifted else ()
    named = any(f.name in ALWAYS for f in found)
    level = next((k for k, v in LEVELS.items() if size >= v), "note" if named else "none")
    shares = before / before.sum(), now / now.sum()
    number = b.kind == "number"
    return ColumnDrift(
        name=b.name,
        kind=b.kind,
        p=float(tests.p),
        drifted=drifted,
        effect=size,
        level=level if drifted else "none",
        alarm=drifted and level != "none",
        missing_before=float(shares[0][-1]),
        missing=float(shares[1][-1]),
        unseen=0.0 if number else float(shares[1][-2]),
        below=float(shares[1][0]) if number else 0.0,
        above=float(shares[1][-2]) if number else 0.0,
        findings=found,
        least_rows=least_rows(reference, window, b.name, fdr / len(reference.bins), by),
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
