"""The daemon: rings the bell for what is due, for ever, until it is asked to end.

What is due is read from the store's cursors each time, so a restart needs no memory. APScheduler only
rings: one bell a location and kind of work, never two at once, missed rings become one.
"""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, MutableMapping
from datetime import UTC, datetime, timedelta
from functools import partial

import structlog
from apscheduler.schedulers.asyncio import AsyncIOScheduler
from apscheduler.triggers.interval import IntervalTrigger

from rankr_sync import daily
from rankr_sync.app import App, former_rows
from rankr_sync.engine import Lease, LocationSync
from rankr_sync.engine.audit import EVERY as AUDIT_EVERY
from rankr_sync.engine.context import DELTA, FULL
from rankr_sync.engine.sweep import confirmed_at
from rankr_sync.errors import AskOwner, Interrupted, RankrSyncError, TryLater
from rankr_sync.model import Cursor
from rankr_sync.pacing import is_due
from rankr_sync.service.health import Pulse
from rankr_sync.service.metrics import Metrics
from rankr_sync.service.server import Listener, serving
from rankr_sync.store.upkeep import purge
from rankr_sync.streams import OWNER, STREAMS

log = structlog.get_logger()

FIRST_PAUSE, LONGEST_PAUSE = 5.0, 300.0
"""Seconds that a kind of work rests after a failure: doubled with each failure in a row, up to the longest."""

OWNER_PAUSE = 300.0
"""Seconds between looks whether the owner has mended the credentials."""

LOCATIONS_EVERY = timedelta(minutes=15)
"""How often the logins are asked which locations they open, where none are configured."""

VISITS_LAST = timedelta(minutes=5)
"""Visits of so long are one run, with one line in the log."""

SWEEP_TIME, LONGEST_SWEEP_PAUSE = 0.05, 2.0
"""A sweep takes this share of the time until the next, at most so many seconds a page: a pass that is cut off half way
by a restart cannot tell what is gone.
"""


class Job:
    """One kind of work for one location, which may fail, rest, and go on."""

    def __init__(
        self,
        name: str,
        location_id: str,
        work: Callable[[], Awaitable[None]],
        lease: Lease | None = None,
        stopped: MutableMapping[tuple[str, str], AskOwner] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.name = name
        self._lease = lease
        self._stopped = {} if stopped is None else stopped
        self._location_id = location_id
        self._work = work
        self._clock = clock
        self._failures = 0
        self._rests_until = clock()

    async def ring(self) -> None:
        """Do the work unless it rests. Never raises: a failure is logged, and the work rests for a while."""
        if self._clock() < self._rests_until:
            return
        try:
            if self._lease is None or await self._lease.take():
                await self._work()
        except (Interrupted, asyncio.CancelledError):
            return
        except AskOwner as error:
            self._rest(OWNER_PAUSE)
            self._stopped[self._location_id, self.name] = error
            log.error("location.stopped", location=self._location_id, job=self.name, error=str(error), hint=error.hint)
        except RankrSyncError as error:
            self._failures += 1
            pause = min(LONGEST_PAUSE, FIRST_PAUSE * 2 ** (self._failures - 1))
            asked = error.retry_after if isinstance(error, TryLater) else None
            self._rest(max(pause, asked or 0.0))
            log.warning(
                "job.failed",
                location=self._location_id,
                job=self.name,
                error=str(error),
                again_in=max(pause, asked or 0.0),
            )
        except Exception:
            self._failures += 1
            self._rest(min(LONGEST_PAUSE, FIRST_PAUSE * 2 ** (self._failures - 1)))
            log.exception("job.crashed", location=self._location_id, job=self.name)
        else:
            self._failures = 0
            self._stopped.pop((self._location_id, self.name), None)

    @property
    def writes_mirror(self) -> bool:
        """Whether it is work on the mirror, for which the location's lease is held; the rest is done beside it."""
        return self._lease is not None

    async def once(self) -> None:
        """Do the work whether it rests or not. Raises what goes wrong."""
        await self._work()

    def _rest(self, seconds: float) -> None:
        self._rests_until = self._clock() + seconds


class Schedule:
    """What is due at one location, by the configuration and the store's cursors."""

    def __init__(self, app: App, location: LocationSync) -> None:
        self._app = app
        self._config = app.config.schedule
        self._location = location
        self._learned_at: datetime | None = None
        self._audited_at = location.context.now()
        self._chance = random.Random()  # noqa: S311 - a draw of contacts, not a secret

    async def learn(self) -> None:
        """Read the location's reference data, at the start and with each full pass."""
        now = self._location.context.now()
        if is_due(now, self._learned_at, self._config.full_pass):
            await self._location.learn()
            self._learned_at = now
            await self._location.context.in_store(self._say_former)

    def _say_former(self) -> None:
        """In the store's thread: tell of rows that a former mapping made. What comes in is mapped by the new one."""
        id_ = self._location.context.location_id
        if former := former_rows(self._app.store, self._app.config, id_):
            log.warning("mapping.changed", location=id_, **former, hint="rankr-sync mapping apply")

    async def owner(self) -> None:
        """The contacts: the first full pass until it is complete, then polls, as far as the API tells of changes."""
        await self.learn()
        full, delta = await self._cursors()
        alone = delta is None or not self._location.can_poll(OWNER.name)
        if alone and await self._sweep_due(full):
            await self._location.full_pass(OWNER.name, "backfill" if full is None else "sweep")
            return
        if not self._due(delta, self._config.poll):
            return
        if not await self._location.poll(OWNER.name) and self._full_due(full, self._affordable(OWNER.name)):
            await self._location.full_pass(OWNER.name, "poll")

    async def sweep(self) -> None:
        """A full pass beside the polls, in its own time: it finds what is gone, and whatever a poll has missed."""
        if self._learned_at is None:
            return
        full, delta = await self._cursors()
        if delta is not None and self._location.can_poll(OWNER.name) and await self._sweep_due(full):
            pages = max(1, await self._location.count_contacts() // 100)
            pause = min(LONGEST_SWEEP_PAUSE, self._config.full_pass.total_seconds() * SWEEP_TIME / pages)
            await self._location.full_pass(OWNER.name, "sweep", pause=pause)

    async def _cursors(self) -> tuple[Cursor | None, Cursor | None]:
        context = self._location.context
        return await context.cursor(OWNER.name, FULL), await context.cursor(OWNER.name, DELTA)

    async def _sweep_due(self, full: Cursor | None) -> bool:
        told_at = await confirmed_at(self._location.context)
        if told_at is not None and full is not None and full.started_at is not None and full.started_at < told_at:
            return True  # a person waits for it
        broken = full is not None and full.phase == "broken"
        return self._full_due(full, self._affordable(OWNER.name) if broken else self._config.full_pass)

    async def audit(self) -> None:
        """A contact drawn at random, every half hour."""
        now = self._location.context.now()
        if is_due(now, self._audited_at, AUDIT_EVERY):
            self._audited_at = now
            await self._location.audit(self._chance)

    async def walk(self, name: str) -> None:
        """A stream that can only be walked as a whole: again and again, as often as the quota allows."""
        if self._learned_at is None:
            return  # the contacts' job asks first, with better words should the token be refused
        cursor = await self._location.context.cursor(name, FULL)
        by_visits = name in self._location.context.visited_streams()
        due = not by_visits and self._full_due(cursor, self._affordable(name))
        if due and not await self._location.full_pass(name, "poll"):
            await self._location.begin_visits(name)

    async def visits(self, lasting: timedelta = timedelta(0)) -> None:
        """The contacts that are due, and those that fall due within so long."""
        if self._learned_at is None:
            return
        for name in self._location.context.visited_streams():
            if await self._location.context.cursor(name, FULL) is None:
                await self._location.begin_visits(name)
        await self._location.visit_due(lasting)

    async def next_times(self) -> dict[str, datetime]:
        """When each kind of work that goes by the clock is due next, by its name."""
        full, delta = await self._cursors()
        found = {f"{OWNER.name} sweep": _next(full, self._config.full_pass, lambda cursor: cursor.started_at)}
        if self._location.can_poll(OWNER.name):
            found[f"{OWNER.name} poll"] = _next(delta, self._config.poll, lambda cursor: cursor.saved_at)
        visited = self._location.context.visited_streams()
        for name in self._location.context.settings.streams:
            if STREAMS[name].walks and not STREAMS[name].owner and name not in visited:
                cursor = await self._location.context.cursor(name, FULL)
                found[f"{name} walk"] = _next(cursor, self._affordable(name), lambda cursor: cursor.started_at)
        now = self._location.context.now()
        return {name: max(at, now) if at is not None else now for name, at in found.items()}

    def _affordable(self, name: str) -> timedelta:
        return self._app.walk_interval(self._location.context.location_id, name)

    def _full_due(self, cursor: Cursor | None, every: timedelta) -> bool:
        if cursor is not None and cursor.phase == "walking":
            return True
        return is_due(self._location.context.now(), cursor.started_at if cursor else None, every)

    def _due(self, cursor: Cursor | None, every: timedelta) -> bool:
        if cursor is not None and cursor.phase == "walking":
            return True
        return is_due(self._location.context.now(), cursor.saved_at if cursor else None, every)


class Summaries:
    """The daily summaries of one location: made and delivered beside the sync, whoever holds the lease."""

    def __init__(self, app: App, location: LocationSync) -> None:
        self._app = app
        self._id = location.context.location_id
        self._now = location.context.now
        self._looked_at: datetime | None = None

    async def work(self) -> None:
        """Make those that are missing, and deliver those that wait; asks the store once a minute."""
        now, config = self._now(), self._app.config
        if not is_due(now, self._looked_at, daily.LOOKS_EVERY):
            return
        self._looked_at = now
        await asyncio.to_thread(daily.make_missing, self._app.store, config, self._id, now)
        if daily.sends(config.summary):
            to = partial(daily.targets_of, config.summary)
            await asyncio.to_thread(daily.deliver_due, self._app.store, self._id, to, self._now, self._app.stop.is_set)


def _next(cursor: Cursor | None, every: timedelta, of: Callable[[Cursor], datetime | None]) -> datetime | None:
    """When something that is repeated is due again; None: now."""
    last = of(cursor) if cursor is not None and cursor.phase != "walking" else None
    return last + every if last is not None else None


def jobs(app: App, location: LocationSync, visits_last: timedelta = VISITS_LAST) -> list[Job]:
    """The kinds of work of one location. Visits go on for `visits_last` in one go."""
    schedule, id_ = Schedule(app, location), location.context.location_id
    lease = app.leases[id_]

    def walk_of(name: str) -> Callable[[], Awaitable[None]]:
        return lambda: schedule.walk(name)

    work: dict[str, Callable[[], Awaitable[None]]] = {OWNER.name: schedule.owner, "sweep": schedule.sweep}
    walked = [name for name in app.config.streams if STREAMS[name].walks and not STREAMS[name].owner]
    work |= {name: walk_of(name) for name in walked}
    work |= {"audit": schedule.audit, "visits": lambda: schedule.visits(visits_last)}
    found = [Job(name, id_, one, lease, app.stopped, app.clock) for name, one in work.items()]
    return [*found, Job("summary", id_, Summaries(app, location).work, clock=app.clock)]


async def run_for_ever(app: App, listener: Listener | None = None, metrics: Metrics | None = None) -> None:
    """Ring until the app is asked to stop, then finish what is in hand; meanwhile serve what the listener is asked."""
    pulse = Pulse()
    async with serving(app, listener, metrics or Metrics(), pulse):
        await _ring_until_stopped(app, pulse)


async def _ring_until_stopped(app: App, pulse: Pulse) -> None:
    scheduler = AsyncIOScheduler(
        timezone=UTC, job_defaults={"coalesce": True, "max_instances": 1, "misfire_grace_time": None}
    )
    ringing: set[asyncio.Task[None]] = set()
    bell = bell_interval(app.config.schedule.poll)
    for location in app.locations.values():
        for job in jobs(app, location):
            name = f"{location.context.location_id}:{job.name}"
            scheduler.add_job(
                _tracked(job.ring, ringing),
                IntervalTrigger(seconds=bell),
                id=name,
                name=name,
                next_run_time=app.now(),
            )
    upkeep = Job("purge", "-", lambda: _purge(app), clock=app.clock)
    scheduler.add_job(upkeep.ring, IntervalTrigger(hours=24), id="purge", next_run_time=app.now())
    if app.discovers:
        look = Job("locations", "-", lambda: _look_for_locations(app), clock=app.clock)
        scheduler.add_job(look.ring, IntervalTrigger(seconds=LOCATIONS_EVERY.total_seconds()), id="locations")
    scheduler.add_job(pulse.beat, IntervalTrigger(seconds=bell), id="pulse")
    scheduler.start()
    log.info(
        "daemon.started", locations=len(app.locations), store=app.store.place, streams=",".join(app.config.streams)
    )
    await app.stop.wait()
    log.info("daemon.ending")
    scheduler.pause()  # shutting it down at once would cancel what is under way
    if ringing:
        _, late = await asyncio.wait(ringing, timeout=app_grace(app))
        for task in late:
            task.cancel()
        await asyncio.gather(*late, return_exceptions=True)
    scheduler.shutdown(wait=False)
    await asyncio.gather(*(lease.give_back() for lease in app.leases.values()))
    log.info("daemon.ended")


async def one_tick(app: App) -> dict[str, RankrSyncError]:
    """Do once what is due at each location, side by side, then end; visits as many as the budget buys at once.

    Returns location to its last error: one that fails keeps neither the other kinds of work nor the other locations
    from being done. Raises Interrupted when asked to end.
    """
    errors: dict[str, RankrSyncError] = {}

    async def tick(location: LocationSync) -> None:
        id_ = location.context.location_id
        async with app.leases[id_].held():
            for job in jobs(app, location, timedelta(0)):
                if not job.writes_mirror:
                    continue  # a summary, which would be sent
                try:
                    await job.once()
                except Interrupted:
                    raise
                except RankrSyncError as error:
                    errors[id_] = error

    await asyncio.gather(*map(tick, app.locations.values()))
    return errors


def bell_interval(poll: timedelta) -> float:
    """Seconds between two rings: a tenth of the poll interval, from a quarter of a second to five."""
    return min(5.0, max(0.25, poll.total_seconds() / 10))


def app_grace(app: App) -> float:
    """Seconds that work in hand is given when we are asked to end: a little more than a request's own grace."""
    return next((location.context.settings.grace for location in app.locations.values()), 2.0) + 1.5


def _tracked(ring: Callable[[], Awaitable[None]], ringing: "set[asyncio.Task[None]]") -> Callable[[], Awaitable[None]]:
    async def tracked() -> None:
        task = asyncio.current_task()
        assert task is not None
        ringing.add(task)
        try:
            await ring()
        finally:
            ringing.discard(task)

    return tracked


async def _look_for_locations(app: App) -> None:
    """Ask which locations the logins open; where that has changed, end, to start anew with what is remembered now."""
    assert app.keeper is not None
    found, had = set(await app.keeper.locations()), set(app.locations)
    for id_ in sorted(found - had):
        log.info("location.found", location=id_)
    for id_ in sorted(had - found):
        log.warning("location.uninstalled", location=id_)
    if found != had:
        app.stop.set()


async def _purge(app: App) -> None:
    keep = app.config.retention
    removed = await asyncio.to_thread(purge, app.store, keep.deleted, keep.runs, app.now(), ended=app.stop.is_set)
    if any(removed.values()):
        log.info("store.purged", **{table: rows for table, rows in removed.items() if rows})
