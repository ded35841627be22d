"""Kill a rollout before each line that writes, in a process of its own; say what was found after each kill.

`python killed.py WORKSPACE HASHES EVERY`: before every line, or every third of them; no code of the library knows of this; lines are seen by Python's own tracing.
"""

import itertools
import json
import os
import shutil
import signal
import sys
from pathlib import Path

import rollouts
from modelkeep.registry import store
from modelkeep.rollout import control, rollout_log

WRITERS = {"_appended", "write_bytes"}  # nothing else changes what is on disk
MODULES = ("rollout_log.py", "files.py")


def trap(at: int):
    """A tracer that kills this process before the line of that number, counted over all lines of functions that write."""
    left = [at]

    def lines(frame, event, _):
        if event == "line":
            left[0] -= 1
            if left[0] == 0:
                os.kill(os.getpid(), signal.SIGKILL)
        return lines

    def calls(frame, event, _):
        code = frame.f_code
        ours = code.co_filename.endswith(MODULES) and code.co_name in WRITERS
        return lines if ours else None

    return calls


def world(root: Path, hashes: dict, now: float) -> rollouts.World:
    found = rollouts.World(root, hashes)
    found.now = now
    return found


def prepared(root: Path, hashes: dict) -> dict[str, tuple]:
    """By name: a workspace at its moment, and what is done there."""
    made = {}

    def case(name, act, *, begin=True, looks=0, **traffic):
        place = root.parent / name
        shutil.copytree(root, place)
        here = rollouts.World(place, hashes)
        if begin:
            controller = here.begin(**({"kind": "shadow"} if name == "shadow" else {}))
            for _ in range(looks):
                here.traffic(**traffic)
                controller.turn()
            here.traffic(**traffic)
            here.now += 2.0
        here.log.close()
        made[name] = (place, here.now, act)

    def look(here):
        here.controller().turn()

    def began(here):
        if rollout_log.newest(here.root) is None:  # else its controller goes on with it
            here.begin()
        look(here)

    case("start", began, begin=False)
    case("advance", look, n=600)
    case("rollback", look, n=600, failed=0.95)
    case("promote", look, looks=2, n=1500)
    case("pause", lambda here: noted(here, "pause"), n=50)
    case("abort", lambda here: noted(here, "abort"), n=50)
    case("shadow", lambda here: noted(here, "abort"), n=1)
    return made


def noted(here, event):
    found = rollout_log.find(here.root)
    if not found.end and not found.paused:
        control.note(here.root, event, here.now)
    here.controller().turn()


def state(root: Path) -> tuple:
    """Who answers, and what is on record."""
    at = store.now(root / "serving")
    for role in (at.champion, at.canary, at.shadow):
        if role:
            store.check(root / "serving", role.sha256)
    path = rollout_log.newest(root)
    lines = rollout_log.read(path).rows if path else None
    split = (at.champion.sha256, at.canary and at.canary.share, at.shadow and at.shadow.sha256)
    return split, lines and [
        row.get("verdict", {}).get("decision") or row["event"] for row in lines
    ]


def forked(act, at: int = 0) -> int:
    """Run something in a child, killed at a line; its status."""
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        try:
            if at:
                sys.settrace(trap(at))
            act()
        except BaseException as error:
            print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
            os._exit(1)
        os._exit(0)
    return os.waitpid(child, 0)[1]


def killed(place: Path, now: float, act, hashes: dict, every: int) -> dict:
    """Kill at one line after the other, look, and let another process go on."""
    before, beside = state(place)[0], place.with_name("beside")

    def acted():
        act(world(beside, hashes, now))

    def fresh():
        shutil.rmtree(beside, ignore_errors=True)
        shutil.copytree(place, beside, copy_function=os.link)
        for path in (*beside.glob("data/log/*"), *beside.glob("rollouts/*")):
            text = path.read_bytes()
            path.unlink()
            path.write_bytes(text)  # what is changed in place must not be shared

    fresh()
    assert forked(acted) == 0
    after, corrupt, kills = state(beside), [], 0
    for at in itertools.count(1, every):
        fresh()
        status = forked(acted, at)
        if not os.WIFSIGNALED(status):
            break
        kills += 1
        try:
            split = state(beside)[0]
            steps = (before, after[0], *between(beside, place))
            if split not in steps:
                corrupt.append(f"line {at}: {split}")
            if forked(acted) != 0 or state(beside) != after:
                corrupt.append(f"line {at}: then {state(beside)}, not {after}")
        except Exception as error:
            corrupt.append(f"line {at}: {type(error).__name__}: {error}")
    return {"kills": kills, "corrupt": corrupt}


def between(beside: Path, place: Path) -> list:
    """What a start passes through before its first look: the first share."""
    if rollout_log.newest(place) is not None or rollout_log.newest(beside) is None:
        return []
    champion = store.now(place / "serving").champion.sha256
    return [(champion, 0.2, None)]


if __name__ == "__main__":
    workspace, names, every = Path(sys.argv[1]), json.loads(sys.argv[2]), int(sys.argv[3])
    # what only reads, and slowly: once is enough for all the children
    _, truth = control.standards(workspace, names["champion"], control.Rules())
    control.standards = lambda _, __, rules: (rules, truth)
    control.models.load = lambda *_: None
    cases = prepared(workspace, names)
    print(json.dumps({name: killed(*case, names, every) for name, case in cases.items()}))
