"""No row vanishes, and no odd value stops a reader: damage of any column, and whatever a server
ever accepted.
"""

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

import hostile
import synthetic
from modelkeep.data import splits
from modelkeep.monitoring import sources
from modelkeep.predictions import history
from modelkeep.predictions.log import Label, PredictionRecord, open_log
from modelkeep.reports import collect
from modelkeep.reports.figures import Figure

LATE = {"delay_days": 1, "wait_days": 2, "lost": 0.02, "seed": 0}
AS_OF = "2020-04-01"
ODD = [
    "1.2 kg",
    "inf",
    "-1e999",
    "1e308",
    "nan",
    "",
    " ",
    "NA",
    "True",
    "😀",
    "0001-01-01",
    "x" * 999,
]
ODD += ["1900-01-01", "9999-12-31 23:59:59", "2020-13-45", "12,5", "1970-01-01T00:00:00+14:00"]
YEAR_1, YEAR_9999 = -62_135_596_800_000_000, 253_402_300_799_999_999
DAY = 86_400_000_000
URL = "sqlite:///log.db"


def damaged(raw, seed, share):
    """The table as text, some values of some columns replaced by odd ones."""
    draw, text = np.random.default_rng(seed), raw.astype("object").astype("str")
    text = text.mask(raw.isna())
    for name in draw.choice(text.columns, draw.integers(1, len(text.columns) + 1), replace=False):
        at = np.flatnonzero(draw.random(len(text)) < share)
        text.loc[text.index[at], name] = draw.choice(np.array(ODD, dtype=object), len(at))
    if draw.random() < 0.3:
        text = text.sample(frac=1, random_state=int(seed))  # nor is a file always in order
    return text.reset_index(drop=True)


def from_file(served, root, table):
    """The bundle, as if prepared from this table, which is a file below `root`."""
    table.to_csv(root / "table.csv", index=False)
    origin = served.schema.origin | {"source": "table.csv"}
    return replace(served, schema=replace(served.schema, origin=origin))


@pytest.mark.parametrize("task", ["multiclass", "regression"])
@pytest.mark.parametrize("seed", range(8))
def test_rows_in_are_rows_out_quarantined_and_unlabelled(task, seed, turns, tmp_path):
    t = turns[task]
    table = damaged(t.raw, seed, share=0.02)
    served = from_file(t.served, tmp_path, table)
    read = splits.read_again(served.schema.origin, tmp_path)
    c = splits.prepare(read, **_stated(served)).counts
    out = c["train"] + c["test"] + c["unlabelled"] + c["quarantined"] + c["older"]
    assert c["rows_in"] == out and c["rows_in"] + c["later"] == len(table)
    collected = sources.log("replay", tmp_path, served, 400, "", "", **LATE)
    got = collect.verdict(collected, served.schema).evidence
    assert got["rows_in"] == c["later"]
    assert got["rows_in"] == got["labelled"] + got["unlabelled"] + got["quarantined"]
    assert got["quarantined"] == sum(got["reasons"].values()) == len(collected.quarantine)
    assert collected.quarantine["reason"].str.len().min() > 5


def _stated(served):
    named = ("label", "time_column", "id_column", "entity_column", "as_of", "label_delay_days")
    return {name: served.schema.origin[name] for name in named} | {"test_days": 35}


def test_a_column_that_changes_its_type_is_a_finding_and_not_a_hole(turns, tmp_path):
    t = turns["regression"]
    table = t.raw.astype({"size": "object"})
    later = table["when"] >= "2020-04-20"
    table.loc[later, "size"] = table.loc[later, "size"].astype("str") + " kg"
    served = from_file(t.served, tmp_path, table)
    collected = sources.log("replay", tmp_path, served, 70, "", "", **LATE)
    told = collect.verdict(collected, served.schema)
    inside = (table["when"] >= AS_OF) & (table["when"] < "2020-06-10")
    assert told.state == "investigate" and told.evidence["rows_in"] == inside.sum()
    assert told.evidence["quarantined"] == (inside & later).sum()
    reasons = " ".join(told.reasons)
    assert "do not fit the schema, of the training rows 0.0%" in reasons
    assert "for size: is not a number" in reasons
    assert "predictions end on 2020-04-19 and the source goes on until 2020-06-09" in reasons


def test_times_that_become_unreadable_are_counted_where_they_stand(turns, tmp_path):
    t = turns["regression"]
    table = t.raw.astype({"when": "str"})
    later = (t.raw["when"] >= "2020-05-01").to_numpy()
    table.loc[later, "when"] = "soon"
    served = from_file(t.served, tmp_path, table)
    told = collect.verdict(
        sources.log("replay", tmp_path, served, 70, "", "", **LATE), served.schema
    )
    assert told.state == "investigate" and told.evidence["quarantined"] == later.sum()
    assert "for when: is not a date" in " ".join(told.reasons)


def test_a_class_that_training_never_saw_is_a_finding(turns, tmp_path):
    t = turns["multiclass"]
    table = t.raw.copy()
    new = (table["when"] >= "2020-05-01") & (table.index % 300 == 0)
    table.loc[new, "colour"] = "violet"
    served = from_file(t.served, tmp_path, table)
    collected = sources.log("replay", tmp_path, served, 70, "", "", **LATE)
    told = collect.verdict(collected, served.schema)
    expected = int((new & (table["when"] < "2020-06-10")).sum())
    assert told.state == "investigate" and told.evidence["quarantined"] == expected
    assert any(
        f"1 new class that training never saw: 'violet' ({expected} rows)" in r
        for r in told.reasons
    )


def accepted(t, seed, n=400):
    """Rows as a server may have logged them: ordinary ones, and odd times, numbers, texts and ids."""
    draw, of = np.random.default_rng(seed), t.of
    rows = t.raw[t.raw["when"] >= AS_OF].head(n).to_dict("records")
    shape, said, labels = len(of.classes) or 1, [], []
    for i, row in enumerate(rows):
        at = int(pd.Timestamp(row["when"]).value // 1000)
        time, features = (
            at,
            {c.name: None if pd.isna(row[c.name]) else row[c.name] for c in of.columns},
        )
        if draw.random() < 0.3:
            time = int(draw.choice([YEAR_1, YEAR_9999, 0, at - 40_000 * DAY, at + 900 * DAY, -1]))
        if draw.random() < 0.3:
            features["size"] = float(draw.choice([1e308, -1e308, 5e-324, 1e39, 0.0]))
        if draw.random() < 0.3:
            features["shop"] = str(draw.choice(np.array(hostile.TEXTS, dtype=object)))
        if draw.random() < 0.1:
            time, features = None, {}
        id = str(row["key"]) if draw.random() < 0.9 else f"{draw.choice(ODD)}{i}"
        text = json.dumps(features).encode()
        answer = json.dumps([1 / shape] * shape).encode()
        said.append(
            PredictionRecord(
                id, at, str(draw.choice(["m", t.served.name])), "champion", None, time, text, answer
            )
        )
        if draw.random() < 0.8:
            value = str(row[of.label]) if draw.random() < 0.9 else str(draw.choice(ODD))
            labels.append(Label(id, value, at + DAY))
    return said, labels


@pytest.mark.parametrize("task", ["multiclass", "regression"])
@pytest.mark.parametrize("seed", range(4))
def test_every_reader_survives_what_a_server_accepted(task, seed, turns, tmp_path):
    t = turns[task]
    rows, labels = accepted(t, seed)
    book = open_log(URL, root=tmp_path)
    book.append(rows)
    book.label(labels)
    served = from_file(t.served, tmp_path, t.raw.head(10))
    collected = sources.log("log", tmp_path, served, 4000, URL, "")
    got = collect.verdict(collected, t.of).evidence
    assert got["rows_in"] == len(rows) == got["labelled"] + got["unlabelled"] + got["quarantined"]
    times = collected.rows["when"]
    assert times.max() - times.min() < pd.Timedelta(days=1200) and got["quarantined"] > 20
    for show in (collect.arrived, collect.waiting, collect.mean_prediction):
        assert isinstance(show(collected.rows, t.of), Figure)
    seen = synthetic.look(served, collected.rows)
    assert seen.decision.state and len(seen.windows) < 300
    _survived_by_update(t, tmp_path, book, rows, labels)


def _survived_by_update(t, root, book, rows, labels):
    folder = root / "data" / "history"
    folder.mkdir(parents=True)
    t.raw[t.raw["when"] < AS_OF].to_parquet(folder / "first.parquet")
    (root / "data" / "history.dvc").write_text("outs: []\n")
    prepare = t.of.origin | {"source": "data/history"}
    new = history.find(root, prepare, book, max(row.at for row in rows) / 1e6 + 9 * 86_400, 0.0)
    ids = len({row.id for row in rows})
    c = new.counts
    assert c["rows"] + c["quarantined"] + c["known"] + c["unlabelled"] == ids
    assert c["quarantined"] > 20 and new.finding(0.0)
    file = history.add(root, "data/history", new, prepare)
    history.keep_quarantine(root, new)
    assert len(pd.read_parquet(root / file)) == c["rows"]
    again = splits.read_again(prepare, root)
    counts = splits.prepare(again, **_stated(t.served) | {"as_of": ""}).counts
    assert counts["rows_in"] == len(again)
    book.close()
