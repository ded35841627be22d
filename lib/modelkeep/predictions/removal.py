"""Rows taken out of the prediction log: old ones (retention), and those of one entity (erasure).

Both work in small transactions, so that a server that writes waits for milliseconds. The table
`removals` counts what they took, so that a reader knows that the log is no longer whole.
"""

import json
import re
import time
from collections.abc import Callable, Iterable
from functools import cache, partial
from typing import NamedTuple

from msgspec.json import decode, encode

from modelkeep.predictions import records
from modelkeep.predictions.records import WHOLE_BATCH, Group
from modelkeep.predictions.tables import Statement

RETENTION, ERASURE = "retention", "erasure"
PAGE = 64  # groups of one transaction
LABELS = 500  # labels of one transaction
REST = 1.0  # the pause after a transaction, as a multiple of its duration
GROUP = "at, model, role, share, took, failed, ids, entities, times, features, answers"
TABLE = (
    "CREATE TABLE IF NOT EXISTS removals (reason TEXT PRIMARY KEY, until BIGINT NOT NULL, "
    "predictions BIGINT NOT NULL, labels BIGINT NOT NULL)"
)
ITEMS = {
    "sqlite": "(SELECT value FROM json_each(:items))",
    "postgresql": "(SELECT value FROM json_array_elements_text(CAST(:items AS json)))",
}
EXISTS = {
    "sqlite": "SELECT 1 FROM sqlite_master WHERE name = 'removals'",
    "postgresql": "SELECT 1 WHERE to_regclass('removals') IS NOT NULL",
}
SQL = {
    "counts": "SELECT reason, predictions, labels, until FROM removals",
    "begin": "INSERT INTO removals VALUES (:reason, 0, 0, 0) ON CONFLICT DO NOTHING",
    "count": "UPDATE removals SET until = :until, predictions = predictions + :predictions, "
    "labels = labels + :labels WHERE reason = :reason RETURNING reason",
    "old_groups": "DELETE FROM answers WHERE n IN (SELECT n FROM answers WHERE at < :before "
    "ORDER BY at, n LIMIT :page) RETURNING n, ids",
    "entries": "SELECT id, place FROM ids WHERE n = :n AND id IN {items}",
    "drop_entries": "DELETE FROM ids WHERE n = :n AND id IN {items}",
    "add_entry": "INSERT INTO ids (id, n, place) VALUES (:id, :n, :place)",
    "old_labels": "SELECT n, id FROM labels WHERE n > :after AND at < :before "
    "ORDER BY n LIMIT :page",
    "drop_label": "DELETE FROM labels WHERE n = :n RETURNING n",
    "predicted": "SELECT DISTINCT id FROM ids WHERE id IN {items}",
    "holding": f"SELECT n, {GROUP} FROM answers WHERE n > :after AND ({{inside}}(entities, :text) "
    "> 0 OR {inside}(ids, :text) > 0 OR {inside}(coalesce(failed, ''), :text) > 0) "
    "ORDER BY n LIMIT :page",
    "rewrite": "UPDATE answers SET failed = :failed, ids = :ids, entities = :entities, "
    "times = :times, features = :features, answers = :answers, digest = :digest WHERE n = :n",
    "drop_group": "DELETE FROM answers WHERE n = :n",
    "labels_of": "SELECT n FROM labels WHERE id IN {items}",
}


class Removed(NamedTuple):
    """How many rows were removed, in all or now; `until`: all predictions before it, or 0."""

    predictions: int = 0
    labels: int = 0
    until: int = 0  # microseconds since 1970


class Erased(NamedTuple):
    """What the log had of an entity: the ids of its predictions, and how many of each."""

    ids: tuple[str, ...]
    predictions: int
    labels: int
    unreached: int  # entities without a prediction in the record of a call


@cache
def statement(database: str, name: str) -> Statement:
    """One of `SQL` for `sqlite` or `postgresql`, or whether the table of counts `exists`."""
    inside = "instr" if database == "sqlite" else "strpos"
    text = EXISTS[database] if name == "exists" else SQL[name]
    text = text.replace("{items}", ITEMS[database]).replace("{inside}", inside)
    names = tuple(re.findall(r":(\w+)", text))
    return Statement(re.sub(r":\w+", "?" if database == "sqlite" else "%s", text), names, {})


def removed(run: Callable, database: str) -> dict[str, Removed]:
    """How many rows were removed so far, by reason."""
    if not run(statement(database, "exists")):
        return {}
    return {reason: Removed(*each) for reason, *each in run(statement(database, "counts"))}


def prune(
    maintain: Callable,
    database: str,
    before: int,
    rest: Callable[[float], None] = time.sleep,
) -> Removed:
    """Remove predictions made before a moment (microseconds), and labels that came before it.

    A label of a prediction that stays, stays. `maintain` runs a function in a transaction of its
    own; between two, `rest` leaves the database to those who write.
    """
    predictions = labels = 0
    for work in (_old_groups, _old_labels):
        state = {"after": 0, "more": True}
        while state["more"]:
            started = time.perf_counter()
            count = maintain(partial(work, database, before, state))
            rest(REST * (time.perf_counter() - started))
            predictions += count.predictions
            labels += count.labels
    return Removed(predictions, labels, before)


def _old_groups(database: str, before: int, state: dict, run: Callable) -> Removed:
    gone = run(statement(database, "old_groups"), before=before, page=PAGE)
    predictions = 0
    for n, ids in gone:
        names = decode(ids)
        predictions += len(names)
        _drop_entries(run, database, n, names)
    state["more"] = len(gone) == PAGE
    return _counted(run, database, RETENTION, Removed(predictions, 0, before))


def _old_labels(database: str, before: int, state: dict, run: Callable) -> Removed:
    after = state["after"]
    rows = run(statement(database, "old_labels"), after=after, before=before, page=LABELS)
    names = [name for _, id in rows for name in (id, records.batch(id)) if name]
    kept = {id for (id,) in run(statement(database, "predicted"), items=_texts(names))}
    old = [n for n, id in rows if id not in kept and records.batch(id) not in kept]
    gone = sum(len(run(statement(database, "drop_label"), n=n)) for n in old)
    state["after"], state["more"] = rows[-1][0] if rows else after, len(rows) == LABELS
    return _counted(run, database, RETENTION, Removed(0, gone, before))


def erase(maintain: Callable, database: str, entity: str, dry_run: bool = False) -> Erased:
    """Remove the predictions of an entity (or of a row's id) and their labels; what there was."""
    ids: dict[str, None] = {}
    total, state = [0, 0, 0], {"after": 0, "more": True}
    while state["more"]:
        page = maintain(partial(_rewritten, database, entity, state, dry_run))
        ids |= dict.fromkeys(page.ids)
        total = [sum(each) for each in zip(total, page[1:], strict=True)]
    for start in range(0, len(ids) or 1, LABELS):
        some = [entity, *ids][start : start + LABELS + 1]
        total[1] += maintain(partial(_labels, database, some, dry_run))
    return Erased(tuple(ids), *total)


def _rewritten(database: str, entity: str, state: dict, dry_run: bool, run: Callable) -> Erased:
    """Groups without the rows of an entity; their digest is made anew."""
    text = encode(entity).decode()
    rows = run(statement(database, "holding"), after=state["after"], text=text, page=PAGE)
    ids, predictions, unreached = [], 0, 0
    for n, *values in rows:
        group = Group(*values)
        entries = [*records.ungrouped(*group[:3], *group[6:])]
        own = {i for i, e in enumerate(entries) if entity in (e.entity, e.id)}
        failed = decode(group.failed) if group.failed else []
        ids += [entries[i].id for i in own]
        predictions, unreached = predictions + len(own), unreached + failed.count(entity)
        if not dry_run and (own or entity in failed):
            left = [e for i, e in enumerate(entries) if i not in own]
            failed = encode([each for each in failed if each != entity]).decode()
            call = group.share, group.took, group.failed and failed
            _replace(run, database, n, entries, left, group, call)
    state["after"], state["more"] = rows[-1][0] if rows else 0, len(rows) == PAGE
    if not dry_run:
        _counted(run, database, ERASURE, Removed(predictions, 0, 0))
    return Erased(tuple(ids), predictions, 0, unreached)


def _replace(
    run: Callable, database: str, n: int, former: list, left: list, group: Group, call: tuple
) -> None:
    names = [each.id for each in former]
    items = _texts([*names, *filter(None, map(records.batch, names))])
    indexed = run(statement(database, "entries"), n=n, items=items)
    whole = [id for id, place in indexed if place == WHOLE_BATCH]
    _drop_entries(run, database, n, [name for name in names if name not in whole], bool(not left))
    if not left and call[0] is None:
        run.many(statement(database, "drop_group"), [(n,)])
        return
    new = next(records.grouped(left), Group(*group[:6], "[]", "[]", "[]", b"{}", b"[]"))
    new = Group(*group[:3], *call, *new[6:])
    changed = statement(database, "rewrite")
    values = {**new._asdict(), "digest": records.digest(new), "n": n}
    run.many(changed, [changed.bind(values)])
    if not whole:
        add = statement(database, "add_entry")
        run.many(add, [(each.id, n, place) for place, each in enumerate(left)])


def _labels(database: str, ids: list[str], dry_run: bool, run: Callable) -> int:
    found = run(statement(database, "labels_of"), items=_texts(ids))
    if not dry_run:
        found = [row for (n,) in found for row in run(statement(database, "drop_label"), n=n)]
        _counted(run, database, ERASURE, Removed(0, len(found), 0))
    return len(found)


def _drop_entries(
    run: Callable, database: str, n: int, names: list[str], batches: bool = True
) -> None:
    names = [*names, *filter(None, map(records.batch, names if batches else ()))]
    drop = statement(database, "drop_entries")
    run.many(drop, [drop.bind({"n": n, "items": _texts(names)})])


def _counted(run: Callable, database: str, reason: str, gone: Removed) -> Removed:
    """Add to the table of counts, in the transaction that removed."""
    if gone.predictions or gone.labels:
        begin = statement(database, "begin")
        run.many(begin, [(reason,)])
        run(statement(database, "count"), reason=reason, **gone._asdict())
    return gone


def _texts(texts: Iterable[str]) -> str:
    return json.dumps([*dict.fromkeys(texts)])
