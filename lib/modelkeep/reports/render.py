"""An executed notebook as one self-contained page."""

from html import escape
from importlib.resources import files as package_files

from nbformat import NotebookNode

from modelkeep.core import pages


def render(notebook: NotebookNode, title: str) -> str:
    """The page of an executed notebook: title, verdict, provenance, then the story; code folded away, nothing loaded from elsewhere."""
    from nbconvert import HTMLExporter

    exporter = HTMLExporter(
        template_name="page",
        extra_template_basedirs=[str(package_files("modelkeep") / "templates")],
        anchor_link_text="",
    )
    resources = {
        "title": f"{title} · Modelkeep",
        "css": pages.css(),
        "nav": pages.navigation(title),
        "banner": _banner(notebook),
        "failed": _failed(notebook),
        "injected": any(_tagged(c, "injected-parameters") for c in notebook.cells),
    }
    page, _ = exporter.from_notebook_node(_verdict_first(notebook), resources)
    return page


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
