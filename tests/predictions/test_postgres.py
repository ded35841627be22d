import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import quote

import psycopg
import pytest

import logs
import servers
from logs import DAY, FIRST, entries
from modelkeep.predictions import log as logbook
from modelkeep.predictions import postgres
from modelkeep.predictions.log import Label, LogError, open_log
from modelkeep.predictions.records import grouped


@pytest.fixture(scope="module")
def server():
    with servers.postgres() as running:
        os.environ["PGPASSWORD"] = running.password
        yield running
        del os.environ["PGPASSWORD"]


@pytest.fixture
def log(server):
    with psycopg.connect(server.url(), autocommit=True) as connection:
        connection.execute("DROP SCHEMA IF EXISTS modelkeep CASCADE")
    found = open_log(server.url())
    yield found
    found.close()


def run(server, sql):
    with psycopg.connect(server.url(), autocommit=True) as connection:
        connection.execute(sql)


def ids(log):
    return [row[0] for row in logs.table(log)]


@pytest.mark.parametrize(("durability", "shown"), [("full", "on"), ("normal", "off")])
def test_durability_is_what_is_promised(server, durability, shown):
    log = open_log(server.url(), durability=durability)
    found = log.store.connect().execute("SHOW synchronous_commit").fetchone()
    assert found == (shown,) and f"synchronous_commit={shown}" in log.durability
    log.close()


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGQUIT])
def test_a_server_that_was_away_is_found_again(server, log, how, monkeypatch):
    monkeypatch.setattr(postgres, "REST", 0.0)
    log.append(entries(2))
    server.stop(how)
    try:
        for _ in range(2):
            with pytest.raises(LogError, match="cannot be written: .*; look at the server") as e:
                log.append(entries(2, name="lost"))
            assert e.value.retry_after > 0
        with pytest.raises(LogError, match="cannot be read"):
            log.newest()
    finally:
        server.start()
    log.append(entries(2, FIRST + DAY, name="new"))
    assert ids(log) == ["r0", "r1", "new0", "new1"]


def test_a_restart_between_two_batches_is_not_even_noticed(server, log):
    log.append(entries(2))
    server.stop()
    server.start()
    log.append(entries(2, FIRST + DAY, name="new"))
    assert ids(log) == ["r0", "r1", "new0", "new1"]


def test_a_host_that_does_not_answer_is_not_asked_for_every_batch(server, log):
    server.stop()
    try:
        with pytest.raises(LogError, match="refused"):
            log.append(entries(1))
        with pytest.raises(LogError, match="could not be reached a moment ago"):
            log.append(entries(1))
    finally:
        server.start()


def cut(server, connection):
    """End a connection from the server's side."""
    run(server, f"SELECT pg_terminate_backend({connection.info.backend_pid}, 5000)")


def test_a_batch_that_was_cut_off_before_its_commit_is_kept_once(server, log):
    connection, commit = log.store.connect(), psycopg.Connection.commit
    connection.commit = lambda: (cut(server, connection), commit(connection))
    assert log.append(entries(3)) == []
    assert log.store.connect() is not connection
    assert ids(log) == ["r0", "r1", "r2"]


def test_a_batch_that_was_cut_off_after_its_commit_is_kept_once(server, log):
    connection, commit = log.store.connect(), psycopg.Connection.commit

    def committed_and_lost():
        commit(connection)
        connection.close()
        raise psycopg.OperationalError("server closed the connection unexpectedly")

    connection.commit = committed_and_lost
    assert log.append(entries(3)) == []
    assert ids(log) == ["r0", "r1", "r2"]


def test_a_full_disk_is_told_and_the_log_goes_on_by_itself(server, log):
    """The server says so with its own code; that its disk is full is played by a trigger."""
    log.append(entries(1))
    run(
        server,
        """CREATE FUNCTION modelkeep.no_room() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
        RAISE EXCEPTION 'could not extend file: No space left on device' USING ERRCODE = '53100';
        END $$;
        CREATE TRIGGER no_room BEFORE INSERT ON modelkeep.answers
        EXECUTE FUNCTION modelkeep.no_room()""",
    )
    with pytest.raises(LogError, match="No space left on device") as raised:
        log.append(entries(2, name="lost"))
    assert raised.value.retry_after > 0
    run(server, "DROP TRIGGER no_room ON modelkeep.answers")
    log.append(entries(1, FIRST + DAY, name="new"))
    assert ids(log) == ["r0", "new0"]


def test_another_format_is_refused(server, log):
    run(server, "UPDATE modelkeep.format SET format = 7")
    with pytest.raises(LogError, match="has format 7, and this code knows 4; use the code"):
        open_log(server.url())


def test_who_may_only_read_can_read(server, log):
    log.append(entries(2))
    run(server, "DROP ROLE IF EXISTS reader")
    run(server, f"CREATE ROLE reader LOGIN PASSWORD '{server.password}'")
    run(server, "GRANT USAGE ON SCHEMA modelkeep TO reader")
    run(server, "GRANT SELECT ON ALL TABLES IN SCHEMA modelkeep TO reader")
    reader = open_log(server.url().replace("keeper@", "reader@"), create=False)
    assert ids(reader) == ["r0", "r1"]
    with pytest.raises(LogError, match="permission denied"):
        reader.append(entries(1))
    reader.close()
    run(server, "DROP OWNED BY reader; DROP ROLE reader")


def test_the_password_comes_from_the_environment_and_is_never_said(server, log, monkeypatch):
    monkeypatch.delenv("PGPASSWORD")
    url = server.url().replace("keeper@", "keeper:${LOG_PASSWORD}@")
    monkeypatch.setenv("LOG_PASSWORD", server.password)
    other = open_log(url)
    assert "password" not in other.address and server.password not in other.address
    other.close()
    monkeypatch.setenv("LOG_PASSWORD", "wrong secret")
    with pytest.raises(LogError, match="password authentication failed") as raised:
        open_log(url)
    assert "wrong secret" not in str(raised.value)
    assert quote("wrong secret") not in str(raised.value)
    assert raised.value.__cause__ is None


def test_a_text_that_cannot_be_kept_is_told(log):
    with pytest.raises(LogError, match="NUL|u0000"):
        log.append(entries(1, name="a\0b"))
    assert log.append(entries(1)) == []


def test_a_labelling_waits_for_the_appends_under_way(server, log):
    """Else neither would see the other's rows, and nobody would tell of the label."""
    other, labelling = open_log(server.url()), []
    with ThreadPoolExecutor(1) as pool:

        def slow(run):
            told = logbook.write_rows([*grouped(entries(1))], ["r0"], "", run)
            labelling.append(pool.submit(other.label, [Label("r0", "1", FIRST)]))
            time.sleep(0.3)  # enough to go wrong in
            return told

        assert log.store.commit(slow) == []
        (told,) = labelling[0].result()
    other.close()
    assert told.outcome == "first"
