import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

import synthetic
from modelkeep.data import splits
from modelkeep.predictions import frames
from modelkeep.predictions.frames import LogError

LATE = {"delay_days": 3.0, "wait_days": 2.0, "lost": 0.1, "seed": 0}


def replayed(parts, as_of="2020-03-10", rows=None, **changes):
    """The log of rows that were answered with even chances."""
    of, rows = parts.schema, parts.train if rows is None else rows
    said = np.full((len(rows), 2), 0.5) if of.classes else np.zeros(len(rows))
    when = None if of.time is None else np.datetime64(as_of)
    return frames.replay(rows, of, said, model="m", as_of=when, **LATE | changes)


@pytest.mark.parametrize(
    ("task", "names"),
    [
        ("binary", ["p(0)", "p(1)"]),
        ("multiclass", ["p(blue)", "p(green)", "p(red)"]),
        ("regression", ["prediction"]),
    ],
)
def test_answers_come_back_as_they_were_said(task, names, parts):
    of, rows = parts[task].schema, parts[task].test
    said = np.random.default_rng(0).random((len(rows), len(names)))
    said = said.ravel() if task == "regression" else said
    log = frames.with_predictions(rows, of, said)
    assert frames.prediction_columns(of) == names == list(log)[-len(names) :]
    assert (frames.predictions(log, of) == said).all()
    assert list(rows) == list(log)[: -len(names)]


@pytest.mark.parametrize("name", ["prediction", "answered_by", "labelled_at"])
def test_a_column_with_a_name_of_the_log_is_refused(name):
    frame = synthetic.table("regression").rename(columns={"weight": name})
    with pytest.raises(LogError, match=f"column '{name}' has a name that the prediction log needs"):
        frames.prediction_columns(synthetic.prepared("regression", frame).schema)


def test_a_label_never_comes_before_its_delay(parts):
    log = replayed(parts["binary"], as_of="2030-01-01")
    wait = (log["labelled_at"] - log["when"]).dropna() / pd.Timedelta(days=1)
    assert wait.min() >= 3
    assert wait.mean() == pytest.approx(5, abs=0.5)
    assert wait.max() > 8


def test_what_comes_after_as_of_is_unknown(parts):
    log = replayed(parts["binary"], as_of="2020-01-15")
    known = log["labelled_at"].notna()
    assert (log["labelled_at"].dropna() <= pd.Timestamp("2020-01-15")).all()
    assert (log["late"].notna() == known).all() and 0 < known.sum() < len(log)
    assert not known[log["when"] > pd.Timestamp("2020-01-12")].any()


def test_a_later_look_only_knows_more(parts):
    early, late = (replayed(parts["binary"], as_of=f"2020-01-{day}") for day in (12, 20))
    known = early["late"].notna()
    assert known.sum() < late["late"].notna().sum()
    assert (early["late"][known] == late["late"][known]).all()
    assert (early["labelled_at"][known] == late["labelled_at"][known]).all()


def test_a_share_of_labels_never_comes(parts):
    log = replayed(parts["binary"], as_of="2040-01-01", lost=0.3)
    assert log["late"].isna().mean() == pytest.approx(0.3, abs=0.08)
    assert log["labelled_at"].isna().equals(log["late"].isna())
    assert replayed(parts["binary"], as_of="2040-01-01", lost=0)["late"].notna().all()
    assert replayed(parts["binary"], lost=1)["late"].isna().all()


def test_what_never_had_a_label_gets_none(parts):
    rows = parts["binary"].train.copy()
    rows.loc[:9, "late"] = None
    log = replayed(parts["binary"], as_of="2040-01-01", rows=rows, lost=0)
    assert log["late"].isna().sum() == log["labelled_at"].isna().sum() == 10


def test_one_seed_gives_one_log(parts):
    first, again, other = (replayed(parts["binary"], seed=s) for s in (1, 1, 2))
    pd.testing.assert_frame_equal(first, again)
    assert not first["labelled_at"].equals(other["labelled_at"])


def test_the_rows_stay_as_they_were(parts):
    rows = parts["binary"].train
    before = rows.copy()
    log = replayed(parts["binary"])
    pd.testing.assert_frame_equal(rows, before)
    pd.testing.assert_frame_equal(log[[*rows]].drop(columns="late"), rows.drop(columns="late"))
    assert (log["answered_by"] == "m").all()


def test_a_table_without_time_has_labels_without_a_moment():
    log = replayed(synthetic.prepared(timed=False))
    assert log["labelled_at"].isna().all() and log["labelled_at"].dtype == "datetime64[us]"
    assert 0.8 < log["late"].notna().mean() < 1


@pytest.mark.parametrize("task", synthetic.LABELS)
def test_no_rows_are_a_log_without_lines(task, parts, tmp_path):
    of, nothing = parts[task].schema, parts[task].train.head(0)
    said = np.zeros((0, len(of.classes))) if of.classes else np.zeros(0)
    log = frames.replay(nothing, of, said, model="m", as_of=np.datetime64("2020-01-01"), **LATE)
    splits.write(log, tmp_path / "rows.parquet")
    assert list(splits.load(tmp_path / "rows.parquet")) == list(log)
    assert len(log) == 0 and frames.predictions(log, of).shape == said.shape


def test_a_log_is_the_same_after_its_file(parts, tmp_path):
    log = replayed(parts["binary"])
    splits.write(log, tmp_path / "rows.parquet")
    again = splits.load(tmp_path / "rows.parquet")
    assert again["labelled_at"].equals(log["labelled_at"]) and again["late"].equals(log["late"])


def test_a_log_with_nothing_in_it_is_the_table_of_a_replay_without_rows(parts):
    of, nothing = parts["multiclass"].schema, parts["multiclass"].train.head(0)
    said = np.zeros((0, 3))
    played = frames.replay(nothing, of, said, model="m", as_of=np.datetime64("2020-01-01"), **LATE)
    found, aside = frames.logged([], of).rows, frames.logged([], of).quarantine
    assert list(found) == list(played) and aside.empty
    assert found.dtypes.astype(str).to_dict() == played.dtypes.astype(str).to_dict()
    assert frames.predictions(found, of).shape == (0, 3)


def batch(**columns):
    n = len(columns["answer"])
    moment, text = pa.timestamp("us"), pa.string()
    usual = {"id": [f"r{i}" for i in range(n)], "at": [1_000_000 + i for i in range(n)]}
    usual |= {"model": ["m"] * n, "role": ["champion"] * n, "entity": [None] * n}
    usual |= {"time": [None] * n, "features": [b"{}"] * n, "label": [None] * n}
    usual |= {"labelled_at": [None] * n} | columns
    kinds = dict.fromkeys(["at", "time", "labelled_at"], moment)
    kinds |= dict.fromkeys(["features", "answer"], pa.binary())
    return pa.record_batch({k: pa.array(usual[k], kinds.get(k, text)) for k in frames.READ})


def test_what_does_not_fit_the_schema_is_quarantined(parts):
    logged = frames.logged(
        [
            batch(
                answer=[b"[0.5, 0.5]", b"[0.2, 0.3, 0.5]", b"[1, 0]", b"[1, 0]"],
                label=["1", "1", "7", None],
                labelled_at=[5, 6, 7, None],
                features=[b"{}", b"{}", b"{}", b'{"size": "1.2 kg"}'],
            )
        ],
        parts["binary"].schema,
    )
    assert logged.rows["key"].tolist() == ["r0"] and logged.rows["late"].tolist() == ["1"]
    assert logged.quarantine["key"].tolist() == ["r1", "r2", "r3"]
    assert logged.quarantine["reason"].tolist() == [
        "prediction: is of a model with other classes",
        "late: '7' is not one of 0, 1",
        "size: '1.2 kg' is not a number",
    ]


def test_a_time_far_off_the_axis_is_quarantined_and_the_clock_of_the_server_is_trusted(parts):
    year = 365 * 86_400_000_000
    times = [None, -1_969 * year, 8_000 * year, 53 * year]
    rows = batch(answer=[b"[0.5, 0.5]"] * 4, time=times, at=[54 * year] * 4)
    logged = frames.logged([rows], parts["binary"].schema)
    assert logged.rows["key"].tolist() == ["r3", "r0"]
    assert logged.quarantine["rule"].str.contains("is outside the time axis").all()


def test_features_are_read_as_they_were_used(parts):
    features = [
        '{"size": 1, "weight": null, "shop": "nörd", "other": 5}'.encode(),
        b'{"size": 2.5, "weight": 7, "shop": null}',
        b"{}",
    ]
    found = frames.logged(
        [batch(features=features, answer=[b"[0, 1]"] * 3)], parts["binary"].schema
    ).rows
    assert found["size"].tolist()[:2] == [1.0, 2.5] and np.isnan(found["size"][2])
    assert found["weight"].isna().tolist() == [True, False, True]
    assert found["shop"].isna().tolist() == [False, True, True] and found["shop"][0] == "nörd"
    assert "other" not in found
    assert (found["when"] == pd.to_datetime([1_000_000, 1_000_001, 1_000_002], unit="us")).all()
