"""The house style of a page: its frame, its style sheet, the links between the stages' pages."""

from functools import cache
from html import escape
from importlib.resources import files as package_files

STAGES = ("prepare", "train", "evaluate", "collect", "monitor")
BESIDE = ("backtest",)  # not of the turn: it takes longer, and is asked for by name


def page(title: str, body: str, *, wide: bool = False, current: str | None = "index") -> str:
    """A page in the house style from its body; without links to the stages' pages where `current` is None."""
    width = " class=wide" if wide else ""
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<title>{escape(title)}</title>\n<link rel="icon" href="data:,">\n<style>{css()}</style>\n</head>\n<body>\n'
        f"{f'<nav{width}>{navigation(current)}</nav>' if current else ''}\n"
        f"<main{width}>\n{body}\n</main>\n</body>\n</html>\n"
    )


@cache
def css() -> str:
    return (package_files("modelkeep") / "templates" / "page" / "page.css").read_text()


def navigation(current: str) -> str:
    names = ("index", *STAGES, *(name for name in BESIDE if name == current))
    return " ".join(
        f"<b>{name}</b>" if name == current else f'<a href="{name}.html">{name}</a>'
        for name in names
    )
