"""The prediction log in an SQLite file: many processes of one host, one commit a batch.

The server moves what is in the WAL into the file several times a second, in a thread
(`checkpoint`): a commit does not wait for that disk work. The WAL is bounded: a commit that finds
CHECKPOINT_PAGES in it moves what is left of them, and the WAL begins anew; its file is cut back to
WAL_BYTES. A reader of ours holds no transaction between two pages of PAGE groups, so it delays that
by one page at most. Only another program that keeps a transaction open can make the WAL grow.
"""

import os
import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

from modelkeep.predictions import removal
from modelkeep.predictions.records import LogError, LogMissing
from modelkeep.predictions.tables import DIGEST, FORMAT, KNOWN, Statement, statements

OURS = 0x4D4B4C47  # "MKLG": what `file` and SQLite call the application id
WAIT = 5.0  # seconds to wait for another process that writes
SCRUB_SECONDS = 30.0  # how long to wait for others who read or write, before the file is anew
BUSY_AGAIN, AGAIN = 1, 5  # seconds after which another try is worth it
CHECKPOINT_PAGES = 16_000  # 64 MB
WAL_BYTES = 64 * 2**20  # what is left of the WAL's file after it once had to be longer
CACHE_KIB = 16 * 1024  # the index over ids is read at random places; the system keeps the rest
REMEDY = {
    "SQLITE_FULL": "free space on its disk; the log goes on by itself",
    "SQLITE_BUSY": "another process holds it; look for one that was stopped while it wrote",
    "SQLITE_READONLY": "make it writable for the user who serves",
    "SQLITE_CANTOPEN": "make its folder writable for the user who serves",
    "SQLITE_CORRUPT": "put it aside, and save it with `sqlite3 FILE .recover`",
    "SQLITE_NOTADB": "name another file, or put this one aside",
}


class Run:
    """Statements within one transaction."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self.connection, self.statements = connection, statements("sqlite")

    def __call__(self, statement: Statement, **values: object) -> list[tuple]:
        """All rows that a statement returns."""
        return self.connection.execute(statement.sql, statement.bind(values)).fetchall()

    def insert(self, statement: Statement, row: tuple) -> list[tuple]:
        """What a statement returns for one row in the order of its parameters."""
        return self.connection.execute(statement.sql, row).fetchall()

    def many(self, statement: Statement, rows: Sequence[tuple]) -> None:
        """One statement for many rows, each in the order of its parameters."""
        self.connection.executemany(statement.sql, rows)


class Sqlite:
    """A log's file; it is opened again after a failure, or when the file was moved away."""

    kind = "sqlite"

    def __init__(self, path: Path, durability: str, address: str, create: bool = True) -> None:
        self._file, self.address, self._sync = str(path), address, durability.upper()
        if not create and not path.is_file():
            raise LogMissing(f"there is no prediction log at {address}")
        survives = "and of the machine" if durability == "full" else "but not a loss of power"
        mode = f"SQLite WAL, synchronous={self._sync}"
        self.durability = f"{mode}: an answer survives the end of the process {survives}"
        self._connection: sqlite3.Connection | None = None
        self._inode = (0, 0)
        try:
            self.connect()
        except (sqlite3.DatabaseError, OSError) as error:
            raise self._failed("opened", error) from error

    def commit(self, work: Callable[[Run], list], alone: bool = False) -> list:
        """What `work` returns, committed; writers follow each other here in any case."""
        try:
            return _committed(self.connect(), work)
        except (sqlite3.DatabaseError, OSError) as error:
            raise self._failed("written", error) from error

    @contextmanager
    def snapshot(self) -> Iterator[Run]:
        """Statements on a connection of its own, from any thread.

        Each sees what was committed before it, and delays no checkpoint once it is done.
        """
        with self._reader() as connection:
            yield Run(connection)

    @contextmanager
    def _reader(self) -> Iterator[sqlite3.Connection]:
        """A connection that reads."""
        try:
            with closing(_connect(self._file, self._sync)) as connection:
                connection.execute("PRAGMA query_only = 1")
                yield connection
        except sqlite3.DatabaseError as error:
            raise self._failed("read", error) from error

    def checkpoint(self) -> None:
        """Move what is in the WAL into the file, as far as no reader needs it; from any thread."""
        if not os.path.exists(self._file):
            return
        try:
            with closing(_connect(self._file, self._sync)) as connection:
                connection.execute("PRAGMA wal_checkpoint(PASSIVE)")
        except sqlite3.DatabaseError as error:
            raise self._failed("tidied up", error) from error

    def maintain(self, work: Callable[[Run], object]) -> object:
        """The result of `work`, committed on a connection of its own; what it deletes is zeroed."""
        try:
            with closing(_connect(self._file, self._sync)) as connection:
                connection.execute("PRAGMA secure_delete = ON")
                connection.execute(removal.TABLE)
                return _committed(connection, work)
        except sqlite3.DatabaseError as error:
            raise self._failed("changed", error) from error

    def scrub(self) -> None:
        """Write the file anew, so that no byte of a deleted row is left in it or in its WAL.

        It takes the file for itself: about 2 s a gigabyte, in which appends wait.
        """
        until = time.monotonic() + SCRUB_SECONDS
        while True:
            try:
                with closing(_connect(self._file, self._sync)) as connection:
                    connection.execute("PRAGMA secure_delete = ON")
                    connection.execute("VACUUM")
                    state = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
                if state[0] == 0 or time.monotonic() > until:
                    break
            except sqlite3.DatabaseError as error:
                if _kind(error) != "SQLITE_BUSY" or time.monotonic() > until:
                    raise self._failed("written anew", error) from error
            time.sleep(0.05)

    def files(self) -> list[Path]:
        """The files in which the log lies."""
        names = (self._file, f"{self._file}-wal", f"{self._file}-journal")
        return [Path(name) for name in names if os.path.exists(name)]

    def check(self) -> None:
        """Raise LogError unless SQLite finds the file sound (it reads all of it)."""
        with self._reader() as connection:
            found = connection.execute("PRAGMA integrity_check(5)").fetchall()
        if found != [("ok",)]:
            text = "; ".join(row[0] for row in found)
            raise LogError(f"{self.address} is broken: {text}; {REMEDY['SQLITE_CORRUPT']}")

    def close(self) -> None:
        """Give the file back; the last process to do so leaves one file without a WAL."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def connect(self) -> sqlite3.Connection:
        """The open connection, or a new one; again where the file was replaced."""
        # who writes to a file that has no name any more writes for nobody
        if self._connection is not None and _inode(self._file) == self._inode:
            return self._connection
        self.close()
        Path(self._file).parent.mkdir(parents=True, exist_ok=True)
        until = time.monotonic() + WAIT
        while True:
            connection = _connect(self._file, self._sync)
            try:
                _prepare(connection, self.address)
                break
            except BaseException as error:
                connection.close()
                # SQLite does not wait where two processes turn on the WAL at once
                if not _kind(error) == "SQLITE_BUSY" or time.monotonic() > until:
                    raise
                time.sleep(0.01)
        self._connection, self._inode = connection, _inode(self._file)
        return connection

    def _failed(self, what: str, error: Exception) -> LogError:
        kind = _kind(error)
        if what == "written" and kind not in ("SQLITE_FULL", "SQLITE_BUSY"):
            self.close()  # the next batch opens it anew
        remedy = REMEDY.get(kind, "look at its disk; the log goes on by itself")
        text = f"{self.address} cannot be {what}: {error} ({kind}); {remedy}"
        return LogError(text, BUSY_AGAIN if kind == "SQLITE_BUSY" else AGAIN)


def _committed(connection: sqlite3.Connection, work: Callable[[Run], list]) -> list:
    connection.execute("BEGIN IMMEDIATE")
    try:
        result = work(Run(connection))
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise
    return result


def _connect(file: str, sync: str) -> sqlite3.Connection:
    connection = sqlite3.connect(file, timeout=WAIT, isolation_level=None, check_same_thread=False)
    connection.execute(f"PRAGMA synchronous = {sync}")
    connection.execute(f"PRAGMA cache_size = -{CACHE_KIB}")
    return connection


def _prepare(connection: sqlite3.Connection, address: str) -> None:
    """Make the tables where there are none, and take an older file over.

    LogError for a file of another program, or of an unknown format.
    """
    connection.execute(f"PRAGMA wal_autocheckpoint = {CHECKPOINT_PAGES}")
    connection.execute(f"PRAGMA journal_size_limit = {WAL_BYTES}")
    connection.execute("BEGIN")  # another process may be making the tables right now
    found = _format(connection, address)
    connection.execute("COMMIT")
    if found == FORMAT:
        return
    if connection.execute("PRAGMA journal_mode = WAL").fetchone() != ("wal",):
        raise LogError(
            f"{address}: this file system cannot hold a WAL; put the log on a local disk, or use "
            "PostgreSQL"
        )
    connection.execute("BEGIN IMMEDIATE")
    if _format(connection, address) == 0:
        for statement in statements("sqlite").create:
            connection.execute(statement)
        connection.execute(f"PRAGMA application_id = {OURS}")
    columns = connection.execute("SELECT name FROM pragma_table_info('answers')").fetchall()
    if (DIGEST,) not in columns:
        for statement in statements("sqlite").upgrade:
            connection.execute(statement)
    connection.execute(f"PRAGMA user_version = {FORMAT}")
    connection.execute("COMMIT")


def _format(connection: sqlite3.Connection, address: str) -> int:
    (owner,), (found,), (tables,) = (
        connection.execute(sql).fetchone()
        for sql in (
            "PRAGMA application_id",
            "PRAGMA user_version",
            "SELECT count(*) FROM sqlite_master",
        )
    )
    if owner != OURS and (owner or found or tables):
        raise LogError(f"{address} is an SQLite file of something else; name another file")
    if found not in (0, *KNOWN):
        raise LogError(
            f"{address} has format {found}, and this code knows {FORMAT}; use the code that made "
            "it, or put it aside"
        )
    return found


def _kind(error: BaseException) -> str:
    """SQLITE_FULL and the like; what follows it, as in SQLITE_IOERR_WRITE, is SQLite's own."""
    name = getattr(error, "sqlite_errorname", None) or type(error).__name__
    return "_".join(name.split("_")[:2])


def _inode(file: str) -> tuple[int, int]:
    try:
        found = os.stat(file)
    except FileNotFoundError:
        return 0, 0
    return found.st_dev, found.st_ino
