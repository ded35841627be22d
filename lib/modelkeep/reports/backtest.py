"""The page of `backtest`: the benefit that a maintenance policy would have retained, its price, and
what its guards stop.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pandas as pd

from modelkeep.backtest import frontier, planted, trials
from modelkeep.backtest import recipes as walk
from modelkeep.backtest.alternatives import (
    AHEAD,
    ALTERNATIVES,
    Backtest,
    benefit_retained,
    difference,
    total_costs,
)
from modelkeep.backtest.cache import ResultCache
from modelkeep.backtest.point_in_time import History, HistoryError
from modelkeep.backtest.policies import Policy
from modelkeep.backtest.replay import Rules, Week
from modelkeep.core import files, git, markup, workspace
from modelkeep.core.markup import Html, between, count, number, several
from modelkeep.core.verdicts import Verdict
from modelkeep.data import splits
from modelkeep.data.columns import as_times
from modelkeep.evaluation import metrics
from modelkeep.evaluation.comparison import Verdict as Judged
from modelkeep.reports import figures
from modelkeep.reports.figures import Figure
from modelkeep.training import custom, maintenance

MADE_ANEW = ("source", "as_of", "label_delay_days", "history_days", "test_days", "test_share")
MATERIAL = 0.002  # a policy is better on a table if it is so for sure, by this share of the loss


def history(root: Path, start: str, end: str, label_delay_days: float) -> History:
    """The labelled table of params/prepare.yaml, to be replayed with the model of
    params/train.yaml.
    """
    preparing, learning = workspace.params(root, "prepare"), workspace.params(root, "train")
    table = _table(root, preparing)
    stated = {name: value for name, value in preparing.items() if name not in MADE_ANEW}
    results = ResultCache(_clone(root) / "data" / "backtest" / "kept")
    return History(
        table, stated, learning, start, end, label_delay_days, results, code=custom.current(root)
    )


def recipes(
    root: Path, commit: str
) -> tuple[History, History, tuple[float, float], dict[str, object]]:
    """What `backtest.recipes.walk_forward` needs: the recipe of a commit and that of the workspace
    on the table of today, days of history that each learns from, parameters of evaluate.
    """
    preparing = workspace.params(root, "prepare")
    table = _table(root, preparing)
    if not (time := preparing["time_column"]):
        raise HistoryError("time_column: there is none, so there is no history to walk over")
    times, end = as_times(table[time])[0], str(preparing["as_of"] or "")
    first = walk.start(times[times < pd.Timestamp(end)] if end else times)
    histories, days = [], []
    for at in (commit, ""):
        stated, learning = (_params(root, at, name) for name in ("prepare", "train"))
        days.append(float(stated["history_days"]))
        stated = {name: value for name, value in stated.items() if name not in MADE_ANEW}
        delay, code = preparing["label_delay_days"], custom.current(root, at)
        kept = ResultCache(_clone(root) / "data" / "backtest" / "kept")
        histories.append(History(table, stated, learning, first, end, delay, kept, code=code))
    return (*histories, tuple(days), workspace.params(root, "evaluate"))


def _params(root: Path, commit: str, name: str) -> dict[str, object]:
    """Parameters of a stage as a commit has them, or the workspace where none is named."""
    if not commit:
        return workspace.params(root, name)
    return workspace.value(git.run(root, "show", f"{commit}:./params/{name}.yaml")) or {}


def recipe_sentence(judged: Judged) -> str:
    """What fresh models of a changed recipe were worth over the weeks of history."""
    if not judged.gains:
        return "Over the history no week has labelled rows to compare the two recipes on."
    first = judged.gains[0]
    word = judged.word.replace("_", " ")
    return (
        f"Over {count(first.blocks, 'day')} of history fresh models of the changed recipe are "
        f"{word} ({first.metric.replace('_', ' ')}: gain {first.gain:.3g}, "
        f"{first.low:.3g} to {first.high:.3g}, margin {first.margin:.3g})."
    )


def _table(root: Path, preparing: Mapping) -> pd.DataFrame:
    return splits.read(
        preparing["source"], root, **{name: preparing[name] for name in splits.ROLES}
    )


def _clone(root: Path) -> Path:
    """The clone that `dvc exp run --temp` or `--queue` has copied to its .dvc/tmp, or the root
    itself.
    """
    outer = (p.parent for p in root.parents if p.name == ".dvc")
    return next(outer, root)


def rules(root: Path, policy: Policy, history: History) -> Rules:
    """What production goes by: the params of evaluate, monitor, collect and rollout."""
    rollout = None
    if policy.canary:
        task = history.learn(0).schema.task
        rollout = trials.rules(workspace.params(root, "rollout"), task, history.label_delay_days)
    days = workspace.params(root, "collect")["days"]
    bounds, parameters = (workspace.params(root, stage) for stage in ("evaluate", "monitor"))
    return Rules(bounds, parameters, rollout, days, maintenance.rules(root))


def verdict(result: Backtest) -> Verdict:
    """What the policy would have retained, for how much, and whether another one is better here."""
    first, mean = result.names[0], _means(result)
    parts = [
        f"{metrics.NAMES[m]} {number(mean['policy'][m])} (never {number(mean['never'][m])}, "
        f"every week {number(mean['weekly'][m])})"
        for m in result.names
    ]
    spent, weeks = (count(result.counts["retrains"], "retrain"), count(len(result.starts), "week"))
    name = result.replay.policy.name
    sentence = f"{name.capitalize()}: {' and '.join(parts)} by week, for {spent} in {weeks}."
    better = _better(result, first)
    if better:
        sentence += f" {better.capitalize()} is better on this table."
    reasons = (*_benefit(result, first), _choice(result, first), *_money(result))
    reasons += (*_faults(result), _counted(result))
    apart = {m: {k: asdict(difference(result, m, k)) for k in ALTERNATIVES} for m in result.names}
    evidence = {**stage_metrics(result), "better_than": apart}
    return Verdict("backtest", "investigate" if better else "ok", sentence, reasons, evidence)


def _better(result: Backtest, metric: str) -> str:
    """The best alternative that is better than the policy for sure, and by enough to matter."""
    loss = float(np.nanmean(result.courses["policy"].quality[metric]))
    apart = {k: difference(result, metric, k) for k in ALTERNATIVES if k != "oracle"}
    sure = {k: d.value for k, d in apart.items() if d.high < 0 and -d.value > MATERIAL * loss}
    return ALTERNATIVES[min(sure, key=sure.get)] if sure else ""


def _benefit(result: Backtest, metric: str) -> list[str]:
    name, gain = metrics.NAMES[metric], difference(result, metric, "never")
    reasons = [
        f"{name} is better by {between(gain.value, gain.low, gain.high)} than never updating"
    ]
    for m in result.names:
        share, enough = benefit_retained(result, m)
        if np.isfinite(share.value):
            reasons.append(
                f"{metrics.NAMES[m]}: {share.value:.0%} ({share.low:.0%} to {share.high:.0%}) of "
                "the "
                f"benefit of retraining every week is retained, at least {frontier.ENOUGH:.0%} in "
                f"{enough:.0%} of bootstrap samples"
            )
        else:
            reasons.append(f"{metrics.NAMES[m]}: retraining every week has no benefit here")
    c = result.courses
    level, _ = frontier.benefit_retained(metric, c["level"], c["never"], c["weekly"], result.drawn)
    if np.isfinite(level.value):
        reasons.append(
            f"{ALTERNATIVES['level']}, retains {level.value:.0%} ({level.low:.0%} to "
            f"{level.high:.0%}) of it in {name}"
        )
    return reasons


def _choice(result: Backtest, metric: str) -> str:
    c = result.courses
    chosen = frontier.choose(
        metric,
        [c[k] for k in ("policy", "monthly", "level")],
        c["never"],
        c["weekly"],
        result.drawn,
    )
    spent = next(x.retrains for x in c.values() if x.name == chosen.name)
    return (
        f"by {metrics.NAMES[metric]}, choose {chosen.name}: of {c['policy'].name}, never, a new "
        f"level, every 4 weeks and every week the cheapest that retains {frontier.ENOUGH:.0%} "
        f"({count(spent, 'retrain')}); "
        f"{chosen.probability:.0%} of bootstrap samples choose the same"
    )


def _money(result: Backtest) -> list[str]:
    if result.costs is None:
        return []
    spent = {name: sum(parts) for name, parts in total_costs(result).items()}
    cheapest = min(spent, key=spent.get)
    return [
        f"errors and retrains cost {number(spent['policy'])} in all; the cheapest is "
        f"{result.courses[cheapest].name} with {number(spent[cheapest])}"
    ]


def _faults(result: Backtest) -> list[str]:
    bad = [p for p in result.planted if p.bad]
    if not bad:
        return []
    before = sum(not p.served for p in bad) / len(bad)
    back = sum(bool(p.stopped_by) for p in bad) / len(bad)
    share = sum(p.answered for p in bad) / sum(p.rows for p in bad)
    sound = [w for w in result.replay.weeks if w.called]
    stopped = sum(bool(w.held_by) for w in sound)
    return [
        f"of {len(bad)} planted candidates that are more than {planted.HARMFUL:.0%} worse, "
        f"{before:.1%} were stopped before they served, {back:.1%} with take-back; they answered "
        f"{share:.1%} of the rows of two weeks",
        f"of {len(sound)} updates on the history as it is, {stopped} were held, refused or taken "
        "back",
    ]


def _counted(result: Backtest) -> str:
    return several(
        [
            f"{name.replace('_', ' ')} {value:,}"
            for name, value in result.counts.items()
            if name != "retrains"
        ],
        10,
    )


def faults(result: Backtest) -> Html:
    """What was planted, by kind: how many were bad, what stopped them, how many rows they
    answered.
    """
    rows = []
    for kind in planted.FAULTS:
        bad = [p for p in result.planted if p.kind == kind and p.bad]
        stops = Counter(p.stopped_by or "nothing" for p in bad)
        total = sum(p.rows for p in bad)
        rows.append(
            {
                "fault": kind,
                "planted": sum(p.kind == kind for p in result.planted),
                f"more than {planted.HARMFUL:.0%} worse": len(bad),
                "stopped before service": sum(not p.served for p in bad),
                "by": ", ".join(f"{name} {n}" for name, n in stops.most_common()) or "–",
                "share of rows answered": f"{sum(p.answered for p in bad) / total:.1%}"
                if total
                else "–",
            }
        )
    none = "Nothing was planted: set policy to guarded and planted_every above 0."
    return markup.table(rows if result.planted else [], none)


def _means(result: Backtest) -> dict[str, dict[str, float]]:
    return {
        k: {m: float(np.nanmean(values)) for m, values in c.quality.items()}
        for k, c in result.courses.items()
    }


def stage_metrics(result: Backtest) -> dict:
    """The numbers for `dvc metrics` and for a sweep: price, quality, benefit retained, faults
    stopped.
    """
    values: dict = dict(result.counts)
    for name, mean in _means(result)["policy"].items():
        share, enough = benefit_retained(result, name)
        retained = {"": share.value, "_low": share.low, "_high": share.high, "_enough": enough}
        values[name] = mean
        values |= {f"{name}_benefit_retained{part}": x for part, x in retained.items()}
    if bad := [p for p in result.planted if p.bad]:
        values["faults_harmful"] = len(bad)
        values["faults_stopped_before_service"] = sum(not p.served for p in bad)
        values["faults_stopped"] = sum(bool(p.stopped_by) for p in bad)
    return {k: None if x != x else x for k, x in values.items()}


def course(result: Backtest, metric: str) -> Figure:
    """One metric by week under the policy and under what it is compared with."""
    weeks, mean = result.replay.weeks, _means(result)
    lines = {"this policy": result.courses["policy"].quality[metric]}
    drawn = [k for k in ALTERNATIVES if k not in ("monthly", "level")]  # more hide each other
    lines |= {ALTERNATIVES[k]: result.courses[k].quality[metric] for k in drawn}
    marks = {"a new model": np.array([w.promoted for w in weeks])}
    marks["refused"] = np.array([w.learned > 0 and not w.promoted for w in weeks])
    name = metrics.NAMES[metric]
    each = ", ".join(
        f"{label} {number(mean[k][metric])}"
        for k, label in {"policy": "this policy", **ALTERNATIVES}.items()
    )
    caption = f"{len(weeks)} weeks; on average {each}."
    return figures.courses(
        result.starts,
        lines,
        marks,
        name=name,
        title=f"How good was {name}, week by week?",
        caption=caption,
    )


def differences(result: Backtest, metric: str) -> Figure:
    """How much better the policy is than each reference, with intervals by blocks of weeks."""
    rows = [
        {
            "name": ALTERNATIVES[k],
            "value": d.value,
            "low": d.low,
            "high": d.high,
            "breach": d.high < 0,
        }
        for k in ALTERNATIVES
        for d in [difference(result, metric, k)]
    ]
    name = metrics.NAMES[metric]
    probability = difference(result, metric, "never").probability
    return figures.forest(
        rows,
        name=f"gain in {name} by week",
        title=f"By how much does {name} differ from the alternatives?",
        caption=f"Means of {len(result.starts)} weeks with 95 % intervals ({len(result.drawn):,} "
        f"bootstrap samples of blocks of weeks); better than never updating in {probability:.0%} "
        "of them.",
    )


def price(result: Backtest) -> Html:
    """What was spent and what went wrong, line by line."""
    meaning = {
        "retrains": "models that were trained",
        "rows_learned": "rows that they learned from in all, which their computing time goes with",
        "promotions": "of them went into service",
        "refused": "were stopped by a gate",
        "held": "updates were held by label or column guard, before training",
        "rolled_back": "were rolled back as a canary, or taken back by the reverse shadow",
        "false_alarms": "calls though the model in service was as good as a fresh one over the "
        f"next {AHEAD} weeks",
        "missed_declines": "stretches of weeks without a call though it was worse over the next "
        f"{AHEAD} weeks",
        "weeks_of_missed_decline": "how many weeks these were",
        "days_worse_than_at_hand": "days on a model while a better one, replaced or refused, was "
        "at hand",
    }
    rows = [
        {"": k.replace("_", " "), "number": result.counts[k], "what it counts": text}
        for k, text in meaning.items()
    ]
    return markup.table(rows)


def costs(result: Backtest) -> Html:
    """What each policy would have cost over all weeks, the cheapest first."""
    if result.costs is None:
        return markup.table([], "No costs are stated (`costs` in params/train.yaml).")
    lines = sorted(total_costs(result).items(), key=lambda line: sum(line[1]))
    rows = []
    for name, (errors, training) in lines:
        course = result.courses[name]
        rows.append(
            {
                "policy": course.name,
                "cost a row": number(float(np.nanmean(course.quality["cost"]))),
                "errors": number(errors),
                "retrains": f"{course.retrains:,} for {number(training)}",
                "in all": number(errors + training),
            }
        )
    return markup.table(rows)


def acts(result: Backtest) -> Html:
    """The weeks in which something was done, and why."""
    weeks = result.replay.weeks
    rows = [_act(w) for w in weeks if w.called or w.promoted or w.canary or w.held_by]
    return markup.table(rows, "Nothing was done in any week.")


def _act(w: Week) -> dict:
    done = "trial with a canary" if w.learned and not w.candidate else w.candidate.replace("_", " ")
    return {
        "week": str(w.start),
        "called because": w.called or "–",
        "stopped by": w.held_by or "–",
        "reason": w.reason or "–",
        "learned from": f"{w.learned:,} rows" if w.learned else "–",
        "word": done or "–",
        "canary": w.canary.replace("_", " ") or "–",
        "in service": "yes" if w.promoted else "no",
    }


def course_csv(result: Backtest) -> str:
    """Each metric by week under the policy and each reference, for `dvc plots` and for a sweep's
    page.
    """
    columns = [(m, k) for m in result.names for k in result.courses]
    lines = ["week," + ",".join(f"{m}_{k}" for m, k in columns)]
    for i, start in enumerate(result.starts):
        values = [result.courses[k].quality[m][i] for m, k in columns]
        lines.append(",".join([str(start), *("" if np.isnan(v) else f"{v:.6g}" for v in values)]))
    return "\n".join(lines) + "\n"


def times(history: History, root: Path) -> None:
    """Seconds of computing by model, beside what reproduces: no two runs take the same."""
    spent = [
        {
            "week": str(history.starts[key[0]]),
            "history_days": key[1],
            "held_days": key[2],
            "seconds": round(s, 2),
        }
        for key, s in sorted(history.spent.items())
    ]
    files.write_json(root / "data" / "backtest" / "times.json", spent)
