"""Old rows and the rows of one entity leave the log, with all that points to them, and are counted."""

import uuid
from contextlib import closing

import pytest

import logs
import servers
from logs import DAY, FIRST, entry
from modelkeep.predictions.log import Call, Label, LogMissing, open_log
from modelkeep.predictions.records import grouped


@pytest.fixture(scope="module")
def server():
    with servers.postgres() as running, pytest.MonkeyPatch.context() as patch:
        patch.setenv("PGPASSWORD", running.password)
        yield running


@pytest.fixture(params=["sqlite", "postgresql"])
def log(request, tmp_path):
    if request.param == "sqlite":
        url = f"sqlite:///{tmp_path}/log.db"
    else:
        running = request.getfixturevalue("server")
        import psycopg

        url = running.url()
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute("DROP SCHEMA IF EXISTS modelkeep CASCADE")
    with closing(open_log(url)) as found:
        yield found


def day(k, n=150, step=1000):
    """Rows of one day, each in a group of its own, of three people."""
    return [
        entry(f"d{k}-{i}", FIRST + k * DAY + i * step, entity=f"person{i % 3}") for i in range(n)
    ]


def test_old_rows_go_and_are_counted(log):
    for k in range(3):
        log.append(day(k))
        log.label([Label(f"d{k}-{i}", "1", FIRST + k * DAY + DAY // 2) for i in range(20)])
    log.label([Label("d2-149", "0", FIRST - 5)])  # came long before its prediction: it stays
    assert log.removed() == {}
    gone = log.prune(FIRST + 2 * DAY)
    assert (gone.predictions, gone.labels) == (300, 40)
    left = logs.table(log)
    assert {row[0] for row in left} == {f"d2-{i}" for i in range(150)}
    assert sum(row[-1] is not None for row in left) == 21
    assert log.find("d0-3") == [] and log.predicted(["d1-1", "d2-1"]) == {"d2-1"}
    assert log.prune(FIRST + 2 * DAY)[:2] == (0, 0)
    assert log.removed()["retention"] == (300, 40, FIRST + 2 * DAY)
    log.append(day(3, 5))
    assert log.prune(FIRST + 3 * DAY)[:2] == (150, 21)
    assert log.removed()["retention"] == (450, 61, FIRST + 3 * DAY)


def batch(n, at, entity):
    name = f"t{uuid.uuid4().hex}"
    return name, [entry(f"{name}-{i}", at, entity=entity(i)) for i in range(n)]


def test_the_rows_of_an_entity_go_and_the_others_of_their_calls_stay(log):
    name, own = batch(5, FIRST, lambda i: "ann" if i == 2 else f"é{i}")
    log.write([*grouped(own)], [], name)
    mixed = [entry(f"r{i}", FIRST + 9, entity="ann" if i % 2 else "annabel") for i in range(4)]
    call = Call(FIRST + 9, "m" * 10, "champion", 0.0, 7, '["ann", "bob"]')
    log.append(mixed, [call])
    log.append([entry("alone", FIRST + 20, entity="ann")])
    ids = [own[2].id, "r1", "r3", "alone"]
    log.label([Label(id, "1", FIRST + 30) for id in [*ids, "r0", own[3].id]])
    before = logs.table(log)
    assert log.erase("ann", dry_run=True) == (tuple(ids), 4, 4, 1)
    assert logs.table(log) == before and log.removed() == {}
    assert log.erase("ann") == (tuple(ids), 4, 4, 1)
    assert logs.table(log) == [row for row in before if row[0] not in ids]
    assert [log.find(id) for id in ids] == [[]] * 4
    for id in ("r0", "r2", own[3].id):
        (found,) = log.find(id)
        assert found.record.id == id and found.unchanged
    assert log.find("r2")[0].position == 1
    assert log.label([Label("r2", "0", FIRST + 40)])[0].outcome == "first"
    assert log.calls(0, 2**62)[0].failed in ('["bob"]', '["bob"]'.replace(" ", ""))
    assert log.removed()["erasure"] == (4, 4, 0)
    assert log.erase("ann") == ((), 0, 0, 0)


def test_no_byte_of_an_entity_is_left_in_the_file(tmp_path):
    url = f"sqlite:///{tmp_path}/log.db"
    with closing(open_log(url)) as log, closing(open_log(url)) as other:
        for k in range(40):  # pages split while they grow, and keep pieces of former rows
            log.append(day(k, 30))
            log.label([Label(f"d{k}-1", "1", FIRST + k * DAY + 9)])
        other.newest()
        log.checkpoint()
        log.erase("person1")
        files = log.scrub()
        content = b"".join(path.read_bytes() for path in files)
        assert b"person1" not in content and b'd7-1"' not in content
        assert b"person2" in content
        log.check()
        other.append([entry("after", FIRST)])
        assert len(logs.table(log, FIRST, FIRST + 50 * DAY)) == 40 * 20 + 1


def test_a_server_appends_between_the_transactions_of_retention(log):
    for k in range(4):
        log.append(day(k, 300))
    rests = []

    def append(seconds):
        log.append([entry(f"new{len(rests)}", FIRST + 9 * DAY + len(rests))])
        rests.append(seconds)

    assert log.prune(FIRST + 4 * DAY, append).predictions == 1200
    assert len(rests) >= 1200 // 64 and min(rests) > 0
    assert len(logs.table(log, FIRST, FIRST + 99 * DAY)) == len(rests)


def test_a_log_that_is_not_there_is_not_made(tmp_path):
    with pytest.raises(LogMissing):
        open_log(f"sqlite:///{tmp_path}/no.db", create=False)
