"""The page of a year: what happened, how good it was, and what was checked."""

from datetime import datetime

import numpy as np

from modelkeep.core import markup, pages
from modelkeep.core.markup import Html, count, number, several
from modelkeep.evaluation import metrics
from modelkeep.reports import figures, rollout
from modelkeep.rollout.rollout_log import RolloutLog
from told import Told, wrong

REASONS = {
    "source": "a folder that grows; the bundled example is one table of the whole year",
    "entity_column": "one decision is about one flight; 900 a day are too few to wait for new aircraft",
    "folds": "the year trains eleven models, and shall take minutes",
    "permutations": "the year is looked at ten times, and shall take minutes",
    "days": "the monitor looks at the answers since the turn before",
    "steps": "at 1 % of 900 flights a day the first step alone would take months",
    "margins": "what 900 flights a day can refute within two weeks",
    "floor": "the server fails almost nobody, so a share must be named that nobody would mind",
    "maturity_hours": "the truth comes a day after the flight",
    "look_seconds": "four looks a day",
    "dwell_minutes": "no step is shorter than a day, as hours of one day are alike",
    "max_hours": "three weeks, so that a rollout has ended before the next turn",
    "retrain": "every four weeks by the calendar, so that the year does not hang on the monitor",
    "every_days": "four weeks",
    "shadow": "a shadow takes thirty days, longer than a turn; a candidate that the gate cannot tell is refused",
}


def page(told: Told, events: list[dict], params: dict, commit: str, spent: float) -> str:  # fmt: skip
    """The page as HTML; `commit` is that of the repository that was cloned."""
    first, second = metrics.METRICS[told.task]
    planted = _planted(told, events)
    parts = [
        "<h1>The year: does the loop keep a model right, unattended?</h1>",
        verdict(told, events, spent).markup,
        _text(
            "A model of the flights of January to March 2013 is released on the first day. From then on a real server answers each flight before it departs, at a clock that runs fast; a day later what came true is posted, of two in a hundred never. Every four weeks `modelkeep update` takes one turn: it adds the flights that came true to the history, trains a candidate on it, asks the gate, and lets what passes answer a few flights as a canary, until the evidence says more or back. Nobody looks at it, except that once a bad model is let past the gate by force."
        ),
        markup.provenance(_facts(told, commit)).markup,
        "<h2>What happened, turn by turn?</h2>",
        _text("The gate compares each candidate with the champion on the newest thirty days, which neither has learned from. What it cannot tell from no difference is refused as well."),
        markup.table(_acts(told, events)).markup,
        "<h2>Who answered?</h2>",
        _who(told, planted)._repr_html_(),
        "<h2>Was it worth it?</h2>",
        _text("Blue is what was served, whoever answered. Dotted grey is the model of the first day on the same flights, as if nobody had ever updated. All that ever came true is counted, also where the server was not told."),
        _course(told, first)._repr_html_(),
        _course(told, second)._repr_html_(),
        "<h2>How was the planted model found out?</h2>",
        _text("Its labels were shuffled before it learned, so that it knows nothing; the gate said so, and it was released by force. The judge sees only counts: how often the canary and the champion failed, were slow, or were wrong."),
        _evidence(planted, "worse"),
        "<h2>How did a good one get through?</h2>",
        _text("Each step is left once it is refuted that the canary is worse by the step's margin; then the evidence begins anew."),
        *[_evidence(j, "harmless") for j in _promoted(told)[:1]],
        "<h2>How did each rollout go?</h2>",
        markup.table(_rollouts(told), "There was no rollout.").markup,
        "<h2>What does the record say?</h2>",
        f"<pre>{_escaped(told.record['text'])}</pre>",
        "<h2>What was checked?</h2>",
        _text("Every flight was compared in three places: what the client was told, what the log holds, and what the model says that the answer names. A difference would be an answer of two models mixed, a lost row or one counted twice."),
        markup.table([{"": k, "number": v} for k, v in told.checks.items()]).markup,
        "<h2>Which rules were not the usual ones?</h2>",
        markup.table([{"value": f"{stage}: {k}", "in this year": _value(v), "why": REASONS.get(k, "")} for stage, values in params.items() for k, v in values.items()]).markup,
    ]  # fmt: skip
    return pages.page("The year · Modelkeep", "\n".join(parts), current=None)


def _escaped(text: str) -> str:
    from html import escape

    return escape(text)


def _text(text: str) -> str:
    parts = _escaped(text).split("`")
    return (
        "<p>" + "".join(f"<code>{p}</code>" if i % 2 else p for i, p in enumerate(parts)) + "</p>"
    )


def _value(value: object) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _promoted(told: Told) -> list[RolloutLog]:
    return [j for j in told.journals if j.end == "step_up"]


def _planted(told: Told, events: list[dict]) -> RolloutLog | None:
    ids = {e["rollout"] for e in events if e["what"] == "planted"}
    return next((j for j in told.journals if j.spec.id in ids), None)


def verdict(told: Told, events: list[dict], spent: float) -> Html:
    """What the year comes to in one sentence, and why; `done` or `failed`."""
    planted, bad = _planted(told, events), wrong(told)
    turns = [e for e in events if e["what"] == "turn"]
    refused = [e for e in turns if _refused(e)]
    first = metrics.METRICS[told.task][1]
    ours, alone = np.nanmean(told.served[first]), np.nanmean(told.never[first])
    missing = _missing(told, planted, refused)
    rows = len(told.by)
    sentence = (
        f"In {count(len(told.starts), 'week')} {count(len(turns), 'turn')} and {count(rows, 'flight')} the loop promoted {count(len(_promoted(told)), 'candidate')} by canary, "
        f"its gate refused {len(refused)}, and the model planted past the gate was {'rolled back' if planted and planted.end == 'roll_back' else 'NOT rolled back'}"
        f"{_after(planted)}: {metrics.NAMES[first]} {number(float(ours))} by week on average, {number(float(alone))} if nobody had ever updated."
    )
    gain = told.gain(first)
    reasons = [
        *missing,
        f"{several([f'{k}: {v:,}' for k, v in bad.items()], 9) if bad else 'every answer is in the log once, as the client was told it and as the model says that it names; nobody was refused'}",
        f"the gain in {metrics.NAMES[first]} over never updating is {number(gain.value)} ({number(gain.low)} to {number(gain.high)}), by week on average",
        f"the planted model gave {_exposed(told, planted):,} answers of {rows:,}",
        f"it took {spent / 60:.0f} minutes",
    ]
    return markup.verdict("failed" if missing or bad else "done", sentence, reasons)


def _missing(told: Told, planted: RolloutLog | None, refused: list[dict]) -> list[str]:
    """What a year is to show, and this one did not."""
    shown = {
        "no candidate was promoted by canary": _promoted(told),
        "no candidate was refused by the gate": refused,
        "the planted model was not rolled back": planted and planted.end == "roll_back",
    }
    return [text for text, there in shown.items() if not there]


def _refused(event: dict) -> bool:
    return event.get("gate") not in (None, "better", "non_inferior")


def _after(planted: RolloutLog | None) -> str:
    return f" after {_days(planted)}" if planted else ""


def _days(found: RolloutLog) -> str:
    return f"{found.state.at / 86_400:.1f}\N{NO-BREAK SPACE}days"


def _day(text: str) -> str:
    """A day as it fits in a narrow column: 1 Apr."""
    at = datetime.fromisoformat(text)
    return f"{at.day}\N{NO-BREAK SPACE}{at:%b}"


def _exposed(told: Told, planted: RolloutLog | None) -> int:
    return int((told.by == planted.spec.canary["sha256"][:10]).sum()) if planted else 0


def _facts(told: Told, commit: str) -> dict[str, object]:
    said = told.record["json"]
    return {
        "code": f"commit {commit}",
        "flights": f"{len(told.by):,}, of {told.days.min()} to {told.days.max()}",
        "labels sent": f"{told.checks['labels sent']:,}",
        "versions": several([v["version"] for v in reversed(said["versions"])], 20),
        "changes of champion": f"{len(said['terms'])}",
    }


def _acts(told: Told, events: list[dict]) -> list[dict]:
    """A row for each turn, and for what was planted."""
    ends = {j.spec.id: j for j in told.journals}
    rows = []
    for e in events:
        if e["what"] == "rollout":
            continue
        found = ends.get(e.get("rollout"))
        gate = str(e.get("gate", "–")).partition(":")[0].replace("_", " ")
        rows.append(
            {
                "day": _day(e["at"]),
                "what": "a turn" if e["what"] == "turn" else "planted by force",
                "gate": gate,
                "version": e.get("version", "–"),
                "what came of it": _came(e, found),
            }
        )
    return rows


def _came(event: dict, found: RolloutLog | None) -> str:
    if found is None:
        return "refused: the champion stays" if _refused(event) else event.get("sentence", "")
    word = {"step_up": "promoted", "roll_back": "rolled back"}.get(found.end, found.end or "goes on")  # fmt: skip
    return f"{word} after {_days(found)}"


def _rollouts(told: Told) -> list[dict]:
    """A row for each step of each rollout."""
    rows = []
    for j in told.journals:
        shares = [j.rules.shares[0], *[v.share for v in j.verdicts]]
        steps = [f"{s:.0%}" for i, s in enumerate(shares) if i == 0 or s != shares[i - 1]]
        last = j.verdicts[-1] if j.verdicts else None
        rows.append(
            {
                "began": _day(rollout.facts(j)["began"][:10]),
                "canary": j.spec.canary["version"],
                "against": j.spec.champion["version"],
                "shares": " → ".join(steps),
                "looks": len(j.verdicts),
                "took": _days(j),
                "the last word": f"{last.word.replace('_', ' ')}: {last.reason.replace('`', '')}"
                if last
                else "–",
            }
        )
    return rows


def _who(told: Told, planted: RolloutLog | None) -> figures.Figure:
    by, role = told.by, told.role
    bad = planted.spec.canary["sha256"][:10] if planted else ""
    first = by[0]
    parts = {
        "the first model": (by == first) & (role == "champion"),
        "later champions": (by != first) & (role == "champion"),
        "canaries": (role == "canary") & (by != bad),
        "the planted one": by == bad,
    }
    week = (told.days - told.starts[0]).astype(int) // 7
    n = {k: np.bincount(week[v], minlength=len(told.starts))[: len(told.starts)] for k, v in parts.items()}  # fmt: skip
    each = [f"{told.names.get(m, m)} {int((by == m).sum()):,}" for m in dict.fromkeys(by)]
    return figures.timeline(
        told.starts, n, title="Who answered, week by week?", caption=f"Answers by version: {', '.join(each)}."
    )  # fmt: skip


def _course(told: Told, metric: str) -> figures.Figure:
    ours, alone = told.served[metric], told.never[metric]
    ends = {"step_up": "promoted", "roll_back": "rolled back"}
    marks = {}
    for word in ends:
        at = [np.datetime64(j.upto, "us") for j in told.journals if j.end == word]
        marks[ends[word]] = np.isin(np.arange(len(ours)), [int((t - told.starts[0]) / np.timedelta64(7, "D")) for t in at])  # fmt: skip
    name, gain = metrics.NAMES[metric], told.gain(metric)
    better = "higher" if metric in metrics.HIGHER_IS_BETTER else "lower"
    caption = (
        f"{len(ours)} weeks; {better} is better. On average {number(float(np.nanmean(ours)))} served and {number(float(np.nanmean(alone)))} without an update; "
        f"the gain is {number(gain.value)} ({number(gain.low)} to {number(gain.high)}, stretches of four weeks)."
    )
    return figures.courses(told.starts, {"served": ours, "never updated": alone}, marks, name=name, title=f"How good was {name}, week by week?", caption=caption)  # fmt: skip


def _evidence(found: RolloutLog | None, question: str) -> str:
    if found is None:
        return "<p>There was none.</p>"
    return rollout.evidence(found, question)._repr_html_()
