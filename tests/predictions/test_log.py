import importlib.util
import json
import multiprocessing
import os
import subprocess
import sys
import uuid
from collections import Counter
from functools import partial
from pathlib import Path

import psycopg
import pytest

import logs
import servers
from logs import DAY, FIRST, entries, entry
from modelkeep.predictions import log as logbook
from modelkeep.predictions.log import Label, LogError, LogMissing, open_log
from modelkeep.predictions.records import grouped
from modelkeep.predictions.tables import Statement

KILLS = Path(__file__).parents[2] / "benchmarks" / "log_kills.py"


@pytest.fixture(scope="module")
def server():
    with servers.postgres() as running:
        os.environ["PGPASSWORD"] = running.password
        yield running
        del os.environ["PGPASSWORD"]


@pytest.fixture(params=["sqlite", "postgres"])
def url(request, tmp_path):
    """The address of a log that is not there yet."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/deep/log.db"
    running = request.getfixturevalue("server")
    name = f"log_{uuid.uuid4().hex}"
    with psycopg.connect(running.url(), autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
    return running.url(name)


@pytest.fixture
def log(url):
    found = open_log(url)
    yield found
    found.close()


def test_what_was_appended_is_read_in_the_order_of_answering(log):
    rows = [
        entry("b", FIRST + 2, entity="Ærø", features='{"x":"ü"}'.encode()),
        entry("a", FIRST + 1, time=None),
        entry("c", FIRST + 2, role="canary", model="n"),
        entry("日本", FIRST + 3, time=-5, answer=b"[7.25]"),
    ]
    assert log.append(rows) == []
    found = logs.table(log)
    assert [row[:8] for row in found] == [tuple(rows[i]) for i in (1, 0, 2, 3)]
    assert {row[8:] for row in found} == {(None, None)}
    assert log.newest() == FIRST + 3
    log.check()


def test_a_window_is_half_open_and_has_the_roles_that_were_asked_for(log):
    log.append([*entries(5, step=1), entry("s", FIRST + 2, role="shadow")])
    ids = [row[0] for row in logs.table(log, FIRST + 1, FIRST + 4)]
    assert ids == ["r1", "r2", "r3"]
    assert [row[0] for row in logs.table(log, roles=["shadow"])] == ["s"]
    assert logs.table(log, FIRST + 5, FIRST + 9) == logs.table(log, FIRST + 3, FIRST + 3) == []


def test_ids_that_have_a_prediction_are_found(log):
    log.append(entries(5))
    log.write([*grouped(entries(3, name="b-"))], [], batch="b")
    asked = [*(f"x{i}" for i in range(300)), "r2", "b-1", "b-7", "b"]
    assert log.predicted(asked) == {"r2", "b-1"} and log.predicted([]) == set()


def test_nothing_is_a_batch_too(log):
    assert log.append([]) == log.label([]) == logs.table(log) == []
    assert log.newest() is None


@pytest.mark.parametrize("seed", range(8))
def test_labels_in_any_order_give_the_table_of_an_offline_join(log, seed, monkeypatch):
    monkeypatch.setattr(logbook, "PAGE", 1 + 17 * (seed % 3))
    happened = logs.events(seed)
    told = logs.keep(log, happened, seed)
    for window in ((FIRST, FIRST + 5 * DAY), (FIRST + DAY, FIRST + 2 * DAY)):
        for known in (2**63 - 1, FIRST + 2 * DAY):
            expected = logs.joined(happened, *window, known=known)
            assert logs.table(log, *window, known=known) == expected
            assert len(expected) > 20
    assert counted(told) == Counter(
        (at, model, role, answer, label)
        for _, at, model, role, _, _, _, answer, label, _ in logs.joined(
            happened, FIRST, FIRST + 5 * DAY, roles=("champion", "canary", "shadow")
        )
        if label is not None
    )


def counted(told):
    """The labelled answers, as somebody counts who hears only what is told."""
    found = Counter()
    for each in told:
        for answer in each.predictions:
            if each.outcome in ("first", "corrected"):
                found[*answer, each.value] += 1
            if each.outcome == "corrected":
                found[*answer, each.previous] -= 1
    assert min(found.values()) >= 0
    return +found


OF_BEFORE = (5, "m", "champion", '["a","b-1"]', '[null,"e"]', "[1,2]")
PARTS = '[{"x":1.5,"y":"é"},{"x":null,"y":"z"}]'.encode(), b"[[0.25,0.75],[0.5,0.5]]"
AS_BEFORE = """
    INSERT INTO answers (at, model, role, ids, entities, times, features, answers)
    VALUES (?, ?, ?, ?, ?, ?, ?, ?)
"""


def test_a_log_of_before_is_taken_over(url, log):
    """Format 2 kept features row by row, and a place in the index for each id; no digests."""
    mark = "PRAGMA user_version = 2" if "sqlite" in url else "UPDATE format SET format = 2"
    log.store.commit(partial(_as_before, mark))
    log.close()
    log = open_log(url)
    log.write([*grouped([entry("t-0", 7)])], [], "t")
    told = log.label([Label(id, "1", 9) for id in ("a", "b-1", "t-0", "t-1")])
    assert [(each.outcome, len(each.predictions)) for each in told] == [
        *[("first", 1)] * 3,
        ("early", 0),
    ]
    assert [each.predictions[0].answer for each in told[:2]] == [b"[0.25,0.75]", b"[0.5,0.5]"]
    found = logs.table(log, 0, 10)
    assert [row[0] for row in found] == ["a", "b-1", "t-0"]
    assert [json.loads(row[6]) for row in found[:2]] == json.loads(PARTS[0])
    assert {row[8] for row in found} == {"1"}
    assert [log.find(id)[0].unchanged for id in ("a", "t-0")] == [None, True]
    log.close()
    open_log(url).close()


def _as_before(mark, run):
    mark_of = "%s" if "%s" in run.statements.append.sql else "?"
    insert = AS_BEFORE.replace("?", mark_of)
    run.many(Statement(insert, (), {}), [(*OF_BEFORE, *PARTS)])
    index = f"INSERT INTO ids (id, n, place) VALUES ({mark_of}, 1, {mark_of})"
    run.many(Statement(index, (), {}), [("a", 0), ("b-1", 1)])
    for table in ("answers", "labels"):
        run.connection.execute(f"ALTER TABLE {table} DROP COLUMN digest")
    run.connection.execute(mark)
    return []


def test_who_reads_sees_one_state_while_others_write(log, monkeypatch):
    monkeypatch.setattr(logbook, "PAGE", 4)
    log.append(entries(10))
    before = logs.table(log)
    reading = log.read(FIRST, FIRST + DAY)
    first = next(reading)
    log.append(entries(10, FIRST + 3500, name="new"))
    log.label([Label(f"r{i}", "1", FIRST + 1) for i in range(10)])
    rest = [batch.to_pydict() for batch in reading]
    ids = [*first["id"].to_pylist(), *(id for batch in rest for id in batch["id"])]
    assert ids == [row[0] for row in before]
    assert {label for batch in rest for label in batch["label"]} == {None}
    assert len(logs.table(log)) == 20
    assert max(len(batch) for batch in log.read(FIRST, FIRST + DAY)) == 4


def test_reading_may_be_broken_off(log):
    log.append(entries(10))
    reading = log.read(FIRST, FIRST + DAY)
    next(reading)
    reading.close()
    assert log.append(entries(1, name="new")) == []


def test_it_is_there_after_it_was_closed(url):
    with pytest.raises(LogMissing, match="there is no prediction log at"):
        open_log(url, create=False)
    first = open_log(url, durability="normal")
    first.append(entries(3))
    first.close()
    again = open_log(url, create=False)
    assert len(logs.table(again)) == 3
    again.close()


def write(url, name, start):
    start.wait()  # so that all open it at the same moment
    log = open_log(url)
    for i in range(20):
        log.append(entries(3, FIRST + i, name=f"{name}-{i}-"))
        log.label([Label(f"{name}-{i}-0", "1", FIRST)])
    log.close()


def test_replicas_may_open_and_write_at_once(url):
    context = multiprocessing.get_context("fork")
    start = context.Barrier(6)
    replicas = [context.Process(target=write, args=(url, str(k), start)) for k in range(6)]
    for replica in replicas:
        replica.start()
    for replica in replicas:
        replica.join(60)
    assert [replica.exitcode for replica in replicas] == [0] * 6
    log = open_log(url)
    rows = logs.table(log)
    log.check()
    log.close()
    assert len({row[0] for row in rows}) == len(rows) == 6 * 20 * 3
    assert sum(row[8] is not None for row in rows) == 6 * 20


def open_and_close(url, start, failed):
    start.wait()
    try:
        open_log(url).close()
    except LogError as error:
        failed.put(str(error))


def test_many_may_make_the_log_at_the_same_moment(tmp_path):
    context = multiprocessing.get_context("fork")
    failed = context.Queue()
    for turn in range(10):
        start, url = context.Barrier(8), f"sqlite:///{tmp_path}/{turn}.db"
        openers = [
            context.Process(target=open_and_close, args=(url, start, failed)) for _ in range(8)
        ]
        for opener in openers:
            opener.start()
        for opener in openers:
            opener.join(60)
    assert failed.empty(), failed.get()


def follow(url, part, told):
    log = open_log(url)
    told.put([each for one in part for each in logs.keep(log, [one])])
    log.close()


def test_each_pair_of_answer_and_label_is_told_to_one_replica(url):
    """Answers and labels of the same rows go to different replicas at the same time."""
    open_log(url).close()
    context = multiprocessing.get_context("fork")
    told, n = context.Queue(), 200
    answers, labels = entries(n), [Label(f"r{i}", "1", FIRST) for i in range(n)]
    parts = [answers[::2], answers[1::2], labels[1::2], labels[::2]]
    replicas = [context.Process(target=follow, args=(url, part, told)) for part in parts]
    for replica in replicas:
        replica.start()
    heard = [each for _ in replicas for each in told.get(timeout=60)]
    for replica in replicas:
        replica.join(60)
    firsts = Counter(each.id for each in heard if each.outcome == "first")
    assert firsts == Counter(f"r{i}" for i in range(n))


def test_no_batch_is_kept_in_part(log):
    log.append(entries(1))
    with pytest.raises(LogError, match="cannot be written"):
        log.append([entry("good"), entry("bad", model=None)])
    with pytest.raises(LogError, match="cannot be written"):
        log.label([Label("good", "1", FIRST), Label("bad", None, FIRST)])
    assert [row[0] for row in logs.table(log)] == ["r0"]
    assert log.append([entry("next")]) == []


def test_a_text_that_is_none_leaves_nothing_behind(log):
    with pytest.raises(UnicodeEncodeError):
        log.append([entry("good"), entry("\ud800")])
    assert log.append([entry("next")]) == []
    assert [row[0] for row in logs.table(log)] == ["next"]


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("predictions.db", "must be sqlite:///PATH or postgresql://.*begins with 'predictions.db'"),
        ("sqlite://x.db", "must be sqlite:///PATH"),
        ("mysql://u:secret@h/d", "begins with 'mysql'"),
        ("postgresql://u:secret@h/d", "holds a password; write \\${NAME}"),
        ("postgresql://u@h/d?password=secret", "holds a password"),
        ("postgresql://u:${NOT_SET}@h/d", "names \\${NOT_SET}, which is not set"),
        ("postgresql://u:%zzsecret@h/d", "is not postgresql://USER@HOST:PORT/DATABASE"),
    ],
)
def test_an_address_that_cannot_be_is_refused_without_a_word_of_its_secret(address, message):
    with pytest.raises(LogError, match=message) as raised:
        open_log(address)
    assert "secret" not in f"{raised.value!r} {raised.value.__cause__!r}"


def test_a_durability_that_there_is_not():
    with pytest.raises(LogError, match="'fast' is not one of full, normal"):
        open_log("sqlite:///x.db", durability="fast")


def kills():
    """The program that kills writers."""
    spec = importlib.util.spec_from_file_location("log_kills", KILLS)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_kill_9_loses_no_acknowledged_row(tmp_path):
    done = subprocess.run([sys.executable, str(KILLS), "--times=4"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 lost, 0 doubled, 0 wrong, 0 broken, 0 unlabelled" in done.stdout


def test_kill_9_loses_no_acknowledged_row_in_postgres(server, tmp_path):
    found = kills().kills(server.url(), tmp_path, times=3)
    assert found["acknowledged"] > 0
    assert {name for name, n in found.items() if n} == {"kills", "acknowledged"}


def test_the_program_that_kills_sees_what_is_wrong(tmp_path):
    log = open_log(f"sqlite:///{tmp_path}/log.db")
    log.append([*entries(2), *entries(1), entry("0-0-0-0")])
    log.close()
    found = kills().checked("sqlite:///log.db", tmp_path, {"r0", "r1", "never", "0-0-0-0"})
    assert found == Counter(lost=1, doubled=1, unlabelled=1, wrong=0, broken=0)
