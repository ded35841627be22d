"""An answer that was given is in the log: after a kill, with a full disk, and on PostgreSQL."""

import json
import resource
import threading
import time
from contextlib import closing
from dataclasses import replace

import pytest

import live
import servers
from modelkeep.predictions.log import open_log
from modelkeep.registry import store
from modelkeep.serving.app import WATCH

GOOD = {"size": 0.5, "weight": 100.0, "shop": "north"}
LOG = "sqlite:///data/log/predictions.db"


@pytest.fixture
def root(bundles, tmp_path, tmp_path_factory):
    at = next(tmp_path_factory.getbasetemp().glob("bundles*"))
    return live.workspace(tmp_path / "w", at / "binary")


def kept(url, root):
    with closing(open_log(url, root=root)) as log:
        log.check()
        return [row["id"] for batch in log.read(0, 2**62) for row in batch.to_pylist()]


def ask_until_it_dies(server, prefix, acknowledged):
    for i in range(100_000):
        try:
            key = f"{prefix}-{i}"
            if server.ask("POST", "/predict", {"rows": [GOOD | {"key": key}]})[0] == 200:
                acknowledged.append(key)
        except OSError:
            return
        except Exception:  # a reply that was cut off
            return


@pytest.mark.parametrize("durability", ["full", "normal"])
def test_kill_9_loses_nothing_that_was_acknowledged(durability, root):
    acknowledged = []
    for turn in range(3):
        with live.served(root, f"durability={durability}") as server:
            clients = [
                threading.Thread(
                    target=ask_until_it_dies, args=(server, f"{turn}-{c}", acknowledged)
                )
                for c in range(4)
            ]
            for client in clients:
                client.start()
            time.sleep(0.5 + turn / 5)
            server.process.kill()
            for client in clients:
                client.join()
        found = kept(LOG, root)
        assert set(acknowledged) <= set(found) and len(found) == len(set(found))
    assert len(acknowledged) > 30


@pytest.mark.parametrize("on_log_failure", ["refuse", "serve"])
def test_a_full_disk(on_log_failure, root):
    with live.served(root, f"on_log_failure={on_log_failure}") as server:
        row = GOOD | {"shop": "x" * 900}
        assert server.ask("POST", "/predict", {"rows": [row] * 10})[0] == 200
        whole = resource.prlimit(
            server.process.pid, resource.RLIMIT_FSIZE, (1, resource.RLIM_INFINITY)
        )
        status, told, headers = server.raw("POST", "/predict", {"rows": [row] * 900})
        if on_log_failure == "refuse":
            assert status == 503 and int(headers["retry-after"]) >= 1
            assert b"the prediction log cannot be written" in told
            assert server.ask("GET", "/health/ready")[0] == 503
        else:
            assert status == 200 and len(json.loads(told)["predictions"]) == 900
            assert server.ask("GET", "/health/ready")[0] == 200
            assert server.metrics()["modelkeep_log_unlogged_rows_total"] == 900
        assert server.metrics()["modelkeep_log_writable"] == 0
        time.sleep(4 * WATCH)
        # the log cannot be tidied up either, and the pointer is still followed
        now = store.now(root / "serving")
        store.point(root / "serving", replace(now, champion=replace(now.champion, version="v2")))
        until = time.monotonic() + 30
        while server.ask("GET", "/model")[1]["models"]["champion"]["version"] != "v2":
            assert time.monotonic() < until
            time.sleep(0.1)
        resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE, whole)
        until = time.monotonic() + 30
        while server.ask("POST", "/predict", {"rows": [row | {"key": "after"}]})[0] != 200:
            assert time.monotonic() < until
            time.sleep(0.2)
        until = time.monotonic() + 30
        while server.metrics()["modelkeep_log_writable"] == 0:
            server.ask("POST", "/predict", {"rows": [row | {"key": "after"}]})
            assert time.monotonic() < until
        assert server.ask("GET", "/health/ready")[0] == 200
    assert "after" in kept(LOG, root)


@pytest.fixture
def postgres():
    with servers.postgres() as server:
        yield server


def test_two_replicas_share_one_log_on_postgresql(root, postgres, monkeypatch):
    monkeypatch.setenv("PGPASSWORD", servers.Postgres.password)
    url = postgres.url()
    with live.served(root, f"log={url}") as one, live.served(root, f"log={url}") as two:
        for i in range(20):
            asked = (one, two)[i % 2].ask("POST", "/predict", {"rows": [GOOD | {"key": f"k{i}"}]})
            assert asked[0] == 200
        labels = {"labels": [{"id": f"k{i}", "label": i % 2} for i in range(20)]}
        told = two.ask("POST", "/labels", labels)[1]["labels"]
        assert [x["outcome"] for x in told] == ["first"] * 20
        assert servers.Postgres.password not in json.dumps(one.ask("GET", "/health/ready"))
        postgres.stop()
        postgres.start()
        until = time.monotonic() + 30
        while one.ask("POST", "/predict", {"rows": [GOOD | {"key": "after"}]})[0] != 200:
            assert time.monotonic() < until
    assert {f"k{i}" for i in range(20)} | {"after"} <= set(kept(url, root))
