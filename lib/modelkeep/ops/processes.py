"""Dying with one's parents: DVC killed in the middle must not leave its stage running."""

import os
import signal
import threading
import time
from contextlib import suppress
from types import FrameType

import psutil

SHELLS = {"sh", "bash", "dash", "zsh", "fish", "ksh", "ash", "busybox"}
POLL_SECONDS = 0.25
ENDED = 128 + signal.SIGTERM
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


def watch() -> None:
    """From now on, end this process and all below it when a parent dies or a signal says so."""
    ignored = [n for n in SIGNALS if signal.getsignal(n) is signal.SIG_IGN]
    for number in set(SIGNALS) - set(ignored):
        signal.signal(number, _on_signal)
    under_dvc = "DVC_STAGE" in os.environ
    if under_dvc and _orphaned():
        end(ENDED)
    if under_dvc or signal.SIGHUP not in ignored:  # nohup: we are to outlive our parent
        watched = chain() if under_dvc else chain()[:1]
        threading.Thread(target=_poll, args=(watched,), name="parents", daemon=True).start()


def chain() -> list[psutil.Process]:
    """The parents from the nearest up to the first that is not a shell: under DVC, DVC itself."""
    found = []
    for process in psutil.Process().parents():
        found.append(process)
        if process.name() not in SHELLS:
            break
    return found


def end(code: int) -> None:
    """Kill every process below this one and then this one, at once: nothing more is written."""
    frozen: list[psutil.Process] = []
    # stopped before they are killed: none can start another, and our main thread sees none die
    while running := [p for p in psutil.Process().children(recursive=True) if p not in frozen]:
        for process in running:
            _send(process, signal.SIGSTOP)
        frozen += running
    for process in frozen:
        _send(process, signal.SIGKILL)
    os._exit(code)


def _on_signal(number: int, _: FrameType | None) -> None:
    os.write(2, f"\nmodelkeep: ended by {signal.Signals(number).name}\n".encode())
    end(128 + number)


def _poll(watched: list[psutil.Process]) -> None:
    nearest = os.getppid()
    while os.getppid() == nearest and all(_lives(process) for process in watched):
        time.sleep(POLL_SECONDS)
    end(ENDED)


def _lives(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _orphaned() -> bool:
    # between DVC's death and our first look we were handed to a process of another session
    try:
        return os.getsid(os.getppid()) != os.getsid(0)
    except OSError:
        return False


def _send(process: psutil.Process, number: signal.Signals) -> None:
    with suppress(psutil.NoSuchProcess):
        process.send_signal(number)
