"""The commands about the database: upgrade, current, purge, backup, copy."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from rankr_sync.cli import common
from rankr_sync.cli.common import ConfigOption, DebugOption, VerboseOption
from rankr_sync.engine.lease import is_dead
from rankr_sync.errors import BadConfiguration, Stop
from rankr_sync.store import SqlStore, look
from rankr_sync.store.backup import back_up
from rankr_sync.store.copy import copy_store
from rankr_sync.store.migrate import newest_revision
from rankr_sync.store.upkeep import purge as purge_store

app = common.new_app("The store's schema and its upkeep.")


@app.command(
    help="Bring the schema to this release (every start does this).\n\n" + common.example("rankr-sync db upgrade")
)
def upgrade(config: ConfigOption = None, verbose: VerboseOption = False, debug: DebugOption = False) -> None:
    """Bring the schema to this release."""
    settings = common.configured(config)
    store = SqlStore(settings.database.url)
    before, after = store.upgrade()
    store.make_views(settings.mapping, datetime.now(UTC))
    print(f"{store.place}: schema {after}" + ("" if before == after else f" (was {before or 'empty'})"))
    store.close()


@app.command(help="Show the schema of the store and of this release.\n\n" + common.example("rankr-sync db current"))
def current(config: ConfigOption = None, verbose: VerboseOption = False, debug: DebugOption = False) -> None:
    """Show the schema of the store and of this release."""
    store = SqlStore(common.configured(config).database.url)
    print(f"{store.place}: schema {store.revision() or 'empty'}, this release writes {newest_revision()}")
    store.close()


@app.command(
    help="Remove tombstones and records of runs that are older than their retention (the daemon does this daily).\n\n"
    + common.example("rankr-sync db purge")
)
def purge(config: ConfigOption = None, verbose: VerboseOption = False, debug: DebugOption = False) -> None:
    """Remove what is past its retention."""
    settings = common.configured(config)
    store = SqlStore(settings.database.url)
    store.upgrade()
    removed = purge_store(store, settings.retention.deleted, settings.retention.runs, datetime.now(UTC))
    store.make_views(settings.mapping, datetime.now(UTC))
    print(", ".join(f"{rows:,} rows of {table}" for table, rows in removed.items() if rows) or "nothing to remove")
    store.close()


@app.command(
    help="Write the SQLite store to a new file, as it is at one moment, while others may write to it.\n\n"
    + common.example("rankr-sync db backup rankr-backup.db")
)
def backup(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A file that does not exist yet.")],
    config: ConfigOption = None,
    verbose: VerboseOption = False,
    debug: DebugOption = False,
) -> None:
    """Write the SQLite store to a new file."""
    store = SqlStore(common.configured(config).database.url)
    size = back_up(store, file)
    print(f"{store.place}: backed up to {file}, {size / 1e6:,.1f} MB")
    store.close()


@app.command(
    help="Move to another database: copy everything into one that is empty, compare it, and say what to change.\n\n"
    + common.example(
        "rankr-sync db copy --to postgresql://rankr@db.example.com/rankr",
        "PGPASSWORD=... rankr-sync db copy --to postgresql://rankr@db.example.com/rankr",
    )
)
def copy(
    to: Annotated[str, typer.Option("--to", metavar="URL", help="The database to copy to; it must be empty.")],
    force: Annotated[
        bool, typer.Option("--force", help="Beside a running daemon too: what it stores from now on is not copied.")
    ] = False,
    config: ConfigOption = None,
    verbose: VerboseOption = False,
    debug: DebugOption = False,
) -> None:
    """Copy everything into an empty database."""
    settings = common.configured(config)
    source = SqlStore(settings.database.url)
    if source.revision() is None:
        raise BadConfiguration(
            f"there is nothing to copy: {source.place} is empty", hint="name the store that you have: --config FILE"
        )
    source.upgrade()
    if not force:
        _check_nobody_works_on(source)
    target = _target(to)
    target.upgrade()
    rows = 0
    for table in copy_store(source, target, datetime.now(UTC)):
        rows += table.rows
        refused = f", {table.refused:,} refused by this database: rankr-sync rejects list" if table.refused else ""
        if table.rows or refused:
            print(f"{table.table}: {table.rows:,} rows{refused}")
    target.make_views(settings.mapping, datetime.now(UTC))
    print(f"copied {source.place} to {target.place}: {rows:,} rows, read back and compared")
    password = " (*** is your password)" if "***" in target.place else ""
    print(f'to go on there, set database.url = "{target.place}"{password}, then: rankr-sync run')
    source.close()
    target.close()


def _check_nobody_works_on(store: SqlStore) -> None:
    with store.reading() as tx:
        holders = look.holders(tx.connection, datetime.now(UTC))
    for location_id, holder in holders.items():
        if not is_dead(holder):
            raise Stop(
                f"a process works on location {location_id} of this store: {holder}",
                hint="end it (kill -TERM), or add --force: what it stores from now on is not copied",
            )


def _target(url: str) -> SqlStore:
    try:
        return SqlStore(url)
    except BadConfiguration as error:
        raise BadConfiguration(error.message.replace("database.url", "--to"), hint=error.hint) from None
