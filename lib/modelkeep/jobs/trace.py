"""One prediction, traced: its row, its model, who released that on what evidence, its label.

The bundle in the store predicts the row again, among the rows of the same call: a sum of floating
point numbers may depend on the rows beside it.
"""

from collections.abc import Mapping
from contextlib import closing
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from html import escape
from pathlib import Path

import msgspec
import numpy as np

from modelkeep.core import git, workspace
from modelkeep.core.errors import ModelkeepError
from modelkeep.core.markup import count, number
from modelkeep.predictions.log import TracedPrediction, open_log
from modelkeep.predictions.records import CANARY
from modelkeep.registry import record, releases, store
from modelkeep.registry.record import Record, when
from modelkeep.registry.store import Now, Role
from modelkeep.serving import models
from modelkeep.serving.models import Model

SECOND, DAY = 10**6, 86_400 * 10**6  # in microseconds
MOST = 6  # columns of an explanation that are shown
LOCKED = {"data": "the data", "model": "the model", "report": "the report of evaluate"}


class TraceError(ModelkeepError, ValueError):
    """A prediction that cannot be traced."""


@dataclass(frozen=True)
class Check:
    """One step from the prediction to its origin; `holds` is None where it cannot be checked."""

    step: str
    holds: bool | None
    sentence: str


@dataclass(frozen=True)
class Trace:
    """One prediction and all that it rests on; times are ISO 8601 in UTC.

    `prediction` is a probability by class, or {"prediction": number}; `labels` are {value, at}, the
    oldest first. `version`, `champion` and `rollout` are empty where the record has none.
    """

    id: str
    at: str
    role: str
    share: float | None
    entity: str | None
    time: str | None
    row: Mapping[str, object]
    prediction: Mapping[str, float]
    notes: list[str] | None  # None: the model is not here to tell
    labels: list[Mapping]
    model: Mapping  # name, sha256; from the bundle: engine, rows, as_of, params, libraries
    version: Mapping  # version, tag, at, by, commit, sentence, forced, hashes
    champion: Mapping  # version, tag, at, by, action, reason
    rollout: Mapping
    checks: list[Check] = field(default_factory=list)
    explanation: Mapping | None = None  # Shapley values, where they were requested

    @property
    def holds(self) -> bool:
        """Whether no check found a difference."""
        return all(check.holds is not False for check in self.checks)

    def as_dict(self) -> dict:
        """The trace as plain values."""
        return asdict(self)

    def __repr__(self) -> str:
        return "\n".join(_lines(self))

    def _repr_html_(self) -> str:
        return f"<pre>{escape(repr(self))}</pre>"


def trace(root: Path, id: str, url: str = "", explain: bool = False) -> list[Trace]:
    """The predictions of a row's id in the workspace's log (or the one at `url`), oldest first.

    `explain` adds what each column adds to the prediction. TraceError if the log has no prediction
    of that id.
    """
    with closing(open_log(url or _log(root), root=root, create=False)) as log:
        predictions, address = log.find(id), log.address
    if not predictions:
        raise TraceError(
            f"{address} has no prediction of the id {id!r}; an id is matched to the letter, and a "
            "row that was refused has none"
        )
    try:
        at = record.read(root)
    except (record.RecordError, git.GitError):
        at = None
    return [_traced(root, at, each, explain) for each in predictions]


def _log(root: Path) -> str:
    return str(workspace.params(root, "serve")["log"])


def _traced(root: Path, at: Record | None, found: TracedPrediction, explain: bool) -> Trace:
    entry, moment = found.record, found.record.at // SECOND
    version = _version(at, entry.model)
    sha256, checks = _bundle(root, at, version, entry.model)
    model = _load(root, sha256, version, len(found.batch)) if sha256 else None
    checks = [*_log_checks(found), *checks, _again(model, found), *_commit(root, version)]
    return Trace(
        id=entry.id,
        at=_iso(entry.at),
        role=entry.role,
        share=found.share,
        entity=entry.entity,
        time=None if entry.time is None else _iso(entry.time),
        row=msgspec.json.decode(entry.features),
        prediction=_named(msgspec.json.decode(entry.answer), model),
        notes=_notes(model, entry.features) if model else None,
        labels=[{"value": label.value, "at": _iso(label.at)} for label in found.labels],
        model={"name": entry.model, "sha256": sha256, **_made(model)},
        version=version,
        champion=_champion(at, version, moment),
        rollout=_rollout(at, version, moment) if entry.role != "champion" else {},
        checks=checks,
        explanation=_explained(root, model, entry.features) if explain and model else None,
    )


def _iso(at: int) -> str:
    return datetime.fromtimestamp(at / SECOND, UTC).isoformat(timespec="milliseconds")


def _version(at: Record | None, model: str) -> dict:
    """The release of the bundle whose hash begins so."""
    for version, tag in at.versions.items() if at else ():
        content = record.parsed(tag)
        hashes = content.get("hashes") or {}
        if str(hashes.get("bundle", "")).startswith(model):
            return {
                "version": version,
                "tag": tag.name,
                "at": when(tag.at),
                "by": tag.who,
                "commit": tag.commit,
                "sentence": content["verdict"]["sentence"],
                "forced": content.get("forced"),
                "hashes": hashes,
            }
    return {}


def _champion(at: Record | None, version: Mapping, moment: int) -> dict:
    """How the version was champion at that second, or else for the first time."""
    terms = [term for term in at.terms if term.version == version.get("version")] if at else []
    if not terms:
        return {}
    now = at.at(moment)[0]
    term = now if now in terms else terms[0]
    action, reason = (term.details.get(key) or "" for key in ("action", "reason"))
    facts = {"version": term.version, "tag": term.tag.name, "at": when(term.tag.at)}
    return facts | {"by": term.tag.who, "action": action, "reason": reason}


def _rollout(at: Record | None, version: Mapping, moment: int) -> dict:
    """The first rollout of the version that ended after that second."""
    trials = at.tried(version["version"]) if version else ()
    ended = [trial for trial in trials if trial.tag.at >= moment]
    return {"tag": ended[0].tag.name, **ended[0].result} if ended else {}


def _bundle(root: Path, at: Record | None, version: Mapping, model: str) -> tuple[str, list[Check]]:
    """The whole hash of the bundle, and whether the store has each byte of it."""
    place = releases.folder(root)
    kept = sorted((place / "bundles").glob(f"{model}*"))
    sha256 = kept[0].name if kept else str(version.get("hashes", {}).get("bundle", ""))
    if not sha256:
        why = f"neither the store nor a version on record has a bundle {model}...; it was deleted"
        return "", [Check("bundle", None, why)]
    try:
        if not kept:
            tag = at.find(version["version"])
            releases.fetch(root, tag, record.evidence(tag))
        files = store.check(place, sha256)
    except ModelkeepError as error:
        return "", [Check("bundle", False if kept else None, str(error))]
    sentence = f"{len(files)} files have the hashes of the manifest, the manifest that of its name"
    checks = [Check("bundle", True, sentence)]
    if version and version["hashes"]["bundle"] != sha256:
        text = f"{version['tag']} names the bundle {version['hashes']['bundle']}, not {sha256}"
        checks.append(Check("tag", False, text))
    return sha256, checks


def _load(root: Path, sha256: str, version: Mapping, rows: int) -> Model | None:
    role = Role(sha256, version.get("version", ""))
    try:
        return models.load(releases.folder(root), Now(role), max(rows, 1)).champion
    except models.ServingError:
        return None  # of other libraries


def _made(model: Model | None) -> dict:
    if model is None:
        return {}
    manifest, origin = model.manifest, model.schema.origin
    facts = {"engine": manifest["serving"]["engine"], "rows": manifest["rows"]}
    facts |= {"as_of": origin.get("as_of", ""), "source": origin.get("source", "")}
    return facts | {key: manifest.get(key, {}) for key in ("params", "libraries")}


def _named(answer: list | float, model: Model | None) -> dict[str, float]:
    if not isinstance(answer, list):
        return {"prediction": answer}
    if len(answer) == 1:
        return {"prediction": answer[0]}
    classes = model.schema.classes if model else [f"class {i}" for i in range(len(answer))]
    return dict(zip(classes, answer, strict=True))


def _notes(model: Model, features: bytes) -> list[str]:
    decoded = model.reader.decode(b'{"rows":[%b]}' % features)
    if decoded.refused:
        return [f"would be refused now: {decoded.refused[0]}"]
    checked = model.reader.check(decoded.rows)
    if checked.refused:
        return [f"would be refused now: {checked.refused[0]}"]
    return [*checked.notes.get(0, ())]


def _log_checks(found: TracedPrediction) -> list[Check]:
    """Whether the log's bytes are those that were written."""
    checks = [_written("log", "the call", found.unchanged)]
    if found.labels:
        checks.append(_written("label", "the labels", found.labels_unchanged))
    return checks


def _written(step: str, what: str, unchanged: bool | None) -> Check:
    if unchanged is None:
        return Check(step, None, f"{what}: written by an older format, which kept no digest")
    state = "as written, by digest" if unchanged else "changed in the database since written"
    return Check(step, unchanged, f"{what} is {state}".replace("labels is", "labels are"))


def _explained(root: Path, model: Model, features: bytes) -> dict | None:
    rows = model.reader.decode(b'{"rows":[%b]}' % features).rows
    explainers = models.Explainers(releases.folder(root))
    return explainers.explain_rows(model, rows)[0] if rows else None


def _again(model: Model | None, found: TracedPrediction) -> Check:
    """Predict all rows of the same call again, and compare the one with the log to the last bit."""
    step, entry = "predicted again", found.record
    if model is None:
        return Check(step, None, "the model is not here, or may not serve here")
    body = b'{"rows":[%b]}' % b",".join(row.features for row in found.batch)
    decoded = model.reader.decode(body)
    checked = model.reader.check(decoded.rows) if not decoded.refused else decoded
    if checked.refused:
        why = next(iter(checked.refused.values()))
        return Check(step, False, f"the log's features do not fit the model: {why}")
    values = np.atleast_1d(model.predict(checked)[found.position])
    logged = np.atleast_1d(np.array(msgspec.json.decode(entry.answer), np.float64))
    if logged.shape == values.shape and (logged == values).all():
        rows = count(len(found.batch), "row")
        return Check(step, True, f"equal to the last bit, in a call of {rows} as then")
    far = (
        f"{np.abs(logged - values).max():.2g}" if logged.shape == values.shape else "other classes"
    )
    text = f"the model predicts {values.tolist()}, the log has {logged.tolist()} (apart: {far}): "
    text += "features or prediction were changed in the log, or other libraries predict here"
    return Check(step, False, text)


def _commit(root: Path, version: Mapping) -> list[Check]:
    """Whether dvc.lock of the version's commit names what its evidence names."""
    if not version:
        return [Check("version", None, "no version on record is of this model: no evidence")]
    try:
        locked = git.run(root, "show", f"{version['commit']}:./dvc.lock")
    except git.GitError as error:
        return [Check("commit", False, str(error))]
    other = [
        f"{what} {str(version['hashes'][key])[:12]}..."
        for key, what in LOCKED.items()
        if key in version["hashes"] and str(version["hashes"][key]) not in locked
    ]
    if other:
        text = f"dvc.lock of {version['commit'][:10]} does not name {', '.join(other)} of the tag"
        return [Check("commit", False, text)]
    return [Check("commit", True, "its dvc.lock names the data, model and report of the tag")]


def _lines(found: Trace) -> list[str]:
    share = f", canary at {found.share:.0%}" if found.share else ""
    given = ", ".join(f"{name} {number(value)}" for name, value in found.prediction.items())
    lines = [f"{found.id}, predicted {_minute(found.at)} by the {found.role}{share}: {given}"]
    lines += [f"Row: {_pairs(found.row)}"]
    lines += [f"  {name}: {value}" for name, value in _roles(found).items() if value]
    if found.notes is not None:
        lines += [f"Notes: {'; '.join(found.notes) or 'none'}"]
    if found.explanation:
        lines += _why(found.explanation, found.row)
    return [*lines, *_labels(found), *_origin(found), *_checked(found)]


def _why(explanation: Mapping, row: Mapping) -> list[str]:
    of = f" of {explanation['class']}" if "class" in explanation else ""
    base, output = (number(explanation[name]) for name in ("base", "output"))
    lines = [f"Why: {explanation['scale']}{of} {output}, {base} in the mean of the background"]
    values = sorted(explanation["values"].items(), key=lambda each: -abs(each[1]))
    shown = {name: number(row[name]) for name, _ in values if row.get(name) is not None}
    return lines + [f"  {v:+.3g}  {name} = {shown.get(name, '-')}" for name, v in values[:MOST]]


def _roles(found: Trace) -> dict[str, str | None]:
    entity = None if found.entity == found.id else found.entity
    return {"entity": entity, "time": found.time and _minute(found.time)}


def _minute(iso: str) -> str:
    return f"{datetime.fromisoformat(iso):%Y-%m-%d %H:%M:%S} UTC"


def _labels(found: Trace) -> list[str]:
    if not found.labels:
        return ["Label: has not come"]
    at = datetime.fromisoformat(found.at)
    lines = []
    for label in found.labels:
        days = (datetime.fromisoformat(label["at"]) - at).total_seconds() / 86_400
        lines.append(f"Label: {label['value']}, came {_minute(label['at'])} ({days:+.2f} days)")
    return lines


def _origin(found: Trace) -> list[str]:
    model, version, champion = found.model, found.version, found.champion
    lines = [f"Model: bundle {model['sha256'] or model['name']}"]
    if "rows" in model:
        known = model["as_of"] or "the end of the table"
        lines += [f"  learned from {model['rows']:,} rows of {model['source']} known at {known}"]
        lines += [f"  params: {_pairs(model['params'])}"]
    if version:
        lines += [
            f"Version: {version['tag']}, released {version['at']} by {version['by']}",
            f"  commit {version['commit']}",
            f"  evidence: {version['sentence']}",
            *([f"  released by force: {version['forced']}"] if version["forced"] else []),
            "  "
            + ", ".join(f"{key} {str(value)[:12]}" for key, value in version["hashes"].items()),
            f"  reports: mk.Workspace().reports({version['version']!r})",
        ]
    if champion:
        why = f": {champion['reason']}" if champion["reason"] else ""
        who = f"{champion['action'] or 'assigned'} by {champion['by']}{why}"
        lines += [f"Champion: {champion['tag']} of {champion['at']}, {who}"]
    if found.role == CANARY or found.rollout:
        sentence = found.rollout.get("sentence", "no rollout of it has ended on record since")
        lines += [f"Rollout: {found.rollout.get('tag', '')} {sentence}".replace("  ", " ")]
    return lines


def _checked(found: Trace) -> list[str]:
    words = {True: "ok", False: "DIFFERS", None: "unknown"}
    return ["Checks:", *(f"  {words[c.holds]:<8}{c.step}: {c.sentence}" for c in found.checks)]


def _pairs(values: Mapping) -> str:
    return ", ".join(f"{name} {'-' if v is None else number(v)}" for name, v in values.items())
