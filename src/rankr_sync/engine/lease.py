"""One writer a location: a lease in the store, renewed while it is used, expiring when its holder dies.

Every checkpoint renews it in its own transaction, so a holder that slept through its lease (a suspended
machine) and was replaced cannot write over its successor.
"""

import asyncio
import contextlib
import os
import socket
import time
import uuid
from collections.abc import AsyncIterator

import structlog

from rankr_sync.engine.context import LEASE_LASTS, LocationContext
from rankr_sync.errors import Interrupted, RankrSyncError

log = structlog.get_logger()

LOOK_EVERY = 2.0
"""Seconds between two tries of one who waits."""


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

    async def take(self) -> bool:
        """Take the lease, or renew it when it is time to. False while another process holds it."""
        context = self._context
        if context.holder is not None and time.monotonic() - self._taken_at < LEASE_LASTS.total_seconds() / 3:
            return True

        def take() -> str | None:
            now = context.now()
            with context.store.transaction() as tx:
                until = now + LEASE_LASTS
                if tx.take_lease(context.location_id, self._holder, now, until):
                    return None
                other = tx.lease_holder(context.location_id) or "another process"
                if other != self._holder and is_dead(other):
                    tx.give_lease(context.location_id, other)
                    return None if tx.take_lease(context.location_id, self._holder, now, until) else other
                return other

        other = await context.in_store(take)
        if other is None:
            self._taken_at = time.monotonic()
            context.holder = self._holder
            return True
        if context.holder is not None or not context.waiting:
            log.warning("lease.waiting", location=context.location_id, holder=other)
        context.holder, context.waiting = None, True
        return False

    async def give_back(self) -> None:
        """Let the next one have it at once."""
        context = self._context
        if context.holder is None:
            return

        def give() -> None:
            with context.store.transaction() as tx:
                tx.give_lease(context.location_id, self._holder)

        context.holder = None
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
