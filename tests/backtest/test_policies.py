"""Policies: what may be asked for, what they are called, and when the estimate has declined."""

import pytest

from modelkeep.backtest import policies
from modelkeep.backtest.policies import Policy, PolicyError
from modelkeep.monitoring.windows import Window


@pytest.mark.parametrize(
    ("made", "words"),
    [
        ({"kind": "sometimes"}, "`policy` is 'sometimes'; it must be one of guarded, never, every"),
        ({"kind": "every", "weeks": 0}, "`weeks` is 0; it must be 1 or more"),
        ({"kind": "every", "history_days": -1}, "`history_days` is -1"),
        ({"kind": "every", "gate": True, "history_days": 14}, "above test_days .30. with a gate"),
        ({"kind": "every", "gate": True, "test_days": 0}, "`test_days` is 0"),
    ],
)
def test_a_policy_that_nobody_could_follow(made, words):
    with pytest.raises(PolicyError, match=words):
        Policy(**made)


def test_a_policy_is_told_in_words():
    assert Policy("never").name == "never"
    assert Policy("every", 1).name == "every week, on everything"
    told = Policy("monitor", history_days=90, gate=True, canary=True).name
    assert told == "when the monitor says so, on the last 90 days, gate and canary"


def test_only_a_gate_keeps_days_back():
    assert Policy("every").held == 0
    assert Policy("every", gate=True).held == 30


def test_the_schedule_is_known_beforehand():
    assert policies.scheduled(Policy("every", 4), 13) == [4, 8, 12]
    assert policies.scheduled(Policy("monitor"), 13) == []


def window(past, value, low):
    realised = {"log_loss": value} if past else {}
    return Window("w", 100, 100, past, realised, low={"log_loss": low} if low else {})


def test_an_estimate_has_declined_when_even_its_better_end_is_worse_than_expected():
    past = [window(True, 0.5, None), window(True, 0.6, None)]
    assert policies.estimate_declined([*past, window(False, None, 0.54)], "binary") == ""
    told = policies.estimate_declined([*past, window(False, None, 0.56)], "binary")
    assert told == "log loss is estimated at 0.56 at least, 0.55 was expected"
    assert policies.estimate_declined([*past, window(False, None, None)], "binary") == ""
    assert policies.estimate_declined(past, "binary") == ""
