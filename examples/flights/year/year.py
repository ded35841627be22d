"""The year, end to end: a first release, an update a week by the shipped policy, and one planted
bad model.

A real `modelkeep serve` predicts every flight of April to December 2013 in a scratch clone, on a
clock that this program sets. Labels follow a day later, except for 2 %. Git tags and log are real.
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

DAY, HOUR, CHECK_HOURS = 86_400, 3_600, 6
# The policy is the shipped one. What differs is where the year lies, and what saves minutes.
PARAMS = {
    "prepare": {"source": "history"},
    "train": {"folds": 2},
    "collect": {"days": 28},
    "monitor": {"permutations": 199},
    "rollout": {"analysis_interval_seconds": CHECK_HOURS * HOUR},
}
ENDS = {"advance": "promoted", "rollback": "rolled back"}
LOST = 0.02  # share of labels never sent
PLANT_AFTER = 13  # weeks; later while a rollout runs


class Year:
    """The simulated days and their events."""

    def __init__(
        self, place: Path, table: pd.DataFrame, start: str, end: str, lost: float = LOST
    ) -> None:
        self.place, self.table, self.lost = place, table, lost
        self.start, self.end = seconds(start), seconds(end)
        self.clone = Clone(place / "clone")
        self.events: list[dict] = []
        self.server: Server | None = None
        self.controller: control.Controller | None = None

    def begin(self, source: Path, params: dict) -> None:
        """Clone, release the first model, and serve it."""
        preparing = workspace.params(source, "prepare") | params["prepare"]
        known = self.table[self.table[preparing["time_column"]] < moment(self.start)]
        # the candidate of the repository that is cloned is no candidate of this year: the first
        # update is due
        as_of = {"as_of": moment(self.start - 365 * DAY)[:10]}
        self.clone.make(source, known, {**params, "prepare": params["prepare"] | as_of}, self.start)
        self.update(self.start)
        self.serve(preparing)

    def serve(self, preparing: Mapping) -> None:
        """Start the server on the clone's store; `preparing`: parameters of prepare."""
        self.clock = Clock(self.place / "clock", self.start)
        times = self.table[preparing["time_column"]]
        within = (times >= moment(self.start)) & (times < moment(self.end))
        self.traffic = Traffic(self.table[within], preparing, self.lost)
        self.server = Server(
            self.clone.root, self.place / "clock", self.place / "server.log", self.clone.env
        )
        self.log = control.open_log(self.clone.root)
        self.first = store.now(control.folder(self.clone.root)).champion.sha256

    def day(self, at: int) -> None:
        """One day, hour by hour: analyses of a rollout, labels, requests."""
        for now in range(at, at + DAY, HOUR):
            self.clock.move(now)
            if now % (CHECK_HOURS * HOUR) == 0:
                self.analyse(now)
            self.traffic.hourly(self.server, now)

    def analyse(self, now: int) -> None:
        """Let the controller analyse a running rollout; the server follows at once."""
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

    def update(self, at: int) -> None:
        """One update; a rollout that it starts is followed."""
        began = time.monotonic()
        report = self.clone.update(at)
        self.happened(at, "update", **report | {"seconds": round(time.monotonic() - began)})
        if report["state"] == "failed" and self.server is None:
            raise YearError(f"the first cycle failed: {report['sentence']}")
        self.follow()

    def plant(self, at: int) -> None:
        """Force a bad model into a canary."""
        self.clone.commit(at, "What the last rollout left")
        version, gate = self.clone.plant(at)
        id = rollout_log.newest(self.clone.root).stem
        self.happened(at, "planted", version=version, gate=gate, rollout=id)
        self.follow()

    def follow(self) -> None:
        """Let the server follow the store; analyse a new rollout from now on."""
        if self.server is None:
            return
        self.server.follow()
        path = rollout_log.newest(self.clone.root)
        if path is not None and not rollout_log.read(path).end:
            self.controller = control.Controller(self.clone.root, self.log, self.clock.seconds)

    def happened(self, at: int, what: str, /, **fields: object) -> None:
        """Put an event on record, for the page."""
        self.events.append({**fields, "at": moment(at), "what": what})
        with open(self.place / "events.jsonl", "a") as file:
            file.write(json.dumps(self.events[-1]) + "\n")

    @property
    def news(self) -> str:
        """The last event in a few words."""
        last = self.events[-1]
        if last["what"] == "rollout":
            state = ENDS.get(last["end"], last["end"]) or f"{last['share']:.0%}"
            return f"canary {state}"
        gate = last.get("gate", "").partition(":")[0].replace("_", " ")
        return f"{last['what']}: {gate} {last.get('version', '')}".strip()

    def run(self, update_days: int, plant_after: int, report: Callable[[int], None]) -> None:
        """Run all days; `report` is called after each day with their number."""
        planted = False
        for at in range(self.start, self.end, DAY):
            days = (at - self.start) // DAY
            self.clock.move(at)
            if days and days % update_days == 0:
                self.update(at)
            elif days >= plant_after and not planted and self.controller is None:
                self.plant(at)
                planted = True
            self.day(at)
            report(days + 1)
        self.clock.move(self.end)

    def stop(self) -> None:
        """End the server."""
        if self.server:
            self.server.stop()
            self.log.close()


class Progress:
    """One line a simulated week, with a bar and the time left."""

    def __init__(self, year: Year, update_days: int) -> None:
        self.year, self.update_days, self.began = year, update_days, time.monotonic()
        self.days = (year.end - year.start) // DAY

    def __call__(self, days: int) -> None:
        """Print the progress once a week."""
        if days % 7 and days != self.days:
            return
        full = round(20 * days / self.days)
        day, predicted = (
            moment(self.year.start + DAY * days)[:10],
            self.year.traffic.counts["predicted"],
        )
        line = f"{day} {'█' * full}{'·' * (20 - full)} {predicted:>7,} predictions"
        print(f"{line}, {self.left(days) / 60:4.1f} min left; {self.year.news}", flush=True)

    def left(self, days: int) -> float:
        """Seconds left, at the mean pace of past days and updates."""
        updates = [e["seconds"] for e in self.year.events if e["what"] == "update"]
        later = sum(updates[1:])  # the first one was before we began
        to_come = (self.days - 1) // self.update_days - (len(updates) - 1)
        a_day = (time.monotonic() - self.began - later) / days
        return a_day * (self.days - days) + to_come * sum(updates) / len(updates)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--start", default="2013-04-01", help="the first release (%(default)s)")
    parser.add_argument("--end", default="2014-01-01", help="the day after the last (%(default)s)")
    parser.add_argument(
        "--plant-after", type=int, default=7 * PLANT_AFTER, help="days (%(default)s)"
    )
    parser.add_argument("--weeks", type=int, default=1, help="between two updates (%(default)s)")
    options = parser.parse_args()
    root = workspace.root(Path(__file__).parent)
    place = root / ".dvc" / "tmp" / "year"
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True)
    table = io.read("examples/flights", root)
    year = Year(place, table, options.start, options.end)
    began = time.monotonic()
    try:
        year.begin(root, PARAMS)
        year.run(7 * options.weeks, options.plant_after, Progress(year, 7 * options.weeks))
    finally:
        year.stop()
    return finish(year, root, time.monotonic() - began)


def finish(year: Year, root: Path, spent: float) -> int:
    """Check the year, write its page and print the result; 1 after a failed check."""
    from page import page, verdict
    from results import evaluate

    preparing, first = workspace.params(root, "prepare"), year.first
    results = evaluate(year.clone.root, year.table, preparing, year.traffic, first)
    commit = git.run(root, "rev-parse", "--short=10", "HEAD").strip()
    text = page(results, year.events, PARAMS, commit, spent)
    files.write_text(root / "reports" / "year.html", text)
    files.write_json(year.place / "checks.json", results.checks)
    conclusion = verdict(results, year.events, spent)
    print(
        f"{conclusion}\nreports/year.html; its clone stays in {year.clone.root.relative_to(root)}"
    )
    return int(conclusion.text.startswith("failed"))


if __name__ == "__main__":
    sys.exit(main())
