"""Texts of the record: the champions with times and reasons, and the evidence of each version."""

from collections.abc import Mapping
from datetime import UTC, datetime

from modelkeep.core.errors import ModelkeepError
from modelkeep.core.markup import between, count, number
from modelkeep.registry import evidence, record
from modelkeep.registry.record import Record, when


class BadDate(ModelkeepError, ValueError):
    """A moment that cannot be read."""


def history(at: Record) -> dict:
    """Every version and every change of champion, newest first, as JSON and as text."""
    terms = [_term(term) for term in reversed(at.terms)]
    newest = sorted(at.versions, key=record.order, reverse=True)
    versions = [_version(at, version) for version in newest]
    champion = at.champion.version if at.champion else None
    facts = {"model": at.model, "champion": champion, "terms": terms, "versions": versions}
    lines = [_headline(at)]
    if terms:
        lines += ["", "Champions, newest first:"]
        lines += [
            f"  {each['tag']}  {each['at']}  {each['version']}  {each['why']}" for each in terms
        ]
    if versions:
        lines += ["", "Versions, newest first:"]
        lines += [f"  {each['version']}  {each['at']}  {each['why']}" for each in versions]
    return {"json": facts, "text": "\n".join(lines)}


def details(at: Record, version: str) -> dict:
    """The evidence of a version, who released it, and when it was champion."""
    tag = at.find(version)
    grounds = record.evidence(tag)
    used = evidence.uses(at, grounds["hashes"].get("test_rows"))
    terms = [_term(term) for term in at.terms if term.version == tag.version]
    trials = [dict(t.result) | {"tag": t.tag.name} for t in at.tried(tag.version)]
    facts = {"tag": tag.name, "at": when(tag.at), "by": tag.who, "champion": terms}
    facts |= {"trials": trials, **grounds}
    lines = [
        f"{tag.name}, released {when(tag.at)} by {tag.who}, on commit {grounds['commit'][:10]}",
        grounds["verdict"]["sentence"],
        *(_gain(gain) for gain in grounds["verdict"].get("gains", ())),
        *([f"  released by force: {grounds['forced']}"] if grounds["forced"] else []),
        f"Compared with {grounds['parent'] or 'a plain baseline: there was no champion'}.",
        f"Its test rows have judged {count(len(used), 'candidate')}: {', '.join(used)}.",
        "Metrics: " + "; ".join(f"{stage} {_pairs(m)}" for stage, m in grounds["metrics"].items()),
        "Params: " + "; ".join(f"{stage}: {_pairs(p)}" for stage, p in grounds["params"].items()),
        "Hashes: " + "; ".join(f"{name} {str(v)[:12]}" for name, v in grounds["hashes"].items()),
        *(f"{_title(t)}: {t.result.get('sentence')}" for t in at.tried(tag.version)),
        *(f"Champion from {each['at']}: {each['why']}" for each in terms),
        f"Have it back: git checkout {tag.name} && dvc checkout",
    ]
    return {"json": facts, "text": "\n".join(lines)}


def champion_at(at: Record, moment: int) -> dict:
    """Which version was champion at that second."""
    term, after = at.at(moment)
    until = f", until {after.version} at {when(after.tag.at)}" if after else ""
    if term is None:
        text = f"At {when(moment)} {at.model} had no champion{until and ' yet' + until}."
    else:
        since = f"since {when(term.tag.at)}{until}"
        text = f"At {when(moment)} {at.model} {term.version} was champion ({since})."
    facts = {
        "at": when(moment),
        "version": term.version if term else None,
        "since": when(term.tag.at) if term else None,
        "until": when(after.tag.at) if after else None,
    }
    return {"json": facts, "text": text}


def moment(text: str) -> int:
    """A date (its first second) or an ISO time, in seconds of the epoch; UTC without a zone."""
    try:
        parsed = datetime.fromisoformat(text)
    except ValueError:
        raise BadDate(
            f"{text!r} is not a date; write it like 2026-06-01 or 2026-06-01T14:30 (UTC)"
        ) from None
    return int((parsed if parsed.tzinfo else parsed.replace(tzinfo=UTC)).timestamp())


def _headline(at: Record) -> str:
    if at.champion:
        since = when(at.champion.tag.at)
        return f"{at.model} {at.champion.version} is champion since {since}."
    what = count(len(at.versions), "version")
    return f"{at.model} has {what} and no champion; `modelkeep promote VERSION` makes one."


def _term(term: record.Term) -> dict:
    tag = term.tag
    why = f"{term.details.get('action') or 'assigned with gto'} by {tag.who}"
    why += f": {term.details['reason']}" if term.details.get("reason") else ""
    return {
        "version": term.version,
        "tag": tag.name,
        "at": when(tag.at),
        "by": tag.who,
        "action": term.details.get("action"),
        "reason": term.details.get("reason") or None,
        "why": why,
    }


def _version(at: Record, version: str) -> dict:
    tag = at.versions[version]
    try:
        grounds = record.evidence(tag)
    except record.RecordError:
        return {"version": version, "at": when(tag.at), "by": tag.who, "why": "without evidence"}
    state = grounds["verdict"]["state"].replace("_", " ")
    used = grounds.get("test_rows_used", 1)
    why = f"{state}, these test rows have judged {count(used, 'candidate')} by then"
    why += "".join(f", {t.result.get('kind')} {_word(t)}" for t in at.tried(version))
    why += f", forced: {grounds['forced']}" if grounds["forced"] else ""
    return {"version": version, "at": when(tag.at), "by": tag.who, "state": state} | {
        "test_rows_used": used,
        "forced": grounds["forced"],
        "why": why,
    }


def _word(trial: record.Trial) -> str:
    return str(trial.result.get("end", "")).replace("_", " ")


def _title(trial: record.Trial) -> str:
    kind = str(trial.result.get("kind", "rollout")).capitalize()
    return f"{kind} {trial.result.get('rollout')}, ended {when(trial.tag.at)}, {_word(trial)}"


def _gain(gain: Mapping) -> str:
    measured = between(gain["gain"], gain["low"], gain["high"])
    verdict = gain["verdict"].replace("_", " ")
    return f"  {gain['metric']}: gain {measured}, margin {number(gain['margin'])}: {verdict}"


def _pairs(values: Mapping) -> str:
    return ", ".join(f"{k} {number(v)}" for k, v in values.items())
