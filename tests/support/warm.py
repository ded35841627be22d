"""DVC for tests without its start: each command is a fork of one process that has imported DVC.

Importing takes half a second of processor time, a command in a small repository a third of that.
`folder()` holds a `dvc` and a `python` (for `python -P -m dvc`) that ask that process.
What such a command is given (words, folder, environment, open files) is the caller's.
"""

import atexit
import importlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path

REAL = Path(sys.executable)
LOADED = """dvc.cli dvc.cli.parser dvc.repo dvc.api dvc.stage.run dvc.stage.cache dvc.dvcfile
dvc.parsing.context dvc.repo.reproduce dvc.repo.add dvc.repo.push dvc.repo.checkout dvc.repo.status
dvc.repo.experiments.run dvc_data.index.checkout dvc_data.index.push dvc_data.hashfile.status
dvc.utils.strictyaml dvc.rwlock dulwich.repo dulwich.index dulwich.porcelain pygit2 pyparsing
ruamel.yaml configobj fsspec.implementations.memory dvc_objects.fs.local dvc_data.hashfile.build"""
CLIENT = """#!{python} -ISB
import json, os, signal, socket, sys
words = sys.argv[1:]
if {whole}:
    if words[:3] != ["-P", "-m", "dvc"]:
        os.execv({python!r}, [{python!r}, *words])
    words = words[3:]
with socket.socket(socket.AF_UNIX) as wire:
    wire.connect({address!r})
    asked = json.dumps([words, os.getcwd(), dict(os.environ)]).encode()
    socket.send_fds(wire, [len(asked).to_bytes(8, "big")], [0, 1, 2])
    wire.sendall(asked)
    child = int.from_bytes(wire.recv(8, socket.MSG_WAITALL), "big")
    for each in (signal.SIGTERM, signal.SIGINT):
        signal.signal(each, lambda number, _: os.kill(child, number))
    code = int.from_bytes(wire.recv(8, socket.MSG_WAITALL), "big", signed=True)
if code < 0:
    signal.signal(-code, signal.SIG_DFL)
    os.kill(os.getpid(), -code)
sys.exit(code)
"""


@cache
def folder() -> Path:
    """A folder for the front of PATH; the process behind it ends with this one."""
    place = tempfile.TemporaryDirectory(prefix="modelkeep-warm-")
    path = Path(place.name)
    address = str(path / "socket")
    for name in ("dvc", "python"):
        text = CLIENT.format(python=str(REAL), whole=name == "python", address=address)
        (path / name).write_text(text)
        (path / name).chmod(0o755)
    quiet = {"HOME": place.name, "DVC_NO_ANALYTICS": "1"}
    server = subprocess.Popen(
        [sys.executable, __file__, address], env=os.environ | quiet, stdin=-1, stdout=-1
    )
    assert server.stdout.readline() == b"ready\n"

    def end() -> None:
        server.communicate()  # it ends with its input
        place.cleanup()

    atexit.register(end)
    return path


def serve(address: str) -> None:
    """Fork a child for each command, until the input ends."""
    for name in LOADED.split():
        importlib.import_module(name)
    with socket.socket(socket.AF_UNIX) as door, open(os.devnull) as nothing:
        door.bind(address)
        door.listen(64)
        signal.signal(signal.SIGCHLD, lambda *_: reap())
        print("ready", flush=True)
        watched = select.poll()
        for each in (door.fileno(), 0):
            watched.register(each, select.POLLIN | select.POLLHUP)
        while not any(ready == 0 for ready, _ in watched.poll()):
            wire, _ = door.accept()
            if os.fork() == 0:
                door.close()
                os.dup2(nothing.fileno(), 0)
                os._exit(answer(wire))
            wire.close()


def reap() -> None:
    """Let go of the children that have ended."""
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        pass


def answer(wire: socket.socket) -> int:
    """Run one command in a child, and report how it ended."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    size, files, *_ = socket.recv_fds(wire, 8, 3)
    asked = b""
    while len(asked) < int.from_bytes(size, "big"):
        asked += wire.recv(1 << 20)
    words, place, env = json.loads(asked)
    child = os.fork()
    if child == 0:
        wire.close()
        for own, given in enumerate(files):
            os.dup2(given, own)
            os.close(given)
        os._exit(command(words, place, env))
    for given in files:
        os.close(given)
    wire.sendall(child.to_bytes(8, "big"))
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    wire.sendall(code.to_bytes(8, "big", signed=True))
    return 0


def command(words: list[str], place: str, env: dict[str, str]) -> int:
    """What `dvc WORDS` does, in this process."""
    from dvc.cli import main

    os.environ.clear()
    os.environ.update(env)
    os.chdir(place)
    sys.argv = ["dvc", *words]
    try:
        code = main(words)
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else 1
    sys.stdout.flush()
    sys.stderr.flush()
    return code or 0


if __name__ == "__main__":
    serve(sys.argv[1])
