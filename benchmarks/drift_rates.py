"""How often drift is reported where there is none, and where there is: long simulations on flights.

Example: python benchmarks/drift_rates.py --runs 200      prints Markdown tables
"""

import argparse
import functools
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa

from modelkeep.core import workspace
from modelkeep.data.io import read
from modelkeep.evaluation import drift, guards, profile

KINDS = {
    **dict.fromkeys(["carrier", "origin", "dest", "weekday"], "category"),
    **dict.fromkeys(["hour", "distance", "temp", "humid", "wind_speed"], "number"),
    **dict.fromkeys(["precip", "pressure", "visib"], "number"),
}
SIZES = (50, 200, 500, 2_000, 10_000, 100_000)
POWER_SIZES = (500, 2_000, 10_000)
REFERENCE = 100_000


def table() -> tuple[pa.Table, np.ndarray]:
    """Return the twelve columns of all flights, and the day of each."""
    rows = read("examples/flights", workspace.root(Path(__file__).parent))
    columns = pa.Table.from_pandas(rows[list(KINDS)], preserve_index=False)
    return columns.combine_chunks(), profile.starts(rows["scheduled"].to_numpy())


def changed(rows: pa.Table, name: str, values: np.ndarray) -> pa.Table:
    """Return the table with other values in one column."""
    return rows.set_column(rows.column_names.index(name), name, pa.array(values, from_pandas=True))


def moved(name: str, by: float) -> Callable[[pa.Table, np.random.Generator], pa.Table]:
    """Return a change that adds `by` to a numeric column."""
    return lambda rows, rng: changed(rows, name, rows[name].to_numpy() + by)


def replaced(
    name: str, value: object, share: float
) -> Callable[[pa.Table, np.random.Generator], pa.Table]:
    """Return a change that gives a random share of the rows one value."""

    def change(rows: pa.Table, rng: np.random.Generator) -> pa.Table:
        values = rows[name].to_pandas().to_numpy().copy()
        values[rng.random(len(values)) < share] = value
        return changed(rows, name, values)

    return change


def changes(rows: pa.Table) -> dict[str, Callable[[pa.Table, np.random.Generator], pa.Table]]:
    """Return the planted changes of one column; shares are points (5 % of 84 % others: .05 / .84)."""
    spread = float(np.nanstd(rows["temp"].to_numpy()))
    others = 1 - np.mean(rows["carrier"].to_pandas() == "UA")
    present = 1 - rows["temp"].null_count / len(rows)
    return {
        "shift .1 sd": moved("temp", 0.1 * spread),
        "shift .25 sd": moved("temp", 0.25 * spread),
        "mix +5 points": replaced("carrier", "UA", 0.05 / others),
        "mix +10 points": replaced("carrier", "UA", 0.10 / others),
        "missing +2 points": replaced("temp", np.nan, 0.02 / present),
        "missing +5 points": replaced("temp", np.nan, 0.05 / present),
        "new category, 1 point": replaced("carrier", "ZZ", 0.01),
    }


def row_rates(rows: pa.Table, runs: int, seed: int) -> Iterator[str]:
    """Yield rows of a table: any-column rates on random rows of one pool, nothing changed."""
    any_moved, alarms = np.zeros(len(SIZES)), np.zeros(len(SIZES))
    for run in range(runs):
        order = np.random.default_rng([seed, run]).permutation(len(rows))
        reference = profile.learn(rows.take(order[:REFERENCE]), KINDS)
        for i, size in enumerate(SIZES):
            window = rows.take(order[REFERENCE : REFERENCE + size])
            found = drift.compare(reference, profile.count(reference.bins, window))
            any_moved[i] += any(c.drifted for c in found.columns)
            alarms[i] += found.alarm
    yield "| rows in the window | any column moved (p) | alarm (p and effect) |\n|---|---|---|"
    for size, p, alarm in zip(SIZES, any_moved / runs, alarms / runs, strict=True):
        yield f"| {size:,} | {p:.3f} | {alarm:.3f} |"


def power(rows: pa.Table, runs: int, seed: int) -> Iterator[str]:
    """Yield rows of a table: how often a planted change of one column raises any alarm."""
    planted = changes(rows)
    p = {name: np.zeros(len(POWER_SIZES)) for name in planted}
    alarm = {name: np.zeros(len(POWER_SIZES)) for name in planted}
    for run in range(runs):
        rng = np.random.default_rng([seed, run])
        order = rng.permutation(len(rows))
        reference = profile.learn(rows.take(order[:REFERENCE]), KINDS)
        for i, size in enumerate(POWER_SIZES):
            window = rows.take(order[REFERENCE : REFERENCE + size])
            for name, change in planted.items():
                counts = profile.count(reference.bins, change(window, rng))
                found = drift.compare(reference, counts)
                p[name][i] += any(c.drifted for c in found.columns)
                alarm[name][i] += found.alarm
    yield "| one column changed | p, n = 500 / 2,000 / 10,000 | p and effect |\n|---|---|---|"
    for name in planted:
        cells = [" / ".join(f"{x / runs:.2f}" for x in kept[name]) for kept in (p, alarm)]
        yield f"| {name} | {cells[0]} | {cells[1]} |"


def days_shuffled(
    rows: pa.Table, days: np.ndarray, rng: np.random.Generator
) -> tuple[pa.Table, np.ndarray]:
    """Return the rows with whole days exchanged at random, as if days followed no season."""
    names, index = np.unique(days, return_inverse=True)
    new = names[rng.permutation(len(names))][index]
    order = np.argsort(new, kind="stable")
    return rows.take(order), new[order]


def block_rates(rows: pa.Table, days: np.ndarray, runs: int, seed: int) -> Iterator[str]:
    """Yield rows of a table: shuffled whole days, reference of 90 days, windows of 7 days."""
    counts = {"rows": np.zeros(2), "blocks": np.zeros(2)}
    total = 0
    for run in range(runs):
        mixed, when = days_shuffled(rows, days, np.random.default_rng([seed, run]))
        first = when < when[0] + 90
        reference = profile.learn(mixed.filter(first), KINDS, when[first])
        rest = profile.count(reference.bins, mixed.filter(~first), when[~first])
        for start in rest.blocks[0:28:7]:
            total += 1
            for by, kept in counts.items():
                found = drift.compare(
                    reference, profile.window(rest, start, start + 7), by=by, seed=run
                )
                np.add(kept, [any(c.drifted for c in found.columns), found.alarm], out=kept)
    yield "| 7 shuffled days against 90 | any column moved (p) | alarm (p and effect) |\n|---|---|---|"
    for by, kept in counts.items():
        yield f"| {by} | {kept[0] / total:.3f} | {kept[1] / total:.3f} |"


def looks(rows: pa.Table, runs: int, seed: int) -> Iterator[str]:
    """Yield rows of a table: a look each 100 rows, 100 looks; after look 50 temp moves .5 sd."""
    shift = moved("temp", 0.5 * float(np.nanstd(rows["temp"].to_numpy())))
    tested, pages, waits = 0, 0, []
    for run in range(runs):
        rng = np.random.default_rng([seed, run])
        order = rng.permutation(len(rows))
        reference = profile.learn(rows.take(order[:20_000]), KINDS)
        parts = [rows.take(order[20_000 + 100 * i :][:100]) for i in range(100)]
        windows = [profile.count(reference.bins, part) for part in parts]
        tested += any(any(c.drifted for c in drift.compare(reference, w).columns) for w in windows)
        pages += drift.detect(reference, windows, windows_per_year=100).first_alarm is not None
        late = [profile.count(reference.bins, shift(part, rng)) for part in parts[50:70]]
        past = functools.reduce(profile.add, windows[:40], reference)
        page = drift.detect(past, windows[40:50] + late, windows_per_year=100).first_alarm
        waits.append(np.inf if page is None else page - 9)
    yield "| a look each 100 rows, 100 looks | |\n|---|---|"
    yield f"| a 5 % test at each look reports drift in | {tested / runs:.3f} of runs |"
    yield f"| the e-detector pages in | {pages / runs:.3f} of runs |"
    yield f"| looks until it pages, temp + .5 sd | {quartiles(waits)} |"


def weeks(rows: pa.Table, days: np.ndarray, runs: int, seed: int) -> Iterator[str]:
    """Yield rows of a table: the e-detector on 39 weeks of shuffled days after 90 of reference."""
    planted = {
        "missing +5 points": replaced("temp", np.nan, 0.05),
        "carrier mix +5 points": replaced("carrier", "UA", 0.05),
        "distance times 1.609": lambda t, rng: changed(
            t, "distance", t["distance"].to_numpy() * 1.609
        ),
    }
    pages, waits = 0, {name: [] for name in planted}
    for run in range(runs):
        rng = np.random.default_rng([seed, run])
        mixed, when = days_shuffled(rows, days, rng)
        first, late = when < when[0] + 90, when >= when[0] + 90 + 20 * 7
        reference = profile.learn(mixed.filter(first), KINDS, when[first])
        early = cut(profile.count(reference.bins, mixed.filter(~first), when[~first]), 39)
        pages += (
            drift.detect(reference, early, windows_per_year=52, seed=run).first_alarm is not None
        )
        past = functools.reduce(profile.add, early[:15], reference)
        for name, change in planted.items():
            after = profile.count(reference.bins, change(mixed.filter(late), rng), when[late])
            windows = early[15:20] + cut(after, 8)
            page = drift.detect(past, windows, windows_per_year=52, seed=run).first_alarm
            waits[name].append(np.inf if page is None else page - 4)
    yield "| weekly windows of shuffled days | |\n|---|---|"
    yield f"| nothing changed, 39 weeks: pages in | {pages / runs:.3f} of years |"
    for name, found in waits.items():
        yield f"| weeks until it pages, {name} from week 21 on | {quartiles(found)} |"


WEEK = np.array([1, 1, 1, 1, 1.2, 0.4, 0.3])  # rows of a weekday
VOLUMES = (  # rows a day of the reference and of the window, correlation of a day's rows, columns
    (50, 50, 0.0, 3),
    (50, 35, 0.0, 3),
    (90, 30, 0.0, 12),
    (400, 12, 0.0, 3),
    (12, 360, 0.0, 3),
    (200, 200, 0.02, 12),
    (700, 70, 0.02, 12),
    (70, 700, 0.02, 12),
    (5_000, 150, 0.005, 12),
    (150, 4_500, 0.005, 3),
    (5, 5, 0.0, 3),
    (150, 5, 0.0, 3),
    (5, 150, 0.0, 3),
)


def drawn_days(
    rng: np.random.Generator, first: int, days: int, rows: float, alike: float, columns: int
) -> tuple[pa.Table, np.ndarray]:
    """Return rows of days with a weekly pattern; a day's mean and mix vary where rows are alike."""
    when = np.arange(first, first + days)
    sizes = rng.poisson(rows * WEEK[when % 7] / WEEK.mean()) + 1
    day = np.repeat(np.arange(days), sizes)
    made = {}
    for i in range(columns):
        mood = rng.normal(0, np.sqrt(alike), days)[day]
        value = mood + rng.normal(0, np.sqrt(1 - alike), len(day))
        if i % 3 == 2:
            cuts = np.quantile(rng.normal(size=10_000), [0.5, 0.8, 0.95, 0.99])
            made[f"c{i}"] = np.array(list("abcde"))[np.searchsorted(cuts, value)]
        else:
            holes = rng.random(len(day)) < 0.01 * i
            made[f"x{i}"] = pa.array(np.exp(value) if i % 2 else value, mask=holes)
    return pa.table(made), (np.datetime64("2013-01-01") + when)[day]


def volume_rates(runs: int, seed: int) -> Iterator[str]:
    """Yield rows of a table: other volumes and nothing else, 60 days against 7; and a shift."""
    yield "| rows a day | correlation | columns | any column drifted | column x0 + .3 sd is named |"
    yield "|---|---|---|---|---|"
    for before, now, alike, columns in VOLUMES:
        drifted, named = 0, 0
        for run in range(runs):
            rng = np.random.default_rng([seed, run])
            rows, days = drawn_days(rng, 0, 60, before, alike, columns)
            kinds = {c: "number" if c[0] == "x" else "category" for c in rows.column_names}
            reference = profile.learn(rows, kinds, days)
            rows, days = drawn_days(rng, 102, 7, now, alike, columns)
            shifted = changed(rows, "x0", rows["x0"].to_numpy() + 0.3)
            same, other = (
                drift.compare(reference, profile.count(reference.bins, table, days), seed=run)
                for table in (rows, shifted)
            )
            drifted += any(c.drifted for c in same.columns)
            named += other.columns[0].drifted
        share = f"| {before:,} to {now:,} | {alike} | {columns} | {drifted / runs:.3f} "
        yield f"{share}| {named / runs:.2f} |"


def guard_rates(runs: int, seed: int) -> Iterator[str]:
    """Yield rows of a table: how often guards hold by chance, 100 windows a run, wide spread."""
    rng, many = np.random.default_rng(seed), 100 * runs
    yield "| past windows | values | label guard holds | loss guard holds |\n|---|---|---|---|"
    for weeks in (4, 8, 12, 26, 52):
        draws = {
            "normal": rng.normal(size=(many, weeks + 1)),
            "t, 5 degrees of freedom": rng.standard_t(5, (many, weeks + 1)),
        }
        for name, x in draws.items():
            label = np.mean([guards.label_guard(3 * w[:1], 3 * w[1:, None]).held for w in x])
            loss = np.mean([guards.loss_guard(10 + 3 * w[0], 10 + 3 * w[1:]).held for w in x])
            yield f"| {weeks} | {name} | {label:.5f} | {loss:.5f} |"


def cut(counts: profile.Profile, windows: int) -> list[profile.Profile]:
    """Return the first weeks of a profile by day."""
    starts = counts.blocks[0] + np.arange(windows) * 7
    return [profile.window(counts, start, start + 7) for start in starts]


def quartiles(waits: list[float]) -> str:
    """Return median, 90th percentile, and how many never paged."""
    ordered = np.sort(waits)
    middle, most = ordered[len(waits) // 2], ordered[int(len(waits) * 0.9)]
    before = np.mean(np.array(waits) <= 0)
    return f"median {middle:g}, 90 % within {most:g} (before the change: {before:.3f})"


def main() -> None:
    """Print the tables."""
    parts = ("rows", "power", "blocks", "looks", "weeks", "volume", "guards")
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=200, help="simulated runs of each table")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", choices=parts, nargs="*", default=parts)
    given = parser.parse_args()
    rows, days = table()
    runs, seed = given.runs, given.seed
    tables = {
        "rows": lambda: row_rates(rows, runs, seed),
        "power": lambda: power(rows, runs, seed + 1),
        "blocks": lambda: block_rates(rows, days, runs, seed + 2),
        "looks": lambda: looks(rows, runs, seed + 3),
        "weeks": lambda: weeks(rows, days, runs, seed + 4),
        "volume": lambda: volume_rates(runs, seed + 6),
        "guards": lambda: guard_rates(runs, seed + 5),
    }
    for name in given.only:
        began = time.perf_counter()
        print(*tables[name](), sep="\n")
        print(f"\n({runs} runs, {time.perf_counter() - began:.0f} s)\n", flush=True)


if __name__ == "__main__":
    main()
