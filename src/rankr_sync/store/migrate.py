"""Bringing the store's schema to this release, and refusing one that is newer. Runs alembic under a lock."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy import Column, Connection, Engine, MetaData, String, Table, inspect, text

from rankr_sync import schema
from rankr_sync.errors import SchemaTooNew, StoreUnavailable
from rankr_sync.store.connect import is_sqlite
from rankr_sync.store.views import drop_views

if TYPE_CHECKING:
    from alembic.config import Config

_LOCK_KEY = 7_265_112_903  # any number that no other program on this database uses


def migrations_folder() -> Path:
    """Where the migrations are: in the installed package, or beside `src` in a checkout."""
    installed = Path(__file__).parent.parent / "migrations"
    return installed if installed.is_dir() else Path(__file__).parents[3] / "migrations"


def alembic_config(connection: Connection | None = None) -> "Config":
    """Alembic's configuration for this package's migrations, without a file."""
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(migrations_folder()).replace("%", "%%"))
    config.attributes["connection"] = connection
    return config


def newest_revision() -> str:
    """The revision this release writes."""
    known = known_revisions()
    if not known:
        raise StoreUnavailable("this installation carries no migrations", hint="install rankr-sync again")
    return known[-1]


def known_revisions() -> list[str]:
    """Every revision of this release, oldest first: the numbers that the files' names begin with.

    Read from the names because alembic, which knows them too, costs ten megabytes that a store which is up
    to date need not pay.
    """
    return sorted(file.name.split("_")[0] for file in (migrations_folder() / "versions").glob("[0-9]*_*.py"))


def current_revision(connection: Connection) -> str | None:
    """The revision the store is at; None for an empty store."""
    if not inspect(connection).has_table("alembic_version"):
        return None
    return connection.execute(text("SELECT version_num FROM alembic_version")).scalar()


def check_not_newer(revision: str | None) -> None:
    """Raise SchemaTooNew when this release does not know the store's revision."""
    if revision is not None and revision not in known_revisions():
        raise SchemaTooNew(
            f"the store has schema {revision}, which is newer than this rankr-sync knows",
            hint="install the release that wrote it, or a newer one",
        )


def upgrade(engine: Engine, revision: str = "head") -> tuple[str | None, str | None]:
    """Make the schema, or run the migrations that are missing; give the revisions before and after.

    With a `revision` other than `head`, an empty store too is brought there by migrations.

    Several processes may start at once: the lock lets one of them migrate and the others find it done.
    Raises SchemaTooNew.
    """
    with engine.begin() as connection, locked(connection):
        before = current_revision(connection)
        check_not_newer(before)
        if before == newest_revision() and revision == "head":
            return before, before
        if before is None and revision == "head":
            _create(connection)
        else:
            _migrate(connection, revision)
        return before, current_revision(connection)


def _create(connection: Connection) -> None:
    """An empty store gets the newest schema at once; a test holds it equal to the sum of all migrations.

    (Alembic's cookbook: building an up to date database from scratch.)
    """
    # Not "if it is not there": a table of that name that is not ours must not be taken for ours.
    schema.metadata.create_all(connection, checkfirst=False)
    version = Table("alembic_version", MetaData(), Column("version_num", String(32), primary_key=True))
    version.create(connection)
    connection.execute(version.insert().values(version_num=newest_revision()))


def _migrate(connection: Connection, revision: str) -> None:
    from alembic import command

    drop_views(connection)
    command.upgrade(alembic_config(connection), revision)


def downgrade(engine: Engine, revision: str) -> None:
    """Go back to `revision`."""
    from alembic import command

    with engine.begin() as connection, locked(connection):
        drop_views(connection)
        command.downgrade(alembic_config(connection), revision)


@contextlib.contextmanager
def locked(connection: Connection) -> Iterator[None]:
    """Be the only one that changes the schema, until the transaction ends."""
    # SQLite: the transaction began with BEGIN IMMEDIATE, which is the lock.
    if not is_sqlite(connection):
        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _LOCK_KEY})
    yield
