"""The nouns: frozen dataclasses that every other module speaks in. No behaviour beyond their meaning."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

JsonObject = dict[str, Any]
"""A JSON object as decoded: what the API sends, what a cursor holds."""

Row = dict[str, Any]
"""Column name to value, ready for the store."""


@dataclass(frozen=True, slots=True)
class Request:
    """One API call, without host and credentials. `route` is the path's template, safe to log and count by."""

    method: str
    path: str
    route: str
    scope: str
    query: tuple[tuple[str, str], ...] = ()
    body: JsonObject | None = None
    repeatable: bool = True


@dataclass(frozen=True, slots=True)
class Answer:
    """A decoded 2xx body. `asked_at` is our clock before sending, `server_time` the answer's Date header.

    `requests` is how many were sent to get it: more than one after retries.
    """

    payload: JsonObject
    asked_at: datetime
    server_time: datetime | None = None
    requests: int = 1


@dataclass(frozen=True, slots=True)
class Record:
    """One entity as the source sent it. `shape` tells which endpoint's form `raw` has.

    `updated_at` is the source's own time of the last change (None where it keeps none: tasks, notes).
    """

    id: str
    raw: JsonObject
    shape: str
    contact_id: str | None = None
    updated_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Reject:
    """Something the source sent that could not be mapped, or only in part, with the reason in words."""

    reason: str
    raw: Any
    external_id: str | None = None
    contact_id: str | None = None
    shape: str = ""


@dataclass(frozen=True, slots=True)
class Page:
    """What one answer held. `next` is the cursor of the following page, None at the end of the walk.

    `whole` is true when the answer is known to be the complete list it stands for (a contact's notes), or,
    on the last page of a walk, that the walk ended as it should. `total` is the source's own count.
    """

    records: tuple[Record, ...] = ()
    rejects: tuple[Reject, ...] = ()
    next: JsonObject | None = None
    whole: bool = False
    total: int | None = None


@dataclass(frozen=True, slots=True)
class Known:
    """What the store already holds of a record: enough to decide, `raw` only where shapes must be merged."""

    id: str
    digest: str
    contact_id: str | None = None
    updated_at: datetime | None = None
    deleted: bool = False
    raw: JsonObject | None = None


@dataclass(frozen=True, slots=True)
class Plan:
    """What to do with a page, decided and not yet done.

    `inserts` and `updates` are whole rows, `tombstones` ids, `accepted` the ids of rows that could be mapped
    in full. `stale` counts records older than what the store holds; they are left alone.
    """

    inserts: tuple[Row, ...] = ()
    updates: tuple[Row, ...] = ()
    tombstones: tuple[str, ...] = ()
    rejects: tuple[Reject, ...] = ()
    accepted: tuple[str, ...] = ()
    unchanged: int = 0
    stale: int = 0
    fetched: int = 0
    signals: Mapping[str, str] = field(default_factory=dict)
    """Id of an updated row -> what its change may say of what hangs on it; see `visits`."""
    mapping: str = ""
    """The digest of the field mapping that made the rows."""
    leaving: tuple[str, ...] = ()
    """Ids of stored records that are not of the part that is mirrored, by what was shown now."""

    @property
    def changed_ids(self) -> tuple[str, ...]:
        """Ids of the rows that this plan inserts or updates."""
        return tuple(row["id"] for row in (*self.inserts, *self.updates))


@dataclass(frozen=True, slots=True)
class Cursor:
    """Where a walk stands. `phase` is `walking`, `complete`, or `broken` when the API offered no way on before the
    end; `position` is the stream's own cursor.

    `watermark`: everything the source changed up to here is stored. `started_at`: begin of this walk.
    `saved_at`: our clock when it was last saved (set by the store).
    """

    position: JsonObject = field(default_factory=dict)
    phase: str = "walking"
    watermark: datetime | None = None
    started_at: datetime | None = None
    saved_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Visit:
    """A contact whose children of one stream are read by visits: a row of `child_visits`.

    `signal` says why it must be visited at `due_at`; without one, `due_at` is when its turn will most likely come.
    `announced`: what signals since the last visit have added to the index, in changes x days.
    """

    stream: str
    contact_id: str
    due_at: datetime
    reason: str
    last_visited_at: datetime | None = None
    last_changed_at: datetime | None = None
    visits: int = 0
    changes: int = 0
    rate: float = 0.0
    seen_changes: float = 0.0
    seen_days: float = 0.0
    signal: str | None = None
    signalled_at: datetime | None = None
    announced: float = 0.0

    def row(self) -> Row:
        """Column name to value."""
        return {name: getattr(self, name) for name in self.__slots__}


@dataclass(frozen=True, slots=True)
class Loan:
    """Burst slots that a process asks of the holder of a location's lease, or has from it.

    `seen`: the holder knows of it and makes room. `granted`: the slots are there, as many as `requests` now says.
    """

    borrower: str
    requests: int
    expires_at: datetime
    seen: bool = False
    granted: bool = False


@dataclass(frozen=True, slots=True)
class LocationFacts:
    """What mapping needs to know of a location: its time zone, its country, the names of its custom fields."""

    id: str
    timezone: str = "UTC"
    country: str | None = None
    custom_fields: Mapping[str, str] = field(default_factory=dict)
    """Case-folded name, or key, or id of a custom field -> its id."""


@dataclass(frozen=True, slots=True)
class MappingState:
    """By which field mapping the stored rows of a stream were made.

    All of them by the one of `digest`, unless there is a `newer` one: that has made rows `since` that moment, and
    the rest is of `digest`, or of several where that is None.
    """

    digest: str | None
    newer: str | None = None
    since: datetime | None = None

    def using(self, digest: str, now: datetime) -> "MappingState":
        """The state once a row has been made by the mapping of `digest`."""
        if digest == self.newer or (self.newer is None and digest == self.digest):
            return self
        return MappingState(self.digest if self.newer is None else None, digest, now)

    def is_of(self, digest: str) -> bool:
        """Whether every row is of this mapping."""
        return self.newer is None and self.digest == digest


@dataclass(frozen=True, slots=True)
class Look:
    """One visit that was made, and what was found (None: the contact is gone, or nothing usable)."""

    stream: str
    contact_id: str
    asked_at: datetime
    page: Page | None
    requests: int = 1
    failure: str | None = None


@dataclass(slots=True)
class Tally:
    """Counts of a run. Adds up plans; the fields are the columns of `sync_runs`."""

    requests: int = 0
    fetched: int = 0
    inserted: int = 0
    updated: int = 0
    unchanged: int = 0
    deleted: int = 0
    rejected: int = 0

    def add(self, plan: Plan) -> None:
        """Count what `plan` does."""
        self.fetched += plan.fetched
        self.inserted += len(plan.inserts)
        self.updated += len(plan.updates)
        self.unchanged += plan.unchanged + plan.stale
        self.deleted += len(plan.tombstones)
        self.rejected += len(plan.rejects)

    def __add__(self, other: "Tally") -> "Tally":
        """The sum of two tallies."""
        return Tally(*(getattr(self, name) + getattr(other, name) for name in self.__slots__))

    def __iadd__(self, other: "Tally") -> "Tally":
        """Add another tally to this one."""
        for name in self.__slots__:
            setattr(self, name, getattr(self, name) + getattr(other, name))
        return self
