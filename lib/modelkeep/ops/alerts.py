"""What Alertmanager sends, which report each alert asks for, and its section of the runbook."""

import hashlib
import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from html import escape
from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from modelkeep.core.errors import ModelkeepError
from modelkeep.registry import store
from modelkeep.serving.requests import ValidationError

VERSION = re.compile(r"[A-Za-z0-9_.@#+-]{0,100}")
SHORT = re.compile(r"[0-9a-f]{10,64}")  # a model's name in the metrics: how its SHA-256 begins
OLDEST = 366 * 86_400.0  # seconds ago that an alert may have begun
GUIDE = "docs/monitoring.md"
SECTION = r"^### {name}\n(.*?)(?=^#{{1,3}} |\Z)"
FUTURE = 600.0  # seconds: that much may Prometheus' clock be ahead of ours


class AlertError(ModelkeepError, ValueError):
    """An alert of which no report can be made."""


class Alert(msgspec.Struct):
    """One alert of a notification."""

    status: Literal["firing", "resolved"]
    labels: dict[str, str]
    starts: Annotated[datetime, Meta(tz=True)] = msgspec.field(name="startsAt")
    annotations: dict[str, str] = {}


class Notification(msgspec.Struct):
    """What Alertmanager's webhook sends (format 4); more keys may be there."""

    version: Literal["4"]
    alerts: Annotated[list[Alert], Meta(max_length=1000)]


def read(body: bytes) -> list[Alert]:
    """The alerts of a notification that fire; ValidationError where it is none."""
    try:
        sent = msgspec.json.decode(body, type=Notification)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ValidationError(
            "$", f"{error}; Alertmanager's webhook format 4 is read", 422
        ) from None
    return [alert for alert in sent.alerts if alert.status == "firing"]


def subject(alert: Alert, known: Mapping[str, Mapping], now: datetime) -> tuple[str, str, str]:
    """The name of an alert, the model that it is about, and when it began.

    AlertError where the contract (`known`) has no such alert, or one that is not about a model.
    """
    name, version = alert.labels.get("alertname", ""), alert.labels.get("version", "")
    if name not in known:
        raise AlertError(f"alert {name[:80]!r} is not of the contract; no report is made of it")
    if not known[name].get("report"):
        raise AlertError(f"{name} is not about a model: no report is made of it; see its runbook")
    if not VERSION.fullmatch(version):
        raise AlertError(f"version {version[:80]!r} is no name of a model")
    return name, version, moment(alert.starts, now)


def identify(alert: str, version: str, began: str) -> str:
    """The id of an alert's report: alerts of one rule, model and moment share it."""
    return hashlib.sha256(f"{alert}\0{version}\0{began}".encode()).hexdigest()[:16]


def moment(began: datetime, now: datetime) -> str:
    """When an alert began as text; AlertError where no log could reach."""
    if not -FUTURE <= (now - began).total_seconds() <= OLDEST:
        raise AlertError(
            f"began at {began.isoformat()}, and now it is {now:%Y-%m-%dT%H:%M:%SZ}: "
            "at most a year ago is looked at; set the clocks"
        )
    return began.astimezone(UTC).replace(tzinfo=None).isoformat(timespec="microseconds")


def model(place: Path, version: str) -> str:
    """The SHA-256 of the sealed model that an alert calls so; '' is the one in service."""
    at = store.now(place)
    roles = [role for role in (at.champion, at.canary, at.shadow) if role] if at else []
    if not version and roles:
        return roles[0].sha256
    if named := [role.sha256 for role in roles if role.version == version]:
        return named[0]
    kept = sorted(p.name for p in (place / "bundles").glob("*") if store.SHA256.fullmatch(p.name))
    found = [sha for sha in kept if SHORT.fullmatch(version) and sha.startswith(version)]
    if len(found) != 1:
        raise AlertError(
            f"model {version!r} is not in the store ({len(kept)} models are); "
            "it may have been swept away"
        )
    return found[0]


def runbook(root: Path, known: Mapping[str, Mapping], names: Sequence[str]) -> str:
    """What to do when some alerts fire, as HTML, from the guide or else from the contract; `known`
    holds what the contract says of each.
    """
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
