"""Pulling what a person asks for: one record of a contact alone, or the contacts of one business.

What comes is stored like any other record. A record that is pulled alone is no visit: its contact's turn stays.
"""

import asyncio

from rankr_sync.engine.context import URGENT, LocationContext, Run, Transaction
from rankr_sync.engine.visit import keep
from rankr_sync.engine.walk import signal
from rankr_sync.errors import BadAnswer, NotFound
from rankr_sync.model import Answer, JsonObject, Look, Page, Request, Tally
from rankr_sync.plan import plan_page
from rankr_sync.streams import OWNER, Stream


async def pull_record(context: LocationContext, stream: Stream, contact_id: str, id_: str) -> bool:
    """Pull one record of a stored contact alone. Returns False if it is gone at the source.

    That it is not found alone proves nothing: the id may be wrong, or another contact's. The contact's whole list
    is asked then, and what that does not hold is tombstoned as after any visit. Raises NotFound when the contact
    itself is not known, here or at the source.
    """
    single, lookup = stream.single, stream.lookup
    assert single is not None, stream.name
    assert lookup is not None, stream.name
    async with context.run(stream, "refresh") as run:
        await context.in_store(_look_for, context, contact_id)
        try:
            answer = await _ask(context, single.request(contact_id, id_))
        except NotFound as error:
            run.tally.requests += error.requests
            answer = await _ask(context, lookup.request(contact_id))
            page = lookup.parse(contact_id, answer.payload)
            await context.in_store(_keep_list, context, run, contact_id, answer, page)
            return id_ in {record.id for record in page.records}
        page = single.parse(contact_id, answer.payload)
        await context.in_store(_keep_page, context, run, answer, page, contact_id)
        return True


async def pull_business(context: LocationContext, business_id: str) -> int:
    """Read all contacts of a business now. Returns how many there are."""
    walk = OWNER.by_business
    assert walk is not None
    position: JsonObject = {"business": business_id}
    shown: set[str] = set()
    async with context.run(OWNER, "refresh") as run:
        while True:
            answer = await _ask(context, walk.request(context.location_id, position))
            page = walk.parse(position, answer.payload)
            news = {record.id for record in page.records} - shown
            await context.in_store(_keep_page, context, run, answer, page)
            shown |= news
            if page.next is None:
                return len(shown)
            if not news:
                raise BadAnswer(f"the contacts of business {business_id} broke off: the API shows the same page again")
            position = page.next


async def _ask(context: LocationContext, request: Request) -> Answer:
    return await context.or_stop(asyncio.create_task(context.source.fetch(request, priority=URGENT)))


def _look_for(context: LocationContext, contact_id: str) -> None:
    with context.store.transaction() as tx:
        _must_live(context, tx, contact_id)


def _must_live(context: LocationContext, tx: Transaction, contact_id: str) -> None:
    known = tx.known(OWNER, context.location_id, [contact_id]).get(contact_id)
    if known is None or known.deleted:
        raise NotFound(
            f"the contact {contact_id} is not in the store, so nothing below it is kept",
            hint=f"rankr-sync contact {contact_id} --refresh",
        )


def _keep_page(context: LocationContext, run: Run, answer: Answer, page: Page, contact_id: str | None = None) -> None:
    stream, location_id, now = run.stream, context.location_id, context.now()
    with context.store.transaction() as tx:
        if contact_id is not None:
            _must_live(context, tx, contact_id)
        known = tx.known(stream, location_id, [record.id for record in page.records])
        plan = tx.apply(stream, location_id, plan_page(page, known, context.rules[stream.name]), now)
        if stream.owner:
            signal(context, tx, plan)
        tally = Tally(requests=answer.requests)
        tally.add(plan)
        tx.save_run(run.id, run.tally + tally)
        tx.add_usage(location_id, now, context.source.usage())
    context.count(run, tally)


def _keep_list(context: LocationContext, run: Run, contact_id: str, answer: Answer, page: Page) -> None:
    now = context.now()
    look = Look(run.stream.name, contact_id, answer.asked_at, page, answer.requests)
    with context.store.transaction() as tx:
        _must_live(context, tx, contact_id)
        tally = Tally(requests=answer.requests)
        tally.add(keep(context, tx, run.stream, [look], now))
        tx.save_run(run.id, run.tally + tally)
        tx.add_usage(context.location_id, now, context.source.usage())
    context.count(run, tally)
