"""Tasks, notes and appointments of one location, and every change they can go through. Contacts are in `world`."""

from __future__ import annotations

import random
from typing import Any
from zoneinfo import ZoneInfo

from .ordered import DateIndex, IdPool
from .reference import Record, Reference, new_id
from .times import epoch_ms, iso, local_ms
from .writing import plain_text


class UnknownIdError(KeyError):
    """No such record in this location."""


class Children:
    """The part of a location that hangs on its contacts."""

    def __init__(self, location_id: str, zone: ZoneInfo, reference: Reference, rng: random.Random) -> None:
        self.id = location_id
        self.zone = zone
        self.reference = reference
        self.contacts: dict[str, Record] = {}
        self.tasks: dict[str, Record] = {}
        self.notes: dict[str, Record] = {}
        self.appointments: dict[str, Record] = {}
        self.deleted_appointments: dict[str, Record] = {}
        self.task_times: dict[str, tuple[int, int]] = {}
        """When a task was made and last changed; the API tells neither by contact."""
        self.tasks_of: dict[str, list[str]] = {}
        self.notes_of: dict[str, list[str]] = {}
        self.appointments_of: dict[str, list[str]] = {}
        self.by_start = DateIndex()
        self.pools = {name: IdPool() for name in ("contacts", "tasks", "notes", "appointments")}
        self.version = 0
        """Counts what could change the result of a task search; a kept one is good for one version."""
        self._rng = rng

    def _child_changed(self, at_ms: int, contact_id: str) -> None:
        """For `world` to say what that does to the contact."""

    def _keep(self, pool: str, records: dict[str, Record], by_contact: dict[str, list[str]], record: Record) -> None:
        records[record["id"]] = record
        by_contact.setdefault(record["contactId"], []).append(record["id"])
        self.pools[pool].add(record["id"])

    def _drop(self, pool: str, records: dict[str, Record], by_contact: dict[str, list[str]], record_id: str) -> Record:
        record = known(records, record_id)
        del records[record_id]
        by_contact[record["contactId"]].remove(record_id)
        self.pools[pool].discard(record_id)
        return record

    # ---- tasks

    def create_task(self, at_ms: int, contact_id: str, fields: Record, *, task_id: str | None = None) -> Record:
        """Add a task to a contact."""
        known(self.contacts, contact_id)
        record: Record = {"id": task_id or new_id(self._rng), "title": "Task"}
        record |= {key: value for key, value in fields.items() if value is not None}
        record.setdefault("dueDate", iso(at_ms + 86_400_000))
        record.setdefault("completed", False)
        record["contactId"] = contact_id
        self._keep_task(record, at_ms, at_ms)
        self._child_changed(at_ms, contact_id)
        return record

    def update_task(self, at_ms: int, task_id: str, changes: Record) -> Record:
        """Change fields of a task; None clears one."""
        record = _merged(known(self.tasks, task_id), changes)
        self.tasks[task_id] = record
        self.task_times[task_id] = (self.task_times[task_id][0], at_ms)
        self.version += 1
        self._child_changed(at_ms, record["contactId"])
        return record

    def delete_task(self, at_ms: int, task_id: str, *, bump: bool = True) -> Record:
        """Remove a task."""
        record = self._drop("tasks", self.tasks, self.tasks_of, task_id)
        del self.task_times[task_id]
        self.version += 1
        if bump:
            self._child_changed(at_ms, record["contactId"])
        return record

    def _keep_task(self, record: Record, made: int, changed: int) -> None:
        self._keep("tasks", self.tasks, self.tasks_of, record)
        self.task_times[record["id"]] = (made, changed)
        self.version += 1

    # ---- notes

    def create_note(self, at_ms: int, contact_id: str, fields: Record, *, note_id: str | None = None) -> Record:
        """Add a note to a contact."""
        known(self.contacts, contact_id)
        body = fields.get("body", "")
        record: Record = {
            "id": note_id or new_id(self._rng),
            "body": body,
            "bodyText": fields.get("bodyText", plain_text(body)),
        }
        record |= {"userId": fields.get("userId"), "dateAdded": iso(at_ms), "contactId": contact_id, "pinned": False}
        record["relations"] = []
        record |= {key: value for key, value in fields.items() if value is not None}
        self._keep("notes", self.notes, self.notes_of, record)
        self._child_changed(at_ms, contact_id)
        return record

    def update_note(self, at_ms: int, note_id: str, changes: Record) -> Record:
        """Change fields of a note; its plain text follows its body."""
        old = known(self.notes, note_id)
        if "body" in changes and "bodyText" not in changes:
            changes = {**changes, "bodyText": plain_text(changes["body"])}
        record = _merged(old, changes, keep=("userId",))
        self.notes[note_id] = record
        self._child_changed(at_ms, record["contactId"])
        return record

    def delete_note(self, at_ms: int, note_id: str, *, bump: bool = True) -> Record:
        """Remove a note."""
        record = self._drop("notes", self.notes, self.notes_of, note_id)
        if bump:
            self._child_changed(at_ms, record["contactId"])
        return record

    # ---- appointments

    def create_appointment(self, at_ms: int, contact_id: str, fields: Record, *, event_id: str | None = None) -> Record:
        """Add an appointment; a time without a zone is the location's own."""
        contact = known(self.contacts, contact_id)
        names = [contact[key] for key in ("firstName", "lastName") if key in contact]
        record: Record = {
            "id": event_id or new_id(self._rng),
            "calendarId": next(iter(self.reference.calendars)),
            "locationId": self.id,
            "contactId": contact_id,
            "title": " ".join(names) or "Appointment",
            "status": "booked",
            "appointmentStatus": "confirmed",
            "address": "",
            "startTime": iso(at_ms + 86_400_000),
            **{key: value for key, value in fields.items() if value is not None},
            "dateAdded": iso(at_ms),
            "dateUpdated": iso(at_ms),
            "assignedResources": [],
            "isRecurring": False,
            "createdBy": {"source": "third_party", "userId": None},
        }
        self._settle_times(record)
        self._keep("appointments", self.appointments, self.appointments_of, record)
        self.by_start.add((epoch_ms(record["startTime"]) or 0, record["id"]))
        self._child_changed(at_ms, contact_id)
        return record

    def update_appointment(self, at_ms: int, event_id: str, changes: Record) -> Record:
        """Change fields of an appointment."""
        old = known(self.appointments, event_id)
        record = _merged(old, changes) | {"dateUpdated": iso(at_ms)}
        self._settle_times(record)
        self.appointments[event_id] = record
        self.by_start.remove((epoch_ms(old["startTime"]) or 0, event_id))
        self.by_start.add((epoch_ms(record["startTime"]) or 0, event_id))
        self._child_changed(at_ms, record["contactId"])
        return record

    def delete_appointment(self, at_ms: int, event_id: str, *, bump: bool = True) -> Record:
        """Remove an appointment from every list; by id it still answers, marked as deleted."""
        record = self._drop("appointments", self.appointments, self.appointments_of, event_id)
        self.by_start.remove((epoch_ms(record["startTime"]) or 0, event_id))
        self.deleted_appointments[event_id] = record | {"dateUpdated": iso(at_ms)}
        if bump:
            self._child_changed(at_ms, record["contactId"])
        return record

    def _settle_times(self, record: Record) -> None:
        start = local_ms(record["startTime"], self.zone) or 0
        end = local_ms(record.get("endTime"), self.zone) if record.get("endTime") else None
        record["startTime"], record["endTime"] = (iso(start), iso(end if end is not None else start + 1_800_000))


def known(records: dict[str, Record], record_id: str) -> Record:
    """The record, or UnknownIdError."""
    try:
        return records[record_id]
    except KeyError:
        raise UnknownIdError(record_id) from None


def _merged(old: Record, changes: dict[str, Any], keep: tuple[str, ...] = ()) -> Record:
    record = old | changes
    return {key: value for key, value in record.items() if value is not None or key in keep}
