import base64
import hashlib
import hmac
import json
import smtplib
from dataclasses import replace
from urllib.error import HTTPError, URLError

import pytest

import receivers
from modelkeep.notifications import channels
from modelkeep.notifications.channels import NotifyError
from modelkeep.notifications.events import Event

EVENT = Event("shop#champion#2", "promotion", 1_364_774_510, "shop", "v1.1.0", "It is champion.")
EVENT = replace(EVENT, page="reports/evaluate.html", figures={"log_loss": 0.41239})


def test_a_webhook_gets_a_signed_cloud_event(settings):
    with receivers.webhook() as (address, taken):
        channels.send(settings(webhook=address, link="https://ml/x/"), "webhook", EVENT, 1e9)
    ((headers, body),) = taken
    assert headers["content-type"].startswith("application/cloudevents+json")
    found = json.loads(body)
    # what CloudEvents 1.0 requires, and what else it names
    assert {"id", "source", "specversion", "type"} <= found.keys()
    assert (found["specversion"], found["type"]) == ("1.0", "modelkeep.promotion")
    assert (found["id"], found["subject"], found["time"]) == (
        EVENT.id,
        "v1.1.0",
        "2013-04-01T00:01:50Z",
    )
    assert found["data"]["figures"] == {"log_loss": 0.41239}
    assert found["data"]["link"] == "https://ml/x/reports/evaluate.html"
    # Standard Webhooks, computed again
    signed = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + body
    mac = hmac.new(b"a secret", signed, hashlib.sha256).digest()
    assert headers["webhook-signature"] == "v1," + base64.b64encode(mac).decode()
    assert headers["webhook-timestamp"] == "1000000000"


def test_the_signature_is_that_of_standard_webhooks():
    """The example of the specification's libraries."""
    secret, id = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "msg_p5jXN8AQM9LWM0D4loKWxJek"
    found = channels.sign(secret, id, 1614265330, b'{"test": 2432232314}')
    assert found == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


def test_mail(settings):
    with receivers.mail() as (smtp, taken):
        chosen = settings(smtp=smtp, mail_to=["a@example.org", "b@example.org"])
        channels.send(chosen, "mail", EVENT, 1e9)
        channels.send(chosen, "mail", EVENT, 2e9)
    first, second = taken
    assert first["Subject"] == "shop: promotion v1.1.0"
    assert first["To"] == "a@example.org, b@example.org"
    assert first["Message-ID"] == second["Message-ID"]
    assert first.get_content().splitlines() == [
        "It is champion.",
        "",
        "log_loss: 0.4124",
        "",
        "2013-04-01T00:01:50Z",
        "reports/evaluate.html",
    ]


def test_a_redirection_is_not_followed(settings):
    with receivers.webhook([302]) as (address, taken):
        with pytest.raises(HTTPError) as raised:
            channels.send(settings(webhook=address), "webhook", EVENT, 1e9)
        assert taken == []
    assert channels.refused(raised.value)


@pytest.mark.parametrize(
    ("error", "refused"),
    [
        (HTTPError("", 400, "Bad", {}, None), True),
        (HTTPError("", 429, "Slow", {}, None), False),
        (HTTPError("", 503, "Away", {}, None), False),
        (URLError("no route"), False),
        (TimeoutError("timed out"), False),
        (smtplib.SMTPDataError(554, b"spam"), True),
        (smtplib.SMTPDataError(451, b"later"), False),
        (smtplib.SMTPRecipientsRefused({"a@b": (550, b"unknown")}), True),
        (smtplib.SMTPServerDisconnected("gone"), False),
    ],
)
def test_what_is_tried_again(error, refused):
    assert channels.refused(error) == refused
    assert channels.problem(error)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"webhook": "hook.example.org"}, "webhook: 'hook.example.org' is no address"),
        ({"tls": "ssl"}, "tls: 'ssl' is not known; take starttls, tls, none"),
        ({"smtp": "localhost"}, "smtp: 'localhost' is not HOST:PORT"),
        ({"mail_to": ["a@b\nBcc: c@d"]}, "is no address of mail"),
        ({"keep_hours": 0.0}, "keep_hours: 0.0 is not above 0"),
    ],
)
def test_settings_that_cannot_work(settings, values, words):
    with pytest.raises(NotifyError, match=words):
        settings(**values)


def test_all_problems_are_listed_at_once(settings, monkeypatch):
    monkeypatch.delenv(channels.SECRET)
    with pytest.raises(NotifyError) as raised:
        settings(webhook="http://x/", tls="?", smtp="y")
    assert len(str(raised.value).splitlines()) == 4
    assert channels.SECRET in str(raised.value)
