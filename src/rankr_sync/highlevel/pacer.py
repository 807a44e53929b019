"""Waiting for the rate budget: the most urgent request goes first. The arithmetic is in `pacing`."""

import asyncio
import heapq
import itertools
import time
from collections.abc import Callable

import structlog

from rankr_sync.errors import (
    QuotaSpent,
)
from rankr_sync.pacing import RESERVES, RateBudget, RateHeaders

log = structlog.get_logger()


class Pacer:
    """Lets requests through as the rate budget allows, the most urgent first.

    `reserves`, one a priority, are the shares of the day's quota that it must leave to the more urgent. `clock` tells
    seconds, and must be that of the budget.
    """

    def __init__(
        self,
        budget: RateBudget,
        *,
        reserves: tuple[float, float, float] = RESERVES,
        clock: Callable[[], float] | None = None,
        on_day_spent: Callable[[float], None] | None = None,
    ) -> None:
        self.budget = budget
        self._reserves = reserves
        self.clock = clock or time.monotonic
        self._waiting: list[tuple[int, int, asyncio.Future[None]]] = []
        self._order = itertools.count()
        self._alarm: asyncio.TimerHandle | None = None
        self._on_day_spent = on_day_spent
        self._quiet_until = self.clock()

    async def enter(self, priority: int) -> None:
        """Wait for a slot. Each entry must be followed by `leave`.

        Raises QuotaSpent for a person who waits, when it would be for hours; others wait for the reset.
        """
        if priority == 0 and self.budget.day_spent(self.clock()):
            raise QuotaSpent(
                "the day's quota of this location is spent", hint="see when it resets with: rankr-sync status"
            )
        if not self._waiting and self._take(priority) == 0.0:
            return
        turn = asyncio.get_running_loop().create_future()
        heapq.heappush(self._waiting, (priority, next(self._order), turn))
        self._serve()
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self.leave(None)  # the slot came together with the cancellation
            raise

    def leave(self, told: RateHeaders | None) -> None:
        """The request ended; `told` is what its answer said of the limits."""
        self.budget.answered(self.clock(), told)
        self._serve()

    def refused(self, retry_after: float | None) -> None:
        """The answer was a 429. Call before `leave`."""
        self.budget.refused(self.clock(), retry_after)

    def used(self) -> int:
        """Requests that count against the burst limit now."""
        return self.budget.used(self.clock())

    def take_back(self, slots: int) -> None:
        """Slots that were lent to another process are not used any more."""
        self.budget.take_back(self.clock(), slots)
        self._serve()

    def _take(self, priority: int) -> float | None:
        reserve = int(self._reserves[priority] * (self.budget.daily_limit or 0))
        return self.budget.take(self.clock(), reserve=reserve)

    def _serve(self) -> None:
        while self._waiting:
            priority, _, turn = self._waiting[0]
            if turn.done():  # cancelled while waiting
                heapq.heappop(self._waiting)
                continue
            wait = self._take(priority)
            if wait == 0.0:
                heapq.heappop(self._waiting)
                turn.set_result(None)
                continue
            if wait is not None:
                self._ring_after(wait)
            return

    def _ring_after(self, seconds: float) -> None:
        if seconds > 60 and self._on_day_spent is not None and self.clock() >= self._quiet_until:
            self._quiet_until = self.clock() + 3600
            self._on_day_spent(seconds)
        if self._alarm is not None:
            self._alarm.cancel()
        # Never sleep longer than a minute in one go: after a suspended machine or a jumped clock, look again.
        self._alarm = asyncio.get_running_loop().call_later(min(seconds, 60.0), self._serve)

    def close(self) -> None:
        """Stop the timer."""
        if self._alarm is not None:
            self._alarm.cancel()
