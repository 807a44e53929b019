"""What the page of one contact shows: a heading, facts, and everything that happened in one order. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from rankr_sync.model import Row
from rankr_sync.status_page.words import many
from rankr_sync.streams import STREAMS

_HEADING = frozenset(
    {"location_id", "id", "name", "email", "phone", "company_name", "deleted_at", "synced_at", "extra"}
)
"""Shown at the top of the page, or not at all."""

_LABELS = {"assigned_to": "Assigned to", "business_id": "Business", "dnd": "Do not disturb"}


@dataclass(frozen=True, slots=True)
class Event:
    """A task, note or appointment: when, what it is called, what more there is to say, and its place on the page."""

    stream: str
    id: str
    at: datetime | None
    title: str | None
    state: str | None
    text: str | None
    html: str | None
    facts: tuple[tuple[str, Any], ...]
    coming: bool
    """Whether it is still to be done, or to take place."""

    @property
    def kind(self) -> str:
        """`task`, `note` or `appointment`."""
        timeline = STREAMS[self.stream].timeline
        assert timeline is not None, self.stream
        return timeline.kind

    @property
    def is_pulled_alone(self) -> bool:
        """Whether the API has a way to read it without the others."""
        return STREAMS[self.stream].single is not None

    @property
    def anchor(self) -> str:
        """Its id in the document."""
        return f"{self.kind}-{self.id}"


def label_of(row: Row) -> str:
    """What people call the contact."""
    return next((str(row[name]) for name in ("name", "email", "phone") if row[name]), str(row["id"]))


def facts(view: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """The fields that have a value, the user's own among them, as (label, value)."""
    contact = view["contact"]
    own = {**contact, **(contact["extra"] or {})}
    return [
        (_LABELS.get(name, name.replace("_", " ").capitalize()), value)
        for name, value in own.items()
        if name not in _HEADING and value not in (None, "", False, [], {})
    ]


def timeline(view: Mapping[str, Any], now: datetime) -> list[Event]:
    """Tasks, notes and appointments, the latest first; what has no time comes last."""
    found = [make(row, now) for name, make in _MAKERS.items() for row in view.get(name, ())]
    return sorted(found, key=lambda event: event.at or datetime.min.replace(tzinfo=UTC), reverse=True)


def _task(row: Row, now: datetime) -> Event:
    open_ = row["status"] == "open"
    late = open_ and row["due_at"] is not None and row["due_at"] < now
    state = "overdue" if late else row["status"]
    return Event("tasks", row["id"], row["due_at"], row["title"], state, row["body"], None, _who(row), open_)


def _note(row: Row, now: datetime) -> Event:
    state = "pinned" if row["pinned"] else None
    author = (("by", row["author_id"]),) if row["author_id"] else ()
    return Event(
        "notes", row["id"], row["created_at"], row["title"], state, row["content"], row["content_html"], author, False
    )


def _appointment(row: Row, now: datetime) -> Event:
    starts, ends = row["starts_at"], row["ends_at"]
    more = _who(row) + ((("at", row["address"]),) if row["address"] else ())
    if starts is not None and ends is not None and ends > starts:
        more = (("until", ends), *more)
    coming = starts is not None and starts >= now and row["status"] not in ("cancelled", "noshow", "invalid")
    return Event("appointments", row["id"], starts, row["title"], row["status"], row["notes"], None, more, coming)


def _who(row: Row) -> tuple[tuple[str, Any], ...]:
    return (("for", row["assigned_to"]),) if row["assigned_to"] else ()


_MAKERS = {"tasks": _task, "notes": _note, "appointments": _appointment}


def counts(events: Sequence[Event]) -> str:
    """`3 tasks, 1 note`."""
    kinds = {event.kind: 0 for event in events}
    for event in events:
        kinds[event.kind] += 1
    return ", ".join(many(count, kind) for kind, count in kinds.items())


def last_look(view: Mapping[str, Any]) -> datetime | None:
    """When all that belongs to the contact was last looked at; None when some of it never was, or nobody noted it."""
    looked = list(view["last_looked_at"].values())
    return min(looked) if looked and None not in looked else None
