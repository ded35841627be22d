"""An executed notebook as one self-contained page."""

from collections.abc import Sequence
from html import escape

from nbformat import NotebookNode

from modelkeep.core import pages


def render(
    notebook: NotebookNode,
    title: str,
    lost: Sequence[str] | None = None,
    missing: tuple[str, ...] = (),
    remedy: str = "",
) -> str:
    """The page of an executed notebook: title, verdict, provenance, then the questions.

    Code is folded away, nothing is loaded from elsewhere. A failed run (`lost` is not None) lies
    one folder below the other pages: `lost` are the outputs that are gone, `remedy` the command
    that brings them back, `missing` the stages without a page.
    """
    from nbconvert import HTMLExporter

    exporter = HTMLExporter(
        template_name="page", extra_template_basedirs=[pages.folder()], anchor_link_text=""
    )
    failed = _failed(notebook)
    resources = {
        "banner": _banner(notebook, lost, remedy),
        "failed": failed,
        "skipped": _skipped(notebook, failed),
        "injected": any(_tagged(c, "injected-parameters") for c in notebook.cells),
    }
    body, _ = exporter.from_notebook_node(_verdict_first(notebook), resources)
    base = "" if lost is None else "../"
    return pages.page(f"{title} · Modelkeep", body, current=title, base=base, missing=missing)


def _verdict_first(notebook: NotebookNode) -> NotebookNode:
    """The cell tagged `verdict` goes right below the title, if it has run; the rest of the first
    cell follows it."""
    cells = list(notebook.cells)
    places = [i for i, c in enumerate(cells) if _tagged(c, "verdict") and c.get("outputs")]
    if not places or cells[0].cell_type != "markdown":
        return notebook
    verdict = cells.pop(places[0])
    heading, _, purpose = cells[0].source.partition("\n")
    first = NotebookNode(cells[0], source=heading)
    rest = NotebookNode(cells[0], source=purpose, id=f"{cells[0].id}-purpose")
    return NotebookNode(notebook, cells=[first, verdict, rest, *cells[1:]])


def _tagged(cell: NotebookNode, tag: str) -> bool:
    return tag in cell.metadata.get("tags", [])


def _failed(notebook: NotebookNode) -> str:
    for cell in notebook.cells:
        if any(o.output_type == "error" for o in cell.get("outputs", [])):
            return cell.id
    return ""


def _skipped(notebook: NotebookNode, failed: str) -> list[str]:
    """The code cells after the one that failed."""
    code = [cell.id for cell in notebook.cells if cell.cell_type == "code"]
    return code[code.index(failed) + 1 :] if failed else []


def _banner(notebook: NotebookNode, lost: Sequence[str] | None, remedy: str) -> str:
    """What stands on top of a page whose notebook failed."""
    heading = "the beginning"
    for cell in notebook.cells:
        if cell.cell_type == "markdown" and "#" in cell.source:
            heading = [line for line in cell.source.splitlines() if line.startswith("#")][-1]
        for output in cell.get("outputs", []):
            if output.output_type == "error":
                where = escape(heading.lstrip("# "))
                return (
                    f'<div class="verdict bad"><span class="word">failed</span>'
                    f"<p>{escape(f'{output.ename}: {output.evalue}')}</p>"
                    f'<p>In the section “<a href="#cell-{cell.id}">{where}</a>”.</p>'
                    f"{_losses(lost, remedy)}</div>"
                )
    return ""


def _losses(lost: Sequence[str] | None, remedy: str) -> str:
    """What of the run before is gone, and how to have it back."""
    if not lost:
        return "<p>The outputs of the last good run are still there.</p>"
    names = ", ".join(f"<code>{escape(path)}</code>" for path in lost)
    return (
        f"<p>Not there any more: {names}. DVC deletes the outputs of a stage before it runs the "
        f"stage. To get those of the last good run back: <code>{escape(remedy)}</code></p>"
    )
