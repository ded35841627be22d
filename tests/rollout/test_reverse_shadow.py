"""The reverse shadow's own figures; what an update does by it is in tests/ops/test_update.py."""

import numpy as np
import pytest

from modelkeep.training import maintenance

RULES, RECORD = maintenance.Rules(), maintenance.Record()


def day(rng, rows, harm):
    """Labels of a day, and predictions of a new and of a former model."""
    y = (rng.random(rows) < 0.3).astype(int)
    new, old = (np.clip(0.3 + 0.05 * rng.standard_normal(rows), 0.01, 0.99) for _ in range(2))
    new = np.clip(new + harm * (0.5 - y), 0.01, 0.99)
    return y, *(np.column_stack([1 - p, p]) for p in (new, old))


def judged(rng, rows, harm, days=7, weighted=True):
    """The guard's verdict on some days of so many rows."""
    parts = [day(rng, rows, harm) for _ in range(days)]
    days = np.repeat(np.arange(days), rows).astype("datetime64[D]")
    y, new, old = (np.concatenate(each) for each in zip(*parts, strict=True))
    found = maintenance.day_differences("binary", days, y, new, old)
    errors = found.errors if weighted else np.zeros(len(found.errors))
    return maintenance.reverse_shadow(found.means, errors, 0.6, RECORD, RULES)


@pytest.mark.parametrize("rows", [1, 5, 20, 900])
def test_an_equal_model_is_hardly_ever_taken_back_however_few_rows_a_day_has(rows):
    rng = np.random.default_rng(rows)
    held = sum(judged(rng, rows, 0.0).held for _ in range(400))
    assert held <= 12  # 1 % of 400 is 4; more than 12 by chance once in 2,500, with spare rates


def test_few_rows_would_take_equal_models_back_were_they_not_weighed_by_their_error():
    rng = np.random.default_rng(0)
    assert sum(judged(rng, 1, 0.0, weighted=False).held for _ in range(200)) > 20


@pytest.mark.parametrize(("rows", "days"), [(900, 2), (100, 3)])
def test_a_harmful_model_is_taken_back_within_days(rows, days):
    rng = np.random.default_rng(rows)
    assert all(judged(rng, rows, 0.4, days).held for _ in range(50))


def test_the_error_of_a_day_is_that_of_its_mean():
    rng = np.random.default_rng(5)
    y, new, old = day(rng, 400, 0.1)
    days = np.zeros(400, dtype="datetime64[D]")
    (error,) = maintenance.day_differences("binary", days, y, new, old).errors
    losses = [-np.log(p[np.arange(400), y]) for p in (new, old)]
    assert error == pytest.approx((losses[0] - losses[1]).std(ddof=1) / 20)
