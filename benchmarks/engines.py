"""What an engine takes for rows of boosted trees: bit vectors, ONNX Runtime, scikit-learn's estimator, the whole pipeline.

Example: python benchmarks/engines.py      prints a Markdown table; about two minutes
Real flights, one thread. The engines take turns in each round; a figure is the median of the rounds, of calls that follow each other.
"""

import os

os.environ["OMP_NUM_THREADS"] = "1"  # before NumPy is there

import statistics
import time

from modelkeep.core import workspace
from modelkeep.data import splits
from modelkeep.training import bundle, manifests, pipelines
from modelkeep.training.engines import export, trees
from modelkeep.training.engines.encoding import cuts

ROWS, ROUNDS, SECONDS = (1, 32, 256), 5, 0.2
SIZES = ((150, 16), (300, 31), (500, 64))  # trees, and leaves of a tree at most


def engines(fitted, of) -> dict:
    """Each engine by name."""
    plan, width = export.encoding(fitted, of), fitted["model"].n_features_in_
    given = {"onnx": export.to_onnx(fitted, width, cuts(plan))}
    given["quickscorer"] = trees.plain(fitted["model"], plan)
    return {
        name: export.load(name, plan, given.get(name, b""), fitted, of)
        for name in manifests.ENGINES
    }


def microseconds(engine, rows) -> float:
    """Of one call, over calls of SECONDS."""
    engine.predict(*rows)
    calls, began = 0, time.perf_counter()
    while time.perf_counter() - began < SECONDS:
        engine.predict(*rows)
        calls += 1
    return (time.perf_counter() - began) / calls * 1e6


def main() -> None:
    """Print the table."""
    served = bundle.load(workspace.root() / "models" / "candidate")
    of = served.schema
    table = splits.load(workspace.root() / "data" / "prepared" / "train.parquet")
    learned = table.sample(20_000, random_state=0)
    print(
        f"| trees, leaves | rows | {' | '.join(f'{name}, us' for name in manifests.ENGINES)} | onnx / quickscorer |"
    )
    print("|---" * (len(manifests.ENGINES) + 3) + "|")
    for rounds, leaves in SIZES:
        unfitted = pipelines.pipeline(of, "boosting")
        unfitted.set_params(
            model__max_iter=rounds, model__max_leaf_nodes=leaves, model__max_depth=None
        )
        fitted = pipelines.fit(unfitted, learned, of)
        for size in ROWS:
            rows = export.arrays(table.sample(size, random_state=1), of)
            rows = rows[0], [values.tolist() for values in rows[1]]
            found = {name: [] for name in manifests.ENGINES}
            each = engines(fitted, of)
            for _ in range(ROUNDS):
                for name, engine in each.items():
                    found[name].append(microseconds(engine, rows))
            took = {name: statistics.median(values) for name, values in found.items()}
            cells = " | ".join(f"{value:,.0f}" for value in took.values())
            print(
                f"| {rounds}, {leaves} | {size} | {cells} | {took['onnx'] / took['quickscorer']:.1f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
