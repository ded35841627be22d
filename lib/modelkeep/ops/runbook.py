"""The runbook: what to do when an alert fires, from the guide or else from the contract."""

import re
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path

GUIDE = "docs/monitoring.md"
SECTION = r"^### {name}\n(.*?)(?=^#{{1,3}} |\Z)"


def sections(root: Path, known: Mapping[str, Mapping], names: Sequence[str]) -> str:
    """The sections of some alerts as HTML; `known` holds what the contract says of each."""
    from nbconvert.filters import markdown2html

    guide = root / GUIDE
    text, parts = guide.read_text(encoding="utf-8") if guide.is_file() else "", []
    for name in names:
        found = re.search(SECTION.format(name=re.escape(name)), text, re.MULTILINE | re.DOTALL)
        if found:
            body = markdown2html(found[1])
        else:
            body = f"<p>{escape(known[name]['summary'])}. {escape(known[name]['description'])}</p>"
        parts.append(f'<h2 id="{escape(name)}">{escape(name)}</h2>{body}')
    return "".join(["<h1>Runbook</h1>", *parts])
