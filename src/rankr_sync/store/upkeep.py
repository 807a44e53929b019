"""Upkeep of the store without the API: retrying rejects, purging tombstones, copying. Re-mapping is in `remap`."""

import time
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from functools import cache

from sqlalchemy import ColumnElement, Table, delete, or_, select, true, tuple_

from rankr_sync import schema
from rankr_sync.model import Known, Page, Record, Row
from rankr_sync.plan import Rules, plan_page
from rankr_sync.store import SqlStore
from rankr_sync.streams import STREAMS, Stream

BATCH = 500

PURGED_AT_ONCE = 1000
"""Rows removed in one transaction: a daemon beside waits for no more."""


def stored_locations(store: SqlStore) -> list[str]:
    """Every location that has a row in the store."""
    with store.reading() as tx:
        found: set[str] = set()
        for stream in STREAMS.values():
            found |= set(tx.connection.execute(select(stream.table.c.location_id).distinct()).scalars())
        return sorted(found)


def retry_rejects(
    store: SqlStore,
    rules: Callable[[str], Mapping[str, Rules]],
    now: datetime,
    reject_id: int | None = None,
    *,
    locations: Collection[str] | None = None,
) -> tuple[int, int]:
    """Map rejects again from their payloads, after a change of mapping or program. Returns (tried, settled).

    One of them, or those of these locations, or all. `rules` of a location are asked for once.
    """
    table, rules = schema.sync_rejects, cache(rules)
    with store.reading() as tx:
        query = select(table)
        if reject_id is not None:
            query = query.where(table.c.id == reject_id)
        if locations is not None:
            query = query.where(table.c.location_id.in_(locations))
        rejects = [dict(row) for row in tx.connection.execute(query).mappings()]
    settled = 0
    for one in rejects:
        settled += _retry(store, STREAMS[one["stream"]], one, rules(one["location_id"]), now)
    return len(rejects), settled


def _retry(store: SqlStore, stream: Stream, reject: Row, rules: Mapping[str, Rules], now: datetime) -> bool:
    if reject["external_id"] is None or not isinstance(reject["raw"], dict):
        return False
    record = Record(reject["external_id"], reject["raw"], reject["shape"], reject["contact_id"])
    with store.transaction() as tx:
        known: dict[str, Known] = tx.known(stream, reject["location_id"], [record.id])
        if not any(one.deleted for one in known.values()):  # a record that has gone since does not come back
            # The payload may well be the one that is stored; it is how it is mapped that may have changed.
            as_new = {id_: replace(one, digest="") for id_, one in known.items()}
            plan = plan_page(Page((record,)), as_new, rules[stream.name])
            if tx.apply(stream, reject["location_id"], plan, now).rejects:
                return False
        tx.settle_rejects(stream, reject["location_id"], [record.id])
        return True


def purge(
    store: SqlStore,
    deleted_for: timedelta,
    runs_for: timedelta,
    now: datetime,
    *,
    ended: Callable[[], bool] = lambda: False,
    pause: Callable[[float], None] = time.sleep,
) -> dict[str, int]:
    """Remove tombstones, and records of runs, that are older than their retention. Returns rows removed by table.

    A transaction each thousand rows, and between two of them a pause as long as the first took: beside a
    running daemon nobody waits for long. What was removed before it `ended` or failed stays removed.
    """
    runs, rejects, slots = schema.sync_runs, schema.sync_rejects, schema.usage_slots
    past = {stream.table: stream.table.c.deleted_at < now - deleted_for for stream in STREAMS.values()}
    past[runs] = or_(runs.c.finished_at < now - runs_for, runs.c.started_at < now - 2 * runs_for)
    past[slots] = slots.c.at < now - runs_for
    past[rejects] = rejects.c.last_seen_at < now - runs_for
    made = schema.daily_summaries  # they name contacts, which may be gone by now
    past[made] = made.c.made_at < now - deleted_for
    removed: dict[str, int] = {table.name: 0 for table in past}
    for table, old in past.items():
        for rows, seconds in _delete_by_batches(store, table, old):
            removed[table.name] += rows
            if ended():
                return removed
            pause(min(seconds, 1.0))
    return removed


def _delete_by_batches(store: SqlStore, table: Table, old: ColumnElement[bool]) -> Iterator[tuple[int, float]]:
    """Yields (rows removed, seconds taken) after each transaction. Walks the key once, whatever is left between."""
    key = tuple_(*table.primary_key.columns)
    after: ColumnElement[bool] = true()
    while True:
        began = time.monotonic()
        with store.transaction() as tx:
            batch = select(*table.primary_key.columns).where(old, after).order_by(*table.primary_key.columns)
            keys = [tuple(row) for row in tx.connection.execute(batch.limit(PURGED_AT_ONCE))]
            # `old` again: what came back to life meanwhile stays.
            rows = tx.connection.execute(delete(table).where(key.in_(keys), old)).rowcount if keys else 0
        if keys:
            yield rows, time.monotonic() - began
        if len(keys) < PURGED_AT_ONCE:
            return
        after = key > keys[-1]
