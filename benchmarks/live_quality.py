"""How soon the alert on lost skill comes, and how often it comes by chance.

Example: PYTHONPATH=tests/support:tests/monitoring python -P benchmarks/live_quality.py --years 20
Prints a Markdown table for the tables of tests/monitoring/test_skill.py; a minute for ten years.
"""

import argparse
import statistics

import test_skill as skill

DAYS, RUNS = 29, 20


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--years", type=int, default=10, help="calm years a table (%(default)s)")
    years = parser.parse_args().years
    spoilt = ("shuffled", "0.3", "0.2")
    print(f"| table | alarms in {years} calm years | {' | '.join(spoilt)} |\n|---|---|---|---|---|")
    for name in skill.TABLES:
        calm = [
            skill.labels_until_alarm(name, skill.stream(name, 100 + year), 365)
            for year in range(years)
        ]
        cells = [str(sum(each is not None for each in calm))]
        for spoil in spoilt:
            if spoil != "shuffled" and not skill.table(name).classes:
                cells.append("")
                continue
            runs = [
                skill.labels_until_alarm(name, skill.stream(name, run, spoil), DAYS)
                for run in range(RUNS)
            ]
            found = [labels for labels in runs if labels is not None]
            middle = f"{statistics.median(found):,.0f}, at most {max(found):,}" if found else "none"
            cells.append(f"{middle} ({len(found)} of {RUNS})")
        print(f"| {name} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
