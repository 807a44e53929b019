"""Moving a store to another database, backing it up and restoring it: the mirror goes on as if nothing had happened."""

import asyncio
import logging
import random
import shutil
import socket
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import structlog
import typer
from sqlalchemy import insert, inspect, select, text

from mirror import LOCATION, account, backfill, configuration, connected, differences, poll, query, rows
from rankr_sync import schema
from rankr_sync.cli import app, common
from rankr_sync.config import Config
from rankr_sync.daemon import jobs
from rankr_sync.errors import BadConfiguration, StoreUnavailable
from rankr_sync.sandbox import Sandbox
from rankr_sync.store import SqlStore
from rankr_sync.store.backup import back_up
from rankr_sync.store.copy import copy_store

NOW = datetime(2026, 11, 1, 12, tzinfo=UTC)
NOT_COPIED = {"sync_leases", "rate_loans"}

Typed = Callable[..., tuple[int, str, str]]


@pytest.fixture
def typed(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path) -> Iterator[Typed]:
    """Run a command on the store at a URL: its exit code, standard output and standard error."""
    monkeypatch.chdir(tmp_path)
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    command = typer.main.get_command(app)

    def run(url: str, *words: str) -> tuple[int, str, str]:
        capfd.readouterr()
        with monkeypatch.context() as environment:
            environment.setenv("RANKR_SYNC_DATABASE__URL", url)
            code = common._code_of(lambda: command(list(words), standalone_mode=False))
        return code, *capfd.readouterr()

    yield run
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.reset_defaults()


@pytest.fixture(scope="module")
def mirrored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store that a backfill has filled once, to be copied."""
    file = tmp_path_factory.mktemp("mirrored") / "rankr.db"
    filled(f"sqlite:///{file}", 12)
    return file


@pytest.fixture
def mirror_url(mirrored: Path, sqlite_url: str) -> str:
    """A filled store of one's own."""
    shutil.copy(mirrored, sqlite_url.removeprefix("sqlite:///"))
    return sqlite_url


@pytest.fixture
def other_url(tmp_path: Path) -> str:
    """Another SQLite file that does not exist yet."""
    return f"sqlite:///{tmp_path / 'other.db'}"


def content(url: str) -> dict[str, list[Any]]:
    """All rows of every table, in an order that both databases agree on."""
    with closing(SqlStore(url)) as store, store.reading() as tx:
        found = {table.name: tx.connection.execute(select(table)).all() for table in schema.metadata.sorted_tables}
    found["sync_settings"] = [row for row in found["sync_settings"] if row.key != "views"]
    return {name: sorted(some, key=lambda row: [str(value) for value in row]) for name, some in found.items()}


def is_empty(url: str) -> bool:
    """Whether no table has a row."""
    return not any(content(url).values())


def filled(url: str, contacts: int = 30) -> tuple[Sandbox, Config]:
    """An account and its complete mirror, with a row in every table that a sync leaves empty."""
    sandbox, config = account(contacts), configuration(url)
    backfill(sandbox, config)
    with closing(SqlStore(url)) as store, store.transaction() as tx:
        for day in range(3):
            row = {"location_id": LOCATION, "day": NOW.date() - timedelta(days=day), "content": {"new": 5.0}}
            tx.connection.execute(insert(schema.daily_summaries), [row | {"made_at": NOW}])
        token = {"id": f"location:{LOCATION}", "user_type": "Location", "access_token": "sealed", "status": "active"}
        tx.connection.execute(insert(schema.oauth_tokens), [token | {"expires_at": NOW, "updated_at": NOW}])
        tx.save_setting("held:elsewhere", {"suspects": 12, "of": 98}, NOW)
        tx.take_lease(LOCATION, f"{socket.gethostname()}/0:1:gone", NOW, NOW)  # one that has expired
    return sandbox, config


# -- copy --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "way", ["sqlite to postgresql", "postgresql to sqlite", "sqlite to sqlite", "postgresql to postgresql"]
)
def test_a_copy_holds_everything_and_goes_on_without_fetching_again(
    typed: Typed, request: pytest.FixtureRequest, other_url: str, way: str
) -> None:
    """Every row of every table comes along, views are made, numbers go on, and the daemon asks only what is new."""
    source = request.getfixturevalue("postgres_url" if way.startswith("postgresql") else "sqlite_url")
    target = request.getfixturevalue("bare_postgres_url") if way.endswith("postgresql") else other_url
    sandbox, _ = filled(source)
    before = content(source)

    code, out, err = typed(source, "db", "copy", "--to", target)

    assert (code, err) == (0, "")
    assert "contacts: 30 rows" in out
    after = content(target)
    for table in before.keys() - NOT_COPIED:
        assert after[table] == before[table], table
    assert content(source) == before
    assert [after[table] for table in NOT_COPIED] == [[], []]
    with closing(SqlStore(target)) as store:
        with store.reading() as tx:
            assert "sync_freshness" in inspect(tx.connection).get_view_names()
        with store.transaction() as tx:
            newest = max(run.id for run in before["sync_runs"])
            assert tx.start_run(LOCATION, "contacts", "poll", NOW) == newest + 1

    sandbox.calls.clear()
    asyncio.run(ring(sandbox, configuration(target)))
    paths = [call.path for call in sandbox.calls]
    assert [path for path in paths if path.endswith(("/notes", "/appointments"))] == []
    assert len(paths) < 12, paths  # the location and its fields, a poll, a walk of tasks
    note = sandbox.create_note(sorted(sandbox.truth(LOCATION)["contacts"])[3], body="after the move")
    sandbox.update_contact(note["contactId"], city="Bern")
    poll(sandbox, configuration(target))
    assert differences(sandbox, target) == []


async def ring(sandbox: Sandbox, config: Config) -> None:
    """What the daemon does at its start."""
    async with connected(sandbox, config) as program:
        for job in jobs(program, program.locations[LOCATION], timedelta(0)):
            await job.ring()


def test_the_password_is_not_shown(typed: Typed, mirror_url: str, postgres_url: str) -> None:
    """At the end it says what to write into the configuration, with *** where the password goes."""
    with closing(SqlStore(postgres_url)) as store:
        url = store.engine.url.set(drivername="postgresql", password="open sesame")
    code, out, err = typed(mirror_url, "db", "copy", "--to", url.render_as_string(hide_password=False))
    assert code == 0
    assert "sesame" not in out + err
    assert "***" in out
    assert 'database.url = "postgresql://' in out


def test_nothing_is_overwritten(typed: Typed, mirror_url: str, postgres_url: str, other_url: str) -> None:
    """A target with a row in it is refused and left as it is; so is the source itself."""
    for target in (postgres_url, other_url):
        with closing(SqlStore(target)) as store:
            store.upgrade()
            with store.transaction() as tx:
                tx.save_location({"id": "another", "name": "Another"}, NOW)
        code, _, err = typed(mirror_url, "db", "copy", "--to", target)
        assert code == 2
        assert "is not empty: locations has rows" in err
        assert "  -> " in err
        assert [len(some) for some in content(target).values() if some] == [1]
    before = content(mirror_url)
    assert typed(mirror_url, "db", "copy", "--to", mirror_url)[0] == 2
    assert content(mirror_url) == before


def test_nothing_comes_of_nothing(typed: Typed, sqlite_url: str, other_url: str) -> None:
    """An empty source is more likely a wrong configuration: no copy is made of it."""
    code, _, err = typed(sqlite_url, "db", "copy", "--to", other_url)
    assert code == 2
    assert "nothing to copy" in err
    assert not Path(other_url.removeprefix("sqlite:///")).exists()


def test_a_copy_that_breaks_off_leaves_the_target_empty(mirror_url: str, other_url: str, postgres_url: str) -> None:
    """Whoever starts on what half a copy left begins from nothing, not from half a mirror with whole cursors."""
    for url in (other_url, postgres_url):
        with closing(SqlStore(mirror_url)) as source, closing(SqlStore(url)) as target:
            target.upgrade()
            copying = copy_store(source, target, NOW)
            assert sum(next(copying).rows for _table in schema.metadata.sorted_tables[:-3]) > 20
            copying.close()
            assert is_empty(url)
            assert sum(table.rows for table in copy_store(source, target, NOW)) > 20
        assert not is_empty(url)


def test_a_copy_that_is_not_equal_is_no_copy(mirror_url: str, other_url: str) -> None:
    """What was written is read back: one letter that changed on the way undoes the copy."""
    with closing(SqlStore(mirror_url)) as source, closing(SqlStore(other_url)) as target:
        target.upgrade()
        with target.transaction() as tx:
            change = "UPDATE contacts SET city = city || '.' WHERE id = (SELECT min(id) FROM contacts)"
            tx.connection.execute(text(f"CREATE TRIGGER spoil AFTER INSERT ON contacts BEGIN {change}; END"))
        with pytest.raises(StoreUnavailable, match="copy of contacts is not equal"):
            list(copy_store(source, target, NOW))
    assert is_empty(other_url)


def test_a_row_that_the_target_refuses_becomes_a_reject(typed: Typed, mirror_url: str, postgres_url: str) -> None:
    """SQLite takes what PostgreSQL does not: that row is among the rejects, all others are copied."""
    endless = "".join(random.Random(1).choices("abcdefghijklmnopqrstuvwxyz", k=20_000))  # beyond an index's limit
    with closing(SqlStore(mirror_url)) as store, store.transaction() as tx:
        chosen = tx.connection.execute(text("SELECT max(id) FROM contacts")).scalar_one()
        tx.connection.execute(text("UPDATE contacts SET email = :e WHERE id = :id"), {"e": endless, "id": chosen})
    code, out, _ = typed(mirror_url, "db", "copy", "--to", postgres_url)
    assert code == 0
    assert "contacts: 11 rows, 1 refused by this database" in out
    assert rows(postgres_url, "contacts").keys() == rows(mirror_url, "contacts").keys() - {chosen}
    [reject] = query(postgres_url, "SELECT external_id, stream, raw FROM sync_rejects")
    assert (reject["external_id"], reject["stream"]) == (chosen, "contacts")
    assert reject["raw"] == rows(mirror_url, "contacts")[chosen]["raw"]


def test_a_store_at_work_is_not_copied_unasked(typed: Typed, mirror_url: str, other_url: str) -> None:
    """A process that holds a lease would go on storing where nobody looks any more: refused, but for --force."""
    until = datetime.now(UTC) + timedelta(seconds=30)
    with closing(SqlStore(mirror_url)) as store, store.transaction() as tx:
        assert tx.take_lease(LOCATION, "elsewhere/0:17:aaaa", datetime.now(UTC), until)
    code, _, err = typed(mirror_url, "db", "copy", "--to", other_url)
    assert code == 2
    assert f"location {LOCATION}" in err
    assert "--force" in err
    assert typed(mirror_url, "db", "copy", "--to", other_url, "--force")[0] == 0
    assert content(other_url)["sync_leases"] == []


@pytest.mark.parametrize("url", ["mysql://db.example.com/rankr", "nonsense", "sqlite://"])
def test_a_wrong_target_is_named_as_such(typed: Typed, mirror_url: str, url: str) -> None:
    """The sentence is about --to, not about the configuration."""
    code, _, err = typed(mirror_url, "db", "copy", "--to", url)
    assert code == 2
    assert "error: --to " in err


# -- backup ------------------------------------------------------------------------------------------


def test_a_backup_is_taken_beside_a_writer_and_goes_on_when_restored(
    typed: Typed, sqlite_url: str, tmp_path: Path
) -> None:
    """What was committed is in it, what was not is not; put in the store's place, the next poll brings the rest."""
    sandbox, config = filled(sqlite_url)
    contact_id = sorted(sandbox.truth(LOCATION)["contacts"])[0]
    with closing(SqlStore(sqlite_url)) as store, store.transaction() as tx:
        tx.connection.execute(text("DELETE FROM contacts"))
        code, out, err = typed(sqlite_url, "db", "backup", "backup.db")
        assert (code, err) == (0, "")
        assert "backed up to backup.db" in out
    backup = tmp_path / "backup.db"
    assert backup.stat().st_mode & 0o777 == 0o600
    assert {file.name for file in tmp_path.iterdir()} == {"backup.db", "rankr.db"}

    sandbox.update_contact(contact_id, city="Later")
    for name in ("rankr.db", "rankr.db-wal", "rankr.db-shm"):
        (tmp_path / name).unlink(missing_ok=True)
    backup.rename(tmp_path / "rankr.db")
    sandbox.calls.clear()
    poll(sandbox, config)
    assert differences(sandbox, sqlite_url) == []
    looked_at = {call.path.split("/")[2] for call in sandbox.calls if call.path.endswith(("/notes", "/appointments"))}
    assert looked_at == {contact_id}


def test_a_backup_never_takes_the_place_of_another(typed: Typed, mirror_url: str, tmp_path: Path) -> None:
    """A file that exists stays as it is."""
    (tmp_path / "backup.db").write_text("the last backup")
    code, _, err = typed(mirror_url, "db", "backup", "backup.db")
    assert code == 2
    assert "exists already" in err
    assert (tmp_path / "backup.db").read_text() == "the last backup"


def test_a_backup_that_fails_leaves_no_file(mirror_url: str, tmp_path: Path) -> None:
    """Not to be written is an error with a sentence; nothing that looks like a backup stays."""
    with closing(SqlStore(mirror_url)) as store, pytest.raises(StoreUnavailable, match="cannot be written"):
        back_up(store, tmp_path / "missing" / "backup.db")
    with closing(SqlStore(mirror_url)) as store:
        (tmp_path / "rankr.db").write_bytes(b"\0" * 8192)
        with pytest.raises(StoreUnavailable):
            back_up(store, tmp_path / "backup.db")
    assert not [file for file in tmp_path.iterdir() if "backup" in file.name]


def test_postgresql_has_a_tool_of_its_own() -> None:
    """The exact command is told, quoted for a shell, without a password in it."""
    url = "postgresql://rankr:open-sesame@db.example.com:5433/rankr?sslmode=require"
    with closing(SqlStore(url)) as store, pytest.raises(BadConfiguration) as caught:
        back_up(store, Path("my backup.dump"))
    assert caught.value.hint == (
        "pg_dump --format=custom --file='my backup.dump' 'postgresql://rankr@db.example.com:5433/rankr?sslmode=require'"
    )
    assert "sesame" not in str(caught.value)
