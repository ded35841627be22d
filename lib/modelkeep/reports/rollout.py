"""The rollout report: its state, the evidence with its thresholds, the share over time, counts."""

import math
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import numpy as np

from modelkeep.core import markup
from modelkeep.core.markup import Html, number, several, significant
from modelkeep.core.verdicts import Verdict
from modelkeep.rollout.judge import ABORT, ADVANCE, ROLLBACK
from modelkeep.rollout.planning import PROMOTE, Rules, span
from modelkeep.rollout.rollout_log import ABORTED, CANARY, OVERTAKEN, RolloutLog

if TYPE_CHECKING:
    from modelkeep.reports.figures import Figure
    from modelkeep.rollout.control import Planned


SHOWN = 12  # analyses in the table of counts
WIDE = 60  # analyses in the picture of the terminal
BARS = "▁▂▃▄▅▆▇█"
THRESHOLDS = {  # by question: what follows beyond the threshold, the figure's title, the rule
    "e_worse": (
        "goes back",
        "E-value that the canary is worse, by metric",
        "One metric beyond it is enough.",
    ),
    "e_noninferior": (
        "may grow",
        "E-value that the canary is non-inferior, by metric",
        "The share grows when all are beyond it, and each step begins anew.",
    ),
}
ENDS = {
    ADVANCE: ("promoted", "The canary was promoted: it is the champion now."),
    ROLLBACK: ("rolled_back", "The canary was rolled back: the champion serves all requests."),
    ABORT: ("aborted", "The rollout was aborted: the traffic was not split as planned."),
    ABORTED: (ABORTED, "A person aborted the rollout: the champion serves all requests."),
    OVERTAKEN: ("overtaken", "Another model became champion meanwhile: the rollout is over."),
}


def verdict(found: RolloutLog) -> Verdict:
    """The state of a rollout, in one sentence, and its reasons."""
    state, sentence = ENDS.get(found.end, ("paused" if found.paused else "running", ""))
    if found.end == "judged":
        state = shadow_result(found)["verdict"]
        sentence = f"The shadow is {state.replace('_', ' ')}: {shadow_result(found)['sentence']}."
    elif not found.end and found.spec.kind != CANARY:
        sentence = (
            "The shadow serves beside the champion, and no client gets its predictions; "
            "it is judged once enough days have labels."
        )
    elif not found.end:
        held = ", held there by a person" if found.paused else ""
        sentence = f"The rollout goes on: the canary has {found.share:.0%} of the entities{held}."
    return Verdict("rollout", state, sentence, _reasons(found))


def _reasons(found: RolloutLog) -> tuple[str, ...]:
    reasons = [f"{v.decision.replace('_', ' ')}: {v.reason}" for v in found.verdicts[-1:]]
    people = [event for event in found.events if event["event"] != "judged"]
    named = [f"{e['event']} at {_moment(e['at'])}{_why(e)}" for e in people]
    return (*reasons, *named)


def _why(event: Mapping) -> str:
    return f": {event['reason']}" if event.get("reason") else ""


def shadow_result(found: RolloutLog) -> dict:
    """The one verdict on a shadow; empty before it."""
    return next((e for e in found.events if e["event"] == "judged"), {})


def facts(found: RolloutLog) -> dict[str, object]:
    """Models, times and metrics of a rollout, for the table on top of its page."""
    spec, last = found.spec, found.rows[-1] if found.rows else {}
    until = last.get("at") or found.upto
    return {
        "rollout": spec.id,
        "kind": spec.kind,
        "champion": _model(spec.champion),
        spec.kind: _model(spec.canary),
        "began": _moment(spec.started),
        "ended" if found.end else "analysed until": _moment(until),
        "analyses": number(len(found.verdicts)),
        "guardrail metrics": several(found.rules.metrics),
        "reason": spec.reason or "not given",
    }


def evidence(found: RolloutLog, question: str) -> "Figure | Html":
    """The e-values of one question over time, by metric, with the alert threshold.

    `e_worse`: beyond it the canary is rolled back; `e_noninferior`: beyond it the share may grow.
    """
    from modelkeep.reports import figures  # Matplotlib takes a second to import

    analyses = found.verdicts
    if not analyses:
        return markup.table([], "There was no analysis yet.")
    rules = found.rules
    paths = {
        name: np.array([v.evidence[name][question] for v in analyses]) for name in rules.metrics
    }
    threshold = rules.alert if question == "e_worse" else 1 / rules.alpha
    crossed = [name for name, path in paths.items() if (path >= threshold).any()]
    then, title, rule = THRESHOLDS[question]
    caption = (
        f"{_analyses(found)}; {several(crossed) or 'none'} crossed the alert threshold of "
        f"{significant(threshold)}. {rule}"
    )
    return figures.e_values(
        _times(found), paths, threshold, title=title, caption=caption, then=then
    )


def shares(found: RolloutLog) -> "Figure | Html":
    """The canary's share over time, as steps."""
    from modelkeep.reports import figures  # Matplotlib takes a second to import

    analyses = found.verdicts
    if not analyses:
        return markup.table([], "There was no analysis yet.")
    steps = [f"{share:.0%}" for share in (*found.rules.shares, 1.0)]
    after = [v.share for v in analyses]
    times = np.concatenate([[np.datetime64(found.spec.started, "us")], _times(found)])
    return figures.course(
        np.repeat(times, 2)[1:],  # it stays what it was until an analysis changes it
        np.repeat([found.rules.shares[0], *after], 2)[:-1],
        name="the canary's share",
        title="The canary's share of the entities over time",
        caption=f"The steps are {several(steps, 9)} of the entities; "
        f"after {_analyses(found)} it has {after[-1]:.0%}.",
        share=True,
    )


def counts(found: RolloutLog) -> Html:
    """The counts of the newest analyses: bad of all, champion beside canary."""
    rows = []
    analyses = [row for row in found.rows if "analysis" in row]
    for row, verdict in list(zip(analyses, found.verdicts, strict=True))[-SHOWN:]:
        line = {"after": span(row["analysis"]["at"] / 3600), "share": f"{verdict.share:.0%}"}
        for name in found.rules.metrics:
            strata = row["analysis"]["counts"].get(name, [])
            n_a, x_a, n_b, x_b = np.sum(strata, axis=0).tolist() if strata else (0, 0, 0, 0)
            line[name] = f"{_rate(x_a, n_a)} of {n_a:,} | {_rate(x_b, n_b)} of {n_b:,}"
        rows.append(line | {"decision": verdict.decision.replace("_", " ")})
    return markup.table(rows, "There was no analysis yet.")


def totals(found: RolloutLog) -> Html:
    """The sums by metric and watched slice, for people: the judge never pools counts over steps."""
    rows, analyses = [], [row["analysis"] for row in found.rows if "analysis" in row]
    last = found.verdicts[-1].evidence if found.verdicts else {}
    rules = found.rules
    alerts = dict.fromkeys(rules.metrics, rules.alert)
    alerts |= {each.name: rules.slice_alert for each in rules.slices}
    for name, alert in alerts.items():
        strata = [s for analysis in analyses for s in analysis["counts"].get(name, ())]
        n_a, x_a, n_b, x_b = np.sum(strata, axis=0).tolist() if strata else (0, 0, 0, 0)
        rows.append(
            {
                "metric": name,
                "champion": f"{x_a:,} of {n_a:,} ({_rate(x_a, n_a)})",
                "canary": f"{x_b:,} of {n_b:,} ({_rate(x_b, n_b)})",
                "e-value that it is worse": significant(last[name]["e_worse"])
                if name in last
                else "–",
                "alert from": significant(alert),
            }
        )
    return markup.table(rows)


def paired(found: RolloutLog) -> "Figure | Html":
    """The gain of a shadow on the rows that both models predicted."""
    from modelkeep.reports import figures  # Matplotlib takes a second to import

    result = shadow_result(found)
    if not result.get("gains"):
        none = "This was no shadow, or its days have no labels yet."
        return markup.table([], result.get("sentence", none))
    rows = [
        {
            "name": gain["metric"],
            "value": gain["gain"],
            "low": gain["low"],
            "high": gain["high"],
            "breach": gain["verdict"] == "worse",
        }
        for gain in result["gains"]
    ]
    return figures.forest(
        rows,
        name="gain of the shadow over the champion",
        title="Was the shadow better on the same rows?",
        caption=f"{result['labelled']:,} rows of {result['days']} days with labels; "
        f"they differ on {result['disagree']:.1%} of {result['pairs']:,} rows.",
    )


def changed(found: RolloutLog, rules: Rules) -> str:
    """How the rules of the next rollout would differ from those of this one."""
    old, new = vars(found.rules), vars(rules)
    names = [name for name in old if old[name] != new[name] and name != "slices"]
    if not names:
        return "The next rollout would have the same rules."
    changes = [f"{name}: {old[name]} then, {new[name]} now" for name in names]
    return f"The next rollout would have other rules: {'; '.join(changes)}."


def picture(found: RolloutLog) -> str:
    """The e-values over time, for a terminal: a line a metric and question."""
    rules, lines = found.rules, []
    analyses = [v for v in found.verdicts if v.evidence][-WIDE:]
    for question, (then, _, _) in THRESHOLDS.items():
        threshold = rules.alert if question == "e_worse" else 1 / rules.alpha
        for name in rules.metrics if analyses else ():
            path = [v.evidence[name][question] for v in analyses]
            drawn = "".join(BARS[_level(value, threshold)] for value in path)
            value = f"e-value {significant(path[-1])}, {then} at {significant(threshold)}"
            lines.append(f"{question:>13} {name:<7} {drawn} {value}")
    return "\n".join(lines)


def planned(found: "Planned") -> str:
    """A plan in words: the need of each step, its margin, and the risks."""
    before, rules = found.before, found.rules
    rates = ", ".join(f"{name} {rate:.2%}" for name, rate in before.base.items())
    unit = "entities" if found.entity else "requests"
    lines = [f"The champion serves {before.rate:,.2f} new {unit} a second; bad: {rates}."]
    if found.why:
        lines.append(f"params/rollout.yaml: {found.why}.")
        shares, margins = [round(100 * s, 3) for s in rules.shares], list(rules.margins)
        lines.append(f"For this traffic: steps {shares}, margins {[round(m, 3) for m in margins]}.")
    for need in found.plan.steps if found.plan else ():
        amount = f"{need.rows:,.0f} predictions, {need.hours:.2f} h"
        margin = f"until {need.margin:g} times worse is rejected"
        lines.append(
            f"  {need.share:>4.0%}, {margin}: {amount}; the canary makes {need.exposed:,.0f}"
        )
    hours = f"{rules.longest / 3600:g} h"
    lines.append(
        found.plan.sentence
        if found.plan
        else f"No margin can be rejected in {hours}: then it is promoted unless harm is shown."
    )
    lines.append(f"Found worse within {hours} at {rules.shares[-1]:.0%} (simulated):")
    for name, chances in found.risks.items():
        harmful = ", ".join(f"{r:g} times as bad {p:.0%}" for r, p in chances.items() if r > 1)
        lines.append(f"  {name}: an equal one {chances[1.0]:.1%}; {harmful}")
    if rules.on_undecided == PROMOTE:
        lines.append("A canary not found worse by then is promoted (on_undecided: promote).")
    if not found.entity:
        lines.append(
            "There is no entity column, so each request is assigned by itself: like requests of "
            "one user do not make a false rollback more likely, but a user gets predictions of "
            "both models. To keep a user with one model, name `entity_column` in "
            "params/prepare.yaml."
        )
    return "\n".join(lines)


def state(found: RolloutLog) -> dict:
    """The state of a rollout, for `--json`."""
    last = found.verdicts[-1] if found.verdicts else None
    return {
        "id": found.spec.id,
        "kind": found.spec.kind,
        "state": verdict(found).state,
        "sentence": verdict(found).sentence,
        "share": found.share,
        "step": found.state.step,
        "analyses": len(found.verdicts),
        "champion": dict(found.spec.champion),
        "canary": dict(found.spec.canary),
        "last": vars(last) if last else shadow_result(found) or None,
    }


def text(found: RolloutLog) -> str:
    """The state of a rollout, for a terminal."""
    shown = verdict(found)
    facing = f"{_model(found.spec.canary)} against {_model(found.spec.champion)}"
    lines = [f"{found.spec.id}: {shown.sentence}", f"{facing}, {_analyses(found)}"]
    lines += [f"- {reason}" for reason in shown.reasons]
    return "\n".join([*lines, picture(found)]).rstrip()


def _analyses(found: RolloutLog) -> str:
    number = len(found.verdicts)
    return f"{number:,} {'analysis' if number == 1 else 'analyses'}"


def _times(found: RolloutLog) -> np.ndarray:
    at = [row["analysis"]["at"] for row in found.rows if "analysis" in row]
    began = np.datetime64(found.spec.started, "us")
    return began + (np.array(at) * 1e6).astype("timedelta64[us]")


def _level(value: float, threshold: float) -> int:
    part = math.log(max(value, 1.0)) / math.log(threshold)
    return int(min(part, 1.0) * (len(BARS) - 1))


def _rate(bad: int, rows: int) -> str:
    return f"{bad / rows:.2%}" if rows else "unknown"


def _model(role: Mapping[str, str]) -> str:
    return " ".join(filter(None, [role["version"], role["sha256"][:10]]))


def _moment(at: int) -> str:
    return f"{datetime.fromtimestamp(at / 1e6, UTC):%Y-%m-%d %H:%M:%S} UTC"
