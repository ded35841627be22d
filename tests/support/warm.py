"""DVC, stages and kernels for tests without their start: forks of one process that has imported.

DVC's imports take half a second of processor time, those of a stage and of its kernel two seconds;
what remains of a stage on a small table takes less than one.
`folder()` holds a `dvc`, a `modelkeep` and a `python` (for `-m dvc` and for kernels) that ask that
process. What such a command is given (words, folder, environment, open files) is the caller's;
the library itself and a workspace's own modules are imported by each fork anew.
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
import time
from contextlib import ExitStack, suppress
from functools import cache
from pathlib import Path

REAL = Path(sys.executable)
HERE = Path(sys.argv[-1]).parent  # in the process that forks: the folder of its socket
LOADED = """dvc.cli dvc.cli.parser dvc.repo dvc.api dvc.stage.run dvc.stage.cache dvc.dvcfile
dvc.parsing.context dvc.repo.reproduce dvc.repo.add dvc.repo.push dvc.repo.checkout dvc.repo.status
dvc.repo.experiments.run dvc_data.index.checkout dvc_data.index.push dvc_data.hashfile.status
dvc.utils.strictyaml dvc.rwlock dulwich.repo dulwich.index dulwich.porcelain pygit2 pyparsing
ruamel.yaml configobj fsspec.implementations.memory dvc_objects.fs.local dvc_data.hashfile.build"""
# what stages and their kernels import of others; asked for by the first of them
STAGE = """papermill nbformat nbclient nbconvert jinja2 tqdm.auto jsonschema click filelock msgspec
ipykernel.kernelapp ipykernel.ipkernel matplotlib_inline.backend_inline matplotlib.figure
matplotlib.dates pandas.io.formats.style pyarrow.parquet scipy.stats scipy.optimize skops.io
sklearn.ensemble sklearn.linear_model sklearn.compose sklearn.pipeline sklearn.preprocessing
sklearn.isotonic sklearn.model_selection sklearn.inspection sqlalchemy sqlite3 prometheus_client
starlette.applications psutil ipykernel.debugger IPython.core.completerlib pyarrow.dataset
matplotlib.backends.backend_svg ipykernel.kernelspec"""
MODULES = ["dvc", "modelkeep", "ipykernel_launcher"]
# a first line cannot name a program in a folder with a space: the shell and Python read these both
FIRST = f"#!{REAL} -ISB"
SPACED = f"""#!/bin/sh
'''exec' "{REAL}" -ISB "$0" "$@"
' '''"""
CLIENT = """{first}
import json, os, signal, socket, sys
words = [{name!r}, *sys.argv[1:]]
if "LD_PRELOAD" in os.environ:  # killed at a write: what is loaded counts the writes of a process
    os.execv({real!r}, [{real!r}, *words[1:]])
if words[0] == "python":
    rest = words[2:] if words[1:2] == ["-P"] else words[1:]
    if rest[:1] != ["-m"] or rest[1] not in {modules}:
        os.execv({python!r}, [{python!r}, *words[1:]])
    words = rest[1:]
address = {address!r} + ("" if words[0] == "dvc" else "-stages")
with socket.socket(socket.AF_UNIX) as wire:
    wire.connect(address)
    request = json.dumps([words, os.getcwd(), dict(os.environ)]).encode()
    socket.send_fds(wire, [len(request).to_bytes(8, "big")], [0, 1, 2])
    wire.sendall(request)
    child = int.from_bytes(wire.recv(8, socket.MSG_WAITALL), "big")
    for each in (signal.SIGTERM, signal.SIGINT):
        signal.signal(each, lambda number, _: os.kill(child, number))
    code = int.from_bytes(wire.recv(8, socket.MSG_WAITALL), "big", signed=True)
if code < 0:
    signal.signal(-code, signal.SIG_DFL)
    os.kill(os.getpid(), -code)
sys.exit(code)
"""
QUIET = {"DVC_NO_ANALYTICS": "1", "PYTHONHASHSEED": "0", "MPLBACKEND": "agg", "TZ": "UTC"}
QUIET |= {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}  # no thread may be there at a fork


@cache
def folder() -> Path:
    """A folder for the front of PATH; the process behind it ends with this one."""
    place = tempfile.TemporaryDirectory(prefix="modelkeep-warm-")
    path = Path(place.name)
    address = str(path / "socket")
    for name in ("dvc", "modelkeep", "python"):
        (path / name).write_text(
            CLIENT.format(
                first=FIRST if " " not in str(REAL) else SPACED,
                python=str(REAL),
                name=name,
                real=str(REAL.with_name(name)),
                address=address,
                modules=MODULES,
            )
        )
        (path / name).chmod(0o755)
    (path / "matplotlibrc").touch()
    own = QUIET | {"HOME": place.name, "MATPLOTLIBRC": place.name}
    server = subprocess.Popen(
        [sys.executable, __file__, address], env=os.environ | own, stdin=-1, stdout=-1
    )
    assert server.stdout.readline() == b"ready\n"

    def end() -> None:
        server.communicate()  # it ends with its input
        place.cleanup()

    atexit.register(end)
    return path


def serve(address: str) -> None:
    """Fork a child for each command, until the input ends."""
    load(LOADED)
    with ExitStack() as stack:
        nothing = stack.enter_context(open(os.devnull))
        doors = [stack.enter_context(socket.socket(socket.AF_UNIX)) for _ in range(2)]
        watched = select.poll()
        for door, name in zip(doors, (address, f"{address}-stages"), strict=True):
            door.bind(name)
            door.listen(64)
            watched.register(door.fileno(), select.POLLIN)
        watched.register(0, select.POLLIN | select.POLLHUP)
        signal.signal(signal.SIGCHLD, lambda *_: reap())
        print("ready", flush=True)
        while 0 not in (ready := {number for number, _ in watched.poll()}):
            door = next(each for each in doors if each.fileno() in ready)
            wire, _ = door.accept()
            if door is doors[1]:
                load(STAGE)
            if os.fork() == 0:
                stack.pop_all()
                for each in doors:
                    each.close()
                os.dup2(nothing.fileno(), 0)
                os._exit(answer(wire))
            wire.close()


def load(names: str) -> None:
    """Import modules that are not there yet."""
    for name in names.split():
        importlib.import_module(name)


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
    request = b""
    while len(request) < int.from_bytes(size, "big"):
        request += wire.recv(1 << 20)
    words, place, env = json.loads(request)
    child = os.fork()
    if child == 0:
        os.setpgid(0, 0)  # who kills its group kills what it started, and no test
        wire.close()
        for own, given in enumerate(files):
            os.dup2(given, own)
            os.close(given)
        os._exit(command(words, place, env))
    with suppress(OSError):  # whichever of the two comes first
        os.setpgid(child, child)
    for given in files:
        os.close(given)
    wire.sendall(child.to_bytes(8, "big"))
    watched = select.poll()
    for each in (wire.fileno(), ended := os.pidfd_open(child)):
        watched.register(each, select.POLLIN | select.POLLHUP)
    if ended not in {number for number, _ in watched.poll()}:
        os.killpg(child, signal.SIGKILL)  # who asked was killed
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    with suppress(BrokenPipeError):
        wire.sendall(code.to_bytes(8, "big", signed=True))
    return 0


def command(words: list[str], place: str, env: dict[str, str]) -> int:
    """What `dvc ...`, `modelkeep ...` or `python -m ipykernel_launcher ...` does, in this process."""
    os.environ.clear()
    os.environ.update(env)
    time.tzset()
    os.chdir(place)
    sys.argv = words
    sys.path[:0] = filter(None, env.get("PYTHONPATH", "").split(os.pathsep))
    sys.path[:] = dict.fromkeys(sys.path)
    try:
        code = run(words)
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else 1
    sys.stdout.flush()
    sys.stderr.flush()
    return code or 0


def run(words: list[str]) -> int | None:
    """Run a program's entry point."""
    if words[0] == "dvc":
        from dvc.cli import main

        return main(words[1:])
    if words[0] == "modelkeep":
        from modelkeep.cli.main import main

        sys.executable = str(HERE / "python")  # for its kernel
        return main()
    from ipykernel.kernelapp import launch_new_instance

    return launch_new_instance()


if __name__ == "__main__":
    serve(sys.argv[1])
