"""The year, end to end: first release on 1 April 2013, then a turn every four weeks over the real flights, and one bad model planted.

A real `modelkeep serve` answers every flight of April to December in a scratch clone, at a clock that this program moves; the truth about each comes a day later, of 2 % never. Real Git tags, real log.
Writes reports/year.html. Run: make year
"""

import argparse
import json
import shutil
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import pandas as pd

from clock import Clock
from clone import Clone, YearError, moment
from modelkeep.core import files, git, workspace
from modelkeep.data import io
from modelkeep.registry import store
from modelkeep.registry.timeline import moment as seconds
from modelkeep.rollout import control, rollout_log
from service import Server, Traffic

DAY, HOUR, LOOK = 86_400, 3_600, 6
PARAMS = {
    "prepare": {"source": "history", "entity_column": "flight_id"},
    "train": {"folds": 2},
    "collect": {"days": 28},
    "monitor": {"permutations": 199},
    "rollout": {
        "steps": [10, 25, 50],
        "margins": [2.0, 1.5, 1.25],
        "maturity_hours": {"wrong": 30},
        "floor": 0.02,
        "look_seconds": LOOK * HOUR,
        "dwell_minutes": 1440,
        "max_hours": 504,
    },
    "update": {"retrain": "every_days", "every_days": 28.0, "shadow": "never"},
}
ENDS = {"step_up": "promoted", "roll_back": "rolled back"}
LOST = 0.02  # labels that never come
PLANT_AFTER = 13  # weeks; later if a rollout goes on


class Year:
    """What happens day by day, and what came of it."""

    def __init__(self, place: Path, table: pd.DataFrame, start: str, end: str, lost: float = LOST) -> None:  # fmt: skip
        self.place, self.table, self.lost = place, table, lost
        self.start, self.end = seconds(start), seconds(end)
        self.clone = Clone(place / "clone")
        self.events: list[dict] = []
        self.server: Server | None = None
        self.controller: control.Controller | None = None

    def begin(self, source: Path, params: dict) -> None:
        """Clone, release the first model, and serve it."""
        asked = workspace.params(source, "prepare") | params["prepare"]
        known = self.table[self.table[asked["time_column"]] < moment(self.start)]
        # the candidate of the repository that is cloned is no candidate of this year: the first turn is due
        as_of = {"as_of": moment(self.start - 365 * DAY)[:10]}
        self.clone.make(source, known, {**params, "prepare": params["prepare"] | as_of}, self.start)
        self.turn(self.start)
        self.serve(asked)

    def serve(self, asked: Mapping) -> None:
        """Start the server on what the clone's store holds; `asked` names the table's columns."""
        self.clock = Clock(self.place / "clock", self.start)
        times = self.table[asked["time_column"]]
        within = (times >= moment(self.start)) & (times < moment(self.end))
        self.traffic = Traffic(self.table[within], asked, self.lost)
        self.server = Server(self.clone.root, self.place / "clock", self.place / "server.log", self.clone.env)  # fmt: skip
        self.log = control.open_log(self.clone.root)
        self.first = store.now(control.folder(self.clone.root)).champion.sha256

    def day(self, at: int) -> None:
        """One day: labels, rows, and looks at a rollout, hour by hour."""
        for now in range(at, at + DAY, HOUR):
            self.clock.move(now)
            if now % (LOOK * HOUR) == 0:
                self.look(now)
            self.traffic.hourly(self.server, now)

    def look(self, now: int) -> None:
        """Let the controller look, if a rollout goes on; the server follows at once."""
        if self.controller is None:
            return
        before = self.controller.found and (self.controller.found.share, self.controller.found.end)
        found = self.controller.turn()
        if (found.share, found.end) == before:
            return
        self.server.follow()
        self.happened(now, "rollout", id=found.spec.id, share=found.share, end=found.end)
        if found.end:
            self.controller = None

    def turn(self, at: int) -> None:
        """One turn of the loop; what it started is followed."""
        began = time.monotonic()
        said = self.clone.turn(at)
        self.happened(at, "turn", **said | {"seconds": round(time.monotonic() - began)})
        if said["state"] == "failed" and self.server is None:
            raise YearError(f"the first cycle failed: {said['sentence']}")
        self.follow()

    def plant(self, at: int) -> None:
        """A bad model goes into a canary by force."""
        self.clone.commit(at, "What the last rollout left")
        version, gate = self.clone.plant(at)
        id = rollout_log.newest(self.clone.root).stem
        self.happened(at, "planted", version=version, gate=gate, rollout=id)
        self.follow()

    def follow(self) -> None:
        """Let the server follow what has changed; a rollout that was started is looked at from now on."""
        if self.server is None:
            return
        self.server.follow()
        path = rollout_log.newest(self.clone.root)
        if path is not None and not rollout_log.read(path).end:
            self.controller = control.Controller(self.clone.root, self.log, self.clock.seconds)

    def happened(self, at: int, what: str, /, **said: object) -> None:
        """Put an event on record, for the page."""
        self.events.append({**said, "at": moment(at), "what": what})
        with open(self.place / "events.jsonl", "a") as file:
            file.write(json.dumps(self.events[-1]) + "\n")

    @property
    def news(self) -> str:
        """What happened last, in some words."""
        last = self.events[-1]
        if last["what"] == "rollout":
            return f"canary {ENDS.get(last['end'], last['end']) if last['end'] else format(last['share'], '.0%')}"
        return f"{last['what']}: {last.get('gate', '').partition(':')[0]} {last.get('version', '')}".replace(
            "_", " "
        ).strip()

    def run(self, turn_days: int, plant_after: int, say: Callable[[int], None]) -> None:
        """From the first day to the last; `say` is told each day."""
        planted = False
        for at in range(self.start, self.end, DAY):
            days = (at - self.start) // DAY
            self.clock.move(at)
            if days and days % turn_days == 0:
                self.turn(at)
            elif days >= plant_after and not planted and self.controller is None:
                self.plant(at)
                planted = True
            self.day(at)
            say(days + 1)
        self.clock.move(self.end)

    def stop(self) -> None:
        """End the server."""
        if self.server:
            self.server.stop()
            self.log.close()


class Progress:
    """One line a simulated week, with a bar and the time left."""

    def __init__(self, year: Year, turn_days: int) -> None:
        self.year, self.turn_days, self.began = year, turn_days, time.monotonic()
        self.days = (year.end - year.start) // DAY

    def __call__(self, days: int) -> None:
        """Say where the year stands, once a week."""
        if days % 7 and days != self.days:
            return
        full = round(20 * days / self.days)
        day, answered = moment(self.year.start + DAY * days)[:10], self.year.traffic.counts["answered"]  # fmt: skip
        told = f"{day} {'█' * full}{'·' * (20 - full)} {answered:>7,} answers"
        print(f"{told}, {self.left(days) / 60:4.1f} min left; {self.year.news}", flush=True)

    def left(self, days: int) -> float:
        """Seconds, if days and turns go on to take what they took until now."""
        turns = [e["seconds"] for e in self.year.events if e["what"] == "turn"]
        later = sum(turns[1:])  # the first one was before we began
        to_come = (self.days - 1) // self.turn_days - (len(turns) - 1)
        a_day = (time.monotonic() - self.began - later) / days
        return a_day * (self.days - days) + to_come * sum(turns) / len(turns)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--start", default="2013-04-01", help="the first release (%(default)s)")
    parser.add_argument("--end", default="2014-01-01", help="the day after the last (%(default)s)")
    parser.add_argument("--plant-after", type=int, default=7 * PLANT_AFTER, help="days (%(default)s)")  # fmt: skip
    parser.add_argument("--weeks", type=int, default=4, help="between two turns (%(default)s)")
    told = parser.parse_args()
    root = workspace.root(Path(__file__).parent)
    place = root / ".dvc" / "tmp" / "year"
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True)
    table = io.read("examples/flights", root).drop(columns="tailnum")
    year = Year(place, table, told.start, told.end)
    began = time.monotonic()
    try:
        year.begin(root, PARAMS)
        year.run(7 * told.weeks, told.plant_after, Progress(year, 7 * told.weeks))
    finally:
        year.stop()
    return finish(year, root, time.monotonic() - began)


def finish(year: Year, root: Path, spent: float) -> int:
    """Check the year, write its page, and say what came of it; 1 if it was not as it should be."""
    from page import page, verdict
    from told import tell

    asked, first = workspace.params(root, "prepare"), year.first
    found = tell(year.clone.root, year.table, asked, year.traffic, first)
    commit = git.run(root, "rev-parse", "--short=10", "HEAD").strip()
    text = page(found, year.events, PARAMS, commit, spent)
    files.write_text(root / "reports" / "year.html", text)
    files.write_json(year.place / "checks.json", found.checks)
    said = verdict(found, year.events, spent)
    print(f"{said}\nreports/year.html; its clone stays in {year.clone.root.relative_to(root)}")
    return int(said.text.startswith("failed"))


if __name__ == "__main__":
    sys.exit(main())
