import numpy as np
import pandas as pd
import pytest
from scipy.special import expit, logit
from scipy.stats import binom

import synthetic
from modelkeep.evaluation import metrics
from modelkeep.monitoring import windows
from modelkeep.monitoring.windows import Window
from modelkeep.predictions import frames
from modelkeep.training import pipelines


def dates(*days):
    return pd.DataFrame({"when": pd.to_datetime("2020-01-01") + pd.to_timedelta(days, unit="D")})


def log_of(parts, said=None, rows=None):
    """A log of the test rows with all labels."""
    rows = parts.test if rows is None else rows
    said = (
        pipelines.predict(synthetic.fitted(parts, "linear"), rows, parts.schema)
        if said is None
        else said
    )
    return frames.with_predictions(rows, parts.schema, said)


def weeks_of(parts, log):
    return windows.cut(log, parts.schema, 7, 100)


def test_windows_are_whole_and_end_with_the_newest_day(parts):
    rows = dates(*np.arange(0, 17, 0.25))
    found = windows.cut(rows, parts["binary"].schema, 7, 0)
    assert [start for start, _ in found] == ["2020-01-04", "2020-01-11"]
    for start, part in found:
        days = part["when"].to_numpy().astype("datetime64[D]")
        assert str(days.min()) == start
        assert days.max() - days.min() == np.timedelta64(6, "D")
        assert len(part) == 28


@pytest.mark.parametrize(("days", "expected"), [(3, 2), (6, 1), (7, 0), (1, 6)])
def test_what_does_not_fill_a_window_is_left_out(days, expected, parts):
    found = windows.cut(dates(*range(6)), parts["binary"].schema, days, 0)
    assert len(found) == expected


def test_windows_without_a_row_are_left_out(parts):
    found = windows.cut(dates(1, 2, 19, 20, 21, 22), parts["binary"].schema, 2, 0)
    assert [start for start, _ in found] == ["2020-01-02", "2020-01-20", "2020-01-22"]
    assert all(len(part) for _, part in found)
    assert sum(len(part) for _, part in found) == 6


def test_windows_of_rows_where_there_is_no_time():
    of = synthetic.prepared(timed=False).schema
    found = windows.cut(pd.DataFrame({"size": range(25)}), of, 7, 10)
    assert [(start, list(part["size"])) for start, part in found] == [
        ("row 5", list(range(5, 15))),
        ("row 15", list(range(15, 25))),
    ]


@pytest.mark.parametrize("timed", [True, False])
def test_no_rows_are_no_windows(timed):
    learned = synthetic.prepared(timed=timed)
    assert windows.cut(learned.test.head(0), learned.schema, 7, 10) == []


@pytest.mark.parametrize("task", synthetic.LABELS)
def test_realised_quality_is_that_of_the_labelled_rows(task, parts):
    log, of = log_of(parts[task]), parts[task].schema
    log.loc[::3, of.label] = None
    cut = weeks_of(parts[task], log)
    found = windows.quality(of, cut[:2], cut[2:], 20)
    assert [w.past for w in found] == [True, True, False, False, False]
    for window, (start, rows) in zip(found, cut, strict=True):
        known = rows[rows[of.label].notna()]
        y, p = pipelines.outcome(known, of), frames.predictions(known, of)
        assert (window.start, window.rows, window.labelled) == (start, len(rows), len(known))
        assert window.coverage == len(known) / len(rows)
        for name, values in metrics.per_row(of.task, y, p).items():
            assert window.realised[name] == pytest.approx(values.mean())
        if task == "multiclass":
            assert "bias" not in window.realised
        else:
            said = p if task == "regression" else p[:, 1]
            assert window.realised["bias"] == pytest.approx(said.mean() - y.mean())


def test_too_few_labels_are_not_judged(parts):
    cut = weeks_of(parts["binary"], log_of(parts["binary"]))
    assert all(w.realised == {} for w in windows.quality(parts["binary"].schema, [], cut, 10_000))


@pytest.mark.parametrize("task", synthetic.LABELS)
def test_no_window_is_estimated_by_its_own_or_later_labels(task, parts):
    """Plant nonsense in the labels of the third window on: what was believed up to it is the same."""
    of, log = parts[task].schema, log_of(parts[task])
    cut = weeks_of(parts[task], log)
    planted = [(start, rows.copy()) for start, rows in cut]
    for _, rows in planted[2:]:
        rows[of.label] = rows[of.label].to_numpy()[::-1]
    before, after = (windows.quality(of, [], each, 20) for each in (cut, planted))
    for i in range(3):
        assert before[i].estimated == after[i].estimated
        assert before[i].corrected == after[i].corrected
    assert before[3].corrected != after[3].corrected
    assert before[2].realised != after[2].realised


def test_without_any_label_the_model_is_taken_at_its_word(parts):
    of, log = parts["binary"].schema, log_of(parts["binary"])
    log[of.label] = None
    for window in windows.quality(of, [], weeks_of(parts["binary"], log), 20):
        assert set(window.estimated) == {"log_loss", "auc"} and window.corrected == {}
        assert (window.labelled, window.realised, window.low) == (0, {}, {})


def test_numbers_cannot_be_estimated_before_the_first_label(parts):
    cut = weeks_of(parts["regression"], log_of(parts["regression"]))
    found = windows.quality(parts["regression"].schema, [], cut, 20)
    assert (found[0].estimated, found[0].corrected) == ({}, {})
    assert set(found[1].estimated) == set(found[1].corrected) == set(metrics.METRICS["regression"])


@pytest.mark.parametrize(("slope", "better"), [(1, 4), (2.5, 1.5)])
def test_late_labels_correct_what_the_model_believes(slope, better, parts):
    """The world became less likely to say yes, and the model is too sure: estimates follow."""
    draw, of = np.random.default_rng(0), parts["binary"].schema
    rows = synthetic.table(rows=9000, days=63)
    truth = draw.beta(2, 3, len(rows))
    said = expit(slope * logit(truth) + 1)
    rows["late"] = np.where(draw.random(len(rows)) < truth, "1", "0")
    log = frames.with_predictions(rows, of, np.column_stack([1 - said, said]))
    found = windows.quality(of, [], windows.cut(log, of, 7, 0), 20)[1:]
    real = np.array([w.realised["log_loss"] for w in found])
    estimated, corrected = (
        np.abs(real - [getattr(w, kind)["log_loss"] for w in found]).mean()
        for kind in ("estimated", "corrected")
    )
    assert corrected < estimated / better


def test_one_class_in_a_window_does_not_spoil_the_bands(parts):
    of, log = parts["binary"].schema, log_of(parts["binary"])
    cut = windows.cut(log, of, 2, 0)
    cut[3][1][of.label] = "0"
    found = windows.quality(of, [], cut, 5)
    assert np.isnan(found[3].realised["auc"])
    assert np.isfinite(found[-1].low["auc"]) and np.isfinite(found[-1].high["auc"])


def test_the_band_is_unknown_until_there_were_nine_misses(parts):
    of, log = parts["binary"].schema, log_of(parts["binary"])
    found = windows.quality(of, [], windows.cut(log, of, 2, 0), 5)
    known = [i for i, w in enumerate(found) if np.isfinite(w.low.get("auc", np.nan))]
    assert known[0] == 10 and known == list(range(10, len(found)))


def test_the_band_covers_nine_of_ten():
    """Of exchangeable misses, the next one is within the band in 90 % of the times."""
    draw, rounds, held = np.random.default_rng(0), 2000, 0
    for _ in range(rounds):
        *past, miss = draw.exponential(0.01, 31)
        low, high = windows.usual_band({"auc": 0.7}, {"auc": past})
        held += low["auc"] <= 0.7 + miss <= high["auc"]
    assert binom.isf(1 - 1e-4, rounds, 0.9) <= held <= binom.isf(1e-4, rounds, 0.94)


def test_the_band_stays_where_the_metric_can_be():
    low, high = windows.usual_band(
        {"auc": 0.9, "log_loss": 0.1}, dict.fromkeys(("auc", "log_loss"), [0.3] * 20)
    )
    assert (low["auc"], high["auc"]) == (pytest.approx(0.6), 1)
    assert (low["log_loss"], high["log_loss"]) == (0, pytest.approx(0.4))


def test_coverage_of_an_empty_window_is_unknown():
    assert np.isnan(Window("2020-01-01", 0, 0, False, {}).coverage)
