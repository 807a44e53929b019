"""Records to try a mapping on: stored ones, a live one, or those of a file."""

import asyncio
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import select

from rankr_sync.app import build
from rankr_sync.cli import common
from rankr_sync.config import Config
from rankr_sync.engine import SPARE_REQUESTS
from rankr_sync.errors import BadConfiguration, NotFound
from rankr_sync.model import JsonObject
from rankr_sync.store import SqlStore
from rankr_sync.streams import Stream

DRAWN = 100
"""So many stored records are looked through for fields that none of them has."""

_IDS = ("id", "_id")


@dataclass(frozen=True, slots=True)
class Samples:
    """Payloads of one stream, and the location whose facts they are read with."""

    location_id: str
    payloads: list[JsonObject]


def stored(store: SqlStore, stream: Stream, location: str | None, contact: str | None) -> Samples:
    """Stored records of a contact, or some of any: the ids are random, so the first are a draw. Raises NotFound."""
    table = stream.table
    query = select(table.c.location_id, table.c.raw).where(table.c.deleted_at.is_(None))
    if location is not None:
        query = query.where(table.c.location_id == location)
    if contact is not None:
        query = query.where((table.c.id if stream.owner else table.c.contact_id) == contact)
    with store.reading() as tx:
        rows = tx.connection.execute(query.order_by(table.c.location_id, table.c.id).limit(DRAWN)).all()
    if not rows:
        raise NotFound(
            f"no stored record of {stream.name} to show",
            hint="run: rankr-sync backfill, or give --sample FILE, or --contact ID --live",
        )
    return Samples(rows[0].location_id, [row.raw for row in rows if row.location_id == rows[0].location_id])


def live(config: Config, stream: Stream, location: str | None, contact: str) -> Samples:
    """What the API sends of a contact now; nothing of it is stored. Raises NotFound, and what the API refuses."""
    lookup = stream.lookup
    assert lookup is not None, stream.name

    async def ask(stop: asyncio.Event) -> Samples:
        missing: NotFound | None = None
        async with build(config, stop=stop, location=location) as app:
            for id_, sync in app.locations.items():
                async with app.leases[id_].held_or_lent(1 + SPARE_REQUESTS):
                    await sync.recall()
                    try:
                        page = await sync.look_up(stream, contact)
                    except NotFound as error:
                        missing = error
                        continue
                    return Samples(id_, [record.raw for record in page.records])
        raise missing or NotFound(f"no location knows the contact {contact}")

    return common.run_until_done(ask)


def of_file(file: Path, location: str | None) -> Samples:
    """The records of a JSON file: one, a list of them, or an answer of the API. Raises BadConfiguration."""
    try:
        found: Any = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BadConfiguration(f"the sample {file} cannot be read as JSON: {error}") from None
    payloads = _records(found)
    if not payloads:
        raise BadConfiguration(f"the sample {file} holds no record", hint="put one JSON object into it")
    return Samples(location or "sample", payloads)


def _records(found: Any) -> list[JsonObject]:
    if isinstance(found, list):
        return [one for one in found if isinstance(one, dict)]
    if not isinstance(found, dict):
        return []
    if not any(key in found for key in _IDS):
        # A whole answer: take what it holds out of its envelope, a list before a single record.
        inner = sorted(found.values(), key=lambda value: not isinstance(value, list))
        return next(
            (records for value in inner if isinstance(value, (dict, list)) and (records := _records(value))), [found]
        )
    return [found]


def name_of(payload: JsonObject) -> str:
    """The id of a record, as far as it has one."""
    return next((str(payload[key]) for key in _IDS if payload.get(key)), "without id")
