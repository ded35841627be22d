"""What notebooks show and pages print: tables, verdict boxes, numbers as a reader wants them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from math import isfinite
from numbers import Real

# What a state means to the reader decides its colour: go on, decide, or act.
TONES = {
    "good": ("better", "non_inferior", "ok", "fine", "done", "promoted"),
    "bad": ("worse", "retrain", "failed", "rolled_back", "aborted"),
}


@dataclass(frozen=True)
class Html:
    """Markup that notebooks show and pages print."""

    markup: str
    text: str

    def _repr_html_(self) -> str:
        return self.markup

    def __repr__(self) -> str:
        return self.text


def tone(state: str) -> str:
    """`good`, `bad` or `open`: the colour of a state."""
    return next((name for name, states in TONES.items() if state in states), "open")


def verdict(state: str, sentence: str, reasons: Sequence[str] = ()) -> Html:
    """The box on top of a page: one word, one sentence, the reasons with their numbers."""
    items = "".join(f"<li>{escape(reason)}</li>" for reason in reasons)
    markup = (
        f'<div class="verdict {tone(state)}">'
        f'<span class="word">{escape(state.replace("_", " "))}</span>'
        f"<p>{escape(sentence)}</p>{f'<ul>{items}</ul>' if items else ''}</div>"
    )
    return Html(markup, "\n".join([f"{state}: {sentence}", *(f"- {r}" for r in reasons)]))


def provenance(facts: Mapping[str, object]) -> Html:
    """The one table that says what was made from what."""
    rows = "".join(
        f"<tr><th>{escape(str(name))}</th><td>{escape(str(value))}</td></tr>"
        for name, value in facts.items()
    )
    text = "\n".join(f"{name}: {value}" for name, value in facts.items())
    return Html(f'<table class="provenance">{rows}</table>', text)


def table(rows: Sequence[Mapping[str, object]], empty: str = "Nothing to list.") -> Html:
    """Rows as a small table; floats have four digits, counts separators, unknown is `unknown`."""
    if not rows:
        return Html(f"<p>{escape(empty)}</p>", empty)
    names = list(rows[0])
    numeric = {n for n in names if any(isinstance(r.get(n), Real) for r in rows)}
    mark = {name: ' class="number"' if name in numeric else "" for name in names}
    head = "".join(f"<th{mark[name]}>{escape(str(name))}</th>" for name in names)
    body = "".join(
        "<tr>" + "".join(f"<td{mark[n]}>{escape(number(r.get(n)))}</td>" for n in names) + "</tr>"
        for r in rows
    )
    markup = f'<div class="tablebox"><table><thead><tr>{head}</tr></thead>{body}</table></div>'
    lines = (", ".join(f"{n}: {number(r.get(n))}" for n in names) for r in rows)
    return Html(markup, "\n".join(lines))


def number(value: object) -> str:
    """A value as a reader wants it: 1,234; 0.1234; unknown."""
    if value is None or value != value:
        return "unknown"
    if hasattr(value, "item"):
        value = value.item()
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value + 0.0:.4g}"


def significant(value: float) -> str:
    """A value with three significant digits: 2,090; 0.0123; 2.3 × 10¹³; unknown."""
    if value is None or value != value:
        return "unknown"
    if abs(value) >= 1e6:
        digits, _, power = f"{value:.1e}".partition("e")
        raised = "".join("⁰¹²³⁴⁵⁶⁷⁸⁹"[int(digit)] for digit in power.lstrip("+0"))
        return f"{digits} × 10{raised}"
    return f"{float(f'{value:.3g}'):,.0f}" if abs(value) >= 100 else f"{value + 0.0:.3g}"


def between(value: float, low: float | None, high: float | None) -> str:
    """A value with its interval: 0.52 (0.49 to 0.55); alone where that is unknown."""
    known = low is not None and isfinite(low)
    return f"{number(value)} ({number(low)} to {number(high)})" if known else number(value)


def several(names: Sequence[str], most: int = 4) -> str:
    """Names as a person lists them: 'a', 'a and b', 'a, b and 3 more'."""
    shown = list(names[:most])
    if len(names) > most:
        shown.append(f"{len(names) - most} more")
    return " and ".join([", ".join(shown[:-1]), shown[-1]]) if len(shown) > 1 else "".join(shown)


def count(n: int, noun: str) -> str:
    """A number with its noun: '1 row', '2,000 rows'."""
    return f"{n:,} {noun}" if n == 1 else f"{n:,} {noun}s"
