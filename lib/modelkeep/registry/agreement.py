"""Whether what is served here is what the record says."""

from dataclasses import dataclass
from pathlib import Path

from modelkeep.registry import record, releases, store
from modelkeep.registry.record import Record, when


@dataclass(frozen=True)
class Agreement:
    """The champion on record beside the one in service here; empty where there is none."""

    recorded: str  # its version
    served: str  # its version, or the first digits of its SHA-256 if it has none
    agrees: bool
    sentence: str


def compare(root: Path, at: Record) -> Agreement:
    """Compare the pointer of the workspace's store with the record."""
    pointer = store.now(releases.folder(root))
    champion = pointer.champion if pointer else None
    served = (champion.version or champion.sha256[:10]) if champion else ""
    if at.champion is None:
        sentence = f"{served} is served here, and no champion is on record." if served else ""
        return Agreement("", served, True, sentence or "Nothing is served here.")
    term = at.champion
    action = term.details.get("action") or "assigned with gto"
    made = f"{term.tag.name}, {action} by {term.tag.who}, {when(term.tag.at)}"
    stated = f"{at.model} {term.version} is champion ({made})"
    if champion is None:
        return Agreement(term.version, "", True, f"{stated}; nothing is served here.")
    bundle = record.parsed(at.versions[term.version]).get("hashes", {}).get("bundle")
    if champion.sha256 == bundle:
        return Agreement(term.version, served, True, f"{stated}, and is served here.")
    return Agreement(
        term.version,
        served,
        False,
        f"The record says {stated}, but {served} is served here; "
        "`modelkeep sync` serves what the record says.",
    )
