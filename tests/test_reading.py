"""Looks into the store beside the work: fresh enough, cheap however many ask, and never in the way."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import Connection, text

from mirror import account, configuration, connected
from rankr_sync.errors import StoreUnavailable
from rankr_sync.reading import KEPT_FOR, MOST_KEPT, Reading


class Clock:
    """A clock that is set by hand."""

    at = 100.0

    def __call__(self) -> float:
        """Now."""
        return self.at


def reads(url: str, work: Callable[[Reading, Clock], Any]) -> Any:
    """Work with a reading of an empty store."""

    async def connect() -> Any:
        async with connected(account(0), configuration(url)) as app:
            clock = Clock()
            reading = Reading(app.store, clock=clock)
            try:
                return await work(reading, clock)
            finally:
                reading.close()

    return asyncio.run(connect())


def test_many_who_ask_at_once_and_soon_after_cost_one_look(database_url: str) -> None:
    """A scrape storm is one look into the store; when it is old, the next who asks looks again."""
    looks: list[int] = []

    def look(connection: Connection) -> int:
        looks.append(connection.execute(text("SELECT 1")).scalar_one())
        return len(looks)

    async def work(reading: Reading, clock: Clock) -> list[int]:
        storm = await asyncio.gather(*(reading.lately("figures", look) for _ in range(50)))
        clock.at += KEPT_FOR - 0.1
        storm.append(await reading.lately("figures", look))
        clock.at += 0.2
        return [*storm, await reading.lately("figures", look), await reading.now(look)]

    assert reads(database_url, work) == [1] * 51 + [2, 3]


def test_a_slow_look_is_kept_longer(sqlite_url: str) -> None:
    """A look that takes two seconds happens every 40 seconds at most, however often it is asked for."""
    looks: list[float] = []

    async def work(reading: Reading, clock: Clock) -> None:
        def look(connection: Connection) -> None:
            looks.append(clock.at)
            clock.at += 2.0

        for _ in range(100):
            await reading.lately("figures", look)
            clock.at += 1.0

    reads(sqlite_url, work)
    assert looks == [100.0, 142.0, 184.0]


def test_a_failure_is_not_kept(sqlite_url: str) -> None:
    """Whoever asks after the database came back is answered."""

    async def work(reading: Reading, clock: Clock) -> int:
        def fail(connection: Connection) -> int:
            return connection.execute(text("SELECT * FROM nothing_of_the_kind")).scalar_one()

        with pytest.raises(StoreUnavailable):
            await reading.lately("figures", fail)
        return await reading.lately("figures", lambda connection: 7)

    assert reads(sqlite_url, work) == 7


def test_keys_without_end_do_not_fill_the_memory(sqlite_url: str) -> None:
    """Answers are kept for a hundred questions at most."""

    async def work(reading: Reading, clock: Clock) -> int:
        for number in range(3 * MOST_KEPT):
            await reading.lately(number, lambda connection: None)
        return len(reading._kept)

    assert reads(sqlite_url, work) <= MOST_KEPT
