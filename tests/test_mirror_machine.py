# ruff: noqa: D102 - the names of the rules say it
"""A mirror machine: the account is edited, requests fail, the program is killed and started again, in any order and
at any moment; afterwards the mirror equals the account. Time is the machine's own, so nothing really waits.
"""

import asyncio
import contextlib
import itertools
import os
import selectors
import shutil
import time
from collections.abc import Awaitable, Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test
from sqlalchemy import event

from mirror import LOCATION, configuration, connected, differences
from rankr_sync import schema
from rankr_sync.app import App
from rankr_sync.config import Config, Deletions
from rankr_sync.daemon import Schedule
from rankr_sync.engine import LocationSync
from rankr_sync.errors import RankrSyncError, StoreUnavailable
from rankr_sync.sandbox import FaultPlan, RateLimit, Sandbox, SandboxOptions, create_app
from rankr_sync.store import SqlStore
from rankr_sync.store.upkeep import purge
from rankr_sync.streams import STREAMS, contacts, tasks

LOOK = (Phase.explicit, Phase.reuse, Phase.generate)
SOAK = os.environ.get("HYPOTHESIS_PROFILE") == "soak"

ROUTES = (None, "/contacts/", "/contacts/search", "*/tasks/search", "/contacts/*/notes", "/contacts/*/appointments")
ROUTES = (*ROUTES, "/contacts/{contactId}", "/locations/{locationId}")
PASSING = ("500", "502-html", "503", "200-html", "429", "401", "reset", "truncated", "half-json")
MALFORMED = ("wrong-shape", "empty-object")
EDITS = (
    *("create contact", "edit contact", "clear fields", "delete contact", "tag", "tag without bump"),
    *("create task", "edit task", "complete task", "delete task"),
    *("create note", "edit note", "delete note"),
    *("create appointment", "move appointment", "delete appointment"),
)
EDIT = st.tuples(st.sampled_from(EDITS), st.integers(0, 40), st.booleans())


class Clock:
    """One time for the account, the program and the event loop."""

    running: "Clock | None" = None

    def __init__(self, epoch: float = 1_780_000_000.0) -> None:
        self.epoch = epoch
        self.passed = 0.0
        Clock.running = self

    def seconds(self) -> float:
        """Epoch seconds, for the account."""
        return self.epoch + self.passed

    def now(self) -> datetime:
        """The same moment, for the program."""
        return datetime.fromtimestamp(self.seconds(), UTC)

    def monotonic(self) -> float:
        """The same, for event loop and pacer."""
        return 1_000_000.0 + self.passed

    async def sleep(self, seconds: float) -> None:
        """Sleep on this clock."""
        self.passed += seconds
        await asyncio.sleep(0)


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop that never waits: when all that is left is waiting for a timer, the clock moves on."""

    def __init__(self, clock: Clock) -> None:
        self.busy = 0
        super().__init__(_Selector(self, clock))

    def run_in_executor(self, executor: Any, func: Any, *args: Any) -> Any:
        """Count what is under way in threads: as long as there is any, time stands still."""
        self.busy += 1
        future = super().run_in_executor(executor, func, *args)
        future.add_done_callback(self._done)
        return future

    def _done(self, _future: Any) -> None:
        self.busy -= 1


class _Selector(selectors.DefaultSelector):
    def __init__(self, loop: VirtualLoop, clock: Clock) -> None:
        super().__init__()
        self._loop, self._virtual = loop, clock

    def select(self, timeout: float | None = None) -> Any:
        if timeout is None or timeout <= 0 or self._loop.busy:
            return super().select(timeout)
        found = super().select(0)
        if not found:
            self._virtual.passed += timeout
        return found


class Watched(httpx.AsyncBaseTransport):
    """Counts requests, and lets things happen when the next few have been sent."""

    def __init__(self, sandbox: Sandbox) -> None:
        self._inner = httpx.ASGITransport(create_app(sandbox))
        self.to_come: list[tuple[int, Callable[[], None]]] = []

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Answer, after what was to happen by now."""
        await asyncio.sleep(0)  # as in a network, others get their turn
        self.to_come = [(left - 1, what) for left, what in self.to_come]
        for entry in [entry for entry in self.to_come if entry[0] <= 0]:
            self.to_come.remove(entry)
            entry[1]()
        return await self._inner.handle_async_request(request)


class Program:
    """The program over an account, which can be killed: from then on, nothing it still does reaches the store."""

    def __init__(self, sandbox: Sandbox, config: Config, clock: Clock) -> None:
        self.clock, self.config, self.sandbox = clock, config, sandbox
        self.runner = asyncio.Runner(loop_factory=lambda: VirtualLoop(clock))
        self.transport = Watched(sandbox)
        self._stack = contextlib.AsyncExitStack()
        self._dead = False
        self.app: App = self.runner.run(self._start())
        self.sync: LocationSync = self.app.locations[LOCATION]
        self.schedule = Schedule(self.app, self.sync)

    async def _start(self) -> App:
        asyncio.get_running_loop().set_exception_handler(self._note)
        options = {"now": self.clock.now, "transport": self.transport}
        app = await self._stack.enter_async_context(connected(self.sandbox, self.config, **options))
        for source in app.sources.values():
            source._sleep = self.clock.sleep
            source.pacer._clock = self.clock.monotonic
        event.listen(app.store.engine, "commit", self._refuse_when_dead)
        return app

    def _note(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        if not self._dead:  # the dead leave things undone
            loop.default_exception_handler(context)

    def _refuse_when_dead(self, _connection: Any) -> None:
        if self._dead:
            raise StoreUnavailable("killed")

    def work(self, what: Callable[[], Awaitable[Any]], *, kill_at: int | None = None) -> Exception | None:
        """Do it with the lease held; killed when it sends its `kill_at`-th request. Returns how it failed, if so."""

        async def main() -> None:
            task = asyncio.ensure_future(self._leased(what))
            if kill_at is not None:
                self.transport.to_come.append((kill_at, lambda: self._kill(task)))
            await task

        try:
            self.runner.run(main())
        except asyncio.CancelledError as error:
            return StoreUnavailable(f"killed {error}")
        except RankrSyncError as error:
            return error
        finally:
            self.transport.to_come.clear()
        return None

    async def _leased(self, what: Callable[[], Awaitable[Any]]) -> None:
        async with self.app.leases[LOCATION].held():
            if not self.sync.context.rules:
                await self.sync.learn()
            await what()

    def _kill(self, task: "asyncio.Task[None]") -> None:
        self._dead = True
        task.cancel()

    def end(self) -> None:
        """End, well or not."""
        self.runner.run(self._stack.aclose())
        self.runner.close()


class MirrorMachine(RuleBasedStateMachine):
    """An account and its mirror."""

    def __init__(self, database_url: str, fresh: Callable[[], Any]) -> None:
        super().__init__()
        fresh()
        self.url = database_url
        self.program: Program | None = None
        self.counter = itertools.count(1)
        self.ever: dict[str, set[str]] = {name: set() for name in STREAMS}
        self.words: set[tuple[Any, ...]] = set()

    # -- beginning and end ---------------------------------------------------------------------------

    @initialize(
        people=st.integers(0, 14),
        lag=st.sampled_from([0.0, 5.0]),
        limit=st.sampled_from([None, RateLimit(30, 10.0)]),
        default=st.sampled_from(["all", "open"]),
        missing=st.sampled_from([400, 404]),
        listing=st.sampled_from(["auto", "auto", "search"]),
    )
    def begin(self, people: int, lag: float, limit: Any, default: Any, missing: Any, listing: str) -> None:
        self.clock = Clock()
        self.sandbox = Sandbox(
            SandboxOptions(
                contacts=people,
                rate_limit=limit,
                index_lag=lag,
                tasks_search_default=default,
                not_found_status=missing,
            ),
            now=self.clock.seconds,
            sleep=self.clock.sleep,
        )
        self.sandbox.faults.connection_error = httpx.ReadError
        api = {"listing": listing, "rate_limit": "30/10s" if limit else "none", "concurrency": 4}
        self.config = configuration(self.url, api=api, deletions=Deletions(brake=100))
        self.store = SqlStore(self.url)
        self._remember()
        self.start()

    def start(self) -> None:
        """Start the program anew."""
        if self.program is not None:
            self.program.end()
        self.program = Program(self.sandbox, self.config, self.clock)

    def teardown(self) -> None:
        if self.program is None:
            return
        try:
            self._catch_up()
        finally:
            self.program.end()
            self.store.close()

    def _catch_up(self) -> None:
        """Two days without trouble: what the daemon does, and then nothing may be different."""
        self.sandbox.faults.clear()
        self.start()
        for _day in range(2):
            self.clock.passed += 25 * 3600
            for _round in range(3):
                assert self.program.work(self._tick) is None
                self.clock.passed += 120
        different = differences(self.sandbox, self.url)
        assert not different, different
        self._never_wrong()

    async def _tick(self) -> None:
        schedule = self.program.schedule
        await schedule.owner()
        await schedule.walk("tasks")
        await schedule.visits()

    # -- what happens in the account -----------------------------------------------------------------

    @rule(edit=EDIT)
    def edit(self, edit: tuple[str, int, bool]) -> None:
        self._edit(*edit)

    def _edit(self, kind: str, which: int, bump: bool) -> None:
        truth, number = self.sandbox.truth(), next(self.counter)
        verb, _, entity = kind.partition(" ")
        pool = "contacts" if verb in ("create", "tag", "clear") else f"{entity}s"
        ids = sorted(truth[pool])
        if not ids and kind != "create contact":
            return
        id_ = ids[which % len(ids)] if ids else ""
        contact_id = truth[pool][id_].get("contactId", id_) if ids else ""
        word = f"Word{number}"
        match kind:
            case "create contact":
                self.sandbox.create_contact(firstName=word, lastName="New", email=f"{word}@example.com")
            case "edit contact":
                self.sandbox.update_contact(id_, firstName=word, city="Genève")
            case "clear fields":
                self.sandbox.update_contact(id_, city=None, phone=None, tags=[], customFields=[])
            case "tag":
                self.sandbox.update_contact(id_, tags=[word])
            case "tag without bump":
                location = self.sandbox.locations[LOCATION]
                location.update_contact(round(self.clock.seconds() * 1000), id_, {"tags": [word]}, bump=False)
            case "delete contact":
                self.sandbox.delete_contact(id_)
            case "create task":
                self.sandbox.create_task(id_, title=word, completed=bump)
            case "edit task":
                self.sandbox.update_task(id_, title=word)
            case "complete task":
                self.sandbox.update_task(id_, completed=not truth[pool][id_]["completed"])
            case "delete task":
                self.sandbox.delete_task(id_)
            case "create note":
                self.sandbox.create_note(id_, body=f"<p>{word}</p>")
            case "edit note":
                self.sandbox.update_note(id_, body=f"<p>{word}</p>")
            case "delete note":
                self.sandbox.delete_note(id_)
            case "create appointment":
                self.sandbox.create_appointment(id_, title=word, startTime="2026-11-01T00:15:00-04:00")
            case "move appointment":
                self.sandbox.update_appointment(id_, startTime="2027-03-14T03:30:00-04:00", endTime=None)
            case "delete appointment":
                self.sandbox.delete_appointment(id_)
        if bump and verb != "delete" and contact_id in self.sandbox.truth()["contacts"] and "without" not in kind:
            self.sandbox.update_contact(contact_id, touch=True)
        self._remember()

    def _remember(self) -> None:
        """Keep what exists or ever existed."""
        truth = self.sandbox.truth()
        for name, ids in self.ever.items():
            ids.update(truth[name])
        for id_, one in truth["contacts"].items():
            self.words.add((id_, one.get("firstName"), one.get("lastName")))

    @rule(kind=st.sampled_from(PASSING), route=st.sampled_from(ROUTES), times=st.integers(1, 3))
    def trouble(self, kind: Any, route: str | None, times: int) -> None:
        self.sandbox.faults.next(kind, route, 1 if kind == "401" else times)

    @rule(kind=st.sampled_from(MALFORMED), route=st.sampled_from(ROUTES), times=st.integers(1, 3))
    def nonsense(self, kind: Any, route: str | None, times: int) -> None:
        self.sandbox.faults.next(kind, route, times)

    @rule(seconds=st.sampled_from([1, 30, 61, 900, 3700, 25 * 3600]))
    def time_passes(self, seconds: int) -> None:
        self.clock.passed += seconds

    # -- what the program does -----------------------------------------------------------------------

    @rule(
        what=st.sampled_from(["poll", "sweep", "walk", "visit", "backfill", "tick", "tick"]),
        kill_at=st.one_of(st.none(), st.integers(1, 60)),
        edits=st.lists(st.tuples(st.integers(1, 30), EDIT), max_size=3),
    )
    def work(self, what: str, kill_at: int | None, edits: list[tuple[int, tuple[str, int, bool]]]) -> None:
        """Something is done while others edit, and perhaps it is killed."""
        sync, config = self.program.sync, self.config
        doing: dict[str, Callable[[], Awaitable[Any]]] = {
            "poll": lambda: sync.poll("contacts"),
            "sweep": lambda: sync.full_pass("contacts", "sweep", restart=True),
            "walk": lambda: sync.full_pass("tasks", "poll"),
            "visit": sync.visit_due,
            "backfill": lambda: sync.backfill(config.streams),
            "tick": self._tick,
        }
        self.program.transport.to_come += [(at, lambda e=edit: self._edit(*e)) for at, edit in edits]
        self.program.work(doing[what], kill_at=kill_at)
        if self.program._dead:
            self.start()

    @rule()
    def restart(self) -> None:
        self.start()

    @rule(which=st.integers(0, 40))
    def refresh(self, which: int) -> None:
        """A person pulls one contact."""
        ids = sorted(self.ever["contacts"])
        if ids:
            self.program.work(lambda: self.program.sync.refresh(ids[which % len(ids)]))

    @rule(days=st.sampled_from([0, 90]))
    def purge(self, days: int) -> None:
        purge(self.store, timedelta(days=days), timedelta(days=30), self.clock.now())

    @rule(kill_at=st.integers(1, 50))
    def killed_backfill(self, kill_at: int) -> None:
        """A backfill that is killed goes on where it was: nothing that was committed is fetched again."""
        self.sandbox.faults.clear()
        self.program.work(lambda: self.program.sync.backfill(self.config.streams), kill_at=kill_at)
        if not self.program._dead:
            return
        done, cursor = self._committed()
        before, resumed_at = len(self.sandbox.calls), self.clock.now()
        self.start()
        assert self.program.work(lambda: self.program.sync.backfill(self.config.streams)) is None
        changed = {row["id"] for row in self._rows("contacts") if row["synced_at"] >= resumed_at}
        calls = list(self.sandbox.calls)[before:]
        paths = {f"/contacts/{contact_id}/{stream}" for stream, contact_id in done if contact_id not in changed}
        assert [call.path for call in calls if call.path in paths] == []
        pages = [call for call in calls if call.path in ("/contacts/", "/contacts/search")]
        if cursor is not None and cursor["phase"] == "walking" and pages:
            first, position = pages[0], cursor["cursor"]
            asked = first.query.get("startAfterId") if first.path == "/contacts/" else first.body.get("searchAfter")
            assert asked == position.get("startAfterId", position.get("after"))

    def _committed(self) -> tuple[set[tuple[str, str]], dict[str, Any] | None]:
        visits, cursors = schema.child_visits, schema.sync_cursors
        with self.store.reading() as tx:
            begun = tx.setting(f"backfill:{LOCATION}")
            if begun is None:
                return set(), None
            since = datetime.fromisoformat(begun["begun_at"])
            rows = tx.connection.execute(visits.select().where(visits.c.last_visited_at >= since)).mappings()
            done = {(row["stream"], row["contact_id"]) for row in rows if row["due_at"] > self.clock.now()}
            mine = (cursors.c.stream == "contacts") & (cursors.c.partition == "full")
            row = tx.connection.execute(cursors.select().where(mine)).mappings().first()
            return done, dict(row) if row and row["updated_at"] >= since else None

    # -- what is never so ----------------------------------------------------------------------------

    def _rows(self, name: str) -> list[dict[str, Any]]:
        with self.store.reading() as tx:
            return [dict(row) for row in tx.connection.execute(STREAMS[name].table.select()).mappings()]

    @invariant()
    def _never_wrong(self) -> None:
        """No row the source never had, no tombstone for what is alive there, no request outside the budget."""
        if self.program is None:
            return
        truth = self.sandbox.truth()
        for name in STREAMS:
            for row in self._rows(name):
                assert row["id"] in self.ever[name], f"{name} {row['id']} never existed"
                assert row["deleted_at"] is None or row["id"] not in truth[name], f"{name} {row['id']} is alive"
                if name == "contacts":
                    assert (row["id"], row["first_name"], row["last_name"]) in self.words
        assert self.sandbox.stats()["sliding_excess"] == 0


@pytest.fixture(autouse=True)
def _small_world(monkeypatch: pytest.MonkeyPatch) -> None:
    """The machine's time for the rate budget too; pages so small that a dozen contacts fill several."""
    real = time.monotonic
    monkeypatch.setattr(Clock, "running", None)
    monkeypatch.setattr(time, "monotonic", lambda: Clock.running.monotonic() if Clock.running else real())
    monkeypatch.setattr(contacts, "PAGE", 4)
    monkeypatch.setattr(tasks, "PAGE", 5)


@pytest.fixture
def sqlite_machine(tmp_path: Path) -> Callable[[], MirrorMachine]:
    """Makes machines on an empty SQLite file."""
    empty, number = tmp_path / "empty.db", itertools.count(1)
    store = SqlStore(f"sqlite:///{empty}")
    store.upgrade()
    store.close()

    def machine() -> MirrorMachine:
        used = tmp_path / f"{next(number)}.db"
        return MirrorMachine(f"sqlite:///{used}", lambda: shutil.copy(empty, used))

    return machine


@pytest.fixture
def postgres_machine(postgres_url: str) -> Iterator[Callable[[], MirrorMachine]]:
    """Makes machines on an emptied PostgreSQL database."""
    store = SqlStore(postgres_url)
    store.upgrade()

    def fresh() -> None:
        with store.transaction() as tx:
            names = ", ".join(table.name for table in schema.metadata.sorted_tables)
            tx.connection.exec_driver_sql(f"TRUNCATE {names}")

    yield lambda: MirrorMachine(postgres_url, fresh)
    store.close()


def examples(ci: int, soak: int) -> settings:
    """How long to look; what fails is told as it was met, without the hour that making it shorter takes."""
    return settings(max_examples=soak if SOAK else ci, stateful_step_count=40 if SOAK else 15, phases=LOOK)


def test_the_mirror_follows_whatever_happens(sqlite_machine: Callable[[], MirrorMachine]) -> None:
    """Edits, faults, kills and work in any order: nothing wrong is stored, and two quiet days later all is equal"""
    run_state_machine_as_test(sqlite_machine, settings=examples(60, 2000))


def test_the_mirror_follows_on_postgresql(postgres_machine: Callable[[], MirrorMachine]) -> None:
    """The same on PostgreSQL."""
    run_state_machine_as_test(postgres_machine, settings=examples(15, 300))


def test_the_machine_knows_all_transient_faults() -> None:
    """A fault kind that is added to the sandbox is met here, or named as one that is not."""
    from rankr_sync.sandbox.faults import KINDS

    assert {*PASSING, *MALFORMED, "403", "stall", "slow-body"} == set(KINDS)
    assert FaultPlan is not None
