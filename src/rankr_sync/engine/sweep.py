"""Finding what is gone at the source. The API has no feed of deletions: what a complete pass did not show is
suspected, and only a direct look at it proves the case.

Promises kept here:
- nothing is tombstoned on absence alone;
- a pass that was resumed, throttled, broke off or held something unreadable makes nobody a suspect;
- a pass that would remove more than the brake allows removes nothing, and says so;
- a person's word lets one pass through, and no more of them than the person was told of.
"""

import asyncio
import hashlib
from array import array
from bisect import bisect_left
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime

import structlog

from rankr_sync.engine.context import LISTING, LocationContext, Run, Transaction
from rankr_sync.engine.part import bury, settle_leaving
from rankr_sync.errors import NotFound
from rankr_sync.model import Page, Tally
from rankr_sync.plan import brake_holds, covers, plan_page
from rankr_sync.streams import OWNER, Stream

log = structlog.get_logger()

CHUNK = 2000


class Seen:
    """The ids that a walk has shown, as eight bytes each: a million contacts take eight megabytes.

    Two ids in the same eight bytes would let a deletion go unnoticed, never remove anything.
    """

    def __init__(self) -> None:
        self.whole = True
        """False when something was on a page that could not be read: the missing id may be its."""
        self._hashes = array("Q")
        self._sorted = True

    def add(self, page: Page) -> None:
        """Remember the ids of a page."""
        self._hashes.extend(_hash(record.id) for record in page.records)
        self._hashes.extend(_hash(reject.external_id) for reject in page.rejects if reject.external_id)
        self._sorted = False
        self.whole = self.whole and all(reject.external_id for reject in page.rejects)

    def missing(self, ids: Iterable[str]) -> list[str]:
        """Which of these were not shown."""
        if not self._sorted:
            self._hashes = array("Q", sorted(self._hashes))
            self._sorted = True
        return [id_ for id_ in ids if not self._has(_hash(id_))]

    def _has(self, value: int) -> bool:
        place = bisect_left(self._hashes, value)
        return place < len(self._hashes) and self._hashes[place] == value


def _hash(id_: str) -> int:
    return int.from_bytes(hashlib.blake2b(id_.encode(), digest_size=8).digest(), "big")


async def unseen(context: LocationContext, stream: Stream, seen: Seen, began: datetime) -> list[tuple[str, str | None]]:
    """(id, contact id) of the living rows that the pass did not show, and that were there before it began."""

    def look() -> list[tuple[str, str | None]]:
        found: list[tuple[str, str | None]] = []
        after = ""
        with context.store.reading() as tx:
            while rows := tx.living(stream, context.location_id, began, after, CHUNK):
                missing = set(seen.missing(id_ for id_, _ in rows))
                found += [(id_, contact_id) for id_, contact_id in rows if id_ in missing]
                after = rows[-1][0]
        return found

    return await context.in_store(look)


async def remove_unseen(context: LocationContext, suspects: Sequence[str]) -> None:
    """Look at each contact that a whole pass did not show, as `remove_gone`; then nothing is held any more.

    What was confirmed on the status page counts for this one pass, whether it covers what was found or not.
    """
    told = await context.setting(confirmed_key(context.location_id))
    confirmed = context.settings.confirm_deletions or (told is not None and covers(told["suspects"], len(suspects)))
    passed = await remove_gone(context, suspects, confirmed=confirmed)
    await context.in_store(_settle, context, [confirmed_key, held_key] if passed else [confirmed_key])


async def remove_gone(context: LocationContext, suspects: Sequence[str], *, confirmed: bool) -> bool:
    """Look at each suspected contact; tombstone those that the source does not know, or that are not of the part that
    is mirrored, with their children.

    False: held by the brake, as it was not `confirmed`.
    """
    if not suspects:
        return True
    living = await context.in_store(_count_living, context)
    if not confirmed and brake_holds(len(suspects), living, context.settings.brake):
        await _hold(context, len(suspects), living)
        return False
    async with context.run(OWNER, "sweep") as run:
        width = context.settings.workers
        for start in range(0, len(suspects), width):
            chunk = suspects[start : start + width]
            looks = await asyncio.gather(*(_look(context, id_) for id_ in chunk))
            gone = [id_ for id_, page in zip(chunk, looks, strict=True) if page is None]
            alive = [page for page in looks if page is not None]
            await context.in_store(_checkpoint, context, run, gone, alive)
    return True


async def _look(context: LocationContext, contact_id: str) -> Page | None:
    assert OWNER.lookup is not None
    try:
        asking = asyncio.create_task(context.source.fetch(OWNER.lookup.request(contact_id), priority=LISTING))
        answer = await context.or_stop(asking)
    except NotFound:
        return None
    return OWNER.lookup.parse(contact_id, answer.payload)


def _checkpoint(context: LocationContext, run: Run, gone: list[str], alive: list[Page]) -> None:
    now, location_id = context.now(), context.location_id
    tally = Tally(requests=len(gone) + len(alive))
    with context.checkpoint() as tx:
        page = Page(tuple(record for one in alive for record in one.records))
        known = tx.known(OWNER, location_id, [record.id for record in page.records])
        plan = tx.apply(OWNER, location_id, plan_page(page, known, context.rules[OWNER.name]), now)
        tally.add(plan)
        tally.deleted += bury(tx, location_id, [*gone, *plan.leaving], now)
        settle_leaving(context, tx, [*gone, *(record.id for record in page.records)])
        tx.save_run(run.id, run.tally + tally)
        tx.add_usage(location_id, now, context.source.usage())
    context.count(run, tally)


def _count_living(context: LocationContext) -> int:
    with context.store.reading() as tx:
        return tx.count_living(OWNER, context.location_id)


def held_key(location_id: str) -> str:
    """Where deletions that the brake holds are noted, in `sync_settings`."""
    return f"held:{location_id}"


async def is_held(context: LocationContext, suspects: int) -> bool:
    """Whether so many are held by the brake already, and were told of."""
    held = await context.setting(held_key(context.location_id))
    return held is not None and held["suspects"] >= suspects


async def _hold(context: LocationContext, suspects: int, living: int) -> None:
    words = (
        f"{suspects:,} of {living:,} contacts were not shown by a complete pass; more than"
        f" {context.settings.brake:.0%} at once, so nothing is removed until it is confirmed"
    )

    def hold() -> None:
        now = context.now()
        with context.store.transaction() as tx:
            run_id = tx.start_run(context.location_id, OWNER.name, "sweep", now)
            tx.save_run(run_id, Tally(), status="held", error=words, now=now)
            note = {"suspects": suspects, "of": living, "at": now.isoformat()}
            tx.save_setting(held_key(context.location_id), note, now)

    await context.in_store(hold)
    context.observer.ran(context.location_id, OWNER.name, "sweep", "held", 0.0, Tally())
    log.warning("deletions.held", location=context.location_id, suspects=suspects, of=living)


def confirmed_key(location_id: str) -> str:
    """Where a person's word on held deletions is noted, in `sync_settings`."""
    return f"confirmed:{location_id}"


def confirm_held(tx: Transaction, location_id: str, suspects: int, now: datetime) -> bool:
    """Note a person's word that so many suspects may go, if any are held. The next whole pass begins at once."""
    if tx.setting(held_key(location_id)) is None:
        return False
    tx.save_setting(confirmed_key(location_id), {"suspects": suspects, "at": now.isoformat()}, now)
    return True


async def confirmed_at(context: LocationContext) -> datetime | None:
    """When a person let held deletions through that no pass has looked at since."""
    told = await context.setting(confirmed_key(context.location_id))
    return None if told is None else datetime.fromisoformat(told["at"])


def _settle(context: LocationContext, keys: Sequence[Callable[[str], str]]) -> None:
    with context.store.transaction() as tx:
        for key in keys:
            tx.drop_setting(key(context.location_id))
