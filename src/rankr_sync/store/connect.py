"""Opening the store: engines for SQLite (WAL) and PostgreSQL (psycopg 3), and the translation of their errors."""

import contextlib
import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import tenacity
from pydantic_core import from_json, to_json
from sqlalchemy import URL, Engine, Table, create_engine, event, exc, make_url
from sqlalchemy.engine import Connection

from rankr_sync.errors import BadConfiguration, StoreUnavailable

BUSY_TIMEOUT_MS = 10_000


def parse_url(url: str) -> URL:
    """The store's URL with its driver. Raises BadConfiguration for anything but SQLite and PostgreSQL."""
    try:
        parsed = make_url(url)
    except (exc.ArgumentError, ValueError):
        raise BadConfiguration(
            "database.url is not a database URL",
            hint="use sqlite:///rankr.db or postgresql://user:password@host/name (other signs in them as %40 for @)",
        ) from None
    match parsed.get_backend_name():
        case "sqlite":
            if parsed.database in (None, "", ":memory:"):
                raise BadConfiguration("database.url names no file", hint="use sqlite:///rankr.db")
            return parsed.set(drivername="sqlite")
        case "postgresql" | "postgres":
            return parsed.set(drivername="postgresql+psycopg")
        case other:
            raise BadConfiguration(
                f"database.url names {other!r}, which is not supported",
                hint="use sqlite:///rankr.db or postgresql://user:password@host/name",
            )


def open_engine(url: str) -> Engine:
    """An engine for the store. SQLite files are created readable by their owner only."""
    parsed = parse_url(url)
    options: dict[str, Any] = {"json_serializer": _dumps, "json_deserializer": from_json, "hide_parameters": True}
    file = file_of(url)
    if file is None:
        connect_args = {"connect_timeout": 10, "client_encoding": "utf8", "options": "-c timezone=UTC"}
        return create_engine(parsed, pool_pre_ping=True, pool_size=3, connect_args=connect_args, **options)
    _create_private(file)
    engine = create_engine(parsed, connect_args={"timeout": BUSY_TIMEOUT_MS / 1000}, **options)
    event.listen(engine, "connect", _set_up_sqlite)
    event.listen(engine, "begin", _begin_sqlite)
    return engine


def file_of(url: str) -> Path | None:
    """The file of an SQLite store; None where a server keeps it."""
    parsed = parse_url(url)
    return Path(parsed.database or "") if parsed.get_backend_name() == "sqlite" else None


def location_of(url: str) -> str:
    """The store's URL without its password, for people."""
    parsed = parse_url(url)
    secret = [name for name in parsed.query if "password" in name]
    return parsed.difference_update_query(secret).render_as_string(hide_password=True).replace("+psycopg", "")


@contextlib.contextmanager
def translated(url: str) -> Iterator[None]:
    """Translate what the database driver raises into StoreUnavailable, without SQL or values in the text."""
    try:
        yield
    except (exc.OperationalError, exc.InterfaceError, exc.TimeoutError, exc.InternalError) as error:
        raise _unusable(url, error) from error
    except exc.DBAPIError as error:
        if is_trouble(error):
            raise _unusable(url, error) from error
        reason = type(getattr(error, "orig", error)).__name__
        raise StoreUnavailable(f"the database {location_of(url)} refused a statement: {reason}") from error


def _unusable(url: str, error: Exception) -> StoreUnavailable:
    cause = getattr(error, "orig", None) or error
    reason = next(iter(str(cause).strip().splitlines()), type(cause).__name__)
    return StoreUnavailable(f"the database {location_of(url)} cannot be used: {reason}", hint=_hint(cause))


def _hint(cause: BaseException) -> str:
    if isinstance(cause, sqlite3.Error):
        match getattr(cause, "sqlite_errorcode", 0) & 0xFF:
            case sqlite3.SQLITE_FULL | sqlite3.SQLITE_IOERR:
                return "make room on its disk, or see whether the disk is broken; what was not saved is fetched again"
            case sqlite3.SQLITE_BUSY:
                return "another program holds its write lock: end that one, then run: rankr-sync check"
    return "check that it exists, is running and can be written, then run: rankr-sync check"


def is_trouble(error: exc.DBAPIError) -> bool:
    """Whether an error is of the database (gone, full, locked, broken), not of the row that it was given."""
    cause = error.orig
    if error.connection_invalidated:
        return True
    if isinstance(cause, sqlite3.Error):
        return getattr(cause, "sqlite_errorcode", 0) & 0xFF not in _OF_THE_ROW
    state = getattr(cause, "sqlstate", None)
    # Class 54 is a row beyond one of PostgreSQL's limits, which it also counts among its operational errors.
    return isinstance(error, exc.OperationalError | exc.InternalError) and str(state)[:2] != "54"


_OF_THE_ROW = frozenset(
    {
        *(0, sqlite3.SQLITE_ERROR, sqlite3.SQLITE_TOOBIG, sqlite3.SQLITE_CONSTRAINT),
        *(sqlite3.SQLITE_MISMATCH, sqlite3.SQLITE_MISUSE, sqlite3.SQLITE_RANGE),
    }
)


def is_sqlite(bind: Connection | Engine) -> bool:
    """Whether this connection or engine is of SQLite."""
    return bind.dialect.name == "sqlite"


def upsert_into(bind: Connection | Engine, table: Table) -> Any:
    """An INSERT of this dialect, which knows ON CONFLICT. Only the dialect in use is loaded: they cost megabytes."""
    if is_sqlite(bind):
        from sqlalchemy.dialects import sqlite

        return sqlite.insert(table)
    from sqlalchemy.dialects import postgresql

    return postgresql.insert(table)


def _dumps(value: Any) -> str:
    return to_json(value, inf_nan_mode="null").decode()


def _create_private(path: Path) -> None:
    if path.exists():
        return
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
    except OSError as error:
        raise StoreUnavailable(
            f"the database file {path} cannot be created: {error.strerror}",
            hint="choose a folder you may write to with RANKR_SYNC_DATABASE__URL=sqlite:////path/rankr.db",
        ) from error


def _set_up_sqlite(connection: Any, _record: Any) -> None:
    # The driver's own transaction handling begins too late and commits before DDL; we say BEGIN ourselves.
    connection.isolation_level = None
    cursor = connection.cursor()
    cursor.execute(f"PRAGMA busy_timeout = {BUSY_TIMEOUT_MS}")
    _write_ahead(cursor)
    cursor.execute("PRAGMA synchronous = NORMAL")
    cursor.close()


def _is_busy(error: BaseException) -> bool:
    return isinstance(error, sqlite3.OperationalError) and error.sqlite_errorcode == sqlite3.SQLITE_BUSY


# Of two programs that turn the same new file to WAL at once, SQLite fails one without waiting (each would wait for
# the other), whatever busy_timeout says.
@tenacity.retry(
    retry=tenacity.retry_if_exception(_is_busy),
    stop=tenacity.stop_after_delay(BUSY_TIMEOUT_MS / 1000),
    wait=tenacity.wait_random(max=0.05),
    reraise=True,
)
def _write_ahead(cursor: sqlite3.Cursor) -> None:
    cursor.execute("PRAGMA journal_mode = WAL")


def _begin_sqlite(connection: Connection) -> None:
    # A writer takes its lock at once: a read that turns into a write later could fail half way.
    reading = connection.get_execution_options().get("reading", False)
    connection.exec_driver_sql("BEGIN" if reading else "BEGIN IMMEDIATE")
