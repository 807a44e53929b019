"""Endpoints that change contacts and their tags."""

from __future__ import annotations

from .errors import invalid
from .routing import Answer, Request, Route
from .shapes import contact_by_id, contact_created
from .writing import contact_fields, duplicate, find_duplicate, tags_of


def create_contact(request: Request) -> Answer:
    """Add a contact; refused when the location forbids duplicates and there is one."""
    location = request.location
    fields = contact_fields(request.fields(), location)
    if not request.sandbox.options.allow_duplicates:
        other = find_duplicate(location, fields.get("email"), fields.get("phone"))
        if other is not None:
            raise duplicate(other)
    record = location.create_contact(request.at_ms, fields)
    return 201, {"contact": contact_by_id(contact_created(record), request.version)}


def update_contact(request: Request) -> Answer:
    """Change the fields that are given; `tags` replaces all tags, null clears."""
    contact_id, body = request.contact_id(), request.fields()
    if "locationId" in body:
        raise invalid("property locationId should not exist")
    location = request.location
    fields = contact_fields(body, location, location.contacts[contact_id])
    record = location.update_contact(request.at_ms, contact_id, fields)
    return 200, {**request.succeeded(), "contact": contact_by_id(record, request.version)}


def upsert_contact(request: Request) -> Answer:
    """Create, or update the contact with the same e-mail or number: that moves `dateUpdated` whatever is in it."""
    location, body = request.location, request.fields()
    fields = contact_fields(body, location)
    other = find_duplicate(location, fields.get("email"), fields.get("phone"))
    if other is None or (body.get("createNewIfDuplicateAllowed") and request.sandbox.options.allow_duplicates):
        record = location.create_contact(request.at_ms, fields)
        return 201, {"new": True, **request.succeeded(), "contact": contact_by_id(record, request.version)}
    fields = contact_fields(body, location, other)
    record = location.update_contact(request.at_ms, other["id"], fields, touch=True)
    return 200, {"new": False, **request.succeeded(), "contact": contact_by_id(record, request.version)}


def delete_contact(request: Request) -> Answer:
    """Remove a contact and what hangs on it."""
    request.location.delete_contact(request.at_ms, request.contact_id())
    return 200, request.succeeded(legacy=True)


def add_tags(request: Request) -> Answer:
    """Add tags to those that are there."""
    contact_id, wanted = request.contact_id(), tags_of(request.fields())
    tags = request.location.contacts[contact_id]["tags"]
    added = [tag for tag in wanted if tag not in tags]
    record = _set_tags(request, contact_id, [*tags, *added])
    return 201, {"tags": record, "tagsAdded": added}


def remove_tags(request: Request) -> Answer:
    """Take tags away; the names come in a JSON body."""
    contact_id, wanted = request.contact_id(), tags_of(request.fields())
    tags = request.location.contacts[contact_id]["tags"]
    removed = [tag for tag in wanted if tag in tags]
    record = _set_tags(request, contact_id, [tag for tag in tags if tag not in removed])
    return 200, {"tags": record, "tagsRemoved": removed}


def _set_tags(request: Request, contact_id: str, tags: list[str]) -> list[str]:
    bump = request.sandbox.options.tags_bump
    record = request.location.update_contact(request.at_ms, contact_id, {"tags": tags}, bump=bump)
    result: list[str] = record["tags"]
    return result


WRITE = "contacts.write"
ROUTES = (
    Route("POST", "/contacts/", WRITE, "body", create_contact),
    Route("POST", "/contacts/upsert", WRITE, "body", upsert_contact),
    Route("PUT", "/contacts/{contactId}", WRITE, "contact", update_contact),
    Route("DELETE", "/contacts/{contactId}", WRITE, "contact", delete_contact),
    Route("POST", "/contacts/{contactId}/tags", WRITE, "contact", add_tags),
    Route("DELETE", "/contacts/{contactId}/tags", WRITE, "contact", remove_tags),
)
