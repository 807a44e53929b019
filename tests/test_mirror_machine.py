# ruff: noqa: D102 - the names of the rules say it
"""A mirror machine: the account is edited, requests fail, the program is killed and started again, in any order and
at any moment; afterwards the mirror equals the account. Time is the machine's own, so nothing really waits.
"""

import asyncio
import contextlib
import itertools
import json
import os
import selectors
import shutil
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import httpx
import pytest
import sqlalchemy
from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test
from sqlalchemy import event

import mirror
from mirror import EXPECTED, LOCATION, compared, configuration, connected, differences
from rankr_sync import app, schema
from rankr_sync.app import App, open_store
from rankr_sync.config import Config, Deletions, Only
from rankr_sync.daemon import Schedule
from rankr_sync.engine import LocationSync
from rankr_sync.errors import RankrSyncError, StoreUnavailable
from rankr_sync.sandbox import RateLimit, Sandbox, SandboxOptions, create_app
from rankr_sync.store import SqlStore
from rankr_sync.store.upkeep import purge
from rankr_sync.store.views import VIEWS_KEY
from rankr_sync.streams import STREAMS, contacts, tasks

LOOK = (Phase.explicit, Phase.reuse, Phase.generate)
SOAK = os.environ.get("HYPOTHESIS_PROFILE") == "soak"
pytestmark = [pytest.mark.timeout(4 * 3600 if SOAK else 600), pytest.mark.usefixtures("silent")]

ROUTES: tuple[str | None, ...] = (
    None,
    None,
    None,
    "/contacts/",
    "/contacts/search",
    "*/tasks/search",
    "/contacts/*/notes",
    "/contacts/*/appointments",
)
ROUTES = (*ROUTES, "/contacts/{contactId}", "/locations/{locationId}")
PASSING = ("500", "502-html", "503", "200-html", "429", "401", "reset", "truncated", "half-json", "stall", "slow-body")
MALFORMED = ("wrong-shape", "empty-object")
STAYING = ("401", "403", "500", "200-html", "429", "stall")
ON_THE_WAY = ("connect timeout", "read timeout", "refused", "cut", "twice", "same cursor", "back to the start")
"""What `Watched` does to a request or its answer; the other kinds are the sandbox's own."""
EDITS = (
    *("create contact", "edit contact", "clear fields", "delete contact", "tag", "tag without bump", "revive contact"),
    *("create task", "edit task", "complete task", "delete task", "revive task"),
    *("create note", "edit note", "delete note"),
    *("create appointment", "move appointment", "delete appointment"),
)
EDIT = st.tuples(st.sampled_from(EDITS), st.integers(0, 40), st.booleans())
KILL = st.one_of(
    st.tuples(st.just("request"), st.integers(1, 25)),
    st.tuples(st.just("step"), st.integers(1, 40)),
    st.tuples(st.just("step"), st.integers(1, 250)),
)
"""When the program is killed: as it sends its n-th request, or at the n-th step of its loop, whatever it awaits."""


@dataclass(frozen=True)
class Around:
    """What happens while the program works."""

    edits: list[tuple[int, tuple[str, int, bool]]]
    """When the n-th request is sent, this."""
    mended: bool
    """Whether what was broken until now works again."""
    faults: list[tuple[Any, str | None, int]]
    """How the account misbehaves: kind, route, so many times."""
    on_the_way: list[str]
    """What the network does to the next requests."""
    failing: int
    """The commit that fails; 0 for none."""
    kill: tuple[str, int] | None


SOMEWHERE, A_FEW = st.sampled_from(ROUTES), st.integers(1, 3)
FAULT = st.one_of(
    st.tuples(st.sampled_from(PASSING), SOMEWHERE, A_FEW),
    st.tuples(st.sampled_from(PASSING), st.none(), st.just(1)),
    st.tuples(st.sampled_from(MALFORMED), SOMEWHERE, A_FEW),
    st.tuples(st.sampled_from(STAYING), SOMEWHERE, st.just(1000)),
)
AROUND = st.builds(
    Around,
    edits=st.lists(st.tuples(st.integers(1, 15), EDIT), max_size=3),
    mended=st.booleans(),
    faults=st.lists(FAULT, max_size=2),
    on_the_way=st.lists(st.sampled_from(ON_THE_WAY), max_size=3),
    failing=st.one_of(st.just(0), st.just(0), st.integers(1, 12)),
    kill=st.one_of(st.none(), KILL),
)


class Clock:
    """One time for the account, the program and the event loop."""

    def __init__(self, epoch: float = 1_780_000_000.0) -> None:
        self.epoch = epoch
        self.passed = 0.0
        self.wrong = 0.0
        """Seconds by which the program's clock is ahead of the account's."""

    def seconds(self) -> float:
        """Epoch seconds, for the account."""
        return self.epoch + self.passed

    def now(self) -> datetime:
        """The same moment, for the program."""
        return datetime.fromtimestamp(self.seconds() + self.wrong, UTC)

    def monotonic(self) -> float:
        """The same, for event loop and pacer."""
        return 1_000_000.0 + self.passed


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop that never waits: when all that is left is waiting for a timer, the clock moves on.

    There are no threads either: what would be called in one is called here, a turn later, and its result is known
    another turn later. So the same choices always lead to the same steps, and any step can be the last.
    """

    def __init__(self, clock: Clock) -> None:
        self.steps = 0
        self.last: tuple[int, Callable[[], None]] | None = None
        """The step at which something happens, and what."""
        self._virtual = clock
        super().__init__(_Selector(self, clock))

    def time(self) -> float:
        """Timers go by the clock, too."""
        return self._virtual.monotonic()

    def run_in_executor(self, executor: Any, func: Any, *args: Any) -> Any:
        """Call it in this thread, after others had their turn."""
        future = self.create_future()
        self.call_soon(self._call, future, func, *args)
        return future

    def _call(self, future: "asyncio.Future[Any]", func: Any, *args: Any) -> None:
        if future.cancelled():
            return
        try:
            result = func(*args)
        except Exception as error:
            self.call_soon(_unless_done, future, future.set_exception, error)
        else:
            self.call_soon(_unless_done, future, future.set_result, result)

    def step(self) -> None:
        """Another round of the loop begins."""
        self.steps += 1
        if self.last is not None and self.steps >= self.last[0]:
            what, self.last = self.last[1], None
            self.call_soon(what)


def _unless_done(future: "asyncio.Future[Any]", settle: Callable[[Any], None], value: Any) -> None:
    if not future.done():
        settle(value)


class _Selector(selectors.DefaultSelector):
    def __init__(self, loop: VirtualLoop, clock: Clock) -> None:
        super().__init__()
        self._loop, self._virtual = loop, clock

    def select(self, timeout: float | None = None) -> Any:
        self._loop.step()
        if timeout is None:
            return super().select(timeout)
        found = super().select(0)
        if not found and timeout > 0:
            self._virtual.passed += timeout
        return found


class Watched(httpx.AsyncBaseTransport):
    """The network: it counts requests, lets things happen when the next few have been sent, and has its own faults."""

    def __init__(self, sandbox: Sandbox) -> None:
        self._inner = httpx.ASGITransport(create_app(sandbox))
        self.to_come: list[tuple[int, Callable[[], None]]] = []
        self.trouble: list[str] = []
        self.met: Counter[str] = Counter()
        self.dead = False
        self._first: dict[str, Any] = {}

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Answer, after what was to happen by now."""
        await asyncio.sleep(0)  # as in a network, others get their turn
        self.to_come = [(left - 1, what) for left, what in self.to_come]
        for entry in [entry for entry in self.to_come if entry[0] <= 0]:
            self.to_come.remove(entry)
            entry[1]()
        if self.dead:
            raise httpx.ConnectError("the dead send nothing")
        kind = self.trouble.pop(0) if self.trouble else None
        self.met.update([kind] if kind else [])
        match kind:
            case "connect timeout":
                await asyncio.sleep(10)
                raise httpx.ConnectTimeout("")
            case "refused":
                raise httpx.ConnectError("")
        response = await self._inner.handle_async_request(request)
        match kind:
            case "read timeout":
                await asyncio.sleep(30)
                raise httpx.ReadTimeout("")
            case "cut":
                raise httpx.RemoteProtocolError("")
            case "twice" | "same cursor" | "back to the start":
                content = await response.aread()
                with contextlib.suppress(ValueError):  # it may be broken already
                    return self._rewritten(kind, request, response, json.loads(content))
        return response

    def _rewritten(self, kind: str, request: httpx.Request, response: httpx.Response, payload: Any) -> httpx.Response:
        """An answer that shows records twice, or whose cursor stands still or goes backwards."""
        asked = json.loads(request.content) if request.content else {}
        if kind == "twice":
            for name in ("contacts", "notes", "events", "tasks"):
                if isinstance(payload.get(name), list):
                    payload[name] = [*payload[name], *payload[name][:2]]
        elif isinstance(payload.get("meta"), dict):
            here = {
                name: request.url.params[name] for name in ("startAfter", "startAfterId") if name in request.url.params
            }
            if kind == "same cursor" and here:
                payload["meta"] |= here
            else:
                payload["meta"] |= self._first.setdefault("list", {k: payload["meta"].get(k) for k in here})
        else:
            for item in payload.get("contacts", []):
                first = self._first.setdefault("search", item.get("searchAfter"))
                item["searchAfter"] = asked.get("searchAfter", first) if kind == "same cursor" else first
        kept = {k: v for k, v in response.headers.items() if k not in ("content-length", "content-type")}
        return httpx.Response(response.status_code, json=payload, headers=kept)


class Program:
    """The program over an account, which can be killed: from then on, nothing it still does reaches the store."""

    def __init__(self, sandbox: Sandbox, config: Config, clock: Clock) -> None:
        self.clock, self.config, self.sandbox = clock, config, sandbox
        self.runner = asyncio.Runner(loop_factory=lambda: VirtualLoop(clock))
        self.transport = Watched(sandbox)
        self._stack = contextlib.AsyncExitStack()
        self.dead = False
        self.commits_left = 0
        """The commit that fails: the n-th from now; 0 for none."""
        self.failed_commits = 0
        self.app: App = self.runner.run(self._start())
        self.sync: LocationSync = self.app.locations[LOCATION]
        self.schedule = Schedule(self.app, self.sync)

    async def _start(self) -> App:
        asyncio.get_running_loop().set_exception_handler(self._note)
        options = {"now": self.clock.now, "clock": self.clock.monotonic, "transport": self.transport}
        app = await self._stack.enter_async_context(connected(self.sandbox, self.config, **options))
        for sync in app.locations.values():
            sync.context.settings = replace(sync.context.settings, batch=4)
        event.listen(app.store.engine, "commit", self._may_commit)
        self._stack.callback(event.remove, app.store.engine, "commit", self._may_commit)
        return app

    def _note(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        if not self.dead:  # the dead leave things undone
            loop.default_exception_handler(context)

    def _may_commit(self, _connection: Any) -> None:
        if self.dead:
            raise StoreUnavailable("killed")
        if self.commits_left == 1:
            self.commits_left, self.failed_commits = 0, self.failed_commits + 1
            raise sqlalchemy.exc.OperationalError("COMMIT", {}, OSError("no space left, or the server is gone"))
        self.commits_left -= self.commits_left > 0

    def work(self, what: Callable[[], Awaitable[Any]], *, kill: tuple[str, int] | None = None) -> Exception | None:
        """Do it with the lease held, perhaps killed on the way. Returns how it failed, if so."""
        loop = self.runner.get_loop()
        assert isinstance(loop, VirtualLoop)

        async def main() -> None:
            task = asyncio.ensure_future(self._leased(what))
            if kill is not None and kill[0] == "request":
                self.transport.to_come.append((kill[1], lambda: self._kill(task)))
            elif kill is not None:
                loop.last = (loop.steps + kill[1], lambda: self._kill(task))
            await task

        try:
            self.runner.run(main())
        except asyncio.CancelledError as error:
            return StoreUnavailable(f"killed {error}")
        except RankrSyncError as error:
            return error
        finally:
            self.transport.to_come.clear()
            loop.last, self.commits_left = None, 0
        return None

    async def _leased(self, what: Callable[[], Awaitable[Any]]) -> None:
        async with self.app.leases[LOCATION].held():
            if not self.sync.context.rules:
                await self.sync.learn()
            await what()

    def _kill(self, task: "asyncio.Task[None]") -> None:
        self.dead = self.transport.dead = True
        task.cancel()

    def end(self) -> None:
        """End, well or not."""
        self.runner.run(self._stack.aclose())
        self.runner.close()


class MirrorMachine(RuleBasedStateMachine):
    """An account and its mirror."""

    counts: ClassVar[Counter[str]] = Counter()
    """What was done in all examples together."""
    only: ClassVar[Only] = Only()
    """The part of the account that is mirrored."""

    def __init__(self, store: SqlStore, fresh: Callable[[], Any]) -> None:
        super().__init__()
        store.close()
        fresh()
        self.store, self.url = store, store.url
        self.program: Program = None  # type: ignore[assignment]
        self.counter = itertools.count(1)
        self.ever: dict[str, dict[str, list[Any]]] = {name: {} for name in STREAMS}
        """Every version that a record of the account ever had."""
        self.latest: dict[str, dict[str, Any]] = {name: {} for name in STREAMS}
        self.back: set[str] = set()
        """Records that were deleted and came back, until the mirror shows them again."""
        self.outside: set[str] = set()
        """Contacts that were not of the part that is mirrored, at some time."""

    # -- beginning and end ---------------------------------------------------------------------------

    @initialize(
        people=st.sampled_from([9, 7, 5, 8, 0, 2]),
        lag=st.sampled_from([0.0, 5.0]),
        latency=st.sampled_from([0.0, 70.0]),
        limit=st.sampled_from([None, RateLimit(30, 3.0)]),
        window=st.sampled_from(["sliding", "fixed"]),
        default=st.sampled_from(["all", "open"]),
        missing=st.sampled_from([400, 404]),
        listing=st.sampled_from(["auto", "auto", "search"]),
    )
    def begin(
        self, people: int, lag: float, latency: float, limit: Any, window: Any, default: Any, missing: Any, listing: str
    ) -> None:
        self.clock = Clock()
        self.sandbox = Sandbox(
            SandboxOptions(
                contacts=people,
                rate_limit=limit,
                rate_window=window,
                latency_ms=latency,
                index_lag=lag,
                stall_seconds=90.0,
                tasks_search_default=default,
                not_found_status=missing,
            ),
            now=self.clock.seconds,
        )
        self.sandbox.faults.connection_error = httpx.ReadError
        api = {"listing": listing, "rate_limit": "30/3s" if limit else "none", "concurrency": 4}
        self.config = configuration(self.url, api=api, deletions=Deletions(brake=100), only=self.only)
        self._remember()
        self.counts["examples"] += 1
        self.start()

    def start(self) -> None:
        """Start the program anew."""
        self._end()
        self.program = Program(self.sandbox, self.config, self.clock)
        self.counts["starts"] += 1

    def _end(self) -> None:
        if self.program is None:
            return
        self.counts["kills"] += self.program.dead
        self.counts["failed commits"] += self.program.failed_commits
        self.counts["faults"] += self.program.transport.met.total()
        self.counts.update({f"fault: {kind}": n for kind, n in self.program.transport.met.items()})
        program, self.program = self.program, None  # type: ignore[assignment]
        program.end()

    def teardown(self) -> None:
        if self.program is None:
            return
        try:
            self._catch_up()
        finally:
            self._end()
            self.counts["requests"] += self.sandbox.stats()["requests"]
            self.counts["faults"] += self.sandbox.faults.counts.total()
            self.counts.update({f"fault: {kind}": n for kind, n in self.sandbox.faults.counts.items()})

    def _catch_up(self) -> None:
        """Two days without trouble: what the daemon does, and then nothing may be different."""
        self.sandbox.faults.clear()
        self.clock.wrong = 0.0
        self.start()
        for _day in range(2):
            self.clock.passed += 25 * 3600
            for _round in range(3):
                assert self.program.work(self._tick) is None
                self.clock.passed += 120
        different = self._different()
        assert not different, different
        self.counts["rows compared"] += compared(self.sandbox)
        self._never_wrong()

    async def _tick(self) -> None:
        schedule = self.program.schedule
        await schedule.owner()
        await schedule.sweep()
        await schedule.walk("tasks")
        await schedule.visits()

    # -- what happens in the account -----------------------------------------------------------------

    @rule(edits=st.lists(EDIT, min_size=1, max_size=6))
    def edits(self, edits: list[tuple[str, int, bool]]) -> None:
        for edit in edits:
            self._edit(*edit)

    def _edit(self, kind: str, which: int, bump: bool) -> None:
        truth, number = self.sandbox.truth(), next(self.counter)
        verb, _, entity = kind.partition(" ")
        if verb == "revive":
            self._revive(f"{entity}s", which, f"Word{number}")
            return
        pool = "contacts" if verb in ("create", "tag", "clear") else f"{entity}s"
        ids = sorted(truth[pool])
        self.counts["edits"] += 1
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

    def _revive(self, name: str, which: int, word: str) -> None:
        """What was deleted is there again, under the same id."""
        truth, location = self.sandbox.truth(), self.sandbox.locations[LOCATION]
        at_ms = round(self.clock.seconds() * 1000)
        ids, living = sorted(self.ever[name].keys() - truth[name].keys()), sorted(truth["contacts"])
        if not ids or not living:
            return
        id_ = ids[which % len(ids)]
        self.back.add(id_)
        if name == "contacts":
            location.create_contact(at_ms, {"firstName": word, "lastName": "Back"}, contact_id=id_)
        else:
            location.create_task(at_ms, living[which % len(living)], {"title": word}, task_id=id_)
        self._remember()

    def _remember(self) -> None:
        """Keep what exists or ever existed."""
        for name, records in self.sandbox.truth().items():
            latest, ever = self.latest[name], self.ever[name]
            for id_, record in records.items():
                if latest.get(id_) is not record:
                    latest[id_] = record
                    ever.setdefault(id_, []).append(EXPECTED[name](record))

    @rule(
        passes=st.sampled_from([1, 30, 61, 900, 3700, 25 * 3600]),
        ahead=st.sampled_from([None, None, 0, -26, -2, 2, 20]),
    )
    def time(self, passes: int, ahead: int | None) -> None:
        """Time passes, and the program's clock may be set, right or wrong."""
        self.clock.passed += passes
        if ahead is not None:
            self.clock.wrong = ahead * 3600.0

    # -- what the program does -----------------------------------------------------------------------

    @rule(around=AROUND)
    def tick(self, around: Around) -> None:
        """The daemon's bell rings."""
        self._work(self._tick, around)

    @rule(what=st.sampled_from(["poll", "sweep", "walk", "visit", "backfill"]), around=AROUND)
    def work(self, what: str, around: Around) -> None:
        """One kind of work is done, due or not."""
        doing: dict[str, Callable[[], Awaitable[Any]]] = {
            "poll": lambda: self.program.sync.poll("contacts"),
            "sweep": lambda: self.program.sync.full_pass("contacts", "sweep", restart=True),
            "walk": lambda: self.program.sync.full_pass("tasks", "poll"),
            "visit": self.program.sync.visit_due,
            "backfill": lambda: self.program.sync.backfill(self.config.streams),
        }
        self._work(doing[what], around)

    def _work(self, what: Callable[[], Awaitable[Any]], around: Around) -> None:
        if around.mended:
            self._mend()
        for fault in around.faults:
            self.sandbox.faults.next(*fault)
        self.program.transport.trouble += around.on_the_way
        self.program.transport.to_come += [(at, partial(self._edit, *edit)) for at, edit in around.edits]
        self.program.commits_left = around.failing
        self.program.work(what, kill=around.kill)
        if self.program.dead:
            self.start()

    def _mend(self) -> None:
        self.sandbox.faults.clear()
        self.program.transport.trouble.clear()

    @rule(what=st.sampled_from(["refresh", "purge", "restart"]), which=st.integers(0, 40))
    def person(self, what: str, which: int) -> None:
        """A person pulls one contact, purges, or restarts."""
        match what:
            case "refresh" if ids := sorted(self.ever["contacts"]):
                self.program.work(lambda: self.program.sync.refresh(ids[which % len(ids)]))
            case "purge":
                days = timedelta(days=90 if which % 2 else 0)
                purge(self.store, days, timedelta(days=30), self.clock.now())
            case "restart":
                self.start()

    @rule(kill=KILL)
    def killed_backfill(self, kill: tuple[str, int]) -> None:
        """A backfill that is killed goes on where it was: nothing that was committed is fetched again."""
        self._mend()
        with self.store.reading() as tx:
            begins = tx.setting(f"backfill:{LOCATION}") is None
        self.program.work(lambda: self.program.sync.backfill(self.config.streams), kill=kill)
        if not self.program.dead:
            return
        done, cursors = self._committed()
        before, resumed_at = len(self.sandbox.calls), self.clock.now()
        self.start()
        assert self.program.work(lambda: self.program.sync.backfill(self.config.streams)) is None
        changed = {row["id"] for row in self._rows("contacts") if row["synced_at"] >= resumed_at}
        calls = list(self.sandbox.calls)[before:]
        paths = {f"/contacts/{contact_id}/{stream}" for stream, contact_id in done if contact_id not in changed}
        assert [call.path for call in calls if call.path in paths] == []
        self.counts["visits not repeated"] += len(paths)
        listed = [call for call in calls if call.path in ("/contacts/", "/contacts/search")]
        searched = [call for call in calls if call.path.endswith("/tasks/search")]
        self._goes_on("contacts", cursors.get("contacts"), listed)
        self._goes_on("tasks", cursors.get("tasks"), searched)
        if begins and not self.sandbox.options.index_lag and not self.clock.wrong:
            different = self._different()
            assert not different, different
            self.counts["rows compared"] += compared(self.sandbox)

    def _different(self) -> list[str]:
        """What the mirror holds other than it should."""
        return differences(self.sandbox, self.url)

    def _goes_on(self, name: str, cursor: dict[str, Any] | None, calls: list[Any]) -> None:
        """The first page that is asked for is the one behind the last that was committed; a whole walk asks none."""
        if cursor is None:
            return
        if cursor["phase"] == "complete":
            assert calls == [], f"{name} were walked to the end, and are walked again"
            return
        assert calls
        first, position = calls[0], cursor["cursor"]
        self.counts["walks resumed"] += 1
        if name == "tasks":
            assert (first.body["completed"], first.body["skip"]) == (position["completed"], position["skip"])
        else:
            asked = first.query.get("startAfterId") if first.path == "/contacts/" else first.body.get("searchAfter")
            assert asked == position.get("startAfterId", position.get("after"))

    def _committed(self) -> tuple[set[tuple[str, str]], dict[str, Any]]:
        """Of the backfill that was cut off: visits that are done, and where its walks stand, by stream."""
        visits, cursors = schema.child_visits, schema.sync_cursors
        with self.store.reading() as tx:
            begun = tx.setting(f"backfill:{LOCATION}")
            if begun is None:
                return set(), {}
            since = datetime.fromisoformat(begun["begun_at"])
            rows = tx.connection.execute(visits.select().where(visits.c.last_visited_at >= since)).mappings()
            done = {(row["stream"], row["contact_id"]) for row in rows if row["due_at"] > self.clock.now()}
            full = tx.connection.execute(cursors.select().where(cursors.c.partition == "full")).mappings()
            return done, {row["stream"]: dict(row) for row in full if row["updated_at"] >= since}

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
                id_, versions = row["id"], self.ever[name].get(row["id"], [])
                assert any(all(row[k] == v for k, v in one.items()) for one in reversed(versions)), (
                    f"{name} {id_} was never so: {row}"
                )
                if row["deleted_at"] is None:
                    self.back.discard(id_)
                may_be_gone = id_ not in truth[name] or id_ in self.back or row.get("contact_id", id_) in self.outside
                assert row["deleted_at"] is None or may_be_gone, f"{name} {id_} is alive"
                self.counts["rows looked at"] += 1
        stats = self.sandbox.stats()
        assert stats["sliding_excess"] == stats["fixed_excess"] == 0
        assert stats["throttled"] == self.sandbox.faults.counts["429"]


class PartMachine(MirrorMachine):
    """The same of a part of the account, which contacts enter and leave. It is changed while the program rests."""

    only = Only(tags=("VIP",))

    def _edit(self, kind: str, which: int, bump: bool) -> None:
        super()._edit(kind, which, bump)
        ids = sorted(self.sandbox.truth()["contacts"])
        if ids and kind in ("edit contact", "tag", "create contact"):
            self.sandbox.update_contact(ids[which % len(ids)], tags=["vip", "x"] if which % 3 else ["viper"])
            self._remember()

    def _remember(self) -> None:
        if not self.latest["contacts"]:  # most begin inside
            for id_ in sorted(self.sandbox.truth()["contacts"])[1::2]:
                self.sandbox.update_contact(id_, tags=["vip"])
        super()._remember()
        self.outside |= {id_ for id_, one in self.sandbox.truth()["contacts"].items() if "vip" not in one["tags"]}

    @rule(tags=st.sampled_from([("vip",), ("vip", "viper"), ()]))
    def another_part(self, tags: tuple[str, ...]) -> None:
        """A person changes what is mirrored, and starts the program again."""
        self.config = self.config.model_copy(update={"only": Only(tags=tags)})
        self.start()

    def _different(self) -> list[str]:
        wanted, truth = {tag.lower() for tag in self.config.only.tags}, self.sandbox.truth()
        strangers = {id_ for id_, one in truth["contacts"].items() if wanted and not wanted & set(one["tags"])}
        missing = {
            f"{name} {id_} is missing"
            for name, records in truth.items()
            for id_, one in records.items()
            if one.get("contactId", id_) in strangers
        }
        found = set(super()._different())
        assert missing <= found, "strangers are mirrored"
        return sorted(found - missing)

    def _goes_on(self, name: str, cursor: dict[str, Any] | None, calls: list[Any]) -> None:
        if name != "tasks":  # which are visited
            super()._goes_on(name, cursor, calls)


@pytest.fixture(autouse=True)
def _small_world(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pages so small that a handful of contacts fill several."""
    monkeypatch.setattr(contacts, "PAGE", 3)
    monkeypatch.setattr(tasks, "PAGE", 4)


@pytest.fixture
def sqlite_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], MirrorMachine]]:
    """Makes machines on an SQLite file that is as new each time."""
    empty, used = tmp_path / "empty.db", tmp_path / "used.db"
    open_store(configuration(f"sqlite:///{empty}")).close()

    def fresh() -> None:
        for file in tmp_path.glob("used.db*"):
            file.unlink()
        shutil.copy(empty, used)

    with _kept(f"sqlite:///{used}", monkeypatch) as store:
        yield lambda: MirrorMachine(store, fresh)


@pytest.fixture
def postgres_machine(postgres_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], MirrorMachine]]:
    """Makes machines on a PostgreSQL database that is emptied each time."""
    first = open_store(configuration(postgres_url))
    with first.transaction() as tx:
        tx.connection.exec_driver_sql(f'ALTER DATABASE "{first.engine.url.database}" SET synchronous_commit = off')
    first.close()

    def fresh() -> None:
        with store.transaction() as tx:
            for table in schema.metadata.sorted_tables:
                gone = table.c.key != VIEWS_KEY if table is schema.sync_settings else sqlalchemy.true()
                tx.connection.execute(table.delete().where(gone))

    with _kept(postgres_url, monkeypatch) as store:
        yield lambda: MirrorMachine(store, fresh)


@contextlib.contextmanager
def _kept(url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[SqlStore]:
    """A store for those who look, and another for all programs, kept from one example to the next.

    All that they remember is how their statements are compiled, which else would be half of the time.
    """
    looking, working = SqlStore(url), SqlStore(url)
    monkeypatch.setattr(mirror, "SqlStore", lambda _url: looking)
    monkeypatch.setattr(app, "SqlStore", lambda _url: working)
    yield looking
    looking.close()
    working.close()


def examples(ci: int, soak: int) -> settings:
    """How long to look; what fails is told as it was met, without the hour that making it shorter takes."""
    return settings(
        max_examples=soak if SOAK else ci,
        stateful_step_count=40 if SOAK else 10,
        phases=LOOK,
        report_multiple_bugs=False,
    )


@pytest.fixture(autouse=True)
def _told(counted: Callable[[str, int], None]) -> Iterator[None]:
    """Hand the counts on to the summary of the session."""
    MirrorMachine.counts = Counter()
    yield
    for name, count in sorted(MirrorMachine.counts.items()):
        counted(name, count)


def test_the_mirror_follows_whatever_happens(sqlite_machine: Callable[[], MirrorMachine]) -> None:
    """Edits, faults, kills and work in any order: nothing wrong is stored, and two quiet days later all is equal"""
    run_state_machine_as_test(sqlite_machine, settings=examples(35, 2000))


def test_the_mirror_follows_on_postgresql(postgres_machine: Callable[[], MirrorMachine]) -> None:
    """The same on PostgreSQL."""
    run_state_machine_as_test(postgres_machine, settings=examples(10, 300))


def test_a_part_follows_whatever_happens(
    sqlite_machine: Callable[[], MirrorMachine], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing of strangers is left, nothing of members is missing, whoever comes and goes and whatever is changed."""
    monkeypatch.setitem(globals(), "MirrorMachine", PartMachine)
    run_state_machine_as_test(sqlite_machine, settings=examples(8, 1000))


def test_the_machine_knows_all_faults() -> None:
    """A fault kind that is added to the sandbox is met here too."""
    from rankr_sync.sandbox.faults import KINDS

    assert {*PASSING, *MALFORMED, *STAYING} == set(KINDS)
