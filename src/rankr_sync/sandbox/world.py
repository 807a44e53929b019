"""State of one location: its contacts, and every change they can go through. What hangs on them is in `children`.

Records are replaced, never edited in place: the search index and a test may hold on to an older one. Endpoints,
churn and tests all change the world through these methods, so that indices and times stay right. No HTTP here.
"""

from __future__ import annotations

import random
from zoneinfo import ZoneInfo

from .children import Children, UnknownIdError, known
from .generate import ContactMaker
from .generate_children import ChildMaker
from .index import SearchIndex
from .lowercase import derive
from .options import SandboxOptions, location_id
from .ordered import DateIndex
from .reference import Record, make_reference, new_id
from .times import epoch_ms, iso

# Keys that answer with an empty list rather than by absence (Nango recordings 2026-07-17).
LIST_KEYS = ("tags", "customFields", "additionalEmails", "additionalPhones")

__all__ = ["Location", "UnknownIdError"]


class Location(Children):
    """One sub-account."""

    def __init__(self, number: int, options: SandboxOptions, start_ms: int) -> None:
        """Generate the people and what hangs on them."""
        name, seed = location_id(number), f"{options.seed}/{number}"
        rng = random.Random(seed)
        reference = make_reference(name, rng, start_ms, options)
        super().__init__(name, ZoneInfo(options.timezone), reference, random.Random(f"{seed}/later"))
        self._bump_rng = random.Random(f"{seed}/bump")
        self._children_bump = options.children_bump
        people = ContactMaker(name, reference, rng, start_ms)
        self._populate(people, ChildMaker(name, reference, rng, start_ms, self.zone), options.contacts)
        self.opportunities = people.opportunities
        self.listing = DateIndex((epoch_ms(item["dateAdded"]) or 0, key) for key, item in self.contacts.items())
        self.by_start = DateIndex((epoch_ms(item["startTime"]) or 0, key) for key, item in self.appointments.items())
        lag_ms = round(options.index_lag * 1000)
        self.index = SearchIndex(list(self.contacts.values()), lag_ms, options.index_skew_ms)

    def _populate(self, people: ContactMaker, make: ChildMaker, count: int) -> None:
        tasks: list[tuple[int, Record]] = []
        for number in range(count):
            contact = people.contact(number)
            contact_id = contact["id"]
            self.contacts[contact_id] = contact
            self.pools["contacts"].add(contact_id)
            added = epoch_ms(contact["dateAdded"]) or 0
            for _ in range(make.tail(0.70, 50)):
                task, made = make.task(contact_id, added)
                tasks.append((made, task))
            notes = [make.note(contact_id, added) for _ in range(make.tail(0.60, 50))]
            for note in sorted(notes, key=lambda item: str(item["dateAdded"])):
                self._keep("notes", self.notes, self.notes_of, note)
            for _ in range(make.tail(0.75, 12)):
                event = make.appointment(contact_id, added)
                self._keep("appointments", self.appointments, self.appointments_of, event)
        # The order of this dict is the order of creation, which the location-wide search runs backwards.
        for made, task in sorted(tasks, key=lambda item: item[0]):
            self._keep_task(task, made, made)

    def create_contact(self, at_ms: int, fields: Record, *, contact_id: str | None = None) -> Record:
        """Add a contact."""
        when = iso(at_ms)
        record: Record = {
            "id": contact_id or new_id(self._rng),
            "dateAdded": when,
            "type": "lead",
            "locationId": self.id,
            **{key: value for key, value in fields.items() if value is not None},
            "dateUpdated": when,
        }
        record.setdefault("country", "US")
        record.setdefault(
            "createdBy", {"source": "INTEGRATION", "channel": "OAUTH", "sourceId": "sandbox", "timestamp": when}
        )
        for key in LIST_KEYS:
            record.setdefault(key, [])
        derive(record)
        self.contacts[record["id"]] = record
        self.pools["contacts"].add(record["id"])
        self.listing.add((at_ms, record["id"]))
        self.index.write(at_ms, record["id"], record)
        return record

    def update_contact(
        self, at_ms: int, contact_id: str, changes: Record, *, touch: bool = False, bump: bool = True
    ) -> Record:
        """Change fields; None clears one. `dateUpdated` moves on a change or a `touch`, never without `bump`."""
        old = known(self.contacts, contact_id)
        record = dict(old)
        for key, value in changes.items():
            if value is not None:
                record[key] = value
            elif key in LIST_KEYS:
                record[key] = []
            else:
                record.pop(key, None)
        derive(record)
        if record == old and not touch:
            return old
        if bump:
            record["dateUpdated"] = iso(at_ms)
        self.contacts[contact_id] = record
        self.version += 1  # a task search may have asked for its business
        self.index.write(at_ms, contact_id, record)
        return record

    def delete_contact(self, at_ms: int, contact_id: str) -> Record:
        """Remove a contact and everything that hangs on it."""
        record = known(self.contacts, contact_id)
        for task_id in list(self.tasks_of.get(contact_id, ())):
            self.delete_task(at_ms, task_id, bump=False)
        for note_id in list(self.notes_of.get(contact_id, ())):
            self.delete_note(at_ms, note_id, bump=False)
        for event_id in list(self.appointments_of.get(contact_id, ())):
            self.delete_appointment(at_ms, event_id, bump=False)
        del self.contacts[contact_id]
        self.pools["contacts"].discard(contact_id)
        self.listing.remove((epoch_ms(record["dateAdded"]) or 0, contact_id))
        self.index.write(at_ms, contact_id, None)
        return record

    def _child_changed(self, at_ms: int, contact_id: str) -> None:
        # No evidence that notes or tasks move it (Nango recordings 2026-07-17), hence an option, off by default.
        if self._children_bump and self._bump_rng.random() < self._children_bump and contact_id in self.contacts:
            self.update_contact(at_ms, contact_id, {}, touch=True)

    def truth(self) -> dict[str, dict[str, Record]]:
        """Every living record by id: what a perfect mirror holds. Appointment times are UTC."""
        return {
            "contacts": dict(self.contacts),
            "tasks": dict(self.tasks),
            "notes": dict(self.notes),
            "appointments": dict(self.appointments),
        }
