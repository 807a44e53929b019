"""A dry run: it says what the real thing would write, and writes nothing, on both databases."""

import asyncio
import contextlib
import hashlib
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from sqlalchemy import inspect, select

from mirror import LOCATION, account, backfill, configuration, connected, query, rows
from rankr_sync import schema
from rankr_sync.app import App
from rankr_sync.cli.dry_run import Outcome, outcomes, show_outcome
from rankr_sync.config import Config
from rankr_sync.daemon import one_tick
from rankr_sync.errors import BadConfiguration, SchemaTooNew, StoreUnavailable
from rankr_sync.sandbox import Sandbox
from rankr_sync.store import SqlStore, migrate
from rankr_sync.store.scratch import ScratchStore, scratch_copy
from rankr_sync.streams import STREAMS

NOW = datetime(2026, 11, 28, tzinfo=UTC)


def content(database_url: str) -> Any:
    """Everything that a store holds: its files byte for byte, or every row of every table with its hidden numbers."""
    if database_url.startswith("sqlite"):
        file = Path(database_url.removeprefix("sqlite:///"))
        return {part.name: hashlib.sha256(part.read_bytes()).hexdigest() for part in file.parent.glob("*.db*")}
    with contextlib.closing(SqlStore(database_url)) as store, store.reading() as tx:
        names = inspect(tx.connection).get_table_names()
        return {name: sorted(map(repr, query(database_url, f"SELECT xmin::text, * FROM {name}"))) for name in names}


def dry(sandbox: Sandbox, config: Config, work: Any) -> list[Outcome]:
    """What a dry run of this work says."""

    async def main() -> list[Outcome]:
        async with connected(sandbox, config, dry_run=True) as app:
            await work(app)
            return await outcomes(app, datetime.now(UTC), daemon=True)

    return asyncio.run(main())


async def whole(app: App) -> None:
    """What `backfill` does."""
    sync = app.locations[LOCATION]
    async with app.leases[LOCATION].held():
        await sync.learn()
        await sync.backfill(app.config.streams)


def counts(one: Outcome) -> dict[str, tuple[int, int, int, int]]:
    """Stream to records inserted, updated, tombstoned and rejected."""
    kinds = ("insert", "update", "tombstone", "reject")
    return {name: tuple(getattr(found, kind).records for kind in kinds) for name, found in one.written.items()}  # type: ignore[misc]


def test_of_a_store_that_is_not_there(bare_database_url: str, tmp_path: Path) -> None:
    """Everything would be inserted; no file, no table appears."""
    sandbox = account(10)
    [one] = dry(sandbox, configuration(bare_database_url), whole)
    truth = sandbox.truth()
    assert {name: found[0] for name, found in counts(one).items()} == {name: len(truth[name]) for name in truth}
    assert one.spent == sandbox.requests
    assert list(tmp_path.iterdir()) == []
    if bare_database_url.startswith("postgresql"):
        assert content(bare_database_url) == {}


def test_it_says_what_the_real_thing_writes(database_url: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Inserts, updates, tombstones and rejects are those of the backfill that follows; the store is as it was."""
    sandbox, config = account(12), configuration(database_url, deletions={"brake": 100})
    backfill(sandbox, config)
    ids = sorted(sandbox.truth()["contacts"])
    made = sandbox.create_contact(firstName="New")["id"]
    note = sandbox.create_note(made, body="a note")["id"]
    sandbox.update_contact(ids[0], companyName="Other")
    sandbox.delete_contact(ids[1])
    sandbox.corrupt("contacts", ids[2], lambda one: {**one, "dateOfBirth": "not a day", "companyName": "New too"})
    before = content(database_url)
    gone = {
        name: {id_ for id_, row in rows(database_url, name).items() if row.get("contact_id") == ids[1]}
        for name in ("tasks", "notes", "appointments")
    }
    [one] = dry(sandbox, config, whole)
    assert content(database_url) == before
    expected = {name: (0, 0, len(gone[name]), 0) for name in gone}
    expected["contacts"] = (1, 2, 1, 1)
    expected["notes"] = (1, 0, len(gone["notes"]), 0)
    assert {name: counts(one).get(name, (0, 0, 0, 0)) for name in expected} == expected
    assert one.written["contacts"].insert.examples == [made]
    assert one.written["notes"].insert.examples == [note]
    assert one.written["contacts"].tombstone.examples == [ids[1]]
    show_outcome(one)
    said = capsys.readouterr().out
    assert re.search(r"^contacts +\d+ +12 +1 +2 +1 +1$", said, flags=re.MULTILINE)
    assert f"insert of contacts: {made}\n" in said
    assert "nothing was written" in said
    backfill(sandbox, config)
    told = query(
        database_url, "SELECT stream, sum(inserted) AS i, sum(updated) AS u FROM sync_runs WHERE id > 4 GROUP BY stream"
    )
    assert {row["stream"]: (int(row["i"]), int(row["u"])) for row in told} == {
        name: counts(one).get(name, (0, 0, 0, 0))[:2] for name in config.streams
    }


def test_one_tick_of_the_daemon(database_url: str) -> None:
    """What is due is done once: a poll that finds the change, a walk of tasks; then it says what is due when."""
    sandbox, config = account(10), configuration(database_url, schedule={"poll": "0.01s", "walk": "1h"})
    backfill(sandbox, config)
    id_ = sorted(sandbox.truth()["contacts"])[0]
    sandbox.update_contact(id_, companyName="Other")
    before = content(database_url)
    [one] = dry(sandbox, config, one_tick)
    assert content(database_url) == before
    assert counts(one)["contacts"][1] == 1
    assert one.written["contacts"].update.examples == [id_]
    due = dict(one.due)
    assert due["contacts sweep"] == "in 24 h"
    assert due["tasks walk"] in ("in 60 min", "in 59 min")
    assert due["contacts poll"].endswith(" s ago") or due["contacts poll"] == "in 0 s"
    assert "notes visits" in due


def test_one_location_that_fails_does_not_stop_the_tick(sqlite_url: str) -> None:
    """Its error is told, after what was found."""
    sandbox, config = account(5), configuration(sqlite_url, api={"attempts": 1})
    sandbox.grant("pit-sandbox-00001", [LOCATION], ["locations.readonly"])

    async def main() -> dict[str, Any]:
        async with connected(sandbox, config, dry_run=True) as app:
            return dict(await one_tick(app))

    assert "contacts.readonly" in str(asyncio.run(main())[LOCATION])


def test_the_copy_is_whole(database_url: str) -> None:
    """Every row of every table that a dry run reads; where rows are copied, only those of the chosen locations."""
    backfill(account(120), configuration(database_url, streams=("contacts",)))
    with (
        contextlib.closing(SqlStore(database_url)) as store,
        scratch_copy(database_url, [LOCATION], {}, lambda: NOW) as copy,
    ):
        for table in (
            schema.contacts,
            schema.child_visits,
            schema.sync_cursors,
            schema.custom_fields,
            schema.api_usage,
        ):
            with store.reading() as old, copy.reading() as new:
                before, after = ({repr(row) for row in tx.connection.execute(select(table))} for tx in (old, new))
            assert before == after, table.name
    with scratch_copy(database_url, ["another"], {}, lambda: NOW) as copy, copy.reading() as tx:
        copied = tx.connection.execute(select(schema.contacts)).all()
        assert len(copied) == (120 if database_url.startswith("sqlite") else 0)


def test_who_is_at_work_does_not_hold_the_copy(database_url: str) -> None:
    """A daemon beside it keeps its lease; the dry run begins at once, with a few requests at a time."""
    sandbox, config = account(5), configuration(database_url, api={"rate_limit": "100/10s"})
    backfill(sandbox, config)
    now = datetime.now(UTC)
    with contextlib.closing(SqlStore(database_url)) as store, store.transaction() as tx:
        tx.take_lease(LOCATION, "elsewhere:7:x", now, now + timedelta(minutes=5))
    before = content(database_url)

    async def main() -> None:
        async with connected(sandbox, config, dry_run=True) as app:
            assert isinstance(app.store, ScratchStore)
            assert app.store.at_work == {LOCATION: "elsewhere:7:x"}
            assert app.sources[LOCATION].pacer.budget.used(0.0) == 95
            assert await app.leases[LOCATION].take()

    asyncio.run(main())
    assert content(database_url) == before


def test_an_interrupted_transaction_is_not_noted(tmp_path: Path) -> None:
    """What was undone would not have been written."""
    with contextlib.closing(ScratchStore(f"sqlite:///{tmp_path}/x.db", {})) as scratch:
        scratch.upgrade()
        with contextlib.suppress(ZeroDivisionError), scratch.transaction() as tx:
            tx.tombstone(STREAMS["notes"], LOCATION, ["a"], NOW)
            assert 1 / 0
        assert scratch.written == {}


def test_what_cannot_be_copied_is_told(bare_database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A store of a newer release, a schema that would have to be migrated, a file that is no database, no room."""

    def copied() -> None:
        with scratch_copy(bare_database_url, [LOCATION], {}, lambda: NOW):
            pass

    with contextlib.closing(SqlStore(bare_database_url)) as store:
        migrate.upgrade(store.engine, "0002")
    sqlite = bare_database_url.startswith("sqlite")
    before = content(bare_database_url)
    with contextlib.nullcontext() if sqlite else pytest.raises(BadConfiguration, match="0002"):
        copied()  # a file is copied, and the copy migrated
    assert content(bare_database_url) == before
    with contextlib.closing(SqlStore(bare_database_url)) as store, store.transaction() as tx:
        tx.connection.exec_driver_sql("UPDATE alembic_version SET version_num = '9999'")
    with pytest.raises(SchemaTooNew):
        copied()
    if sqlite:
        with monkeypatch.context() as patched:
            patched.setattr("shutil.disk_usage", lambda folder: SimpleNamespace(free=0))
            with pytest.raises(BadConfiguration, match="needs a copy"):
                copied()
        (tmp_path / "rankr.db").write_text("important notes " * 200)
        with pytest.raises(StoreUnavailable):
            copied()
        assert (tmp_path / "rankr.db").read_text() == "important notes " * 200
