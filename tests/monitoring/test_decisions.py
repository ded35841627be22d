import numpy as np
import pandas as pd
import pytest
from scipy.stats import binom

import synthetic
from modelkeep.evaluation import drift
from modelkeep.monitoring import decisions
from modelkeep.monitoring.decisions import WatchError
from modelkeep.monitoring.windows import Window
from modelkeep.predictions import frames
from modelkeep.training import reference

LIMIT = 2000.0
CALM = np.zeros(5)
KNOBS = {"window_days": 7, "window_rows": 300, "min_labels": 20, "min_coverage": 0.8}
KNOBS |= {"false_alarms_per_year": 0.05, "fdr": 0.05, "permutations": 99, "seed": 0}


def window(i=0, past=False, labelled=100, rows=100, loss=0.5, **more):
    """A window that is judged if it has labels enough."""
    real = {"log_loss": loss, "auc": 0.7, "bias": 0.01} if labelled >= 50 else {}
    return Window(f"2020-01-{i + 1:02}", rows, labelled, past, real, **more)


def weeks(past=3, now=5, **changes):
    found = [window(i, past=True) for i in range(past)]
    return found + [window(past + i, **changes) for i in range(now)]


def decide(windows, drift_path=CALM, quality_path=CALM, drifts=()):
    return decisions.decide(
        windows, drifts, drift_path, quality_path, limit=LIMIT, min_coverage=0.8
    )


def year(noise, seed, past=6, now=12, shift=0.0):
    """Windows of 7 days whose quality is noise from day to day, worse by `shift` in the new ones."""
    draw, found = np.random.default_rng(seed), []
    for i in range(past + now):
        loss, auc, bias = noise(draw, (3, 7))
        worse = shift * (i >= past)
        n = draw.integers(50, 150, 7)
        days = {"log_loss": 0.5 + 0.02 * (loss + worse), "auc": 0.7 - 0.02 * (auc + worse)}
        daily = {k: np.column_stack([v, n]) for k, v in (days | {"bias": 0.02 * bias}).items()}
        found.append(Window(str(i), 700, 700, i < past, {"log_loss": 0.5}, daily=daily))
    return found


def path(windows, permutations=999, seed=0):
    e = decisions.surprise(windows, permutations=permutations, seed=seed)
    return decisions.evidence(e[sum(w.past for w in windows) :])


@pytest.mark.parametrize("kind", ["normal", "skewed"])
def test_without_a_decline_pages_stay_within_the_budget(kind):
    """With a budget of a page in every fifth year of 12 windows, whatever the noise looks like."""
    noise = {"normal": np.random.Generator.normal, "skewed": np.random.Generator.lognormal}[kind]

    def made(draw, size):
        return noise(draw, 0, 1, size)

    runs, budget = 60, 0.2
    pages = sum((path(year(made, s), 199, s) >= 12 / budget).any() for s in range(runs))
    assert pages <= binom.isf(1e-4, runs, budget)


def test_a_decline_pages_soon():
    found = path(year(lambda draw, size: draw.normal(0, 1, size), 0, shift=1.5))
    assert 1 <= np.argmax(found >= LIMIT) <= 8


def test_an_improvement_never_pages():
    found = path(year(lambda draw, size: draw.normal(0, 1, size), 0, shift=-3))
    assert found.max() < 10


def test_a_bias_that_becomes_smaller_is_no_decline():
    draw, n = np.random.default_rng(0), np.full(7, 100)
    found = []
    for i in range(10):
        bias = (0.1 if i < 6 else 0.0) + 0.01 * draw.normal(0, 1, 7)
        daily = {"bias": np.column_stack([bias, n])}
        found.append(Window(str(i), 700, 700, i < 6, {"bias": bias.mean()}, daily=daily))
    assert path(found).max() < 2
    turned = [Window(str(i), 700, 700, i < 4, {}, daily=w.daily) for i, w in enumerate(found[::-1])]
    assert path(turned).max() > 100


def test_p_values_of_equal_days_are_uniform():
    """The chance of a p-value of at most a is at most a, and not much below."""
    runs, draw = 400, np.random.default_rng(0)
    low = 0
    for _ in range(runs):
        days = np.column_stack([draw.lognormal(0, 1, 30), draw.integers(5, 200, 30)])
        taken = decisions.permuted(30, 7, 199, draw)
        low += decisions.p_worse("log_loss", days, taken) <= 0.1
    assert binom.isf(1 - 1e-4, runs, 0.07) <= low <= binom.isf(1e-4, runs, 0.1)


def test_a_day_without_an_auc_has_no_weight():
    days = np.column_stack([np.r_[np.full(20, 0.7), 0.0], np.r_[np.full(20, 50), 0]])
    taken = decisions.permuted(21, 1, 99, np.random.default_rng(0))
    assert decisions.p_worse("auc", days, taken) == 1


def test_few_days_tell_nothing():
    found = year(lambda draw, size: draw.normal(0, 1, size), 0, past=1, now=3, shift=9)
    assert np.isnan(path(found)).tolist() == [True, False, False]


def test_evidence_adds_up_as_shiryaev_and_roberts_have_it():
    found = decisions.evidence(np.array([np.nan, 2.0, np.nan, 3.0, 0.5]))
    assert np.isnan(found[0]) and found[1:].tolist() == [2, 2, 9, 5]
    assert np.isfinite(decisions.evidence(np.full(100, 1e9))).all()


def test_nothing_collected_is_a_reason_to_look():
    found = decide(weeks(now=0), np.zeros(0), np.zeros(0))
    assert found.state == "investigate" and "nothing is known" in found.reasons[0]
    assert decide([], np.zeros(0), np.zeros(0)).state == "investigate"


def test_fine_says_what_was_looked_at():
    found = decide(weeks(), np.full(5, 1.5), np.full(5, 2.5))
    assert found.state == "ok"
    assert found.reasons == (
        "no decline of realised quality: e-value 2.5 (alert at 2,000)",
        "no drift: e-value 1.5 (alert at 2,000)",
    )


def test_a_decline_means_retrain_even_when_evidence_fell_again():
    windows = weeks(loss=0.6)
    found = decide(windows, quality_path=np.array([0, 1, 2500.0, 800, 100]))
    assert found.state == "retrain"
    assert found.reasons[:2] == (
        "realised quality has declined: e-value 2,500 (alert at 2,000), in the window from 2020-01-06",
        "log loss was 0.6 there, 0.54 on average before",
    )


def test_a_decline_goes_before_drift_and_names_it_too():
    found = decide(weeks(), np.full(5, 3000.0), np.full(5, 3000.0))
    assert found.state == "retrain" and any("inputs have drifted" in r for r in found.reasons)


def test_drift_alone_means_look_and_says_when():
    found = decide(weeks(), np.array([0, 2600.0, 10, 5, 1]))
    assert found.state == "investigate"
    assert found.reasons[0] == (
        "inputs have drifted: e-value 2,600 (alert at 2,000), in the window from 2020-01-05"
    )
    assert found.reasons[1].startswith("no decline of realised quality")


def test_without_labels_nothing_is_fine():
    found = decide(weeks(labelled=0), quality_path=np.full(5, np.nan))
    assert found.state == "investigate"
    assert found.reasons == ("no window has enough labels: realised quality is unknown",)


def test_too_few_days_with_labels_are_not_fine():
    found = decide(weeks(past=0, now=1), np.zeros(1), np.array([np.nan]))
    assert (
        found.state == "investigate"
        and "cannot be distinguished from chance yet" in found.reasons[0]
    )
    assert "nan" not in " ".join(found.reasons)


def test_labels_that_do_not_come_are_a_reason_to_look():
    windows = [*weeks(now=3), window(9, labelled=60), window(10, labelled=60), window(11)]
    windows += [window(12, labelled=0), window(13, labelled=0)]
    found = decide(windows, np.zeros(8), np.zeros(8))
    assert found.state == "investigate"
    assert found.reasons[0] == (
        "labels are missing in 2 of 6 windows that should have them "
        "(least 60% from 2020-01-10; at least 80% are wanted)"
    )


@pytest.mark.parametrize("now", [1, 2])
def test_the_two_newest_windows_may_wait_for_labels(now):
    windows = weeks(now=5 - now) + [window(20 + i, labelled=0) for i in range(now)]
    assert decide(windows).state == "ok"


def test_windows_that_became_too_small_to_be_judged():
    windows = weeks(now=2) + [window(10 + i, labelled=9, rows=10) for i in range(3)]
    found = decide(windows)
    assert found.state == "investigate"
    assert found.reasons[0] == (
        "the window from 2020-01-11 cannot be judged: 9 of 10 predictions have a label"
    )


def move(*findings):
    column = drift.ColumnDrift(
        "size", "number", 0.01, True, 0.02, "note", True, 0, 0.1, 0, 0, 0, findings, 900
    )
    return drift.Drift((column,), "rows", "rows are taken as independent", 0.05, 99, 10, 10)


def test_what_one_window_shows_is_noted_and_changes_nothing():
    told = drift.Finding("missing share rose", "missing share rose from 0% to 10%", 0, 0.1, 0.01)
    found = decide(weeks(), drifts=[move(), move(told)])
    assert found.state == "ok"
    assert found.reasons[-1] == (
        "noted in the newest window, size: missing share rose from 0% to 10%"
    )
    assert len(decide(weeks(), drifts=[move(told), move()]).reasons) == 2


@pytest.mark.parametrize(
    ("task", "timed"), [("binary", False), ("multiclass", True), ("regression", True)]
)
def test_a_look_at_every_kind_of_log(task, timed):
    learned = synthetic.prepared(task, timed=timed)
    of, promise = learned.schema, synthetic.promise(learned, "linear")
    log = synthetic.promise(learned, "linear")
    against = reference.learn(promise, of)
    seen = decisions.analyze(promise, against, log, of, **KNOBS | {"window_rows": 100})
    assert len(seen.now) == len(seen.drifts) == len(seen.drift_path) == len(seen.quality_path) > 0
    assert len(seen.windows) > len(seen.now)
    assert len(seen.decision.reasons) >= 1
    assert seen.limit == pytest.approx(365.25 / 7 / 0.025)
    again = decisions.analyze(promise, against, log, of, **KNOBS | {"window_rows": 100})
    assert seen.decision == again.decision
    assert (seen.drift_path == again.drift_path).all()
    assert repr(seen.windows) == repr(again.windows)
    for reason in seen.decision.reasons:
        assert "nan" not in reason and "None" not in reason


def test_the_model_in_service_and_its_reference_agree(bundles, parts):
    """Rows like those it learned from: whatever the kind of model, neither inputs nor predictions move."""
    for task in synthetic.LABELS:
        of, test = parts[task].schema, parts[task].test
        log = frames.with_predictions(test, of, bundles[task].answer(test))
        counted = reference.count(log, of, bundles[task].reference)
        found = drift.compare(bundles[task].reference, counted, by="rows", fdr=1e-4)
        assert not found.alarm, task


def test_planted_drift_and_decline_are_found(tmp_path):
    learned = synthetic.prepared(frame=synthetic.table(rows=4000, days=160))
    of, served = learned.schema, synthetic.sealed(tmp_path / "candidate", learned, "linear")
    rows = synthetic.table(rows=1500, days=35, seed=5)
    rows["when"] += pd.Timedelta(days=160)
    rows["late"] = rows["late"].astype(str)
    log = frames.with_predictions(rows, of, served.answer(rows))
    calm = decisions.analyze(served.out_of_fold, served.reference, log, of, **KNOBS)
    rate = (rows["late"] == "1").mean()  # stays: the relation turns round, not the label rate
    rows["late"] = np.where(rows["size"] > rows["size"].quantile(rate), "0", "1")
    log = frames.with_predictions(rows, of, served.answer(rows))
    turned = decisions.analyze(served.out_of_fold, served.reference, log, of, **KNOBS)
    assert (calm.decision.state, turned.decision.state) == ("ok", "retrain")
    rows["weight"] = rows["weight"] * 1000  # and somebody changed a unit: predictions jump
    log = frames.with_predictions(rows, of, served.answer(rows))
    seen = decisions.analyze(served.out_of_fold, served.reference, log, of, **KNOBS)
    assert seen.decision.state == "investigate"
    text = " ".join(seen.decision.reasons)
    for part in ("label guard", "has declined", "have drifted", "about 1,000 times larger"):
        assert part in text
    assert np.argmax(seen.quality_path >= seen.limit) <= 3


def test_a_log_with_weeks_without_rows(bundles, parts):
    of, served = parts["binary"].schema, bundles["binary"]
    test = parts["binary"].test
    rows = test[test["when"].dt.day.between(1, 10) | (test["when"].dt.day > 25)]
    log = frames.with_predictions(rows, of, served.answer(rows))
    seen = decisions.analyze(
        served.out_of_fold, served.reference, log, of, **KNOBS | {"window_days": 3}
    )
    assert all(w.rows for w in seen.now) and len(seen.drift_path) == len(seen.now)


@pytest.mark.parametrize("nothing", ["rows", "labels"])
def test_a_log_without_rows_or_labels(nothing, bundles, parts):
    of, served = parts["binary"].schema, bundles["binary"]
    log = frames.with_predictions(parts["binary"].test, of, served.answer(parts["binary"].test))
    log = log.head(0) if nothing == "rows" else log.assign(late=np.nan)
    seen = decisions.analyze(served.out_of_fold, served.reference, log, of, **KNOBS)
    assert seen.decision.state == "investigate"


@pytest.mark.parametrize(
    "name", ["window_days", "window_rows", "min_labels", "false_alarms_per_year"]
)
def test_knobs_that_cannot_be(name, bundles, parts):
    served = bundles["binary"]
    with pytest.raises(WatchError, match=f"{name}: 0 is below"):
        decisions.analyze(
            served.out_of_fold,
            served.reference,
            served.out_of_fold,
            served.schema,
            **KNOBS | {name: 0},
        )


def judged(loss=0.55, gap=0.0, past=False, i=0, **more):
    """A window with daily losses and a label gap."""
    noise = 0.01 * np.sin(np.arange(7) + i)
    daily = {"log_loss": np.column_stack([loss + noise, np.full(7, 100)])}
    gaps = {"late = 1": (gap + 0.05 * np.sin(3 * i), 0.02)}
    start, real = f"2020-03-{i + 1:02}", {"log_loss": loss + 0.01 * np.cos(i)}
    return Window(start, 700, 700, past, real, daily=daily, gaps=gaps, **more)


def guarded(*newest, before=8):
    windows = [judged(past=i < 4, i=i) for i in range(before)]
    windows += [judged(i=before + i, **w) for i, w in enumerate(newest)]
    calm = np.zeros(sum(not w.past for w in windows))
    return decide(windows, calm, calm)


def test_a_collapse_of_labels_or_loss_is_investigated_at_once():
    assert guarded({}).state == "ok"
    labels = guarded({"gap": -6.0})
    assert labels.state == "investigate"
    assert labels.reasons[0].startswith(
        "label guard, window from 2020-03-09: labels of late = 1 are lower than predicted by 6."
    )
    loss = guarded({"loss": 0.94})
    assert loss.state == "investigate"
    assert loss.reasons[0].startswith("loss guard, window from 2020-03-09: log loss is 0.9")


def test_a_collapse_that_passed_is_noted():
    past = guarded({"gap": -6.0}, {}, {})
    assert past.state == "ok"
    assert any(r.startswith("label guard, window from 2020-03-09") for r in past.reasons)
    assert guarded({"gap": -6.0}, {}).state == "investigate"


def test_labels_that_are_still_coming_are_not_guarded():
    few = judged(gap=-6.0, i=8)
    few = Window(few.start, 700, 300, False, few.realised, daily=few.daily, gaps=few.gaps)
    windows = [*(judged(past=i < 4, i=i) for i in range(8)), few]
    assert decide(windows, np.zeros(5), np.zeros(5)).state == "ok"


def test_a_label_guard_goes_before_a_decline():
    windows = [*(judged(past=i < 4, i=i) for i in range(8)), judged(gap=5.0, i=8)]
    found = decide(windows, np.zeros(5), np.full(5, 3000.0))
    assert found.state == "investigate"
    assert any("has declined" in r for r in found.reasons)
    loss = [*windows[:-1], judged(loss=0.94, i=8)]
    assert decide(loss, np.zeros(5), np.full(5, 3000.0)).state == "retrain"


@pytest.mark.parametrize("task", synthetic.LABELS)
def test_ten_days_of_one_label_are_no_ok(task, bundles, parts):
    of, served = parts[task].schema, bundles[task]
    log = frames.with_predictions(parts[task].test, of, served.answer(parts[task].test))
    knobs = KNOBS | {"window_days": 5}
    calm = decisions.analyze(served.out_of_fold, served.reference, log, of, **knobs)
    assert not any("guard" in r for r in calm.decision.reasons)
    newest = log["when"] > log["when"].max() - pd.Timedelta(days=10)
    log.loc[newest, of.label] = log[of.label].max() if task == "regression" else of.classes[0]
    seen = decisions.analyze(served.out_of_fold, served.reference, log, of, **knobs)
    assert seen.decision.state == "investigate"
    assert seen.decision.reasons[0].startswith("label guard, window from")
