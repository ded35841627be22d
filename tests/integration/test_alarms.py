"""Everything real, on loopback: a server answers real flights, Prometheus reads it, Alertmanager tells, a report is made.

What is planted is done to the server from outside: what it is sent, when, and who holds its database. Days of 20 seconds.
"""

import json
import os
import resource
import sqlite3
import threading
import time
from contextlib import ExitStack, closing
from http.client import HTTPConnection
from itertools import count

import numpy as np
import pandas as pd
import pytest

import example
import investigators
import live
import monitors
import synthetic
from modelkeep.predictions.log import open_log
from modelkeep.predictions.records import PredictionRecord
from servers import free_port

URL = "sqlite:///data/log/predictions.db"
DAY_US = 86_400_000_000
OLD_DAYS, OLD_ROWS = (
    20,
    2000,
)  # predictions of so many days that the log holds at the start: labels are theirs
DAY = 20.0  # seconds (monitors.FAST), and each is a real day
CALM_DAYS = float(os.environ.get("MODELKEEP_CALM_DAYS", "0.5"))  # `make proof` takes a month
ROWS, LANES, PAUSE = 8, 2, 0.08  # rows of a request, clients, seconds between two requests of one
# another process may have the processors for a while: what is slow must be slower than that
SETTINGS = {"slow_seconds": "0.5", "least_rows": "60", "down": "9s"}
HELD, FREE = 0.75, 0.25  # seconds in which the database is held, and not


class Clients:
    """Clients that send flights one day after another and say later what came true; what is planted are attributes."""

    def __init__(self, port: int, days: list[list[tuple[dict, str | None]]]) -> None:
        self.port, self.days, self.began = port, days, time.monotonic()
        self.place, self.stopped, self.failures = count(), threading.Event(), []
        self.threads: list[threading.Thread] = []
        self.traffic, self.labels, self.change = True, True, lambda row: row
        self.lanes, self.rows = LANES, ROWS

    def start(self, lanes: int) -> None:
        """Let so many clients work side by side from now on."""
        self.lanes = lanes
        for lane in range(len(self.threads), lanes):
            thread = threading.Thread(target=self.run, args=(lane,), daemon=True)
            self.threads.append(thread)
            thread.start()

    def run(self, lane: int) -> None:
        """Send and label until the end; those above `lanes` pause."""
        connection = HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            while not self.stopped.wait(PAUSE):
                if self.traffic and lane < self.lanes:
                    self.turn(connection)
                else:
                    connection.close()  # the server lets go of who says nothing
        except Exception as error:  # told by the test, which would else only see silence
            self.failures.append(error)
        finally:
            connection.close()

    def turn(self, connection: HTTPConnection) -> None:
        """One request, and the labels of its rows."""
        day = self.days[int((time.monotonic() - self.began) / DAY) % len(self.days)]
        first = next(self.place) * self.rows
        sent = [day[i % len(day)] for i in range(first, first + self.rows)]
        rows = [self.change(row) for row, _ in sent]
        status, told = post(connection, "/predict", {"rows": rows})
        assert status in (200, 503), (status, told)
        if status == 503 or not self.labels:
            return
        known = [
            {"id": said["id"], "label": truth}
            for said, (_, truth) in zip(told["predictions"], sent, strict=True)
            if truth is not None and "id" in said
        ]
        if known:
            assert post(connection, "/labels", {"labels": known})[0] in (200, 503)


def post(connection, path, content):
    connection.request("POST", path, json.dumps(content), {"Content-Type": "application/json"})
    reply = connection.getresponse()
    return reply.status, json.loads(reply.read())


def model(folder):
    """A small model of January to 10 March, with the rest of March to come."""
    table = example.table().drop(columns="tailnum")
    roles = {"label": "late", "id_column": "flight_id", "time_column": "scheduled"}
    parts = synthetic.prepared(frame=table, as_of="2013-04-01", test_days=21, **roles)
    served = synthetic.sealed(folder, parts, learning_rate=0.5, max_depth=5)
    rows = table[table["scheduled"].between("2013-03-11", "2013-04-10")]
    return served, rows


def asked(rows, of):
    """Rows as a client sends them, and what came true."""
    names = [of.time, *(c.name for c in of.columns)]
    sent = json.loads(rows[names].to_json(orient="records", date_format="iso"))
    return sent, [None if v is pd.NA else str(v) for v in rows["late"]]


def remember(root, served, rows):
    """Put predictions of 24 to 5 days ago into the log, as a server had given them; what came true, right and wrong."""
    rows = rows[rows["late"].notna()].sample(OLD_ROWS, random_state=0)
    at = (time.time_ns() // 1000) - 24 * DAY_US + np.arange(len(rows)) % OLD_DAYS * DAY_US
    said = served.predict(rows).tolist()
    sent, truth = asked(rows, served.schema)
    when = rows[served.schema.time].astype("datetime64[us]").astype("int64").tolist()
    entries = [
        PredictionRecord(
            *(f"old-{i}", int(at[i]) + i, served.name, "champion", f"old-{i}", when[i]),
            *(json.dumps(row).encode(), json.dumps(said[i]).encode()),
        )
        for i, row in enumerate(sent)
    ]
    with closing(open_log(URL, root=root)) as book:
        book.append(entries)
    right = [{"id": f"old-{i}", "label": y} for i, y in enumerate(truth)]
    wrong = [{"id": f"old-{i}", "label": str(1 - int(y))} for i, y in enumerate(truth)]
    return right, wrong


class World:
    """All that runs, and what may be done to it."""

    def __init__(self, **parts) -> None:
        self.__dict__.update(parts)

    def say(self, labels):
        """Post labels."""
        for i in range(0, len(labels), 500):
            body = {"labels": labels[i : i + 500]}
            assert self.server.ask("POST", "/labels", body)[0] == 200

    def until(self, what, seconds=90.0):
        """Every alert that fired until `what` is so of those that fire."""
        found, end = set(), time.monotonic() + seconds
        while time.monotonic() < end:
            assert self.clients.failures == []
            fired = self.prometheus.firing()
            found |= fired
            if what(fired):
                return found
            time.sleep(0.3)
        raise AssertionError(f"not within {seconds} s; so far there fired {found}")

    def plant(self, name, *, others=frozenset()):
        """Wait until an alert fires, and tell whether another one did but `others`."""
        began = time.monotonic()
        fired = self.until(lambda now: name in now)
        print(f"{name} after {time.monotonic() - began:.0f} s")
        assert fired - set(others) == {name}

    def clear(self, *names):
        """Wait until these alerts have gone."""
        began = time.monotonic()
        self.until(lambda now: not now & set(names))
        print(f"{names} gone after {time.monotonic() - began:.0f} s")


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    for program, package in (("prometheus", "prometheus"), ("prometheus-alertmanager",) * 2):
        monitors.need(program, package)
    folder = tmp_path_factory.mktemp("alarms")
    served, rows = model(folder / "bundle")
    root = investigators.workspace(folder / "clone", folder / "bundle")
    right, wrong = remember(root, served, rows)
    days = [
        [*zip(*asked(day, served.schema), strict=True)]
        for _, day in rows.groupby(rows["scheduled"].dt.floor("D"))
    ]
    hook = free_port()
    told = {"investigate": f"http://127.0.0.1:{hook}", **SETTINGS}
    with ExitStack() as stack:
        server = stack.enter_context(live.served(root))
        clients = Clients(server.port, days)
        stack.callback(clients.stopped.set)
        manager = stack.enter_context(monitors.alertmanager(folder / "alertmanager", **told))
        told["alertmanager"] = manager
        prometheus = stack.enter_context(
            monitors.prometheus(folder / "prometheus", [f"127.0.0.1:{server.port}"], **told)
        )
        monitors.wait(lambda: prometheus.query("up == 1"))
        monitors.wait(lambda: not prometheus.firing())  # before the first scrape it was down
        clients.start(LANES)
        found = World(**{k: v for k, v in locals().items() if k not in ("found", "stack")})
        found.say(right)
        yield found


def test_calm_days_raise_no_alert(world):
    steps = 'modelkeep:feature_steps:day{feature="temp"} >= 9'
    fired = world.until(lambda _: world.prometheus.query(steps))
    end = time.monotonic() + CALM_DAYS * DAY
    fired |= world.until(lambda _: time.monotonic() > end, CALM_DAYS * DAY + 60)
    assert fired == set()
    rows = world.prometheus.by("modelkeep:feature_rows:day", "version", "feature")
    assert rows[world.served.name, "temp"] > 500
    loss = 'modelkeep:log_loss:cohort{cohort="3-7"}'
    assert world.prometheus.query(loss)
    evidence = world.prometheus.query("max by (version) (modelkeep:quality_e_value:window)")
    assert evidence and max(evidence.values()) < monitors.CONTRACT.settings["e_value"]


@pytest.mark.slow
def test_a_slow_log_is_a_slow_model(world):
    world.clients.start(6)
    with closing(sqlite3.connect(world.root / "data/log/predictions.db", timeout=10)) as held:
        held.isolation_level = None
        until = time.monotonic() + 60
        while "ModelkeepSlow" not in world.prometheus.firing():
            assert time.monotonic() < until and world.clients.failures == []
            held.execute("BEGIN IMMEDIATE")
            time.sleep(HELD)
            held.execute("ROLLBACK")
            time.sleep(FREE)
    assert world.prometheus.firing() == {"ModelkeepSlow"}
    world.clients.start(LANES)
    world.clear("ModelkeepSlow")


@pytest.mark.slow
def test_an_error_burst(world):
    """The disk is full for the server, so what it cannot log it refuses."""
    server, size = world.server.process.pid, resource.RLIMIT_FSIZE
    before = resource.prlimit(server, size, (1, resource.RLIM_INFINITY))
    try:
        world.plant("ModelkeepErrors", others={"ModelkeepSlow", "ModelkeepLog"})
    finally:
        resource.prlimit(server, size, before)
    world.clear("ModelkeepErrors", "ModelkeepSlow", "ModelkeepLog")


@pytest.mark.slow
def test_a_quality_drop(world):
    world.say(world.wrong)
    world.plant("ModelkeepQuality")
    world.say(world.right)  # corrections
    world.clear("ModelkeepQuality")


@pytest.mark.slow
def test_silence_of_the_labels(world):
    world.clients.labels = False
    world.plant("ModelkeepNoLabels")
    world.clients.labels = True
    world.clear("ModelkeepNoLabels")


@pytest.mark.slow
def test_silence(world):
    world.clients.traffic = False
    world.plant("ModelkeepNoTraffic")
    world.clients.traffic = True
    world.clear("ModelkeepNoTraffic", "ModelkeepNoLabels")


def miles(row):
    """As if somebody had begun to send kilometres."""
    return row | {"distance": row["distance"] * 1.609}


def test_drift_opens_an_executed_notebook(world):
    world.clients.change = miles
    world.plant("ModelkeepDrift")
    began = time.monotonic()
    address = f"/reports/ModelkeepDrift?version={world.served.name}"
    live_too = f"prometheus=http://127.0.0.1:{world.prometheus.port}"
    with investigators.investigating(world.root, f"port={world.hook}", live_too) as desk:
        (rule,) = [
            a for a in world.prometheus.alerts() if a["labels"]["alertname"] == "ModelkeepDrift"
        ]
        assert rule["annotations"]["report"] == f"http://127.0.0.1:{world.hook}{address}"
        # Alertmanager tries again by itself until somebody listens
        monitors.wait(lambda: desk.raw("GET", address)[0] != 404, 60)
        world.clients.change = lambda row: row
        page = investigators.report(desk, address, 240)
        print(f"a report after {time.monotonic() - began:.0f} s")
        (record,) = [r for r in investigators.records(world.root) if r["alert"] == "ModelkeepDrift"]
        assert record["state"] == "done" and "distance" in " ".join(record["summaries"])
        assert "Requested by <strong>ModelkeepDrift</strong>" in page and "distance" in page
        assert "What is live now?" in page and "Drift: effect beyond" in page  # from Prometheus
        assert desk.raw("GET", f"/investigations/{record['id']}")[1].decode() == page
        world.clear("ModelkeepDrift")
        (again,) = [r for r in investigators.records(world.root) if r["alert"] == "ModelkeepDrift"]
        assert again["tries"] == 1
