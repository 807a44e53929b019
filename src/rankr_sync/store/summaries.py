"""Daily summaries in the store: what a day brought, and the table of those that were made and delivered.

What can be told of a day that is past, and what cannot:
- contacts, notes and appointments carry the source's own times; of changes only the last one of a contact, so one
  that changed on the day and again since counts for the later day: summaries are made soon after the day;
- tasks carry none: created and completed is when we saw it first, and nothing is told of what the first copy brought;
- gone is what we found gone; a tombstone past its retention is not counted any more.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, Connection, Table, and_, func, or_, select, update

from rankr_sync import schema
from rankr_sync.model import JsonObject, Row
from rankr_sync.store.connect import is_sqlite, upsert_into
from rankr_sync.summary import LISTED, Day, Entry, Failure, Listed, Summary, Trouble, as_document

contacts, tasks, notes, appointments = schema.contacts, schema.tasks, schema.notes, schema.appointments

_EXCERPT = 80
"""Characters of a note without a title."""


def summarise(
    connection: Connection,
    location_id: str,
    location: str,
    day: Day,
    next_day: Day,
    now: datetime,
    streams: Sequence[str],
) -> Summary:
    """The summary of a day as the store has it now; of a day that has not ended, as far as it has come."""
    until = min(now, day.end)
    look = _Look(connection, location_id, day.start, until)
    copied = _copied(connection, location_id)
    tasks_copied = copied.get("tasks")
    return Summary(
        location_id,
        location,
        day,
        until,
        now,
        contacts_new=look.contacts(contacts.c.created_at, look.within(contacts.c.created_at)),
        contacts_changed=look.contacts(
            contacts.c.updated_at,
            look.within(contacts.c.updated_at),
            or_(contacts.c.created_at.is_(None), contacts.c.created_at < day.start),
            look.there(contacts),
        ),
        contacts_gone=look.contacts(contacts.c.deleted_at, look.within(contacts.c.deleted_at)),
        tasks_created=look.seen(tasks.c.first_seen_at, tasks_copied),
        tasks_completed=look.seen(tasks.c.completed_at, tasks_copied),
        tasks_due=look.open_tasks(tasks.c.due_at >= day.start, tasks.c.due_at < day.end),
        tasks_overdue=look.open_tasks(tasks.c.due_at < until),
        tasks_due_next=look.open_tasks(tasks.c.due_at >= next_day.start, tasks.c.due_at < next_day.end),
        notes_added=look.listed(
            notes,
            notes.c.created_at,
            func.coalesce(notes.c.title, func.substr(notes.c.content, 1, _EXCERPT)),
            None,
            look.within(notes.c.created_at),
            look.there(notes),
        ),
        appointments=look.appointments_of(day),
        appointments_by_status=look.statuses_of(day),
        appointments_next=look.appointments_of(next_day),
        trouble=look.trouble(streams, copied),
    )


def _copied(connection: Connection, location_id: str) -> dict[str, datetime]:
    """Stream to when its first copy was complete."""
    table = schema.sync_cursors
    query = select(table.c.stream, table.c.first_completed_at).where(
        table.c.location_id == location_id, table.c.partition == "full", table.c.first_completed_at.is_not(None)
    )
    return {row.stream: row.first_completed_at for row in connection.execute(query)}


@dataclass(frozen=True, slots=True)
class _Look:
    """What a location's tables say of the time from `start` until before `until`."""

    connection: Connection
    location_id: str
    start: datetime
    until: datetime

    def within(self, column: ColumnElement[Any]) -> ColumnElement[bool]:
        return and_(column >= self.start, column < self.until)

    def there(self, table: Table) -> ColumnElement[bool]:
        """Whether a record was not yet found gone."""
        return or_(table.c.deleted_at.is_(None), table.c.deleted_at >= self.until)

    def contacts(self, at: ColumnElement[Any], *which: ColumnElement[bool]) -> Listed:
        return self.listed(contacts, at, None, None, *which)

    def seen(self, at: ColumnElement[Any], copied_at: datetime | None) -> Listed:
        """Tasks that came, or were completed, after the first copy."""
        if copied_at is None:
            return Listed()
        return self.listed(tasks, at, tasks.c.title, None, self.within(at), at > copied_at)

    def open_tasks(self, *which: ColumnElement[bool]) -> Listed:
        """Tasks that were there and open at the end."""
        was_open = or_(tasks.c.status == "open", tasks.c.completed_at >= self.until)
        known = or_(tasks.c.first_seen_at.is_(None), tasks.c.first_seen_at < self.until)
        return self.listed(tasks, tasks.c.due_at, tasks.c.title, None, *which, was_open, known, self.there(tasks))

    def appointments_of(self, day: Day) -> Listed:
        return self.listed(
            appointments, appointments.c.starts_at, appointments.c.title, appointments.c.status, *self._on(day)
        )

    def statuses_of(self, day: Day) -> dict[str, int]:
        status = func.coalesce(appointments.c.status, "no status")
        query = select(status, func.count()).where(appointments.c.location_id == self.location_id, *self._on(day))
        counted = self.connection.execute(query.group_by(status).order_by(func.count().desc(), status))
        return {name: int(count) for name, count in counted}

    def _on(self, day: Day) -> tuple[ColumnElement[bool], ...]:
        starts_at = appointments.c.starts_at
        return starts_at >= day.start, starts_at < day.end, self.there(appointments)

    def listed(
        self,
        table: Table,
        at: ColumnElement[Any],
        title: ColumnElement[Any] | None,
        status: ColumnElement[Any] | None,
        *which: ColumnElement[bool],
    ) -> Listed:
        """The count of these records and the first of them, by their moment, with the contact's name."""
        where = and_(table.c.location_id == self.location_id, *which)
        count = int(self.connection.execute(select(func.count()).select_from(table).where(where)).scalar_one())
        if not count:
            return Listed()
        owner = table.c.get("contact_id", table.c.id)
        name = func.coalesce(contacts.c.name, contacts.c.email, contacts.c.phone, owner, "(no contact)")
        columns = [table.c.id, owner.label("contact_id"), name.label("contact"), at.label("at")]
        columns += [
            column.label(label) for label, column in (("title", title), ("status", status)) if column is not None
        ]
        query = select(*columns).where(where).order_by(at, table.c.id).limit(LISTED)
        if table is not contacts:
            whose = and_(contacts.c.location_id == table.c.location_id, contacts.c.id == owner)
            query = query.select_from(table.outerjoin(contacts, whose))
        found = self.connection.execute(query).mappings()
        return Listed(count, tuple(_entry(dict(row)) for row in found))

    # -- sync itself -----------------------------------------------------------------------------------

    def trouble(self, streams: Sequence[str], copied: Mapping[str, datetime]) -> Trouble:
        succeeded = self._last_success()
        yesterday = self.until - timedelta(hours=24)
        copying = tuple(name for name in streams if name not in copied or copied[name] >= self.until)
        return Trouble(
            self._failures(),
            self._rejects(),
            self._throttled(),
            self._held(),
            tuple(name for name in streams if name not in copying and not _after(succeeded.get(name), yesterday)),
            copying,
        )

    def _failures(self) -> tuple[Failure, ...]:
        runs = schema.sync_runs
        failed = and_(
            runs.c.location_id == self.location_id, runs.c.status == "failed", self.within(runs.c.finished_at)
        )
        counted = select(runs.c.stream, func.count(), func.max(runs.c.id)).where(failed).group_by(runs.c.stream)
        found = []
        for stream, count, last in self.connection.execute(counted.order_by(runs.c.stream)):
            error = self.connection.execute(select(runs.c.error).where(runs.c.id == last)).scalar()
            found.append(Failure(stream, int(count), error))
        return tuple(found)

    def _rejects(self) -> tuple[tuple[str, int], ...]:
        rejects = schema.sync_rejects
        query = select(rejects.c.stream, func.count()).where(
            rejects.c.location_id == self.location_id, self.within(rejects.c.first_seen_at)
        )
        counted = self.connection.execute(query.group_by(rejects.c.stream).order_by(rejects.c.stream))
        return tuple((stream, int(count)) for stream, count in counted)

    def _throttled(self) -> int:
        slots = schema.usage_slots
        query = select(func.coalesce(func.sum(slots.c.throttled), 0))
        return int(
            self.connection.execute(
                query.where(slots.c.location_id == self.location_id, self.within(slots.c.at))
            ).scalar_one()
        )

    def _held(self) -> int:
        settings = schema.sync_settings
        note = self.connection.execute(
            select(settings.c.value).where(settings.c.key == f"held:{self.location_id}")
        ).scalar()
        return int(note["suspects"]) if note and datetime.fromisoformat(note["at"]) < self.until else 0

    def _last_success(self) -> dict[str, datetime]:
        """Stream to when its last run before the end that succeeded ended."""
        runs = schema.sync_runs
        last = func.max(runs.c.finished_at, type_=schema.UtcDateTime)
        query = select(runs.c.stream, last).where(
            runs.c.location_id == self.location_id, runs.c.status == "succeeded", runs.c.finished_at < self.until
        )
        return {row[0]: row[1] for row in self.connection.execute(query.group_by(runs.c.stream))}


def _after(moment: datetime | None, limit: datetime) -> bool:
    return moment is not None and moment >= limit


def _entry(row: Row) -> Entry:
    return Entry(row["id"], row["contact_id"] or "", row["contact"], row.get("title"), row["at"], row.get("status"))


# -- those that were made ------------------------------------------------------------------------------

_made = schema.daily_summaries


def first_run_at(connection: Connection, location_id: str) -> datetime | None:
    """When the first run of a location began that is still recorded."""
    runs = schema.sync_runs
    query = select(func.min(runs.c.started_at, type_=schema.UtcDateTime)).where(runs.c.location_id == location_id)
    return connection.execute(query).scalar()


def name_and_zone(connection: Connection, location_id: str) -> tuple[str | None, str | None]:
    """What the API said of a location's name and time zone."""
    table = schema.locations
    row = connection.execute(select(table.c.name, table.c.timezone).where(table.c.id == location_id)).first()
    return (row.name, row.timezone) if row else (None, None)


def days_made(connection: Connection, location_id: str, since: date) -> set[date]:
    """The days since a date whose summary is there."""
    query = select(_made.c.day).where(_made.c.location_id == location_id, _made.c.day >= since)
    return set(connection.execute(query).scalars())


def stored(connection: Connection, location_id: str, day: date) -> Row | None:
    """The row of a summary."""
    query = select(_made).where(_made.c.location_id == location_id, _made.c.day == day)
    row = connection.execute(query).mappings().first()
    return dict(row) if row else None


def save(connection: Connection, summary: Summary, due_at: datetime | None) -> bool:
    """Keep a summary, to be delivered at `due_at`; False when another process has made it already."""
    row = {
        "location_id": summary.location_id,
        "day": summary.day.date,
        "content": as_document(summary),
        "made_at": summary.made_at,
        "due_at": due_at,
    }
    new = upsert_into(connection, _made).values(row).on_conflict_do_nothing(index_elements=["location_id", "day"])
    return connection.execute(new.returning(_made.c.day)).first() is not None


# -- delivery ------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Delivery:
    """A summary that is ours to deliver, until the claim lapses. `attempts`: this one included."""

    location_id: str
    day: date
    content: JsonObject
    made_at: datetime
    attempts: int
    delivered_to: tuple[str, ...]


def is_due(connection: Connection, location_id: str, now: datetime) -> bool:
    """Whether a summary waits to be delivered."""
    return connection.execute(select(_made.c.day).where(*_due(location_id, now)).limit(1)).first() is not None


def claim(connection: Connection, location_id: str, now: datetime, until: datetime) -> Delivery | None:
    """The earliest summary that is due; nobody else gets it before `until`."""
    earliest = select(_made).where(*_due(location_id, now)).order_by(_made.c.day).limit(1)
    if not is_sqlite(connection):
        earliest = earliest.with_for_update(skip_locked=True)
    row = connection.execute(earliest).first()
    if row is None:
        return None
    _change(connection, location_id, row.day, due_at=until, attempts=row.attempts + 1, delivery_error=None)
    return Delivery(location_id, row.day, row.content, row.made_at, row.attempts + 1, tuple(row.delivered_to or ()))


def _due(location_id: str, now: datetime) -> tuple[ColumnElement[bool], ...]:
    return _made.c.location_id == location_id, _made.c.delivered_at.is_(None), _made.c.due_at <= now


def wish_delivery(connection: Connection, location_id: str, day: date, now: datetime) -> None:
    """Make a summary due now, unless it is delivered, or being delivered."""
    rests = or_(_made.c.due_at.is_(None), _made.c.delivery_error.is_not(None))
    mine = and_(_made.c.location_id == location_id, _made.c.day == day, _made.c.delivered_at.is_(None))
    connection.execute(update(_made).where(mine, rests).values(due_at=now))


def note_delivered_to(connection: Connection, delivery: Delivery, targets: Sequence[str]) -> None:
    """These targets have it: it is not sent to them again."""
    _change(connection, delivery.location_id, delivery.day, delivered_to=list(targets))


def note_delivered(connection: Connection, delivery: Delivery, now: datetime) -> None:
    """All targets have it."""
    _change(connection, delivery.location_id, delivery.day, delivered_at=now, delivery_error=None, due_at=None)


def note_undelivered(connection: Connection, delivery: Delivery, error: str, due_at: datetime | None) -> None:
    """Some target does not have it; tried again at `due_at` (None: never)."""
    _change(connection, delivery.location_id, delivery.day, delivery_error=error, due_at=due_at)


def _change(connection: Connection, location_id: str, day: date, **values: Any) -> None:
    mine = and_(_made.c.location_id == location_id, _made.c.day == day)
    connection.execute(update(_made).where(mine).values(**values))
