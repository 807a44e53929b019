"""Copying a store into another: from one consistent look, in one transaction, batch by batch with flat memory."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Connection, Table, exc, insert, literal, select, text, true

from rankr_sync import schema
from rankr_sync.errors import BadConfiguration, StoreUnavailable
from rankr_sync.model import Reject, Row
from rankr_sync.store import SqlStore, Transaction
from rankr_sync.store.connect import is_sqlite, is_trouble, translated
from rankr_sync.store.views import VIEWS_KEY
from rankr_sync.streams import STREAMS

BATCH = 500

OF_PROCESSES = (schema.sync_leases, schema.rate_loans)
"""Tables that say who is at work on a store just now: not of its content."""

_STREAM_OF = {stream.table: stream for stream in STREAMS.values()}

_CONTENT = sorted(
    (table for table in schema.metadata.sorted_tables if table not in OF_PROCESSES),
    key=lambda table: table is not schema.sync_rejects,
)
"""The rejects come first: rows that the target refuses are added to them."""


@dataclass(frozen=True, slots=True)
class Copied:
    """What became of one table: rows written, and rows that the target's database does not take."""

    table: str
    rows: int
    refused: int


def copy_store(source: SqlStore, target: SqlStore, now: datetime) -> Iterator[Copied]:
    """Copy everything into a store that has this release's schema and no rows; yields each table as it is done.

    Only when the last one has been taken is anything committed: a copy that breaks off leaves the target empty.
    Each table is read back and compared. A row of the mirror that the target's database refuses (SQLite takes what
    PostgreSQL does not) becomes a reject there, as it would have with the sync. Raises BadConfiguration when the
    target is not empty, StoreUnavailable when either database fails or the copy is not equal.
    """
    with source.reading() as old, target.transaction() as new:
        _keep_others_out(new.connection)
        _check_empty(target, new.connection)
        for table in _CONTENT:
            copied = _copy_table(source, old, target, new, table, now)
            _set_sequence(new.connection, table)
            yield copied


def _keep_others_out(connection: Connection) -> None:
    """A daemon that is started on the target meanwhile waits with its first write. (SQLite has one writer anyway.)"""
    if not is_sqlite(connection):
        names = ", ".join(table.name for table in schema.metadata.sorted_tables)
        connection.execute(text(f"LOCK TABLE {names} IN SHARE ROW EXCLUSIVE MODE"))


def _check_empty(target: SqlStore, connection: Connection) -> None:
    for table in schema.metadata.sorted_tables:
        query = select(literal(1)).select_from(table).where(_content_of(table)).limit(1)
        if connection.execute(query).first() is not None:
            raise BadConfiguration(
                f"the database {target.place} is not empty: {table.name} has rows",
                hint="name a database that is new: nothing is ever overwritten",
            )


def _content_of(table: Table) -> ColumnElement[bool]:
    """Which rows are copied. The note of which views were made belongs to the views, which are made anew."""
    return schema.sync_settings.c.key != VIEWS_KEY if table is schema.sync_settings else true()


def _copy_table(
    source: SqlStore, old: Transaction, target: SqlStore, new: Transaction, table: Table, now: datetime
) -> Copied:
    rows = refused = expected = 0
    for batch in _batches(source, old, table, _content_of(table)):
        not_taken = _insert(new.connection, table, batch)
        _save_as_rejects(new, table, not_taken, now)
        rows += len(batch) - len(not_taken)
        refused += len(not_taken)
        expected += _sum_of(batch) - _sum_of(not_taken)
    written = sum(_sum_of(batch) for batch in _batches(target, new, table, _content_of(table)))
    if written != expected:
        raise StoreUnavailable(
            f"the copy of {table.name} is not equal to the original: nothing was copied",
            hint="check both databases (disks, versions), then run the same command again",
        )
    return Copied(table.name, rows, refused)


def _batches(store: SqlStore, tx: Transaction, table: Table, which: ColumnElement[bool]) -> Iterator[list[Row]]:
    with translated(store.url):
        query = select(table).where(which).execution_options(yield_per=BATCH)
        for batch in tx.connection.execute(query).mappings().partitions():
            yield [dict(row) for row in batch]


def _insert(connection: Connection, table: Table, rows: Sequence[Row]) -> list[Row]:
    """Insert; returns the rows that the database refuses, found by halving. Raises when it is its own trouble."""
    try:
        with connection.begin_nested():
            connection.execute(insert(table), rows)
    except (exc.DBAPIError, exc.StatementError, OverflowError, ValueError) as error:
        if table not in _STREAM_OF or (isinstance(error, exc.DBAPIError) and is_trouble(error)):
            raise
        if len(rows) == 1:
            return list(rows)
        half = len(rows) // 2
        return _insert(connection, table, rows[:half]) + _insert(connection, table, rows[half:])
    return []


def _save_as_rejects(tx: Transaction, table: Table, rows: Sequence[Row], now: datetime) -> None:
    for row in rows:
        reject = Reject("the database refuses the row", row["raw"], row["id"][:80], row.get("contact_id"))
        tx.save_rejects(_STREAM_OF[table], row["location_id"], [reject], now)


def _set_sequence(connection: Connection, table: Table) -> None:
    """The next row gets a number beyond those that came with the copy. (SQLite sees to it by itself.)"""
    column = table.autoincrement_column
    if column is not None and not is_sqlite(connection):
        sequence = f"pg_get_serial_sequence('{table.name}', '{column.name}')"
        newest = f"SELECT setval({sequence}, coalesce(max({column.name}), 0) + 1, false) FROM {table.name}"  # noqa: S608
        connection.execute(text(newest))


# -- comparing ---------------------------------------------------------------------------------------------


def _sum_of(rows: Sequence[Row]) -> int:
    """A fingerprint of rows in any order: the two databases sort differently."""
    return sum(hash(tuple(_frozen(value) for value in row.values())) for row in rows)


def _frozen(value: Any) -> Any:
    """JSON as something that has a hash: equal where the values are, whatever the order of keys, 5 or 5.0."""
    match value:
        case dict():
            return frozenset((key, _frozen(one)) for key, one in value.items())
        case list():
            return tuple(_frozen(one) for one in value)
    return value


__all__ = ["Copied", "copy_store"]
