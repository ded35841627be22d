"""History replayed under a maintenance policy, week by week."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from modelkeep.backtest import guarded, point_in_time, policies, trials
from modelkeep.backtest.point_in_time import History, Model
from modelkeep.backtest.policies import Policy, Replay, Week
from modelkeep.backtest.trials import Rollout
from modelkeep.data.columns import with_column
from modelkeep.evaluation import metrics
from modelkeep.evaluation.profile import Profile
from modelkeep.monitoring import decisions, windows
from modelkeep.predictions import frames
from modelkeep.rollout import planning
from modelkeep.training import maintenance, reference

EVERY = 4  # oracle chooses among the models of every fourth week


@dataclass(frozen=True)
class Rules:
    """The settings of production: parameters of evaluate and monitor, rules of a rollout and
    guards.

    `rollout` None: canaries cannot be replayed. The monitor reads `log_days` of predictions.
    """

    bounds: Mapping
    monitor: Mapping
    rollout: planning.Rules | None = None
    log_days: int = 84
    guards: maintenance.Rules = field(default_factory=maintenance.Rules)


@dataclass
class _Service:
    """The models in service, and the log of their predictions."""

    champion: Model
    log: list[pd.DataFrame] = field(default_factory=list)
    reference: Profile | None = None
    series: windows.WindowSeries | None = None
    counted: dict[tuple, Profile] = field(default_factory=dict)
    rollout: Rollout | None = None
    before: Model | None = None  # the champion before
    refused: Model | None = None


def replay(history: History, policy: Policy, rules: Rules) -> Replay:
    """Every week under a policy, with the knowledge of its beginning only."""
    if policy.kind == "guarded":
        return guarded.replay(history, policy, rules.guards)
    weeks = len(history.starts)
    if not policy.gate:
        ahead = [0, *policies.scheduled(policy, weeks)]
        history.learn_ahead([(w, policy.history_days if w else 0, 0) for w in ahead])
    service, played = _Service(history.learn(0)), []
    for week in range(weeks):
        did = _maintain(history, policy, rules, service, week) if week else {}
        did |= _serve(history, policy, rules, service, week)
        played.append(Week(history.starts[week], **did))
    return Replay(policy, tuple(played))


def _maintain(history: History, policy: Policy, rules: Rules, now: _Service, week: int) -> dict:
    """The work at the beginning of a week: monitor, train, gate."""
    did = {}
    if policy.kind == "every" and week % policy.weeks == 0:
        did["called"] = "due"
    elif policy.watches:
        did = _monitor(history, policy, rules, now, week)
    if not did.get("called") or now.rollout:
        return did
    candidate = history.learn(week, policy.history_days, policy.held)
    did["learned"], word = candidate.rows, "promoted"
    if policy.gate:
        did["candidate"] = word = trials.examine(history, candidate, now.champion, rules.bounds)
        if word not in trials.PASSES:
            now.refused = candidate
            return did
    if policy.canary:
        now.rollout = trials.begin(candidate, history, now.champion, week, rules.rollout)
        return did
    _promote(now, candidate)
    return did | {"candidate": word, "promoted": True}


def _promote(now: _Service, candidate: Model) -> None:
    now.before, now.champion, now.rollout = now.champion, candidate, None
    now.log, now.reference, now.series, now.counted = [], None, None, {}


def _monitor(history: History, policy: Policy, rules: Rules, now: _Service, week: int) -> dict:
    """The monitor's (or the estimate's) conclusion from the log as known when the week began."""
    schema, parameters = now.champion.schema, rules.monitor
    if not now.log:
        return {}
    if now.series is None:
        now.reference, now.series = _expected(history, now.champion, parameters)
    log = _as_known(pd.concat(now.log, ignore_index=True), schema, history, week)
    cut = windows.cut(log, schema, parameters["window_days"], parameters["window_rows"])
    judged = windows.extend(now.series, schema, cut, parameters["min_labels"]).windows
    if policy.kind == "estimate":
        return {"called": policies.estimate_declined(judged, schema.task)}
    counted = []
    for start, rows in cut:
        key = (start, len(rows))
        if key not in now.counted:
            now.counted[key] = reference.count(rows, schema, now.reference)
        counted.append(now.counted[key])
    chances = {
        k: parameters[k] for k in ("window_days", "false_alarms_per_year", "min_coverage", "seed")
    }
    decision = decisions.weigh(judged, counted, (), now.reference, **chances).decision
    called = decision.reasons[0] if decision.state == "retrain" else ""
    return {"state": decision.state, "called": called}


def _expected(
    history: History, champion: Model, parameters: Mapping
) -> tuple[Profile, windows.WindowSeries]:
    """The reference profile and expected performance of a champion, as `train` makes them."""
    out_of_fold, schema = history.out_of_fold(champion), champion.schema
    usual = frames.with_predictions(
        out_of_fold, schema, point_in_time.predictions(champion, out_of_fold)
    )
    cut = windows.cut(out_of_fold, schema, parameters["window_days"], parameters["window_rows"])
    return reference.learn(usual, schema), windows.extend(
        windows.WindowSeries(), schema, cut, parameters["min_labels"], True
    )


def _as_known(log: pd.DataFrame, schema: object, history: History, week: int) -> pd.DataFrame:
    """The log without the labels that arrived after a week began."""
    arrived = log[schema.time] + pd.Timedelta(days=history.label_delay_days) <= history.starts[week]
    return with_column(log, schema.label, log[schema.label].where(arrived))


def _serve(history: History, policy: Policy, rules: Rules, now: _Service, week: int) -> dict:
    """Predict the rows of a week."""
    champion, did = now.champion, {}
    others = [m for m in (now.before, now.refused) if m is not None]
    if now.rollout:
        others.append(now.rollout.candidate)
        rows, predictions, by_canary = trials.roll(now.rollout, history, champion, week)
        quality = history.realised(rows, predictions, champion.schema)
        rows, predictions = rows[~by_canary], predictions[~by_canary]
    elif policy.watches:
        rows, predictions = history.predicted(champion, week)
        quality = history.realised(rows, predictions, champion.schema)
    else:
        quality = history.quality(champion, week)
    if policy.watches:
        now.log.append(frames.with_predictions(rows, champion.schema, predictions))
        now.log = now.log[-max(rules.log_days // 7, 1) :]
    alternatives = [history.quality(m, week) for m in others]
    first = metrics.METRICS[champion.schema.task][0]
    best = min(alternatives, key=lambda q: q[first], default={})
    did |= {"champion": champion.key, "quality": quality, "best_at_hand": best}
    if now.rollout and (word := now.rollout.final):
        did["canary"] = word
        if word == "advance":
            _promote(now, now.rollout.candidate)
            did["promoted"] = True
        else:
            now.refused, now.rollout = now.rollout.candidate, None
    return did


def oracle(history: History, played: Replay) -> list[dict[str, float]]:
    """The best value of each metric by week.

    Candidates: the policy's own model, and of the models trained on everything the first, every
    fourth week's and the newest.
    """
    best = []
    for week, did in enumerate(played.weeks):
        tried = sorted({*range(0, week + 1, EVERY), week})
        known = [history.quality(history.learn(w), week) for w in tried]
        known += [did.quality, history.quality(history.learn(*did.champion), week)]
        best.append({m: _best(m, [q[m] for q in known]) for m in did.quality})
    return best


def _best(metric: str, values: list[float]) -> float:
    known = [v for v in values if not np.isnan(v)] or [np.nan]
    return max(known) if metric in metrics.HIGHER_IS_BETTER else min(known)
