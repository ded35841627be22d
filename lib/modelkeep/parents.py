"""Dying with one's parents: DVC killed in the middle must not leave its stage running."""

import os
import signal
import threading
import time

import psutil

SHELLS = {"sh", "bash", "dash", "zsh", "fish", "ksh", "ash", "busybox"}
POLL_SECONDS = 0.25
ENDED = 128 + signal.SIGTERM


def watch() -> None:
    """From now on, end this process and all below it when a parent dies or SIGTERM comes."""
    signal.signal(signal.SIGTERM, lambda *_: end())
    under_dvc = "DVC_STAGE" in os.environ
    if under_dvc and _orphaned():
        end()
    if under_dvc or signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # nohup: outlive them
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


def end() -> None:
    """Kill every process below this one and then this one, at once: nothing more is written."""
    for _ in range(5):  # what they start meanwhile dies in the next round
        below = psutil.Process().children(recursive=True)
        for process in below:
            _kill(process)
        if not psutil.wait_procs(below, timeout=1)[0]:
            break
    os._exit(ENDED)


def _poll(watched: list[psutil.Process]) -> None:
    nearest = os.getppid()
    while os.getppid() == nearest and all(_lives(process) for process in watched):
        time.sleep(POLL_SECONDS)
    end()


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


def _kill(process: psutil.Process) -> None:
    try:
        process.kill()
    except psutil.NoSuchProcess:
        pass
