"""Documents whose commands are run: what a block of a guide says a command prints is what it prints."""

import doctest
import os
import re
import signal
import subprocess
import threading
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

from servers import free_port

BLOCK = re.compile(r"^```console(?P<options>[^\n]*)\n(?P<text>.*?)^```$", re.DOTALL | re.MULTILINE)
SERVERS = ("modelkeep serve", "modelkeep investigate", "make serve")  # they end with the document
PATIENCE_SECONDS = 60
PORT = re.compile(r"(?<=[:=])87\d\d\b")  # what documents give a server; in tests it is a free one
LIKE = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


@dataclass(frozen=True)
class Command:
    """One command of a document: the line, what it is said to print, and whether it must fail."""

    line: str
    text: str
    expected: str
    fails: bool

    @property
    def serves(self) -> bool:
        return self.text.startswith(SERVERS)


def commands(document: str, slow: bool = False) -> list[Command]:
    """The commands of all blocks that are run.

    `no-run` behind `console` leaves a block out, `slow` (it trains on all rows) unless `slow`.
    """
    left_out = {"no-run"} if slow else {"no-run", "slow"}
    return [
        command
        for block in BLOCK.finditer(document)
        if not left_out & set(block["options"].split())
        for command in _in_block(block["text"], "fails" in block["options"].split())
    ]


def _in_block(text: str, fails: bool) -> list[Command]:
    text = re.sub(r"\\\n\s*", " ", text)  # a command may go on in the next line
    starts = [m.start() for m in re.finditer(r"^\$ ", text, re.MULTILINE)]
    found = []
    for start, end in pairwise([*starts, len(text)]):
        first, _, expected = text[start:end].partition("\n")
        shown = first[2:]
        found.append(Command(shown, re.sub(r"\s{2,}#.*$", "", shown), expected, fails))
    return found


def alike(expected: str, printed: str) -> bool:
    """Whether printed text is what a document shows, `...` standing for anything and white space for any."""
    if not expected.strip():
        return True
    return doctest.OutputChecker().check_output(expected, printed, LIKE)


class Shell:
    """Runs the commands of one document in a workspace; servers that it started end with it."""

    def __init__(self, root: Path, env: dict[str, str]) -> None:
        self.root, self.env, self.servers = root, {**os.environ, **env}, []
        self.port = str(free_port())

    def run(self, command: Command) -> str:
        """What the command printed; AssertionError where it is not what the document says."""
        text, expected = (PORT.sub(self.port, each) for each in (command.text, command.expected))
        command = replace(command, text=text, expected=expected)
        printed = self._serve(command) if command.serves else self._run(command)
        assert alike(command.expected, printed), (
            f"$ {command.line}\nthe document says:\n{command.expected}\nit prints:\n{printed}"
        )
        return printed

    def _run(self, command: Command) -> str:
        done = subprocess.run(
            ["bash", "-c", command.text],
            cwd=self.root,
            env=self.env,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            text=True,
        )
        assert (done.returncode != 0) == command.fails, f"$ {command.line}\n{done.stdout[-3000:]}"
        return done.stdout

    def _serve(self, command: Command) -> str:
        process = subprocess.Popen(
            ["bash", "-c", f"exec {command.text}"],
            cwd=self.root,
            env=self.env,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            text=True,
        )
        self.servers.append(process)
        lines = []
        for line in process.stdout:
            lines.append(line)
            if "http://" in line:
                break
        threading.Thread(target=process.stdout.read, daemon=True).start()
        assert lines and "http://" in lines[-1], f"$ {command.line}\n{''.join(lines)}"
        return "".join(lines)

    def close(self) -> None:
        for process in self.servers:
            process.send_signal(signal.SIGTERM)
            process.wait(PATIENCE_SECONDS)
            process.stdout.close()
