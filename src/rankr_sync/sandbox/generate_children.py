"""Tasks, notes and appointments of generated contacts, each somewhere between the contact's creation and now."""

from __future__ import annotations

import random
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

from . import words
from .drawing import Drawing
from .reference import DAY_MS, Record, Reference, new_id
from .times import is_ambiguous, iso

STATUSES = ("confirmed", "confirmed", "confirmed", "showed", "noshow", "cancelled", "new")


class ChildMaker(Drawing):
    """Makes what hangs on a contact."""

    def __init__(
        self, location_id: str, reference: Reference, rng: random.Random, start_ms: int, zone: ZoneInfo
    ) -> None:
        super().__init__(rng)
        self._location_id = location_id
        self._start_ms = start_ms
        self._zone = zone
        self._users = list(reference.users)
        self._calendars = list(reference.calendars)
        today = datetime.fromtimestamp(start_ms / 1000, zone)
        self._today = today.replace(hour=0, minute=0, second=0, microsecond=0)

    def task(self, contact_id: str, added: int) -> tuple[Record, int]:
        """A task, and when it was made: something the API does not tell."""
        rand = self.rng.random
        made = added + int(rand() * (self._start_ms - added))
        record: Record = {"id": new_id(self.rng), "title": self.pick(words.TASK_TITLES)}
        if rand() < 0.6:
            record["body"] = self.pick(words.TASK_BODIES)
        if rand() < 0.7:
            record["assignedTo"] = self.pick(self._users)
        record["dueDate"] = iso((made + int(rand() * 30 * DAY_MS)) // 900_000 * 900_000)
        record["completed"] = rand() < 0.55
        record["contactId"] = contact_id
        return record, made

    def note(self, contact_id: str, added: int) -> Record:
        """A note; its body is often HTML."""
        rand = self.rng.random
        html, plain = self.pick(words.NOTE_BODIES)
        record: Record = {"id": new_id(self.rng), "body": html}
        if rand() < 0.93:
            record["bodyText"] = plain
        record["userId"] = self.pick(self._users) if rand() < 0.7 else None
        record["dateAdded"] = iso(added + int(rand() * (self._start_ms - added)))
        record["contactId"] = contact_id
        record["pinned"] = rand() < 0.05
        record["relations"] = []
        if rand() < 0.15:
            record["title"] = self.pick(words.NOTE_TITLES)
            record["color"] = "#FFAA00"
        return record

    def appointment(self, contact_id: str, added: int) -> Record:
        """An appointment in office hours, up to 60 days ahead; times are kept as UTC."""
        rand = self.rng.random
        days = int(rand() * ((self._start_ms - added) / DAY_MS + 60))
        day = self._today + timedelta(days=60 - days)
        # Between 9 and 17 o'clock, so that the zone-less form names one instant.
        begins = day.replace(hour=9 + int(rand() * 8), minute=self.pick((0, 15, 30, 45))).astimezone(UTC)
        made = min(self._start_ms - 1, int(begins.timestamp() * 1000)) - int(rand() * 10 * DAY_MS)
        while is_ambiguous(made, self._zone):
            made -= 3_600_000
        record: Record = {
            "id": new_id(self.rng),
            "calendarId": self.pick(self._calendars),
            "locationId": self._location_id,
            "contactId": contact_id,
            "title": self.pick(words.APPOINTMENT_TITLES),
            "status": "booked",
            "appointmentStatus": self.pick(STATUSES),
            "address": self.pick(words.APPOINTMENT_ADDRESSES),
            "startTime": iso(int(begins.timestamp() * 1000)),
            "endTime": iso(int(begins.timestamp() * 1000) + self.pick((15, 30, 60)) * 60_000),
            "dateAdded": iso(made),
            "dateUpdated": iso(made),
            "assignedResources": [],
            "isRecurring": False,
            "createdBy": {"source": "third_party", "userId": None},
        }
        if rand() < 0.6:
            record["assignedUserId"] = self.pick(self._users)
            record["users"] = [record["assignedUserId"]]
        if rand() < 0.3:
            record["notes"] = self.pick(words.TASK_BODIES)
        return record
