from dataclasses import replace

import numpy as np
import pytest

import shifted
import synthetic
from modelkeep.evaluation import metrics
from modelkeep.monitoring import diagnosis
from modelkeep.monitoring.decisions import Decision
from modelkeep.reports import monitor
from modelkeep.reports.figures import Figure
from synthetic import said

TASKS = tuple(synthetic.LABELS)


def shown(seen, task):
    first, second = metrics.METRICS[task]
    return (
        monitor.verdict(seen),
        monitor.quality(seen, first),
        monitor.quality(seen, second),
        monitor.evidence(seen),
        monitor.drifted(seen),
        monitor.newest(seen),
        monitor.labels(seen, 0.8),
    )


@pytest.mark.parametrize("task", TASKS)
def test_every_page_can_be_shown(task, turns):
    seen = turns[task].seen
    things = shown(seen, task)
    assert all(said(thing) for thing in things)
    assert sum(isinstance(thing, Figure) for thing in things) == 5
    found = monitor.stage_metrics(seen)
    assert found["windows"] == len(seen.now) >= 8
    assert set(metrics.METRICS[task]) <= {k.removeprefix("newest_") for k in found}
    assert said(monitor.verdict(seen))


def test_intervals_are_shown_for_numbers(turns):
    for task, turn in turns.items():
        page = monitor.intervals_held(turn.served, turn.served_log, 7, 300)
        assert isinstance(page, Figure) == (task == "regression")
    log = turns["regression"].served_log
    caption = said(monitor.intervals_held(turns["regression"].served, log, 7, 300))
    labels = log[turns["regression"].of.label].notna().sum()
    assert f"{labels:,} labels" in caption and "adaptive" in caption and "fixed" in caption
    unlabelled = log.assign(**{turns["regression"].of.label: np.nan})
    assert "No label" in said(
        monitor.intervals_held(turns["regression"].served, unlabelled, 7, 300)
    )


@pytest.mark.parametrize("task", TASKS)
def test_the_course_is_a_table_of_numbers(task, turns):
    seen = turns[task].seen
    lines = monitor.course_csv(seen, metrics.METRICS[task]).splitlines()
    first, second = metrics.METRICS[task]
    assert lines[0].split(",")[:4] == [
        "window",
        f"{first}_realised",
        f"{first}_estimated",
        f"{first}_corrected",
    ]
    assert len(lines) == 1 + len(seen.now) and f"{second}_corrected" in lines[0]
    assert all(len(line.split(",")) == 7 for line in lines)
    assert "nan" not in "".join(lines)


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("case", ["no rows", "no labels", "one class", "short"])
def test_thin_logs_are_told_as_they_are(task, case, turns):
    t = turns[task]
    log = t.served_log.head(1000).copy()
    if case == "no rows":
        log = log.head(0)
    elif case == "no labels":
        log[t.of.label] = None
    elif case == "one class":
        log[t.of.label] = log[t.of.label].iloc[0]
    else:
        log = log.head(20)
    seen = synthetic.look(t.served, log)
    for thing in shown(seen, task):
        assert said(thing)
    told = monitor.verdict(seen)
    assert "nan" not in monitor.course_csv(seen, metrics.METRICS[task])
    if case in ("no rows", "short"):
        assert told.state == "investigate" and "there are no predictions by which" in told.sentence
    elif case == "no labels":
        assert told.state == "investigate" and "too few labels" in told.sentence


def decided(seen, state, path, **changes):
    return replace(seen, decision=Decision(state, ("why",)), drift_path=path, **changes)


def test_the_sentence_says_what_is_known(turns):
    seen = turns["multiclass"].seen
    calm = np.zeros(len(seen.now))
    assert "give no reason to act" in monitor.verdict(decided(seen, "ok", calm)).sentence
    moved = monitor.verdict(decided(seen, "investigate", calm + 1e6)).sentence
    assert "the inputs have drifted" in moved
    unlabelled = monitor.verdict(decided(seen, "investigate", calm)).sentence
    assert "too few labels have come to judge it" in unlabelled and "drifted" not in unlabelled
    assert "Retrain" in monitor.verdict(decided(seen, "retrain", calm)).sentence
    before, now = shifted.periods(1, "level", rows=3000)
    why = diagnosis.diagnose(before, now, label="late", time="when", permutations=99)
    worse = monitor.verdict(decided(seen, "retrain", calm), why=why).sentence
    assert worse.endswith("Remedy: recalibrate: a new level of the predictions is enough.")
    assert "Remedy" not in monitor.verdict(decided(seen, "ok", calm), why=why).sentence


def test_without_a_test_of_training_nothing_is_promised(turns):
    t = turns["regression"]
    seen = synthetic.look(replace(t.served, out_of_fold=t.served.out_of_fold.head(0)), t.served_log)
    assert "expected in a window unknown" in said(monitor.quality(seen, "squared_error"))


def test_evidence_names_what_is_beyond_the_line(turns):
    seen = turns["multiclass"].seen
    calm, much = np.full(len(seen.now), 1.0), np.full(len(seen.now), 1e5)
    both = replace(seen, drift_path=much, quality_path=much)
    assert "inputs have drifted and quality has declined" in said(monitor.evidence(both))
    neither = said(monitor.evidence(replace(seen, drift_path=calm, quality_path=calm)))
    assert "Beyond the line: neither. No reason to act." in neither
    assert "an e-value of 1 is no evidence, of 2,090 an alert" in neither
    unknown = replace(seen, drift_path=calm, quality_path=calm * np.nan)
    assert said(monitor.evidence(unknown))


@pytest.mark.parametrize("task", TASKS)
def test_what_is_expected_is_the_mean_of_the_windows_of_cross_validation(task, turns):
    seen = turns[task].seen
    past = [w for w in seen.windows if w.past and w.realised]
    expected = monitor.expected(seen)
    assert set(metrics.METRICS[task]) <= set(expected) and len(past) > 2
    for name in metrics.METRICS[task]:
        rows = sum(w.labelled for w in past)
        mean = sum(w.realised[name] * w.labelled for w in past) / rows
        assert expected[name] == pytest.approx(mean, rel=1e-12)
    evidence = monitor.verdict(seen).evidence
    newest = [w for w in seen.now if w.realised][-1]
    assert evidence["expected"] == expected
    assert evidence["newest_waiting"] == newest.rows - newest.labelled


def test_the_delay_is_told_in_words(turns):
    t = turns["multiclass"]
    assert monitor.delay(t.served_log, t.of).endswith(" days in the median")
    assert monitor.delay(t.served_log.head(0), t.of) == "unknown"
    assert monitor.delay(turns["binary"].served_log, turns["binary"].of) == "unknown"


@pytest.mark.parametrize("task", TASKS)
def test_the_distribution_of_a_drifted_column_is_drawn_then_and_now(task, turns):
    t = turns[task]
    moved = t.served_log.assign(size=t.served_log["size"] + 5)
    seen = synthetic.look(t.served, moved)
    figure = monitor.distributions(seen, t.served, moved, 7, 300)
    assert isinstance(figure, Figure) and said(figure)
    assert ">size<" in figure.svg and "newest window" in figure.svg
    assert f"{t.served.reference.rows.sum():,} rows of the reference" in figure.caption
    calm = replace(seen, drifts=())
    assert "No column has drifted" in said(monitor.distributions(calm, t.served, moved, 7, 300))
