"""Contacts: two walks (list and search), three shapes, one row.

The list, the search index and the record by id send the same contact in three forms (recordings
2026-07-17): names lower-cased or in their true case, missing values absent or null, an address under two
names, and each form is silent about something. `normalise` brings them to one content, `merge` keeps what
a form is silent about.
"""

from datetime import UTC, datetime
from typing import Any

from rankr_sync import schema
from rankr_sync.mapping import FieldRule
from rankr_sync.model import JsonObject, Known, LocationFacts, Page, Record, Request
from rankr_sync.part import Part
from rankr_sync.plan import INDEX_SKEW
from rankr_sync.streams.base import Lookup, Stream, Walk, each_once, items_of, moment_or_none, one_of, read_records
from rankr_sync.values import is_empty
from rankr_sync.visits import ACTIVE_CONTACT, CHANGED_CONTACT, TOUCHED_CONTACT

SCOPE = "contacts.readonly"
PAGE = 100
LONGEST_WORD = 75
"""Longer values are no filters of the search."""

_ALIASES = {"address": "address1", "firstNameRaw": "firstName", "lastNameRaw": "lastName"}
_OF_THE_INDEX = frozenset(
    {
        *("searchAfter", "contactName", "fullNameLowerCase", "firstNameLowerCase", "lastNameLowerCase"),
        *("emailLowerCase", "firstNameRaw", "lastNameRaw", "address", "locationId", "dateUpdated"),
    }
)
"""Keys that repeat what others say, in the words of the search index."""

_NAMES_OF_THE_INDEX = ("contactName", "fullNameLowerCase")

_SEARCH_ONLY = frozenset(
    {"opportunities", "phoneLabel", "validEmail", "inboundDndSettings", "businessName", "attributions"}
)
"""Keys that the record by id never carries; there every other absent key means "no value"."""


# -- the list: GET /contacts/ (deprecated, absent in v3) -----------------------------------------------


def list_request(location_id: str, position: JsonObject) -> Request:
    """The next page. Both cursor values or none: half a cursor returns page 1 for ever (pipedream#21941)."""
    query = [("locationId", location_id), ("limit", str(PAGE))]
    if position.get("startAfterId") is not None:
        query += [("startAfter", str(position["startAfter"])), ("startAfterId", str(position["startAfterId"]))]
    return Request("GET", "/contacts/", "/contacts/", SCOPE, tuple(query))


def list_parse(position: JsonObject, payload: JsonObject) -> Page:
    """Ends at: no cursor offered, an empty page, or the cursor we came with. A short page proves nothing."""
    items = items_of(payload, "contacts")
    records, rejects = read_records(items, "list", updated_key="dateUpdated", belongs=False)
    found = payload.get("meta")
    meta: JsonObject = found if isinstance(found, dict) else {}
    if not items or ("startAfterId" in meta and meta["startAfterId"] is meta.get("startAfter") is None):
        return Page(records, rejects, whole=True)
    after = _list_cursor(meta, items)
    if after is None or after["startAfterId"] == position.get("startAfterId"):
        return Page(records, rejects)
    return Page(records, rejects, after, total=_total(meta))


def _total(holder: Any) -> int | None:
    total = holder.get("total") if isinstance(holder, dict) else None
    return total if isinstance(total, int) else None


def _list_cursor(meta: JsonObject, items: list[Any]) -> JsonObject | None:
    if meta.get("startAfterId") is not None and meta.get("startAfter") is not None:
        return {"startAfter": meta["startAfter"], "startAfterId": meta["startAfterId"]}
    # The documented answer has no meta at all: the last contact (that can be one) is the cursor.
    for item in reversed(each_once(items)):
        added = moment_or_none(item, "dateAdded") if isinstance(item, dict) and item.get("id") else None
        if added is not None:
            return {"startAfter": round(added.timestamp() * 1000), "startAfterId": item["id"]}
    return None


# -- the search: POST /contacts/search -----------------------------------------------------------------


def search_begin(since: datetime | None) -> JsonObject:
    """Everything (oldest first, so that new contacts come at the end), or what changed since a moment."""
    return {"since": since.astimezone(UTC).isoformat(timespec="milliseconds")} if since else {}


def search_narrow(position: JsonObject, part: Part) -> JsonObject:
    """Filters say it to the server, unless a word is longer than it takes."""
    words = part.document()
    too_long = any(len(word) > LONGEST_WORD for words in words.values() for word in words)
    return position if part.is_whole or too_long else {**position, "only": words}


def _only(words: JsonObject) -> JsonObject:
    """`contains` shows more than the tag itself ("vip" in "no vip"): what is not meant is left out after the page."""
    tags = [{"field": "tags", "operator": "contains", "value": tag} for tag in words["tags"]]
    businesses = [{"field": "businessId", "operator": "eq", "value": id_} for id_ in words["businesses"]]
    return {"group": "OR", "filters": tags + businesses}


def search_request(location_id: str, position: JsonObject) -> Request:
    """The next page; ascending, so that a contact edited during the walk is met again and never missed."""
    since = position.get("since")
    body: JsonObject = {
        "locationId": location_id,
        "pageLimit": PAGE,
        "sort": [{"field": "dateUpdated" if since else "dateAdded", "direction": "asc"}],
    }
    if since:
        value = {"gte": since.replace("+00:00", "Z")}
        body["filters"] = [{"field": "dateUpdated", "operator": "range", "value": value}]
    if "only" in position:
        body["filters"] = [_only(position["only"])]
    if "after" in position:
        body["searchAfter"] = position["after"]
    else:
        body["page"] = 1
    return Request("POST", "/contacts/search", "/contacts/search", SCOPE, body=body)


def search_parse(position: JsonObject, payload: JsonObject) -> Page:
    """Ends at an empty page, or at a short one when as many as `total` have been seen, each counted once."""
    items = items_of(payload, "contacts")
    records, rejects = read_records(items, "search", updated_key="dateUpdated", belongs=False)
    if not items:
        return Page(whole=True)
    different = each_once(items)
    seen = position.get("seen", 0) + len(different)
    total = _total(payload)
    if len(items) < PAGE and total is not None and seen >= total:
        return Page(records, rejects, whole=True)
    after = next((i["searchAfter"] for i in reversed(different) if isinstance(i, dict) and i.get("searchAfter")), None)
    if after is None or after == position.get("after"):
        return Page(records, rejects)
    return Page(records, rejects, {**position, "after": after, "seen": seen}, total=total)


# -- the record by id ----------------------------------------------------------------------------------


def detail_request(contact_id: str) -> Request:
    """The full profile of one contact."""
    return Request("GET", f"/contacts/{contact_id}", "/contacts/{id}", SCOPE)


def detail_parse(contact_id: str, payload: JsonObject) -> Page:
    """One contact; the answer without its envelope's object is a bad answer, not a missing contact."""
    records, rejects = read_records(
        one_of(payload, "contact"),
        "detail",
        updated_key="dateUpdated",
        belongs=False,
    )
    return Page(records, rejects, whole=True)


# -- one business: GET /contacts/business/{id} ----------------------------------------------------------


def business_request(location_id: str, position: JsonObject) -> Request:
    """The next page. The dated specification has no upper limit for `limit`, v3 has 100."""
    query = (("locationId", location_id), ("limit", str(PAGE)), ("skip", str(position.get("skip", 0))))
    return Request("GET", f"/contacts/business/{position['business']}", "/contacts/business/{id}", SCOPE, query)


def business_parse(position: JsonObject, payload: JsonObject) -> Page:
    """Ends at an empty page, or when as many as `count` were shown: the server may send fewer than we asked for."""
    items = items_of(payload, "contacts")
    records, rejects = read_records(items, "list", updated_key="dateUpdated", belongs=False)
    count, shown = payload.get("count"), position.get("skip", 0) + len(items)
    if not items or (isinstance(count, int) and shown >= count):
        return Page(records, rejects, whole=True)
    return Page(records, rejects, {**position, "skip": shown})


# -- one content from three shapes ---------------------------------------------------------------------


def merge(record: Record, old: Known | None) -> JsonObject:
    """The payload to keep: the new one, and from the old one what the new one's shape is silent about.

    Search says null where there is nothing, so a key it does not have is one it never carries. By id, an
    absent key means "no value" except for the keys of the index. The list is known from few samples: an
    absent key is taken for "no value" only when the contact has changed since we stored it.
    """
    new = record.raw
    if old is None or old.raw is None:
        return new
    present = {_ALIASES.get(key, key) for key in new}
    kept = {
        key: value
        for key, value in old.raw.items()
        if key not in new and _ALIASES.get(key, key) not in present and _is_silent(record, old, key)
    }
    if record.shape == "list":
        kept |= _true_case(new, old.raw)
    return {**new, **kept} if kept else new


def _is_silent(record: Record, old: Known, key: str) -> bool:
    if key in _OF_THE_INDEX and key not in _ALIASES:
        return False
    if key == "name" and not record.raw.keys().isdisjoint(_NAMES_OF_THE_INDEX):
        return _is_named(record.raw, old.raw)
    if record.shape == "search":
        return True
    if record.shape == "detail" or _changed_since(record, old):
        return key in _SEARCH_ONLY
    return True


def _is_named(new: JsonObject, old: JsonObject | None) -> bool:
    """Whether the true-case name we know is the one that the index shows in lower case."""
    known = (old or {}).get("name")
    return isinstance(known, str) and any(new.get(key) == known.lower() for key in _NAMES_OF_THE_INDEX)


def _changed_since(record: Record, old: Known) -> bool:
    return bool(record.updated_at and old.updated_at and record.updated_at > old.updated_at + INDEX_SKEW)


def _true_case(new: JsonObject, old: JsonObject) -> JsonObject:
    """A list item may carry names in lower case only; the true case we already know is the same name."""
    kept = {}
    for key in ("firstName", "lastName"):
        true = old.get(f"{key}Raw") or old.get(key)
        if isinstance(true, str) and not new.get(f"{key}Raw") and new.get(key) == true.lower():
            kept[key] = true
    return kept


def normalise(raw: JsonObject, facts: LocationFacts) -> JsonObject:
    """One content whatever the shape: nothing empty, no copies of the index, true-case names, sorted sets."""
    content = {key: value for key, value in raw.items() if key not in _OF_THE_INDEX and not is_empty(value)}
    if "address1" not in content and not is_empty(raw.get("address")):
        content["address1"] = raw["address"]
    for key in ("firstName", "lastName"):
        if not is_empty(raw.get(f"{key}Raw")):
            content[key] = raw[f"{key}Raw"]
    content["name"] = _name(raw, content)
    content["tags"] = _tags(raw.get("tags"))
    content["customFields"] = _custom_fields(raw.get("customFields"))
    for key, inner in (("additionalEmails", "email"), ("additionalPhones", "phone")):
        if isinstance(content.get(key), list):
            content[key] = [_unwrapped(entry, inner) for entry in content[key]]
    if content.get("dnd") is False:
        del content["dnd"]
    return content


def _unwrapped(entry: Any, key: str) -> Any:
    """The list says `a@b.c` where the other shapes say `{email: a@b.c}`."""
    if isinstance(entry, dict) and [k for k, value in entry.items() if not is_empty(value)] == [key]:
        return entry[key]
    return entry


def _name(raw: JsonObject, content: JsonObject) -> str | None:
    parts = [str(content[key]) for key in ("firstName", "lastName") if key in content]
    if parts:
        return " ".join(parts)
    others = (raw.get(key) for key in ("name", *_NAMES_OF_THE_INDEX))
    return next((other for other in others if isinstance(other, str) and other), None)


def _tags(tags: Any) -> list[str]:
    if isinstance(tags, str):
        tags = [tags]
    return sorted({tag for tag in tags if isinstance(tag, str) and tag}) if isinstance(tags, list) else []


def _custom_fields(entries: Any) -> list[JsonObject]:
    """`[{id, value}]` by id. The value's key is spelled in three ways across endpoints and versions."""
    if not isinstance(entries, list):
        return []
    found = {}
    for entry in entries:
        if isinstance(entry, dict) and isinstance(entry.get("id"), str):
            value = next((entry[k] for k in ("value", "fieldValue", "field_value") if not is_empty(entry.get(k))), None)
            if value is not None:
                found[entry["id"]] = value
    return [{"id": key, "value": found[key]} for key in sorted(found)]


def is_of(content: JsonObject, part: Part) -> bool:
    """By its tags and its business."""
    return part.holds(content["tags"], content.get("businessId"))


def says(raw: JsonObject, old: Known, same: bool) -> str:
    """A moved `dateUpdated` alone says most of what hangs on the contact; `lastActivity` is only in few answers."""
    if same:
        return TOUCHED_CONTACT
    active = raw.get("lastActivity") not in (None, (old.raw or {}).get("lastActivity"))
    return ACTIVE_CONTACT if active else CHANGED_CONTACT


FIELDS = {
    "name": FieldRule(source="name"),
    "first_name": FieldRule(source="firstName"),
    "last_name": FieldRule(source="lastName"),
    "email": FieldRule(source="email"),
    "phone": FieldRule(source="phone", type="phone"),
    "company_name": FieldRule(source="companyName"),
    "source": FieldRule(source="source"),
    "type": FieldRule(source="type"),
    "assigned_to": FieldRule(source="assignedTo"),
    "business_id": FieldRule(source="businessId"),
    "timezone": FieldRule(source="timezone"),
    "country": FieldRule(source="country"),
    "city": FieldRule(source="city"),
    "state": FieldRule(source="state"),
    "postal_code": FieldRule(source="postalCode"),
    "address": FieldRule(source="address1"),
    "website": FieldRule(source="website"),
    "date_of_birth": FieldRule(source="dateOfBirth", type="date"),
    "dnd": FieldRule(source="dnd", type="boolean", default=False),
    "tags": FieldRule(source="tags", type="json", default=[]),
    "custom_fields": FieldRule(source="customFields", type="json", default=[]),
    "created_at": FieldRule(source="dateAdded", type="datetime"),
    "updated_at": FieldRule(source="dateUpdated", type="datetime"),
}

_SEARCH = Walk("search", search_request, search_parse, search_begin, marks_progress=True, narrow=search_narrow)

STREAM = Stream(
    name="contacts",
    table=schema.contacts,
    fields=FIELDS,
    normalise=normalise,
    walks=(Walk("list", list_request, list_parse), _SEARCH),
    delta=_SEARCH,
    lookup=Lookup(detail_request, detail_parse),
    by_business=Walk("business", business_request, business_parse),
    merge=merge,
    merges=True,
    is_of=is_of,
    owner=True,
    made_at="created_at",
    changed_at="updated_at",
    says=says,
)
