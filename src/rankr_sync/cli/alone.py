"""One task or note of a contact, pulled alone: `contact ID --task T`, `--note N`."""

import asyncio

import typer

from rankr_sync.app import build, open_store
from rankr_sync.cli import common, show
from rankr_sync.config import ID, Config
from rankr_sync.engine import SPARE_REQUESTS
from rankr_sync.errors import BadConfiguration, NotFound
from rankr_sync.model import Row
from rankr_sync.store import look
from rankr_sync.streams import STREAMS

REQUESTS = 2
"""The record, and the contact's list where it is not found alone."""


def show_alone(config: Config, contact: Row, stream: str, id_: str, *, as_json: bool) -> None:
    """Pull a record of a stored contact and show it as it is stored then; a tombstone, too. Raises NotFound."""
    if not ID.fullmatch(id_):
        raise BadConfiguration("this is no id", hint=f"the ids of {stream}: rankr-sync contact {contact['id']} --json")
    location_id = contact["location_id"]

    async def pull(stop: asyncio.Event) -> bool:
        async with build(config, stop=stop, location=location_id) as app:
            async with app.leases[location_id].held_or_lent(REQUESTS + SPARE_REQUESTS):
                sync = app.locations[location_id]
                await sync.recall()
                return await sync.pull(stream, contact["id"], id_)

    there = common.run_until_done(pull)
    store = open_store(config)
    with store.reading() as tx:
        row = look.record(tx.connection, STREAMS[stream], location_id, id_)
    store.close()
    if row is None:
        raise NotFound(f"contact {contact['id']} has no such record of {stream}")
    if row["contact_id"] != contact["id"]:
        raise NotFound(
            f"this record of {stream} is of another contact",
            hint=f"rankr-sync contact {row['contact_id']} --{stream.removesuffix('s')} {id_}",
        )
    if not there:
        typer.echo("the source does not know it any more; what follows is the last that was stored", err=True)
    if as_json:
        show.as_json(row)
    else:
        show.record(stream, row)
