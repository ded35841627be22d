"""Slices that have declined are named, with one rate of false alarms over all of them."""

import numpy as np
import pandas as pd
import pytest
from scipy.stats import binom

from modelkeep.monitoring import decisions, slices
from modelkeep.predictions import frames
from modelkeep.reports import monitor

WEEKS, A_DAY, PAST_DAYS, CHANGE = 20, 40, 60, 8
LENGTHS = [10, pytest.param(300, marks=pytest.mark.slow)]
SHOPS = np.array(["north", "south", "east"])
SETTINGS = {"window_days": 7, "window_rows": 300, "min_labels": 30, "seed": 0}
SETTINGS |= {"false_alarms_per_year": 0.05, "permutations": 199}


@pytest.fixture(scope="module")
def schema(parts):
    return parts["binary"].schema


def rows(schema, first, days, draw, broken=None, shares=(0.6, 0.3, 0.1), missing=0.2):
    """Rows of some days, predicted by the true probability; `broken` labels of a shop from week
    CHANGE on have nothing to do with it. Days have moods, and unequal volumes.
    """
    volume = draw.poisson(A_DAY * draw.uniform(0.5, 1.5, days))
    day = np.repeat(np.arange(days), volume)
    n = len(day)
    score = draw.normal(0, 1.5, n)
    mood = draw.normal(0, 0.5, days)[day]  # rows of a day are alike
    y = draw.random(n) < 1 / (1 + np.exp(-score - mood))
    shop = draw.choice(SHOPS, n, p=shares)
    if broken:
        turned = (shop == broken) & (day >= 7 * CHANGE)
        y = np.where(turned, draw.random(n) < 0.5, y)
    frame = pd.DataFrame({"key": [f"{first}{i}" for i in range(n)], "shop": shop})
    frame["when"] = pd.Timestamp(first) + pd.to_timedelta(day * 86_400 + 60, unit="s")
    frame["size"], frame["weight"] = score, 1.0
    labels = pd.Series(np.where(y, "1", "0"), dtype="str")
    frame["late"] = labels.where(draw.random(n) >= missing, None)
    p = 1 / (1 + np.exp(-score))
    return frames.with_predictions(frame, schema, np.column_stack([1 - p, p]))


def watched(schema, seed, broken=None, **settings):
    draw = np.random.default_rng(seed)
    past = rows(schema, "2020-01-01", PAST_DAYS, draw, missing=0)
    log = rows(schema, "2020-03-01", 7 * WEEKS, draw, broken)
    return slices.watch(past, log, schema, ["shop"], **SETTINGS | settings)


@pytest.mark.parametrize("runs", LENGTHS)
def test_the_slice_that_has_declined_is_named_and_no_other(runs, schema):
    named = []
    for seed in range(runs):
        found = watched(schema, seed, "south")
        named.append([each.name for each in found.declined])
    hits = sum(each == ["shop = south"] for each in named)
    assert hits >= binom.ppf(1e-4, runs, 0.95), named


@pytest.mark.parametrize("runs", LENGTHS)
def test_without_a_change_slices_keep_their_budget(runs, schema):
    years = 7 * WEEKS / decisions.YEAR_DAYS
    alarms = sum(bool(watched(schema, 100 + seed).declined) for seed in range(runs))
    chance = 1 - np.exp(-SETTINGS["false_alarms_per_year"] / 2 * years)
    assert alarms <= binom.ppf(1 - 1e-4, runs, chance)


def test_more_slices_need_more_evidence(schema):
    draw = np.random.default_rng(0)
    past, log = rows(schema, "2020-01-01", PAST_DAYS, draw), rows(schema, "2020-03-01", 70, draw)
    three = slices.watch(past, log, schema, ["shop"], **SETTINGS)
    assert [each.name for each in three.slices] == [f"shop = {each}" for each in sorted(SHOPS)]
    assert three.limit == pytest.approx(365.25 / 7 / (0.05 / 2) * 3)


def test_the_verdict_asks_for_a_person_and_the_page_has_the_slice(schema):
    found = watched(schema, 3, "south")
    seen = decisions.MonitoringResult(
        found.slices[0].windows, (), np.ones(WEEKS), np.ones(WEEKS), 1e4,
        decisions.Decision("ok", ("steady",)), decisions.Season(False, None),
    )  # fmt: skip
    plain, verdict = monitor.verdict(seen), monitor.verdict(seen, found)
    assert plain.state == "ok" and verdict.state == "investigate"
    assert verdict.sentence.endswith("it has become worse for a slice.")
    assert verdict.reasons[0].startswith("quality has declined in the slice shop = south: e-value")
    assert "for 3 slices together" in verdict.reasons[0] and verdict.reasons[-1] == "steady"
    lines = monitor.slices(found).text.splitlines()
    assert "shop = south" in next(line for line in lines if "shop = " in line)  # the worst first


def test_a_slice_with_few_labels_cannot_say(schema):
    found = watched(schema, 1, min_labels=100_000)
    assert not found.declined and "cannot say" in monitor.slices(found).text
    assert all(np.isnan(each.evidence) for each in found.slices)


def test_without_slices_the_page_says_so(schema):
    assert "No slice is watched" in monitor.slices(slices.Watched((), 1.0)).text
