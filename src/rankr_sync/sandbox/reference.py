"""Generated reference data of a location: its own record, users, calendars, businesses, custom fields and tags.

What refers to it (contacts and what hangs on them) is made in `generate`.
"""

from __future__ import annotations

import random
import string
from dataclasses import dataclass, field
from typing import Any

from . import words
from .options import SandboxOptions
from .times import iso

Record = dict[str, Any]
ALPHABET = string.ascii_letters + string.digits
DAY_MS = 86_400_000


def new_id(rng: random.Random) -> str:
    """20 opaque, case-sensitive characters."""
    return "".join(rng.choices(ALPHABET, k=20))


def new_hex_id(rng: random.Random) -> str:
    """24 hex digits, as businesses have."""
    return f"{rng.getrandbits(96):024x}"


@dataclass
class Reference:
    """The lists that contacts, tasks and appointments point into."""

    profile: Record
    users: dict[str, Record] = field(default_factory=dict)
    calendars: dict[str, Record] = field(default_factory=dict)
    businesses: dict[str, Record] = field(default_factory=dict)
    custom_fields: list[Record] = field(default_factory=list)
    tags: list[Record] = field(default_factory=list)


# (name, data type, options)
CUSTOM_FIELDS: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    ("Nickname", "TEXT", ()),
    ("Household size", "NUMERICAL", ()),
    ("Background", "LARGE_TEXT", ()),
    ("Interests", "CHECKBOX", ("Solar", "Roofing", "Jardín", "暖房")),
    ("Policy renewal", "DATE", ()),
    ("Budget", "MONETORY", ()),
    ("Signed contract", "FILE_UPLOAD", ()),
    ("Preferred channel", "SINGLE_OPTIONS", ("Phone", "E-mail", "SMS", "WhatsApp")),
)


def make_reference(location_id: str, rng: random.Random, start_ms: int, options: SandboxOptions) -> Reference:
    """Everything but people, deterministic in `rng`."""
    founded = start_ms - 800 * DAY_MS
    reference = Reference(_profile(location_id, rng, founded, options))
    for first, last in words.USERS:
        user = _user(location_id, new_id(rng), first, last)
        reference.users[user["id"]] = user
    for name in words.CALENDARS:
        calendar = _calendar(location_id, new_id(rng), name)
        reference.calendars[calendar["id"]] = calendar
    for number in range(max(5, min(200, options.contacts // 40))):
        business = _business(location_id, new_hex_id(rng), number, rng, founded)
        reference.businesses[business["id"]] = business
    folder = new_id(rng)
    for position, (name, kind, picks) in enumerate(CUSTOM_FIELDS):
        reference.custom_fields.append(
            _custom_field(location_id, new_id(rng), name, kind, picks, "contact", position, folder, founded)
        )
    reference.custom_fields.append(
        _custom_field(location_id, new_id(rng), "Deal size", "MONETORY", (), "opportunity", 0, folder, founded)
    )
    reference.tags = [{"id": new_id(rng), "name": name, "locationId": location_id} for name in words.TAGS]
    return reference


def _profile(location_id: str, rng: random.Random, founded: int, options: SandboxOptions) -> Record:
    return {
        "id": location_id,
        "companyId": new_id(rng),
        "name": f"Sandbox {location_id[-5:]}",
        "address": "1 Example Plaza",
        "city": "New York",
        "state": "NY",
        "country": "US",
        "postalCode": "10001",
        "website": "https://example.com",
        "timezone": options.timezone,
        "email": "office@example.com",
        "phone": "+12125550100",
        "settings": {
            "allowDuplicateContact": options.allow_duplicates,
            "allowDuplicateOpportunity": False,
            "allowFacebookNameMerge": False,
            "disableContactTimezone": False,
            "contactUniqueIdentifiers": ["email", "phone"],
        },
        "dateAdded": iso(founded),
    }


def _user(location_id: str, user_id: str, first: str, last: str) -> Record:
    return {
        "id": user_id,
        "name": f"{first} {last}",
        "firstName": first,
        "lastName": last,
        "email": f"user.{user_id[:6].lower()}@example.com",
        "phone": "+12125550101",
        "extension": "",
        "roles": {"type": "account", "role": "user", "locationIds": [location_id]},
    }


def _calendar(location_id: str, calendar_id: str, name: str) -> Record:
    return {
        "id": calendar_id,
        "locationId": location_id,
        "name": name,
        "calendarType": "event",
        "eventTitle": "{{contact.name}}",
        "eventColor": "#039BE5",
        "slotDuration": 30,
        "slotDurationUnit": "mins",
        "slotInterval": 30,
        "slotIntervalUnit": "mins",
        "appoinmentPerSlot": 1,  # misspelt on the wire, and spelt right beside it
        "appointmentPerSlot": 1,
        "openHours": {},
        "enableRecurring": False,
        "autoConfirm": True,
        "availabilities": [],
        "isActive": True,
    }


def _business(location_id: str, business_id: str, number: int, rng: random.Random, founded: int) -> Record:
    name = words.COMPANIES[number % len(words.COMPANIES)]
    if number >= len(words.COMPANIES):
        name += words.BUSINESS_ENDINGS[number % len(words.BUSINESS_ENDINGS)] + f" {number}"
    city, state, postal_code, country = words.CITIES[number % len(words.CITIES)]
    created = iso(founded + rng.randrange(700 * DAY_MS))
    return {
        "id": business_id,
        "name": name,
        "phone": "+12125550102" if number % 2 else None,
        "email": f"office{number}@example.com",
        "website": f"https://b{number}.example.com",
        "address": None,
        "city": city,
        "state": state,
        "postalCode": postal_code,
        "country": country,
        "description": None,
        "locationId": location_id,
        "createdBy": None,
        "updatedBy": None,
        "createdAt": created,
        "updatedAt": created,
    }


def _custom_field(
    location_id: str,
    field_id: str,
    name: str,
    kind: str,
    picks: tuple[str, ...],
    model: str,
    position: int,
    folder: str,
    founded: int,
) -> Record:
    record = {
        "id": field_id,
        "name": name,
        "model": model,
        "fieldKey": f"{model}.{name.lower().replace(' ', '_')}",
        "placeholder": "",
        "dataType": kind,
        "position": position * 50,
        "documentType": "field",
        "parentId": folder,
        "locationId": location_id,
        "dateAdded": iso(founded),
        "standard": False,
    }
    return record | {"picklistOptions": list(picks)} if picks else record
