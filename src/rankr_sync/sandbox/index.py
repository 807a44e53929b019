"""The search index of a location: a copy of its contacts that may lag behind them.

"Updates may take a few seconds" before `POST /contacts/search` sees them. Filters and sorting are in `search`.
"""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

from .ordered import DateIndex
from .reference import Record
from .times import epoch_ms, iso


class Entry(NamedTuple):
    """A contact as search knows it."""

    record: Record
    added: int
    updated: int

    @property
    def shown_update(self) -> str:
        """The `dateUpdated` that search serves; it may be off by some ms from the record's own."""
        return iso(self.updated)


def entry_of(record: Record, skew_ms: int) -> Entry:
    """What the index makes of a record; only edited contacts are skewed."""
    added, updated = epoch_ms(record["dateAdded"]) or 0, epoch_ms(record["dateUpdated"]) or 0
    return Entry(record, added, updated + skew_ms if skew_ms and updated != added else updated)


class SearchIndex:
    """Contacts by id, by date added and by date updated, as of `lag_ms` ago."""

    def __init__(self, records: list[Record], lag_ms: int, skew_ms: int) -> None:
        """Begin with contacts that have been there for long."""
        self._lag_ms = lag_ms
        self._skew_ms = skew_ms
        self._pending: deque[tuple[int, str, Record | None]] = deque()
        self.version = 0
        self.entries = {record["id"]: entry_of(record, 0) for record in records}
        self.added = DateIndex((entry.added, key) for key, entry in self.entries.items())
        self.updated = DateIndex((entry.updated, key) for key, entry in self.entries.items())

    def __len__(self) -> int:
        return len(self.entries)

    def write(self, at_ms: int, contact_id: str, record: Record | None) -> None:
        """Note a contact's new state (None: deleted) for when it becomes visible."""
        if self._lag_ms == 0:
            self._apply(contact_id, record)
        else:
            self._pending.append((at_ms + self._lag_ms, contact_id, record))

    def settle(self, now_ms: int) -> None:
        """Let everything in that is due by now."""
        while self._pending and self._pending[0][0] <= now_ms:
            _, contact_id, record = self._pending.popleft()
            self._apply(contact_id, record)

    def _apply(self, contact_id: str, record: Record | None) -> None:
        self.version += 1
        old = self.entries.pop(contact_id, None)
        if old is not None:
            self.added.remove((old.added, contact_id))
            self.updated.remove((old.updated, contact_id))
        if record is not None:
            entry = entry_of(record, self._skew_ms)
            self.entries[contact_id] = entry
            self.added.add((entry.added, contact_id))
            self.updated.add((entry.updated, contact_id))
