"""The audit: contacts drawn at random are read again and compared, so that "how right is the mirror?" has an answer.

One contact every half hour, with one request a stream: of the rows compared, those that were not as at the source
are the share of the mirror that is out of date at a random moment. What an audit finds is stored like any other look;
of a stream that is walked, it shows what the walks do not (see `closed`).
"""

import random
import string
from datetime import timedelta

import structlog

from rankr_sync.engine.context import VISIT, LocationContext
from rankr_sync.engine.visit import keep
from rankr_sync.errors import SkipRecord
from rankr_sync.model import Look, Tally
from rankr_sync.streams import STREAMS

log = structlog.get_logger()

EVERY = timedelta(minutes=30)


async def audit(context: LocationContext, chance: random.Random) -> int:
    """Read one contact again. Returns how many of its rows were out of date."""
    at = "".join(chance.choices(string.ascii_letters + string.digits, k=20))

    def draw() -> str | None:
        with context.store.reading() as tx:
            return tx.drawn(context.location_id, at)

    contact_id = await context.in_store(draw)
    stale = 0
    if contact_id is not None:
        for name in context.lookup_streams():
            stale += await _compare(context, name, contact_id)
    return stale


async def _compare(context: LocationContext, name: str, contact_id: str) -> int:
    stream = STREAMS[name]
    assert stream.lookup is not None, name
    try:
        answer = await context.source.fetch(stream.lookup.request(contact_id), priority=VISIT)
        page = stream.lookup.parse(contact_id, answer.payload)
    except SkipRecord:
        return 0  # the contact is gone, which the sweep finds by itself
    look = Look(name, contact_id, answer.asked_at, page, answer.requests)

    tally = Tally(requests=look.requests)

    def store() -> int:
        now = context.now()
        with context.checkpoint() as tx:
            run_id = tx.start_run(context.location_id, name, "audit", now)
            plan = keep(context, tx, stream, [look], now)
            tally.add(plan)
            stale = tally.inserted + tally.updated + tally.deleted
            tx.add_audit(context.location_id, name, now.date(), 1, tally.fetched + tally.deleted, stale)
            tx.save_run(run_id, tally, status="succeeded", now=now)
            tx.add_usage(context.location_id, now, context.source.usage())
        return stale

    stale = await context.in_store(store)
    seconds = (context.now() - look.asked_at).total_seconds()
    context.observer.ran(context.location_id, name, "audit", "succeeded", seconds, tally)
    if stale:
        log.info("audit.differs", location=context.location_id, stream=name, contact=contact_id, rows=stale)
    return stale
