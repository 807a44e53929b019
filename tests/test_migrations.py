"""The store's schema: made from nothing, kept equal to the declarations, stepped down and up with data in it."""

import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Column, Table, insert, inspect, select, text
from sqlalchemy import types as sql

from rankr_sync import schema
from rankr_sync.errors import SchemaTooNew, StoreUnavailable
from rankr_sync.store import SqlStore, Transaction, migrate
from rankr_sync.store.connect import open_engine, translated
from rankr_sync.store.views import VIEWS_KEY
from rankr_sync.streams import STREAMS

NOW = datetime(2026, 9, 1, 12, 0, tzinfo=UTC)
VIEWS = {"contact_tags", "contact_custom_fields", "contact_timeline", "sync_status", "sync_freshness"} | {
    f"{stream.table.name}_mapped" for stream in STREAMS.values()
}


@pytest.fixture
def store(bare_database_url: str) -> Iterator[SqlStore]:
    """An empty store, not yet migrated."""
    made = SqlStore(bare_database_url)
    yield made
    made.close()


def example(table: Table) -> dict[Column[Any], Any]:
    """A row that fills every column."""
    values: list[tuple[type, Any]] = [
        (schema.UtcDateTime, NOW),
        (sql.Boolean, True),
        (sql.Date, date(2026, 9, 1)),
        (sql.Double, 0.25),
        (sql.Integer, 7),
        (schema.Json, {"a": [1, "ü"]}),
        (sql.String, "x"),
    ]
    return {column: next(value for kind, value in values if isinstance(column.type, kind)) for column in table.columns}


def tables_in(tx: Transaction) -> dict[str, list[Column[Any]]]:
    """Our tables that are there, whatever the schema's age, each with those of our columns that it has."""
    found = inspect(tx.connection)
    there = set(found.get_table_names())
    return {
        table.name: [c for c in table.columns if c.name in {column["name"] for column in found.get_columns(table.name)}]
        for table in schema.metadata.sorted_tables
        if table.name in there
    }


def content(store: SqlStore) -> dict[str, list[dict[str, Any]]]:
    """Everything in every table of ours, but for the note of which views were made."""
    with store.reading() as tx:
        return {
            name: [
                dict(row) for row in tx.connection.execute(select(*columns)).mappings() if row.get("key") != VIEWS_KEY
            ]
            for name, columns in tables_in(tx).items()
        }


def steps() -> list[str]:
    """Every revision, oldest first."""
    scripts = ScriptDirectory.from_config(migrate.alembic_config())
    return [script.revision for script in reversed(list(scripts.walk_revisions()))]


@pytest.mark.filterwarnings("ignore:Skipped unsupported reflection")  # indexes over expressions: see the next test
@pytest.mark.parametrize("way", ["at once", "by migrations"])
def test_upgrade_from_nothing_equals_the_declarations(store: SqlStore, way: str) -> None:
    """A new store, and the sum of all migrations, have exactly the tables, types and indexes of `schema.metadata`."""
    newest = migrate.newest_revision()
    revision = "head" if way == "at once" else newest
    assert migrate.upgrade(store.engine, revision) == (None, newest)
    with store.engine.connect() as connection:
        options = {
            "compare_type": True,
            "include_object": lambda thing, name, kind, reflected, other: (
                name != "alembic_version" and name not in schema.SEARCH_INDEXES[connection.dialect.name]
            ),
        }
        context = MigrationContext.configure(connection, opts=options)
        assert compare_metadata(context, schema.metadata) == []


_INDEXES = {
    "sqlite": "SELECT name, sql FROM sqlite_master WHERE type = 'index' AND name LIKE 'ix_contacts_search%'",
    "postgresql": "SELECT indexname, indexdef FROM pg_indexes WHERE indexname LIKE 'ix_contacts_search%'",
}


def test_both_ways_make_the_same_search_indexes(store: SqlStore) -> None:
    """Indexes over expressions, which no comparison of declarations sees, are alike in new and in migrated stores."""
    dialect = store.engine.dialect.name
    found: list[dict[str, str]] = []
    for revision in ("head", migrate.newest_revision()):
        migrate.upgrade(store.engine, revision)
        with store.reading() as tx:
            found.append({row[0]: row[1] for row in tx.connection.execute(text(_INDEXES[dialect]))})
        migrate.downgrade(store.engine, "base")
    assert found[0] == found[1]
    assert found[0].keys() == schema.SEARCH_INDEXES[dialect].keys()


def test_the_revisions_are_those_of_the_files(store: SqlStore) -> None:
    """What the program takes for its revisions without loading alembic is what alembic finds."""
    assert migrate.known_revisions() == steps()
    assert migrate.newest_revision() == steps()[-1]


def test_upgrade_again_does_nothing(store: SqlStore) -> None:
    """Every start upgrades; a store that is up to date is left alone, its views too."""
    store.upgrade()
    assert store.make_views({}, NOW) is True
    assert store.upgrade() == (migrate.newest_revision(), migrate.newest_revision())
    assert store.make_views({}, NOW) is False
    with store.reading() as tx:
        assert set(inspect(tx.connection).get_view_names()) == VIEWS


def test_every_step_goes_down_and_up_with_data_in_it(store: SqlStore) -> None:
    """Each migration can be undone and done again while the tables hold rows and the views exist; the rows stay."""
    revisions = steps()
    for number, revision in enumerate(revisions):
        migrate.upgrade(store.engine, revision)
        with store.transaction() as tx:
            for name, columns in tables_in(tx).items():
                table = schema.metadata.tables[name]
                row = {column.name: value for column, value in example(table).items() if column in columns}
                if tx.connection.execute(select(*columns).limit(1)).first() is None:
                    tx.connection.execute(insert(table), [row])
        if revision == revisions[-1]:
            store.make_views({}, NOW)
        before = content(store)
        migrate.downgrade(store.engine, revisions[number - 1] if number else "base")
        below = content(store)
        migrate.upgrade(store.engine, revision)
        for name, rows in below.items():
            assert rows == [{key: row[key] for key in rows[0]} for row in before[name]], f"{name} lost in {revision}"
    assert store.revision() == migrate.newest_revision()


def test_a_full_row_of_every_table_comes_back_as_it_was(store: SqlStore) -> None:
    """Every column of every table keeps its value, on both databases alike."""
    store.upgrade()
    with store.transaction() as tx:
        for table in schema.metadata.sorted_tables:
            tx.connection.execute(insert(table), [{column.name: value for column, value in example(table).items()}])
    found = content(store)
    for table in schema.metadata.sorted_tables:
        assert found[table.name] == [{column.name: value for column, value in example(table).items()}]


def test_a_newer_schema_is_refused(store: SqlStore) -> None:
    """A store that a later release has migrated is not touched: a sentence, a hint, exit code 2."""
    store.upgrade()
    with store.transaction() as tx:
        tx.connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(SchemaTooNew, match="9999") as caught:
        store.upgrade()
    assert caught.value.exit_code == 2
    assert caught.value.hint
    assert store.revision() == "9999"


def test_a_store_without_a_schema_has_no_revision(store: SqlStore) -> None:
    """Looking at an empty database is no error."""
    assert store.revision() is None


@pytest.mark.parametrize("way", ["at once", "by migrations"])
def test_a_foreign_table_is_left_alone(store: SqlStore, way: str) -> None:
    """Where a table of one of our names is not ours, nothing is made, changed or adopted: an error says so."""
    with store.transaction() as tx:
        tx.connection.execute(text("CREATE TABLE tasks (id integer)"))  # in the way of a later statement
    with pytest.raises(StoreUnavailable), translated(store.url):
        migrate.upgrade(store.engine, "head" if way == "at once" else migrate.newest_revision())
    with store.reading() as tx:
        assert set(inspect(tx.connection).get_table_names()) == {"tasks"}


def _open(url: str, results: Any) -> None:
    try:
        store = SqlStore(url)
        store.upgrade()
        store.make_views({}, NOW)
        revision = store.revision()
        store.close()
        results.append(revision)
    except Exception as error:
        results.append(repr(error))


def test_threads_may_open_an_empty_store_at_once(bare_database_url: str) -> None:
    """Whoever comes first makes the schema; the others wait and find it done."""
    results: list[Any] = []
    start = threading.Barrier(6)

    def one() -> None:
        start.wait()
        _open(bare_database_url, results)

    threads = [threading.Thread(target=one) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [migrate.newest_revision()] * 6


def test_new_files_are_made_write_ahead_by_many_at_once(tmp_path: Path) -> None:
    """SQLite fails one of two that do so at the same instant, without waiting; we wait for it."""
    start = threading.Barrier(6)

    def open_all() -> None:
        for number in range(100):
            engine = open_engine(f"sqlite:///{tmp_path}/{number}.db")
            start.wait(10)
            engine.connect().close()
            engine.dispose()

    with ThreadPoolExecutor(6) as pool:
        for done in [pool.submit(open_all) for _ in range(6)]:
            done.result()


@pytest.mark.process
def test_processes_may_open_an_empty_store_at_once(bare_database_url: str, tmp_path: Path) -> None:
    """The same for programs that are started together, as two containers are."""
    environment = {"PATH": os.environ["PATH"], "RANKR_SYNC_DATABASE__URL": bare_database_url}
    command = [sys.executable, "-m", "rankr_sync", "db", "upgrade"]
    options: dict[str, Any] = {"env": environment, "cwd": tmp_path, "stderr": subprocess.PIPE, "text": True}
    started = [subprocess.Popen(command, stdout=subprocess.DEVNULL, **options) for _ in range(2)]
    ended = [(process.communicate(timeout=60)[1], process.returncode) for process in started]
    assert ended == [("", 0)] * 2


def test_the_migrations_are_found_in_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Wherever the program is started, it finds its migrations."""
    monkeypatch.chdir(tmp_path)
    found: Callable[[], Path] = migrate.migrations_folder
    assert (found() / "env.py").is_file()
