"""Reference data of a location: what mapping must know of it. Not mirrored entities, but read from the API too."""

from zoneinfo import ZoneInfo

from rankr_sync.errors import BadAnswer
from rankr_sync.model import JsonObject, Request, Row
from rankr_sync.streams.base import items_of, trace_id_of


def location_request(location_id: str) -> Request:
    """The location itself: its name, country and time zone."""
    return Request("GET", f"/locations/{location_id}", "/locations/{id}", "locations.readonly")


def location_parse(location_id: str, payload: JsonObject) -> Row:
    """The row of `locations`. Raises BadAnswer where there is no location: never one without a time zone instead."""
    found = payload.get("location")
    if not isinstance(found, dict):
        raise BadAnswer("the answer has no object 'location'", trace_id=trace_id_of(payload))
    row: Row = {"id": location_id}
    for column, key in (("name", "name"), ("timezone", "timezone"), ("country", "country")):
        value = found.get(key)
        row[column] = value if isinstance(value, str) and value else None
    if row["timezone"] is not None and not _is_zone(row["timezone"]):
        row["timezone"] = None
    return row


def _is_zone(name: str) -> bool:
    try:
        ZoneInfo(name)
    except (KeyError, ValueError, OSError):
        return False
    return True


def custom_fields_request(location_id: str) -> Request:
    """The definitions of the contacts' custom fields: contacts carry ids, people know names."""
    path = f"/locations/{location_id}/customFields"
    scope = "locations/customFields.readonly"
    return Request("GET", path, "/locations/{id}/customFields", scope, (("model", "contact"),))


def custom_fields_parse(payload: JsonObject) -> list[Row]:
    """The rows of `custom_fields`; definitions without an id are of no use and left out."""
    rows = []
    for item in items_of(payload, "customFields"):
        if isinstance(item, dict) and isinstance(item.get("id"), str):
            values = {"name": item.get("name"), "field_key": item.get("fieldKey"), "data_type": item.get("dataType")}
            rows.append({"id": item["id"], **{k: v if isinstance(v, str) else None for k, v in values.items()}})
    return rows
