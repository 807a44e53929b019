"""One writer a location: a lease in the store, renewed while it is used, expiring when its holder dies.

Every checkpoint renews it in its own transaction, so a holder that slept through its lease (a suspended
machine) and was replaced cannot write over its successor.

Who holds the lease also owns the location's rate budget: it counts what the holder before it has spent, and
lends slots to those who must send beside it (`loans`).
"""

import asyncio
import contextlib
import os
import socket
import uuid
from collections.abc import AsyncIterator
from datetime import datetime

import structlog

from rankr_sync.engine.context import LEASE_LASTS, LocationContext
from rankr_sync.engine.loans import Borrowing, Lender, may_have_sent_until
from rankr_sync.errors import Interrupted, RankrSyncError

log = structlog.get_logger()

LOOK_EVERY = 2.0
"""Seconds between two tries of one who waits."""

ASK_EVERY = 0.1
"""Seconds between two looks of a borrower, for whom a person waits."""

SPARE_REQUESTS = 2
"""What is borrowed beyond the requests that are meant to be sent: for a retry, or the time zone."""


def new_holder() -> str:
    """A name for this process that no other has; it tells people, and a successor, where it runs."""
    return f"{_here()}:{os.getpid()}:{uuid.uuid4().hex[:8]}"


def is_dead(holder: str, here: str | None = None) -> bool:
    """Whether the holder was a process of this machine that runs no more; False where that cannot be known."""
    where, _, rest = holder.rpartition(":")[0].rpartition(":")
    if where != (here or _here()) or not rest.isdigit():
        return False
    if int(rest) == os.getpid():
        return True  # in a container each start has the same number: it was the one before us
    try:
        os.kill(int(rest), 0)
    except ProcessLookupError:
        return True
    except OSError:
        return False
    return False


def _here() -> str:
    """This machine, and where it can be told, the space in which its process numbers are unique."""
    try:
        space = os.stat("/proc/self/ns/pid").st_ino
    except OSError:
        space = 0
    return f"{socket.gethostname()[:40]}/{space}"


class Lease:
    """The lease of one location, for one process."""

    def __init__(self, context: LocationContext) -> None:
        self._context = context
        self._holder = new_holder()
        self._taken_at = 0.0
        self._taking = asyncio.Lock()
        self._lender = Lender(context)
        self._lending: asyncio.Task[None] | None = None

    async def take(self) -> bool:
        """Take the lease, or renew it when it is time to. False while another process holds it."""
        context = self._context
        async with self._taking:
            other = await self._take()
        if other is None:
            return True
        if context.holder is not None or not context.waiting:
            log.warning("lease.waiting", location=context.location_id, holder=other)
        context.holder, context.waiting = None, True
        return False

    async def _take(self) -> str | None:
        """None: it is ours. Else who holds it."""
        context = self._context
        if context.holder is not None and context.clock() - self._taken_at < LEASE_LASTS.total_seconds() / 3:
            return None

        def take() -> tuple[str | None, datetime | None]:
            now = context.now()
            with context.store.transaction() as tx:
                until = now + LEASE_LASTS
                before = tx.lease(context.location_id)
                lived_until = may_have_sent_until(before[1]) if before and before[0] != self._holder else None
                if tx.take_lease(context.location_id, self._holder, now, until):
                    return None, lived_until
                other, _ = tx.lease(context.location_id) or ("another process", now)
                if other != self._holder and is_dead(other):
                    tx.give_lease(context.location_id, other)
                    if tx.take_lease(context.location_id, self._holder, now, until):
                        return None, lived_until
                return other, None

        other, lived_until = await context.in_store(take)
        if other is not None:
            return other
        self._taken_at = context.clock()
        if context.holder is None:
            await self.stop()
            await self._lender.begin(lived_until)
            context.holder = self._holder
            self._lending = asyncio.create_task(self._lender.work())
        return None

    async def stop(self) -> None:
        """Lend nothing more."""
        if self._lending is not None:
            self._lending.cancel()
            await asyncio.gather(self._lending, return_exceptions=True)
            self._lending = None

    async def give_back(self) -> None:
        """Let the next one have it at once, and know what was spent."""
        context = self._context
        held = context.holder is not None
        usage = context.source.usage(ending=True) if held and context.source.unsaved else None
        context.holder = None
        await self.stop()
        if not held:
            return

        def give() -> None:
            with context.store.transaction() as tx:
                tx.give_lease(context.location_id, self._holder)
                if usage is not None:
                    tx.add_usage(context.location_id, context.now(), usage)

        with contextlib.suppress(RankrSyncError):
            await context.in_store(give)

    @contextlib.asynccontextmanager
    async def held(self) -> AsyncIterator[None]:
        """Wait for the lease, keep it during the block, give it back. Raises Interrupted when asked to end."""
        while not await self.take():
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._context.stop.wait(), LOOK_EVERY)
            if self._context.stop.is_set():
                raise Interrupted("asked to end while another process was at work on the same location")
        async with self._kept():
            yield

    @contextlib.asynccontextmanager
    async def held_or_lent(self, requests: int) -> AsyncIterator[None]:
        """Send up to so many requests at once during the block, whoever holds the lease.

        Nobody does: it is taken. A process at work does: its slots are borrowed. It hangs: they are used all
        the same, after a few seconds. Raises Interrupted when asked to end.
        """
        borrowing = Borrowing(self._context, new_holder(), requests)
        try:
            if await self._get_or_borrow(borrowing):
                async with self._kept():
                    yield
            else:
                yield
        finally:
            await borrowing.end()

    @contextlib.asynccontextmanager
    async def kept_or_lent(self, requests: int) -> AsyncIterator[None]:
        """As `held_or_lent`, beside the daemon in its own process: a lease that is ours, or becomes it, stays ours."""
        borrowing = Borrowing(self._context, new_holder(), requests)
        try:
            await self._get_or_borrow(borrowing)
            yield
        finally:
            await borrowing.end()

    async def _get_or_borrow(self, borrowing: Borrowing) -> bool:
        """Whether the lease is ours; else the loan is."""
        async with self._taking:
            if await self._take() is None:
                return True
        await borrowing.ask()
        while True:
            if self._context.holder is not None:  # the daemon in our own process has taken it meanwhile
                await borrowing.end()
                return True
            granted, holder = await borrowing.look()
            if granted:
                return False
            if holder is None or is_dead(holder):
                async with self._taking:
                    taken = await self._take() is None
                if taken:
                    await borrowing.end()
                    return True
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._context.stop.wait(), ASK_EVERY)
            if self._context.stop.is_set():
                raise Interrupted("asked to end while another process used the rate budget")

    @contextlib.asynccontextmanager
    async def _kept(self) -> AsyncIterator[None]:
        renewing = asyncio.create_task(self._renew())
        try:
            yield
        finally:
            renewing.cancel()
            await asyncio.gather(renewing, return_exceptions=True)
            await self.give_back()

    async def _renew(self) -> None:
        while True:
            await asyncio.sleep(LEASE_LASTS.total_seconds() / 3 + 0.1)
            with contextlib.suppress(RankrSyncError):
                await self.take()
