"""The commands about the database: upgrade, current, purge."""

from datetime import UTC, datetime

from rankr_sync.cli import common
from rankr_sync.cli.common import ConfigOption, DebugOption
from rankr_sync.store import SqlStore
from rankr_sync.store.migrate import newest_revision
from rankr_sync.store.upkeep import purge as purge_store

app = common.new_app("The store's schema and its upkeep.")


@app.command(
    help="Bring the schema to this release (every start does this).\n\n" + common.example("rankr-sync db upgrade")
)
def upgrade(config: ConfigOption = None, debug: DebugOption = False) -> None:
    """Bring the schema to this release."""
    settings = common.configured(config)
    store = SqlStore(settings.database.url)
    before, after = store.upgrade()
    store.make_views(settings.mapping, datetime.now(UTC))
    print(f"{store.place}: schema {after}" + ("" if before == after else f" (was {before or 'empty'})"))
    store.close()


@app.command(help="Show the schema of the store and of this release.\n\n" + common.example("rankr-sync db current"))
def current(config: ConfigOption = None, debug: DebugOption = False) -> None:
    """Show the schema of the store and of this release."""
    store = SqlStore(common.configured(config).database.url)
    print(f"{store.place}: schema {store.revision() or 'empty'}, this release writes {newest_revision()}")
    store.close()


@app.command(
    help="Remove tombstones and records of runs that are older than their retention (the daemon does this daily).\n\n"
    + common.example("rankr-sync db purge")
)
def purge(config: ConfigOption = None, debug: DebugOption = False) -> None:
    """Remove what is past its retention."""
    settings = common.configured(config)
    store = SqlStore(settings.database.url)
    store.upgrade()
    removed = purge_store(store, settings.retention.deleted, settings.retention.runs, datetime.now(UTC))
    store.make_views(settings.mapping, datetime.now(UTC))
    print(", ".join(f"{rows:,} rows of {table}" for table, rows in removed.items() if rows) or "nothing to remove")
    store.close()
