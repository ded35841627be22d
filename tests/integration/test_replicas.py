"""Three servers behind nginx with one log and one store: changes, kills, a database that is away.

The long form (`-m slow`) has the database away for a minute, kills five times, and measures how
long a change takes to reach all.
"""

import json
import random
import signal
import ssl
import threading
import time
from contextlib import ExitStack, closing
from http.client import HTTPException, HTTPSConnection
from pathlib import Path

import pytest

import live
import servers
import synthetic
from modelkeep.predictions.log import open_log
from modelkeep.registry import store
from modelkeep.registry.store import Now, Role
from modelkeep.serving import models

CONFIG = (Path(__file__).parents[2] / "deploy/nginx.conf").read_text()
CONFIG = CONFIG.replace("proxy_connect_timeout 1s", "proxy_connect_timeout 30s")
SALT, SHARE, ENTITIES = "s1", 0.3, 200
CLIENTS, ROWS = 3, 4
DAY = 86_400_000_000
PATIENCE = 60.0  # seconds; machines of CI are slow


class Fleet:
    """Replicas of one workspace, a database, nginx, and clients that keep asking."""

    def __init__(self, root, hashes, database, stack):
        self.root, self.hashes, self.database, self.stack = root, hashes, database, stack
        self.store = root / "serving"
        self.replicas = [self.start() for _ in range(3)]
        folder = root / "nginx"
        folder.mkdir()
        ports = [replica.port for replica in self.replicas]
        self.port, certificate = stack.enter_context(servers.balanced(folder, CONFIG, ports))
        self.tls = ssl.create_default_context(cafile=certificate)
        self.acknowledged, self.refused, self.number = [], [], 0
        self.lock, self.done = threading.Lock(), threading.Event()

    def start(self, port=0):
        """A replica that is ready."""
        # a busy machine is no reason to refuse
        changes = [f"log={self.database.url()}", "access_log=none", "max_wait_ms=30000"]
        changes += [f"port={port}"] if port else []
        return self.stack.enter_context(live.served(self.root, *changes))

    def point(self, **roles):
        """Change who is in service, as promote, rollback and rollouts do."""
        roles = {
            role: Role(self.hashes[name], name, *more) for role, (name, *more) in roles.items()
        }
        store.point(self.store, Now(**roles))

    def reached(self, role, name):
        """Seconds until every replica has this model in this role."""
        began = time.monotonic()
        for replica in self.replicas:
            while True:
                shown = replica.ask("GET", "/model")[1]["models"].get(role, {})
                if shown.get("sha256") == self.hashes[name]:
                    break
                assert time.monotonic() - began < PATIENCE, f"{name} does not serve as {role}"
                time.sleep(0.01)
        return time.monotonic() - began

    def ask(self, connection, rows):
        """Status and body of one request through nginx; 0 where there was no response."""
        body = json.dumps({"rows": rows})
        try:
            connection.request("POST", "/predict", body, {"Content-Type": "application/json"})
            reply = connection.getresponse()
            return reply.status, reply.read()
        except (OSError, HTTPException):
            connection.close()
            return 0, b""

    def connection(self):
        return HTTPSConnection("127.0.0.1", self.port, timeout=30, context=self.tls)

    def client(self):
        """Send rows with ids of their own, and keep what was acknowledged."""
        connection = self.connection()
        while not self.done.wait(0.01):
            with self.lock:
                self.number += 1
                rows = [row(f"c{self.number}-{i}") for i in range(ROWS)]
            status, body = self.ask(connection, rows)
            with self.lock:
                if status == 200:
                    self.acknowledged.append(json.loads(body))
                else:
                    self.refused.append((status, body[:200]))
        connection.close()

    def settle(self, requests=30):
        """Wait until so many more requests were acknowledged."""
        began, wanted = time.monotonic(), len(self.acknowledged) + requests
        while len(self.acknowledged) < wanted:
            assert time.monotonic() - began < PATIENCE, self.refused[-3:]
            time.sleep(0.01)

    def kill(self):
        """Kill one at random under load, and start it again on its port."""
        place = random.Random(self.number).randrange(3)
        killed = self.replicas[place]
        killed.process.send_signal(signal.SIGKILL)
        killed.process.wait()
        self.settle()
        self.replicas[place] = self.start(killed.port)
        self.settle()

    def check(self):
        """No response mixes models, and every acknowledged row is in the log with its model."""
        log = open_log(self.database.url())
        now = time.time_ns() // 1000
        logged = {}
        for page in log.pages(now - DAY, now + DAY):
            for id, _, model, *_ in page:
                logged.setdefault(id, []).append(model)
        log.close()
        for reply in self.acknowledged:
            named = {each["model"] for each in reply["predictions"]}
            assert named <= set(reply["models"]) and len(named) <= 2
            for each in reply["predictions"]:
                assert each["model"] in logged[each["id"]]
        own = [models for id, models in logged.items() if id.startswith("c")]
        assert own and all(len(models) == 1 for models in own)  # nothing was sent twice


def row(id):
    return {"size": 0.5, "weight": 100.0, "shop": "north", "key": id}


@pytest.fixture(scope="module")
def pair(parts, tmp_path_factory):
    """Two bundles of one schema, by name."""
    folder = tmp_path_factory.mktemp("pair")
    for name, knobs in {"v1": {}, "v2": {"max_depth": 2}}.items():
        synthetic.sealed(folder / name, parts["binary"], **knobs)
    return folder


@pytest.fixture
def fleet(pair, tmp_path, monkeypatch):
    servers.need("nginx", "nginx-light")
    root = live.workspace(tmp_path / "ws", pair / "v1")
    hashes = {name: store.add(root / "serving", pair / name) for name in ("v1", "v2")}
    store.point(root / "serving", Now(Role(hashes["v1"], "v1")))
    with ExitStack() as stack:
        database = stack.enter_context(servers.postgres())
        monkeypatch.setenv("PGPASSWORD", database.password)
        made = Fleet(root, hashes, database, stack)
        clients = [threading.Thread(target=made.client) for _ in range(CLIENTS)]
        for each in clients:
            each.start()
        try:
            yield made
        finally:
            made.done.set()
            for each in clients:
                each.join()


def sticky(fleet):
    """The entities that each replica gives to the canary."""
    found = []
    for replica in fleet.replicas:
        rows = [row(f"e{i}") for i in range(ENTITIES)]
        reply = replica.ask("POST", "/predict", {"rows": rows})[1]
        canary = fleet.hashes["v2"][:10]
        found.append({e["id"] for e in reply["predictions"] if e["model"] == canary})
    return found


def changes(fleet):
    """A canary, its promotion and a rollback; the seconds until each reached all replicas."""
    fleet.settle()
    fleet.point(champion=("v1",), canary=("v2", SHARE, SALT))
    seconds = [fleet.reached("canary", "v2")]
    expected = {f"e{i}" for i in range(ENTITIES) if models.in_canary(SALT, f"e{i}", SHARE)}
    assert sticky(fleet) == [expected] * 3 and 0 < len(expected) < ENTITIES
    for name in ("v2", "v1"):
        fleet.point(champion=(name,))
        seconds.append(fleet.reached("champion", name))
        fleet.settle()
    return seconds


def away(fleet, seconds):
    """The database is away: predictions are refused, and answered again when it is back."""
    fleet.database.stop(signal.SIGQUIT)
    time.sleep(seconds)
    with closing(fleet.connection()) as connection:
        status = fleet.ask(connection, [row("away")])[0]
    fleet.database.start()
    assert status in (502, 503)
    fleet.settle()


def test_replicas_change_together_and_lose_nothing(fleet):
    changes(fleet)
    assert not fleet.refused  # a change costs no client a response
    fleet.kill()
    away(fleet, 1.0)
    fleet.done.set()
    fleet.check()


@pytest.mark.slow
def test_replicas_for_longer(fleet):
    """Two seconds for a change, five kills, a rolling restart, a minute without the database."""
    seconds = [each for _ in range(5) for each in changes(fleet)]
    print(f"changes reach all replicas in {max(seconds):.2f} s at most")
    assert max(seconds) < 2.0
    for place in range(3):  # SIGTERM, one after the other, each waited for
        port = fleet.replicas[place].port
        fleet.replicas[place].stop()
        fleet.replicas[place] = fleet.start(port)
    fleet.settle()
    assert not fleet.refused
    for _ in range(5):
        fleet.kill()
    print(f"{len(fleet.refused)} requests without a response in five kills: {fleet.refused[:3]}")
    assert len(fleet.refused) <= 5 * CLIENTS
    away(fleet, 60.0)
    fleet.done.set()
    fleet.check()
    print(f"{len(fleet.acknowledged) * ROWS:,} acknowledged rows are in the log")
