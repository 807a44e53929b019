"""Looking into the store, for people: status, one contact's unified view, rejects. Reads only."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection, func, or_, select, text

from rankr_sync import schema
from rankr_sync.freshness import Audit, audit
from rankr_sync.model import Row
from rankr_sync.schema import UtcDateTime
from rankr_sync.store.transaction import SLOT, Transaction, slot_of
from rankr_sync.streams import STREAMS, Stream
from rankr_sync.visits import DAY


@dataclass(frozen=True, slots=True)
class Freshness:
    """How fresh a stream is: a row of `sync_freshness`, None where nothing is known, and what the audits prove."""

    contacts: int
    age_p50_seconds: int | None
    age_p95_seconds: int | None
    oldest_seconds: int | None
    delay_p50_seconds: int | None
    delay_p95_seconds: int | None
    changes: int
    audited_rows: int
    stale_rows: int
    current_percent: float | None

    @property
    def audit(self) -> Audit | None:
        """What the rows that were read again say of all."""
        return audit(self.audited_rows, self.stale_rows)


@dataclass(frozen=True, slots=True)
class StreamStatus:
    """One stream of one location. `lag_seconds` is the time since the last success.

    `due_now` and `next_due_at` are of contacts that a signal announced: all others have their turn by index.
    """

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
    freshness: Freshness | None


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
    # Only what a signal made due: its partial index holds nothing else, however many contacts there are.
    due = {
        (row.location_id, row.stream): row
        for row in connection.execute(
            select(
                visits.c.location_id,
                visits.c.stream,
                func.count().filter(visits.c.due_at <= now).label("due_now"),
                func.min(visits.c.due_at).label("next_due_at"),
            )
            .where(visits.c.signal.is_not(None))
            .group_by(visits.c.location_id, visits.c.stream)
        )
    }
    fresh = freshness(connection)
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
                freshness=fresh.get(key),
            )
        )
    order = {name: place for place, name in enumerate(STREAMS)}
    return sorted(found, key=lambda status: (status.location_id, order.get(status.stream, 99)))


def freshness(connection: Connection) -> dict[tuple[str, str], Freshness]:
    """Location and stream to what `sync_freshness` tells."""
    return {
        (row["location_id"], row["stream"]): Freshness(*(row[name] for name in Freshness.__slots__))
        for row in connection.execute(text("SELECT * FROM sync_freshness")).mappings()
    }


def crowd(connection: Connection, location_id: str, stream: str) -> dict[float, int]:
    """How many contacts have which rate of change, by both partial indexes of `child_visits`."""
    table = schema.child_visits
    found: dict[float, int] = {}
    for which in (table.c.signal.is_(None), table.c.signal.is_not(None)):
        query = select(table.c.rate, func.count()).group_by(table.c.rate)
        mine = query.where(table.c.location_id == location_id, table.c.stream == stream, which)
        for rate, count in connection.execute(mine):
            found[rate] = found.get(rate, 0) + count
    return found


def changes_a_day(connection: Connection, location_id: str, now: datetime) -> dict[str, float]:
    """Stream to the changes a day that its polls found in the last week; polls of one hour tell nothing yet."""
    table = schema.sync_runs
    changes = func.sum(table.c.inserted + table.c.updated + table.c.deleted)
    since = func.min(table.c.started_at, type_=UtcDateTime)
    query = (
        select(table.c.stream, changes, since)
        .where(table.c.location_id == location_id, table.c.kind == "poll", table.c.started_at > now - 7 * DAY)
        .group_by(table.c.stream)
    )
    return {
        stream: float(count) / ((now - first) / DAY)
        for stream, count, first in connection.execute(query)
        if now - first >= timedelta(hours=1)
    }


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


@dataclass(frozen=True, slots=True)
class UsageSlot:
    """What was spent in the quarter of an hour that begins `at`."""

    at: datetime
    requests: int
    throttled: int


def usage_curve(connection: Connection, location_id: str, since: datetime, until: datetime) -> list[UsageSlot]:
    """What a location spent in each quarter of an hour from the one that `since` is in until `until`, none left out."""
    table = schema.usage_slots
    mine = (table.c.location_id == location_id) & (table.c.at >= slot_of(since)) & (table.c.at < until)
    found = {row.at: row for row in connection.execute(select(table).where(mine))}
    slots, at = [], slot_of(since)
    while at < until:
        row = found.get(at)
        slots.append(UsageSlot(at, row.requests, row.throttled) if row else UsageSlot(at, 0, 0))
        at += SLOT
    return slots


def lease(connection: Connection, location_id: str) -> Row | None:
    """Who is, or was last, at work on a location: the row of `sync_leases`."""
    table = schema.sync_leases
    row = connection.execute(select(table).where(table.c.location_id == location_id)).mappings().first()
    return dict(row) if row else None


def database_size(connection: Connection) -> int:
    """Bytes that a PostgreSQL database takes on its server."""
    return int(connection.execute(text("SELECT pg_database_size(current_database())")).scalar_one())


def held_deletions(connection: Connection) -> dict[str, dict[str, Any]]:
    """Location to what the brake holds there: `suspects`, `of`, `at`, and `confirmed_at` if a person let it through."""
    table = schema.sync_settings
    query = select(table.c.key, table.c.value).where(or_(table.c.key.like("held:%"), table.c.key.like("confirmed:%")))
    notes = {row.key: row.value for row in connection.execute(query)}
    found = {}
    for key, note in notes.items():
        kind, _, location_id = key.partition(":")
        if kind == "held":
            word = notes.get(f"confirmed:{location_id}")
            found[location_id] = {**note, "confirmed_at": word["at"] if word else None}
    return found


def holders(connection: Connection, now: datetime) -> dict[str, str]:
    """Location to who holds its lease, where it has not expired."""
    table = schema.sync_leases
    query = select(table.c.location_id, table.c.holder).where(table.c.expires_at >= now)
    return {row.location_id: row.holder for row in connection.execute(query.order_by(table.c.location_id))}


def location_names(connection: Connection) -> dict[str, str | None]:
    """Location to what HighLevel calls it, as far as it was read."""
    table = schema.locations
    return {row.id: row.name for row in connection.execute(select(table.c.id, table.c.name))}


def location_zone(connection: Connection, location_id: str) -> str:
    """The time zone of a location; UTC where it is not known."""
    table = schema.locations
    return connection.execute(select(table.c.timezone).where(table.c.id == location_id)).scalar() or "UTC"


def last_runs(connection: Connection, limit: int) -> list[Row]:
    """The runs that began last, the newest first."""
    table = schema.sync_runs
    query = select(table).order_by(table.c.id.desc()).limit(limit)
    return [dict(row) for row in connection.execute(query).mappings()]


def count_looks(
    connection: Connection, location_id: str, stream: str, before: Sequence[datetime]
) -> tuple[int, list[int]]:
    """How many contacts are visited for this stream, and how many were last looked at before each moment."""
    return Transaction(connection).count_visits(location_id, [stream], before)


def contact_row(connection: Connection, location_id: str, contact_id: str) -> Row | None:
    """A contact by its id."""
    table = schema.contacts
    query = select(table).where(table.c.location_id == location_id, table.c.id == contact_id)
    row = connection.execute(query).mappings().first()
    return dict(row) if row else None


def record(connection: Connection, stream: Stream, location_id: str, id_: str) -> Row | None:
    """One record, for people: without its payload."""
    columns = [column for column in stream.table.columns if column.name not in ("raw", "digest")]
    query = select(*columns).where(stream.table.c.location_id == location_id, stream.table.c.id == id_)
    row = connection.execute(query).mappings().first()
    return dict(row) if row else None


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


def rejects_with_payload(connection: Connection, limit: int) -> list[Row]:
    """The rejects that were seen last, the newest first, whole."""
    table = schema.sync_rejects
    query = select(table).order_by(table.c.last_seen_at.desc(), table.c.id.desc()).limit(limit)
    return [dict(row) for row in connection.execute(query).mappings()]


def count_rejects(connection: Connection) -> int:
    """How many rejects there are."""
    return int(connection.execute(select(func.count()).select_from(schema.sync_rejects)).scalar_one())


def reject(connection: Connection, reject_id: int) -> Row | None:
    """One reject with its payload."""
    table = schema.sync_rejects
    row = connection.execute(select(table).where(table.c.id == reject_id)).mappings().first()
    return dict(row) if row else None
