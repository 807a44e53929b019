"""The people of a location, made from a seed; what hangs on them is made in `generate_children`.

Everything is a function of (seed, number of the location, start time), so two sandboxes with the same three serve the
same bytes. Amounts have long tails, as real accounts do: most contacts have no task, a few have fifty.
"""

from __future__ import annotations

import random
from typing import Any

from . import words
from .drawing import Drawing
from .lowercase import derive
from .reference import DAY_MS, Record, Reference, new_id
from .times import iso

TWO_YEARS_MS = 730 * DAY_MS
FILE_URL = "https://files.example.com/documents/download/"


class ContactMaker(Drawing):
    """Makes contacts one after the other."""

    def __init__(self, location_id: str, reference: Reference, rng: random.Random, start_ms: int) -> None:
        super().__init__(rng)
        self.opportunities: dict[str, list[Record]] = {}
        self._location_id = location_id
        self._start_ms = start_ms
        self._users = list(reference.users)
        self._businesses = list(reference.businesses)
        self._fields = {item["dataType"]: item for item in reference.custom_fields if item["model"] == "contact"}
        self._us_phones = rng.randrange(100 * len(words.AREA_CODES))

    def contact(self, number: int) -> Record:
        """The `number`-th contact, in the shape of GET by id: a key without a value is absent."""
        rand = self.rng.random
        added = self._start_ms - 1 - int(rand() * TWO_YEARS_MS)
        updated = added if rand() < 0.35 else added + int(rand() * (self._start_ms - 1 - added))
        date_added = iso(added)
        record: Record = {
            "id": new_id(self.rng),
            "dateAdded": date_added,
            "type": "customer" if rand() < 0.25 else "lead",
            "locationId": self._location_id,
        }
        self._name_and_reach(record, number)
        self._address(record)
        self._consent(record)
        self._origin(record, added)
        record["tags"] = self._tags()
        record["dateUpdated"] = date_added if updated == added else iso(updated)
        record["customFields"] = self._custom_values()
        first, last = record.get("firstName"), record.get("lastName")
        self._more_reach(record, number)
        if first and last and rand() < 0.08:
            self.opportunities[record["id"]] = [self._opportunity()]
        return record

    def _name_and_reach(self, record: Record, number: int) -> None:
        rand = self.rng.random
        first, last = self.pick(words.FIRST_NAMES), self.pick(words.LAST_NAMES)
        has_first, has_last = rand() < 0.97, rand() < 0.92
        if has_first:
            record["firstName"] = first[0]
        if has_last:
            record["lastName"] = last[0]
        if rand() < 0.85 or not (has_first or has_last):
            record["email"] = f"{first[1]}.{last[1]}.{number}@{self.pick(words.MAIL_DOMAINS)}"
        if rand() < 0.8:
            record["phone"] = self.phone()
        derive(record)

    def phone(self) -> str:
        """E.164, from ranges reserved for fiction."""
        if self.rng.random() < 0.45:
            self._us_phones += 1
            area, line = divmod(self._us_phones % (100 * len(words.AREA_CODES)), 100)
            return f"+1{words.AREA_CODES[area]}55501{line:02d}"
        prefix, digits = self.pick(words.DRAMA_RANGES)
        return f"{prefix}{int(self.rng.random() * 10**digits):0{digits}d}"

    def _more_reach(self, record: Record, number: int) -> None:
        rand = self.rng.random
        emails = [{"email": f"second.{number}@example.net"}] if rand() < 0.06 else []
        record["additionalEmails"] = emails
        record["additionalPhones"] = [{"phone": self.phone()} for _ in range(2)] if rand() < 0.05 else []

    def _address(self, record: Record) -> None:
        rand = self.rng.random
        if rand() < 0.3:
            record["companyName"] = self.pick(words.COMPANIES)
            if rand() < 0.6:
                record["businessId"] = self.pick(self._businesses)
        if rand() < 0.45:
            city, state, postal_code, country = self.pick(words.CITIES)
            record["address1"] = f"{1 + int(rand() * 240)} {self.pick(words.STREETS)}"
            record.update(city=city, state=state, postalCode=postal_code, country=country)
        else:
            record["country"] = "US"
        if rand() < 0.2:
            record["timezone"] = self.pick(words.TIME_ZONES)
        if rand() < 0.1:
            record["website"] = "https://shop.example.com/?q=caf%C3%A9"
        if rand() < 0.15:
            record["dateOfBirth"] = f"{1940 + int(rand() * 65)}-{1 + int(rand() * 12):02d}-{1 + int(rand() * 28):02d}"
        if rand() < 0.01:
            record["ssn"] = f"000-00-{int(rand() * 10_000):04d}"  # area 000 was never issued

    def _consent(self, record: Record) -> None:
        rand = self.rng.random
        if rand() < 0.5:
            record["dnd"] = rand() < 0.2
        if rand() < 0.12:
            record["dndSettings"] = {
                channel: {"status": "active" if rand() < 0.4 else "inactive", "message": "", "code": "103"}
                for channel in ("Call", "Email", "SMS", "WhatsApp", "GMB", "FB")
            }

    def _origin(self, record: Record, added: int) -> None:
        rand = self.rng.random
        if rand() < 0.6:
            record["source"] = self.pick(words.SOURCES)
        if rand() < 0.6:
            record["assignedTo"] = self.pick(self._users)
        if rand() < 0.06:
            record["followers"] = [self.pick(self._users)]
        if rand() < 0.3:
            record["lastActivity"] = added + int(rand() * (self._start_ms - added))
        if rand() < 0.2:
            record["attributionSource"] = {
                "url": "https://example.com/landing?utm_source=ads",
                "utmSource": "ads",
                "medium": "form",
                "ip": f"203.0.113.{int(rand() * 256)}",
                "userAgent": self.pick(words.USER_AGENTS),
            }
        record["createdBy"] = {
            "source": "INTEGRATION",
            "channel": "OAUTH",
            "sourceId": "6a59dd2042648f15f1f9d4b7-sandbox1",
            "timestamp": record["dateAdded"],
        }

    def _tags(self) -> list[str]:
        count = int(self.rng.random() ** 2 * 5)
        return sorted({self.pick(words.TAGS) for _ in range(count)})

    def _opportunity(self) -> Record:
        return {
            "id": new_id(self.rng),
            "pipelineId": "SandboxPipeline00001",
            "pipelineStageId": "2c4fdab1-a812-4255-a833-6c9287b12866",
            "monetaryValue": int(self.rng.random() * 10_000),
            "status": self.pick(("open", "won", "lost", "abandoned")),
        }

    def _custom_values(self) -> list[Record]:
        rand = self.rng.random
        return [
            {"id": item["id"], "value": self._custom_value(kind, item)}
            for kind, item in self._fields.items()
            if rand() < (0.03 if kind == "FILE_UPLOAD" else 0.2)
        ]

    def _custom_value(self, kind: str, item: Record) -> Any:
        # The spec says string; really string, number, array or object.
        rand = self.rng.random
        match kind:
            case "NUMERICAL":
                return 1 + int(rand() * 9)
            case "MONETORY":
                return round(rand() * 50_000, 2)
            case "CHECKBOX":
                return [pick for pick in item["picklistOptions"] if rand() < 0.5] or [item["picklistOptions"][0]]
            case "SINGLE_OPTIONS":
                return self.pick(item["picklistOptions"])
            case "DATE":
                return f"{2025 + int(rand() * 3)}-{1 + int(rand() * 12):02d}-{1 + int(rand() * 28):02d}"
            case "LARGE_TEXT":
                return self.pick(words.NOTE_BODIES)[1]
            case "FILE_UPLOAD":
                key = f"{self.rng.getrandbits(32):08x}-2b06-4fc6-b7bc-74cd814c68cb"
                meta = {
                    "fieldname": item["id"],
                    "originalname": "contract.pdf",
                    "mimetype": "application/pdf",
                    "size": 4096,
                }
                return {key: {"meta": meta, "documentId": key[:8], "url": FILE_URL + key}}
        return self.pick(words.FIRST_NAMES)[0]
