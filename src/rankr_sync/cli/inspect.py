"""The commands that look into the store: status, contact, rejects."""

import asyncio
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Annotated, Any

import typer

from rankr_sync.app import build, former_rows, location_id_of, open_store, stored_rules, why_gone
from rankr_sync.cli import common, show
from rankr_sync.cli.alone import show_alone
from rankr_sync.cli.common import ConfigOption, DebugOption, JsonOption, LocationOption, VerboseOption
from rankr_sync.config import ID, Config
from rankr_sync.engine import SPARE_REQUESTS
from rankr_sync.errors import BadConfiguration, NotFound
from rankr_sync.spans import ago
from rankr_sync.store import SqlStore, look
from rankr_sync.store.contacts import find_contacts
from rankr_sync.store.upkeep import retry_rejects

STATUS_HELP = (
    "Show every location and stream: rows, lag, rejects, what is due, the quota left, and how fresh it is.\n\n"
    + common.example("rankr-sync status", "rankr-sync status --json")
)
CONTACT_HELP = "Show one contact with its tags, tasks, notes and appointments.\n\n" + common.example(
    "rankr-sync contact jane@example.com",
    "rankr-sync contact mTkSCb1UBjb5tk4OvB69 --refresh --json",
    "rankr-sync contact mTkSCb1UBjb5tk4OvB69 --note 8b1cMn2vVqLbXbZ3hK0a",
)

rejects_app = common.new_app("Records that could not be mapped, or only in part, with the reason.")


def status(
    config: ConfigOption = None, as_json: JsonOption = False, verbose: VerboseOption = False, debug: DebugOption = False
) -> None:
    """Show every location and stream."""
    settings, now = common.configured(config), datetime.now(UTC)
    store = open_store(settings)
    with store.reading() as tx:
        state = look.state(tx.connection, now)
    former = {id_: former_rows(store, settings, id_) for id_ in state.location_ids}
    if as_json:
        show.as_json(status_document(store, state, now, former))
    elif state.streams:
        print(f"store {store.place}\n")
        show.status(state, now)
        for id_, rows in former.items():
            if rows:
                print(f"location {id_}: {show.former(rows)}")
    else:
        print(f"store {store.place} is empty\n  -> rankr-sync backfill")
    store.close()


def status_document(
    store: SqlStore, state: look.State, now: datetime, former: Mapping[str, Mapping[str, int]]
) -> dict[str, Any]:
    """What `status --json` prints. `former`: location to stream to the rows that a former mapping made."""
    return {
        "store": store.place,
        "at": now,
        "locations": [
            {
                "id": id_,
                "streams": [_stream(one) for one in state.streams if one.location_id == id_],
                "quota": next((_fields(quota) for quota in state.quotas if quota.location_id == id_), None),
                "held_deletions": state.held.get(id_),
                "rows_of_former_mapping": former.get(id_, {}),
            }
            for id_ in state.location_ids
        ],
    }


def _stream(one: look.StreamStatus) -> dict[str, Any]:
    fresh = one.freshness
    audit = fresh.audit if fresh is not None else None
    figures = {name: getattr(fresh, name, None) for name in look.Freshness.__slots__}
    low, high = (audit.low, audit.high) if audit is not None else (None, None)
    proven = {"current_percent_low": low, "current_percent_high": high}
    return _fields(one) | {"freshness": figures | proven if fresh is not None else None}


def _fields(one: look.StreamStatus | look.Quota) -> dict[str, Any]:
    return {key: getattr(one, key) for key in one.__slots__ if key != "location_id"}


def contact(
    wanted: Annotated[str, typer.Argument(metavar="ID", help="A contact's id, e-mail address or phone number.")],
    config: ConfigOption = None,
    location: LocationOption = None,
    refresh: Annotated[bool, typer.Option("--refresh", help="First pull the full profile from the API.")] = False,
    task: Annotated[str | None, typer.Option("--task", help="Pull this task alone, and show it.")] = None,
    note: Annotated[str | None, typer.Option("--note", help="Pull this note alone, and show it.")] = None,
    as_json: JsonOption = False,
    verbose: VerboseOption = False,
    debug: DebugOption = False,
) -> None:
    """Show one contact."""
    settings = common.configured(config, quiet=True)
    if task is not None and note is not None:
        raise BadConfiguration("--task and --note pull one record alone", hint="give one of them, or --refresh for all")
    store = open_store(settings)
    location = location_id_of(store, settings, location)
    found = _find(store, wanted, location)
    if refresh and len(found) <= 1 and (found or ID.fullmatch(wanted)):
        store.close()
        common.run_until_done(lambda stop: _refresh(settings, wanted, found, location, stop))
        store = open_store(settings)
        found = _find(store, wanted, location)
    if not found and refresh and ID.fullmatch(wanted):
        raise NotFound("no such contact, neither in the store nor at the source")
    if not found:
        raise NotFound(
            "no such contact in the store",
            hint="a contact's id can be pulled from the API: rankr-sync contact ID --refresh",
        )
    if len(found) > 1:
        ids = ", ".join(row["id"] for row in found)
        raise NotFound(f"{len(found)} contacts have this address or number", hint=f"choose one by its id: {ids}")
    for name, id_ in (("tasks", task), ("notes", note)):
        if id_ is not None:
            store.close()
            show_alone(settings, found[0], name, id_, as_json=as_json)
    if task is not None or note is not None:
        return
    with store.reading() as tx:
        view = look.unified_view(tx.connection, found[0])
    view["gone_because"] = why_gone(store, settings, found[0])
    store.close()
    if as_json:
        show.as_json(view)
    else:
        show.contact(view, datetime.now(UTC))


def _find(store: SqlStore, wanted: str, location: str | None) -> list[dict[str, Any]]:
    with store.reading() as tx:
        return find_contacts(tx.connection, wanted, location)


async def _refresh(
    config: Config, wanted: str, found: list[dict[str, Any]], location: str | None, stop: asyncio.Event
) -> None:
    where = found[0]["location_id"] if len(found) == 1 else location
    async with build(config, stop=stop, location=where) as app:
        for id_, sync in app.locations.items():
            async with app.leases[id_].held_or_lent(sync.refresh_requests + SPARE_REQUESTS):
                await sync.recall()
                if await sync.refresh(found[0]["id"] if found else wanted):
                    return
    if found:
        typer.echo("the source does not know this contact any more; what follows is the last that was stored", err=True)


@rejects_app.command("list", help="List them, the newest first.\n\n" + common.example("rankr-sync rejects list --json"))
def list_rejects(
    config: ConfigOption = None,
    location: LocationOption = None,
    stream: Annotated[str | None, typer.Option("--stream", help="Only this stream.")] = None,
    as_json: JsonOption = False,
    verbose: VerboseOption = False,
    debug: DebugOption = False,
) -> None:
    """List them."""
    settings, now = common.configured(config), datetime.now(UTC)
    store = open_store(settings)
    chosen = location_id_of(store, settings, location)
    with store.reading() as tx:
        found = look.rejects(tx.connection, chosen, stream)
    store.close()
    if as_json:
        show.as_json(found)
    elif found:
        rows = [
            (str(r["id"]), r["stream"], r["external_id"] or "-", ago(r["last_seen_at"], now), r["reason"])
            for r in found
        ]
        show.table("", ("id", "stream", "record", "last seen", "reason"), rows, right=(0,))
    else:
        print("no rejects")


@rejects_app.command(
    "show", help="Show one with its payload (personal data!).\n\n" + common.example("rankr-sync rejects show 3")
)
def show_reject(
    reject_id: Annotated[int, typer.Argument(metavar="ID")],
    config: ConfigOption = None,
    verbose: VerboseOption = False,
    debug: DebugOption = False,
) -> None:
    """Show one with its payload."""
    store = open_store(common.configured(config))
    with store.reading() as tx:
        found = look.reject(tx.connection, reject_id)
    store.close()
    if found is None:
        raise NotFound(f"there is no reject {reject_id}", hint="rankr-sync rejects list")
    show.as_json({key: value for key, value in found.items() if key != "reject_key"})


@rejects_app.command(
    "retry",
    help="Map them again from their kept payloads, after a change of mapping or of the program.\n\n"
    + common.example("rankr-sync rejects retry", "rankr-sync rejects retry 3"),
)
def retry(
    reject_id: Annotated[int | None, typer.Argument(metavar="[ID]")] = None,
    config: ConfigOption = None,
    verbose: VerboseOption = False,
    debug: DebugOption = False,
) -> None:
    """Map them again."""
    settings = common.configured(config)
    store = open_store(settings)
    tried, settled = retry_rejects(store, lambda id_: stored_rules(store, settings, id_), datetime.now(UTC), reject_id)
    store.close()
    if reject_id is not None and not tried:
        raise NotFound(f"there is no reject {reject_id}", hint="rankr-sync rejects list")
    print(f"{tried} tried, {settled} mapped, {tried - settled} still rejected")
