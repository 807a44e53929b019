"""One writer a location: who holds the lease works, who does not waits or takes over."""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from mirror import LOCATION, account, configuration, connected, differences, rows, run
from rankr_sync.engine.lease import is_dead, new_holder
from rankr_sync.errors import LeaseLost


def test_two_processes_never_hold_the_same_location(database_url: str) -> None:
    """While one holds the lease another does not get it; given back, it does at once."""
    sandbox, config = account(5), configuration(database_url)

    async def compete() -> None:
        async with connected(sandbox, config) as first, connected(sandbox, config) as second:
            one, two = first.leases[LOCATION], second.leases[LOCATION]
            two._holder = "elsewhere/0:1:aaaa"
            one._holder = "elsewhere/0:2:bbbb"
            assert await one.take()
            assert not await two.take()
            await one.give_back()
            assert await two.take()

    asyncio.run(compete())


def test_a_dead_holder_of_another_machine_is_replaced_when_its_lease_expires(database_url: str) -> None:
    """A holder that renews no more loses the location within a minute."""
    sandbox, config = account(5), configuration(database_url)
    clock = [datetime(2026, 11, 1, tzinfo=UTC)]

    async def compete() -> None:
        options = {"now": lambda: clock[0]}
        async with connected(sandbox, config, **options) as first, connected(sandbox, config, **options) as second:
            first.leases[LOCATION]._holder = "elsewhere/0:2:bbbb"
            assert await first.leases[LOCATION].take()
            clock[0] += timedelta(seconds=29)
            assert not await second.leases[LOCATION].take()
            clock[0] += timedelta(seconds=2)
            assert await second.leases[LOCATION].take()

    asyncio.run(compete())


def test_a_replaced_holder_cannot_write(database_url: str) -> None:
    """Who slept through its lease writes nothing over its successor: the checkpoint is refused."""
    sandbox, config = account(60), configuration(database_url)

    async def oversleep() -> None:
        async with connected(sandbox, config) as app, connected(sandbox, config) as successor:
            sleeper = app.locations[LOCATION]
            assert await app.leases[LOCATION].take()
            with successor.store.transaction() as tx:
                tx.give_lease(LOCATION, app.leases[LOCATION]._holder)
            assert await successor.leases[LOCATION].take()
            await sleeper.learn()
            with pytest.raises(LeaseLost):
                await sleeper.backfill(config.streams)

    asyncio.run(oversleep())
    assert [line for line in differences(sandbox, database_url) if "missing" not in line] == []


def test_a_holder_that_died_on_this_machine_is_known_to_be_dead() -> None:
    """The number of a process that runs no more, on this machine; nothing is claimed of other machines."""
    here = new_holder().rpartition(":")[0].rpartition(":")[0]
    assert is_dead(f"{here}:999999999:aaaa")
    assert not is_dead(f"{here}:1:aaaa") or __import__("os").getpid() == 1
    assert not is_dead("elsewhere/0:999999999:aaaa")
    assert not is_dead("nonsense")


def test_refresh_works_beside_a_holder(database_url: str) -> None:
    """A person pulls a contact while another process holds the location."""
    sandbox, config = account(10), configuration(database_url)
    contact_id = sorted(sandbox.truth(LOCATION)["contacts"])[0]

    async def beside() -> None:
        async with connected(sandbox, config) as daemon, connected(sandbox, config) as person:
            assert await daemon.leases[LOCATION].take()
            await person.locations[LOCATION].learn()
            assert await person.locations[LOCATION].refresh(contact_id)

    asyncio.run(beside())


def test_an_answer_overtaken_by_a_refresh_is_not_stored(database_url: str) -> None:
    """A visit that was asked before a person's refresh and answered after it does not bring back the older state."""
    sandbox, config = account(12), configuration(database_url)
    contact_id = sorted(sandbox.truth(LOCATION)["contacts"])[0]
    note = sandbox.create_note(contact_id, body="old")

    async def overtake() -> None:
        async with connected(sandbox, config) as daemon, connected(sandbox, config) as person:
            slow, quick = daemon.locations[LOCATION], person.locations[LOCATION]
            await slow.learn()
            await quick.recall()
            await slow.full_pass("contacts", "backfill")
            fetch = slow.context.source.fetch

            async def overtaken(request: Any, **options: Any) -> Any:
                answer = await fetch(request, **options)
                if request.path == f"/contacts/{contact_id}/notes" and note["body"] == "old":
                    note["body"] = "new"
                    sandbox.update_note(note["id"], body="new")
                    assert await quick.refresh(contact_id)
                return answer

            slow.context.source.fetch = overtaken  # type: ignore[method-assign]
            await slow.visit_due()

    asyncio.run(overtake())
    assert rows(database_url, "notes")[note["id"]]["content_html"] == "new"
    assert [line for line in differences(sandbox, database_url) if line.startswith("notes")] == []


def test_a_clock_that_was_set_back_does_not_repeat_visits(database_url: str) -> None:
    """Looks dated in the future, by a clock that was wrong, do not make later ones count for nothing."""
    sandbox, config = account(20), configuration(database_url)
    run(sandbox, config, lambda sync: sync.backfill(config.streams))
    earlier = lambda: datetime.now(UTC) - timedelta(hours=36)  # noqa: E731
    calls_before = len(sandbox.calls)
    run(sandbox, config, lambda sync: asyncio.wait_for(sync.backfill(config.streams, restart=True), 20), now=earlier)
    assert len(sandbox.calls) - calls_before < 60
    assert differences(sandbox, database_url) == []
