"""Looks into the store for those who watch (the status page, metrics, health), beside the work and not in its way.

The work has one thread for the store; these looks have another, and connections of their own.
"""

import asyncio
import time
from collections.abc import Callable, Hashable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

from sqlalchemy import Connection

from rankr_sync.store import SqlStore

T = TypeVar("T")

KEPT_FOR = 5.0
"""Seconds for which an answer is good enough for the next who asks."""

SHARE = 0.05
"""Looks that are slow are kept longer: together they take no more than this share of the time."""

MOST_KEPT = 100
"""Answers that are kept at once: who asks under ever new keys does not fill the memory."""


@dataclass(slots=True)
class _Kept:
    look: "asyncio.Future[Any]"
    began: float
    until: float = float("inf")


class Reading:
    """Asks the store in a thread of its own. Raises StoreUnavailable where the database fails."""

    def __init__(self, store: SqlStore, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._store = store
        self._clock = clock
        self._kept: dict[Hashable, _Kept] = {}
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="reading")

    async def now(self, look: Callable[[Connection], T]) -> T:
        """What `look` sees at this moment, in one consistent view of the store."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._read, look)

    async def lately(self, key: Hashable, look: Callable[[Connection], T], *, seconds: float = KEPT_FOR) -> T:
        """What `look` sees, or saw within the last `seconds`; asked by many at once, it looks once.

        `key` names what is looked at: the same key means the same look. A failure is not kept.
        """
        kept = self._kept.get(key)
        if kept is None or self._clock() >= kept.until:
            kept = self._kept[key] = _Kept(asyncio.ensure_future(self.now(look)), self._clock())
            kept.look.add_done_callback(lambda _: self._seen(key, kept, seconds))
            self._forget()
        return await asyncio.shield(kept.look)

    def close(self) -> None:
        """End the thread, once it has seen what it looks at."""
        self._thread.shutdown(wait=True, cancel_futures=True)

    def _read(self, look: Callable[[Connection], T]) -> T:
        with self._store.reading() as tx:
            return look(tx.connection)

    def _seen(self, key: Hashable, kept: _Kept, seconds: float) -> None:
        if kept.look.cancelled() or kept.look.exception() is not None:
            if self._kept.get(key) is kept:
                del self._kept[key]
            return
        now = self._clock()
        kept.until = now + max(seconds, (now - kept.began) / SHARE)

    def _forget(self) -> None:
        now = self._clock()
        for key in [key for key, kept in self._kept.items() if now >= kept.until]:
            del self._kept[key]
        while len(self._kept) > MOST_KEPT:
            del self._kept[next(iter(self._kept))]
