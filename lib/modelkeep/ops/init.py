"""Point the workspace at a table: every setting is written, and what is doubtful is listed with its
remedy.
"""

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
        if self.problem:
            lines += ["", f"prepare will fail: {self.problem}"]
        elif c := self.counts:
            lines += [
                "",
                f"{c['rows_in']:,} rows are known: {c['train']:,} for training, {c['test']:,} for testing, "
                f"{c['unlabelled']:,} without a label, {c['quarantined']:,} quarantined; "
                f"{c['later']:,} later ones for a replay of service",
            ]
        return "\n".join(lines)


def plan(
    root: Path, table: Path, roles: Roles, *, name: str = "", yes: bool = False, **reading: object
) -> Plan:
    """Read a table and settle what is known about it; nothing is written.

    `yes` takes the safe choice of each doubt that has one; without it every doubt is left to a
    person, but for what nothing can be read without. `reading`: parameters of `data.io.read`.
    """
    table = table.resolve()
    if not table.exists():
        raise InitError(f"{table}: there is no such file or folder; name the table")
    inside = table.is_relative_to(root.resolve())
    file = "" if table.is_dir() else f"/{table.name}"
    source = table.relative_to(root.resolve()).as_posix() if inside else f"{PLACE}{file}"
    source = source if inside else PLACE
    raw = io.read(table.name, table.parent, raw=True, **_stated(reading))
    for role, column in vars(roles).items():
        if column and column not in raw.columns:
            near = io.did_you_mean(column, raw.columns)
            raise InitError(f"--{role}: {table.name} has no column {column!r}{near}")
    doubts = [*_times(raw, roles), *inspect.doubts(raw, roles)]
    taken = [doubt for doubt in doubts if doubt.settings and yes and doubt.safe]
    left = [doubt for doubt in doubts if doubt not in taken]
    prepare = {"source": source, **_roles(roles), **_EMPTY, **inspect.merged(taken), **reading}
    settings = {"prepare": prepare, "serve": {"name": name or _slug(table.name)}}
    found = Plan(table, source, settings["serve"]["name"], settings, taken, left)
    return _tried(found, raw, roles)


_EMPTY = {
    **{"features": [], "task": "auto", "rules": {}, "drop": [], "na_values": []},
    **{"date_format": "", "decimal": ".", "thousands": "", "encoding": "", "separator": ""},
    **{"label_delay_days": 1, "history_days": 0, "test_share": 0.2, "shuffle": True, "seed": 0},
}


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


def _tried(found: Plan, raw: pd.DataFrame, roles: Roles) -> Plan:
    """The plan with the other settings, the kinds of columns, and the rows that prepare gets."""
    prepare = found.settings["prepare"]
    problem, parts = "", None
    try:
        again = {name: prepare[name] for name in splits.AGAIN}
        table = io.read(found.table.name, found.table.parent, **again)
        for file, values in _sizes(table, roles).items():
            found.settings.setdefault(file, {}).update(values)
        parts = splits.prepare(table, **found.settings["prepare"])
    except ModelkeepError as error:
        problem = str(error)
    kinds = _kinds(raw, roles, parts)
    counts = parts.counts if parts else {}
    return Plan(
        *(found.table, found.source, found.name, found.settings, found.taken, found.left),
        *(kinds, counts, problem),
    )


def _sizes(table: pd.DataFrame, roles: Roles) -> dict[str, dict[str, object]]:
    """Settings that follow from how many rows and days there are."""
    if not roles.time:
        rows = len(table)
        known = round(rows * (1 - LATER)) if rows >= LEAST_ROWS else rows
        window = max((rows - known) // 6, 20)
        out = {"prepare": {"as_of": str(known) if known < rows else "", "test_days": 30}}
        out["monitor"] = {"window_rows": window, "min_labels": min(200, window // 2)}
        return out | {"train": {"min_rows_leaf": 5 if known < 1000 else 20}}
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
    return out | {"train": {"min_rows_leaf": 5 if len(times) < 1000 else 20}}


def _kinds(raw: pd.DataFrame, roles: Roles, parts: splits.Prepared | None) -> list[dict[str, str]]:
    role = {column: role for role, column in vars(roles).items() if column}
    learned = {c.name: c.kind for c in parts.schema.columns} if parts else {}
    why = parts.schema.ignored if parts else {}
    rows = []
    for name in raw.columns:
        text = as_text(raw[name]).dropna()
        some = ", ".join(str(value)[:18] for value in text.drop_duplicates().head(4))
        kind = role.get(name) or learned.get(name, "left out" if parts else "?")
        note = f" ({why[name]})" if name in why else ""
        rows.append({"column": str(name), "kind": kind, "examples": some, "note": note})
    return rows


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
        if values:
            workspace.set_params(root, file, values)
            done.append(f"params/{file}.yaml: {several(list(values), 8)}")
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
