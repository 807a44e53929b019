"""Visiting contacts for their children: many requests in flight, many answers to one transaction.

Three parts pass work on: the feeder reads what is due from the store, workers fetch, the keeper saves
batches. A visit counts when its batch is committed; what was in flight at a crash is simply still due.
"""

import asyncio
import contextlib
from collections.abc import Callable, Collection, Sequence
from datetime import datetime
from functools import partial
from typing import Any, Literal

import structlog

from rankr_sync.engine.agenda import Find, delays, found_in, histories
from rankr_sync.engine.closed import note_missed
from rankr_sync.engine.context import VISIT, LocationContext, Run, Transaction
from rankr_sync.errors import Interrupted, RequestRefused, SkipRecord, TryLater
from rankr_sync.model import Look, Plan, Row, Tally, Visit
from rankr_sync.plan import plan_children
from rankr_sync.streams import OWNER, STREAMS, Stream
from rankr_sync.visits import MISSED

log = structlog.get_logger()

FAILURES_IN_A_ROW = 20
"""So many failed visits with none that succeeded between them mean that the API is down, not a contact odd."""

Feed = Callable[[Collection[tuple[str, str]]], Sequence[Visit]]
"""Asked in the store's thread for what to visit now, given the (stream, contact) pairs in hand."""


class Visitor:
    """One round of visits, for as long as there are some to make."""

    def __init__(
        self,
        context: LocationContext,
        feed: Feed,
        kind: str,
        *,
        more_to_come: Callable[[], bool],
        pause: float,
    ) -> None:
        self._context = context
        self._feed_from = feed
        self._kind = kind
        self._more_to_come = more_to_come
        self._pause = pause
        self._todo: asyncio.Queue[Visit | None] = asyncio.Queue(context.settings.workers * 2)
        self._seen: asyncio.Queue[Look | None] = asyncio.Queue(context.settings.batch * 4)
        self._stored = asyncio.Event()
        self._in_hand: set[tuple[str, str]] = set()
        self._runs: dict[str, Run] = {}
        self._open_runs = contextlib.AsyncExitStack()
        self._failures_in_a_row = 0
        self.failed = 0
        self.not_found: set[str] = set()
        """Contacts that the source said it does not know."""

    async def round(self) -> int:
        """Visit until nothing is due. Returns how many contacts could not be read."""
        async with self._open_runs:
            keeper = asyncio.create_task(self._keep())
            askers = [asyncio.create_task(self._feed())]
            askers += [asyncio.create_task(self._work()) for _ in range(self._context.settings.workers)]
            stopping = asyncio.create_task(self._context.stop.wait())
            try:
                await _until_done_or_failed(askers, keeper, stopping)
                if self._context.stop.is_set():
                    await self._finish_in_hand(askers)
            finally:
                for task in (stopping, *askers):
                    task.cancel()
                await asyncio.gather(*askers, return_exceptions=True)
                if not keeper.done():
                    await self._seen.put(None)  # what was answered is kept, also when we are asked to end
                await keeper
            if self._context.stop.is_set():
                raise Interrupted("asked to end; everything so far is saved")
        return self.failed

    async def _finish_in_hand(self, askers: "list[asyncio.Task[None]]") -> None:
        """Asked to end: no new visits, and a short grace for the requests that are under way."""
        feeder, *workers = askers
        feeder.cancel()
        while not self._todo.empty():
            self._todo.get_nowait()
        for _ in workers:
            self._todo.put_nowait(None)
        await asyncio.wait(workers, timeout=self._context.settings.grace)

    async def _feed(self) -> None:
        """From the agenda to the workers, never the same one twice at a time."""
        context = self._context
        while True:
            come = self._more_to_come()  # asked before looking, so that what came last is not overlooked
            fresh = await context.in_store(self._feed_from, frozenset(self._in_hand))
            for visit in fresh:
                if visit.stream not in self._runs:
                    run = context.run(STREAMS[visit.stream], self._kind)
                    self._runs[visit.stream] = await self._open_runs.enter_async_context(run)
                self._in_hand.add((visit.stream, visit.contact_id))
                await self._todo.put(visit)
            if not fresh:
                if not come and not self._in_hand:
                    break
                self._stored.clear()
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._stored.wait(), self._pause)
        for _ in range(context.settings.workers):
            await self._todo.put(None)

    async def _work(self) -> None:
        while (visit := await self._todo.get()) is not None:
            with structlog.contextvars.bound_contextvars(run=self._runs[visit.stream].id):
                look = await self._look(visit)
            await self._seen.put(look)

    async def _look(self, visit: Visit) -> Look:
        lookup = STREAMS[visit.stream].lookup
        assert lookup is not None, visit.stream
        asked_at = self._context.now()
        look = partial(Look, visit.stream, visit.contact_id)
        try:
            answer = await self._context.source.fetch(lookup.request(visit.contact_id), priority=VISIT)
            page = lookup.parse(visit.contact_id, answer.payload)
        except SkipRecord as error:
            self._failures_in_a_row = 0
            return look(asked_at, None, error.requests)
        except (TryLater, RequestRefused) as error:
            self._failures_in_a_row += 1
            if self._failures_in_a_row >= FAILURES_IN_A_ROW:
                raise
            return look(asked_at, None, max(1, error.requests), failure=str(error))
        self._failures_in_a_row = 0
        return look(answer.asked_at, page, answer.requests)

    async def _keep(self) -> None:
        """Store looks in batches: when enough have come, or nothing comes for a moment."""
        ended = False
        while not ended:
            batch: list[Look] = []
            while len(batch) < self._context.settings.batch:
                try:
                    look = await self._next_look(0.5 if batch else None)
                except TimeoutError:
                    break
                if look is None:
                    ended = True
                    break
                batch.append(look)
                if self._seen.empty() and len(batch) == len(self._in_hand):
                    break  # nothing is under way that could still join this batch
            if batch:
                await self._context.in_store(self._checkpoint, batch)
                self._in_hand.difference_update((look.stream, look.contact_id) for look in batch)
                self._stored.set()

    async def _next_look(self, seconds: float | None) -> Look | None:
        if not self._seen.empty():
            return self._seen.get_nowait()
        return await asyncio.wait_for(self._seen.get(), seconds)

    def _checkpoint(self, batch: list[Look]) -> None:
        """In the store's thread: the children, the visits, the counts and the usage, in one transaction."""
        context, now = self._context, self._context.now()
        counts: dict[str, Tally] = {}
        # In the order in which a refresh writes too: of two that hold one contact's rows, one waits.
        with context.checkpoint() as tx:
            for name in [name for name in STREAMS if any(look.stream == name for look in batch)]:
                plan = keep(context, tx, STREAMS[name], [look for look in batch if look.stream == name], now)
                tally = counts[name] = Tally(requests=sum(look.requests for look in batch if look.stream == name))
                tally.add(plan)
                tx.save_run(self._runs[name].id, self._runs[name].tally + tally)
            tx.add_usage(context.location_id, now, context.source.usage())
        self.not_found.update(look.contact_id for look in batch if look.page is None and look.failure is None)
        for look in batch:
            if look.failure is not None:
                self.failed += 1
                where = {"location": context.location_id, "stream": look.stream, "contact": look.contact_id}
                log.warning("visit.failed", run=self._runs[look.stream].id, **where, error=look.failure)
        for name, tally in counts.items():
            context.count(self._runs[name], tally)


def keep(context: LocationContext, tx: Transaction, stream: Stream, looks: Sequence[Look], now: datetime) -> Plan:
    """Within a transaction: what these looks found, and what they taught. Returns what was written.

    A look that another one has overtaken, such as a person's refresh, is left out: its answer is older.
    """
    location_id = context.location_id
    known_visits = tx.visits_of(location_id, stream.name, [look.contact_id for look in looks])
    looks = [look for look in looks if not _is_late(look, known_visits.get(look.contact_id), now)]
    if not context.settings.part.is_whole:  # who has left while the answer was under way leaves no children behind
        owners = tx.known(OWNER, location_id, [look.contact_id for look in looks])
        looks = [look for look in looks if look.contact_id in owners and not owners[look.contact_id].deleted]
    pages = {look.contact_id: look.page for look in looks if look.page is not None}
    ids = [record.id for page in pages.values() for record in page.records]
    known = tx.known_children(stream, location_id, list(pages), ids)
    plan = tx.apply(stream, location_id, plan_children(pages, known, context.rules[stream.name]), now)
    last = {id_: visit.last_visited_at for id_, visit in known_visits.items()}
    asked_at = {look.contact_id: look.asked_at for look in looks}

    def looked(row: Row) -> tuple[datetime | None, datetime]:
        return last.get(row["contact_id"]), asked_at.get(row["contact_id"], now)

    tx.add_delays(location_id, stream.name, now.date(), delays(stream, plan, looked))
    if stream.name not in context.visited_streams():
        # Visited for once: the stream is walked.
        suspects = {id_ for id_ in pages if id_ in known_visits and known_visits[id_].signal == MISSED}
        gone = {known[id_].contact_id for id_ in plan.tombstones if id_ in known}
        note_missed(context, tx, stream, len(suspects - gone))
        failed = [look for look in looks if look.failure is not None]
        context.agenda.settle(tx, stream, failed, known_visits, {})
        done = [(look.stream, look.contact_id) for look in looks if look.failure is None]
        tx.forget_visits(location_id, done)
        return plan
    first = [id_ for id_ in pages if last.get(id_) is None]
    finds = {id_: Find(changes) for id_, changes in found_in(plan, known).items()}
    finds |= histories(stream, plan, tx.made_at(location_id, first) if first else {}, first, now)
    context.agenda.settle(tx, stream, looks, known_visits, finds)
    return plan


def _is_late(look: Look, visit: Visit | None, now: datetime) -> bool:
    """Whether an answer that was asked for later has been stored meanwhile.

    A look dated in the future is of a clock that was set back since, and proves nothing.
    """
    last = visit.last_visited_at if visit is not None else None
    return last is not None and look.asked_at < last <= now


async def _until_done_or_failed(
    askers: "list[asyncio.Task[None]]", keeper: "asyncio.Task[None]", stopping: "asyncio.Task[Literal[True]]"
) -> None:
    """Until every asker is done, or we are asked to end, or one part fails: then its error."""
    pending: set[asyncio.Task[Any]] = {*askers, keeper, stopping}
    while pending & set(askers):
        done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
        if stopping in done:
            return
        for part in done:
            part.result()
