"""Looking into the store, for people: status, one contact's unified view, rejects. Reads only."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, func, select, text

from rankr_sync import schema
from rankr_sync.model import Row
from rankr_sync.schema import UtcDateTime
from rankr_sync.streams import STREAMS


@dataclass(frozen=True, slots=True)
class StreamStatus:
    """One stream of one location. `lag_seconds` is the time since the last success."""

    location_id: str
    stream: str
    phase: str | None
    last_success_at: datetime | None
    watermark: datetime | None
    lag_seconds: int | None
    rows: int
    deleted: int
    rejects: int
    due_now: int
    next_due_at: datetime | None
    last_error: str | None
    last_error_at: datetime | None


@dataclass(frozen=True, slots=True)
class Quota:
    """What was spent of a location's quota, and what is left."""

    location_id: str
    day: str
    requests: int
    throttled: int
    daily_limit: int | None
    daily_remaining: int | None
    daily_reset_at: datetime | None


@dataclass(frozen=True, slots=True)
class State:
    """All that `status` shows. `held`: location to the deletions that the brake holds (`suspects`, `of`, `at`)."""

    streams: list[StreamStatus]
    quotas: list[Quota]
    held: dict[str, dict[str, Any]]

    @property
    def location_ids(self) -> list[str]:
        """The locations, each once."""
        return list(dict.fromkeys(one.location_id for one in self.streams))


def state(connection: Connection, now: datetime) -> State:
    """Everything that `status` shows."""
    return State(stream_statuses(connection, now), quotas(connection), held_deletions(connection))


_STATUS = text("SELECT * FROM sync_status").columns(
    last_success_at=UtcDateTime, watermark=UtcDateTime, last_error_at=UtcDateTime
)


def stream_statuses(connection: Connection, now: datetime) -> list[StreamStatus]:
    """Every location and stream that has been touched, in the order of the registry."""
    cursors = schema.sync_cursors
    phases = {
        (row.location_id, row.stream): row.phase
        for row in connection.execute(
            select(cursors.c.location_id, cursors.c.stream, cursors.c.phase).where(cursors.c.partition == "full")
        )
    }
    visits = schema.child_visits
    due = {
        (row.location_id, row.stream): row
        for row in connection.execute(
            select(
                visits.c.location_id,
                visits.c.stream,
                func.count().filter(visits.c.due_at <= now).label("due_now"),
                func.min(visits.c.due_at).label("next_due_at"),
            ).group_by(visits.c.location_id, visits.c.stream)
        )
    }
    found = []
    for row in connection.execute(_STATUS).mappings():
        key = (row["location_id"], row["stream"])
        waiting = due.get(key)
        found.append(
            StreamStatus(
                *key,
                phase=phases.get(key),
                last_success_at=row["last_success_at"],
                watermark=row["watermark"],
                lag_seconds=row["lag_seconds"],
                rows=row["rows"],
                deleted=row["deleted_rows"],
                rejects=row["rejects"],
                due_now=waiting.due_now if waiting else 0,
                next_due_at=waiting.next_due_at if waiting else None,
                last_error=row["last_error"],
                last_error_at=row["last_error_at"],
            )
        )
    order = {name: place for place, name in enumerate(STREAMS)}
    return sorted(found, key=lambda status: (status.location_id, order.get(status.stream, 99)))


def quotas(connection: Connection) -> list[Quota]:
    """The newest day of usage of each location."""
    table = schema.api_usage
    newest = select(table.c.location_id, func.max(table.c.day).label("day")).group_by(table.c.location_id).subquery()
    query = select(table).join(newest, (table.c.location_id == newest.c.location_id) & (table.c.day == newest.c.day))
    return [
        Quota(
            row.location_id,
            row.day.isoformat(),
            row.requests,
            row.throttled,
            row.daily_limit,
            row.daily_remaining,
            row.daily_reset_at,
        )
        for row in connection.execute(query.order_by(table.c.location_id))
    ]


def held_deletions(connection: Connection) -> dict[str, dict[str, Any]]:
    """Location to what the brake holds there: `suspects`, `of`, `at`."""
    table = schema.sync_settings
    query = select(table.c.key, table.c.value).where(table.c.key.like("held:%"))
    return {row.key.removeprefix("held:"): row.value for row in connection.execute(query)}


def find_contacts(connection: Connection, wanted: str, location_id: str | None = None) -> list[Row]:
    """Contacts by id, e-mail address (any case) or phone number (any punctuation)."""
    table = schema.contacts
    digits = "".join(character for character in wanted if character.isdigit())
    ways = [table.c.id == wanted]
    if "@" in wanted:
        ways.append(func.lower(table.c.email) == wanted.strip().lower())
    elif len(digits) >= 7:
        ways.append(table.c.phone.in_([wanted, f"+{digits}", f"+1{digits}"]))
    for way in ways:
        query = select(table).where(way)
        if location_id is not None:
            query = query.where(table.c.location_id == location_id)
        rows = [dict(row) for row in connection.execute(query.limit(20)).mappings()]
        if rows:
            return rows
    return []


def unified_view(connection: Connection, contact: Row) -> dict[str, Any]:
    """A contact with everything that belongs to it: tags, custom fields by name, and its children."""
    mine = {"location_id": contact["location_id"], "contact_id": contact["id"]}
    names = schema.custom_fields
    known = {
        row.id: row.name
        for row in connection.execute(select(names).where(names.c.location_id == contact["location_id"]))
    }
    view: dict[str, Any] = {
        "contact": {k: v for k, v in contact.items() if k not in ("raw", "digest", "tags", "custom_fields")},
        "tags": contact["tags"],
        "custom_fields": [
            {"field_id": field["id"], "name": known.get(field["id"]), "value": field["value"]}
            for field in contact["custom_fields"]
        ],
    }
    for name, stream in STREAMS.items():
        table = stream.table
        if "contact_id" not in table.c:
            continue
        columns = [c for c in table.columns if c.name not in ("raw", "digest", "location_id", "contact_id")]
        order = table.c[stream.timeline.at] if stream.timeline is not None else table.c.id
        query = select(*columns).where(
            table.c.location_id == mine["location_id"],
            table.c.contact_id == mine["contact_id"],
            table.c.deleted_at.is_(None),
        )
        view[name] = [dict(row) for row in connection.execute(query.order_by(order.desc())).mappings()]
    visits = schema.child_visits
    looked = select(visits.c.stream, visits.c.last_visited_at).where(
        visits.c.location_id == mine["location_id"], visits.c.contact_id == mine["contact_id"]
    )
    view["last_looked_at"] = {row.stream: row.last_visited_at for row in connection.execute(looked)}
    return view


def rejects(connection: Connection, location_id: str | None = None, stream: str | None = None) -> list[Row]:
    """What could not be mapped, the newest first, without the payloads."""
    table = schema.sync_rejects
    query = select(*(column for column in table.columns if column.name not in ("raw", "reject_key")))
    if location_id is not None:
        query = query.where(table.c.location_id == location_id)
    if stream is not None:
        query = query.where(table.c.stream == stream)
    return [dict(row) for row in connection.execute(query.order_by(table.c.last_seen_at.desc())).mappings()]


def reject(connection: Connection, reject_id: int) -> Row | None:
    """One reject with its payload."""
    table = schema.sync_rejects
    row = connection.execute(select(table).where(table.c.id == reject_id)).mappings().first()
    return dict(row) if row else None
