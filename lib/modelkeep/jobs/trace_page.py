"""The page of a trace: one prediction from its row to the commit of its model, and every check."""

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path

from modelkeep.core import files, markup, pages
from modelkeep.core.markup import Html, count, number
from modelkeep.jobs.trace import Trace

WORDS = {True: "as it was", False: "DIFFERS", None: "cannot be checked"}


def write(found: Sequence[Trace], path: Path) -> Path:
    """Write the predictions of one id to a page, the oldest first; its path."""
    title = f"{found[0].id}, traced"
    parts = [f"<h1>{escape(title)}</h1>{_conclusion(found).markup}"]
    for each in found:
        parts += [f"<h2>Predicted {escape(each.at)} by the {escape(each.role)}</h2>", *_parts(each)]
    page = pages.page(f"{title} · Modelkeep", "\n".join(parts), current="")
    files.write_text(path, page)
    return path


def _conclusion(found: Sequence[Trace]) -> Html:
    differ = [c.sentence for each in found for c in each.checks if c.holds is False]
    unknown = sum(c.holds is None for each in found for c in each.checks)
    many = count(len(found), "prediction")
    if differ:
        return markup.verdict("failed", f"{many}: something is not as it was.", differ)
    sentence = f"{many}: nothing that was checked has changed since."
    reasons = [f"{count(unknown, 'check')} could not be made, see below"] if unknown else []
    return markup.verdict("ok", sentence, reasons)


def _parts(found: Trace) -> list[str]:
    return [
        _section("What was predicted, and for which row?", _row(found)),
        _section("Which label came?", markup.table(found.labels, "No label has come.")),
        _section("Which model was it, and who released it on what evidence?", _origin(found)),
        _section("What was checked?", markup.table(_checks(found))),
    ]


def _section(heading: str, content: Html) -> str:
    return f"<h3>{escape(heading)}</h3>{content.markup}"


def _row(found: Trace) -> Html:
    """The prediction, then each column with its value and what it adds."""
    given = ", ".join(f"{name} {number(value)}" for name, value in found.prediction.items())
    adds: Mapping = (found.explanation or {}).get("values", {})
    lines = [{"column": "prediction", "value": given}]
    lines += [
        {"column": name, "value": str(value)}
        for name, value in (("entity", found.entity), ("time", found.time))
        if value
    ]
    order = sorted(found.row, key=lambda name: -abs(adds.get(name, 0)))
    lines += [{"column": name, "value": number(found.row[name])} for name in order]
    if adds:
        unit = f"adds ({found.explanation['scale']})"
        lines = [each | {unit: _signed(adds.get(each["column"]))} for each in lines]
    notes = "; ".join(found.notes or ()) or "none"
    return markup.table(
        [*lines, {**dict.fromkeys(lines[0], ""), "column": "notes", "value": notes}]
    )


def _signed(value: float | None) -> str:
    return "" if value is None else f"{value:+.3g}"


def _origin(found: Trace) -> Html:
    """The facts of bundle, version, champion and rollout, a line each."""
    lines = []
    for name in ("model", "version", "champion", "rollout"):
        for key, value in getattr(found, name).items():
            if value not in (None, "", {}, []):
                lines.append({"of": name, "fact": key.replace("_", " "), "value": _plain(value)})
    return markup.table(lines, "There is no record here of the model that predicted.")


def _plain(value: object) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_plain(each)}" for key, each in value.items())
    return ", ".join(map(_plain, value)) if isinstance(value, list | tuple) else number(value)


def _checks(found: Trace) -> list[dict]:
    return [
        {"step": c.step, "result": WORDS[c.holds], "what was found": c.sentence}
        for c in found.checks
    ]
