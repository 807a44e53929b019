"""From the body of a write to fields of a record: names, numbers, custom fields, dates. Changes nothing itself."""

from __future__ import annotations

import html
import re
from typing import TYPE_CHECKING, Any

from .errors import ApiError, bad, invalid
from .reference import Record
from .shapes import DATED_CHANNELS
from .times import epoch_ms, iso

if TYPE_CHECKING:
    from .world import Location

PLAIN_FIELDS = (
    "firstName", "lastName", "gender", "address1", "city", "state", "postalCode", "website", "timezone", "dnd",
    "source", "country", "companyName", "assignedTo", "businessId", "type",
)  # fmt: skip
_TAG = re.compile(r"<[^>]*>")


def contact_fields(body: Record, location: Location, current: Record | None = None) -> Record:
    """What a body says about a contact. None clears a field; unknown keys are ignored."""
    fields = {key: body[key] for key in PLAIN_FIELDS if key in body}
    if "name" in body and "firstName" not in body and "lastName" not in body:
        first, _, last = (body["name"] or "").partition(" ")
        fields |= {"firstName": first or None, "lastName": last or None}
    if "email" in body:
        fields["email"] = _email(body["email"])
    if "phone" in body:
        fields["phone"] = e164(body["phone"])
    if "tags" in body:
        fields["tags"] = tags_of(body)
    if "dateOfBirth" in body:
        fields["dateOfBirth"] = _birthday(body["dateOfBirth"])
    if "dndSettings" in body:
        settings = body["dndSettings"] or {}
        fields["dndSettings"] = {DATED_CHANNELS.get(key, key): value for key, value in settings.items()} or None
    if "customFields" in body:
        fields["customFields"] = _custom_values(body["customFields"] or [], location, current)
    for key, inner in (("additionalEmails", "email"), ("additionalPhones", "phone")):
        if key in body:
            fields[key] = [item if isinstance(item, dict) else {inner: item} for item in body[key] or []]
    return fields


def _email(value: Any) -> str | None:
    if value in (None, ""):
        return None
    if not isinstance(value, str) or "@" not in value:
        raise invalid("email must be an email")
    return value.lower()


def e164(value: Any) -> str | None:
    """`+1 888-888-8888` and `(888) 888-8888` as `+18888888888`."""
    if value in (None, ""):
        return None
    digits = re.sub(r"\D", "", str(value))
    if str(value).strip().startswith("+"):
        return f"+{digits}"
    return f"+1{digits}" if len(digits) == 10 else f"+{digits}"


def tags_of(body: Record) -> list[str]:
    """The tags of a body; they are kept in lower case."""
    tags = body.get("tags")
    if tags is None:
        return []
    if not isinstance(tags, list) or not all(isinstance(tag, str) for tag in tags):
        raise invalid("each value in tags must be a string", "tags must be an array")
    return list(dict.fromkeys(tag.strip().lower() for tag in tags))


def _birthday(value: Any) -> str | None:
    if value in (None, ""):
        return None
    ms = epoch_ms(value)
    if ms is None:
        raise invalid("dateOfBirth must be a valid date")
    return iso(ms)[:10]


def _custom_values(items: list[Any], location: Location, current: Record | None) -> list[Record]:
    # The write key is field_value in the dated spec, fieldValue is preferred; any other is ignored (n8n#35392).
    definitions = [item for item in location.reference.custom_fields if item["model"] == "contact"]
    known = {item["id"]: item["id"] for item in definitions}
    known |= {item["fieldKey"]: item["id"] for item in definitions}
    known |= {item["fieldKey"].partition(".")[2]: item["id"] for item in definitions}
    values = {item["id"]: item["value"] for item in (current or {}).get("customFields", [])}
    for item in items:
        field_id = known.get(item.get("id") or item.get("key") or "") if isinstance(item, dict) else None
        key = next((name for name in ("fieldValue", "field_value") if isinstance(item, dict) and name in item), None)
        if field_id is None or key is None:
            continue
        if item[key] in (None, ""):
            values.pop(field_id, None)
        else:
            values[field_id] = item[key]
    return [{"id": field_id, "value": value} for field_id, value in values.items()]


def find_duplicate(location: Location, email: str | None, phone: str | None, but: str | None = None) -> Record | None:
    """A contact with the same e-mail, or else the same number."""
    wanted_email, wanted_phone = email.lower() if email else None, e164(phone)
    by_phone = None
    for record in location.contacts.values():
        if record["id"] == but:
            continue
        if wanted_email and record.get("emailLowerCase") == wanted_email:
            return record
        if by_phone is None and wanted_phone and record.get("phone") == wanted_phone:
            by_phone = record
    return by_phone


def duplicate(record: Record) -> ApiError:
    """400 with the id of the contact that is in the way."""
    meta = {"contactId": record["id"], "contactName": record.get("fullNameLowerCase"), "matchingField": "email"}
    return bad("This location does not allow duplicated contacts.", meta=meta)


def plain_text(body: str) -> str:
    """What is left of a note's body without its markup."""
    return html.unescape(_TAG.sub("", re.sub(r"</(p|li|div)>(?=.)|<br\s*/?>", "\n", body))).strip()
