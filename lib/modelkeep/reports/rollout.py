"""What is told of a rollout: where it stands, the evidence against its thresholds, the share over time, the counts"""

import math
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import numpy as np

from modelkeep.core import markup
from modelkeep.core.markup import Html, count, number, several
from modelkeep.core.verdicts import Verdict
from modelkeep.rollout.planning import PROMOTE, Rules, span
from modelkeep.rollout.rollout_log import CANARY, RolloutLog

if TYPE_CHECKING:
    from modelkeep.reports.figures import Figure
    from modelkeep.rollout.control import Planned


SHOWN = 12  # looks in the table of counts
WIDE = 60  # looks in the picture of the terminal
BARS = "▁▂▃▄▅▆▇█"
QUESTIONS = ("worse", "harmless")
ENDS = {
    "step_up": ("promoted", "The canary was promoted: it is the champion now."),
    "roll_back": ("rolled_back", "The canary was rolled back: the champion answers everybody."),
    "stop": ("stopped", "The rollout was stopped: the traffic was not split as it should be."),
    "abort": ("aborted", "A person ended the rollout: the champion answers everybody."),
    "overtaken": ("overtaken", "Another model became champion meanwhile: the rollout is over."),
}


def verdict(found: RolloutLog) -> Verdict:
    """Where a rollout stands, in one sentence, and why."""
    state, told = ENDS.get(found.end, ("paused" if found.paused else "running", ""))
    if found.end == "judged":
        state = said(found)["verdict"]
        told = f"The shadow is {state.replace('_', ' ')}: {said(found)['sentence']}."
    elif not found.end and found.spec.kind != CANARY:
        told = "The shadow answers beside the champion, heard by nobody; it is judged once enough days have come true."
    elif not found.end:
        held = ", held there by a person" if found.paused else ""
        told = f"The rollout goes on: the canary has {found.share:.0%} of the entities{held}."
    return Verdict("rollout", state, told, _reasons(found))


def _reasons(found: RolloutLog) -> tuple[str, ...]:
    reasons = [f"{v.word.replace('_', ' ')}: {v.reason}" for v in found.verdicts[-1:]]
    people = [event for event in found.events if event["event"] != "judged"]
    named = [f"{e['event']} at {_moment(e['at'])}{_why(e)}" for e in people]
    return (*reasons, *named)


def _why(event: Mapping) -> str:
    return f": {event['reason']}" if event.get("reason") else ""


def said(found: RolloutLog) -> dict:
    """What the one verdict on a shadow says; empty before it."""
    return next((e for e in found.events if e["event"] == "judged"), {})


def facts(found: RolloutLog) -> dict[str, object]:
    """What the rollout was about, for the table on top of its page."""
    spec, last = found.spec, found.rows[-1] if found.rows else {}
    until = last.get("at") or found.upto
    return {
        "rollout": spec.id,
        "kind": spec.kind,
        "champion": _model(spec.champion),
        spec.kind: _model(spec.canary),
        "began": _moment(spec.started),
        "ended" if found.end else "seen until": _moment(until),
        "looks": number(len(found.verdicts)),
        "guards": several(found.rules.metrics),
        "why": spec.reason or "nobody said",
    }


def evidence(found: RolloutLog, question: str) -> "Figure | Html":
    """How the evidence of one question grew by metric, against what is enough: `worse` (then it goes back) or `harmless` (then the share may grow)."""
    from modelkeep.reports import (
        figures,  # Matplotlib takes a second to import, and a terminal needs none
    )

    looks = found.verdicts
    if not looks:
        return markup.table([], "There was no look yet.")
    rules = found.rules
    paths = {name: np.exp([v.evidence[name][question] for v in looks]) for name in rules.metrics}
    enough = (len(rules.metrics) if question == "worse" else 1) / rules.alpha
    crossed = [name for name, path in paths.items() if (path >= enough).any()]
    then = "goes back" if question == "worse" else "may grow"
    title = "Is the canary worse?" if question == "worse" else "Is it surely not much worse?"
    caption = f"{count(len(looks), 'look')}; {several(crossed) or 'none'} crossed the line at {number(float(enough))}. "
    caption += (
        "One metric beyond it is enough."
        if question == "worse"
        else "The share grows when all are beyond it, and each step begins anew."
    )
    return figures.e_values(
        _times(found), paths, float(enough), title=title, caption=caption, then=then
    )


def shares(found: RolloutLog) -> "Figure | Html":
    """The canary's share over time, as steps."""
    from modelkeep.reports import (
        figures,  # Matplotlib takes a second to import, and a terminal needs none
    )

    looks = found.verdicts
    if not looks:
        return markup.table([], "There was no look yet.")
    steps = [f"{share:.0%}" for share in (*found.rules.shares, 1.0)]
    after = [v.share for v in looks]
    times = np.concatenate([[np.datetime64(found.spec.started, "us")], _times(found)])
    return figures.course(
        np.repeat(times, 2)[1:],  # it stays what it was until a look changes it
        np.repeat([found.rules.shares[0], *after], 2)[:-1],
        name="the canary's share",
        title="The canary's share of the predictions over time",
        caption=f"The steps are {several(steps, 9)} of the entities; after {count(len(looks), 'look')} it has {after[-1]:.0%}.",
        share=True,
    )


def counts(found: RolloutLog) -> Html:
    """What the newest looks counted: bad of all, champion beside canary."""
    rows = []
    looks = [row for row in found.rows if "look" in row]
    for row, verdict in list(zip(looks, found.verdicts, strict=True))[-SHOWN:]:
        told = {"after": span(row["look"]["at"] / 3600), "share": f"{verdict.share:.0%}"}
        for name in found.rules.metrics:
            strata = row["look"]["counts"].get(name, [])
            n_a, x_a, n_b, x_b = np.sum(strata, axis=0).tolist() if strata else (0, 0, 0, 0)
            told[name] = f"{_rate(x_a, n_a)} of {n_a:,} | {_rate(x_b, n_b)} of {n_b:,}"
        rows.append(told | {"concluded": verdict.word.replace("_", " ")})
    return markup.table(rows, "There was no look yet.")


def totals(found: RolloutLog) -> Html:
    """All that was counted of each metric, in words; the judge never pools them over steps."""
    rows = []
    for name in found.rules.metrics:
        strata = [s for row in found.rows if "look" in row for s in row["look"]["counts"].get(name, ())]  # fmt: skip
        n_a, x_a, n_b, x_b = np.sum(strata, axis=0).tolist() if strata else (0, 0, 0, 0)
        rows.append(
            {
                "metric": name,
                "champion": f"{x_a:,} of {n_a:,} ({_rate(x_a, n_a)})",
                "canary": f"{x_b:,} of {n_b:,} ({_rate(x_b, n_b)})",
            }
        )
    return markup.table(rows)


def paired(found: RolloutLog) -> "Figure | Html":
    """What a shadow gained on the rows that both answered."""
    from modelkeep.reports import (
        figures,  # Matplotlib takes a second to import, and a terminal needs none
    )

    told = said(found)
    if not told.get("gains"):
        return markup.table([], told.get("sentence", "This was no shadow, or its days have not come true yet."))  # fmt: skip
    rows = [
        {"name": g["metric"], "value": g["gain"], "low": g["low"], "high": g["high"], "breach": g["verdict"] == "worse"}
        for g in told["gains"]
    ]  # fmt: skip
    return figures.forest(
        rows,
        name="gain of the shadow over the champion",
        title="Was the shadow better on the same rows?",
        caption=f"{told['labelled']:,} rows of {told['days']} days with their truth; they would say different things on {told['disagree']:.1%} of {told['pairs']:,} rows.",
    )


def changed(found: RolloutLog, rules: Rules) -> str:
    """How the rules of the next rollout would differ from those of this one."""
    old, new = vars(found.rules), vars(rules)
    names = [name for name in old if old[name] != new[name]]
    if not names:
        return "The next rollout would keep to the same rules."
    told = [f"{name}: {old[name]} then, {new[name]} now" for name in names]
    return f"The next rollout would keep to other rules: {'; '.join(told)}."


def picture(found: RolloutLog) -> str:
    """The evidence over time, for a terminal: a line a metric and question, full where it is enough."""
    rules, lines = found.rules, []
    looks = [v for v in found.verdicts if v.evidence][-WIDE:]
    for question, then in zip(QUESTIONS, ("goes back", "may grow"), strict=True):
        enough = math.log((len(rules.metrics) if question == "worse" else 1) / rules.alpha)
        for name in rules.metrics if looks else ():
            path = [v.evidence[name][question] for v in looks]
            drawn = "".join(BARS[_level(value / enough)] for value in path)
            lines.append(f"{question:>8} {name:<7} {drawn} {path[-1]:6.2f}, {then} at {enough:.2f}")
    return "\n".join(lines)


def planned(found: "Planned") -> str:
    """A plan in words: what each step needs, what it bounds, what it would miss."""
    before, rules = found.before, found.rules
    rates = ", ".join(f"{name} {rate:.2%}" for name, rate in before.base.items())
    unit = "entities" if found.entity else "requests"
    lines = [f"The champion answers {before.rate:,.2f} new {unit} a second; bad: {rates}."]
    if found.why:
        lines.append(f"params/rollout.yaml: {found.why}.")
        shares, margins = [round(100 * s, 3) for s in rules.shares], list(rules.margins)
        lines.append(f"For this traffic: steps {shares}, margins {[round(m, 3) for m in margins]}.")
    for need in found.plan.steps if found.plan else ():
        amount = f"{need.rows:,.0f} answers, {need.hours:.2f} h"
        margin = f"until {need.margin:g} times worse is refuted"
        lines.append(
            f"  {need.share:>4.0%}, {margin}: {amount}; the canary gives {need.exposed:,.0f}"
        )
    hours = f"{rules.longest / 3600:g} h"
    lines.append(
        found.plan.sentence
        if found.plan
        else f"No margin can be refuted in {hours}: after them it is promoted unless harm is shown."
    )
    lines.append(f"Found worse within {hours} at {rules.shares[-1]:.0%} (simulated):")
    for name, chances in found.risks.items():
        harmful = ", ".join(f"{r:g} times as bad {p:.0%}" for r, p in chances.items() if r > 1)
        lines.append(f"  {name}: an equal one {chances[1.0]:.1%}; {harmful}")
    if rules.undecided == PROMOTE:
        lines.append("What is not found worse by then is promoted (on_undecided: promote).")
    if not found.entity:
        lines.append(
            "There is no entity column: requests of one user may be alike, and then an equal canary "
            "is rolled back more often than stated; name `entity_column` in params/prepare.yaml."
        )
    return "\n".join(lines)


def told(found: RolloutLog) -> dict:
    """Where a rollout stands, for `--json`."""
    last = found.verdicts[-1] if found.verdicts else None
    return {
        "id": found.spec.id,
        "kind": found.spec.kind,
        "state": verdict(found).state,
        "sentence": verdict(found).sentence,
        "share": found.share,
        "step": found.state.step,
        "looks": len(found.verdicts),
        "champion": dict(found.spec.champion),
        "canary": dict(found.spec.canary),
        "last": vars(last) if last else said(found) or None,
    }


def text(found: RolloutLog) -> str:
    """Where a rollout stands, for a person."""
    shown = verdict(found)
    facing = f"{_model(found.spec.canary)} against {_model(found.spec.champion)}"
    lines = [f"{found.spec.id}: {shown.sentence}", f"{facing}, {count(len(found.verdicts), 'look')}"]  # fmt: skip
    lines += [f"- {reason}" for reason in shown.reasons]
    return "\n".join([*lines, picture(found)]).rstrip()


def _times(found: RolloutLog) -> np.ndarray:
    at = [row["look"]["at"] for row in found.rows if "look" in row]
    began = np.datetime64(found.spec.started, "us")
    return began + (np.array(at) * 1e6).astype("timedelta64[us]")


def _level(part: float) -> int:
    return int(np.clip(part, 0, 1) * (len(BARS) - 1))


def _rate(bad: int, rows: int) -> str:
    return f"{bad / rows:.2%}" if rows else "unknown"


def _model(role: Mapping[str, str]) -> str:
    return " ".join(filter(None, [role["version"], role["sha256"][:10]]))


def _moment(at: int) -> str:
    return f"{datetime.fromtimestamp(at / 1e6, UTC):%Y-%m-%d %H:%M:%S} UTC"
