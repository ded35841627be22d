"""The page of a year: events, quality and checks."""

from datetime import datetime

import numpy as np

from modelkeep.core import markup, pages
from modelkeep.core.markup import Html, count, number, several
from modelkeep.evaluation import metrics
from modelkeep.reports import figures, rollout
from modelkeep.rollout.rollout_log import RolloutLog
from results import Results, wrong

REASONS = {
    "source": "a folder that grows; the bundled example is one table of the whole year",
    "folds": "the year trains forty models, within minutes",
    "permutations": "the year has forty updates, within minutes",
    "days": "the monitor reads the newest four weeks of predictions",
    "analysis_interval_seconds": "four analyses a day: the clock moves by hours",
}

PROMOTIONS, SERVED_DAYS = 8, 3  # in nine months at least; the planted model at most

ALL_EQUAL = (
    "every prediction is in the log once, equal to the response and to the prediction of the named "
    "model; no request was refused"
)


def page(results: Results, events: list[dict], params: dict, commit: str, spent: float) -> str:
    """The page as HTML; `commit` is that of the repository that was cloned."""
    first, second = metrics.METRICS[results.task]
    planted = _planted(results, events)
    parts = [
        "<h1>The year: do unattended updates keep a model accurate?</h1>",
        verdict(results, events, spent).markup,
        _text(
            "A model of the flights of January to March 2013 is released on the first day. From "
            "then on a real server predicts each flight before it departs, on a fast clock. Its "
            "label is posted a day later, except for two in a hundred. Every week `modelkeep "
            "update` runs one cycle of the shipped policy: it adds labelled flights to the "
            "history, looks at them with the guards, trains a refit on everything known, and "
            "applies the harm gate. A refit that changes predictions no more than usual is "
            "promoted at once, another one begins as a canary; the former champion predicts "
            "silently for a week, and takes over again where the new one is proven worse. No "
            "person acts, except that one bad model is forced past the gate."
        ),
        markup.provenance(_facts(results, commit)).markup,
        "<h2>Which updates promoted a model?</h2>",
        _text(
            "A guard holds an update where the newest labels or a column are unlike those before, "
            "at most twice in a row; the harm gate refuses a refit that predicts worse."
        ),
        markup.table(_acts(results, events)).markup,
        "<h2>Which version predicted?</h2>",
        _who(results, planted)._repr_html_(),
        "<h2>Was it worth it?</h2>",
        _text(""),
        _course(results, first)._repr_html_(),
        _course(results, second)._repr_html_(),
        "<h2>How was the planted model detected?</h2>",
        _text(
            "It was trained on shuffled labels, so it has no skill; the gate found it worse, and it "
            "was released by force. The judge reads counts alone: errors, slow responses and "
            "wrong predictions of canary and champion."
        ),
        _evidence(planted, "e_worse"),
        "<h2>How was a good one promoted?</h2>",
        _text(
            "A step ends when the evidence refutes that the canary is worse by its margin; then "
            "the evidence starts again."
        ),
        *[_evidence(j, "e_noninferior") for j in _promoted(results)[:1]],
        "<h2>How did each rollout go?</h2>",
        markup.table(_rollouts(results), "There was no rollout.").markup,
        "<h2>What is on record?</h2>",
        f"<pre>{_escaped(results.record['text'])}</pre>",
        "<h2>What was checked?</h2>",
        _text(
            "Every flight was compared in three places: the response, the log, and the prediction "
            "of the named model. A difference would be a response of two mixed models, a lost row "
            "or a row counted twice."
        ),
        markup.table([{"": k, "number": v} for k, v in results.checks.items()]).markup,
        "<h2>Which parameters differ from the defaults?</h2>",
        markup.table(
            [
                {"value": f"{stage}: {k}", "in this year": _value(v), "reason": REASONS.get(k, "")}
                for stage, values in params.items()
                for k, v in values.items()
            ]
        ).markup,
    ]
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


def _promoted(results: Results) -> list[RolloutLog]:
    return [j for j in results.journals if j.end == "advance"]


def _planted(results: Results, events: list[dict]) -> RolloutLog | None:
    ids = {e["rollout"] for e in events if e["what"] == "planted"}
    return next((j for j in results.journals if j.spec.id in ids), None)


def verdict(
    results: Results,
    events: list[dict],
    spent: float,
    promotions: int = PROMOTIONS,
    days: float = SERVED_DAYS,
) -> Html:
    """The conclusion in one sentence, with reasons; `done`, or `failed` with fewer promotions or
    more days of the planted model.
    """
    planted, bad = _planted(results, events), wrong(results)
    updates = [e for e in events if e["what"] == "update"]
    held = [e for e in updates if e.get("state") == "needs_attention"]
    times = _promotions(results, updates)
    first = metrics.METRICS[results.task][1]
    ours, alone = np.nanmean(results.served[first]), np.nanmean(results.never[first])
    gone = bool(planted) and planted.end == "rollback"
    shown = {
        f"fewer than {promotions} refits became champion": times >= promotions,
        "the planted model was not rolled back": gone,
        f"the planted model served longer than {days} days": not gone
        or planted.state.at <= days * 86_400,
    }
    missing = [text for text, there in shown.items() if not there]
    rows = len(results.by)
    sentence = (
        f"In {count(len(results.starts), 'week')}, {count(len(updates), 'update')} and "
        f"{count(rows, 'flight')}, {count(times, 'refit')} became champion "
        f"({len(_promoted(results))} by canary), guards held {len(held)} updates, and the model "
        "planted past the gate was "
        f"{'rolled back' if planted and planted.end == 'rollback' else 'NOT rolled back'}"
        f"{_after(planted)}: {metrics.NAMES[first]} {number(float(ours))} by week on average, "
        f"{number(float(alone))} without updates."
    )
    gain = results.gain(first)
    reasons = [
        *missing,
        several([f"{k}: {v:,}" for k, v in bad.items()], 9) if bad else ALL_EQUAL,
        f"the gain in {metrics.NAMES[first]} over never updating is {number(gain.value)} "
        f"({number(gain.low)} to {number(gain.high)}), by week on average",
        f"the planted model gave {_exposed(results, planted):,} predictions of {rows:,}",
        f"it took {spent / 60:.0f} minutes",
    ]
    return markup.verdict("failed" if missing or bad else "done", sentence, reasons)


def _promotions(results: Results, updates: list[dict]) -> int:
    """How many refits became champion: at once, or at the end of a canary."""
    return sum(e.get("state") == "promoted" for e in updates[1:]) + len(_promoted(results))


def _after(planted: RolloutLog | None) -> str:
    return f" after {_days(planted)}" if planted else ""


def _days(found: RolloutLog) -> str:
    return f"{found.state.at / 86_400:.1f}\N{NO-BREAK SPACE}days"


def _day(text: str) -> str:
    """A day as it fits in a narrow column: 1 Apr."""
    at = datetime.fromisoformat(text)
    return f"{at.day}\N{NO-BREAK SPACE}{at:%b}"


def _exposed(results: Results, planted: RolloutLog | None) -> int:
    return int((results.by == planted.spec.canary["sha256"][:10]).sum()) if planted else 0


def _facts(results: Results, commit: str) -> dict[str, object]:
    known = results.record["json"]
    return {
        "code": f"commit {commit}",
        "flights": f"{len(results.by):,}, of {results.days.min()} to {results.days.max()}",
        "labels sent": f"{results.checks['labels sent']:,}",
        "versions": several([v["version"] for v in reversed(known["versions"])], 20),
        "changes of champion": f"{len(known['terms'])}",
    }


def _acts(results: Results, events: list[dict]) -> list[dict]:
    """A row for each update, and for the planted model."""
    ends = {j.spec.id: j for j in results.journals}
    rows = []
    for e in events:
        if e["what"] == "rollout":
            continue
        found = ends.get(e.get("rollout"))
        gate = str(e.get("gate", "–")).partition(":")[0].replace("_", " ")
        rows.append(
            {
                "day": _day(e["at"]),
                "event": "update" if e["what"] == "update" else "planted by force",
                "gate": gate,
                "version": e.get("version", "–"),
                "result": _result(e, found),
            }
        )
    return rows


def _result(event: dict, found: RolloutLog | None) -> str:
    if found is None:
        return event.get("sentence", "").partition(" (")[0]
    word = {"advance": "promoted", "rollback": "rolled back"}.get(found.end, found.end or "goes on")
    return f"{word} after {_days(found)}"


def _rollouts(results: Results) -> list[dict]:
    """A row for each step of each rollout."""
    rows = []
    for j in results.journals:
        shares = [j.rules.shares[0], *[v.share for v in j.verdicts]]
        steps = [f"{s:.0%}" for i, s in enumerate(shares) if i == 0 or s != shares[i - 1]]
        last = j.verdicts[-1] if j.verdicts else None
        rows.append(
            {
                "began": _day(rollout.facts(j)["began"][:10]),
                "canary": j.spec.canary["version"],
                "champion": j.spec.champion["version"],
                "shares": " → ".join(steps),
                "analyses": len(j.verdicts),
                "took": _days(j),
                "last verdict": f"{last.decision.replace('_', ' ')}: {last.reason.replace('`', '')}"
                if last
                else "–",
            }
        )
    return rows


def _who(results: Results, planted: RolloutLog | None) -> figures.Figure:
    by, role = results.by, results.role
    bad = planted.spec.canary["sha256"][:10] if planted else ""
    first = by[0]
    parts = {
        "the first model": (by == first) & (role == "champion"),
        "later champions": (by != first) & (role == "champion"),
        "canaries": (role == "canary") & (by != bad),
        "the planted one": by == bad,
    }
    week = (results.days - results.starts[0]).astype(int) // 7
    n = {
        k: np.bincount(week[v], minlength=len(results.starts))[: len(results.starts)]
        for k, v in parts.items()
    }
    each = [f"{results.names.get(m, m)} {int((by == m).sum()):,}" for m in dict.fromkeys(by)]
    return figures.timeline(
        results.starts,
        n,
        title="Which version predicted, week by week?",
        caption=f"Predictions by version: {', '.join(each)}.",
    )


def _course(results: Results, metric: str) -> figures.Figure:
    ours, alone = results.served[metric], results.never[metric]
    ends = {"advance": "promoted", "rollback": "rolled back"}
    marks = {}
    for word in ends:
        at = [np.datetime64(j.upto, "us") for j in results.journals if j.end == word]
        marks[ends[word]] = np.isin(
            np.arange(len(ours)),
            [int((t - results.starts[0]) / np.timedelta64(7, "D")) for t in at],
        )
    name, gain = metrics.NAMES[metric], results.gain(metric)
    better = "higher" if metric in metrics.HIGHER_IS_BETTER else "lower"
    caption = (
        f"{len(ours)} weeks; {better} is better. On average {number(float(np.nanmean(ours)))} "
        f"served and {number(float(np.nanmean(alone)))} without updates; "
        f"the gain is {number(gain.value)} ({number(gain.low)} to {number(gain.high)}, blocks of "
        "four weeks)."
    )
    return figures.courses(
        results.starts,
        {"served": ours, "never updated": alone},
        marks,
        name=name,
        title=f"How good was {name}, week by week?",
        caption=caption,
    )


def _evidence(found: RolloutLog | None, question: str) -> str:
    if found is None:
        return "<p>There was none.</p>"
    return rollout.evidence(found, question)._repr_html_()
