"""A backup of a store that is a file, while others write to it."""

import contextlib
import os
import shlex
import sqlite3
from pathlib import Path

from sqlalchemy import URL

from rankr_sync.errors import BadConfiguration, StoreUnavailable
from rankr_sync.store import SqlStore
from rankr_sync.store.connect import is_sqlite, parse_url, translated


def back_up(store: SqlStore, file: Path) -> int:
    """Write the SQLite store, as it is at one moment, to a new file; returns its size in bytes.

    Nobody waits for it, nor it for anybody. The file has its name only when it is whole, checked and on the disk,
    and only its owner may read it. Raises BadConfiguration when it exists, or the store is on PostgreSQL;
    StoreUnavailable when it cannot be written.
    """
    if not is_sqlite(store.engine):
        raise BadConfiguration(
            f"the store {store.place} is on a server, which has a tool of its own",
            hint=pg_dump(store.url, file),
        )
    if file.exists():
        raise BadConfiguration(f"{file} exists already", hint="name a new file: nothing is ever overwritten")
    partial = file.with_name(f"{file.name}.partial")
    try:
        partial.unlink(missing_ok=True)
        os.close(os.open(partial, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
        _vacuum_into(store, partial)
        _check(partial)
        _sync(partial)
        partial.rename(file)
        _sync(file.parent)
    except OSError as error:
        raise StoreUnavailable(
            f"the backup {file} cannot be written: {error.strerror}", hint="choose a folder you may write to"
        ) from error
    finally:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)
    return file.stat().st_size


def pg_dump(url: str, file: Path) -> str:
    """The command that backs up a store on PostgreSQL. It asks for the password, or takes it from PGPASSWORD."""
    full = parse_url(url)
    query = {name: value for name, value in full.query.items() if "password" not in name}
    plain = URL.create("postgresql", full.username, None, full.host, full.port, full.database, query).render_as_string()
    return f"pg_dump --format=custom --file={shlex.quote(str(file))} {shlex.quote(plain)}"


def _vacuum_into(store: SqlStore, file: Path) -> None:
    with translated(store.url), store.engine.connect() as connection:
        try:  # past SQLAlchemy, which would begin a transaction: within one this is not possible
            connection.connection.cursor().execute("VACUUM INTO ?", (str(file),))
        except sqlite3.Error as error:
            raise StoreUnavailable(
                f"the store {store.place} cannot be backed up: {error}",
                hint="make room on the disk of the backup; if the store is damaged, restore an earlier one",
            ) from error


def _check(file: Path) -> None:
    with contextlib.closing(sqlite3.connect(file)) as connection:
        [result] = connection.execute("PRAGMA quick_check(1)").fetchone()
    if result != "ok":
        raise StoreUnavailable(
            "the backup is damaged, so the store may be", hint="check the disk; restore an earlier backup"
        )


def _sync(path: Path) -> None:
    """Wait until it is on the disk: SQLite does not see to that by itself here."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


__all__ = ["back_up", "pg_dump"]
