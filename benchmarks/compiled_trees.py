"""What LightGBM's trees take as bit vectors, in the library itself, and compiled by lleaves and treelite.

Example: python benchmarks/compiled_trees.py      prints a Markdown table; about three minutes
Peers that are not installed are left out: pip install lleaves "llvmlite<0.45" treelite tl2cgen (the last needs gcc). Real flights, one
thread, from a row's values to probabilities: all peers get the matrix from the same preprocessing. The engines take turns
in each round; a figure is the median of the rounds, of calls that follow each other.
"""

import os

os.environ["OMP_NUM_THREADS"] = "1"  # before NumPy is there

import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from modelkeep.core import workspace
from modelkeep.data import splits
from modelkeep.training import bundle, pipelines
from modelkeep.training.engines import export, trees
from modelkeep.training.engines.encoding import Encoding

ROWS, ROUNDS, SECONDS = (1, 10, 100, 256), 5, 0.3
KINDS = ("order", "sets")  # how the trees split categories


def ours(fitted, of, folder: Path) -> Callable:
    """Bit vectors."""
    plan = export._reread(export.encoding(fitted, of))
    return export.load("quickscorer", plan, trees.plain(fitted["model"], plan), fitted, of).predict


def lightgbm(fitted, of, folder: Path) -> Callable:
    """The library's own in-process predictor."""
    return lambda x: fitted["model"].booster_.predict(x, num_threads=1)


def lleaves(fitted, of, folder: Path) -> Callable:
    """Compiled by LLVM."""
    import lleaves

    fitted["model"].booster_.save_model(folder / "model.txt")
    model = lleaves.Model(model_file=str(folder / "model.txt"))
    model.compile()
    return lambda x: model.predict(x, n_jobs=1)


def treelite(fitted, of, folder: Path) -> Callable:
    """Compiled to C by tl2cgen, then by gcc."""
    import tl2cgen
    import treelite

    model = treelite.frontend.from_lightgbm(fitted["model"].booster_)
    tl2cgen.export_lib(model, toolchain="gcc", libpath=str(folder / "model.so"), params={})
    predictor = tl2cgen.Predictor(str(folder / "model.so"), nthread=1)
    return lambda x: predictor.predict(tl2cgen.DMatrix(x, dtype="float64")).ravel()


PEERS = {"LightGBM": lightgbm, "lleaves": lleaves, "treelite": treelite}


def engines(fitted, of, folder: Path) -> dict[str, Callable]:
    """What takes rows as `export.arrays` gives them, by name; peers that are here."""
    encode = Encoding(export._reread(export.encoding(fitted, of)))
    found = {"bit vectors": ours(fitted, of, folder)}
    for name, make in PEERS.items():
        try:
            predict = make(fitted, of, folder)
        except ImportError:
            continue
        found[name] = lambda *rows, predict=predict: predict(encode(*rows))
    return found


def microseconds(predict: Callable, rows: tuple) -> float:
    """Of one call, over calls of SECONDS."""
    predict(*rows)
    calls, began = 0, time.perf_counter()
    while time.perf_counter() - began < SECONDS:
        predict(*rows)
        calls += 1
    return (time.perf_counter() - began) / calls * 1e6


def main() -> None:
    """Print the table."""
    of = bundle.load(workspace.root() / "models" / "candidate").schema
    table = splits.load(workspace.root() / "data" / "prepared" / "train.parquet")
    learned, printed = table.sample(20_000, random_state=0), False
    for kind in KINDS:
        unfitted = pipelines.pipeline(of, "lightgbm", native_categories=kind == "sets")
        fitted = pipelines.fit(unfitted, learned, of)
        with tempfile.TemporaryDirectory() as folder:
            each = engines(fitted, of, Path(folder))
            check(each, export.arrays(table.sample(500, random_state=2), of))
            if not printed:
                names = " | ".join(f"{name}, us" for name in each)
                print(f"| categories by | rows | {names} | best peer / bit vectors |")
                print("|---" * (len(each) + 3) + "|")
                printed = True
            for size in ROWS:
                rows = export.arrays(table.sample(size, random_state=1), of)
                rows = rows[0], [values.tolist() for values in rows[1]]
                line(kind, size, each, rows)


def check(each: dict[str, Callable], rows: tuple) -> None:
    """All engines predict the same."""
    first, *others = (np.asarray(predict(*rows)) for predict in each.values())
    for other in others:
        assert np.abs(other - first[:, 1]).max() < 1e-6


def line(kind: str, size: int, each: dict[str, Callable], rows: tuple) -> None:
    """Measure one size of batch, and print it."""
    found = {name: [] for name in each}
    for _ in range(ROUNDS):
        for name, predict in each.items():
            found[name].append(microseconds(predict, rows))
    took = {name: statistics.median(values) for name, values in found.items()}
    own = took["bit vectors"]
    best = min((t for name, t in took.items() if name != "bit vectors"), default=own)
    cells = " | ".join(f"{value:,.0f}" for value in took.values())
    print(f"| {kind} | {size} | {cells} | {best / own:.1f} |", flush=True)


if __name__ == "__main__":
    main()
