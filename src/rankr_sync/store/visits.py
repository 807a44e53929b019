"""The part of a transaction that keeps `child_visits` and what was learned from visits.

Every question is an index range whatever the number of contacts: one for what a signal made due, one for each
step of rate where somebody waits.
"""

from collections.abc import Iterable, Mapping, Sequence
from datetime import date, datetime
from typing import Any

from sqlalchemy import (
    Connection,
    Float,
    Integer,
    and_,
    bindparam,
    case,
    cast,
    delete,
    func,
    insert,
    literal,
    or_,
    select,
    update,
)
from sqlalchemy import text as sql

from rankr_sync import schema
from rankr_sync.model import Visit
from rankr_sync.rates import GRAINS, Evidence, rounded
from rankr_sync.store.connect import is_sqlite, upsert_into
from rankr_sync.streams import OWNER, Stream
from rankr_sync.visits import NEW_CONTACT, POSTPONED, Sent, Step, Waiting

_TABLE = schema.child_visits
_COLUMNS = [column for column in _TABLE.columns if column.name != "location_id"]
_KEY = ("location_id", "stream", "contact_id")
_READABLE = or_(_TABLE.c.signal.is_(None), _TABLE.c.signal != POSTPONED)

# A loose index scan: from each step of rate to the next, without touching the contacts between.
_HEADS = sql("""
    WITH RECURSIVE steps(rate) AS (
        SELECT (SELECT min(rate) FROM child_visits WHERE location_id = :location AND stream = :stream)
        UNION ALL
        SELECT (SELECT min(v.rate) FROM child_visits v
                WHERE v.location_id = :location AND v.stream = :stream AND v.rate > steps.rate)
        FROM steps WHERE steps.rate IS NOT NULL)
    SELECT steps.rate,
           (SELECT min(v.last_visited_at) FROM child_visits v
            WHERE v.location_id = :location AND v.stream = :stream AND v.rate = steps.rate) AS head
    FROM steps WHERE steps.rate IS NOT NULL
    """).columns(rate=Float, head=schema.UtcDateTime)


# Asked each second, so they are made once: making them takes longer than answering them.
_SIGNALLED = (
    select(*_COLUMNS)
    .where(_TABLE.c.location_id == bindparam("location"), _TABLE.c.stream == bindparam("stream"))
    .where(_TABLE.c.signal.is_not(None), _TABLE.c.due_at <= bindparam("now"))
    .order_by(_TABLE.c.due_at)
    .limit(bindparam("most", type_=Integer))
)


_WAITING = (
    select(_TABLE.c.contact_id, _TABLE.c.last_visited_at)
    .where(_TABLE.c.location_id == bindparam("location"), _TABLE.c.stream == bindparam("stream"))
    .where(_READABLE)
    .where(_TABLE.c.rate == bindparam("rate"), _TABLE.c.last_visited_at <= bindparam("until"))
    .order_by(_TABLE.c.last_visited_at)
    .limit(bindparam("most", type_=Integer))
)

# PostgreSQL: all steps in one statement, since the way there and back takes longer than the answer. SQLite, which is
# asked without a way and knows no LATERAL, is asked step by step.
_ALL_WAITING = sql("""
    SELECT asked.stream, asked.rate, found.contact_id, found.last_visited_at
    FROM unnest(CAST(:streams AS text[]), CAST(:rates AS float8[]), CAST(:untils AS timestamptz[]))
         AS asked(stream, rate, until)
    CROSS JOIN LATERAL (
        SELECT v.contact_id, v.last_visited_at FROM child_visits v
        WHERE v.location_id = :location AND v.stream = asked.stream AND v.rate = asked.rate
              AND v.last_visited_at <= asked.until AND (v.signal IS NULL OR v.signal <> :postponed)
        ORDER BY v.last_visited_at LIMIT :most) AS found
    """).columns(rate=Float, last_visited_at=schema.UtcDateTime)


class VisitRows:
    """Visits within an open transaction."""

    connection: Connection

    # -- what to visit ---------------------------------------------------------------------------------

    def signalled_visits(self, location_id: str, streams: Sequence[str], now: datetime, limit: int) -> list[Visit]:
        """What a signal made due by `now`, the earliest first."""
        found: list[Visit] = []
        for stream in streams:  # one index range each
            asked = {"location": location_id, "stream": stream, "now": now, "most": limit}
            found += [Visit(**row) for row in self.connection.execute(_SIGNALLED, asked).mappings()]
        found.sort(key=lambda visit: visit.due_at)
        return found[:limit]

    def unvisited(self, location_id: str, stream: str, before: datetime, now: datetime, limit: int) -> list[Visit]:
        """What was not visited since `before`, of which nothing is postponed beyond `now`; the liveliest first."""
        missing = or_(_TABLE.c.last_visited_at.is_(None), _TABLE.c.last_visited_at < before)
        mine = and_(_TABLE.c.location_id == location_id, _TABLE.c.stream == stream, missing)
        signalled = and_(_TABLE.c.signal.is_not(None), or_(_TABLE.c.signal != POSTPONED, _TABLE.c.due_at <= now))
        query = select(*_COLUMNS).where(mine).limit(limit)
        found: list[Visit] = []
        for one in (
            query.where(signalled).order_by(_TABLE.c.due_at),
            query.where(_TABLE.c.signal.is_(None)).order_by(_TABLE.c.rate.desc(), _TABLE.c.last_visited_at),
        ):
            found += [Visit(**row) for row in self.connection.execute(one).mappings()]
        return found[:limit]

    def visit_heads(self, location_id: str, streams: Sequence[str]) -> dict[Step, datetime]:
        """The last visit of the longest waiting contact of each step of rate."""
        return {
            (stream, row.rate): row.head
            for stream in streams
            for row in self.connection.execute(_HEADS, {"location": location_id, "stream": stream})
            if row.head is not None
        }

    def waiting_visits(self, location_id: str, before: Mapping[Step, datetime], limit: int) -> list[Waiting]:
        """Of each step, up to `limit` contacts last visited before that moment, the longest waiting first.

        What could not be read waits for its own time.
        """
        if not is_sqlite(self.connection):
            steps = {
                "streams": [stream for stream, _ in before],
                "rates": [rate for _, rate in before],
                "untils": list(before.values()),
            }
            asked = {"location": location_id, "most": limit, "postponed": POSTPONED, **steps}
            rows = self.connection.execute(_ALL_WAITING, asked)
            return [Waiting(row.stream, row.contact_id, row.last_visited_at, row.rate) for row in rows]
        found: list[Waiting] = []
        for (stream, rate), until in before.items():
            asked = {"location": location_id, "stream": stream, "rate": rate, "until": until, "most": limit}
            found += [Waiting(stream, row[0], row[1], rate) for row in self.connection.execute(_WAITING, asked)]
        return found

    def count_rolling(self, location_id: str, streams: Sequence[str]) -> int:
        """How many visits have their turn by index: not those that were never made, nor what could not be read.

        For both only a signal's visit is made, so that nothing need be kept for them.
        """
        turns = and_(_TABLE.c.last_visited_at.is_not(None), _READABLE)
        mine = and_(_TABLE.c.location_id == location_id, _TABLE.c.stream.in_(streams))
        return self.connection.execute(select(func.count()).where(mine, turns)).scalar_one()

    def count_visits(
        self, location_id: str, streams: Sequence[str], before: Sequence[datetime]
    ) -> tuple[int, list[int]]:
        """How many visits there are, and how many were last made before each of these moments."""
        counts = [func.count().filter(_TABLE.c.last_visited_at < moment) for moment in before]
        query = select(func.count(), *counts).where(_TABLE.c.location_id == location_id, _TABLE.c.stream.in_(streams))
        total, *older = self.connection.execute(query).one()
        return total, older

    # -- one contact's visits --------------------------------------------------------------------------

    def visits_of(self, location_id: str, stream: str, contact_ids: Sequence[str]) -> dict[str, Visit]:
        """The visits of these contacts, by contact. Locks the rows where the database can."""
        query = select(*_COLUMNS).where(
            _TABLE.c.location_id == location_id, _TABLE.c.stream == stream, _TABLE.c.contact_id.in_(contact_ids)
        )
        if not is_sqlite(self.connection):
            query = query.with_for_update()
        return {row["contact_id"]: Visit(**row) for row in self.connection.execute(query).mappings()}

    def put_visits(self, location_id: str, visits: Iterable[Visit]) -> None:
        """Save visits, also of contacts that had none."""
        rows = [{"location_id": location_id, **visit.row()} for visit in visits]
        if rows:
            new = upsert_into(self.connection, _TABLE)
            changed = {column.name: new.excluded[column.name] for column in _TABLE.columns if column.name not in _KEY}
            self.connection.execute(new.on_conflict_do_update(index_elements=_KEY, set_=changed), rows)

    def save_visits(self, location_id: str, visits: Iterable[Visit]) -> None:
        """Save visits that were read in this transaction. A contact that has none any more gets none."""
        rows = [{f"the_{name}": value for name, value in visit.row().items()} for visit in visits]
        if not rows:
            return
        changed = [column for column in _COLUMNS if column.name not in _KEY]
        statement = (
            update(_TABLE)
            .where(
                _TABLE.c.location_id == location_id,
                _TABLE.c.stream == bindparam("the_stream"),
                _TABLE.c.contact_id == bindparam("the_contact_id"),
            )
            .values({column.name: bindparam(f"the_{column.name}", type_=column.type) for column in changed})
        )
        self.connection.execute(statement, rows)

    def add_missing_visits(self, location_id: str, stream: str, now: datetime, rate: float) -> None:
        """Make the living contacts due that have no visit of this stream yet."""
        owner = OWNER.table
        has_one = and_(
            _TABLE.c.location_id == owner.c.location_id, _TABLE.c.stream == stream, _TABLE.c.contact_id == owner.c.id
        )
        values: dict[str, Any] = {
            "location_id": owner.c.location_id,
            "stream": literal(stream),
            "contact_id": owner.c.id,
            "rate": literal(rate, Float),
            "signal": literal(NEW_CONTACT),
            "signalled_at": literal(now, schema.UtcDateTime()),
            "due_at": literal(now, schema.UtcDateTime()),
            "reason": literal(NEW_CONTACT),
        }
        missing = (
            select(*(value.label(name) for name, value in values.items()))
            .where(owner.c.location_id == location_id, owner.c.deleted_at.is_(None))
            .where(~select(_TABLE.c.contact_id).where(has_one).exists())
        )
        self.connection.execute(insert(_TABLE).from_select(list(values), missing))

    def forget_visits(self, location_id: str, pairs: Iterable[tuple[str, str]]) -> None:
        """Forget single visits, by stream and contact."""
        for stream, contact_id in pairs:
            self.connection.execute(
                delete(_TABLE).where(
                    _TABLE.c.location_id == location_id, _TABLE.c.stream == stream, _TABLE.c.contact_id == contact_id
                )
            )

    def bring_forward_visits(self, location_id: str, now: datetime, latest: datetime) -> None:
        """Mend what a wrong clock has dated: nothing was visited after `now`, and nothing is due after `latest`."""
        mine = _TABLE.c.location_id == location_id
        self.connection.execute(update(_TABLE).where(mine, _TABLE.c.last_visited_at > now).values(last_visited_at=now))
        self.connection.execute(update(_TABLE).where(mine, _TABLE.c.due_at > latest).values(due_at=latest))

    def drop_visits(self, location_id: str, contact_ids: Sequence[str]) -> None:
        """Forget the visits of contacts that are gone."""
        self.connection.execute(
            delete(_TABLE).where(_TABLE.c.location_id == location_id, _TABLE.c.contact_id.in_(contact_ids))
        )

    def passed_deadlines(self, stream: Stream, location_id: str, since: datetime, now: datetime) -> list[str]:
        """Contacts with a record of this stream whose time came since `since` and since their last visit."""
        if stream.deadline is None:
            return []
        table, at = stream.table, stream.table.c[stream.deadline.at]
        query = (
            select(table.c.contact_id)
            .distinct()
            .join(_TABLE, and_(_TABLE.c.location_id == location_id, _TABLE.c.contact_id == table.c.contact_id))
            .where(_TABLE.c.stream == stream.name, _TABLE.c.signal.is_(None), _TABLE.c.last_visited_at < at)
            .where(table.c.location_id == location_id, table.c.deleted_at.is_(None), at > since, at <= now)
            .where(*(table.c[name] == value for name, value in stream.deadline.of.items()))
        )
        return [row[0] for row in self.connection.execute(query)]

    # -- what was learned ------------------------------------------------------------------------------

    def evidence(self, location_id: str, stream: str) -> list[tuple[Evidence, int]]:
        """What visits saw, `rounded`, and of how many contacts they saw it."""
        seen, (*finer, coarsest) = _TABLE.c.seen_days, GRAINS
        grain = case(*((seen < below, grain) for below, grain in finer), else_=coarsest[1])
        groups = {
            "whole_changes": cast(func.round(_TABLE.c.seen_changes), Integer),
            "grain": grain,
            # Whole grains: sums of floating-point numbers would be told apart by their last digit.
            "grains": cast(func.round(seen / grain), Integer),
        }
        query = (
            select(*(value.label(name) for name, value in groups.items()), func.count())
            .where(_TABLE.c.location_id == location_id, _TABLE.c.stream == stream, seen > 0)
            .group_by(*groups)  # by name: PostgreSQL takes two expressions with parameters for different ones
        )
        rows = self.connection.execute(query)
        return [(rounded(Evidence(float(row[0]), row[1] * row[2])), row[3]) for row in rows]

    def sent(self, location_id: str, stream: str) -> dict[str, Sent]:
        """What sent us to contacts of this stream, and how often there was a change."""
        table = schema.visit_signals
        query = select(table).where(table.c.location_id == location_id, table.c.stream == stream)
        return {row.signal: Sent(row.visits, row.found) for row in self.connection.execute(query)}

    def add_sent(self, location_id: str, stream: str, sent: Mapping[str, Sent]) -> None:
        """Count visits by what sent us."""
        table = schema.visit_signals
        if not sent:
            return
        new = upsert_into(self.connection, table)
        added = {name: table.c[name] + new.excluded[name] for name in ("visits", "found")}
        rows = [
            {"location_id": location_id, "stream": stream, "signal": signal, "visits": one.visits, "found": one.found}
            for signal, one in sent.items()
        ]
        self.connection.execute(
            new.on_conflict_do_update(index_elements=["location_id", "stream", "signal"], set_=added), rows
        )

    def fade_sent(self, location_id: str, stream: str, factor: float) -> None:
        """Let what was counted weigh less."""
        table = schema.visit_signals
        mine = and_(table.c.location_id == location_id, table.c.stream == stream)
        values = {name: table.c[name] * factor for name in ("visits", "found")}
        self.connection.execute(update(table).where(mine).values(values))

    def add_delays(self, location_id: str, stream: str, day: date, delays: Mapping[int, int]) -> None:
        """Count detection delays: so many changes found within so many seconds."""
        table = schema.sync_delays
        if not delays:
            return
        new = upsert_into(self.connection, table)
        rows = [
            {"location_id": location_id, "stream": stream, "day": day, "within_seconds": within, "changes": changes}
            for within, changes in delays.items()
        ]
        statement = new.on_conflict_do_update(
            index_elements=["location_id", "stream", "day", "within_seconds"],
            set_={"changes": table.c.changes + new.excluded.changes},
        )
        self.connection.execute(statement, rows)

    def add_audit(self, location_id: str, stream: str, day: date, contacts: int, rows: int, stale: int) -> None:
        """Count what an audit compared and what it found out of date."""
        table = schema.sync_audits
        new = upsert_into(self.connection, table)
        counts = {"contacts": contacts, "rows": rows, "stale": stale}
        statement = new.on_conflict_do_update(
            index_elements=["location_id", "stream", "day"],
            set_={name: table.c[name] + new.excluded[name] for name in counts},
        )
        self.connection.execute(statement, [{"location_id": location_id, "stream": stream, "day": day, **counts}])

    def made_at(self, location_id: str, ids: Sequence[str]) -> dict[str, datetime]:
        """When these contacts were made, as far as they tell."""
        owner = OWNER.table
        query = select(owner.c.id, owner.c.created_at).where(owner.c.location_id == location_id, owner.c.id.in_(ids))
        return {row[0]: row[1] for row in self.connection.execute(query) if row[1] is not None}

    def drawn(self, location_id: str, at: str) -> str | None:
        """The living contact whose id comes next after `at`, round the alphabet: a draw, when `at` is drawn."""
        owner = OWNER.table
        living = select(owner.c.id).where(owner.c.location_id == location_id, owner.c.deleted_at.is_(None))
        query = living.order_by(owner.c.id).limit(1)
        found = self.connection.execute(query.where(owner.c.id >= at)).scalar()
        return found if found is not None else self.connection.execute(query).scalar()
