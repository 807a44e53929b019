"""Trouble of every kind, one at a time: what it leaves in the mirror, and what the operator sees of it."""

import asyncio
import contextlib
import socket
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
import structlog.testing

from mirror import LOCATION, account, backfill, calls, configuration, connected, differences, poll, query, rows, run
from rankr_sync.app import App, build
from rankr_sync.config import Location
from rankr_sync.daemon import Schedule, jobs
from rankr_sync.engine import LocationSync
from rankr_sync.errors import AskOwner, LeaseLost, StoreUnavailable, TryLater
from rankr_sync.highlevel import Pacer
from rankr_sync.pacing import RateBudget, RateHeaders, is_due
from rankr_sync.pacing import RateLimit as Limit
from rankr_sync.sandbox import RateLimit, Sandbox, SandboxOptions, create_app, running
from rankr_sync.streams import contacts, tasks

PASSING = ("500", "502-html", "503", "200-html", "429", "401", "reset", "truncated", "half-json")
MALFORMED = ("wrong-shape", "empty-object")
SECOND = "SandboxLocation00002"


@pytest.fixture(autouse=True)
def _small_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    """Thirty contacts fill several pages."""
    monkeypatch.setattr(contacts, "PAGE", 10)


@pytest.fixture(autouse=True)
def said() -> Iterator[list[Any]]:
    """The events of the log."""
    with structlog.testing.capture_logs() as events:
        yield events


def small(contacts: int = 30, **options: Any) -> Sandbox:
    """An account whose broken connections look like httpx's."""
    sandbox = account(contacts, **options)
    sandbox.faults.connection_error = httpx.ReadError
    return sandbox


def impatient(database_url: str, **changes: Any) -> Any:
    """A configuration that gives up soon."""
    return configuration(database_url, api={"attempts": 2, "retry_for": 1, **changes.pop("api", {})}, **changes)


def errors_of_runs(database_url: str) -> list[str]:
    """What `sync_runs` tells of runs that failed."""
    return [row["error"] for row in query(database_url, "SELECT error FROM sync_runs WHERE status = 'failed'")]


def patiently(sandbox: Sandbox, config: Any, work: Callable[[LocationSync], Any]) -> None:
    """Work with a source that waits between its attempts without losing time."""

    async def hurried(sync: LocationSync) -> None:
        sync.context.source._sleep = _no_sleep
        await work(sync)

    run(sandbox, config, hurried)


async def _no_sleep(_seconds: float) -> None:
    await asyncio.sleep(0)


async def _poll(sync: LocationSync) -> None:
    await sync.poll("contacts")
    await sync.full_pass("tasks", "poll")
    await sync.visit_due()


@pytest.mark.parametrize("kind", PASSING)
def test_a_passing_fault_costs_only_a_retry(database_url: str, kind: Any) -> None:
    """One bad answer on each route, during a backfill and during a poll: both succeed, all is equal, no tombstone."""
    sandbox, config = small(), configuration(database_url)
    routes = ("/contacts/", "*/tasks/search", "/contacts/*/notes", "/contacts/*/appointments")
    for route in routes:
        sandbox.faults.next(kind, route)
    patiently(sandbox, config, lambda sync: sync.backfill(config.streams))
    assert differences(sandbox, database_url) == []
    contact_id = sorted(sandbox.truth()["contacts"])[4]
    sandbox.update_contact(contact_id, city="Bern")
    for route in ("/contacts/search", *routes[1:]):
        sandbox.faults.next(kind, route)
    patiently(sandbox, config, _poll)
    assert differences(sandbox, database_url) == []
    assert sandbox.stats()["faults"][kind] >= 7
    assert [rows(database_url, stream, deleted=True) for stream in config.streams] == [{}, {}, {}, {}]
    assert errors_of_runs(database_url) == []


@pytest.mark.parametrize("kind", MALFORMED)
@pytest.mark.parametrize("route", ["/contacts/", "*/tasks/search", "/contacts/*/notes", "/contacts/{contactId}"])
def test_an_answer_of_the_wrong_shape_is_never_an_empty_list(sqlite_url: str, kind: Any, route: str) -> None:
    """Well-formed JSON that is not what was asked for: the run fails or goes on, and nothing is tombstoned."""
    sandbox, config = small(), configuration(sqlite_url)
    backfill(sandbox, config)
    sandbox.faults.next(kind, route, times=8)

    async def everything(sync: LocationSync) -> None:
        await sync.full_pass("contacts", "sweep", restart=True)
        await sync.full_pass("tasks", "poll")
        await sync.begin_visits("notes")
        await sync.visit_due()

    for _time in range(8):
        try:
            run(sandbox, config, everything)
        except TryLater as error:
            assert "has no list" in str(error)  # noqa: PT017 - it may also go well
    sandbox.faults.clear()
    run(sandbox, config, everything, now=lambda: datetime.now(UTC) + timedelta(hours=2))
    assert [rows(sqlite_url, stream, deleted=True) for stream in config.streams] == [{}, {}, {}, {}]
    assert differences(sandbox, sqlite_url) == []


@pytest.mark.parametrize("kind", MALFORMED)
def test_a_broken_answer_about_the_location_keeps_its_time_zone(sqlite_url: str, kind: Any) -> None:
    """What is known of the location stays when its answer is empty: appointment times do not move to UTC."""
    sandbox, config = small(), configuration(sqlite_url)
    backfill(sandbox, config)
    sandbox.faults.next(kind, "/locations/{locationId}")

    async def learn_and_look(sync: LocationSync) -> None:
        await sync.begin_visits("appointments")
        await sync.visit_due()

    try:
        run(sandbox, config, learn_and_look)
    except TryLater:
        run(sandbox, config, learn_and_look)
    assert query(sqlite_url, "SELECT timezone FROM locations") == [{"timezone": "America/New_York"}]
    assert differences(sandbox, sqlite_url) == []


def test_silence_and_broken_connections_cost_a_retry(sqlite_url: str, said: list[Any]) -> None:
    """Over real connections: no answer, a body that trickles, a cut one: each is asked again, and all is equal."""
    options = SandboxOptions(contacts=12, rate_limit=RateLimit(1_000_000, 1.0), stall_seconds=20, slow_body_seconds=8)
    faults = ("stall", "slow-body", "truncated", "reset")
    with running(options) as (base_url, sandbox):
        for kind, route in zip(faults, ("/contacts/", "*/tasks/search", "*/notes", "*/appointments"), strict=True):
            sandbox.faults.next(kind, route)
        timeouts = {"connect_timeout": "1s", "read_timeout": "0.5s", "total_timeout": "1s"}
        config = configuration(sqlite_url, api={"base_url": base_url, **timeouts})

        async def main() -> None:
            async with build(config) as app:
                app.sources[LOCATION]._sleep = _no_sleep
                await app.locations[LOCATION].learn()
                await app.locations[LOCATION].backfill(config.streams)

        asyncio.run(main())
        assert differences(sandbox, sqlite_url) == []
        assert set(sandbox.stats()["faults"]) == set(faults)
    retried = [event for event in said if event["event"] == "request.retried"]
    assert [event["error"] for event in retried] == ["Unreachable"] * 4
    assert errors_of_runs(sqlite_url) == []


def test_a_host_that_takes_no_connection_is_told_in_words(sqlite_url: str) -> None:
    """A connection that nobody takes up ends after `api.connect_timeout`, in words; the next command copies all."""
    sandbox = small()
    with socket.socket() as deaf, contextlib.ExitStack() as crowd:
        deaf.bind(("127.0.0.1", 0))
        deaf.listen(0)
        for _place in range(4):
            caller = crowd.enter_context(socket.socket())
            caller.setblocking(False)
            caller.connect_ex(deaf.getsockname())
        url = f"http://127.0.0.1:{deaf.getsockname()[1]}"
        config = impatient(sqlite_url, api={"base_url": url, "connect_timeout": "0.3s"})

        async def main() -> None:
            async with build(config) as app:
                app.sources[LOCATION]._sleep = _no_sleep
                began = time.monotonic()
                with pytest.raises(TryLater, match=r"127.0.0.1 did not answer in time"):
                    await app.locations[LOCATION].learn()
                assert time.monotonic() - began < 5

        asyncio.run(main())
    backfill(sandbox, configuration(sqlite_url))
    assert differences(sandbox, sqlite_url) == []


@pytest.mark.parametrize("kind", ["500", "502-html", "200-html", "reset", "half-json"])
def test_a_fault_that_stays_fails_the_run_with_words(sqlite_url: str, kind: Any) -> None:
    """After the last attempt the run is `failed` with a sentence, and the next command goes on and ends equal."""
    sandbox, config = small(), impatient(sqlite_url)
    sandbox.faults.next(kind, "/contacts/", times=2)
    with pytest.raises(TryLater):
        patiently(sandbox, config, lambda sync: sync.backfill(config.streams))
    (error,) = errors_of_runs(sqlite_url)
    assert len(error) > 15
    patiently(sandbox, config, lambda sync: sync.backfill(config.streams))
    assert differences(sandbox, sqlite_url) == []


# -- lists that do not end ---------------------------------------------------------------------------


class Rewritten(httpx.AsyncBaseTransport):
    """An account whose answers a test changes on their way."""

    def __init__(self, sandbox: Sandbox, change: Callable[[httpx.Request, dict[str, Any]], Any]) -> None:
        self._inner = httpx.ASGITransport(create_app(sandbox))
        self._change = change

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """The answer, changed."""
        import json

        response = await self._inner.handle_async_request(request)
        payload = json.loads(await response.aread())
        changed = self._change(request, payload)
        return httpx.Response(response.status_code, json=payload if changed is None else changed)


@pytest.mark.parametrize("listing", ["list", "search"])
def test_a_cursor_that_stands_still_ends_the_walk_with_words(sqlite_url: str, listing: str) -> None:
    """A list that offers the same cursor for ever is left after one more page, as broken off: nobody is removed."""
    sandbox, config = small(), configuration(sqlite_url, api={"listing": listing})
    backfill(sandbox, config)
    gone = sorted(sandbox.truth()["contacts"])[0]
    sandbox.delete_contact(gone)

    def change(request: httpx.Request, payload: dict[str, Any]) -> None:
        if request.url.path == "/contacts/":
            payload["meta"] = {**payload.get("meta", {}), "startAfter": 1_780_000_000_000, "startAfterId": "A" * 20}
        for item in payload.get("contacts", []):
            item["searchAfter"] = [1, "same"]

    before = sandbox.stats()["requests"]
    with pytest.raises(TryLater, match="broke off"):
        run(
            sandbox,
            config,
            lambda sync: sync.full_pass("contacts", "sweep", restart=True),
            transport=Rewritten(sandbox, change),
        )
    assert sandbox.stats()["requests"] - before < 10
    assert rows(sqlite_url, "contacts", deleted=True) == {}
    assert any("broke off" in error for error in errors_of_runs(sqlite_url))


class Circle:
    """Lets the third page of a listing lead back to the second, for ever."""

    def __init__(self) -> None:
        self.pages: list[dict[str, Any]] = []

    def __call__(self, request: httpx.Request, payload: dict[str, Any]) -> None:
        """Take the cursor of the first page, which leads to the second, for those after it."""
        items = payload.get("contacts")
        if request.url.path not in ("/contacts/", "/contacts/search") or not items:
            return
        self.pages.append(payload)
        if len(self.pages) >= 3:
            payload["meta"] = self.pages[0].get("meta", {})
            for item in items:
                item["searchAfter"] = self.pages[0]["contacts"][-1].get("searchAfter")


LED_BACK = "broke off: the API led back to a page that was read"


@pytest.mark.parametrize("listing", ["list", "search"])
def test_a_cursor_that_leads_back_ends_the_first_copy_and_the_next_one_is_whole(
    database_url: str, listing: str
) -> None:
    """A listing in circles fails the backfill in words after few requests; the same command then copies all."""
    sandbox, config = small(50), configuration(database_url, api={"listing": listing}, streams=("contacts",))
    with pytest.raises(TryLater, match=LED_BACK):
        backfill(sandbox, config, transport=Rewritten(sandbox, Circle()))
    assert sandbox.stats()["requests"] < 10
    assert len(rows(database_url, "contacts")) == 30
    backfill(sandbox, config)
    assert [line for line in differences(sandbox, database_url) if line.startswith("contacts")] == []
    assert LED_BACK in errors_of_runs(database_url)[0]


@pytest.mark.parametrize("listing", ["list", "search"])
def test_a_cursor_that_leads_back_removes_nobody(sqlite_url: str, listing: str) -> None:
    """A later pass in circles tombstones nobody; the next one that is whole finds who is gone."""
    sandbox, config = small(50), configuration(sqlite_url, api={"listing": listing})
    backfill(sandbox, config)
    sandbox.delete_contact(sorted(sandbox.truth()["contacts"])[0])

    def sweep(sync: LocationSync) -> Any:
        return sync.full_pass("contacts", "sweep")

    with pytest.raises(TryLater, match=LED_BACK):
        run(sandbox, config, sweep, transport=Rewritten(sandbox, Circle()))
    assert rows(sqlite_url, "contacts", deleted=True) == {}
    run(sandbox, config, sweep)
    assert differences(sandbox, sqlite_url) == []


def test_a_poll_that_is_led_back_forgets_nothing(database_url: str) -> None:
    """A poll in circles fails in words and keeps its watermark: the next one brings what it had not seen."""
    sandbox, config = small(50), configuration(database_url)
    backfill(sandbox, config)
    for id_ in sandbox.truth()["contacts"]:
        sandbox.update_contact(id_, city="Olten")
    with pytest.raises(TryLater, match=LED_BACK):
        run(sandbox, config, lambda sync: sync.poll("contacts"), transport=Rewritten(sandbox, Circle()))
    poll(sandbox, config)
    assert differences(sandbox, database_url) == []


def test_a_pass_that_broke_off_is_walked_again_soon(sqlite_url: str) -> None:
    """The daemon repeats a broken pass after `schedule.walk`, not only when the next full pass is due."""
    sandbox, config = small(50), configuration(sqlite_url, streams=("contacts",))
    backfill(sandbox, config)
    with pytest.raises(TryLater, match=LED_BACK):
        run(sandbox, config, lambda sync: sync.full_pass("contacts", "sweep"), transport=Rewritten(sandbox, Circle()))

    async def ring(later: timedelta) -> int:
        before = calls(sandbox, "GET /contacts/")
        async with connected(sandbox, config, now=lambda: datetime.now(UTC) + later) as app:
            schedule = Schedule(app, app.locations[LOCATION])
            await schedule.owner()
            await schedule.sweep()
        return calls(sandbox, "GET /contacts/") - before

    assert asyncio.run(ring(timedelta(minutes=10))) == 0
    assert asyncio.run(ring(timedelta(minutes=16))) > 4
    assert asyncio.run(ring(timedelta(minutes=32))) == 0


@pytest.mark.parametrize("listing", ["list", "search"])
def test_the_same_record_twice_in_a_page_is_one_row(
    database_url: str, monkeypatch: pytest.MonkeyPatch, listing: str
) -> None:
    """Duplicates within a page and across pages are one row each, in a backfill and in a poll."""
    monkeypatch.setattr(tasks, "PAGE", 10)
    sandbox, config = small(), configuration(database_url, api={"listing": listing})

    def change(request: httpx.Request, payload: dict[str, Any]) -> None:
        for name in ("contacts", "tasks", "notes", "events"):
            if isinstance(payload.get(name), list) and request.url.path != "/locations/":
                payload[name] = [*payload[name], *payload[name][:2]]

    backfill(sandbox, config, transport=Rewritten(sandbox, change))
    assert differences(sandbox, database_url) == []
    for id_ in sorted(sandbox.truth()["contacts"])[:15]:
        sandbox.update_contact(id_, city="Zug")
    run(sandbox, configuration(database_url), _poll, transport=Rewritten(sandbox, change))
    assert differences(sandbox, database_url) == []
    assert errors_of_runs(database_url) == []


# -- limits ------------------------------------------------------------------------------------------


def test_a_storm_of_429_passes(sqlite_url: str) -> None:
    """Five refusals in a row slow the backfill down, and it still ends equal."""
    sandbox, config = small(), configuration(sqlite_url, api={"attempts": 20})
    sandbox.faults.next("429", None, times=5)
    for _time in range(5):
        try:
            patiently(sandbox, config, lambda sync: sync.backfill(config.streams))
        except TryLater:
            continue
        break
    assert differences(sandbox, sqlite_url) == []
    assert query(sqlite_url, "SELECT sum(throttled) AS n FROM api_usage")[0]["n"] == 5


def test_a_spent_day_waits_for_its_reset() -> None:
    """With nothing left of the day no request is sent until the reset, and then one asks how the new day stands."""
    clock, waits = [1000.0], []
    pacer = Pacer(RateBudget(Limit(100, 10.0), now=clock[0]), clock=lambda: clock[0], on_day_spent=waits.append)

    async def main() -> None:
        await pacer.enter(1)
        pacer.leave(RateHeaders(daily_limit=100, daily_remaining=0, daily_reset=7200.0))
        asking = asyncio.ensure_future(pacer.enter(1))
        await asyncio.sleep(0)
        clock[0] += 7100
        pacer._serve()
        await asyncio.sleep(0)
        assert not asking.done()
        clock[0] += 101
        pacer._serve()
        await asyncio.wait_for(asking, 1)
        pacer.close()

    asyncio.run(main())
    assert waits[0] == 7200.0


# -- credentials -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("token", "words"),
    [
        pytest.param("pit-dead", "the API refuses the token", id="401"),
        pytest.param("pit-sandbox-00001", "the token has no access to this location", id="403"),
    ],
)
def test_one_location_that_is_refused_does_not_stop_another(
    sqlite_url: str, tmp_path: Path, said: list[Any], token: str, words: str
) -> None:
    """A token that is refused stops its own location, in words; the other goes on; a new token mends it."""
    token_file = tmp_path / "token"
    token_file.write_text(token)
    sandbox = small(12, locations=2)
    sites = (Location(id=LOCATION), Location(id=SECOND, token_file=token_file))
    config = impatient(sqlite_url, locations=sites)

    async def main() -> None:
        async with connected(sandbox, config) as app:
            for source in app.sources.values():
                source._sleep = _no_sleep
            work = {id_: jobs(app, sync, timedelta(0)) for id_, sync in app.locations.items()}
            await ring(work[LOCATION] + work[SECOND])
            assert differences(sandbox, sqlite_url, LOCATION) == []
            assert differences(sandbox, sqlite_url, SECOND) != []
            stopped = [event for event in said if event["event"] == "location.stopped"]
            assert {event["location"] for event in stopped} == {SECOND}
            assert all(event["hint"] and event["error"].startswith(words) for event in stopped)
            token_file.write_text("pit-sandbox-00002\n")
            for job in work[SECOND]:
                job._rests_until = 0.0  # five minutes later
            await ring(work[SECOND])
            assert differences(sandbox, sqlite_url, SECOND) == []

    asyncio.run(main())


async def ring(work: list[Any]) -> None:
    """Ring each bell three times."""
    for _round in range(3):
        for job in work:
            await job.ring()


def test_a_location_that_is_forbidden_asks_its_owner(sqlite_url: str) -> None:
    """A 403 in the API's own words stops with the location's name in the hint, and removes nothing."""
    sandbox, config = small(), impatient(sqlite_url)
    backfill(sandbox, config)
    sandbox.faults.next("403", None, times=50)
    with pytest.raises(AskOwner, match="no access"):
        poll(sandbox, config)
    sandbox.faults.clear()
    poll(sandbox, config)
    assert differences(sandbox, sqlite_url) == []


# -- clocks ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shift", [timedelta(days=1)])
def test_a_clock_that_is_set_wrong_stops_nothing(database_url: str, shift: timedelta) -> None:
    """Our clock is a day and a half ahead and is then mended: edits still arrive, and nothing is tombstoned that is alive."""  # noqa: E501
    sandbox, config = small(), configuration(database_url)
    backfill(sandbox, config)
    for id_ in sorted(sandbox.truth()["contacts"])[:3]:
        sandbox.update_contact(id_, city="Thun")
        sandbox.create_note(id_, body="<p>later</p>")

    async def tick(app: App) -> None:
        schedule = Schedule(app, app.locations[LOCATION])
        assert await app.leases[LOCATION].take()
        for _round in range(3):
            await schedule.owner()
            await schedule.sweep()
            await schedule.walk("tasks")
            await schedule.visits()

    async def main(now: Callable[[], datetime]) -> None:
        async with connected(sandbox, config, now=now) as app:
            await tick(app)

    asyncio.run(main(lambda: datetime.now(UTC) + shift * 1.5))
    asyncio.run(main(lambda: datetime.now(UTC)))
    assert differences(sandbox, database_url) == []
    assert [rows(database_url, stream, deleted=True) for stream in config.streams] == [{}, {}, {}, {}]


def test_what_was_done_in_the_future_is_due() -> None:
    """After the clock was set back, what is dated in the future does not wait for that date."""
    now = datetime(2026, 11, 1, tzinfo=UTC)
    assert is_due(now, now + timedelta(days=1), timedelta(minutes=1))
    assert not is_due(now, now + timedelta(seconds=30), timedelta(minutes=1))


def test_a_lease_that_a_fast_clock_took_fences_the_first_holder(database_url: str) -> None:
    """A machine whose clock is a day ahead takes the lease early; the first one then writes nothing more."""
    sandbox, config = small(), configuration(database_url)

    async def main() -> None:
        async with connected(sandbox, config) as first, connected(sandbox, config, now=_tomorrow) as second:
            first.leases[LOCATION]._holder, second.leases[LOCATION]._holder = "one/0:1:aaaa", "two/0:1:bbbb"
            assert await first.leases[LOCATION].take()
            assert await second.leases[LOCATION].take()
            await first.locations[LOCATION].learn()
            with pytest.raises(LeaseLost):
                await first.locations[LOCATION].full_pass("contacts", "backfill")

    asyncio.run(main())
    assert rows(database_url, "contacts") == {}


def _tomorrow() -> datetime:
    return datetime.now(UTC) + timedelta(days=1)


@pytest.mark.parametrize(
    ("start", "end"),
    [
        ("2026-03-08T06:30:00.000Z", "2026-03-08T07:30:00.000Z"),  # over the hour that is left out
        ("2026-11-01T04:30:00.000Z", "2026-11-01T07:30:00.000Z"),  # over the hour that comes twice
    ],
)
def test_appointments_over_a_change_of_the_clocks(sqlite_url: str, start: str, end: str) -> None:
    """Times without a zone, on the days on which New York changes its clocks, are the right moments."""
    sandbox, config = small(5), configuration(sqlite_url)
    contact_id = sorted(sandbox.truth()["contacts"])[0]
    made = sandbox.create_appointment(contact_id, title="Change", startTime=start, endTime=end)
    backfill(sandbox, config)
    row = rows(sqlite_url, "appointments")[made["id"]]
    assert row["starts_at"] == datetime.fromisoformat(start)
    assert row["ends_at"] == datetime.fromisoformat(end)


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        (
            "2026-03-08 02:30:00",
            "2026-03-08T07:30:00Z",
        ),  # an hour that New York leaves out: half an hour past its begin
        ("2026-11-01 01:30:00", "2026-11-01T05:30:00Z"),  # an hour that comes twice: the first
        ("2026-11-01T01:30:00-05:00", "2026-11-01T06:30:00Z"),  # with an offset: the second is told apart
    ],
)
def test_an_appointment_within_a_change_of_the_clocks(sqlite_url: str, written: str, meant: str) -> None:
    """A time of the hour that does not exist, or comes twice, is one moment and no reject, and stays as it is."""
    sandbox, config = small(5), configuration(sqlite_url)
    contact_id = sorted(sandbox.truth()["contacts"])[0]
    made = sandbox.create_appointment(contact_id, title="Change", startTime="2026-03-08T07:30:00.000Z")
    sandbox.corrupt("appointments", made["id"], lambda one: {**one, "startTime": written})
    for _round in range(2):
        backfill(sandbox, config)
    assert rows(sqlite_url, "appointments")[made["id"]]["starts_at"] == datetime.fromisoformat(meant)
    assert query(sqlite_url, "SELECT * FROM sync_rejects") == []
    updates = "SELECT sum(updated) AS n FROM sync_runs WHERE stream = 'appointments'"
    assert query(sqlite_url, updates) == [{"n": 0}]


@pytest.mark.parametrize("jump", [timedelta(days=400), timedelta(days=-400)])
def test_a_clock_that_jumps_under_the_daemon_stops_nothing(sqlite_url: str, jump: timedelta) -> None:
    """Our clock is set far ahead or back while the daemon runs, and mended: each time edits arrive and names are
    learned anew.
    """
    sandbox, config = small(12), configuration(sqlite_url)
    moved = [timedelta()]
    contact_id = sorted(sandbox.truth()["contacts"])[0]

    async def tick(schedule: Schedule) -> None:
        for _round in range(3):
            await schedule.owner()
            await schedule.sweep()
            await schedule.walk("tasks")
            await schedule.visits()

    async def main() -> None:
        async with connected(sandbox, config, now=lambda: datetime.now(UTC) + moved[0]) as app:
            schedule = Schedule(app, app.locations[LOCATION])
            for number, by in enumerate((timedelta(), jump, timedelta())):
                moved[0] = by + number * timedelta(minutes=20)
                sandbox.update_contact(contact_id, city=f"City {number}")
                sandbox.create_note(contact_id, body=f"<p>{number}</p>")
                learned = calls(sandbox, "/locations/{locationId}")
                assert await app.leases[LOCATION].take()
                await tick(schedule)
                assert differences(sandbox, sqlite_url) == [], number
                assert calls(sandbox, "/locations/{locationId}") == learned + 1

    asyncio.run(main())


def test_visits_that_a_wrong_clock_put_off_are_brought_forward(database_url: str) -> None:
    """What was visited under a clock 400 days ahead is visited again within `visits.max_age` once it is mended."""
    sandbox, config = small(12), configuration(database_url)
    run(
        sandbox, config, lambda sync: sync.backfill(config.streams), now=lambda: datetime.now(UTC) + timedelta(days=400)
    )
    sandbox.create_note(sorted(sandbox.truth()["contacts"])[0], body="<p>after the clock was mended</p>")
    run(sandbox, config, lambda sync: sync.visit_due())
    run(sandbox, config, lambda sync: sync.visit_due(), now=lambda: datetime.now(UTC) + timedelta(days=7))
    assert differences(sandbox, database_url) == []


# -- the store ---------------------------------------------------------------------------------------


def test_another_writer_on_the_sqlite_file_is_waited_for(sqlite_url: str) -> None:
    """While another program holds the file's write lock for a second, the backfill waits and then goes on."""
    sandbox, config = small(), configuration(sqlite_url)
    run(sandbox, config, lambda sync: sync.full_pass("contacts", "backfill"))
    other = sqlite3.connect(sqlite_url.removeprefix("sqlite:///"), check_same_thread=False, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    timer = threading.Timer(1.0, lambda: other.execute("COMMIT"))
    timer.start()
    backfill(sandbox, config)
    timer.join()
    other.close()
    assert differences(sandbox, sqlite_url) == []


def test_connections_that_the_server_cuts_cost_one_failure(postgres_url: str) -> None:
    """PostgreSQL ends our connections in mid-work: StoreUnavailable, and the same program goes on afterwards."""
    import sqlalchemy

    sandbox, config = small(), configuration(postgres_url)
    admin = sqlalchemy.create_engine(
        sqlalchemy.make_url(postgres_url).set(drivername="postgresql+psycopg"), poolclass=sqlalchemy.NullPool
    )
    cut = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND pid <> {own}"

    async def main(sync: LocationSync) -> None:
        with pytest.raises(StoreUnavailable):  # noqa: PT012
            with sync.context.store.transaction() as tx:
                tx.setting("x")
                with admin.connect() as connection:
                    connection.exec_driver_sql(cut.format(own="pg_backend_pid()"))
                tx.save_setting("x", 1, datetime.now(UTC))
        await sync.backfill(config.streams)

    run(sandbox, config, main)
    admin.dispose()
    assert differences(sandbox, postgres_url) == []


# -- a person beside the daemon ----------------------------------------------------------------------


def test_a_contact_that_a_person_pulled_first_is_followed_afterwards(database_url: str) -> None:
    """`refresh` of a contact that no poll has met yet: its later notes arrive like everyone else's."""
    sandbox, config = small(), configuration(database_url)
    backfill(sandbox, config)
    made = sandbox.create_contact(firstName="First", email="first@example.com")
    run(sandbox, config, lambda sync: sync.refresh(made["id"]))
    sandbox.create_note(made["id"], body="<p>after</p>")
    poll(sandbox, config)
    run(sandbox, config, lambda sync: sync.visit_due(), now=lambda: datetime.now(UTC) + timedelta(days=2))
    assert differences(sandbox, database_url) == []
    assert calls(sandbox, "/notes") > 0
