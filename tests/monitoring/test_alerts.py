"""On real Prometheus and Alertmanager: real flights are answered, something is planted, its alert and no other comes and goes.

Days of 20 seconds (monitors.FAST), and each is a real day. The replica is a process's metrics without its server.
"""

import json
import os
import threading
import time
from contextlib import ExitStack
from types import SimpleNamespace

import numpy as np
import pytest

import monitors
import watched
from modelkeep.predictions import frames
from modelkeep.training import pipelines

VERSION, DAY, TICK, COPIES = "flights@v1", 20.0, 0.25, 4
CALM_DAYS = float(os.environ.get("MODELKEEP_CALM_DAYS", "1.5"))  # `make proof` takes a month
OLD = range(4, 24)  # days: predictions of so long ago get their labels, one day after another
PLAIN = {"change": lambda rows: rows, "failing": 0.0, "seconds": 0.004, "wrong": False}
PLAIN |= {"traffic": True, "labels": True, "unlogged": 0, "up": True}
PLAIN |= {"unmatched": 0}


class World:
    """Flights that are asked for, day by day, in a thread; what is planted are attributes."""

    def __init__(self, served, days) -> None:
        self.served, self.days, self.replica = served, days, watched.Replica()
        self.replica.serve(served, "champion", VERSION)
        self.stop, self.hooked, self.failure = threading.Event(), [], None
        self.debts: list = []  # labels that were wrong, to be corrected
        self.ticks = 0
        self.calm()

    def calm(self) -> None:
        """Take away what was planted."""
        self.__dict__.update(PLAIN)

    def run(self) -> None:
        """Send each day within DAY seconds, again and again."""
        try:
            ticks = int(DAY / TICK)
            while not self.stop.is_set():
                for day in self.days:
                    for part in np.array_split(np.arange(len(day)), ticks):
                        began = time.monotonic()
                        self.tick(day.iloc[part])
                        if self.stop.wait(max(0.0, TICK - (time.monotonic() - began))):
                            return
        except Exception as error:  # shown by the test, which would else only see silence
            self.failure = error

    def tick(self, rows) -> None:
        """One turn: rows, labels of rows answered four days ago, and the log."""
        t, lock = self.replica.telemetry, self.replica.lock
        if self.traffic:
            for _ in range(COPIES):
                self.replica.send(self.served, self.change(rows), VERSION, seconds=self.seconds)
        if self.traffic and self.failing:
            with lock:
                for _ in range(int(len(rows) * COPIES * self.failing)):
                    t.requests("predict", 500, 0.001)
        if self.traffic and self.labels:
            self.label(rows[rows["late"].notna()])
        if self.unmatched:
            with lock:
                t.label("unmatched", self.unmatched)
        if self.unlogged:
            with lock:
                t.unlogged(self.unlogged)

    def label(self, rows) -> None:
        """The truth, or while `wrong` the other class, which is corrected later."""
        self.ticks += 1
        at = time.time() - OLD[self.ticks % len(OLD)] * 86_400
        answers = frames.predictions(rows, self.served.schema).tolist()
        truth = pipelines.outcome(rows, self.served.schema).tolist()
        with self.replica.lock:
            t = self.replica.telemetry
            t.recall(VERSION, at, len(rows))
            for answer, true in zip(answers, truth):
                t.label("first")
                if self.wrong:
                    for _ in range(20):  # so that old labels do not hide it
                        t.truth(VERSION, at, answer, 1 - true)
                        self.debts.append((at, answer, true, 1 - true))
                else:
                    t.truth(VERSION, at, answer, true)
            while self.debts and not self.wrong:
                at, answer, true, before = self.debts.pop()
                t.label("corrected")
                t.truth(VERSION, at, answer, true, previous=before)

    def page(self, path: str, body: bytes) -> bytes:
        """What Prometheus reads; nothing while it is down."""
        if not self.up:
            raise ConnectionError
        return self.replica.page()

    def hook(self, path: str, body: bytes) -> bytes:
        """What `modelkeep investigate` would be told."""
        self.hooked.append(json.loads(body))
        return b"{}"


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("alerts")
    served = watched.flights_model(folder / "bundle")
    table = watched.flights()
    table = table[table["scheduled"].between("2013-03-11", "2013-04-10")]  # after the reference
    rows = watched.answered(served, table)
    days = [day for _, day in rows.groupby(rows["scheduled"].dt.floor("D"))]
    here = World(served, days)
    with ExitStack() as stack:
        hook = stack.enter_context(monitors.serving(here.hook))
        manager = stack.enter_context(
            monitors.alertmanager(folder / "alertmanager", investigate=f"http://{hook}")
        )
        target = stack.enter_context(monitors.serving(here.page))
        told = {"alertmanager": manager, "investigate": f"http://{hook}"}
        server = stack.enter_context(monitors.prometheus(folder / "prometheus", [target], **told))
        monitors.wait(lambda: server.query("up == 1") and not server.firing())
        thread = threading.Thread(target=here.run)
        thread.start()
        stack.callback(thread.join)
        stack.callback(here.stop.set)
        yield SimpleNamespace(here=here, server=server)


def watch(world, seconds):
    """Every alert that fired within some seconds."""
    found, end = set(), time.monotonic() + seconds
    while time.monotonic() < end:
        assert world.here.failure is None, world.here.failure
        found |= world.server.firing()
        time.sleep(0.3)
    return found


def test_calm_days_raise_no_alert(world):
    steps = 'modelkeep:feature_steps:day{feature="temp"} >= 9'
    early = watch(world, 10)
    monitors.wait(lambda: world.server.query(steps), 60, why="a whole day")
    assert early | watch(world, CALM_DAYS * DAY) == set()
    rows = world.server.by("modelkeep:feature_rows:day", "version", "feature")[VERSION, "temp"]
    assert rows > 500
    assert world.server.query("modelkeep:log_loss:cohort")
    assert not world.here.hooked


def miles(rows):
    return rows.assign(distance=rows["distance"] * 1.609)


def blind(rows):
    gone = np.arange(len(rows)) % 3 == 0
    return rows.assign(carrier=rows["carrier"].astype(object).mask(gone, None))


PLANTED = {
    "ModelkeepErrors": {"failing": 0.3},
    "ModelkeepSlow": {"seconds": 1.5},
    "ModelkeepLog": {"unlogged": 5},
    "ModelkeepQuality": {"wrong": True},
    "ModelkeepNoLabels": {"labels": False},
    "ModelkeepUnmatchedLabels": {"unmatched": 5},
    "ModelkeepNoTraffic": {"traffic": False},
    "ModelkeepDown": {"up": False},
    "ModelkeepDrift": {"change": miles},
    "ModelkeepMissing": {"change": blind},
}
WITH = {
    "ModelkeepMissing": {"ModelkeepDrift"},  # a third of a column missing is both
    "ModelkeepLog": {"ModelkeepSlow"},  # the plant before: its window of time still holds slow ones
}


@pytest.mark.parametrize("alert", PLANTED)
def test_what_is_planted_raises_its_alert_and_it_clears_again(world, alert):
    here, server = world.here, world.server
    monitors.wait(lambda: not server.firing(), 60, why="calm before")
    assert here.failure is None, here.failure
    here.hooked.clear()
    here.__dict__.update(PLANTED[alert])
    try:
        monitors.wait(lambda: alert in server.firing(), 60, why=f"{alert} does not come")
        assert server.firing() <= {alert} | WITH.get(alert, set())
        told = monitors.wait(
            lambda: [
                a for h in here.hooked for a in h["alerts"] if a["labels"]["alertname"] == alert
            ]
        )
        assert told[0]["status"] == "firing"
        links = told[0]["annotations"]
        assert links["runbook_url"].startswith("http://127.0.0.1:")
        assert ("report" in links) == bool(monitors.CONTRACT.alerts[alert].get("report"))
        assert "{{" not in str(told[0]["annotations"]) and "<" not in str(told[0]["annotations"])
    finally:
        here.calm()
    monitors.wait(lambda: alert not in server.firing(), 60, why=f"{alert} does not clear")
    monitors.wait(lambda: any(a["status"] == "resolved" for h in here.hooked for a in h["alerts"]))


def test_every_alert_was_planted():
    assert set(PLANTED) == set(monitors.CONTRACT.alerts)
