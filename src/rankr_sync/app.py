"""The one place where everything is put together: from a `Config` to an `App` that is ready to use."""

import asyncio
import contextlib
import gc
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import httpx
import structlog

from rankr_sync.access import LOG_IN, credentials_of, keeper_of, needs_grants, open_client, opened_locations
from rankr_sync.config import Config, Location, check_transport
from rankr_sync.engine import Lease, LocationContext, LocationSync, Progress, Settings, is_dead
from rankr_sync.engine.context import compile_rules
from rankr_sync.engine.observer import Observer, Unobserved
from rankr_sync.errors import AskOwner, BadConfiguration, GrantMissing, StoreUnavailable
from rankr_sync.highlevel import Credentials, HighLevel, Pacer, Patience
from rankr_sync.model import LocationFacts, Row
from rankr_sync.oauth import Keeper
from rankr_sync.pacing import RateBudget, affordable_interval
from rankr_sync.part import Part
from rankr_sync.plan import Rules
from rankr_sync.store import SqlStore
from rankr_sync.store.look import location_names
from rankr_sync.store.scratch import scratch_copy
from rankr_sync.store.upkeep import stored_locations
from rankr_sync.streams import OWNER, STREAMS
from rankr_sync.visits import Bounds

log = structlog.get_logger()

WALK_SHARE = 0.05
"""The share of a day's quota that the repeated walk of one stream may take."""

SLOTS_BESIDE = 5
"""Requests at once of a dry run beside a process at work, with which it cannot share a budget without writing."""


class App:
    """A store that is open and migrated, and one engine per location. Use `build`."""

    def __init__(
        self,
        config: Config,
        store: SqlStore,
        client: httpx.AsyncClient,
        stop: asyncio.Event,
        now: Callable[[], datetime],
        observer: Observer,
        keeper: Keeper | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.config = config
        self.store = store
        self.keeper = keeper
        self.discovers = False
        """Whether its locations are those that OAuth logins open, whatever these are."""
        self.stop = stop
        self.locations: dict[str, LocationSync] = {}
        self.leases: dict[str, Lease] = {}
        self.sources: dict[str, HighLevel] = {}
        self.client = client
        self.now = now
        self.clock = clock
        """Seconds that only go forward: for rate budgets, leases and rests."""
        self.stopped: dict[tuple[str, str], AskOwner] = {}
        """Location and kind of work that rests until its owner has mended the credentials, by the daemon's word."""
        self._observer = observer
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="store")

    def add(
        self,
        location: Location,
        on_progress: Callable[[Progress], None],
        *,
        confirm_deletions: bool = False,
    ) -> None:
        """Set up one location."""
        now = self.now
        budget, credentials = self._budget(location.id, now()), credentials_of(self.config, location, self.keeper)
        source = source_of(self.config, location, self.client, credentials, budget, now, self._observer, self.clock)
        context = LocationContext(
            location.id,
            source,
            self.store,
            settings=replace(engine_settings(self.config, location), confirm_deletions=confirm_deletions),
            thread=self._thread,
            stop=self.stop,
            now=now,
            clock=self.clock,
            on_progress=on_progress,
            observer=self._observer,
        )
        self.sources[location.id] = source
        self.locations[location.id] = LocationSync(context)
        self.leases[location.id] = Lease(context)

    def walk_interval(self, location_id: str, stream: str) -> timedelta:
        """How often a stream that can only be walked as a whole is walked: as configured, or what the quota allows."""
        requests = self.locations[location_id].context.walk_requests.get(stream, 1)
        daily_limit = self.sources[location_id].pacer.budget.daily_limit
        return affordable_interval(self.config.schedule.walk, requests, daily_limit, WALK_SHARE)

    def _budget(self, location_id: str, now: datetime) -> RateBudget:
        """The rate budget, with what is left of the day. What was spent of the burst is learned with the lease."""
        with self.store.reading() as tx:
            usage = tx.last_usage(location_id)
        clock, remaining, reset_at = self.clock(), None, None
        if usage is not None and usage["daily_reset_at"] is not None and usage["daily_reset_at"] > now:
            remaining = usage["daily_remaining"]
            reset_at = clock + (usage["daily_reset_at"] - now).total_seconds()
        return RateBudget(self.config.rate_limit, now=clock, daily_remaining=remaining, daily_reset_at=reset_at)

    def _save_usage(self) -> None:
        now = self.now()
        with self.store.transaction() as tx:
            for location_id, source in self.sources.items():
                if source.unsaved:
                    tx.add_usage(location_id, now, source.usage(ending=True))

    async def close(self) -> None:
        """Give back connections, files and threads."""
        for lease in self.leases.values():
            await lease.stop()
        for source in self.sources.values():
            source.pacer.close()
        if self.keeper is not None:
            await self.keeper.close()
        await self.client.aclose()
        self._thread.shutdown(wait=True)
        with contextlib.suppress(StoreUnavailable):
            self._save_usage()
        self.store.close()


@contextlib.asynccontextmanager
async def build(
    config: Config,
    *,
    stop: asyncio.Event | None = None,
    location: str | None = None,
    on_progress: Callable[[Progress], None] = lambda progress: None,
    dry_run: bool = False,
    confirm_deletions: bool = False,
    client: httpx.AsyncClient | None = None,
    observer: Observer = Unobserved(),
    now: Callable[[], datetime] = lambda: datetime.now(UTC),
    clock: Callable[[], float] = time.monotonic,
) -> AsyncIterator[App]:
    """Everything for `config`, for one location or all.

    `dry_run`: work on a scratch copy of the store, so that everything happens as it would and nothing is written
    (but tokens that are refreshed meanwhile: the old ones are spent). Without configured locations, those that OAuth
    logins open. `observer` is told what happens. `now` is the time of day in UTC, `clock` tells seconds that only go
    forward.
    Raises BadConfiguration, SchemaTooNew or StoreUnavailable; where OAuth is asked, AskOwner and TryLater.
    """
    check_transport(config)
    chosen = chosen_locations(config, location)
    scratch, copy, keeper = contextlib.ExitStack(), None, None
    if dry_run:
        ids = [one.id for one in chosen] or None
        copy = scratch.enter_context(scratch_copy(config.database.url, ids, config.mapping, now))
    store = copy or open_store(config, may_be_new=True)
    client = client or open_client(config)
    if needs_grants(config, chosen):
        # Tokens are refreshed in the real store, also by a dry run: a pair that is spent and not kept is lost.
        tokens = scratch.enter_context(contextlib.closing(SqlStore(config.database.url))) if dry_run else store
        keeper = keeper_of(config, tokens, client, now)
    app = App(config, store, client, stop or asyncio.Event(), now, observer, keeper, clock)
    try:
        if keeper is not None and not config.locations:
            chosen = await opened_locations(keeper, location)
            app.discovers = location is None
        for one in chosen:
            app.add(one, on_progress, confirm_deletions=confirm_deletions)
            holder = copy.at_work.get(one.id) if copy is not None else None
            if holder is not None and not is_dead(holder):
                app.sources[one.id].keep_to(SLOTS_BESIDE)
                log.warning("dry_run.slow", location=one.id, holder=holder, at_once=SLOTS_BESIDE)
        gc.freeze()  # what is loaded by now stays: no need to look through it for garbage again and again
        yield app
    finally:
        gc.unfreeze()  # else what this app leaves behind would never be given back: a reload makes another
        await app.close()
        scratch.close()


@contextlib.asynccontextmanager
async def api_alone(config: Config, location: Location) -> AsyncIterator[HighLevel]:
    """One location's view of the API without a store, for a first look. Raises BadConfiguration, GrantMissing."""
    check_transport(config)
    if needs_grants(config, [location]):
        raise GrantMissing("there is no store that holds an OAuth login yet", hint=LOG_IN)
    async with open_client(config) as client:
        budget, credentials = RateBudget(config.rate_limit, now=time.monotonic()), credentials_of(config, location)
        source = source_of(config, location, client, credentials, budget, lambda: datetime.now(UTC))
        try:
            yield source
        finally:
            source.pacer.close()


def source_of(
    config: Config,
    location: Location,
    client: httpx.AsyncClient,
    credentials: Credentials,
    budget: RateBudget,
    now: Callable[[], datetime],
    observer: Observer = Unobserved(),
    clock: Callable[[], float] = time.monotonic,
) -> HighLevel:
    """One location's view of the API."""
    return HighLevel(
        client,
        base_url=config.api.base_url,
        location_id=location.id,
        credentials=credentials,
        version=config.api.version,
        pacer=Pacer(budget, clock=clock, on_day_spent=_say_spent(location.id)),
        patience=Patience(config.api.attempts, config.api.retry_for.total_seconds()),
        total_timeout=config.api.total_timeout.total_seconds(),
        now=now,
        observer=observer,
    )


def open_store(config: Config, *, may_be_new: bool = False) -> SqlStore:
    """The store, migrated to this release, with its views as the mapping wants them.

    Whoever only looks into it is warned where it had to be made: another folder or URL may have been meant.
    """
    store = SqlStore(config.database.url)
    before, _ = store.upgrade()
    if before is None and not may_be_new:
        hint = "is it where it should be? see RANKR_SYNC_DATABASE__URL, and the folder you are in"
        log.warning("store.empty", store=store.place, hint=hint)
    store.make_views(config.mapping, datetime.now(UTC))
    return store


def chosen_locations(config: Config, location: str | None) -> list[Location]:
    """The configured locations, or the one that is asked for; none where OAuth tells them. Raises BadConfiguration."""
    if not config.locations and location is None and config.oauth.client_id is None:
        raise BadConfiguration(
            "no location is configured",
            hint="set RANKR_SYNC_LOCATIONS to the id of your sub-account (Settings > Business Profile)",
        )
    if location is None:
        return list(config.locations)
    found = [one for one in config.locations if location in (one.id, one.name)]
    if config.locations and not found:
        known = ", ".join(one.id for one in config.locations)
        raise BadConfiguration(f"location {location} is not configured", hint=f"use one of: {known}")
    return found or [Location(id=location)]


def stored_facts(store: SqlStore, config: Config, location_id: str) -> LocationFacts:
    """What is known of a location without asking the API."""
    with store.reading() as tx:
        facts = tx.facts(location_id) or LocationFacts(location_id)
    zone = next((one.timezone for one in config.locations if one.id == location_id and one.timezone), None)
    return replace(facts, timezone=zone or facts.timezone)


def stored_rules(store: SqlStore, config: Config, location_id: str) -> dict[str, Rules]:
    """The compiled mapping of a location without asking the API."""
    location = next((one for one in config.locations if one.id == location_id), Location(id=location_id))
    return compile_rules(stored_facts(store, config, location_id), engine_settings(config, location))


def former_rows(store: SqlStore, config: Config, location_id: str) -> dict[str, int]:
    """Stream to its rows that were made by a mapping other than the configuration's; only streams that have any."""
    rules = stored_rules(store, config, location_id)
    with store.reading() as tx:
        counts = {name: tx.count_former(stream, location_id, rules[name].mapping) for name, stream in STREAMS.items()}
    return {name: count for name, count in counts.items() if count}


def why_gone(store: SqlStore, config: Config, contact: Row) -> str | None:
    """Why a contact (a whole row) is tombstoned, in words; None for the living."""
    if contact["deleted_at"] is None:
        return None
    rules = stored_rules(store, config, contact["location_id"])[OWNER.name]
    if rules.holds(rules.normalise(contact["raw"])):
        return "the source does not know it any more"
    return "it is not of the part of the account that is mirrored: see [only] in the configuration"


def location_id_of(store: SqlStore, config: Config, location: str | None) -> str | None:
    """The id of a location that is named by its id or name, ours or HighLevel's. Raises BadConfiguration.

    What is stored counts, too, though it be configured no more. Where OAuth tells the locations, and this one is not
    stored yet, it is taken for an id.
    """
    if location is None:
        return None
    with store.reading() as tx:
        named: list[tuple[str, str | None]] = list(location_names(tx.connection).items())
    named += [(one.id, one.name) for one in config.locations]
    found = sorted({id_ for id_, name in named if location == id_} or {id_ for id_, name in named if location == name})
    if len(found) > 1:
        raise BadConfiguration(
            f"{len(found)} locations are called {location}", hint=f"choose one by its id: {', '.join(found)}"
        )
    if not found and config.locations and location not in stored_locations(store):
        known = ", ".join(sorted({id_ for id_, _ in named}))
        raise BadConfiguration(f"location {location} is neither configured nor stored", hint=f"use one of: {known}")
    return found[0] if found else location


def _say_spent(location_id: str) -> Callable[[float], None]:
    def say(seconds: float) -> None:
        until = (datetime.now(UTC) + timedelta(seconds=seconds)).isoformat(timespec="seconds")
        log.warning("quota.spent", location=location_id, waits_seconds=round(seconds), until=until)

    return say


def engine_settings(config: Config, location: Location) -> Settings:
    """What the engine needs of the configuration."""
    return Settings(
        streams=config.streams,
        listing=config.api.listing,
        overlap=config.schedule.overlap,
        bounds=Bounds(config.visits.min_age, config.visits.max_age),
        share=config.visits.share / 100,
        drop=config.privacy.drop,
        overrides=config.mapping,
        timezone=location.timezone,
        part=Part.of(config.only.tags, config.only.businesses),
        workers=config.api.concurrency,
        brake=config.deletions.brake / 100,
    )
