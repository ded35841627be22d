"""Two periods of predictions between which something known has changed, and their bins."""

import numpy as np
import pandas as pd
import pyarrow as pa

from modelkeep.evaluation import binning
from modelkeep.evaluation.segments import Column

KINDS = {
    "size": "number",
    "age": "number",
    "hour": "number",
    "shop": "category",
    "line": "category",
}
CLASSES = ("blue", "green", "red")


def inputs(rng: np.random.Generator, rows: int, days: int) -> tuple[pd.DataFrame, np.ndarray]:
    """Features, and the day of each row; sizes of one day are alike."""
    day = np.sort(rng.integers(0, days, rows))
    mood = rng.normal(0, 0.3, days)[day]
    frame = pd.DataFrame(
        {
            "size": rng.normal(0, 1, rows) + mood,
            "age": rng.gamma(2, 20, rows).round(),
            "hour": rng.integers(6, 22, rows),
            "shop": rng.choice(["north", "south", "east", "west"], rows, p=[0.4, 0.3, 0.18, 0.12]),
            "line": rng.choice(list("abc"), rows),
        }
    )
    return frame, day


def planted(frame: pd.DataFrame) -> np.ndarray:
    """The segment that is planted: 3 % of the rows."""
    return ((frame["shop"] == "west") & frame["hour"].between(18, 21)).to_numpy()


def signal(frame: pd.DataFrame) -> np.ndarray:
    """What the model knows; a missing size counts as 0."""
    shop = 0.5 * (frame["shop"] == "north") + 0.2 * (frame["line"] == "a")
    return (1.5 * frame["size"].fillna(0) - 1.5 + shop).to_numpy()


def period(
    seed: int,
    what: str = "",
    task: str = "binary",
    rows: int = 6000,
    days: int = 30,
    month: int = 1,
) -> pd.DataFrame:
    """Rows of one period with labels and predictions, changed by `what` (see the branches)."""
    rng = np.random.default_rng([seed, month])
    frame, day = inputs(rng, 3 * rows if what == "harder" else rows, days)
    if what == "harder":  # rows whose outcome is uncertain are more frequent
        weight = np.exp(-(signal(frame) ** 2))
        kept = np.flatnonzero(rng.random(len(frame)) < weight)[:rows]
        frame, day = frame.iloc[np.sort(kept)].reset_index(drop=True), day[np.sort(kept)]
    if what == "new":
        frame.loc[rng.random(len(frame)) < 0.15, "age"] += 1000
    true = signal(frame)
    if what == "level":
        true = true + 1.15  # doubles the rate
    if what == "concept":
        age, north = frame["age"].to_numpy(), (frame["shop"] == "north").to_numpy()
        true = 0.4 * frame["size"].to_numpy() + 0.03 * (age - 40) - 0.7 * north - 1
    if what == "new":
        true = np.where(frame["age"] >= 1000, -true, true)
    if what == "segment":
        true = np.where(planted(frame), 0.5 * true, true)  # loss up by half
    true = true + rng.normal(0, 0.1, days)[day]  # the mood of a day
    if what == "missing":
        frame.loc[rng.random(len(frame)) < 0.4, "size"] = np.nan
    if what == "unit":
        frame["size"] *= 1000
    if what == "stuck":
        frame["size"] = 2.0
    told = signal(frame) if what != "unit" else np.clip(signal(frame), -8, 8)
    frame = frame.assign(**_outcome(rng, task, true, told))
    start = pd.Timestamp(f"2024-{month:02d}-01")
    return frame.assign(when=start + pd.to_timedelta(day * 86_400 + 60, unit="s"))


def periods(seed: int, what: str = "", task: str = "binary", **sizes) -> list[pd.DataFrame]:
    """Before, where nothing has changed, and now."""
    return [period(seed, "", task, **sizes), period(seed, what, task, month=7, **sizes)]


def _outcome(rng: np.random.Generator, task: str, true: np.ndarray, told: np.ndarray) -> dict:
    if task == "binary":
        p = 1 / (1 + np.exp(-told))
        late = rng.random(len(true)) < 1 / (1 + np.exp(-true))
        return {"late": np.where(late, "yes", "no"), "p(no)": 1 - p, "p(yes)": p}
    if task == "regression":
        return {"price": true + rng.normal(0, 0.7, len(true)), "prediction": told}
    p, q = _softmax(told), _softmax(true)
    drawn = (rng.random((len(q), 1)) > q.cumsum(axis=1)[:, :2]).sum(axis=1)
    probabilities = {f"p({name})": p[:, k] for k, name in enumerate(CLASSES)}
    return {"colour": np.array(CLASSES)[drawn], **probabilities}


def _softmax(x: np.ndarray) -> np.ndarray:
    parts = np.exp(np.column_stack([0 * x, x, 0.5 - x]))
    return parts / parts.sum(axis=1, keepdims=True)


LABELS = {"binary": "late", "multiclass": "colour", "regression": "price"}


def predictions(frame: pd.DataFrame) -> np.ndarray:
    """Predictions of a binary frame (rows, 2)."""
    return frame[["p(no)", "p(yes)"]].to_numpy()


def labels(frame: pd.DataFrame) -> np.ndarray:
    """Class numbers of a binary frame."""
    return (frame["late"] == "yes").to_numpy().astype(int)


def losses(frame: pd.DataFrame) -> np.ndarray:
    """Log loss of each row of a binary frame."""
    p = predictions(frame)
    return -np.log(p[np.arange(len(p)), labels(frame)])


def days(frame: pd.DataFrame) -> np.ndarray:
    """The day of each row."""
    return frame["when"].to_numpy().astype("datetime64[D]")


def binned(before: pd.DataFrame, *others: pd.DataFrame) -> tuple[list[Column], list[dict]]:
    """Columns with the bins of the first frame, and the bins of each row of all frames."""
    columns, places = [], [{} for _ in (before, *others)]
    for name, kind in KINDS.items():
        arrays = [pa.array(f[name], from_pandas=True) for f in (before, *others)]
        number = kind == "number"
        learn = binning.learn_numbers if number else binning.learn_categories
        bins = learn(name, arrays[0], None)
        columns.append(Column(bins, name == "hour"))
        for place, array in zip(places, arrays, strict=True):
            if number:
                codes = binning.number_places(binning.numbers(bins, array), bins.cuts)
            else:
                codes = binning.category_places(bins, array)
            place[name] = codes.astype(np.int64)
    return columns, places
