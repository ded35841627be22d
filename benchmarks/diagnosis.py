"""How often a diagnosis is right: planted segments, shifts and updates, and periods without a change.

Run: PYTHONPATH=tests/support python benchmarks/diagnosis.py --runs 200      prints Markdown tables
With the package `sliceline` installed, its first slice of the same rows is compared.
"""

import argparse
from collections import Counter
from collections.abc import Iterator
from importlib.util import find_spec

import numpy as np
from scipy import stats

import shifted
from modelkeep.evaluation import recalibration, segments
from modelkeep.evaluation.recalibration import Outcomes
from modelkeep.evaluation.segments import Period

ROWS = 20_000
PARTS = ("segments", "shifts", "updates", "remedies")


def excess(seed: int, what: str, rows: int, exchange: bool = False) -> tuple:
    """Return columns, both periods as `segments.search` takes them, the bins and rows of now."""
    before, now = shifted.periods(seed, what, rows=rows)
    columns, places = shifted.binned(before, now)
    losses = [shifted.losses(f) for f in (before, now)]
    scores = [f["p(yes)"].to_numpy() for f in (before, now)]
    usual = segments.expected(losses[0], scores[0], scores)
    periods = [
        Period(p, loss - u, shifted.days(f))
        for p, loss, u, f in zip(places, losses, usual, (before, now), strict=True)
    ]
    if exchange:
        periods = exchanged(*periods, np.random.default_rng([seed, 1]))
    return columns, periods, places[1], now


def exchanged(before: Period, now: Period, rng: np.random.Generator) -> list[Period]:
    """Return two periods of the same days, drawn anew."""
    places = {k: np.concatenate([before.places[k], now.places[k]]) for k in now.places}
    both = Period(
        places,
        *(np.concatenate([getattr(p, f) for p in (before, now)]) for f in ("excess", "blocks")),
    )
    days = np.unique(both.blocks)
    late = np.isin(both.blocks, rng.permutation(days)[: len(days) // 2])
    return [both.take(~late), both.take(late)]


def overlap(inside: np.ndarray, planted: np.ndarray) -> float:
    """Return the rows of both over the rows of either."""
    return float((inside & planted).sum() / (inside | planted).sum())


def interval(hits: int, runs: int) -> str:
    low, high = stats.binomtest(hits, runs).proportion_ci(0.95)
    return f"{hits} of {runs} ({low:.0%} to {high:.0%})"


def segment_rates(runs: int) -> Iterator[str]:
    """A segment of 3 % of the rows whose labels no longer follow the model: loss up by half."""
    yield "| rows a period | planted named first (overlap at least .5; .8) | others named too | none named, shuffled days |"
    yield "|---|---|---|---|"
    for rows in (ROWS, 30_000, 40_000):
        overlaps, others, none = [], 0, 0
        for seed in range(runs):
            columns, periods, places, now = excess(seed, "segment", rows)
            found = segments.search(columns, *periods, seed=seed)
            overlaps.append(overlap(found[0].inside(places), shifted.planted(now)) if found else 0)
            others += len(found) > 1
            columns, periods, *_ = excess(seed, "segment", rows, exchange=True)
            none += not segments.search(columns, *periods, seed=seed)
        half, most = ((np.array(overlaps) >= least).sum() for least in (0.5, 0.8))
        yield f"| {rows:,} | {interval(half, runs)}; {most / runs:.0%} | {others / runs:.0%} | {interval(none, runs)} |"
    if find_spec("sliceline"):
        yield from sliceline_rates(runs)


def sliceline_rates(runs: int) -> Iterator[str]:
    """What sliceline's first slice is, of the losses of now; it has no test."""
    from sliceline.slicefinder import Slicefinder

    for what in ("segment", ""):
        touched = named = 0
        for seed in range(runs):
            columns, _, places, now = excess(seed, what, ROWS)
            x = np.column_stack([places[c.bins.name] for c in columns])
            finder = Slicefinder(alpha=0.95, k=1, max_l=2, min_sup=ROWS // 200, verbose=False)
            finder.fit(x, shifted.losses(now))
            if not len(finder.top_slices_):
                continue
            named += 1
            inside = np.ones(len(x), bool)
            for j, value in enumerate(finder.top_slices_[0]):
                inside &= True if value is None else x[:, j] == value
            touched += shifted.planted(now)[inside].mean() >= 0.5
        planted = f"in the planted one: {interval(touched, runs)}" if what else "nothing planted"
        yield f"sliceline, {planted}; names a slice: {interval(named, runs)}"


def shift_shares(runs: int) -> Iterator[str]:
    from modelkeep.monitoring.diagnosis import diagnose

    yield "| planted | task | own term's share of the drop: median, smallest |"
    yield "|---|---|---|"
    for place, what in enumerate(("harder", "concept", "new")):
        for task, label in shifted.LABELS.items():
            if (what, task) == ("harder", "regression"):
                continue  # its noise is alike everywhere
            shares = []
            for seed in range(runs):
                pair = shifted.periods(seed, what, task)
                split = diagnose(*pair, label=label, time="when", permutations=199).split
                shares.append(split.terms[place].value / split.drop.value)
            yield f"| {what} | {task} | {np.median(shares):.0%}, {min(shares):.0%} |"


def update_rates(runs: int) -> Iterator[str]:
    yield "| planted | chosen |"
    yield "|---|---|"
    for what in ("level", "concept", "", "harder"):
        kinds: Counter[str] = Counter()
        for seed in range(runs):
            pair = shifted.periods(seed, what, rows=4000)
            columns, places = shifted.binned(*pair)
            names, values = recalibration.directions(columns, places)
            sides = [
                Outcomes(shifted.labels(f), shifted.predictions(f), v, shifted.days(f))
                for f, v in zip(pair, values, strict=True)
            ]
            kinds[recalibration.choose("binary", sides[1], sides[0], names=names).kind] += 1
        chosen = "; ".join(f"{k} {interval(n, runs)}" for k, n in kinds.most_common())
        yield f"| {what or 'nothing'} | {chosen} |"


def remedy_rates(runs: int) -> Iterator[str]:
    from modelkeep.monitoring.diagnosis import diagnose

    yield "| planted | remedy |"
    yield "|---|---|"
    for what in ("", "harder", "level", "concept", "new", "missing", "unit", "stuck"):
        kinds: Counter[str] = Counter()
        for seed in range(runs):
            pair = shifted.periods(seed, what)
            remedy = diagnose(*pair, label="late", time="when", permutations=199).remedy
            target = f" ({remedy.target})" if remedy.kind == "mend the source" else ""
            kinds[remedy.kind + target] += 1
        yield f"| {what or 'nothing'} | {'; '.join(f'{k} {interval(n, runs)}' for k, n in kinds.most_common())} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("--only", choices=PARTS)
    chosen = parser.parse_args()
    parts = dict(zip(PARTS, (segment_rates, shift_shares, update_rates, remedy_rates), strict=True))
    for name, part in parts.items():
        if chosen.only in (None, name):
            print(f"\n### {name}\n", flush=True)
            for line in part(chosen.runs):
                print(line, flush=True)


if __name__ == "__main__":
    main()
