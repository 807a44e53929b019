"""What is done for one location: learn about it, pass over everything, poll for changes, visit contacts."""

import asyncio
import random
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import TypeVar

import structlog

from rankr_sync import visits
from rankr_sync.engine.agenda import Lesson
from rankr_sync.engine.audit import audit
from rankr_sync.engine.closed import recall_closed
from rankr_sync.engine.context import DELTA, FULL, URGENT, LocationContext, Transaction
from rankr_sync.engine.part import bury, leaving, take_up
from rankr_sync.engine.pull import pull_business, pull_record
from rankr_sync.engine.sweep import Seen, is_held, remove_gone, remove_unseen, unseen
from rankr_sync.engine.visit import Visitor, keep
from rankr_sync.engine.walk import walk_to_end
from rankr_sync.errors import EndpointGone, Interrupted, NotFound, RankrSyncError, RequestRefused, ScopeMissing
from rankr_sync.model import Answer, Cursor, JsonObject, LocationFacts, Look, Page, Plan, Request, Tally, Visit
from rankr_sync.pacing import turned
from rankr_sync.plan import plan_children
from rankr_sync.streams import OWNER, STREAMS, Stream, Walk, reference

log = structlog.get_logger()

T = TypeVar("T")

NOTICED_EVERY = timedelta(minutes=1)
"""How often we look for deadlines that passed."""

BACKFILL_PAUSE, ROLLING_PAUSE = 0.25, 1.0
"""Seconds between two looks at what is to be visited, when there was nothing."""

SECOND_LOOK, SECOND_LOOK_EVERY = timedelta(minutes=15), timedelta(minutes=5)
"""So often a poll looks so far back: what the search index shows up to ten minutes late is still found."""

FEW = 10
"""So many contacts may leave the part that is mirrored at once, however small it is: each is looked at, after all."""

REFUSALS = (EndpointGone, RequestRefused, ScopeMissing)
"""Errors that say: not this way. Another way to the same data may be open."""


class LocationSync:
    """The engine for one location. Create one per location and process, and call `learn` first."""

    def __init__(self, context: LocationContext) -> None:
        self.context = context

    async def learn(self) -> LocationFacts:
        """Read the location's time zone and custom fields, as far as the token may, and compile the mapping.

        Raises AskOwner when the token or the location is refused altogether, TryLater when the API is down.
        """
        context, id_ = self.context, self.context.location_id
        row = await self._reference(
            reference.location_request(id_), lambda payload: reference.location_parse(id_, payload)
        )
        fields = await self._reference(reference.custom_fields_request(id_), reference.custom_fields_parse)

        def save() -> LocationFacts:
            with context.store.transaction() as tx:
                # An answer that says nothing must not undo the time zone that is known.
                if row is not None and row["timezone"] is not None:
                    tx.save_location(row, context.now())
                if fields is not None:
                    tx.save_custom_fields(id_, fields, context.now())
                recall_closed(context, tx)
                tx.bring_forward_visits(id_, context.now(), context.now() + context.settings.bounds.max_age)
                tx.add_usage(id_, context.now(), context.source.usage())
                return tx.facts(id_) or LocationFacts(id_)

        facts = await context.in_store(save)
        if context.settings.timezone is not None:
            facts = replace(facts, timezone=context.settings.timezone)
        context.know(facts)
        await take_up(context)
        return facts

    async def recall(self) -> LocationFacts:
        """What is stored of the location, without a request; asks the API only if nothing is."""

        def read() -> LocationFacts | None:
            with self.context.store.reading() as tx:
                return tx.facts(self.context.location_id)

        facts = await self.context.in_store(read)
        if facts is None:
            return await self.learn()
        if self.context.settings.timezone is not None:
            facts = replace(facts, timezone=self.context.settings.timezone)
        self.context.know(facts)
        return facts

    # -- the whole ------------------------------------------------------------------------------------

    async def backfill(self, names: Sequence[str], *, restart: bool = False) -> int:
        """Copy everything of these streams once, or go on where an earlier backfill was cut off.

        Listings and visits run side by side. Returns the number of contacts that could not be read. With
        deletions confirmed, the contacts are passed over anew: only a whole pass shows what is gone.
        """
        begun_at = await self._begin_backfill(names, restart)
        wanted = [name for name in STREAMS if name in names and not await self._done_since(name, begun_at)]
        if self.context.settings.confirm_deletions and OWNER.name not in wanted:
            wanted.insert(0, OWNER.name)
        if OWNER.name not in names and not await self.is_complete(OWNER.name):
            wanted.insert(0, OWNER.name)  # whose children are to be copied must be known first
        begun = {name: await self.begin_visits(name, restart=restart) for name in self._visited(wanted)}
        self.context.progress.wanted = tuple(wanted)
        if OWNER.name not in wanted:
            self.context.progress.total = await self.count_contacts()
        self.context.progress.visited = await self._visited_since(begun)
        walking = [
            asyncio.create_task(self._full_pass_or_visits(name, begun, restart))
            for name in wanted
            if STREAMS[name].walks
        ]
        # Streams whose walk turns out to be closed to us join the visits while these are under way.
        visiting = asyncio.create_task(
            self._visit_round(
                begun,
                "backfill",
                streams=lambda: [name for name in self.context.lookup_streams() if name in wanted],
                more_to_come=lambda: not all(task.done() for task in walking),
            )
        )
        await _all_or_none([*walking, visiting])
        for name in begun:
            await self.end_visits(name)
        closed = [error for task in walking if (error := task.result()) is not None]
        if closed:
            raise closed[0]  # now that everything else is copied
        await self._end_backfill()
        return visiting.result()

    async def _begin_backfill(self, names: Sequence[str], restart: bool) -> datetime:
        """When the unfinished backfill of this location began; a new one begins where there is none."""
        context = self.context

        def begin() -> datetime:
            with context.store.transaction() as tx:
                begun = None if restart else tx.setting(self._backfill_key)
                if begun is None or not set(names) <= set(begun["streams"]):
                    begun = {"begun_at": context.now().isoformat(), "streams": list(names)}
                    tx.save_setting(self._backfill_key, begun, context.now())
                return datetime.fromisoformat(begun["begun_at"])

        return await context.in_store(begin)

    async def _end_backfill(self) -> None:
        def end() -> None:
            with self.context.store.transaction() as tx:
                tx.drop_setting(self._backfill_key)

        await self.context.in_store(end)

    @property
    def _backfill_key(self) -> str:
        return f"backfill:{self.context.location_id}"

    async def _done_since(self, name: str, begun_at: datetime) -> bool:
        cursor = await self.context.cursor(name, FULL)
        if cursor is None or cursor.phase != "complete" or cursor.saved_at is None:
            return False
        return cursor.saved_at >= begun_at

    async def _full_pass_or_visits(self, name: str, begun: dict[str, datetime], restart: bool) -> RankrSyncError | None:
        """A stream that is closed to this token altogether does not keep the others from being copied."""
        anew = restart or (STREAMS[name].owner and self.context.settings.confirm_deletions)
        try:
            if not await self.full_pass(name, "backfill", restart=anew):
                begun[name] = await self.begin_visits(name, restart=restart)
        except REFUSALS as error:
            if STREAMS[name].owner:
                raise
            return error
        return None

    def _visited(self, names: Sequence[str]) -> list[str]:
        visited = self.context.visited_streams()
        return [name for name in names if name in visited]

    async def full_pass(self, name: str, kind: str, *, restart: bool = False, pause: float = 0.0) -> bool:
        """Walk everything of a stream, or go on where an earlier pass was cut off.

        `pause`: seconds between two pages, for a pass that nobody waits for. Returns False where no walk is open to
        this token: then only visits can copy the stream.
        """
        stream = STREAMS[name]
        cursor = await self.context.cursor(name, FULL)
        if cursor is not None and cursor.phase == "walking" and not restart:
            begun = next((walk for walk in stream.walks if walk.name == cursor.position.get("walk")), None)
            if begun is not None:
                # What came before the interruption is not in our memory: this pass makes nobody a suspect.
                await walk_to_end(self.context, stream, begun, FULL, kind, cursor, pause)
                await self._let_go(stream)
                return True
        for walk in self._walks(stream):
            began = self.context.now()
            try:
                position = (
                    walk.narrow(walk.begin(None), self.context.settings.part) if walk.narrow else walk.begin(None)
                )
                begin = Cursor({**position, "walk": walk.name})
                seen = await walk_to_end(self.context, stream, walk, FULL, kind, begin, pause)
            except REFUSALS as error:
                self._do_without(stream, walk, error)
                continue
            if seen.whole:
                await self._suspect_unseen(stream, seen, began)
            else:
                await self._let_go(stream)
            return True
        return False

    async def _let_go(self, stream: Stream) -> None:
        """Look at the contacts that have left the part that is mirrored, unless the brake holds so many."""
        if not stream.owner or not (ids := await leaving(self.context)):
            return
        confirmed = self.context.settings.confirm_deletions or len(ids) <= FEW
        if confirmed or not await is_held(self.context, len(ids)):
            await remove_gone(self.context, ids, confirmed=confirmed)

    async def _suspect_unseen(self, stream: Stream, seen: Seen, began: datetime) -> None:
        """What a whole pass did not show: contacts are looked at now, others with their contact's next visit."""
        suspects = await unseen(self.context, stream, seen, began)
        if stream.owner:
            await remove_unseen(self.context, sorted({*(id_ for id_, _ in suspects), *await leaving(self.context)}))
            return
        contact_ids = sorted({contact_id for _, contact_id in suspects if contact_id})

        def signal() -> None:
            with self.context.store.transaction() as tx:
                self.context.agenda.signal(tx, [stream.name], dict.fromkeys(contact_ids, visits.MISSED))

        if contact_ids:
            await self.context.in_store(signal)

    # -- what changed ---------------------------------------------------------------------------------

    def can_poll(self, name: str) -> bool:
        """Whether the API tells us what changed of this stream."""
        walk = STREAMS[name].delta
        return walk is not None and walk in self._walks(STREAMS[name])

    async def poll(self, name: str) -> bool:
        """Copy what changed since the last poll. Returns False where only a full pass can tell."""
        stream = STREAMS[name]
        walk = stream.delta
        if walk is None or not self.can_poll(name):
            return False
        cursor = await self.context.cursor(name, DELTA)
        if cursor is None or cursor.watermark is None:
            return False
        if cursor.phase != "walking":
            begin = walk.begin(cursor.watermark - self._look_back(cursor))
            cursor = Cursor({**begin, "walk": walk.name}, "walking", cursor.watermark)
        try:
            await walk_to_end(self.context, stream, walk, DELTA, "poll", cursor)
        except (EndpointGone, RequestRefused) as error:
            self._do_without(stream, walk, error)
            return False
        await self._let_go(stream)
        return True

    def _look_back(self, last: Cursor) -> timedelta:
        """How far before the watermark a poll begins: the overlap; the first poll of each five minutes further.

        The index may show a change later than the overlap reaches. The second look costs an idle location no
        request more: it is the same poll over a longer time.
        """
        overlap = self.context.settings.overlap
        first = last.started_at is None or turned(last.started_at, self.context.now(), SECOND_LOOK_EVERY)
        return max(overlap, SECOND_LOOK) if first or last.phase == "broken" else overlap

    async def visit_due(self, lasting: timedelta = timedelta(0)) -> int:
        """Visit the contacts that a signal made due, and as many others as the budget buys, for so long.

        Passes by visits that were cut off are brought to their end. Returns how many contacts could not be read.
        """
        context, failed = self.context, 0
        visited = context.visited_streams()
        begun = {name: at for name in visited if (at := await self._begun_at(name)) is not None}
        if begun:
            failed = await self._visit_round(begun, "visit", more_to_come=lambda: False)
            for name in begun:
                await self.end_visits(name)
        until = context.now() + lasting
        return failed + await self._visit_round({}, "visit", more_to_come=lambda: context.now() < until, rolling=True)

    async def _begun_at(self, name: str) -> datetime | None:
        """When the pass by visits began that is under way."""
        cursor = await self.context.cursor(name, FULL)
        return cursor.started_at if cursor is not None and cursor.phase == "walking" else None

    async def audit(self, chance: random.Random) -> int:
        """Read a contact drawn at random again. Returns how many of its rows were out of date."""
        return await audit(self.context, chance)

    # -- one contact -----------------------------------------------------------------------------------

    @property
    def refresh_requests(self) -> int:
        """How many requests a refresh sends at once."""
        return len(self._refreshed_streams())

    async def refresh(self, contact_id: str) -> bool:
        """Pull a contact's full profile and all its children now. Returns False if it is gone at the source.

        Of a contact that is not of the part that is mirrored nothing is stored.
        """
        context, began, status = self.context, self.context.now(), "failed"
        try:
            found = await self._refresh(contact_id)
            status = "succeeded" if found else "gone"
            return found
        finally:
            context.observer.refreshed(context.location_id, status, (context.now() - began).total_seconds())

    async def _refresh(self, contact_id: str) -> bool:
        context = self.context
        looks: list[tuple[Stream, Answer, Page]] = []
        try:
            looks = list(
                await asyncio.gather(*(self._look_up(STREAMS[name], contact_id) for name in self._refreshed_streams()))
            )
        except NotFound:
            return False
        finally:
            await context.in_store(self._save_usage)

        def save() -> None:
            now = context.now()
            with context.store.transaction() as tx:
                for stream, answer, page in looks:
                    run_id = tx.start_run(context.location_id, stream.name, "refresh", now)
                    tally = Tally(requests=answer.requests)
                    tally.add(self._keep_look(tx, stream, contact_id, answer, page))
                    tx.save_run(run_id, tally, status="succeeded", now=now)

        await context.in_store(save)
        return True

    def _keep_look(self, tx: Transaction, stream: Stream, contact_id: str, answer: Answer, page: Page) -> Plan:
        context, now = self.context, self.context.now()
        if not stream.owner:
            look = Look(stream.name, contact_id, answer.asked_at, page, answer.requests)
            return keep(context, tx, stream, [look], now)
        known = tx.known(stream, context.location_id, [record.id for record in page.records])
        decided = plan_children({contact_id: page}, known, context.rules[stream.name])
        plan = tx.apply(stream, context.location_id, decided, now)
        # A contact that no walk has met would never be visited: the next poll finds it unchanged. What changed is
        # looked at in the same breath.
        new = {row["id"]: visits.NEW_CONTACT for row in plan.inserts}
        context.agenda.signal(tx, context.visited_streams(), new)
        bury(tx, context.location_id, plan.leaving, now)
        return plan

    def _refreshed_streams(self) -> list[str]:
        names = self.context.settings.streams
        return [name for name, stream in STREAMS.items() if stream.lookup and (stream.owner or name in names)]

    async def pull(self, name: str, contact_id: str, id_: str) -> bool:
        """Pull one record of a stored contact alone. Returns False if it is gone at the source. Raises NotFound."""
        return await pull_record(self.context, STREAMS[name], contact_id, id_)

    async def pull_business(self, business_id: str) -> int:
        """Read all contacts of a business now. Returns how many there are."""
        return await pull_business(self.context, business_id)

    async def look_up(self, stream: Stream, contact_id: str) -> Page:
        """What the API sends of a contact now, for somebody who waits; nothing of it is stored. Raises NotFound."""
        try:
            return (await self._look_up(stream, contact_id))[2]
        finally:
            await self.context.in_store(self._save_usage)

    async def _look_up(self, stream: Stream, contact_id: str) -> tuple[Stream, Answer, Page]:
        assert stream.lookup is not None
        answer = await self.context.source.fetch(stream.lookup.request(contact_id), priority=URGENT)
        return stream, answer, stream.lookup.parse(contact_id, answer.payload)

    def _save_usage(self) -> None:
        with self.context.store.transaction() as tx:
            tx.add_usage(self.context.location_id, self.context.now(), self.context.source.usage())

    # -- full passes by visits --------------------------------------------------------------------------

    async def begin_visits(self, name: str, *, restart: bool = False) -> datetime:
        """Begin a full pass by visits, or find the one that was cut off; what is due by then is part of it."""
        cursor = await self.context.cursor(name, FULL)
        if cursor is not None and cursor.phase == "walking" and cursor.started_at is not None and not restart:
            return cursor.started_at
        started_at = self.context.now()

        def begin() -> None:
            with self.context.store.transaction() as tx:
                self.context.agenda.add_missing(tx, name)
                begun = Cursor({}, "walking", cursor.watermark if cursor else None, started_at)
                tx.save_cursor(self.context.location_id, name, FULL, begun, self.context.now())

        await self.context.in_store(begin)
        return started_at

    async def end_visits(self, name: str) -> bool:
        """Note that the full pass by visits is complete, if nothing of it is left."""

        def end() -> bool:
            with self.context.store.transaction() as tx:
                cursor = tx.cursor(self.context.location_id, name, FULL)
                if cursor is None or cursor.phase != "walking" or cursor.started_at is None:
                    return cursor is not None
                if tx.unvisited(self.context.location_id, name, cursor.started_at, self.context.now(), 1):
                    return False
                done = Cursor({}, "complete", cursor.started_at, cursor.started_at)
                tx.save_cursor(self.context.location_id, name, FULL, done, self.context.now())
                return True

        return await self.context.in_store(end)

    async def _visited_since(self, begun: Mapping[str, datetime]) -> int:
        """How many of the visits of these passes were made already."""

        def count() -> int:
            ever = self.context.now() + timedelta(days=1)
            made = 0
            with self.context.store.reading() as tx:
                for name, begun_at in begun.items():
                    _, (all_, older) = tx.count_visits(self.context.location_id, [name], [ever, begun_at])
                    made += all_ - older
            return made

        return await self.context.in_store(count)

    async def count_contacts(self) -> int:
        """How many living contacts are stored."""

        def count() -> int:
            with self.context.store.reading() as tx:
                return tx.count_living(OWNER, self.context.location_id)

        return await self.context.in_store(count)

    async def is_complete(self, name: str) -> bool:
        """Whether the last full pass of this stream came to its end."""
        cursor = await self.context.cursor(name, FULL)
        return cursor is not None and cursor.phase == "complete"

    # -- inside ---------------------------------------------------------------------------------------

    async def _visit_round(
        self,
        begun: Mapping[str, datetime],
        kind: str,
        *,
        more_to_come: Callable[[], bool],
        streams: Callable[[], Sequence[str]] | None = None,
        rolling: bool = False,
    ) -> int:
        context = self.context
        noticed_at: datetime | None = None

        def feed(in_hand: Collection[tuple[str, str]]) -> list[Visit]:
            nonlocal noticed_at
            visited = context.visited_streams() if rolling else []
            if rolling and (noticed_at is None or context.now() - noticed_at >= NOTICED_EVERY):
                noticed_at = context.now()
                with context.store.transaction() as tx:
                    context.agenda.deadlines(tx, [STREAMS[name] for name in visited])
            with context.store.reading() as tx:
                names = streams() if streams else context.lookup_streams()
                return context.agenda.due(tx, names, begun, in_hand, rolling=visited)

        await self._study()
        pause = ROLLING_PAUSE if rolling else BACKFILL_PAUSE
        visitor = Visitor(context, feed, kind, more_to_come=more_to_come, pause=pause)
        failed = await visitor.round()
        # A contact whose children are not found is most likely gone itself.
        suspects = sorted(visitor.not_found)
        if suspects:
            await remove_gone(context, suspects, confirmed=context.settings.confirm_deletions)
        return failed

    async def _study(self) -> None:
        """Learn from all visits together, beside the store's thread: other work goes on there meanwhile."""
        context = self.context

        def read() -> Lesson | None:
            with context.store.reading() as tx:
                return context.agenda.study(tx, context.lookup_streams(), context.visited_streams())

        def learn(lesson: Lesson) -> None:
            with context.store.transaction() as tx:
                context.agenda.learn(tx, lesson)

        lesson = await asyncio.to_thread(read)
        if lesson is not None:
            await context.in_store(learn, lesson)

    def _walks(self, stream: Stream) -> list[Walk]:
        wanted, part = self.context.settings.listing, self.context.settings.part
        open_ = [walk for walk in stream.walks if not self.context.is_refused(stream, walk)]
        if not stream.owner:
            return open_ if part.is_whole else []
        if not part.is_whole:
            open_.sort(key=lambda walk: walk.narrow is None)  # what shows only the part first
        return [walk for walk in open_ if wanted in ("auto", walk.name)]

    def _do_without(self, stream: Stream, walk: Walk, error: RankrSyncError) -> None:
        """Remember that this way is closed. Raises the error where there is no other."""
        others = [other.name for other in self._walks(stream) if other is not walk]
        if not others and (stream.owner or stream.lookup is None):
            raise error
        self.context.refused.add((stream.name, walk.name))
        log.warning(
            "walk.refused",
            location=self.context.location_id,
            stream=stream.name,
            walk=walk.name,
            error=str(error),
            instead=others[0] if others else "one request per contact",
        )

    async def _reference(self, request: Request, parse: Callable[[JsonObject], T]) -> T | None:
        asking = asyncio.create_task(self.context.source.fetch(request, hurried=True))
        try:
            return parse((await self.context.or_stop(asking)).payload)
        except (*REFUSALS, NotFound) as error:
            id_ = self.context.location_id
            log.warning("reference.unavailable", location=id_, route=request.route, error=str(error))
            return None
        finally:
            asking.cancel()


async def _all_or_none(tasks: "Sequence[asyncio.Task[object]]") -> None:
    """Wait for all; when one fails, end the others and raise its error.

    Asked to end, each finishes what it has in hand by itself.
    """
    try:
        await asyncio.gather(*tasks)
    except Interrupted:
        await asyncio.gather(*tasks, return_exceptions=True)
        raise
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
