"""A scratch copy of the store, on which a dry run works: everything happens as it would, and nothing is written.

A store of SQLite is copied as a file, by SQLite itself; of one on PostgreSQL the rows of the chosen locations are
copied. The copy notes what the engine writes to the mirror, so that a person can be told.
"""

import contextlib
import shutil
import sqlite3
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from urllib.parse import quote

import structlog
from sqlalchemy import ColumnElement, Connection, Table, and_, delete, insert, select

from rankr_sync import schema
from rankr_sync.errors import BadConfiguration, StoreUnavailable
from rankr_sync.model import Plan
from rankr_sync.store import Overrides, SqlStore, look
from rankr_sync.store.connect import file_of, location_of, translated
from rankr_sync.store.migrate import check_not_newer, newest_revision
from rankr_sync.store.transaction import Transaction
from rankr_sync.streams import Stream

log = structlog.get_logger()

BATCH = 1000
EXAMPLES = 3
"""Ids kept of what was written in each way."""

NOT_COPIED = frozenset({"sync_leases", "rate_loans", "oauth_tokens", "daily_summaries", "usage_slots"})
"""Tables that no dry run reads: who is at work on the store is not at work on the copy."""


@dataclass(slots=True)
class Count:
    """How many records, and the ids of the first of them."""

    records: int = 0
    examples: list[str] = field(default_factory=list)

    def add(self, ids: Iterable[str]) -> None:
        """Count these too."""
        for id_ in ids:
            self.records += 1
            if len(self.examples) < EXAMPLES:
                self.examples.append(id_)


@dataclass(slots=True)
class Written:
    """What was written of one stream of one location."""

    insert: Count = field(default_factory=Count)
    update: Count = field(default_factory=Count)
    tombstone: Count = field(default_factory=Count)
    reject: Count = field(default_factory=Count)


Note = tuple[str, str, str, list[str]]
"""Location, stream, what was done, to which ids."""


class ScratchStore(SqlStore):
    """A store that nobody else uses, and that notes what is written to it.

    `written`: by location and stream, of the transactions that were committed. `at_work`: location to who was at work
    on the original when it was copied.
    """

    def __init__(self, url: str, at_work: dict[str, str]) -> None:
        super().__init__(url)
        self.at_work = at_work
        self.written: dict[tuple[str, str], Written] = {}

    @contextlib.contextmanager
    def transaction(self) -> Iterator[Transaction]:
        """A transaction of the store; what it wrote is noted once it is committed."""
        with translated(self.url), self.engine.begin() as connection:
            noting = _Noting(connection)
            yield noting
        for location_id, stream, kind, ids in noting.notes:
            getattr(self.written.setdefault((location_id, stream), Written()), kind).add(ids)


class _Noting(Transaction):
    def __init__(self, connection: Connection) -> None:
        super().__init__(connection)
        self.notes: list[Note] = []

    def apply(self, stream: Stream, location_id: str, plan: Plan, now: datetime) -> Plan:
        done = super().apply(stream, location_id, plan, now)
        self.notes.append((location_id, stream.name, "insert", [row["id"] for row in done.inserts]))
        self.notes.append((location_id, stream.name, "update", [row["id"] for row in done.updates]))
        self.notes.append((location_id, stream.name, "reject", [one.external_id or "-" for one in done.rejects]))
        return done

    def _bury(self, stream: Stream, location_id: str, which: ColumnElement[bool], now: datetime) -> int:
        table = stream.table
        living = and_(table.c.location_id == location_id, which, table.c.deleted_at.is_(None))
        ids = list(self.connection.execute(select(table.c.id).where(living)).scalars())
        self.notes.append((location_id, stream.name, "tombstone", ids))
        return super()._bury(stream, location_id, which, now)


@contextlib.contextmanager
def scratch_copy(
    url: str, location_ids: Sequence[str] | None, overrides: Overrides, now: Callable[[], datetime]
) -> Iterator[ScratchStore]:
    """A copy for the length of a block, of these locations (None: all).

    The store at `url` is only read, and not made where there is none.

    Raises StoreUnavailable, SchemaTooNew, or BadConfiguration where there is no room for it.
    """
    with tempfile.TemporaryDirectory(prefix="rankr-sync-dry-run-") as folder:
        target = Path(folder, "copy.db")
        began = time.monotonic()
        at_work = _copy(url, target, location_ids, now)
        with contextlib.closing(ScratchStore(f"sqlite:///{target}", at_work)) as scratch:
            scratch.upgrade()
            scratch.make_views(overrides, now())
            seconds = round(time.monotonic() - began, 1)
            log.info("store.copied", store=location_of(url), bytes=target.stat().st_size, seconds=seconds)
            yield scratch


def _copy(url: str, target: Path, location_ids: Sequence[str] | None, now: Callable[[], datetime]) -> dict[str, str]:
    file = file_of(url)
    if file is None:
        return _copy_rows(url, target, location_ids, now)
    return _copy_file(url, file, target, now) if file.exists() else {}


def _copy_file(url: str, file: Path, target: Path, now: Callable[[], datetime]) -> dict[str, str]:
    _check_room(target, file.stat().st_size)
    with translated(url), contextlib.ExitStack() as opened:
        try:
            source = opened.enter_context(contextlib.closing(_read_only(file)))
            copy = opened.enter_context(contextlib.closing(sqlite3.connect(target)))
            source.backup(copy)
        except sqlite3.Error as error:
            raise StoreUnavailable(
                f"the database {location_of(url)} cannot be copied: {error}",
                hint="check that it can be read, then run: rankr-sync check",
            ) from None
    with contextlib.closing(SqlStore(f"sqlite:///{target}")) as copied:
        revision = copied.revision()
        check_not_newer(revision)
        if revision is None:
            return {}
        copied.upgrade()
        at_work = _at_work(copied, now())
        with copied.transaction() as tx:
            for table in (schema.sync_leases, schema.rate_loans):
                tx.connection.execute(delete(table))
        return at_work


def _read_only(file: Path) -> sqlite3.Connection:
    # A reader of a store that nobody has open leaves an empty log behind, unless it may write; where there is a log,
    # who may write brings it into the file at the end.
    mode = "ro" if file.with_name(f"{file.name}-wal").exists() else "rw"
    return sqlite3.connect(f"file:{quote(str(file.absolute()))}?mode={mode}", uri=True, timeout=10)


def _copy_rows(
    url: str, target: Path, location_ids: Sequence[str] | None, now: Callable[[], datetime]
) -> dict[str, str]:
    with contextlib.closing(SqlStore(url)) as store:
        revision = store.revision()
        check_not_newer(revision)
        if revision is None:
            return {}
        if revision != newest_revision():
            raise BadConfiguration(
                f"the store has schema {revision}, and a dry run does not migrate it", hint="rankr-sync db upgrade"
            )
        with contextlib.closing(SqlStore(f"sqlite:///{target}")) as copy:
            copy.upgrade()
            with store.reading() as old, copy.transaction() as new:
                for table in schema.metadata.sorted_tables:
                    if table.name not in NOT_COPIED:
                        _copy_table(table, location_ids, old, new)
        return _at_work(store, now())


def _copy_table(table: Table, location_ids: Sequence[str] | None, old: Transaction, new: Transaction) -> None:
    query = select(table)
    key = table.c.id if table is schema.locations else table.c.get("location_id")
    if key is not None and location_ids is not None:
        query = query.where(key.in_(location_ids))
    rows = old.connection.execution_options(yield_per=BATCH).execute(query)
    for batch in rows.mappings().partitions():
        new.connection.execute(insert(table), [dict(row) for row in batch])


def _at_work(store: SqlStore, now: datetime) -> dict[str, str]:
    with store.reading() as tx:
        return look.holders(tx.connection, now)


def _check_room(target: Path, needed: int) -> None:
    free = shutil.disk_usage(target.parent).free
    if free < needed * 1.1:
        raise BadConfiguration(
            f"a dry run needs a copy of the store: {needed / 1e6:,.0f} MB, and {target.parent.parent} has"
            f" {free / 1e6:,.0f} MB free",
            hint="name a folder with more room: TMPDIR=/path rankr-sync backfill --dry-run",
        )
