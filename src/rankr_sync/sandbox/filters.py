"""The filter language of `POST /contacts/search`: from JSON to a predicate, or a 400 that says what is wrong."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from .errors import bad
from .index import Entry
from .times import epoch_ms

if TYPE_CHECKING:
    from .world import Location

Predicate = Callable[[Entry, "Location"], bool]
OPERATORS = ("eq", "not_eq", "contains", "not_contains", "exists", "not_exists", "range")
BOUNDS = ("gt", "gte", "lt", "lte")
LONGEST_TEXT = 75
DATES = ("dateAdded", "dateUpdated", "dateOfBirth")
_CUSTOM = "customFields."

_SAME_NAME = (
    "assignedTo", "businessId", "city", "companyName", "country", "dateOfBirth", "dnd", "email", "firstName",
    "firstNameLowerCase", "followers", "lastName", "lastNameLowerCase", "phone", "postalCode", "source", "state",
    "tags", "timezone", "type", "website",
)  # fmt: skip
# Search name -> key of the record. Additional phones are not searched (docs#289).
_PLAIN = {
    "id": "id",
    "address": "address1",
    "contactName": "fullNameLowerCase",
    "fullNameLowerCase": "fullNameLowerCase",
    **{name: name for name in _SAME_NAME},
}


def _value(field: str) -> Callable[[Entry, Location], Any]:
    if field == "dateAdded":
        return lambda entry, _: entry.added
    if field == "dateUpdated":
        return lambda entry, _: entry.updated
    if field == "businessName":
        return business_name
    if field in ("additionalEmails", "additionalPhones"):
        inner = "email" if field == "additionalEmails" else "phone"
        return lambda entry, _: [item.get(inner) for item in entry.record[field]]
    if field == "validEmail":
        return lambda entry, _: None
    if field.startswith(_CUSTOM):
        field_id = field.removeprefix(_CUSTOM)
        return lambda entry, _: next((i["value"] for i in entry.record["customFields"] if i["id"] == field_id), None)
    key = _PLAIN.get(field)
    if key is None:
        raise bad(f"Invalid field {field}")
    return lambda entry, _: entry.record.get(key)


def business_name(entry: Entry, location: Location) -> str | None:
    """Name of the business a contact belongs to."""
    business = location.reference.businesses.get(entry.record.get("businessId", ""))
    return business["name"] if business else None


def parse_filters(filters: Any) -> Predicate:
    """All of a list of filters and groups."""
    if not isinstance(filters, list):
        raise bad("filters must be an array")
    parts = [_parse_one(item) for item in filters]
    return lambda entry, location: all(part(entry, location) for part in parts)


def _parse_one(item: Any) -> Predicate:
    if not isinstance(item, Mapping):
        raise bad("each filter must be an object")
    if "group" in item:
        return _group(item)
    field, operator, wanted = item.get("field"), item.get("operator"), item.get("value")
    if not isinstance(field, str) or not field:
        raise bad("Invalid field")
    if operator not in OPERATORS:
        raise bad(f"Invalid operator {operator} for field {field}")
    if field == "id" and operator not in ("eq", "not_eq"):
        raise bad(f"Invalid operator {operator} for field {field}")
    if field in DATES and operator not in ("range", "exists", "not_exists"):
        raise bad(f"Invalid operator {operator} for field {field}")
    if isinstance(wanted, str) and len(wanted) > LONGEST_TEXT:
        raise bad(f"value of field {field} is longer than {LONGEST_TEXT} characters")
    value = _value(field)
    return _compare(field, operator, wanted, value)


def _group(item: Mapping[str, Any]) -> Predicate:
    parts = [_parse_one(part) for part in item.get("filters") or []]
    if item["group"] == "AND":
        return lambda entry, location: all(part(entry, location) for part in parts)
    if item["group"] == "OR":
        return lambda entry, location: any(part(entry, location) for part in parts)
    raise bad(f"Invalid group {item['group']}")


def _compare(field: str, operator: str, wanted: Any, value: Callable[[Entry, Location], Any]) -> Predicate:
    if operator in ("exists", "not_exists"):
        present = operator == "exists"
        return lambda entry, location: _present(value(entry, location)) is present
    if operator == "range":
        low, high = parse_range(field, wanted)
        as_number = epoch_ms if field in DATES else _number
        return lambda entry, location: _within(as_number(value(entry, location)), low, high)
    if wanted is None or wanted == "":
        raise bad(f"value is required for operator {operator} of field {field}")
    test = _equals if operator.endswith("eq") else _contains
    negative = operator.startswith("not_")
    return lambda entry, location: test(value(entry, location), wanted) is not negative


def _present(found: Any) -> bool:
    return found not in (None, "", [])


def _fold(item: Any) -> Any:
    return item.lower() if isinstance(item, str) else item


def _equals(found: Any, wanted: Any) -> bool:
    have = (
        {_fold(item) for item in found if not isinstance(item, list | dict)}
        if isinstance(found, list)
        else {_fold(found)}
    )
    want = {_fold(item) for item in wanted} if isinstance(wanted, list) else {_fold(wanted)}
    return not have.isdisjoint(want)


def _contains(found: Any, wanted: Any) -> bool:
    parts = found if isinstance(found, list) else [found]
    wants = wanted if isinstance(wanted, list) else [wanted]
    return any(str(want).lower() in part.lower() for want in wants for part in parts if isinstance(part, str))


def _number(found: Any) -> int | float | None:
    return found if isinstance(found, int | float) and not isinstance(found, bool) else None


def _within(found: int | float | None, low: float | None, high: float | None) -> bool:
    return found is not None and (low is None or found >= low) and (high is None or found <= high)


def parse_range(field: str, wanted: Any) -> tuple[int | None, int | None]:
    """Inclusive bounds. Dates are whole ms, so `gt` is `gte` one further; ISO and epoch ms are both taken."""
    if not isinstance(wanted, Mapping) or not wanted or any(key not in BOUNDS for key in wanted):
        raise bad(f"Invalid range for field {field}")
    low: int | None = None
    high: int | None = None
    for key, text in wanted.items():
        bound = epoch_ms(text)
        if bound is None:
            raise bad(f"Invalid range value {text} for field {field}")
        if key in ("gt", "gte"):
            low = bound + (key == "gt")
        else:
            high = bound - (key == "lt")
    return low, high


def date_span(filters: list[Any], field: str) -> tuple[int | None, int | None] | None:
    """The bounds that plain ranges on one date amount to, or None if `filters` says anything else."""
    low: int | None = None
    high: int | None = None
    for item in filters:
        if not isinstance(item, Mapping) or item.get("field") != field or item.get("operator") != "range":
            return None
        first, last = parse_range(field, item.get("value"))
        low = first if low is None else max(low, first) if first is not None else low
        high = last if high is None else min(high, last) if last is not None else high
    return low, high


def free_text(text: str) -> Predicate:
    """`query`: a part of the name, e-mail, phone or company."""
    if not text:
        return lambda entry, _: True
    needle = text.lower()
    keys = ("fullNameLowerCase", "emailLowerCase", "phone", "companyName")
    return lambda entry, _: any(needle in str(entry.record.get(key, "")).lower() for key in keys)
