"""Point the workspace at a table: every setting is written, and what is doubtful is listed with its
remedy.
"""

import json
import re
import shutil
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd

from modelkeep.core import workspace
from modelkeep.core.errors import ModelkeepError
from modelkeep.core.markup import several
from modelkeep.data import inspect, io, splits, time_axis
from modelkeep.data.columns import as_text, as_times
from modelkeep.data.inspect import Doubt, Roles
from modelkeep.ops import commits
from modelkeep.predictions.history import OWN as PLACE

LATER = 0.2  # the newest share of days or rows is kept for a first replay of service
FEW_ROWS = 300  # below, leaves may be smaller than in scikit-learn by default
MOST_LATER_DAYS, LEAST_DAYS, LEAST_ROWS = 84, 10, 100
READ = ("encoding", "separator")  # without them nothing can be looked at


class InitError(ModelkeepError, ValueError):
    """A table that no workspace can be pointed at."""


@dataclass(frozen=True)
class Plan:
    """What `write` will do: settings by params file, the doubts, and the kinds that columns get."""

    table: Path
    source: str  # as params/prepare.yaml names it
    name: str
    settings: dict[str, dict[str, object]]
    taken: list[Doubt]  # doubts that the settings settle
    left: list[Doubt]  # doubts that a person must settle
    columns: list[dict[str, str]] = field(default_factory=list)
    counts: dict = field(default_factory=dict)
    problem: str = ""  # why prepare would fail with these settings

    def __str__(self) -> str:
        lines = [f"{self.name}: {self.table.name} as {self.source}", "", "columns:"]
        wide = max((len(row["column"]) for row in self.columns), default=0)
        lines += [
            f"  {r['column']:<{wide}}  {r['kind']:<9} {r['examples']}{r['note']}"
            for r in self.columns
        ]
        for title, doubts in (("settled", self.taken), ("for you to decide", self.left)):
            lines += ["", f"{title}:"] if doubts else []
            for doubt in doubts:
                lines.append(f"  {doubt.column}: {doubt.sentence}")
                lines += [f"      params/prepare.yaml: {doubt.line}"] if doubt.line else []
        lines += self._together()
        if self.problem:
            lines += ["", f"prepare will fail with these settings: {self.problem}"]
        elif c := self.counts:
            lines += [
                "",
                f"{c['rows_in']:,} rows are known: {c['train']:,} for training, "
                f"{c['test']:,} for testing, "
                f"{c['unlabelled']:,} without a label, {c['quarantined']:,} quarantined; "
                f"{c['later']:,} later ones for a replay of service",
            ]
        return "\n".join(lines)

    def _together(self) -> list[str]:
        """One line for all doubts that the same parameter settles."""
        names = [name for doubt in self.left for name in doubt.settings]
        twice = {name for name in names if names.count(name) > 1}
        joined = {k: v for k, v in inspect.merged(self.left).items() if k in twice}
        return [f"  together: {Doubt('', '', {k: v}).line}" for k, v in joined.items()]

    @property
    def next(self) -> str:
        """What to do after the settings are written."""
        again = "run the same `modelkeep init` again: it keeps your lines"
        if self.problem:
            settle = "give it --yes, or write" if any(d.safe for d in self.left) else "write"
            if self.left:
                return f"Before `dvc repro`: {settle} the lines above that fit, and {again}."
            return f"Before `dvc repro`: mend what prepare would fail of, and {again}."
        if self.left:
            return f"`dvc repro` runs the pipeline. After a change of a line above, {again}."
        return "`dvc repro` runs the pipeline."


def plan(
    root: Path, table: Path, roles: Roles, *, name: str = "", yes: bool = False, **reading: object
) -> Plan:
    """Read a table and settle what is known about it; nothing is written.

    `yes` takes the safe choice of each doubt that has one; without it every doubt is left to a
    person, but for what nothing can be read without. What a person has written to
    params/prepare.yaml since the last time stays. `reading`: parameters of `data.io.read`.
    """
    table = table.resolve()
    if not table.exists():
        raise InitError(f"{table}: there is no such file or folder; name the table")
    inside = table.is_relative_to(root.resolve())
    file = "" if table.is_dir() else f"/{table.name}"
    source = table.relative_to(root.resolve()).as_posix() if inside else f"{PLACE}{file}"
    source = source if inside else PLACE
    kept = _kept(root, source, table, roles)
    reading = {key: value for key, value in reading.items() if value}
    try:
        raw = io.read(table.name, table.parent, raw=True, **_stated(kept | reading))
    except io.TableError as error:  # these lines are not of this table yet
        remedy = re.sub(rf"set (encoding|separator) in {io.PARAMS}", r"give it as --\1", str(error))
        raise InitError(remedy) from error
    for role, column in vars(roles).items():
        if column and column not in raw.columns:
            near = io.did_you_mean(column, raw.columns)
            raise InitError(f"--{role}: {table.name} has no column {column!r}{near}")
    doubts = [*_times(raw, roles), *inspect.doubts(raw, roles)]
    doubts = [doubt for doubt in doubts if not _is_settled(doubt, kept)]
    safe = [doubt for doubt in doubts if doubt.settings and doubt.safe]
    taken = safe if yes else []
    left = [doubt for doubt in doubts if doubt not in taken]
    prepare = {"source": source, **_roles(roles), **_EMPTY, **kept, **reading}
    settings = {"prepare": _joined(prepare, taken), "serve": {"name": name or _slug(table.name)}}
    found = Plan(table, source, settings["serve"]["name"], settings, taken, left)
    return _tried(found, raw, roles, _joined(prepare, safe))


_EMPTY = {
    **{"features": [], "task": "auto", "rules": {}, "drop": [], "na_values": []},
    **{"date_format": "", "decimal": ".", "thousands": "", "encoding": "", "separator": ""},
    **{"label_delay_days": 1, "history_days": 0, "test_share": 0.2, "shuffle": True, "seed": 0},
}


def _kept(root: Path, source: str, table: Path, roles: Roles) -> dict[str, object]:
    """The lines of params/prepare.yaml that a person may have changed, where they are of this
    table and label.
    """
    if not (root / "params" / "prepare.yaml").is_file():
        return {}
    stated = workspace.params(root, "prepare")
    copied = table if table.is_relative_to(root.resolve()) else root / PLACE / table.name
    here = copied.exists() or (table.is_dir() and (root / PLACE).is_dir())
    same = (stated.get("source"), stated.get("label")) == (source, roles.label)
    kept = {key: stated[key] for key in _EMPTY if key in stated} if same and here else {}
    if "drop" in kept:  # a column with a role now was left out while it had none
        kept["drop"] = [name for name in kept["drop"] if name not in vars(roles).values()]
    return kept


def _is_settled(doubt: Doubt, kept: dict) -> bool:
    """Whether a person has settled a doubt by a line of params/prepare.yaml."""
    if doubt.column in kept.get("drop", []):
        return True
    if "rules" in doubt.settings or "drop" in doubt.settings:
        return doubt.column in kept.get("rules", {})
    return any(kept.get(key, _EMPTY.get(key)) != _EMPTY.get(key) for key in doubt.settings)


def _joined(prepare: dict, doubts: list[Doubt]) -> dict[str, object]:
    """Settings of prepare, with those of doubts added."""
    stated = {key: prepare[key] for key in ("rules", "drop", "na_values")}
    return prepare | inspect.merged([Doubt("", "", stated), *doubts])


def _stated(reading: dict) -> dict:
    return {key: reading[key] for key in READ if key in reading}


def _roles(roles: Roles) -> dict[str, str]:
    columns = {"label": roles.label, "time_column": roles.time}
    return columns | {"entity_column": roles.entity, "id_column": roles.id}


def _slug(name: str) -> str:
    stem = name.split(".")[0].lower()
    return re.sub(r"[^a-z0-9]+", "-", stem).strip("-") or "model"


def _times(raw: pd.DataFrame, roles: Roles) -> list[Doubt]:
    """Columns that may be the time of a row, where none was named."""
    if roles.time:
        return []
    others = [name for name in raw.columns if name not in vars(roles).values()]
    found = [name for name in others if inspect.is_time(raw[name])]
    sentence = "may be when a row happened; then rows are split by time: give it as --time"
    return [Doubt(name, sentence, {"time_column": name}) for name in found]


def _tried(found: Plan, raw: pd.DataFrame, roles: Roles, safe: dict[str, object]) -> Plan:
    """The plan with the other settings, the kinds of columns, and the rows that prepare gets.

    `safe`: the settings with each safe choice. Rows and days are counted with them, so that
    windows fit the table even where its times cannot be read before a line is settled.
    """
    problem, parts = "", None
    try:
        for file, values in _sizes(_read(found, safe), roles).items():
            found.settings.setdefault(file, {}).update(values)
    except ModelkeepError:
        problem = "the windows of params/monitor.yaml could not be fitted to the table"
    try:
        table = _read(found, found.settings["prepare"])
        parts = splits.prepare(table, **{"as_of": "", "test_days": 30, **found.settings["prepare"]})
    except ModelkeepError as error:
        problem = f"{error}; {problem}" if problem else str(error)
    kinds = _kinds(raw, roles, parts)
    counts = parts.counts if parts else {}
    return Plan(
        *(found.table, found.source, found.name, found.settings, found.taken, found.left),
        *(kinds, counts, problem),
    )


def _read(found: Plan, settings: dict[str, object]) -> pd.DataFrame:
    again = {name: settings[name] for name in splits.AGAIN}
    return io.read(found.table.name, found.table.parent, **again)


def _sizes(table: pd.DataFrame, roles: Roles) -> dict[str, dict[str, object]]:
    """Settings that follow from how many rows and days there are."""
    if not roles.time:
        rows = len(table)
        known = round(rows * (1 - LATER)) if rows >= LEAST_ROWS else rows
        window = max((rows - known) // 6, 20)
        out = {"prepare": {"as_of": str(known) if known < rows else "", "test_days": 30}}
        out["monitor"] = {"window_rows": window, "min_labels": min(200, window // 2)}
        return out | {"train": _learning(known)}
    times = as_times(table[roles.time])[0]
    axis = time_axis.limits(times)
    times = times[~time_axis.outside(times, axis) & times.notna()] if axis else times.dropna()
    days = np.unique(times.to_numpy().astype("datetime64[D]"))
    later = int(np.clip(round(len(days) * LATER), 1, MOST_LATER_DAYS))
    later = later if len(days) >= LEAST_DAYS else 0
    known = days[: len(days) - later]
    out = {"prepare": {"as_of": str(days[-later]) if later else ""}}
    out["prepare"]["test_days"] = int(np.clip(round(len(known) * 0.2), 1, 30))
    window = int(np.clip(later // 4, 1, 7))
    rows = len(times) // max(len(days), 1) * window
    out["monitor"] = {"window_days": window, "min_labels": int(np.clip(rows // 2, 20, 200))}
    calendar = int((days[-1] - known[-1]).astype(int)) if later else 84
    out["collect"] = {"source": "replay", "days": max(calendar, 1)}
    out["backtest"] = {"start": str(days[len(days) // 3]), "end": ""} if len(days) else {}
    return out | {"train": _learning(len(times))}


def _learning(rows: int) -> dict[str, object]:
    """Hyperparameters as scikit-learn's defaults, which suit more tables than the example's do."""
    depth = {"max_depth": 0, "learning_rate": 0.1, "trees": 100}
    leaf = 5 if rows < FEW_ROWS else 20  # of so few rows, leaves of 20 would be a dozen at most
    return {"model": "boosting", **depth, "min_rows_leaf": leaf, "l2": 1.0}


def _kinds(raw: pd.DataFrame, roles: Roles, parts: splits.Prepared | None) -> list[dict[str, str]]:
    role = {column: role for role, column in vars(roles).items() if column}
    learned = {c.name: c.kind for c in parts.schema.columns} if parts else {}
    why = parts.schema.ignored if parts else {}
    rows = []
    for name in raw.columns:
        text = as_text(raw[name]).dropna()
        some = _examples([str(value) for value in text.drop_duplicates().head(4)])
        kind = role.get(name) or learned.get(name, "left out" if parts else "?")
        note = f" ({why[name]})" if name in why else ""
        rows.append({"column": str(name), "kind": kind, "examples": some, "note": note})
    return rows


def _examples(values: list[str]) -> str:
    """Some values of a column: text in quotes, as it may hold commas; long text is cut."""
    if all(re.fullmatch(r"[+-]?\d+(\.\d+)?", value) for value in values):
        return ", ".join(values)
    cut = (f"{value[:17]}…" if len(value) > 18 else value for value in values)
    return ", ".join(json.dumps(value, ensure_ascii=False) for value in cut)


def write(root: Path, planned: Plan) -> list[str]:
    """Copy the table into the workspace (DVC tracks it) unless it lies there, and write the
    settings; what was written.
    """
    done = []
    if planned.source == PLACE and not planned.table.is_relative_to(root.resolve()):
        _copy(planned.table, root / PLACE)
        commits.dvc(root, "add", PLACE)
        done += [f"{PLACE} (tracked by DVC in {PLACE}.dvc)"]
    for file, values in planned.settings.items():
        stand = workspace.params(root, file)
        changed = {key: new for key, new in values.items() if stand.get(key, ...) != new}
        if changed:
            workspace.set_params(root, file, changed)
            done.append(f"params/{file}.yaml: {several(list(changed), 8)}")
    path = root / "dvc.yaml"
    text = re.sub(r"(?m)^(artifacts:.*\n\s+)[\w-]+:", rf"\g<1>{planned.name}:", path.read_text())
    path.write_text(text)
    return [*done, "dvc.yaml: the artifact's name"]


def _copy(table: Path, place: Path) -> None:
    there = sorted(p.name for p in place.iterdir()) if place.is_dir() else []
    ours = sorted(p.name for p in table.iterdir()) if table.is_dir() else [table.name]
    if other := [name for name in there if name not in ours]:
        raise InitError(
            f"{PLACE} holds {several(other)} already; move it away, or name that folder"
        )
    place.mkdir(parents=True, exist_ok=True)
    if table.is_dir():
        shutil.copytree(table, place, dirs_exist_ok=True)
    else:
        shutil.copy(table, place / table.name)
