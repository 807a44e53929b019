"""The store: SQLite or PostgreSQL through SQLAlchemy Core. Synchronous; the engine calls it in a thread."""

import contextlib
import weakref
from collections.abc import Iterator, Mapping
from datetime import datetime

from sqlalchemy import false, update

from rankr_sync import schema
from rankr_sync.errors import SchemaTooNew
from rankr_sync.mapping import FieldRule
from rankr_sync.plan import digest
from rankr_sync.store import migrate, views
from rankr_sync.store.connect import is_sqlite, location_of, open_engine, translated
from rankr_sync.store.transaction import Transaction
from rankr_sync.streams import STREAMS

Overrides = Mapping[str, Mapping[str, FieldRule]]
"""Stream name to the rules that the configuration adds."""


class SqlStore:
    """The store at a URL. Raises StoreUnavailable when the database fails, whatever is asked."""

    def __init__(self, url: str) -> None:
        self.url = url
        with translated(url):
            self.engine = open_engine(url)
        # Whatever error keeps `close` from being called, the connections do not outlive the store.
        weakref.finalize(self, self.engine.dispose)

    @property
    def place(self) -> str:
        """The URL without a password."""
        return location_of(self.url)

    @contextlib.contextmanager
    def transaction(self) -> Iterator[Transaction]:
        """A transaction that writes; committed at the end of the block, undone by any error in it."""
        with translated(self.url), self.engine.begin() as connection:
            yield Transaction(connection)

    @contextlib.contextmanager
    def reading(self) -> Iterator[Transaction]:
        """A consistent look that never waits for a writer."""
        with translated(self.url), self.engine.connect() as connection:
            isolation = {} if is_sqlite(connection) else {"isolation_level": "REPEATABLE READ"}
            reader = connection.execution_options(reading=True, **isolation)
            with reader.begin():
                yield Transaction(reader)

    def upgrade(self) -> tuple[str | None, str | None]:
        """Bring the schema to this release; waits for no writer where it is there already. Raises SchemaTooNew."""
        current = self.revision()
        if current == migrate.newest_revision():
            return current, current
        with translated(self.url):
            return migrate.upgrade(self.engine)

    def revision(self) -> str | None:
        """The schema that the store has."""
        with self.reading() as tx:
            return migrate.current_revision(tx.connection)

    def try_to_write(self) -> None:
        """Begin to write, and undo it: in a table of ours if there is one, else by making one, as a start would.

        Raises StoreUnavailable where that is refused.
        """
        made = self.revision() is not None
        with translated(self.url), self.engine.connect() as connection, connection.begin() as transaction:
            if made:
                connection.execute(update(schema.sync_settings).where(false()).values(value=None))
            else:
                schema.sync_settings.create(connection)
            transaction.rollback()

    def make_views(self, overrides: Overrides, now: datetime) -> bool:
        """Make the views, if they are not as the mapping wants them; tell whether they were made."""
        dialect = views.dialect_of(self.engine)
        wanted = views.fixed_views(dialect) + [
            views.mapped_view(stream, overrides.get(name, {}), dialect) for name, stream in STREAMS.items()
        ]
        fingerprint = digest({view.name: view.select for view in wanted})
        with self.reading() as tx:
            if tx.setting(views.VIEWS_KEY) == fingerprint:
                return False
        with self.transaction() as tx, migrate.locked(tx.connection):
            views.create_views(tx.connection, wanted)
            tx.save_setting(views.VIEWS_KEY, fingerprint, now)
            return True

    def close(self) -> None:
        """Give back all connections."""
        self.engine.dispose()


__all__ = ["Overrides", "SchemaTooNew", "SqlStore", "Transaction"]
