"""Fakes and comparisons for tests of the whole: an account in memory behind the real client, and what a mirror of
it must hold. The account is the sandbox; nothing of our own code is mocked.
"""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from typing import Any

import httpx
from pydantic import SecretStr
from sqlalchemy import select, text

from rankr_sync.app import App, build
from rankr_sync.config import Api, Config, Database, Location, Schedule
from rankr_sync.engine import LocationSync
from rankr_sync.sandbox import DEFAULT_LOCATION_ID, DEFAULT_TOKEN, Sandbox, SandboxOptions, create_app
from rankr_sync.store import SqlStore
from rankr_sync.streams import STREAMS

LOCATION = DEFAULT_LOCATION_ID


def account(contacts: int = 120, **options: Any) -> Sandbox:
    """An account without limits; `options` are the sandbox's own."""
    return Sandbox(SandboxOptions(contacts=contacts, **{"rate_limit": None, **options}))


def configuration(database_url: str, **changes: Any) -> Config:
    """A configuration for the account, without a rate limit of our own."""
    api = {"token": SecretStr(DEFAULT_TOKEN), "base_url": "http://localhost", "rate_limit": "none", "retry_for": 20}
    return Config(
        api=Api(**(api | changes.pop("api", {}))),
        locations=changes.pop("locations", (Location(id=LOCATION),)),
        database=Database(url=database_url),
        schedule=Schedule(**changes.pop("schedule", {})),
        **changes,
    )


@contextlib.asynccontextmanager
async def connected(
    sandbox: Sandbox,
    config: Config,
    *,
    stop: asyncio.Event | None = None,
    transport: httpx.AsyncBaseTransport | None = None,
    **options: Any,
) -> AsyncIterator[App]:
    """The whole program over the account, in this process, through real httpx and a real store."""
    client = httpx.AsyncClient(transport=transport or httpx.ASGITransport(create_app(sandbox)))
    async with build(config, client=client, stop=stop, **options) as app:
        yield app


@contextlib.asynccontextmanager
async def syncing(sandbox: Sandbox, config: Config, **options: Any) -> AsyncIterator[LocationSync]:
    """The engine of the account's first location, with its mapping compiled."""
    async with connected(sandbox, config, **options) as app:
        sync = app.locations[LOCATION]
        await sync.learn()
        yield sync


def backfill(sandbox: Sandbox, config: Config, **options: Any) -> None:
    """One full copy."""
    run(sandbox, config, lambda sync: sync.backfill(config.streams), **options)


def poll(sandbox: Sandbox, config: Config) -> None:
    """One round of what the daemon does: contacts' delta, task walk, due visits."""

    async def work(sync: LocationSync) -> None:
        assert await sync.poll("contacts")
        if "tasks" not in sync.context.visited_streams():
            await sync.full_pass("tasks", "poll")
        await sync.visit_due()

    run(sandbox, config, work)


def run(sandbox: Sandbox, config: Config, work: Callable[[LocationSync], Any], **options: Any) -> Any:
    """Run asynchronous work on the first location."""

    async def connect() -> Any:
        async with syncing(sandbox, config, **options) as sync:
            return await work(sync)

    return asyncio.run(connect())


def rows(database_url: str, stream: str, *, deleted: bool = False) -> dict[str, dict[str, Any]]:
    """The living rows of a stream by id (or the tombstones)."""
    table = STREAMS[stream].table
    with contextlib.closing(SqlStore(database_url)) as store, store.reading() as tx:
        living = table.c.deleted_at.is_not(None) if deleted else table.c.deleted_at.is_(None)
        return {row["id"]: dict(row) for row in tx.connection.execute(select(table).where(living)).mappings()}


def query(database_url: str, sql: str) -> list[dict[str, Any]]:
    """The rows of a plain SQL query."""
    with contextlib.closing(SqlStore(database_url)) as store, store.reading() as tx:
        literal = text(sql.replace(":", r"\:"))  # neither ':' nor '%' in it is a parameter
        return [dict(row) for row in tx.connection.execute(literal).mappings()]


def differences(sandbox: Sandbox, database_url: str, location: str = LOCATION) -> list[str]:
    """What the mirror holds other than the account, row for row; [] when they are equal."""
    truth = sandbox.truth(location)
    found: list[str] = []
    for stream, expect in EXPECTED.items():
        mirror = {id_: row for id_, row in rows(database_url, stream).items() if row["location_id"] == location}
        found += [f"{stream} {id_} is missing" for id_ in truth[stream].keys() - mirror.keys()]
        found += [f"{stream} {id_} does not exist at the source" for id_ in mirror.keys() - truth[stream].keys()]
        for id_ in truth[stream].keys() & mirror.keys():
            for column, value in expect(truth[stream][id_]).items():
                if mirror[id_][column] != value:
                    found.append(f"{stream} {id_}.{column}: {mirror[id_][column]!r} instead of {value!r}")
    return found


def compared(sandbox: Sandbox, location: str = LOCATION) -> int:
    """How many rows `differences` compares: all living records of the account."""
    return sum(len(records) for records in sandbox.truth(location).values())


def _moment(value: Any) -> datetime | None:
    if value in (None, ""):
        return None
    if isinstance(value, (int, float)):
        return datetime.fromtimestamp(value / 1000, UTC)
    return datetime.fromisoformat(value).astimezone(UTC)


def _contact(true: dict[str, Any]) -> dict[str, Any]:
    name = " ".join(part for part in (true.get("firstName"), true.get("lastName")) if part)
    plain = {
        "first_name": "firstName",
        "last_name": "lastName",
        "email": "email",
        "phone": "phone",
        "company_name": "companyName",
        "source": "source",
        "type": "type",
        "assigned_to": "assignedTo",
        "business_id": "businessId",
        "country": "country",
        "city": "city",
        "state": "state",
        "postal_code": "postalCode",
        "address": "address1",
        "website": "website",
    }
    fields = [
        {"id": field["id"], "value": field["value"]}
        for field in true.get("customFields", [])
        if field.get("value") not in (None, "", [], {})
    ]
    return {
        **{column: true.get(key) or None for column, key in plain.items()},
        "name": name or None,
        "dnd": bool(true.get("dnd")),
        "tags": sorted(set(true.get("tags", []))),
        "custom_fields": sorted(fields, key=lambda field: field["id"]),
        "created_at": _moment(true.get("dateAdded")),
        "updated_at": _moment(true.get("dateUpdated")),
        "date_of_birth": datetime.fromisoformat(true["dateOfBirth"][:10]).date() if true.get("dateOfBirth") else None,
    }


def _task(true: dict[str, Any]) -> dict[str, Any]:
    return {
        "contact_id": true["contactId"],
        "title": true.get("title"),
        "body": true.get("body") or None,
        "status": "completed" if true.get("completed") else "open",
        "due_at": _moment(true.get("dueDate")),
        "assigned_to": true.get("assignedTo") or None,
    }


def _note(true: dict[str, Any]) -> dict[str, Any]:
    expected = {
        "contact_id": true["contactId"],
        "content_html": true.get("body"),
        "title": true.get("title"),
        "author_id": true.get("userId"),
        "pinned": bool(true.get("pinned")),
        "created_at": _moment(true.get("dateAdded")),
    }
    return expected | ({"content": true["bodyText"]} if true.get("bodyText") else {})


def _appointment(true: dict[str, Any]) -> dict[str, Any]:
    return {
        "contact_id": true["contactId"],
        "calendar_id": true.get("calendarId"),
        "title": true.get("title"),
        "status": true.get("appointmentStatus"),
        "starts_at": _moment(true.get("startTime")),
        "ends_at": _moment(true.get("endTime")),
        "assigned_to": true.get("assignedUserId"),
        "notes": true.get("notes"),
        "address": true.get("address"),
    }


EXPECTED: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
    "contacts": _contact,
    "tasks": _task,
    "notes": _note,
    "appointments": _appointment,
}


def calls(sandbox: Sandbox, route: str) -> int:
    """How often a route was called, by its end."""
    return sum(count for name, count in sandbox.stats()["by_route"].items() if name.endswith(route))


def dumps(value: Any) -> str:
    """JSON, for looking for words in it."""
    return json.dumps(value, default=str, ensure_ascii=False)
