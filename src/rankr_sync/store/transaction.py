"""One transaction of the store: what the engine may ask and say within it. Data and cursor go together.

Everything is set-based: a page or a batch of visits is a handful of statements, whatever its size.
"""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from datetime import UTC, datetime, timedelta
from types import MappingProxyType
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    Executable,
    Select,
    Table,
    and_,
    bindparam,
    case,
    delete,
    exc,
    func,
    insert,
    literal,
    select,
    true,
    update,
)

from rankr_sync import schema
from rankr_sync.model import Cursor, JsonObject, Known, Loan, LocationFacts, Plan, Reject, Row, Tally
from rankr_sync.plan import digest
from rankr_sync.store.connect import is_sqlite, is_trouble, upsert_into
from rankr_sync.store.mapped import MappingRows
from rankr_sync.store.visits import VisitRows
from rankr_sync.streams import Stream

Since = Mapping[str, Mapping[str, Any]]
"""Column to the values since which it tells; see `Stream.since`."""

NO_SINCE: Since = MappingProxyType({})

Usage = Row
"""A row of `api_usage` without its key."""

SLOT = timedelta(minutes=15)
"""What `usage_slots` counts together."""


def slot_of(moment: datetime) -> datetime:
    """The begin of the slot that a moment is in: a quarter of an hour by UTC's clock."""
    utc = moment.astimezone(UTC)
    return utc.replace(minute=utc.minute // 15 * 15, second=0, microsecond=0)


# Asked with each ring of the bell, so they are made once: making them takes longer than answering them.
_LOANS = (
    select(schema.rate_loans)
    .where(schema.rate_loans.c.location_id == bindparam("location"))
    .order_by(schema.rate_loans.c.asked_at, schema.rate_loans.c.borrower)
)
_CURSOR = select(schema.sync_cursors).where(
    schema.sync_cursors.c.location_id == bindparam("location"),
    schema.sync_cursors.c.stream == bindparam("stream"),
    schema.sync_cursors.c.partition == bindparam("partition"),
)


class Transaction(VisitRows, MappingRows):
    """A transaction that is open; the store commits it when its block ends without an error."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection

    # -- what is known ---------------------------------------------------------------------------------

    def known(self, stream: Stream, location_id: str, ids: Sequence[str]) -> dict[str, Known]:
        """What the store holds of these records. Locks the rows where the database can."""
        table = stream.table
        query = self._known_query(stream, location_id).where(table.c.id.in_(ids))
        return self._read_known(stream, query)

    def known_children(
        self, stream: Stream, location_id: str, contact_ids: Sequence[str], ids: Sequence[str]
    ) -> dict[str, Known]:
        """What the store holds below these contacts, and of these ids wherever they are."""
        table = stream.table
        query = self._known_query(stream, location_id)
        known = self._read_known(stream, query.where(table.c.contact_id.in_(contact_ids)))
        elsewhere = [id_ for id_ in ids if id_ not in known]
        if elsewhere:
            known |= self._read_known(stream, query.where(table.c.id.in_(elsewhere)))
        return known

    def _known_query(self, stream: Stream, location_id: str) -> Select[Any]:
        table = stream.table
        columns = [table.c.id, table.c.digest, table.c.deleted_at]
        columns += [table.c[name] for name in ("contact_id", "updated_at") if name in table.c]
        if stream.merges:
            columns.append(table.c.raw)
        query = select(*columns).where(table.c.location_id == location_id)
        return query if is_sqlite(self.connection) else query.with_for_update()

    def _read_known(self, stream: Stream, query: Select[Any]) -> dict[str, Known]:
        return {
            row["id"]: Known(
                row["id"],
                row["digest"],
                row.get("contact_id"),
                row.get("updated_at"),
                row["deleted_at"] is not None,
                row.get("raw"),
            )
            for row in self.connection.execute(query).mappings()
        }

    # -- carrying out a plan ---------------------------------------------------------------------------

    def apply(self, stream: Stream, location_id: str, plan: Plan, now: datetime) -> Plan:
        """Do what the plan says. Returns it as carried out: a row that the database refuses is a reject."""
        rows = [
            {**row, **_seen(stream, row, now), "location_id": location_id, "synced_at": now, "deleted_at": None}
            for row in (*plan.inserts, *plan.updates)
        ]
        if rows and plan.mapping:
            self.use_mapping(location_id, stream.name, plan.mapping, now)
        refused = self._upsert_rows(stream, rows)
        if refused:
            plan = replace(
                plan,
                inserts=tuple(row for row in plan.inserts if row["id"] not in refused),
                updates=tuple(row for row in plan.updates if row["id"] not in refused),
                accepted=tuple(id_ for id_ in plan.accepted if id_ not in refused),
                rejects=plan.rejects + tuple(refused.values()),
            )
        if plan.tombstones:
            self.tombstone(stream, location_id, plan.tombstones, now)
        self.save_rejects(stream, location_id, plan.rejects, now)
        self.settle_rejects(stream, location_id, plan.accepted)
        return plan

    def tombstone(self, stream: Stream, location_id: str, ids: Sequence[str], now: datetime) -> int:
        """Mark these records as gone at the source. Returns how many were alive until now."""
        return self._bury(stream, location_id, stream.table.c.id.in_(ids), now)

    def tombstone_children(self, stream: Stream, location_id: str, contact_ids: Sequence[str], now: datetime) -> int:
        """Mark every record below these contacts as gone."""
        return self._bury(stream, location_id, stream.table.c.contact_id.in_(contact_ids), now)

    def _bury(self, stream: Stream, location_id: str, which: ColumnElement[bool], now: datetime) -> int:
        table = stream.table
        gone = and_(table.c.location_id == location_id, which, table.c.deleted_at.is_(None))
        return self.connection.execute(update(table).where(gone).values(deleted_at=now, synced_at=now)).rowcount

    def living(
        self, stream: Stream, location_id: str, before: datetime, after: str, limit: int
    ) -> list[tuple[str, str | None]]:
        """(id, contact id) of living records last written before a moment, by id, beginning behind `after`."""
        table = stream.table
        owner = table.c.contact_id if "contact_id" in table.c else literal(None)
        query = (
            select(table.c.id, owner)
            .where(table.c.location_id == location_id, table.c.id > after)
            .where(table.c.deleted_at.is_(None), table.c.synced_at < before)
            .order_by(table.c.id)
            .limit(limit)
        )
        return [(row[0], row[1]) for row in self.connection.execute(query)]

    def living_payloads(self, stream: Stream, location_id: str, after: str, limit: int) -> list[tuple[str, JsonObject]]:
        """(id, payload) of living records, by id, beginning behind `after`."""
        table = stream.table
        query = (
            select(table.c.id, table.c.raw)
            .where(table.c.location_id == location_id, table.c.id > after, table.c.deleted_at.is_(None))
            .order_by(table.c.id)
            .limit(limit)
        )
        return [(row[0], row[1]) for row in self.connection.execute(query)]

    def count_living(self, stream: Stream, location_id: str) -> int:
        """How many records are not tombstoned."""
        table = stream.table
        query = select(func.count()).where(table.c.location_id == location_id, table.c.deleted_at.is_(None))
        return int(self.connection.execute(query.select_from(table)).scalar_one())

    def rewrite(
        self, stream: Stream, location_id: str, rows: list[Row], rejects: Sequence[Reject], now: datetime
    ) -> list[Reject]:
        """Write whole rows that were mapped again, tombstones included. Returns the rejects, with what the database
        does not take.
        """
        refused = self._upsert_rows(stream, [{**row, **dict.fromkeys(stream.since), "synced_at": now} for row in rows])
        rejects = [*(one for one in rejects if one.external_id not in refused), *refused.values()]
        self.save_rejects(stream, location_id, rejects, now)
        return rejects

    def _upsert_rows(self, stream: Stream, rows: list[Row]) -> dict[str, Reject]:
        if not rows or self._refusal(lambda: self._upsert(stream.table, rows, stream.since)) is None:
            return {}
        # One row is unacceptable to this database: find it, keep the others.
        refused: dict[str, Reject] = {}
        for row in rows:
            error = self._refusal(lambda row=row: self._upsert(stream.table, [row], stream.since))  # type: ignore[misc]
            if error is None:
                continue
            if len(rows) > 1 and len(refused) + 1 == len(rows):
                raise error  # not a matter of this or that row
            kind = type(getattr(error, "orig", None) or error).__name__
            reason = f"the database refuses the row ({kind})"
            refused[row["id"]] = Reject(reason, row["raw"], row["id"], row.get("contact_id"))
        return refused

    def _refusal(self, write: Callable[[], None]) -> Exception | None:
        """Write, or undo it and return why the database does not take it. Raises when it is the database's trouble."""
        savepoint = self.connection.begin_nested()
        try:
            write()
        except (exc.DBAPIError, exc.StatementError, OverflowError, ValueError) as error:
            # SQLite may have undone the whole transaction by itself, savepoint and all: only its end is left.
            if isinstance(error, exc.DBAPIError) and is_trouble(error):
                raise
            savepoint.rollback()
            return error
        savepoint.commit()
        return None

    def _upsert(self, table: Table, rows: list[Row], since: Since = NO_SINCE) -> None:
        """`since`: columns whose value stays where the old row and the new one both have the values that are named."""
        keys = [column.name for column in table.primary_key]
        alike: dict[tuple[str, ...], list[Row]] = {}
        for row in rows:  # one statement takes rows with the same columns: what a row does not have stays as it is
            alike.setdefault(tuple(row), []).append(row)
        for names, some in alike.items():
            new = upsert_into(self.connection, table)
            changed = {name: new.excluded[name] for name in names if name not in keys}
            for column, values in since.items():
                both = [side[name] == value for name, value in values.items() for side in (table.c, new.excluded)]
                changed[column] = case((and_(true(), *both), table.c[column]), else_=new.excluded[column])
            self.connection.execute(new.on_conflict_do_update(index_elements=keys, set_=changed), some)

    # -- rejects ---------------------------------------------------------------------------------------

    def save_rejects(self, stream: Stream, location_id: str, rejects: Iterable[Reject], now: datetime) -> None:
        """Keep what could not be mapped, or not be stored, with the reason; one row a record."""
        table = schema.sync_rejects
        rows = {
            (reject.external_id or digest({"raw": reject.raw})): {
                "location_id": location_id,
                "stream": stream.name,
                "reject_key": (reject.external_id or digest({"raw": reject.raw}))[:80],
                "external_id": reject.external_id,
                "contact_id": reject.contact_id,
                "shape": reject.shape,
                "reason": reject.reason,
                "raw": reject.raw,
                "first_seen_at": now,
                "last_seen_at": now,
            }
            for reject in rejects
        }
        if not rows:
            return
        new = upsert_into(self.connection, table)
        changed = {name: new.excluded[name] for name in ("contact_id", "shape", "reason", "raw", "last_seen_at")}
        keys = ["location_id", "stream", "reject_key"]
        statement = new.on_conflict_do_update(index_elements=keys, set_=changed)
        if self._refusal(lambda: self._execute_many(statement, list(rows.values()))) is None:
            return
        for row in rows.values():  # a payload that the database refuses is kept as text
            if self._refusal(lambda row=row: self._execute_many(statement, [row])) is not None:  # type: ignore[misc]
                self._execute_many(statement, [{**row, "raw": json.dumps(row["raw"], default=str)}])

    def _execute_many(self, statement: Executable, rows: list[Row]) -> None:
        self.connection.execute(statement, rows)

    def settle_rejects(self, stream: Stream, location_id: str, accepted: Sequence[str]) -> None:
        """Forget the rejects of these records: there is nothing wrong with them any more."""
        if not accepted:
            return
        table = schema.sync_rejects
        mine = and_(table.c.location_id == location_id, table.c.stream == stream.name)
        if self.connection.execute(select(table.c.id).where(mine).limit(1)).first() is None:
            return
        self.connection.execute(delete(table).where(mine, table.c.external_id.in_(accepted)))

    # -- cursors and runs ------------------------------------------------------------------------------

    def cursor(self, location_id: str, stream: str, partition: str) -> Cursor | None:
        """Where a walk stands, or None if it never began."""
        asked = {"location": location_id, "stream": stream, "partition": partition}
        row = self.connection.execute(_CURSOR, asked).first()
        return Cursor(row.cursor, row.phase, row.watermark, row.started_at, row.updated_at) if row else None

    def save_cursor(self, location_id: str, stream: str, partition: str, cursor: Cursor, now: datetime) -> None:
        """Save where a walk stands, in the same transaction as what it brought. When it was complete for the first
        time is kept.
        """
        table = schema.sync_cursors
        row = {
            "location_id": location_id,
            "stream": stream,
            "partition": partition,
            "cursor": cursor.position,
            "phase": cursor.phase,
            "watermark": cursor.watermark,
            "started_at": cursor.started_at,
            "updated_at": now,
            "first_completed_at": now if cursor.phase == "complete" else None,
        }
        keys = [column.name for column in table.primary_key]
        new = upsert_into(self.connection, table)
        changed = {name: new.excluded[name] for name in row if name not in keys}
        changed["first_completed_at"] = func.coalesce(table.c.first_completed_at, new.excluded.first_completed_at)
        self.connection.execute(new.on_conflict_do_update(index_elements=keys, set_=changed), [row])

    def drop_cursor(self, location_id: str, stream: str, partition: str) -> None:
        """Forget where a walk stands: it begins anew."""
        table = schema.sync_cursors
        mine = and_(table.c.location_id == location_id, table.c.stream == stream, table.c.partition == partition)
        self.connection.execute(delete(table).where(mine))

    def start_run(self, location_id: str, stream: str, kind: str, now: datetime) -> int:
        """Note that a run begins; what an earlier process left running was interrupted."""
        table = schema.sync_runs
        mine = and_(table.c.location_id == location_id, table.c.stream == stream, table.c.kind == kind)
        self.connection.execute(
            update(table).where(mine, table.c.status == "running").values(status="interrupted", finished_at=now)
        )
        row = {"location_id": location_id, "stream": stream, "kind": kind, "started_at": now, "status": "running"}
        key = self.connection.execute(insert(table).values(row)).inserted_primary_key
        assert key is not None
        return int(key[0])

    def save_run(
        self,
        run_id: int,
        tally: Tally,
        *,
        status: str = "running",
        error: str | None = None,
        now: datetime | None = None,
    ) -> None:
        """Save a run's counts; with `now`, its end."""
        table = schema.sync_runs
        values: Row = {**asdict(tally), "status": status, "error": error, "finished_at": now}
        self.connection.execute(update(table).where(table.c.id == run_id).values(values))

    # -- leases ----------------------------------------------------------------------------------------

    def take_lease(self, location_id: str, holder: str, now: datetime, until: datetime) -> bool:
        """Take or renew the lease of a location; False while another's has not expired."""
        table = schema.sync_leases
        new = upsert_into(self.connection, table).values(
            location_id=location_id, holder=holder, taken_at=now, expires_at=until
        )
        statement = new.on_conflict_do_update(
            index_elements=["location_id"],
            set_={"holder": holder, "expires_at": until},
            where=(table.c.holder == holder) | (table.c.expires_at < now),
        ).returning(table.c.holder)
        return self.connection.execute(statement).first() is not None

    def renew_lease(self, location_id: str, holder: str, until: datetime) -> bool:
        """Renew the lease; False when it is no longer ours, whatever the clock says."""
        table = schema.sync_leases
        mine = and_(table.c.location_id == location_id, table.c.holder == holder)
        return self.connection.execute(update(table).where(mine).values(expires_at=until)).rowcount > 0

    def lease(self, location_id: str) -> tuple[str, datetime] | None:
        """Who holds the lease, or held it without giving it back, and when it expires."""
        table = schema.sync_leases
        row = self.connection.execute(select(table).where(table.c.location_id == location_id)).first()
        return None if row is None else (row.holder, row.expires_at)

    def give_lease(self, location_id: str, holder: str) -> None:
        """Give the lease back."""
        table = schema.sync_leases
        self.connection.execute(delete(table).where(table.c.location_id == location_id, table.c.holder == holder))

    def live_holder(self, location_id: str, now: datetime) -> str | None:
        """Who holds the lease, unless it has expired."""
        table = schema.sync_leases
        query = select(table.c.holder).where(table.c.location_id == location_id, table.c.expires_at >= now)
        return self.connection.execute(query).scalar()

    # -- loans -----------------------------------------------------------------------------------------

    def ask_loan(self, location_id: str, borrower: str, requests: int, now: datetime, until: datetime) -> None:
        """Ask the holder of the lease for burst slots."""
        row = {"location_id": location_id, "borrower": borrower, "requests": requests}
        row |= {"asked_at": now, "seen_at": None, "granted_at": None, "expires_at": until}
        self._upsert(schema.rate_loans, [row])

    def loans(self, location_id: str) -> list[Loan]:
        """Every loan of a location, the earliest first."""
        return [
            Loan(row.borrower, row.requests, row.expires_at, row.seen_at is not None, row.granted_at is not None)
            for row in self.connection.execute(_LOANS, {"location": location_id})
        ]

    def answer_loan(self, location_id: str, borrower: str, now: datetime, granted: int | None) -> None:
        """Tell the borrower that it was seen, or with `granted` that it may use so many slots."""
        values: Row = {"seen_at": now}
        if granted is not None:
            values |= {"requests": granted, "granted_at": now}
        self._change_loan(location_id, borrower, values)

    def renew_loan(self, location_id: str, borrower: str, until: datetime) -> None:
        """Say that the borrower lives."""
        self._change_loan(location_id, borrower, {"expires_at": until})

    def _change_loan(self, location_id: str, borrower: str, values: Row) -> None:
        table = schema.rate_loans
        mine = and_(table.c.location_id == location_id, table.c.borrower == borrower)
        self.connection.execute(update(table).where(mine).values(values))

    def end_loan(self, location_id: str, borrower: str) -> None:
        """Give the slots back, or no longer wait for them."""
        table = schema.rate_loans
        self.connection.execute(delete(table).where(table.c.location_id == location_id, table.c.borrower == borrower))

    # -- usage and facts -------------------------------------------------------------------------------

    def add_usage(self, location_id: str, now: datetime, usage: Usage) -> None:
        """Add requests and throttles to the day's count and curve; the other values replace what was known."""
        table = schema.api_usage
        new = upsert_into(self.connection, table)
        changed = {name: new.excluded[name] for name in usage} | {
            name: table.c[name] + new.excluded[name] for name in ("requests", "throttled")
        }
        changed["updated_at"] = new.excluded.updated_at
        row = {"location_id": location_id, "day": now.date(), "updated_at": now, **usage}
        self.connection.execute(new.on_conflict_do_update(index_elements=["location_id", "day"], set_=changed), [row])
        if usage["requests"] or usage["throttled"]:
            self._add_to_slot(location_id, now, usage)

    def _add_to_slot(self, location_id: str, now: datetime, usage: Usage) -> None:
        table = schema.usage_slots
        new = upsert_into(self.connection, table)
        added = {name: table.c[name] + new.excluded[name] for name in ("requests", "throttled")}
        row = {"location_id": location_id, "at": slot_of(now)} | {name: usage[name] for name in added}
        self.connection.execute(new.on_conflict_do_update(index_elements=["location_id", "at"], set_=added), [row])

    def last_usage(self, location_id: str) -> Row | None:
        """The newest row of `api_usage` of this location."""
        table = schema.api_usage
        query = select(table).where(table.c.location_id == location_id).order_by(table.c.updated_at.desc()).limit(1)
        row = self.connection.execute(query).mappings().first()
        return dict(row) if row else None

    def facts(self, location_id: str) -> LocationFacts | None:
        """What is stored of a location's time zone, country and custom fields."""
        row = self.connection.execute(select(schema.locations).where(schema.locations.c.id == location_id)).first()
        fields = schema.custom_fields
        names: dict[str, str] = {}
        for field in self.connection.execute(select(fields).where(fields.c.location_id == location_id)):
            for name in (field.id, field.field_key, field.name):
                if name:
                    names[str(name).casefold()] = field.id
        if row is None:
            return LocationFacts(location_id, custom_fields=names) if names else None
        return LocationFacts(location_id, row.timezone or "UTC", row.country, names)

    def save_location(self, row: Row, now: datetime) -> None:
        """Save a location's name, time zone and country."""
        self._upsert(schema.locations, [{**row, "updated_at": now}])

    def save_custom_fields(self, location_id: str, rows: Sequence[Mapping[str, Any]], now: datetime) -> None:
        """Replace what is known of a location's custom fields."""
        table = schema.custom_fields
        self.connection.execute(delete(table).where(table.c.location_id == location_id))
        if rows:
            self._upsert(table, [{"location_id": location_id, "updated_at": now, **row} for row in rows])

    def setting(self, key: str) -> Any:
        """A value that the program keeps for itself, or None."""
        table = schema.sync_settings
        return self.connection.execute(select(table.c.value).where(table.c.key == key)).scalar()

    def save_setting(self, key: str, value: Any, now: datetime) -> None:
        """Keep a value for the program itself."""
        self._upsert(schema.sync_settings, [{"key": key, "value": value, "updated_at": now}])

    def drop_setting(self, key: str) -> None:
        """Forget such a value."""
        self.connection.execute(delete(schema.sync_settings).where(schema.sync_settings.c.key == key))


def _seen(stream: Stream, row: Row, now: datetime) -> Row:
    """What the columns of `stream.since` are in a row that is new: from now on, or not so."""
    return {
        column: now if all(row.get(name) == value for name, value in values.items()) else None
        for column, values in stream.since.items()
    }
