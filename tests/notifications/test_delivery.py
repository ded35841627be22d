import os
import signal
import subprocess
import sys
import threading
import time

import pytest

import notified
import receivers
import workspaces
from modelkeep.notifications import delivery, events
from notified import HOUR_LATER, NAMES, START

PATIENT = (0.01, 0.01, 0.01)


def deliver(root, chosen, now=HOUR_LATER):
    return delivery.deliver(root, chosen, lambda: now, PATIENT)


def test_each_event_is_sent_once_by_each_channel(root, settings):
    with receivers.webhook() as (address, hooks), receivers.mail() as (smtp, mails):
        chosen = settings(webhook=address, smtp=smtp, mail_to=["a@example.org"])
        done = deliver(root, chosen)
        assert [d.problem for d in done] == [""] * 12
        assert [e["id"] for e in receivers.sent(hooks)] == list(NAMES)
        assert len({mail["Message-ID"] for mail in mails}) == len(mails) == 6
        assert deliver(root, chosen) == []
        notified.tag(root, START + 900, "shop#champion#4", action="promote")
        assert [d.event.id for d in deliver(root, chosen)] == ["shop#champion#4"] * 2
    assert len(hooks) == len(mails) == 7


def test_a_receiver_that_fails_twice_gets_it_the_third_time(root, settings):
    failing = receivers.webhook([503, 500]), receivers.mail(["451 later", "421 busy"])
    with failing[0] as (address, hooks), failing[1] as (smtp, mails):
        chosen = settings(webhook=address, smtp=smtp, mail_to=["a@example.org"])
        assert not any(d.problem for d in deliver(root, chosen))
    assert [e["id"] for e in receivers.sent(hooks)] == list(NAMES)
    assert len(mails) == 6


def test_where_nobody_is_there_the_rest_waits_for_the_next_time(root, settings):
    with receivers.webhook() as (address, _):
        pass
    chosen = settings(webhook=address)
    (done,) = deliver(root, chosen)
    assert "cannot be reached" in done.problem
    assert len(delivery.waiting(root, chosen, HOUR_LATER)) == 6


def test_an_event_that_is_refused_does_not_hold_up_the_others(root, settings):
    with receivers.webhook([400]) as (address, hooks):
        chosen = settings(webhook=address)
        done = deliver(root, chosen)
        assert [bool(d.problem) for d in done] == [True] + [False] * 5
        assert [e["id"] for e in receivers.sent(hooks)] == list(NAMES[1:])
        assert [d.event.id for d in deliver(root, chosen)] == [NAMES[0]]


def test_old_events_are_given_up(root, settings):
    chosen = settings(webhook="http://127.0.0.1:1/", keep_hours=1.0)
    assert len(delivery.waiting(root, chosen, START + 3_600)) == 6
    assert len(delivery.waiting(root, chosen, START + 3_605)) == 5
    assert delivery.waiting(root, chosen, START + 4_000) == []


@pytest.mark.parametrize("unchanged", [True, False])
def test_an_update_that_changed_nothing_is_an_event_where_asked(root, settings, unchanged):
    chosen = settings(webhook="http://127.0.0.1:1/", unchanged=unchanged)
    result = {"state": "unchanged", "at": "2013-04-01T01:00:00", "sentence": "It stays."}
    events.keep_update(root, result, HOUR_LATER)
    found = delivery.waiting(root, chosen, HOUR_LATER)
    assert len(found) == 6 + unchanged


def test_killed_at_any_post_each_event_arrives_and_none_twice_under_two_ids(root, settings):
    """The process is killed while a post is under way; another one goes on."""
    posts, running = threading.Event(), []

    def kill():
        posts.set()
        if running and len(killed) < 4:
            killed.append(running[-1].pid)
            os.kill(running[-1].pid, signal.SIGKILL)

    killed = []
    notified_now = "from modelkeep.notifications import channels, delivery\n"
    notified_now += "import sys, pathlib\nroot = pathlib.Path(sys.argv[1])\n"
    notified_now += f"delivery.deliver(root, channels.settings(root), lambda: {HOUR_LATER}, ())"
    with receivers.webhook(on_post=kill) as (address, hooks):
        settings(webhook=address)
        for _ in range(8):
            command = [sys.executable, "-c", notified_now, str(root)]
            running.append(subprocess.Popen(command))
            running[-1].wait(120)
    assert len(killed) == 4
    ids = [event["id"] for event in receivers.sent(hooks)]
    assert set(ids) == set(NAMES)
    assert len(ids) <= len(NAMES) + len(killed)  # twice at most what a kill has cut off


def test_a_command_does_not_wait_for_a_receiver_that_hangs(root, settings):
    """A promotion returns at once; the event arrives by a process of its own."""
    released = threading.Event()
    with receivers.webhook(on_post=lambda: released.wait(60)) as (address, hooks):
        settings(webhook=address)
        result = {"state": "failed", "at": "2013-04-01T01:00:00", "sentence": "A fault."}
        events.keep_update(root, result, time.time())
        delivery.begin(root)
        assert not released.is_set()  # it has returned though nobody has answered yet
        end = time.monotonic() + 60
        while not hooks and time.monotonic() < end:
            time.sleep(0.05)
        released.set()
        ledger = events.folder(root) / delivery.LEDGER
        while not ledger.is_file() and time.monotonic() < end:
            time.sleep(0.05)
    assert [e["type"] for e in receivers.sent(hooks)] == ["modelkeep.update"]
    assert (events.folder(root) / "errors.log").read_text() == ""


def test_the_command(root, settings):
    def run(*words, **env):
        env = workspaces.surroundings(root) | {"MODELKEEP_WEBHOOK_SECRET": "x"} | env
        env["PYTHONPATH"] = str(workspaces.REPOSITORY / "lib")
        command = [sys.executable, "-P", "-m", "modelkeep", "notify", *words]
        return subprocess.run(command, cwd=root, env=env, capture_output=True, text=True)

    assert "no webhook and no mail_to" in run().stdout
    with receivers.webhook([403]) as (address, hooks):
        settings(webhook=address)
        refused = run("--test")
        assert refused.returncode == 1
        assert "not sent by webhook: the webhook responded 403" in refused.stdout
        assert run("--test").returncode == 0
        assert run().stdout == "No event waits.\n"  # those of 2013 are too old
    assert [e["type"] for e in receivers.sent(hooks)] == ["modelkeep.test"]
    wrong = run(MODELKEEP_WEBHOOK_SECRET="")
    assert wrong.returncode == 2
    assert "MODELKEEP_WEBHOOK_SECRET is not in the environment" in wrong.stderr
