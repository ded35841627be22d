import os
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

import logs
from logs import DAY, FIRST, entries, entry
from modelkeep.predictions import log as logbook
from modelkeep.predictions import sqlite
from modelkeep.predictions.log import Label, LogError, open_log
from modelkeep.predictions.tables import statements


@pytest.fixture
def path(tmp_path):
    return tmp_path / "log.db"


@pytest.fixture
def log(path):
    found = open_log(f"sqlite:///{path}")
    yield found
    found.close()


def ids(log):
    return [row[0] for row in logs.table(log)]


def asked(path, sql):
    with closing(sqlite3.connect(path)) as connection:
        found = connection.execute(sql).fetchall()
        connection.commit()
    return found


@pytest.mark.parametrize(("durability", "number"), [("full", 2), ("normal", 1)])
def test_durability_is_what_is_promised(path, durability, number):
    log = open_log(f"sqlite:///{path}", durability=durability)
    connection = log.store.connect()
    assert connection.execute("PRAGMA synchronous").fetchone() == (number,)
    assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    assert f"synchronous={durability.upper()}" in log.durability
    assert ("loss of power" in log.durability) == (durability == "normal")
    log.close()


def test_the_path_is_relative_to_the_root(tmp_path):
    log = open_log("sqlite:///data/log/x.db", root=tmp_path)
    log.close()
    assert [p.name for p in (tmp_path / "data" / "log").iterdir()] == ["x.db"]
    assert log.address == "data/log/x.db"


def test_a_full_disk_is_told_and_the_log_goes_on_by_itself(log):
    log.append(entries(50))
    connection = log.store.connect()
    ((pages,),) = connection.execute("PRAGMA page_count").fetchall()
    connection.execute(f"PRAGMA max_page_count = {pages}")
    with pytest.raises(LogError, match=r"disk is full \(SQLITE_FULL\); free space") as raised:
        log.append(entries(1000, name="lost"))
    assert raised.value.retry_after > 0
    assert len(ids(log)) == 50
    connection.execute("PRAGMA max_page_count = 100000")
    log.append(entries(5, FIRST + DAY, name="new"))
    assert len(ids(log)) == 55
    log.check()


LIMITED = """
import resource, sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
import logs
from modelkeep.predictions.log import LogError, open_log
log, kept, failed = open_log("sqlite:///" + sys.argv[1]), 0, 0
log.append(logs.entries(1, name="first"))
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, resource.RLIM_INFINITY))
for batch in range(200):
    try:
        log.append(logs.entries(10, logs.FIRST + batch, name=f"{batch}-"))
        kept += 10
    except LogError as error:
        failed += 1
    if batch == 150:
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)
assert 0 < failed <= 150, failed
assert kept >= 490
log.check()
assert len(logs.table(log)) == kept + 1, (len(logs.table(log)), kept)
"""


def test_a_file_that_may_not_grow_loses_nothing_that_was_acknowledged(path):
    words = [sys.executable, "-c", LIMITED, str(path), str(Path(__file__).parents[1] / "support")]
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.fixture
def small_disk(tmp_path):
    """A disk of one megabyte."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True).returncode != 0:
        pytest.skip("only root can make a small disk")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def test_a_disk_that_is_really_full(small_disk):
    log = open_log(f"sqlite:///{small_disk}/log.db")
    (small_disk / "other").write_bytes(bytes(500_000))
    kept = 0
    with pytest.raises(LogError, match="SQLITE_(FULL|IOERR)"):
        while True:
            log.append(entries(10, FIRST + kept, name=f"{kept}-"))
            kept += 10
    with pytest.raises(LogError):
        log.append(entries(100))
    assert len(ids(log)) == kept > 0
    (small_disk / "other").unlink()
    log.append(entries(10, FIRST + DAY, name="new"))
    assert len(ids(log)) == kept + 10
    log.check()
    log.close()


def test_who_holds_the_file_is_waited_for_and_then_told_of(path, monkeypatch):
    monkeypatch.setattr(sqlite, "WAIT", 0.05)
    log = open_log(f"sqlite:///{path}")
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(LogError, match="locked .SQLITE_BUSY.; another process") as raised:
            log.append(entries(1))
        assert raised.value.retry_after == 1
        assert ids(log) == []  # reading does not wait
        other.execute("COMMIT")
    log.append(entries(1))
    log.close()


def test_another_format_is_refused(log, path):
    log.close()
    asked(path, "PRAGMA user_version = 7")
    with pytest.raises(LogError, match=r"has format 7, and this code knows 4; use the code"):
        open_log(f"sqlite:///{path}")


def test_a_file_of_something_else_is_refused(path):
    asked(path, "CREATE TABLE x (y)")
    with pytest.raises(LogError, match="is an SQLite file of something else"):
        open_log(f"sqlite:///{path}")
    assert asked(path, "SELECT name FROM sqlite_master") == [("x",)]
    path.write_text("no database at all" * 100)
    with pytest.raises(LogError, match="SQLITE_NOTADB"):
        open_log(f"sqlite:///{path}")


def test_a_broken_file_is_found(log, path):
    log.append(entries(2000))
    log.check()
    log.close()
    with open(path, "r+b") as file:
        file.seek(40 * 4096)
        file.write(os.urandom(3 * 4096))
    broken = open_log(f"sqlite:///{path}")
    with pytest.raises(LogError, match="broken|SQLITE_CORRUPT"):
        broken.check()
    broken.close()


def test_a_file_that_was_moved_away_is_not_written_to(log, path, tmp_path):
    log.append(entries(3))
    path.rename(tmp_path / "old.db")
    for end in ("-wal", "-shm"):
        (tmp_path / f"log.db{end}").rename(tmp_path / f"old.db{end}")
    log.append(entries(2, name="new"))
    assert ids(log) == ["new0", "new1"]
    old = open_log(f"sqlite:///{tmp_path}/old.db")
    assert len(ids(old)) == 3
    old.close()


def test_who_reads_slowly_does_not_make_the_wal_grow(path, monkeypatch):
    monkeypatch.setattr(sqlite, "CHECKPOINT_PAGES", 50)
    monkeypatch.setattr(logbook, "PAGE", 10)
    log = open_log(f"sqlite:///{path}")
    log.append(entries(100))
    wal, sizes = path.with_name("log.db-wal"), []
    for batch in log.read(FIRST, FIRST + DAY):  # a transaction a batch, none in between
        for k in range(30):
            log.append(entries(10, FIRST + DAY, name=f"{batch['id'][0]}-{k}-"))
        sizes.append(wal.stat().st_size)
    assert len(sizes) == 10
    assert max(sizes) < 2 * 4096 * (50 + 40)  # one commit beyond the checkpoint's pages
    log.close()


def test_the_wal_is_emptied_in_a_thread_while_others_write(log, path):
    from concurrent.futures import ThreadPoolExecutor

    log.append(entries(1000))
    before = path.stat().st_size
    with ThreadPoolExecutor(1) as thread:
        done = thread.submit(lambda: [log.checkpoint() for _ in range(100)])
        for k in range(100):
            log.append(entries(10, FIRST + DAY, name=f"n{k}-"))
        done.result()
    assert path.stat().st_size > before
    log.check()
    assert len(ids(log)) == 2000


def test_a_log_that_was_moved_away_is_not_made_by_tidying_up(log, path):
    log.append(entries(1))
    for end in ("", "-wal", "-shm"):
        path.with_name(path.name + end).unlink()
    log.checkpoint()
    assert not path.exists()


def plan(log, statement, values):
    with log.store.snapshot() as run:
        steps = run(statement._replace(sql=f"EXPLAIN QUERY PLAN {statement.sql}"), **values)
    return " | ".join(step[3] for step in steps)


def test_only_the_window_is_read(log):
    """Found by index: the window's answers by time, the labels of its ids by id, nothing by scanning a table."""
    log.append(entries(3000))
    log.label([Label(f"r{i}", "1", FIRST) for i in range(3000)])
    end = 2**63 - 1
    sql = statements("sqlite")
    window = {"start": FIRST, "last_at": FIRST, "last_n": -1, "end": FIRST + 5, "upto": end}
    found = plan(log, sql.window, window | {"items": "[]", "page": 10})
    assert "SEARCH answers USING INDEX answers_by_time (at>? AND at<?)" in found, found
    assert "SCAN answers" not in found
    assert "labels_by_id (id=?" in plan(log, sql.labels, {"items": "[]", "known": end, "upto": end})
    found = plan(log, sql.predictions, {"items": "[]"})
    assert "SEARCH ids USING PRIMARY KEY (id=?" in found and "SCAN answers" not in found, found


def test_an_answer_that_is_asked_for_in_another_thread(log):
    from concurrent.futures import ThreadPoolExecutor

    log.append([entry("a")])
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(ids, log).result() == ["a"]


def test_opening_and_reading_do_not_wait_for_a_writer(log, path, monkeypatch):
    monkeypatch.setattr(sqlite, "WAIT", 0)  # who had to wait would fail
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        second = open_log(f"sqlite:///{path}")
        assert second.newest() is None
        second.close()
        other.execute("ROLLBACK")
