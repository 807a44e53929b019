"""The command `contacts`: stored contacts by words, tag and business; a business can be read anew first."""

import asyncio
from typing import Annotated

import typer
from sqlalchemy import Connection

from rankr_sync.app import build, chosen_locations, location_id_of, open_store
from rankr_sync.cli import common, show
from rankr_sync.cli.common import ConfigOption, DebugOption, JsonOption, LocationOption, VerboseOption
from rankr_sync.config import ID, Config
from rankr_sync.engine import SPARE_REQUESTS
from rankr_sync.errors import BadConfiguration
from rankr_sync.model import Row
from rankr_sync.store.contacts import Wanted, list_contacts
from rankr_sync.store.upkeep import stored_locations

PAGE = 500

CONTACTS_HELP = (
    "List stored contacts: by the beginning of a name, e-mail address or phone number, by tag, by business.\n\n"
    + common.example(
        "rankr-sync contacts --query jane",
        "rankr-sync contacts --tag vip --limit 20 --json",
        "rankr-sync contacts --business 66f0a1b2c3d4e5f601234567 --refresh",
    )
)


def contacts(
    config: ConfigOption = None,
    location: LocationOption = None,
    query: Annotated[str, typer.Option("--query", help="How a name, e-mail address or phone number begins.")] = "",
    tag: Annotated[str | None, typer.Option("--tag", help="Only contacts with this tag.")] = None,
    business: Annotated[
        str | None, typer.Option("--business", help="Only contacts of this business, by its id.")
    ] = None,
    limit: Annotated[int, typer.Option("--limit", min=1, max=10_000, help="How many to list.")] = 50,
    refresh: Annotated[
        bool, typer.Option("--refresh", help="With --business: first read its contacts from the API.")
    ] = False,
    as_json: JsonOption = False,
    verbose: VerboseOption = False,
    debug: DebugOption = False,
) -> None:
    """List stored contacts."""
    settings = common.configured(config, quiet=True)
    if refresh and business is None:
        raise BadConfiguration("--refresh needs a business", hint="rankr-sync contacts --business ID --refresh")
    if business is not None and not ID.fullmatch(business):
        raise BadConfiguration("this is no id of a business", hint="ids: SELECT DISTINCT business_id FROM contacts")
    if refresh and business is not None:
        _read_business(settings, location, business)
    found: list[Row] = []
    wanted, store = Wanted(query, tag, business), open_store(settings)
    for id_ in [chosen] if (chosen := location_id_of(store, settings, location)) else stored_locations(store):
        with store.reading() as tx:
            found += _living(tx.connection, id_, wanted, limit - len(found))
    store.close()
    if as_json:
        show.as_json(found)
    elif found:
        names = ("id", "name", "email", "phone", "company_name")
        show.table("", names, [[str(row[name] or "-") for name in names] for row in found])
    else:
        print("no such contact in the store")


def _living(connection: Connection, location_id: str, wanted: Wanted, limit: int) -> list[Row]:
    found: list[Row] = []
    after: str | None = None
    while len(found) < limit:
        rows = list_contacts(connection, location_id, wanted, limit=PAGE, after=after)
        found += [row for row in rows if row["deleted_at"] is None]
        if len(rows) < PAGE:
            break
        after = rows[-1]["id"]
    return found[:limit]


def _read_business(config: Config, location: str | None, business: str) -> None:
    """A business belongs to one location: where there are several, each is asked that a person has not excluded."""
    ids = [one.id for one in chosen_locations(config, location)]

    async def read(stop: asyncio.Event) -> int:
        count = 0
        async with build(config, stop=stop, location=location) as app:
            for id_ in ids:
                async with app.leases[id_].held_or_lent(1 + SPARE_REQUESTS):
                    await app.locations[id_].recall()
                    count += await app.locations[id_].pull_business(business)
        return count

    count = common.run_until_done(read)
    typer.echo(f"{count:,} contacts of the business were read", err=True)
