"""The views: for people with a SQL prompt. Their SQL per dialect, and the generated `<entity>_mapped`.

`contact_tags` and `contact_custom_fields` are views over the JSON columns of `contacts`: there is one place
where tags are kept, so they cannot disagree.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass

from sqlalchemy import Connection, Engine, delete, inspect, text

from rankr_sync.mapping import FieldRule
from rankr_sync.schema import sync_settings
from rankr_sync.store.connect import is_sqlite
from rankr_sync.streams import STREAMS, Stream

VIEWS_KEY = "views"
"""Where the digest of the views that were last made is kept, in `sync_settings`."""

_TAGS = {
    "sqlite": """
        SELECT c.location_id, c.id AS contact_id, j.value AS tag, c.synced_at, c.deleted_at
        FROM contacts c, json_each(c.tags) j WHERE c.deleted_at IS NULL""",
    "postgresql": """
        SELECT c.location_id, c.id AS contact_id, j.value AS tag, c.synced_at, c.deleted_at
        FROM contacts c, jsonb_array_elements_text(
            CASE jsonb_typeof(c.tags) WHEN 'array' THEN c.tags ELSE jsonb_build_array(c.tags) END) j
        WHERE c.deleted_at IS NULL""",
}

_CUSTOM_FIELDS = {
    "sqlite": """
        SELECT c.location_id, c.id AS contact_id, json_extract(j.value, '$.id') AS field_id, f.name,
               CASE json_type(j.value, '$.value')
                    WHEN 'true' THEN 'true' WHEN 'false' THEN 'false'
                    ELSE CAST(json_extract(j.value, '$.value') AS TEXT) END AS value,
               c.synced_at, c.deleted_at
        FROM contacts c, json_each(c.custom_fields) j
        LEFT JOIN custom_fields f ON f.location_id = c.location_id AND f.id = json_extract(j.value, '$.id')
        WHERE c.deleted_at IS NULL""",
    "postgresql": """
        SELECT c.location_id, c.id AS contact_id, j.value ->> 'id' AS field_id, f.name,
               j.value ->> 'value' AS value, c.synced_at, c.deleted_at
        FROM contacts c CROSS JOIN jsonb_array_elements(c.custom_fields) j(value)
        LEFT JOIN custom_fields f ON f.location_id = c.location_id AND f.id = j.value ->> 'id'
        WHERE c.deleted_at IS NULL""",
}

_TIMELINE = """
    SELECT location_id, contact_id, {at} AS at, '{kind}' AS kind, id, {title} AS title, {detail} AS detail
    FROM {table} WHERE deleted_at IS NULL"""

_AGE = {
    "sqlite": "CAST((julianday('now') - julianday({at})) * 86400 AS INTEGER)",
    "postgresql": "CAST(extract(epoch FROM now() - {at}) AS integer)",
}

_STATUS = """
    WITH entity_rows AS ({counts}),
    last_success AS (
        SELECT location_id, stream, max(finished_at) AS at FROM sync_runs
        WHERE status = 'succeeded' GROUP BY location_id, stream),
    last_error AS (
        SELECT r.location_id, r.stream, r.error, r.finished_at FROM sync_runs r
        JOIN (SELECT location_id, stream, max(id) AS id FROM sync_runs WHERE error IS NOT NULL
              GROUP BY location_id, stream) newest ON newest.id = r.id),
    marks AS (
        SELECT location_id, stream, max(watermark) AS watermark FROM sync_cursors GROUP BY location_id, stream),
    pairs AS (SELECT location_id, stream FROM sync_cursors UNION SELECT location_id, stream FROM sync_runs)
    SELECT p.location_id, p.stream, s.at AS last_success_at, {age} AS lag_seconds, m.watermark,
           coalesce(n.rows, 0) AS rows, coalesce(n.deleted, 0) AS deleted_rows,
           e.error AS last_error, e.finished_at AS last_error_at,
           (SELECT count(*) FROM sync_rejects j
            WHERE j.location_id = p.location_id AND j.stream = p.stream) AS rejects
    FROM pairs p
    LEFT JOIN marks m ON m.location_id = p.location_id AND m.stream = p.stream
    LEFT JOIN last_success s ON s.location_id = p.location_id AND s.stream = p.stream
    LEFT JOIN last_error e ON e.location_id = p.location_id AND e.stream = p.stream
    LEFT JOIN entity_rows n ON n.location_id = p.location_id AND n.stream = p.stream"""

_COUNTS = """SELECT location_id, '{name}' AS stream, count(*) - count(deleted_at) AS rows,
    count(deleted_at) AS deleted FROM {table} GROUP BY location_id"""

_DAYS_AGO = {
    "sqlite": "date('now', '-{days} days')",
    "postgresql": "CAST(now() AT TIME ZONE 'UTC' AS date) - {days}",
}

_FRESHNESS = """
    WITH sizes AS (
        SELECT location_id, stream, count(*) AS contacts, count(last_visited_at) AS looked_at,
               min(last_visited_at) AS oldest
        FROM child_visits GROUP BY location_id, stream),
    marks AS (
        SELECT location_id, stream, 50 AS share, (looked_at + 1) / 2 AS place FROM sizes
        UNION ALL SELECT location_id, stream, 95, (95 * looked_at + 99) / 100 FROM sizes),
    looks AS (
        SELECT location_id, stream, last_visited_at AS at,
               row_number() OVER (PARTITION BY location_id, stream ORDER BY last_visited_at DESC) AS place
        FROM child_visits WHERE last_visited_at IS NOT NULL),
    ages AS (
        SELECT l.location_id, l.stream, max(CASE WHEN m.share = 50 THEN l.at END) AS p50,
               max(CASE WHEN m.share = 95 THEN l.at END) AS p95
        FROM looks l JOIN marks m ON m.location_id = l.location_id AND m.stream = l.stream AND m.place = l.place
        GROUP BY l.location_id, l.stream),
    classes AS (
        SELECT location_id, stream, within_seconds, sum(changes) AS changes FROM sync_delays
        WHERE day > {week_ago} GROUP BY location_id, stream, within_seconds),
    heaped AS (
        SELECT location_id, stream, within_seconds,
               sum(changes) OVER (PARTITION BY location_id, stream ORDER BY within_seconds) AS so_far,
               sum(changes) OVER (PARTITION BY location_id, stream) AS changes
        FROM classes),
    delays AS (
        SELECT location_id, stream, max(changes) AS changes,
               min(CASE WHEN so_far * 100 >= changes * 50 THEN within_seconds END) AS p50,
               min(CASE WHEN so_far * 100 >= changes * 95 THEN within_seconds END) AS p95
        FROM heaped GROUP BY location_id, stream),
    audits AS (
        SELECT location_id, stream, sum(rows) AS audited, sum(stale) AS stale FROM sync_audits
        WHERE day > {month_ago} GROUP BY location_id, stream),
    pairs AS (
        SELECT location_id, stream FROM sizes UNION SELECT location_id, stream FROM delays
        UNION SELECT location_id, stream FROM audits)
    SELECT p.location_id, p.stream, coalesce(s.contacts, 0) AS contacts,
           {p50} AS age_p50_seconds, {p95} AS age_p95_seconds, {oldest} AS oldest_seconds,
           d.p50 AS delay_p50_seconds, d.p95 AS delay_p95_seconds, CAST(coalesce(d.changes, 0) AS bigint) AS changes,
           CAST(coalesce(u.audited, 0) AS bigint) AS audited_rows, CAST(coalesce(u.stale, 0) AS bigint) AS stale_rows,
           CAST(100.0 * (u.audited - u.stale) / nullif(u.audited, 0) AS double precision) AS current_percent
    FROM pairs p
    LEFT JOIN sizes s ON s.location_id = p.location_id AND s.stream = p.stream
    LEFT JOIN ages a ON a.location_id = p.location_id AND a.stream = p.stream
    LEFT JOIN delays d ON d.location_id = p.location_id AND d.stream = p.stream
    LEFT JOIN audits u ON u.location_id = p.location_id AND u.stream = p.stream"""
"""Ages of the last look; detection delays of the last 7 days, audits of the last 30. A place in the order is joined
with the two places that are wanted: with a million contacts this is two seconds, and one pass over the table.
"""

_TYPED = {
    "sqlite": {
        "number": "CASE WHEN json_type({json}) IN ('integer', 'real') THEN {text} END",
        "boolean": "CASE WHEN json_type({json}) IN ('true', 'false') THEN {text} END",
    },
    "postgresql": {
        "number": "CASE WHEN jsonb_typeof({json}) = 'number' THEN CAST({text} AS numeric) END",
        "boolean": "CASE WHEN jsonb_typeof({json}) = 'boolean' THEN CAST({text} AS boolean) END",
        "datetime": "CASE WHEN {text} ~ '^[0-9]{{4}}-[0-9]{{2}}-[0-9]{{2}}T' THEN CAST({text} AS timestamptz) END",
        "date": "CASE WHEN {text} ~ '^[0-9]{{4}}-[0-9]{{2}}-[0-9]{{2}}' THEN CAST({text} AS date) END",
        "json": "{json}",
    },
}
"""How a value in `extra` becomes a column of its type. Rows that were written before the rule had this type (until
`mapping apply`) must not break the view for the others: what is of another type is null.
"""


@dataclass(frozen=True, slots=True)
class View:
    """A view's name and its SELECT."""

    name: str
    select: str


def fixed_views(dialect: str) -> list[View]:
    """The views that every store has."""
    counts = " UNION ALL ".join(_COUNTS.format(name=s.name, table=s.table.name) for s in STREAMS.values())
    age = _AGE[dialect].format(at="s.at")
    timeline = [
        _TIMELINE.format(table=s.table.name, **asdict(s.timeline)) for s in STREAMS.values() if s.timeline is not None
    ]
    return [
        View("contact_tags", _TAGS[dialect]),
        View("contact_custom_fields", _CUSTOM_FIELDS[dialect]),
        View("contact_timeline", " UNION ALL ".join(timeline)),
        View("sync_status", _STATUS.format(counts=counts, age=age)),
        View("sync_freshness", _freshness(dialect)),
    ]


def _freshness(dialect: str) -> str:
    ages = {
        name: _AGE[dialect].format(at=at) for name, at in (("p50", "a.p50"), ("p95", "a.p95"), ("oldest", "s.oldest"))
    }
    days_ago = _DAYS_AGO[dialect].format
    return _FRESHNESS.format(week_ago=days_ago(days=7), month_ago=days_ago(days=30), **ages)


def mapped_view(stream: Stream, overrides: Mapping[str, FieldRule], dialect: str) -> View:
    """`<entity>_mapped`: the entity's columns, and one typed column for each field mapped by the user."""
    own = [f't."{c.name}"' for c in stream.table.columns if c.name not in ("extra", "raw", "digest")]
    extra = [
        f'{_extracted(name, rule.type, dialect)} AS "{name}"'
        for name, rule in overrides.items()
        if name not in stream.columns
    ]
    # Names come from the schema and from rules whose targets were checked when the configuration was read.
    select_ = f"SELECT {', '.join(own + extra)} FROM {stream.table.name} t"  # noqa: S608
    return View(f"{stream.table.name}_mapped", select_)


def create_views(connection: Connection, views: Iterable[View]) -> None:
    """Make the views say what they should, replacing what is there under their names."""
    for view in views:
        # Replacing cannot drop a column on PostgreSQL, so the old view goes first, in the same transaction.
        connection.exec_driver_sql(f"DROP VIEW IF EXISTS {view.name}")
        # As literal SQL: neither ':' nor '%' in it is a parameter.
        connection.execute(text(f"CREATE VIEW {view.name} AS {view.select}".replace(":", r"\:")))


def drop_views(connection: Connection) -> None:
    """Remove every view of ours: a migration may change the tables below them; opening makes them again."""
    names = [view.name for view in fixed_views(dialect_of(connection))]
    names += [f"{stream.table.name}_mapped" for stream in STREAMS.values()]
    for name in names:
        connection.exec_driver_sql(f"DROP VIEW IF EXISTS {name}")
    if inspect(connection).has_table(sync_settings.name):
        connection.execute(delete(sync_settings).where(sync_settings.c.key == VIEWS_KEY))


def dialect_of(bind: Connection | Engine) -> str:
    """`sqlite` or `postgresql`."""
    return "sqlite" if is_sqlite(bind) else "postgresql"


def _extracted(name: str, type_: str, dialect: str) -> str:
    assert re.fullmatch(r"[a-z][a-z0-9_]*", name)
    if dialect == "sqlite":
        json, text_ = f"t.extra, '$.{name}'", f"json_extract(t.extra, '$.{name}')"
    else:
        json, text_ = f"(t.extra -> '{name}')", f"(t.extra ->> '{name}')"
    return _TYPED[dialect].get(type_, "{text}").format(json=json, text=text_)
