"""The ways by which people are notified: a signed webhook in CloudEvents' format, and mail."""

import base64
import hashlib
import hmac
import json
import os
import smtplib
import ssl
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from email.message import EmailMessage
from pathlib import Path
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit

from modelkeep.core import parameters
from modelkeep.core.errors import ModelkeepError
from modelkeep.core.markup import number
from modelkeep.notifications.events import Event

SECRET = "MODELKEEP_WEBHOOK_SECRET"
USER, PASSWORD = "MODELKEEP_SMTP_USER", "MODELKEEP_SMTP_PASSWORD"
TLS = ("starttls", "tls", "none")
SECONDS = 10.0  # that a webhook or a mail server may take to answer
ERRORS = (OSError, smtplib.SMTPException)


class NotifyError(ModelkeepError, ValueError):
    """Settings with which nothing can be sent."""


@dataclass(frozen=True)
class Settings:
    """What params/notify.yaml holds; each line there says what it means."""

    webhook: str = ""
    mail_to: list[str] = field(default_factory=list)
    mail_from: str = "modelkeep@localhost"
    smtp: str = "localhost:25"
    tls: str = "starttls"
    link: str = ""
    unchanged: bool = False
    keep_hours: float = 72.0

    @property
    def channels(self) -> list[str]:
        """The ways that are set: `webhook`, `mail`."""
        return [
            name for name, is_set in (("webhook", self.webhook), ("mail", self.mail_to)) if is_set
        ]


def settings(root: Path) -> Settings:
    """The settings of params/notify.yaml, checked; NotifyError lists what is wrong and secrets that
    the environment lacks."""
    found = Settings(**parameters.program(root, "notify", Settings, {}))
    problems = []
    if found.webhook and urlsplit(found.webhook).scheme not in ("http", "https"):
        problems.append(f"webhook: {found.webhook!r} is no address; write http:// or https://")
    if found.webhook and not os.environ.get(SECRET):
        problems.append(f"webhook: events are signed, and {SECRET} is not in the environment")
    if found.tls not in TLS:
        problems.append(f"tls: {found.tls!r} is not known; take {', '.join(TLS)}")
    if not _server(found.smtp):
        problems.append(f"smtp: {found.smtp!r} is not HOST:PORT")
    for address in (*found.mail_to, found.mail_from):
        if "@" not in address or any(c.isspace() or c in ",;<>" for c in address):
            problems.append(f"mail_to, mail_from: {address!r} is no address of mail")
    if found.keep_hours <= 0:
        problems.append(f"keep_hours: {found.keep_hours} is not above 0")
    if problems:
        raise NotifyError("\n  ".join(["params/notify.yaml:", *problems]))
    return found


def send(chosen: Settings, channel: str, event: Event, now: float) -> None:
    """Send one event by one channel; one of ERRORS where it was not taken."""
    if channel == "webhook":
        _post(chosen, event, now)
    else:
        _mail(chosen, event)


def cloud_event(chosen: Settings, event: Event) -> dict:
    """An event in the JSON format of CloudEvents 1.0."""
    return {
        "specversion": "1.0",
        "id": event.id,
        "source": f"/modelkeep/{event.model}",
        "type": f"modelkeep.{event.kind}",
        "subject": event.version or event.model,
        "time": event.time,
        "datacontenttype": "application/json",
        "data": {
            "model": event.model,
            "version": event.version,
            "sentence": event.sentence,
            "figures": dict(event.figures),
            "link": _link(chosen, event),
        },
    }


def sign(secret: str, id: str, timestamp: int, body: bytes) -> str:
    """The signature of a webhook: HMAC-SHA256 over id, seconds since 1970 and body.

    The scheme of Standard Webhooks, version 1; a secret `whsec_...` is base64 as it has it.
    """
    plain = secret.removeprefix("whsec_")
    key = base64.b64decode(plain) if plain != secret else secret.encode()
    content = f"{id}.{timestamp}.".encode() + body
    return "v1," + base64.b64encode(hmac.digest(key, content, hashlib.sha256)).decode()


def _post(chosen: Settings, event: Event, now: float) -> None:
    body = json.dumps(cloud_event(chosen, event)).encode()
    headers = {
        "Content-Type": "application/cloudevents+json; charset=utf-8",
        "User-Agent": "modelkeep",
        "Webhook-Id": event.id,
        "Webhook-Timestamp": str(int(now)),
        "Webhook-Signature": sign(os.environ[SECRET], event.id, int(now), body),
    }
    request = urllib.request.Request(chosen.webhook, data=body, headers=headers, method="POST")
    opener = urllib.request.build_opener(_Straight)
    try:
        opener.open(request, timeout=SECONDS).close()
    except HTTPError as error:
        error.close()
        raise


class _Straight(urllib.request.HTTPRedirectHandler):
    """A redirection is an error: what was posted would be requested elsewhere, without its body."""

    def redirect_request(self, *args: object) -> None:
        return None


def _mail(chosen: Settings, event: Event) -> None:
    message = EmailMessage()
    message["From"], message["To"] = chosen.mail_from, ", ".join(chosen.mail_to)
    message["Subject"] = f"{event.model}: {event.kind} {event.version}".strip()
    message["Message-ID"] = f"<{hashlib.sha256(event.id.encode()).hexdigest()[:32]}@modelkeep>"
    figures = [f"{name}: {_shown(value)}" for name, value in event.figures.items() if value != ""]
    link = _link(chosen, event)
    message.set_content(
        "\n".join([event.sentence, "", *figures, "", event.time, link]).rstrip() + "\n"
    )
    with _connected(chosen) as server:
        server.send_message(message)


@contextmanager
def _connected(chosen: Settings) -> Iterator[smtplib.SMTP]:
    host, port = _server(chosen.smtp)
    context = ssl.create_default_context()
    if chosen.tls == "tls":
        server = smtplib.SMTP_SSL(host, port, timeout=SECONDS, context=context)
    else:
        server = smtplib.SMTP(host, port, timeout=SECONDS)
    with server:
        if chosen.tls == "starttls":
            server.starttls(context=context)
        if os.environ.get(USER):
            server.login(os.environ[USER], os.environ.get(PASSWORD, ""))
        yield server


def refused(error: Exception) -> bool:
    """Whether the receiver was there, and will not take this one however often it comes."""
    match error:
        case HTTPError():
            return 300 <= error.code < 500 and error.code not in (408, 425, 429)
        case smtplib.SMTPRecipientsRefused():
            return all(code >= 500 for code, _ in error.recipients.values())
        case smtplib.SMTPSenderRefused() | smtplib.SMTPDataError():
            return error.smtp_code >= 500
    return False


def problem(error: Exception) -> str:
    match error:
        case HTTPError():
            return f"the webhook responded {error.code} {error.reason}"
        case URLError():
            return f"the webhook cannot be reached: {error.reason}"
        case smtplib.SMTPException():
            return f"the mail server refused: {' '.join(str(error).split())}"
    return f"the receiver cannot be reached: {error}"


def _link(chosen: Settings, event: Event) -> str:
    page = event.page or "reports/index.html"
    return f"{chosen.link.rstrip('/')}/{page}" if chosen.link else page


def _shown(value: object) -> str:
    return number(value) if isinstance(value, float) else str(value)


def _server(text: str) -> tuple[str, int] | None:
    host, _, port = text.rpartition(":")
    return (host, int(port)) if host and port.isdigit() and 0 < int(port) < 65536 else None
