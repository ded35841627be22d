"""What waits is sent in a process of its own, tried again, and marked once it was taken."""

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock

from modelkeep.core import workspace
from modelkeep.core.errors import ModelkeepError
from modelkeep.notifications import channels, events
from modelkeep.notifications.channels import ERRORS, Settings
from modelkeep.notifications.events import Event

PAUSES = (1.0, 5.0, 30.0, 120.0)  # seconds before it is tried again; then the next command does
HOUR = 3600.0
LEDGER = "delivered"  # of events: a line for each and its channel


@dataclass(frozen=True)
class Delivery:
    """What became of one event on one channel; `problem` is empty where it was delivered."""

    event: Event
    channel: str
    problem: str = ""


def begin(root: Path) -> None:
    """Deliver waiting events in a process of its own; none without a channel or an event."""
    try:
        chosen = channels.settings(root)
        if not chosen.channels or not waiting(root, chosen, time.time()):
            return
        place = events.folder(root)
        place.mkdir(parents=True, exist_ok=True)
        with open(place / "errors.log", "a", encoding="utf-8") as errors:
            process = subprocess.Popen(
                [sys.executable, "-P", "-m", "modelkeep", "notify"],
                cwd=root,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=errors,
                start_new_session=True,
            )
        threading.Thread(target=process.wait, daemon=True).start()  # no zombie of a long server
    except (ModelkeepError, OSError) as error:
        print(f"modelkeep: nobody is notified: {error}", file=sys.stderr, flush=True)


def deliver(
    root: Path,
    chosen: Settings,
    clock: Callable[[], float] = time.time,
    pauses: Sequence[float] = PAUSES,
) -> list[Delivery]:
    """Send each event that waits by each channel, one process at a time; what became of them.

    An event is marked as delivered, on disk, once the receiver has taken it: a process killed
    between the two sends it again with the same id, by which receivers leave out the second.
    """
    place = events.folder(root)
    place.mkdir(parents=True, exist_ok=True)
    with FileLock(place / "deliver.lock"):
        oldest = clock() - chosen.keep_hours * HOUR
        events.forget_updates(root, oldest)
        found = waiting(root, chosen, clock())
        return [
            delivery
            for channel in chosen.channels
            for delivery in _deliver(root, chosen, channel, found, clock, pauses)
        ]


def waiting(root: Path, chosen: Settings, now: float) -> list[Event]:
    """The events that some channel has not delivered yet, the oldest first."""
    known = _delivered(root)
    found = events.read(root, now - chosen.keep_hours * HOUR)
    if not chosen.unchanged:
        found = [e for e in found if e.figures.get("state") != "unchanged"]
    return [e for e in found if any((e.id, channel) not in known for channel in chosen.channels)]


def _deliver(
    root: Path,
    chosen: Settings,
    channel: str,
    found: list[Event],
    clock: Callable[[], float],
    pauses: Sequence[float],
) -> Iterator[Delivery]:
    known = _delivered(root)
    for event in found:
        if (event.id, channel) in known:
            continue
        try:
            _patiently(lambda e=event: channels.send(chosen, channel, e, clock()), pauses)
        except ERRORS as error:
            yield Delivery(event, channel, channels.problem(error))
            if not channels.refused(error):
                return  # nobody is there: the others would wait as long
        else:
            _mark(root, event, channel)
            yield Delivery(event, channel)


def test(root: Path, chosen: Settings, now: float) -> list[Delivery]:
    """Send a message that says only that it arrives, once by each channel; what became of it."""
    model = str(workspace.params(root, "serve")["name"])
    sentence = "Notifications of Modelkeep arrive here."
    event = Event(f"test-{now:.0f}", "test", now, model, "", sentence)
    done = []
    for channel in chosen.channels:
        try:
            channels.send(chosen, channel, event, now)
            done.append(Delivery(event, channel))
        except ERRORS as error:
            done.append(Delivery(event, channel, channels.problem(error)))
    return done


def _patiently(act: Callable[[], None], pauses: Sequence[float]) -> None:
    """Do it, again after each pause while nobody takes it."""
    for pause in pauses:
        try:
            return act()
        except ERRORS as error:
            if channels.refused(error):
                raise
        time.sleep(pause)
    return act()


def _delivered(root: Path) -> set[tuple[str, str]]:
    try:
        lines = (events.folder(root) / LEDGER).read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return set()
    return {(parts[0], parts[1]) for line in lines if len(parts := line.split("\t")) == 2}


def _mark(root: Path, event: Event, channel: str) -> None:
    with open(events.folder(root) / LEDGER, "a", encoding="utf-8") as file:
        # what a killed process left of a line ends here, and is no channel's name
        file.write(("\n" if file.tell() else "") + f"{event.id}\t{channel}")
        file.flush()
        os.fsync(file.fileno())


def text(chosen: Settings, done: Sequence[Delivery]) -> str:
    """What became of a run, a line each."""
    if not chosen.channels:
        return "Nobody is notified: params/notify.yaml has no webhook and no mail_to."
    lines = [
        f"{each.event.id}: not sent by {each.channel}: {each.problem}"
        if each.problem
        else f"{each.event.id}: sent by {each.channel}"
        for each in done
    ]
    return "\n".join(lines) or "No event waits."
