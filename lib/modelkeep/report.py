"""A notebook as one self-contained page, and the pieces that its sentences are made of."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from html import escape
from importlib.resources import files as package_files
from math import isfinite
from numbers import Real

from nbformat import NotebookNode

STAGES = ("prepare", "train", "evaluate", "collect", "monitor")
BESIDE = ("backtest",)  # not of the turn: it takes longer, and is asked for by name
# What a state means to the reader decides its colour: go on, decide, or act.
TONES = {
    "good": ("better", "not_worse", "fine", "done", "promoted"),
    "bad": ("worse", "retrain", "failed", "rolled_back", "stopped"),
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
        f'<div class="verdict {tone(state)}"><span class="word">{escape(state.replace("_", " "))}</span>'
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
    """Rows as a small table; floats are shown with four digits, counts with separators, unknown as unknown."""
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


def render(notebook: NotebookNode, title: str) -> str:
    """The page of an executed notebook: title, verdict, provenance, then the story; code folded away, nothing loaded from elsewhere."""
    from nbconvert import HTMLExporter

    exporter = HTMLExporter(
        template_name="page",
        extra_template_basedirs=[str(package_files("modelkeep"))],
        anchor_link_text="",
    )
    resources = {
        "title": f"{title} · Modelkeep",
        "css": _css(),
        "nav": _navigation(title),
        "banner": _banner(notebook),
        "failed": _failed(notebook),
        "injected": any(_tagged(c, "injected-parameters") for c in notebook.cells),
    }
    page, _ = exporter.from_notebook_node(_verdict_first(notebook), resources)
    return page


def page(title: str, body: str, *, wide: bool = False, current: str | None = "index") -> str:
    """A page in the house style from its body; without links to the stages' pages where `current` is None."""
    width = " class=wide" if wide else ""
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<title>{escape(title)}</title>\n<link rel="icon" href="data:,">\n<style>{_css()}</style>\n</head>\n<body>\n'
        f"{f'<nav{width}>{_navigation(current)}</nav>' if current else ''}\n"
        f"<main{width}>\n{body}\n</main>\n</body>\n</html>\n"
    )


@cache
def _css() -> str:
    return (package_files("modelkeep") / "page" / "page.css").read_text()


def _navigation(current: str) -> str:
    names = ("index", *STAGES, *(name for name in BESIDE if name == current))
    return " ".join(
        f"<b>{name}</b>" if name == current else f'<a href="{name}.html">{name}</a>'
        for name in names
    )


def _verdict_first(notebook: NotebookNode) -> NotebookNode:
    """The cell tagged `verdict` goes right below the title; the rest of the first cell follows it."""
    cells = list(notebook.cells)
    at = [i for i, cell in enumerate(cells) if _tagged(cell, "verdict")]
    if not at or cells[0].cell_type != "markdown":
        return notebook
    told = cells.pop(at[0])
    heading, _, purpose = cells[0].source.partition("\n")
    first = NotebookNode(cells[0], source=heading)
    rest = NotebookNode(cells[0], source=purpose, id=f"{cells[0].id}-purpose")
    return NotebookNode(notebook, cells=[first, told, rest, *cells[1:]])


def _tagged(cell: NotebookNode, tag: str) -> bool:
    return tag in cell.metadata.get("tags", [])


def _failed(notebook: NotebookNode) -> str:
    for cell in notebook.cells:
        if any(o.output_type == "error" for o in cell.get("outputs", [])):
            return cell.id
    return ""


def _banner(notebook: NotebookNode) -> str:
    """What stands on top of a page whose notebook failed."""
    heading = "the beginning"
    for cell in notebook.cells:
        if cell.cell_type == "markdown" and "#" in cell.source:
            heading = [line for line in cell.source.splitlines() if line.startswith("#")][-1]
        for output in cell.get("outputs", []):
            if output.output_type == "error":
                where = escape(heading.lstrip("# "))
                return (
                    f'<div class="verdict bad"><span class="word">failed</span><p>{escape(f"{output.ename}: {output.evalue}")}</p>'
                    f'<p>It happened under “<a href="#cell-{cell.id}">{where}</a>”. Nothing that stood before was changed.</p></div>'
                )
    return ""


def index(verdicts: Mapping[str, Mapping], failed: Sequence[str] = ()) -> str:
    """The front page: the sentence of each stage, in the order of the loop."""
    items = []
    for stage in STAGES:
        told = verdicts.get(stage)
        if told is None:
            box = verdict("not run", "This stage has not run yet: `make run` runs all of them.")
        else:
            box = verdict(told["state"], told["sentence"])
        link = f'<a href="{stage}.html">{stage}</a>' if told else stage
        items.append(f"<li><h2>{link}</h2>{box.markup}</li>")
    broken = "".join(
        verdict("failed", f"The last run of {stage} failed: see failed/{stage}.html.").markup
        for stage in failed
    )
    body = (
        "<h1>One turn of the loop</h1><p>History is prepared, a candidate is trained and judged, its answers and what came true are collected, "
        f'and the monitor says what to do next.</p>{broken}<ul class="stages">{"".join(items)}</ul>'
    )
    return page("One turn of the loop · Modelkeep", body)
