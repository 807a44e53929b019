"""The simulated account as one object: its locations, tokens, limits, faults and memory of calls.

Tests and the demo talk to this; `exchange` answers requests with it. What a change does is in `world`.
"""

from __future__ import annotations

import asyncio
import gc
import threading
import time
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Iterable, Mapping
from copy import deepcopy
from typing import Any, NamedTuple

from .access import Grant, Tokens
from .churn import Churn
from .faults import FaultPlan
from .limits import Bucket
from .oauth import Authority
from .options import DEFAULT_LOCATION_ID, SandboxOptions, location_id, token_of
from .reference import Record
from .search import Searcher
from .world import Location

ENTITIES = ("contacts", "tasks", "notes", "appointments")
Mutate = Callable[[Any], Any]


class Call(NamedTuple):
    """One request as the API saw it."""

    at: float
    method: str
    path: str
    location_id: str | None
    status: int
    """0: the connection was dropped without an answer."""
    query: dict[str, str]
    body: Any


class Sandbox:
    """A HighLevel account that exists in memory."""

    def __init__(
        self,
        options: SandboxOptions | None = None,
        now: Callable[[], float] = time.time,
        sleep: Callable[[float], Awaitable[Any]] = asyncio.sleep,
    ) -> None:
        """Generate everything. `now` is epoch seconds; `sleep` is waited on for latency, stalls and slow bodies."""
        self.options = options or SandboxOptions()
        self.now = now
        self.sleep = sleep
        self.lock = threading.RLock()
        self.start = now()
        self.locations = _populate(self.options, round(self.start * 1000))
        self.tokens = Tokens()
        for number, name in enumerate(self.locations, start=1):
            self.tokens.grant(token_of(number), [name])
        self.oauth = Authority(self.tokens, list(self.locations), self.options.token_lasts)
        self.buckets = {name: Bucket(self.options) for name in self.locations}
        self.searchers = {name: Searcher(location) for name, location in self.locations.items()}
        self.task_searches: dict[tuple[str, str], tuple[tuple[int, int], list[Record]]] = {}
        self.faults = FaultPlan(self.options.fault_rate, self.options.seed)
        self.calls: deque[Call] = deque(maxlen=self.options.maxlen)
        self.requests = 0
        self.by_route: Counter[str] = Counter()
        self.by_status: Counter[int] = Counter()
        self._churn = Churn(self.options.churn, self.options.seed, self.start, list(self.locations.values()))
        self._corruptions: dict[tuple[str, str], Mutate] = {}
        self._traces = 0

    # ---- access

    def grant(self, token: str, locations: Iterable[str], scopes: Iterable[str] | None = None) -> Grant:
        """Make a token valid for these locations and scopes (None: all), or change what it opens."""
        names = tuple(locations)
        unknown = [name for name in names if name not in self.locations]
        if unknown or not names:
            raise ValueError(f"a token needs locations of this sandbox, not {unknown or 'none'}")
        return self.tokens.grant(token, names, scopes)

    def revoke(self, token: str) -> None:
        """From now on the token is unknown."""
        self.tokens.revoke(token)

    # ---- time

    def advance(self) -> int:
        """Let churn and the search index catch up with the clock; return it in ms."""
        now = self.now()
        self._churn.advance(now)
        at_ms = round(now * 1000)
        for location in self.locations.values():
            location.index.settle(at_ms)
        return at_ms

    def trace_id(self) -> str:
        """Different in each answer, and the same in each run."""
        self._traces += 1
        return f"5a4db0c5-{self.options.seed & 0xFFFF:04x}-4000-8000-{self._traces:012x}"

    # ---- what is served

    def corrupt(self, entity: str, record_id: str, mutate: Mutate) -> None:
        """Serve `mutate(copy of the payload)` for this record from now on; the truth stays as it is."""
        if entity not in ENTITIES:
            raise ValueError(f"no such entity: {entity!r}; there are {', '.join(ENTITIES)}")
        self._corruptions[entity, record_id] = mutate

    def heal(self, entity: str, record_id: str) -> None:
        """Serve the record as it is again."""
        self._corruptions.pop((entity, record_id), None)

    def served(self, entity: str, record_id: str, payload: Record) -> Any:
        """The payload, or what a test made of it."""
        if not self._corruptions:
            return payload
        mutate = self._corruptions.get((entity, record_id))
        return payload if mutate is None else mutate(deepcopy(payload))

    # ---- the truth

    def truth(self, location: str = DEFAULT_LOCATION_ID) -> dict[str, dict[str, Record]]:
        """Every living record by entity and id, as of now: what a perfect mirror of the location holds."""
        with self.lock:
            self.advance()
            return self.locations[location].truth()

    def stats(self) -> dict[str, Any]:
        """Counters since the start."""
        with self.lock:
            buckets = {name: bucket.stats() for name, bucket in self.buckets.items()}
            sums = {key: sum(bucket[key] for bucket in buckets.values()) for key in next(iter(buckets.values()))}
            sums["throttled"] += self.faults.counts["429"]
            return {
                "requests": self.requests,
                **sums,
                "by_route": dict(self.by_route),
                "by_status": {str(status): count for status, count in self.by_status.items()},
                "faults": dict(self.faults.counts),
                "changes": self._churn.done,
                "locations": buckets,
            }

    # ---- changes, by tests and the demo

    def create_contact(self, location_id: str = DEFAULT_LOCATION_ID, **fields: Any) -> Record:
        """Add a contact; the fields are those of the wire (`firstName=...`)."""
        with self.lock:
            return self.locations[location_id].create_contact(self.advance(), fields)

    def update_contact(self, contact_id: str, *, touch: bool = False, **changes: Any) -> Record:
        """Change a contact; None clears a field. `touch` moves `dateUpdated` even if nothing else changes."""
        with self.lock:
            at_ms = self.advance()
            return self._where("contacts", contact_id).update_contact(at_ms, contact_id, changes, touch=touch)

    def delete_contact(self, contact_id: str) -> Record:
        """Remove a contact and what hangs on it."""
        with self.lock:
            at_ms = self.advance()
            return self._where("contacts", contact_id).delete_contact(at_ms, contact_id)

    def create_task(self, contact_id: str, **fields: Any) -> Record:
        """Add a task to a contact."""
        with self.lock:
            at_ms = self.advance()
            return self._where("contacts", contact_id).create_task(at_ms, contact_id, fields)

    def update_task(self, task_id: str, **changes: Any) -> Record:
        """Change a task; None clears a field."""
        with self.lock:
            at_ms = self.advance()
            return self._where("tasks", task_id).update_task(at_ms, task_id, changes)

    def delete_task(self, task_id: str) -> Record:
        """Remove a task."""
        with self.lock:
            at_ms = self.advance()
            return self._where("tasks", task_id).delete_task(at_ms, task_id)

    def create_note(self, contact_id: str, **fields: Any) -> Record:
        """Add a note to a contact."""
        with self.lock:
            at_ms = self.advance()
            return self._where("contacts", contact_id).create_note(at_ms, contact_id, fields)

    def update_note(self, note_id: str, **changes: Any) -> Record:
        """Change a note."""
        with self.lock:
            at_ms = self.advance()
            return self._where("notes", note_id).update_note(at_ms, note_id, changes)

    def delete_note(self, note_id: str) -> Record:
        """Remove a note."""
        with self.lock:
            at_ms = self.advance()
            return self._where("notes", note_id).delete_note(at_ms, note_id)

    def create_appointment(self, contact_id: str, **fields: Any) -> Record:
        """Add an appointment to a contact."""
        with self.lock:
            at_ms = self.advance()
            return self._where("contacts", contact_id).create_appointment(at_ms, contact_id, fields)

    def update_appointment(self, event_id: str, **changes: Any) -> Record:
        """Change an appointment."""
        with self.lock:
            at_ms = self.advance()
            return self._where("appointments", event_id).update_appointment(at_ms, event_id, changes)

    def delete_appointment(self, event_id: str) -> Record:
        """Remove an appointment; by id it still answers, marked as deleted."""
        with self.lock:
            at_ms = self.advance()
            return self._where("appointments", event_id).delete_appointment(at_ms, event_id)

    def _where(self, entity: str, record_id: str) -> Location:
        for location in self.locations.values():
            records: Mapping[str, Record] = getattr(location, entity)
            if record_id in records:
                return location
        raise KeyError(f"no {entity.removesuffix('s')} {record_id}")


def _populate(options: SandboxOptions, start_ms: int) -> dict[str, Location]:
    # Hundreds of thousands of small dicts, none of them garbage: the collector would only walk them again and again.
    collecting = gc.isenabled()
    gc.disable()
    try:
        numbers = range(1, options.locations + 1)
        return {location_id(number): Location(number, options, start_ms) for number in numbers}
    finally:
        if collecting:
            gc.enable()
