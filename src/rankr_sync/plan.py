"""The pure core: a page, and what the store knows of its records, become a plan. No I/O, no clock.

Promises kept here:
- a record whose content did not change is not written;
- an older version never overwrites a newer one;
- two shapes of the same contact (list, search, by id) never undo each other;
- a record that cannot be mapped becomes a reject and its neighbours go on;
- only a list that was read whole tombstones what it no longer holds;
- what is not of the part that is mirrored is not stored, and what is no longer of it is told, not removed.
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import timedelta

from rankr_sync.model import JsonObject, Known, Page, Plan, Record, Reject, Row

INDEX_SKEW = timedelta(milliseconds=100)
"""The search index and the record itself differ by milliseconds in dateUpdated (recordings 2026-07-17)."""


KEPT_WITHOUT = "kept without "
"""How the reason of a reject begins whose record is stored, but for some values that could not be read."""


class Unmappable(Exception):
    """A record that cannot become a row; the message is the reason."""


@dataclass(frozen=True, slots=True)
class Mapped:
    """A row, and what had to be left out of it."""

    row: Row
    problems: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Rules:
    """What a stream and its field mapping contribute to a plan."""

    merge: Callable[[Record, Known | None], JsonObject]
    """The payload to keep: the new one, and what the old one had and this shape never carries."""
    normalise: Callable[[JsonObject], JsonObject]
    """The same content in one form, whatever shape it came in. The digest is taken of this."""
    map: Callable[[JsonObject, JsonObject], Mapped]
    """Payload and normalised payload to row. Raises Unmappable."""
    is_gone: Callable[[JsonObject], bool] = field(default=lambda _raw: False)
    """Whether the payload itself says that the record is deleted."""
    says: Callable[[JsonObject, Known, bool], str] = field(default=lambda _raw, _old, _same: "")
    """What an update says of what hangs on the record, given whether its content is still the same."""
    mapping: str = ""
    """The digest of the field mapping: what `map` makes of a payload depends on nothing else."""
    holds: Callable[[JsonObject], bool] = field(default=lambda _content: True)
    """Whether a record of this content is of the part that is mirrored."""


def digest(content: JsonObject) -> str:
    """The fingerprint of a normalised payload: equal content, whatever the order of keys, equal digest."""
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def plan_page(page: Page, known: Mapping[str, Known], rules: Rules) -> Plan:
    """Decide what to do with each record of `page`. `known` maps ids of the page to what the store holds."""
    inserts: list[Row] = []
    updates: list[Row] = []
    tombstones: list[str] = []
    accepted: list[str] = []
    signals: dict[str, str] = {}
    leaving: list[str] = []
    rejects = list(page.rejects)
    unchanged = stale = 0
    for record in _latest(page.records):
        old = known.get(record.id)
        if old is not None and _older(record, old):
            stale += 1
            continue
        if rules.is_gone(record.raw):
            if old is not None and not old.deleted:
                tombstones.append(record.id)
            continue
        try:
            raw = rules.merge(record, old)
            content = rules.normalise(raw)
            if not rules.holds(content):
                if old is None or old.deleted:
                    unchanged += 1
                    continue
                leaving.append(record.id)
            fingerprint = digest(content)
            if old is not None and old.digest == fingerprint and not old.deleted and not _moved(record, old):
                unchanged += 1  # and a reject that came of it, if there is one, still stands
                continue
            mapped = rules.map(raw, content)
        except Unmappable as error:
            rejects.append(_reject(record, str(error)))
            continue
        row = mapped.row
        row["id"], row["digest"], row["raw"] = record.id, fingerprint, raw
        if record.contact_id is not None:
            row["contact_id"] = record.contact_id
        (updates if old is not None else inserts).append(row)
        if old is not None:
            signals[record.id] = rules.says(raw, old, old.digest == fingerprint)
        if mapped.problems:
            rejects.append(_reject(record, KEPT_WITHOUT + "; ".join(mapped.problems)))
        else:
            accepted.append(record.id)
    return Plan(
        inserts=tuple(inserts),
        updates=tuple(updates),
        tombstones=tuple(tombstones),
        rejects=tuple(rejects),
        accepted=tuple(accepted),
        unchanged=unchanged,
        stale=stale,
        fetched=len(page.records) + len(page.rejects),
        signals=signals,
        mapping=rules.mapping,
        leaving=tuple(leaving),
    )


def plan_children(pages: Mapping[str, Page], known: Mapping[str, Known], rules: Rules) -> Plan:
    """Decide what to do with the children of several contacts, each with its own page.

    A child that the store shows under a contact and that the contact's whole list no longer holds is
    tombstoned. A page that is not whole, or that held something unreadable, tombstones nothing: the
    missing child may be the unreadable one.
    """
    together = Page(
        records=tuple(record for page in pages.values() for record in page.records),
        rejects=tuple(reject for page in pages.values() for reject in page.rejects),
    )
    plan = plan_page(together, known, rules)
    present = {record.id for record in together.records}
    missing = tuple(
        old.id
        for old in known.values()
        if not old.deleted and old.id not in present and _is_whole(pages.get(old.contact_id or ""))
    )
    if not missing:
        return plan
    return replace(plan, tombstones=plan.tombstones + missing)


def _reject(record: Record, reason: str) -> Reject:
    return Reject(reason, record.raw, record.id, record.contact_id, record.shape)


def brake_holds(suspects: int, living: int, share: float) -> bool:
    """Whether so many deletions at once need a person's word. A single one never does."""
    return suspects > 1 and suspects > living * share


def covers(confirmed: int, suspects: int) -> bool:
    """Whether a person who let so many deletions through meant this many: a tenth more may have gone meanwhile."""
    return suspects <= confirmed + max(1, confirmed // 10)


def _is_whole(page: Page | None) -> bool:
    return page is not None and page.whole and not page.rejects


def _latest(records: Iterable[Record]) -> Iterable[Record]:
    """One record an id: a page over a moving list may hold the same id twice, the newer wins."""
    latest: dict[str, Record] = {}
    for record in records:
        other = latest.get(record.id)
        if other is None or not (other.updated_at and record.updated_at and record.updated_at < other.updated_at):
            latest[record.id] = record
    return latest.values()


def _older(record: Record, old: Known) -> bool:
    if record.updated_at is None or old.updated_at is None:
        return False
    return record.updated_at < old.updated_at - INDEX_SKEW


def _moved(record: Record, old: Known) -> bool:
    """Whether only the source's own time of change moved on (an upsert with identical data does that)."""
    if record.updated_at is None or old.updated_at is None:
        return record.updated_at is not None and old.updated_at is None
    return record.updated_at > old.updated_at + INDEX_SKEW
