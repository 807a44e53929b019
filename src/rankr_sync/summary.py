"""Pure: the daily summary. Which days are due, what a summary holds, and how it reads. No I/O, no clock.

A day is a location's own, from midnight to midnight in its time zone: 23 or 25 hours long where the clocks change.
"""

import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta
from functools import cache
from typing import Any
from zoneinfo import ZoneInfo

from pydantic import TypeAdapter

from rankr_sync.model import JsonObject

LISTED = 20
"""Entries of a list that a summary names; the rest is counted."""

CAUGHT_UP = 3
"""Days back for which a missed summary is still made."""

FIRST_PAUSE, LONGEST_PAUSE = timedelta(minutes=5), timedelta(hours=6)
"""How long a delivery rests after a failure: doubled with each, up to the longest."""

GIVEN_UP_AFTER = timedelta(days=3)
"""A summary so old is not delivered any more."""


@dataclass(frozen=True, slots=True)
class Day:
    """A day of a location: its date, and when it begins and ends in UTC."""

    date: date
    zone: str
    start: datetime
    end: datetime

    def has(self, moment: datetime) -> bool:
        """Whether a moment is of this day."""
        return self.start <= moment < self.end


def day_of(date_: date, zone: str) -> Day:
    """The day of this date in this zone. Days follow each other without a gap, whatever the clocks do."""
    return Day(date_, zone, _midnight(date_, zone), _midnight(date_ + timedelta(days=1), zone))


def _midnight(date_: date, zone: str) -> datetime:
    # A midnight that the clocks skip is the moment at which they skip it; of two midnights it is the first.
    return datetime.combine(date_, time.min, ZoneInfo(zone)).astimezone(UTC)


def today(now: datetime, zone: str) -> date:
    """The date at a moment in this zone."""
    return now.astimezone(ZoneInfo(zone)).date()


def days_to_make(now: datetime, zone: str, at: time, since: datetime, made: Collection[date]) -> list[Day]:
    """The days that ended, whose hour has come (`at` on the next day) and that are not made; the earliest first.

    Goes back some days at most, and not before `since`, when the first run of the location began.
    """
    last = today(now, zone)
    found = []
    for back in range(CAUGHT_UP, 0, -1):
        day = day_of(last - timedelta(days=back), zone)
        hour = datetime.combine(day.date + timedelta(days=1), at, ZoneInfo(zone)).astimezone(UTC)
        if hour <= now and since < day.end and day.date not in made:
            found.append(day)
    return found


def next_attempt(now: datetime, made_at: datetime, attempts: int) -> datetime | None:
    """When a delivery is tried again after so many attempts that failed; None when it is given up."""
    doubled: int = 2 ** min(attempts - 1, 10)
    again_at = now + min(LONGEST_PAUSE, FIRST_PAUSE * doubled)
    return again_at if again_at <= made_at + GIVEN_UP_AFTER else None


# -- what it holds -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Entry:
    """One record as it is listed: its own words, whose it is, and the moment for which it is listed."""

    id: str
    contact_id: str
    contact: str
    title: str | None = None
    at: datetime | None = None
    status: str | None = None


@dataclass(frozen=True, slots=True)
class Listed:
    """How many there were, and the first of them."""

    count: int = 0
    entries: tuple[Entry, ...] = ()


@dataclass(frozen=True, slots=True)
class Failure:
    """Runs of a stream that failed: how many, and the last error."""

    stream: str
    count: int
    error: str | None


@dataclass(frozen=True, slots=True)
class Trouble:
    """What sync itself had trouble with. Streams are named; counts are of the day.

    `held`: contacts whose deletion waits for a person. `behind`: streams of which no run succeeded in the last 24 hours
    of the day. `copying`: streams whose first copy was not complete at its end, so that nothing is known of what came.
    """

    failures: tuple[Failure, ...] = ()
    rejects: tuple[tuple[str, int], ...] = ()
    throttled: int = 0
    held: int = 0
    behind: tuple[str, ...] = ()
    copying: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Summary:
    """One day of one location. `until` is the end of the day, or, while it lasts, when this was made.

    `due` are the tasks due on the day that are still open, `overdue` all open ones that were due before `until`;
    `due_next` and `appointments_next` are of the day after.
    """

    location_id: str
    location: str
    day: Day
    until: datetime
    made_at: datetime
    contacts_new: Listed = Listed()
    contacts_changed: Listed = Listed()
    contacts_gone: Listed = Listed()
    tasks_created: Listed = Listed()
    tasks_completed: Listed = Listed()
    tasks_due: Listed = Listed()
    tasks_overdue: Listed = Listed()
    tasks_due_next: Listed = Listed()
    notes_added: Listed = Listed()
    appointments: Listed = Listed()
    appointments_by_status: dict[str, int] = field(default_factory=dict)
    appointments_next: Listed = Listed()
    trouble: Trouble = Trouble()

    @property
    def whole(self) -> bool:
        """Whether it was made after the day ended."""
        return self.until >= self.day.end


@cache
def _adapter() -> TypeAdapter[Summary]:
    return TypeAdapter(Summary)


def as_document(summary: Summary) -> JsonObject:
    """The summary as JSON: what is stored, and what `--format json` prints."""
    document: JsonObject = _adapter().dump_python(summary, mode="json")
    return document


def from_document(document: Any) -> Summary:
    """The summary that was stored as this document."""
    return _adapter().validate_python(document)


# -- how it reads --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _List:
    """A list to be shown: what its entries are, and how the moment of one is written (None: it has none)."""

    words: str
    listed: Listed
    clock: str | None = "%H:%M"


@dataclass(frozen=True, slots=True)
class _Section:
    title: str
    line: str
    lists: tuple[_List, ...] = ()


def title(summary: Summary) -> str:
    """Whose day it is: one line."""
    so_far = "" if summary.whole else ", so far"
    return f"{_line(summary.location)}: {_date(summary.day.date)}{so_far}"


def text(summary: Summary) -> str:
    """Plain text, for a terminal."""
    lines = [title(summary), _when(summary)]
    for section in _sections(summary):
        lines += ["", f"{section.title}: {section.line}"]
        for one in section.lists:
            lines.append(f"  {one.words}")
            lines += [f"    {words}" for words in _entries(one, summary.day.zone)]
    return "\n".join(lines) + "\n"


def markdown(summary: Summary, *, heading: bool = True) -> str:
    """Markdown, with nothing in it that a name could turn into a link, a tag or a call to everyone."""
    lines = [f"# {_escaped(title(summary))}", ""] if heading else []
    lines.append(_escaped(_when(summary)))
    for section in _sections(summary):
        lines += ["", f"## {section.title}", "", _escaped(section.line)]
        for one in section.lists:
            lines += ["", f"**{one.words}**", ""]
            lines += [f"- {_escaped(words)}" for words in _entries(one, summary.day.zone)]
    return "\n".join(lines) + "\n"


def _sections(summary: Summary) -> Iterator[_Section]:
    new, changed, gone = summary.contacts_new, summary.contacts_changed, summary.contacts_gone
    yield _Section(
        "Contacts",
        f"{new.count:,} new, {changed.count:,} changed, {gone.count:,} gone",
        _shown(_List("new", new), _List("changed", changed), _List("gone (found at)", gone)),
    )
    created, completed, due = summary.tasks_created, summary.tasks_completed, summary.tasks_due
    overdue = summary.tasks_overdue
    yield _Section(
        "Tasks",
        f"{created.count:,} created, {completed.count:,} completed, {due.count:,} due and open,"
        f" {overdue.count:,} overdue",
        _shown(
            _List("created (seen at)", created),
            _List("completed (seen at)", completed),
            _List("due and open", due),
            _List("overdue", overdue, "%Y-%m-%d"),
        ),
    )
    yield _Section("Notes", f"{summary.notes_added.count:,} added", _shown(_List("added", summary.notes_added)))
    states = [f"{count:,} {_line(status)}" for status, count in summary.appointments_by_status.items()]
    appointments = summary.appointments
    yield _Section(
        "Appointments",
        f"{appointments.count:,}" + (f" ({', '.join(states)})" if states else ""),
        _shown(_List("of the day", appointments)),
    )
    due_next, appointments_next = summary.tasks_due_next, summary.appointments_next
    yield _Section(
        f"Next day, {_date(summary.day.date + timedelta(days=1))}",
        f"{_many(due_next.count, 'task')} due, {_many(appointments_next.count, 'appointment')}",
        _shown(_List("tasks due", due_next), _List("appointments", appointments_next)),
    )
    trouble = list(_troubles(summary))
    yield _Section("Sync", "; ".join(trouble) if trouble else "no trouble")


def _troubles(summary: Summary) -> Iterator[str]:
    trouble = summary.trouble
    for failure in trouble.failures:
        last = f" (the last: {_line(failure.error)})" if failure.error else ""
        yield f"{_many(failure.count, 'run')} of {failure.stream} failed{last}"
    for stream, count in trouble.rejects:
        yield f"{_many(count, 'record')} of {stream} could not be mapped in full (rankr-sync rejects list)"
    if trouble.throttled:
        yield f"throttled {trouble.throttled:,} times"
    if trouble.held:
        yield f"deletions of {_many(trouble.held, 'contact')} wait for your word (rankr-sync status)"
    if trouble.behind:
        yield f"behind: no run of {', '.join(trouble.behind)} succeeded in the last 24 hours"
    if trouble.copying:
        yield f"the first copy of {', '.join(trouble.copying)} was not complete"


def _shown(*lists: _List) -> tuple[_List, ...]:
    return tuple(one for one in lists if one.listed.count)


def _entries(one: _List, zone: str) -> Iterator[str]:
    for entry in one.listed.entries:
        when = entry.at.astimezone(ZoneInfo(zone)).strftime(one.clock) if entry.at and one.clock else None
        status = f"({_line(entry.status)})" if entry.status else None
        contact = _line(entry.contact)
        words = f"{_line(entry.title)}, {contact}" if entry.title else contact
        yield "  ".join(filter(None, (when, words, status)))
    more = one.listed.count - len(one.listed.entries)
    if more > 0:
        yield f"and {more:,} more"


def _when(summary: Summary) -> str:
    zone = ZoneInfo(summary.day.zone)
    if summary.whole:
        return f"the whole day in {summary.day.zone}"
    return f"until {summary.until.astimezone(zone):%H:%M} in {summary.day.zone}"


_WEEKDAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
_MONTHS = (
    *("January", "February", "March", "April", "May", "June"),
    *("July", "August", "September", "October", "November", "December"),
)


def _date(day: date) -> str:
    # Not strftime: it speaks the language of whoever started the program.
    return f"{_WEEKDAYS[day.weekday()]} {day.day} {_MONTHS[day.month - 1]} {day.year}"


def _many(count: int, noun: str) -> str:
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def _line(words: str, width: int = 80) -> str:
    """One line of bounded width, without anything that a terminal would obey."""
    line = " ".join("".join(sign if sign.isprintable() else " " for sign in words).split())
    return line if len(line) <= width else line[: width - 3] + "..."


_SPECIAL = re.compile(r"([\\`*_\[\]|~]|^[#+-])")
_HTML = {"&": "&amp;", "<": "&lt;", ">": "&gt;"}
_CALLS = re.compile(r"@(?=everyone|here|channel)")


def _escaped(words: str) -> str:
    plain = "".join(_HTML.get(sign, sign) for sign in _SPECIAL.sub(r"\\\1", words))
    return _CALLS.sub("@\u200b", plain)
