"""Life in the account: contacts edited, tasks done, appointments moved, at a steady pace.

The n-th change happens n/rate seconds after the start and is drawn from (seed, n) alone, so the world after a given
time does not depend on when or how often it was asked about.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

from . import words
from .reference import DAY_MS, Record, new_id
from .times import epoch_ms, iso
from .world import Location

# (what, weight)
MIXTURE = (
    ("edit_contact", 36),
    ("complete_task", 15),
    ("create_task", 12),
    ("edit_task", 8),
    ("delete_task", 4),
    ("create_note", 10),
    ("edit_note", 5),
    ("move_appointment", 4),
    ("cancel_appointment", 2),
    ("create_contact", 3),
    ("delete_contact", 1),
)
NAMES = tuple(name for name, _ in MIXTURE)
WEIGHTS = tuple(weight for _, weight in MIXTURE)
HOT = 3.0
"""Skew of the choice of contacts: a few are touched again and again."""


class Churn:
    """Applies the changes that are due."""

    def __init__(self, rate: float, seed: int, start: float, locations: Sequence[Location]) -> None:
        """`rate` changes a second from `start` on, spread over the locations."""
        self.done = 0
        self._rate = rate
        self._seed = seed
        self._start = start
        self._locations = locations

    def advance(self, now: float) -> None:
        """Catch up with the clock."""
        if not self._rate:
            return
        due = int((now - self._start) * self._rate)
        while self.done < due:
            self.done += 1
            at_ms = round((self._start + self.done / self._rate) * 1000)
            rng = random.Random(f"{self._seed}/churn/{self.done}")
            self._change(self._locations[int(rng.random() * len(self._locations))], at_ms, rng)

    def _change(self, location: Location, at_ms: int, rng: random.Random) -> None:
        what = rng.choices(NAMES, WEIGHTS)[0]
        contact_id = location.pools["contacts"].pick(rng, skew=HOT)
        if contact_id is None or what == "create_contact":
            self._create_contact(location, at_ms, rng)
        elif what == "delete_contact":
            location.delete_contact(at_ms, contact_id)
        elif what == "create_task":
            fields = {"title": rng.choice(words.TASK_TITLES), "dueDate": iso(at_ms // 900_000 * 900_000 + 2 * DAY_MS)}
            location.create_task(at_ms, contact_id, fields, task_id=new_id(rng))
        elif what == "create_note":
            body, text = rng.choice(words.NOTE_BODIES)
            location.create_note(at_ms, contact_id, {"body": body, "bodyText": text}, note_id=new_id(rng))
        elif what == "edit_contact" or not self._change_child(what, location, at_ms, rng):
            location.update_contact(at_ms, contact_id, contact_edit(location.contacts[contact_id], rng, self.done))

    def _change_child(self, what: str, location: Location, at_ms: int, rng: random.Random) -> bool:
        """Whether there was something to change."""
        pool = {"task": "tasks", "note": "notes", "appointment": "appointments"}[what.partition("_")[2]]
        record_id = location.pools[pool].pick(rng)
        if record_id is None:
            return False
        if what == "complete_task":
            location.update_task(at_ms, record_id, {"completed": not location.tasks[record_id]["completed"]})
        elif what == "edit_task":
            location.update_task(at_ms, record_id, {"title": f"{rng.choice(words.TASK_TITLES)} ({self.done})"})
        elif what == "delete_task":
            location.delete_task(at_ms, record_id)
        elif what == "edit_note":
            body, text = rng.choice(words.NOTE_BODIES)
            changes = {"body": f"{body}<p>{self.done}</p>", "bodyText": f"{text}\n{self.done}"}
            location.update_note(at_ms, record_id, changes)
        elif what == "move_appointment":
            old = location.appointments[record_id]
            days = rng.choice((-1, 1, 7)) * DAY_MS
            moved = {key: iso((epoch_ms(old[key]) or 0) + days) for key in ("startTime", "endTime")}
            location.update_appointment(at_ms, record_id, moved)
        else:
            location.update_appointment(at_ms, record_id, {"appointmentStatus": "cancelled"})
        return True

    def _create_contact(self, location: Location, at_ms: int, rng: random.Random) -> None:
        first, last = rng.choice(words.FIRST_NAMES), rng.choice(words.LAST_NAMES)
        fields: Record = {"firstName": first[0], "lastName": last[0], "source": rng.choice(words.SOURCES)}
        fields["email"] = f"{first[1]}.{last[1]}.new{self.done}@example.com"
        location.create_contact(at_ms, fields, contact_id=new_id(rng))


def contact_edit(contact: Record, rng: random.Random, number: int) -> Record:
    """One edit that changes something, whatever the contact looks like."""
    kind = int(rng.random() * 6)
    if kind == 0:
        tag = rng.choice(words.TAGS)
        tags = contact["tags"]
        return {"tags": [item for item in tags if item != tag] if tag in tags else [*tags, tag]}
    if kind == 1:
        return {"email": f"changed.{number}@example.org"}
    if kind == 2 and "companyName" in contact:
        return {"companyName": None}
    if kind == 3:
        return {"dnd": not contact.get("dnd", False)}
    if kind == 4:
        return {"lastActivity": contact.get("lastActivity", 1_700_000_000_000) + 60_000 + number}
    return {"address1": f"{number} {rng.choice(words.STREETS)}", "city": rng.choice(words.CITIES)[0]}
