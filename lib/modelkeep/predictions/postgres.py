"""The prediction log on a PostgreSQL server: replicas on many hosts, one commit a batch."""

import os
import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import psycopg
from psycopg.conninfo import conninfo_to_dict

from modelkeep.predictions import removal
from modelkeep.predictions.records import LogError, LogMissing
from modelkeep.predictions.tables import FORMAT, KNOWN, Statement, statements

LOCK = 0x4D4B4C47  # of our own: appends share it, a labelling has it alone
CONNECT_SECONDS = 2  # the least that libpq takes
AGAIN, REST = 5, 1.0  # seconds after which another try is worth it; between two tries to connect
LIMITS = {"statement_timeout": "5s", "lock_timeout": "5s"}
LIMITS |= {"idle_in_transaction_session_timeout": "10s"}
SCHEMA = "modelkeep"
VARIABLE = re.compile(r"\$\{(\w+)\}")


class Run:
    """Statements within one transaction."""

    def __init__(self, connection: psycopg.Connection) -> None:
        self.connection, self.statements = connection, statements("postgresql")

    def __call__(self, statement: Statement, **values: object) -> list[tuple]:
        """All rows that a statement returns."""
        return self.connection.execute(statement.sql, statement.bind(values)).fetchall()

    def insert(self, statement: Statement, row: tuple) -> list[tuple]:
        """What a statement returns for one row in the order of its parameters."""
        return self.connection.execute(statement.sql, row).fetchall()

    def many(self, statement: Statement, rows: Sequence[tuple]) -> None:
        """One statement for many rows, each in the order of its parameters."""
        with self.connection.cursor() as cursor:
            cursor.executemany(statement.sql, rows)


class Postgres:
    """A log's database; it is connected to again by itself."""

    kind = "postgresql"

    def __init__(self, url: str, durability: str, create: bool = True) -> None:
        self._place, self.address = _place(url)
        self._wait = "on" if durability == "full" else "off"
        survives = "of the database server" if durability == "full" else "of this process alone"
        self.durability = (
            f"PostgreSQL, synchronous_commit={self._wait}: an answer survives a crash {survives}"
        )
        self._connection: psycopg.Connection | None = None
        self._not_before = 0.0
        try:
            with self._errors("opened"):
                _prepare(self.connect(), create, self.address)
        except BaseException:
            self.close()  # it may hold the lock
            raise

    def commit(self, work: Callable[[Run], list], alone: bool = False) -> list:
        """The result of `work`, committed; `alone`: while nobody else writes.

        Where a lost connection leaves it open whether it was committed, the server's record of
        transactions decides.
        """
        with self._errors("written"):
            for last in (False, True):
                connection = self.connect()
                ticket = None
                try:
                    ticket, result = _work(connection, work, alone)
                    connection.commit()
                    return result
                except psycopg.OperationalError:
                    if not connection.closed:
                        connection.rollback()
                        raise
                    if ticket and _settled(self.connect(), ticket):
                        return result
                    if last:
                        raise
                except BaseException:
                    if not connection.closed:
                        connection.rollback()
                    raise

    @contextmanager
    def snapshot(self) -> Iterator[Run]:
        """Statements on a connection of its own, from any thread, that see one state of the log."""
        with self._reader() as connection:
            yield Run(connection)

    @contextmanager
    def _reader(self) -> Iterator[psycopg.Connection]:
        """A connection that reads."""
        with self._errors("read"), self._connect() as connection:
            connection.execute("SET statement_timeout = 0")
            connection.execute("SET idle_in_transaction_session_timeout = 0")
            connection.commit()
            connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
            connection.read_only = True
            yield connection

    def checkpoint(self) -> None:
        """Nothing: the server keeps its house itself."""

    def maintain(self, work: Callable[[Run], object]) -> object:
        """The result of `work`, committed on a connection of its own."""
        with self._errors("changed"), self._connect() as connection:
            if not connection.execute(removal.EXISTS["postgresql"]).fetchall():
                connection.execute(f"SELECT pg_advisory_xact_lock({LOCK})")
                connection.execute(removal.TABLE)
                connection.commit()
            return work(Run(connection))  # committed where the connection ends without an error

    def scrub(self) -> None:
        """Write the tables anew without what was deleted; it locks them meanwhile."""
        with self._errors("written anew"), self._connect() as connection:
            connection.autocommit = True
            connection.execute("SET statement_timeout = 0")
            for table in ("answers", "ids", "labels"):
                connection.execute(f"VACUUM FULL {table}")
            connection.execute("CHECKPOINT")

    def files(self) -> list[Path]:
        """None that can be read here: they are the database server's."""
        return []

    def check(self) -> None:
        """Raise LogError unless the newest predictions can be read; `pg_amcheck` reads all."""
        with self._reader() as connection:
            connection.execute("SELECT * FROM answers ORDER BY n DESC LIMIT 1000").fetchall()

    def close(self) -> None:
        """Let go of the connection."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def connect(self) -> psycopg.Connection:
        """The open connection, or a new one; at once an error if the server was away just now."""
        if self._connection is None or self._connection.closed:
            # a host that does not answer must not hold up every batch
            if time.monotonic() < self._not_before:
                raise psycopg.OperationalError("the server could not be reached a moment ago")
            try:
                self._connection = self._connect()
            except psycopg.OperationalError:
                self._not_before = time.monotonic() + REST
                raise
        return self._connection

    def _connect(self) -> psycopg.Connection:
        connection = psycopg.connect(**{"connect_timeout": CONNECT_SECONDS, **self._place})
        for name, value in LIMITS.items():
            connection.execute(f"SET {name} = '{value}'")
        connection.execute(f"SET synchronous_commit = {self._wait}")
        connection.execute(f"SET search_path = {SCHEMA}")
        connection.commit()
        return connection

    @contextmanager
    def _errors(self, what: str) -> Iterator[None]:
        try:
            yield
        except psycopg.Error as error:
            text = " ".join(str(error).split()) or type(error).__name__
            if secret := self._place.get("password"):
                text = text.replace(secret, "***")
            remedy = "look at the server; the log goes on by itself"
            raise LogError(f"{self.address} cannot be {what}: {text}; {remedy}", AGAIN) from None


def _work(connection: psycopg.Connection, work: Callable, alone: bool) -> tuple[str, list]:
    """The transaction's ticket, by which its fate can be looked up later, and what it gave.

    Appends must not run beside a labelling: neither would see the other's rows, and the pair would
    never be counted.
    """
    lock = "pg_advisory_xact_lock" + ("" if alone else "_shared")
    sql = f"SELECT {lock}({LOCK}), pg_current_xact_id()::text"
    ticket = connection.execute(sql).fetchone()[1]
    return ticket, work(Run(connection))


def _settled(connection: psycopg.Connection, ticket: str) -> bool:
    """Whether a transaction that was cut off was committed."""
    for _ in range(50):
        fate = connection.execute("SELECT pg_xact_status(%s::xid8)", (ticket,)).fetchone()[0]
        connection.commit()
        if fate != "in progress":
            return fate == "committed"
        time.sleep(0.02)  # the server has not noticed yet that we were gone
    raise psycopg.OperationalError("the server does not say what became of the last batch")


def _prepare(connection: psycopg.Connection, create: bool, address: str) -> None:
    """Make the tables where there are none, and take older ones over; LogError for others."""
    connection.execute(f"SELECT pg_advisory_xact_lock({LOCK})")  # one replica makes them
    there = connection.execute(f"SELECT to_regclass('{SCHEMA}.format')").fetchone()[0]
    if there is None and not create:
        raise LogMissing(f"there is no prediction log at {address}")
    if there is None:
        connection.execute(f"CREATE SCHEMA IF NOT EXISTS {SCHEMA}")
        connection.execute(f"CREATE TABLE {SCHEMA}.format (format integer NOT NULL)")
        connection.execute(f"INSERT INTO {SCHEMA}.format VALUES ({FORMAT})")
        for statement in statements("postgresql").create:  # the search path is our schema
            connection.execute(statement)
    found = connection.execute(f"SELECT max(format) FROM {SCHEMA}.format").fetchone()[0]
    if found in KNOWN and found < FORMAT:  # who may only read can open what is of now
        for statement in statements("postgresql").upgrade:
            connection.execute(statement)
        connection.execute(f"UPDATE {SCHEMA}.format SET format = {FORMAT}")
    connection.commit()
    if found not in KNOWN:
        raise LogError(
            f"{address} has format {found}, and this code knows {FORMAT}; use the code that made "
            "it, or another database"
        )


def _place(url: str) -> tuple[dict[str, str], str]:
    """The connection's parts, `${NAME}` from the environment, and the address without secrets."""
    try:
        parts = conninfo_to_dict(url)
    except psycopg.Error:  # its message may hold the password
        raise LogError(
            "the address of the log is not postgresql://USER@HOST:PORT/DATABASE; "
            "write characters such as @ and / within a part as %40 and %2F"
        ) from None
    if parts.get("password") and not VARIABLE.fullmatch(parts["password"]):
        raise LogError(
            "the address of the log holds a password; write ${NAME} in its place and set NAME in "
            "the environment, or leave it out and set PGPASSWORD"
        )
    named = {name: VARIABLE.sub(_variable, str(value)) for name, value in parts.items()}
    who = f"{named['user']}@" if "user" in named else ""
    host = named.get("host", "") + (f":{named['port']}" if "port" in named else "")
    return named, f"postgresql://{who}{host}/{named.get('dbname', '')}"


def _variable(found: re.Match) -> str:
    if found[1] not in os.environ:
        raise LogError(f"the address of the log names ${{{found[1]}}}, which is not set")
    return os.environ[found[1]]
