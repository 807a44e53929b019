"""The shapes one record takes on the wire: by id, in a list, in search, under v3. Pure functions.

The same contact differs between endpoints in names of keys, in letter case and in how a missing value looks; the
differences are those of Nango recordings 2026-07-17 and amp-labs fixtures.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .index import Entry
from .reference import Record
from .times import iso, with_offset, without_zone

if TYPE_CHECKING:
    from .world import Location

# v3 renames the channels of dndSettings.
V3_CHANNELS = {"Call": "call", "Email": "email", "SMS": "sms", "WhatsApp": "whatsApp", "GMB": "gmb", "FB": "fb"}
DATED_CHANNELS = {new: old for old, new in V3_CHANNELS.items()}


def dnd_settings(record: Record, version: str) -> Record:
    """`dndSettings` with the spelling of the version asked for."""
    settings: Record = record.get("dndSettings") or {}
    if version == "v3":
        return {V3_CHANNELS.get(channel, channel): value for channel, value in settings.items()}
    return settings


def contact_by_id(record: Record, version: str) -> Record:
    """`GET /contacts/{id}`: the record itself; a key without a value is absent."""
    if version == "v3" and "dndSettings" in record:
        return {**record, "dndSettings": dnd_settings(record, version)}
    return record


def contact_in_search(entry: Entry, location: Location, version: str, sort_values: list[Any]) -> Record:
    """An item of `POST /contacts/search`: every key is there, missing values are null, [] or {}."""
    record = entry.record
    get = record.get
    business = location.reference.businesses.get(get("businessId", ""))
    return {
        "id": record["id"],
        "phoneLabel": None,
        "country": get("country"),
        "address": get("address1"),
        "source": get("source"),
        "type": get("type"),
        "locationId": record["locationId"],
        "website": get("website"),
        "dnd": get("dnd", False),
        "state": get("state"),
        "businessName": business["name"] if business else None,
        "customFields": record["customFields"],
        "tags": record["tags"],
        "dateAdded": record["dateAdded"],
        "additionalEmails": record["additionalEmails"],
        "phone": get("phone"),
        "companyName": get("companyName"),
        "additionalPhones": record["additionalPhones"],
        "dateUpdated": entry.shown_update,
        "city": get("city"),
        "dateOfBirth": get("dateOfBirth"),
        "firstNameLowerCase": get("firstNameLowerCase"),
        "lastNameLowerCase": get("lastNameLowerCase"),
        "firstName": get("firstName"),
        "lastName": get("lastName"),
        "contactName": get("fullNameLowerCase"),
        "email": get("email"),
        "assignedTo": get("assignedTo"),
        "followers": get("followers", []),
        "validEmail": None,
        "dndSettings": dnd_settings(record, version),
        "opportunities": location.opportunities.get(record["id"], []),
        "postalCode": get("postalCode"),
        "businessId": get("businessId"),
        "searchAfter": [*sort_values, record["id"]],
        "timezone": get("timezone"),
        "inboundDndSettings": {},
        "attributionSource": get("attributionSource", {}),
        "lastAttributionSource": {},
    }


def contact_in_list(record: Record, version: str) -> Record:
    """An item of `GET /contacts/`: names lower-cased, true case beside them (amp-labs)."""
    get = record.get
    attribution = get("attributionSource")
    item = {
        "id": record["id"],
        "locationId": record["locationId"],
        "contactName": get("fullNameLowerCase"),
        "firstName": get("firstNameLowerCase"),
        "lastName": get("lastNameLowerCase"),
        "firstNameRaw": get("firstName"),
        "lastNameRaw": get("lastName"),
        "companyName": get("companyName"),
        "email": get("email"),
        "phone": get("phone"),
        "dnd": get("dnd", False),
        "dndSettings": dnd_settings(record, version),
        "type": get("type"),
        "source": get("source"),
        "assignedTo": get("assignedTo"),
        "city": get("city"),
        "state": get("state"),
        "postalCode": get("postalCode"),
        "address1": get("address1"),
        "country": get("country"),
        "website": get("website"),
        "timezone": get("timezone"),
        "dateAdded": record["dateAdded"],
        "dateUpdated": record["dateUpdated"],
        "dateOfBirth": get("dateOfBirth"),
        "businessId": get("businessId"),
        "tags": record["tags"],
        "followers": get("followers", []),
        "additionalEmails": [entry["email"] for entry in record["additionalEmails"]],
        "attributions": [{**attribution, "isFirst": True}] if attribution else [],
        "customFields": record["customFields"],
    }
    if "lastActivity" in record:
        item["lastActivity"] = record["lastActivity"]
    return item


def contact_created(record: Record) -> Record:
    """The answer to a creation: a few keys that no read shows."""
    born = record.get("dateOfBirth")
    shape = {key: value for key, value in record.items() if key not in ("additionalEmails", "additionalPhones")}
    shape |= {
        "deleted": False,
        "bounceEmail": False,
        "unsubscribeEmail": False,
        "validEmail": None,
        "validEmailDate": None,
    }
    shape["lastUpdatedBy"] = record["createdBy"]
    shape["lastSessionActivityAt"] = record["dateAdded"]
    if isinstance(born, str):
        # By id it is a date, in this answer a time.
        shape |= {"dateOfBirth": f"{born}T00:00:00.000Z", "birthMonth": int(born[5:7]), "birthDay": int(born[8:10])}
    return shape


def task_in_search(task: Record, location: Location, *, rich: bool) -> Record:
    """An item of the location-wide task search: `_id` instead of `id`, and people inline."""
    contact = location.contacts.get(task["contactId"], {})
    item = {"_id": task["id"], **task}
    del item["id"]
    item["contactDetails"] = {
        "_id": task["contactId"],
        "firstName": contact.get("firstNameLowerCase"),
        "lastName": contact.get("lastNameLowerCase"),
    }
    user = location.reference.users.get(task.get("assignedTo", ""))
    if user is not None:
        item["assignedToUserDetails"] = {key: user[key] for key in ("id", "firstName", "lastName")}
    if rich:
        made, changed = location.task_times[task["id"]]
        status = "completed" if task["completed"] else "to_do"
        item |= {"locationId": location.id, "deleted": False, "status": status, "statusGroup": status}
        item |= {"dateAdded": iso(made), "dateUpdated": iso(changed), "updatedAt": iso(changed)}
        item["searchAfter"] = [made, task["id"]]
    return item


CONTACT_APPOINTMENT_TIMES = ("startTime", "endTime", "dateAdded", "dateUpdated")


def appointment_of_contact(record: Record, location: Location) -> Record:
    """An item of `GET /contacts/{id}/appointments`: all four times without a zone, in the location's own."""
    item = {key: value for key, value in record.items() if key not in ("isRecurring", "createdBy")}
    for key in CONTACT_APPOINTMENT_TIMES:
        item[key] = without_zone(record[key], location.zone)
    return item


def calendar_event(record: Record, location: Location, *, deleted: bool = False) -> Record:
    """An item of `GET /calendars/events`: times with an offset, and the status spelt wrong beside right."""
    item = {
        "appointmentStatus": record["appointmentStatus"],
        "appoinmentStatus": record["appointmentStatus"],
        **{key: value for key, value in record.items() if key not in ("status", "appointmentStatus")},
    }
    item["startTime"] = with_offset(record["startTime"], location.zone)
    item["endTime"] = with_offset(record["endTime"], location.zone)
    item["deleted"] = deleted
    return item


def appointment_written(record: Record) -> Record:
    """The answer to a creation or update: flat, without the times of the appointment."""
    keys = ("id", "calendarId", "locationId", "contactId", "title", "status", "appointmentStatus", "address")
    shape = {key: record[key] for key in keys}
    shape["appoinmentStatus"] = record["appointmentStatus"]
    return shape | {
        key: record[key] for key in ("dateAdded", "dateUpdated", "isRecurring", "assignedUserId") if key in record
    }
