"""Notes: one request a contact, never paged, no time of change (docs#173: more than half of everyone's quota)."""

from rankr_sync import schema
from rankr_sync.mapping import FieldRule
from rankr_sync.model import JsonObject, LocationFacts, Page, Request
from rankr_sync.streams.base import Lookup, Single, Stream, Timeline, items_of, one_of, read_records
from rankr_sync.values import is_empty, plain_text


def lookup_request(contact_id: str) -> Request:
    """All notes of one contact."""
    return Request("GET", f"/contacts/{contact_id}/notes", "/contacts/{id}/notes", "contacts.readonly")


def lookup_parse(contact_id: str, payload: JsonObject) -> Page:
    """Not paged: the answer is the whole list."""
    records, rejects = read_records(items_of(payload, "notes"), "list", contact_id=contact_id)
    return Page(records, rejects, whole=True)


def single_request(contact_id: str, note_id: str) -> Request:
    """One note alone."""
    route = "/contacts/{id}/notes/{id}"
    return Request("GET", f"/contacts/{contact_id}/notes/{note_id}", route, "contacts.readonly")


def single_parse(contact_id: str, payload: JsonObject) -> Page:
    """The note, under its contact."""
    return Page(*read_records(one_of(payload, "note"), "single", contact_id=contact_id))


def normalise(raw: JsonObject, facts: LocationFacts) -> JsonObject:
    """`body` may be HTML; `bodyText` is the API's own plain text, made here where it is missing."""
    content = {key: value for key, value in raw.items() if key != "id" and value is not None}
    body = content.get("body")
    if is_empty(content.get("bodyText")) and isinstance(body, str):
        content["bodyText"] = plain_text(body)
    return content


FIELDS = {
    "content": FieldRule(source="bodyText"),
    "content_html": FieldRule(source="body"),
    "title": FieldRule(source="title"),
    "author_id": FieldRule(source="userId"),
    "pinned": FieldRule(source="pinned", type="boolean", default=False),
    "created_at": FieldRule(source="dateAdded", type="datetime"),
}

STREAM = Stream(
    name="notes",
    table=schema.notes,
    fields=FIELDS,
    normalise=normalise,
    lookup=Lookup(lookup_request, lookup_parse),
    single=Single(single_request, single_parse),
    timeline=Timeline("note", at="created_at", title="title", detail="content"),
    made_at="created_at",
)
