"""The model card of a version: what it is for, what it rests on, and where it must not be trusted.

Everything comes from the tags of the version, so that a card can be drawn where neither its data
nor its model is. A section without evidence says so, and how the next release fills it.
"""

import re
from collections.abc import Mapping
from html import escape, unescape
from pathlib import Path

from modelkeep.core import files, markup, pages
from modelkeep.core.markup import Html, between, count, number, several
from modelkeep.evaluation import metrics
from modelkeep.registry import evidence, record
from modelkeep.registry.record import Record, when
from modelkeep.reports import figures

UNFILLED = "Not on record"
FILL = {
    "purpose": "write `purpose` in params/serve.yaml; the next release puts it on record",
    "data": "releases of before hold only hashes of the data",
    "expected": "releases of before hold no intervals of expected quality",
    "slices": "name columns in `slices` of params/evaluate.yaml; a slice needs 30 days",
    "monitor": "no monitoring of this model was on record when it was released: `dvc repro monitor`"
    " before a release",
    "trials": "it was never tried as a shadow or a canary",
}


def facts(at: Record, version: str) -> dict:
    """What the card of a version says, as plain values, by section; None where nothing is known."""
    tag = at.find(version)
    grounds = record.evidence(tag)
    verdict = grounds["verdict"]
    terms = [term for term in at.terms if term.version == tag.version]
    return {
        "model": at.model,
        "version": tag.version,
        "purpose": grounds.get("purpose"),
        "data": grounds.get("data"),
        "params": grounds["params"].get("train") or {},
        "sentence": verdict["sentence"],
        "state": verdict["state"],
        "compared_with": grounds["parent"],
        "expected": grounds.get("expected"),
        "tested": (grounds.get("metrics") or {}).get("evaluate") or {},
        "gains": list(verdict.get("gains") or ()),
        "slices": list(verdict.get("slices") or ()),
        "monitor": grounds.get("monitor"),
        "objections": at.objections(tag.version),
        "judged_by_test_rows": len(evidence.uses(at, grounds["hashes"].get("test_rows"))),
        "trials": [dict(trial.result) | {"tag": trial.tag.name} for trial in at.tried(tag.version)],
        "released": {"tag": tag.name, "at": when(tag.at), "by": tag.who}
        | {"commit": grounds["commit"], "forced": grounds["forced"]},
        "champion": [
            {"at": when(term.tag.at), "by": term.tag.who}
            | {name: term.details.get(name) for name in ("action", "reason")}
            for term in terms
        ],
        "hashes": grounds["hashes"],
    }


def write(root: Path, card: Mapping) -> Path:
    """Draw a card as `reports/card-VERSION.html`; returns its path."""
    path = root / "reports" / f"card-{card['version']}.html"
    files.write_text(path, page(card))
    return path


def page(card: Mapping) -> str:
    """The card as a page."""
    title = f"{card['model']} {card['version']}"
    parts = [f"<h1>Model card: {escape(title)}</h1>"]
    parts += [markup.verdict(card["state"], card["sentence"]).markup, _head(card).markup]
    for heading, content in sections(card).items():
        parts.append(f"<h2>{escape(heading)}</h2>")
        parts += [each if isinstance(each, str) else each._repr_html_() for each in content]
    return pages.page(f"{title} · model card", "\n".join(parts), current=None)


def text(card: Mapping) -> str:
    """The card for a terminal."""
    lines = [f"Model card: {card['model']} {card['version']}", card["sentence"], repr(_head(card))]
    for heading, content in sections(card).items():
        lines += ["", heading]
        for each in content:
            plain = _plain(each) if isinstance(each, str) else repr(each)
            lines += [f"  {line}" for line in plain.splitlines()]
    return "\n".join(lines)


def sections(card: Mapping) -> dict[str, list[str | Html]]:
    """The card's sections: paragraphs (HTML), tables and figures."""
    return {
        "What is it for?": [_paragraph(card["purpose"]) or _lacks("purpose")],
        "What has it learned from?": _data(card),
        "How good is it?": _quality(card),
        "For whom is it better or worse?": _slices(card),
        "What are its limits?": _limits(card),
        "What was tried?": _trials(card),
        "Who released it?": _released(card),
    }


def _head(card: Mapping) -> Html:
    of = card["data"] or {}
    return markup.provenance(
        {
            "version": card["released"]["tag"],
            "released": f"{card['released']['at']} by {card['released']['by']}",
            "predicts": f"{of['label']} ({of['task']})" if of else UNFILLED,
            "learned from": _learned(of) if of else UNFILLED,
            "model": card["params"].get("model", "unknown"),
            "commit": card["released"]["commit"][:10],
            "bundle": f"SHA-256 {card['hashes']['bundle'][:12]}…",
        }
    )


def _learned(of: Mapping) -> str:
    if new := of.get("recalibration"):
        return f"the rows of {new['version']}; a new {new['kind']} from {number(new['rows'])} rows"
    if of.get("withheld", True):
        return f"{number(of.get('train'))} rows{_period(of, 'train')}"
    ends = of.get("train_period"), of.get("test_period")
    period = f" of {ends[0][0][:10]} to {ends[1][1][:10]}" if all(ends) else ""
    return f"{number(of['train'] + of['test'])} rows{period}"


def _paragraph(sentence: str | None) -> str:
    return f"<p>{escape(sentence)}</p>" if sentence else ""


def _lacks(section: str) -> str:
    remedy = re.sub(r"`([^`]*)`", r"<code>\1</code>", escape(FILL[section]))
    return f"<p><em>{UNFILLED}</em>: {remedy}.</p>"


def _plain(markup: str) -> str:
    """The text of a paragraph or list, an item a line."""
    return unescape(re.sub(r"<[^>]*>", "", markup.replace("</li>", "\n"))).strip()


def _period(of: Mapping, part: str) -> str:
    ends = of.get(f"{part}_period")
    return f" of {ends[0][:10]} to {ends[1][:10]}" if ends else ""


def _data(card: Mapping) -> list[str | Html]:
    of = card["data"]
    if not of:
        return [_lacks("data")]
    classes = f" Classes: {several(of['classes'], 8)}." if of.get("classes") else ""
    new = of.get("recalibration")
    rows = f"{number(of.get('train'))} training rows{_period(of, 'train')}, "
    rows += f"{number(of.get('test'))} test rows{_period(of, 'test')}, "
    rows += f"{number(of.get('quarantined'))} quarantined."
    if new:
        shown = several([number(x) for x in new["level"]])
        rows = f"It is {new['version']} with a new {new['kind']} (level {shown}; slope "
        rows += f"{number(new['slope'])}), learned from {count(new['rows'], 'row')} since."
    elif not of.get("withheld", True):
        rows += " It has learned from both: a refit is judged by the harm it may do."
    known = of.get("as_of") or "the end of the table"
    source = f"Source: {of.get('source') or 'unknown'}, as it was known at {known}."
    columns = f"It reads {count(len(of['columns']), 'column')}: {', '.join(of['columns'])}."
    label = f"It predicts {of['label']} ({of['task']}).{classes}"
    return [*map(_paragraph, (label, rows, source, columns))]


def _quality(card: Mapping) -> list[str | Html]:
    expected, tested = card["expected"] or {}, card["tested"]
    gains = {gain["metric"]: gain for gain in card["gains"]}
    rows = []
    for name in dict.fromkeys([*expected, *gains]):
        e, gain = expected.get(name) or {}, gains.get(name) or {}
        shown = between(e["value"], e.get("low"), e.get("high")) if e else "unknown"
        gained = between(gain["gain"], gain.get("low"), gain.get("high")) if gain else "unknown"
        row = {"metric": metrics.NAMES.get(name, name), "expected (cross-validated)": shown}
        row |= {"on the test rows": tested.get(f"test_{name}"), "gain (interval)": gained}
        rows.append(row | {"margin": gain.get("margin"), "verdict": _words(gain.get("verdict"))})
    beside = card["compared_with"] or "a plain rule, as there was no champion"
    parts = [markup.table(rows, "No metric is on record."), _paragraph(f"Compared with {beside}.")]
    return parts if expected else [*parts, _lacks("expected")]


def _slices(card: Mapping) -> list[str | Html]:
    judged = card["slices"]
    if not judged:
        return [_lacks("slices")]
    worst = sorted(judged, key=lambda row: row["gain"])[:20]
    rows = [
        {"name": row["slice"], "value": row["gain"], "low": row["low"], "high": row["high"]}
        | {"breach": row["verdict"] == "worse", "judged": row["verdict"] != "insufficient"}
        for row in worst
    ]
    few = sum(row["verdict"] == "insufficient" for row in judged)
    caption = f"{count(len(judged), 'slice')}, worst first, with intervals"
    caption += f"; {few} have too few days to be judged." if few else "."
    named = metrics.NAMES[card["gains"][0]["metric"]] if card["gains"] else "loss"
    return [
        figures.forest(
            rows,
            name=f"gain in {named}: right of zero this version is better",
            title="For whom is this version better or worse?",
            caption=caption,
        )
    ]


def _limits(card: Mapping) -> list[str | Html]:
    items = [f"{reason}." for reason in card["objections"]]
    items += [
        f"{row['slice']}: worse than the model before, {number(-row['gain'])} a row."
        for row in card["slices"]
        if row["verdict"] == "worse"
    ]
    items += [
        f"{row['slice']}: {count(row['rows'], 'row')} of {count(row['blocks'], 'day')} "
        "are too few to judge it."
        for row in card["slices"]
        if row["verdict"] == "insufficient"
    ]
    seen = card["monitor"]
    if seen:
        items += [f"Monitoring when it was released: {seen['sentence']}", *seen["reasons"]]
    listed = "".join(f"<li>{escape(item)}</li>" for item in items)
    parts = [f"<ul>{listed}</ul>"] if items else []
    return parts if seen else [*parts, _lacks("monitor")]


def _trials(card: Mapping) -> list[str | Html]:
    used = card["judged_by_test_rows"]
    parts = [_paragraph(f"Its test rows have judged {count(used, 'released version')}.")]
    trials = [
        {"kind": each.get("kind"), "rollout": each.get("rollout")}
        | {"ended as": _words(each.get("end")), "result": each.get("sentence")}
        for each in card["trials"]
    ]
    return [*parts, markup.table(trials) if trials else _lacks("trials")]


def _released(card: Mapping) -> list[str | Html]:
    made = card["released"]
    sentence = f"Released {made['at']} by {made['by']} as {made['tag']}"
    sentence += f", by force: {made['forced']}." if made["forced"] else ", through its gate."
    rows = [
        {"champion since": each["at"], "by": each["by"], "action": each["action"]}
        | {"reason": each["reason"] or "none given"}
        for each in card["champion"]
    ]
    return [_paragraph(sentence), markup.table(rows, "It was never champion.")]


def _words(name: str | None) -> str:
    return (name or "unknown").replace("_", " ")
