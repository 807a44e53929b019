"""Burst slots are lent through the store: whoever sends beside the holder of the lease, the limit is never exceeded."""

import asyncio
import subprocess
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from itertools import cycle
from pathlib import Path
from typing import Any

import pytest

from mirror import LOCATION, account, configuration, connected, differences, query
from rankr_sync.app import App
from rankr_sync.engine import lease, loans
from rankr_sync.engine.loans import LOAN_LASTS, Lender
from rankr_sync.sandbox import RateLimit, Sandbox, SandboxOptions, running
from test_interrupted import PROGRAM, environment

BESIDE = 6
"""What a refresh borrows: four requests, and two to spare."""


def limited(contacts: int, limit: RateLimit, **options: Any) -> Sandbox:
    """An account that enforces its limit."""
    return account(contacts, rate_limit=limit, **options)


def requests_noted(database_url: str) -> int:
    """All requests that `api_usage` knows of."""
    return int(query(database_url, "SELECT sum(requests) AS n FROM api_usage")[0]["n"])


def excess(sandbox: Sandbox) -> tuple[int, int, int]:
    """Requests that were refused, and those that were one too many by either kind of window."""
    stats = sandbox.stats()
    return stats["throttled"], stats["sliding_excess"], stats["fixed_excess"]


async def refresh(app: App, contact_id: str) -> None:
    """What `contact ID --refresh` does."""
    sync = app.locations[LOCATION]
    async with app.leases[LOCATION].held_or_lent(BESIDE):
        await sync.recall()
        assert await sync.refresh(contact_id)


def elsewhere(app: App, number: int = 1) -> None:
    """Let this app's name on the lease be that of a process of which nobody here can know whether it lives."""
    app.leases[LOCATION]._holder = f"elsewhere/0:{number}:aaaa"


async def _until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not true():  # noqa: ASYNC110 - what is waited for has no event
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("window", ["sliding", "fixed"])
def test_refreshes_beside_a_backfill_never_hit_the_limit(database_url: str, window: str) -> None:
    """A backfill at full pace and people beside it: no 429, no window too full, and each request is noted once."""
    limit = RateLimit(20, 0.5)
    sandbox = limited(50, limit, rate_window=window)
    config = configuration(database_url, api={"rate_limit": "20/500ms"})
    done: list[str] = []

    async def people(ids: list[str], until: "asyncio.Task[None]") -> None:
        for contact_id in cycle(ids):
            if until.done():
                return
            async with connected(sandbox, config) as person:
                elsewhere(person, len(done) + 10)
                await refresh(person, contact_id)
                done.append(contact_id)

    async def copy(app: App) -> None:
        async with app.leases[LOCATION].held():
            await app.locations[LOCATION].learn()
            await app.locations[LOCATION].backfill(config.streams)

    async def main() -> None:
        async with connected(sandbox, config) as app:
            elsewhere(app)
            copying = asyncio.create_task(copy(app))
            await _until(lambda: len(sandbox.calls) > 30)
            ids = sorted(sandbox.truth(LOCATION)["contacts"])
            await asyncio.gather(*(people(ids[n::3], copying) for n in range(3)), copying)

    asyncio.run(main())
    assert len(done) >= 6
    assert excess(sandbox) == (0, 0, 0)
    assert differences(sandbox, database_url) == []
    assert requests_noted(database_url) == len(sandbox.calls)
    assert query(database_url, "SELECT * FROM rate_loans") == []
    assert query(database_url, "SELECT * FROM sync_leases") == []


@pytest.mark.process
@pytest.mark.parametrize("command", ["backfill", "run"])
def test_programs_share_the_rate_limit(database_url: str, tmp_path: Path, command: str) -> None:
    """The same with programs: `contact --refresh` and `check` beside a backfill and beside the daemon."""
    options = SandboxOptions(contacts=60, rate_limit=RateLimit(20, 1.0), latency_ms=2.0)
    with running(options) as (base_url, sandbox):
        env = environment(base_url, database_url, RANKR_SYNC_API__RATE_LIMIT="20/1s")
        holder = subprocess.Popen([*PROGRAM, command], env=env, cwd=tmp_path, stderr=subprocess.DEVNULL)
        ids = sorted(sandbox.truth(LOCATION)["contacts"])
        others = [("contact", contact_id, "--refresh", "--json") for contact_id in ids[:2]] + [("check",)]

        def ask(arguments: tuple[str, ...]) -> int:
            command = [*PROGRAM, *arguments]
            return subprocess.run(command, env=env, cwd=tmp_path, capture_output=True, check=False).returncode

        try:
            deadline = time.monotonic() + 20
            while len(sandbox.calls) < 30 and time.monotonic() < deadline:
                time.sleep(0.01)
            with ThreadPoolExecutor(2) as pool:
                codes = list(pool.map(ask, others))
            assert codes == [0] * len(others)
            if command == "backfill":
                assert holder.wait(timeout=60) == 0
                assert differences(sandbox, database_url) == []
        finally:
            holder.terminate()
            holder.wait(timeout=20)
        assert excess(sandbox) == (0, 0, 0)
        assert requests_noted(database_url) == len(sandbox.calls)


def test_a_refresh_that_nobody_works_beside_is_not_slowed(database_url: str) -> None:
    """Without a holder it takes the lease, sends at once, gives it back; the next one too."""
    sandbox = limited(5, RateLimit(100, 10.0))
    config = configuration(database_url, api={"rate_limit": "100/10s"})
    ids = sorted(sandbox.truth(LOCATION)["contacts"])

    async def main() -> None:
        for contact_id in ids:
            async with connected(sandbox, config) as person:
                await refresh(person, contact_id)

    began = time.monotonic()
    asyncio.run(main())
    assert time.monotonic() - began < 3.0
    assert query(database_url, "SELECT * FROM sync_leases") == []
    assert requests_noted(database_url) == len(sandbox.calls)


def test_a_refresh_beside_an_idle_holder_is_lent_at_once(database_url: str) -> None:
    """A daemon that waits for its next poll lends within a second, and has its slots back afterwards."""
    sandbox = limited(5, RateLimit(100, 10.0))
    config = configuration(database_url, api={"rate_limit": "100/10s"})
    contact_id = sorted(sandbox.truth(LOCATION)["contacts"])[0]

    async def main() -> None:
        async with connected(sandbox, config) as daemon, connected(sandbox, config) as person:
            elsewhere(daemon)
            assert await daemon.leases[LOCATION].take()
            await daemon.locations[LOCATION].learn()
            budget = daemon.sources[LOCATION].pacer.budget
            began = time.monotonic()
            async with person.leases[LOCATION].held_or_lent(BESIDE):
                assert time.monotonic() - began < 1.0
                assert budget.lent == BESIDE
                assert person.locations[LOCATION].context.holder is None
                await refresh(person, contact_id)
            await _until(lambda: budget.lent == 0)
            assert budget.used(time.monotonic()) >= BESIDE  # they count for one interval more
            await daemon.leases[LOCATION].give_back()

    asyncio.run(main())


def test_who_has_borrowed_has_the_whole_budget_as_the_next_holder(database_url: str) -> None:
    """A daemon that waits for a backfill pulls contacts with borrowed slots; afterwards it is not kept to those."""
    sandbox = limited(5, RateLimit(20, 0.5))
    config = configuration(database_url, api={"rate_limit": "20/500ms"})
    contact_id = sorted(sandbox.truth(LOCATION)["contacts"])[0]

    async def main() -> None:
        async with connected(sandbox, config) as backfill, connected(sandbox, config) as daemon:
            elsewhere(backfill)
            assert await backfill.leases[LOCATION].take()
            await daemon.locations[LOCATION].recall()
            async with daemon.leases[LOCATION].kept_or_lent(5):
                async with daemon.leases[LOCATION].kept_or_lent(5):
                    assert await daemon.locations[LOCATION].refresh(contact_id)
                assert daemon.sources[LOCATION].pacer.used() >= 20 - 5  # one loan is over, the other is not
            await backfill.leases[LOCATION].give_back()
            assert await daemon.leases[LOCATION].take()
            await asyncio.sleep(1.6)
            assert daemon.sources[LOCATION].pacer.used() == 0
            await daemon.leases[LOCATION].give_back()

    asyncio.run(main())


def test_a_holder_that_hangs_does_not_stop_a_refresh(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its lease has not expired, and it does not see the loan: the refresh goes on after a moment."""
    monkeypatch.setattr(loans, "PATIENCE", 0.5)
    sandbox, config = account(5), configuration(database_url)
    contact_id = sorted(sandbox.truth(LOCATION)["contacts"])[0]

    async def main() -> None:
        async with connected(sandbox, config) as hung, connected(sandbox, config) as person:
            elsewhere(hung)
            assert await hung.leases[LOCATION].take()
            await hung.leases[LOCATION].stop()
            began = time.monotonic()
            await refresh(person, contact_id)
            assert 0.5 <= time.monotonic() - began < 5

    asyncio.run(main())
    assert query(database_url, "SELECT * FROM rate_loans") == []


@pytest.mark.parametrize("when", ["before it lends", "after it has lent"])
def test_a_holder_that_dies_does_not_stop_a_refresh(
    database_url: str, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    """The refresh goes on within a moment: as the next holder, or with the slots it has."""
    sandbox, config = account(5), configuration(database_url)
    contact_id = sorted(sandbox.truth(LOCATION)["contacts"])[0]
    monkeypatch.setattr(loans, "PATIENCE", 60.0)
    monkeypatch.setattr(loans, "LOOK_EVERY", 3600.0 if when == "before it lends" else 0.05)

    async def main() -> None:
        async with connected(sandbox, config) as holder, connected(sandbox, config) as person:
            elsewhere(holder)
            assert await holder.leases[LOCATION].take()
            dying = asyncio.create_task(_die(holder, after=0.3))
            began = time.monotonic()
            async with person.leases[LOCATION].held_or_lent(BESIDE):
                assert (person.locations[LOCATION].context.holder is None) == (when == "after it has lent")
                await dying
                await person.locations[LOCATION].recall()
                assert await person.locations[LOCATION].refresh(contact_id)
            assert time.monotonic() - began < 10.0

    asyncio.run(main())
    assert query(database_url, "SELECT * FROM rate_loans") == []


async def _die(app: App, after: float) -> None:
    """Lend nothing more, and leave the lease in the name of a process of this machine that runs no more."""
    await asyncio.sleep(after)
    await app.leases[LOCATION].stop()
    with app.store.transaction() as tx:
        now = datetime.now(UTC)
        tx.give_lease(LOCATION, app.leases[LOCATION]._holder)
        assert tx.take_lease(LOCATION, f"{lease._here()}:999999999:aaaa", now, now + timedelta(seconds=30))


def test_what_a_dead_holder_had_lent_counts_with_the_next(database_url: str) -> None:
    """The next holder keeps what is lent, until the borrower has given it back or has died."""
    sandbox, config = account(5), configuration(database_url, api={"rate_limit": "20/10s"})
    clock = [datetime(2026, 11, 1, tzinfo=UTC)]

    async def main() -> None:
        async with connected(sandbox, config, now=lambda: clock[0]) as app:
            for borrower, until in (("lives", 3), ("dies", 1)):
                with app.store.transaction() as tx:
                    tx.ask_loan(LOCATION, borrower, 4, clock[0], clock[0] + until * LOAN_LASTS)
                    tx.answer_loan(LOCATION, borrower, clock[0], 4)
            context, budget = app.locations[LOCATION].context, app.sources[LOCATION].pacer.budget
            lender, context.holder = Lender(context), "me"
            with app.store.transaction() as tx:
                assert tx.take_lease(LOCATION, "me", clock[0], clock[0] + timedelta(days=1))
            await lender.begin(None)
            assert budget.lent == 8
            clock[0] += 2 * LOAN_LASTS
            await lender.look()
            assert budget.lent == 4
            assert budget.used(time.monotonic()) == 8
            with app.store.transaction() as tx:
                assert [loan.borrower for loan in tx.loans(LOCATION)] == ["lives"]
                tx.end_loan(LOCATION, "lives")
            await lender.look()
            assert budget.lent == 0

    asyncio.run(main())


def test_who_waited_for_the_lease_counts_what_was_spent_meanwhile(database_url: str) -> None:
    """A second backfill, started long ago, does not begin with a burst that the first has just used."""
    sandbox = limited(5, RateLimit(20, 1.0))
    config = configuration(database_url, api={"rate_limit": "20/1s"})
    ids = sorted(sandbox.truth(LOCATION)["contacts"])

    async def main() -> None:
        async with connected(sandbox, config) as first, connected(sandbox, config) as second:
            elsewhere(first)
            async with first.leases[LOCATION].held():
                await first.locations[LOCATION].learn()
                for contact_id in ids[:4]:
                    await first.locations[LOCATION].refresh(contact_id)
            elsewhere(second, 2)
            async with second.leases[LOCATION].held():
                assert second.sources[LOCATION].pacer.budget.used(time.monotonic()) == 18
            await asyncio.sleep(1.1)  # by now the first has nothing left to count; its end must not say so
        assert query(database_url, "SELECT burst_used FROM api_usage")[0]["burst_used"] == 18

    asyncio.run(main())
