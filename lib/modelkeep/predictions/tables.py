"""The log's tables and statements, once for SQLite and PostgreSQL (SQLAlchemy Core).

Statements are compiled to a driver's SQL once, and executed on the driver's own cursor: to execute
them by SQLAlchemy costs 50 us of CPU a commit of one row, where sqlite3 alone needs 14.
"""

from collections.abc import Mapping
from functools import cache
from typing import Any, NamedTuple

from sqlalchemy import (
    JSON,
    BigInteger,
    Column,
    Double,
    Identity,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    PrimaryKeyConstraint,
    Table,
    Text,
    bindparam,
    cast,
    func,
    insert,
    literal_column,
    select,
    tuple_,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.schema import CreateIndex, CreateTable
from sqlalchemy.sql.expression import ClauseElement, TableValuedAlias

FORMAT = 4  # raise it when a table changes
KNOWN = (2, 3, 4)  # formats that can be read, and added to
GROUP = ("n", "at", "model", "role", "ids", "entities", "times", "features", "answers")
DIGEST = "digest"  # a column that tables of before 4 lack


class Statement(NamedTuple):
    """SQL with the names of its parameters in order; `constants` are values of its own."""

    sql: str
    names: tuple[str, ...]
    constants: Mapping[str, Any]

    def bind(self, values: Mapping[str, Any]) -> tuple:
        """The parameters for the driver."""
        return tuple(
            values[name] if name in values else self.constants[name] for name in self.names
        )


class Statements(NamedTuple):
    """All statements for one database."""

    create: tuple[str, ...]  # the tables and their indexes
    append: Statement  # a group of predictions; returns n
    ids: Statement  # the index entries of a group: texts of the JSON array `items`
    batch: Statement  # one index entry
    label: Statement
    predictions: Statement  # of the ids or batches in `items`
    traced: Statement  # the groups that hold the ids or batches in `items`
    labels: Statement  # of the ids in `items`, before `known`
    newest: Statement  # the last n of predictions and of labels
    newest_at: Statement
    window: Statement  # a page of groups
    calls: Statement
    arrived: Statement  # all labels of the ids in `items`, with their digest
    settled: Statement  # the last prediction in the order of writing from `before` a moment
    settled_labels: Statement  # the last such label
    digests: Statement  # of a prediction and of a label
    late: Statement  # a page of groups written after a number, from `before` a moment
    labelled: Statement  # a page of the labels written after a number
    groups: Statement  # those that hold the ids or batches in `items`, from `before` a moment
    upgrade: tuple[str, ...]  # adds what tables of an older format lack


@cache
def statements(database: str) -> Statements:
    """The statements for `sqlite` or `postgresql`."""
    if database == "sqlite":
        dialect, parameter = sqlite.dialect(), bindparam("items")
        items = func.json_each(parameter).table_valued("key", "value", name="item")
        position = items.c.key
    else:
        dialect = postgresql.dialect(paramstyle="format")
        texts = func.json_array_elements_text(cast(bindparam("items"), JSON))
        items = texts.table_valued("value", with_ordinality="key", name="item").render_derived()
        position = items.c.key - literal_column("1")
    answers, ids, labels = tables = _tables()
    queries = _queries(answers, ids, labels, items, position)
    queries |= _since_a_mark(answers, ids, labels, items)
    compiled = {name: _compiled(each, dialect) for name, each in queries.items()}
    create = [str(CreateTable(table).compile(dialect=dialect)) for table in tables]
    indexes = [index for table in tables for index in sorted(table.indexes, key=lambda i: i.name)]
    create += [str(CreateIndex(index).compile(dialect=dialect)) for index in indexes]
    kind = "BLOB" if database == "sqlite" else "bytea"
    there = "" if database == "sqlite" else "IF NOT EXISTS "
    upgrade = [f"ALTER TABLE {t} ADD COLUMN {there}{DIGEST} {kind}" for t in ("answers", "labels")]
    return Statements(tuple(create), upgrade=tuple(upgrade), **compiled)


def _tables() -> tuple[Table, Table, Table]:
    metadata, strict = MetaData(), {"sqlite_strict": True}
    whole = BigInteger().with_variant(sqlite.INTEGER(), "sqlite")
    real = Double().with_variant(sqlite.REAL(), "sqlite")
    answers = Table(
        "answers",
        metadata,
        Column("n", whole, Identity(always=True), primary_key=True),
        Column("at", whole, nullable=False),
        Column("model", Text, nullable=False),
        Column("role", Text, nullable=False),
        Column("share", real),
        Column("took", whole),
        Column("failed", Text),
        *(Column(name, Text, nullable=False) for name in ("ids", "entities", "times")),
        *(Column(name, LargeBinary, nullable=False) for name in ("features", "answers")),
        Column(DIGEST, LargeBinary),
        **strict,
    )
    Index("answers_by_time", answers.c.at, answers.c.n)
    ids = Table(
        "ids",
        metadata,
        Column("id", Text),
        Column("n", whole),
        Column("place", Integer),
        PrimaryKeyConstraint("id", "n", "place"),
        **strict,
        sqlite_with_rowid=False,
    )
    labels = Table(
        "labels",
        metadata,
        Column("n", whole, Identity(always=True), primary_key=True),
        Column("id", Text, nullable=False),
        Column("value", Text, nullable=False),
        Column("at", whole, nullable=False),
        Column(DIGEST, LargeBinary),
        **strict,
    )
    Index("labels_by_id", labels.c.id)
    return answers, ids, labels


def _queries(
    answers: Table, ids: Table, labels: Table, items: TableValuedAlias, position: ClauseElement
) -> dict[str, ClauseElement]:
    a, entry, item = answers.c, ids.c, items.c
    n, whole = bindparam("n", type_=BigInteger()), BigInteger()
    after = tuple_(bindparam("last_at", type_=whole), bindparam("last_n", type_=whole))
    found = items.join(ids, entry.id == item.value).join(answers, a.n == entry.n)
    known = (labels.c.at < bindparam("known")) & (labels.c.n <= bindparam("upto"))
    start, end = bindparam("start"), bindparam("end")
    group = [a[name] for name in GROUP]
    return {
        "append": insert(answers).values(
            {c.name: bindparam(c.name) for c in a if c.name != "n"}
        ).returning(a.n),
        "ids": insert(ids).from_select(["id", "n", "place"], select(item.value, n, position)),
        "batch": insert(ids).values({c.name: bindparam(c.name) for c in entry}),
        "label": insert(labels).values(
            {name: bindparam(name) for name in ("id", "value", "at", DIGEST)}
        ),
        "predictions": select(entry.id, a.at, a.model, a.role, a.answers, a.ids, entry.place)
        .select_from(found)
        .order_by(a.at, entry.n, entry.place),
        "traced": select(entry.place, *(column for column in a if column.name != "n"))
        .select_from(found)
        .order_by(a.at, entry.n, entry.place),
        "labels": select(labels.c.id, labels.c.value, labels.c.at)
        .select_from(items.join(labels, (labels.c.id == item.value) & known))
        .order_by(labels.c.at, labels.c.n),
        "arrived": select(*(labels.c[name] for name in ("id", "value", "at", DIGEST)))
        .select_from(items.join(labels, labels.c.id == item.value))
        .order_by(labels.c.at, labels.c.n),
        "newest": select(
            select(func.max(a.n)).scalar_subquery(),
            select(func.max(labels.c.n)).scalar_subquery(),
        ),
        "newest_at": select(func.max(a.at)),
        "window": select(*group)
        .where(a.at >= start, tuple_(a.at, a.n) > after, a.at < end, a.n <= bindparam("upto"))
        .where(a.role.in_(select(item.value)))
        .order_by(a.at, a.n)
        .limit(bindparam("page")),
        "calls": select(a.at, a.model, a.role, a.share, a.took, a.failed)
        .where(a.at >= start, a.at < end, a.share.is_not(None))
        .order_by(a.at, a.n),
    }  # fmt: skip


def _since_a_mark(
    answers: Table, ids: Table, labels: Table, items: TableValuedAlias
) -> dict[str, ClauseElement]:
    """What `predictions.marks` looks for."""
    a, entry, whole = answers.c, ids.c, BigInteger()
    group = [a[name] for name in GROUP]
    after_n, before = bindparam("after", type_=whole), bindparam("before", type_=whole)

    def settled(table: Table) -> ClauseElement:
        # `+ 0` keeps the index over time away: the first row from the end is nearly always it
        rows = select(table.c.n, table.c[DIGEST]).where(table.c.at + literal_column("0") < before)
        return rows.order_by(table.c.n.desc()).limit(1)

    def digest(table: Table, name: str) -> ClauseElement:
        number = bindparam(name, type_=whole)
        return select(table.c[DIGEST]).where(table.c.n == number).scalar_subquery()

    return {
        "settled": settled(answers),
        "settled_labels": settled(labels),
        "digests": select(digest(answers, "prediction"), digest(labels, "label")),
        "late": select(*group)
        .where(a.n > after_n, a.at + literal_column("0") < before)
        .order_by(a.n)
        .limit(bindparam("page")),
        "labelled": select(labels.c.n, labels.c.id)
        .where(labels.c.n > after_n)
        .order_by(labels.c.n)
        .limit(bindparam("page")),
        "groups": select(*group)
        .where(a.n.in_(select(entry.n).select_from(items.join(ids, entry.id == items.c.value))))
        .where(a.at < before),
    }  # fmt: skip


def _compiled(query: ClauseElement, dialect: Any) -> Statement:
    compiled = query.compile(dialect=dialect)
    constants = {name: value for name, value in compiled.params.items() if value is not None}
    return Statement(str(compiled), tuple(compiled.positiontup or ()), constants)
