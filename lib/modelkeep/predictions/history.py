"""History that grows: predicted rows with a label are added once, a Parquet file an update."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
from msgspec.structs import replace

from modelkeep.core.errors import ModelkeepError
from modelkeep.data import columns, io, schema, splits, time_axis
from modelkeep.data.columns import as_numbers, as_text, as_times
from modelkeep.predictions import marks
from modelkeep.predictions.log import DAY, PredictionLog, record_batch
from modelkeep.predictions.marks import Mark

EXCESS = 0.005  # more quarantined than this above training's share: somebody must look
QUARANTINE = "data/quarantine-log/rows.parquet"
OURS = "served-"  # how the names of our files begin
NAMES = ("known", "unlabelled", "corrected", "contradicted")
READ = ["id", "at", "entity", "time", "features", "label"]
OWN = "data/history"  # the folder that a table of one's own may be put in
TRACK = "dvc add {0} && git add {0}.dvc && git commit -m 'History'"


class HistoryError(ModelkeepError, ValueError):
    """A history that nothing can be added to."""


@dataclass(frozen=True)
class NewRows:
    """The rows of a log that history lacks at a moment, in history's own columns, and where the
    others went that were read: all of the log, or what is new since the last update.
    """

    rows: pd.DataFrame
    quarantine: (
        pd.DataFrame
    )  # as text, with `row`, `rule` and `reason`: history's columns cannot hold them
    known: int  # they are in history already
    unlabelled: int  # old enough, and no label has come (yet)
    corrected: int  # of the known: in a file of ours with another label than the log has now
    contradicted: int = 0  # the same, in a file that is not ours
    corrections: pd.Series = field(default_factory=lambda: pd.Series(dtype=object))  # by id
    labelled_until: float = 0.0  # when the newest labelled row happened, in seconds since 1970
    mark: Mark | None = None  # what of the log was read up to now

    @property
    def counts(self) -> dict[str, int]:
        """How many there are of each.

        The rows read are all but `corrected` and `contradicted`, which are known too.
        """
        counts = {"rows": len(self.rows), "quarantined": len(self.quarantine)}
        return counts | {k: getattr(self, k) for k in NAMES}

    @property
    def sentence(self) -> str:
        """How many rows there are, and why others are none."""
        worst = self.quarantine["rule"].value_counts()
        named = f" (most often {worst.index[0]!r})" if len(worst) else ""
        others = {
            "have no label (yet)": self.unlabelled,
            "were there before": self.known,
            "of these have a corrected label, which history follows": self.corrected,
            "of these have another label in a file that no update wrote, which stays": (
                self.contradicted
            ),
            f"are quarantined{named}": len(self.quarantine),
        }
        clauses = "".join(f"; {n:,} {state}" for state, n in others.items() if n)
        return f"{len(self.rows):,} rows for history{clauses}"

    def finding(self, usual_share: float) -> str:
        """Why a person must look: a larger share is quarantined than `usual_share`, that of
        training; or ''.
        """
        n = len(self.rows) + len(self.quarantine)
        share = len(self.quarantine) / n if n else 0.0
        if share <= usual_share + EXCESS:
            return ""
        return (
            f"{share:.1%} of {n:,} labelled rows do not fit history's columns, of the training "
            "rows "
            f"{usual_share:.1%}; they are in {QUARANTINE} with their reasons: mend what sends them"
        )


def folder(root: Path, prepare: Mapping) -> str:
    """The folder of the workspace's history (params/prepare.yaml:source).

    Raises HistoryError unless it is one that can grow.
    """
    source = str(prepare["source"]).rstrip("/")
    place, track = root / source, TRACK.format(OWN)
    if (place / io.MAKER).is_file():
        raise HistoryError(
            f"source: {source!r} is the example, which makes its rows anew each time; to let a "
            "history grow, put your rows as "
            f"Parquet or CSV files into {OWN}, `{track}`, and set source: {OWN} in "
            "params/prepare.yaml"
        )
    if place.is_file():
        raise HistoryError(
            f"source: {source!r} is one file, and history grows by files; move it into a folder "
            f"of its own ({OWN}), "
            f"`{track}`, and set source to that folder"
        )
    if not (root / f"{source}.dvc").is_file():
        raise HistoryError(
            f"source: {source!r} is not tracked by DVC, so no commit would hold what is added; "
            f"`{TRACK.format(source)}`"
        )
    if not place.is_dir():
        raise HistoryError(f"source: {source!r} is not here; `dvc pull {source}` brings it")
    for role in ("id_column", "time_column"):
        if not prepare[role]:
            raise HistoryError(
                f"{role} is '' in params/prepare.yaml: rows are added to history once by their "
                "id, and cut by their time; name the column"
            )
    return source


def find(root: Path, prepare: Mapping, log: PredictionLog, now: float, wait_days: float) -> NewRows:
    """The answered rows that history lacks: at least `wait_days` after the answer, with the label
    that was known at `now` (seconds).

    Only what is new in the log since the file that an update added last is read.
    """
    source = root / folder(root, prepare)
    history = splits.read_again(prepare, root)
    label, key = str(prepare["label"]), str(prepare["id_column"])
    until, counts = int(now * 1e6), dict.fromkeys(("known", "unlabelled"), 0)
    there = pd.Series(history[label].to_numpy(), index=as_text(history[key]), name=label)
    there = there[~there.index.duplicated()].astype(history[label].dtype)
    parts, other, seen = [], [], set()
    mark = marks.place(log, until - round(wait_days * DAY), until)  # before anything is read
    for page in _pages(source, log, until - round(wait_days * DAY), until):
        rows = record_batch(page).select(READ).to_pandas()
        # by hash: a batch is few rows, and history and what was seen are all there are
        rows = rows[~rows["id"].map(seen.__contains__).astype(bool) & ~rows["id"].duplicated()]
        seen |= set(rows["id"])
        counts["unlabelled"] += int(rows["label"].isna().sum())
        rows = rows[rows["label"].notna()]
        old = there.index.get_indexer(rows["id"]) >= 0
        counts["known"] += int(old.sum())
        other.append(_corrected(rows[old], there))
        parts.append(rows[~old])
    new = pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=READ)
    rows, quarantine = _fitted(new, history, prepare)
    newest = [_newest(each, str(prepare["time_column"])) for each in (history, rows)]
    changed = pd.concat(other) if other else pd.Series(dtype=object)
    ours = _our_ids(source, key) if len(changed) else set()
    corrections = changed[changed.index.isin(ours)]
    counts |= {"corrected": len(corrections), "contradicted": len(changed) - len(corrections)}
    return NewRows(
        rows, quarantine, **counts, corrections=corrections, labelled_until=max(newest), mark=mark
    )


def _pages(source: Path, log: PredictionLog, until: int, known: int) -> Iterator[list[tuple]]:
    """What is new in the log since the last update, or all of it where nothing tells that."""
    mark = marks.newest(source, f"{OURS}*.parquet")
    if mark and marks.holds(mark, log, until, known):
        return marks.new(log, mark, until, known)
    return log.pages(0, until, known=known)


def correct(root: Path, source: str, new: NewRows, prepare: Mapping) -> int:
    """Write corrected labels into the files that updates have added; how many rows changed."""
    key, label, changed = str(prepare["id_column"]), str(prepare["label"]), 0
    for path in sorted((root / source).glob(f"{OURS}*.parquet")) if len(new.corrections) else ():
        rows = pd.read_parquet(path)
        corrected = as_text(rows[key]).map(new.corrections)
        if not corrected.notna().any():
            continue
        changed += int(corrected.notna().sum())
        values = corrected.astype(object).where(corrected.notna(), rows[label].astype(object))
        rows[label] = like(values, rows[label])
        splits.write(rows, path, pq.read_schema(path).metadata)
    return changed


def add(root: Path, source: str, new: NewRows, prepare: Mapping) -> str:
    """Put the rows into the folder as one more file, named by the period that it holds.

    It bears the mark from which the next update reads on. Returns the file's name in the workspace.
    """
    times, _ = as_times(new.rows[str(prepare["time_column"])])
    first, last = (f"{each:%Y%m%dT%H%M%S}" for each in (times.min(), times.max()))
    name, n = f"{OURS}{first}-{last}.parquet", 1
    while (root / source / name).exists():  # late labels of a period that is there
        n += 1
        name = f"{OURS}{first}-{last}-{n}.parquet"
    files = [path.name for path in (root / source).glob(f"{OURS}*.parquet")]
    splits.write(new.rows, root / source / name, _notes(new, [*files, name], prepare))
    return f"{source}/{name}"


def _notes(new: NewRows, files: list[str], prepare: Mapping) -> dict[bytes, bytes] | None:
    """The mark of what was read; none while more rows are quarantined than are looked at again."""
    if new.mark is None or len(new.quarantine) > marks.AGAIN:
        return None
    again = as_text(new.quarantine[str(prepare["id_column"])]) if len(new.quarantine) else ()
    return marks.notes(replace(new.mark, again=tuple(again), files=tuple(sorted(files))))


def keep_quarantine(root: Path, new: NewRows) -> None:
    """Write the quarantined rows of the log with their reasons to `QUARANTINE`, or remove what is
    old there.
    """
    (root / QUARANTINE).unlink(missing_ok=True)
    if len(new.quarantine):
        splits.write(new.quarantine, root / QUARANTINE)


def _newest(rows: pd.DataFrame, time_column: str) -> float:
    """When the newest row happened, in seconds since 1970; 0 without rows."""
    times, _ = as_times(rows[time_column])
    return times.max().timestamp() if times.notna().any() else 0.0


def _corrected(rows: pd.DataFrame, there: pd.Series) -> pd.Series:
    """By id, the labels of the log that are others than in history."""
    labels = like(rows["label"], there)
    ours, theirs = as_text(labels), as_text(there.loc[rows["id"]])
    differ = ours.notna().to_numpy() & (ours.to_numpy() != theirs.to_numpy())
    return pd.Series(labels.to_numpy(dtype=object), rows["id"].to_numpy(), dtype=object)[differ]


def _our_ids(source: Path, key: str) -> set[str]:
    """The ids of the rows in files that updates have added."""
    paths = sorted(source.glob(f"{OURS}*.parquet"))
    return {id for path in paths for id in as_text(pd.read_parquet(path, columns=[key])[key])}


def _fitted(
    rows: pd.DataFrame, history: pd.DataFrame, roles: Mapping
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Rows of the log as history has its own, in the order of time.

    Also the rows that its columns cannot hold, as a quarantine.
    """
    given = _given(rows, history, roles)
    made = pd.DataFrame({name: like(given[name], history[name]) for name in history.columns})
    faults = []
    for name in history.columns:
        lost = given[name].notna() & made[name].isna()
        faults += columns.faults(given[name], lost, f"is nothing that history's {name} can hold")
    if len(rows):
        when, known = (
            roles["time_column"],
            time_axis.limits(as_times(history[roles["time_column"]])[0]),
        )
        ends = [np.datetime64(each, "us") for each in (rows["at"].min(), rows["at"].max())]
        axis = time_axis.of_log(known and tuple(map(str, known)), *ends)
        odd = time_axis.outside(as_times(given[when])[0], axis)
        faults += columns.faults(given[when], odd, "is outside the time axis")
    bad = np.zeros(len(rows), bool)
    for fault in faults:
        bad[fault.reasons.index] = True
    order = np.lexsort([given[roles["id_column"]], given[roles["time_column"]]])
    fit = made.iloc[order[~bad[order]]].reset_index(drop=True)
    return fit, schema.quarantined(given, faults)


def _given(rows: pd.DataFrame, history: pd.DataFrame, roles: Mapping) -> pd.DataFrame:
    """Rows of the log under the names of history's columns, as they were logged."""
    features = [json.loads(text) for text in rows["features"]]
    at = pd.to_datetime(rows["at"]).astype("datetime64[us]")
    given = {
        roles["id_column"]: rows["id"],
        roles["time_column"]: pd.to_datetime(rows["time"]).astype("datetime64[us]").fillna(at),
        roles["label"]: rows["label"],
    }
    if roles["entity_column"]:
        given.setdefault(roles["entity_column"], rows["entity"])
    for name in history.columns:
        if name not in given:
            values = [row.get(name) for row in features]
            given[name] = pd.Series(values, rows.index, dtype=object)
    return pd.DataFrame(given, index=rows.index)


def like(values: pd.Series, column: pd.Series) -> pd.Series:
    """Values of the log in the kind of a column of history; NaN where they are none of it."""
    kind = column.dtype
    if isinstance(kind, pd.DatetimeTZDtype):
        times, _ = as_times(values)
        return times.dt.tz_localize("UTC").dt.tz_convert(kind.tz).astype(kind)
    if kind.kind == "M":
        return as_times(values)[0].astype(kind)
    if kind.kind == "b":
        flags = as_text(values).map({"True": True, "False": False, "1": True, "0": False})
        return flags.astype(kind) if flags.notna().all() else flags
    if kind.kind in "iuf":
        numbers = pd.Series(as_numbers(values)[0], values.index)
        whole = kind.kind in "iu" and bool((numbers % 1 == 0).all())
        return numbers.astype(kind) if whole else numbers
    if values.dtype.kind == "M":
        return values.map(lambda at: at.isoformat(sep=" "), na_action="ignore").astype("str")
    return as_text(values)
