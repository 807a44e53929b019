"""The commands about field mapping: preview and apply."""

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer
from sqlalchemy import select

from rankr_sync.app import engine_settings, location_id_of, open_store
from rankr_sync.cli import common, show
from rankr_sync.cli.common import ConfigOption, DebugOption, JsonOption, LocationOption
from rankr_sync.config import Config, Location
from rankr_sync.engine.context import compile_rules
from rankr_sync.errors import BadConfiguration, NotFound
from rankr_sync.mapping import MappedField
from rankr_sync.model import JsonObject, LocationFacts
from rankr_sync.plan import Rules
from rankr_sync.store import SqlStore
from rankr_sync.store.upkeep import remap, stored_locations
from rankr_sync.streams import STREAMS, Stream

app = common.new_app("How fields of the API become columns of the store.")


def stored_facts(store: SqlStore, config: Config, location_id: str) -> LocationFacts:
    """What is known of a location without asking the API."""
    with store.reading() as tx:
        facts = tx.facts(location_id) or LocationFacts(location_id)
    zone = next((one.timezone for one in config.locations if one.id == location_id and one.timezone), None)
    return LocationFacts(facts.id, zone or facts.timezone, facts.country, facts.custom_fields)


def stored_rules(store: SqlStore, config: Config, location_id: str) -> Mapping[str, Rules]:
    """The compiled mapping of a location without asking the API."""
    location = next((one for one in config.locations if one.id == location_id), Location(id=location_id))
    return compile_rules(stored_facts(store, config, location_id), engine_settings(config, location))


@app.command(
    help="Show each target with its source and the value it would get, problems marked; writes nothing.\n\n"
    + common.example(
        "rankr-sync mapping preview",
        "rankr-sync mapping preview --contact mTkSCb1UBjb5tk4OvB69",
        "rankr-sync mapping preview --stream tasks --sample task.json",
    )
)
def preview(
    config: ConfigOption = None,
    location: LocationOption = None,
    contact: Annotated[str | None, typer.Option("--contact", help="A stored contact, by id.")] = None,
    sample: Annotated[
        Path | None, typer.Option("--sample", help="A JSON file: a record as the API sends it, or a whole answer.")
    ] = None,
    stream: Annotated[str, typer.Option("--stream", help=f"Which entity: {', '.join(STREAMS)}.")] = "contacts",
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Show what the mapping makes of a record."""
    settings = common.configured(config)
    if stream not in STREAMS:
        raise BadConfiguration(f"there is no stream {stream!r}", hint=f"use one of: {', '.join(STREAMS)}")
    store = open_store(settings)
    location_id, raw = _record(store, STREAMS[stream], location_id_of(settings, location), contact, sample)
    facts = stored_facts(store, settings, location_id)
    store.close()
    one = STREAMS[stream]
    fields = {**raw, **one.normalise(raw, facts)}
    found = one.mapping(settings.mapping.get(stream, {}), facts).preview(fields)
    if as_json:
        show.as_json([{name: getattr(field, name) for name in field.__slots__} for field in found])
        return
    rows = [(field.origin, field.target, _cell(field)) for field in found]
    show.table(f"{stream}: source, target, value", ("source", "target", "value"), rows)
    if any(field.problem for field in found):
        print("\nfields marked with ! could not be read; the record would be kept without them")


def _cell(field: MappedField) -> str:
    if field.problem:
        return f"! {field.problem}"
    return "-" if field.value is None else " ".join(str(field.value).split())[:80]


def _record(
    store: SqlStore, stream: Stream, location: str | None, contact: str | None, sample: Path | None
) -> tuple[str, JsonObject]:
    if sample is not None:
        return location or "sample", _sample(sample)
    table = stream.table
    query = select(table.c.location_id, table.c.raw).where(table.c.deleted_at.is_(None))
    if location is not None:
        query = query.where(table.c.location_id == location)
    if contact is not None:
        query = query.where((table.c.id if stream.owner else table.c.contact_id) == contact)
    with store.reading() as tx:
        row = tx.connection.execute(query.order_by(table.c.id).limit(1)).first()
    if row is None:
        raise NotFound(
            f"no stored record of {stream.name} to show", hint="run: rankr-sync backfill, or give --sample FILE"
        )
    return row.location_id, row.raw


def _sample(file: Path) -> JsonObject:
    try:
        found: Any = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BadConfiguration(f"the sample {file} cannot be read as JSON: {error}") from None
    if isinstance(found, dict) and "id" not in found:
        # A whole answer: take the record out of its envelope.
        found = next((value for value in found.values() if isinstance(value, (dict, list)) and value), found)
    if isinstance(found, list) and found:
        found = found[0]
    if not isinstance(found, dict):
        raise BadConfiguration(f"the sample {file} holds no record", hint="put one JSON object into it")
    return found


@app.command(
    help="Map every stored record again from its kept payload, without one API request. Can be stopped and run"
    " again, beside a running daemon.\n\n" + common.example("rankr-sync mapping apply")
)
def apply(config: ConfigOption = None, location: LocationOption = None, debug: DebugOption = False) -> None:
    """Map everything again."""
    settings = common.configured(config)
    store = open_store(settings)
    chosen = location_id_of(settings, location)
    for location_id in [chosen] if chosen else stored_locations(store):
        counts = {name: [0, 0] for name in STREAMS}
        for name, read, changed in remap(
            store, location_id, stored_rules(store, settings, location_id), datetime.now(UTC)
        ):
            counts[name][0] += read
            counts[name][1] += changed
        for name, (read, changed) in counts.items():
            print(f"{location_id} {name}: {read:,} read, {changed:,} changed")
    store.close()
