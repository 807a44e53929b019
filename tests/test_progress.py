"""How far a backfill is, as its bar and its log tell: from the first moment, also of one that goes on."""

import asyncio

import pytest

from mirror import LOCATION, account, backfill, configuration, connected
from rankr_sync.app import App
from rankr_sync.cli.progress import Estimate
from rankr_sync.config import Config
from rankr_sync.engine import Progress
from rankr_sync.errors import Interrupted
from rankr_sync.sandbox import Sandbox

CONTACTS = 250


def test_a_backfill_that_goes_on_knows_what_is_left(database_url: str) -> None:
    """What was done before it was cut off is not expected again, and streams that are not asked for never are."""
    sandbox, config = account(CONTACTS), configuration(database_url)
    assert abs(expected(sandbox, configuration(database_url, streams=("contacts", "notes"))) - 253) <= 3
    stop = asyncio.Event()

    def cut(progress: Progress) -> None:
        if sum(tally.fetched for tally in progress.streams.values()) > 2 * CONTACTS:
            stop.set()

    with pytest.raises(Interrupted):
        backfill(sandbox, config, stop=stop, on_progress=cut)
    done = sandbox.requests
    first = expected(sandbox, config)
    spent = sandbox.requests - done
    assert 0 < spent < 2 * CONTACTS
    assert abs(first - spent) <= 30, "a batch of visits was under way"


def expected(sandbox: Sandbox, config: Config) -> int:
    """Requests that are expected after the first progress of a backfill, which then goes on to its end."""
    found: list[int | None] = []

    async def work() -> None:
        apps: list[App] = []

        def note(progress: Progress) -> None:
            found.append(Estimate(apps[0], LOCATION).expected(progress))

        async with connected(sandbox, config, on_progress=note) as app:
            apps.append(app)
            await app.locations[LOCATION].learn()
            await app.locations[LOCATION].backfill(config.streams)

    asyncio.run(work())
    first = next(iter(found))
    assert first is not None
    return first
