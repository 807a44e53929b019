"""All that one location's processes send, counted as the API counts it: the daemon, a backfill and people beside them
share one rate budget through the store's leases and loans, start and die at any moment, and never exceed it.

Time is virtual. What no process can know is left out: that the holder of the lease was only suspended when a borrower
went on without it (`loans.PATIENCE`), and that clocks differ by more than a second.
"""

import asyncio
import contextlib
import math
import os
import random
from bisect import bisect_left
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import httpx
import pytest
from hypothesis import Phase, example, given, settings
from hypothesis import strategies as st
from sqlalchemy import true

from mirror import LOCATION, configuration
from rankr_sync import schema
from rankr_sync.app import App, open_store
from rankr_sync.config import Config
from rankr_sync.daemon import jobs
from rankr_sync.engine import SPARE_REQUESTS, lease
from rankr_sync.engine.observer import Unobserved
from rankr_sync.errors import StoreUnavailable
from rankr_sync.pacing import RateLimit
from rankr_sync.store import SqlStore
from rankr_sync.store.views import VIEWS_KEY
from test_mirror_machine import Clock, VirtualLoop

ON_THE_WAY = 0.5
"""Seconds within which a request reaches the server, also one of a process that has died since."""

DAEMON, BACKFILL, REFRESH, CHECK = "daemon", "backfill", "refresh", "check"
IN_ORDER, KILLED_HERE, KILLED_ELSEWHERE = "in order", "killed here", "killed elsewhere"
PATIENT = 90.0
HORIZON = 12.0
LEFT = (0.0, 0.2, 0.4)
"""What is left of a day to people, and by visits to all others: its usual shares of a day this small are nothing."""

SOAK = os.environ.get("HYPOTHESIS_PROFILE") == "soak"
MANY, FEW = (2000, 300) if SOAK else (5, 1)
LOOK = (Phase.explicit, Phase.reuse, Phase.generate)


@dataclass(frozen=True)
class Life:
    """A process: what it does, when it starts, for how long it goes on from its first request (if it is not done by
    then), and how it ends.
    """

    work: str
    starts: float
    lasts: float
    ends: str
    ahead: float
    """Seconds by which its clock is ahead,"""
    then: float
    """and by which it is ahead in the second half of its life: it is set forward or back."""


@dataclass(frozen=True)
class Traffic:
    """Who works at a location, and what its server is like."""

    limit: RateLimit
    quota: int | None
    """Requests in one of the server's days, which are short here."""
    day: float
    tells: bool
    """Whether its answers tell of the burst limit."""
    slowest: float
    """The longest time in which the server answers, in seconds."""
    failing: float
    """The share of requests that are counted and never answered."""
    contacts: int
    workers: int
    lives: tuple[Life, ...]
    seed: int


class Server:
    """The API as far as its limits go. It counts what reaches it, tells what is left, and refuses nothing."""

    def __init__(self, traffic: Traffic, clock: Clock) -> None:
        self.counted: list[float] = []
        """When each request was."""
        self.days: list[list[tuple[str, bool]]] = []
        """Of each day the requests in their order: what the sender works on, and whether it is a visit that nobody
        waits for.
        """
        self._day_began = -math.inf
        self._traffic, self._clock = traffic, clock
        self._chance = random.Random(traffic.seed)

    async def answer(self, request: httpx.Request, work: str) -> httpx.Response:
        """Count the request when it has come, whatever becomes of its sender by then."""
        loop = asyncio.get_running_loop()
        takes = self._chance.random() * self._traffic.slowest
        comes = min(takes, ON_THE_WAY) * self._chance.random()
        headers: asyncio.Future[dict[str, str]] = loop.create_future()
        visit = work in (DAEMON, BACKFILL) and request.url.path.endswith("/notes")
        loop.call_later(comes, self._count, work, visit, headers)
        lost = self._chance.random() < self._traffic.failing
        await asyncio.sleep(takes)
        told = await asyncio.shield(headers)
        if lost:
            raise httpx.ReadError("")
        return httpx.Response(200, json=self._payload(request.url.path), headers=told)

    def _count(self, work: str, visit: bool, headers: "asyncio.Future[dict[str, str]]") -> None:
        now, limit = self._clock.passed, self._traffic.limit
        if now >= self._day_began + self._traffic.day:
            self._day_began = now
            self.days.append([])
        self.counted.append(now)
        self.days[-1].append((work, visit))
        used = sum(when > now - limit.seconds for when in self.counted)
        told = {}
        if self._traffic.tells:
            told |= {
                "x-ratelimit-max": limit.requests,
                "x-ratelimit-interval-milliseconds": round(limit.seconds * 1000),
                "x-ratelimit-remaining": max(0, limit.requests - used),
            }
        if self._traffic.quota is not None:
            told |= {
                "x-ratelimit-limit-daily": self._traffic.quota,
                "x-ratelimit-daily-remaining": max(0, self._traffic.quota - len(self.days[-1])),
                "x-ratelimit-daily-reset": math.ceil(self._day_began + self._traffic.day - now) * 1000,
            }
        if not headers.done():
            headers.set_result({name: str(value) for name, value in told.items()})

    def _payload(self, path: str) -> dict[str, Any]:
        contacts = [_contact(f"c{number}") for number in range(self._traffic.contacts)]
        match path.strip("/").split("/"):
            case ["locations", id_]:
                return {"location": {"id": id_, "timezone": "UTC"}}
            case ["locations", _, _]:
                return {"customFields": []}
            case ["contacts"]:
                return {"contacts": contacts, "meta": {"startAfter": None, "startAfterId": None}}
            case ["contacts", "search"]:
                return {"contacts": [], "total": 0}
            case ["contacts", id_]:
                return {"contact": _contact(id_)}
        return {"notes": []}


def _contact(id_: str) -> dict[str, Any]:
    return {"id": id_, "locationId": LOCATION, "dateAdded": "2026-01-01T00:00:00.000Z"}


class Access:
    """A process's access to the store that all share; it ends with the process."""

    def __init__(self, store: SqlStore) -> None:
        self.dead = False
        self._store = store

    def transaction(self) -> Any:
        """As the store's."""
        return self._living().transaction()

    def reading(self) -> Any:
        """As the store's."""
        return self._living().reading()

    def _living(self) -> SqlStore:
        if self.dead:
            raise StoreUnavailable("killed")
        return self._store

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)


class Process(httpx.AsyncBaseTransport):
    """One process of the program: its own budget, lease and clock, at the same store and server as the others."""

    def __init__(self, life: Life, number: int, config: Config, store: SqlStore, server: Server, clock: Clock) -> None:
        self.life, self.number = life, number
        self.dead = False
        self._server, self._access, self._clock = server, Access(store), clock
        self._ahead = life.ahead
        self._sends = asyncio.Event()
        client, stop = httpx.AsyncClient(transport=self), asyncio.Event()
        access: Any = self._access
        self.app = App(config, access, client, stop, self._now, Unobserved(), None, clock.monotonic)
        self.app.add(config.locations[0], lambda progress: None)
        self.app.sources[LOCATION].pacer._reserves = LEFT
        self.sync, self.lease = self.app.locations[LOCATION], self.app.leases[LOCATION]
        self.lease._holder = f"elsewhere/0:{number}:aaaa"  # of which nobody can know whether it lives

    def _now(self) -> datetime:
        return self._clock.now() + timedelta(seconds=self._ahead)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send it, if the process lives."""
        if self.dead:
            raise httpx.ConnectError("the dead send nothing")
        self._sends.set()
        return await self._server.answer(request, self.life.work)

    async def live(self) -> bool:
        """From its start to its end. Whether it did what it was to do."""
        work: dict[str, Callable[[], Awaitable[None]]] = {
            DAEMON: self._ring,
            BACKFILL: self._backfill,
            REFRESH: self._refresh,
            CHECK: self._check,
        }
        task = asyncio.ensure_future(work[self.life.work]())
        sends = asyncio.ensure_future(self._sends.wait())
        await asyncio.wait({task, sends}, return_when=asyncio.FIRST_COMPLETED)
        sends.cancel()
        await asyncio.wait({task}, timeout=self.life.lasts / 2)
        self._ahead = self.life.then
        await asyncio.wait({task}, timeout=self.life.lasts / 2)
        if not task.done():
            if self.life.ends == IN_ORDER:
                self.app.stop.set()
                await asyncio.wait({task}, timeout=60)
            else:
                self._die()
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
        done = task.done() and not task.cancelled() and task.exception() is None
        await self.lease.stop()
        if not self.dead:
            self.app._save_usage()
        self.app.sources[LOCATION].pacer.close()
        await self.app.client.aclose()
        return done

    def _die(self) -> None:
        """Nothing that it still does reaches the store or the server."""
        self.dead = self._access.dead = True
        if self.life.ends == KILLED_HERE:  # where others can tell that it runs no more
            leases = schema.sync_leases
            renamed = leases.update().where(leases.c.holder == self.lease._holder)
            with self._access._store.transaction() as tx:
                tx.connection.execute(renamed.values(holder=f"{lease._here()}:999999999:{self.number}"))

    async def _ring(self) -> None:
        wanted = [job for job in jobs(self.app, self.sync, timedelta(seconds=3)) if job.name in ("contacts", "visits")]
        while not self.app.stop.is_set():
            await asyncio.gather(*(job.ring() for job in wanted))
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self.app.stop.wait(), 1.0)
        await self.lease.give_back()

    async def _backfill(self) -> None:
        async with self.lease.held():
            await self.sync.learn()
            await self.sync.backfill(self.app.config.streams, restart=True)

    async def _refresh(self) -> None:
        async with self.lease.held_or_lent(self.sync.refresh_requests + SPARE_REQUESTS):
            await self.sync.recall()
            assert await self.sync.refresh(f"c{self.number}")

    async def _check(self) -> None:
        async with self.lease.held_or_lent(2 + SPARE_REQUESTS):
            await self.sync.learn()


async def play(traffic: Traffic, store: SqlStore, clock: Clock) -> tuple[Server, list[bool]]:
    """All lives, side by side: what the server counted, and who did what he was to do."""
    server = Server(traffic, clock)
    rate = f"{traffic.limit.requests}/{round(traffic.limit.seconds * 1000)}ms"
    config = configuration(
        store.url,
        api={"rate_limit": rate, "concurrency": traffic.workers},
        streams=("contacts", "notes"),
        schedule={"poll": "5s"},
    )

    async def live(number: int, life: Life) -> bool:
        await asyncio.sleep(life.starts)
        return await Process(life, number, config, store, server, clock).live()

    done = await asyncio.gather(*(live(number, life) for number, life in enumerate(traffic.lives)))
    await asyncio.sleep(ON_THE_WAY)
    return server, done


def most_in_a_window(counted: list[float], seconds: float) -> int:
    """The most requests in any stretch of this length: no window holds more, whether it slides or is fixed."""
    moments, almost = sorted(counted), seconds - 1e-6  # sums of fractions are not exact
    return max((bisect_left(moments, when + almost) - i for i, when in enumerate(moments)), default=0)


def visits_from_the_reserve(day: list[tuple[str, bool]], quota: int) -> int:
    """Visits that were made when the holders of the lease had already spent all but what is left to the more urgent."""
    reserve, spent, late = int(LEFT[2] * quota), 0, 0
    for work, visit in day:
        late += visit and spent >= quota - reserve
        spent += work in (DAEMON, BACKFILL)
    return late


# -- what is drawn -------------------------------------------------------------------------------------


def lives(work: list[str], lasts: list[float], *, least: int, most: int) -> st.SearchStrategy[list[Life]]:
    """Processes with such work."""
    ends = st.sampled_from([KILLED_HERE, IN_ORDER, KILLED_HERE, IN_ORDER, KILLED_ELSEWHERE])
    ahead = st.sampled_from([0.0, 0.5, 1.0])
    starts = st.integers(0, 400).map(lambda n: n / 400 * HORIZON)
    one = st.builds(Life, st.sampled_from(work), starts, st.sampled_from(lasts), ends, ahead, then=ahead)
    return st.lists(one, min_size=least, max_size=most)


traffics = st.builds(
    lambda holders, beside, **rest: Traffic(lives=(*holders, *beside), **rest),
    lives([BACKFILL, BACKFILL, DAEMON], [3.3, 6.1, 0.9, 1.7, 9.0], least=4, most=6),
    lives([REFRESH, CHECK, REFRESH], [PATIENT, PATIENT, 0.2], least=1, most=3),
    limit=st.builds(RateLimit, st.integers(12, 30), st.sampled_from([2.0, 4.0])),
    quota=st.sampled_from([None, None, 60, 90]),
    day=st.sampled_from([HORIZON * 3, HORIZON]),
    tells=st.booleans(),
    slowest=st.sampled_from([0.1, 0.5, 3.0]),
    failing=st.sampled_from([0.0, 0.05]),
    contacts=st.integers(60, 99),
    workers=st.sampled_from([32, 4]),
    seed=st.integers(0, 999),
)


def example_of(limit: RateLimit, slowest: float, *lives: Life) -> Traffic:
    """An account that tells nothing of its burst limit, where it would be exceeded by what was not counted."""
    return Traffic(limit, None, 60.0, False, slowest, 0.0, 90, 32, lives, seed=1)


RESTARTED = example_of(
    RateLimit(40, 4.0),
    2.0,
    Life(BACKFILL, 0.0, 10.0, KILLED_HERE, 0.5, 0.5),
    Life(BACKFILL, 10.6, 5.0, IN_ORDER, 0.5, 0.5),
)
"""The next one starts at once, when the last row of the one that died is older than its last requests."""
HANDED_OVER = example_of(
    RateLimit(24, 4.0), 0.3, Life(BACKFILL, 0.0, 1.0, IN_ORDER, 1.0, 1.0), Life(BACKFILL, 1.1, 5.0, IN_ORDER, 0.0, 0.0)
)
"""The next one's clock is behind: what the one before has just spent seems to be of the future."""
LEFT_BEHIND = example_of(
    RateLimit(24, 4.0),
    0.3,
    Life(BACKFILL, 0.0, 1.0, KILLED_ELSEWHERE, 0.5, 0.5),
    Life(REFRESH, 0.8, PATIENT, IN_ORDER, 0.5, 0.5),
)
"""Nobody can know that the holder of the lease has died; who waits for it goes on, but not beside what it has sent."""


# -- fixtures ------------------------------------------------------------------------------------------


pytestmark = [pytest.mark.timeout(4 * 3600 if SOAK else 120), pytest.mark.usefixtures("silent")]


@pytest.fixture
def store(database_url: str) -> Iterator[SqlStore]:
    """A store of this release, which keeps its compiled statements from one example to the next."""
    with contextlib.closing(open_store(configuration(database_url))) as made:
        yield made


def played(traffic: Traffic, store: SqlStore) -> tuple[Server, list[bool]]:
    """One example, on a store without a row."""
    with store.transaction() as tx:
        for table in schema.metadata.sorted_tables:
            gone = table.c.key != VIEWS_KEY if table is schema.sync_settings else true()
            tx.connection.execute(table.delete().where(gone))
    clock = Clock()
    with asyncio.Runner(loop_factory=lambda: VirtualLoop(clock)) as runner:
        return runner.run(play(traffic, store, clock))


# -- the promises --------------------------------------------------------------------------------------


def test_all_processes_together_never_exceed_the_budget(
    store: SqlStore, database_url: str, counted: Callable[[str, int], None]
) -> None:
    """Whoever works, starts and dies: no window holds more than the limit, no day more than its quota, visits leave
    their reserve to the others (but for one that asks how the day stands after a death), and all who wait are served.
    """
    total = 0

    @given(traffics)
    @example(RESTARTED)
    @example(HANDED_OVER)
    @example(LEFT_BEHIND)
    @settings(max_examples=MANY if database_url.startswith("sqlite") else FEW, phases=LOOK)
    def check(traffic: Traffic) -> None:
        nonlocal total
        server, done = played(traffic, store)
        total += len(server.counted)
        assert most_in_a_window(server.counted, traffic.limit.seconds) <= traffic.limit.requests
        for life, did in zip(traffic.lives, done, strict=True):
            assert did or life.work not in (REFRESH, CHECK) or life.lasts < PATIENT, f"{life} waits for ever"
        for day in server.days if traffic.quota is not None else ():
            assert len(day) <= traffic.quota
            assert visits_from_the_reserve(day, traffic.quota) <= sum(life.ends != IN_ORDER for life in traffic.lives)

    check()
    counted("requests sent beside others", total)
