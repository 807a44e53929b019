"""What every part of the engine shares for one location: source, store, rules, clock, the wish to end, runs."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field
from datetime import UTC, date, datetime, timedelta
from typing import Any, ParamSpec, Protocol, TypeVar

import structlog

from rankr_sync.engine.agenda import Agenda
from rankr_sync.engine.observer import Observer, Unobserved
from rankr_sync.errors import Interrupted, LeaseLost, RankrSyncError
from rankr_sync.mapping import FieldRule
from rankr_sync.model import Answer, Cursor, JsonObject, Known, Loan, LocationFacts, Plan, Request, Row, Tally, Visit
from rankr_sync.pacing import DayBudget
from rankr_sync.part import WHOLE, Part
from rankr_sync.plan import Rules
from rankr_sync.rates import Evidence
from rankr_sync.streams import STREAMS, Stream, Walk
from rankr_sync.visits import Bounds, Sent, Step, Waiting

log = structlog.get_logger()

P = ParamSpec("P")
R = TypeVar("R")

FULL, DELTA = "full", "delta"
"""Partitions of `sync_cursors`: where the full pass stands, and where the delta does."""

LEASE_LASTS = timedelta(seconds=30)
"""A holder of a location's lease that has died is replaced after this, at the latest when the next one looks."""

URGENT, LISTING, VISIT = 0, 1, 2
"""Who is served first when the rate budget is short: people waiting, then listings, then visits."""


class Source(Protocol):
    """One location's view of the API."""

    async def fetch(self, request: Request, *, priority: int = ..., hurried: bool = ...) -> Answer:
        """The answer, or one of our errors. `hurried`: with few retries, for what can be done without."""

    @property
    def throttled(self) -> int:
        """How often the rate limit was hit so far."""

    def day(self) -> DayBudget:
        """What is left of the day's quota."""

    def usage(self, *, ending: bool = ...) -> Row:
        """What was spent since the last call, and what is left: a row of `api_usage` without its key.

        `ending`: nothing more is sent.
        """

    @property
    def unsaved(self) -> bool:
        """Whether anything was sent that no `usage(ending=True)` has told of."""

    def take_over(self, usage: Row | None, lived_until: datetime | None = ...) -> None:
        """Nobody else sends from now on: count what the one before us had just spent, by its last row.

        `lived_until`: it did not say that it ends, and may have sent until then.
        """

    def keep_to(self, slots: int | None) -> None:
        """Send no more than this at once: so much was lent to us. None: it is no longer."""

    def lend(self, slots: int, *, at_once: bool = ...) -> int:
        """Keep slots for another process; how many, 0 if it must wait. `at_once`: it has them already."""

    @property
    def may_use_loans(self) -> bool:
        """Whether all that is lent is free by now."""

    def take_back(self, slots: int) -> None:
        """What was lent is not used any more."""


class Transaction(Protocol):
    """What the engine asks and says within one transaction of the store; see `store.transaction`."""

    def known(self, stream: Stream, location_id: str, ids: Sequence[str]) -> dict[str, Known]: ...
    def known_children(
        self, stream: Stream, location_id: str, contact_ids: Sequence[str], ids: Sequence[str]
    ) -> dict[str, Known]: ...
    def apply(self, stream: Stream, location_id: str, plan: Plan, now: datetime) -> Plan: ...
    def cursor(self, location_id: str, stream: str, partition: str) -> Cursor | None: ...
    def save_cursor(self, location_id: str, stream: str, partition: str, cursor: Cursor, now: datetime) -> None: ...
    def drop_cursor(self, location_id: str, stream: str, partition: str) -> None: ...
    def start_run(self, location_id: str, stream: str, kind: str, now: datetime) -> int: ...
    def save_run(
        self, run_id: int, tally: Tally, *, status: str = ..., error: str | None = ..., now: datetime | None = ...
    ) -> None: ...
    def signalled_visits(self, location_id: str, streams: Sequence[str], now: datetime, limit: int) -> list[Visit]: ...
    def unvisited(self, location_id: str, stream: str, before: datetime, now: datetime, limit: int) -> list[Visit]: ...
    def visit_heads(self, location_id: str, streams: Sequence[str]) -> dict[Step, datetime]: ...
    def waiting_visits(self, location_id: str, before: Mapping[Step, datetime], limit: int) -> list[Waiting]: ...
    def count_rolling(self, location_id: str, streams: Sequence[str]) -> int: ...
    def count_visits(
        self, location_id: str, streams: Sequence[str], before: Sequence[datetime]
    ) -> tuple[int, list[int]]: ...
    def visits_of(self, location_id: str, stream: str, contact_ids: Sequence[str]) -> dict[str, Visit]: ...
    def put_visits(self, location_id: str, visits: Iterable[Visit]) -> None: ...
    def save_visits(self, location_id: str, visits: Iterable[Visit]) -> None: ...
    def add_missing_visits(self, location_id: str, stream: str, now: datetime, rate: float) -> None: ...
    def bring_forward_visits(self, location_id: str, now: datetime, latest: datetime) -> None: ...
    def forget_visits(self, location_id: str, pairs: Iterable[tuple[str, str]]) -> None: ...
    def drop_visits(self, location_id: str, contact_ids: Sequence[str]) -> None: ...
    def passed_deadlines(self, stream: Stream, location_id: str, since: datetime, now: datetime) -> list[str]: ...
    def evidence(self, location_id: str, stream: str) -> list[tuple[Evidence, int]]: ...
    def sent(self, location_id: str, stream: str) -> dict[str, Sent]: ...
    def add_sent(self, location_id: str, stream: str, sent: Mapping[str, Sent]) -> None: ...
    def fade_sent(self, location_id: str, stream: str, factor: float) -> None: ...
    def add_delays(self, location_id: str, stream: str, day: date, delays: Mapping[int, int]) -> None: ...
    def add_audit(self, location_id: str, stream: str, day: date, contacts: int, rows: int, stale: int) -> None: ...
    def drawn(self, location_id: str, at: str) -> str | None: ...
    def made_at(self, location_id: str, ids: Sequence[str]) -> dict[str, datetime]: ...
    def living(
        self, stream: Stream, location_id: str, before: datetime, after: str, limit: int
    ) -> list[tuple[str, str | None]]: ...
    def living_payloads(
        self, stream: Stream, location_id: str, after: str, limit: int
    ) -> list[tuple[str, JsonObject]]: ...
    def count_living(self, stream: Stream, location_id: str) -> int: ...
    def tombstone(self, stream: Stream, location_id: str, ids: Sequence[str], now: datetime) -> int: ...
    def tombstone_children(
        self, stream: Stream, location_id: str, contact_ids: Sequence[str], now: datetime
    ) -> int: ...
    def take_lease(self, location_id: str, holder: str, now: datetime, until: datetime) -> bool: ...
    def renew_lease(self, location_id: str, holder: str, until: datetime) -> bool: ...
    def lease(self, location_id: str) -> tuple[str, datetime] | None: ...
    def give_lease(self, location_id: str, holder: str) -> None: ...
    def ask_loan(self, location_id: str, borrower: str, requests: int, now: datetime, until: datetime) -> None: ...
    def loans(self, location_id: str) -> list[Loan]: ...
    def answer_loan(self, location_id: str, borrower: str, now: datetime, granted: int | None) -> None: ...
    def renew_loan(self, location_id: str, borrower: str, until: datetime) -> None: ...
    def end_loan(self, location_id: str, borrower: str) -> None: ...
    def add_usage(self, location_id: str, now: datetime, usage: Row) -> None: ...
    def last_usage(self, location_id: str) -> Row | None: ...
    def facts(self, location_id: str) -> LocationFacts | None: ...
    def save_location(self, row: Row, now: datetime) -> None: ...
    def save_custom_fields(self, location_id: str, rows: Sequence[Row], now: datetime) -> None: ...
    def setting(self, key: str) -> Any: ...
    def save_setting(self, key: str, value: Any, now: datetime) -> None: ...
    def drop_setting(self, key: str) -> None: ...


class Store(Protocol):
    """Where the mirror is kept."""

    def transaction(self) -> AbstractContextManager[Transaction]:
        """A `Transaction` that is committed when its block ends."""

    def reading(self) -> AbstractContextManager[Transaction]:
        """A `Transaction` for looking only."""


@dataclass(frozen=True, slots=True)
class Settings:
    """What the configuration decides about the engine."""

    streams: tuple[str, ...] = tuple(STREAMS)
    listing: str = "auto"
    overlap: timedelta = timedelta(seconds=60)
    bounds: Bounds = field(default_factory=Bounds)
    share: float = 0.9
    """The share of a day's quota that visits may spend."""
    drop: tuple[str, ...] = ()
    overrides: Mapping[str, Mapping[str, FieldRule]] = field(default_factory=dict)
    timezone: str | None = None
    part: Part = WHOLE
    """What of the account is mirrored."""
    brake: float = 0.05
    """The share of a location's contacts that may be tombstoned at once without a person's word."""
    confirm_deletions: bool = False
    """A person's word that whatever is gone may be tombstoned."""
    workers: int = 32
    """Requests in flight at once, for visits."""
    batch: int = 250
    """Visits stored in one transaction."""
    grace: float = 2.0
    """Seconds that a request under way is given when we are asked to end."""


@dataclass(slots=True)
class Progress:
    """How far a location is, for people who watch. `total` is the source's count of contacts, once known; `visited`
    counts the visits that were made before, by what was cut off. `wanted`: the streams that are copied.
    """

    location_id: str
    requests: int = 0
    streams: dict[str, Tally] = field(default_factory=dict)
    wanted: tuple[str, ...] = ()
    total: int | None = None
    visited: int = 0


@dataclass(slots=True)
class Run:
    """A run under way: the row of `sync_runs` it is written to, and its counts so far."""

    id: int
    stream: Stream
    kind: str
    tally: Tally = field(default_factory=Tally)


class LocationContext:
    """One location in one process."""

    def __init__(
        self,
        location_id: str,
        source: Source,
        store: Store,
        *,
        settings: Settings,
        thread: Executor,
        stop: asyncio.Event,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        clock: Callable[[], float] = time.monotonic,
        on_progress: Callable[[Progress], None] = lambda progress: None,
        observer: Observer = Unobserved(),
    ) -> None:
        self.location_id = location_id
        self.source = source
        self.store = store
        self.settings = settings
        self.stop = stop
        self.now = now
        self.clock = clock
        self.observer = observer
        self.progress = Progress(location_id)
        self.agenda = Agenda(location_id, bounds=settings.bounds, share=settings.share, day=source.day, now=now)
        self.rules: dict[str, Rules] = {}
        self.refused: set[tuple[str, str]] = set()
        """Walks that the API does not let this token take: (stream, walk)."""
        self.holder: str | None = None
        """Our name on the location's lease, while we hold it."""
        self.waiting = False
        """Whether it was already said that another process holds it."""
        self.walk_requests: dict[str, int] = {}
        """Requests that the last whole walk of a stream took."""
        self.borrowed: dict[str, int] = {}
        """Burst slots that are lent to us, by loan."""
        self._thread = thread
        self._on_progress = on_progress

    def know(self, facts: LocationFacts) -> None:
        """Compile the field mappings with what is known of the location."""
        self.rules = compile_rules(facts, self.settings)

    def count(self, run: "Run", tally: Tally) -> None:
        """Count what was just committed, for the run and for those who watch."""
        run.tally += tally
        self.progress.requests += tally.requests
        seen = self.progress.streams.setdefault(run.stream.name, Tally())
        seen += tally
        self._on_progress(self.progress)

    @contextlib.contextmanager
    def checkpoint(self) -> Iterator[Transaction]:
        """A transaction that saves work. Raises LeaseLost when another process has taken the location over."""
        with self.store.transaction() as tx:
            if self.holder is not None and not tx.renew_lease(self.location_id, self.holder, self.now() + LEASE_LASTS):
                self.holder = None
                raise LeaseLost("another process has taken this location over; nothing more is written here")
            yield tx

    def is_refused(self, stream: Stream, walk: Walk) -> bool:
        """Whether this walk was found closed to us."""
        return (stream.name, walk.name) in self.refused

    def visited_streams(self) -> list[str]:
        """The streams whose records are read contact by contact: no walk, or none that is open to us.

        Of a part of the account, all: a walk would show what belongs to other contacts, too.
        """
        return [
            name
            for name in self.settings.streams
            if (stream := STREAMS[name]).lookup is not None
            and not stream.owner
            and (not self.settings.part.is_whole or all(self.is_refused(stream, walk) for walk in stream.walks))
        ]

    def lookup_streams(self) -> list[str]:
        """The streams for which a visit may be due: also those that are walked, where a record was missed."""
        names = self.settings.streams
        return [name for name in names if STREAMS[name].lookup is not None and not STREAMS[name].owner]

    async def in_store(self, call: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Call in the store's thread: one batch after the other, while requests are in flight."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, lambda: call(*args, **kwargs))

    async def cursor(self, stream: str, partition: str) -> Cursor | None:
        """Where a walk stands."""

        def read() -> Cursor | None:
            with self.store.reading() as tx:
                return tx.cursor(self.location_id, stream, partition)

        return await self.in_store(read)

    async def setting(self, key: str) -> Any:
        """A value of `sync_settings`; None where there is none."""

        def read() -> Any:
            with self.store.reading() as tx:
                return tx.setting(key)

        return await self.in_store(read)

    async def or_stop(self, asking: "asyncio.Task[Answer]") -> Answer:
        """The answer; when we are asked to end, a short grace for what is under way, then Interrupted."""
        if not asking.done():
            stopping = asyncio.ensure_future(self.stop.wait())
            try:
                await asyncio.wait({asking, stopping}, return_when=asyncio.FIRST_COMPLETED)
                if not asking.done():
                    await asyncio.wait({asking}, timeout=self.settings.grace)
            finally:
                stopping.cancel()
            if not asking.done():
                raise Interrupted("asked to end; everything so far is saved")
        elif self.stop.is_set():
            raise Interrupted("asked to end; everything so far is saved")
        return asking.result()

    @contextlib.asynccontextmanager
    async def run(self, stream: Stream, kind: str) -> AsyncIterator[Run]:
        """A run from its first row in `sync_runs` to its one log line."""

        def start() -> int:
            with self.store.transaction() as tx:
                return tx.start_run(self.location_id, stream.name, kind, self.now())

        run = Run(await self.in_store(start), stream, kind)
        began = self.now()
        status, error, trace_id = "succeeded", None, None
        # Not reset by a token: the visits' runs begin in one task and end in another.
        structlog.contextvars.bind_contextvars(run=run.id)
        try:
            yield run
        except (Interrupted, asyncio.CancelledError):
            status = "interrupted"
            raise
        except RankrSyncError as problem:
            status, error, trace_id = "failed", str(problem), problem.trace_id
            run.tally.requests += problem.requests
            raise
        except BaseException as problem:
            status, error = "failed", type(problem).__name__
            raise
        finally:
            with contextlib.suppress(RankrSyncError):
                await asyncio.shield(self.in_store(self._end_run, run, status, error))
            seconds = (self.now() - began).total_seconds()
            self.observer.ran(self.location_id, stream.name, kind, status, seconds, run.tally)
            log.info(
                "run.finished",
                run=run.id,
                location=self.location_id,
                stream=stream.name,
                kind=kind,
                status=status,
                seconds=round(seconds, 3),
                **asdict(run.tally),
                **({"error": error} if error else {}),
                **({"trace_id": trace_id} if trace_id else {}),
            )
            structlog.contextvars.unbind_contextvars("run")

    def _end_run(self, run: Run, status: str, error: str | None) -> None:
        with self.store.transaction() as tx:
            tx.save_run(run.id, run.tally, status=status, error=error, now=self.now())
            tx.add_usage(self.location_id, self.now(), self.source.usage())


def compile_rules(facts: LocationFacts, settings: Settings) -> dict[str, Rules]:
    """Stream name to what `plan` needs of it."""
    return {
        name: stream.rules(stream.mapping(settings.overrides.get(name, {}), facts), facts, settings.drop, settings.part)
        for name, stream in STREAMS.items()
    }
