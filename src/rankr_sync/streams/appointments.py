"""Appointments: per contact. Their times come without a zone and mean the location's (documented form),
or with an offset (recordings 2026-07-17); the status is spelled in three ways.
"""

from zoneinfo import ZoneInfo

from rankr_sync import schema
from rankr_sync.mapping import FieldRule
from rankr_sync.model import JsonObject, LocationFacts, Page, Request
from rankr_sync.streams.base import Deadline, Lookup, Stream, Timeline, items_of, read_records
from rankr_sync.values import BadValue, moment

_TIMES = ("startTime", "endTime", "dateAdded", "dateUpdated")


def lookup_request(contact_id: str) -> Request:
    """All appointments of one contact."""
    route = "/contacts/{id}/appointments"
    return Request("GET", f"/contacts/{contact_id}/appointments", route, "contacts.readonly")


def lookup_parse(contact_id: str, payload: JsonObject) -> Page:
    """Not paged: the answer is the whole list."""
    items = items_of(payload, "events")
    records, rejects = read_records(items, "list", contact_id=contact_id)
    return Page(records, rejects, whole=True)


def is_gone(raw: JsonObject) -> bool:
    """A deleted appointment may still be listed, marked `deleted` (recordings 2026-07-17)."""
    return raw.get("deleted") is True


def normalise(raw: JsonObject, facts: LocationFacts) -> JsonObject:
    """Times in UTC whatever their form, so that the location's zone is part of the content; one status."""
    content = {k: v for k, v in raw.items() if k not in ("id", "appoinmentStatus") and v is not None}
    zone = ZoneInfo(facts.timezone)
    for key in _TIMES:
        try:
            when = moment(content.get(key), zone)
        except BadValue:
            continue  # left as it is: the mapping names the problem
        if when is not None:
            content[key] = when.isoformat()
    status = raw.get("appointmentStatus") or raw.get("appoinmentStatus") or raw.get("status")
    if status is not None:
        content["appointmentStatus"] = status
    return content


FIELDS = {
    "calendar_id": FieldRule(source="calendarId"),
    "title": FieldRule(source="title"),
    "status": FieldRule(source="appointmentStatus"),
    "starts_at": FieldRule(source="startTime", type="datetime"),
    "ends_at": FieldRule(source="endTime", type="datetime"),
    "assigned_to": FieldRule(source="assignedUserId"),
    "notes": FieldRule(source="notes"),
    "address": FieldRule(source="address"),
    "created_at": FieldRule(source="dateAdded", type="datetime"),
    "updated_at": FieldRule(source="dateUpdated", type="datetime"),
}

STREAM = Stream(
    name="appointments",
    table=schema.appointments,
    fields=FIELDS,
    normalise=normalise,
    lookup=Lookup(lookup_request, lookup_parse),
    is_gone=is_gone,
    timeline=Timeline("appointment", at="starts_at", title="title", detail="status"),
    deadline=Deadline("starts_at"),
    made_at="created_at",
    changed_at="updated_at",
)
