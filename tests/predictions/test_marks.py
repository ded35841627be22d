"""An update reads what is new in the log, and takes what it would take from the whole log."""

import json
import os
import uuid
from pathlib import Path

import numpy as np
import pandas as pd
import psycopg
import pytest

import logs
import servers
from modelkeep.core import workspace
from modelkeep.data import splits
from modelkeep.predictions import history, marks
from modelkeep.predictions.log import Label, PredictionRecord, open_log

HOUR, DAY, FIRST = 3_600_000_000, logs.DAY, logs.FIRST
WAIT = 2.0


@pytest.fixture(scope="module")
def server():
    with servers.postgres() as running:
        os.environ["PGPASSWORD"] = running.password
        yield running
        del os.environ["PGPASSWORD"]


@pytest.fixture(params=["sqlite", "postgres"])
def book(request, tmp_path):
    """A log that is empty."""
    url = f"sqlite:///{tmp_path}/log.db"
    if request.param == "postgres":
        running, name = request.getfixturevalue("server"), f"log_{uuid.uuid4().hex}"
        with psycopg.connect(running.url(), autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name}")
        url = running.url(name)
    found = open_log(url)
    yield found
    found.close()


@pytest.fixture
def house(tmp_path):
    """A workspace with a small history of one's own; and the parameters that name its columns."""
    rows = pd.DataFrame({"id": ["old1", "old2"], "when": pd.Timestamp(FIRST - DAY, unit="us")})
    rows["amount"], rows["late"] = [1.0, 2.0], [0, 1]
    splits.write(rows, tmp_path / "data/history/first.parquet")
    (tmp_path / "data/history.dvc").write_text("outs: []\n")
    roles = {"label": "late", "time_column": "when", "entity_column": "", "id_column": "id"}
    roles |= {"source": "data/history", "features": [], "rules": {}, "drop": []}
    return tmp_path, workspace.params(Path(__file__).parents[2], "prepare") | roles


def predicted(id, at, amount=1.5, role="champion"):
    """A prediction as a server logs it."""
    features = json.dumps({"amount": amount}).encode()
    return PredictionRecord(id, at, "m", role, None, None, features, b"[0.5, 0.5]")


def taken(house, book, now, whole=False):
    """What an update would take at a moment; `whole`: from the whole log, whatever is marked."""
    root, prepare = house
    with pytest.MonkeyPatch.context() as patch:
        if whole:
            patch.setattr(marks, "newest", lambda *given: None)
        return history.find(root, prepare, book, now / 1e6, WAIT)


def kept(house, new):
    """Take the rows into history, as an update does."""
    root, prepare = house
    if len(new.rows):
        history.add(root, prepare["source"], new, prepare)
    history.correct(root, prepare["source"], new, prepare)


def alike(one, other):
    """Whether two updates take the same."""
    tables = [each.rows.sort_values(["when", "id"]).reset_index(drop=True) for each in (one, other)]
    pd.testing.assert_frame_equal(*tables)
    assert set(one.quarantine["id"]) == set(other.quarantine["id"])
    changed = [each.corrections.groupby(level=0).last().to_dict() for each in (one, other)]
    assert changed[0] == changed[1]


def life(draw, n):
    """What a log is given, in the order of writing, under the moment at which it is written.

    Clocks of writers differ by up to half an hour; some rows are written long after their moment;
    ids are predicted again, labelled late, twice, never, with others than before.
    """
    found = []
    for i in range(n):
        at = FIRST + int(draw.integers(0, 20 * DAY))
        id = f"r{i}" if i % 3 else f"t{i % 5}-{i}"
        for again in range(1 + int(draw.random() < 0.2)):
            moment = at + again * int(draw.integers(0, 4 * DAY))
            amount = "broken" if draw.random() < 0.1 else round(float(draw.random()), 3)
            role = str(draw.choice(["champion", "canary", "shadow"], p=[0.7, 0.2, 0.1]))
            late = int(draw.integers(0, 8 * DAY)) if draw.random() < 0.1 else 0
            skew = int(draw.integers(-HOUR // 2, HOUR // 2))
            found.append((moment + late, predicted(id, moment + skew, amount, role)))
        for _ in range(int(draw.choice([0, 1, 2, 3], p=[0.15, 0.55, 0.2, 0.1]))):
            moment = at + int(draw.exponential(2 * DAY))
            skew = int(draw.integers(-HOUR // 2, HOUR // 2))
            found.append((moment, Label(id, str(draw.integers(0, 2)), moment + skew)))
    return sorted(found, key=lambda each: each[0])


@pytest.mark.parametrize("seed", range(3))
def test_an_update_takes_what_it_would_take_from_the_whole_log(seed, book, house):
    draw = np.random.default_rng(seed)
    left, marked = life(draw, 150), 0
    for now in range(FIRST + DAY, FIRST + 34 * DAY, 2 * DAY + 5 * HOUR):
        due = [each for written, each in left if written < now]
        left = left[len(due) :]
        logs.keep(book, due, seed=seed)
        marked += marks.newest(house[0] / "data/history", "served-*") is not None
        new = taken(house, book, now)
        alike(new, taken(house, book, now, whole=True))
        kept(house, new)
    assert not left and marked > 5


def pages(book, monkeypatch):
    """The starts of the windows that are read from now on."""
    starts, read = [], type(book).pages
    monkeypatch.setattr(
        type(book),
        "pages",
        lambda *given, **named: starts.append(given[1]) or read(*given, **named),
    )
    return starts


def begun(house, book):
    """A log with ten labelled rows in history; the moment of the update that took them."""
    book.append([predicted(f"a{i}", FIRST + i) for i in range(10)])
    book.label([Label(f"a{i}", "1", FIRST + DAY) for i in range(10)])
    kept(house, taken(house, book, FIRST + 3 * DAY))
    return FIRST + 3 * DAY


def test_only_the_new_is_read(book, house, monkeypatch):
    begun(house, book)
    book.append([predicted("b", FIRST + 2 * DAY)])
    book.label([Label("b", "0", FIRST + 5 * DAY)])
    starts = pages(book, monkeypatch)
    new = taken(house, book, FIRST + 6 * DAY)
    assert starts == [FIRST + DAY] and list(new.rows["id"]) == ["b"] and new.known == 0


@pytest.mark.parametrize(
    "reason", ["earlier", "longer wait", "another log", "file gone", "mark gone", "erased"]
)
def test_the_whole_log_is_read_where_the_mark_does_not_fit(
    reason, book, house, tmp_path, monkeypatch
):
    now = begun(house, book)
    root, prepare = house
    if reason in ("file gone", "mark gone"):
        book.append([predicted("b", FIRST + 2 * DAY)])
        book.label([Label("b", "0", now)])
        kept(house, taken(house, book, now + 3 * DAY))
        files = sorted((root / "data/history").glob("served-*"))
        assert len(files) == 2
        files[0].unlink()
        if reason == "mark gone":
            splits.write(splits.load(files[1]), files[1])
    elif reason == "another log":
        book = open_log(f"sqlite:///{tmp_path}/other.db")
        book.append([predicted(f"x{i}", FIRST + i) for i in range(12)])
    elif reason == "erased":
        book.append([predicted("b", FIRST + 2 * DAY)])
        book.erase("a9")
    starts = pages(book, monkeypatch)
    wait = 9.0 if reason == "longer wait" else WAIT
    at = now - HOUR if reason == "earlier" else now + 4 * DAY
    found = history.find(root, prepare, book, at / 1e6, wait)
    assert starts == [0]
    assert len(found.rows) == (10 if "gone" in reason else 0)


def test_too_many_quarantined_rows_leave_the_old_mark(book, house, monkeypatch):
    monkeypatch.setattr(marks, "AGAIN", 2)
    now = begun(house, book)
    before = marks.newest(house[0] / "data/history", "served-*")
    book.append([predicted(f"b{i}", now, "broken" if i else 2.5) for i in range(4)])
    book.label([Label(f"b{i}", "1", now) for i in range(4)])
    kept(house, taken(house, book, now + 3 * DAY))
    assert len(list((house[0] / "data/history").glob("served-*"))) == 2
    assert marks.newest(house[0] / "data/history", "served-*") == before


def test_a_forgotten_row_leaves_the_mark(book, house):
    now = begun(house, book)
    book.append([predicted("good", now), predicted("secret-7", now, "broken")])
    book.label([Label("good", "1", now), Label("secret-7", "1", now)])
    kept(house, taken(house, book, now + 3 * DAY))
    (path,) = (
        each
        for each in (house[0] / "data/history").glob("served-*")
        if b"secret-7" in each.read_bytes()
    )
    rows = splits.load(path)
    marks.forget(path, {"secret-7"})
    assert b"secret-7" not in path.read_bytes() and splits.load(path).equals(rows)
    assert marks.newest(house[0] / "data/history", "served-*").again == ()


def test_a_log_without_digests_has_no_mark(book, house):
    begun(house, book)
    assert marks.place(book, FIRST, FIRST + 9 * DAY) is not None
    book.store.maintain(lambda run: run.connection.execute("UPDATE answers SET digest = NULL"))
    assert marks.place(book, FIRST, FIRST + 9 * DAY) is None
