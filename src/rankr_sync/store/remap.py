"""Mapping every stored record again from its kept payload: what `mapping apply` does. The API is not asked.

Promises kept here:
- a batch is a transaction, and the place in the store is saved with it: killed at any moment, it goes on there;
- what another process has written meanwhile is mapped as it is then, never overwritten with what was read before;
- it waits for another's transaction only with nothing in hand, so nobody waits for it in turn;
- when it ends, every row is of the mapping that is noted, or it says of which streams this is not so.
"""

import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime

from sqlalchemy import select

from rankr_sync.errors import RankrSyncError
from rankr_sync.model import MappingState, Reject, Row
from rankr_sync.plan import KEPT_WITHOUT, Mapped, Rules, Unmappable, digest
from rankr_sync.store import SqlStore
from rankr_sync.store.mapped import remap_key
from rankr_sync.store.transaction import Transaction
from rankr_sync.streams import STREAMS, Stream

BATCH = 500

LONGEST_PAUSE = 1.0
"""Seconds between two batches beside a running daemon, which else would wait for a turn of the database."""


class AnotherRemap(RankrSyncError):
    """Somebody else has begun to map this location again, and goes on from our place."""


@dataclass(frozen=True, slots=True)
class Remapped:
    """Counts of rows: mapped again, come out different and written, not readable in full."""

    read: int = 0
    changed: int = 0
    rejected: int = 0

    def __add__(self, other: "Remapped") -> "Remapped":
        """The sum."""
        return Remapped(self.read + other.read, self.changed + other.changed, self.rejected + other.rejected)


@dataclass(slots=True)
class Report:
    """What was done, by stream; and the streams of which another process wrote rows by another mapping meanwhile."""

    streams: dict[str, Remapped] = field(default_factory=lambda: dict.fromkeys(STREAMS, Remapped()))
    overtaken: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a remap stands. `busy`: rows before `after` that another transaction had in hand."""

    run: str
    digests: Mapping[str, str]
    stream: str
    after: str = ""
    busy: tuple[str, ...] = ()
    done: Mapping[str, Mapping[str, int]] = field(default_factory=dict)

    def counted(self) -> dict[str, Remapped]:
        """What is done so far, by stream."""
        return {name: Remapped(**self.done.get(name, {})) for name in STREAMS}


def remap(
    store: SqlStore,
    location_id: str,
    rules: Mapping[str, Rules],
    now: Callable[[], datetime],
    *,
    on_progress: Callable[[str, Remapped], None] = lambda stream, done: None,
    pause: Callable[[float], None] = time.sleep,
) -> Report:
    """Map all records of a location again, or go on where an earlier remap to the same rules was cut off.

    Only rows that come out different are written. Calls `on_progress` with a stream and its counts after each batch.
    """
    with store.transaction() as tx:
        place = _begin(tx, location_id, rules, now())
    for stream in STREAMS.values():
        with store.transaction() as tx:
            tx.wait_for_writers(stream)
    order = list(STREAMS)
    for name in order[order.index(place.stream) :]:
        more = True
        while more:
            began = time.monotonic()
            with store.transaction() as tx:
                place, more = _batch(tx, location_id, replace(place, stream=name), rules[name], now())
                beside = tx.live_holder(location_id, now()) is not None
            on_progress(name, place.counted()[name])
            if beside:
                pause(min(time.monotonic() - began, LONGEST_PAUSE))
        place = replace(place, after="")
    with store.transaction() as tx:
        overtaken = _end(tx, location_id, place, now())
    return Report(place.counted(), overtaken)


def dry_remap(store: SqlStore, location_id: str, rules: Mapping[str, Rules]) -> Iterator[tuple[str, Remapped]]:
    """What `remap` would do, batch by batch; nothing is written."""
    for name, stream in STREAMS.items():
        table, after = stream.table, ""
        query = select(table).where(table.c.location_id == location_id).order_by(table.c.id).limit(BATCH)
        while True:
            with store.reading() as tx:
                rows = [dict(row) for row in tx.connection.execute(query.where(table.c.id > after)).mappings()]
            if not rows:
                break
            changed, rejects = _mapped_again(rows, rules[name])
            yield name, Remapped(len(rows), len(changed), len(rejects))
            after = rows[-1]["id"]


def _begin(tx: Transaction, location_id: str, rules: Mapping[str, Rules], now: datetime) -> _Place:
    """The place where an earlier one stood, unless rows were made by another mapping since; else the first."""
    digests = {name: rules[name].mapping for name in STREAMS}
    kept = tx.remap_place(location_id)
    goes_on = kept is not None and kept["digests"] == digests
    for name, wanted in digests.items():
        state = tx.mapping_state(location_id, name, alone=True) or MappingState(None)
        noted = state.using(wanted, now)
        goes_on = goes_on and noted == state
        tx.save_mapping_state(location_id, name, noted, now)
    place = _Place(uuid.uuid4().hex, digests, next(iter(STREAMS)))
    if kept is not None and goes_on:
        place = replace(_Place(**{**kept, "busy": tuple(kept["busy"])}), run=place.run)
    tx.save_setting(remap_key(location_id), asdict(place), now)
    return place


def _batch(tx: Transaction, location_id: str, place: _Place, rules: Rules, now: datetime) -> tuple[_Place, bool]:
    """One batch: the new place, and whether there may be more of this stream."""
    kept = tx.remap_place(location_id)
    if kept is None or kept["run"] != place.run:
        raise AnotherRemap(
            f"another `mapping apply` has taken over location {location_id}", hint="let that one come to its end"
        )
    stream = STREAMS[place.stream]
    ids = list(place.busy[:1]) or tx.next_ids(stream, location_id, place.after, BATCH)
    rows = tx.whole_rows(stream, location_id, ids, wait=bool(place.busy))
    done = Remapped(**place.done.get(place.stream, {})) + _write(tx, location_id, stream, rows, rules, now)
    if place.busy:
        place = replace(place, busy=place.busy[1:])
    elif ids:
        there = {row["id"] for row in rows}
        place = replace(place, after=ids[-1], busy=tuple(id_ for id_ in ids if id_ not in there))
    place = replace(place, done={**place.done, place.stream: asdict(done)})
    tx.save_setting(remap_key(location_id), asdict(place), now)
    return place, bool(ids)


def _write(tx: Transaction, location_id: str, stream: Stream, rows: list[Row], rules: Rules, now: datetime) -> Remapped:
    changed, rejects = _mapped_again(rows, rules)
    unreadable = {reject.external_id for reject in rejects}
    tx.settle_readable(stream, location_id, [row["id"] for row in rows if row["id"] not in unreadable])
    newer = tx.refused_ids(stream, location_id, [reject.external_id for reject in rejects if reject.external_id])
    kept = [reject for reject in rejects if reject.external_id not in newer]
    refused = {one.external_id for one in tx.rewrite(stream, location_id, changed, kept, now)} - unreadable
    return Remapped(len(rows), len(changed) - len(refused), len(unreadable | refused))


def _mapped_again(rows: list[Row], rules: Rules) -> tuple[list[Row], list[Reject]]:
    """The rows that come out different, as they are now; and the living of which not all could be read."""
    changed: list[Row] = []
    rejects: list[Reject] = []
    for old in rows:
        reason = None
        try:
            content = rules.normalise(old["raw"])
            mapped: Mapped = rules.map(old["raw"], content)
            if any(old[name] != value for name, value in mapped.row.items()):
                changed.append({**old, **mapped.row, "digest": digest(content)})
            if mapped.problems:
                reason = KEPT_WITHOUT + "; ".join(mapped.problems)
        except Unmappable as error:
            reason = str(error)
        if reason is not None and old["deleted_at"] is None:
            rejects.append(Reject(reason, old["raw"], old["id"], old.get("contact_id"), "stored"))
    return changed, rejects


def _end(tx: Transaction, location_id: str, place: _Place, now: datetime) -> list[str]:
    """Note the mapping that all rows are of now. Returns the streams where another has made rows meanwhile."""
    overtaken = []
    for name, wanted in place.digests.items():
        state = tx.mapping_state(location_id, name, alone=True)
        if state is not None and state.using(wanted, now) == state:
            tx.save_mapping_state(location_id, name, MappingState(wanted), now)
        else:
            overtaken.append(name)
    tx.drop_setting(remap_key(location_id))
    return overtaken
