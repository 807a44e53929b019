"""Endpoints of notes: by contact only, which is what makes them dear to read (docs#173)."""

from __future__ import annotations

from .errors import invalid
from .reference import Record
from .routing import Answer, Request, Route


def list_notes(request: Request) -> Answer:
    """All notes of a contact, unpaged, newest first."""
    location, contact_id = request.location, request.contact_id()
    ids = location.notes_of.get(contact_id, ())
    served = request.sandbox.served
    return 200, {"notes": [served("notes", key, location.notes[key]) for key in reversed(ids)]}


def get_note(request: Request) -> Answer:
    """One note."""
    note = _note(request)
    return 200, {"note": request.sandbox.served("notes", note["id"], note)}


def create_note(request: Request) -> Answer:
    """Add a note; a body is required."""
    contact_id, fields = request.contact_id(), _fields(request.fields())
    if not fields.get("body"):
        raise invalid("body should not be empty")
    return 201, {"note": request.location.create_note(request.at_ms, contact_id, fields)}


def update_note(request: Request) -> Answer:
    """Change the fields that are given."""
    note = _note(request)
    return 200, {"note": request.location.update_note(request.at_ms, note["id"], _fields(request.fields()))}


def delete_note(request: Request) -> Answer:
    """Remove a note."""
    request.location.delete_note(request.at_ms, _note(request)["id"])
    return 200, request.succeeded(legacy=True)


def _note(request: Request) -> Record:
    contact_id, note_id = request.contact_id(), request.params["id"]
    note = request.location.notes.get(note_id)
    if note is None or note["contactId"] != contact_id:
        raise request.not_found("Note", note_id)
    return note


def _fields(body: Record) -> Record:
    fields: Record = {key: body[key] for key in ("body", "userId", "title", "color", "pinned") if key in body}
    if not isinstance(fields.get("body", ""), str):
        raise invalid("body must be a string")
    return fields


READ, WRITE = "contacts.readonly", "contacts.write"
ONE = "/contacts/{contactId}/notes/{id}"
ROUTES = (
    Route("GET", "/contacts/{contactId}/notes", READ, "contact", list_notes),
    Route("POST", "/contacts/{contactId}/notes", WRITE, "contact", create_note),
    Route("GET", ONE, READ, "contact", get_note),
    Route("PUT", ONE, WRITE, "contact", update_note),
    Route("DELETE", ONE, WRITE, "contact", delete_note),
)
