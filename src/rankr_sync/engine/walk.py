"""Walking a listing, page by page: fetch, plan, checkpoint. The next page is asked for while one is stored."""

import asyncio
import contextlib
import json
from dataclasses import replace
from datetime import datetime, timedelta

from rankr_sync import visits
from rankr_sync.engine.agenda import delays
from rankr_sync.engine.context import DELTA, FULL, LISTING, LocationContext, Run, Transaction
from rankr_sync.engine.part import note_leaving
from rankr_sync.engine.sweep import Seen
from rankr_sync.errors import BadAnswer, RankrSyncError
from rankr_sync.model import Answer, Cursor, JsonObject, Page, Plan, Tally
from rankr_sync.plan import plan_page
from rankr_sync.streams import Stream, Walk

TRUSTED_SKEW = timedelta(minutes=10)
"""How far the server's clock and ours may differ for the server's to move a watermark."""


async def walk_to_end(
    context: LocationContext,
    stream: Stream,
    walk: Walk,
    partition: str,
    kind: str,
    cursor: Cursor,
    pause: float = 0.0,
) -> Seen:
    """Walk from `cursor` to the end, with a pause in seconds between two pages; returns what was shown.

    Raises Interrupted, or what the source raises; everything before that is saved.
    """
    seen, throttled = Seen(), context.source.throttled
    asked = {_identity(context, walk, cursor.position)}
    since = cursor.watermark if partition == DELTA else None
    async with context.run(stream, kind) as run:
        asking = _ask(context, walk, cursor.position)
        try:
            while True:
                answer = await context.or_stop(asking)
                page = walk.parse(cursor.position, answer.payload)
                seen.add(page)
                in_circles = _leads_back(context, walk, page, asked)
                if in_circles:
                    page = replace(page, next=None)
                cursor = advance(cursor, page, walk, answer)
                if cursor.phase == "walking":
                    asking = _ask(context, walk, cursor.position, pause)
                await context.in_store(_checkpoint, context, run, partition, cursor, page, answer, since)
                if cursor.phase != "walking":
                    if partition == FULL:
                        context.walk_requests[stream.name] = run.tally.requests
                    if not page.whole:
                        listing = f"the {walk.name} of {stream.name}"
                        if in_circles:
                            raise BadAnswer(f"{listing} broke off: the API led back to a page that was read")
                        raise BadAnswer(f"{listing} broke off: the API offered no way on")
                    # Refused half way, the walk may have met a list that moved on meanwhile.
                    seen.whole = seen.whole and throttled == context.source.throttled
                    return seen
        finally:
            asking.cancel()
            with contextlib.suppress(asyncio.CancelledError, RankrSyncError):
                await asking


def advance(cursor: Cursor, page: Page, walk: Walk, answer: Answer) -> Cursor:
    """The cursor after this page: the next position, or the end with its watermark.

    During a walk in the order of change the newest change seen is only carried along (the progress
    marker); it becomes the watermark when the walk is complete, so nothing before it can be missing.
    """
    started_at = cursor.started_at or answer.server_time or answer.asked_at
    marker = _newest(cursor, page) if walk.marks_progress else None
    if page.next is None and not page.whole:
        # The API gave no way on before the end: what was seen is kept, and nothing is taken for complete.
        return Cursor({}, "broken", cursor.watermark, started_at)
    if page.next is not None:
        position = {**page.next, "walk": walk.name}
        if marker is not None:
            position["marker"] = marker.isoformat()
        return Cursor(position, "walking", cursor.watermark, started_at)
    watermark = cursor.watermark
    if walk.marks_progress and "since" in cursor.position:
        # The walk showed all changes up to its start, by the server's clock: an idle location's watermark
        # moves on too. A server time far from ours is not believed.
        if abs(started_at - answer.asked_at) < TRUSTED_SKEW:
            marker = max(filter(None, (marker, started_at)))
        watermark = max(filter(None, (watermark, marker)), default=None)
    else:
        watermark = started_at
    return Cursor({}, "complete", watermark, started_at)


def _newest(cursor: Cursor, page: Page) -> datetime | None:
    seen = [record.updated_at for record in page.records if record.updated_at is not None]
    if "marker" in cursor.position:
        seen.append(datetime.fromisoformat(cursor.position["marker"]))
    return max(seen, default=None)


def _identity(context: LocationContext, walk: Walk, position: JsonObject) -> int:
    """A request in eight bytes: two that are the same have the same answer."""
    request = walk.request(context.location_id, position)
    return hash((request.method, request.path, request.query, json.dumps(request.body, sort_keys=True)))


def _leads_back(context: LocationContext, walk: Walk, page: Page, asked: set[int]) -> bool:
    """Whether the next page was asked for in this walk before; if not, it is noted in `asked`."""
    if page.next is None or walk.turns_back:
        return False
    identity = _identity(context, walk, page.next)
    if identity in asked:
        return True
    asked.add(identity)
    return False


def _ask(context: LocationContext, walk: Walk, position: JsonObject, pause: float = 0.0) -> "asyncio.Task[Answer]":
    async def ask() -> Answer:
        if pause:
            await asyncio.sleep(pause)
        return await context.source.fetch(walk.request(context.location_id, position), priority=LISTING)

    return asyncio.create_task(ask())


def _checkpoint(
    context: LocationContext,
    run: Run,
    partition: str,
    cursor: Cursor,
    page: Page,
    answer: Answer,
    since: datetime | None,
) -> None:
    """In the store's thread: the page, the cursor, the counts and the usage, in one transaction.

    What changed after `since`, up to which everything was stored, is found now: that is its detection delay.
    """
    stream, location_id, now = run.stream, context.location_id, context.now()
    with context.checkpoint() as tx:
        known = tx.known(stream, location_id, [record.id for record in page.records])
        plan = tx.apply(stream, location_id, plan_page(page, known, context.rules[stream.name]), now)
        if stream.owner:
            signal(context, tx, plan)
            note_leaving(context, tx, page, plan)
        if since is not None:
            found = delays(stream, plan, lambda row: (since, answer.asked_at))
            tx.add_delays(location_id, stream.name, now.date(), found)
        tx.save_cursor(location_id, stream.name, partition, cursor, now)
        if cursor.phase == "complete" and partition == FULL and stream.delta is not None:
            _begin_delta(tx, location_id, stream, cursor, now)
        tally = Tally(requests=answer.requests)
        tally.add(plan)
        tx.save_run(run.id, run.tally + tally)
        tx.add_usage(location_id, now, context.source.usage())
    if page.total is not None and partition == FULL and stream.owner:
        context.progress.total = page.total
    context.count(run, tally)


def signal(context: LocationContext, tx: Transaction, plan: Plan) -> None:
    """Make the children of new and changed contacts due, and forget those of contacts that are gone."""
    noticed = dict.fromkeys((row["id"] for row in plan.inserts), visits.NEW_CONTACT) | {
        row["id"]: plan.signals[row["id"]] for row in plan.updates if row["id"] not in plan.leaving
    }
    context.agenda.signal(tx, context.visited_streams(), noticed)
    if plan.tombstones:
        tx.drop_visits(context.location_id, plan.tombstones)


def _begin_delta(tx: Transaction, location_id: str, stream: Stream, full: Cursor, now: datetime) -> None:
    """After the first full pass, deltas begin at its start: what changed during the pass is met again."""
    if tx.cursor(location_id, stream.name, DELTA) is None:
        begin = Cursor({}, "complete", full.started_at, full.started_at)
        tx.save_cursor(location_id, stream.name, DELTA, begin, now)
