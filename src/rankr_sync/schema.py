"""The tables: declarations only, no connections.

Every mirrored table has `location_id` and `id` (together the key: ids are unique within a location),
`raw` (the payload as received, minus what privacy settings drop), `digest` (of the content, so that
unchanged rows are not written), `synced_at` (when the content was last written) and `deleted_at` (the
tombstone). All times are UTC and aware in Python.
"""

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import (
    DDL,
    JSON,
    Boolean,
    Column,
    Date,
    DateTime,
    Dialect,
    Double,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    TypeDecorator,
    event,
)

metadata = MetaData()


class UtcDateTime(TypeDecorator[datetime]):
    """A moment. Aware in Python, `timestamptz` on PostgreSQL, UTC text on SQLite (which forgets the zone)."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Store as UTC. Raises ValueError for a time without a zone."""
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError("a time without a zone must not reach the store")
        return value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Give the zone back."""
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


class Json(TypeDecorator[Any]):
    """JSON text on SQLite, `jsonb` on PostgreSQL."""

    impl = JSON(none_as_null=True)
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> Any:
        """PostgreSQL's dialect is only loaded where it is used: it costs megabytes."""
        if dialect.name == "postgresql":
            from sqlalchemy.dialects.postgresql import JSONB

            return dialect.type_descriptor(JSONB(none_as_null=True))
        return dialect.type_descriptor(JSON(none_as_null=True))


def mirror_table(name: str, *columns: Column[Any], indexes: tuple[tuple[str, ...], ...] = ()) -> Table:
    """A table that mirrors one entity: its own columns, between the key and what every mirrored row has."""
    return Table(
        name,
        metadata,
        Column("location_id", String(64), primary_key=True),
        Column("id", String(64), primary_key=True),
        *columns,
        Column("extra", Json(), nullable=False),
        Column("raw", Json(), nullable=False),
        Column("digest", String(32), nullable=False),
        Column("synced_at", UtcDateTime, nullable=False),
        Column("deleted_at", UtcDateTime),
        *(Index(f"ix_{name}_{'_'.join(keys)}", "location_id", *keys) for keys in indexes),
    )


def _text(*names: str) -> list[Column[Any]]:
    return [Column(name, Text) for name in names]


contacts = mirror_table(
    "contacts",
    *_text("name", "first_name", "last_name", "email", "phone", "company_name", "source", "type"),
    *_text("assigned_to", "business_id", "timezone", "country", "city", "state", "postal_code"),
    *_text("address", "website"),
    Column("date_of_birth", Date),
    Column("dnd", Boolean),
    Column("tags", Json(), nullable=False),
    Column("custom_fields", Json(), nullable=False),
    Column("created_at", UtcDateTime),
    Column("updated_at", UtcDateTime),
    indexes=(("email",), ("phone",), ("updated_at",), ("business_id",)),
)

LABEL = "substr(lower(coalesce(name, email, phone, id)), 1, 80)"
"""What a list of contacts is sorted by: what people call them by, in small letters. (What an index holds is short: a
long name must not make PostgreSQL refuse the row.)
"""
FAMILY = "substr(lower(last_name), 1, 80)"
ADDRESS = "substr(lower(email), 1, 80)"
PHONE_END = "substr(phone, length(phone) - 6)"
"""The last seven digits: what a number has in common in all the ways it is written."""

SEARCH_INDEXES = {
    "sqlite": {
        # With what lists are filtered by, so that a million contacts are filtered within the index.
        "ix_contacts_search_label": f"(location_id, {LABEL}, id, tags, business_id, deleted_at)",
        "ix_contacts_search_family": f"(location_id, {FAMILY}, id)",
        "ix_contacts_search_address": f"(location_id, {ADDRESS}, id)",
        "ix_contacts_search_phone_end": f"(location_id, {PHONE_END}, id)",
    },
    "postgresql": {
        "ix_contacts_search_label": f'(location_id, ({LABEL}) COLLATE "C", id)',
        "ix_contacts_search_family": f'(location_id, ({FAMILY}) COLLATE "C", id)',
        "ix_contacts_search_address": f'(location_id, ({ADDRESS}) COLLATE "C", id)',
        "ix_contacts_search_phone": '(location_id, phone COLLATE "C", id)',
        "ix_contacts_search_phone_end": f"(location_id, ({PHONE_END}), id)",
        "ix_contacts_search_tags": "USING gin (tags jsonb_path_ops)",
    },
}
"""Indexes by which `store.contacts` finds contacts. Sorted by bytes, so that those with a prefix stand together."""

for _dialect, _indexes in SEARCH_INDEXES.items():
    for _name, _what in _indexes.items():
        _made = DDL(f"CREATE INDEX {_name} ON contacts {_what}")  # type: ignore[no-untyped-call]
        event.listen(contacts, "after_create", _made.execute_if(dialect=_dialect))

tasks = mirror_table(
    "tasks",
    Column("contact_id", String(64)),
    *_text("title", "body", "status"),
    Column("due_at", UtcDateTime),
    *_text("assigned_to"),
    Column("first_seen_at", UtcDateTime),
    Column("completed_at", UtcDateTime),
    indexes=(("contact_id",), ("status", "due_at")),
)
"""Tasks carry no times of their own: `first_seen_at` and `completed_at` are when we first saw them, and saw them
completed (null: in a release that did not keep it). Of what the first copy brought they tell nothing more than that.
"""

notes = mirror_table(
    "notes",
    Column("contact_id", String(64)),
    *_text("content", "content_html", "title", "author_id"),
    Column("pinned", Boolean),
    Column("created_at", UtcDateTime),
    indexes=(("contact_id",),),
)

appointments = mirror_table(
    "appointments",
    Column("contact_id", String(64)),
    *_text("calendar_id", "title", "status"),
    Column("starts_at", UtcDateTime),
    Column("ends_at", UtcDateTime),
    *_text("assigned_to", "notes", "address"),
    Column("created_at", UtcDateTime),
    Column("updated_at", UtcDateTime),
    indexes=(("contact_id",), ("starts_at",)),
)

locations = Table(
    "locations",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("name", Text),
    Column("timezone", Text),
    Column("country", Text),
    Column("updated_at", UtcDateTime, nullable=False),
)

custom_fields = Table(
    "custom_fields",
    metadata,
    Column("location_id", String(64), primary_key=True),
    Column("id", String(64), primary_key=True),
    Column("name", Text),
    Column("field_key", Text),
    Column("data_type", Text),
    Column("updated_at", UtcDateTime, nullable=False),
)

sync_cursors = Table(
    "sync_cursors",
    metadata,
    Column("location_id", String(64), primary_key=True),
    Column("stream", String(32), primary_key=True),
    Column("partition", String(64), primary_key=True),
    Column("cursor", Json(), nullable=False),
    Column("watermark", UtcDateTime),
    Column("phase", String(16), nullable=False),
    Column("started_at", UtcDateTime),
    Column("updated_at", UtcDateTime, nullable=False),
    Column("first_completed_at", UtcDateTime),
)

sync_runs = Table(
    "sync_runs",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=True),
    Column("location_id", String(64), nullable=False),
    Column("stream", String(32), nullable=False),
    Column("kind", String(16), nullable=False),
    Column("started_at", UtcDateTime, nullable=False),
    Column("finished_at", UtcDateTime),
    Column("status", String(16), nullable=False),
    *(
        Column(name, Integer, nullable=False, server_default="0")
        for name in ("requests", "fetched", "inserted", "updated", "unchanged", "deleted", "rejected")
    ),
    Column("error", Text),
    Index("ix_sync_runs_latest", "location_id", "stream", "started_at"),
)

sync_rejects = Table(
    "sync_rejects",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=True),
    Column("location_id", String(64), nullable=False),
    Column("stream", String(32), nullable=False),
    Column("reject_key", String(80), nullable=False),
    Column("external_id", Text),
    Column("contact_id", String(64)),
    Column("shape", String(16), nullable=False),
    Column("reason", Text, nullable=False),
    Column("raw", Json(), nullable=False),
    Column("first_seen_at", UtcDateTime, nullable=False),
    Column("last_seen_at", UtcDateTime, nullable=False),
    Index("uq_sync_rejects_key", "location_id", "stream", "reject_key", unique=True),
)

api_usage = Table(
    "api_usage",
    metadata,
    Column("location_id", String(64), primary_key=True),
    Column("day", Date, primary_key=True),
    Column("requests", Integer, nullable=False),
    Column("throttled", Integer, nullable=False),
    Column("daily_limit", Integer),
    Column("daily_remaining", Integer),
    Column("daily_reset_at", UtcDateTime),
    Column("burst_used", Integer, nullable=False, server_default="0"),
    Column("updated_at", UtcDateTime, nullable=False),
)

usage_slots = Table(
    "usage_slots",
    metadata,
    Column("location_id", String(64), primary_key=True),
    Column("at", UtcDateTime, primary_key=True),
    Column("requests", Integer, nullable=False),
    Column("throttled", Integer, nullable=False),
)
"""What was spent in each quarter of an hour, `at` being its begin: the day's curve."""

daily_summaries = Table(
    "daily_summaries",
    metadata,
    Column("location_id", String(64), primary_key=True),
    Column("day", Date, primary_key=True),
    Column("content", Json(), nullable=False),
    Column("made_at", UtcDateTime, nullable=False),
    Column("attempts", Integer, nullable=False, server_default="0"),
    Column("due_at", UtcDateTime),
    Column("delivered_to", Json()),
    Column("delivered_at", UtcDateTime),
    Column("delivery_error", Text),
)
"""One row a location and day (of the location's own time zone): what came, changed and went.

`due_at`: when its delivery is tried next (null: never, or done); whoever delivers moves it ahead first.
`delivered_to`: the targets that have it already.
"""

oauth_tokens = Table(
    "oauth_tokens",
    metadata,
    Column("id", String(80), primary_key=True),
    Column("user_type", String(16), nullable=False),
    Column("company_id", String(64)),
    Column("location_id", String(64)),
    Column("scopes", Text),
    Column("access_token", Text, nullable=False),
    Column("refresh_token", Text),
    Column("expires_at", UtcDateTime, nullable=False),
    Column("status", String(16), nullable=False),
    Column("error", Text),
    Column("refreshing_by", String(80)),
    Column("refreshing_until", UtcDateTime),
    Column("updated_at", UtcDateTime, nullable=False),
)
"""OAuth 2.0 tokens, encrypted. `id` is `company:ID` or `location:ID`; a location's token that was minted from an
agency's has no refresh token of its own.
"""

child_visits = Table(
    "child_visits",
    metadata,
    Column("location_id", String(64), primary_key=True),
    Column("stream", String(32), primary_key=True),
    Column("contact_id", String(64), primary_key=True),
    Column("last_visited_at", UtcDateTime),
    Column("last_changed_at", UtcDateTime),
    Column("visits", Integer, nullable=False, server_default="0"),
    Column("changes", Integer, nullable=False, server_default="0"),
    Column("rate", Double, nullable=False, server_default="0.04419"),
    Column("seen_changes", Double, nullable=False, server_default="0"),
    Column("seen_days", Double, nullable=False, server_default="0"),
    Column("signal", String(32)),
    Column("signalled_at", UtcDateTime),
    Column("announced", Double, nullable=False, server_default="0"),
    Column("due_at", UtcDateTime, nullable=False),
    Column("reason", String(32), nullable=False),
    Index("ix_child_visits_turn", "location_id", "stream", "rate", "last_visited_at"),
)
"""One row a contact and stream that is read contact by contact; see `visits` and `rates` for what the figures mean.

`visits` and `changes` count what was ever made and found; `seen_changes` in `seen_days` is the same with older
sights fading, from which `rate` (changes a day) comes. `due_at` binds where there is a `signal`; else it is an
estimate for people, and the contact with the highest index has its turn.
"""

_SIGNALLED = child_visits.c.signal.is_not(None)
Index(
    "ix_child_visits_signalled",
    child_visits.c.location_id,
    child_visits.c.stream,
    child_visits.c.due_at,
    sqlite_where=_SIGNALLED,
    postgresql_where=_SIGNALLED,
)
visit_signals = Table(
    "visit_signals",
    metadata,
    Column("location_id", String(64), primary_key=True),
    Column("stream", String(32), primary_key=True),
    Column("signal", String(32), primary_key=True),
    Column("visits", Double, nullable=False),
    Column("found", Double, nullable=False),
)
"""What sent us to contacts, how often, and how often there was a change; what is older counts less."""

sync_delays = Table(
    "sync_delays",
    metadata,
    Column("location_id", String(64), primary_key=True),
    Column("stream", String(32), primary_key=True),
    Column("day", Date, primary_key=True),
    Column("within_seconds", Integer, primary_key=True),
    Column("changes", Integer, nullable=False),
)
"""Detection delays: how many changes were stored within so many seconds of the time they carry themselves."""

sync_audits = Table(
    "sync_audits",
    metadata,
    Column("location_id", String(64), primary_key=True),
    Column("stream", String(32), primary_key=True),
    Column("day", Date, primary_key=True),
    Column("contacts", Integer, nullable=False),
    Column("rows", Integer, nullable=False),
    Column("stale", Integer, nullable=False),
)
"""Contacts drawn at random and read again: how many rows were compared, and how many were not as at the source."""

sync_leases = Table(
    "sync_leases",
    metadata,
    Column("location_id", String(64), primary_key=True),
    Column("holder", String(80), nullable=False),
    Column("taken_at", UtcDateTime, nullable=False),
    Column("expires_at", UtcDateTime, nullable=False),
)

rate_loans = Table(
    "rate_loans",
    metadata,
    Column("location_id", String(64), primary_key=True),
    Column("borrower", String(80), primary_key=True),
    Column("requests", Integer, nullable=False),
    Column("asked_at", UtcDateTime, nullable=False),
    Column("seen_at", UtcDateTime),
    Column("granted_at", UtcDateTime),
    Column("expires_at", UtcDateTime, nullable=False),
)

sync_settings = Table(
    "sync_settings",
    metadata,
    Column("key", String(64), primary_key=True),
    Column("value", Json(), nullable=False),
    Column("updated_at", UtcDateTime, nullable=False),
)
