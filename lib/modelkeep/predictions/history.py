"""History that grows: what was served and came true is added to its folder, each row once, a Parquet file a turn"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from modelkeep.core.errors import ModelkeepError
from modelkeep.data import io, splits
from modelkeep.data.columns import as_numbers, as_text, as_times
from modelkeep.predictions.log import DAY, PredictionLog

OURS = "served-"  # how the names of our files begin
READ = ["id", "at", "entity", "time", "features", "label"]
OWN = "data/history"  # the folder that a table of one's own may be put in
TRACK = "dvc add {0} && git add {0}.dvc && git commit -m 'History'"


class HistoryError(ModelkeepError, ValueError):
    """A history that nothing can be added to."""


@dataclass(frozen=True)
class Found:
    """What a log has for history at a moment: the rows to add, in history's own columns, and how many were left and why."""

    rows: pd.DataFrame
    known: int  # they are in history already
    unlabelled: int  # old enough, and no label has come (yet)
    corrected: int  # in history with another label than the log has now
    unfit: int  # their label is none that history's column can hold

    @property
    def counts(self) -> dict[str, int]:
        """How many there are of each."""
        return {k: len(v) if k == "rows" else v for k, v in vars(self).items()}

    @property
    def sentence(self) -> str:
        """How many rows there are, and why others are none."""
        also = {
            "have no label (yet)": self.unlabelled,
            "were there before": self.known,
            "of these now have another label, which history does not follow": self.corrected,
            "have a label that history's column cannot hold": self.unfit,
        }
        told = "".join(f"; {n:,} {what}" for what, n in also.items() if n)
        return f"{len(self.rows):,} rows for history{told}"


def folder(root: Path, prepare: Mapping) -> str:
    """The folder of the workspace's history (params/prepare.yaml:source); HistoryError unless it is one that can grow."""
    source = str(prepare["source"]).rstrip("/")
    place, track = root / source, TRACK.format(OWN)
    if (place / io.MAKER).is_file():
        raise HistoryError(
            f"source: {source!r} is the example, which makes its rows anew each time; to let a history grow, put your rows as "
            f"Parquet or CSV files into {OWN}, `{track}`, and set source: {OWN} in params/prepare.yaml"
        )
    if place.is_file():
        raise HistoryError(
            f"source: {source!r} is one file, and history grows by files; move it into a folder of its own ({OWN}), "
            f"`{track}`, and set source to that folder"
        )
    if not (root / f"{source}.dvc").is_file():
        raise HistoryError(
            f"source: {source!r} is not tracked by DVC, so no commit would hold what is added; `{TRACK.format(source)}`"
        )
    if not place.is_dir():
        raise HistoryError(f"source: {source!r} is not here; `dvc pull {source}` brings it")
    for role in ("id_column", "time_column"):
        if not prepare[role]:
            raise HistoryError(
                f"{role} is '' in params/prepare.yaml: rows are added to history once by their id, and cut by their time; name the column"
            )
    return source


def find(root: Path, prepare: Mapping, log: PredictionLog, now: float, wait_days: float) -> Found:
    """The answered rows that history lacks: at least `wait_days` after the answer, with the label that was known at `now` (seconds)."""
    roles = {name: prepare[name] for name in splits.ROLES}
    history = splits.read(folder(root, prepare), root, **roles)
    label, key = str(roles["label"]), str(roles["id_column"])
    until, counts = int(now * 1e6), dict.fromkeys(("known", "unlabelled", "corrected", "unfit"), 0)
    there = pd.Series(history[label].to_numpy(), index=as_text(history[key]), name=label)
    there = there[~there.index.duplicated()].astype(history[label].dtype)
    parts, seen = [], set()
    for batch in log.read(0, until - round(wait_days * DAY), known=until):
        said = batch.select(READ).to_pandas()
        # by hash: a batch is few rows, and history and what was seen are all there are
        said = said[~said["id"].map(seen.__contains__).astype(bool) & ~said["id"].duplicated()]
        seen |= set(said["id"])
        counts["unlabelled"] += int(said["label"].isna().sum())
        said = said[said["label"].notna()].assign(label=lambda s: _like(s["label"], there))
        counts["unfit"] += int(said["label"].isna().sum())
        old = there.index.get_indexer(said["id"]) >= 0
        counts["known"] += int(old.sum())
        counts["corrected"] += _differ(said[old], there)
        parts.append(said[~old & said["label"].notna()])
    new = pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=READ)
    return Found(_rows(new, history, roles), **counts)


def add(root: Path, source: str, found: Found, time_column: str) -> str:
    """Put the rows into the folder as one more file, named by the stretch of time that it holds; the file."""
    times, _ = as_times(found.rows[time_column])
    first, last = (f"{each:%Y%m%dT%H%M%S}" for each in (times.min(), times.max()))
    name, n = f"{OURS}{first}-{last}.parquet", 1
    while (root / source / name).exists():  # late labels of a stretch that is there
        n += 1
        name = f"{OURS}{first}-{last}-{n}.parquet"
    splits.write(found.rows, root / source / name)
    return f"{source}/{name}"


def _differ(said: pd.DataFrame, there: pd.Series) -> int:
    """How many rows have another label in the log than in history."""
    ours, theirs = as_text(said["label"]), as_text(there.loc[said["id"]])
    return int((ours.notna() & (ours.to_numpy() != theirs.to_numpy())).sum())


def _rows(said: pd.DataFrame, history: pd.DataFrame, roles: Mapping) -> pd.DataFrame:
    """Rows of the log as history has its own: the same columns, of the same kinds, in the order of time."""
    features = [json.loads(text) for text in said["features"]]
    at = pd.to_datetime(said["at"]).astype("datetime64[us]")
    given = {
        roles["id_column"]: said["id"],
        roles["time_column"]: pd.to_datetime(said["time"]).astype("datetime64[us]").fillna(at),
        roles["label"]: said["label"],
    }
    if roles["entity_column"]:
        given.setdefault(roles["entity_column"], said["entity"])
    for name in history.columns:
        if name not in given:
            values = [row.get(name) for row in features]
            given[name] = pd.Series(values, said.index, dtype=object)
    order = np.lexsort([given[roles["id_column"]], given[roles["time_column"]]])
    made = {name: _like(given[name], history[name]) for name in history.columns}
    return pd.DataFrame(made).iloc[order].reset_index(drop=True)


def _like(values: pd.Series, column: pd.Series) -> pd.Series:
    """Values of the log in the kind of a column of history; NaN where they are none of it."""
    kind = column.dtype
    if isinstance(kind, pd.DatetimeTZDtype):
        times, _ = as_times(values)
        return times.dt.tz_localize("UTC").dt.tz_convert(kind.tz).astype(kind)
    if kind.kind == "M":
        return as_times(values)[0].astype(kind)
    if kind.kind == "b":
        found = as_text(values).map({"True": True, "False": False, "1": True, "0": False})
        return found.astype(kind) if found.notna().all() else found
    if kind.kind in "iuf":
        numbers = pd.Series(as_numbers(values)[0], values.index)
        whole = kind.kind in "iu" and bool((numbers % 1 == 0).all())
        return numbers.astype(kind) if whole else numbers
    if values.dtype.kind == "M":
        return values.map(lambda at: at.isoformat(sep=" "), na_action="ignore").astype("str")
    return as_text(values)
