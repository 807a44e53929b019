"""What the search index shows late: the overlap meets seconds, the second look minutes."""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from mirror import LOCATION, account, calls, configuration, connected, differences
from rankr_sync.engine import LocationSync
from rankr_sync.sandbox import Sandbox

START = datetime(2026, 11, 1, 12, 0, 1, tzinfo=UTC)


class Clock:
    """One time for the account and for the program."""

    def __init__(self) -> None:
        self.now = START

    def seconds(self) -> float:
        """Since the epoch, as the account counts."""
        return self.now.timestamp()

    def sandbox(self, **options: Any) -> Sandbox:
        """A small account that lives by this clock."""
        return Sandbox(account(20, **options).options, now=self.seconds)


async def followed(sync: LocationSync, clock: Clock, polls: int, *, seconds: float = 60) -> None:
    """A poll a minute, with the visits it makes due."""
    for _poll in range(polls):
        clock.now += timedelta(seconds=seconds)
        assert await sync.poll("contacts")
        await sync.visit_due()


@pytest.mark.parametrize(
    ("lag", "minutes"),
    [(30.0, 3), (240.0, 15), (600.0, 25)],
)
@pytest.mark.parametrize("moment", [0, 1, 2, 3, 4])
def test_what_the_index_shows_late_is_found(sqlite_url: str, lag: float, minutes: int, moment: int) -> None:
    """A change that the index shows up to ten minutes late, far beyond the overlap, is found without a full pass."""
    clock = Clock()
    sandbox, config = clock.sandbox(index_lag=lag), configuration(sqlite_url)

    async def main() -> None:
        async with connected(sandbox, config, now=lambda: clock.now) as app:
            sync = app.locations[LOCATION]
            await sync.learn()
            await sync.backfill(config.streams)
            await followed(sync, clock, 20 + moment)
            clock.now += timedelta(seconds=1)
            late, later = sorted(sandbox.truth(LOCATION)["contacts"])[:2]
            sandbox.update_contact(late, city="Late")
            await followed(sync, clock, 1, seconds=59)
            sandbox.update_contact(later, city="Later")
            await followed(sync, clock, minutes)

    asyncio.run(main())
    assert differences(sandbox, sqlite_url) == []


def test_the_overlap_meets_seconds_at_once(sqlite_url: str) -> None:
    """A change that the index shows half a minute late is found by the poll after it, without a second look."""
    clock = Clock()
    sandbox, config = clock.sandbox(index_lag=30.0), configuration(sqlite_url)

    async def main() -> None:
        async with connected(sandbox, config, now=lambda: clock.now) as app:
            sync = app.locations[LOCATION]
            await sync.learn()
            await sync.backfill(config.streams)
            await followed(sync, clock, 1)
            clock.now += timedelta(seconds=50)
            sandbox.update_contact(sorted(sandbox.truth(LOCATION)["contacts"])[0], city="Late")
            await followed(sync, clock, 1, seconds=10)
            assert differences(sandbox, sqlite_url) != []
            await followed(sync, clock, 1)

    asyncio.run(main())
    assert differences(sandbox, sqlite_url) == []


def test_a_second_look_costs_an_idle_location_nothing(sqlite_url: str) -> None:
    """Sixty polls of a location without changes are sixty requests."""
    clock = Clock()
    sandbox, config = clock.sandbox(), configuration(sqlite_url)

    async def main() -> None:
        async with connected(sandbox, config, now=lambda: clock.now) as app:
            sync = app.locations[LOCATION]
            await sync.learn()
            await sync.backfill(config.streams)
            clock.now += timedelta(hours=1)
            before = calls(sandbox, "/contacts/search")
            await followed(sync, clock, 60)
            assert calls(sandbox, "/contacts/search") - before == 60

    asyncio.run(main())
