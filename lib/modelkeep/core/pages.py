"""The frame of every page: head, style sheet, links to the other pages, contents."""

import re
from functools import cache
from html import escape
from importlib.resources import files as package_files
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jinja2 import Environment, Template

STAGES = ("prepare", "train", "evaluate", "collect", "monitor")
BESIDE = ("backtest",)  # no part of a cycle: it takes longer, and is run by name
FEWEST_CONTENTS = 3  # a page with fewer headings needs no list of them
HEADING = re.compile(r"<h2(?P<attributes>[^>]*)>(?P<text>.*?)</h2>", re.DOTALL)
ID = re.compile(r'\bid="([^"]*)"')


def page(
    title: str,
    body: str,
    *,
    wide: bool = False,
    current: str | None = "index",
    base: str = "",
    missing: tuple[str, ...] = (),
    links: str = "",
) -> str:
    """A page from its body: HTML whose h2 headings become its contents.

    `current` names the stage whose page it is; without it there are no links to the stages' pages.
    `base` leads to the folder of the other pages; those in `missing` are named and not linked.
    `links` stand in the place of those to the stages' pages.
    """
    body, contents = _contents(body)
    if not links and current is not None:
        links = navigation(current, base, missing)
    return template("frame").render(
        title=title, css=css(), links=links, contents=contents, body=body, wide=wide
    )


def framed_again(page: str, links: str, top: str) -> str:
    """A page that leaves its folder: with other links above, and with `top` over its body."""
    page = re.sub(
        r"(<nav[^>]*>).*?(</nav>)", lambda m: m[1] + links + m[2], page, count=1, flags=re.DOTALL
    )
    before, main, after = page.partition("<main>")
    return f"{before}{main}{top}{after}"


def template(name: str) -> "Template":
    """A template of modelkeep/templates/page by its name."""
    return _environment().get_template(f"{name}.html.j2")


def folder() -> str:
    """Where the templates are."""
    return str(package_files("modelkeep") / "templates")


@cache
def css() -> str:
    """The style sheet of every page, for light and for dark paper."""
    return (package_files("modelkeep") / "templates" / "page" / "page.css").read_text()


def navigation(current: str, base: str = "", missing: tuple[str, ...] = ()) -> str:
    """Links to the front page and to the stages' pages, in the order of the pipeline."""
    names = ("index", *STAGES, *(name for name in BESIDE if name == current))
    parts = []
    for name in names:
        if name == current and not base:
            parts.append(f'<b aria-current="page">{name}</b>')
        elif name in missing:
            parts.append(f"<span>{name}</span>")
        else:
            parts.append(f'<a href="{base}{name}.html">{name}</a>')
    return " ".join(parts)


def _contents(body: str) -> tuple[str, list[tuple[str, str]]]:
    """The body with an id on each heading, and the (id, text) of each; none where they are few."""
    titles = [re.sub(r"<[^>]*>", "", match["text"]).strip() for match in HEADING.finditer(body)]
    if len(titles) < FEWEST_CONTENTS:
        return body, []
    contents: list[tuple[str, str]] = []

    def with_id(match: re.Match) -> str:
        text = re.sub(r"<[^>]*>", "", match["text"]).strip()
        named = ID.search(match["attributes"])
        name = named[1] if named else f"section-{len(contents) + 1}"
        contents.append((name, text))
        return (
            match[0]
            if named
            else f'<h2 id="{escape(name)}"{match["attributes"]}>{match["text"]}</h2>'
        )

    return HEADING.sub(with_id, body), contents


@cache
def _environment() -> "Environment":
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    return Environment(
        loader=FileSystemLoader(f"{folder()}/page"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
