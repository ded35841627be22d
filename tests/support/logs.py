"""Logs for tests: events in any order, and the table that an offline join makes of them."""

import json
from itertools import groupby, starmap

import numpy as np
import pandas as pd

from modelkeep.predictions import records as log_records
from modelkeep.predictions.log import Label, PredictionRecord

DAY = 86_400_000_000
FIRST = 1_767_225_600_000_000  # 2026-01-01
COLUMNS = ["id", "at", "model", "role", "entity", "time", "features", "answer"]


def entry(id="a", at=FIRST, **changes):
    """An answered row."""
    usual = {"model": "m" * 10, "role": "champion", "entity": None, "time": at - 5}
    usual |= {"features": b'{"x":1.5}', "answer": b"[0.25, 0.75]"}
    return PredictionRecord(id, at, **usual | changes)


def entries(n, first=FIRST, step=1000, name="r"):
    """Answers one after the other."""
    return [entry(f"{name}{i}", first + i * step) for i in range(n)]


def events(seed, n=120):
    """Batches of answers and of labels in a random order: labels before, after, twice, corrected, never, of nothing; rows that are asked twice; ids of the server's own (`t3-18`) among others; clocks that differ."""
    draw = np.random.default_rng(seed)
    found, ids = [], [f"r{i}" if i % 2 else f"t{i % 7}-{i}" for i in range(n)]
    for id in [*ids, *draw.choice(ids, n // 10).tolist()]:
        at = FIRST + int(draw.integers(0, 3 * DAY))
        role = str(draw.choice(["champion", "canary", "shadow"], p=[0.7, 0.2, 0.1]))
        entity = None if draw.random() < 0.3 else f"é{draw.integers(5)}"
        said = json.dumps([float(draw.random())]).encode()
        found.append(entry(id, at, model=role[:2], role=role, entity=entity, answer=said))
    for id in [*draw.choice(ids, n), *(f"unknown{i}" for i in range(n // 20))]:
        for _ in range(draw.integers(1, 4)):
            at = FIRST + int(draw.integers(0, 4 * DAY, endpoint=True)) // DAY * DAY  # ties, too
            found.append(Label(str(id), str(draw.integers(0, 2)), at))
    order = draw.permutation(len(found))
    return [found[i] for i in order]


def keep(log, happened, seed=0):
    """Give a log what happened in batches of random sizes; returns all that it told."""
    draw, told = np.random.default_rng(seed), []
    while happened:
        kind = type(happened[0])
        size = next((i for i, e in enumerate(happened) if type(e) is not kind), len(happened))
        size = int(draw.integers(1, size + 1))
        told += (
            answered(log, happened[:size], draw)
            if kind is PredictionRecord
            else log.label(happened[:size])
        )
        happened = happened[size:]
    return told


def answered(log, happened, draw):
    """Give a log answers; ids that begin with one name's name go by it, or as any others do if somebody sent them again."""
    told = []
    for name, part in groupby(happened, key=lambda entry: log_records.batch(entry.id)):
        rows = list(part)
        groups, ids = list(log_records.grouped(rows)), [row.id for row in rows]
        told += log.write(groups, ids, name if draw.random() < 0.7 else "")
    return told


def joined(happened, start, end, roles=("champion", "canary"), known=2**63 - 1):
    """What `PredictionLog.read` must give, made by pandas from the events in their order."""
    answers = pd.DataFrame(
        [e for e in happened if isinstance(e, PredictionRecord)], columns=COLUMNS
    )
    labels = pd.DataFrame([e for e in happened if isinstance(e, Label)], columns=Label._fields)
    labels = labels[labels["at"] < known].sort_values("at", kind="stable")
    changed = labels.groupby("id")["value"].transform(lambda v: v.ne(v.shift()))
    newest = labels[changed.astype(bool)].groupby("id").last().reset_index()
    newest = newest.rename(columns={"value": "label", "at": "labelled_at"})
    inside = (answers["at"] >= start) & (answers["at"] < end) & answers["role"].isin(roles)
    found = answers[inside].sort_values("at", kind="stable").merge(newest, "left", on="id")
    return list(starmap(_plain, found.itertuples(index=False)))


def _plain(*values):
    return tuple(None if v is None or v != v else v for v in values)


def table(log, start=FIRST, end=FIRST + 5 * DAY, **asked):
    """What a log reads, as rows of plain values."""
    rows = []
    for batch in log.read(start, end, **asked):
        moments = {"at", "time", "labelled_at"}
        columns = (
            batch[name].cast("int64") if name in moments else batch[name]
            for name in batch.schema.names
        )
        rows += zip(*(column.to_pylist() for column in columns), strict=True)
    return rows
