"""What people are notified of: releases, promotions, rollbacks, trials, alarms, ends of updates."""

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from modelkeep.core import files, git, workspace
from modelkeep.ops import investigations
from modelkeep.registry import record
from modelkeep.registry.record import Record, Term, Trial

FOLDER = "modelkeep-notify"  # in Git's folder: it is of this machine, and no commit has it
UPDATES = "updates"
HELD = ("inconclusive", "aborted")  # ends of a trial at which a person decides
NAME = re.compile(r"[^A-Za-z0-9_-]+")


@dataclass(frozen=True)
class Event:
    """Something that happened: `id` is the same whenever it is read, `at` in seconds since 1970.

    `kind` is release, promotion, rollback, trial, hold, alarm or update; `page` is a path of the
    workspace, `figures` are values by name.
    """

    id: str
    kind: str
    at: float
    model: str
    version: str
    sentence: str
    page: str = ""
    figures: Mapping[str, object] = field(default_factory=dict)

    @property
    def time(self) -> str:
        """The moment as RFC 3339 text, UTC."""
        return datetime.fromtimestamp(self.at, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def folder(root: Path) -> Path:
    """Where this machine keeps what was delivered, and the ends of its updates."""
    return git.folder(root) / FOLDER


def read(root: Path, since: float) -> list[Event]:
    """The events from that moment on, the oldest first.

    All but the ends of updates are read from the record itself, so that none is lost where the
    process that made it was killed.
    """
    found = _versions(record.read(root)) + _alarms(root) + _updates(root)
    return sorted((e for e in found if e.at >= since), key=lambda e: (e.at, e.id))


def keep_update(root: Path, result: Mapping[str, object], now: float) -> None:
    """Keep how an update has ended, until it is delivered."""
    model = str(workspace.params(root, "serve")["name"])
    state, figures = str(result["state"]), {}
    for name in ("candidate", "version", "monitor", "push"):
        if isinstance(result.get(name), str | int | float):
            figures[name] = result[name]
    id = NAME.sub("-", f"update-{result['at']}-{state}")
    version = str(figures.get("version", ""))
    figures = {"state": state, **figures}
    sentence = f"Update {state.replace('_', ' ')}: {result['sentence']}"
    event = Event(id, "update", now, model, version, sentence, "reports/index.html", figures)
    files.write_json(folder(root) / UPDATES / f"{id}.json", asdict(event))


def forget_updates(root: Path, before: float) -> None:
    """Delete the ends of updates of before that moment."""
    for path in (folder(root) / UPDATES).glob("*.json"):
        event = _event(path)
        if event is None or event.at < before:
            path.unlink(missing_ok=True)


def _versions(at: Record) -> list[Event]:
    released = [_release(at.model, version, tag) for version, tag in at.versions.items()]
    before = [None, *(term.version for term in at.terms)]
    terms = [_term(at.model, term, old) for term, old in zip(at.terms, before, strict=False)]
    return released + terms + [_trial(at.model, trial) for trial in at.trials]


def _release(model: str, version: str, tag: record.Tag) -> Event:
    evidence = record.parsed(tag)
    verdict = evidence.get("verdict") or {}
    figures = {
        f"{stage} {name}": value
        for stage, metrics in (evidence.get("metrics") or {}).items()
        for name, value in metrics.items()
        if isinstance(value, int | float)
    }
    sentence = f"{model} {version} was released by {tag.who}. {verdict.get('sentence', '')}"
    page = "reports/evaluate.html"
    return Event(tag.name, "release", tag.at, model, version, sentence.strip(), page, figures)


def _term(model: str, term: Term, before: str | None) -> Event:
    action = term.details.get("action")
    kind = "rollback" if action == "rollback" else "promotion"
    reason = f": {term.details['reason']}" if term.details.get("reason") else ""
    place = f"in place of {before}" if before else "as the first"
    verb = "was rolled back to" if kind == "rollback" else "is champion:"
    sentence = f"{model} {verb} {term.version}, {place}, by {term.tag.who}{reason}"
    figures = {"before": before or "", "action": action or "assigned"}
    return Event(
        term.tag.name, kind, term.tag.at, model, term.version, _full(sentence), "", figures
    )


def _trial(model: str, trial: Trial) -> Event:
    result = trial.result
    end = str(result.get("end", ""))
    kind = "hold" if end in HELD else "trial"
    sentence = (
        f"The {result.get('kind') or trial.tag.stage} of {model} {trial.version} ended as "
        f"{end.replace('_', ' ')}: {result.get('sentence', '')}"
    )
    figures = {k: result[k] for k in ("rollout", "end", "analyses", "share") if k in result}
    tag = trial.tag
    return Event(tag.name, kind, tag.at, model, trial.version, _full(sentence), "", figures)


def _alarms(root: Path) -> list[Event]:
    model = str(workspace.params(root, "serve")["name"])
    found = []
    for case in investigations.cases(root):
        if case.state in (investigations.DONE, investigations.FAILED):
            sentence = f"Alert {case.alert}: {' '.join(case.summaries[:1])} {case.sentence}"
            page = f"{investigations.FOLDER}/{case.id}.html"
            figures = {"alert": case.alert, "began": case.began, "model": case.name}
            found.append(
                Event(
                    f"alarm-{case.id}",
                    "alarm",
                    case.requested,
                    model,
                    case.version,
                    _full(" ".join(sentence.split())),
                    page,
                    figures,
                )
            )
    return found


def _updates(root: Path) -> list[Event]:
    paths = (folder(root) / UPDATES).glob("*.json")
    return [event for path in paths if (event := _event(path))]


def _event(path: Path) -> Event | None:
    try:
        return Event(**json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None  # written by other code, or deleted meanwhile


def _full(sentence: str) -> str:
    sentence = sentence.strip().removesuffix(":")
    return sentence if sentence.endswith(".") else f"{sentence}."
