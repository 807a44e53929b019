"""Endpoints of calendars and appointments, by contact, by window of time and by id."""

from __future__ import annotations

from .errors import ApiError, bad, invalid
from .reference import Record
from .routing import Answer, Request, Route
from .shapes import appointment_of_contact, appointment_written, calendar_event
from .times import epoch_ms, local_ms

STATUSES = ("new", "confirmed", "cancelled", "showed", "noshow", "invalid")
FIELDS = ("title", "appointmentStatus", "assignedUserId", "address", "calendarId", "startTime", "endTime")


def list_of_contact(request: Request) -> Answer:
    """All appointments of a contact; the envelope is `events`."""
    location, contact_id = request.location, request.contact_id()
    events = []
    for key in location.appointments_of.get(contact_id, ()):
        item = appointment_of_contact(location.appointments[key], location)
        events.append(request.sandbox.served("appointments", key, item))
    return 200, {"events": events}


def list_events(request: Request) -> Answer:
    """Appointments that start in a window: filtered by start, never by change, unpaged."""
    location, query = request.location, request.query
    wanted = {key: query[key] for key in ("calendarId", "userId", "groupId") if query.get(key)}
    if not wanted:
        raise bad("Either of userId, calendarId or groupId is required")
    low, high = epoch_ms(query.get("startTime")), epoch_ms(query.get("endTime"))
    low = int(query["startTime"]) if low is None and query.get("startTime", "").isdigit() else low
    if low is None or high is None:
        raise invalid("startTime and endTime must be epoch milliseconds")
    names = {"calendarId": "calendarId", "userId": "assignedUserId", "groupId": "groupId"}
    first, last = location.by_start.span(low, high)
    events = []
    for _, key in location.by_start.rows[first:last]:
        record = location.appointments[key]
        if all(record.get(names[name]) == value for name, value in wanted.items()):
            events.append(request.sandbox.served("appointments", key, calendar_event(record, location)))
    return 200, {"events": events}


def get_event(request: Request) -> Answer:
    """One appointment, in the envelope `appointment`; a deleted one still answers, marked."""
    location, event_id = request.location, request.params["eventId"]
    record = location.appointments.get(event_id)
    deleted = record is None
    record = location.deleted_appointments.get(event_id) if record is None else record
    if record is None:
        raise _unknown()
    item = calendar_event(record, location, deleted=deleted)
    return 200, {"appointment": request.sandbox.served("appointments", event_id, item)}


def create_event(request: Request) -> Answer:
    """Book an appointment; the answer is flat and lacks the times."""
    location, body = request.location, request.fields()
    missing = [f"{key} should not be empty" for key in ("calendarId", "contactId", "startTime") if not body.get(key)]
    if missing:
        raise invalid(*missing)
    if body["contactId"] not in location.contacts:
        raise request.not_found("Contact", str(body["contactId"]))
    record = location.create_appointment(request.at_ms, body["contactId"], _fields(request))
    return 201, appointment_written(record)


def update_event(request: Request) -> Answer:
    """Move, rename or cancel an appointment."""
    event_id = _known(request)
    return 200, appointment_written(request.location.update_appointment(request.at_ms, event_id, _fields(request)))


def delete_event(request: Request) -> Answer:
    """Remove an appointment (the spec says 201, recorded was 200)."""
    request.location.delete_appointment(request.at_ms, _known(request))
    return 200, {"succeeded": True}


def list_calendars(request: Request) -> Answer:
    """The calendars of the location: needed to enumerate events."""
    return 200, {"calendars": list(request.location.reference.calendars.values())}


def _known(request: Request) -> str:
    event_id = request.params["eventId"]
    if event_id not in request.location.appointments:
        raise _unknown()
    return event_id


def _unknown() -> ApiError:
    return bad("The event id is invalid")


def _fields(request: Request) -> Record:
    location, body = request.location, request.fields()
    fields = {key: body[key] for key in FIELDS if body.get(key) is not None}
    if "description" in body:
        fields["notes"] = body["description"]
    if "calendarId" in fields and fields["calendarId"] not in location.reference.calendars:
        raise bad("The calendar id is invalid")
    if fields.get("appointmentStatus", "new") not in STATUSES:
        raise invalid(f"appointmentStatus must be one of the following values: {', '.join(STATUSES)}")
    for key in ("startTime", "endTime"):
        if key in fields and local_ms(fields[key], location.zone) is None:
            raise invalid(f"{key} must be a valid ISO 8601 date string")
    return fields


EVENTS_READ, EVENTS_WRITE = "calendars/events.readonly", "calendars/events.write"
BY_ID = "/calendars/events/appointments/{eventId}"
ROUTES = (
    Route("GET", "/contacts/{contactId}/appointments", "contacts.readonly", "contact", list_of_contact),
    Route("GET", "/calendars/", "calendars.readonly", "query", list_calendars),
    Route("GET", "/calendars/events", EVENTS_READ, "query", list_events),
    Route("POST", "/calendars/events/appointments", EVENTS_WRITE, "body", create_event),
    Route("GET", BY_ID, EVENTS_READ, "event", get_event),
    Route("PUT", BY_ID, EVENTS_WRITE, "event", update_event),
    Route("DELETE", "/calendars/events/{eventId}", EVENTS_WRITE, "event", delete_event),
)
